"""An exported file in place of the model folder: the same answers, and by name what it cannot do."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from exported import runtime_of
from judged_parts import pictures, png, save_model

pytest.importorskip("fastapi")

from starlette.testclient import TestClient

from knowngood.cli import main
from knowngood.cli.keep_options import beside
from knowngood.deploy import served_file
from knowngood.deploy.judged_store import Filter, JudgedStore
from knowngood.deploy.line import Line
from knowngood.deploy.served_file import FileModel
from knowngood.deploy.served_folder import FolderModel
from knowngood.deploy.served_models import ServedModels, exchange_changed, load_model
from knowngood.deploy.server import ServerOptions, create_app
from knowngood.errors import ArtifactError, SettingsError

pytestmark = pytest.mark.slow  # a fit takes seconds


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> FolderModel:
    model = load_model(save_model(tmp_path_factory.mktemp("file") / "parts"))
    assert isinstance(model, FolderModel)
    return model


@pytest.fixture
def file(folder: FolderModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FileModel:
    """The exported file of the same model; torch stands in for ONNX Runtime."""
    path = tmp_path / "parts.onnx"
    path.write_bytes(b"graph")
    monkeypatch.setattr(served_file, "ExportedDetector", lambda _: runtime_of(folder.detector))
    model = load_model(path)
    assert isinstance(model, FileModel)
    return model


@pytest.fixture
def stores(tmp_path: Path) -> Iterator[list[JudgedStore]]:
    with closing(JudgedStore(tmp_path / "a")) as a, closing(JudgedStore(tmp_path / "b")) as b:
        yield [a, b]


def both(folder: FolderModel, file: FileModel, stores: list[JudgedStore]) -> Iterator[TestClient]:
    for model, store in zip((folder, file), stores, strict=True):
        with TestClient(create_app(ServedModels([model]), ServerOptions(store=store))) as client:
            yield client


def shots() -> list[tuple[str, tuple[str, bytes]]]:
    good, spotted = pictures(3, 1), pictures(2, 2, spot=True)
    contents = [*map(png, [*good, *spotted]), b"no image"]
    return [("images", (f"{i}.png", content)) for i, content in enumerate(contents)]


def assert_alike(own: Any, found: Any) -> None:
    """Equal but for the rounding of scores."""
    assert list(own) == list(found)
    for name, value in own.items():
        if isinstance(value, float) and name not in ("p_value", "p", "alpha"):
            assert found[name] == pytest.approx(value, rel=1e-4, abs=1e-4)
        elif name not in ("time", "key", "map", "row", "request_id", "kept"):
            assert found[name] == value, name


def test_the_answers_are_those_of_the_folder(folder: FolderModel, file: FileModel, stores: list[JudgedStore]) -> None:
    fields = {"conditions": '{"camera": "A"}', "maps": "true", "alpha": "0.2"}
    own, found = (c.post("/v1/score", files=shots(), data=fields).json() for c in both(folder, file, stores))
    assert {name: found[name] for name in ("model", "scored_by", "alpha")} == {
        name: own[name] for name in ("model", "scored_by", "alpha")
    }
    for mine, other in zip(own["rows"], found["rows"], strict=True):
        assert_alike(mine, other)
        if mine["map"] is not None:
            a, b = (one["map"]["offset"] + one["map"]["scale"] * _levels(one["map"]["png"]) for one in (mine, other))
            np.testing.assert_allclose(b, a, atol=1e-3 * np.abs(a).max())
    assert own["rows"][5]["error"] == found["rows"][5]["error"]
    for number in range(1, 7):  # and so is what the page shows of them
        one, other = (store.one(number) for store in stores)
        assert {**one, "reference": None}.keys() == other.keys()
        assert_alike({**one, "reference": None, "row": {}}, {**other, "row": {}})
    assert any(stores[1].one(number)["regions"] for number in (4, 5))
    a, b = (Line(store).describe(model, Filter()) for store, model in zip(stores, (folder, file), strict=True))
    assert a["drift"]["evidence"] == pytest.approx(b["drift"]["evidence"], abs=1e-3)
    assert {**a, "drift": 0, "rates": 0} == {**b, "drift": 0, "rates": 0}
    assert a["drift"]["reference"] == b["drift"]["reference"]
    assert file.groups_of(["camera=A", "camera=B (inferred)", "new"]) == folder.groups_of(
        ["camera=A", "camera=B (inferred)", "new"]
    )


def test_an_image_of_another_shape_has_a_note(folder: FolderModel, file: FileModel, stores: list[JudgedStore]) -> None:
    wide = [("images", ("wide.png", png(pictures(1, 3)[0, 8:24]))), *shots()[:1]]
    for client in both(folder, file, stores):
        rows = client.post("/v1/score", files=wide, data={"conditions": '{"camera": "A"}'}).json()["rows"]
        assert [row["note"] for row in rows] == ["aspect ratio 2, expected 1", None]
        assert [row["error"] for row in rows] == [None, None]
        assert client.get("/page/judged/1").json()["row"]["note"] == rows[0]["note"]


def _levels(text: str) -> np.ndarray:
    return np.array(Image.open(io.BytesIO(base64.b64decode(text))), float)


def test_wrong_fields_are_refused_alike(folder: FolderModel, file: FileModel, stores: list[JudgedStore]) -> None:
    clients = both(folder, file, stores)
    wrong = {
        "is not given; known: A, B": {},
        "known: A, B": {"conditions": '{"camera": "C"}'},
        "has no condition 'lens'": {"conditions": '{"lens": "C"}'},
        "alpha = 0.001 needs 999": {"alpha": "0.001", "conditions": '{"camera": "A"}'},
    }
    for client in clients:
        for what, fields in wrong.items():
            answer = client.post("/v1/score", files=shots()[:1], data=fields)
            assert answer.status_code == 422
            assert what in answer.json()["detail"]


def test_what_a_file_cannot_do_is_refused_by_name(file: FileModel, stores: list[JudgedStore]) -> None:
    with TestClient(create_app(ServedModels([file]), ServerOptions(store=stores[1]))) as client:
        fields = {"conditions": '{"camera": "A"}'}
        answer = client.post("/v1/explain", files=shots()[:1], data=fields)
        assert answer.status_code == 422
        assert "'parts' is an exported file, which cannot explain" in answer.json()["detail"]
        row = client.post("/page/judge", files=shots()[3:4], data=fields).json()["rows"][0]
        assert row["error"] is None
        assert "explanation" not in row
        number = row["view"]["number"]
        for path, what in (
            (f"/page/judged/{number}/why", "cannot explain"),
            ("/page/models/parts/learn", "does not learn from reviews"),
            ("/page/models/parts/rollback", "has no versions"),
        ):
            answer = client.post(path)
            assert answer.status_code == 409
            assert what in answer.json()["detail"]
        about = client.get("/page/models").json()["models"][0]
        assert about["reviews"] is None
        assert (about["explains"], about["learns"], about["runs_on"]) == (False, False, "onnxruntime")
        assert about["conditions"] == {"camera": ["A", "B"]}
        assert client.get("/page/normal/parts/0").status_code == 404


def test_another_file_of_that_name_is_taken_into_use(file: FileModel) -> None:
    models = ServedModels([file])
    exchange_changed(models, {})
    assert models["parts"] is file
    file.path.write_bytes(b"another graph")
    exchange_changed(models, {})
    assert models["parts"] is not file
    file.path.unlink()
    assert models.changed() == []


def test_files_that_cannot_be_served_are_refused(
    folder: FolderModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ArtifactError, match=r"no such file; `knowngood export"):
        load_model(tmp_path / "none.onnx")
    path = tmp_path / "parts.onnx"
    path.write_bytes(b"graph")
    with pytest.raises(ArtifactError, match="cannot be read as an ONNX file"):
        load_model(path)
    with pytest.raises(SettingsError, match="--device cuda"):
        load_model(path, device="cuda")
    runtime = runtime_of(folder.detector)
    monkeypatch.setattr(served_file, "ExportedDetector", lambda _: runtime)
    runtime.facts["calibration"]["scores"] = "AAA"
    with pytest.raises(ArtifactError, match="calibration in the file is damaged"):
        load_model(path)
    assert beside(path) == tmp_path / "parts-judged"


def test_score_reads_within_the_bounds_of_the_exported_model(
    folder: FolderModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    detector = runtime_of(folder.detector)
    detector.facts["limits"]["pixels"] = 99
    monkeypatch.setattr("knowngood.runtime.ExportedDetector", lambda _: detector)
    (tmp_path / "1.png").write_bytes(png(pictures(1, 5)[0]))
    words = ["score", str(tmp_path / "parts.onnx"), str(tmp_path / "1.png"), "--as", "camera=A"]
    statuses = []
    for more in ((), ("--max-pixels", "5000")):
        with pytest.raises(SystemExit) as left:
            main([*words, *more])
        statuses.append(left.value.code or 0)
    assert statuses == [3, 0]
    assert "above the limit of 99" in capsys.readouterr().err
