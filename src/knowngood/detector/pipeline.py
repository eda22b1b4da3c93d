"""The fitted parts of a detector, as data: what a saved model holds, and all that scoring needs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from knowngood.calibration import Calibration
from knowngood.config import Settings, counted
from knowngood.data import ImageSet, TableSet
from knowngood.data.columns import Column
from knowngood.data.conditions import ConditionSchema
from knowngood.data.regions.ignore import IgnoreRegions
from knowngood.detector.added_groups import AddedGroup
from knowngood.detector.image_statistics import ImageStatistics
from knowngood.detector.reference_index import ReferenceIndex
from knowngood.models.base import Model
from knowngood.representations import HOG, Features, Pixels, Table
from knowngood.scores import Score
from knowngood.scores.adjustment import Adjustment

Items = ImageSet | TableSet
Representation = Pixels | HOG | Features | Table
Method = Literal["split", "cross", "set"]


@dataclass(frozen=True, repr=False)  # it would be all tensors
class Pipeline:
    """Representation → model → score → calibration, each fitted.

    settings: resolved; no choice is "auto". marginal_calibration: of scores with the conditions marginalised.
    map_calibration: of the largest values of anomaly maps. mismatch_calibrations: of the mismatch with the
    stated conditions where they are checked, then of each checked column if there are several. calibrated_by: how its
    images were chosen: set aside ("split"), cross-conformal ("cross"), or given apart ("set"). objective_state: what
    the objective keeps. reference: an index of normal images fitted to, for explanations. added: Mondrian groups of the
    calibration alone. statistics: of the calibration images. fitted_to: (M,) digests of the content of all items fitted
    to; fitted_groups: of the values in their group column. Scoring uses everything but objective_state, reference and
    the last three.
    """

    settings: Settings
    schema: ConditionSchema
    representation: Representation
    model: Model
    score: Score
    adjustments: tuple[Adjustment, ...] = ()
    state: dict[str, Tensor] = field(default_factory=dict)
    calibration: Calibration | None = None
    marginal_calibration: Calibration | None = None
    map_calibration: Calibration | None = None
    mismatch_calibrations: tuple[Calibration, ...] = ()
    calibrated_by: Method = "split"
    ignore: IgnoreRegions | None = None
    objective_state: dict[str, Tensor] = field(default_factory=dict)
    reference: ReferenceIndex | None = None
    added: tuple[AddedGroup, ...] = ()
    statistics: ImageStatistics | None = None
    fitted_to: np.ndarray | None = None
    fitted_groups: np.ndarray | None = None

    def __repr__(self) -> str:
        chosen: list[Any] = [self.settings.representation, self.settings.model, self.settings.score]
        items = counted(len(self.calibration or ()), "calibration item")
        return f"Pipeline({', '.join(one.name for one in chosen)}; {self.calibrated_by} calibration, {items})"

    @property
    def unseen(self) -> tuple[str, ...]:
        """Image factors that scores do not depend on: the representation does not see them, and no condition is one."""
        hidden = getattr(self.representation, "unseen", ())  # one of a plug-in need not say
        return tuple(name for name in hidden if name not in self.settings.conditioning.measure)

    @property
    def checked(self) -> tuple[str, ...]:
        """The condition columns whose stated values are checked."""
        names = self.settings.conditioning.check
        return () if isinstance(names, str) else names

    @property
    def checked_columns(self) -> list[Column]:
        """As fitted, in the order of the schema."""
        return [column for column in self.schema.columns if column.name in self.checked]

    @property
    def given_columns(self) -> list[str]:
        """The condition columns that items may come with: of the fit, less what is measured, and of added groups."""
        own = [one.name for one in self.schema.columns if one.name not in self.settings.conditioning.measure]
        return list(dict.fromkeys([*own, *(name for group in self.added for name in group.values)]))

    def level(self, alpha: float | None = None) -> float:
        """The level of each test at a false-alarm rate, default that of the fit: half of it where there are two.

        Where stated conditions are checked an item is flagged if it is anomalous or does not fit its condition, and
        so both together flag at most `alpha` of the normal items that fit theirs (Bonferroni).
        """
        alpha = self.settings.alpha if alpha is None else alpha
        return alpha / 2 if self.checked else alpha

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        tensors = [*self.model.parameters(), *self.model.buffers()]
        return tensors[0].device if tensors else torch.device("cpu")


def to_device(pipeline: Pipeline, device: str | torch.device) -> Pipeline:
    """Move model and backbone to a device, in place."""
    pipeline.model.to(device)
    if isinstance(pipeline.representation, Features):
        pipeline.representation.to(device)
    return pipeline
