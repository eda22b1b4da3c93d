"""Metrics of a fitted detector on labelled images."""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import dataclass, field
from heapq import heappush, heappushpop
from itertools import count
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from knowngood.evaluation.figures.pixels import reduced_map
from knowngood.evaluation.results import Results, check_both
from knowngood.metrics import auroc_interval, average_precision, fpr_at_tpr, roc_auc

if TYPE_CHECKING:
    from pandas import DataFrame

    from knowngood.calibration.map_scale import MapScale
    from knowngood.data import ImageSet
    from knowngood.data.conditions import Unknown
    from knowngood.detector.estimator import Detector

MOST, MAP = 200, 180  # anomaly maps kept, and pixels of their longer side


class SmallMap(NamedTuple):
    """A reduced anomaly map (h, w) of an image, and how it is coloured."""

    values: np.ndarray
    scale: MapScale


@dataclass(frozen=True)
class Evaluation:
    """Verdicts and metrics.

    Attributes:
        images: the images scored. table: that of `Detector.detect`, with labels. metrics: plain numbers.
        alpha: the false-alarm rate of the verdicts. unknown: how unknown conditions were handled.
        seconds: of scoring. maps: reduced anomaly maps of the most anomalous images by id, if they were asked for.
    """

    images: ImageSet
    table: DataFrame
    metrics: dict[str, Any]
    alpha: float
    unknown: Unknown | None
    seconds: float
    maps: dict[str, SmallMap] = field(default_factory=dict)


def evaluate(
    detector: Detector,
    images: ImageSet,
    *,
    alpha: float | None = None,
    unknown: Unknown | None = None,
    explain: bool = False,
    maps: bool = False,
) -> Evaluation:
    """Score labelled images and compare with the labels.

    Metrics: auroc with its 95 % interval, average_precision, fpr_at_95_tpr (all from the continuous anomaly
    score), false_alarm_rate and detection_rate (from verdicts at `alpha`), and the counts normals and anomalies, of the
    images that were read, unreadable, and fitted: of the normals, those that the detector was fitted to, which score
    lower than new ones (not looked for where images are fetched from a store). Images without a label are scored and
    excluded from the metrics. Where all
    normals are compared with the same calibration images also false_alarm_range, the 95 % interval that is expected of
    the false-alarm rate. Where stated conditions are checked, also auroc_mismatch, of the mismatch with them, and
    wrong, the count of images that are flagged for it.

    Args:
        explain: as for `Detector.detect`.
        maps: keep the anomaly maps of the most anomalous images, reduced, from the same pass.

    Raises:
        DataError: there are not both normal and anomalous labels.
    """
    labels = images.labels
    check_both(labels, images.name)
    started = time.perf_counter()
    kept: dict[str, SmallMap] = {}
    if maps:
        table, kept = _detect_with_maps(detector, images, alpha=alpha, unknown=unknown)
        if explain:
            table.attrs["explanations"] = detector.explain(images, unknown=unknown, alpha=alpha)
    else:
        table = detector.detect(images, alpha=alpha, unknown=unknown, explain=explain)
    seconds = time.perf_counter() - started
    alpha = detector.pipeline_.settings.alpha if alpha is None else alpha
    labels = np.append(labels, np.full(len(table) - len(images), np.nan))  # files set aside when opening come last
    scored = Results(table=table, alpha=alpha)
    scores, flagged, read = scored.scores, scored.flagged, scored.scored
    counted = read & ~np.isnan(labels)
    y, s = labels[counted].astype(int), scores[counted]
    check_both(y, f"{images.name}, without what cannot be read")
    metrics = {
        "auroc": roc_auc(y, s),
        "auroc_interval": list(auroc_interval(y, s)),
        "average_precision": average_precision(y, s),
        "fpr_at_95_tpr": fpr_at_tpr(y, s),
        "false_alarm_rate": float(flagged[read & (labels == 0)].mean()),
        "detection_rate": float(flagged[read & (labels == 1)].mean()),
        "normals": int((y == 0).sum()),
        "anomalies": int((y == 1).sum()),
        "unreadable": int((~read).sum()),
        "fitted": _fitted_to(detector, images[labels[: len(images)] == 0]),
    }
    if (expected := _expected_rates(detector, alpha, metrics["normals"])) is not None:
        metrics["false_alarm_range"] = list(expected)
    if "mismatch" in table:
        metrics |= _of_mismatch(table["mismatch"].to_numpy(float, na_value=np.nan), labels, int(scored.wrong.sum()))
    return Evaluation(images, table, metrics, alpha, unknown, seconds, kept)


def _fitted_to(detector: Detector, normals: ImageSet) -> int:
    """How many of these the detector was fitted to, by their content."""
    known = detector.pipeline_.fitted_to
    fetched = hasattr(normals.pixels, "pace")  # a second time, only for this
    return 0 if known is None or fetched else int(np.isin(normals.digests(), known).sum())


