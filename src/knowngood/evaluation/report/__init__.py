"""Two self-contained HTML files: the report of an evaluation, and the inspection page of scored images."""

from knowngood.evaluation.report.build import render, write_report
from knowngood.evaluation.report.inputs import Card, ReportInputs, most_and_least, report_inputs
from knowngood.evaluation.report.inspection_page import Inspected, inspected, render_inspection, write_inspection

__all__ = [
    "Card", "Inspected", "ReportInputs", "inspected", "most_and_least", "render", "render_inspection",
    "report_inputs", "write_inspection", "write_report",
]  # fmt: skip
