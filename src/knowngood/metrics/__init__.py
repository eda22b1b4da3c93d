"""Arrays in, numbers out. Metrics of a ranking use the continuous anomaly score, never p-values."""

from knowngood.metrics.intervals import bootstrap_interval
from knowngood.metrics.pixels import ProCurve, aupro, pixel_auroc, pixel_average_precision, pixel_metrics, pro_curve
from knowngood.metrics.ranking import RocCurve, average_precision, fpr_at_tpr, roc_auc, roc_curve

__all__ = [
    "ProCurve",
    "RocCurve",
    "aupro",
    "average_precision",
    "bootstrap_interval",
    "fpr_at_tpr",
    "pixel_auroc",
    "pixel_average_precision",
    "pixel_metrics",
    "pro_curve",
    "roc_auc",
    "roc_curve",
]
