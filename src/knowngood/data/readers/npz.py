"""MedMNIST-style .npz: train_images, train_labels, val_images, …; or images and labels. Never unpickles."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from knowngood.data.imageset import ImageSet, join_splits
from knowngood.data.readers.damage import named_damage
from knowngood.data.readers.limits import Limits
from knowngood.errors import DataError

_SPLITS = ("train", "val", "test")


def read_npz(
    path: str | Path,
    class_names: Sequence[str] | None = None,
    split: str | None = None,
    limits: Limits | None = None,
) -> ImageSet:
    """Images of an .npz file with splits, and condition column "class" from its labels.

    `class_names` gives words to labels 0, 1, …; without it the class is the number as text. Arrays: `*_images`
    (N, H, W) or (N, H, W, C), `*_labels` (N,) or (N, 1).

    Raises:
        DataError: damaged, without such arrays, or labels that do not fit the images.
    """
    path = Path(path)
    damage = named_damage(path, "cannot be read as .npz", "expected MedMNIST-style arrays")
    with damage, np.load(path, allow_pickle=False) as file:
        keys = list(file.files)
        prefixes = [name for name in _SPLITS if f"{name}_images" in keys and split in (None, name)]
        pairs = {name: (f"{name}_images", f"{name}_labels") for name in prefixes}
        if not pairs and "images" in keys and split is None:
            pairs = {"": ("images", "labels")}
        _check_size(path, [key for pair in pairs.values() for key in pair if key in keys], limits or Limits())
        arrays = {name: (file[a], file[b] if b in keys else None) for name, (a, b) in pairs.items()}
    if not pairs:
        wanted = f"{split}_images" if split else "train_images, val_images, test_images or images"
        raise DataError(f"{path}: expected arrays {wanted}; found {', '.join(keys) or 'none'}")
    parts = {
        name: (block, None if labels is None else _classes(labels, len(block), path, pairs[name][1], class_names))
        for name, (block, labels) in arrays.items()
    }
    images = join_splits(parts, str(path)).replace(name=path.stem)
    return images.replace(splits=None) if "" in parts else images


def _check_size(path: Path, keys: Sequence[str], limits: Limits) -> None:
    """Refuse arrays that take more memory than may be, or declare more than is there, before one is read."""
    with zipfile.ZipFile(path) as archive:
        infos = {name.removesuffix(".npy"): archive.getinfo(name) for name in archive.namelist()}
        limits.check_unpacked(path, sum(infos[key].file_size for key in keys))
        for key in keys:
            with archive.open(infos[key]) as stream:
                version = np.lib.format.read_magic(stream)
                read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                shape, _, dtype = read(stream)
                declared, held = math.prod(shape) * dtype.itemsize, infos[key].file_size - stream.tell()
            if declared != held and not dtype.hasobject:
                raise DataError(f"{path}: {key} declares {declared:,} bytes of {shape} {dtype}, but has {held:,}")


def _classes(labels: np.ndarray, n: int, path: Path, key: str, names: Sequence[str] | None) -> np.ndarray:
    if labels.shape not in ((n,), (n, 1)):
        raise DataError(f"{path}: {key} has shape {labels.shape}; expected one label an image: ({n},) or ({n}, 1)")
    values = labels.reshape(-1).tolist()
    if names is None:
        return np.array([str(value) for value in values])
    wrong = set(values) - set(range(len(names)))
    if wrong:
        raise DataError(f"{path}: {key} has label {min(wrong)}; expected 0 to {len(names) - 1}")
    return np.array(names)[values]
