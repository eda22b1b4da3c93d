"""The calibration of an exported detector: from raw scores to anomaly scores and p-values.

It is the end of the graph. In another precision it is known only once the graph has scored normal images, and is then
appended to what was traced before.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from knowngood.calibration import Calibration
from knowngood.calibration.conformal import sorted_scores
from knowngood.runtime.marginal import RAW


class CalibrationGraph(nn.Module):
    """`Calibration`: raw scores (B,) in strata (B,) → anomaly scores and p-values, which depend on α (B,)."""

    def __init__(self, known: Calibration) -> None:
        super().__init__()
        own = [sorted_scores(known.scores[known.strata == s]) for s in range(len(known.stratum_names))]
        self.n, self.limit = len(known), known.pooled_threshold
        tables = {"own": np.concatenate(own), "of": known.strata, "pool": sorted_scores(known.reference())}
        tables |= {"counts": known.counts, "thresholds": known.thresholds, "offsets": known.offsets}
        for name, table in tables.items():
            self.register_buffer(name, torch.from_numpy(np.ascontiguousarray(table)))

    def forward(self, values: Tensor, stratum: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor]:
        counts, thresholds, offsets = (t[stratum] for t in (self.counts, self.thresholds, self.offsets))  # type: ignore[index]
        shifted = values - offsets
        if np.isfinite(self.limit):
            above = shifted.clamp_min(float(np.nextafter(self.limit, np.inf)))
            shifted = torch.where(values > thresholds, above, shifted.clamp_max(self.limit))
        alone = (stratum >= 0) & (1.0 / (counts.double() + 1) <= alpha)  # large enough to be compared with itself
        reach = (self.own >= values[:, None]) & (self.of == stratum[:, None])  # type: ignore[operator]
        at_least = torch.where(alone, reach.sum(1), (self.pool >= values[:, None]).sum(1))  # type: ignore[operator]
        return shifted, (1 + at_least).double() / (torch.where(alone, counts, self.n) + 1).double()


class CalibrationOutputs(nn.Module):
    """The outputs `names` of the ONNX file, from raw scores; without strata all items are in the first."""

    names = ("anomaly_score", "p_value", "is_anomalous")

    def __init__(self, known: Calibration) -> None:
        super().__init__()
        self.calibrate = CalibrationGraph(known)

    def forward(self, raw_score: Tensor, alpha: Tensor, stratum: Tensor | None = None) -> tuple[Tensor, ...]:
        stratum = torch.zeros_like(raw_score, dtype=torch.int64) if stratum is None else stratum
        anomaly_score, p = self.calibrate(raw_score, stratum, alpha)
        return anomaly_score, p, p <= alpha


def calibrated_by(model: Any, calibration: Any) -> Any:
    """An ONNX model with the outputs of a second, which takes raw scores and inputs of the first, before its own.

    Both are changed.
    """
    from onnx import compose

    raw = next(one for one in model.graph.output if one.name == RAW)
    compose.add_prefix(calibration, "calibration/", inplace=True, rename_inputs=False, rename_outputs=False)
    for output in calibration.graph.output:
        output.type.tensor_type.shape.CopyFrom(raw.type.tensor_type.shape)
    outputs = [*calibration.graph.output, *model.graph.output]
    del model.graph.output[:]
    model.graph.output.extend(outputs)
    model.graph.node.extend(calibration.graph.node)
    model.graph.initializer.extend(calibration.graph.initializer)
    return model
