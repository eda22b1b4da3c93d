"""What a fit does, station by station: recipe, plan, representation, model, score, labels, reference, calibration."""

from __future__ import annotations

import math
import platform
import sys
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import torch

from knowngood.config import PixelOptions, Settings, SharedGaussianOptions, VAEOptions
from knowngood.config.version import __version__
from knowngood.config.words import in_pixels
from knowngood.detector.calibrate import NormalScores, calibrate, image_statistics, suspicious, with_calibration
from knowngood.detector.condition_posterior import fit_temperature
from knowngood.detector.decide import calibrated
from knowngood.detector.explain import reference_index
from knowngood.detector.fit.auto import resolve
from knowngood.detector.fit.cached import CachedFeatures
from knowngood.detector.fit.cached_hog import CachedHOG
from knowngood.detector.fit.checked import checked_sentence
from knowngood.detector.fit.learn import Learned, Run, cached, learn, learns, out_of_fold, represent, side_by_side
from knowngood.detector.fit.mixed import unified
from knowngood.detector.fit.plan import Plan, make_plan
from knowngood.detector.pipeline import Items, Pipeline
from knowngood.errors import SettingsError
from knowngood.representations import HOG, Backbone, Features, Table
from knowngood.representations.hog import VALUES
from knowngood.training import History


@dataclass
class Fitted:
    """A pipeline, calibrated unless others calibrate, and the record of its fit; `about` is plain data."""

    pipeline: Pipeline
    split: dict[str, np.ndarray]
    about: dict[str, Any]
    history: list[dict[str, Any]]
    suspicious: list[dict[str, Any]]  # calibration items with the highest scores
    out_of_fold: dict[str, float] = field(default_factory=dict)  # p-values of normals that are only fitted to, by id


