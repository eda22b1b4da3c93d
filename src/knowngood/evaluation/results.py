"""Verdicts on many images as columns: what figures, conditions and reports are computed from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from knowngood.calibration import minimum_normals
from knowngood.config import counted
from knowngood.config.words import for_caller
from knowngood.errors import DataError

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ("id", "anomaly_score", "p_value", "is_anomalous")
INFERRED = " (inferred)"  # what the detector writes behind a condition that was not given
WRONG = "wrong for "  # how the verdict on an image begins that does not fit its stated condition


@dataclass(kw_only=True)
class Results:
    """The table of `Detector.detect`, the false-alarm rate of its verdicts, and the calibration behind them.

    Args:
        table: one row an image: `id`, `anomaly_score` (NaN: could not be read, so no verdict), `p_value`,
            `is_anomalous`; optional `label` (0 normal, 1 anomalous, NaN unknown), `condition` (text; one that ends in
            " (inferred)" was not given) and `class` (text; what an image is, for the reader: the model need not have
            seen it).
        alpha: the requested false-alarm rate, in (0, 1).
        calibration: all optional. `strata`: a list of {`name`, `n`: calibration images, `own`: has a guarantee of its
            own, `threshold`: of the raw score}, one a Mondrian group; `pooled_n`: calibration images that groups
            without a guarantee are compared with; `method`: "split" or "cross"; `threshold`: the one number that
            `anomaly_score` is compared with, where scores are shifted to a common scale; `level`: of each test, where
            it is not alpha.
        normal_name, anomalous_name: names of the labels 0 and 1.
        score_unit: of the anomaly score, for example "nats".

    Raises:
        DataError: a column is missing, the table is empty, or `alpha` is no rate.
    """

    table: pd.DataFrame
    alpha: float
    calibration: Mapping[str, Any] = field(default_factory=dict)
    normal_name: str = "normal"
    anomalous_name: str = "anomalous"
    score_unit: str = ""

    def __post_init__(self) -> None:
        absent = [name for name in COLUMNS if name not in self.table.columns]
        if absent:
            raise DataError(f"report: the table has no column {absent}; it needs {list(COLUMNS)}")
        if len(self.table) == 0:
            raise DataError("report: the table is empty; score at least one image")
        if not 0 < self.alpha < 1:
            raise DataError(f"report: alpha = {self.alpha} is no false-alarm rate; expected a number between 0 and 1")

    @property
    def scores(self) -> np.ndarray:
        """(N,) float64; NaN where an image could not be read."""
        return self.table["anomaly_score"].to_numpy(dtype=float, na_value=float("nan"))

    @property
    def p_values(self) -> np.ndarray:
        """(N,) float64."""
        return self.table["p_value"].to_numpy(dtype=float, na_value=float("nan"))

    @property
    def flagged(self) -> np.ndarray:
        """(N,) bool; a missing verdict is not a flag."""
        return self.table["is_anomalous"].astype("boolean").fillna(False).to_numpy(dtype=bool)

    @property
    def scored(self) -> np.ndarray:
        """(N,) bool: the image has a score."""
        return ~np.isnan(self.scores)

    @property
    def labels(self) -> np.ndarray:
        """(N,) float64: 0, 1 or NaN; NaN too where the image has no score, so that it counts nowhere."""
        if "label" not in self.table.columns:
            return np.full(len(self.table), np.nan)
        return np.where(self.scored, self.table["label"].to_numpy(dtype=float, na_value=float("nan")), np.nan)

    @property
    def labelled(self) -> bool:
        """Some label is known."""
        return bool(np.isfinite(self.labels).any())

    @property
    def both_labels(self) -> bool:
        """Normal and anomalous images are known."""
        return bool((self.labels == 0).any() and (self.labels == 1).any())

    @property
    def largest(self) -> int | None:
        """Calibration images of the largest set that images are compared with; None if no group is known."""
        sizes = [int(stratum["n"]) for stratum in self.calibration.get("strata", ())]
        return max([*sizes, int(self.calibration.get("pooled_n") or 0)]) if sizes else None

    @property
    def attainable(self) -> bool:
        """The false-alarm rate can be guaranteed, as far as is known."""
        return self.largest is None or self.largest >= self.needed

    @property
    def needed(self) -> int:
        """Calibration images that the false-alarm rate needs."""
        return minimum_normals(self.calibration.get("level", self.alpha))

    @property
    def wrong(self) -> np.ndarray:
        """(N,) bool: flagged, since it does not fit its stated condition."""
        return self.flagged & np.array([text.startswith(WRONG) for text in self.texts("verdict")], dtype=bool)

    @property
    def groups(self) -> tuple[str, np.ndarray] | None:
        """The column that groups images, "class" or "condition", and the group (N,) of each; None for one group."""
        for column in ("class", "condition"):
            names = self.texts(column)
            if len(set(names[self.scored])) > 1:
                return column, names
        return None

    def texts(self, column: str) -> np.ndarray:
        """(N,) str of a column; "" where it is missing."""
        if column not in self.table.columns:
            return np.full(len(self.table), "", dtype=object)
        values = self.table[column]
        return values.astype(object).where(values.notna(), "").map(str).to_numpy(dtype=object)

    def strata(self) -> np.ndarray:
        """(N,) name of each image's Mondrian group; a single one named after no condition is everyone's."""
        known = [str(stratum["name"]) for stratum in self.calibration.get("strata", ())]
        names = self.texts("condition")
        if len(known) == 1 and known[0] not in {name.removesuffix(INFERRED) for name in names}:
            return np.full(len(names), known[0], dtype=object)
        return names

    def thresholds(self) -> list[float]:
        """Thresholds of `scores`: one, or one a Mondrian group; none where they contradict the verdicts."""
        if self.calibration.get("threshold") is not None:
            limit = np.full(len(self.table), float(self.calibration["threshold"]))
        else:
            known = {str(s["name"]): s.get("threshold") for s in self.calibration.get("strata", ())}
            limit = np.array([known.get(name.removesuffix(INFERRED)) for name in self.strata()], float)
        agree = ((self.scores > limit) == self.flagged)[self.scored & ~np.isnan(limit)]
        return sorted(set(limit[np.isfinite(limit)].tolist())) if agree.all() else []


def joint_p_values(table: pd.DataFrame) -> np.ndarray:
    """(N,) the p-values that verdicts are made of: twice the smaller of both where stated conditions are checked."""
    p = table["p_value"].to_numpy(dtype=float, na_value=float("nan"))
    if "p_condition" not in table.columns:
        return p
    return np.fmin(1.0, 2 * np.fmin(p, table["p_condition"].to_numpy(dtype=float, na_value=float("nan"))))


def check_both(labels: np.ndarray, name: str) -> None:
    """Raise DataError, which names the images, unless there are normal and anomalous labels among these (N,)."""
    normals, anomalies = int((labels == 0).sum()), int((labels == 1).sum())
    if not normals or not anomalies:
        how = for_caller("images.select", "--normal, --anomalous or --holdout")
        raise DataError(
            f"{name}: {counted(normals, 'image')} labelled normal and {anomalies} labelled anomalous; this "
            f"needs both. Choose them with {how}, or score without labels."
        )


def of_training(fitted: int, normals: int) -> str:
    """That so many of the normal images that are measured were trained on, and what follows."""
    return (
        f"{fitted:,} of the {counted(normals, 'normal image')} {'was' if fitted == 1 else 'were'} trained on: such "
        "images score lower than new ones, so the model is less good than these numbers. Measure it on images that it "
        "was not trained on"
    )
