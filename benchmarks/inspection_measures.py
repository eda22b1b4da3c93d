"""One method on one inspection set: scores and maps, their metrics, and costs."""

from __future__ import annotations

import gc
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd  # noqa: F401  # `detect` imports it, which is no part of its time
import torch
from scipy.stats import binomtest
from torch import Tensor

from benchmarks.inspection_baselines import (
    CoresetNeighbours,
    FeatureBaseline,
    OneGaussian,
    Padim,
    SubspaceResidual,
    contrast_scores,
    smooth,
)
from benchmarks.inspection_parts import InspectionSet, Mask
from benchmarks.settings import merged
from knowngood.calibration import Calibration, false_alarm_interval, split_normals
from knowngood.config import FeatureOptions, Settings, parse_settings
from knowngood.data import ImageSet
from knowngood.detector.estimator import Detector
from knowngood.detector.scoring import READERS
from knowngood.metrics import average_precision, roc_auc
from knowngood.metrics.pixels import aupro, pixel_metrics
from knowngood.representations import Features, cached_features

SPLIT: dict[str, Any] = {"calibration": {"method": "split"}}
SET_ASIDE = 0.2  # of the normal images, for the decisions of a baseline
STRICT = 0.05  # false-positive rate up to which the second AUPRO goes
SQUARE = 384  # sides of the pictures that the baselines see
MB = 1e6
PEAK = "VmHWM:"  # of /proc/self/status, in KiB


@dataclass
class Subject:
    """An inspection set, the settings of ours, and the features for all baselines, computed when first asked for."""

    parts: InspectionSet
    settings: Settings

    @cached_property
    def features(self) -> Grids:
        started = time.perf_counter()
        features = square_features(self.parts.train, self.settings)
        memory = self.settings.training.memory_gb
        train = cached_features(self.parts.train, features, memory_gb=memory, workers=READERS)
        fitted = time.perf_counter()
        test = cached_features(self.parts.test, features, memory_gb=memory, workers=READERS)
        size = _bytes(features.state().values())
        return Grids(train, test, fitted - started, time.perf_counter() - fitted, size)


def square_features(images: ImageSet, settings: Settings) -> Features:
    """The features that baselines get, as these methods are published: of pictures as they lie, made square."""
    options = settings.representation
    assert isinstance(options, FeatureOptions)
    options = options.model_copy(update={"align": "none", "image_size": options.image_size or SQUARE})
    return Features.fit(images, options)


class Grids(NamedTuple):
    """Features (N, F, h, w) of both parts, the seconds they took, and the bytes of the backbone."""

    train: np.ndarray
    test: np.ndarray
    train_seconds: float
    test_seconds: float
    backbone: int


class Judged(NamedTuple):
    """The results of a method on the M test images."""

    scores: dict[str, np.ndarray]  # (M,) each, by the name of its row
    maps: list[np.ndarray] | None = None  # at image size
    flagged: np.ndarray | None = None  # (M,) bool, at α
    calibration: Calibration | None = None
    fit: float | None = None  # seconds
    judge: float | None = None  # seconds for the scores of all images
    draw: float | None = None  # further seconds for the maps
    size: int | None = None  # bytes of the model, with the backbone


def measure(method: str, subject: Subject, seed: int) -> dict[str, Any]:
    """One fit and one test by a method of `METHODS`.

    Returns:
        rows: one for each score and, in a set of several products, each product: set, method, numbers of images,
            image_auroc and image_average_precision; where there are masks and maps pixel_auroc,
            pixel_average_precision, aupro (up to .3) and aupro_05 (up to .05); where the method calibrates see
            `_alarms`; kinds, for every class of defects its number of images, its image AUROC, AUPRO and the share
            that is detected.
        Costs: fit_seconds; ms_image, for an image's score; ms_map, for its map on top; model_mb; peak_mib, of the
            process during this, images included (None where the system does not tell).
    """
    gc.collect()
    telling = _forget_peak()
    found = METHODS[method](subject, seed)
    peak = _peak_mib() if telling else None
    test = subject.parts.test
    products = [str(p) for p in test.conditions.get("product", ())]
    rows = []
    for label, scores in found.scores.items():
        for product in dict.fromkeys(products) or [None]:
            which = np.array([p == product for p in products]) if product else np.ones(len(test), dtype=bool)
            name = subject.parts.name if product is None else f"{product}, of {subject.parts.name}"
            row = {"set": name, "method": label, **_worth(subject.parts, which, scores, found.maps)}
            row |= _alarms(subject, which, product, found)
            rows.append(row | {"kinds": _kinds(subject.parts, which, scores, found)})

    def per_image(seconds: float | None) -> float | None:
        return None if seconds is None else 1000 * seconds / len(test)

    return {
        "rows": rows,
        "train": len(subject.parts.train),
        "fit_seconds": found.fit,
        "ms_image": per_image(found.judge),
        "ms_map": per_image(found.draw),
        "model_mb": None if found.size is None else found.size / MB,
        "peak_mib": peak,
        "threads": torch.get_num_threads(),
        "settings": subject.settings.model_dump(mode="json"),
    }


