"""Items that belong together: the same pixels or row, or the same value of a group column."""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from knowngood.config import nearest
from knowngood.data.findings import Unreadable
from knowngood.data.imageset import ImageSet
from knowngood.data.joined import joined
from knowngood.data.tableset import TableSet
from knowngood.data.values import Ints, as_array, texts_of
from knowngood.errors import DataError

Items = TypeVar("Items", bound=ImageSet | TableSet)

DEFAULT = "group"  # a column of this name need not be there
BY_CHANCE = 0.5  # share of the equal pairs of rows that independent columns would give


def grouped(items: Items, column: str | None) -> Items:
    """Items with `groups`, see `linked`, and without the group column, which is no condition."""
    return without(linked(items, column), column)


def linked(items: Items, column: str | None) -> Items:
    """Items with `groups`.

    Items are of one group if they are copies of each other, have the same value in the column, or are linked by others
    that do. A missing value is no group.

    Raises:
        DataError: there is no such column.
    """
    groups = items.groups
    if groups is None:
        groups = image_copies(items) if isinstance(items, ImageSet) else row_copies(items.rows)
    if column is None or (column == DEFAULT and column not in items.conditions):
        return items.replace(groups=groups)
    if column not in items.conditions:
        known = list(items.conditions)
        raise DataError(
            f"conditioning: group names the column '{column}', which the data do not have"
            + (nearest(column, known) if known else "; they have no columns")
        )
    named, texts = texts_of(as_array(column, items.conditions[column], len(items)))
    given = np.array([text is not None for text in texts], dtype=bool)[named]
    return items.replace(groups=_joined(groups, named, given))


def across(first: Items, second: Items, column: str | None) -> tuple[Items, Items]:
    """Both sets with groups that reach from one to the other."""
    both = joined(first, second)  # type: ignore[type-var]
    linking = linked(both.replace(groups=None), column if column in both.conditions else None).groups
    assert both.groups is not None
    assert linking is not None
    groups = _joined(both.groups, linking, np.ones(len(both), dtype=bool))
    return first.replace(groups=groups[: len(first)]), second.replace(groups=groups[len(first) :])


def name_digests(items: ImageSet | TableSet, column: str | None) -> Ints:
    """(N,) of the value in the group column: equal value, equal number; 0 where an item has none."""
    if column not in items.conditions:
        return np.zeros(len(items), dtype=np.int64)
    which, texts = texts_of(as_array(column, items.conditions[column], len(items)))
    return np.array([0 if text is None else _digest(text) for text in texts], dtype=np.int64)[which]


def _digest(text: str) -> int:
    content = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(content, "little", signed=True)


def without(items: Items, column: str | None) -> Items:
    """Items without the group column."""
    return items.replace(conditions={name: values for name, values in items.conditions.items() if name != column})


def pixel_digest(image: np.ndarray) -> bytes:
    """The same for images of the same shape, dtype and pixels."""
    digest = hashlib.blake2b(f"{image.shape}{image.dtype.str}".encode(), digest_size=16)
    digest.update(np.ascontiguousarray(image).data)
    return digest.digest()


def image_copies(images: ImageSet) -> Ints:
    """(N,) the same number for images of the same pixels. An image that cannot be read has one of its own."""

    def key(i: int) -> str:
        try:
            return pixel_digest(images.read(i)).hex()
        except Unreadable:
            return f"unreadable {i}"

    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        keys = list(pool.map(key, range(len(images))))
    return np.unique(np.array(keys, dtype=str), return_inverse=True)[1]


def row_copies(rows: np.ndarray) -> Ints:
    """(N,) the same number for rows (N, F) that are copies of each other.

    Columns of few values make equal rows by chance, and these are not copies: if independent columns with the values of
    these would give half as many equal pairs, each row is on its own.
    """
    which = np.unique(rows, axis=0, return_inverse=True)[1].reshape(-1)
    if len(rows) < 2 or len(np.unique(which)) == len(rows):
        return which
    if _pairs(which) * BY_CHANCE <= np.prod([_pairs(np.unique(v, return_inverse=True)[1]) for v in rows.T]):
        return np.arange(len(rows))
    return which


def _pairs(codes: Ints) -> float:
    """The share of pairs of items with the same code."""
    n, counts = len(codes), np.bincount(codes).astype(float)
    return float((counts * (counts - 1)).sum() / (n * (n - 1)))


def _joined(one: Ints, other: Ints, given: np.ndarray) -> Ints:
    """(N,) groups of items that are linked by either code (N,); the second one counts where it is `given`."""
    n, first = len(one), int(one.max(initial=-1)) + 1
    item = np.concatenate([np.arange(n), np.flatnonzero(given)])
    code = np.concatenate([one, first + other[given]])
    size = n + first + int(other.max(initial=-1)) + 1
    links = coo_matrix((np.ones(len(item), dtype=bool), (item, n + code)), shape=(size, size))
    return connected_components(links, directed=False)[1][:n].astype(np.int64)
