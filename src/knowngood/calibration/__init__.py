"""From scores to p-values: the split of the normals, conformal calibration by stratum, thresholds, false discovery.

Everything here is NumPy (and SciPy inside functions); nothing imports torch.
"""

from knowngood.calibration.conformal import (
    alarm_rank,
    benjamini_hochberg,
    cross_p_values,
    false_alarm_counts,
    false_alarm_interval,
    minimum_normals,
    p_values,
    threshold,
    verdict,
)
from knowngood.calibration.splits import split_normals
from knowngood.calibration.state import Calibration
from knowngood.calibration.surprise import surprise

__all__ = [
    "Calibration",
    "alarm_rank",
    "benjamini_hochberg",
    "cross_p_values",
    "false_alarm_counts",
    "false_alarm_interval",
    "minimum_normals",
    "p_values",
    "split_normals",
    "surprise",
    "threshold",
    "verdict",
]
