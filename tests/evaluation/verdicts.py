"""Results made of arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from knowngood.evaluation.results import Results


def verdicts(
    scores: Any, labels: Any = None, *, threshold: float | None = None, p: Any = None, **given: Any
) -> Results:
    """Scores (N,) with labels, flagged above the threshold, which is calibrated; `given` goes to `Results`."""
    scores = np.asarray(scores, float)
    columns = {"id": [str(i) for i in range(len(scores))], "anomaly_score": scores}
    columns |= {"p_value": np.full(len(scores), 0.5) if p is None else p}
    columns["is_anomalous"] = np.zeros(len(scores), bool) if threshold is None else scores > threshold
    if labels is not None:
        columns["label"] = np.asarray(labels, float)
    if threshold is not None:
        given.setdefault("calibration", {"threshold": threshold})
    return Results(table=pd.DataFrame(columns), **{"alpha": 0.05, **given})
