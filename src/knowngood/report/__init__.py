"""One self-contained HTML file that says what was found, how sure that is, and how to get it again."""

from knowngood.report.build import render, write_report
from knowngood.report.inputs import Inside, Mapped, ReportInputs, Triptych, most_and_least
from knowngood.report.inspection import Inspected, render_inspection, write_inspection
from knowngood.report.picture import write_png

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
