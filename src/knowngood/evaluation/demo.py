"""The demonstration: train on nine of the ten embedded handwritten digits, then find the tenth."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from knowngood.config import Settings, parse_settings

HOLDOUT = "9"
SETTINGS = {"unknown": "infer"}


@dataclass(frozen=True)
class DemoResult:
    """What the demo made, and what it found on images that took no part in training."""

    holdout: str
    report: Path
    model: Path
    auroc: float
    false_alarm_rate: float
    detection_rate: float
    alpha: float
    seconds: float  # of the fit


def demo_settings() -> Settings:
    """Settings of the demo: the defaults, with the class of a test image unknown and inferred."""
    return parse_settings(SETTINGS)


def run_demo(out: Path, *, progress: bool = True) -> DemoResult:
    """Fit on scikit-learn's digits 0 to 8 with their class as condition, score the test part, write what was found.

    Writes `model/`, `report.html` and `report.png` into `out`. The class of a test image is never told: it is inferred.
    """
    from knowngood import Detector
    from knowngood.data import open_dataset, select
    from knowngood.evaluation.evaluate import evaluate, report_inputs
    from knowngood.evaluation.report import write_png, write_report

    digits = select(open_dataset("digits"), holdout=HOLDOUT)
    train, test = digits.split("train"), digits.split("test")
    detector = Detector.from_settings(demo_settings())
    detector.fit(train[train.labels == 0], progress=progress)
    model = detector.save(out / "model")
    found = evaluate(detector, test.replace(conditions={}))
    inputs = report_inputs(
        detector,
        found,
        title=f"Handwritten digits: {HOLDOUT} was never seen in training",
        command="make demo",
        normal_name="digits 0 to 8",
        anomalous_name=f"digit {HOLDOUT}",
        classes=test.conditions["class"],
    )
    write_png(out / "report.png", inputs)
    return DemoResult(
        holdout=HOLDOUT,
        report=write_report(out / "report.html", inputs),
        model=model,
        auroc=found.metrics["auroc"],
        false_alarm_rate=found.metrics["false_alarm_rate"],
        detection_rate=found.metrics["detection_rate"],
        alpha=found.alpha,
        seconds=detector.about_["seconds"],
    )
