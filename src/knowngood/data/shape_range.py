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

    def notes(self, shapes: np.ndarray) -> dict[int, str]:
        """What is not normal of images of shapes (N, 2), height and width in pixels, by position; most have no note."""
        ratios, sides = _aspects(shapes), _sides(shapes)
        notes = {
            i: f"aspect ratio {ratios[i]:.3g}, expected {self._expected}"
            for i in np.flatnonzero(self._other(ratios)).tolist()
        }
        for i in np.flatnonzero(self._less(sides)).tolist():
            less = f"{sides[i]:.0f} px a side, expected {self.side:.0f} or more"
            notes[i] = f"{notes[i]}; {less}" if i in notes else less
        return notes

    def facts(self, shapes: np.ndarray, ids: np.ndarray) -> dict[str, dict[str, Any]]:
        """The same of all of them, as plain data by what differs, `aspect` and `small`; absent where nothing does.

        Keys of each: sentence; images, how many; ids; low, and of the aspect ratio high: the range of normal images.
        """
        found: dict[str, dict[str, Any]] = {}
        ratios, sides = _aspects(shapes), _sides(shapes)
        other, less = self._other(ratios), self._less(sides)
        if other.any() and self.aspect is not None:
            given = _range(ratios[other].min(), ratios[other].max())
            sentence = (
                f"{_share(other)} another aspect ratio (width / height) than the normal images, {given} instead of "
                f"{self._expected}, and may be flagged for it alone: {_named(ids[other])}. Crop or pad to the shape of "
                "the normal images, or fit to images of their shape"
            )
            low, high = self.aspect
            found["aspect"] = {**_of(sentence, ids[other]), "low": low, "high": high}
        if less.any():
            sentence = (
                f"{_share(less)} far fewer pixels than the normal images, {sides[less].min():.0f} a side "
                f"instead of {self.side:.0f} or more, and may be flagged for the detail that is missing: "
                f"{_named(ids[less])}. Give images of their size, or fit to small ones"
            )
            found["small"] = {**_of(sentence, ids[less]), "low": self.side}
        return found

    @property
    def _expected(self) -> str:
        return _range(*self.aspect or ())

    def _other(self, ratios: np.ndarray) -> np.ndarray:
        low, high = self.aspect or (0.0, np.inf)
        return (ratios < low / CLEAR) | (ratios > high * CLEAR)

    def _less(self, sides: np.ndarray) -> np.ndarray:
        return sides < (self.side or 0.0) / SMALLER


def _range(*ratios: float) -> str:
    return " to ".join(dict.fromkeys(f"{ratio:.3g}" for ratio in ratios))


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
