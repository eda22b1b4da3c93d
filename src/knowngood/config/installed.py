"""Choices that other installed packages bring, found by entry point.

A package declares `[project.entry-points."knowngood.scores"]` with `my_score = "my_package.options:MyScore"`, and the
score is known by its name in Python, YAML and on the command line. Groups: representations, backbones, models,
objectives, scores, readers and sinks.
"""

from __future__ import annotations

import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from knowngood.errors import KnowngoodError, PluginError

GROUPS = ("representations", "backbones", "models", "objectives", "scores", "readers", "sinks")


@cache
def plugins(group: str, base: type) -> tuple[Any, ...]:
    """The objects registered in a group: subclasses or instances of `base`, in the order of their names.

    One that cannot be imported, or is something else, is left out with a warning: a broken package stops no other.
    """
    found = []
    for point in sorted(entry_points(group=f"knowngood.{group}"), key=lambda point: point.name):
        try:
            loaded = point.load()
        except Exception as error:
            warnings.warn(f"plug-in '{point.name}' ({point.value}) cannot be loaded: {error}", stacklevel=2)
            continue
        if not (isinstance(loaded, type) and issubclass(loaded, base)) and not isinstance(loaded, base):
            warnings.warn(
                f"plug-in '{point.name}' ({point.value}) in group knowngood.{group} is no {base.__name__}; left out",
                stacklevel=2,
            )
            continue
        found.append(loaded)
    return tuple(found)


@contextmanager
def naming_plugins(name: str | None = None) -> Iterator[None]:
    """Within, and of a function that it decorates: an error that a plug-in raises names it.

    Args:
        name: of the plug-in, where it is known.

    Raises:
        PluginError: with the plug-in's name and distribution, and its own error as the cause. Errors of this library
            pass as they are, also where a plug-in raises them.
    """
    try:
        yield
    except KnowngoodError:
        raise
    except Exception as error:
        if (named := _responsible(error, name)) is None:
            raise
        raise PluginError(
            f"{named} failed: {type(error).__name__}: {error}. Report it to its authors, or make another choice"
        ) from error


def _responsible(error: Exception, name: str | None) -> str | None:
    """The plug-in in whose package the innermost frame lies that lies in one; None if there is none."""
    modules = [str(frame.f_globals.get("__name__", "")) for frame, _ in traceback.walk_tb(error.__traceback__)]
    points = [point for group in GROUPS for point in entry_points(group=f"knowngood.{group}")]
    for module in reversed(modules):
        package = module.partition(".")[0]
        mine = [point for point in points if point.module.partition(".")[0] == package != "knowngood"]
        if mine:
            named = [point for point in mine if point.name == name]
            return _in_words(named or [point for point in mine if point.module == module] or mine)
    return None


def _in_words(points: list[EntryPoint]) -> str:
    """'plug-in 'annealed' of the distribution my-package 1.0'."""
    names = ", ".join(f"'{name}'" for name in dict.fromkeys(point.name for point in points))
    of = "" if (dist := points[0].dist) is None else f" of the distribution {dist.name} {dist.version}"
    return f"plug-in {names}{of}" if len(points) == 1 else f"one of the plug-ins {names}{of}"
