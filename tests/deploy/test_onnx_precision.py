"""Graphs in half precision: calibrated by themselves, never with the p-values of another."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from knowngood import Detector
from knowngood.data import ImageSet
from knowngood.deploy.onnx_graph import export
from knowngood.deploy.onnx_precision import LARGE, check_precision, halved
from knowngood.deploy.served_models import load_model
from knowngood.errors import DataError, NotEnoughNormals, SettingsError
from knowngood.runtime import ExportedDetector
from patch_models import TinyBackbone, holed, parts

pytestmark = pytest.mark.slow  # fitting models, serving and exporting take seconds


def test_large_tensors_are_stored_in_half_precision_and_computed_with_in_single() -> None:
    import onnxruntime
    from onnx import TensorProto, checker, helper, numpy_helper

    rng = np.random.default_rng(0)
    tables = {"w": rng.normal(size=(64, 32)), "far": np.full((64, 32), 1e6), "small": rng.normal(size=8)}
    constants = [numpy_helper.from_array(values.astype(np.float32), name) for name, values in tables.items()]
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        helper.make_node("MatMul", ["x", "far"], ["b"]),
        helper.make_node("Add", ["a", "b"], ["y"]),
    ]
    given, found = (helper.make_tensor_value_info(*one) for one in (("x", 1, [2, 64]), ("y", 1, [2, 32])))
    graph = helper.make_graph(nodes, "two products", [given], [found], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    halved(model)
    checker.check_model(model)
    kinds = {one.name: one.data_type for one in model.graph.initializer}
    assert kinds == {"w_half": TensorProto.FLOAT16, "far": TensorProto.FLOAT, "small": TensorProto.FLOAT}
    x = np.full((2, 64), 0.1, np.float32)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    half = tables["w"].astype(np.float16).astype(np.float32)
    np.testing.assert_allclose(
        session.run(None, {"x": x})[0], x @ half + x @ tables["far"].astype(np.float32), rtol=1e-5
    )
    assert LARGE > 8


@pytest.fixture(scope="module")
def model() -> Detector:
    features = {"name": "features", "backbone": "own", "image_size": 32, "average": 3, "stride": 4, "align": "none"}
    detector = Detector(features, {"name": "patch_gaussian", "neighbours": 40}, alpha=0.1, device="cpu")
    return detector.fit(parts(60), backbone=TinyBackbone())


def test_a_precision_without_images_that_calibrate_it_is_refused(model: Detector) -> None:
    pipeline, new = model.pipeline_, ImageSet.from_arrays(parts(20, 1))
    for precision, normals, what in (
        ("fp8", new, "expected fp32 or fp16"),
        ("int8", new, "most defects are missed"),
        ("fp32", new, "keeps the calibration of the model"),
        ("fp16", None, "needs --data NORMAL"),
    ):
        with pytest.raises(SettingsError, match=what):
            check_precision(pipeline, precision, normals)
    with pytest.raises(NotEnoughNormals, match="at least 9"):
        check_precision(pipeline, "fp16", new[:8])
    with pytest.raises(DataError, match="that the model was fitted to"):
        check_precision(pipeline, "fp16", ImageSet.from_arrays(parts(60)))
    check_precision(pipeline, "fp16", new)
    averaging: Any = SimpleNamespace(marginal_calibration=object())
    with pytest.raises(SettingsError, match="averages over unknown conditions"):
        check_precision(averaging, "fp16", new)


def test_the_p_values_are_those_of_the_graph_itself_on_images_not_labelled_anomalous(
    model: Detector, tmp_path: Path
) -> None:
    normals, n = ImageSet.from_arrays(parts(60, 1)), 60
    both, labels = np.concatenate([parts(60, 1), holed(parts(5, 2))]), np.repeat([0, 1], [60, 5])
    with pytest.warns(UserWarning, match="5 of 65 images are labelled anomalous; they are left out of the calibration"):
        file = export(
            model, tmp_path / "parts.onnx", precision="fp16", normals=ImageSet.from_arrays(both, labels=labels)
        )
    runtime = ExportedDetector(file)
    assert runtime.facts["precision"] == "fp16"
    first, last = ["anomaly_score", "p_value", "is_anomalous"], "raw_score"
    assert runtime.facts["outputs"] == [*first, "map", "global", "counts", last]
    assert [one.name for one in runtime.session.get_outputs()] == runtime.facts["outputs"]
    assert "Exported in fp16" in runtime.facts["card"]
    rows = runtime.detect(normals)  # what calibrates is compared with itself: ranks 2 to n + 1
    assert sorted(round(row["p_value"] * (n + 1)) for row in rows) == list(range(2, n + 2))
    assert all(row["is_anomalous"] for row in runtime.detect(holed(parts(5, 2))))
    served = load_model(file)
    assert served.about["calibration_items"] == n
    assert len(served.mark) == 16
