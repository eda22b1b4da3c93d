"""The calibration in an exported file: the scores of its items as text, for what the graph does not answer."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


def calibration_facts(scores: np.ndarray, strata: np.ndarray, stratum_names: Sequence[str], alpha: float) -> Any:
    """Plain data of a calibration: scores (n,) in strata (n,), numbers into `stratum_names`."""
    return {
        "scores": base64.b64encode(scores.astype("<f8").tobytes()).decode(),
        "strata": base64.b64encode(strata.astype("<i8").tobytes()).decode(),
        "stratum_names": list(stratum_names),
        "alpha": alpha,
    }


def calibration_arrays(facts: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Its scores and strata, (n,) each. Raises ValueError, KeyError: damaged."""
    kinds = {"scores": "<f8", "strata": "<i8"}
    return {name: np.frombuffer(base64.b64decode(facts[name]), kind).copy() for name, kind in kinds.items()}
