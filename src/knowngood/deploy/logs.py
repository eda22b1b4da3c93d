"""Structured logs of a service: a JSON object a line. What it says is about requests, never of what is in images."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, TextIO

LOGGER = logging.getLogger("knowngood.service")


def event(what: str, level: int = logging.INFO, **facts: Any) -> None:
    """One line: what happened, and facts of it."""
    LOGGER.log(level, what, extra={"facts": facts})


class JsonLines(logging.Formatter):
    """A record as a JSON object: time, level, event, and its facts."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, "facts", {}),
        }
        if record.exc_info:
            line["trace"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


@contextmanager
def written_logs(stream: TextIO) -> Iterator[None]:
    """Inside, the logs of the service, and the warnings and errors of its libraries, go to this stream."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonLines())
    levels = {LOGGER.name: logging.INFO, "uvicorn": logging.WARNING}
    levels |= dict.fromkeys(("python_multipart", "asyncua"), logging.ERROR)
    loggers = {logging.getLogger(name): level for name, level in levels.items()}
    before = [(logger, logger.handlers, logger.propagate, logger.level) for logger in loggers]
    for logger, level in loggers.items():
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(level)
    try:
        yield
    finally:
        for logger, handlers, propagate, was in before:
            logger.handlers, logger.propagate = handlers, propagate
            logger.setLevel(was)
