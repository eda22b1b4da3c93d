"""The face of a representation, and what the built-in ones share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, Self

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from knowngood.errors import DataError

CHUNK = 512  # items scaled at a time


class Representation(Protocol):
    """How items (images, or rows of a table) become the tensors that a model sees. A plug-in's class has this face.

    It is fitted by a class method `fit(items, options)`, then frozen: JSON by pydantic, and tensors by `state`.
    """

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the tensor of one item."""
        ...

    @property
    def bytes_per_image(self) -> int:
        """Memory of one item as `read` gives it."""
        ...

    def check(self, shape: tuple[int, ...], dtype: Any) -> None:
        """Raise DataError if an item of this shape and dtype does not fit."""
        ...

    def read(
        self, items: Any, /, index: np.ndarray | None = None, workers: int = 0
    ) -> tuple[np.ndarray, dict[int, str]]:
        """The items at `index` (M,), default all, in their native dtype; and why some are unreadable, by index.

        Unreadable items have zeros. `workers`: threads that read and decode files.
        """
        ...

    def scale(self, batch: Tensor) -> Tensor:
        """What `read` gives (B, ...) → float32 (B, *shape), on its device."""
        ...

    def unscale(self, x: Tensor) -> Tensor:
        """The way back from `scale`, in float32, not rounded."""
        ...

    def to_tensor(self, items: Any, /, workers: int = 0) -> Tensor:
        """All N items: read, then scaled, (N, *shape) float32. Raises DataError that names the first unreadable one."""
        ...

    def to_image(self, map: np.ndarray, source_shape: tuple[int, ...], /) -> np.ndarray:
        """Maps (..., h, w) over what the model sees → (..., H, W) over the source image of shape (H, W[, C])."""
        ...

    def state(self) -> dict[str, Tensor]:
        """The tensors that belong to it beside its JSON."""
        ...

    def with_state(self, tensors: Mapping[str, Tensor]) -> Self:
        """A copy with the tensors that `state` gave. Raises ArtifactError: they are of another representation."""
        ...


class Fitted(BaseModel):
    """What the built-in representations share. Frozen; plain JSON by `model_dump`. No tensors unless overridden.

    `scale` is for representations whose `read` does all of it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    @property
    def unseen(self) -> tuple[str, ...]:
        """Image factors, by the names of `data.image_factors`, whose change alone does not change the tensor."""
        return ()

    def to_tensor(self: Any, items: Any, workers: int = 0) -> Tensor:
        native = prepare_all(items, self, workers)
        x = torch.empty(len(native), *self.shape)
        for start in range(0, len(native), CHUNK):
            part = np.ascontiguousarray(native[start : start + CHUNK])
            x[start : start + CHUNK] = self.scale(torch.from_numpy(part))
        return x

    def scale(self, batch: Tensor) -> Tensor:
        return batch.float()

    def state(self) -> dict[str, Tensor]:
        return {}

    def with_state(self, tensors: Mapping[str, Tensor]) -> Self:
        return self


def in_parts(t: Tensor, at_once: int, each: int) -> tuple[Tensor, ...]:
    """Rows of t a few at a time, so that at most `at_once` values are held where a row makes `each` of them.

    All at once while a graph is exported: the number of rows is not known then.
    """
    return (t,) if torch.compiler.is_exporting() else t.split(max(1, at_once // each))


def prepare_all(items: Any, representation: Representation, workers: int = 0) -> np.ndarray:
    """Every item as `read` gives it: (N, ...), native dtype (floats as float32), in one array.

    Read it, do not write to it: where nothing has to change it may share memory with the items' own array.

    Raises:
        DataError: an item cannot be read or does not fit; names the first one and how many there are.
    """
    if hasattr(items, "expect"):
        items.expect(np.arange(len(items)))
    native, errors = representation.read(items, None, workers=workers)
    raise_first(items.ids, errors)
    return native


def raise_first(ids: Sequence[str] | np.ndarray, errors: Mapping[int, str]) -> None:
    """Raise DataError with the id of the first unreadable item and the number of all, if there is one."""
    if errors:
        first = min(errors)
        more = f" (and {len(errors) - 1:,} more of {len(ids):,} items)" if len(errors) > 1 else ""
        raise DataError(f"{ids[first]}: {errors[first]}{more}")
