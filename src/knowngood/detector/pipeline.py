"""The one path from items to verdicts: read → represent → encode conditions → score → calibrate.

`Detector` trains what a `Pipeline` holds, and a saved model holds nothing else that scores. Its steps are `rows`,
`judging`, `calibrating` and `mapping`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from knowngood.calibration import Calibration
from knowngood.calibration.map_thresholds import MapCalibration
from knowngood.calibration.regions import Region
from knowngood.config import Settings
from knowngood.data import ImageSet
from knowngood.data.conditions import ConditionSchema, Expanded
from knowngood.data.regions.ignore import IgnoreRegions
from knowngood.data.tiling.tiles import Tiles, largest
from knowngood.detector import calibrate as calibrating
from knowngood.detector import decide as judging
from knowngood.detector import maps as mapping
from knowngood.detector.decide import Judgement
from knowngood.detector.ignored import Ignored
from knowngood.detector.rows import (
    Chunk,
    Items,
    Representation,
    Unknown,
    check_kind,
    joined,
    read_rows,
    refuse_unread,
)
from knowngood.detector.watching import PartWatch, Watch
from knowngood.errors import DataError, SettingsError
from knowngood.models.vae import ConditionalVAE
from knowngood.representations import Features
from knowngood.scores import Score, ScoreResult

if TYPE_CHECKING:
    from knowngood.detector.explain import KnownGood

MOST_EXPANDED = 1 << 17  # rows held at a time


@dataclass
class Pipeline:
    """A fitted model and everything needed to judge new items with it."""

    settings: Settings
    schema: ConditionSchema
    representation: Representation
    model: ConditionalVAE
    score: Score
    state: dict[str, Tensor] = field(default_factory=dict)
    calibration: Calibration | None = None
    hidden: Calibration | None = None  # of scores with the conditions summed out
    left_out: bool = False  # whether the images that calibrated were learned from, each left out in turn
    objective_state: dict[str, Tensor] = field(default_factory=dict)  # what the objective keeps: relevances, heads
    known_good: KnownGood | None = None  # the good images fitted on, for explanations
    maps_of_normals: MapCalibration | None = None  # of a model on features
    ignore: IgnoreRegions | None = None

    def __post_init__(self) -> None:
        patches = self.model.patches
        self.ignored: Ignored | None = None
        if self.ignore is not None and patches is not None:
            self.ignored = Ignored.of(self.ignore, self.schema, patches.keys.cpu().numpy())
        if len(self.model.shape) == 3:  # convolutions are faster so, and their maps stay so from layer to layer
            self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @property
    def conditional(self) -> bool:
        """Whether the model sees the conditions of images."""
        patches = self.model.patches
        return bool(self.model.condition_dim if patches is None else patches.keys.shape[1])

    @property
    def blanks(self) -> bool:
        """Whether ignored pixels are hidden from the backbone. Before images are aligned these are not known."""
        return self.ignored is not None and self.settings.align == "none"

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def to(self, device: str | torch.device) -> Pipeline:
        """Move the model to a device, in place."""
        self.model.to(device)
        if isinstance(self.representation, Features):
            self.representation.to(device)
        return self

    @property
    def limit(self) -> float:
        """The anomaly score above which an item is flagged at the α of the fit; +inf if that α cannot be promised."""
        return self.calibrated().pooled_threshold

    def calibrated(self) -> Calibration:
        """The calibration; DataError if there is none."""
        if self.calibration is None:
            raise DataError("this model is not calibrated")
        return self.calibration

    # Rows -----------------------------------------------------------------------------------------------------------

    def expand(self, items: Items, unknown: Unknown | None = None) -> Expanded:
        """The rows to score for items with the conditions they carry."""
        return self.schema.expand(items.conditions, len(items), unknown=unknown or self.settings.unknown)

    def rows(self, items: Items, expanded: Expanded, errors: dict[int, str]) -> Iterator[Chunk]:
        """Read, prepare and scale items a part at a time. Unreadable ones are blank and named in `errors`."""
        return read_rows(self, items, expanded, errors)

    @torch.no_grad()
    def raw_scores(
        self, items: Items, expanded: Expanded, watch: PartWatch | None = None
    ) -> tuple[np.ndarray, dict[str, np.ndarray], dict[int, str]]:
        """Score of every row (M,), its named parts (M,) each, and reasons for unreadable items (their rows are NaN).

        Of an image in tiles the largest score of a tile, and the parts of that one. `watch` looks on.
        """
        tiles = self.tiles(items)
        seen, rows, row = (items, expanded, None) if tiles is None else (tiles.images, *tiles.expand(expanded))
        errors: dict[int, str] = {}
        found: list[np.ndarray] = []
        parts: dict[str, list[np.ndarray]] = {}
        for chunk, result in self.scored(seen, rows, errors, want_map=watch is not None and watch.want_map):
            if watch is not None:
                watch.see(tiles, chunk, result, errors)
            found.append(result.values.cpu().numpy())
            for name, value in result.parts.items():
                parts.setdefault(name, []).append(value.cpu().numpy())
        values = np.concatenate(found) if found else np.empty(0)
        columns = {name: np.concatenate(value) for name, value in parts.items()}
        if tiles is not None and row is not None:
            oddest = largest(values, row)
            values, columns = values[oddest], {name: column[oddest] for name, column in columns.items()}
            errors = {int(tiles.owner[t]): why for t, why in errors.items()}
        if errors and len(errors) == len(items):
            i, reason = next(iter(errors.items()))
            raise DataError(f"none of {len(items)} items can be scored; the first, {items.ids[i]}: {reason}")
        if errors:
            unread = np.isin(expanded.item, list(errors))
            for column in (values, *columns.values()):
                column[unread] = np.nan
        return values, columns, errors

    @torch.no_grad()
    def scored(
        self, items: Items, expanded: Expanded, errors: dict[int, str], want_map: bool = False
    ) -> Iterator[tuple[Chunk, ScoreResult]]:
        """Chunks of rows and their raw scores; items that cannot be read are blank and named in `errors`."""
        self.model.eval()
        for chunk in self.rows(items, expanded, errors):
            yield chunk, self.score.score(self.model, self.state, chunk.x, chunk.c, chunk.stratum, want_map=want_map)

    def tiles(self, items: Items) -> Tiles | None:
        """The tiles of images, if the model sees tiles."""
        if self.settings.tile is None:
            return None
        check_kind(self.representation, items)
        assert isinstance(items, ImageSet)
        return Tiles.of(items, self.settings.tile, self.settings.tile_overlap)

    # Verdicts -------------------------------------------------------------------------------------------------------

    def judge(
        self,
        items: Items,
        *,
        unknown: Unknown | None = None,
        alpha: float | None = None,
        watch: Watch | None = None,
    ) -> Judgement:
        """Scores and p-values of items; conditions that are not known are summed out.

        Hard: an item is as normal as its best condition makes it, p = max_c p_c and the anomaly score is the smallest.
        Soft: S = −log Σ_c π_c exp(−S_c), compared with calibration normals whose conditions were hidden too; for items
        of which no condition is known, by a model that was fitted with unknown="infer" and scores a likelihood. A
        fusion sums out each of its scores by itself there (`Score.summed_out`).

        `watch` looks on, to show some of the items later.
        """
        parts, first = [], 0
        for part in self.portions(items):
            expanded = self.expand(part, unknown)
            looking = None if watch is None else watch.start(self, part, expanded, first)
            found = judging.judge(self, len(part), expanded, *self.raw_scores(part, expanded, looking), alpha)
            if watch is not None and looking is None:
                watch.finish(self, part, found, first)
            parts.append(found)
            first += len(part)
        return Judgement.joined(parts)

    def calibrate(self, normals: Items) -> None:
        """Set the calibration from normals that took no part in training; with features that of maps too."""
        calibrating.calibrate(self, normals)

    def calibrate_left_out(self, normals: Items) -> None:
        """Set the calibration from the images that were learned from; see `calibrating.calibrate_left_out`."""
        calibrating.calibrate_left_out(self, normals)

    # Maps -----------------------------------------------------------------------------------------------------------

    def maps(self, items: Items, *, unknown: Unknown | None = None) -> list[np.ndarray]:
        """Anomaly map of each item under its best condition, (H, W) at the size of the original image.

        NaN where a region is ignored.
        """
        self.check_maps()
        assert isinstance(items, ImageSet)
        return [one.map for one in mapping.mapped(self, items, self.best(items, unknown))]

    def regions(
        self, items: Items, *, unknown: Unknown | None = None, alpha: float | None = None, min_area: int = 1
    ) -> Iterator[list[Region]]:
        """Of each image its regions: connected pixels above what few good images of its stratum exceed anywhere.

        Raises:
            SettingsError: the model is not on features, and so has no calibration of its maps.
        """
        known = self.check_regions()
        assert isinstance(items, ImageSet)
        for one in mapping.mapped(self, items, self.best(items, unknown)):
            yield mapping.regions_in(known, one, alpha, min_area)

    def check_regions(self) -> MapCalibration:
        """What normals' maps say; SettingsError if this model does not know."""
        return mapping.check_regions(self)

    def check_maps(self) -> None:
        """Raise SettingsError if this model has no anomaly maps."""
        mapping.check_maps(self)

    # Inside ---------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def reconstruct(self, items: Items, *, unknown: Unknown | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Model inputs and reconstructions under the best condition, both (N, *shape), scaled.

        With features both are features (N, F, h, w), the reconstruction in their own units; with oriented gradients
        both are these, (N, 8, 7, 7), scaled.

        Raises:
            SettingsError: the model sees tiles.
        """
        if self.settings.tile is not None:
            raise SettingsError("a model on tiles makes no reconstruction of whole images; ask for anomaly maps")
        seen, made = [], []
        for chunk in self.best_rows(items, unknown):
            seen.append(chunk.x.cpu().numpy())
            patches = self.model.patches
            if patches is None:
                made.append(self.model.reconstruct(chunk.x, chunk.c).cpu().numpy())
            else:
                rows = self.model.reconstruct(*patches.split(chunk.x, chunk.c))
                made.append(patches.unwhiten(rows, chunk.c, chunk.x).cpu().numpy())
        return np.concatenate(seen), np.concatenate(made)

    @torch.no_grad()
    def embed(self, items: Items, *, unknown: Unknown | None = None) -> np.ndarray:
        """Posterior means μ(x, c) under the best condition, (N, D); with features their mean over all places.

        Raises:
            SettingsError: the model sees tiles.
        """
        if self.settings.tile is not None:
            raise SettingsError("a model on tiles has a latent for each tile and none for a whole image")
        found = []
        for chunk in self.best_rows(items, unknown):
            patches = self.model.patches
            if patches is None:
                found.append(self.model.encode(chunk.x, chunk.c).mean)
            else:
                mean = self.model.encode(*patches.split(chunk.x, chunk.c)).mean
                found.append(mean.unflatten(0, (len(chunk.x), -1)).mean(1))
        return np.concatenate([part.cpu().numpy() for part in found])

    def best_rows(self, items: Items, unknown: Unknown | None) -> Iterator[Chunk]:
        """One row an item: where a condition is unknown, that under which the item is least anomalous.

        Raises:
            DataError: an item cannot be read.
        """
        self.model.eval()
        errors: dict[int, str] = {}
        for chunk in self.rows(items, self.best(items, unknown), errors):
            refuse_unread(items, errors)
            yield chunk

    def best(self, items: Items, unknown: Unknown | None) -> Expanded:
        """One row an item: where a condition is unknown, that under which the item is least anomalous."""
        parts = [self.expand(part, unknown) for part in self.portions(items)]
        told = all(part.known.all() for part in parts)
        return joined(parts) if told else self.judge(items, unknown=unknown).best

    def portions(self, items: Items) -> Iterator[Items]:
        """Parts of the items with at most some 100,000 rows each, should all conditions be unknown."""
        size = max(1, MOST_EXPANDED // max(1, len(self.schema.cells)))
        return (items[start : start + size] for start in range(0, max(1, len(items)), size))
