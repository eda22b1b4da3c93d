"""What a report is made of. Only `table` and `alpha` are needed; a section without material is left out or says so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from knowngood.errors import DataError
from knowngood.evaluation.figures import Reconstructed
from knowngood.metrics import bootstrap_interval, roc_auc

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ("id", "anomaly_score", "p_value", "is_anomalous")


@dataclass(frozen=True)
class Triptych:
    """An image and its reconstruction, both (H, W) or (H, W, C) and on one scale of values (for example both 0..1).

    With `id`, the card shows that row of the table: score, p-value, verdict, label and condition. `caption` is added.
    """

    image: np.ndarray
    reconstruction: np.ndarray
    caption: str = ""
    id: str | None = None


@dataclass(frozen=True)
class Mapped:
    """An image (H, W) or (H, W, C) in 0…1 and its anomaly map (H, W), where there is no reconstruction to show.

    `id` and `caption` as of a `Triptych`. A gallery has one kind alone.
    """

    image: np.ndarray
    map: np.ndarray
    caption: str = ""
    id: str | None = None


@dataclass(frozen=True, kw_only=True)
class Inside:
    """What the model itself looks like, for a section of its own. All pictures are scaled to 0…1.

    Codes and KL there are always; a model of features makes no pictures, so it has no reconstructions and no draws.

    Args:
        codes: (M, D) posterior means of some images. coded: (M,) their rows in the table.
        kl: (D,) nats that each dimension carries, averaged over images that are not anomalous.
        relevance: (D,) from 0 to 1, where the method learns one.
        conditional: the model is told conditions.
        inputs: (R, H, W, C) some images. reconstructed: what the model makes of them. shown: (R,) their rows.
        draws: (K, S, H, W, C) draws from the prior, one row a condition; draw_names: of the conditions; draw_what:
            they are, for example "class".
    """

    codes: np.ndarray
    coded: np.ndarray
    kl: np.ndarray
    relevance: np.ndarray | None = None
    conditional: bool = False
    shown: np.ndarray | None = None
    inputs: np.ndarray | None = None
    reconstructed: Reconstructed | None = None
    draws: np.ndarray | None = None
    draw_names: Sequence[str] = ()
    draw_what: str = ""


@dataclass(kw_only=True)
class ReportInputs:
    """Everything `write_report` and `write_png` draw from.

    Args:
        table: one row an image: `id`, `anomaly_score` (NaN: could not be read, so not judged), `p_value`,
            `is_anomalous`; optional `label` (0 normal, 1 anomalous, NaN unknown), `condition` (text) and `stratum`
            (text; the calibration stratum, where its name is not the condition's), `class` (text; what an image is,
            for the reader: the model need not have been told). A condition that ends in " (inferred)" was not given
            but found.
        alpha: the requested false-alarm rate, in (0, 1).
        title: the heading, for example "digits, 9 held out".
        command: shell command that makes this report again.
        settings: nested plain values.
        normal_name, anomalous_name: what labels 0 and 1 are called.
        score_unit: of the anomaly score, for example "nats".
        most, least: the gallery, most and least anomalous first.
        inside: what the model itself looks like; None, as for a table, leaves that section out.
        history: rows with `step`, `split` and named losses and terms.
        best_step: the step whose weights were kept.
        audit: findings as records: `path_or_id`, `kind`, `reason`, `severity`.
        environment: versions, device, seed, fingerprint: name → value.
        calibration: all optional. `strata`: a list of {`name`, `n`: calibration normals, `own`: has its own promise,
            `threshold`: of the raw score}; `pooled_n`: calibration normals that strata without a promise are compared
            with; `left_out`: they were learned from, each left out in turn; `threshold`: the one number that
            `anomaly_score` is compared with, where scores are shifted to a common scale; `p_values`: of normals held
            out from training and calibration, for the calibration plot of a table without labels.
        metrics: `auroc`, `auroc_interval` (low, high), and any other named floats. Left empty, the AUROC and its
            interval are measured if there are labels of both kinds.
    """

    table: pd.DataFrame
    alpha: float
    title: str = "Anomaly report"
    command: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    normal_name: str = "normal"
    anomalous_name: str = "anomalous"
    score_unit: str = ""
    most: Sequence[Triptych | Mapped] = ()
    least: Sequence[Triptych | Mapped] = ()
    inside: Inside | None = None
    history: Sequence[Mapping[str, Any]] = ()
    best_step: int | None = None
    audit: Sequence[Mapping[str, Any]] = ()
    environment: Mapping[str, Any] = field(default_factory=dict)
    calibration: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        absent = [name for name in COLUMNS if name not in self.table.columns]
        if absent:
            raise DataError(f"report: the table has no column {absent}; it needs {list(COLUMNS)}")
        if len(self.table) == 0:
            raise DataError("report: the table is empty; score at least one image")
        if not 0 < self.alpha < 1:
            raise DataError(f"report: alpha = {self.alpha} is no false-alarm rate; expected a number between 0 and 1")
        if not self.metrics and (self.labels == 0).any() and (self.labels == 1).any():
            auroc = roc_auc(self.labels, self.scores)
            self.metrics = {"auroc": auroc, "auroc_interval": bootstrap_interval(self.labels, self.scores)}

    @property
    def scores(self) -> np.ndarray:
        """(N,) float64."""
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
    def judged(self) -> np.ndarray:
        """(N,) bool: the image has a score."""
        return ~np.isnan(self.scores)

    @property
    def labels(self) -> np.ndarray:
        """(N,) float64: 0, 1 or NaN; NaN too where the image was not judged, so that it counts nowhere."""
        if "label" not in self.table.columns:
            return np.full(len(self.table), np.nan)
        return np.where(self.judged, self.table["label"].to_numpy(dtype=float, na_value=float("nan")), np.nan)

    @property
    def labelled(self) -> bool:
        """Some label is known."""
        return bool(np.isfinite(self.labels).any())

    @property
    def groups(self) -> tuple[str, np.ndarray] | None:
        """What images are grouped by, and (N,) str; None where there are not at least two groups."""
        for column in ("class", "condition"):
            names = self.texts(column)
            if len(set(names[self.judged])) > 1:
                return column, names
        return None

    def texts(self, column: str) -> np.ndarray:
        """(N,) str of a column; "" where it is missing."""
        if column not in self.table.columns:
            return np.full(len(self.table), "", dtype=object)
        values = self.table[column]
        return values.astype(object).where(values.notna(), "").map(str).to_numpy(dtype=object)


def most_and_least(scores: np.ndarray, count: int = 12) -> tuple[np.ndarray, np.ndarray]:
    """Positions of the `count` highest scores, highest first, and of the `count` lowest, lowest first.

    No position comes twice, and none whose score is NaN.
    """
    scores = np.asarray(scores, float)
    order = np.argsort(-scores, kind="stable")[: int((~np.isnan(scores)).sum())]
    most = order[:count]
    return most, order[len(most) :][::-1][:count]
