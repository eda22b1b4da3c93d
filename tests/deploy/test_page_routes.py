"""What the page asks for: judged images with what it shows of them, reviews, and the state of the line."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from judged_parts import SIDE, pictures, png, save_model, save_vae

pytest.importorskip("fastapi")

from starlette.testclient import TestClient

from knowngood.data import pixel_source
from knowngood.data.readers.files import read_image
from knowngood.deploy.delivery import Delivery
from knowngood.deploy.judged_store import Filter, JudgedStore, Judgement
from knowngood.deploy.keys import add_key, read_keys
from knowngood.deploy.outbox import Outbox
from knowngood.deploy.served_models import ServedModels, load_models
from knowngood.deploy.server import ServerOptions, create_app
from knowngood.deploy.watch import Watch

pytestmark = pytest.mark.slow  # fitting models, serving and exporting take seconds


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> ServedModels:
    return load_models([str(save_model(tmp_path_factory.mktemp("page") / "parts"))])


@pytest.fixture
def store(tmp_path: Path) -> Iterator[JudgedStore]:
    with closing(JudgedStore(tmp_path / "judged")) as store:
        yield store


@pytest.fixture
def client(models: ServedModels, store: JudgedStore) -> Iterator[TestClient]:
    with TestClient(create_app(models, ServerOptions(store=store))) as client:
        yield client


def files(*seeds: int, spot: bool = False) -> list[tuple[str, tuple[str, bytes]]]:
    return [("images", (f"../{seed}.png", png(pictures(1, seed, spot)[0]))) for seed in seeds]


def judge(client: TestClient, given: Any, path: str = "/page/judge", **fields: Any) -> dict[str, Any]:
    answer = client.post(path, files=given, data={"conditions": '{"camera": "A"}', **fields})
    assert answer.status_code == 200, answer.text
    return answer.json()


def shown(answer: Any) -> Image.Image:
    assert answer.status_code == 200, answer.text
    return Image.open(io.BytesIO(answer.content))


def test_the_page_is_strict_and_self_contained(client: TestClient) -> None:
    page = client.get("/")
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    for path in ("/page.css", "/page.js"):
        assert client.get(path).status_code == 200
    everything = page.text + client.get("/page.css").text + client.get("/page.js").text
    assert "<style" not in page.text
    assert "style=" not in page.text
    assert {part.split('"')[0] for part in everything.split("http")[1:]} <= {"://www.w3.org/2000/svg"}


def test_the_api_keeps_what_it_judged_and_its_answer_is_as_without(client: TestClient, models: ServedModels) -> None:
    given = [*files(1), *files(2, spot=True), ("images", ("cut.png", b"no image"))]
    answer = judge(client, given, "/v1/score")
    with TestClient(create_app(models)) as plain:
        expected = judge(plain, given, "/v1/score")
    assert answer["rows"] == expected["rows"]
    found = client.get("/page/judged").json()
    assert found["total"] == 3
    unread, spotted, good = found["items"]
    assert [one["verdict"] for one in (unread, spotted, good)] == ["not read", "anomalous", "normal"]
    assert (good["id"], good["source"], good["conditions"]) == ("../1.png", "api", {"camera": "A"})
    assert good["scored_by"] == models.named(None).mark
    assert good["row"] == expected["rows"][0]
    assert (good["height"], good["width"]) == (SIDE, SIDE)
    assert client.get(f"/page/judged/{unread['number']}/thumbnail").status_code == 404
    assert found["counts"] | {"judged": 3, "flagged": 1, "not read": 1} == found["counts"]
    assert client.get("/page/judged?verdict=flagged&condition=camera=A").json()["total"] == 1
    assert client.get("/page/judged?order=best").status_code == 422


def test_what_is_kept_and_shown_is_decoded_once(
    client: TestClient, store: JudgedStore, models: ServedModels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = []
    monkeypatch.setattr(pixel_source, "read_image", lambda path, limits: read.append(path) or read_image(path, limits))
    judge(client, files(1, 2), "/v1/score")
    assert len(read) == 2
    folder, now = tmp_path / "new", [0.0]
    folder.mkdir()
    (folder / "a.png").write_bytes(png(pictures(1, 3)[0]))
    delivery = Delivery(Outbox(tmp_path / "state.sqlite"), [])
    watch = Watch(folder, models, delivery, conditions={"camera": "A"}, store=store, clock=lambda: now[0])
    for _ in range(3):
        now[0] += 1
        list(watch.step())
    assert len(read) == 3
    assert store.counts()["judged"] == 3


def test_a_judged_picture_can_be_seen_with_its_map_and_what_good_looks_like(
    client: TestClient, models: ServedModels
) -> None:
    row = judge(client, files(2, spot=True))["rows"][0]
    view = row["view"]
    number = view["number"]
    assert (view["verdict"], view["size"]) == ("anomalous", [SIDE, SIDE])
    assert len(view["regions"]) >= 1
    picture = shown(client.get(f"/page/judged/{number}/picture"))
    np.testing.assert_array_equal(np.asarray(picture.convert("L")), pictures(1, 2, True)[0])
    assert shown(client.get(f"/page/judged/{number}/thumbnail")).size == (SIDE, SIDE)
    colours = np.asarray(shown(client.get(f"/page/judged/{number}/map")).convert("RGBA"))
    values = models.named(None).detector.anomaly_maps(pictures(1, 2, True), conditions={"camera": ["A"]})[0]
    calibration = models.named(None).detector.pipeline_.map_calibration
    assert calibration is not None
    begin = 0.5 * calibration.threshold(stratum=0)
    np.testing.assert_array_equal(colours[..., 3][values < 0.9 * begin], 0)
    assert colours[..., 3][values > 2 * begin].min() > 90
    normal = np.asarray(shown(client.get(f"/page/normal/parts/{view['reference']}")).convert("L"), float)
    assert np.abs(normal - normal.mean()).max() > 20  # the disc
    compared = shown(client.get(f"/page/judged/{number}/compared")).convert("L")
    assert np.corrcoef(np.ravel(compared.resize((SIDE, SIDE))), np.ravel(picture.convert("L")))[0, 1] > 0.95
    why = client.post(f"/page/judged/{number}/why").json()
    assert why["why"] == row["explanation"]["sentences"]


def test_why_is_asked_later_of_what_the_api_judged(client: TestClient) -> None:
    judge(client, files(3, spot=True), "/v1/score")
    number = client.get("/page/judged").json()["items"][0]["number"]
    assert client.get(f"/page/judged/{number}").json()["why"] is None
    why = client.post(f"/page/judged/{number}/why").json()["why"]
    assert why[0].startswith("anomalous") or "p" in why[0]
    assert client.get(f"/page/judged/{number}").json()["why"] == why


def test_reviews(client: TestClient) -> None:
    number = judge(client, files(2, spot=True))["rows"][0]["view"]["number"]
    path = f"/page/judged/{number}/review"
    said = {"verdict": "defect", "who": "ana", "kind": " dent ", "regions": [[1, 2, 30, 32]], "note": "deep"}
    found = client.post(path, json=said).json()
    assert (found["review"], found["kind"], found["drawn"], found["who"]) == ("defect", "dent", [[1, 2, 30, 32]], "ana")
    assert client.post(path, json={"verdict": None}).json()["review"] is None
    assert len(client.get(f"/page/judged/{number}").json()["history"]) == 2
    for wrong, what in (
        ({"verdict": "bad"}, "expected good, defect, unsure"),
        ({"verdict": "defect", "regions": [[0, 0, 33, 4]]}, "not within the picture, 32 × 32"),
        ({"verdict": "defect", "regions": [[4, 0, 4, 4]]}, "not within the picture"),
        ({"verdict": "good", "more": 1}, "Extra inputs"),
    ):
        answer = client.post(path, json=wrong)
        assert answer.status_code == 422
        assert what in answer.text
    assert client.post("/page/judged/99/review", json={"verdict": "good"}).status_code == 404


def test_what_could_not_be_read_is_not_reviewed(client: TestClient) -> None:
    judge(client, [*files(1), ("images", ("cut.png", b"no image"))])
    unread = next(one for one in client.get("/page/judged").json()["items"] if one["id"] == "cut.png")
    answer = client.post(f"/page/judged/{unread['number']}/review", json={"verdict": "good"})
    assert answer.status_code == 422
    assert f"cut.png (image {unread['number']}) could not be read" in answer.text
    assert client.get(f"/page/judged/{unread['number']}").json()["history"] == []


def test_another_site_and_a_missing_key_are_refused(models: ServedModels, store: JudgedStore, tmp_path: Path) -> None:
    key = add_key(tmp_path / "keys", "ana")
    with TestClient(create_app(models, ServerOptions(store=store, keys=read_keys(tmp_path / "keys")))) as client:
        for path in (
            "/page/models",
            "/page/judged",
            "/page/judged/1",
            "/page/judged/1/picture",
            "/page/line",
            "/page/state",
        ):
            assert client.get(path).status_code == 401
        assert client.get("/").status_code == 200
        client.headers["Authorization"] = f"Bearer {key}"
        number = judge(client, files(2))["rows"][0]["view"]["number"]
        review = {"verdict": "good", "who": "somebody else"}
        assert client.post(f"/page/judged/{number}/review", json=review).json()["who"] == "ana"
        cross = {"Sec-Fetch-Site": "cross-site"}
        assert client.post(f"/page/judged/{number}/review", json=review, headers=cross).status_code == 403


def test_nothing_is_kept_where_that_was_asked_for(models: ServedModels) -> None:
    with TestClient(create_app(models)) as client:
        assert client.get("/page/models").json()["keeps"] is False
        view = judge(client, files(2, spot=True))["rows"][0]["view"]
        assert view["number"] is None
        assert view["map"].startswith("iVBOR")
        assert "kept" in client.get("/page/judged").json()["detail"]
        assert client.get("/page/state").json()["stamp"] is None


def fill(store: JudgedStore, models: ServedModels, n: int, score: float, p: float, start: int = 0) -> None:
    noise = np.random.default_rng(start).normal(0, 10, n)
    for i in range(start, start + n):
        row: dict[str, Any] = {
            "id": f"{i}.png",
            "anomaly_score": score + float(noise[i - start]),
            "p_value": p,
            "is_anomalous": p <= 0.1,
            "error": None,
        }
        about: dict[str, Any] = {"model": "parts", "scored_by": models.named(None).mark, "conditions": {}}
        row["condition"] = "camera=A"
        store.add([Judgement(key=str(i), source="watch", row=row, picture=b"", suffix=".png", **about)])


def test_the_line(client: TestClient, store: JudgedStore, models: ServedModels) -> None:
    fill(store, models, 30, 700, 0.5)
    found = client.get("/page/line").json()
    assert (found["count"], found["flagged"], sum(found["p_values"])) == (30, 0, 30)
    assert found["drift"]["alarm"] is None
    fill(store, models, 60, 50_000, 0.03, start=30)
    found = client.get("/page/line?source=watch").json()
    assert (found["count"], found["flagged"], found["p_values"][0]) == (90, 60, 60)
    assert sum(one["count"] for one in found["rates"]) == 90
    assert [found["rates"][0]["rate"], found["rates"][-1]["rate"]] == [0, 1]
    assert found["drift"]["count"] == 90
    assert 30 < found["drift"]["alarm"]["at"] < 90
    assert client.get("/page/line?source=api").json()["count"] == 0
    assert client.get("/page/line").json()["drift"]["count"] == 90  # it goes on where it was


def test_watch_keeps_what_it_judged_once(models: ServedModels, store: JudgedStore, tmp_path: Path) -> None:
    folder = tmp_path / "new"
    folder.mkdir()
    (folder / "a.png").write_bytes(png(pictures(1, 5, True)[0]))
    now = [0.0]
    for state in ("one.sqlite", "two.sqlite"):  # the second one has lost what was done, as after a crash
        delivery = Delivery(Outbox(tmp_path / state), [])
        watch = Watch(folder, models, delivery, conditions={"camera": "A"}, store=store, clock=lambda: now[0])
        for _ in range(3):
            now[0] += 1
            for one in watch.step():
                assert not {"kept", "view"} & one.row.keys()
    total, items = store.page(Filter())
    assert (total, items[0]["source"], items[0]["id"], items[0]["verdict"]) == (1, "watch", "a.png", "anomalous")
    assert store.picture(items[0]["number"])["bytes"] == (folder / "a.png").read_bytes()
    assert items[0]["regions"]


def test_learning_is_refused_where_nothing_is_new_and_its_failure_is_told(
    client: TestClient, models: ServedModels, store: JudgedStore
) -> None:
    """This model was saved from Python: nothing says what it was trained on, and nobody drew a random sample."""
    assert client.post("/page/models/parts/learn").status_code == 409
    judge(client, files(1, spot=True))
    client.post("/page/judged/1/review", json={"verdict": "good"})
    started = client.post("/page/models/parts/learn")
    assert started.json()["new"] == 1
    for thread in threading.enumerate():
        if thread.name == "reviews":
            thread.join()
    state = client.get("/page/models").json()["models"][0]["reviews"]
    assert (state["running"], state["new"], state["learned"]) == (False, 1, None)
    assert "0 good images of it reviewed" in state["error"]
    assert client.post("/page/models/line/learn").status_code == 404
    assert client.post("/page/models/parts/rollback").status_code == 409
    assert client.post("/page/sample", json={"model": "parts", "images": 20}).json() == {"drawn": 1}
    assert client.post("/page/sample", json={"model": "parts", "images": 20}).json() == {"drawn": 0}
    assert client.post("/page/sample", json={"model": "parts", "images": 1}).status_code == 422
    assert client.post("/page/models/parts/learn", headers={"sec-fetch-site": "cross-site"}).status_code == 403


def test_one_version_under_two_names_is_two_lines(models: ServedModels, store: JudgedStore) -> None:
    path = models.named(None).path
    both = load_models([f"parts={path}", f"second={path}"])
    fill(store, models, 20, 700, 0.5)
    with TestClient(create_app(both, ServerOptions(store=store))) as client:
        counts = [client.get(f"/page/line?model={name}").json()["drift"]["count"] for name in ("parts", "second")]
    assert counts == [20, 0]


@pytest.mark.parametrize("number", [10**18, 10**30])
def test_a_number_that_is_none_is_not_found(client: TestClient, number: int) -> None:
    for path in ("", "/picture", "/map"):
        assert client.get(f"/page/judged/{number}{path}").status_code == 404
    assert client.post(f"/page/judged/{number}/review", json={"verdict": "good"}).status_code == 404
    assert client.get(f"/page/judged?first={number}").status_code == (200 if number < 2**63 else 422)


# Latent dimensions ---------------------------------------------------------------------------------------------------


def test_latent_dimensions_of_a_picture_are_shown_and_moved(tmp_path: Path, store: JudgedStore) -> None:
    models = load_models([str(save_vae(tmp_path / "vae"))])
    with TestClient(create_app(models, ServerOptions(store=store))) as client:
        assert client.get("/page/models").json()["models"][0]["reconstructs"] is True
        row = client.post("/page/judge", files=files(1, spot=True)).json()["rows"][0]
        path = f"/page/judged/{row['view']['number']}/latents"
        found = client.get(path).json()
        assert [sorted(one) for one in found["dims"]] == [["dim", "kl", "z"]] * 4
        nats = [one["kl"] for one in found["dims"]]
        assert nats == sorted(nats, reverse=True)
        first = found["dims"][0]
        moved = client.get(path, params={"z": f"{first['dim']}:{first['z'] + 3}"}).json()
        assert {one["dim"]: one["z"] for one in moved["dims"]}[first["dim"]] == pytest.approx(first["z"] + 3)
        assert moved["picture"] != found["picture"]
        held = {one["dim"]: one["z"] for one in moved["dims"]} | {first["dim"]: first["z"]}
        assert held == pytest.approx({one["dim"]: one["z"] for one in found["dims"]})
        same = client.get(path, params={"z": f"{first['dim']}:{first['z']}"}).json()
        assert same["picture"] == found["picture"]
        for z, said in (("9:1", "expected 0 to 3"), ("1:x", "DIMENSION:POSITION"), ("1:nan", "finite"), ("1", "'1'")):
            answer = client.get(path, params={"z": z})
            assert (answer.status_code, said in answer.text) == (422, True)
        assert client.get("/page/judged/99/latents").status_code == 404


def test_a_model_without_latent_dimensions_says_so(client: TestClient) -> None:
    number = judge(client, files(1))["rows"][0]["view"]["number"]
    answer = client.get(f"/page/judged/{number}/latents")
    assert (answer.status_code, "does not reconstruct" in answer.text) == (422, True)
