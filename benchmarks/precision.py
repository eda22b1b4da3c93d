"""`python -m benchmarks precision`: an exported model in fp32, fp16 and int8: size, speed, ranking and verdicts.

On the dev form: half of the held-out normal images calibrate every graph alike, the other half with their synthetic
defects is judged.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.inspection_data import inspection_set
from benchmarks.tables import print_table, write_csv
from knowngood import Detector
from knowngood.cli.console import note
from knowngood.deploy.onnx_graph import export
from knowngood.deploy.onnx_precision import PRECISIONS
from knowngood.errors import KnowngoodError, SettingsError
from knowngood.metrics import roc_auc
from knowngood.runtime import ExportedDetector

REPEATS = 3  # of the speed: the least counts


def main(
    source: str = "bottle",
    size: int = 256,
    seed: int = 0,
    threads: int = 1,
    keep: Path | None = None,
    out: Path = Path("out/benchmarks/precision"),
) -> list[dict[str, Any]]:
    """What each precision costs and loses. Prints the table.

    Args:
        size: of an image's sides. threads: of ONNX Runtime. keep: a folder in which model and files are left.
    """
    found = inspection_set(source, form="dev", seed=seed, size=size)
    if isinstance(found, str):
        raise SettingsError(found)
    normal = np.flatnonzero(found.test.labels == 0)
    calibrates = np.isin(np.arange(len(found.test)), normal[::2])
    calibration, judged = found.test[calibrates], found.test[~calibrates]
    representation = {"name": "features", "align": "none", "image_size": size}
    detector = Detector(representation, device="cpu", random_state=seed).fit(found.train)
    detector.calibrate(calibration)
    rows, first = [], None
    with tempfile.TemporaryDirectory(prefix="precision-") as temporary:
        folder = temporary if keep is None else keep
        detector.save(Path(folder, "model"))
        for precision in PRECISIONS:
            file, normals = Path(folder, f"{precision}.onnx"), None if precision == "fp32" else calibration
            try:
                export(detector, file, precision=precision, normals=normals)
            except KnowngoodError as error:
                note(f"{precision}: {error}")
                continue
            runtime = ExportedDetector(file, threads=threads)
            scored = runtime.detect(judged)
            verdicts = np.array([row["is_anomalous"] for row in scored])
            first = verdicts if first is None else first
            good = judged.labels == 0
            rows.append(
                {
                    "precision": precision,
                    "MB": file.stat().st_size / 1e6,
                    "ms an image": 1000 * pace(runtime, judged),
                    "image AUROC": roc_auc(judged.labels, [row["anomaly_score"] for row in scored]),
                    "flagged of normal": float(verdicts[good].mean()),
                    "detected": float(verdicts[~good].mean()),
                    "changed verdicts": float((verdicts != first).mean()),
                }
            )
            note(str(rows[-1]))
    shown = [[f"{value:.3g}" if isinstance(value, float) else str(value) for value in row.values()] for row in rows]
    title = f"{source}, dev form: {len(calibration)} normal images calibrate, {len(judged)} are judged, {size} px"
    print_table(list(rows[0]), shown, title)
    write_csv(out / "precision.csv", rows)
    return rows


def pace(runtime: ExportedDetector, images: Any) -> float:
    """Processor seconds of an image, with what is read and resized."""
    some, best = images[:10], np.inf
    for _ in range(REPEATS):
        started = time.process_time()
        runtime.detect(some)
        best = min(best, (time.process_time() - started) / len(some))
    return best
