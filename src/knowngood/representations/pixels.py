"""Pixels: luminance, resize, crop, pad, then a linear scaling to 0…1; and the way back for maps.

Invariant to nothing but the size of the source image and its bit depth: a shift, a rotation, or a change of brightness
or contrast changes the tensor.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from knowngood.config import ImageOptions
from knowngood.config.words import for_caller, in_pixels
from knowngood.data.findings import Unreadable
from knowngood.data.image_factors import COLOURS
from knowngood.data.imageset import ImageSet
from knowngood.data.pixel_source import ArrayPixels
from knowngood.data.tiling.plan import SIZES_DIFFER
from knowngood.errors import DataError, SettingsError
from knowngood.representations.base import Fitted
from knowngood.representations.scaling import MIXED, choose_range

LUMINANCE = (0.299, 0.587, 0.114)  # ITU-R BT.601
CHUNK_VALUES = 1 << 22  # of an array, converted at a time
NOT_FINITE = "the image holds NaN or infinite values"

Size = tuple[int, int]


class Pixels(Fitted):
    """How images become the input of a network. Fitted once; plain JSON.

    size: (height, width) after the resize, before crop and pad; `shape` is what the network sees.
    resize: images of any size are brought to `size`; if false they must have it.
    colour: grey images become three equal channels. by_type: an unsigned type narrower than `dtype` is spread over its
    range.
    low, high: raw values that become 0 and 1; `rule` says why. `any_dtype`: they were given, so they hold for any type.
    source_shape: (height, width, channels) of the training images if all agree, else None.
    about: (height, width) from which images may differ by 10 % of a side; None: by any amount, if they are resized.
    """

    size: Size
    channels: int
    grey: bool = False
    colour: bool = False
    resize: bool = False
    crop: Size | None = None
    pad: Size | None = None
    low: float
    high: float
    dtype: str
    rule: str
    any_dtype: bool = False
    by_type: bool = False
    source_shape: tuple[int, int, int] | None = None
    about: Size | None = None

    @classmethod
    def fit(cls, images: ImageSet, options: ImageOptions) -> Pixels:
        """From the training images: sizes and channels from headers, the scaling from the pixels.

        Raises:
            DataError: no images, sizes that differ without `image_size`, channel counts that differ or cannot become
                grey, types that differ, values that are not finite.
            SettingsError: a crop larger than the image, a pad smaller than it, or a scaling that cannot be.
        """
        if len(images) == 0:
            raise DataError(f"{images.name}: there are no images to fit on")
        shapes, counts = np.unique(np.asarray(images.shapes()).reshape(-1, 3), axis=0, return_counts=True)
        channels = _channels(shapes, counts, options)
        target = _pair(options.image_size)
        if target is None:
            sizes, where = np.unique(shapes[:, :2], axis=0, return_inverse=True)
            if len(sizes) > 1:
                per_size = np.bincount(where.reshape(-1), weights=counts).astype(int)
                raise DataError(
                    f"{images.name}: images of {len(sizes):,} different sizes: {_sizes(sizes, per_size)}. "
                    f'Resize them: representation={{"name": "{options.name}", "image_size": (height, width)}}, '
                    "or --image-size HxW."
                )
        size = target or (int(shapes[0, 0]), int(shapes[0, 1]))
        crop, pad = _pair(options.crop), _pair(options.pad)
        if crop and (crop[0] > size[0] or crop[1] > size[1]):
            raise SettingsError(
                f"crop = {crop}, height first, is larger than the image, {in_pixels(size)} px (width × height)"
            )
        inner = crop or size
        if pad and (pad[0] < inner[0] or pad[1] < inner[1]):
            raise SettingsError(
                f"pad = {pad}, height first, is smaller than the image, {in_pixels(inner)} px (width × height)"
            )
        range_ = choose_range(images, options.scaling)
        return cls(
            size=size,
            channels=channels,
            grey=options.grey,
            colour=options.colour,
            resize=target is not None,
            crop=crop,
            pad=pad,
            **range_._asdict(),
            any_dtype=isinstance(options.scaling, tuple) or range_.rule.startswith(MIXED),
            by_type=options.scaling == "dtype",
            source_shape=(int(shapes[0, 0]), int(shapes[0, 1]), int(shapes[0, 2])) if len(shapes) == 1 else None,
        )

    @property
    def unseen(self) -> tuple[str, ...]:
        return tuple(COLOURS) if self.grey else ()

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of a prepared image."""
        return (self.channels, *(self.pad or self.crop or self.size))

    @property
    def bytes_per_image(self) -> int:
        """Memory of one prepared image of the training type."""
        return int(np.prod(self.shape)) * _stored(np.dtype(self.dtype)).itemsize

    def prepare(self, image: np.ndarray) -> np.ndarray:
        """One image (h, w, c) → (C, H, W) in its own dtype (any float becomes float32).

        Luminance, antialiased bilinear resize, centre crop, then centred padding with raw zeros. Integers are rounded;
        none of the steps leaves the range of the input, so nothing saturates.

        Raises:
            DataError: size, channels or dtype do not fit the model; NaN or infinite values.
        """
        self.check(image.shape, image.dtype)
        if not _finite(image[None]).all():
            raise DataError(NOT_FINITE)
        return self._convert(image[None])[0]

    def read(
        self, images: ImageSet, index: np.ndarray | None = None, workers: int = 0
    ) -> tuple[np.ndarray, dict[int, str]]:
        """As `Representation.read`: images prepared, (M, C, H, W). Where nothing has to change they may share memory.

        Raises DataError: images of an array, all alike, do not fit.
        """
        index = np.arange(len(images)) if index is None else index
        if isinstance(images.pixels, ArrayPixels):
            whole = len(index) == len(images) and bool((index == np.arange(len(images))).all())
            prepared, bad = self._from_array(images.pixels if whole else images.pixels.take(index))
            return prepared, {int(index[i]): NOT_FINITE for i in bad}
        return self._from_files(images, index, workers)

    def check(self, shape: tuple[int, ...], dtype: Any) -> None:
        """Raise DataError if an image (h, w, c) of this dtype does not fit."""
        if len(shape) != 3:
            raise DataError(f"an image has shape {tuple(shape)}; expected (height, width, channels)")
        given, fitted = np.dtype(dtype), np.dtype(self.dtype)
        if self.grey and shape[2] not in (1, 3):
            raise DataError(f"an image has {shape[2]} channels; {_TO_GREY}")
        if not self.grey and shape[2] != self.channels and not (self.colour and shape[2] == 1):
            raise DataError(
                f"an image has {_n_channels(shape[2])}, the model was fitted on {_n_channels(self.channels)}. "
                + (_BOTH if {shape[2], self.channels} == {1, 3} else _ALPHA)
            )
        if not self.resize and tuple(shape[:2]) != self.size:
            height, width = self.size
            option = for_caller(
                f"the option image_size=({height}, {width}) of the representation", f"--image-size {height}x{width}"
            )
            raise DataError(
                f"an image is {in_pixels(shape)} px (width × height), the model takes {in_pixels(self.size)} as it is. "
                f"Resize it; or fit with {option}, which takes any size."
            )
        if self.about and any(
            abs(n - usual) > SIZES_DIFFER * usual for n, usual in zip(shape, self.about, strict=False)
        ):
            whole = for_caller("data={'tile': 'none'}", "--tile none")
            raise DataError(
                f"an image is {in_pixels(shape)} px (width × height), and the model was fitted on pictures of about "
                f"{in_pixels(self.about)}, in tiles, "
                "whose sides may differ by 10 %. Leave it out, or fit a model of its own to such images; one that is "
                f"fitted with {whole} takes any size and sees small defects less well."
            )
        floats, spread = given.kind == fitted.kind == "f", self._spread(given)
        if given != fitted and not (floats or spread or self.any_dtype):
            raise DataError(
                f"an image is {given.name}, the model was fitted on {fitted.name} ({self.rule}): the same value "
                f"may mean something else. Convert it to {fitted.name}, or fit with the option "
                "scaling=(low, high) in raw values, which takes any type."
            )

    def _spread(self, given: np.dtype[Any]) -> bool:
        """Whether images of this type are spread over the range of a wider one."""
        fitted = np.dtype(self.dtype)
        return self.by_type and given.kind == fitted.kind == "u" and given.itemsize < fitted.itemsize

    def _convert(self, block: np.ndarray) -> np.ndarray:
        """(B, h, w, c) → (B, C, H, W); the block has passed `check`."""
        if self._spread(block.dtype):
            factor = np.iinfo(self.dtype).max // np.iinfo(block.dtype).max
            block = block.astype(self.dtype) * np.dtype(self.dtype).type(factor)
        if self.colour and block.shape[3] == 1:
            block = np.repeat(block, 3, axis=3)
        dtype = _stored(block.dtype)
        luminance = self.grey and block.shape[3] == 3
        if not luminance and block.shape[1:3] == self.size:
            planes = block.transpose(0, 3, 1, 2).astype(dtype, copy=False)
        else:
            wide = dtype.kind != "f" and dtype.itemsize > 2  # float32 holds 24 bits
            x = block.astype(np.float64 if wide else np.float32)
            x = (x @ np.array(LUMINANCE, x.dtype))[..., None] if luminance else x
            y = torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))
            if y.shape[-2:] != self.size:
                y = resized(y, self.size)
            planes = y.numpy()
            if dtype.kind != "f":
                planes = planes.round().clip(np.iinfo(dtype).min, np.iinfo(dtype).max)
            planes = planes.astype(dtype, copy=False)
        if self.crop:
            planes = planes[middle(self.size, self.crop)]
        if self.pad:
            padded = np.zeros((*planes.shape[:2], *self.pad), dtype=dtype)
            padded[middle(self.pad, self.crop or self.size)] = planes
            planes = padded
        return _in_order(planes)

    def _from_array(self, source: ArrayPixels) -> tuple[np.ndarray, list[int]]:
        shape, dtype = source.base.shape[1:], source.base.dtype
        if len(source):
            self.check(shape, dtype)
        if (
            dtype.kind != "f"
            and not self._spread(dtype)
            and shape == (*self.size, self.channels)
            and not (self.crop or self.pad)
        ):
            planes = _in_order(source.array.transpose(0, 3, 1, 2))
            return (planes if planes.flags.writeable else planes.copy()), []  # torch warns of read-only memory
        kept = np.dtype(self.dtype) if self._spread(dtype) else dtype
        prepared = np.empty((len(source), *self.shape), dtype=_stored(kept))
        bad: list[int] = []
        start = 0
        for block in source.chunks(max(1, CHUNK_VALUES // int(np.prod(shape)))):
            finite = _finite(block)
            if not finite.all():
                bad += (start + np.flatnonzero(~finite)).tolist()
                block = np.where(finite[:, None, None, None], block, 0)
            prepared[start : start + len(block)] = self._convert(block)
            start += len(block)
        return prepared, bad

    def _from_files(self, images: ImageSet, index: np.ndarray, workers: int) -> tuple[np.ndarray, dict[int, str]]:
        def one(i: int) -> np.ndarray | str:
            try:
                return self.prepare(images.read(i))
            except DataError as error:
                return error.reason if isinstance(error, Unreadable) else str(error)

        prepared = np.zeros((len(index), *self.shape), dtype=_stored(np.dtype(self.dtype)))
        errors: dict[int, str] = {}
        with ThreadPoolExecutor(workers) if workers else nullcontext() as pool:
            for at, result in enumerate((pool.map if pool else map)(one, index.tolist())):
                if isinstance(result, str):
                    errors[int(index[at])] = result
                    continue
                if result.dtype != prepared.dtype:  # another type, which only a range in raw values lets in
                    prepared = prepared.astype(np.float32, copy=False)
                prepared[at] = result
        return prepared, errors

    def scale(self, batch: Tensor) -> Tensor:
        """Prepared images (B, C, H, W) of any dtype → float32, (x − low) / (high − low), on their device; no clamp."""
        return (batch.to(torch.float32) - self.low if self.low else batch.to(torch.float32)) / (self.high - self.low)

    def unscale(self, x: Tensor) -> Tensor:
        """Back to raw values, float32, not rounded."""
        return x * (self.high - self.low) + self.low

    def out_of_range(self, batch: np.ndarray | Tensor) -> int:
        """How many prepared images (B, C, H, W) hold a value below `low` or above `high`, beyond rounding."""
        values = torch.as_tensor(batch)
        limits = None if values.is_floating_point() else torch.iinfo(values.dtype)
        if not len(values) or (limits and self.low <= limits.min and limits.max <= self.high):
            return 0
        scaled = self.scale(values).flatten(1)
        return int(((scaled.amin(1) < -1e-5) | (scaled.amax(1) > 1 + 1e-5)).sum())

    def to_image(self, map: np.ndarray, source_shape: tuple[int, ...]) -> np.ndarray:
        """Maps over prepared images (..., H, W) → (..., h, w) float32 over the source image of shape (h, w[, c]).

        Undoes padding, crop and resize (bilinear). Outside the crop the map is 0.
        """
        if map.shape[-2:] != self.shape[1:]:
            raise ValueError(f"a map has shape {map.shape}; expected (..., {self.shape[1]}, {self.shape[2]})")
        if self.pad:
            map = map[middle(self.pad, self.crop or self.size)]
        map = np.asarray(map, dtype=np.float32)
        if self.crop:
            full = np.zeros((*map.shape[:-2], *self.size), dtype=np.float32)
            full[middle(self.size, self.crop)] = map
            map = full
        source = (int(source_shape[0]), int(source_shape[1]))
        if source != self.size:
            flat = torch.from_numpy(np.ascontiguousarray(map).reshape(-1, 1, *self.size))
            map = resized(flat, source).numpy().reshape(*map.shape[:-2], *source)
        return np.array(map, copy=True, order="C")


def upsampled(map: np.ndarray, size: Size) -> np.ndarray:
    """Maps (..., h, w) → (..., *size) float32: bilinear between the centres of cells, constant beyond the outermost."""
    flat = torch.from_numpy(np.ascontiguousarray(map, dtype=np.float32).reshape(-1, 1, *map.shape[-2:]))
    full = interpolate(flat, size=size, mode="bilinear", align_corners=False)
    return full.numpy().reshape(*map.shape[:-2], *size)


def _finite(block: np.ndarray) -> np.ndarray:
    """(B,) whether all values of an image are finite."""
    if block.dtype.kind != "f":
        return np.ones(len(block), dtype=bool)
    return np.asarray(np.isfinite(block).reshape(len(block), -1).all(axis=1))


def _in_order(planes: np.ndarray) -> np.ndarray:
    """Contiguous. To NumPy a turned array of one image, or of one channel, is so; torch takes no stride below 0."""
    planes = np.ascontiguousarray(planes)
    return planes if min(planes.strides) >= 0 else planes.copy()


def _stored(dtype: np.dtype[Any]) -> np.dtype[Any]:
    return np.dtype(np.float32) if dtype.kind == "f" else dtype


def resized(x: Tensor, size: Size) -> Tensor:
    return interpolate(x, size=size, mode="bilinear", align_corners=False, antialias=True)


def middle(outer: Size, inner: Size) -> tuple[Any, ...]:
    """Index of the middle of (..., *outer) that is as large as `inner`."""
    starts = [(large - small) // 2 for large, small in zip(outer, inner, strict=True)]
    return (..., *(slice(start, start + small) for start, small in zip(starts, inner, strict=True)))


def _pair(value: Size | int | None) -> Size | None:
    return (value, value) if isinstance(value, int) else value


_TO_GREY = (
    "grey=True makes luminance from 3 channels and keeps 1 as it is. What a further channel means (transparency, "
    "infra-red, …) cannot be known: remove it from the images, or fit without grey."
)
_BOTH = (
    "To take both, fit with the option colour=True (`knowngood train --colour`: three equal channels of grey) or "
    "grey=True (`--grey`: luminance)."
)
_ALPHA = "Channels, transparency included, are never dropped or added by guess: give every image the same channels."


def _channels(shapes: np.ndarray, counts: np.ndarray, options: ImageOptions) -> int:
    images = {int(c): int(counts[shapes[:, 2] == c].sum()) for c in np.unique(shapes[:, 2])}
    if options.colour and not options.grey and set(images) <= {1, 3}:
        return 3
    if options.grey:
        if wrong := [c for c in images if c not in (1, 3)]:
            raise DataError(f"{images[wrong[0]]:,} images have {_n_channels(wrong[0])}; {_TO_GREY}")
        return 1
    if len(images) > 1:
        counted = ", ".join(f"{number:,} with {_n_channels(c)}" for c, number in images.items())
        way_out = (
            for_caller(
                "Set the option grey=True to convert colour to grey, or colour=True.",
                "Give --grey to convert colour to grey, or --colour.",
            )
            if set(images) == {1, 3}
            else _ALPHA
        )
        raise DataError(f"images with different channels: {counted}. {way_out}")
    return next(iter(images))


def _n_channels(count: int) -> str:
    return "1 channel" if count == 1 else f"{count} channels"


def _sizes(sizes: np.ndarray, counts: np.ndarray, most: int = 6) -> str:
    order = np.argsort(-counts, kind="stable")
    named = ", ".join(f"{in_pixels(sizes[i])} ({counts[i]:,})" for i in order[:most])
    return named if len(sizes) <= most else f"{named} … and {len(sizes) - most:,} more"
