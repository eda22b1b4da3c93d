"""`python -m benchmarks precision`: an exported model in fp32, fp16 and int8: size, speed, ranking and verdicts.

On the dev form: half of the held-out normal images calibrate every graph, the other half with their synthetic defects
is judged. int8 is quantised by ONNX Runtime; a fifth of the calibration images gives the ranges of activations and does
not calibrate.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.inspection_data import inspection_set
from benchmarks.tables import print_table, write_csv
from knowngood import Detector, ImageSet
from knowngood.calibration.conformal import p_values
from knowngood.cli.console import note
from knowngood.deploy.onnx_graph import export
from knowngood.errors import SettingsError
from knowngood.metrics import roc_auc
from knowngood.runtime import ExportedDetector

REPEATS = 3  # of the speed: the least counts
SHARE = 5  # one calibration image in so many gives ranges


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
    rows, first, good = [], None, judged.labels == 0
    with tempfile.TemporaryDirectory(prefix="precision-") as temporary:
        folder = Path(temporary if keep is None else keep)
        detector.save(folder / "model")
        files = {precision: folder / f"{precision}.onnx" for precision in ("fp32", "fp16", "int8")}
        export(detector, files["fp32"])
        export(detector, files["fp16"], precision="fp16", normals=calibration)
        ranges = np.arange(len(calibration)) % SHARE == 0
        quantised(files["fp32"], files["int8"], calibration[ranges])
        for precision, file in files.items():
            runtime = ExportedDetector(file, threads=threads)
            scores = scores_of(runtime, judged)
            p = p_values(scores_of(runtime, calibration if precision != "int8" else calibration[~ranges]), scores)
            verdicts = p <= detector.alpha
            first = verdicts if first is None else first
            rows.append(
                {
                    "precision": precision,
                    "MB": file.stat().st_size / 1e6,
                    "ms an image": 1000 * pace(runtime, judged),
                    "image AUROC": roc_auc(judged.labels, scores),
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


def scores_of(runtime: ExportedDetector, images: ImageSet) -> np.ndarray:
    """(N,) anomaly scores, which rise with the score before calibration."""
    return np.array([row["anomaly_score"] for row in runtime.detect(images)])


def quantised(source: Path, target: Path, ranges: ImageSet) -> None:
    """Convolutions in 8 bits: weights by channel, activations by the ranges that these images give."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    runtime = ExportedDetector(source)

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.images = iter(range(len(ranges)))

        def get_next(self) -> Any:
            i = next(self.images, None)
            if i is None:
                return None
            image = runtime.seen(ranges.read(i)).picture
            return {"image": image[None], "alpha": np.array(runtime.alpha)}

    kinds = {"weight_type": QuantType.QInt8, "activation_type": QuantType.QUInt8, "per_channel": True}
    options = {"quant_format": QuantFormat.QDQ, "op_types_to_quantize": ["Conv"], **kinds}
    quantize_static(source, target, Reader(), **options)


def pace(runtime: ExportedDetector, images: Any) -> float:
    """Processor seconds of an image, with what is read and resized."""
    some, best = images[:10], np.inf
    for _ in range(REPEATS):
        started = time.process_time()
        runtime.detect(some)
        best = min(best, (time.process_time() - started) / len(some))
    return best
