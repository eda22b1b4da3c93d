"""The estimator people use: fit on normal items, then ask how anomalous, how sure, where and why."""

from __future__ import annotations

import inspect
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, OutlierMixin
from sklearn.utils.validation import check_is_fitted

from knowngood.calibration import regions_table
from knowngood.config import Settings, counted, nearest, parse_settings
from knowngood.config.installed import naming_plugins
from knowngood.config.parsing import overlay
from knowngood.config.presets import read_preset
from knowngood.data.conditions import Unknown
from knowngood.data.groups import across, name_digests, without
from knowngood.data.open import as_columns
from knowngood.data.progress import reporting
from knowngood.data.readers.given import listed
from knowngood.data.stores.fetched_pixels import kept_local
from knowngood.detector import latents, model_folder
from knowngood.detector.added_groups import (
    checked_values,
    explain_gone,
    ignored_values,
)
from knowngood.detector.calibrate import add_group, calibrate
from knowngood.detector.card import model_card
from knowngood.detector.condition_posterior import condition_probabilities
from knowngood.detector.decide import limit, margin
from knowngood.detector.embed import Transformer, embed
from knowngood.detector.explain import Explanation
from knowngood.detector.explain import explain as explanations
from knowngood.detector.fit import Run, fit_pipeline, happened, training_record
from knowngood.detector.fit.inputs import (
    audited,
    measured,
    varying,
    warn_of_labels,
    with_chosen,
    without_identifiers,
)
from knowngood.detector.fit.plan import factors_of
from knowngood.detector.guarantee import (
    check_alpha,
    check_enough,
    check_unfitted,
    level_of,
    normal_ones,
    warn_if_no_discovery,
    warn_if_no_guarantee,
    warn_of_small,
)
from knowngood.detector.items import (
    FEWEST,
    in_rows,
    items_asked,
    items_beside,
    items_to_fit,
    items_to_learn,
    items_to_score,
    normals_and_labelled,
    numbers,
    with_columns,
)
from knowngood.detector.maps import check_regions
from knowngood.detector.pipeline import Items, Pipeline, to_device
from knowngood.detector.remarks import remarks_on, with_remarks
from knowngood.detector.results import Detected, decided, detected, flagged, table_of, with_rejected
from knowngood.detector.scoring import refuse_unread
from knowngood.detector.update import check_updatable, learns_defects, update
from knowngood.detector.versions import save_version
from knowngood.errors import ArtifactError, BatchWarning, DataError, SettingsError
from knowngood.files import check_folder
from knowngood.representations import Backbone, Features, Table, check_backbone
from knowngood.training.engine import torch_device
from knowngood.training.film import Film

if TYPE_CHECKING:
    from pandas import DataFrame

EXPLAINED = 20  # images, unless more are asked for
WITHOUT = {"cvae": "cvae is the VAE", "dcvae": "the total correlation of dcvae is over all images together"}


def _checked(init: Callable[..., None]) -> Callable[..., None]:
    """`__init__` that refuses a parameter that there is not with the one that was meant."""
    known = inspect.signature(init).parameters

    @wraps(init)
    def checked(self: Detector, *given: Any, **named: Any) -> None:
        for name in named.keys() - known.keys():
            parse_settings({name: named[name]})  # raises
        init(self, *given, **named)

    return checked


