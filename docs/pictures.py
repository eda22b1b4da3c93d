"""The picture of the first screen: generated washers with their anomaly maps, regions and p-values.

python docs/pictures.py     # writes docs/images/washers.jpg
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from knowngood import Detector, open_images
from knowngood.evaluation.figures import style
from knowngood.evaluation.figures.explanation import mapped

SHOWN = ("good", "scratch", "crack", "stain", "missing_hole")


def main() -> None:
    """Fit to the 60 good washers of `train`, judge those of `test`, draw the first of each kind."""
    parts = open_images("generated-parts/products=washer,size=192,number=100").replace(conditions={})
    train, test = parts.split("train"), parts.split("test")
    detector = Detector({"name": "features", "image_size": 256}).fit(train)
    table = detector.detect(test)
    kinds = [name.split("/")[1] for name in test.ids]
    rows = [kinds.index(kind) for kind in SHOWN]
    found = {one.id: one for one in detector.explain(test[np.array(rows)], others=True)}
    figure = style.new_figure(9, 3.6)
    for axes, row in zip(figure.subplots(1, len(rows)), rows, strict=True):
        axes.imshow(mapped(found[test.ids[row]]))
        verdict = "anomalous" if table.is_anomalous[row] else "normal"
        axes.set_title(f"{verdict}, p = {table.p_value[row]:.2g}", fontsize=9, color=style.INK)
        axes.set_xlabel(kinds[row].replace("_", " "), fontsize=9, color=style.MUTED)
        axes.set(xticks=[], yticks=[])
    figure.set_size_inches(9, 2.3)
    figure.savefig(Path(__file__).parent / "images" / "washers.jpg", dpi=110, pil_kwargs={"quality": 88})


if __name__ == "__main__":
    main()
