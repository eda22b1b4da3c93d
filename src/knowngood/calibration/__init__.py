"""From scores to p-values: the split of the normals, conformal calibration by stratum, thresholds, false discovery.

Everything here is NumPy (and SciPy inside functions); nothing imports torch. A module is imported when a name of it is
used: `knowngood.runtime` starts with two of them.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from knowngood.calibration.batch import Misfit, misfit, misfit_words
    from knowngood.calibration.conformal import (
        alarm_rank,
        benjamini_hochberg,
        false_alarm_interval,
        mean_excess,
        minimum_normals,
        p_values,
        surprise,
        threshold,
        verdict,
    )
    from knowngood.calibration.drift import Alarm, DriftMonitor
    from knowngood.calibration.martingales import OnlineRanks, Wealth, log_wealth
    from knowngood.calibration.regions import Region, find_regions, largest_value, regions_table
    from knowngood.calibration.splits import folds, one_of_each, split_normals
    from knowngood.calibration.state import Calibration

_LAZY = {
    "batch": ("Misfit", "misfit", "misfit_words"),
    "conformal": (
        "alarm_rank", "benjamini_hochberg", "false_alarm_interval", "mean_excess", "minimum_normals", "p_values",
        "surprise", "threshold", "verdict",
    ),
    "drift": ("Alarm", "DriftMonitor"),
    "martingales": ("OnlineRanks", "Wealth", "log_wealth"),
    "regions": ("Region", "find_regions", "largest_value", "regions_table"),
    "splits": ("folds", "one_of_each", "split_normals"),
    "state": ("Calibration",),
}  # fmt: skip
_MODULE = {name: module for module, names in _LAZY.items() for name in names}

__all__ = [
    "Alarm", "Calibration", "DriftMonitor", "Misfit", "OnlineRanks", "Region", "Wealth", "alarm_rank",
    "benjamini_hochberg", "false_alarm_interval", "find_regions", "folds", "largest_value", "log_wealth", "mean_excess",
    "minimum_normals", "misfit", "misfit_words", "one_of_each", "p_values", "regions_table", "split_normals",
    "surprise", "threshold", "verdict",
]  # fmt: skip


def __getattr__(name: str) -> object:
    if name in _MODULE:
        return getattr(import_module(f"knowngood.calibration.{_MODULE[name]}"), name)
    raise AttributeError(f"module 'knowngood.calibration' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted(__all__)
