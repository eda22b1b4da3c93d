"""`knowngood demo`: the whole way on embedded data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from knowngood.cli.console import on_terminal, say


def demo(
    out: Annotated[Path, typer.Option(help="where the model and the report go", metavar="DIR")] = Path("runs/demo"),
) -> None:
    """Train on real handwritten digits, meet a digit never seen before, and write a report."""
    from knowngood.evaluation.demo import run_demo

    result = run_demo(out, progress=on_terminal())
    say(f"digit {result.holdout} was never seen: AUROC {result.auroc:.3f}; trained in {result.seconds:.0f} s")
    say(
        f"at a false-alarm rate of {result.alpha:g}: {result.detection_rate:.1%} of it found, "
        f"{result.false_alarm_rate:.1%} of the others flagged"
    )
    say(f"model   {result.model}")
    say(f"report  {result.report}")
