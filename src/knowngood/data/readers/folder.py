"""Folders of images. The layout is recognised from the names of folders and files, see `layout` and `masks`:

- MVTec: `train/good`, `test/<defect>`, `ground_truth/<defect>/<stem>_mask.png`. Label 0 for good, 1 for the rest.
- splits: `train|val|test / <class> /…`. Split and class from the names.
- products: `<product>/train/…`, `<product>/test/…`, with masks each. Condition column "product".
- classes: `<class>/…`. Class from the name, deeper folders belong to it; but `<product>/good`, `<product>/bad`.
- magnetic tile: `MT_<class>/Imgs/*.jpg` with masks `*.png` of the same stem beside them. Label 0 for MT_Free.
- plain: images in the folder itself (or deeper without one of the above): no class, no label.

The class is condition column "class". If the names of some classes are label words ("good", "NORMAL", "ok", …: see
`parse_labels`), those are normal and every other class is anomalous; "unknown" and "unlabelled" stay unknown. Without
such words, an image with a mask is anomalous unless the mask is empty. Images are sorted by path. Names that begin with
a dot, __MACOSX, Thumbs.db and desktop.ini are passed over. Every other file is an image, a mask, or among `rejected`.
"""

from __future__ import annotations

import os
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from knowngood.config import counted
from knowngood.data.findings import Finding, Unreadable, printable
from knowngood.data.imageset import ImageSet, Marks
from knowngood.data.pixel_source import FilePixels, PixelSource
from knowngood.data.readers.files import SUFFIXES, is_image, unread_reason
from knowngood.data.readers.layout import Place, class_word, places
from knowngood.data.readers.limits import Limits
from knowngood.data.readers.mask_file import looks_like_mask, read_masks
from knowngood.data.readers.masks import is_mask, is_mask_folder, match_masks
from knowngood.data.values import listing
from knowngood.errors import DataError

MANIFEST = "manifest.csv"  # as `knowngood data write` and `reviews` name it
# What `knowngood train` draws, and what it writes beside that.
DRAWN = {"reconstructions.png": "command.json", "reconstructions.gif": "log.csv"}
REASONS = 3  # reasons why there is no image
RESULTS = ("maps.json", "explanations.json")  # what `knowngood score` writes beside pictures, or above them


def read_folder(folder: str | Path, limits: Limits | None = None) -> ImageSet:
    """All images below a folder; ids are paths relative to it. See the module's page for the layouts.

    `limits` bound the masks that are looked at here, not the images.

    Raises:
        DataError: no image in it, or its layout can be read in two ways.
    """
    root = Path(folder)
    files, rejected = _walk(root)
    found = arranged(
        [path.relative_to(root).parts for path in files],
        str(root),
        rejected,
        lambda i: looks_like_mask(files[i], limits),
        folder=root.resolve().name,
    )
    ids = [identifier(path, root) for path in files]
    images = found.image_set(FilePixels(tuple(files)), ids, lambda of: tuple(files[m] for m in of), limits)
    return images.replace(name=printable(root.resolve().name))


class Arranged(NamedTuple):
    """N images of a layout. images: the position of each among the paths, and its place. masks: those of its masks.

    labels: (N,) by the names of classes. marked: the source has masks. rejected: what is no image of the layout.
    """

    images: list[tuple[int, Place]]
    masks: list[list[int]]
    labels: np.ndarray
    marked: bool
    rejected: list[Finding]

    def image_set(
        self,
        pixels: PixelSource,
        ids: Sequence[str],
        marks: Callable[[list[int]], Marks],
        limits: Limits | None = None,
    ) -> ImageSet:
        """The set of these images. pixels, ids: of all paths. marks: what draws the masks at some positions."""
        at, masks = np.array([i for i, _ in self.images]), tuple(marks(of) if of else None for of in self.masks)
        unlabelled = not np.isfinite(self.labels).any() and any(self.masks)
        splits = [place.split for _, place in self.images]
        columns = {"product": [one.product for _, one in self.images], "class": [one.name for _, one in self.images]}
        return ImageSet(
            pixels=pixels.take(at),
            ids=np.array([ids[i] for i in at]),
            labels=by_mask(masks, limits) if unlabelled else self.labels,
            conditions={name: np.array(values, dtype=object) for name, values in columns.items() if any(values)},
            splits=np.array(splits) if all(splits) else None,
            masks=masks if self.marked else None,
            rejected=tuple(self.rejected),
        )


