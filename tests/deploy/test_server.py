"""The HTTP server: its rows are those of the command line; what is wrong is refused by name."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

pytest.importorskip("fastapi")

from starlette.testclient import TestClient

from knowngood import Detector
from knowngood.cli import main
from knowngood.data import ImageSet
from knowngood.data.readers.limits import Limits
from knowngood.deploy import queue as queues
from knowngood.deploy.judgement import Asked
from knowngood.deploy.keys import add_key, read_keys
from knowngood.deploy.logs import JsonLines
from knowngood.deploy.served_model import ServedModel
from knowngood.deploy.served_models import ServedModels, exchange_changed, load_models
from knowngood.deploy.server import ServerOptions, create_app
from knowngood.errors import SettingsError

SIDE = 12
Files = list[tuple[str, tuple[str, bytes]]]


def png(picture: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG")
    return file.getvalue()


def pictures(n: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, SIDE, SIDE), dtype=np.uint8)


def files(n: int, seed: int = 1) -> Files:
    return [("images", (f"{i:02d}.png", png(picture))) for i, picture in enumerate(pictures(n, seed))]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two saved models: one of two cameras, and one on pixels, whose score has a map."""
    root = tmp_path_factory.mktemp("served")
    chosen: dict[str, Any] = {"representation": "hog", "model": "memory_bank", "alpha": 0.2}
    Detector(**chosen).fit(pictures(60, 0), conditions={"camera": np.repeat(["A", "B"], 30)}).save(root / "line")
    vae = {"name": "vae", "latent_dim": 2, "net": {"name": "mlp", "hidden": [4]}}
    mapped = Detector(
        "pixels", vae, "reconstruction", alpha=0.2, training={"epochs": 1}, calibration={"method": "split"}
    )
    mapped.fit(pictures(60, 2)).save(root / "maps")
    return root


@pytest.fixture(scope="module")
def models(place: Path) -> ServedModels:
    return load_models([str(place / "line"), str(place / "maps")])


@pytest.fixture
def client(models: ServedModels) -> Iterator[TestClient]:
    bounded = ServedModels([*models.values()], {"max_pixels": 40 * 40})
    with TestClient(create_app(bounded, ServerOptions(queue=40))) as client:
        yield client


def score(client: TestClient, given: Files, path: str = "/v1/score", **fields: Any) -> Any:
    return client.post(path, files=given, data={"model": "line", "conditions": '{"camera": "A"}', **fields})


def test_the_rows_are_those_of_the_command_line(client: TestClient, place: Path, tmp_path: Path) -> None:
    given = files(12)
    given[3] = ("images", ("03.png", given[3][1][1][:60]))
    folder = tmp_path / "new"
    folder.mkdir()
    for _, (name, content) in given:
        (folder / name).write_bytes(content)
    words = ["score", str(place / "line"), str(folder), "-o", str(tmp_path / "a.csv"), "--as", "camera=A"]
    with pytest.raises(SystemExit) as left:
        main([*words, "--alpha", "0.3"])
    assert left.value.code == 0
    expected = pd.read_csv(tmp_path / "a.csv", dtype={"is_anomalous": object}, float_precision="round_trip")
    answer = score(client, given, alpha=0.3)
    assert answer.status_code == 200
    found = pd.DataFrame(answer.json()["rows"])
    assert found.pop("note").isna().all()  # which the command line leaves out where there is none
    assert list(found.columns) == list(expected.columns)
    for name in ("anomaly_score", "p_value"):
        np.testing.assert_array_equal(found[name].astype(float), expected[name])
    assert [str(one) for one in found["is_anomalous"]] == [
        "None" if pd.isna(one) else str(one) for one in expected["is_anomalous"]
    ]
    assert found["error"][3] == expected["error"][3]
    assert answer.json()["alpha"] == 0.3


def test_a_value_an_image_and_names_that_occur_twice(client: TestClient, models: ServedModels) -> None:
    given, cameras = files(4), ["A", "B", "B", "A"]
    given[1] = ("images", ("00.png", given[1][1][1]))
    rows = score(client, given, conditions=json.dumps({"camera": cameras})).json()["rows"]
    expected = models["line"].detector.detect(pictures(4, 1), conditions={"camera": cameras})
    assert [row["anomaly_score"] for row in rows] == expected["anomaly_score"].tolist()
    assert [row["id"] for row in rows] == ["00.png", "00.png", "02.png", "03.png"]
    assert [row["condition"] for row in rows] == [f"camera={name}" for name in cameras]


