"""`knowngood benchmark NAME`: run a protocol. Its options are the keyword arguments of the function behind the name."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from typing import Annotated, Any

import typer

from knowngood.benchmarks import BENCHMARKS
from knowngood.cli.console import table
from knowngood.config import nearest
from knowngood.errors import SettingsError


def benchmark(
    context: typer.Context,
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="which one; without it, list them")] = None,
) -> None:
    """Run a benchmark by name, with its own options after it. Without a name: list them."""
    if name is None:
        table(["name", "what it measures"], [[known, what] for known, (_, what) in BENCHMARKS.items()])
        return
    if name not in BENCHMARKS:
        raise SettingsError(f"unknown benchmark '{name}'" + nearest(name, list(BENCHMARKS)))
    module, _, function = BENCHMARKS[name][0].partition(":")
    run = getattr(importlib.import_module(module), function)
    run(**keyword_arguments(run, context.args, name))


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
            raise SettingsError(f"benchmark {name} takes no '{flag}'" + nearest(flag, known))
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
    return [part.strip() for part in value.split(",")] if "list[" in text or "tuple[" in text else value
