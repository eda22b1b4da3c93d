"""`python -m benchmarks NAME`: run a protocol. Its options are the keyword arguments of its function."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable
from typing import Any

from benchmarks import BENCHMARKS
from benchmarks.option_help import shown
from benchmarks.outcome import check_measured
from knowngood.cli.console import fail, table
from knowngood.config import nearest
from knowngood.errors import KnowngoodError, SettingsError


def benchmark(words: list[str]) -> None:
    """Run a benchmark by name, with its own options after it, or show these. Without a name: list them.

    Raises:
        KnowngoodError: it cannot run, or measured nothing.
    """
    if not words or words[0] in ("-h", "--help"):
        table(["name", "what it measures"], [[known, what] for known, (_, what) in BENCHMARKS.items()])
        return
    name, *options = words
    if name not in BENCHMARKS:
        raise SettingsError(f"unknown benchmark '{name}'" + nearest(name, list(BENCHMARKS)))
    module, _, function = BENCHMARKS[name][0].partition(":")
    run = getattr(importlib.import_module(module), function)
    if {"-h", "--help"} & {*options}:
        print(shown(name, run))
        return
    given = keyword_arguments(run, options, name)
    rows = run(**given)
    if not given.get("show"):
        check_measured(rows)


def main(words: list[str] | None = None) -> None:
    """Run one command line and leave with its exit status."""
    words = sys.argv[1:] if words is None else words
    try:
        benchmark([word for word in words if word != "--debug"])
    except Exception as error:
        if "--debug" in words:
            raise
        fail(str(error) if isinstance(error, KnowngoodError) else f"{type(error).__name__}: {error}")
        sys.exit(getattr(error, "exit_code", 4))


def keyword_arguments(function: Callable[..., Any], words: list[str], name: str) -> dict[str, Any]:
    """`--key value` words as arguments of `function`, converted by its annotations; a bool takes no value.

    Raises:
        SettingsError: an option that the function does not take, a missing or a wrong value.
    """
    from pydantic import TypeAdapter, ValidationError

    parameters = inspect.signature(function, eval_str=True).parameters
    known = ["--" + parameter.replace("_", "-") for parameter in parameters]
    found: dict[str, Any] = {}
    rest = list(words)
    while rest:
        flag, equals, value = rest.pop(0).partition("=")
        parameter = flag.removeprefix("--").replace("-", "_")
        if not flag.startswith("--") or parameter not in parameters:
            hint = nearest(flag, known)
            raise SettingsError(f"benchmark {name} takes no '{flag}'{hint}; --help shows what it takes")
        annotation = parameters[parameter].annotation
        if annotation is bool and not equals:
            found[parameter] = True
            continue
        if not equals:
            if not rest or rest[0].startswith("--"):
                raise SettingsError(f"benchmark {name}: {flag} needs a value")
            value = rest.pop(0)
        try:
            found[parameter] = TypeAdapter(annotation).validate_python(_listed(annotation, value))
        except ValidationError as error:
            raise SettingsError(f"benchmark {name}: {flag} {value}: {error.errors()[0]['msg']}") from None
    return found


def _listed(annotation: Any, value: str) -> Any:
    text = str(annotation)
    return [part.strip() for part in value.split(",") if part.strip()] if "list[" in text or "tuple[" in text else value


if __name__ == "__main__":
    main()
