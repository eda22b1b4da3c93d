"""Structured logs of a service: a JSON object a line. What it says is about requests, never of what is in images."""

from __future__ import annotations

import json
import logging
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


def write_logs(stream: TextIO) -> None:
    """From now on the logs of the service, and the warnings and errors of its web server, go to this stream."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonLines())
    levels = {LOGGER.name: logging.INFO, "uvicorn": logging.WARNING, "python_multipart": logging.ERROR}
    for name, level in levels.items():
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(level)
