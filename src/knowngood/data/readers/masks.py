"""Which files of a folder are anomaly masks, and of which picture; never the mask of another picture.

A mask lies in a folder named like one (`ground_truth`, `masks`, `GT`, …, in any case), at the place of its picture
below it, or beside its picture with a suffix (`x_mask.png`, `x_GT.bmp`). Several masks of one picture are joined.

Other names may be those of pictures too: the folder `Label`, `x_label.bmp` or `x.png` beside `x.jpg`. Files named so
are masks if there is a picture to each and they look like masks: see `mask_file.looks_like_mask`.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path, PurePath

from knowngood.data.readers.files import SUFFIXES
from knowngood.data.readers.layout import SPLITS, Parts
from knowngood.errors import DataError

FOLDERS = frozenset(
    {"ground_truth", "groundtruth", "gt", "mask", "masks", "label_masks", "segmentation", "segmentations"}
)
SUFFIX = re.compile(r"[_\-. ](mask|gt|ground_?truth)$", re.IGNORECASE)
MAYBE_FOLDERS = frozenset({"label", "labels", "annotation", "annotations", "seg", "labelled", "defect_masks"})
MAYBE_SUFFIX = re.compile(r"[_\-. ](labels?|seg|segmentation|annotations?|bin|binary)$", re.IGNORECASE)
LOOKED_AT = 8  # files of a kind of name


def match_masks(
    paths: Sequence[Parts], root: str, looks: Callable[[int], bool] = lambda i: False
) -> tuple[list[int], dict[int, list[int]], list[int]]:
    """Sort files into pictures and masks.

    Args:
        paths: of image files, relative to the root, in one Unicode form.
        root: for messages.
        looks: whether the file at a position of `paths` looks like a mask; asked of files whose names leave it open.

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
    open_ones = _by_look(paths, pictures, by_stem, looks)
    for i, owner in open_ones.items():
        masks[owner].append(i)
    return [i for i in pictures if i not in open_ones], dict(masks), lonely


def is_mask_folder(folder: str) -> bool:
    """Whether a folder of this name holds masks, not pictures."""
    return re.sub(r"[\- ]", "_", folder.lower()) in FOLDERS


def is_mask(path: Path, root: Path) -> bool:
    """Whether a file below the root is a mask by its name: in a folder of masks, or beside the picture of its name.

    What only its look would tell is none here.
    """
    if any(is_mask_folder(name) for name in path.relative_to(root).parts[:-1]):
        return True
    short = SUFFIX.sub("", path.stem)
    if short in ("", path.stem):
        return False
    with suppress(OSError):  # the folder is gone
        return any(one.stem == short and one.suffix.lower() in SUFFIXES for one in path.parent.iterdir())
    return False


def _by_look(
    paths: Sequence[Parts], pictures: Sequence[int], by_stem: dict[str, list[int]], looks: Callable[[int], bool]
) -> dict[int, int]:
    """Masks whose names may be those of pictures too, with the picture of each.

    All files of a kind of name (the same folder name, suffix or file type) are masks, if each has a picture that is no
    such file, and some of them look like masks where their pictures do not.
    """
    kinds: dict[tuple[str, str], dict[int, int | None]] = defaultdict(dict)
    same: dict[tuple[Parts, str], list[int]] = defaultdict(list)
    for i in pictures:
        same[paths[i][:-1], PurePath(paths[i][-1]).stem].append(i)
    for i in pictures:
        folders, stem, suffix = paths[i][:-1], PurePath(paths[i][-1]).stem, PurePath(paths[i][-1]).suffix.lower()
        k = next((k for k, name in enumerate(folders) if name.lower().replace(" ", "_") in MAYBE_FOLDERS), None)
        word = MAYBE_SUFFIX.search(stem)
        if k is not None:
            kinds["folder", folders[k].lower()][i] = _one(_owners(paths[i], k, paths, by_stem))
        elif word is not None and (folders, stem[: word.start()]) in same:
            kinds["suffix", word[1].lower()][i] = _one(same[folders, stem[: word.start()]])
        elif len(twins := [j for j in same[folders, stem] if j != i]) == 1:
            kinds["type", suffix][i] = twins[0]
    found: dict[int, int] = {}
    for owners in kinds.values():
        known = {i: owner for i, owner in owners.items() if owner is not None and owner not in owners}
        some = list(known)[:: max(1, len(known) // LOOKED_AT)]
        if len(known) == len(owners) and all(looks(i) and not looks(known[i]) for i in some):
            found |= known
    return found


def _one(found: Sequence[int]) -> int | None:
    return found[0] if len(found) == 1 else None


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
        if is_mask_folder(name):
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
    found = _owners(path, k, paths, by_stem)
    if len(found) > 1:
        first, second = ("/".join(paths[i]) for i in found[:2])
        raise DataError(
            f"{root}: the mask {'/'.join(path)} may belong to {first} or to {second}; put it into a folder of the "
            "same name as its picture's, or name it in the column mask of a .csv manifest"
        )
    return found[0] if found else None


def _owners(path: Parts, k: int, paths: Sequence[Parts], by_stem: dict[str, list[int]]) -> list[int]:
    """The pictures that a mask in the mask folder path[k] may belong to."""
    above, inner, stem = path[:k], path[k + 1 : -1], PurePath(path[-1]).stem
    names = dict.fromkeys((SUFFIX.sub("", stem), MAYBE_SUFFIX.sub("", stem)))

    def those(inner: Parts, name: str) -> list[int]:
        """Pictures of this name whose folders below `above` end like those of the mask."""
        found = []
        for i in by_stem.get(name, []):
            folders = paths[i][:-1]
            if folders[:k] == above and folders[max(k, len(folders) - len(inner)) :] == inner and paths[i] != path:
                found.append(i)
        return found

    found = next((some for name in names if (some := those(inner, name))), [])
    found = found or (those(inner[:-1], inner[-1]) if inner else [])
    tested = [i for i in found if not any(SPLITS.get(f.lower()) == "train" for f in paths[i][:-1])]
    return tested if len(tested) == 1 else found  # training images are normal
