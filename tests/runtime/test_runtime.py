from __future__ import annotations

import io
import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from knowngood import cli
from knowngood.data.conditions import ConditionSchema
from knowngood.data.readers.limits import Limits
from knowngood.data.stores.address import Address
from knowngood.errors import ArtifactError, BatchWarning, DataError, NotEnoughNormals, SettingsError
from knowngood.runtime import ExportedDetector
from knowngood.runtime.__main__ import main
from knowngood.runtime.fitting import fitting
from knowngood.runtime.model import FORMAT, FORMAT_VERSION, KEY
from stores import upload

IMAGE = {
    "size": [4, 6], "channels": 1, "grey": False, "colour": False, "resize": True, "dtype": "uint8", "by_type": False,
    "low": 0.0, "high": 255.0, "rule": "uint8", "ignored": None,
}  # fmt: skip


def written(path: Path, **facts: Any) -> Path:
    """A graph whose score and map are brightness, and its p-value 1 − brightness: what an export looks like."""
    from onnx import TensorProto, checker, helper

    double, nodes = TensorProto.DOUBLE, []
    for op, inputs, output, options in (
        ("Cast", ["image"], "values", {"to": double}),
        ("Div", ["values", "most"], "scaled", {}),
        ("ReduceMean", ["scaled", "axes"], "anomaly_score", {"keepdims": 0}),
        ("Sub", ["one", "anomaly_score"], "p_value", {}),
        ("LessOrEqual", ["p_value", "alpha"], "is_anomalous", {}),
        ("ReduceMean", ["scaled", "last"], "map", {"keepdims": 0}),
    ):
        nodes.append(helper.make_node(op, inputs, [output], **options))
    constants = [
        helper.make_tensor("most", double, [], [255.0]),
        helper.make_tensor("one", double, [], [1.0]),
        helper.make_tensor("axes", TensorProto.INT64, [3], [1, 2, 3]),
        helper.make_tensor("last", TensorProto.INT64, [1], [3]),
    ]
    given = [("image", TensorProto.UINT8, ["n", "h", "w", "c"]), ("alpha", double, [])]
    found = [("anomaly_score", double, ["n"]), ("p_value", double, ["n"]), ("is_anomalous", TensorProto.BOOL, ["n"])]
    found.append(("map", double, ["n", "h", "w"]))
    inputs, outputs = ([helper.make_tensor_value_info(*one) for one in each] for each in (given, found))
    graph = helper.make_graph(nodes, "brightness", inputs, outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    checker.check_model(model)
    own = {"format": FORMAT, "format_version": FORMAT_VERSION, "alpha": 0.1, "calibration_items": 30, "columns": []}
    own |= {"outputs": [name for name, _, _ in found], "strata": [[]], "image": IMAGE, "unknown": "error"}
    own |= {"cells": [], "cell_counts": [], "marginal": None, "threshold": 0.9, "stratum_items": [30]}
    own |= {"fingerprint": 16 * "0"}
    entry = model.metadata_props.add()
    entry.key, entry.value = KEY, json.dumps(own | facts)
    path.write_bytes(model.SerializeToString())
    return path


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("exported") / "model.onnx")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, level in (("dark", 20), ("bright", 250)):
        Image.fromarray(np.full((5, 7), level, np.uint8)).save(tmp_path / f"{name}.png")
    Image.fromarray(np.full((5, 7, 3), 9, np.uint8)).save(tmp_path / "colour.png")
    (tmp_path / "empty.png").touch()
    return tmp_path


