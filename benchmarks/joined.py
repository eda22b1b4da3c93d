"""Several data sets as one, in which the class of an image is the set it comes from."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from benchmarks import runner
from knowngood.data import ImageSet
from knowngood.errors import DataError


def open_named(name: str) -> ImageSet:
    """What `runner.open_whole` opens, or "a+b": several of these joined."""
    return open_joined(name.split("+")) if "+" in name else runner.open_whole(name)


def open_joined(names: Sequence[str], opener: Callable[[str], ImageSet] | None = None) -> ImageSet:
    """All images of all sets, one set after the other, held in memory; ids begin with the name of their set.

    Raises:
        DataError: a set is missing or has no splits, or images differ in size or type.
    """
    sets = {name: (opener or runner.open_whole)(name) for name in names}
    blocks, splits = [], []
    for name, images in sets.items():
        if images.splits is None:
            raise DataError(f"{name} has no splits, which this protocol needs")
        blocks.append(np.stack([images.read(i) for i in range(len(images))]))
        splits.append(images.splits)
    kinds = {name: (*block.shape[1:], str(block.dtype)) for name, block in zip(sets, blocks, strict=True)}
    if len(set(kinds.values())) > 1:
        told = "; ".join(f"{name} {kind}" for name, kind in kinds.items())
        raise DataError(f"{'+'.join(names)}: images differ in height, width, channels or type: {told}")
    joined = ImageSet.from_arrays(
        np.concatenate(blocks),
        conditions={"class": np.repeat(list(sets), [len(block) for block in blocks])},
        ids=np.array([f"{name}/{one}" for name, images in sets.items() for one in images.ids]),
    )
    variants = [f"{name}: {images.variant}" for name, images in sets.items() if images.variant]
    return joined.replace(splits=np.concatenate(splits), name="+".join(names), variant="; ".join(variants) or None)
