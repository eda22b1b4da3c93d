"""What a fit does, station by station: recipe, plan, representation, model, score, labels, reference, calibration."""

from __future__ import annotations

import platform
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import torch

from knowngood import __version__
from knowngood.config import Settings
from knowngood.detector.calibrate import calibrate
from knowngood.detector.condition_posterior import fit_temperature
from knowngood.detector.explain import reference_index
from knowngood.detector.fit.auto import resolve
from knowngood.detector.fit.cached import CachedFeatures
from knowngood.detector.fit.learn import Run, cached, cross_calibrate, learn, represent
from knowngood.detector.fit.plan import make_plan
from knowngood.detector.pipeline import Items, Pipeline
from knowngood.errors import SettingsError
from knowngood.representations import Backbone, Features, Pixels, Table
from knowngood.training.film import Film


@dataclass
class Fitted:
    """A pipeline, calibrated unless others calibrate, and the record of its fit; `about` is plain data."""

    pipeline: Pipeline
    split: dict[str, np.ndarray]
    about: dict[str, Any]
    history: list[dict[str, Any]]
    film: Film | None


def fit_pipeline(
    normals: Items,
    labelled: Items,
    settings: Settings,
    seed: int,
    run: Run,
    *,
    others_calibrate: bool = False,
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
    if isinstance(representation, Features) and settings.data.tile is None:
        images: Any = plan.normals[np.concatenate([fit, select])]
        representation = cached(plan, representation, images)
    if run.film and not isinstance(representation, Pixels):
        raise SettingsError(
            "film: it shows reconstructions of images, and only a VAE on pixels makes any; set "
            "representation='pixels', model='vae', or leave film out"
        )
    fingerprint = plan.normals.fingerprint()
    learned = learn(plan, fit, select, representation, replace(run, fingerprint=fingerprint))
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
    history, training = learned.history, {}
    if history is not None:
        training = {
            "steps": history.steps[-1]["step"],
            "best_step": history.best_step,
            "epochs": round(history.steps[-1]["epoch"], 1),
            "images_per_second": round(history.images_per_second),
            "stopped_early": history.stopped_early,
        }
    about = {
        "recipe": recipe,
        "data": {
            "name": normals.name,
            "variant": getattr(normals, "variant", None),
            "fingerprint": fingerprint,
            "normals": len(normals),
            "known_anomalies": len(labelled),
            **{part: len(index) for part, index in plan.split.items()},
            "calibrate": len(pipeline.calibration or ()),
        },
        "seed": seed,
        "training": training,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {
            "knowngood": __version__,
            "torch": str(torch.__version__),
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
        "threads": torch.get_num_threads(),
        **({} if learned.labels is None else {"labels": learned.labels}),
    }
    return Fitted(pipeline, plan.split, about, [] if history is None else list(history.steps), learned.film)
