"""Which shapes normal images have, and what is said of images of another."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from knowngood.config import counted
from knowngood.data.values import listing

CLEAR = 1.1  # factor by which an aspect ratio lies outside those of the normal images
SMALLER = 2.0  # factor by which an image is smaller than the smallest of them, a side
NAMED = 3  # images in a sentence


class ShapeRange(NamedTuple):
    """Of normal images. Images of other shapes are judged all the same, resized to what the model sees.

    aspect: the smallest and the largest ratio of width to height; None where it does not matter. side: in pixels, of a
    square as large as the smallest image; None likewise.
    """

    aspect: tuple[float, float] | None = None
    side: float | None = None

    def notes(self, shapes: np.ndarray) -> list[str | None]:
        """What is unusual of each of some images of shapes (N, 2), height and width in pixels; None if nothing."""
        notes: list[list[str]] = [[] for _ in shapes]
        for i, ratio in enumerate(_aspects(shapes)):
            if self._other(ratio):
                notes[i].append(f"aspect ratio {ratio:.3g}, expected {self._expected}")
        for i, side in enumerate(_sides(shapes)):
            if self._less(side):
                notes[i].append(f"{side:.0f} px a side, expected {self.side:.0f} or more")
        return ["; ".join(found) or None for found in notes]

    def facts(self, shapes: np.ndarray, ids: np.ndarray) -> dict[str, dict[str, Any]]:
        """The same of all of them, as plain data by what differs, `aspect` and `small`; absent where nothing does.

        Keys of each: sentence; images, how many; ids; low, and of the aspect ratio high: the range of normal images.
        """
        found: dict[str, dict[str, Any]] = {}
        other = np.array([self._other(ratio) for ratio in _aspects(shapes)], dtype=bool)
        if other.any() and self.aspect is not None:
            ratios = _aspects(shapes)[other]
            seen = " to ".join(dict.fromkeys(f"{ratio:.3g}" for ratio in (ratios.min(), ratios.max())))
            sentence = (
                f"{_share(other)} another aspect ratio (width / height) than the normal images, {seen} instead of "
                f"{self._expected}, and may be flagged for it alone: {_named(ids[other])}. Crop or pad to the shape of "
                "the normal images, or fit to images of their shape"
            )
            low, high = self.aspect
            found["aspect"] = {**_of(sentence, ids[other]), "low": low, "high": high}
        less = np.array([self._less(side) for side in _sides(shapes)], dtype=bool)
        if less.any():
            sentence = (
                f"{_share(less)} far fewer pixels than the normal images, {_sides(shapes)[less].min():.0f} a side "
                f"instead of {self.side:.0f} or more, and may be flagged for the detail that is missing: "
                f"{_named(ids[less])}. Give images of their size, or fit to small ones"
            )
            found["small"] = {**_of(sentence, ids[less]), "low": self.side}
        return found

    @property
    def _expected(self) -> str:
        return " to ".join(dict.fromkeys(f"{one:.3g}" for one in self.aspect or ()))

    def _other(self, ratio: float) -> bool:
        return self.aspect is not None and not self.aspect[0] / CLEAR <= ratio <= self.aspect[1] * CLEAR

    def _less(self, side: float) -> bool:
        return self.side is not None and side < self.side / SMALLER


def _aspects(shapes: np.ndarray) -> np.ndarray:
    return shapes[:, 1] / shapes[:, 0].astype(float)


def _sides(shapes: np.ndarray) -> np.ndarray:
    return np.sqrt(shapes[:, 0].astype(float) * shapes[:, 1])


def _share(which: np.ndarray) -> str:
    return f"{which.sum():,} of {counted(len(which), 'image')} {'has' if which.sum() == 1 else 'have'}"


def _named(ids: np.ndarray) -> str:
    return listing(ids.tolist(), most=NAMED)


def _of(sentence: str, ids: np.ndarray) -> dict[str, Any]:
    return {"sentence": sentence, "images": len(ids), "ids": ids.tolist()}
