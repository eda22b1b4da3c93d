"""The estimator people use: fit on good items, then ask how odd, how sure, where and why."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, OutlierMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from knowngood.config import Settings, nearest, parse_settings
from knowngood.data import ImageSet, TableSet, open_images
from knowngood.data.open import as_columns
from knowngood.detector import model_folder as artifact
from knowngood.detector.about import about
from knowngood.detector.answering import Answering
from knowngood.detector.calibrate import warn_of_small
from knowngood.detector.card import model_card
from knowngood.detector.fit import given
from knowngood.detector.fit import plan as fitting
from knowngood.detector.fit.learn import learn
from knowngood.detector.pipeline import Pipeline
from knowngood.detector.rows import Items
from knowngood.errors import ArtifactError, DataError, SettingsError
from knowngood.models.vae import ConditionalVAE
from knowngood.representations import Backbone, Features, Table
from knowngood.training.devices import torch_device

FEWEST = 2


class Detector(Answering, OutlierMixin, BaseEstimator):
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
        augment_condition: Any = (),
        image_size: Any = None,
        crop: Any = None,
        pad: Any = None,
        grey: bool = False,
        scaling: Any = "auto",
        representation: str = "pixels",
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
        ensemble: int = 1,
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
        self.augment_condition = augment_condition
        self.image_size = image_size
        self.crop = crop
        self.pad = pad
        self.grey = grey
        self.scaling = scaling
        self.representation = representation
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
        self.ensemble = ensemble
        self.random_state = random_state

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
        from knowngood.config.presets import read_preset

        known = list(Settings.model_fields)
        for setting in settings:
            if setting not in known:
                raise SettingsError(f"unknown setting '{setting}'{nearest(setting, known)}")
        return cls(**{**read_preset(name).settings, **settings})

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
                never calibrate. By default three or more teach the score where that finds held-out ones better, with
                features by masks if X has any; `about_["labelled"]` tells. The setting `labelled` says how else.
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
        items, findings = given.audited(items, settings)
        if items.splits is not None and "train" in items.splits:
            items = items[items.splits == "train"]
        items = given.measured(items, settings)
        normals, known = items[items.labels != 1], items[items.labels == 1]
        if len(normals) < FEWEST:
            raise DataError(
                f"{len(normals)} sample{'s' * (len(normals) != 1)} to fit on (of {len(items)} given); "
                f"at least {FEWEST} good ones are needed"
            )
        plan = fitting.plan(normals, settings, seed, anomalies=known, set_aside=calibration is None, backbone=backbone)
        learned = learn(
            plan,
            known,
            run_dir=None if run_dir is None else Path(run_dir),
            resume=resume,
            progress=progress,
            film=None if film is None else Path(film),
        )
        self.split_, self.pipeline_ = plan.split, learned.pipeline
        if calibration is not None:
            self.pipeline_.calibrate(self._items(calibration, None))
        elif plan.left_out:
            learned_from = np.concatenate([plan.split["fit"], plan.split["select"]])
            self.pipeline_.calibrate_left_out(plan.normals[learned_from])
        else:
            self.pipeline_.calibrate(plan.part("calibrate"))
        warn_of_small(self.pipeline_)
        self.offset_ = -self.pipeline_.limit
        self.about_ = about(items, plan, learned, time.perf_counter() - started)
        self.training_ = {"history": list(learned.history.steps), "audit": findings}
        return self

    def calibrate(self, X: Any, *, conditions: Any = None) -> Detector:
        """Calibrate a fitted detector anew, on good items that it was not trained on: after a change of camera, say.

        All p-values and thresholds come from these items from then on.

        Raises:
            DataError: an item cannot be read, lacks a condition, or there is none.
        """
        check_is_fitted(self, "pipeline_")
        self.pipeline_.calibrate(self._items(X, conditions))
        warn_of_small(self.pipeline_)
        self.offset_ = -self.pipeline_.limit
        return self

    def fit_predict(self, X: Any, y: Any = None, **parameters: Any) -> np.ndarray:
        """`fit(X)`, then `predict(X)`; further parameters go to `fit`."""
        conditions = parameters.get("conditions")
        return self.fit(X, y, **parameters).predict(X, conditions=conditions)

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

    # Inside ---------------------------------------------------------------------------------------------------------

    def _files(self) -> dict[str, bytes]:
        return artifact.pack(self.pipeline_, self.about_, self.training_, self.card_)

    def _adopt(self, pipeline: Pipeline, about: dict[str, Any], training: dict[str, Any]) -> None:
        self.pipeline_, self.about_, self.training_ = pipeline, about, training
        self.offset_ = -pipeline.limit
        if isinstance(pipeline.representation, Table):
            self.n_features_in_ = pipeline.representation.shape[0]

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
            items = given.only(items, self.pipeline_.schema)
        if columns is not None or anomalies is not None:
            items = items.annotate(anomalies, columns)
        if not reset:
            items = given.measured(items, self.pipeline_.settings, self.pipeline_.schema)
        return items
