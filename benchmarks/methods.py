"""Measures a method on a cell: a detector with its settings, or a baseline. Both give the same metrics."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.baselines import BASELINES, QUICKEST
from benchmarks.protocols import Cell, CellImages
from benchmarks.settings import merged
from knowngood.calibration import Calibration, false_alarm_interval, split_normals
from knowngood.config import ImageOptions, PixelOptions, Settings, nearest, parse_settings
from knowngood.data import ImageSet
from knowngood.errors import SettingsError
from knowngood.metrics import auroc_interval, average_precision, fpr_at_tpr, roc_auc


@dataclass(frozen=True)
class Method:
    """A way to score images, by name.

    settings: of the detector; of a baseline only those that shape pixels and `alpha` matter.
    baseline: a name of `BASELINES`, or None for the detector.
    command: how to reproduce it, for the report.
    extra: 'module:function' of what else is measured on a fitted detector, or None. The function gets the detector,
        the Evaluation and the CellImages, and returns plain data.
    """

    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    baseline: str | None = None
    command: str = "python -m benchmarks"
    extra: str | None = None

    def __post_init__(self) -> None:
        if self.baseline is not None and self.baseline not in BASELINES:
            raise SettingsError(f"unknown baseline '{self.baseline}'{nearest(self.baseline, list(BASELINES))}")

    def on(self, cell: Cell) -> Settings:
        """All settings: the method's, those that the protocol fixes, and the cell's seed."""
        return parse_settings(merged(self.settings, cell.settings, {"random_state": cell.seed}))

    def to_record(self, cell: Cell) -> dict[str, Any]:
        """Plain data that is equal for two measurements if they are the same."""
        return {"baseline": self.baseline, "extra": self.extra, "settings": self.on(cell).model_dump(mode="json")}


def baselines(settings: Mapping[str, Any] | None = None, names: tuple[str, ...] = QUICKEST) -> list[Method]:
    """Baselines as methods, on pixels prepared by `settings`."""
    return [Method(name, settings or {}, baseline=name) for name in names]


def measure(
    method: Method, cell: Cell, parts: CellImages, *, report: Path | None = None, progress: bool = True
) -> dict[str, Any]:
    """One fit and one test.

    Args:
        report: where to write a detector's report.
        progress: show how training goes, where stderr is a terminal.

    Returns:
        Plain data: metrics (auroc with its interval over test images, average_precision, fpr_at_95_tpr,
        false_alarm_rate and detection_rate at alpha, counts), auroc_of_anomalies (normal test images against each
        anomalous class separately), alpha, threshold, calibration_normals, expected_alarms (where the false-alarm rate
        of that many exchangeable calibration normals lies, 95 %), fit_seconds (training and calibration),
        judge_seconds (from pixels to verdicts) and ms_image (the same for one image), settings; and for detectors
        training_seconds (in steps alone), `fit`: what `Detector.about_` reports of training, and `extra`, if the method
        asks for more. A baseline does not learn from known anomalies.
    """
    if method.baseline is not None:
        return _measure_baseline(method, cell, parts)
    return _measure_detector(method, cell, parts, report, progress)


def _measure_detector(
    method: Method, cell: Cell, parts: CellImages, report: Path | None, progress: bool
) -> dict[str, Any]:
    from knowngood.detector.decide import limit
    from knowngood.detector.estimator import Detector
    from knowngood.evaluation.evaluate import evaluate

    settings = method.on(cell)
    started = time.perf_counter()
    detector = Detector.from_settings(settings).fit(parts.train, calibration_set=parts.calibrate, progress=progress)
    fitted = time.perf_counter()
    found = evaluate(detector, parts.test, unknown="infer")
    y = parts.test.labels
    scores = found.table["anomaly_score"].to_numpy(float)[: len(y)]
    by_part = {
        name: roc_auc(y, found.table[name].to_numpy(float)) for name in found.table.columns if name.startswith("elbo_")
    }
    calibration = detector.pipeline_.calibration
    assert calibration is not None
    if report is not None:
        from knowngood.evaluation.report import report_inputs, write_report

        report.parent.mkdir(parents=True, exist_ok=True)
        title = f"{cell.dataset}: {cell.normal} is normal, {cell.anomalous} anomalous ({method.name}, {cell.form} form)"
        inputs = report_inputs(
            detector,
            found,
            title=title,
            command=method.command,
            normal_name=cell.normal,
            anomalous_name=cell.anomalous,
        )
        write_report(report, inputs)
    return {
        "metrics": found.metrics,
        "auroc_of_parts": by_part,
        "auroc_of_anomalies": _by_anomaly(scores, parts),
        **_promise(settings, limit(detector.pipeline_), len(calibration)),
        "fit_seconds": fitted - started,
        "training_seconds": _in_steps(detector.about_),
        **_judging(found.seconds, parts),
        **({} if method.extra is None else {"extra": _function(method.extra)(detector, found, parts)}),
        "fit": {**detector.about_["training"], "data": detector.about_["data"], "threads": detector.about_["threads"]},
        "settings": settings.model_dump(mode="json"),
    }


def _by_anomaly(scores: np.ndarray, parts: CellImages) -> dict[str, float]:
    """AUROC of scores (M,) of the normal test images against those of each anomalous class; NaN is not used."""
    y, read = parts.test.labels, ~np.isnan(scores)
    found = {}
    for name in sorted(set(parts.test_classes[read & (y == 1)].tolist())):
        these = read & ((y == 0) | (parts.test_classes == name))
        found[str(name)] = roc_auc(y[these], scores[these])
    return found


def _judging(seconds: float, parts: CellImages) -> dict[str, float]:
    return {"judge_seconds": seconds, "ms_image": 1000 * seconds / len(parts.test)}


def _in_steps(about: Mapping[str, Any]) -> float | None:
    """Seconds spent in training steps, without evaluations, calibration and the warm-up of the first step."""
    rate = about["training"].get("images_per_second")
    return about["training"]["epochs"] * about["data"]["fit"] / rate if rate else None


def _function(path: str) -> Callable[..., Any]:
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)


def _measure_baseline(method: Method, cell: Cell, parts: CellImages) -> dict[str, Any]:
    assert method.baseline is not None
    settings = method.on(cell)
    started = time.perf_counter()
    train, calibrate = parts.train[parts.train.labels == 0], parts.calibrate
    if calibrate is None:
        share = split_normals(len(train), select=0.0, calibrate=settings.calibration.fraction, seed=cell.seed)
        train, calibrate = train[share["fit"]], train[share["calibrate"]]
    rows = Rows(train, settings)
    classes = train.conditions[cell.conditions[0]] if cell.conditions else None
    known = None if classes is None else classes.astype(str)
    fitted = BASELINES[method.baseline](seed=cell.seed).fit(rows(train), known)
    calibration = Calibration.fit(fitted.score(rows(calibrate)), alpha=settings.alpha)
    ready = time.perf_counter()
    scores, y = fitted.score(rows(parts.test)), parts.test.labels
    judged = time.perf_counter()
    flagged = scores > calibration.pooled_threshold
    metrics = {
        "auroc": roc_auc(y, scores),
        "auroc_interval": list(auroc_interval(y, scores)),
        "average_precision": average_precision(y, scores),
        "fpr_at_95_tpr": fpr_at_tpr(y, scores),
        "false_alarm_rate": float(flagged[y == 0].mean()),
        "detection_rate": float(flagged[y == 1].mean()),
        "normals": int((y == 0).sum()),
        "anomalies": int((y == 1).sum()),
        "unreadable": 0,
    }
    return {
        "metrics": metrics,
        "auroc_of_anomalies": _by_anomaly(scores, parts),
        **_promise(settings, calibration.pooled_threshold, len(calibration)),
        "fit_seconds": ready - started,
        **_judging(judged - ready, parts),
        "settings": settings.model_dump(mode="json"),
    }


class Rows:
    """Images as rows (N, F) float32 of scaled pixels, prepared as a detector with these settings would."""

    def __init__(self, train: ImageSet, settings: Settings) -> None:
        from knowngood.representations import Pixels

        options = settings.representation
        self.pixels = Pixels.fit(train, options if isinstance(options, ImageOptions) else PixelOptions())

    def __call__(self, images: ImageSet) -> np.ndarray:
        import torch

        from knowngood.representations import prepare_all

        scaled = self.pixels.scale(torch.from_numpy(prepare_all(images, self.pixels)))
        return scaled.flatten(1).numpy()


def _promise(settings: Settings, threshold: float, normals: int) -> dict[str, Any]:
    low, high = false_alarm_interval(normals, settings.alpha)
    return {
        "alpha": settings.alpha,
        "threshold": threshold if np.isfinite(threshold) else None,
        "calibration_normals": normals,
        "expected_alarms": [low, high],
    }
