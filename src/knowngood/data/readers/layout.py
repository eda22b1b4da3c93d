"""What the folders of a data set say: split, product and class of every image, from its path alone.

A layout is recognised from the names of folders, whatever lies beside them; what does not belong to it is set aside
with a reason. Where the names allow two readings, both are shown and nothing is read.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

from knowngood.data.labels import ANOMALOUS, NORMAL, label_word
from knowngood.errors import DataError

Parts = tuple[str, ...]  # a path below the root: folders, then the file's name

SPLITS = {
    "train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test",
    "testing": "test", "test_public": "test", "test_private": "test", "test_private_mixed": "test",
}  # fmt: skip
NOT_DATA = frozenset({"doc", "docs", "documentation", "preview", "previews", "thumbnails", "thumbs", "readme"})
NEGATIONS = frozenset({"no", "non", "not", "without"})


class Place(NamedTuple):
    """What the folders say of one image; or, in `aside`, why it does not belong to the layout."""

    split: str | None = None
    product: str | None = None
    name: str | None = None  # class
    aside: str | None = None
    below: Parts = ()  # folders below that of the class, which say nothing


def places(paths: Sequence[Parts], root: str) -> list[Place]:
    """The place of each image.

    - `train/…`, `test/…` (also `val`): splits; what lies beside them is set aside. Below a split, folders are classes.
    - `<product>/train/…`, `<product>/test/…`: splits of several products.
    - `<class>/…`. Where a deeper folder is named like a label ("good", "bad"), it is the class, and what lies above it
      the product.
    - a single folder around one of these does not count.

    Args:
        paths: of images, relative to the root.
        root: for messages.

    Raises:
        DataError: two readings are possible.
    """
    depth = _wrapped(paths)
    below = [path[depth:] for path in paths]
    if _is_split(below, root):
        return _by_split(below)
    rows: dict[str, list[int]] = defaultdict(list)  # by the first folder
    for i, path in enumerate(below):
        if len(path) > 1:
            rows[path[0]].append(i)
    products = {top: of for top, of in rows.items() if {"train", "test"} <= {_split_of(below[i][1:]) for i in of}}
    if not products:
        return _by_class(below)
    found = [Place(aside=f"lies beside the products {_named(set(products))}, in none of them")] * len(paths)
    for product, of in products.items():
        for i, place in zip(of, _by_split([below[i][1:] for i in of]), strict=True):
            found[i] = place._replace(product=product if len(products) > 1 else None)
    return found


def class_word(name: str, *, parts: bool = False) -> float | None:
    """The label that a class folder's name says: 0.0 normal, 1.0 anomalous, NaN unknown, None where it says nothing.

    As `label_word`, but a folder called "0" or "1" is a class, not a label, and MT_Free is normal. With `parts` words
    within the name count too: "1_bad", "ok parts", "no-defect".
    """
    if name in ("0", "1"):
        return None
    if name == "MT_Free":
        return 0.0
    whole = label_word(name)
    if whole is not None or not parts:
        return whole
    words = re.findall(r"[a-z]+", name.lower())
    normal, anomalous = any(w in NORMAL for w in words), any(w in ANOMALOUS for w in words)
    if normal == anomalous:
        return None
    return float(anomalous != any(w in NEGATIONS for w in words))


def _by_split(paths: Sequence[Parts]) -> list[Place]:
    """Places where the first folder is a split."""
    names = _named({path[0] for path in paths if _split_of(path)})
    rows = [i for i, path in enumerate(paths) if _split_of(path)]
    found = [Place(aside=f"lies beside the splits {names}, in none of them")] * len(paths)
    splits = [_split_of(paths[i]) for i in rows]
    for i, split, place in zip(rows, splits, _by_class([paths[i][1:] for i in rows], splits), strict=True):
        found[i] = place._replace(split=split)
    return found


def _by_class(paths: Sequence[Parts], splits: Sequence[str | None] | None = None) -> list[Place]:
    """Places where folders are classes, perhaps of several products; a split may have no classes."""
    splits = [None] * len(paths) if splits is None else splits
    levels = range(max((len(path) - 1 for path in paths), default=0))
    level = next((k for k in levels if any(_says_label(path[k]) for path in paths if len(path) > k + 1)), 0)
    above = {path[:level] for path in paths if len(path) > level + 1}
    folders = {path[level] for path in paths if len(path) > level + 1}
    labelled = {
        split for path, split in zip(paths, splits, strict=True) if len(path) > level + 1 and _says_label(path[level])
    }
    found = []
    for path, split in zip(paths, splits, strict=True):
        name = path[level] if len(path) > level + 1 else None
        product = "/".join(path[:level]) if len(above) > 1 and name is not None else None
        aside = None
        if name is None and split in labelled:
            aside = "lies beside the folders of normal and anomalous images, in none of them"
        elif name is not None and name.lower() in NOT_DATA and len(folders) > 1:
            aside = f"is in a folder '{name}', which holds no images of the data set by its name"
        found.append(Place(None, product, name, aside, path[level + 1 : -1]))
    return found


def _is_split(paths: Sequence[Parts], root: str) -> bool:
    """Whether the folders are splits. Raises DataError where one of them may be a split or a class."""
    folders = {path[0] for path in paths if len(path) > 1}
    named = {name for name in folders if name.lower() in SPLITS}
    if not named:
        return False
    kinds = {SPLITS[name.lower()] for name in named}
    others = folders - named
    loose = any(len(path) == 1 for path in paths)
    labelled = any(_says_label(path[1]) for path in paths if len(path) > 2 and path[0] in named)
    if len(kinds) > 1 or (not others and not (loose and kinds == {"test"})) or (labelled and "train" in kinds):
        return True
    one = sorted(named)[0]
    beside = f"the images in {_named(others)}" if others else "the images"
    raise DataError(
        f"{root} can be read in two ways, so it was not read. (1) {one}/ is the split '{SPLITS[one.lower()]}'; "
        f"{beside} beside it do not belong to the data. (2) {one}/ is one class; {beside} beside it belong to the data "
        f"too. If (1) is right, open {root}/{one}, or move the rest away. If (2) is right, rename {one}/, or give a "
        ".csv manifest with the columns path and class"
    )


def _wrapped(paths: Sequence[Parts]) -> int:
    """How many folders lie around everything and say nothing: `dataset/train`, `dataset/test` has one."""
    depth = 0
    while paths and all(len(path) > depth + 2 for path in paths) and len({path[depth] for path in paths}) == 1:
        name = paths[0][depth]
        if name.lower() in SPLITS or class_word(name) is not None:
            break
        depth += 1
    return depth


def _split_of(path: Parts) -> str | None:
    return SPLITS.get(path[0].lower()) if len(path) > 1 else None


def _says_label(name: str) -> bool:
    return class_word(name) in (0.0, 1.0)


def _named(names: set[str], most: int = 4) -> str:
    shown = sorted(names)[:most]
    return ", ".join(f"{name}/" for name in shown) + (", …" if len(names) > most else "")
