"""What a fit on features adds: how much it trains, and the Gaussian of every place."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from knowngood.config import FeatureGrid, Settings
from knowngood.errors import DataError
from knowngood.ignored import Ignored
from knowngood.images.conditions import ConditionSchema
from knowngood.localisation import IgnoreRegions
from knowngood.patches import FEWEST, Patches

STEPS = 1500  # of training, where no number of epochs is set
PATCHES_AN_ITEM = 4  # batches hold so many times more patches than items
AT_ONCE = 64  # images, in the passes for the Gaussians
HELD_OUT = 1 << 13  # patches that training is evaluated on


def training_settings(settings: Settings, patches: int) -> Settings:
    """Batches of patches instead of images, and epochs by their number."""
    batch = settings.batch_size * PATCHES_AN_ITEM
    epochs = settings.epochs or max(1, round(STEPS * batch / max(1, patches)))
    return settings.model_copy(update={"batch_size": batch, "epochs": epochs})


def fit_patches(
    parts: Sequence[np.ndarray],
    index: np.ndarray,
    c: np.ndarray,
    schema: ConditionSchema,
    labels: list[str],
    options: FeatureGrid,
    ignore: IgnoreRegions | None = None,
) -> Patches:
    """The Gaussians of good images' features, in parts (…, F, h, w) of N in all, under their conditions.

    c (M, W) and `labels` (M,), which name conditions in messages, are those of all good images; the features are of
    those at `index` (N,). Places that `ignore` covers by half or more are ignored.

    Raises:
        DataError: a combination of categorical conditions has fewer than 8 good images and `few` is "refuse"; or
            `ignore` leaves nothing.
    """
    continuous, n, shape = continuous_entries(schema), len(index), parts[0].shape[1:]
    told = np.where(continuous, 0.0, c).astype(np.float32)
    keys, cell = np.unique(told, axis=0, return_inverse=True)
    named, cell = cell.reshape(-1), cell.reshape(-1)[index]
    counts = np.bincount(cell, minlength=len(keys))
    if int(counts.min()) < FEWEST and (options.few == "refuse" or n < FEWEST):
        where = int(counts.argmin())
        name = labels[int(np.flatnonzero(named == where)[0])]
        of = f" of {name}" if name and len(keys) > 1 else ""
        raise DataError(
            f"{counts[where]} good images{of} to fit on; to learn what is usual at each place takes at least {FEWEST}. "
            "Give more, leave it out, or set few='pool' among the options of features to give it what all have"
        )
    patches = Patches(shape, torch.from_numpy(keys), torch.from_numpy(continuous), options.shrink)
    if ignore is not None:
        patches.ignored.copy_(torch.from_numpy(Ignored.of(ignore, schema, keys).places(*shape[1:])))

    def chunks() -> Iterator[tuple[Tensor, Tensor]]:
        first = 0
        for features in parts:
            for start in range(0, len(features), AT_ONCE):
                some = torch.from_numpy(np.array(features[start : start + AT_ONCE]))
                yield some, torch.from_numpy(cell[first + start : first + start + len(some)])
            first += len(features)

    return patches.fit(chunks)


def continuous_entries(schema: ConditionSchema) -> np.ndarray:
    """(W,) True for the entries of a condition vector that are standardised numbers."""
    widths = [(column.kind == "continuous", column.width) for column in schema.columns]
    return np.array([kind for kind, width in widths for _ in range(width)], dtype=bool)
