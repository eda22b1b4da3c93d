"""Images as feature maps of a frozen backbone on a grid of locations, and the way back for maps.

With `align`, invariant to small shifts (rotations, scalings) against the mean normal image, or to where and in which
direction a part lies; with `illumination`, to a change of brightness by a factor. Otherwise as invariant as the
backbone: pretrained networks tolerate small changes of brightness and contrast, and each location keeps its position.
"""

from __future__ import annotations

import math
import shutil
import tempfile
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field, PrivateAttr
from torch import Tensor, nn

from knowngood.config import FeatureOptions, loaded
from knowngood.config.words import in_pixels
from knowngood.data.columns import Column
from knowngood.data.imageset import ImageSet
from knowngood.data.pose.part import Posed, unposed
from knowngood.data.progress import track
from knowngood.errors import ArtifactError, DataError, SettingsError
from knowngood.representations.alignment.pose import LEAST_AREA, Pose, PosedPixels, area_for, crop_size
from knowngood.representations.alignment.references import References, unchanged
from knowngood.representations.alignment.warping import Transform, unwarp
from knowngood.representations.backbones import Backbone
from knowngood.representations.base import Fitted, raise_first
from knowngood.representations.pixels import Pixels, Size, resized, upsampled
from knowngood.representations.tiled import GAUSSIANS, Tiling, alike, median_size

Resample = Callable[[Tensor, tuple[int, int]], Tensor]
HALF_LIMIT = 6e4  # float16 ends at 65,504
ROUNDING = 0.01  # of a feature's spread that rounding to float16 may cost
PROBED, PROBED_LARGE = 3, 8  # training images from which widths and dtype are determined; of those in tiles
COARSE = 24  # locations a side at which large pictures are compared
CACHED = 64  # images read at a time into the features of all
BATCH, BATCH_ON_CPU = 64, 2  # images in the backbone at a time: on a CPU few fit its cache
Located = Transform | Posed
NOT_FINITE = "its features are NaN or infinite"
REFERENCES, POSE = "references.", "pose."  # prefixes of the tensors that are not the backbone's


