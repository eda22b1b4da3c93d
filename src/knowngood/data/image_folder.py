"""A set of images as a folder: PNG files, masks and a manifest, which the readers of folders and manifests take."""

from __future__ import annotations

import shutil
import warnings
from collections import Counter
from pathlib import Path, PurePosixPath

import numpy as np

from knowngood.config import counted
from knowngood.data.findings import Unreadable
from knowngood.data.formulas import harmless
from knowngood.data.imageset import ImageSet
from knowngood.data.progress import track
from knowngood.errors import DataError, OutputError
from knowngood.files import explained, make_folder, write_text

MASKS = "ground_truth"
_OWN = ("path", "label", "split", "mask")  # columns of the manifest beside the conditions
_WORDS = {0.0: "good", 1.0: "anomalous"}


def write_folder(images: ImageSet, folder: str | Path) -> Path:
    """Write every image below a folder, at the path that its id is, and `manifest.csv`. Returns the manifest.

    The mask of test/scratch/1.png is ground_truth/scratch/1_mask.png, as in the MVTec layout. The manifest is written
    last; what was written before an error is removed. Reading it gives the same pixels, labels, splits and masks, and
    the conditions as a manifest holds them. Images and masks that cannot be read are left out with a warning.

    Raises:
        DataError: no image can be read, an image that PNG cannot hold (it holds 8 bits, or 16 bits of one channel), an
            id that is no path below the folder, two ids of one path, or a condition named as a column of the manifest.
            OutputError: the folder holds files, or cannot be written to.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise OutputError(f"{folder} exists and is not an empty folder; choose another name, or remove it")
    for column in (name for name in images.conditions if name.lower() in _OWN):
        raise DataError(f"{images.name}: condition '{column}' has the name of a column of manifests; rename it")
    paths = [_path(name, images.name) for name in images.ids.tolist()]
    if twice := [path for path, n in Counter(paths).items() if n > 1]:
        raise DataError(f"{images.name}: two ids would be the file '{twice[0]}'; give other ids")
    try:
        return _written(images, folder, paths)
    except BaseException:  # whole or not at all: the folder was empty
        for one in {folder / path.parts[0] for path in paths} | {folder / MASKS}:
            if one.is_dir():
                shutil.rmtree(one, ignore_errors=True)
            else:
                one.unlink(missing_ok=True)
        raise


def _written(images: ImageSet, folder: Path, paths: list[PurePosixPath]) -> Path:
    import pandas as pd

    splits = [""] * len(images) if images.splits is None else images.splits.tolist()
    masks, at = [""] * len(images), _places(images, paths, splits)
    lost: list[str] = []
    kept = np.ones(len(images), dtype=bool)
    for i, path in enumerate(track(paths, "writing images", len(paths))):
        mask, name = None, str(images.ids[i])
        try:
            _save(images.read(i), folder / path)
        except Unreadable as error:
            kept[i] = False
            lost.append(f"{name}: {error.reason}")
            continue
        try:
            mask = images.mask(i)
        except Unreadable as error:
            lost.append(f"{name}: its mask {error.reason}")
        if mask is not None:
            masks[i] = f"{MASKS}/{at[i].with_name(path.stem)}_mask.png"
            _save(255 * mask[..., None].astype(np.uint8), folder / masks[i])
    own = {"path": map(str, paths), "label": [_WORDS.get(label, "") for label in images.labels.tolist()]}
    own |= {"split": splits} if images.splits is not None else {}
    own |= {"mask": masks} if any(masks) else {}
    if lost and not kept.any():
        raise DataError(f"{images.name}: none of its images can be read; the first, {lost[0]}")
    if lost:
        n = counted(len(lost), "file")
        warnings.warn(f"not written: {n} that cannot be read, the first: {lost[0]}", stacklevel=4)
    columns = {**own, **images.conditions}
    table = pd.DataFrame({harmless(name): list(map(harmless, values)) for name, values in columns.items()})[kept]
    write_text(folder / "manifest.csv", table.to_csv(index=False))
    return folder / "manifest.csv"


def _places(images: ImageSet, paths: list[PurePosixPath], splits: list[str]) -> list[PurePosixPath]:
    """Where below the folder of masks that of each image lies: without its split, unless two masks would be one."""
    inner = [
        path.relative_to(split) if split and path.is_relative_to(split) else path
        for path, split in zip(paths, splits, strict=True)
    ]
    marked = images.masks or [None] * len(paths)
    taken = Counter(one.with_suffix("") for one, mask in zip(inner, marked, strict=True) if mask is not None)
    return [path if taken[one.with_suffix("")] > 1 else one for path, one in zip(paths, inner, strict=True)]


def _path(name: str, source: str) -> PurePosixPath:
    path = PurePosixPath(name.strip())  # cells of a manifest have no blanks around them
    if path.is_absolute() or ".." in path.parts or not path.name:
        raise DataError(f"{source}: the id '{name}' is no path below a folder; give other ids")
    return path if path.suffix.lower() == ".png" else path.with_name(f"{path.name}.png")


def _save(image: np.ndarray, path: Path) -> None:
    from PIL import Image

    image = image[..., 0] if image.shape[-1] == 1 else image
    grey, colour = image.ndim == 2, image.ndim == 3 and image.shape[2] == 3
    if not (image.dtype == np.uint8 and (grey or colour)) and not (image.dtype == np.uint16 and grey):
        raise DataError(f"{path.name}: PNG holds no {image.dtype} of shape {image.shape}; expected uint8")
    make_folder(path.parent)
    with explained(path):
        Image.fromarray(image).save(path)
