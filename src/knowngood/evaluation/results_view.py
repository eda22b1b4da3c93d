"""Verdicts as a notebook shows them: thumbnails with maps, verdict and p-value, and the table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from knowngood.data import open_images
from knowngood.data.open import as_columns
from knowngood.evaluation.evaluate import Evaluation, results
from knowngood.evaluation.figures.pixels import as_rgb, reduced, value_range
from knowngood.evaluation.report.build import templates
from knowngood.evaluation.report.gallery import data_uri, gallery, row_facts
from knowngood.evaluation.report.inputs import ReportInputs, cards, most_and_least

if TYPE_CHECKING:
    from pandas import DataFrame

    from knowngood.data import ImageSet
    from knowngood.detector.estimator import Detector

SIDE = 160  # pixels of the longer side of a picture


@dataclass(frozen=True)
class ResultsView:
    """What `view` gives: in a notebook it is shown as pictures, elsewhere as the table.

    Attributes:
        table: that of `Detector.detect`, a row an image.
        html: the pictures with their verdicts; it loads nothing from elsewhere.
    """

    table: DataFrame
    html: str

    def _repr_html_(self) -> str:
        return self.html

    def __repr__(self) -> str:
        return repr(self.table)


def view(
    detector: Detector, X: Any, *, conditions: Any = None, alpha: float | None = None, most: int = 8
) -> ResultsView:
    """Judge images and look at the most anomalous ones: image, anomaly map and both together, with verdict and p-value.

    In a notebook the result is shown as pictures. A VAE on pixels shows the reconstruction and the
    difference; a model that has neither, the image alone.

    Args:
        detector: a fitted detector of images.
        X: images, as for `Detector.detect`: a folder, an array (N, H, W[, C]), an `ImageSet`.
        conditions: what is known of each image, columns (N,).
        alpha: false-alarm rate; default that of the fit.
        most: images that are shown, those with the highest score first.

    Raises:
        DataError: not one image can be read.

    Example:
        >>> import numpy as np
        >>> from knowngood import Detector, view
        >>> images = np.random.default_rng(0).integers(0, 255, (40, 16, 16), np.uint8)
        >>> view(Detector("hog", "memory_bank").fit(images[:30]), images[30:]).table.shape[0]
        10
    """
    images = open_images(X)
    if conditions is not None:
        images = images.annotate(None, as_columns(conditions))
    table = detector.detect(images, alpha=alpha)
    scored = results(detector, table, given=images.conditions, alpha=alpha)
    index, _ = most_and_least(scored.scores[: len(images)], most)
    shown = cards(detector, Evaluation(images, table, {}, scored.alpha, None, 0.0), index)
    inputs = ReportInputs(**vars(scored), most=shown)
    drawn = gallery(inputs) if shown else _pictures(inputs, images, index)
    facts = {"flagged": int(scored.flagged.sum()), "count": len(table), "alpha": scored.alpha}
    return ResultsView(table, templates().get_template("view.html.j2").render(**facts, **drawn))


def _pictures(inputs: ReportInputs, images: ImageSet, index: np.ndarray) -> dict[str, Any]:
    """Cards of the images alone, for a model that has neither maps nor reconstructions."""
    made = []
    read = [np.asarray(images.read(int(i)), float) for i in index]
    limits = value_range(read)
    for i, image in zip(index, read, strict=True):
        rgb = reduced(as_rgb(image, limits), SIDE)
        picture = Image.fromarray(np.round(255 * rgb).astype(np.uint8))
        name, facts = str(images.ids[i]), row_facts(inputs, int(i))
        enlarged = max(rgb.shape[:2]) <= SIDE // 2
        made.append(facts | {"id": name, "alt": name, "src": data_uri(picture), "pixelated": enlarged})
    return {"most": made, "panels": ["image"], "large": False, "scale": ""}
