"""The one path from items to verdicts: read → represent → encode conditions → score → calibrate.

`Detector` trains what a `Pipeline` holds, and a saved model holds nothing else that scores.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from knowngood.calibration import Calibration
from knowngood.config import Settings
from knowngood.errors import DataError, SettingsError
from knowngood.ignored import Ignored, Views, filled, moved
from knowngood.images import ImageSet
from knowngood.images.conditions import ConditionSchema, Expanded
from knowngood.localisation import IgnoreRegions, MapCalibration, Region, find_regions
from knowngood.representation import Features, Pixels, Table, TableSet
from knowngood.representation.warping import Transform
from knowngood.scores import Score, ScoreResult
from knowngood.scores.marginal import best_rows, choose_rule, hard, hard_p_values, segment_starts, soft
from knowngood.scores.patches import LeftOut, PatchScore
from knowngood.tiled import Tiles, largest
from knowngood.vae import ConditionalVAE

if TYPE_CHECKING:
    from knowngood.explaining import KnownGood

Items = ImageSet | TableSet
Representation = Pixels | Features | Table
Unknown = Literal["error", "infer"]
READERS = 4  # threads
MOST_ROWS = 512  # scored at a time, fewer where images are large
VALUES = 1 << 22  # of all rows scored at a time
ITEMS = 4  # times as many items are read at a time
MOST_EXPANDED = 1 << 17  # rows held at a time


class Chunk(NamedTuple):
    """Rows to score: an item may have several, one for each condition it could have."""

    rows: slice  # in the expanded conditions
    x: Tensor  # (R, *shape), scaled, on the device
    c: Tensor | None  # (R, W)
    stratum: Tensor  # (R,)


class Judgement(NamedTuple):
    """What is said of N items. Items that could not be read have NaN and a reason in `errors`."""

    anomaly_score: np.ndarray  # (N,) comparable across conditions; flagged above `Pipeline.limit`
    p_value: np.ndarray  # (N,)
    parts: dict[str, np.ndarray]  # (N,) each, under the condition in `best`
    best: Expanded  # one row an item: its conditions, or those that explain it best where some were unknown
    errors: dict[int, str]


class Mapped(NamedTuple):
    """An image's raw score, the stratum of its condition, and its anomaly map (H, W) at its own size."""

    value: float
    stratum: int
    map: np.ndarray


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
    hidden: Calibration | None = None  # of scores with the conditions summed out softly
    left_out: bool = False  # whether the images that calibrated were learned from, each left out in turn
    objective_state: dict[str, Tensor] = field(default_factory=dict)  # what the objective keeps: relevances, heads
    known_good: KnownGood | None = None  # the good images fitted on, for explanations
    maps_of_normals: MapCalibration | None = None  # of a model on features
    ignore: IgnoreRegions | None = None

    def __post_init__(self) -> None:
        patches = self.model.patches
        self._ignored: Ignored | None = None
        if self.ignore is not None and patches is not None:
            self._ignored = Ignored.of(self.ignore, self.schema, patches.keys.cpu().numpy())
        if len(self.model.shape) == 3:  # convolutions are faster so, and their maps stay so from layer to layer
            self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @property
    def _conditional(self) -> bool:
        """Whether the model sees the conditions of images."""
        patches = self.model.patches
        return bool(self.model.condition_dim if patches is None else patches.keys.shape[1])

    @property
    def _blanks(self) -> bool:
        """Whether ignored pixels are hidden from the backbone. Before images are aligned these are not known."""
        return self._ignored is not None and self.settings.align == "none"

    def _views(self, images: ImageSet, expanded: Expanded) -> Views:
        patches = self.model.patches
        assert patches is not None
        assert self._ignored is not None
        assert isinstance(self.representation, Features)
        c = torch.from_numpy(expanded.c).to(patches.keys.device) if self._conditional else None
        cell = patches.cell(c, len(expanded.item)).cpu().numpy()
        return self._ignored.views(images, expanded.item, cell, self.representation.pixels.low)

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
        return self._calibrated().pooled_threshold

    def expand(self, items: Items, unknown: Unknown | None = None) -> Expanded:
        """The rows to score for items with the conditions they carry."""
        return self.schema.expand(items.conditions, len(items), unknown=unknown or self.settings.unknown)

    def rows(self, items: Items, expanded: Expanded, errors: dict[int, str]) -> Iterator[Chunk]:
        """Read, prepare and scale items a part at a time. Unreadable ones are blank and named in `errors`."""
        self._check_kind(items)
        every = np.arange(len(items) + 1)
        starts = np.searchsorted(expanded.item, every)
        seen, views, at = items, every, expanded.item
        if self._blanks and isinstance(items, ImageSet):
            seen, owner, at = self._views(items, expanded)
            views = np.searchsorted(owner, every)
        beyond = 0
        at_once = rows_at_once(self.representation.shape)
        for first in range(0, len(items), ITEMS * at_once):
            stop = min(first + ITEMS * at_once, len(items))
            native, bad = self.representation.read(seen, np.arange(views[first], views[stop]), workers=READERS)  # type: ignore[arg-type]
            errors.update({int(np.searchsorted(views, i, side="right")) - 1: why for i, why in bad.items()})
            if isinstance(self.representation, Pixels):
                beyond += self.representation.out_of_range(native)
            pixels = torch.from_numpy(native).to(self.device)
            for start in range(starts[first], starts[stop], at_once):
                rows = slice(start, min(start + at_once, starts[stop]))
                item = at[rows] - views[first]
                if (np.diff(item) == 1).all():  # one row an item: a view, no copy
                    x = pixels[item[0] : item[-1] + 1]
                else:
                    x = pixels[torch.from_numpy(item).to(self.device)]
                x = self.representation.scale(x)
                x = x.contiguous(memory_format=torch.channels_last) if len(self.model.shape) == 3 else x
                c = torch.from_numpy(expanded.c[rows]).to(self.device) if self._conditional else None
                yield Chunk(rows, x, c, torch.from_numpy(expanded.stratum[rows]).to(self.device))
        if beyond and isinstance(self.representation, Pixels):
            warnings.warn(
                f"{beyond} of {len(items)} images hold values outside the recorded range "
                f"({self.representation.rule}); they are scored as they are, not clipped",
                stacklevel=2,
            )

    @torch.no_grad()
    def raw_scores(self, items: Items, expanded: Expanded) -> tuple[np.ndarray, dict[str, np.ndarray], dict[int, str]]:
        """Score of every row (M,), its named parts (M,) each, and reasons for unreadable items (their rows are NaN).

        Of an image in tiles the largest score of a tile, and the parts of that one.
        """
        tiles = self.tiles(items)
        seen, rows, row = (items, expanded, None) if tiles is None else (tiles.images, *tiles.expand(expanded))
        errors: dict[int, str] = {}
        found: list[np.ndarray] = []
        parts: dict[str, list[np.ndarray]] = {}
        for _, result in self._scored(seen, rows, errors):
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
    def _scored(
        self, items: Items, expanded: Expanded, errors: dict[int, str], want_map: bool = False
    ) -> Iterator[tuple[Chunk, ScoreResult]]:
        self.model.eval()
        for chunk in self.rows(items, expanded, errors):
            yield chunk, self.score.score(self.model, self.state, chunk.x, chunk.c, chunk.stratum, want_map=want_map)

    def tiles(self, items: Items) -> Tiles | None:
        """The tiles of images, if the model sees tiles."""
        if self.settings.tile is None:
            return None
        self._check_kind(items)
        assert isinstance(items, ImageSet)
        return Tiles.of(items, self.settings.tile, self.settings.tile_overlap)

    def judge(self, items: Items, *, unknown: Unknown | None = None, alpha: float | None = None) -> Judgement:
        """Scores and p-values of items; conditions that are not known are summed out.

        Hard: an item is as normal as its best condition makes it, p = max_c p_c and the anomaly score is the smallest.
        Soft: S = −log Σ_c π_c exp(−S_c), compared with calibration normals whose conditions were hidden too; for items
        of which no condition is known, by a model that was fitted with unknown="infer" and scores a likelihood.
        """
        parts = [self._judge(part, unknown, alpha) for part in self._portions(items)]
        if len(parts) == 1:
            return parts[0]
        starts = np.cumsum([0] + [len(part.p_value) for part in parts])
        return Judgement(
            np.concatenate([part.anomaly_score for part in parts]),
            np.concatenate([part.p_value for part in parts]),
            {name: np.concatenate([part.parts[name] for part in parts]) for name in parts[0].parts},
            joined([part.best for part in parts]),
            {int(start) + i: why for start, part in zip(starts, parts, strict=False) for i, why in part.errors.items()},
        )

    def _judge(self, items: Items, unknown: Unknown | None, alpha: float | None) -> Judgement:
        calibration = self._calibrated()
        expanded = self.expand(items, unknown)
        values, parts, errors = self.raw_scores(items, expanded)
        n = len(items)
        score, p, row = np.full(n, np.nan), np.full(n, np.nan), np.searchsorted(expanded.item, np.arange(n))
        at = np.flatnonzero(~np.isnan(values))  # rows of items that could be read
        read, item = np.unique(expanded.item[at], return_inverse=True)
        stratum = expanded.stratum[at]
        shifted = calibration.anomaly_score(values[at], stratum)
        score[read] = hard(shifted, item)
        p[read] = hard_p_values(calibration.p_values(values[at], stratum, alpha=alpha), item)
        row[read] = at[best_rows(shifted, item)]
        if self.hidden is not None:
            summed_out = self._summed_out(expanded)[expanded.item[at]]
            at, item = at[summed_out], item[summed_out]
            which, item = np.unique(item, return_inverse=True)
            if len(at):
                which = read[which]
                summed = soft(values[at], item, expanded.log_weight[at])
                score[which] = self._on_common_scale(summed)
                p[which] = self.hidden.p_values(summed, alpha=alpha)
                row[which] = at[best_rows(values[at], item, expanded.log_weight[at])]
        return Judgement(score, p, {name: part[row] for name, part in parts.items()}, take(expanded, row), errors)

    def calibrate(self, normals: Items) -> None:
        """Set the calibration from normals that took no part in training; with features that of maps too."""
        alpha, names = self.settings.alpha, self.schema.stratum_names
        self.left_out = False
        if self.model.patches is None:
            known = [self._calibration_scores(part, part.conditions, "error") for part in self._portions(normals)]
            values, strata = (np.concatenate(column) for column in zip(*known, strict=True))
        else:
            assert isinstance(normals, ImageSet)
            expanded = self.expand(normals, "error")
            values, strata = np.empty(len(normals)), expanded.stratum

            def maps() -> Iterator[np.ndarray]:
                for i, one in enumerate(self._mapped(normals, expanded)):
                    values[i] = one.value
                    yield one.map

            self.maps_of_normals = MapCalibration.fit(maps(), strata, names, alpha=alpha)
        self.calibration = Calibration.fit(values, strata, names, alpha=alpha)
        self.hidden = None
        if sums_softly(self.settings, self.score, self.schema):
            summed = [self._calibration_scores(part, {}, "infer")[0] for part in self._portions(normals)]
            self.hidden = Calibration.fit(np.concatenate(summed), alpha=alpha)

    def calibrate_left_out(self, normals: Items) -> None:
        """Set the calibration from the images that were learned from, each as if it had been left out.

        Nothing is set aside then. Scores are what a model of one image less gives; p-values are not promised to hold as
        those of images set aside are, though they do as far as one image of many changes little.
        """
        score = self.score
        assert isinstance(score, PatchScore)
        self.score = LeftOut(score.inner, score.smoothing)
        try:
            self.calibrate(normals)
        finally:
            self.score = score
        self.left_out = True

    def _calibration_scores(self, normals: Items, conditions: Any, unknown: Unknown) -> tuple[np.ndarray, np.ndarray]:
        expanded = self.schema.expand(conditions, len(normals), unknown=unknown)
        values, _, errors = self.raw_scores(normals, expanded)
        if errors:
            i, reason = next(iter(errors.items()))
            raise DataError(f"{normals.ids[i]}: {reason}; {len(errors)} calibration images cannot be read")
        return soft(values, expanded.item, expanded.log_weight), expanded.stratum[segment_starts(expanded.item)]

    def maps(self, items: Items, *, unknown: Unknown | None = None) -> list[np.ndarray]:
        """Anomaly map of each item under its best condition, (H, W) at the size of the original image.

        NaN where a region is ignored.
        """
        self.check_maps()
        assert isinstance(items, ImageSet)
        return [one.map for one in self._mapped(items, self._best(items, unknown))]

    def regions(
        self, items: Items, *, unknown: Unknown | None = None, alpha: float | None = None, min_area: int = 1
    ) -> Iterator[list[Region]]:
        """Of each image its regions: connected pixels above what few good images of its stratum exceed anywhere.

        Raises:
            SettingsError: the model is not on features, and so has no calibration of its maps.
        """
        known = self.check_regions()
        assert isinstance(items, ImageSet)
        for one in self._mapped(items, self._best(items, unknown)):
            threshold, maxima = known.threshold(alpha, one.stratum), known.maxima(alpha, one.stratum)
            yield find_regions(one.map, threshold, min_area=min_area, maxima=maxima)

    def _mapped(self, items: ImageSet, expanded: Expanded) -> Iterator[Mapped]:
        """Each image under its one row in `expanded`; of those in tiles the maps put together. One map is held.

        Raises:
            DataError: an item cannot be read.
        """
        tiles = self.tiles(items)
        seen, rows = (items, expanded) if tiles is None else (tiles.images, tiles.expand(expanded)[0])
        shapes, owner = seen.shapes(), np.arange(len(items)) if tiles is None else tiles.owner
        aligned = isinstance(self.representation, Features) and self.settings.align != "none"
        errors: dict[int, str] = {}
        merger, value = None, -math.inf
        for chunk, result in self._scored(seen, rows, errors, want_map=True):
            self._refuse(seen, errors)
            assert result.map is not None
            cells = np.zeros(len(chunk.x), dtype=int)
            if self._ignored is not None and self.model.patches is not None:
                cells = self.model.patches.cell(chunk.c, len(chunk.x)).cpu().numpy()
            lay: list[Any] = [None] * len(cells)
            if aligned:
                assert isinstance(self.representation, Features)
                lay = self.representation.transforms(seen, np.arange(len(seen))[chunk.rows], workers=READERS)
            found = zip(result.map.cpu().numpy(), result.values.tolist(), cells, lay, strict=True)
            for at, (one, score, cell, transform) in enumerate(found, chunk.rows.start):
                whole = self.restored(one, (int(shapes[at][0]), int(shapes[at][1])), int(cell), transform)
                i = int(owner[at])
                if tiles is None:
                    yield Mapped(score, int(expanded.stratum[i]), whole)
                    continue
                if merger is None:
                    merger, left = tiles.merger(i), iter(())
                    left, value = iter(merger.tiles), -math.inf
                merger.add(next(left), whole)
                value = max(value, score)
                if at + 1 == len(owner) or owner[at + 1] != i:
                    yield Mapped(value, int(expanded.stratum[i]), merger.result())
                    merger = None

    def restored(
        self, values: np.ndarray, shape: tuple[int, ...], cell: int = 0, transform: Transform | None = None
    ) -> np.ndarray:
        """A map over what the nets see → over the image of shape (H, W[, C]), NaN where a region is ignored.

        Args:
            cell: of the image's conditions, see `Patches.cell`.
            transform: where the image lay, if it was aligned.
        """
        assert not isinstance(self.representation, Table)
        if not isinstance(self.representation, Features):
            return self.representation.restore(values, shape)
        whole = self.representation.restore(filled(values), shape, transform)
        if self._ignored is not None:
            mask = self._ignored.mask((int(shape[0]), int(shape[1])), cell)
            whole[mask if transform is None else moved(mask, transform)] = np.nan
        return whole

    def check_regions(self) -> MapCalibration:
        """What normals' maps say; SettingsError if this model does not know."""
        self.check_maps()
        if self.maps_of_normals is None:
            raise SettingsError(
                "regions need a model on features; fit with features='efficientnet_lite0', or take anomaly_maps"
            )
        return self.maps_of_normals

    def check_maps(self) -> None:
        """Raise SettingsError if this model has no anomaly maps."""
        if isinstance(self.representation, Table):
            raise SettingsError("maps are for images; this model was fitted on a table")
        if not self.score.has_map:
            raise SettingsError(
                f"score '{self.score.options.name}' has no map; fit with scoring='elbo' or 'reconstruction'"
            )

    @torch.no_grad()
    def reconstruct(self, items: Items, *, unknown: Unknown | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Model inputs and reconstructions under the best condition, both (N, *shape), scaled.

        With features both are features (N, F, h, w), the reconstruction in their own units.

        Raises:
            SettingsError: the model sees tiles.
        """
        if self.settings.tile is not None:
            raise SettingsError("a model on tiles makes no reconstruction of whole images; ask for anomaly maps")
        seen, made = [], []
        for chunk in self._best_rows(items, unknown):
            seen.append(chunk.x.cpu().numpy())
            patches = self.model.patches
            if patches is None:
                made.append(self.model.reconstruct(chunk.x, chunk.c).cpu().numpy())
            else:
                rows = self.model.reconstruct(*patches.split(chunk.x, chunk.c))
                made.append(patches.unwhiten(rows, chunk.c).cpu().numpy())
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
        for chunk in self._best_rows(items, unknown):
            patches = self.model.patches
            if patches is None:
                found.append(self.model.encode(chunk.x, chunk.c).mean)
            else:
                mean = self.model.encode(*patches.split(chunk.x, chunk.c)).mean
                found.append(mean.unflatten(0, (len(chunk.x), -1)).mean(1))
        return np.concatenate([part.cpu().numpy() for part in found])

    def _best_rows(self, items: Items, unknown: Unknown | None) -> Iterator[Chunk]:
        """One row an item: where a condition is unknown, that under which the item is least anomalous.

        Raises:
            DataError: an item cannot be read.
        """
        self.model.eval()
        errors: dict[int, str] = {}
        for chunk in self.rows(items, self._best(items, unknown), errors):
            self._refuse(items, errors)
            yield chunk

    def _best(self, items: Items, unknown: Unknown | None) -> Expanded:
        """One row an item: where a condition is unknown, that under which the item is least anomalous."""
        parts = [self.expand(part, unknown) for part in self._portions(items)]
        told = all(part.known.all() for part in parts)
        return joined(parts) if told else self.judge(items, unknown=unknown).best

    def _refuse(self, items: Items, errors: dict[int, str]) -> None:
        if errors:
            i, reason = next(iter(errors.items()))
            raise DataError(f"{items.ids[i]}: {reason}. `detect` sets such images aside; leave them out here.")

    def _portions(self, items: Items) -> Iterator[Items]:
        """Parts of the items with at most some 100,000 rows each, should all conditions be unknown."""
        size = max(1, MOST_EXPANDED // max(1, len(self.schema.cells)))
        return (items[start : start + size] for start in range(0, max(1, len(items)), size))

    def _check_kind(self, items: Items) -> None:
        if isinstance(items, ImageSet) == isinstance(self.representation, Table):
            given, wanted = ("images", "a table") if isinstance(items, ImageSet) else ("a table", "images")
            shape = self.representation.shape
            raise DataError(f"{given} given; this model was fitted on {wanted} of shape {shape}")

    def _calibrated(self) -> Calibration:
        if self.calibration is None:
            raise DataError("this model is not calibrated")
        return self.calibration

    def _summed_out(self, expanded: Expanded) -> np.ndarray:
        """(N,) True for items of which no condition is known: those that `hidden` was calibrated for."""
        counts = np.bincount(expanded.item, minlength=len(expanded.known))
        return ~expanded.known & (counts == len(self.schema.cells))

    def _on_common_scale(self, summed: np.ndarray) -> np.ndarray:
        """Softly summed scores shifted so that `limit` is their threshold too."""
        assert self.hidden is not None
        own, common = self.hidden.pooled_threshold, self.limit
        if not np.isfinite(own) or not np.isfinite(common):
            return summed
        shifted = summed - (own - common)
        above = np.maximum(shifted, np.nextafter(common, np.inf))
        return np.where(summed > own, above, np.minimum(shifted, common))


def sums_softly(settings: Settings, score: Score, schema: ConditionSchema) -> bool:
    """Whether conditions of which none is known are averaged over, rather than the best one taken.

    Raises:
        SettingsError: that was asked for, and the score is no likelihood.
    """
    rule = choose_rule(settings.marginalise, score.is_likelihood, score.options.name)
    inferable = len(schema.cells) > 1 and all("infer" in column.roles for column in schema.columns)
    return rule == "soft" and settings.unknown == "infer" and inferable


def rows_at_once(shape: tuple[int, ...]) -> int:
    """How many items of this shape go through the nets together."""
    return max(1, min(MOST_ROWS, VALUES // math.prod(shape)))


def take(expanded: Expanded, rows: np.ndarray) -> Expanded:
    """The given rows, one an item, in item order."""
    return Expanded(
        c=expanded.c[rows],
        stratum=expanded.stratum[rows],
        item=np.arange(len(rows)),
        log_weight=np.zeros(len(rows)),
        known=expanded.known,
        label=[expanded.label[row] for row in rows],
    )


def joined(parts: list[Expanded]) -> Expanded:
    """Parts of one row an item, one after the other."""
    return Expanded(
        c=np.concatenate([part.c for part in parts]),
        stratum=np.concatenate([part.stratum for part in parts]),
        item=np.arange(sum(len(part.item) for part in parts)),
        log_weight=np.concatenate([part.log_weight for part in parts]),
        known=np.concatenate([part.known for part in parts]),
        label=[text for part in parts for text in part.label],
    )
