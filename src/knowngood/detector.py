"""The estimator people use: fit on good items, then ask how odd, how sure, where and why."""

from __future__ import annotations

import math
import platform
import time
import warnings
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, OutlierMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from knowngood import __version__, artifact, explaining, fitting
from knowngood.calibration import benjamini_hochberg, minimum_normals, verdict
from knowngood.card import model_card
from knowngood.config import Settings, parse_settings
from knowngood.devices import torch_device
from knowngood.errors import ArtifactError, DataError, SettingsError
from knowngood.explaining import Explanation
from knowngood.images import ImageSet, open_images
from knowngood.images.findings import UNUSABLE
from knowngood.images.opening import as_columns
from knowngood.objectives import Batch
from knowngood.patch_fitting import training_settings
from knowngood.pipeline import Items, Judgement, Pipeline, Unknown, rows_at_once
from knowngood.representation import Backbone, Features, Table, TableSet
from knowngood.training import BatchSource, History, train
from knowngood.vae import ConditionalVAE

if TYPE_CHECKING:
    from pandas import DataFrame

FEWEST = 2
EXPLAINED = 20  # images, unless more are asked for


class Detector(OutlierMixin, BaseEstimator):
    """Anomaly detector: a conditional VAE trained on good items, a score, and its conformal calibration.

    A scikit-learn outlier detector: `fit`, `predict` (+1 normal, −1 anomalous), `score_samples` (higher is more
    normal), `decision_function`, `offset_`. X may be

    - images: a NumPy array (N, H, W) or (N, H, W, C), a torch tensor (N, C, H, W), an `ImageSet`, a path to a folder,
      manifest, .npz or idx file, or the name of a known data set;
    - a table: a 2-D array (N, F) of numbers.

    The parameters are those of `knowngood.config.Settings`, which describes each; a choice such as `objective` is a
    name, or a mapping with its options: `objective={"name": "dcvae", "beta": 4}`.

    Attributes (after `fit`):
        pipeline_: what scores new items; `model_` is its network.
        offset_: `decision_function` is `score_samples` − offset_; −inf if `alpha` cannot be promised.
        split_: {"fit" | "select" | "calibrate": indices into the accepted normals}.
        about_: plain data on the fit: sizes, seconds, versions, fingerprint.
        training_: {"history": rows that training logged, "audit": findings of the data audit}, as plain records.
        n_features_in_: for tables.
    """

    def __init__(
        self,
        *,
        objective: Any = "cvae",
        labelled: Any = "auto",
        net: Any = "auto",
        latent_dim: int | None = None,
        likelihood: Any = "auto",
        prior: str = "auto",
        separation: float = 40.0,
        class_aware: float = 0.0,
        image_size: Any = None,
        crop: Any = None,
        pad: Any = None,
        grey: bool = False,
        scaling: Any = "auto",
        features: Any = "none",
        align: str = "none",
        ignore: Any = None,
        tile: int | None = None,
        tile_overlap: float = 0.25,
        roles: Any = None,
        measure: Any = (),
        unknown: str = "error",
        marginalise: str = "auto",
        epochs: int | None = None,
        batch_size: int = 128,
        lr: float = 1e-3,
        lr_secondary: float | None = None,
        weight_decay: float = 0.0,
        warmup: float = 0.05,
        schedule: str = "cosine",
        ema: float | None = 0.999,
        clip: float | None = 100.0,
        patience: int | None = 10,
        device: str = "auto",
        devices: int = 1,
        precision: str = "auto",
        compile: bool = False,
        memory_gb: float = 4.0,
        workers: int = 2,
        light_tolerance: float | None = None,
        scoring: Any = "auto",
        alpha: float = 0.05,
        select_fraction: float = 0.1,
        calibrate_fraction: float = 0.2,
        calibrate_by: str = "auto",
        tolerance: float | None = None,
        strict: bool = False,
        random_state: int | None = 0,
    ) -> None:
        self.objective = objective
        self.labelled = labelled
        self.net = net
        self.latent_dim = latent_dim
        self.likelihood = likelihood
        self.prior = prior
        self.separation = separation
        self.class_aware = class_aware
        self.image_size = image_size
        self.crop = crop
        self.pad = pad
        self.grey = grey
        self.scaling = scaling
        self.features = features
        self.align = align
        self.ignore = ignore
        self.tile = tile
        self.tile_overlap = tile_overlap
        self.roles = roles
        self.measure = measure
        self.unknown = unknown
        self.marginalise = marginalise
        self.epochs = epochs
        self.batch_size = batch_size
        self.lr = lr
        self.lr_secondary = lr_secondary
        self.weight_decay = weight_decay
        self.warmup = warmup
        self.schedule = schedule
        self.ema = ema
        self.clip = clip
        self.patience = patience
        self.device = device
        self.devices = devices
        self.precision = precision
        self.compile = compile
        self.memory_gb = memory_gb
        self.workers = workers
        self.light_tolerance = light_tolerance
        self.scoring = scoring
        self.alpha = alpha
        self.select_fraction = select_fraction
        self.calibrate_fraction = calibrate_fraction
        self.calibrate_by = calibrate_by
        self.tolerance = tolerance
        self.strict = strict
        self.random_state = random_state

    @classmethod
    def from_settings(cls, settings: Settings) -> Detector:
        """A detector with these settings."""
        return cls(**{name: getattr(settings, name) for name in Settings.model_fields})

    # Fit ------------------------------------------------------------------------------------------------------------

    def fit(
        self,
        X: Any,
        y: Any = None,
        *,
        conditions: Any = None,
        anomalies: Any = None,
        calibration: Any = None,
        run_dir: str | Path | None = None,
        resume: bool = False,
        progress: bool = False,
        film: str | Path | None = None,
        backbone: Backbone | None = None,
    ) -> Detector:
        """Learn what good items look like.

        Args:
            X: items, see the class. All are audited. Of a source with a split "train" only that is fitted on, and what
                is labelled anomalous is kept out like known `anomalies`.
            y: ignored, as scikit-learn's outlier detectors do.
            conditions: what is known of each item: a mapping or DataFrame of columns (N,), or one array (N,).
                An ImageSet brings its own columns.
            anomalies: (N,) 1 for known anomalies, 0 or NaN for good items. Known anomalies never count as good, and
                never calibrate. They teach if the setting `labelled` says how, else they are kept out. With features
                they teach where that finds held-out ones better, by masks if X has any; `about_["labelled"]` tells.
            calibration: further good items that only calibrate, with conditions of their own (an ImageSet); then none
                of X are set aside for that.
            run_dir: folder for the log and checkpoints; with `resume` the run goes on from the last checkpoint there
                and ends with the same bits as if it had never stopped.
            film: a .gif to write: some held-out images and what the model makes of them as training goes on.
            backbone: of your own, with features="own".
            progress: show a progress bar if the error stream is a terminal. On two cores a fit takes seconds for a
                table, and from half a minute to some minutes for images, by their size.

        Raises:
            SettingsError: a parameter is unknown, wrong or contradicts another.
            DataError: the data are refused; the message says what and why.
            TrainingError: the loss became non-finite.
        """
        started = time.perf_counter()
        settings = parse_settings(self.get_params(deep=False))
        if resume and run_dir is None:
            raise SettingsError("resume=True needs the run_dir of the run to go on with")
        if film is not None and Path(film).suffix.lower() != ".gif":
            raise SettingsError(f"film = {film}: it is written as a GIF; give a name that ends in .gif")
        seed = settings.random_state
        if seed is None:
            seed = int(np.random.SeedSequence().generate_state(1)[0])
        items = self._items(X, conditions, anomalies, reset=True)
        items, findings = fitting.audited(items, settings)
        if items.splits is not None and "train" in items.splits:
            items = items[items.splits == "train"]
        items = fitting.measured(items, settings)
        normals = items[items.labels != 1]
        if len(normals) < FEWEST:
            raise DataError(
                f"{len(normals)} sample{'s' * (len(normals) != 1)} to fit on (of {len(items)} given); "
                f"at least {FEWEST} good ones are needed"
            )
        known = items[items.labels == 1]
        plan = fitting.plan(normals, settings, seed, anomalies=known, set_aside=calibration is None, backbone=backbone)
        fit, held_out = plan.source("fit"), plan.source("select")
        fingerprint = plan.normals.fingerprint()
        watch = None
        if film is not None:
            from knowngood.training.film import Film

            watch = Film.of(held_out)
        patches, plan.model.patches = plan.model.patches, None  # no weights: kept out of averages and checkpoints
        marks = f"+{known.fingerprint()}" if plan.anomalies is not None else ""
        history = train(
            plan.model,
            plan.objective,
            fit,
            held_out if len(held_out) else None,
            settings if plan.features is None else training_settings(settings, len(fit)),
            seed=seed,
            run_dir=None if run_dir is None else Path(run_dir),
            resume=resume,
            progress=progress,
            anomalies=plan.anomalies,
            on_evaluation=watch,
            fingerprint=fingerprint + marks,
        )
        if patches is not None:
            plan.model.patches = patches.to(next(plan.model.parameters()).device)
        if watch is not None and film is not None:
            watch.write(film, history.steps)
        pipeline = Pipeline(
            settings, plan.schema, plan.representation, plan.model.eval(), plan.score, ignore=plan.ignore
        )
        pipeline.objective_state = {name: t.detach().cpu() for name, t in plan.objective.kept_state().items()}
        with torch.no_grad():
            fit, held_out = fit.to(pipeline.device), held_out.to(pipeline.device)
            state = plan.score.fit(plan.model, _in_order(fit, plan.model))
            both = (_in_order(source, plan.model) for source in (held_out, fit))
            pipeline.state = plan.score.settle(plan.model, state, *both)
        if settings.features != "none":
            from knowngood.patch_settling import settle

            settle(pipeline, plan, plan.inners, settings.features, seed)
        told = None
        if plan.labelled is not None:
            from knowngood.patch_labels import teach

            told = teach(pipeline, plan, seed)
        if not isinstance(plan.representation, Table) and settings.tile is None:
            index = plan.split["fit"]
            about = plan.encoded.stratum[index], plan.encoded.c[index], (plan.features or {}).get("fit")
            pipeline.known_good = explaining.learn(pipeline, plan.part("fit"), plan.part("select"), *about, seed)  # type: ignore[arg-type]
        self.split_ = plan.split
        self.pipeline_ = pipeline
        if calibration is not None:
            pipeline.calibrate(self._items(calibration, None))
        elif plan.left_out:
            pipeline.calibrate_left_out(plan.normals[np.concatenate([plan.split["fit"], plan.split["select"]])])
        else:
            pipeline.calibrate(plan.part("calibrate"))
        self.offset_ = -pipeline.limit
        used = 0 if plan.anomalies is None else len(plan.anomalies)
        if told is not None and told["weight"]:
            used = told["taught"]
        seconds = time.perf_counter() - started
        self.about_ = self._about(items, len(normals), used, fingerprint, seed, history, seconds)
        if told is not None:
            self.about_["labelled"] = told
        self.training_ = {"history": list(history.steps), "audit": findings}
        return self

    def calibrate(self, X: Any, *, conditions: Any = None) -> Detector:
        """Calibrate a fitted detector anew, on good items that it was not trained on: after a change of camera, say.

        All p-values and thresholds come from these items from then on.

        Raises:
            DataError: an item cannot be read, lacks a condition, or there is none.
        """
        check_is_fitted(self, "pipeline_")
        self.pipeline_.calibrate(self._items(X, conditions))
        self.offset_ = -self.pipeline_.limit
        return self

    # scikit-learn ---------------------------------------------------------------------------------------------------

    def score_samples(self, X: Any, *, conditions: Any = None, unknown: Unknown | None = None) -> np.ndarray:
        """−anomaly score (N,), higher is more normal, comparable across conditions."""
        return -self._judge(X, conditions, unknown).anomaly_score

    def decision_function(self, X: Any, *, conditions: Any = None, unknown: Unknown | None = None) -> np.ndarray:
        """`score_samples` − `offset_` (N,); negative for items flagged at `alpha`."""
        return self.score_samples(X, conditions=conditions, unknown=unknown) - self.offset_

    def predict(self, X: Any, *, conditions: Any = None, unknown: Unknown | None = None) -> np.ndarray:
        """+1 for normal, −1 for anomalous (N,), with the false-alarm rate `alpha` of the fit.

        If the fit left too few calibration normals for that rate it warns and flags nothing.
        """
        decision = self.decision_function(X, conditions=conditions, unknown=unknown)
        self._warn_if_no_promise()
        return np.where(decision < 0, -1, 1)

    def fit_predict(self, X: Any, y: Any = None, **parameters: Any) -> np.ndarray:
        """`fit(X)`, then `predict(X)`; further parameters go to `fit`."""
        conditions = parameters.get("conditions")
        return self.fit(X, y, **parameters).predict(X, conditions=conditions)

    # Ours -----------------------------------------------------------------------------------------------------------

    def detect(
        self,
        X: Any,
        *,
        conditions: Any = None,
        unknown: Unknown | None = None,
        alpha: float | None = None,
        fdr: float | None = None,
        abstain: float | None = None,
        explain: bool = False,
    ) -> DataFrame:
        """One row an item.

        Columns: id; anomaly_score (higher is odder, comparable across conditions); p_value in (0, 1], small is odd;
        is_anomalous (p_value ≤ alpha); condition (as given, or "… (inferred)"); the parts of the score under that
        condition; verdict, with `abstain`; label, if X carries any; error, only if an item could not be read: its
        numbers and its is_anomalous are then missing. Rank by anomaly_score, never by p_value: that floors at
        1/(n+1) and ties.

        Args:
            unknown: "infer" sums out conditions that are missing or new, see `Pipeline.judge`; "error" refuses them.
                A model fitted with unknown="infer" averages over conditions where that has a meaning; any other takes
                the best one. Default: as fitted.
            alpha: false-alarm rate; default that of the fit.
            fdr: flag by Benjamini–Hochberg over these items instead: of the flagged ones at most this share is
                expected to be good.
            abstain: a p-value above alpha: items between the two get the verdict "unsure".
            explain: say why of the flagged images, of at most `EXPLAINED` the oddest: a column `explanation`, one
                sentence, and `.attrs["explanations"]`, a list of `Explanation`, the oddest first. Take them out with
                `.attrs.pop` before writing parquet. See `Detector.explain`.

        Raises:
            NotEnoughNormals: `alpha` is given and the calibration normals are too few for it.
        """
        import pandas as pd

        check_is_fitted(self, "pipeline_")
        if alpha is None:
            self._warn_if_no_promise()
        elif self.pipeline_.calibration is not None:
            self.pipeline_.calibration.refuse(alpha)
        if explain:
            explaining.check_explains(self.pipeline_)
        items = self._items(X, conditions)
        judged = self.pipeline_.judge(items, unknown=unknown, alpha=alpha)
        level = self.pipeline_.settings.alpha if alpha is None else alpha
        p, best = judged.p_value, judged.best
        flagged = p <= level
        if fdr is not None:
            read = ~np.isnan(p)
            flagged[read] = benjamini_hochberg(p[read], fdr)
        named = [text + ("" if known else " (inferred)") for text, known in zip(best.label, best.known, strict=True)]
        table = {
            "id": items.ids,
            "anomaly_score": judged.anomaly_score,
            "p_value": p,
            "is_anomalous": flagged,
            "condition": [None if i in judged.errors else text for i, text in enumerate(named)],
            **judged.parts,
        }
        if abstain is not None:
            words = verdict(p, level, abstain)
            table["verdict"] = [None if i in judged.errors else str(word) for i, word in enumerate(words)]
        found: list[Explanation] = []
        if explain:
            chosen = explaining.oddest(judged, flagged, EXPLAINED)
            found = self._explained(items, judged, flagged, chosen, level, table["condition"], unknown)
            said = {one.id: one.summary for one in found}
            table["explanation"] = [said.get(str(name)) for name in items.ids]
        if not np.isnan(items.labels).all():
            table["label"] = items.labels
        if judged.errors:
            table["error"] = [judged.errors.get(i) for i in range(len(items))]
        set_aside = [f for f in getattr(items, "rejected", ()) if f.kind in UNUSABLE]
        missing = pd.DataFrame(
            {
                "id": [finding.path_or_id for finding in set_aside],
                "is_anomalous": None,
                "error": [finding.reason for finding in set_aside],
            }
        )
        rows = pd.DataFrame(table)
        if set_aside:
            rows = pd.concat([rows, missing], ignore_index=True)
        if "error" in rows:
            rows["is_anomalous"] = rows["is_anomalous"].astype("boolean").mask(rows["error"].notna())
        if explain:
            rows.attrs["explanations"] = found
        return rows

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
        """Why images are odd: where, against what, and how they compare with the good images fitted on.

        Args:
            alpha: false-alarm rate of the verdicts; default that of the fit.
            most: images to explain, the oddest first.
            others: explain images that are not flagged too.

        Raises:
            SettingsError: the model was fitted on a table.
            NotEnoughNormals: `alpha` is given and the calibration normals are too few for it.
        """
        check_is_fitted(self, "pipeline_")
        explaining.check_explains(self.pipeline_)
        if alpha is not None and self.pipeline_.calibration is not None:
            self.pipeline_.calibration.refuse(alpha)
        items = self._items(X, conditions)
        judged = self.pipeline_.judge(items, unknown=unknown, alpha=alpha)
        level = self.pipeline_.settings.alpha if alpha is None else alpha
        flagged = judged.p_value <= level
        best = judged.best
        named = [text + ("" if known else " (inferred)") for text, known in zip(best.label, best.known, strict=True)]
        chosen = explaining.oddest(judged, flagged, most, others=others)
        return self._explained(items, judged, flagged, chosen, level, named, unknown)

    def anomaly_maps(self, X: Any, *, conditions: Any = None, unknown: Unknown | None = None) -> list[np.ndarray]:
        """Where: for each image a map (H, W) at its own size, higher is odder; NaN where a region is ignored."""
        check_is_fitted(self, "pipeline_")
        return self.pipeline_.maps(self._items(X, conditions), unknown=unknown)

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

        A region is connected pixels above what good images under the same condition exceed anywhere at the rate
        `alpha`: so at most that share of good images has any. Columns: id; region, its number in the image in falling
        order of the peaks; area in pixels; peak; p_value, of the peak among the largest values of good images' maps;
        peak_row, peak_column; top, left, bottom, right, half-open; centroid_row, centroid_column; mean.

        The image's verdict in `detect` pools the map in its own way: it may flag an image without a region, and
        the other way round.

        Args:
            alpha: share of good images that may have a region; default that of the fit.
            min_area: regions of fewer pixels are left out.

        Raises:
            SettingsError: the model is not on features.
            NotEnoughNormals: `alpha` is given and the calibration normals are too few for it.
            DataError: an image cannot be read.
        """
        from knowngood.localisation import regions_table

        check_is_fitted(self, "pipeline_")
        self.pipeline_.check_regions()
        if alpha is None:
            self._warn_if_no_promise()
        elif self.pipeline_.calibration is not None:
            self.pipeline_.calibration.refuse(alpha)
        items = self._items(X, conditions)
        found = self.pipeline_.regions(items, unknown=unknown, alpha=alpha, min_area=min_area)
        table = regions_table({str(i): regions for i, regions in enumerate(found)})
        table.insert(0, "id", np.asarray(items.ids)[table.pop("image").astype(int)])
        table.insert(4, "p_value", table.pop("p_value"))
        return table

    def reconstruct(self, X: Any, *, conditions: Any = None, unknown: Unknown | None = None) -> np.ndarray:
        """Why: what the model makes of each item, in raw units: (N, H, W, C), or (N, F) for tables."""
        check_is_fitted(self, "pipeline_")
        _, made = self.pipeline_.reconstruct(self._items(X, conditions), unknown=unknown)
        values = self.pipeline_.representation.unscale(torch.from_numpy(made)).numpy()
        return np.moveaxis(values, 1, -1) if values.ndim == 4 else values

    def embed(self, X: Any, *, conditions: Any = None, unknown: Unknown | None = None) -> np.ndarray:
        """Posterior means (N, D)."""
        check_is_fitted(self, "pipeline_")
        return self.pipeline_.embed(self._items(X, conditions), unknown=unknown)

    @property
    def model_(self) -> ConditionalVAE:
        """The fitted network."""
        return self.pipeline_.model

    @property
    def card_(self) -> str:
        """What was trained, on what, how, and its limits; Markdown."""
        return model_card(self.pipeline_, self.about_)

    def save(self, folder: str | Path) -> Path:
        """Write the model to a folder of config.json, *.safetensors and card.md; an older model there is replaced."""
        check_is_fitted(self, "pipeline_")
        return artifact.write(folder, self._files())

    @classmethod
    def load(cls, folder: str | Path, *, device: str = "cpu", backbone: Backbone | None = None) -> Detector:
        """A saved model, ready to score: the same scores, to the bit, on the same machine and thread count.

        Args:
            device: "cpu", "gpu" or "cuda", "mps", or "auto" for a GPU if there is one.
            backbone: the one of your own that it was fitted with, which a saved model does not hold.

        Raises:
            ArtifactError: no saved model there, or it is damaged, foreign or newer than this version; another backbone.
        """
        unpacked = artifact.unpack(artifact.read(folder), str(folder))
        if backbone is not None:
            representation = unpacked[0].representation
            if not isinstance(representation, Features):
                raise ArtifactError(f"{folder}: this model scores no features; leave backbone out")
            unpacked[0].representation = representation.with_backbone(backbone)
        detector = cls.from_settings(unpacked[0].settings)
        detector._adopt(*unpacked)
        detector.pipeline_.to(torch_device(device))
        return detector

    def __getstate__(self) -> dict[str, Any]:
        # Copies travel as safetensors bytes, never as pickled networks.
        state: dict[str, Any] = dict(super().__getstate__())  # type: ignore[arg-type]
        if "pipeline_" in state:
            for name in ("pipeline_", "training_", "offset_"):
                state.pop(name, None)
            state["files_"] = self._files()
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        files = state.pop("files_", None)
        super().__setstate__(state)
        if files is not None:
            self._adopt(*artifact.unpack(files))

    def _warn_if_no_promise(self) -> None:
        if math.isinf(self.offset_):
            n, alpha = len(self.pipeline_.calibration or ()), self.pipeline_.settings.alpha
            needed = minimum_normals(alpha)
            warnings.warn(
                f"alpha = {alpha:g} cannot be promised with {n} calibration normals, it needs {needed}: "
                "nothing is flagged. Fit or calibrate on more good items, or rank by the anomaly score.",
                stacklevel=3,
            )

    # Inside ---------------------------------------------------------------------------------------------------------

    def _files(self) -> dict[str, bytes]:
        return artifact.pack(self.pipeline_, self.about_, self.training_, self.card_)

    def _adopt(self, pipeline: Pipeline, about: dict[str, Any], training: dict[str, Any]) -> None:
        self.pipeline_, self.about_, self.training_ = pipeline, about, training
        self.offset_ = -pipeline.limit
        if isinstance(pipeline.representation, Table):
            self.n_features_in_ = pipeline.representation.shape[0]

    def _judge(self, X: Any, conditions: Any, unknown: Unknown | None) -> Any:
        check_is_fitted(self, "pipeline_")
        items = self._items(X, conditions)
        judged = self.pipeline_.judge(items, unknown=unknown)
        if judged.errors:
            i, reason = next(iter(judged.errors.items()))
            raise DataError(f"{items.ids[i]}: {reason}. `detect` sets such images aside and scores the others.")
        return judged

    def _explained(
        self,
        items: Items,
        judged: Judgement,
        flagged: np.ndarray,
        chosen: np.ndarray,
        alpha: float,
        named: Any,
        unknown: Unknown | None,
    ) -> list[Explanation]:
        return explaining.explain(self.pipeline_, items, judged, flagged, chosen, alpha=alpha, conditions=named)

    def _items(self, X: Any, conditions: Any, anomalies: Any = None, reset: bool = False) -> Items:
        """X as items with their conditions and labels."""
        columns = as_columns(conditions)
        X = np.asarray(X) if isinstance(X, (list, tuple)) and len(X) and np.ndim(X[0]) > 1 else X
        if isinstance(X, (str, Path, ImageSet)) or getattr(X, "ndim", 2) > 2:
            items: Items = open_images(X)
        else:
            rows: Any = X.detach().cpu().numpy() if isinstance(X, torch.Tensor) else X
            rows = validate_data(self, rows, reset=reset, dtype=np.float64, ensure_min_samples=FEWEST if reset else 1)
            items = TableSet.from_array(rows)
        if not reset:
            # What a source brings beyond the schema (a class that was constant, say) says nothing to the model.
            items = fitting.only(items, self.pipeline_.schema)
        if columns is not None or anomalies is not None:
            items = items.annotate(anomalies, columns)
        if not reset:
            items = fitting.measured(items, self.pipeline_.settings, self.pipeline_.schema)
        return items

    def _about(
        self, items: Items, normals: int, taught: int, fingerprint: str, seed: int, history: History, seconds: float
    ) -> dict[str, Any]:
        return {
            "data": {
                "name": items.name,
                "variant": getattr(items, "variant", None),
                "fingerprint": fingerprint,
                "normals": normals,
                "known_anomalies": int(np.sum(items.labels == 1)),
                "taught_anomalies": taught,
                **{part: len(index) for part, index in self.split_.items()},
                "calibrate": len(self.pipeline_.calibration or ()),
            },
            "seed": seed,
            "seconds": round(seconds, 3),
            "training": {
                "steps": history.steps[-1]["step"],
                "best_step": history.best_step,
                "epochs": round(history.steps[-1]["epoch"], 1),
                "images_per_second": round(history.images_per_second),
                "stopped_early": history.stopped_early,
            },
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "versions": {
                "knowngood": __version__,
                "torch": str(torch.__version__),
                "numpy": np.__version__,
                "python": platform.python_version(),
            },
            "threads": torch.get_num_threads(),
        }


def _in_order(source: BatchSource, model: ConditionalVAE) -> Iterator[Batch]:
    """All items of a source once, as many at a time as are scored together."""
    rows = torch.arange(len(source)).split(rows_at_once(model.shape)) if len(source) else ()
    return source.batches(rows)
