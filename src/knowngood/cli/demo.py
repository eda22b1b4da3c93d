"""`knowngood demo`: train, evaluate and report on embedded data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from knowngood.cli.console import on_terminal, say


def demo(
    out: Annotated[Path, typer.Option(help="folder for the model and the report", metavar="DIR")] = Path("runs/demo"),
) -> None:
    """Train on the handwritten digits 0 to 8, detect the digit 9 among new ones, and write a report."""
    from knowngood.evaluation.demo import run_demo

    result = run_demo(out, progress=on_terminal())
    say(f"digit {result.holdout} was not in training: AUROC {result.auroc:.3f}; trained in {result.seconds:.0f} s")
    say(
        f"at a false-alarm rate of {result.alpha:g}: {result.detection_rate:.1%} of the anomalous digits detected, "
        f"{result.false_alarm_rate:.1%} of the normal ones flagged"
    )
    say(f"model   {result.model}")
    say(f"report  {result.report}")
