"""How a line does: p-values, the share of alarms over time, and the evidence of drift."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np

from knowngood.calibration.drift import DriftMonitor
from knowngood.deploy.judged_store import Filter, JudgedStore
from knowngood.deploy.served_model import ServedModel

BINS, SPANS, SHOWN = 20, 40, 6  # of p-values, of the time, and groups of the drift


class Line:
    """Of the judgements of a store. The test of drift goes on where it was; see `DriftMonitor`."""

    def __init__(self, store: JudgedStore) -> None:
        self.store, self._lock = store, threading.Lock()
        self._monitors: dict[tuple[str, str, str], tuple[DriftMonitor, int]] = {}

    def describe(self, model: ServedModel, which: Filter) -> dict[str, Any]:
        """Plain data of what this version of the model judged, of the source and since the time of `which`."""
        own = Filter(model=model.name, scored_by=model.mark, source=which.source, since=which.since)
        rows = self.store.series(own)
        p, flagged = np.array([row["p"] for row in rows]), np.array([row["flagged"] for row in rows], bool)
        spans = [
            part for part in np.array_split(np.arange(len(rows)), min(SPANS, max(1, len(rows) // 10))) if len(part)
        ]
        return {
            "count": len(rows),
            "flagged": int(flagged.sum()),
            "alpha": model.alpha,
            "p_values": np.histogram(p, BINS, (0, 1))[0].tolist(),
            "rates": [
                {
                    "since": rows[part[0]]["time"],
                    "until": rows[part[-1]]["time"],
                    "count": len(part),
                    "rate": float(flagged[part].mean()),
                }
                for part in spans
            ],
            "drift": self._drift(model, which.source),
        }

    def _drift(self, model: ServedModel, source: str) -> dict[str, Any]:
        """Everything that this version judged, in its order, compared with its calibration items."""
        reference = model.drift_reference()
        if reference is None:
            return {}
        with self._lock:
            key = model.name, model.mark, source  # one version may be served under two names
            monitor, last = self._monitors.get(key, (DriftMonitor(references=reference.ranks), 0))
            rows = self.store.series(Filter(model=model.name, scored_by=model.mark, source=source), last)
            if rows:
                groups = model.groups_of([row["condition"] or "" for row in rows])
                names, times = ([row[column] for row in rows] for column in ("id", "time"))
                monitor.update(
                    [row["score"] for row in rows],
                    groups,
                    None,
                    [f"{name}, {time[:19]}" for name, time in zip(names, times, strict=True)],
                )
                last = rows[-1]["number"]
            self._monitors[key] = monitor, last
            paths = sorted(monitor.groups.items(), key=lambda one: -max((y for _, y in one[1].path), default=0.0))
            alarm = monitor.alarm
            return {
                "threshold": float(np.log10(monitor.threshold)),
                "evidence": monitor.evidence,
                "count": monitor.count,
                "reference": reference.sentence,
                "groups": {name: group.path for name, group in paths[:SHOWN]},
                "alarm": alarm
                and {
                    "group": alarm.group,
                    "at": alarm.at.number,
                    "since": alarm.since.number,
                    "text": f"{alarm.change} since about {alarm.since.time or alarm.since}",
                },
            }
