"""The graph of a detector without the exporter, which takes long: what ONNX would be given, computed by torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from knowngood import Detector, ImageSet
from knowngood.deploy.onnx_graph import DetectorGraph, example_inputs
from knowngood.deploy.onnx_metadata import metadata
from knowngood.runtime import ExportedDetector
from knowngood.runtime.fitting import Seen, fitting, part_of
from knowngood.runtime.marginal import RAW

RELATIVE, MAPS = 1e-4, 1e-3


def by_graph(
    detector: Detector, X: np.ndarray, conditions: Mapping[str, Any] | None = None, alpha: float | None = None
) -> dict[str, np.ndarray]:
    """The outputs by name, from the inputs that `knowngood.runtime` makes of X."""
    facts, graph = metadata(detector, []), DetectorGraph(detector.pipeline_).eval()
    encoded = detector.pipeline_.schema.expand(conditions or {}, len(X))
    inputs = {"alpha": torch.tensor(detector.alpha if alpha is None else alpha, dtype=torch.float64)}
    seen: list[Seen] = []
    if "image" in facts:
        images, part = ImageSet.from_arrays(X), part_of(facts)
        seen = [fitting(images.read(i), facts["image"], part, encoded.c[i : i + 1]) for i in range(len(X))]
        each = [one.inputs() for one in seen]
        inputs |= {name: torch.from_numpy(np.concatenate([one[name] for one in each])) for name in each[0]}
    else:
        inputs["rows"] = torch.from_numpy(X.astype(np.float64))
    inputs |= {"condition": torch.from_numpy(encoded.c), "stratum": torch.from_numpy(encoded.stratum)}
    with torch.no_grad():
        found = graph(**{name: inputs[name] for name in example_inputs(detector.pipeline_)})
    outputs = {name: t.numpy() for name, t in zip(graph.outputs, found, strict=True)}
    if "map" in outputs:
        outputs["map"] = np.stack([one.whole(map) for one, map in zip(seen, outputs["map"], strict=True)])
    places = [one.posed.quality.after for one in seen if one.posed is not None]
    return outputs | ({"pose": np.array(places)} if places else {})


class GraphSession:
    """What ONNX Runtime would compute, computed by torch."""

    def __init__(self, detector: Detector, raw: bool = False) -> None:
        self.graph = DetectorGraph(detector.pipeline_, calibrates=not raw).eval()
        self.inputs = example_inputs(detector.pipeline_)
        with torch.no_grad():
            self.graph(**self.inputs)

    def get_inputs(self) -> list[SimpleNamespace]:
        return [SimpleNamespace(name=name) for name in self.inputs]

    def run(self, outputs: list[str], given: dict[str, np.ndarray]) -> list[np.ndarray]:
        with torch.no_grad():
            found = self.graph(**{name: torch.from_numpy(np.array(value)) for name, value in given.items()})
        return [dict(zip(self.graph.outputs, found, strict=True))[name].numpy() for name in outputs]


def runtime_of(detector: Detector, raw: bool = False) -> ExportedDetector:
    """The runtime on a file of this detector, without the exporter; `raw`: with the scores before calibration alone."""
    session, runtime = GraphSession(detector, raw), object.__new__(ExportedDetector)
    runtime._use(session, json.loads(json.dumps(metadata(detector, session.graph.outputs))))
    return runtime


def assert_equal(
    detector: Detector, X: np.ndarray, conditions: Mapping[str, Any] | None = None, alpha: float | None = None
) -> dict[str, np.ndarray]:
    """The graph's scores, p-values, verdicts, parts and maps are those of the detector."""
    found = by_graph(detector, X, conditions, alpha)
    table = detector.detect(X, conditions=conditions, alpha=alpha)
    scale = table["anomaly_score"].abs().mean()
    np.testing.assert_allclose(found["anomaly_score"], table["anomaly_score"], rtol=RELATIVE, atol=RELATIVE * scale)
    np.testing.assert_array_equal(found["p_value"], table["p_value"])
    np.testing.assert_array_equal(found["is_anomalous"], table["is_anomalous"])
    assert table["p_value"].nunique() > 2
    for name in table.columns[5:]:
        np.testing.assert_allclose(found[name], table[name], rtol=1e-3, atol=1e-3 * table[name].abs().mean())
    assert set(found) - {"map", RAW} == set(table.columns) - {"id", "condition"}
    assert ("map" in found) == (detector.pipeline_.score.has_map and X.ndim > 2)
    if "map" in found:
        for mine, own in zip(found["map"], detector.anomaly_maps(X, conditions=conditions), strict=True):
            assert mine.shape == own.shape
            np.testing.assert_allclose(mine, own, rtol=0, atol=MAPS * np.nanmax(np.abs(own)))
    return found
