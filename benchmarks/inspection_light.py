"""`python -m benchmarks inspection-light`: illumination changes on features, false alarms with and without correction.

Data as for `inspection_data`. All pixels are divided by 1.3 first, so that images made brighter by as much stay in
range. One detector is fitted as the defaults are, one with `illumination` = .3. The normal images among those that are
tested are taken times .7, 1/1.3, .85, 1, 1.15 and 1.3, and the share that is flagged at α = .05 should not depend on
the factor. Image and pixel AUROC are at factor 1, because the correction must not cost detections.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.inspection_data import InspectionSet, inspection_set
from benchmarks.light import FACTORS, ROOM, dimmed
from benchmarks.protocols import Form, check_form
from benchmarks.settings import chosen_settings
from benchmarks.tables import print_table, spread, write_csv
from knowngood.config import parse_settings
from knowngood.data import ImageSet

Row = dict[str, Any]
TOLERANCE = 0.3
WAYS: dict[str, float | None] = {"no correction": None, "illumination corrected": TOLERANCE}


def main(
    sources: tuple[str, ...] = ("bottle", "tile"),
    features: str = "efficientnet_lite0",
    seeds: tuple[int, ...] = (0,),
    form: Form = "test",
    alpha: float = 0.05,
    epochs: int | None = None,
    device: str = "auto",
    out: Path = Path("out/benchmarks/inspection-light"),
) -> list[Row]:
    """False alarms by brightness factor, image and pixel AUROC, with and without correction. Prints and returns.

    Args:
        sources: names or folders, see `inspection_data`; one that is missing is reported and skipped.
        epochs: of every fit; default as the settings choose.
    """
    check_form(form)
    rows: list[Row] = []
    for source in sources:
        for seed in seeds:
            data = inspection_set(source, form=form, seed=seed)
            if isinstance(data, str):
                print(f"{source}: {data}", file=sys.stderr)
                continue
            for way, tolerance in WAYS.items():
                options = {"backbone": features, "illumination": tolerance, "scaling": (0, 255)}
                settings = {
                    "representation": {"name": "features", **options},
                    **chosen_settings(alpha=alpha, epochs=epochs, device=device),
                    "random_state": seed,
                }
                rows.append({"source": source, "form": form, "way": way, "seed": seed, **measure(data, settings)})
                print(f"{source}, {way}, seed {seed}: {rows[-1]['false_alarms']}", file=sys.stderr)
    show(rows, alpha)
    write_csv(out / "table.csv", [_flat(row) for row in rows])
    return rows


def measure(data: InspectionSet, settings: dict[str, Any], backbone: Any = None) -> Row:
    """One fit: the share of normal images flagged at each brightness factor, image AUROC and pixel AUROC."""
    from knowngood.detector.estimator import Detector
    from knowngood.metrics import pixel_auroc, roc_auc

    train, test = (lit(images, 1 / ROOM) for images in (data.train, data.test))
    detector = Detector.from_settings(parse_settings(settings)).fit(train, backbone=backbone)
    good = test[test.labels == 0]
    flagged = {f"{factor:.2f}": float((detector.predict(lit(good, factor)) == -1).mean()) for factor in FACTORS}
    marked = [mask for mask in data.masks if mask is not None]
    seen = test[data.in_pixel_metrics]
    return {
        "good": len(good),
        "false_alarms": flagged,
        "auroc": roc_auc(test.labels, -detector.score_samples(test)),
        "pixel_auroc": pixel_auroc(detector.anomaly_maps(seen), marked) if marked else None,
    }


def lit(images: ImageSet, factor: float) -> ImageSet:
    """Images in memory, 8 bits, times a factor, with labels, conditions and ids."""
    pixels = np.stack([dimmed(images.read(i), factor) for i in range(len(images))])
    return ImageSet.from_arrays(pixels, images.labels, images.conditions, images.ids, images.name)


def show(rows: list[Row], alpha: float) -> None:
    """Means over seeds, one line per source and way."""
    factors = [f"{factor:.2f}" for factor in FACTORS]
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["source"], row["way"]), []).append(row)
    lines = []
    for (source, way), members in groups.items():
        rates = [float(np.mean([row["false_alarms"][factor] for row in members])) for factor in factors]
        found = [[row[name] for row in members if row[name] is not None] for name in ("auroc", "pixel_auroc")]
        told = [spread(float(np.mean(values)), None) if values else "no masks" for values in found]
        good = str(members[0]["good"])
        lines.append([source, way, str(len(members)), good, *(f"{rate:.3f}" for rate in rates), *told])
    head = ["source", "illumination", "runs", "normal", *(f"× {factor}" for factor in factors), "AUROC", "pixel AUROC"]
    print_table(head, lines, f"False-alarm rate at α = {alpha:g} by brightness")


def _flat(row: Row) -> Row:
    rates = {f"false_alarms_at_{factor}": rate for factor, rate in row["false_alarms"].items()}
    return {name: value for name, value in row.items() if name != "false_alarms"} | rates
