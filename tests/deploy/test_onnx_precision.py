"""Graphs in half precision: calibrated by themselves, never with the p-values of another, and served without torch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from judged_parts import detector_of_two_cameras, pictures, png
from knowngood import Detector
from knowngood.data import ImageSet
from knowngood.deploy.onnx_graph import export
from knowngood.deploy.onnx_precision import LARGE, check_precision, halved
from knowngood.deploy.served_models import load_model
from knowngood.errors import DataError, NotEnoughNormals, SettingsError
from knowngood.runtime import ExportedDetector

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
    """Of all parts of a PatchGaussian, under two conditions, with the first blocks of the backbone of the package."""
    return detector_of_two_cameras((2,), neighbours=40)


def cameras(n: int) -> dict[str, Any]:
    return {"camera": np.repeat(["A", "B"], n // 2)}


@pytest.fixture(scope="module")
def file(model: Detector, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """In half precision, calibrated on 60 normal images of 65: tracing takes seconds."""
    both, labels = np.concatenate([pictures(60, 1), pictures(5, 2, spot=True)]), np.repeat([0, 1], [60, 5])
    known = {"camera": np.concatenate([*cameras(60).values(), ["A"] * 5])}
    images = ImageSet.from_arrays(both, labels=labels, conditions=known)
    path = tmp_path_factory.mktemp("half") / "parts.onnx"
    with pytest.warns(UserWarning, match="5 of 65 images are labelled anomalous; they are left out of the calibration"):
        return export(model, path, precision="fp16", normals=images)


def test_a_precision_without_images_that_calibrate_it_is_refused(model: Detector) -> None:
    pipeline, new = model.pipeline_, ImageSet.from_arrays(pictures(20, 1), conditions=cameras(20))
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
        check_precision(pipeline, "fp16", ImageSet.from_arrays(pictures(60, 0), conditions=cameras(60)))
    check_precision(pipeline, "fp16", new)
    averaging: Any = SimpleNamespace(marginal_calibration=object())
    with pytest.raises(SettingsError, match="averages over unknown conditions"):
        check_precision(averaging, "fp16", new)


def test_the_p_values_are_those_of_the_graph_itself_on_images_not_labelled_anomalous(
    model: Detector, file: Path
) -> None:
    runtime, n = ExportedDetector(file), 30
    assert runtime.facts["precision"] == "fp16"
    first, last = ["anomaly_score", "p_value", "is_anomalous"], "raw_score"
    assert runtime.facts["outputs"] == [*first, "map", "global", "counts", last]
    assert [one.name for one in runtime.session.get_outputs()] == runtime.facts["outputs"]
    assert "Exported in fp16" in runtime.facts["card"]
    rows = runtime.detect(ImageSet.from_arrays(pictures(60, 1)), conditions=cameras(60))
    for own in (rows[:n], rows[n:]):  # what calibrates is compared with that of its camera and itself: ranks 2 to n + 1
        assert sorted(round(row["p_value"] * (n + 1)) for row in own) == list(range(2, n + 2))
    spotted = pictures(6, 3, spot=True)
    assert all(row["is_anomalous"] for row in runtime.detect(spotted, conditions=cameras(6)))
    in_single = model.detect(spotted, conditions=cameras(6))["global"]
    in_half = [row["global"] for row in runtime.detect(spotted, conditions=cameras(6))]
    np.testing.assert_allclose(in_half, in_single, rtol=0.02)
    served = load_model(file)
    assert served.about["calibration_items"] == 2 * n
    assert len(served.mark) == 16


def test_a_file_says_nothing_of_the_machine_that_wrote_it(file: Path) -> None:
    assert Path(__file__).parents[2].as_posix().encode() not in file.read_bytes()


def test_the_server_of_a_file_imports_no_torch(file: Path, tmp_path: Path) -> None:
    pytest.importorskip("fastapi")
    (tmp_path / "new").mkdir()
    for i, content in enumerate([*map(png, [*pictures(3, 1), *pictures(2, 2, spot=True)]), b"no image"]):
        (tmp_path / "new" / f"{i}.png").write_bytes(content)
    code = (
        "import sys\n"
        "for name in ('torch', 'sklearn', 'matplotlib', 'pandas', 'onnx'):\n"
        "    sys.modules[name] = None\n"
        "from pathlib import Path\n"
        "from starlette.testclient import TestClient\n"
        "from knowngood.deploy.judged_store import JudgedStore\n"
        "from knowngood.deploy.served_models import load_models\n"
        "from knowngood.deploy.server import ServerOptions, create_app\n"
        "import knowngood.cli.serve, knowngood.cli.watch, knowngood.deploy.watch, knowngood.data.interruption\n"
        "file, place = map(Path, sys.argv[1:])\n"
        "options = ServerOptions(store=JudgedStore(place / 'judged'))\n"
        "with TestClient(create_app(load_models([str(file)]), options)) as client:\n"
        "    given = [('images', (one.name, one.read_bytes())) for one in sorted((place / 'new').iterdir())]\n"
        "    answer = client.post('/page/judge?maps=true', files=given, data={'conditions': '{\"camera\": \"B\"}'})\n"
        "    assert [row['is_anomalous'] for row in answer.json()['rows']][3:] == [True, True, None]\n"
        "    for path in ('/', '/page/line', '/page/judged/4/map', '/page/judged/4/thumbnail', '/metrics'):\n"
        "        assert client.get(path).status_code == 200, path\n"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", code, str(file), str(tmp_path)], check=True, env=environment)
