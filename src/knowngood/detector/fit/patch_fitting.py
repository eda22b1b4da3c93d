"""What a fit on features adds: what patches learn from and are scored by, and the Gaussian of every place."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from knowngood.config import FeatureGrid, PlaceGaussian, Settings
from knowngood.data import ImageSet
from knowngood.data.conditions import ConditionSchema
from knowngood.data.regions.ignore import IgnoreRegions
from knowngood.data.tiling.tiles import drawn
from knowngood.detector.ignored import Ignored
from knowngood.detector.rows import READERS
from knowngood.errors import DataError, SettingsError
from knowngood.models.patch_gaussian import FEWEST, Patches
from knowngood.representations import Features, cached_features
from knowngood.scores import Score
from knowngood.scores.patches import PatchScore

STEPS = 1500  # of training, where no number of epochs is set
PATCHES_AN_ITEM = 4  # batches hold so many times more patches than items
AT_ONCE = 16  # images, in the passes for the Gaussians
HELD_OUT = 1 << 13  # patches that training is evaluated on
HELD_OUT_TILES = 128  # that choices are made with


def training_settings(settings: Settings, patches: int) -> Settings:
    """Batches of patches instead of images, and epochs by their number."""
    batch = settings.batch_size * PATCHES_AN_ITEM
    epochs = settings.epochs or max(1, round(STEPS * batch / max(1, patches)))
    return settings.model_copy(update={"batch_size": batch, "epochs": epochs})


def leaves_out(settings: Settings) -> bool:
    """Whether all images learn, and calibrate each as if it had been left out. Gaussians of places allow that.

    Raises:
        SettingsError: it is asked for where it cannot be.
    """
    named = settings.scoring if isinstance(settings.scoring, str) else settings.scoring.name
    able = settings.features != "none" and settings.tile is None and named in ("auto", "choose", "gaussian")
    if settings.calibrate_by == "left_out" and not able:
        raise SettingsError(
            "calibrate_by = 'left_out' needs features of whole images, scored by the Gaussian of the place; set "
            "features and scoring='gaussian' and leave tile out, or take calibrate_by='split'"
        )
    return able and settings.calibrate_by != "split"


def inners(settings: Settings, score: Score, left_out: bool) -> tuple[Score, ...]:
    """What patches may be scored by: as set; or the Gaussian of the place, or what the objective is defined with."""
    if not isinstance(score, PatchScore):
        return ()
    if not isinstance(settings.scoring, str):
        return (score.inner,)
    if left_out:
        return (PlaceGaussian().build(),)
    return PlaceGaussian().build(), score.inner


def teaches_score(settings: Settings) -> bool:
    """Whether labelled anomalies that teach no net teach the score: see `teaching`, and `patch_labels` for places."""
    return settings.labelled == "auto" and settings.tile is None


def share_tiles(
    shares: dict[str, np.ndarray], representation: Features, settings: Settings, seed: int
) -> dict[str, np.ndarray]:
    """The shares with as many tiles to fit on as memory holds, and few to choose with, drawn by the seed."""
    within = int(settings.memory_gb * 2**30) // representation.bytes_per_image
    most = {"fit": within, "select": min(within, HELD_OUT_TILES)}
    return shares | {name: drawn(shares[name], number, seed) for name, number in most.items()}


def features_of(
    samples: ImageSet, shares: dict[str, np.ndarray], representation: Features, settings: Settings
) -> dict[str, np.ndarray]:
    """Features (N, F, h, w) of the samples that are fitted on, and of those that choices are made with."""
    how = {"memory_gb": settings.memory_gb, "workers": READERS}
    return {name: cached_features(samples[shares[name]], representation, **how) for name in ("fit", "select")}


def learn_patches(
    samples: ImageSet,
    features: dict[str, np.ndarray],
    index: np.ndarray,
    c: np.ndarray,
    schema: ConditionSchema,
    labels: list[str],
    options: FeatureGrid,
    ignore: IgnoreRegions | None,
) -> Patches:
    """As `fit_patches`, of the features of samples at `index` (N,); regions to ignore are tried on every image size.

    Raises:
        DataError: as `fit_patches`; regions to ignore do not fit an image.
    """
    patches = fit_patches(list(features.values()), index, c, schema, labels, options, ignore)
    if ignore is not None:
        ignored = Ignored.of(ignore, schema, patches.keys.numpy())
        for height, width in np.unique(samples.shapes()[:, :2], axis=0).tolist():
            for k in range(len(ignored.values)):
                ignored.mask((height, width), k)
    return patches


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
    conditions = torch.from_numpy(keys), torch.from_numpy(continuous)
    patches = Patches(shape, *conditions, options.shrink, options.whole, options.context)
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
