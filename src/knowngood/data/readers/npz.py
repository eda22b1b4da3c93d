"""MedMNIST-style .npz: train_images, train_labels, val_images, …; or images and labels. Never unpickles."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from knowngood.data.imageset import ImageSet
from knowngood.errors import DataError

_SPLITS = ("train", "val", "test")


def read_npz(path: str | Path, class_names: Sequence[str] | None = None, split: str | None = None) -> ImageSet:
    """Images of an .npz file with splits, and condition column "class" from its labels.

    `class_names` gives words to labels 0, 1, …; without it the class is the number as text. Arrays: `*_images`
    (N, H, W) or (N, H, W, C), `*_labels` (N,) or (N, 1).

    Raises:
        DataError: damaged, without such arrays, or labels that do not fit the images.
    """
    path = Path(path)
    try:
        with np.load(path, allow_pickle=False) as file:
            keys = list(file.files)
            prefixes = [name for name in _SPLITS if f"{name}_images" in keys and split in (None, name)]
            pairs = {name: (f"{name}_images", f"{name}_labels") for name in prefixes}
            if not pairs and "images" in keys and split is None:
                pairs = {"": ("images", "labels")}
            if not pairs:
                wanted = f"{split}_images" if split else "train_images, val_images, test_images or images"
                raise DataError(f"{path}: expected arrays {wanted}; found {', '.join(keys) or 'none'}")
            arrays = {name: (file[a], file[b] if b in keys else None) for name, (a, b) in pairs.items()}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path}: cannot be read as .npz ({error}); expected MedMNIST-style arrays") from None
    images, classes, splits = [], [], []
    for name, (block, labels) in arrays.items():
        part = ImageSet.from_arrays(block, name=f"{path}: {pairs[name][0]}")
        images.append(part.pixels.array)  # type: ignore[attr-defined]
        splits += [name] * len(part)
        classes += (
            [None] * len(part) if labels is None else _classes(labels, len(part), path, pairs[name][1], class_names)
        )
    if len({block.shape[1:] for block in images}) > 1:
        raise DataError(f"{path}: its splits have images of different shapes: {[b.shape for b in images]}")
    known = any(value is not None for value in classes)
    whole = ImageSet.from_arrays(
        images[0] if len(images) == 1 else np.concatenate(images),
        conditions={"class": np.array(classes, dtype=object)} if known else None,
        name=path.stem,
    )
    return whole.replace(splits=np.array(splits)) if "" not in arrays else whole


def _classes(labels: np.ndarray, n: int, path: Path, key: str, names: Sequence[str] | None) -> list[str]:
    if labels.shape not in ((n,), (n, 1)):
        raise DataError(f"{path}: {key} has shape {labels.shape}; expected one label an image: ({n},) or ({n}, 1)")
    values = labels.reshape(-1).tolist()
    if names is None:
        return [str(value) for value in values]
    wrong = set(values) - set(range(len(names)))
    if wrong:
        raise DataError(f"{path}: {key} has label {min(wrong)}; expected 0 to {len(names) - 1}")
    return [str(names[value]) for value in values]
