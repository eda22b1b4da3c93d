"""Folders of images. The layout is recognised from the names of the sub-folders:

- MVTec: `train/good`, `test/<defect>`, `ground_truth/<defect>/<stem>_mask.png`. Label 0 for good, 1 for the rest.
- splits: `train|val|test / <class> /…`. Split and class from the names.
- classes: `<class>/…`. Class from the name, deeper folders belong to it.
- magnetic tile: `MT_<class>/Imgs/*.jpg` with masks `*.png` of the same stem beside them. Label 0 for MT_Free.
- plain: images in the folder itself (or deeper without one of the above): no class, no label.

The class is condition column "class". If the names of some classes are label words ("good", "NORMAL", "ok", …: see
`parse_labels`), those are normal and every other class is anomalous; "unknown" and "unlabelled" stay unknown. Images
are sorted by path. Names that begin with a dot and the folder __MACOSX are passed over.
"""

from __future__ import annotations

import os
import unicodedata
from collections import defaultdict
from pathlib import Path

import numpy as np

from knowngood.data.findings import Finding
from knowngood.data.imageset import ImageSet
from knowngood.data.labels import label_word
from knowngood.data.pixel_source import FilePixels
from knowngood.data.readers.files import SUFFIXES, is_image, is_unread_image
from knowngood.errors import DataError

_SPLITS = {
    "train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test",
    "testing": "test",
}  # fmt: skip
_MASK_FOLDER = "ground_truth"


def read_folder(folder: str | Path) -> ImageSet:
    """All images below a folder; ids are paths relative to it. See the module's page for the layouts.

    Raises:
        DataError: no image in it.
    """
    root = Path(folder)
    files, rejected = _walk(root)
    masks_found: dict[tuple[str, str], Path] = {}
    parts = {path: path.relative_to(root).parts for path in files}
    if any(p[:2] == ("train", "good") for p in parts.values()) or (root / _MASK_FOLDER).is_dir():
        masks_found, files = _take_ground_truth(files, parts)
    tile_masks, files = _take_tile_masks(files, parts)
    if not files:
        listed = f" ({len(rejected)} other files, such as {rejected[0].path_or_id})" if rejected else ""
        raise DataError(f"{root}: no images in it{listed}; expected files named {', '.join(sorted(SUFFIXES))}")

    by_split = all(len(parts[path]) > 1 and parts[path][0].lower() in _SPLITS for path in files)
    splits = np.array([_SPLITS[parts[path][0].lower()] for path in files]) if by_split else None
    depth = 1 if by_split else 0
    classes = [parts[path][depth] if len(parts[path]) > depth + 1 else None for path in files]
    masks = [_mask_of(parts[path], classes[i], masks_found) or tile_masks.get(path) for i, path in enumerate(files)]
    used = {mask for mask in masks if mask is not None}
    rejected += [
        Finding(identifier(mask, root), "mask-without-image", "is a mask, but no image has its stem", "warning")
        for mask in (*masks_found.values(), *tile_masks.values())
        if mask not in used
    ]
    return ImageSet(
        pixels=FilePixels(tuple(files)),
        ids=np.array([identifier(path, root) for path in files]),
        labels=_labels_from_classes(classes),
        conditions={"class": np.array(classes, dtype=object)} if any(classes) else {},
        splits=splits,
        masks=tuple(masks) if masks_found or tile_masks else None,
        name=root.resolve().name,
        rejected=tuple(rejected),
    )


def identifier(path: Path, root: Path) -> str:
    """Path relative to the root with forward slashes; bytes that are no text are written as escapes."""
    shown = path.relative_to(root) if path.is_relative_to(root) else path
    return shown.as_posix().encode("utf-8", "backslashreplace").decode("utf-8")


def _walk(root: Path) -> tuple[list[Path], list[Finding]]:
    """Image files below the root, sorted by path, and a finding for every other file. Follows links, but no loop."""
    found: list[Path] = []
    rejected: list[Finding] = []
    visited: set[str] = set()
    for base, folders, names in os.walk(root, followlinks=True):
        real = os.path.realpath(base)
        if real in visited:
            folders.clear()
            continue
        visited.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name != "__MACOSX")
        for name in sorted(names):
            path = Path(base, name)
            if name.startswith(".") or name in ("Thumbs.db", "desktop.ini"):
                continue
            if is_image(path):
                found.append(path)
            elif is_unread_image(path):
                reason = f"is an image of a kind that is not read ({path.suffix}); save it as PNG or TIFF"
                rejected.append(Finding(identifier(path, root), "unsupported", reason, "error"))
            else:
                rejected.append(Finding(identifier(path, root), "ignored", "is not an image by its name", "note"))
    return sorted(found, key=lambda path: path.relative_to(root).parts), rejected


def _stem(name: str) -> str:
    """File name without suffix, in one Unicode form, so that names from different systems match."""
    return unicodedata.normalize("NFC", Path(name).stem)


def _take_ground_truth(files: list[Path], parts: dict[Path, tuple[str, ...]]):
    """Masks below ground_truth as (class, stem of the image) → path, and the files that are left."""
    masks: dict[tuple[str, str], Path] = {}
    left = []
    for path in files:
        if parts[path][0] == _MASK_FOLDER:
            name = parts[path][1] if len(parts[path]) > 2 else ""
            masks[name, _stem(path.name).removesuffix("_mask")] = path
        else:
            left.append(path)
    return masks, left


def _take_tile_masks(files: list[Path], parts: dict[Path, tuple[str, ...]]):
    """Masks of the magnetic tile layout as image → mask, and the files that are left."""
    groups: dict[tuple[Path, str], list[Path]] = defaultdict(list)
    for path in files:
        if path.parent.name == "Imgs" and parts[path][-3:-2] and parts[path][-3].startswith("MT_"):
            groups[path.parent, _stem(path.name)].append(path)
    masks: dict[Path, Path] = {}
    for group in groups.values():
        images = [path for path in group if path.suffix.lower() in (".jpg", ".jpeg")]
        for mask in (path for path in group if path.suffix.lower() == ".png"):
            masks[images[0] if images else mask] = mask
    taken = set(masks.values())
    return masks, [path for path in files if path not in taken]


def _mask_of(parts: tuple[str, ...], name: str | None, masks: dict[tuple[str, str], Path]) -> Path | None:
    """The MVTec mask of an image: same class folder, same stem; training images have none."""
    if not masks or parts[0].lower() == "train":
        return None
    return masks.get((name or "", _stem(parts[-1])))


def _labels_from_classes(classes: list[str | None]) -> np.ndarray:
    words: dict[str | None, float | None] = {c: None if c is None else _class_word(c) for c in set(classes)}
    if 0.0 in words.values():
        words = {c: np.nan if c is None else 1.0 if word is None else word for c, word in words.items()}
    return np.array([np.nan if words[c] is None else words[c] for c in classes], dtype=np.float64)


def _class_word(name: str) -> float | None:
    """As `label_word`, but a folder called "0" or "1" is a class, not a label, and MT_Free is normal."""
    if name in ("0", "1"):
        return None
    return 0.0 if name == "MT_Free" else label_word(name)
