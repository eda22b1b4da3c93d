"""How right a fitted detector is on labelled images, and what a report of it shows."""

from __future__ import annotations

import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from knowngood.errors import DataError
from knowngood.metrics import average_precision, bootstrap_interval, fpr_at_tpr, roc_auc

if TYPE_CHECKING:
    from pandas import DataFrame

    from knowngood.data import ImageSet
    from knowngood.detector.estimator import Detector
    from knowngood.detector.rows import Unknown
    from knowngood.detector.watching import Each
    from knowngood.evaluation.report import Inside, ReportInputs

GALLERY = 12


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` found. `table` is that of `Detector.detect` with labels; `metrics` are plain numbers.

    `seconds` is what `Detector.detect` took.
    """

    images: ImageSet
    table: DataFrame
    metrics: dict[str, Any]
    alpha: float
    unknown: Unknown | None
    seconds: float


def evaluate(
    detector: Detector,
    images: ImageSet,
    *,
    alpha: float | None = None,
    unknown: Unknown | None = None,
    explain: bool = False,
    each: Sequence[Each] = (),
) -> Evaluation:
    """Score labelled images and compare with the labels.

    Metrics: auroc with its 95 % bootstrap interval, average_precision, fpr_at_95_tpr (all from the continuous anomaly
    score), false_alarm_rate and detection_rate (from verdicts at `alpha`), and the counts normals, anomalies and
    unreadable. Images without a label are scored and left out of the metrics. `explain` and `each` are as for
    `Detector.detect`.

    Raises:
        DataError: there are not both good and anomalous labels.
    """
    labels = images.labels
    good, bad = int((labels == 0).sum()), int((labels == 1).sum())
    if not good or not bad:
        raise DataError(
            f"{images.name}: {good} images labelled good and {bad} labelled anomalous; an evaluation needs both. "
            "Choose them with --normal, --anomalous or --holdout, in Python images.select, or score without labels."
        )
    started = time.perf_counter()
    table = detector.detect(images, alpha=alpha, unknown=unknown, explain=explain, each=each)
    seconds = time.perf_counter() - started
    labels = np.append(labels, np.full(len(table) - len(images), np.nan))  # files set aside when opening come last
    scores = table["anomaly_score"].to_numpy(float)
    read = ~np.isnan(scores)
    counted = read & ~np.isnan(labels)
    y, s = labels[counted].astype(int), scores[counted]
    flagged = table["is_anomalous"].astype("boolean").fillna(False).to_numpy(bool)
    metrics = {
        "auroc": roc_auc(y, s),
        "auroc_interval": list(bootstrap_interval(y, s)),
        "average_precision": average_precision(y, s),
        "fpr_at_95_tpr": fpr_at_tpr(y, s),
        "false_alarm_rate": float(flagged[read & (labels == 0)].mean()),
        "detection_rate": float(flagged[read & (labels == 1)].mean()),
        "normals": good,
        "anomalies": bad,
        "unreadable": int((~read).sum()),
    }
    return Evaluation(images, table, metrics, alpha or detector.pipeline_.settings.alpha, unknown, seconds)


def report_inputs(
    detector: Detector,
    found: Evaluation,
    *,
    title: str,
    command: str,
    normal_name: str = "good",
    anomalous_name: str = "anomalous",
    classes: np.ndarray | None = None,
    pictures: bool = True,
) -> ReportInputs:
    """All that a report of this evaluation shows.

    `classes` (N,) says what each image is, for the reader alone. Without `pictures` the gallery and the look into the
    model are left out, for whoever wants the numbers only.
    """
    from knowngood.evaluation.report import ReportInputs
    from knowngood.evaluation.report.inputs import most_and_least

    about = detector.about_
    scores = found.table["anomaly_score"].to_numpy(float)
    readable = np.flatnonzero(~np.isnan(scores))
    most, least = (readable[part] for part in most_and_least(scores[readable], GALLERY))
    table = found.table
    if classes is not None:
        named = [None if value is None or value != value else str(value) for value in classes.tolist()]
        shown = named + [None] * (len(table) - len(named))
        table = table.assign(**{"class": np.array(shown, dtype=object)})
    return ReportInputs(
        table=table,
        alpha=found.alpha,
        title=title,
        command=command,
        settings=detector.pipeline_.settings.model_dump(mode="json"),
        normal_name=normal_name,
        anomalous_name=anomalous_name,
        score_unit="nats" if detector.pipeline_.score.is_likelihood else "",
        most=_triptychs(detector, found, most) if pictures else (),
        least=_triptychs(detector, found, least) if pictures else (),
        inside=_inside(detector, found, readable) if pictures else None,
        history=detector.training_.get("history", ()),
        best_step=about["training"]["best_step"],
        audit=detector.training_.get("audit", ()),
        environment=_environment(about),
        calibration=_calibration(detector, found),
        metrics=found.metrics,
    )


def _triptychs(detector: Detector, found: Evaluation, index: np.ndarray) -> list[Any]:
    from knowngood.evaluation.report import Triptych
    from knowngood.representations import Pixels

    if not len(index):
        return []
    chosen = found.images[index]
    if not isinstance(detector.pipeline_.representation, Pixels):
        return _mapped(detector, found, index)
    seen, made = detector.pipeline_.reconstruct(detector._items(chosen, None), unknown=found.unknown)
    pairs = zip(np.moveaxis(seen, 1, -1), np.moveaxis(made, 1, -1), chosen.ids, strict=True)
    return [Triptych(image, reconstruction, id=str(name)) for image, reconstruction, name in pairs]


def _mapped(detector: Detector, found: Evaluation, index: np.ndarray) -> list[Any]:
    """Images with their maps; none if the score has none."""
    from knowngood.evaluation.figures.explanation import shown
    from knowngood.evaluation.inspected import PICTURE, thinned
    from knowngood.evaluation.report import Mapped

    if not detector.pipeline_.score.has_map:
        return []
    cards = []
    for i in index:
        one = found.images[[i]]
        values = detector.anomaly_maps(one, unknown=found.unknown)[0]
        image = thinned(shown(one.read(0)), PICTURE)
        cards.append(Mapped(image, thinned(values, PICTURE), id=str(one.ids[0])))
    return cards


def _inside(detector: Detector, found: Evaluation, readable: np.ndarray) -> Inside | None:
    from knowngood.evaluation.drawing.inside import inside
    from knowngood.representations import Table

    if isinstance(detector.pipeline_.representation, Table) or not len(readable):
        return None
    return inside(detector, found.images, readable, found.unknown)


def _calibration(detector: Detector, found: Evaluation) -> dict[str, Any]:
    pipeline, alpha = detector.pipeline_, found.alpha
    calibration, hidden = pipeline.calibration, pipeline.hidden
    if calibration is None:
        return {}
    # Anomaly scores are shifted so that one threshold, that of the fit's α, serves all conditions.
    limit = {"threshold": pipeline.limit} if alpha == pipeline.settings.alpha else {}
    if hidden is not None and not any(column.name in found.images.conditions for column in pipeline.schema.columns):
        stratum = {"name": "condition inferred", "n": len(hidden), "own": bool(hidden.own(alpha)[0]), "threshold": None}
        return {"strata": [stratum], "pooled_n": len(hidden), **limit}
    strata = [
        {
            "name": row["condition"],
            "n": row["normals"],
            "own": row["false_alarm_low"] is not None,
            "threshold": row["threshold"],
        }
        for row in calibration.summary(alpha)
    ]
    return {"strata": strata, "pooled_n": len(calibration), "left_out": pipeline.left_out, **limit}


def _environment(about: Mapping[str, Any]) -> dict[str, Any]:
    data = about["data"]
    return {
        **about["versions"],
        "machine": platform.machine(),
        "threads": about["threads"],
        "seed": about["seed"],
        "data": f"{data['name']}{' (' + data['variant'] + ')' if data.get('variant') else ''}",
        "data fingerprint": data["fingerprint"],
        "normals: fit / select / calibrate": f"{data['fit']} / {data['select']} / {data['calibrate']}",
        "fit, seconds": about["seconds"],
    }
