"""All items of a set, read and prepared into one array."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from knowngood.errors import DataError


class Representation(Protocol):
    """What `Pixels` does for an `ImageSet` and `Table` for a `TableSet`."""

    def read(
        self, items: Any, /, index: np.ndarray | None = None, workers: int = 0
    ) -> tuple[np.ndarray, dict[int, str]]: ...


def prepare_all(items: Any, representation: Representation, workers: int = 0) -> np.ndarray:
    """Every item prepared: (N, *shape), native dtype (floats as float32), in one array.

    Read it, do not write to it: where nothing has to change it may share memory with the items' own array.

    Args:
        items: N items, with `ids` for messages.
        workers: threads that read and prepare image files; decoders and the resize run side by side.

    Raises:
        DataError: an item cannot be read or does not fit; names the first one and how many there are.
    """
    prepared, errors = representation.read(items, None, workers=workers)
    if errors:
        first = min(errors)
        more = f" (and {len(errors) - 1:,} more of {len(items):,} items)" if len(errors) > 1 else ""
        raise DataError(f"{items.ids[first]}: {errors[first]}{more}")
    return prepared