def arranged(
    paths: Sequence[tuple[str, ...]],
    root: str,
    rejected: Sequence[Finding] = (),
    looks: Callable[[int], bool] = lambda i: False,
    folder: str = "",
) -> Arranged:
    """What the paths of image files below a root say; see the module's page for the layouts.

    Args:
        paths: of images and masks, in parts, relative to the root.
        root: for messages. rejected: what was set aside before. looks: see `match_masks`.
        folder: the name of the root, where that is a folder.

    Raises:
        DataError: no image is among them, the layout can be read in two ways, or the root is a folder of masks.
    """
    parts = [tuple(unicodedata.normalize("NFC", printable(part)) for part in path) for path in paths]
    names = [printable("/".join(path)) for path in paths]
    pictures, masks_of, lonely = match_masks(parts, root, looks)
    found = places([parts[i] for i in pictures], root)
    kept = [(i, place) for i, place in zip(pictures, found, strict=True) if place.aside is None]
    asides = [(i, place.aside) for i, place in zip(pictures, found, strict=True) if place.aside is not None]
    rejected = [*rejected, *(Finding(names[i], "set-aside", why, "warning") for i, why in asides)]
    without = "is a mask by its name and folder, but no image has its name"
    of_those = [mask for i, _ in asides for mask in masks_of.pop(i, [])]
    rejected += [Finding(names[i], "mask-without-image", without, "warning") for i in lonely]
    rejected += [
        Finding(names[i], "set-aside", "is the mask of an image that is set aside", "warning") for i in of_those
    ]
    rejected += _not_distinguished([place for _, place in kept])
    if not kept:
        raise without_images(root, rejected)
    masks = [masks_of.get(i, []) for i, _ in kept]
    labels = labels_of([place.name for _, place in kept])
    own = any(masks) or (labels == 0).any() or {"train", "test"} <= {place.split for _, place in kept}
    if is_mask_folder(folder) and not own:
        raise DataError(
            f"{root}: a folder of the name '{printable(folder)}' holds masks, not images of parts; give the folder "
            "above it, with the images they belong to, or rename it if these are photographs"
        )
    assert len(paths) == len(kept) + len(asides) + len(lonely) + len(of_those) + sum(map(len, masks))
    return Arranged(kept, masks, labels, bool(masks_of or lonely), rejected)


def _not_distinguished(kept: Sequence[Place]) -> list[Finding]:
    """A note on each class that has folders of its own, which are no condition."""
    below: dict[tuple[str, ...], set[str]] = defaultdict(set)
    for place in kept:
        if place.name is not None:
            below[tuple(name for name in (place.product, place.name) if name)].add("/".join(place.below))
    return [
        Finding(
            "/".join(above),
            "not-distinguished",
            f"images in {listing(sorted(folders - {''}), quote=True, most=4)} are not distinguished: all are of the "
            f"class '{above[-1]}'. If images differ by them, write a manifest (.csv) with a column for each level",
            "note",
        )
        for above, folders in below.items()
        if len(folders) > 1
    ]


def without_images(root: str, rejected: Sequence[Finding], within: str = "it") -> DataError:
    """The error of a source that holds no image of parts: why the files that were set aside are none."""
    reasons: dict[str, list[Finding]] = defaultdict(list)
    for one in rejected:
        reasons[one.reason if one.kind != "ignored" else ""].append(one)
    ignored = reasons.pop("", [])
    if not reasons:
        listed = f" ({counted(len(ignored), 'other file')}, such as {ignored[0].path_or_id})" if ignored else ""
        return DataError(f"{root}: no images in {within}{listed}; expected files named {', '.join(sorted(SUFFIXES))}")
    named = [
        str(some[0]) + (f" (and {len(some) - 1} more)" if len(some) > 1 else "")
        for some in sorted(reasons.values(), key=len, reverse=True)[:REASONS]
    ]
    return DataError(f"{root}: no images of parts in {within}; give a folder of these. Set aside:\n" + "\n".join(named))


def identifier(path: Path, root: Path) -> str:
    """Path relative to the root with forward slashes; bytes that are no text are written as escapes."""
    shown = path.relative_to(root) if path.is_relative_to(root) else path
    return printable(shown.as_posix())