def test_maps_are_pngs_of_the_size_of_the_image(client: TestClient, models: ServedModels) -> None:
    answer = client.post("/v1/score?maps=true&model=maps", files=files(2)).json()
    expected = models["maps"].detector.anomaly_maps(pictures(2, 1))
    for row, values in zip(answer["rows"], expected, strict=True):
        one = row["map"]
        levels = np.array(Image.open(io.BytesIO(base64.b64decode(one["png"]))), dtype=np.float64)
        assert levels.shape == (SIDE, SIDE)
        np.testing.assert_allclose(one["offset"] + one["scale"] * levels, values, atol=one["scale"], rtol=0)
    refusal = score(client, files(1), maps="true")
    assert refusal.status_code == 422
    assert "has no map" in refusal.json()["detail"]


def test_explanations_say_why(client: TestClient, models: ServedModels) -> None:
    given = [*files(2), ("images", ("cut.png", b"no image"))]
    rows = client.post("/v1/explain", files=given, data={"model": "maps"}).json()["rows"]
    expected = {one.id: one for one in models["maps"].detector.explain(pictures(2, 1), others=True)}
    for i in range(2):
        assert rows[i]["explanation"]["sentences"] == list(expected[str(i)].sentences)
        assert rows[i]["explanation"]["peak"] == list(expected[str(i)].peak or ())
    assert rows[2]["explanation"] is None
    assert "no image" in rows[2]["error"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fields", "status", "said"),
    [
        ({"conditions": '{"camera": "D"}'}, 422, "has no value 'D'; known: A, B"),
        ({"conditions": '{"camra": "A"}'}, 422, "no condition 'camra'"),
        ({"conditions": "{}"}, 422, "condition 'camera' is not given; known: A, B"),
        ({"conditions": '{"camera": ["A"]}'}, 422, "has 1 value for 2 images"),
        ({"conditions": '{"camera": {"a": 1}}'}, 422, "no text or number"),
        ({"conditions": "camera=A"}, 422, "is no JSON"),
        ({"alpha": "2"}, 422, "between 0 and 1"),
        ({"alpha": "0.0001"}, 422, "calibration"),
        ({"unknown": "guess"}, 422, "expected error or infer"),
        ({"maps": "perhaps"}, 422, "expected true or false"),
        ({"model": "lin"}, 404, "did you mean 'line'"),
        ({"alhpa": "0.1"}, 422, "unknown field 'alhpa'"),
        ({"images": "a.png"}, 422, "curl -F images=@FILE"),
    ],
)
def test_what_is_wrong_is_named(client: TestClient, fields: dict[str, str], status: int, said: str) -> None:
    answer = score(client, files(2), **fields)
    assert answer.status_code == status
    assert said in answer.json()["detail"]
    assert answer.json()["request_id"] == answer.headers["x-request-id"]


@pytest.mark.parametrize("kind", ["application/x-www-form-urlencoded", "image/png"])
def test_a_picture_that_is_the_body_is_refused_as_no_form(client: TestClient, kind: str) -> None:
    body = b"&".join(b"%d=" % i for i in range(99))  # the bytes of a picture, read as names and values
    answer = client.post("/v1/score", content=body, headers={"content-type": kind})
    assert answer.status_code == 400
    assert f"the body is {kind}; expected a form" in answer.json()["detail"]
    assert "curl -F images=@FILE" in answer.json()["detail"]


def test_several_models_need_a_name_and_no_file_is_refused(client: TestClient) -> None:
    answer = client.post("/v1/score", files=files(1))
    assert answer.status_code == 422
    assert "line, maps" in answer.json()["detail"]
    assert "no image" in client.post("/v1/score", data={"model": "line"}).json()["detail"]


def test_images_are_refused_one_by_one_and_all_together(client: TestClient) -> None:
    large = ("images", ("large.png", png(np.zeros((50, 50), np.uint8))))
    cut = ("images", ("../../cut.png", b"\x89PNG"))
    answer = score(client, [large, *files(1), cut])
    assert answer.status_code == 200
    first, second, third = answer.json()["rows"]
    assert "above the limit of 1,600" in first["error"]
    assert second["error"] is None
    assert second["p_value"] > 0
    assert third["id"].endswith("cut.png")
    assert third["is_anomalous"] is None
    answer = score(client, [large, cut])
    assert answer.status_code == 422
    assert "no image can be scored (of 2)" in answer.json()["detail"]
    assert len(answer.json()["rows"]) == 2