# Methods ------------------------------------------------------------------------------------------------------------


def _ours(subject: Subject, seed: int) -> Judged:
    return _product("ours", subject, seed, {})


def _split(subject: Subject, seed: int) -> Judged:
    """Ours with a fifth of the normal images set aside to calibrate."""
    return _product("ours, split", subject, seed, SPLIT)


def _product(label: str, subject: Subject, seed: int, over: Mapping[str, Any]) -> Judged:
    given = subject.settings.model_dump(exclude_unset=True, mode="json")
    settings = parse_settings(merged(given, over, {"random_state": seed}))
    started = time.perf_counter()
    detector = Detector.from_settings(settings).fit(subject.parts.train)
    fitted = time.perf_counter()
    table = detector.detect(subject.parts.test)
    judged = time.perf_counter()
    maps = detector.anomaly_maps(subject.parts.test)
    drawn = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        saved = detector.save(Path(folder) / "model")
        size = sum(file.stat().st_size for file in saved.rglob("*") if file.is_file())
    scores, flagged = table["anomaly_score"].to_numpy(float), table["is_anomalous"].to_numpy(bool)
    times = fitted - started, judged - fitted, drawn - judged
    return Judged({label: scores}, maps, flagged, detector.pipeline_.calibration, *times, size)


def _padim(subject: Subject, seed: int) -> Judged:
    return _baseline("PaDiM", Padim, subject, seed)


def _neighbours(subject: Subject, seed: int) -> Judged:
    return _baseline("coreset kNN 10 %", lambda: CoresetNeighbours(seed=seed), subject, seed)


def _gaussian(subject: Subject, seed: int) -> Judged:
    return _baseline("one Gaussian", OneGaussian, subject, seed)


def _subspace(subject: Subject, seed: int) -> Judged:
    return _baseline("subspace residual", SubspaceResidual, subject, seed)


def _baseline(label: str, make: Callable[[], FeatureBaseline], subject: Subject, seed: int) -> Judged:
    """Scores, maps and costs of a fit to all normal images; decisions are those of `calibrated`."""
    grids = subject.features
    baseline = make()
    started = time.perf_counter()
    baseline.fit(grids.train)
    fitted = time.perf_counter()
    scores, coarse = baseline.score(grids.test)
    judged = time.perf_counter()
    height, width = (int(side) for side in subject.parts.test.shapes()[0][:2])
    maps = list(smooth(coarse, (height, width)))
    drawn = time.perf_counter()
    size = grids.backbone + _bytes(value for value in vars(baseline).values() if isinstance(value, Tensor))
    times = grids.train_seconds + fitted - started, grids.test_seconds + judged - fitted, drawn - judged
    aside = split_normals(len(grids.train), seed=seed, select=0, calibrate=SET_ASIDE)["calibrate"]
    alpha = subject.settings.alpha
    again, calibration = calibrated(make(), grids.train, aside, alpha)
    flagged = calibration.p_values(again.score(grids.test)[0]) <= alpha
    return Judged({label: scores}, maps, flagged, calibration, *times, size)


def calibrated(
    baseline: FeatureBaseline, features: np.ndarray, aside: np.ndarray, alpha: float
) -> tuple[FeatureBaseline, Calibration]:
    """Split-conformal: a baseline fitted to the images that are not set `aside` (K,), which calibrate."""
    fitted = baseline.fit(np.delete(features, aside, axis=0))
    return fitted, Calibration.fit(fitted.score(features[aside])[0], alpha=alpha)


