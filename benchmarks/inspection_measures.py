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
from torch import Tensor

from benchmarks.inspection_baselines import CoresetNeighbours, FeatureBaseline, Padim, contrast_scores, smooth
from benchmarks.inspection_data import InspectionSet
from benchmarks.settings import merged
from knowngood.calibration import Calibration, false_alarm_interval
from knowngood.config import FeatureOptions, Settings, parse_settings
from knowngood.detector.estimator import Detector
from knowngood.detector.scoring import READERS
from knowngood.metrics import roc_auc
from knowngood.metrics.pixels import pixel_metrics
from knowngood.representations import Features, cached_features

SPLIT: dict[str, Any] = {"calibration": {"method": "split"}}
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
        options = self.settings.representation
        assert isinstance(options, FeatureOptions)
        # As these methods are published: pictures as they lie, made square.
        options = options.model_copy(update={"align": "none", "image_size": options.image_size or SQUARE})
        features = Features.fit(self.parts.train, options)
        memory = self.settings.training.memory_gb
        train = cached_features(self.parts.train, features, memory_gb=memory, workers=READERS)
        fitted = time.perf_counter()
        test = cached_features(self.parts.test, features, memory_gb=memory, workers=READERS)
        size = _bytes(features.state().values())
        return Grids(train, test, fitted - started, time.perf_counter() - fitted, size)


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
            image_auroc; where there are masks and maps pixel_auroc, pixel_average_precision and aupro; where the
            method calibrates alpha, false_alarms, detected, calibration_normals, alarms_low and alarms_high;
            by_class, image AUROC of every defect class.
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
            rows.append(row | _alarms(subject, which, product, found))

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
    return _baseline("PaDiM", Padim(), subject)


def _neighbours(subject: Subject, seed: int) -> Judged:
    return _baseline("coreset kNN 10 %", CoresetNeighbours(seed=seed), subject)


def _baseline(label: str, baseline: FeatureBaseline, subject: Subject) -> Judged:
    grids = subject.features
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
    return Judged({label: scores}, maps, None, None, *times, size)


def _contrast(subject: Subject, seed: int) -> Judged:
    return Judged(contrast_scores(subject.parts.train, subject.parts.test))


METHODS: Mapping[str, Callable[[Subject, int], Judged]] = {
    "ours": _ours,
    "split": _split,
    "padim": _padim,
    "knn": _neighbours,
    "contrast": _contrast,
}


# What it is worth ---------------------------------------------------------------------------------------------------


def _worth(
    parts: InspectionSet, which: np.ndarray, scores: np.ndarray, maps: list[np.ndarray] | None
) -> dict[str, Any]:
    """Metrics over the test images `which` (M,) bool."""
    labels = parts.labels
    good, bad = which & (labels == 0), which & (labels == 1)

    def auroc(those: np.ndarray) -> float:
        chosen = good | those
        return roc_auc(labels[chosen], scores[chosen])

    kinds = dict.fromkeys(parts.classes[bad].tolist())
    found = {
        "good": int(good.sum()),
        "anomalous": int(bad.sum()),
        "image_auroc": auroc(bad),
        "by_class": {kind: auroc(bad & (parts.classes == kind)) for kind in kinds},
    }
    marked = np.flatnonzero(which & parts.in_pixel_metrics)
    masks = [parts.masks[i] for i in marked]
    if maps is not None and any(mask is not None and mask.any() for mask in masks):
        found |= pixel_metrics([np.asarray(maps[i], dtype=np.float32) for i in marked], masks)
    return found


def _alarms(subject: Subject, which: np.ndarray, product: str | None, found: Judged) -> dict[str, Any]:
    """Realised rates at α, and where that of normal images lies 19 times out of 20 (`false_alarm_interval`)."""
    if found.flagged is None or found.calibration is None:
        return {}
    alpha, labels = subject.settings.alpha, subject.parts.labels
    n, own = len(found.calibration), f"product={product}"
    if own in found.calibration.stratum_names:
        stratum = found.calibration.stratum_names.index(own)
        n = int(found.calibration.counts[stratum]) if found.calibration.own(alpha)[stratum] else n
    low, high = false_alarm_interval(n, alpha)
    return {
        "alpha": alpha,
        "false_alarms": float(found.flagged[which & (labels == 0)].mean()),
        "detected": float(found.flagged[which & (labels == 1)].mean()),
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