def _walk(root: Path) -> tuple[list[Path], list[Finding]]:
    """Image files below the root, sorted by path, and a finding for all else. Follows links, but no loop."""
    found: list[Path] = []
    rejected: list[Finding] = []
    visited: dict[str, Path] = {}
    of_results: dict[Path, str] = {}

    def unlisted(error: OSError) -> None:
        path, reason = Path(error.filename), f"cannot be listed ({error.strerror}); what lies in it is not read"
        if path == root:
            raise DataError(f"{root}: {reason}")
        rejected.append(Finding(identifier(path, root), "unlisted", reason, "error"))

    for base, folders, names in os.walk(root, onerror=unlisted, followlinks=True):
        real = os.path.realpath(base)
        if real in visited:
            folders.clear()
            if not Path(base).is_relative_to(visited[real]):  # else it leads round in a circle
                reason = f"is the folder {identifier(visited[real], root)} by another name, and is read once"
                rejected.append(Finding(identifier(Path(base), root), "read-once", reason, "warning"))
            continue
        visited[real] = Path(base)
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name != "__MACOSX")
        results = next((name for name in RESULTS if name in names), of_results.get(Path(base).parent))
        if results is not None:
            of_results[Path(base)] = results
        for name in sorted(names):
            path = Path(base, name)
            if name.startswith(".") or name in ("Thumbs.db", "desktop.ini"):
                continue
            if is_image(path) and (reason := drawn_by_us(name, names, results)) is not None:
                rejected.append(Finding(identifier(path, root), "set-aside", reason, "warning"))
            elif is_image(path):
                found.append(path)
            elif (reason := unread_reason(path)) is not None:
                rejected.append(Finding(identifier(path, root), "unsupported", reason, "error"))
            else:
                rejected.append(Finding(identifier(path, root), "ignored", no_image(name, path), "note"))
    return sorted(found, key=lambda path: path.relative_to(root).parts), rejected


def drawn_by_us(name: str, beside: Collection[str], results: str | None) -> str | None:
    """Why an image file is one that knowngood drew, not one of parts; None if it may be one of parts.

    Args:
        beside: names in its folder. results: the one of `RESULTS` that lies there, or in a folder above.
    """
    if results is not None:
        return f"lies beside {results}: a folder of results of knowngood, not of images of parts"
    record = DRAWN.get(name)
    return (
        f"lies beside {record}: knowngood drew it, of a training" if record is not None and record in beside else None
    )


def why_aside(path: Path, root: Path) -> str | None:
    """Why a file that came below the root shows no part, by its name and place alone; None if it may show one."""
    if is_mask(path, root):
        return "is a mask by its name and place"
    above = [folder for folder in path.parents if folder.is_relative_to(root)]
    results = next((name for folder in above for name in RESULTS if (folder / name).is_file()), None)
    return drawn_by_us(path.name, [name for name in DRAWN.values() if (path.parent / name).is_file()], results)


def with_others(images: ImageSet, names: Sequence[str]) -> ImageSet:
    """The images, and findings on the files of other kinds that lie beside what holds them."""
    notes = [Finding(printable(name), "ignored", no_image("", ""), "note") for name in names]
    return images.replace(rejected=(*images.rejected, *notes))


def no_image(name: str, place: object) -> str:
    """Why a file of another name than those of images is not read; place: path or address of it."""
    if name == MANIFEST:
        return f"was not read: give {place} in place of the folder to use its columns, such as conditions"
    return "is not an image by its name"


def labels_of(classes: list[str | None]) -> np.ndarray:
    """(N,) labels from the names of classes: 0 normal, 1 anomalous, NaN unknown."""
    names = [name for name in dict.fromkeys(classes) if name is not None]
    words = {name: class_word(name) for name in names}
    if 0.0 not in words.values():  # "1_bad" and "ok parts" count where no name is a label as a whole
        words = {name: class_word(name, parts=True) for name in names}
    other = 1.0 if 0.0 in words.values() else np.nan
    labels = {name: other if word is None else word for name, word in words.items()}
    return np.array([np.nan if name is None else labels[name] for name in classes], dtype=np.float64)


def by_mask(masks: Sequence[Marks | None], limits: Limits | None = None) -> np.ndarray:
    """(N,) labels of images of which nothing else is known: a mask that is not empty shows an anomaly."""
    labels = np.full(len(masks), np.nan)
    for i, marks in enumerate(masks):
        if marks is not None:
            try:
                labels[i] = float((marks() if callable(marks) else read_masks(marks, limits)).any())
            except Unreadable:  # named by the audit
                labels[i] = 1.0
    return labels
