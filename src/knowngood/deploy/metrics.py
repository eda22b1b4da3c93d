"""Counts of a service, in the format of Prometheus."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from knowngood.deploy.judgement import Row

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Metrics:
    """Of one service."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        own = {"namespace": "knowngood", "registry": self._registry}
        self._requests = Counter("requests", "requests answered", ["path", "status"], **own)
        self._seconds = Histogram("request_seconds", "seconds to answer", ["path"], buckets=SECONDS, **own)
        self._images = Counter("images", "images by verdict", ["model", "verdict"], **own)
        self._batch = Histogram("batch_images", "images scored together", buckets=(1, 2, 4, 8, 16, 32, 64, 128), **own)
        self._scoring = Counter("scoring_seconds", "seconds of scoring", **own)
        self._held = Gauge("queue_images", "images held by requests", **own)
        self._version = Gauge("model_info", "versions in use", ["model", "scored_by"], **own)

    def answered(self, path: str, status: int, seconds: float) -> None:
        """A request was answered."""
        self._requests.labels(path, str(status)).inc()
        self._seconds.labels(path).observe(seconds)

    def scored(self, images: int, seconds: float) -> None:
        """A batch was scored."""
        self._batch.observe(images)
        self._scoring.inc(seconds)

    def judged(self, model: str, rows: Iterable[Row]) -> None:
        """Rows were answered."""
        for row in rows:
            verdict = "error" if row["error"] else "anomalous" if row["is_anomalous"] else "normal"
            self._images.labels(model, verdict).inc()

    def text(self, held: int, versions: Iterable[tuple[str, str]]) -> bytes:
        """All of it."""
        self._held.set(held)
        self._version.clear()
        for model, mark in versions:
            self._version.labels(model, mark).set(1)
        return generate_latest(self._registry)
