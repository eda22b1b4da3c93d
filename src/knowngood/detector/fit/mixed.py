"""Sets of grey and colour images, or of several bit depths: how they are taken, decided before the fit."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from knowngood.config import FeatureOptions, Settings
from knowngood.config.representations import ImageOptions
from knowngood.config.words import for_caller
from knowngood.data import FilePixels, ImageSet
from knowngood.data.readers.dicom import RESCALED
from knowngood.detector.pipeline import Items
from knowngood.errors import DataError


def unified(settings: Settings, *sets: Items) -> tuple[Settings, str]:
    """The resolved settings so that the representation takes all images, and what was decided, as a part of a sentence.

    Grey beside colour: three equal channels for a backbone; elsewhere luminance, if the colour images hold no colour.
    Rescaled DICOM beside DICOM that needs no rescaling: raw values are in one unit, so one range holds for all.

    Raises:
        DataError: what is meant cannot be known; names the options that say it.
    """
    options: Any = settings.representation
    images = [one for one in sets if isinstance(one, ImageSet) and len(one)]
    if not images or not isinstance(options, ImageOptions):
        return settings, ""
    changes, words, kinds = {}, [], [kind for one in images for kind in one.kinds()]
    channels, types = Counter(kind[0] for kind in kinds), Counter(kind[1] for kind in kinds)
    if set(channels) == {1, 3} and not (options.grey or options.colour):
        if isinstance(options, FeatureOptions):
            changes["colour"] = True
            words.append("grey images become three equal channels")
        elif not any(_coloured(one) for one in images):
            changes["grey"] = True
            words.append("the images of 3 channels hold no colour and become grey")
        else:
            raise DataError(
                f"{images[0].name}: {channels[1]:,} grey and {channels[3]:,} colour images. "
                f"{_ways(options, grey=True)} compares brightness alone; {_ways(options, colour=True)} makes three "
                "equal channels of a grey image"
            )
    if len(types) > 1 and isinstance(options.scaling, str) and options.scaling != "data":
        unsigned = all(name.startswith("uint") for name in types)
        if _one_unit(images):
            changes["scaling"] = "data"
            words.append("the raw values of all files are in one unit and share a range")
        elif not (unsigned and options.scaling == "dtype"):
            listed = ", ".join(f"{count:,} {name}" for name, count in types.most_common())
            whole = f"{_ways(options, scaling='dtype')} if each uses the whole range of its type; " * unsigned
            raise DataError(
                f"{images[0].name}: images of different types: {listed}. Say what their values mean: {whole}"
                f"{_ways(options, scaling='data')} if they are in one unit"
            )
    if not changes:
        return settings, ""
    return settings.model_copy(update={"representation": options.model_copy(update=changes)}), "; ".join(words)


def _coloured(images: ImageSet) -> bool:
    """Whether an image of 3 channels has a pixel in which they differ."""
    three = np.flatnonzero(images.shapes()[:, 2] == 3)
    return any((image != image[..., :1]).any() for image in map(images.read, three.tolist()))


def _one_unit(images: list[ImageSet]) -> bool:
    """Whether all are DICOM files, some with rescaled values."""
    if not all(isinstance(one.pixels, FilePixels) for one in images):
        return False
    headers = [header for one in images for header in one.pixels.headers()]  # type: ignore[attr-defined]
    return all(header.unit for header in headers) and any(RESCALED in header.notes for header in headers)


def _ways(options: ImageOptions, **change: Any) -> str:
    [(name, value)], kind = change.items(), options.name  # type: ignore[attr-defined]
    flag = f"--{name}" if value is True else f"--{name} {value}"
    shown = "True" if value is True else f'"{value}"'
    return for_caller(f'representation={{"name": "{kind}", "{name}": {shown}}}', f"--representation {kind} {flag}")