@pytest.mark.slow
def test_it_imports_numpy_pillow_and_onnx_runtime_alone() -> None:
    code = (
        "import sys\n"
        "for name in ('torch', 'pandas', 'pydantic', 'scipy', 'sklearn', 'yaml', 'typer', 'onnx', 'google',\n"
        "             'flatbuffers', 'packaging'):\n"
        "    sys.modules[name] = None\n"
        "import knowngood.runtime.__main__, onnxruntime"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_row_an_image_of_a_folder_and_a_reason_for_each_that_cannot_be_read(exported: Path, folder: Path) -> None:
    rows = {row["id"]: row for row in ExportedDetector(exported).detect(folder, abstain=0.95)}
    assert list(rows) == ["bright.png", "colour.png", "dark.png", "empty.png"]
    bright, dark = rows["bright.png"], rows["dark.png"]
    assert (bright["is_anomalous"], bright["verdict"]) == (True, "anomalous")
    assert bright["anomaly_score"] == pytest.approx(250 / 255)
    assert (dark["is_anomalous"], dark["verdict"]) == (False, "unsure")
    assert dark["p_value"] == pytest.approx(1 - 20 / 255)
    assert rows["colour.png"]["error"].startswith("an image has 3 channels; the model was fitted on 1. Convert it")
    assert rows["empty.png"]["error"] == "is empty (0 bytes)"
    assert rows["empty.png"]["is_anomalous"] is None


def test_the_table_of_a_folder_has_its_labels_and_a_row_of_what_is_set_aside(exported: Path, tmp_path: Path) -> None:
    for name in ("good/a.png", "bad/b.png"):
        (tmp_path / name).parent.mkdir()
        Image.new("L", (7, 5), 20).save(tmp_path / name)
    (tmp_path / "bad" / "raw.dng").write_bytes(b"raw")
    rows = ExportedDetector(exported).detect(tmp_path)
    assert [(row["id"], row.get("label")) for row in rows] == [
        ("bad/b.png", 1.0),
        ("good/a.png", 0.0),
        ("bad/raw.dng", None),
    ]
    assert "kind that is not read" in rows[2]["error"]
    assert list(rows[2]) == [name for name in [*rows[0], "error"] if name != "label"]


def test_the_threshold_moves_with_alpha(exported: Path) -> None:
    detector, image = ExportedDetector(exported), np.full((1, 4, 6), 200, np.uint8)
    assert [detector.detect(image, alpha=alpha)[0]["is_anomalous"] for alpha in (0.1, 0.3)] == [False, True]
    with pytest.raises(NotEnoughNormals, match=r"alpha = 0.01 needs 99 calibration items, there are 30"):
        detector.detect(image, alpha=0.01)


def test_maps_have_the_size_of_the_picture(exported: Path, folder: Path) -> None:
    (found,) = ExportedDetector(exported).anomaly_maps([folder / "dark.png"])
    np.testing.assert_allclose(found, np.full((5, 7), 20 / 255))
    with pytest.raises(DataError, match=r"empty.png: is empty"):
        ExportedDetector(exported).anomaly_maps([folder / "empty.png"])


def test_pictures_are_taken_as_the_detector_takes_them(tmp_path: Path) -> None:
    detector = ExportedDetector(written(tmp_path / "colour.onnx", image=IMAGE | {"channels": 3}))
    one, other = np.full((8, 9, 3), 20, np.uint8), np.full((10, 8, 3), 250, np.uint8)
    for given in (one, [one], Image.fromarray(one), one[None]):
        (row,) = detector.detect(given)
        assert row["anomaly_score"] == pytest.approx(20 / 255)
    rows = detector.detect([one, Image.fromarray(other)])
    assert [row["anomaly_score"] for row in rows] == [pytest.approx(20 / 255), pytest.approx(250 / 255)]
    with pytest.raises(DataError, match="holds no image"):
        detector.detect([])


def test_files_may_be_as_large_as_in_the_fit(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    large, allowed = written(tmp_path / "large.onnx", limits={"pixels": 10**9, "pages": 1, "gigabytes": 1.0}), []
    monkeypatch.setattr(Limits, "check_picture", lambda self, *_: allowed.append(self.pixels))
    for given in ([folder / "dark.png"], folder):
        ExportedDetector(large).detect(given)
    assert set(allowed) == {10**9}


def test_a_file_that_is_not_there_is_named_with_the_one_that_is_like_it(
    exported: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written(folder / "parts.onnx")
    (folder / "today").mkdir()
    for words, said in (
        ([folder / "part.onnx", folder], f"part.onnx: no such file; did you mean '{folder / 'parts.onnx'}'?"),
        ([folder / "today", folder], "today: a folder, not a file; give what `knowngood export"),
        (
            [folder / "parts.onnx", folder / "todya"],
            f"todya: no such file or folder; did you mean '{folder / 'today'}'",
        ),
        ([folder / "parts.onnx", folder / "brihgt.png"], f"did you mean '{folder / 'bright.png'}'?"),
    ):
        assert main([str(word) for word in words]) == 3
        assert said in capsys.readouterr().err


def test_images_of_another_shape_are_judged_and_named(folder: Path, tmp_path: Path, capsys) -> None:
    model = written(tmp_path / "shapes.onnx", shapes={"aspect": [1.0, 1.2], "side": 40.0})
    Image.new("L", (60, 60), 20).save(folder / "square.png")
    with pytest.warns(BatchWarning, match="have another aspect ratio") as said:
        rows = {row["id"]: row for row in ExportedDetector(model).detect(folder)}
    assert rows["square.png"]["note"] is None
    assert rows["empty.png"]["note"] is None
    assert rows["dark.png"]["note"] == "aspect ratio 1.4, expected 1 to 1.2; 6 px a side, expected 40 or more"
    assert rows["dark.png"]["p_value"] == pytest.approx(1 - 20 / 255)
    assert [str(one.message)[:44] for one in said] == [
        "2 of 3 images have another aspect ratio (wid",
        "2 of 3 images have far fewer pixels than the",
    ]
    assert main([str(model), str(folder)]) == 0
    assert "\nwarning: 2 of 3 images have far fewer pixels" in "\n" + capsys.readouterr().err
    with pytest.raises(SystemExit) as left:
        cli.main(["score", str(model), str(folder), "--output", str(tmp_path / "rows.csv")])
    assert left.value.code == 0
    assert "warning: 2 of 3 images have another aspect ratio" in capsys.readouterr().err
    notes = pd.read_csv(tmp_path / "rows.csv").set_index("id")["note"]
    assert notes["dark.png"] == rows["dark.png"]["note"]
    assert np.isnan(notes["square.png"])


def test_the_command_prints_json(exported: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(exported), str(folder), "--alpha", "0.2"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["is_anomalous"] for row in rows] == [True, None, False, None]
    assert rows[3]["p_value"] is None
    assert main([str(exported), str(folder / "empty.png")]) == 3
    assert "no item can be scored (of 1); the first," in capsys.readouterr().err
    assert main([str(exported), str(folder), "--as", "camera=B"]) == 3
    assert "the model has no condition 'camera'" in capsys.readouterr().err
    assert main([str(exported), str(folder), "--as", "camera=B,line=2", "--as", "camera=A"]) == 2
    assert "--as camera=A: expected one value of camera; B is given too" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changed", "image", "reason"),
    [
        ({}, np.zeros((4, 6, 3), np.uint8), "3 channels"),
        ({}, np.zeros((4, 6, 1), np.uint16), "uint16, the model was fitted on uint8"),
        ({"ignored": [40, 60]}, np.zeros((8, 6, 1), np.uint8), "60 × 40 pixels .*, the image 6 × 8"),
        ({"resize": False}, np.zeros((5, 6, 1), np.uint8), r"6 × 5 pixels \(width × height\); the model takes 6 × 4"),
        ({"dtype": "float32"}, np.full((4, 6, 1), np.nan), "NaN or infinite"),
        ({"about": [40, 60]}, np.zeros((40, 67, 1), np.uint8), r"67 × 40 pixels .*about 60 × 40, in tiles"),
    ],
)
def test_an_image_that_does_not_fit_is_refused(changed: dict[str, Any], image: np.ndarray, reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        fitting(image, IMAGE | changed)


LEFT = {"value": "disc", "mask": None, "polygons": [[[0, 0], [0.5, 0], [0.5, 1], [0, 1]]]}
TOP = {"value": "bars", "mask": None, "polygons": [[[0, 0], [1, 0], [1, 0.5], [0, 0.5]]]}
MASK = {"value": "ring", "mask": [40, 60], "polygons": None}


def by_product(*areas: dict[str, Any], cells: list[int]) -> dict[str, Any]:
    """Of four products and a number, which does not count."""
    keys = [[*row, 0.0] for row in np.eye(4).tolist()]
    numbers = [False] * 4 + [True]
    regions = {"column": "product", "keys": keys, "numbers": numbers, "cells": cells, "areas": list(areas)}
    return IMAGE | {"regions": regions}


def test_polygons_are_drawn_by_the_condition_of_each_row() -> None:
    facts, image = by_product(LEFT, TOP, MASK, cells=[1, 0, 2, -1]), np.zeros((4, 6, 1), np.uint8)
    bars, disc, other = (np.array([*np.eye(4)[k], 9.0], np.float32) for k in (0, 1, 3))
    seen = fitting(image, facts, c=np.stack([disc, other, bars, disc]))
    found = seen.inputs(slice(0, 4))
    assert found["image"].shape == (4, 4, 6, 1)
    left, top = np.zeros((2, 4, 6), bool)
    left[:, :3], top[:2] = True, True
    np.testing.assert_array_equal(found["ignored"], np.stack([left, np.zeros_like(left), top, left]))
    np.testing.assert_array_equal(seen.inputs(slice(2, 3))["ignored"], top[None])


def test_a_mask_by_condition_is_of_the_proportions_of_its_images_alone() -> None:
    facts, image = by_product(LEFT, MASK, cells=[-1, 0, 1, -1]), np.zeros((8, 6, 1), np.uint8)
    disc, ring = np.array([[0, 1, 0, 0, 0], [0, 0, 1, 0, 0]], np.float32)
    assert fitting(image, facts, c=disc[None]).ignored is not None
    with pytest.raises(DataError, match=r"the mask to ignore of 'ring' is 60 × 40 pixels .*, the image 6 × 8"):
        fitting(image, facts, c=ring[None])


def test_polygons_that_leave_nothing_are_refused() -> None:
    whole = {"value": "disc", "mask": None, "polygons": [[[0, 0], [1, 0], [1, 1], [0, 1]]]}
    with pytest.raises(DataError, match="regions to ignore of 'disc' leave nothing of the image"):
        fitting(np.zeros((4, 6, 1), np.uint8), by_product(whole, cells=[-1, 0, -1, -1]), c=np.eye(4, 5)[1:2])


def test_images_are_brought_to_the_type_and_channels_of_the_fit() -> None:
    grey = np.arange(24, dtype=np.uint8).reshape(4, 6, 1)
    deep = fitting(grey, IMAGE | {"dtype": "uint16", "by_type": True}).picture
    np.testing.assert_array_equal(deep, grey.astype(np.uint16) * 257)
    for three in ({"grey": True}, {"colour": True, "channels": 3}):
        np.testing.assert_array_equal(fitting(grey, IMAGE | three).picture, np.repeat(grey, 3, 2))


def test_files_of_something_else_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text.onnx").write_text("no graph")
    with pytest.raises(ArtifactError, match="cannot be read as an ONNX file"):
        ExportedDetector(tmp_path / "text.onnx")
    with pytest.raises(ArtifactError, match="export it again"):
        ExportedDetector(written(tmp_path / "newer.onnx", format_version=99))
    with pytest.raises(SettingsError, match="no map"):
        ExportedDetector(written(tmp_path / "blind.onnx", outputs=[])).anomaly_maps(np.zeros((1, 4, 6), np.uint8))


def test_what_a_pose_needs_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ArtifactError, match="the pose in the file is damaged"):
        ExportedDetector(written(tmp_path / "damaged.onnx", pose={"mean": "AAA"}))
    monkeypatch.delitem(sys.modules, "knowngood.data.pose.part")
    monkeypatch.setitem(sys.modules, "scipy", None)
    with pytest.raises(SettingsError, match=r"finds the part .*needs scipy.*: pip install scipy"):
        ExportedDetector(written(tmp_path / "pose.onnx", pose={"mean": "AAA"}))
    ExportedDetector(written(tmp_path / "none.onnx", pose=None))


# Conditions ----------------------------------------------------------------------------------------------------------


def with_cameras(folder: Path) -> ExportedDetector:
    schema = ConditionSchema.fit({"camera": ["A", "B"]}, 2)
    columns = [{**asdict(column), "code_names": column.code_names} for column in schema.columns]
    known = {"columns": columns, "strata": schema.strata.tolist(), "cells": schema.cells, "cell_counts": schema.counts}
    return ExportedDetector(written(folder / "cameras.onnx", **known))


@pytest.mark.parametrize("given", [{}, {"camera": ["C"]}, {"camera": [None]}, {"camera": ["A"], "lens": ["x"]}])
def test_conditions_that_are_not_known_are_refused(given: dict[str, Any], tmp_path: Path) -> None:
    runtime = with_cameras(tmp_path)
    with pytest.raises(DataError, match=r"condition '(camera|lens)'"):
        runtime.detect(np.zeros((1, 4, 6), np.uint8), conditions=given, unknown="error")


def test_a_new_value_counts_as_unknown_if_it_may_be_and_that_is_said(tmp_path: Path) -> None:
    runtime = with_cameras(tmp_path)
    with pytest.warns(UserWarning, match="condition 'camera' has no value 'C' \\(known: A, B\\)"):
        rows = runtime.detect(np.zeros((2, 4, 6), np.uint8), conditions={"camera": ["B", "C"]}, unknown="infer")
    assert [row["condition"] for row in rows] == ["camera=B", "camera=A (inferred)"]


def test_a_table_says_which_version_scored_it(exported: Path, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as left:
        cli.main(["score", str(exported), str(folder), "-o", str(tmp_path / "rows.json")])
    assert left.value.code == 0
    assert {row["scored_by"] for row in json.loads((tmp_path / "rows.json").read_text())} == {"0" * 16}


def test_files_that_are_set_aside_have_a_row(exported: Path, folder: Path, tmp_path: Path, capsys) -> None:
    (folder / "raw.dng").write_bytes(b"raw")
    with pytest.raises(SystemExit) as left:
        cli.main(["score", str(exported), str(folder), "-o", str(tmp_path / "rows.csv")])
    assert left.value.code == 0
    table = pd.read_csv(tmp_path / "rows.csv").set_index("id")
    assert list(table.index) == ["bright.png", "colour.png", "dark.png", "empty.png", "raw.dng"]
    assert "kind that is not read" in table["error"]["raw.dng"]
    assert "3 more could not be scored: see the column error" in capsys.readouterr().out


def test_objects_of_a_store_are_scored_as_files_and_the_table_goes_to_the_store(
    exported: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names = ("bright.png", "colour.png", "dark.png")  # the one in colour does not fit
    url = upload("memory://exported/new", {name: (folder / name).read_bytes() for name in names})
    with pytest.raises(SystemExit) as left:
        cli.main(["score", str(exported), url, "-o", "memory://exported/results/r.csv"])
    assert left.value.code == 0
    table = pd.read_csv(io.BytesIO(Address.of("memory://exported/results/r.csv").read()))
    here = {row["id"].rpartition("/")[2]: row for row in ExportedDetector(exported).detect(folder)}
    assert table["id"].tolist() == list(names)
    for row in table.to_dict("records"):
        assert row["anomaly_score"] == pytest.approx(here[row["id"]]["anomaly_score"], nan_ok=True)
    assert "channels" in table.set_index("id")["error"]["colour.png"]
    assert not list(tmp_path.glob("r-*.csv"))
