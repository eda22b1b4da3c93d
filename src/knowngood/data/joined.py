"""Two sets of items as one."""

from __future__ import annotations

from itertools import count
from typing import Any, TypeVar

import numpy as np

from knowngood.data.imageset import ImageSet
from knowngood.data.pixel_source import JoinedPixels
from knowngood.data.tableset import TableSet

Items = TypeVar("Items", ImageSet, TableSet)


def joined(first: Items, second: Items) -> Items:
    """The items of both, in this order, each with its groups, none where nobody has looked for any; a column that one
    of them lacks is unknown there.

    Ids of the second that the first has too begin with "new/", as often as that is needed.
    """
    columns = {**first.conditions, **second.conditions}
    kinds: dict[str, object] = (
        {"rows": np.concatenate([first.rows, second.rows])}
        if isinstance(first, TableSet) and isinstance(second, TableSet)
        else {"pixels": JoinedPixels([first.pixels, second.pixels]), "masks": _masks(first, second)}  # type: ignore[union-attr]
    )
    groups = [np.arange(len(some)) if some.groups is None else some.groups for some in (first, second)]
    looked = first.groups is not None or second.groups is not None
    return first.replace(
        ids=np.concatenate([first.ids, _apart(first.ids.tolist(), second.ids.tolist())]),
        labels=np.concatenate([first.labels, second.labels]),
        conditions={
            name: np.concatenate([some.conditions.get(name, np.full(len(some), None)) for some in (first, second)])
            for name in columns
        },
        splits=None,
        groups=np.concatenate([groups[0], groups[0].max(initial=-1) + 1 + groups[1]]) if looked else None,
        **kinds,
    )


def _apart(first: list[str], second: list[str]) -> np.ndarray:
    """The ids of the second set, changed where the first has them."""
    old, taken, found = set(first), {*first, *second}, []
    for name in second:
        if name in old:
            name = next(one for n in count(1) if (one := "new/" * n + name) not in taken)
            taken.add(name)
        found.append(name)
    return np.array(found, dtype=str)


def _masks(*sets: ImageSet) -> tuple[Any, ...] | None:
    """Of all images of these sets; None if no set has any."""
    if all(some.masks is None for some in sets):
        return None
    return tuple(mask for some in sets for mask in (some.masks or (None,) * len(some)))
