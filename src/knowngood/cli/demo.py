"""`knowngood demo`: an unknown handwritten digit by a VAE, and defects of generated parts with maps. Two reports."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from knowngood.cli.console import say

if TYPE_CHECKING:
    from knowngood.data import ImageSet

HOLDOUT = "9"
PARTS = "generated-parts/products=washer,number=150,defects=local"


def demo(
    out: Annotated[Path, typer.Option(help="folder for the models and reports", metavar="DIR")] = Path("runs/demo"),
) -> None:
    """Learn the handwritten digits 0 to 8 and detect the 9; learn a generated part and detect and locate its defects.

    Some minutes on two cores. Written are DIR/report.html and DIR/model of the digits, the same in DIR/parts.
    """
    from knowngood.data import open_dataset
    from knowngood.data.select import select

    digits = select(open_dataset("digits"), holdout=HOLDOUT)
    # A VAE on pixels, for reconstructions in the report. The class of a test image is hidden from the detector.
    settings = {"representation": "pixels", "conditioning": {"unknown": "infer"}}
    test = digits.split("test")
    given = {"classes": test.conditions["class"], "normal_name": "digits 0 to 8", "anomalous_name": f"digit {HOLDOUT}"}
    title = f"Handwritten digits: {HOLDOUT} is not in the training data"
    _report(out, title, settings, digits.split("train"), test.replace(conditions={}), **given)
    parts = open_dataset(PARTS)
    parts = parts.replace(conditions={"camera": parts.conditions["camera"]})
    test = parts.split("test")
    kinds = [name.split("/")[1].replace("_", " ") for name in test.ids.tolist()]
    given = {"classes": kinds, "normal_name": "good parts", "anomalous_name": "parts with a defect"}
    _report(out / "parts", "Generated washers, three cameras", {}, parts.split("train"), test, **given)


def _report(out: Path, title: str, settings: dict[str, Any], train: ImageSet, test: ImageSet, **names: Any) -> None:
    import numpy as np

    from knowngood.config import parse_settings
    from knowngood.detector.estimator import Detector
    from knowngood.evaluation.evaluate import evaluate
    from knowngood.evaluation.report import report_inputs, write_report

    detector = Detector.from_settings(parse_settings(settings))
    detector.fit(train[train.labels == 0], progress=True)
    model = detector.save(out / "model")
    evaluation = evaluate(detector, test)
    names["classes"] = np.array(names["classes"])
    report = write_report(
        out / "report.html", report_inputs(detector, evaluation, title=title, command="knowngood demo", **names)
    )
    metrics, seconds, rate = evaluation.metrics, detector.about_["seconds"], evaluation.alpha
    say(f"{title}: AUROC {metrics['auroc']:.3f}; trained in {seconds:.0f} s")
    say(
        f"at a false-alarm rate of {rate:g}: {metrics['detection_rate']:.1%} of the {names['anomalous_name']} "
        f"detected, {metrics['false_alarm_rate']:.1%} of the {names['normal_name']} flagged"
    )
    say(f"model   {model}")
    say(f"report  {report}")
