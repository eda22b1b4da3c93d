"""Which classes are normal: labels made from the condition column "class"."""

from __future__ import annotations

import re

import numpy as np

from knowngood.config import nearest
from knowngood.data.imageset import ImageSet
from knowngood.data.values import text_of
from knowngood.errors import DataError


def select(
    images: ImageSet,
    *,
    normal: str | int | None = None,
    anomalous: str | int | None = None,
    holdout: str | int | None = None,
) -> ImageSet:
    """Images with labels from their class.

    Classes are written as one value, a list or a range: "1", "NORMAL", "0,2,5", "0-8", "0-4,7".
    - `normal` and `anomalous`: those classes get label 0 and 1, all others are dropped.
    - only `normal`: every other class gets label 1. Only `anomalous`: every other class gets label 0.
    - `holdout`: those classes get label 1, all others 0; the class stays as a condition.
    Images whose class is unknown are dropped. With none of the three, the images come back as they are.

    Raises:
        DataError: no column "class", an unknown class (names the known ones), a class both normal and anomalous, or
            `holdout` together with the others.
    """
    if normal is None and anomalous is None and holdout is None:
        return images
    if holdout is not None and (normal is not None or anomalous is not None):
        raise DataError("holdout says which class is anomalous already; give either holdout, or normal and anomalous")
    if "class" not in images.conditions:
        has = ", ".join(images.conditions) or "none"
        raise DataError(f"{images.name} has no column 'class' to select by; its condition columns: {has}")
    classes = np.array([text_of(value) for value in images.conditions["class"].tolist()], dtype=object)
    known = sorted((value for value in set(classes.tolist()) if value is not None), key=natural)
    zeros = parse_classes(normal, known, images.name)
    ones = parse_classes(anomalous if holdout is None else holdout, known, images.name)
    if zeros & ones:
        raise DataError(
            f"class {', '.join(sorted(zeros & ones, key=natural))} is given both as normal and as anomalous"
        )
    zeros, ones = zeros or set(known) - ones, ones or set(known) - zeros
    labels = np.array([0.0 if c in zeros else 1.0 if c in ones else np.nan for c in classes.tolist()])
    return images.replace(labels=labels)[~np.isnan(labels)]


def parse_classes(text: str | int | None, known: list[str], name: str) -> set[str]:
    """Class values named by "1", "0-8", "0,2,5" or "NORMAL"; empty for None. Raises DataError for an unknown one."""
    if text is None:
        return set()
    if str(text) in known:  # a class name may hold commas or dashes itself
        return {str(text)}
    found: set[str] = set()
    for part in (piece.strip() for piece in str(text).split(",")):
        low, _, high = (end.strip() for end in part.partition("-"))
        span = part not in known and low.isdecimal() and high.isdecimal() and int(low) <= int(high)
        for value in map(str, range(int(low), int(high) + 1)) if span else [part]:
            if value not in known:
                raise DataError(f"{name} has no class '{value}'{nearest(part, known)}")
            found.add(value)
    return found


def natural(name: str) -> list[tuple[bool, int, str]]:
    """Key that sorts '10' after '9', numbers before words, and 'class=10' after 'class=9'."""
    parts = re.split(r"([0-9]+)", name)
    return [(not part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in parts if part]
