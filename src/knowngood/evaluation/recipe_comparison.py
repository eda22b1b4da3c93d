"""Recipes side by side on the same images: false alarms, stability, synthetic defects, labelled ones, time.

Nothing is chosen. Normal images are divided once: a part is held out, and each recipe is fitted to the rest. Measured
are the share of held-out normal images that is flagged, how alike the scores of models fitted without each fold of the
rest are, and how well defects are found that are drawn on the held-out images. Synthetic defects are not real ones:
they say whether a recipe sees changes of this kind and size, no more.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from knowngood.calibration import folds, one_of_each, split_normals
from knowngood.config import Settings, counted
from knowngood.data import ImageSet
from knowngood.data.audit import audit
from knowngood.data.groups import linked
from knowngood.data.progress import counting
from knowngood.detector.estimator import Detector
from knowngood.errors import DataError, KnowngoodError, SettingsError
from knowngood.evaluation.defect_kinds import KINDS
from knowngood.evaluation.synthetic_defects import Mask, synthesize
from knowngood.metrics import roc_auc

HELD_OUT, MOST_DEFECTS = 0.25, 100
FEWEST = 12  # normal images


@dataclass(frozen=True)
class Synthetic:
    """Defects drawn on normal images: the images, their masks, and the kind of each."""

    images: ImageSet
    masks: list[Mask]
    kinds: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Compared:
    """What was measured of a recipe, or the reason why it could not be, in `refused`.

    recipe: what it became, and its warnings. false_alarms: flagged of the held-out normal images, with a 95 %
    Clopper–Pearson interval. stability: mean Spearman correlation of the scores of held-out images by models without
    each fold, from −1 to 1. synthetic_auroc: against the held-out normal images; synthetic_flagged: (M,) bool.
    labelled_auroc, labelled_flagged: likewise of labelled images; None without any. fit_seconds. image_ms: to score one
    image.
    """

    name: str
    refused: str = ""
    recipe: str = ""
    false_alarms: int = 0
    interval: tuple[float, float] = (0.0, 1.0)
    stability: float | None = None
    synthetic_auroc: float = float("nan")
    synthetic_flagged: np.ndarray | None = None
    labelled_auroc: float | None = None
    labelled_flagged: np.ndarray | None = None
    flagged: np.ndarray | None = None  # (H,) held-out normal images
    scores: np.ndarray | None = None  # (H,) of these
    fit_seconds: float = 0.0
    image_ms: float = 0.0


@dataclass(frozen=True)
class Comparison:
    """Recipes on the same held-out normal images, synthetic defects and labelled anomalies (None without any)."""

    recipes: list[Compared]
    fitted: int
    held_out: ImageSet
    synthetic: Synthetic
    labelled: ImageSet | None
    alpha: dict[str, float]


def compare(
    images: ImageSet,
    recipes: Mapping[str, Settings],
    *,
    labelled: ImageSet | None = None,
    folds_of: int = 3,
    seed: int = 0,
    announce: Callable[[str], None] = lambda text: None,
) -> Comparison:
    """Measure recipes on the same images.

    Args:
        images: normal images; labelled anomalies among them are left out.
        recipes: settings by name. labelled: images labelled anomalous, to be judged; never fitted to.
        folds_of: models for the stability, each without one fold; 0 leaves it out.
        seed: of the division and of the synthetic defects. announce: called with a line about each step.

    Raises:
        DataError: too few normal images. SettingsError: no recipe.
    """
    if not recipes:
        raise SettingsError("no recipe to compare; name presets, files of settings, or auto")
    if folds_of == 1:
        raise SettingsError("1 fold leaves nothing to fit to; expected 0, or 2 and more")
    normals = linked(_readable(images[images.labels != 1], announce), None)
    for column in {one.conditioning.group for one in recipes.values()} & set(normals.conditions):
        normals = linked(normals, column)
    labelled = labelled if labelled is None or not len(labelled) else _readable(labelled, announce)
    if len(normals) < FEWEST:
        raise DataError(f"{images.name}: {counted(len(normals), 'normal image')}; a comparison needs at least {FEWEST}")
    split = split_normals(len(normals), groups=normals.groups, select=0, calibrate=HELD_OUT, seed=seed)
    fitted, held_out = normals[split["fit"]], normals[split["calibrate"]]
    if held_out.groups is not None:  # one image of a group counts
        held_out = held_out[one_of_each(held_out.groups)]
    fitted, held_out = fitted.replace(splits=None), held_out.replace(splits=None)
    synthetic = draw(held_out, seed, announce)
    parts = folds(len(fitted), None, folds_of, seed, groups=fitted.groups) if folds_of else []
    judged = (held_out, synthetic, labelled)
    found, models = [], 1 + len(parts)  # of each recipe
    with counting("models", models * len(recipes), "models") as advance:
        for name, settings in recipes.items():
            announce(name)
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    found.append(_measured(name, settings, fitted, parts, *judged, advance))
            except KnowngoodError as error:
                found.append(Compared(name=name, refused=str(error)))
                advance(models)
    alpha = {name: settings.alpha for name, settings in recipes.items()}
    return Comparison(found, len(fitted), held_out, synthetic, labelled, alpha)


def _readable(images: ImageSet, announce: Callable[[str], None]) -> ImageSet:
    found, ids = audit(images), set(images.ids.tolist())
    if aside := [one for one in found.unusable if one.path_or_id in ids]:
        announce(f"{len(aside):,} of {len(images):,} images cannot be read, and are left out; the first, {aside[0]}")
    return found.images


def draw(images: ImageSet, seed: int, announce: Callable[[str], None] = lambda text: None) -> Synthetic:
    """A defect on each of at most 100 images, all kinds in turn; conditions are those of the image.

    An image on which none can be drawn, such as one of a single value, is left out, and that is announced.

    Raises:
        DataError: all are so.
    """
    some = images[: min(len(images), MOST_DEFECTS)]
    names, made, masks, kinds, kept, lost = list(KINDS), [], [], [], [], []
    for i in range(len(some)):
        rng = np.random.default_rng([seed, i])
        try:
            changed, mask, kind = synthesize(some.read(i), rng, names[i % len(names)])
        except DataError as error:
            lost.append(f"{some.ids[i]}: {error}")
            continue
        kept.append(i)
        made.append(changed)
        masks.append(mask)
        kinds.append(kind)
    if not kept:
        raise DataError(f"no synthetic defect can be drawn on any image; the first, {lost[0]}")
    if lost:
        announce(f"{counted(len(lost), 'image')} without a synthetic defect; the first, {lost[0]}")
    some = some[kept]
    drawn = _listed(made, [f"{kind} on {name}" for kind, name in zip(kinds, some.ids, strict=True)])
    return Synthetic(drawn.replace(conditions=some.conditions, labels=np.ones(len(some))), masks, np.array(kinds))


def _listed(images: list[np.ndarray], ids: list[str]) -> ImageSet:
    from knowngood.data.pixel_source import ListPixels

    return ImageSet(ListPixels(images), np.array(ids), np.full(len(ids), np.nan), {}, name="synthetic defects")


def _measured(
    name: str,
    settings: Settings,
    fitted: ImageSet,
    parts: list[Any],
    held_out: ImageSet,
    synthetic: Synthetic,
    labelled: ImageSet | None,
    advance: Callable[[int], None],
) -> Compared:
    """advance: called after each model."""
    from scipy.stats import binomtest

    started = time.perf_counter()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        detector = Detector.from_settings(settings).fit(fitted)
        fit_seconds = time.perf_counter() - started
        started = time.perf_counter()
        scores, flagged = _judged(detector, held_out)
    image_ms = 1000 * (time.perf_counter() - started) / len(held_out)
    remarks = dict.fromkeys(str(one.message) for one in caught if one.category is UserWarning)
    drawn, drawn_flagged = _judged(detector, synthetic.images)
    advance(1)
    interval = binomtest(int(flagged.sum()), len(flagged)).proportion_ci(0.95, "exact")
    real: dict[str, Any] = {}
    if labelled is not None and len(labelled):
        values, real_flagged = _judged(detector, labelled)
        real = {"labelled_auroc": _auroc(scores, values), "labelled_flagged": real_flagged}
    return Compared(
        name=name,
        recipe=". ".join([detector.about_["recipe"], *remarks]),
        false_alarms=int(flagged.sum()),
        interval=(float(interval.low), float(interval.high)),
        stability=_stability(settings, fitted, parts, held_out, synthetic.images, advance) if parts else None,
        synthetic_auroc=_auroc(scores, drawn),
        synthetic_flagged=drawn_flagged,
        flagged=flagged,
        scores=scores,
        fit_seconds=fit_seconds,
        image_ms=image_ms,
        **real,
    )


def _judged(detector: Detector, images: ImageSet) -> tuple[np.ndarray, np.ndarray]:
    """Anomaly scores (N,) and verdicts (N,); unknown conditions are inferred."""
    table = detector.detect(images, unknown="infer")
    scores = table["anomaly_score"].to_numpy(float)
    return scores, table["is_anomalous"].fillna(False).to_numpy(bool)


def _stability(
    settings: Settings,
    fitted: ImageSet,
    parts: list[Any],
    held_out: ImageSet,
    synthetic: ImageSet,
    advance: Callable[[int], None],
) -> float:
    """The mean rank correlation of scores of held-out images and of defects, by models without each fold.

    Held-out images calibrate these models: that changes no rank.
    """
    from scipy.stats import spearmanr

    scores = []
    for part in parts:
        rest = np.setdiff1d(np.arange(len(fitted)), part)
        model = Detector.from_settings(settings).fit(fitted[rest], calibration_set=held_out)
        scores.append(np.concatenate([_judged(model, some)[0] for some in (held_out, synthetic)]))
        advance(1)
    found: list[Any] = [spearmanr(a, b)[0] for a, b in combinations(scores, 2)]
    return float(np.mean(found))


def _auroc(normal: np.ndarray, anomalous: np.ndarray) -> float:
    """Of the images that have a score."""
    normal, anomalous = normal[~np.isnan(normal)], anomalous[~np.isnan(anomalous)]
    return roc_auc(np.repeat([0, 1], [len(normal), len(anomalous)]), np.concatenate([normal, anomalous]))
