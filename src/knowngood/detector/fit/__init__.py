"""What a fit does, station by station: recipe, plan, representation, model, score, labels, reference, calibration."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from knowngood.config import Settings
from knowngood.data import ImageSet
from knowngood.detector.calibrate import calibrate
from knowngood.detector.condition_posterior import fit_temperature
from knowngood.detector.explain import reference_index
from knowngood.detector.fit.auto import resolve
from knowngood.detector.fit.cached import CachedFeatures
from knowngood.detector.fit.cross import cross_calibrate
from knowngood.detector.fit.learn import Run, learn, represent
from knowngood.detector.fit.plan import make_plan
from knowngood.detector.ignored import blanked
from knowngood.detector.pipeline import Items, Pipeline
from knowngood.errors import SettingsError
from knowngood.representations import Backbone, Features, Pixels, Table
from knowngood.training import History
from knowngood.training.film import Film


@dataclass
class Fitted:
    """A pipeline, calibrated unless others calibrate, and the record of its fit."""

    pipeline: Pipeline
    split: dict[str, np.ndarray]
    normals: int
    recipe: str
    fingerprint: str  # of the normals
    history: list[dict[str, Any]] = field(default_factory=list)
    training: dict[str, Any] = field(default_factory=dict)
    labels: dict[str, Any] | None = None
    known_anomalies: int = 0
    film: Film | None = None


def fit_pipeline(
    normals: Items,
    labelled: Items,
    settings: Settings,
    seed: int,
    *,
    others_calibrate: bool = False,
    run_dir: Path | None = None,
    resume: bool = False,
    progress: bool = False,
    film: bool = False,
    backbone: Backbone | None = None,
) -> Fitted:
    """Fit everything to normal items; see `Detector.fit`.

    Raises:
        SettingsError, DataError, TrainingError: as `Detector.fit`.
    """
    settings, recipe = resolve(settings, normals)
    plan = make_plan(normals, labelled, settings, seed, set_aside=not others_calibrate, backbone=backbone)
    fit, select = plan.split["fit"], plan.split["select"]
    representation: Any = represent(plan, fit)
    if isinstance(representation, Features) and settings.data.tile is None and isinstance(plan.normals, ImageSet):
        seen = plan.normals[np.concatenate([fit, select])]
        if plan.ignore is not None and representation.options.align == "none":
            seen = blanked(seen, plan.ignore, plan.schema, representation.pixels.low)
        representation = CachedFeatures.of(representation, seen, settings.training.memory_gb)
    if film and not isinstance(representation, Pixels):
        raise SettingsError(
            "film: it shows reconstructions of images, and only a VAE on pixels makes any; set "
            "representation='pixels', model='vae', or leave film out"
        )
    fingerprint = plan.normals.fingerprint()
    run = Run(run_dir, resume, progress, film, fingerprint)
    learned = learn(plan, fit, select, representation, run)
    pipeline = fit_temperature(learned.pipeline, plan.normals[select])
    if not isinstance(pipeline.representation, Table) and settings.data.tile is None:
        index = reference_index(pipeline, plan.normals[fit], plan.normals[select], seed)  # type: ignore[arg-type]
        pipeline = replace(pipeline, reference=index)
    if not others_calibrate and settings.calibration.method == "cross":
        pipeline = cross_calibrate(pipeline, plan, fit, representation)
    if isinstance(pipeline.representation, CachedFeatures):  # images that calibrate are not among the cached ones
        pipeline = replace(pipeline, representation=pipeline.representation.base)
    if not others_calibrate and settings.calibration.method != "cross":
        pipeline = calibrate(pipeline, plan.normals[plan.split["calibrate"]], "split")
    history = learned.history
    return Fitted(
        pipeline=pipeline,
        split=plan.split,
        normals=len(plan.normals),
        recipe=recipe,
        fingerprint=fingerprint,
        history=[] if history is None else list(history.steps),
        training={} if history is None else training_record(history),
        labels=learned.notes.get("labels"),
        known_anomalies=len(labelled),
        film=learned.film,
    )


def training_record(history: History) -> dict[str, Any]:
    """Plain data on the training of a network."""
    return {
        "steps": history.steps[-1]["step"],
        "best_step": history.best_step,
        "epochs": round(history.steps[-1]["epoch"], 1),
        "images_per_second": round(history.images_per_second),
        "stopped_early": history.stopped_early,
    }
