"""Arrays in, numbers out. Metrics of a ranking use the continuous anomaly score, never p-values."""

from knowngood.metrics.intervals import auroc_interval
from knowngood.metrics.pixels import aupro, pixel_auroc, pixel_metrics
from knowngood.metrics.ranking import RocCurve, average_precision, fpr_at_tpr, roc_auc, roc_curve

__all__ = [
    "RocCurve", "aupro", "auroc_interval", "average_precision", "fpr_at_tpr", "pixel_auroc", "pixel_metrics",
    "roc_auc", "roc_curve",
]  # fmt: skip
