"""What is kept about a fit: sizes, seconds, versions."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import numpy as np
import torch

from knowngood import __version__
from knowngood.detector.fit.learn import Learned
from knowngood.detector.fit.plan import Plan
from knowngood.detector.rows import Items


def about(items: Items, plan: Plan, learned: Learned, seconds: float) -> dict[str, Any]:
    """Plain data on a fit to these items that took so long."""
    history, told = learned.history, learned.told
    taught = 0 if plan.anomalies is None else len(plan.anomalies)
    if told is not None and told["weight"]:
        taught = told["taught"]
    found: Mapping[str, Any] = {
        "data": {
            "name": items.name,
            "variant": getattr(items, "variant", None),
            "fingerprint": learned.fingerprint,
            "normals": len(plan.normals),
            "known_anomalies": int(np.sum(items.labels == 1)),
            "taught_anomalies": taught,
            **{part: len(index) for part, index in plan.split.items()},
            "calibrate": len(learned.pipeline.calibration or ()),
        },
        "seed": plan.seed,
        "seconds": round(seconds, 3),
        "training": {
            "steps": history.steps[-1]["step"],
            "best_step": history.best_step,
            "epochs": round(history.steps[-1]["epoch"], 1),
            "images_per_second": round(history.images_per_second),
            "stopped_early": history.stopped_early,
        },
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {
            "knowngood": __version__,
            "torch": str(torch.__version__),
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
        "threads": torch.get_num_threads(),
    }
    chosen = {"labelled": told, "scoring": learned.chosen}
    return {**found, **{name: what for name, what in chosen.items() if what is not None}}
