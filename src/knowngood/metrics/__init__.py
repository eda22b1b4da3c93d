"""Arrays in, numbers out. Metrics of a ranking use the continuous anomaly score, never p-values."""

from knowngood.metrics.bootstrap import bootstrap_aucs, bootstrap_interval
from knowngood.metrics.ranking import RocCurve, average_precision, fpr_at_tpr, roc_auc, roc_curve

__all__ = [
    "RocCurve",
    "average_precision",
    "bootstrap_aucs",
    "bootstrap_interval",
    "fpr_at_tpr",
    "roc_auc",
    "roc_curve",
]
