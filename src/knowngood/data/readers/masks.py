"""Which files of a folder are anomaly masks, and of which picture. From names alone; never the mask of another picture.

A mask lies in a folder named like one (`ground_truth`, `masks`, `GT`, …, in any case), at the place of its picture
below it, or beside its picture with a suffix (`x_mask.png`, `x_GT.bmp`). Several masks of one picture are joined.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import PurePath

from knowngood.data.readers.layout import SPLITS, Parts
from knowngood.errors import DataError

FOLDERS = frozenset(
    {"ground_truth", "groundtruth", "gt", "mask", "masks", "label_masks", "segmentation", "segmentations"}
)
SUFFIX = re.compile(r"[_\-. ](mask|gt|ground_?truth)$", re.IGNORECASE)


def match_masks(paths: Sequence[Parts], root: str) -> tuple[list[int], dict[int, list[int]], list[int]]:
    """Sort files into pictures and masks.

    Args:
        paths: of image files, relative to the root, in one Unicode form.
        root: for messages.

    Returns:
        The pictures; the masks of each picture that has any; and masks of which there is no picture. Positions in
        `paths`.

    Raises:
        DataError: a mask may belong to several pictures.
    """
    splits = _splits_within(paths)
    at = [_mask_folder(path, splits) for path in paths]
    beside = _beside(paths, at) | _tiles(paths)
    pictures = [i for i in range(len(paths)) if at[i] is None and i not in beside]
    by_stem: dict[str, list[int]] = defaultdict(list)
    for i in pictures:
        by_stem[PurePath(paths[i][-1]).stem].append(i)
    masks: dict[int, list[int]] = defaultdict(list)
    lonely = []
    for i, (path, k) in enumerate(zip(paths, at, strict=True)):
        if i in beside:
            owner = beside[i]
        elif k is not None:
            owner = _owner(path, k, paths, by_stem, root)
        else:
            continue
        if owner is None:
            lonely.append(i)
        else:
            masks[owner].append(i)
    return pictures, dict(masks), lonely


def _splits_within(paths: Sequence[Parts]) -> dict[Parts, set[str]]:
    """The splits that each folder holds directly, by the names of its folders."""
    found: dict[Parts, set[str]] = defaultdict(set)
    for path in paths:
        for k, name in enumerate(path[:-1]):
            if name.lower() in SPLITS:
                found[path[:k]].add(SPLITS[name.lower()])
    return found


def _mask_folder(path: Parts, splits: dict[Parts, set[str]]) -> int | None:
    """Which folder of a path is one of masks.

    A folder that holds the splits `train` and `test`, and has none beside it, is a product that is called so.
    """
    both = {"train", "test"}
    for k, name in enumerate(path[:-1]):
        if re.sub(r"[\- ]", "_", name.lower()) in FOLDERS:
            product = both <= splits.get(path[: k + 1], set()) and not both <= splits.get(path[:k], set())
            return None if product else k
    return None


def _beside(paths: Sequence[Parts], at: list[int | None]) -> dict[int, int | None]:
    """Masks that lie beside pictures, with their picture; where one has a picture, all files named so are masks."""
    known = {(path[:-1], PurePath(path[-1]).stem): i for i, path in enumerate(paths) if at[i] is None}
    named = {i: SUFFIX.sub("", PurePath(path[-1]).stem) for i, path in enumerate(paths) if at[i] is None}
    named = {i: short for i, short in named.items() if short and short != PurePath(paths[i][-1]).stem}
    found = {i: known.get((paths[i][:-1], short)) for i, short in named.items()}
    return found if any(owner is not None for owner in found.values()) else {}


def _tiles(paths: Sequence[Parts]) -> dict[int, int | None]:
    """Masks of the magnetic tiles: `MT_<class>/Imgs/x.png` beside `x.jpg`."""
    folders: dict[tuple[Parts, str], dict[str, int]] = defaultdict(dict)
    for i, path in enumerate(paths):
        if len(path) > 2 and path[-2] == "Imgs" and path[-3].startswith("MT_"):
            folders[path[:-1], PurePath(path[-1]).stem][PurePath(path[-1]).suffix.lower()] = i
    return {files[".png"]: files.get(".jpg", files.get(".jpeg")) for files in folders.values() if ".png" in files}


def _owner(path: Parts, k: int, paths: Sequence[Parts], by_stem: dict[str, list[int]], root: str) -> int | None:
    """The picture of a mask in the mask folder path[k]: same place below it, same stem."""
    above, inner, name = path[:k], path[k + 1 : -1], SUFFIX.sub("", PurePath(path[-1]).stem)

    def those(inner: Parts, name: str) -> list[int]:
        """Pictures of this name whose folders below `above` end like those of the mask."""
        found = []
        for i in by_stem.get(name, []):
            folders = paths[i][:-1]
            if folders[:k] == above and folders[max(k, len(folders) - len(inner)) :] == inner:
                found.append(i)
        return found

    found = those(inner, name) or (those(inner[:-1], inner[-1]) if inner else [])
    tested = [i for i in found if not any(SPLITS.get(f.lower()) == "train" for f in paths[i][:-1])]
    found = tested if len(tested) == 1 else found  # training images are normal
    if len(found) > 1:
        first, second = ("/".join(paths[i]) for i in found[:2])
        raise DataError(
            f"{root}: the mask {'/'.join(path)} may belong to {first} or to {second}; put it into a folder of the "
            "same name as its picture's, or name it in the column mask of a .csv manifest"
        )
    return found[0] if found else None
