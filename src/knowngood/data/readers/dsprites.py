"""dSprites in its official form: one .npz of 737,280 binary images with their factors. Never unpickles.

https://github.com/google-deepmind/dsprites-dataset. Arrays: imgs (N, 64, 64) uint8 of 0 and 1; latents_classes and
latents_values (N, 6) for colour (one value), shape, scale, orientation, posX and posY. The further entry, metadata,
is a pickle and is not read.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np

from knowngood.data.imageset import ImageSet
from knowngood.data.itemset import numbered
from knowngood.data.pixel_source import BlockPixels
from knowngood.data.readers.damage import named_damage
from knowngood.errors import DataError

FILE = "dsprites_ndarray_co1sh3sc6or40x32y32_64x64.npz"
NEEDED = ("imgs", "latents_classes", "latents_values")
SHAPES = ("square", "ellipse", "heart")
COUNT = 737_280
COLUMNS = ("scale", "rotation", "x", "y")  # latents 2 to 5
CHUNK = 1024  # images packed together


class BitPixels(BlockPixels):
    """Binary images kept as bits, a pixel a bit, and read as 0 and 255: (H, W, 1) uint8."""

    def __init__(self, bits: np.ndarray, rows: np.ndarray, shape: tuple[int, int, int]) -> None:
        super().__init__(rows, shape)
        self.bits = bits  # (all images, ⌈H·W / 8⌉) uint8

    def block(self, rows: np.ndarray) -> np.ndarray:
        pixels = np.unpackbits(self.bits[rows], axis=1, count=self.shape[0] * self.shape[1])
        return pixels.reshape(-1, *self.shape) * np.uint8(255)


def is_dsprites(path: str | Path) -> bool:
    """Whether an .npz has the arrays of dSprites."""
    try:
        with zipfile.ZipFile(path) as archive:
            return {f"{name}.npy" for name in NEEDED} <= set(archive.namelist())
    except (OSError, zipfile.BadZipFile):
        return False


def read_dsprites(path: str | Path) -> ImageSet:
    """The images as bits (360 MB for all), with columns "class" (the shape), "scale", "rotation", "x" and "y".

    Images keep the order of the file. All are in split "train".

    Raises:
        DataError: damaged, an array missing, of another shape, type or length, pixels other than 0 and 1, an unknown
            shape, or more than one colour.
    """
    path = Path(path)
    with named_damage(path, "cannot be read as the .npz of dSprites", "download it again"):
        if not zipfile.is_zipfile(path):
            raise DataError(f"{path}: no .npz file; expected the official {FILE}")
        with np.load(path, allow_pickle=False) as file:
            missing = [name for name in NEEDED if name not in file.files]
            if missing:
                found = ", ".join(file.files) or "none"
                raise DataError(f"{path}: no array {missing[0]}; expected {', '.join(NEEDED)}, found {found}")
            classes, values = file["latents_classes"], file["latents_values"]
        bits, (n, height, width) = _pack(path)
    for name, array, kinds in (("latents_classes", classes, "iu"), ("latents_values", values, "f")):
        if array.shape != (n, 6) or array.dtype.kind not in kinds:
            what = "integers" if kinds == "iu" else "floats"
            raise DataError(f"{path}: {name} is {array.shape}, {array.dtype}; expected {what} ({n}, 6), a row an image")
    if not np.isfinite(values).all():
        raise DataError(f"{path}: latents_values holds values that are not finite")
    if classes[:, 0].any() or ((classes[:, 1] < 0) | (classes[:, 1] >= len(SHAPES))).any():
        raise DataError(f"{path}: latents_classes has a colour above 0 or a shape outside 0 to {len(SHAPES) - 1}")
    return ImageSet(
        pixels=BitPixels(bits, np.arange(n), (height, width, 1)),
        ids=numbered(n),
        labels=np.full(n, np.nan),
        conditions={
            "class": np.array(SHAPES)[classes[:, 1]],
            **{name: values[:, k].astype(np.float64) for k, name in enumerate(COLUMNS, start=2)},
        },
        splits=np.full(n, "train"),
        name="dsprites",
    )


def _pack(path: Path) -> tuple[np.ndarray, tuple[int, int, int]]:
    """The array imgs as bits (N, ⌈H·W / 8⌉), read a block at a time: as bytes it would take 3 GB."""
    with zipfile.ZipFile(path) as archive, archive.open("imgs.npy") as stream:
        version = np.lib.format.read_magic(stream)
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = header(stream)
        if len(shape) != 3 or 0 in shape or dtype != np.uint8 or fortran:
            raise DataError(f"{path}: imgs is {shape}, {dtype}; expected uint8 (images, height, width), row by row")
        n, height, width = shape
        bits = np.empty((n, (height * width + 7) // 8), dtype=np.uint8)
        for start in range(0, n, CHUNK):
            stop = min(start + CHUNK, n)
            block = np.frombuffer(stream.read((stop - start) * height * width), dtype=np.uint8)
            if len(block) != (stop - start) * height * width:
                raise DataError(f"{path}: imgs ends at image {start + len(block) // (height * width)} of {n}")
            if block.max() > 1:
                raise DataError(f"{path}: imgs has the value {block.max()}; expected 0 and 1")
            bits[start:stop] = np.packbits(block.reshape(stop - start, -1), axis=1)
        if stream.read(1):
            raise DataError(f"{path}: imgs goes on after its {n} images")
    return bits, (n, height, width)