def test_a_body_that_is_too_large_is_refused_with_and_without_a_length(models: ServedModels) -> None:
    with TestClient(create_app(models, ServerOptions(body=2000))) as client:
        assert score(client, files(1)).status_code == 200
        large = [("images", ("a.png", bytes(3000)))]
        assert score(client, large).status_code == 413

        def chunks() -> Iterator[bytes]:
            yield b'--b\r\nContent-Disposition: form-data; name="images"; filename="a.png"\r\n\r\n'
            yield from [bytes(500)] * 8

        form = {"Content-Type": "multipart/form-data; boundary=b"}
        answer = client.post("/v1/score", content=chunks(), headers=form)
        assert answer.status_code == 413
        assert "--max-body-mb" in answer.json()["detail"]


def test_keys_that_an_editor_saved_again_are_read(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    for encoding in ("utf-8-sig", "utf-16"):
        add_key(file, "camera-1")
        file.write_bytes(("# schlüssel\n" + file.read_text(encoding="utf-8")).encode(encoding))
        assert list(read_keys(file)) == ["camera-1"]
        add_key(file, "camera-2")
        assert list(read_keys(file)) == ["camera-1", "camera-2"]
        file.unlink()
    file.write_bytes("# schlüssel\n".encode("latin-1"))
    with pytest.raises(SettingsError, match="cannot be read"):
        add_key(file, "camera-1")


def test_keys_are_asked_for_before_the_body_is_read(models: ServedModels, tmp_path: Path) -> None:
    file = tmp_path / "keys"
    key, other = add_key(file, "camera-1"), add_key(file, "camera-2")
    assert key not in file.read_text()
    with TestClient(create_app(models, ServerOptions(keys=read_keys(file)))) as client:
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {key}"}, {"X-API-Key": ""}):
            for path in ("/v1/score", "/v1/explain", "/v1/models/line/reload"):
                answer = client.post(path, content=b"no form", headers=headers)
                assert answer.status_code == 401
                assert answer.headers["www-authenticate"] == "Bearer"
            assert client.get("/metrics", headers=headers).status_code == 401
        assert client.get("/healthz").status_code == 200
        for headers in ({"Authorization": f"Bearer {key}"}, {"X-API-Key": other}):
            assert client.get("/v1/models", headers=headers).status_code == 200
    again = add_key(file, "camera-1")
    assert again != key
    assert list(read_keys(file)) == ["camera-2", "camera-1"]
    file.write_text("camera-1 secret\n")
    with pytest.raises(SettingsError, match="line 1"):
        read_keys(file)


def test_other_origins_are_let_in_only_when_named(models: ServedModels, client: TestClient) -> None:
    asked = {"Origin": "https://a.example", "Access-Control-Request-Method": "POST"}
    assert "access-control-allow-origin" not in client.options("/v1/score", headers=asked).headers
    assert "access-control-allow-origin" not in client.get("/healthz", headers=asked).headers
    with TestClient(create_app(models, ServerOptions(origins=["https://a.example"]))) as open_one:
        assert open_one.get("/healthz", headers=asked).headers["access-control-allow-origin"] == "https://a.example"
        other = open_one.get("/healthz", headers={"Origin": "https://b.example"})
        assert "access-control-allow-origin" not in other.headers


def test_the_models_are_described_and_counted(client: TestClient) -> None:
    line, maps = client.get("/v1/models").json()["models"]
    assert (line["name"], line["conditions"], line["maps"]) == ("line", {"camera": ["A", "B"]}, False)
    assert (maps["representation"], maps["model"], maps["maps"], maps["version"]) == ("pixels", "vae", True, 1)
    assert client.get("/readyz").json() == {"status": "ready"}
    score(client, [*files(2), ("images", ("cut.png", b"no"))])
    text = client.get("/metrics").text
    assert 'knowngood_images_total{model="line",verdict="error"} 1.0' in text
    assert 'knowngood_requests_total{path="/v1/score",status="200"} 1.0' in text
    assert "knowngood_queue_images 0.0" in text
    assert "knowngood_batch_images_sum 3.0" in text


def test_the_page_of_the_api_needs_nothing_from_elsewhere(client: TestClient) -> None:
    page = client.get("/docs")
    assert "//" not in page.text.split("<style>")[0] + page.text.split("<script>")[1].replace("http://127", "")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    api = client.get("/openapi.json").json()
    call = api["paths"]["/v1/score"]["post"]
    form = call["requestBody"]["content"]["multipart/form-data"]
    assert set(form["example"]) <= set(form["schema"]["properties"])
    example = call["responses"]["200"]["content"]["application/json"]["example"]
    answer = score(client, files(1)).json()
    assert set(example) == set(answer)
    assert set(example["rows"][0]) <= set(answer["rows"][0])


def test_every_status_is_documented(models: ServedModels, tmp_path: Path) -> None:
    key = add_key(tmp_path / "keys", "camera")
    with TestClient(create_app(models, ServerOptions(keys=read_keys(tmp_path / "keys"), body=5000))) as client:
        paths, own = client.get("/openapi.json").json()["paths"], {"Authorization": f"Bearer {key}"}
        form = {"Content-Type": "multipart/form-data; boundary=b"}
        asked: list[tuple[int, str, str, dict[str, Any]]] = [
            (400, "post", "/v1/score", {"content": b"--b no form", "headers": {**own, **form}}),
            (401, "post", "/v1/score", {}),
            (404, "post", "/v1/explain", {"files": files(1), "data": {"model": "x"}, "headers": own}),
            (413, "post", "/v1/score", {"files": [("images", ("a.png", bytes(6000)))], "headers": own}),
            (422, "post", "/v1/score", {"files": files(1), "headers": own}),
            (401, "get", "/v1/models", {}),
            (401, "get", "/metrics", {}),
            (404, "post", "/v1/models/x/reload", {"headers": own}),
        ]
        for status, method, path, request in asked:
            answer = client.request(method, path, **request)
            assert answer.status_code == status, answer.text
            documented = paths[path.replace("/x/", "/{name}/")][method]["responses"]
            assert str(status) in documented
            assert isinstance(answer.json()["detail"], str)
        plain = paths["/metrics"]["get"]["responses"]["200"]["content"]
        assert list(plain) == ["text/plain"]


def test_every_answer_goes_to_the_sinks_without_pictures(models: ServedModels) -> None:
    kept: list[dict[str, Any]] = []
    with TestClient(create_app(models, ServerOptions(sink=kept.extend))) as client:
        answer = client.post("/v1/explain?maps=true&model=maps", files=files(2)).json()
        assert client.post("/v1/score", files=files(2), data={"model": "line"}).status_code == 422
    assert len({row["key"] for row in kept}) == len(kept) == 2
    for row, sent in zip(kept, answer["rows"], strict=True):
        assert {
            name: value for name, value in sent.items() if name not in ("map", "explanation")
        }.items() <= row.items()
        assert (row["model"], row["scored_by"]) == ("maps", answer["scored_by"])
        assert not {"map", "explanation"} & row.keys()


def test_the_framework_sends_no_telemetry_whatever_the_environment_says(
    models: ServedModels, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("FASTAPI_OTEL_AUTO_CONFIGURE", "true")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    with TestClient(create_app(models)) as client:
        assert client.get("/healthz").status_code == 200
    assert "telemetry" not in caplog.text  # it tries, and warns that it has no exporter


def test_what_was_not_expected_is_logged_and_no_more_is_said(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("a secret of the machine")

    with monkeypatch.context() as patch:
        patch.setattr(queues, "judged", broken)
        answer = score(client, files(1))
    assert answer.status_code == 500
    assert "secret" not in answer.text
    failed = next(one for one in caplog.records if one.getMessage() == "failed")
    assert failed.facts == {"request_id": answer.json()["request_id"]}  # type: ignore[attr-defined]
    assert "a secret" in json.loads(JsonLines().format(failed))["trace"]
    assert score(client, files(1)).status_code == 200


# The queue -----------------------------------------------------------------------------------------------------------


class Gate:
    """Holds the scoring of batches until it is opened; notes the images of every batch.

    begun: a batch is held. arrived: counts the requests that are in the queue.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun, self.open, self.arrived = threading.Event(), threading.Event(), threading.Semaphore(0)
        self.batches: list[int] = []
        judged, score = queues.judged, queues.Queue.score

        def held(model: ServedModel, images: Any, asked: Any) -> Any:
            self.batches.append(len(images))
            self.begun.set()
            assert self.open.wait(60)
            return judged(model, images, asked)

        async def counted(queue: queues.Queue, *job: Any) -> Any:
            self.arrived.release()
            return await score(queue, *job)

        monkeypatch.setattr(queues, "judged", held)
        monkeypatch.setattr(queues.Queue, "score", counted)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Gate:
    return Gate(monkeypatch)


class Asking(threading.Thread):
    """A request in a thread of its own, and its answer."""

    def __init__(self, request: Callable[[], Any]) -> None:
        super().__init__()
        self.request, self.answer = request, None
        self.start()

    def run(self) -> None:
        self.answer = self.request()


@pytest.mark.slow
def test_what_waits_is_scored_together_and_each_gets_its_own(client: TestClient, gate: Gate) -> None:
    own, cameras = [files(2, seed) for seed in range(10, 15)], ["A", "B", "A", "D", "B"]
    requests = [lambda i=i: score(client, own[i], conditions=json.dumps({"camera": cameras[i]})) for i in range(5)]
    requests.append(lambda: score(client, files(2, 20), alpha=0.3))
    threads = []
    for request in requests:
        threads.append(Asking(request))
        assert gate.arrived.acquire(timeout=60)
        assert gate.begun.wait(60)
    assert client.app.state.queue.held == 12  # type: ignore[attr-defined]
    gate.open.set()
    for thread in threads:
        thread.join(60)
    # The four that wait go together; one of them is refused, so each is scored again; another α is a batch of its own.
    assert gate.batches == [2, 8, 2, 2, 2, 2, 2]
    answers = [thread.answer for thread in threads]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 422, 200, 200]
    assert "no value 'D'" in answers[3].json()["detail"]
    for answer, request in zip(answers, requests, strict=True):
        alone = request()
        assert alone.status_code == answer.status_code
        if alone.status_code == 200:
            assert answer.json()["rows"] == alone.json()["rows"]


def test_beyond_the_queue_it_says_when_to_come_again(client: TestClient, gate: Gate) -> None:
    first = Asking(lambda: score(client, files(36)))
    assert gate.begun.wait(60)
    assert score(client, files(5)).status_code == 503
    second = Asking(lambda: score(client, files(4)))
    assert gate.arrived.acquire(timeout=60)
    assert gate.arrived.acquire(timeout=60)
    full = client.post("/v1/score", content=b"not even read")
    assert full.status_code == 503
    assert 1 <= int(full.headers["retry-after"]) <= 60
    gate.open.set()
    for thread in (first, second):
        thread.join(60)
        assert thread.answer.status_code == 200
    assert score(client, files(40)).status_code == 200
    assert client.app.state.queue.held == 0  # type: ignore[attr-defined]


def test_the_end_waits_for_what_was_accepted(models: ServedModels, gate: Gate) -> None:
    async def accepted() -> list[Any]:
        queue = queues.Queue()
        queue.start()
        images = ImageSet.from_arrays(pictures(3, 1), conditions={"camera": ["A", "B", "A"]})
        waiting = [asyncio.create_task(queue.score(models["line"], images, Asked())) for _ in range(3)]
        await asyncio.sleep(0)  # each in the queue
        end = asyncio.create_task(queue.close())
        await asyncio.sleep(0)
        with pytest.raises(queues.Full), queue.place():
            pass
        gate.open.set()
        await end
        return [task.result() for task in waiting]

    assert [len(rows) for rows in asyncio.run(accepted())] == [3, 3, 3]


# Versions ------------------------------------------------------------------------------------------------------------


def test_what_was_accepted_keeps_the_version_it_began_with(place: Path, tmp_path: Path, gate: Gate) -> None:
    shutil.copytree(place / "line", tmp_path / "line")
    models = load_models([str(tmp_path / "line")])
    with TestClient(create_app(models)) as client:
        before = [Asking(lambda: score(client, files(2)))]
        assert gate.begun.wait(60)
        before.append(Asking(lambda: score(client, files(2))))
        for _ in before:
            assert gate.arrived.acquire(timeout=60)
        Detector.load(tmp_path / "line").save(tmp_path / "line")
        exchange_changed(models, {})
        after = Asking(lambda: score(client, files(2)))
        assert gate.arrived.acquire(timeout=60)
        gate.open.set()
        for thread in (*before, after):
            thread.join(60)
    assert [thread.answer.json()["version"] for thread in (*before, after)] == [1, 1, 2]
    assert before[0].answer.json()["rows"] == after.answer.json()["rows"]
    assert gate.batches == [2, 2, 2]  # versions are not mixed


@pytest.mark.slow
def test_a_new_version_is_taken_into_use(place: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def fitted(seed: int) -> Detector:
        return Detector("hog", "memory_bank", alpha=0.2).fit(pictures(40, seed))

    fitted(0).save(tmp_path / "parts")
    models = load_models([f"first={tmp_path / 'parts'}"])
    with TestClient(create_app(models)) as client:

        def answer() -> dict[str, Any]:
            return client.post("/v1/score", files=files(3)).json()

        before = answer()
        assert (before["model"], before["version"]) == ("first", 1)
        fitted(5).save(tmp_path / "parts")
        assert answer()["rows"] == before["rows"]
        told: dict[str, str] = {}
        exchange_changed(models, told)
        after = answer()
        assert after["version"] == 2
        expected = fitted(5).detect(pictures(3, 1))["anomaly_score"].tolist()
        assert [row["anomaly_score"] for row in after["rows"]] == expected
        damaged = fitted(6).save(tmp_path / "parts") / "versions" / "0003" / "scores.safetensors"
        whole = damaged.read_bytes()
        damaged.write_bytes(b"cut")
        exchange_changed(models, told)
        assert "scores.safetensors is damaged" in told["first"]
        refusal = client.post("/v1/models/first/reload")
        assert refusal.status_code == 409
        assert answer()["version"] == 2
        damaged.write_bytes(whole)
        assert client.post("/v1/models/first/reload").json()["version"] == 3
        assert answer()["version"] == 3
        assert client.post("/v1/models/second/reload").status_code == 404


def test_two_models_of_one_name_are_refused(place: Path) -> None:
    with pytest.raises(SettingsError, match="same name 'line'"):
        load_models([str(place / "line"), f"line={place / 'maps'}"])


def test_logs_say_who_and_how_much_and_nothing_of_the_images(
    client: TestClient, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", logger="knowngood.service"):
        answer = client.post(
            "/v1/score",
            files=files(3),
            data={"model": "line", "conditions": '{"camera": "A"}'},
            headers={"X-Request-ID": "abc"},
        )
    assert answer.headers["x-request-id"] == "abc"
    line = next(one for one in caplog.records if one.getMessage() == "request")
    facts = line.facts  # type: ignore[attr-defined]
    assert (facts["request_id"], facts["status"], facts["images"], facts["model"]) == ("abc", 200, 3, "line")
    assert "00.png" not in json.dumps(facts)


def test_a_sender_that_falls_silent_gives_its_place_back(models: ServedModels) -> None:
    app, begun = (
        create_app(models, ServerOptions(queue=1, idle=0.01)),
        [b'--b\r\nContent-Disposition: form-data; name="x"'],
    )
    scope = {
        "type": "http", "method": "POST", "path": "/v1/score", "query_string": b"", "root_path": "", "scheme": "http",
        "headers": [(b"content-type", b"multipart/form-data; boundary=b")], "server": ("here", 80), "client": ("a", 1),
    }  # fmt: skip
    sent: list[Any] = []

    async def receive() -> Any:
        if not begun:
            await asyncio.Event().wait()
        return {"type": "http.request", "body": begun.pop(), "more_body": True}

    async def send(message: Any) -> None:
        sent.append(message)

    with TestClient(app) as client:
        assert client.portal is not None
        client.portal.call(app, scope, receive, send)
        assert sent[0]["status"] == 408
        assert b"0.01 seconds" in sent[1]["body"]
        assert score(client, files(1)).status_code == 200  # the only place is free


@pytest.mark.parametrize("conditions", ['{"camera": "\\ud800"}', '{"\\ud800": "A"}', '{"\\ud800": ["A", "B"]}'])
def test_half_a_character_is_refused_as_any_other_value(client: TestClient, conditions: str) -> None:
    answer = score(client, files(1), conditions=conditions)
    assert answer.status_code == 422
    assert "\\ud800" in answer.json()["detail"]


def test_whatever_keeps_a_new_version_from_being_loaded_the_former_one_stays(
    models: ServedModels, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError("out of memory")

    before, told = models["line"], dict[str, str]()
    monkeypatch.setattr(type(before), "is_changed", lambda model: model.name == "line")
    monkeypatch.setattr(type(before), "loaded_again", fails)
    exchange_changed(models, told)
    assert told == {"line": "out of memory"}
    assert models["line"] is before


def test_an_option_bounds_one_thing_and_leaves_the_others_to_the_model(models: ServedModels) -> None:
    own = replace(models["line"], limits=Limits(pixels=999, gigabytes=1))
    bounded = ServedModels([own], {"max_pages": 7})
    assert bounded["line"].limits == Limits(pixels=999, pages=7, gigabytes=1)
    assert bounded.reload("line").limits == Limits(pages=7)  # as it was saved
    assert ServedModels([own])["line"] is own