def _expected_rates(detector: Detector, alpha: float, normals: int) -> tuple[float, float] | None:
    """The 95 % interval of the false-alarm rate of so many new normal images; None where no one law holds for them.

    Of several Mondrian groups, and where stated conditions are checked, images are compared with different ones.
    """
    from knowngood.evaluation.conditions import expected_false_alarms

    pipeline = detector.pipeline_
    if pipeline.calibration is None or pipeline.checked or pipeline.added or len(pipeline.calibration.counts) > 1:
        return None
    low, high = expected_false_alarms(alpha, [len(pipeline.calibration)], [normals])
    return low / normals, high / normals


def _of_mismatch(mismatch: np.ndarray, labels: np.ndarray, wrong: int) -> dict[str, Any]:
    """How well the mismatch with the stated conditions ranks the labels (N,), if both are there."""
    some = ~np.isnan(mismatch) & ~np.isnan(labels)
    found: dict[str, Any] = {"wrong": wrong}
    if len(np.unique(labels[some])) == 2:
        found["auroc_mismatch"] = roc_auc(labels[some].astype(int), mismatch[some])
    return found


class TopMaps:
    """Reduced anomaly maps of the images that an inspection page shows: of the smallest p-values, then highest scores.

    Of equals the first ones are kept.
    """

    def __init__(self) -> None:
        self._kept: list[tuple[float, float, int, str, SmallMap]] = []  # a heap, the least anomalous first
        self._count = count()

    def add(self, name: str, p: float, score: float, values: np.ndarray, scale: MapScale) -> None:
        """The map (H, W) of the next image."""
        full = len(self._kept) == MOST
        if full and (-p, score) <= self._kept[0][:2]:
            return
        entry = (-p, score, -next(self._count), name, SmallMap(reduced_map(values, MAP), scale))
        (heappushpop if full else heappush)(self._kept, entry)

    @property
    def maps(self) -> dict[str, SmallMap]:
        """By the id of the image."""
        return {name: small for _, _, _, name, small in self._kept}


def _detect_with_maps(
    detector: Detector, images: ImageSet, *, alpha: float | None, unknown: Unknown | None
) -> tuple[DataFrame, dict[str, SmallMap]]:
    """The table of `Detector.detect` and the maps of `TopMaps`, in one pass in which one batch of maps is held."""
    import pandas as pd

    from knowngood.detector.decide import Decisions
    from knowngood.detector.remarks import with_remarks
    from knowngood.detector.results import with_rejected

    tables, decisions, top = [], [], TopMaps()
    for batch in detector.stream(images, unknown=unknown, alpha=alpha, maps=True):
        tables.append(batch.table)
        decisions.append(batch.decisions)
        ranks = batch.decisions.joint_p_values, batch.decisions.anomaly_score
        for name, p, score, values, scale in zip(batch.table["id"], *ranks, batch.maps, batch.scales, strict=True):
            if values is not None and scale is not None:
                top.add(str(name), float(p), float(score), values, scale)
    table = with_rejected(pd.concat(tables, ignore_index=True), images)
    return with_remarks(table, detector.pipeline_, images, Decisions.concat(decisions), alpha), top.maps


def results(
    detector: Detector, table: DataFrame, *, given: Collection[str] = (), alpha: float | None = None
) -> Results:
    """A table of `Detector.detect` with the calibration of the detector that made it.

    Args:
        given: condition columns that the detector was shown.
        alpha: the false-alarm rate of the verdicts; default that of the fit.
    """
    from knowngood.detector.decide import limit

    pipeline = detector.pipeline_
    alpha, level = pipeline.settings.alpha if alpha is None else alpha, pipeline.level(alpha)
    calibration, marginal = pipeline.calibration, pipeline.marginal_calibration
    unit = "nats" if pipeline.score.is_likelihood else ""
    if calibration is None:
        return Results(table=table, alpha=alpha, score_unit=unit)
    # Anomaly scores are shifted so that one threshold, that of the fit's α, serves all conditions.
    facts: dict[str, Any] = {"threshold": limit(pipeline)} if alpha == pipeline.settings.alpha else {}
    if marginal is not None and not any(column.name in given for column in pipeline.schema.columns):
        own = bool(marginal.own(alpha)[0])
        stratum = {"name": "condition inferred", "n": len(marginal), "own": own, "threshold": None}
        facts |= {"strata": [stratum], "pooled_n": len(marginal)}
        return Results(table=table, alpha=alpha, calibration=facts, score_unit=unit)
    facts["strata"] = [
        {
            "name": row["condition"],
            "n": row["normals"],
            "own": row["false_alarm_low"] is not None,
            "threshold": row["threshold"],
        }
        for row in [*calibration.summary(level), *(group.summary(level) for group in pipeline.added)]
    ]
    facts |= {"level": level} if level != alpha else {}
    facts |= {"pooled_n": len(calibration), "method": pipeline.calibrated_by}
    return Results(table=table, alpha=alpha, calibration=facts, score_unit=unit)
