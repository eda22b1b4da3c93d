"""The demonstration: train on nine of the ten embedded handwritten digits, then detect the tenth."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from knowngood.config import Settings, parse_settings

HOLDOUT = "9"


@dataclass(frozen=True)
class DemoResult:
    """The files of the demo, and its metrics on images that took no part in training."""

    holdout: str
    report: Path
    model: Path
    auroc: float
    false_alarm_rate: float
    detection_rate: float
    alpha: float
    seconds: float  # of the fit


def demo_settings() -> Settings:
    """A VAE on pixels, for reconstructions in the report; the class of a test image is unknown and inferred."""
    return parse_settings({"representation": "pixels", "conditioning": {"unknown": "infer"}})


def run_demo(out: Path, *, progress: bool = True) -> DemoResult:
    """Fit on scikit-learn's digits 0 to 8 with their class as condition, score the test part, write the results.

    Writes `model/`, `report.html` and `report.png` into `out`. The class of a test image is hidden from the detector.
    """
    from knowngood import Detector
    from knowngood.data import open_dataset, select
    from knowngood.evaluation.evaluate import evaluate
    from knowngood.evaluation.report import report_inputs, write_png, write_report

    digits = select(open_dataset("digits"), holdout=HOLDOUT)
    train, test = digits.split("train"), digits.split("test")
    detector = Detector.from_settings(demo_settings())
    detector.fit(train[train.labels == 0], progress=progress)
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
    write_png(out / "report.png", inputs)
    return DemoResult(
        holdout=HOLDOUT,
        report=write_report(out / "report.html", inputs),
        model=model,
        **{name: evaluation.metrics[name] for name in ("auroc", "false_alarm_rate", "detection_rate")},
        alpha=evaluation.alpha,
        seconds=detector.about_["seconds"],
    )
