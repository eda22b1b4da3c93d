"""The picture of the first screen: generated washers with their anomaly maps, regions and p-values.

python docs/pictures.py     # writes docs/images/washers.jpg
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.patches import Rectangle

from knowngood import Detector, open_images
from knowngood.evaluation.figures import style

SHOWN = ("good", "scratch", "crack", "stain", "missing_hole")


def main() -> None:
    """Fit to the 60 good washers of `train`, judge those of `test`, draw the first of each kind."""
    parts = open_images("generated-parts/products=washer,size=192,number=100").replace(conditions={})
    train, test = parts.split("train"), parts.split("test")
    detector = Detector({"name": "features", "image_size": 256}).fit(train)
    table = detector.detect(test)
    kinds = [name.split("/")[1] for name in test.ids]
    rows = [kinds.index(kind) for kind in SHOWN]
    maps, regions = detector.anomaly_maps(test[np.array(rows)]), detector.regions(test[np.array(rows)])
    calm = detector.anomaly_maps(train)
    low = max(float(np.nanmax(one)) for one in calm)
    high = max(2 * low, float(np.median([np.nanmax(one) for one in maps[1:]])))
    figure = style.new_figure(9, 3.6)
    for axes, row, values in zip(figure.subplots(1, len(rows)), rows, maps, strict=True):
        axes.imshow(test.read(row))
        axes.imshow(style.heat(np.clip((values - low) / (high - low), 0, 1)))
        for one in regions[regions.id == test.ids[row]].itertuples():
            corner, width, height = (one.left - 0.5, one.top - 0.5), one.right - one.left, one.bottom - one.top
            axes.add_patch(Rectangle(corner, width, height, fill=False, edgecolor="white", linewidth=1.2))
        verdict = "anomalous" if table.is_anomalous[row] else "normal"
        axes.set_title(f"{verdict}, p = {table.p_value[row]:.2g}", fontsize=9, color=style.INK)
        axes.set_xlabel(kinds[row].replace("_", " "), fontsize=9, color=style.MUTED)
        axes.set(xticks=[], yticks=[])
    figure.set_size_inches(9, 2.3)
    figure.savefig(Path(__file__).parent / "images" / "washers.jpg", dpi=110, pil_kwargs={"quality": 88})


if __name__ == "__main__":
    main()
