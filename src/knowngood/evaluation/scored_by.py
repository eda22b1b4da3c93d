"""Which model scored a table of results: by the mark in it, or by whether its p-values are those of the model."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd

from knowngood.calibration.conformal import TIE
from knowngood.detector.versions import MARK, fingerprint, in_use, versions
from knowngood.evaluation.score_stream import OFF_GRID, score_stream

if TYPE_CHECKING:
    from knowngood.calibration import Calibration
    from knowngood.detector.pipeline import Pipeline

_FINGERPRINT = re.compile(r"[0-9a-f]{16}")
MARGIN = 4 * TIE  # of a score's size: what rounding of scores may change


class ScoredBy(NamedTuple):
    """Whether a model scored a table, None if that cannot be known, and why not in words."""

    same: bool | None
    why: str


def marks(table: pd.DataFrame) -> list[str]:
    """The fingerprints of the models that scored a table, as far as it says them."""
    said = table[MARK].dropna().tolist() if MARK in table else [table.attrs.get(MARK)]
    return [mark for mark in dict.fromkeys(said) if isinstance(mark, str) and _FINGERPRINT.fullmatch(mark)]


def scored_by(table: pd.DataFrame, model: Path, pipeline: Pipeline) -> ScoredBy:
    """Whether the version in use of this model scored the table.

    Where the table has no mark, its p-values are compared with those that the calibration gives to its scores, in
    groups that the fit calibrated. Another model or calibration gives others to most of them.
    """
    found, own = marks(table), fingerprint(in_use(model))
    others = [mark for mark in found if mark != own]
    if not found:
        return _by_p_values(table, pipeline)
    if not others:
        return ScoredBy(True, "")
    known = {fingerprint(version.folder): version.number for version in versions(model)}
    if others[0] in known:
        number = known[others[0]]
        back = f"or take that into use again: knowngood rollback {shlex.quote(str(model))} --to {number}"
        return ScoredBy(False, f"version {number} of this model scored it, and version {known[own]} is in use; {back}")
    return ScoredBy(False, f"another model ({others[0]}) scored it; this one is {own}")


def _by_p_values(table: pd.DataFrame, pipeline: Pipeline) -> ScoredBy:
    unknown = ScoredBy(None, "it does not say which model scored it, and its p-values cannot be compared")
    calibration = pipeline.calibration
    if calibration is None or not {"anomaly_score", "p_value"} <= set(table.columns):
        return unknown
    stream = score_stream([table.dropna(subset=["p_value"])], pipeline.schema, [one.name for one in pipeline.added])
    if stream.p_values is None:
        return unknown
    place = {name: stratum for stratum, name in enumerate(calibration.stratum_names)}
    stratum = np.array([place.get(name, -1) for name in stream.groups], dtype=np.int64)
    at = np.flatnonzero(stratum >= 0)
    if not len(at):
        return unknown
    off = _off(calibration, stream.scores[at], stream.p_values[at], stratum[at])
    if 2 * off.sum() <= len(at):
        return ScoredBy(True, "")
    first = at[off.argmax()]
    name = f" ({stream.ids[first]})" if stream.ids else ""
    return ScoredBy(
        False,
        f"{off.sum():,} of {len(at):,} p-values are not those that this model gives to their scores, the first "
        f"{stream.p_values[first]:.4g}{name}: another model, or another calibration, scored it",
    )


def _off(calibration: Calibration, scores: np.ndarray, p: np.ndarray, stratum: np.ndarray) -> np.ndarray:
    """(m,) bool: the p-value is not that of the score, neither in its stratum nor, as by another α, in the pool."""
    raw = scores + calibration.offsets[stratum]
    margin = MARGIN * np.maximum(np.abs(raw), np.median(np.abs(calibration.scores)))
    off = np.ones(len(p), dtype=bool)
    for codes in (stratum, np.full_like(stratum, -1)):
        low, high = calibration.p_values(raw + margin, codes), calibration.p_values(raw - margin, codes)
        step = OFF_GRID / (len(calibration) + 1)
        off &= (p < low - step) | (p > high + step)
    return off
