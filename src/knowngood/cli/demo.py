"""`knowngood demo`: train on nine of the ten embedded handwritten digits, detect the tenth, and report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from knowngood.cli.console import on_terminal, say
from knowngood.config import parse_settings

HOLDOUT = "9"


def demo(
    out: Annotated[Path, typer.Option(help="folder for the model and the report", metavar="DIR")] = Path("runs/demo"),
) -> None:
    """Train on the handwritten digits 0 to 8, detect the digit 9 among new ones, and write a report."""
    from knowngood import Detector
    from knowngood.data import open_dataset, select
    from knowngood.evaluation.evaluate import evaluate
    from knowngood.evaluation.report import report_inputs, write_report

    digits = select(open_dataset("digits"), holdout=HOLDOUT)
    train, test = digits.split("train"), digits.split("test")
    # A VAE on pixels, for reconstructions in the report. The class of a test image is hidden from the detector.
    settings = parse_settings({"representation": "pixels", "conditioning": {"unknown": "infer"}})
    detector = Detector.from_settings(settings).fit(train[train.labels == 0], progress=on_terminal())
    model = detector.save(out / "model")
    evaluation = evaluate(detector, test.replace(conditions={}))
    inputs = report_inputs(
        detector,
        evaluation,
        title=f"Handwritten digits: {HOLDOUT} is not in the training data",
        command="knowngood demo",
        normal_name="digits 0 to 8",
        anomalous_name=f"digit {HOLDOUT}",
        classes=test.conditions["class"],
    )
    report, metrics, seconds = write_report(out / "report.html", inputs), evaluation.metrics, detector.about_["seconds"]
    say(f"digit {HOLDOUT} was not in training: AUROC {metrics['auroc']:.3f}; trained in {seconds:.0f} s")
    say(
        f"at a false-alarm rate of {evaluation.alpha:g}: {metrics['detection_rate']:.1%} of the anomalous digits "
        f"detected, {metrics['false_alarm_rate']:.1%} of the normal ones flagged"
    )
    say(f"model   {model}")
    say(f"report  {report}")