class Features(Fitted):
    """How images become features (F, h, w). Fitted once; plain JSON, and a backbone beside it.

    Images are prepared by `pixels`, scaled to 0…1, registered to the mean normal image and corrected to its mean
    illumination if the options `align` and `illumination` say so. Grey images become three equal channels. Every map
    of the backbone is averaged over `average`² cells (at a border over those inside), resampled to `grid`, and
    concatenated with the others along the features (as in arXiv:2106.08265, section 3.1).

    grid: (h, w), the image's sides over `stride`, rounded.
    widths: features of each map; their sum is F.
    fingerprint: of the backbone; another one is refused.
    network: what the backbone, if it is saved with the model, is beside its options and tensors.
    stored: dtype that `read` gives: float16, unless rounding costs some feature 1 % of its standard deviation.
    references: mean normal images and illuminations, None if images are taken as they are. The conditions of an image
        say which kind it is.
    pose: how parts that lie in any position and direction are normalised; None if images are taken as they lie.
    tiling: the tiles that the backbone sees large pictures in; None if it sees them as a whole. What follows, from the
        grid to the map, is of the whole picture either way.
    """

    options: FeatureOptions
    pixels: Pixels
    grid: tuple[int, int]
    widths: tuple[int, ...]
    fingerprint: str
    network: dict[str, Any] = Field(default_factory=dict)
    stored: Literal["float16", "float32"]
    references: References | None = None
    pose: Pose | None = None
    tiling: Tiling | None = None

    _backbone: Any = PrivateAttr(None)
    _seconds: float = PrivateAttr(0.0)
    _alike: bool = PrivateAttr(False)
    _device: torch.device = PrivateAttr(torch.device("cpu"))

    @classmethod
    def fit(
        cls,
        images: ImageSet,
        options: FeatureOptions,
        backbone: Backbone | None = None,
        columns: tuple[Column, ...] = (),
        tile: tuple[int, float] | None = None,
        cells: int = 1,
        shares: bool = False,
    ) -> Features:
        """From the training images. Without an `image_size` they keep their aspect; for their pixels see `area_for`.

        Args:
            backbone: an object of your own, for the backbone "own" only.
            columns: conditions of the images, whose values define kinds with a reference of their own.
            tile: side in pixels of the images, and share of it by which tiles overlap. Images then keep their
                resolution, and unless it is given the stride is as large as the memory of a Gaussian at every location
                for each of `cells` conditions asks for.
            shares: where locations of tiled pictures look alike the model has one Gaussian, which asks for little.

        Raises:
            SettingsError: the backbone or its weights are missing or superfluous, or the stride is larger than the
                image.
            DataError: as `Pixels.fit` and `References.fit`; images with other than 1 or 3 channels; a backbone that
                breaks its contract.
        """
        if backbone is None:
            backbone = options.backbone.build()
        elif options.backbone.name != "own":
            raise SettingsError(
                f"a backbone of your own goes with the option backbone='own', not with '{options.backbone.name}'"
            )
        assert backbone is not None
        pose = None if tile else pose_of(images, options)
        if options.align == "auto":
            options = options.model_copy(update={"align": "none" if pose is None else "pose"})
        images, tiling, median = posed_images(images, pose), None, None
        if tile:
            median = median_size(images)
            tiling = Tiling.of(median, *tile, options)
            size: Any = tiling.size
        else:
            size = options.image_size if pose is None and options.image_size else size_of(images, pose)
        sized = options.model_copy(update={"image_size": size})
        pixels = Pixels.fit(images, sized).model_copy(update={"about": median})
        channels, height, width = pixels.shape
        if channels not in (1, 3):
            raise DataError(f"features need grey or colour images (1 or 3 channels); these have {channels} channels")
        if options.stride > min(height, width):
            raise SettingsError(
                f"features: stride = {options.stride} is larger than the resized image, {in_pixels((height, width))} px"
            )
        draft = cls(
            options=options,
            pixels=pixels,
            grid=(1, 1),
            widths=(),
            fingerprint=backbone.fingerprint(),
            network=backbone.description() if options.backbone.restore else {},  # type: ignore[attr-defined]
            stored="float32",
            references=References.fit(images, pixels, sized, columns),
            pose=pose,
            tiling=tiling,
        )
        draft._adopt(backbone)
        probed = PROBED if tiling is None else PROBED_LARGE
        chosen = np.unique(np.linspace(0, len(images) - 1, probed).astype(int))
        start = time.perf_counter()
        maps: list[Tensor] = []
        reduced = draft.model_copy(update={"grid": (min(COARSE, height), min(COARSE, width))})
        coarse = []
        for rows in [chosen] if tiling is None else chosen[:, None]:
            prepared, errors = pixels.read(images, rows)
            raise_first(images.ids, errors)
            found = draft._maps(draft._scaled(prepared, images, rows)[0])
            maps = maps or found
            if tiling is not None and shares:
                coarse.append(reduced.on_grid(found))
        draft._seconds = (time.perf_counter() - start) / len(chosen)
        widths = tuple(m.shape[1] for m in maps)
        draft._alike = bool(coarse) and alike(torch.cat(coarse))
        if tiling is not None and "stride" not in options.model_fields_set:
            stride = tiling.stride(sum(widths), len(images), 0 if draft._alike else cells, options.stride)
            options = options.model_copy(update={"stride": stride})
        grid = round(height / options.stride), round(width / options.stride)
        if tiling is None and options.image_size is None and "stride" not in options.model_fields_set:
            grid = grid_within(grid, (height, width), sum(widths), cells)
        draft = draft.model_copy(update={"options": options, "grid": grid})
        probe = draft.on_grid(maps)
        if not probe.isfinite().all():
            raise DataError(f"{images.name}: the backbone makes NaN or infinite features of the training images")
        stored = "float16" if _fits_half(probe) else "float32"
        return draft.model_copy(update={"widths": widths, "stored": stored})

    # What the model sees ----------------------------------------------------------------------------------------------

    @property
    def unseen(self) -> tuple[str, ...]:
        return self.pixels.unseen

    @property
    def shape(self) -> tuple[int, int, int]:
        return (sum(self.widths), *self.grid)

    @property
    def bytes_per_image(self) -> int:
        return int(np.prod(self.shape)) * np.dtype(self.stored).itemsize

    @property
    def alike(self) -> bool:
        """Whether the locations of large pictures look alike, and so share a Gaussian; false if it was loaded."""
        return self._alike

    @property
    def seconds(self) -> float:
        """How long the features of an image took when this was fitted; 0 if it was loaded."""
        return self._seconds

    def check(self, shape: tuple[int, ...], dtype: Any) -> None:
        self.pixels.check(shape, dtype)

    def read(
        self, images: ImageSet, index: np.ndarray | None = None, workers: int = 0
    ) -> tuple[np.ndarray, dict[int, str]]:
        """Features (M, F, h, w) of images, and why some have none: `read_and_locate` without transforms."""
        return self.read_and_locate(images, index, workers)[:2]

    def read_and_locate(
        self, images: ImageSet, index: np.ndarray | None = None, workers: int = 0
    ) -> tuple[np.ndarray, dict[int, str], list[Located]]:
        """As `Representation.read`, and the transform of each image, see `transforms`.

        The dtype is `stored`, or float32 if a feature of these images exceeds float16.

        Raises:
            DataError: images of an array, all alike, do not fit.
        """
        index = np.arange(len(images)) if index is None else index
        features = np.zeros((len(index), *self.shape), dtype=self.stored)
        errors: dict[int, str] = {}
        transforms: list[Located] = []
        size = BATCH_ON_CPU if self._device.type == "cpu" else BATCH
        size = size if self.tiling is None else 1
        for rows, prepared, located, bad in self._registered(images, index, workers, size):
            values = self.on_grid(self._maps(prepared)).cpu().numpy()
            finite = np.isfinite(values).reshape(len(rows), -1).all(axis=1)
            bad = {**{int(i): NOT_FINITE for i in rows[~finite]}, **bad}
            values[[int(i) in bad for i in rows]] = 0
            large = np.abs(values).reshape(len(rows), -1).max(axis=1) > HALF_LIMIT
            if large.any():
                features = features.astype(np.float32, copy=False)
            # Rounded as stored, whatever else is in the batch.
            values[~large] = values[~large].astype(self.stored)
            start = len(transforms)
            features[start : start + len(rows)] = values
            transforms += located
            errors.update(bad)
        return features, errors, transforms

    def unscale(self, x: Tensor) -> Tensor:
        """Features as they are: they have no raw units."""
        return x

    def seen(self, images: ImageSet) -> ImageSet:
        """The images whose pixels are read: with a pose the normalised pictures."""
        return posed_images(images, self.pose)

    def transforms(self, images: ImageSet, index: np.ndarray | None = None) -> list[Located]:
        """Transforms (M,) of the images at `index` to their mean normal image; not `accepted`: left as it is."""
        index = np.arange(len(images)) if index is None else index
        if self.references is None and self.pose is None:
            return [unchanged(self.pixels.shape[1:])] * len(index)
        return [one for _, _, located, _ in self._registered(images, index, 0, BATCH) for one in located]

    def to_image(self, map: np.ndarray, source_shape: tuple[int, ...], transform: Located | None = None) -> np.ndarray:
        """Maps over the grid (..., h, w) → (..., H, W) float32 over the source image of shape (H, W[, C]).

        Bilinear between the centres of cells, constant beyond the outermost. With a `transform`, back to the position
        of the source image; where it shows what the reference does not, the smallest value. Then as `Pixels.to_image`.
        """
        if map.shape[-2:] != self.grid:
            raise ValueError(f"a map has shape {map.shape}; expected (..., {self.grid[0]}, {self.grid[1]})")
        size = self.pixels.shape[1:]
        full = upsampled(map, size)
        if transform is not None and not transform.identity:
            flat = full.reshape(-1, *size)
            if isinstance(transform, Posed):
                target = int(source_shape[0]), int(source_shape[1])
                return np.stack([unposed(one, transform, target) for one in flat]).reshape(*full.shape[:-2], *target)
            lowest = np.fmin.reduce(flat, axis=(1, 2))
            moved = [unwarp(one - low, transform, size) + low for one, low in zip(flat, lowest, strict=True)]
            full = np.stack(moved).reshape(full.shape)
        return self.pixels.to_image(full, source_shape)

    # The backbone ---------------------------------------------------------------------------------------------------

    @property
    def backbone(self) -> Backbone:
        """The frozen network. Raises ArtifactError: it is one of your own, and was not given."""
        return self._ready()

    def to(self, device: str | torch.device) -> Features:
        """Move the backbone to a device, in place, if it is a module; `read` works there."""
        if isinstance(self._backbone, nn.Module):
            self._backbone.to(device)
            self._device = torch.device(device)
        return self

    def state(self) -> dict[str, Tensor]:
        """The tensors of the backbone (none of one of your own), and the references."""
        references = {} if self.references is None else self.references.state()
        pose = {} if self.pose is None else self.pose.state()
        weights = dict(self._ready().state_dict()) if self.options.backbone.restore else {}
        apart = {REFERENCES + name: tensor for name, tensor in references.items()}
        return weights | apart | {POSE + name: tensor for name, tensor in pose.items()}

    def with_state(self, tensors: Mapping[str, Tensor]) -> Features:
        """A copy with the tensors that `state` gave; a backbone of your own is still missing, see `with_backbone`.

        Raises ArtifactError: they are not the tensors of this backbone, or the references are missing.
        """
        weights = {name: tensor for name, tensor in tensors.items() if not name.startswith((REFERENCES, POSE))}
        apart = {name: tensor for name, tensor in tensors.items() if name not in weights}
        references, pose = (
            None if part is None else part.with_state({n.removeprefix(prefix): t for n, t in apart.items()})
            for part, prefix in ((self.references, REFERENCES), (self.pose, POSE))
        )
        copy = self.model_copy(update={"references": references, "pose": pose})
        chosen = self.options.backbone
        if not chosen.restore:
            return copy
        return copy.with_backbone(loaded(chosen.restore)(chosen, self.network, weights))

    def with_backbone(self, backbone: Backbone) -> Features:
        """A copy with this backbone. Raises ArtifactError: it is another one than the model was fitted on."""
        given = backbone.fingerprint()
        if given != self.fingerprint:
            raise ArtifactError(
                f"the model was fitted on features of the backbone '{self.fingerprint}'; this one is '{given}'"
            )
        copy = self.model_copy()
        copy._adopt(backbone)
        return copy

    # Inside ---------------------------------------------------------------------------------------------------------

    def _adopt(self, backbone: Backbone) -> None:
        self._backbone, self._device = backbone, torch.device("cpu")
        if isinstance(backbone, nn.Module):
            backbone.eval()
            tensors = chain(backbone.parameters(), backbone.buffers())
            self._device = next((t.device for t in tensors), self._device)

    def _ready(self) -> Any:
        if self._backbone is None:
            raise ArtifactError(
                f"this model needs your own backbone '{self.fingerprint}', which a saved model does not contain; pass "
                "the object: Detector.load(FOLDER, backbone=…). The commands need a backbone that is saved with the "
                "model: fit with an ONNX file or a folder of Hugging Face"
            )
        return self._backbone

    def _registered(
        self, images: ImageSet, index: np.ndarray, workers: int, size: int
    ) -> Iterator[tuple[np.ndarray, Tensor, list[Located], dict[int, str]]]:
        """The images at `index`, `size` at a time: (which, scaled and registered images, transforms, errors)."""
        images = self.seen(images)
        for start in range(0, len(index), size):
            rows = index[start : start + size]
            prepared, bad = self.pixels.read(images, rows, workers)
            x, transforms = self._scaled(prepared, images, rows)
            for at in np.flatnonzero(np.isin(rows, list(bad))):
                transforms[at] = unchanged(self.pixels.shape[1:], bad[int(rows[at])])
            yield rows, x, transforms, bad

    def _scaled(self, prepared: np.ndarray, images: ImageSet, rows: np.ndarray) -> tuple[Tensor, list[Located]]:
        """Scaled and registered images, and their transforms, of the prepared ones at `rows`."""
        x = self.pixels.scale(torch.from_numpy(prepared).to(self._device if self.references is None else "cpu"))
        transforms: list[Located] = [unchanged(self.pixels.shape[1:])] * len(rows)
        if self.references is not None:
            conditions = {name: np.asarray(values)[rows] for name, values in images.conditions.items()}
            x, transforms = self.references.register(x, self.references.kinds(conditions, len(rows)))  # type: ignore[assignment]
        if isinstance(images.pixels, PosedPixels):
            found = images.pixels.found
            transforms = [found.pop(int(row), transform) for row, transform in zip(rows, transforms, strict=True)]
        return x, transforms

    @torch.no_grad()
    def _maps(self, images: Tensor) -> list[Tensor]:
        """Scaled images (B, C, H, W) → the backbone's maps (B, F_i, h_i, w_i), checked."""
        images = images.to(self._device).expand(-1, 3, -1, -1)
        return self._seen(images) if self.tiling is None else self.tiling.stitched(images, self._seen)

    def _seen(self, images: Tensor) -> list[Tensor]:
        """The backbone's maps of images, or tiles of images (B, 3, H, W)."""
        maps = list(self._ready().features(images))
        shapes = [tuple(m.shape) for m in maps]
        if not maps or any(len(shape) != 4 or shape[0] != len(images) for shape in shapes):
            raise DataError(
                f"the backbone made {shapes} of {len(images)} images; expected maps ({len(images)}, F, h, w)"
            )
        if self.widths and tuple(shape[1] for shape in shapes) != self.widths:
            expected = " and ".join(map(str, self.widths))
            raise DataError(f"the backbone made {shapes}; the model was fitted on maps of {expected} features")
        return maps

    @torch.no_grad()
    def on_grid(self, maps: list[Tensor], resample: Resample = resized) -> Tensor:
        """Maps (B, F_i, h_i, w_i) → averaged, resampled and concatenated: (B, F, h, w) float32.

        `resample` brings maps to a size, by antialiased bilinear interpolation.
        """
        side, on_grid = self.options.average, []
        for m in maps:
            m = F.avg_pool2d(m.float(), side, 1, side // 2, count_include_pad=False) if side > 1 else m.float()
            if tuple(m.shape[-2:]) != self.grid:
                m = resample(m, self.grid)
            on_grid.append(m)
        return torch.cat(on_grid, dim=1)


def pose_of(images: ImageSet, options: FeatureOptions) -> Pose | None:
    """The pose normalisation that the option `align` asks for; of "auto" None where parts lie in one position."""
    if options.align not in ("auto", "pose") or (options.align == "auto" and (options.crop or options.pad)):
        return None
    size = options.image_size
    area = None if size is None else size * size if isinstance(size, int) else size[0] * size[1]
    return Pose.fit(images, area=area, needed=options.align == "pose")


def posed_images(images: ImageSet, pose: Pose | None) -> ImageSet:
    """The images with their parts in one pose; the images themselves without one."""
    return images if pose is None else images.replace(pixels=PosedPixels(images.pixels, pose))


def size_of(images: ImageSet, pose: Pose | None) -> tuple[int, int]:
    """(H, W), multiples of 32: with the median aspect and number of pixels of the images, or as the pose has it."""
    if pose is not None:
        return pose.size
    height, width = images.shapes()[:, :2].astype(float).T
    aspect = float(np.exp(np.median(np.log(height / width))))
    return crop_size(aspect, 1.0, area_for(float(np.median(height * width))), enlarged=math.inf)


def grid_within(grid: Size, size: Size, features: int, cells: int) -> Size:
    """The grid of an image of `size`; that of one of `LEAST_AREA`, if covariances would take more than `GAUSSIANS`.

    cells: for each of which there is a Gaussian at every location; 0 if there is none.
    """
    factor = math.sqrt(LEAST_AREA / (size[0] * size[1]))
    if factor >= 1 or 4 * features**2 * cells * grid[0] * grid[1] <= GAUSSIANS:
        return grid
    return round(grid[0] * factor), round(grid[1] * factor)


def _fits_half(values: Tensor) -> bool:
    """Whether float16 is enough for (B, F, h, w): no feature loses more than ROUNDING of its spread."""
    if not float(values.abs().amax()) <= HALF_LIMIT:
        return False
    each = values.double().transpose(0, 1).flatten(1)  # (F, ·)
    spread = each.std(1, correction=0)
    lost = (each.half().double() - each).std(1, correction=0)
    constant = spread <= 1e-6 * each.abs().amax(1)  # but for float32's own rounding
    return bool((constant | (lost <= ROUNDING * spread)).all())


def cached_features(
    images: ImageSet,
    representation: Features,
    *,
    memory_gb: float = 4.0,
    workers: int = 0,
    located: list[Located] | None = None,
) -> np.ndarray:
    """The features of all N images, (N, F, h, w), as `Features.read` gives them; those of a location lie together.

    If they take more than `memory_gb` GiB they lie in a temporary file, which is deleted with the array. `workers`:
    threads that read and decode image files. `located`: takes the transform of each image.

    Raises:
        DataError: an image cannot be read or does not fit; names the first one.
    """
    in_memory = len(images) * representation.bytes_per_image <= memory_gb * 2**30
    features, height, width = representation.shape
    shape = (len(images), height, width, features)

    def new(dtype: np.dtype) -> np.ndarray:
        return (np.empty(shape, dtype) if in_memory else _in_file(shape, dtype)).transpose(0, 3, 1, 2)

    grids = new(np.dtype(representation.stored))
    images.expect(np.arange(len(images)))
    starts = range(0, len(images), CACHED)
    for start in track(starts, "features", len(images), size=lambda start: min(CACHED, len(images) - start)):
        index = np.arange(start, min(start + CACHED, len(images)))
        part, errors, transforms = representation.read_and_locate(images, index, workers)
        raise_first(images.ids, errors)
        if located is not None:
            located += transforms
        if part.dtype.itemsize > grids.dtype.itemsize:  # a value exceeds float16
            wider = new(part.dtype)
            wider[:start] = grids[:start]
            grids = wider
        grids[index] = part
    return grids


def _in_file(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    own = tempfile.mkdtemp(prefix="features-")
    array = np.lib.format.open_memmap(Path(own) / "features.npy", mode="w+", dtype=dtype, shape=shape)
    weakref.finalize(array, shutil.rmtree, own, ignore_errors=True)
    return array