def fit_pipeline(
    normals: Items,
    labelled: Items,
    settings: Settings,
    seed: int,
    run: Run,
    *,
    others_calibrate: bool = False,
    backbone: Backbone | None = None,
    chosen: np.ndarray | None = None,
) -> Fitted:
    """Fit everything to normal items; see `Detector.fit`.

    Args:
        chosen: (N,) normals that are fitted to and never calibrate. In a cross-conformal calibration each is scored by
            the models without its fold: the p-values are in `out_of_fold`, by id.

    Raises:
        SettingsError, DataError, TrainingError: as `Detector.fit`.
    """
    shares = settings.model == "auto" and settings.data.ignore is None
    settings, recipe = resolve(settings, normals)
    if run.film and not (isinstance(settings.representation, PixelOptions) and isinstance(settings.model, VAEOptions)):
        raise SettingsError(
            "film: it shows reconstructions of images, and only a VAE on pixels makes any; set "
            "representation='pixels', model='vae', or leave film out"
        )
    settings, decided = unified(settings, normals, labelled)
    recipe += f"; {decided}" * bool(decided)
    plan = make_plan(
        normals, labelled, settings, seed, set_aside=not others_calibrate, backbone=backbone, chosen=chosen
    )
    recipe += checked_sentence(settings, plan.settings)
    fit, select = plan.split["fit"], plan.split["select"]
    representation: Any = represent(plan, fit, shares=shares)
    if shares and getattr(representation, "alike", False):
        plan = replace(plan, settings=plan.settings.model_copy(update={"model": SharedGaussianOptions()}))
    prepared = prepared_sentence(representation, len(plan.normals))
    recipe += prepared
    if run.progress and getattr(representation, "tiling", None) is not None:  # the cost, before it is paid
        print(prepared.removeprefix("; "), file=sys.stderr)
    if isinstance(representation, Features):
        images: Any = plan.normals[np.concatenate([fit, select])]
        representation = cached(plan, representation, images)
    cross = not others_calibrate and settings.calibration.method == "cross"
    if cross and type(representation) is HOG and len(normals) * 4 * VALUES <= settings.training.memory_gb * 2**30:
        images = plan.normals[np.concatenate([fit, select])]
        representation = CachedHOG.of(representation, images)
    fingerprint = plan.normals.fingerprint()
    run = replace(run, fingerprint=fingerprint)
    tasks: list[Any] = out_of_fold(plan, fit, representation, refit=learns(representation)) if cross else []
    needed = len(fit) * representation.bytes_per_image
    if isinstance(representation, CachedFeatures) and representation.tiling is not None:
        features, *grid = representation.shape
        needed += 4 * features**2 * math.prod(grid)  # of the Gaussians of each fold
    at_once = int(settings.training.memory_gb * 2**30) // needed
    if isinstance(settings.model, VAEOptions):  # networks draw from torch's one generator of all threads
        at_once = 1
    if cross:
        drawn = fit if plan.chosen is None else fit[~plan.chosen[fit]]
        tasks.append(lambda: image_statistics(plan.normals[drawn], plan.encoded.stratum[drawn]))
    first, *others = side_by_side([lambda: learned_pipeline(plan, representation, run), *tasks], at_once)
    pipeline, learned = first
    highest: list[dict[str, Any]] = []
    held_out: dict[str, float] = {}
    if cross:
        *scored, statistics = others
        parts, of_parts = zip(*scored, strict=True)
        out_of_fold_scores = NormalScores.concat(of_parts)
        apart = None if plan.chosen is None else plan.chosen[fit][np.concatenate(parts)]
        aside = out_of_fold_scores if apart is None else out_of_fold_scores.of(apart)
        out_of_fold_scores = out_of_fold_scores if apart is None else out_of_fold_scores.of(~apart)
        pipeline = replace(with_calibration(pipeline, out_of_fold_scores, "cross"), statistics=statistics)
        if apart is not None:
            p_values = calibrated(pipeline).p_values(aside.values, aside.strata)
            held_out = dict(zip(map(str, aside.ids), p_values.tolist(), strict=True))
        highest = suspicious(pipeline, out_of_fold_scores)
    if isinstance(
        pipeline.representation, CachedFeatures | CachedHOG
    ):  # images that calibrate are not among the cached ones
        pipeline = replace(pipeline, representation=pipeline.representation.base)
    if not others_calibrate and not cross:
        pipeline, highest = calibrate(pipeline, plan.normals[plan.split["calibrate"]], "split")
    index = np.concatenate([fit, select])
    pipeline = replace(pipeline, fitted_to=np.unique(plan.normals[index].digests()))
    history = learned.history
    about = {
        "recipe": recipe,
        "data": {
            "name": normals.name,
            "variant": getattr(normals, "variant", None),
            "fingerprint": fingerprint,
            "normals": len(normals),
            "groups": len(normals) if plan.normals.groups is None else len(np.unique(plan.normals.groups)),
            "known_anomalies": len(labelled),
            **{part: len(index) for part, index in plan.split.items()},
            "calibrate": len(pipeline.calibration or ()),
        },
        "seed": seed,
        "training": training_record(history),
        "history": [happened("fit", len(normals))],
        "versions": {
            "knowngood": __version__,
            "torch": str(torch.__version__),
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
        "threads": torch.get_num_threads(),
        **({} if learned.labels is None else {"labels": learned.labels}),
        **({} if chosen is None else {"fit_only": int(chosen[fit].sum())}),
    }
    return Fitted(pipeline, plan.split, about, [] if history is None else list(history.steps), highest, held_out)


def training_record(history: History | None) -> dict[str, Any]:
    """The training of a network in numbers; nothing without one."""
    if history is None:
        return {}
    return {
        "steps": history.steps[-1]["step"],
        "best_step": history.best_step,
        "epochs": round(history.steps[-1]["epoch"], 1),
        "images_per_second": round(history.images_per_second),
        "stopped_early": history.stopped_early,
    }


def learned_pipeline(
    plan: Plan, representation: Any, run: Run, start: Pipeline | None = None
) -> tuple[Pipeline, Learned]:
    """The pipeline without its calibration, with a reference index where images can be compared.

    Args:
        start: whose network is trained on, from its present weights.
    """
    fit, select = plan.split["fit"], plan.split["select"]
    learned = learn(plan, fit, select, representation, run, start)
    pipeline = fit_temperature(learned.pipeline, plan.normals[select])
    if not isinstance(pipeline.representation, Table):
        index = reference_index(pipeline, plan.normals[fit], plan.normals[select], plan.seed)  # type: ignore[arg-type]
        pipeline = replace(pipeline, reference=index)
    return pipeline, learned


def prepared_sentence(representation: Any, images: int) -> str:
    """How images are brought to one size and pose, for the end of the sentence on the recipe; empty if they are not.

    Of tiles with the time that the features of so many images take.
    """
    if not isinstance(representation, Features):
        return ""
    size, tiling = in_pixels(representation.pixels.size), representation.tiling
    if tiling is not None:
        whole, seen = in_pixels(representation.pixels.about or (0, 0)), representation.seconds
        down, across = tiling.counts()
        shared = "one Gaussian, as locations look alike," if representation.alike else "Gaussians by position"
        height, width = representation.grid
        resized = f" (resized to {size})" * (whole != size)
        return (
            f"; pictures of {whole} px{resized} are cut into {down} × {across} tiles of {tiling.side} px (overlap "
            f"{tiling.overlap} px), one model for all: {shared} at {height} × {width} locations, "
            f"every {representation.options.stride} px; features take about {1000 * seen:,.0f} ms an image, "
            f"{images * seen:,.0f} s for {images:,} normal images (data={{'tile': 'none'}}, --tile none: one view)"
        )
    if representation.pose is None:
        return f"; resized to {size} px for the backbone"
    return f"; parts lie in several positions or directions: each is found, turned and cropped to {size} px"


def happened(what: str, items: int) -> dict[str, Any]:
    """An entry of a model's history: a fit, calibration or update with so many normal items, now."""
    return {"what": what, "at": datetime.now(UTC).isoformat(timespec="seconds"), "items": items}