class Detector(OutlierMixin, Transformer, BaseEstimator):
    """Anomaly detector: a model of normal items, a score, and its conformal calibration.

    A scikit-learn outlier detector: `fit`, `predict` (+1 normal, −1 anomalous), `score_samples` (higher is more
    normal), `decision_function`, `offset_`. X may be

    - images: a NumPy array (N, H, W) or (N, H, W, C), a torch tensor (N, C, H, W), an `ImageSet`, a path to a folder,
      manifest, .npz or idx file, or the name of a known data set;
    - a table: a 2-D array (N, F) of numbers.

    Each parameter is a name, or a mapping of a name and options, `model={"name": "vae", "objective": {"name": "dcvae",
    "beta": 4}}`, or an option model of `knowngood.config`; "auto" takes the best known recipe for what X is.

    Args:
        representation: what the model sees: pixels, hog, features (of a frozen backbone) or table.
        model: vae, patch_gaussian, shared_gaussian or memory_bank.
        score: the anomaly score; a list of scores is their fusion.
        conditioning: roles of condition columns, measured image factors, what to do with unknown values.
        alpha: false-alarm rate of `predict` and `detect`.
        calibration: split or cross-conformal; fractions, folds.
        labels: what labelled anomalies are used for: "auto", "ignore" or "shift".
        data: ignored regions, tiles, tolerance for unreadable files.
        training: epochs, batch size, learning rate and so on, for models with a network.
        device: "auto", "cpu", "gpu", "cuda" or "mps".
        random_state: seed of the split, the weights and every draw; None draws one.

    Attributes (after `fit`):
        pipeline_: the fitted parts. offset_: `decision_function` is `score_samples` − offset_; −inf if `alpha` cannot
        be guaranteed. split_: {"fit" | "select" | "calibrate": positions among the accepted normals}. about_: plain
        data on the fit; "recipe" says what "auto" chose. training_: {"history": rows that training logged, "audit":
        findings of the data audit, "suspicious": calibration items with the highest scores, to check by eye}.
        film_: see `fit`. out_of_fold_: p-values of the normal items of `fit_only` by id, each by models without its
        fold; empty unless the calibration is cross-conformal. n_features_in_: for tables.
    """

    @_checked
    def __init__(
        self,
        representation: Any = "auto",
        model: Any = "auto",
        score: Any = "auto",
        *,
        conditioning: Any = None,
        alpha: float = 0.05,
        calibration: Any = None,
        labels: Any = "auto",
        data: Any = None,
        training: Any = None,
        device: str = "auto",
        random_state: int | None = 0,
    ) -> None:
        self.representation = representation
        self.model = model
        self.score = score
        self.conditioning = conditioning
        self.alpha = alpha
        self.calibration = calibration
        self.labels = labels
        self.data = data
        self.training = training
        self.device = device
        self.random_state = random_state

    @property
    def score(self) -> Any:
        """The parameter `score` is in `get_params()`; scikit-learn calls an attribute of that name as a method."""
        raise AttributeError("score is a parameter of Detector; read it by get_params()['score']")

    @score.setter
    def score(self, value: Any) -> None:
        self.__dict__["score"] = value

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The parameters by name."""
        return {name: self.__dict__[name] for name in self._get_param_names()}

    def set_params(self, **params: Any) -> Detector:
        """Set parameters by name; `training__epochs=9` sets an option of `training` and leaves its others.

        So a grid search can go over options, `model__objective__beta`.
        """
        super().set_params(**{name: value for name, value in params.items() if "__" not in name})
        for name, value in params.items():
            first, *options = name.split("__")
            for option in reversed(options):
                value = {option: value}
            if options:
                super().set_params(**overlay({first: self.__dict__.get(first)}, {first: value}))
        return self

    @classmethod
    def from_settings(cls, settings: Settings) -> Detector:
        """A detector with these settings."""
        return cls(**{name: getattr(settings, name) for name in Settings.model_fields})

    @classmethod
    def from_preset(cls, name: str, **settings: Any) -> Detector:
        """A detector with the settings of a preset, and others over them: `from_preset("shapes", alpha=0.01)`.

        Raises:
            SettingsError: there is no such preset or setting; the message names the nearest one.
        """
        for setting in settings:
            if setting not in Settings.model_fields:
                raise SettingsError(f"unknown setting '{setting}'{nearest(setting, list(Settings.model_fields))}")
        return cls(**overlay(read_preset(name, settings), settings))

    # Fit ------------------------------------------------------------------------------------------------------------

    def fit(
        self,
        X: Any,
        y: Any = None,
        *,
        conditions: Any = None,
        anomalies: Any = None,
        calibration_set: Any = None,
        fit_only: Any = None,
        run_dir: str | Path | None = None,
        resume: bool = False,
        progress: bool = False,
        film: bool = False,
        backbone: Backbone | None = None,
    ) -> Detector:
        """Learn what normal items look like, and calibrate.

        Args:
            X: items, see the class. All are audited. Of a source with a split "train" only that is fitted to; what is
                labelled anomalous is kept out like known `anomalies`.
            y: ignored, as scikit-learn's outlier detectors do; with a warning where it may mark anomalies, by −1 beside
                1 or by 1 beside 0.
            conditions: what is known of each item: a mapping of columns (N,), or of one value for all items; a
                DataFrame, or one array (N,); for a table in a DataFrame also the names of its columns that are
                conditions. Of an index with the labels of that of X, in another order, the labels count. An ImageSet
                brings its own.
            anomalies: (N,) 1 for known anomalies, 0 or NaN for normal items. Known anomalies never count as normal and
                never calibrate; `labels` says what else they are for, `about_["labels"]` what came of it.
            calibration_set: further normal items that only calibrate, with conditions of their own (an ImageSet); those
                labelled anomalous are left out with a warning.
            fit_only: further items that are learned from and never calibrate, with labels and conditions of their own:
                images that were chosen by their score, such as false alarms, which are no sample of normal images.
                Those labelled anomalous are known anomalies. What is of one group with items of X is in one fold with
                them; where these are set aside to calibrate it is left out, with a warning.
            run_dir: folder for the log and checkpoints of a network; with `resume` the run goes on from the last
                checkpoint there and ends with the same bits as if it had never stopped.
            progress: show how far it is on the error stream: a bar on a terminal or in a notebook, else a line after
                5 seconds and every half minute.
            film: keep reconstructions of some held-out images as a VAE on pixels is trained, in `film_`.
            backbone: of your own, with representation={"name": "features", "backbone": "own"}.

        Raises:
            SettingsError: a parameter is unknown, wrong or contradicts another.
            DataError: the data are refused; the message says what and why.
            TrainingError: the loss became non-finite.
            OutputError: `run_dir` cannot be written to.
        """
        started = time.perf_counter()
        settings = parse_settings(self.get_params(deep=False))
        warn_of_labels(y)
        if backbone is not None:
            check_backbone(backbone)
        if resume and run_dir is None:
            raise SettingsError("resume=True needs the run_dir of the run to go on with")
        if run_dir is not None:
            check_folder(Path(run_dir))
        seed = settings.random_state
        seed = int(np.random.SeedSequence().generate_state(1)[0]) if seed is None else seed
        X, columns = with_columns(X, conditions, numbers(X))
        anomalies = in_rows(X, anomalies, "anomalies")
        items = kept_local(items_to_fit(self, X, columns, anomalies, settings), settings.data.cache_gb)
        items, findings = audited(items, settings)
        roles = settings.conditioning.roles or {}
        asked = {*(columns or {}), *roles} - {name for name, given in roles.items() if not given}
        column = settings.conditioning.group
        items, identifiers = without_identifiers(items, asked, {column, *factors_of(settings)})
        if items.splits is not None and "train" in items.splits:
            items = items[items.splits == "train"]
        items = measured(items, settings)
        more = None if fit_only is None else items_beside(self, fit_only, items, settings)
        if more is not None:
            items, more = across(items, more, column)
        normals, labelled = items[items.labels != 1], items[items.labels == 1]
        if len(normals) < FEWEST:
            raise DataError(
                f"{counted(len(normals), 'sample')} to fit to (of {len(items)} given); at least "
                f"{FEWEST} normal ones are needed"
            )
        chosen = None
        if more is not None:
            normals, labelled, chosen = with_chosen(normals, labelled, more)
        names = name_digests(normals, column)
        normals, labelled = without(normals, column), without(labelled, column)
        reel = Film() if film else None
        run = Run(None if run_dir is None else Path(run_dir), resume, progress, reel)
        others = calibration_set is not None
        given: dict[str, Any] = {"others_calibrate": others, "backbone": backbone, "chosen": chosen}
        with reporting(progress), naming_plugins():
            fitted = fit_pipeline(normals, labelled, settings, seed, run, **given)
        named = np.unique(np.concatenate([names[fitted.split[part]] for part in ("fit", "select")]))
        self.pipeline_ = replace(fitted.pipeline, fitted_groups=named[named != 0] if named.any() else None)
        if not isinstance(self.pipeline_.representation, Table):  # of one that was fitted to before
            for of_table in ("n_features_in_", "feature_names_in_"):
                vars(self).pop(of_table, None)
        self.split_, self.about_ = fitted.split, fitted.about
        self.about_["data"]["given_columns"] = [*items.conditions, *identifiers]
        self.about_["data"]["ignored_values"] = ignored_values(normals.conditions, self.pipeline_.schema)
        self.about_["recipe"] += _unused(normals, self.pipeline_, identifiers)
        self.training_ = {"history": fitted.history, "audit": findings, "suspicious": fitted.suspicious}
        self.film_, self.out_of_fold_ = reel, fitted.out_of_fold
        self.about_["seconds"] = round(time.perf_counter() - started, 3)
        if others:  # all is there by now for `calibrate`, should these items be refused
            more = normal_ones(items_to_learn(self, calibration_set))
            check_unfitted(self.pipeline_, more)
            more = without(more, column)
            self.pipeline_, self.training_["suspicious"] = calibrate(self.pipeline_, more, "set")
            self.about_["data"]["calibrated_on"] = more.name
            self.about_["data"]["calibrate"] = len(self.pipeline_.calibration or ())
            self.about_["seconds"] = round(time.perf_counter() - started, 3)
        warn_of_small(self.pipeline_)
        self.offset_ = -limit(self.pipeline_)
        return self

    def calibrate(
        self,
        X: Any,
        *,
        conditions: Any = None,
        as_group: Mapping[str, Any] | None = None,
        unknown: Unknown | None = None,
        tolerance: float | None = None,
    ) -> Detector:
        """Calibrate a fitted detector anew, on normal items that it was not fitted to: after a change of camera, say.

        All p-values and thresholds come from these items from then on, and groups added before are gone. Items that X
        labels anomalous, and files that cannot be read, are left out with a warning.

        Args:
            as_group: keep the calibration, and add these items to it as a Mondrian group, {"camera": "B"}: items with
                that value in the column `camera` are compared with these, all others as before. The model need not
                know the column. An item that lacks the value, where the column is given, gets the largest p-value of
                all groups that it may be of. The same group, added again, is replaced.
            unknown: with `as_group`, what to do with unknown values of other conditions; default as fitted.
            tolerance: share of files that may be unreadable; default as fitted.

        Raises:
            DataError: more files than that cannot be read; an item lacks a condition, or most were fitted to.
            NotEnoughNormals: too few for the α of the fit; the calibration stays as it was.
        """
        check_is_fitted(self, "pipeline_")
        items = normal_ones(items_to_learn(self, X, conditions, tolerance=tolerance))
        check_enough(self.pipeline_, items)
        check_unfitted(self.pipeline_, items)
        items = without(items, self.pipeline_.settings.conditioning.group)
        if as_group is not None:
            self.pipeline_ = add_group(self.pipeline_, items, checked_values(as_group), unknown)
            self._note("calibrate", len(items))
            return self
        gone = self.pipeline_.added
        self.pipeline_, highest = calibrate(self.pipeline_, items, "set")
        if gone:
            warnings.warn(explain_gone(gone, "all p-values come from other items now"), stacklevel=2)
        self.training_ = {**self.training_, "suspicious": highest}
        known = {"calibrated_on": items.name, "calibrate": len(self.pipeline_.calibration or ())}
        self.about_ = {**self.about_, "data": {**self.about_["data"], **known}}
        self._note("calibrate", len(items))
        warn_of_small(self.pipeline_)
        self.offset_ = -limit(self.pipeline_)
        return self

    def update(
        self,
        X: Any,
        *,
        conditions: Any = None,
        calibration_set: Any = None,
        old: Any = None,
        old_conditions: Any = None,
        tolerance: float | None = None,
        progress: bool = False,
    ) -> Detector:
        """Take new normal items into a fitted detector, and calibrate it anew.

        - patch_gaussian: its means, covariances and shrinkage become those of a fit to old and new images, to rounding;
          with a context, the directions of the context stay those of the first fit (see
          `PatchGaussian.update_grids`).
        - memory_bank: the bank takes the new items; with a coreset, that of the bank and the new ones.
        - vae: training goes on from the present weights on old and new items; without the old ones it is refused.

        Half of the new items are taken in and the other half calibrate, split at random by the seed of the fit, items
        of one group together; the calibration items of before do not count, since the scores changed. Items that the
        model was fitted to are left out, and of those to learn from the ones whose values no old item had together.
        Representation and conditions stay as fitted; without a network so do the per-location standardisation of
        `patch_distance`, which would need the old images, penalties learned from labels, and the images that
        explanations compare with.
        Items of a group (a part, a patient) that was fitted to are not independent of it: give new groups.

        Args:
            X: new items. Those labelled anomalous are known defects for patch_gaussian, as in `fit`, beside those known
                before, and are left out for other models, with a warning. Of a source with a split "train" only that
                counts.
            calibration_set: normal items that calibrate, in place of half of the new ones.
            old: for a VAE, the items that it was fitted to, with `old_conditions`.
            tolerance: share of files that may be unreadable, which are set aside with a warning; default as fitted.

        Raises:
            SettingsError: the model cannot be updated, or `old` is missing or not needed.
            DataError: an item has unknown or new conditions, or all were fitted to; `old` is other data.
            NotEnoughNormals: too few items would calibrate for the α of the fit. The detector stays as it was.
        """
        check_is_fitted(self, "pipeline_")
        check_updatable(self.pipeline_, old=old is not None)
        new, marked = normals_and_labelled(self, X, conditions, tolerance)
        known, labelled = (None, marked) if old is None else normals_and_labelled(self, old, old_conditions, tolerance)
        labelled = labelled if len(labelled) else None
        if n := len(marked) if old is not None or not learns_defects(self.pipeline_) else 0:
            of = f"{n:,} of {n + len(new):,} {new.items}"
            warnings.warn(f"{new.name}: {of} are labelled anomalous; they are left out of the update", stacklevel=2)
        others = None
        if calibration_set is not None:
            others = normal_ones(items_to_learn(self, calibration_set, tolerance=tolerance))
        with reporting(progress), naming_plugins():
            done = update(self.pipeline_, new, others, known, labelled, self.about_["seed"], Run(progress=progress))
        self.pipeline_, data = done.pipeline, self.about_["data"]
        counts = done.counts or {name: data[name] + done.taken for name in ("normals", "fit")}
        counts["calibrate"] = len(self.pipeline_.calibration or ())
        self.about_ = {**self.about_, "data": {**data, **counts, "calibrated_on": done.calibrated_on}}
        self.training_ = {**self.training_, "suspicious": done.suspicious}
        if done.history is not None:  # of a network, which learned all anew
            self.about_["training"] = training_record(done.history)
            self.about_.pop("labels", None)
            self.training_["history"] = list(done.history.steps)
        if done.labels is not None:
            self.about_["labels"] = done.labels
        self._note("update", done.taken)
        warn_of_small(self.pipeline_)
        self.offset_ = -limit(self.pipeline_)
        return self

    def fit_predict(self, X: Any, y: Any = None, **parameters: Any) -> np.ndarray:
        """`fit(X)`, then `predict(X)`; further parameters go to `fit`."""
        X = listed(X)  # an iterator gives its items once
        self.fit(X, y, **parameters)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".* were trained on", BatchWarning)  # as was asked for
            return self.predict(X, conditions=parameters.get("conditions"))

    # Scikit-learn ---------------------------------------------------------------------------------------------------

    def score_samples(self, X: Any, *, conditions: Any = None, unknown: Unknown | None = None) -> np.ndarray:
        """−anomaly score (N,), higher is more normal, comparable across conditions.

        Raises:
            DataError: an item cannot be read.
        """
        items = items_asked(self, X, conditions, unknown)
        decisions = decided(self.pipeline_, items, unknown)
        refuse_unread(items, decisions.errors)
        return -decisions.anomaly_score

    def decision_function(self, X: Any, *, conditions: Any = None, unknown: Unknown | None = None) -> np.ndarray:
        """`score_samples` − `offset_` (N,); negative for items flagged at `alpha`.

        Where stated conditions are checked it is no larger than the threshold of the mismatch − the mismatch.
        """
        items = items_asked(self, X, conditions, unknown)
        decisions = decided(self.pipeline_, items, unknown)
        refuse_unread(items, decisions.errors)
        return margin(self.pipeline_, decisions)

    def predict(self, X: Any, *, conditions: Any = None, unknown: Unknown | None = None) -> np.ndarray:
        """+1 for normal, −1 for anomalous (N,), with the false-alarm rate `alpha` of the fit.

        If there are too few calibration items for that rate it warns and flags nothing. If the items as a whole are
        not like the calibration items it warns (`BatchWarning`).
        """
        items = items_asked(self, X, conditions, unknown)
        decisions = decided(self.pipeline_, items, unknown)
        refuse_unread(items, decisions.errors)
        warn_if_no_guarantee(self.pipeline_)
        remarks_on(self.pipeline_, items, decisions).warn()
        return np.where(margin(self.pipeline_, decisions) < 0, -1, 1)

    def transform(self, X: Any, *, conditions: Any = None, unknown: Unknown | None = None) -> np.ndarray:
        """One vector an item (N, D) float32, for a classifier, a clustering or a search for similar items.

        - vae: the posterior means; D is its `latent_dim`.
        - patch_gaussian, shared_gaussian, and memory_bank on features: the features, averaged over the locations that
          are not ignored; D is their number.
        - other models: what they compare, such as the scaled columns of a table; all values of an item in one row.

        Where a condition is unknown it is the one under which the item is least anomalous.

        Raises:
            DataError: an item cannot be read.

        Example:
            >>> import numpy as np
            >>> from knowngood import Detector
            >>> rows = np.random.default_rng(0).normal(size=(60, 4))
            >>> Detector("table", "memory_bank").fit(rows).transform(rows[:5]).shape
            (5, 4)
        """
        items = items_asked(self, X, conditions, unknown)
        with naming_plugins():
            return embed(self.pipeline_, items, unknown)

    # Detection ------------------------------------------------------------------------------------------------------

    def detect(
        self,
        X: Any,
        *,
        conditions: Any = None,
        unknown: Unknown | None = None,
        alpha: float | None = None,
        fdr: float | None = None,
        abstain: float | None = None,
        explain: bool | int = False,
    ) -> DataFrame:
        """One row an item.

        Columns: id; anomaly_score (higher is more anomalous, comparable across conditions); p_value in (0, 1];
        is_anomalous (p_value ≤ alpha); condition (as given, or "… (inferred)"); the parts of the score under that
        condition; verdict, with `abstain` or where stated conditions are checked; label, if X carries any; error, only
        if an item could not be read: its numbers and its is_anomalous are then missing. Rank by anomaly_score, never by
        p_value: that has a floor of 1/(n+1) and ties.

        Where stated conditions are checked (`conditioning={"check": "auto"}`), p_value and anomaly_score are those of
        the item by itself, whatever is stated. Further columns are p_condition, the p-value of the stated condition (of
        several columns also p_condition_<column>), NaN where a value is missing; mismatch, what it is made from, higher
        is more wrong, comparable across conditions; looks_like, the likeliest values; and verdict: "normal",
        "anomalous", or "wrong for <condition>: looks like <value>". is_anomalous is then 2 · min(p_value, p_condition)
        ≤ alpha: at most a share `alpha` of the normal items that fit their conditions is flagged.

        If the items as a whole are not like the calibration items (far more flagged, or p-values far too small, than
        chance explains), a `BatchWarning` says so with the likely cause, and `.attrs["batch"]` holds the same as plain
        data; see `detector.batch`. Of labelled items only normal ones count. A `BatchWarning` also names images of
        another aspect ratio than the calibration images (`.attrs["aspect"]`, and a column `note`) or less than half as
        large (`.attrs["small"]`, likewise), and says if most items were fitted to (`.attrs["fitted"]`); see
        `detector.remarks`.

        Args:
            unknown: "infer" marginalises conditions that are missing or new and warns of new ones; "error" refuses
                them. Default: as fitted.
            alpha: false-alarm rate; default that of the fit.
            fdr: flag by Benjamini–Hochberg over these items instead: of the flagged ones at most this share is
                expected to be normal.
            abstain: a p-value above alpha: items up to it that are not flagged get the verdict "unsure".
            explain: explain the flagged images, at most 20 or so many as given, with the highest score; a warning says
                if that is not all of them. A column `explanation`, one sentence, and `.attrs["explanations"]`, a list
                of `Explanation`. Take them out with `.attrs.pop` before writing parquet. See `explain`.

        Raises:
            NotEnoughNormals: `alpha` is given and the calibration items are too few for it.
        """
        check_is_fitted(self, "pipeline_")
        check_alpha(self.pipeline_, alpha)
        if explain:
            _check_explains(self.pipeline_)
        items, level = items_asked(self, X, conditions, unknown), level_of(self.pipeline_, alpha)
        decisions = decided(self.pipeline_, items, unknown, alpha)
        if fdr is not None:
            warn_if_no_discovery(self.pipeline_, fdr)
        found = None
        if explain:
            flags = flagged(decisions.joint_p_values, level, fdr)
            most = EXPLAINED if explain is True else int(explain)
            with naming_plugins():
                found = explanations(self.pipeline_, items, decisions, flags, alpha=level, most=most)
            if len(found) < (n := int(flags.sum())):
                text = f"{len(found):,} of {n:,} flagged images are explained; explain={n} explains all"
                warnings.warn(text, stacklevel=2)
        about = {"checked": self.pipeline_.checked_columns, "fdr": fdr, "abstain": abstain, "explanations": found}
        table = with_rejected(table_of(items, decisions, level, **about), items)
        if hasattr(X, "iloc") and len(X) == len(table) == len(items):
            table.index = X.index
        if found is not None:
            table.attrs["explanations"] = found
        return with_remarks(table, self.pipeline_, items, decisions, alpha, stacklevel=3)

    def stream(
        self,
        X: Any,
        *,
        conditions: Any = None,
        unknown: Unknown | None = None,
        alpha: float | None = None,
        maps: bool = False,
        regions: bool = False,
        start: int = 0,
        refuse: bool = True,
    ) -> Iterator[Detected]:
        """The same a batch at a time, in constant memory, with maps and regions if asked for: one pass over the images.

        Args:
            start: position of the first item to score.
            refuse: raise at the end if not one item can be read.

        Raises:
            SettingsError: the model has no maps, or no regions. DataError: not one item can be read.
        """
        check_is_fitted(self, "pipeline_")
        check_alpha(self.pipeline_, alpha)
        items = items_asked(self, X, conditions, unknown)
        located = {"maps": maps, "regions": regions}
        return detected(self.pipeline_, items, unknown=unknown, alpha=alpha, **located, start=start, refuse=refuse)

    def explain(
        self,
        X: Any,
        *,
        conditions: Any = None,
        unknown: Unknown | None = None,
        alpha: float | None = None,
        most: int = EXPLAINED,
        others: bool = False,
    ) -> list[Explanation]:
        """Why images are anomalous: where, against what, and how they compare with the normal images fitted to.

        Args:
            alpha: false-alarm rate of the verdicts; default that of the fit.
            most: images to explain, those with the highest score first.
            others: explain images that are not flagged too.

        Raises:
            SettingsError: the model was fitted to a table.
            NotEnoughNormals: `alpha` is given and the calibration items are too few for it.
        """
        check_is_fitted(self, "pipeline_")
        _check_explains(self.pipeline_)
        if alpha is not None:
            check_alpha(self.pipeline_, alpha)
        items, level = items_asked(self, X, conditions, unknown), level_of(self.pipeline_, alpha)
        decisions = decided(self.pipeline_, items, unknown, alpha)
        flags = flagged(decisions.joint_p_values, level)
        with naming_plugins():
            return explanations(self.pipeline_, items, decisions, flags, alpha=level, most=most, others=others)

    def anomaly_maps(self, X: Any, *, conditions: Any = None, unknown: Unknown | None = None) -> list[np.ndarray]:
        """Where: for each image a map (H, W) at its own size, higher is more anomalous; NaN where a region is ignored.

        Raises:
            DataError: an image cannot be read. SettingsError: the score has no map.
        """
        items = items_asked(self, X, conditions, unknown)
        maps: list[np.ndarray] = []
        for batch in detected(self.pipeline_, items, unknown=unknown, maps=True):
            refuse_unread(batch.items, batch.decisions.errors)
            maps += [one for one in batch.maps if one is not None]
        return maps

    def regions(
        self,
        X: Any,
        *,
        conditions: Any = None,
        unknown: Unknown | None = None,
        alpha: float | None = None,
        min_area: int = 1,
    ) -> DataFrame:
        """Where, and how sure: one row a region of an image's anomaly map, none for an image without regions.

        A region is connected pixels above what normal images under the same condition exceed anywhere at the rate
        `alpha`: so at most that share of normal images has any. Columns: id; region, numbered in falling order of the
        peaks; area in pixels; peak; p_value, of the peak among the maxima of normal images' maps; peak_row,
        peak_column; top, left, bottom, right, half-open; centroid_row, centroid_column; mean. `detect` pools the map in
        its own way: it may flag an image without a region, and the other way round.

        Args:
            alpha: share of normal images that may have a region; default that of the fit.
            min_area: regions of fewer pixels are left out.

        Raises:
            SettingsError: the score has no map.
            NotEnoughNormals: `alpha` is given and the calibration items are too few for it.
            DataError: an image cannot be read.
        """
        check_is_fitted(self, "pipeline_")
        known = check_regions(self.pipeline_)
        if alpha is None:
            check_alpha(self.pipeline_, None)
        else:  # not half of it where stated conditions are checked: maps are tested alone
            known.refuse(alpha)
        items = items_asked(self, X, conditions, unknown)
        found = []
        for batch in detected(self.pipeline_, items, unknown=unknown, alpha=alpha, regions=True, min_area=min_area):
            refuse_unread(batch.items, batch.decisions.errors)
            found += [one or [] for one in batch.regions]
        return regions_table(items.ids, found)

    def reconstruct(self, X: Any, *, conditions: Any = None, unknown: Unknown | None = None) -> np.ndarray:
        """What a VAE makes of each item, in raw units: (N, H, W, C), or (N, F) for tables."""
        items = items_asked(self, X, conditions, unknown)
        with naming_plugins():
            _, made = latents.reconstruct(self.pipeline_, items, unknown)
        return self._raw(made)

    def sample(self, n_samples: int = 1, *, conditions: Any = None, seed: int = 0) -> np.ndarray:
        """Draws from p(normal item | conditions) of a VAE, decoded, in raw units: (N, H, W, C), or (N, F) for tables.

        They are means of the likelihood, without its noise, and not clipped to the range of the data. Codes
        are drawn from the prior of their condition.

        Args:
            conditions: of each sample, or one value for all, such as {"class": 3}. Unknown ones are drawn as often as
                they occur in the fit.

        Raises:
            SettingsError: the model is no VAE, or n_samples is not at least 1.
            DataError: the fit has not seen this condition or value.

        Example:
            >>> import numpy as np
            >>> from knowngood import Detector
            >>> rows = np.random.default_rng(0).normal(size=(60, 4))
            >>> detector = Detector("table", training={"epochs": 1}).fit(rows)
            >>> detector.sample(3).shape
            (3, 4)
        """
        check_is_fitted(self, "pipeline_")
        if n_samples < 1:
            raise SettingsError(f"n_samples = {n_samples}; expected 1 or more")
        with naming_plugins():
            made = latents.sample(self.pipeline_, n_samples, as_columns(conditions) or {}, seed)
        return self._raw(made)

    def condition_probabilities(self, X: Any) -> DataFrame:
        """p(c|x): a column `id`, and one for each condition of the fit; rows add up to 1, NaN for unreadable items.

        They say which condition fits best, not whether any does: an anomaly may look most like one of them with p near
        1. See `condition_posterior.condition_probabilities` for how they are made.

        Raises:
            SettingsError: the model has no conditions to tell apart, or is no VAE.
        """
        import pandas as pd

        check_is_fitted(self, "pipeline_")
        items = items_to_score(self, X)
        labels, p = condition_probabilities(self.pipeline_, items)
        return pd.DataFrame({"id": items.ids, **dict(zip(labels, p.T, strict=True))})

    # Files ----------------------------------------------------------------------------------------------------------

    @property
    def model_(self) -> Any:
        """The fitted model."""
        return self.pipeline_.model

    @property
    def card_(self) -> str:
        """What was fitted, to what, how, and its limits; Markdown."""
        return model_card(self.pipeline_, self.about_)

    def save(self, folder: str | Path) -> Path:
        """Save the model as a new version in a model folder and switch to it; older versions stay.

        Raises:
            ArtifactError: the folder holds something else. OutputError: it cannot be written.
        """
        check_is_fitted(self, "pipeline_")
        return save_version(folder, self._files())

    @classmethod
    def load(cls, folder: str | Path, *, device: str = "cpu", backbone: Backbone | None = None) -> Detector:
        """A saved model, ready to score: the same scores, to the bit, on the same machine and thread count.

        Args:
            device: "cpu", "gpu" or "cuda", "mps", or "auto" for a GPU if there is one.
            backbone: the one of your own that it was fitted with, which a saved model does not hold.

        Raises:
            ArtifactError: no saved model there, or it is damaged, foreign or of another format; another backbone, or
                one of your own is missing.
            SettingsError: `backbone` lacks a method.
        """
        if backbone is not None:
            check_backbone(backbone)
        pipeline, about_, training = model_folder.unpack(model_folder.read(folder), str(folder), backbone)
        if backbone is not None and not isinstance(pipeline.representation, Features):
            raise ArtifactError(f"{folder}: this model has no backbone; leave backbone out")
        if isinstance(pipeline.representation, Features):
            try:
                _ = pipeline.representation.backbone
            except ArtifactError as error:
                raise ArtifactError(f"{folder}: {error}") from None
        detector = cls.from_settings(pipeline.settings)
        detector._adopt(to_device(pipeline, torch_device(device)), about_, training)
        return detector

    def __getstate__(self) -> dict[str, Any]:
        # Copies travel as safetensors bytes, never as pickled networks.
        state: dict[str, Any] = dict(super().__getstate__())  # type: ignore[arg-type]
        if "pipeline_" not in state:
            return state
        kept = {name: value for name, value in state.items() if name not in ("pipeline_", "training_", "offset_")}
        return {**kept, "files_": self._files()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        files = state.pop("files_", None)
        super().__setstate__(state)
        if files is not None:
            self._adopt(*model_folder.unpack(files))

    # Inside ---------------------------------------------------------------------------------------------------------

    def _raw(self, made: np.ndarray) -> np.ndarray:
        """Scaled values (N, *shape) in raw units, channels last."""
        values = self.pipeline_.representation.unscale(torch.from_numpy(made)).numpy()
        return np.moveaxis(values, 1, -1) if values.ndim == 4 else values

    def _note(self, what: str, items: int) -> None:
        """Add to the history of the model."""
        self.about_ = {**self.about_, "history": [*self.about_["history"], happened(what, items)]}

    def _files(self) -> dict[str, bytes]:
        return model_folder.pack(self.pipeline_, self.about_, self.training_, self.card_)

    def _adopt(self, pipeline: Pipeline, about_: dict[str, Any], training: dict[str, Any]) -> None:
        self.pipeline_, self.about_, self.training_ = pipeline, about_, training
        if pipeline.calibration is not None:
            self.offset_ = -limit(pipeline)
        if isinstance(pipeline.representation, Table):
            self.n_features_in_ = pipeline.representation.shape[0]
            if pipeline.representation.names:
                self.feature_names_in_ = np.array(pipeline.representation.names, dtype=object)


def _unused(normals: Items, pipeline: Pipeline, identifiers: list[str]) -> str:
    """Which condition columns the model does not use, and why, for the end of the sentence on the recipe."""
    objective: Any = getattr(pipeline.settings.model, "objective", None)
    used = {column.name for column in pipeline.schema.columns if column.roles} | set(getattr(objective, "factors", ()))
    left = [name for name in varying(normals) if name not in used]
    method = getattr(objective or pipeline.settings.model, "name", "the model")
    alone = "" if used or method not in WITHOUT else f"; without conditions {WITHOUT[method]}"
    names = f"; no condition, since it has another value for each item: {', '.join(identifiers)}" * bool(identifiers)
    why = "given no role" if pipeline.settings.conditioning.roles is not None else f"{method} takes none"
    return alone + names + f"; condition columns not used ({why}): {', '.join(left)}" * bool(left)


def _check_explains(pipeline: Pipeline) -> None:
    if isinstance(pipeline.representation, Table):
        raise SettingsError("explanations are of images; this model was fitted to a table")
