"""Choices that other installed packages bring, found by entry point.

A package declares `[project.entry-points."knowngood.scores"]` with `my_score = "my_package.options:MyScore"`, and the
score is known by its name in Python, YAML and on the command line. Groups: representations, backbones, models,
objectives, scores and readers.
"""

from __future__ import annotations

import warnings
from functools import cache
from importlib.metadata import entry_points
from typing import Any


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
