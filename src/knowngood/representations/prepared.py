"""All items of a set, read into one array of their native dtype."""

from __future__ import annotations

from typing import Any

import numpy as np

from knowngood.representations.base import Representation, raise_first


def prepare_all(items: Any, representation: Representation, workers: int = 0) -> np.ndarray:
    """Every item as `read` gives it: (N, ...), native dtype (floats as float32), in one array.

    Read it, do not write to it: where nothing has to change it may share memory with the items' own array.

    Args:
        items: N items, with `ids` for messages.
        workers: threads that read and decode image files; the resize runs in them too.

    Raises:
        DataError: an item cannot be read or does not fit; names the first one and how many there are.
    """
    native, errors = representation.read(items, None, workers=workers)
    raise_first(items.ids, errors)
    return native
