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
from knowngood.calibration.map_thresholds import MapCalibration
from knowngood.calibration.regions import Region, find_regions, label_regions, regions_table
from knowngood.calibration.splits import folds, split_normals
from knowngood.calibration.state import Calibration
from knowngood.calibration.surprise import surprise

__all__ = [
    "Calibration",
    "MapCalibration",
    "Region",
    "alarm_rank",
    "benjamini_hochberg",
    "cross_p_values",
    "false_alarm_counts",
    "false_alarm_interval",
    "find_regions",
    "folds",
    "label_regions",
    "minimum_normals",
    "p_values",
    "regions_table",
    "split_normals",
    "surprise",
    "threshold",
    "verdict",
]
