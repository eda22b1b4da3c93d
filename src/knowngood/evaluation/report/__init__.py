"""One self-contained HTML file that says what was found, how sure that is, and how to get it again."""

from knowngood.evaluation.report.build import render, write_report
from knowngood.evaluation.report.inputs import Inside, Mapped, ReportInputs, Triptych, most_and_least
from knowngood.evaluation.report.inspection import Inspected, render_inspection, write_inspection
from knowngood.evaluation.report.picture import write_png

__all__ = [
    "Inside",
    "Inspected",
    "Mapped",
    "ReportInputs",
    "Triptych",
    "most_and_least",
    "render",
    "render_inspection",
    "write_inspection",
    "write_png",
    "write_report",
]
