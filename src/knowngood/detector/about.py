"""Plain data that is kept about a fit: sizes, seconds, versions, and what "auto" chose."""

from __future__ import annotations

import platform
from datetime import UTC, datetime
from typing import Any

import numpy as np
import torch

from knowngood import __version__
from knowngood.detector.fit import Fitted
from knowngood.detector.pipeline import Items, Pipeline


def about(items: Items, fitted: Fitted, pipeline: Pipeline, seed: int, seconds: float) -> dict[str, Any]:
    """Of a fit to these items that took so long."""
    labels = {} if fitted.labels is None else {"labels": fitted.labels}
    return {
        "recipe": fitted.recipe,
        "data": {
            "name": items.name,
            "variant": getattr(items, "variant", None),
            "fingerprint": fitted.fingerprint,
            "normals": fitted.normals,
            "known_anomalies": fitted.known_anomalies,
            **{part: len(index) for part, index in fitted.split.items()},
            "calibrate": len(pipeline.calibration or ()),
        },
        "seed": seed,
        "seconds": round(seconds, 3),
        "training": fitted.training,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {
            "knowngood": __version__,
            "torch": str(torch.__version__),
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
        "threads": torch.get_num_threads(),
        **labels,
    }
