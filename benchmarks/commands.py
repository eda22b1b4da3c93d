"""The command that reproduces the numbers."""

from __future__ import annotations

import inspect
import shlex
from collections.abc import Callable, Mapping
from typing import Any

NO_NUMBERS = ("out", "show", "jobs")  # options that change none


def command_line(benchmark: str, main: Callable[..., Any], given: Mapping[str, Any]) -> str:
    """`python -m benchmarks NAME` with those of the `given` options of `main` that differ from their defaults."""
    words = ["python", "-m", "benchmarks", benchmark]
    for name, parameter in inspect.signature(main).parameters.items():
        value = given[name]
        if value == parameter.default or name in NO_NUMBERS:
            continue
        words.append("--" + name.replace("_", "-"))
        if value is not True:
            words.append(",".join(map(str, value)) if isinstance(value, tuple) else str(value))
    return shlex.join(words)