def _contrast(subject: Subject, seed: int) -> Judged:
    return Judged(contrast_scores(subject.parts.train, subject.parts.test))


METHODS: Mapping[str, Callable[[Subject, int], Judged]] = {
    "ours": _ours,
    "split": _split,
    "padim": _padim,
    "knn": _neighbours,
    "gaussian": _gaussian,
    "subspace": _subspace,
    "contrast": _contrast,
}


# What it is worth ---------------------------------------------------------------------------------------------------


def _worth(
    parts: InspectionSet, which: np.ndarray, scores: np.ndarray, maps: list[np.ndarray] | None
) -> dict[str, Any]:
    """Metrics over the test images `which` (M,) bool."""
    labels = parts.labels
    good, bad = which & (labels == 0), which & (labels == 1)
    found = {
        "good": int(good.sum()),
        "anomalous": int(bad.sum()),
        "image_auroc": roc_auc(labels[which], scores[which]),
        "image_average_precision": average_precision(labels[which], scores[which]),
    }
    marked = which & parts.in_pixel_metrics
    if maps is not None and (marked & bad).any():
        chosen = _marked(parts, marked, maps)
        found |= pixel_metrics(*chosen) | {"aupro_05": aupro(*chosen, STRICT)}
    return found


def _kinds(parts: InspectionSet, which: np.ndarray, scores: np.ndarray, found: Judged) -> dict[str, dict[str, Any]]:
    """What of each class of defects is found, beside all normal images."""
    good, kinds = which & (parts.labels == 0), {}
    for kind in dict.fromkeys(parts.classes[which & (parts.labels == 1)].tolist()):
        own = which & (parts.classes == kind) & (parts.labels == 1)
        row: dict[str, Any] = {"n": int(own.sum())}
        row["image_auroc"] = roc_auc(parts.labels[good | own], scores[good | own])
        if found.maps is not None and (own & parts.in_pixel_metrics).any():
            row["aupro"] = aupro(*_marked(parts, (good | own) & parts.in_pixel_metrics, found.maps))
        if found.flagged is not None:
            row["detected"] = float(found.flagged[own].mean())
        kinds[kind] = row
    return kinds


def _marked(
    parts: InspectionSet, which: np.ndarray, maps: list[np.ndarray]
) -> tuple[list[np.ndarray], list[Mask | None]]:
    """Maps and masks of the images `which` (M,) bool."""
    chosen = np.flatnonzero(which)
    return [np.asarray(maps[i], dtype=np.float32) for i in chosen], [parts.masks[i] for i in chosen]


def _alarms(subject: Subject, which: np.ndarray, product: str | None, found: Judged) -> dict[str, Any]:
    """The decisions at α.

    Returns:
        alpha; f1; detected; false_alarms, with its Clopper–Pearson interval over the choice of test images, rate_low
        and rate_high; calibration_normals; alarms_low and alarms_high, where the rate of normal images lies 19 times
        out of 20 (`false_alarm_interval`). Empty for a method that does not decide.
    """
    if found.flagged is None or found.calibration is None:
        return {}
    alpha, labels = subject.settings.alpha, subject.parts.labels
    n, own = len(found.calibration), f"product={product}"
    if own in found.calibration.stratum_names:
        stratum = found.calibration.stratum_names.index(own)
        n = int(found.calibration.counts[stratum]) if found.calibration.own(alpha)[stratum] else n
    low, high = false_alarm_interval(n, alpha)
    good, bad = (found.flagged[which & (labels == label)] for label in (0, 1))
    rate = binomtest(int(good.sum()), len(good)).proportion_ci()
    return {
        "alpha": alpha,
        "f1": float(2 * bad.sum() / (bad.sum() + good.sum() + len(bad))),
        "false_alarms": float(good.mean()),
        "rate_low": float(rate.low),
        "rate_high": float(rate.high),
        "detected": float(bad.mean()),
        "calibration_normals": n,
        "alarms_low": low,
        "alarms_high": high,
    }


# What it costs ------------------------------------------------------------------------------------------------------


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _forget_peak() -> bool:
    """Reset the peak of resident memory to the present value; returns whether the system supports it."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return _peak_mib() is not None


def _peak_mib() -> float | None:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith(PEAK)), None)
