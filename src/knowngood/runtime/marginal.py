"""The decision on an item under one condition, or marginalised over those that it may have: as `detector.decide`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from knowngood.calibration.conformal import on_scale, p_values, surprise

RAW = "raw_score"  # the output before calibration, of models that average over conditions


def decided(
    values: Mapping[str, np.ndarray],
    log_weight: np.ndarray,
    known: bool,
    marginal: Mapping[str, Any] | None,
    facts: Mapping[str, Any],
) -> tuple[int, float, float]:
    """The row that explains an item best, its anomaly score and its p-value.

    Args:
        values: the outputs (M,) under each condition that the item may have.
        log_weight: (M,) log π of them.
        marginal: how scores are averaged where no condition is known, as the metadata has it; else the most normal
            condition decides.
    """
    scores, p = values["anomaly_score"], values["p_value"]
    if known or marginal is None or len(scores) < len(facts["cells"]):
        best = int(scores.argmin())
        return best, float(scores[best]), float(p.max())
    hidden = _marginal(values, log_weight, marginal)
    own, common = (np.inf if one["threshold"] is None else one["threshold"] for one in (marginal, facts))
    best = int((values[RAW] - log_weight).argmin())
    score = on_scale(np.array([hidden]), own, common)
    return best, float(score[0]), float(p_values(marginal["normals"], [hidden])[0])


def _marginal(values: Mapping[str, np.ndarray], log_weight: np.ndarray, marginal: Mapping[str, Any]) -> float:
    """The score with the conditions marginalised: −log Σ_c π_c exp(−S_c), of a fusion by the rule of each score."""
    if not marginal["members"]:
        return _soft(values[RAW], log_weight)
    total = sum(float(values[name][0]) for name in marginal["added"])
    for member in marginal["members"]:
        own = values[member["name"]].astype(np.float64)
        value = _soft(own, log_weight) if member["likelihood"] else float(own.min())
        total += member["weight"] * float(surprise(member["normals"], [value])[0])
    return total


def _soft(values: np.ndarray, log_weight: np.ndarray) -> float:
    return float(-np.logaddexp.reduce(log_weight - values.astype(np.float64)))
