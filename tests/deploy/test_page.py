"""The page in a real browser: every job a person has there, by mouse, keys and touch; nothing leaves the machine."""

from __future__ import annotations

import json
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from judged_parts import SIDE, SPOT, pictures, png, save_model, save_run, save_vae, stripes
from knowngood.deploy.judged_store import Filter, JudgedStore, Judgement

pytest.importorskip("fastapi")
playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs the program chromium"),
]
expect = playwright.expect
DROP = """([name, bytes, kind]) => {
  const given = new DataTransfer();
  given.items.add(new File([new Uint8Array(bytes)], name, { type: "image/png" }));
  const event = kind === "paste" ? new ClipboardEvent("paste", { clipboardData: given, bubbles: true })
    : new DragEvent("drop", { dataTransfer: given, bubbles: true, cancelable: true });
  document.body.dispatchEvent(event);
}"""
# What axe finds is sorted in the page: of the whole of it, Python would spend half a second on each look.
SERIOUS = """async () => {
  const found = (await axe.run({ resultTypes: ["violations"] })).violations;
  return found.filter(one => ["serious", "critical"].includes(one.impact))
    .map(one => [one.id, ...one.nodes.map(node => node.html)]);
}"""
Open = Callable[..., Any]
GRACE = 10  # seconds


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory):
    from knowngood.deploy.served_models import load_models

    return load_models([str(save_model(tmp_path_factory.mktemp("page") / "parts"))])


@contextmanager
def served(models: Any, **options: Any) -> Iterator[str]:
    """The address of a server in a thread."""
    import uvicorn

    from knowngood.deploy.server import ServerOptions, create_app

    listener = socket.create_server(("127.0.0.1", 0))
    app = create_app(models, ServerOptions(**options))
    # A connection that the browser opens as the server ends, without a request, would never be closed.
    config = uvicorn.Config(app, log_config=None, access_log=False, timeout_graceful_shutdown=GRACE)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        arguments = ["--no-sandbox", "--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream"]
        browser = started.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield browser
        browser.close()


@pytest.fixture
def opened(browser: Any) -> Iterator[Open]:
    """Open the page in a new context; at the end nothing was asked of another host, and no script failed."""
    contexts, asked, wrong = [], [], []

    def open_page(url: str, view: str = "judge", **options: Any) -> Any:
        context = browser.new_context(**{"viewport": {"width": 1440, "height": 900}, **options})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.on("request", lambda request: asked.append((url, request.url)))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda message: wrong.append(message.text) if "Policy" in message.text else None)
        page.goto(f"{url}#{view}")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not wrong
    assert asked
    assert not [one for url, one in asked if not one.startswith((url, "blob:", "data:"))]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[JudgedStore]:
    store = JudgedStore(tmp_path / "judged")
    yield store
    store.close()


@pytest.fixture
def url(models: Any, store: JudgedStore) -> Iterator[str]:
    with served(models, store=store) as address:
        yield address


def good(seed: int) -> bytes:
    return png(pictures(1, seed)[0])


def bad(seed: int) -> bytes:
    return png(pictures(1, seed, spot=True)[0])


def give(page: Any, *given: tuple[str, bytes]) -> None:
    page.set_input_files("#files", [{"name": name, "mimeType": "image/png", "buffer": one} for name, one in given])


def send(url: str, *given: tuple[str, bytes], camera: str = "A") -> None:
    """Judged by the API."""
    import httpx

    files = [("images", one) for one in given]
    answer = httpx.post(f"{url}v1/score", files=files, data={"conditions": json.dumps({"camera": camera})}, timeout=60)
    assert answer.status_code == 200


def drawn(page: Any, selector: str) -> bool:
    """Whether an image is there with its pixels."""
    found = page.locator(selector).first
    expect(found).to_be_visible()
    page.wait_for_function("node => node.complete && node.naturalWidth > 0", arg=found.element_handle())
    return True


def reviews(store: JudgedStore) -> list[tuple[Any, ...]]:
    rows = store.page(Filter(review="any"))[1]
    return [(row["id"], row["review"], row["kind"], row["note"], row["drawn"], row["who"]) for row in rows]


def test_a_picture_is_judged_with_map_reason_and_what_good_looks_like(opened: Open, url: str) -> None:
    page = opened(url)
    page.select_option('[name="condition camera"]', label="B")
    give(page, ("bad.png", bad(1)))
    said = page.locator(".said")
    expect(said.get_by_role("heading")).to_have_text("Anomalous")
    expect(said).to_contain_text("bad.png")
    expect(said).to_contain_text("camera=B")
    expect(said.locator("dl")).to_contain_text("p-value")
    assert float(said.locator("dd").first.inner_text()) <= 0.1
    assert page.locator(".reason li").count() >= 2
    assert drawn(page, ".stage img:not(.map)")
    assert drawn(page, ".stage .map")
    assert drawn(page, ".good-one img")
    assert page.locator(".stage rect").count() >= 2
    page.get_by_label("Map").focus()
    before = float(page.locator(".stage .map").evaluate("node => getComputedStyle(node).opacity"))
    page.keyboard.press("Home")
    assert before > 0.5
    assert page.locator(".stage .map").evaluate("node => getComputedStyle(node).opacity") == "0"
    page.get_by_label("found regions").uncheck()
    assert not page.locator(".stage rect").first.is_visible()


def test_pictures_are_dropped_pasted_and_taken(opened: Open, url: str, store: JudgedStore) -> None:
    page = opened(url, permissions=["camera"])
    page.wait_for_selector("#asked select")
    page.evaluate(DROP, ["dropped.png", list(good(2)), "drop"])
    expect(page.locator(".said")).to_contain_text("dropped.png")
    expect(page.locator(".said h2")).to_have_text("Normal")
    page.evaluate(DROP, ["pasted.png", list(bad(3)), "paste"])
    expect(page.locator(".said")).to_contain_text("pasted.png")
    give(page, ("one.png", good(4)), ("two.png", bad(5)), ("cut.png", b"no image"))
    expect(page.locator("#answers button")).to_have_count(3)
    expect(page.locator("#busy")).to_have_text("2 pictures judged, 1 anomalous; 1 could not be read.")
    page.locator("#answers button").nth(2).click()
    expect(page.locator(".said h2")).to_have_text("Not read")
    expect(page.locator(".said")).to_contain_text("is no image")
    page.get_by_role("button", name="Use the camera").click()
    page.wait_for_function("() => document.getElementById('video').videoWidth > 0")
    page.get_by_role("button", name="Take it").click()
    expect(page.locator(".said .id")).to_contain_text("camera 2")
    page.get_by_role("button", name="Stop the camera").click()
    expect(page.locator("#live")).to_be_hidden()
    assert {row["source"] for row in store.page(Filter())[1]} == {"page"}
    assert store.page(Filter(condition="camera=A"))[0] == 0  # nothing was said of the camera
    assert store.page(Filter())[1][-1]["conditions"] == {}


def test_the_gallery_is_live_filtered_and_paged(opened: Open, url: str, store: JudgedStore, models: Any) -> None:
    page = opened(url, "gallery")
    expect(page.locator(".empty")).to_contain_text("Nothing was judged yet")
    send(url, ("good.png", good(6)), ("bad.png", bad(7)))  # it comes by itself
    cards, filters = page.locator(".wall figure"), page.locator("#filters")
    expect(cards).to_have_count(2)
    assert drawn(page, ".wall figure img")
    send(url, ("later.png", good(8)), camera="B")
    expect(cards).to_have_count(3)
    expect(cards.first).to_contain_text("later.png")
    filters.get_by_label("Order").select_option("anomalous")
    expect(cards.first).to_contain_text("bad.png")
    filters.get_by_label("Verdict").select_option("normal")
    expect(cards).to_have_count(2)
    filters.get_by_label("Condition").select_option("camera=B")
    expect(cards).to_have_count(1)
    filters.get_by_label("Condition").select_option("")
    filters.get_by_label("Verdict").select_option("")
    filters.get_by_label("Time").select_option("1")
    expect(cards).to_have_count(3)
    row = {"anomaly_score": 1.0, "p_value": 0.5, "is_anomalous": False, "error": None, "condition": "camera=A"}
    about: dict[str, Any] = {"source": "watch", "model": "parts", "scored_by": models.named(None).mark}
    store.add(
        Judgement(key=str(i), row={"id": f"{i}.png", **row}, picture=good(1), suffix=".png", conditions={}, **about)
        for i in range(50)
    )
    expect(cards).to_have_count(48)
    expect(page.locator("#shown")).to_have_text("48 of 53")
    page.get_by_role("button", name="Show more").click()
    expect(cards).to_have_count(53)
    filters.get_by_label("Source").select_option("watch")
    expect(page.locator("#shown")).to_have_text("48 of 50")


def test_reviews_by_keys_with_regions_and_undo(opened: Open, url: str, store: JudgedStore) -> None:
    send(url, ("a.png", good(9)), ("b.png", bad(10)), ("c.png", bad(11)))
    page = opened(url, "gallery")
    page.locator(".wall button").first.click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("c.png")
    page.keyboard.press("f")
    expect(dialog.locator(".reviewed")).to_contain_text("False alarm")
    assert reviews(store) == [("c.png", "good", "", "", [], "")]
    page.keyboard.press("z")
    expect(dialog.locator(".reviewed")).to_have_count(0)
    assert reviews(store) == []
    page.keyboard.press("ArrowRight")
    expect(dialog.locator(".said")).to_contain_text("b.png")
    box = dialog.locator(".stage svg").bounding_box()
    assert box is not None
    top, left, bottom, right = SPOT
    page.mouse.move(box["x"] + left / SIDE * box["width"], box["y"] + top / SIDE * box["height"])
    page.mouse.down()
    page.mouse.move(box["x"] + right / SIDE * box["width"], box["y"] + bottom / SIDE * box["height"], steps=4)
    page.mouse.up()
    dialog.get_by_label("Kind of defect").fill("spot")
    dialog.get_by_label("Your name").fill("ana")
    dialog.get_by_label("Note").fill("fud")  # letters that are keys elsewhere
    assert reviews(store) == []
    dialog.get_by_role("button", name="True defect").focus()
    page.keyboard.press("Enter")
    expect(dialog.locator(".reviewed")).to_contain_text("True defect")
    assert reviews(store) == [("b.png", "defect", "spot", "fud", [list(SPOT)], "ana")]
    page.keyboard.press("k")
    found = store.one(2)["regions"]
    page.keyboard.press("d")
    expect(dialog.locator("details summary")).to_have_text("History (2)")
    assert store.one(2)["drawn"] == found
    page.keyboard.press("ArrowRight")
    expect(dialog.locator(".said")).to_contain_text("a.png")
    page.keyboard.press("u")
    expect(dialog.locator(".reviewed")).to_contain_text("Unsure")
    dialog.get_by_role("button", name="Why?").click()
    expect(dialog.locator(".reason li").first).to_be_visible()
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    expect(page.locator(".wall figure", has_text="b.png")).to_contain_text("true defect")
    expect(page.locator("#counts")).to_contain_text("1 true defect, 0 false alarms, 0 missed defects, 1 unsure.")
    page.locator("#filters").get_by_label("Review").select_option("none")
    expect(page.locator(".wall figure")).to_have_count(1)


def test_an_answer_that_comes_late_does_not_undo_a_filter(opened: Open, url: str, store: JudgedStore) -> None:
    send(url, ("a.png", good(9)), ("b.png", bad(10)))
    page, held = opened(url, "gallery"), []
    expect(page.locator(".wall figure")).to_have_count(2)
    filters = page.locator("#filters")
    page.route("**/page/judged?*", lambda route: held.append(route) if not held else route.continue_())
    with page.expect_request("**/page/judged?*"):
        filters.get_by_label("Order").select_option(index=1)
    filters.get_by_label("Verdict").select_option("flagged")
    expect(page.locator(".wall figure")).to_have_count(1)
    with page.expect_response(held[0].request.url) as late:
        held[0].continue_()
    late.value.finished()
    page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    assert page.locator(".wall figure").count() == 1


def test_of_what_is_opened_and_said_quickly_the_latest_counts(opened: Open, url: str, store: JudgedStore) -> None:
    send(url, ("a.png", good(9)), ("b.png", bad(10)))
    page, held = opened(url, "gallery"), []
    expect(page.locator(".wall figure")).to_have_count(2)
    page.route("**/page/judged/2", lambda route: held.append(route))
    with page.expect_request("**/page/judged/2"):
        page.locator(".wall figure", has_text="b.png").get_by_role("button").click()
    page.locator(".wall figure", has_text="a.png").get_by_role("button").click()
    dialog = page.get_by_role("dialog")
    expect(dialog.locator(".said")).to_contain_text("a.png")
    with page.expect_response(held[0].request.url) as late:
        held[0].continue_()
    late.value.finished()
    page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    assert "a.png" in dialog.locator(".said").inner_text()
    said: list[Any] = []
    page.route("**/page/judged/1/review", lambda route: said.append(route) if not said else route.continue_())
    with page.expect_request("**/page/judged/1/review"):
        page.keyboard.press("f")
    page.keyboard.press("u")
    page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    said[0].continue_()
    expect(dialog.locator(".reviewed")).to_contain_text("Unsure")
    expect(dialog.locator("details summary")).to_have_text("History (2)")
    assert reviews(store)[0][1] == "unsure"


def test_a_region_is_drawn_by_touch_on_a_phone(opened: Open, url: str, store: JudgedStore) -> None:
    send(url, ("b.png", bad(12)))
    page = opened(url, "gallery", viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    page.locator(".wall button").first.tap()
    dialog = page.get_by_role("dialog")
    dialog.get_by_role("button", name="Draw a region").tap()
    svg = dialog.locator(".stage svg")
    svg.scroll_into_view_if_needed()
    box = svg.bounding_box()
    assert box is not None
    touch = page.context.new_cdp_session(page)
    for kind, share in (("touchStart", 0.25), ("touchMove", 0.5), ("touchMove", 0.75), ("touchEnd", None)):
        at = share and {"x": box["x"] + share * box["width"], "y": box["y"] + share * box["height"]}
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [at] if at else []})
    dialog.get_by_role("button", name="True defect").click()
    expect(dialog.locator(".reviewed")).to_contain_text("True defect")
    np.testing.assert_allclose(store.one(1)["drawn"], [[8, 8, 24, 24]], atol=1)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_the_line_and_the_models(opened: Open, url: str, store: JudgedStore, models: Any) -> None:
    noise = np.random.default_rng(0).normal(0, 10, 120)
    for i in range(120):
        row: dict[str, Any] = {"id": f"{i}.png", "anomaly_score": 700.0 + noise[i] + 900 * (i >= 40), "error": None}
        row |= {"p_value": 0.02 if i >= 40 else 0.5, "is_anomalous": i >= 40, "condition": "camera=A"}
        mark = models.named(None).mark
        about: dict[str, Any] = {"source": "watch", "model": "parts", "scored_by": mark, "conditions": {}}
        store.add([Judgement(key=str(i), row=row, picture=b"", suffix=".png", **about)])
    page = opened(url, "line")
    charts = page.locator(".chart")
    expect(charts).to_have_count(3)
    assert charts.nth(0).locator("rect.bars").count() == 20
    expect(charts.nth(0).get_by_role("img")).to_have_attribute(
        "aria-label", "Histogram of 120 p-values; 80 below 0.05, 6 expected of normal images"
    )
    expect(charts.nth(1)).to_contain_text("80 of 120 pictures flagged, 67 %")
    assert charts.nth(1).locator("path").get_attribute("d").count("L") > 8
    expect(charts.nth(2)).to_contain_text("Alarm:")
    expect(charts.nth(2)).to_contain_text("cross-conformal")
    expect(charts.nth(2).locator("rect.alarm")).to_have_count(1)
    page.get_by_role("link", name="Models").click()
    card = page.locator("#cards section")
    expect(card).to_contain_text(models.named(None).mark)
    expect(card).to_contain_text("camera: A, B")
    card.get_by_text("Model card").click()
    expect(card.locator("pre")).to_contain_text("# Anomaly detector")


def test_the_model_learns_from_reviews_and_goes_back(opened: Open, store: JudgedStore, tmp_path: Path) -> None:
    import httpx

    from knowngood.deploy.served_models import load_models

    models = load_models([str(save_run(tmp_path))])
    with served(models, store=store) as url:
        for i, picture in enumerate([*stripes(6, 7), *pictures(3, 8)]):
            answer = httpx.post(f"{url}v1/score", files=[("images", (f"{i}.png", png(picture)))], timeout=60)
            assert answer.json()["rows"][0]["is_anomalous"] is (i < 6)
        page = opened(url, "models")
        part = page.get_by_role("group", name="Reviews of parts")
        expect(part).to_contain_text("This version knows all reviews.")
        expect(part.get_by_role("button")).to_have_count(0)
        page.get_by_role("link", name="Gallery").click()
        expect(page.locator(".wall figure")).to_have_count(9)
        page.locator(".wall button").nth(3).click()
        for i in range(4, 10):  # the six that are flagged
            expect(page.locator("dialog .head output")).to_have_text(f"{i} of 9")
            page.keyboard.press("f")
            expect(page.locator("dialog .reviewed")).to_contain_text("False alarm")
            page.keyboard.press("ArrowRight")
        page.keyboard.press("Escape")
        page.get_by_role("button", name="Draw a random sample").click()
        expect(page.locator("#shown")).to_contain_text("9 of 9, 9 drawn now")
        assert page.locator("#filters").get_by_label("Review").input_value() == "sample"
        page.get_by_role("link", name="Models").click()
        page.reload()
        before = models.named(None).mark
        part.get_by_role("button", name="Learn from 6 reviews").click()
        expect(part.get_by_role("button", name="Learning …")).to_be_disabled()
        expect(part).to_contain_text("This version knows all reviews.", timeout=60_000)
        assert models.named(None).mark != before
        cells = part.locator("tbody tr").first.locator("th, td").all_inner_texts()
        assert cells[:4] == ["false alarms: good, flagged", "6", "6", "0"]
        expect(part).to_contain_text("never calibrate")
        part.get_by_role("button", name="Back to the former version").click()
        expect(part.get_by_role("button", name="Learn from 6 reviews")).to_be_visible()
        assert models.named(None).mark == before


def test_latent_dimensions_are_moved_by_sliders(opened: Open, store: JudgedStore, tmp_path: Path) -> None:
    from knowngood.deploy.served_models import load_models

    with served(load_models([str(save_vae(tmp_path / "vae"))]), store=store) as url:
        page = opened(url)
        give(page, ("bad.png", bad(3)))
        page.get_by_text("Latent dimensions").click()
        image, slider = page.locator(".walk img"), page.locator(".sliders input").first
        assert drawn(page, ".walk img")
        before, start = image.get_attribute("src"), slider.input_value()
        with page.expect_response(lambda answer: "latents?z=" in answer.url):
            slider.fill("4")
        expect(image).not_to_have_attribute("src", before)
        expect(page.locator(".sliders output").first).to_have_text("4")
        page.get_by_role("button", name="As in the picture").click()
        expect(image).to_have_attribute("src", before)
        expect(slider).to_have_value(start)


def test_a_key_is_asked_for_and_kept_in_this_tab(opened: Open, models: Any, store: JudgedStore, tmp_path: Path) -> None:
    from knowngood.deploy.keys import add_key, read_keys

    key = add_key(tmp_path / "keys", "ana")
    with served(models, store=store, keys=read_keys(tmp_path / "keys")) as url:
        page = opened(url)
        page.get_by_label("API key").fill("wrong")
        page.keyboard.press("Enter")
        expect(page.locator("#login")).to_be_visible()
        expect(page.locator("#judge")).to_be_hidden()
        page.get_by_label("API key").fill(key)
        page.keyboard.press("Enter")
        expect(page.locator("#judge")).to_be_visible()
        give(page, ("bad.png", bad(13)))
        assert drawn(page, ".stage img:not(.map)")
        assert drawn(page, ".stage .map")
        page.keyboard.press("d")
        expect(page.locator(".reviewed")).to_contain_text("by ana")
        page.reload()
        expect(page.locator("#judge")).to_be_visible()
        assert page.evaluate("[localStorage.length + document.cookie.length, sessionStorage.length]")[1] == 1
        assert key not in page.evaluate("JSON.stringify(localStorage) + document.cookie")


def test_the_late_refusal_of_a_wrong_key_leaves_the_right_one(opened: Open, models: Any, tmp_path: Path) -> None:
    from knowngood.deploy.keys import add_key, read_keys

    key = add_key(tmp_path / "keys", "ana")
    with served(models, keys=read_keys(tmp_path / "keys")) as url:
        page, held = opened(url), []
        expect(page.locator("#login")).to_be_visible()
        page.route("**/page/models", lambda route: route.continue_() if held else held.append(route))
        page.get_by_label("API key").fill("wrong")
        page.keyboard.press("Enter")
        page.get_by_label("API key").fill(key)
        page.keyboard.press("Enter")
        expect(page.locator("#judge")).to_be_visible()
        with page.expect_response(lambda answer: answer.status == 401):
            held[0].continue_()
        give(page, ("bad.png", bad(13)))
        assert drawn(page, ".stage img:not(.map)")
        expect(page.locator("#login")).to_be_hidden()


def test_without_a_store_pictures_are_judged_and_shown(opened: Open, models: Any) -> None:
    with served(models) as url:
        page = opened(url)
        give(page, ("bad.png", bad(14)))
        expect(page.locator(".said h2")).to_have_text("Anomalous")
        assert drawn(page, ".stage img:not(.map)")
        assert drawn(page, ".stage .map")
        expect(page.get_by_role("link", name="Gallery")).to_be_hidden()
        expect(page.locator("footer")).to_contain_text("Nothing is kept")
        expect(page.locator(".review")).to_have_count(0)


def test_conditions_are_chosen_and_one_that_does_not_fit_is_named(
    opened: Open, store: JudgedStore, tmp_path: Path
) -> None:
    from knowngood import Detector
    from knowngood.deploy.served_models import load_models

    images = np.random.default_rng(0).normal(60, 8, (200, 12, 12))
    kind = np.arange(200) % 2
    images[kind == 0, 2:10, 5:7] += 120
    images[kind == 1, 5:7, 2:10] += 120
    images = images.clip(0, 255).astype(np.uint8)
    checked = Detector("hog", "memory_bank", conditioning={"check": "auto", "unknown": "infer"})
    checked.fit(images, conditions={"pose": np.array(["upright", "level"])[kind]}).save(tmp_path / "bars")
    speed = {"speed": np.random.default_rng(1).uniform(0, 9, 200)}
    Detector("hog", "memory_bank").fit(images, conditions=speed).save(tmp_path / "belt")
    both = load_models([str(tmp_path / "bars"), str(tmp_path / "belt")])
    with served(both, store=store) as url:
        page = opened(url)
        page.get_by_label("pose").select_option("level")
        page.evaluate("loadModels().then(buildAsked)")  # as when a new version comes into use
        give(page, ("upright.png", png(images[0])))
        expect(page.locator(".said h2")).to_have_text("Wrong for pose: looks like upright")
        expect(page.locator(".said dl")).to_contain_text("p-value of the stated condition")
        page.locator("#asked").get_by_label("Model").select_option("belt")
        page.get_by_label("speed").fill("2.5")
        give(page, ("belt.png", png(images[1])))
        expect(page.locator(".said")).to_contain_text("model belt")
        page.get_by_label("speed").fill("")
        give(page, ("unknown.png", png(images[1])))
        expect(page.locator(".said")).to_contain_text("unknown.png")
        page.get_by_role("link", name="Models").click()
        expect(page.locator("#cards section")).to_have_count(2)
    assert [row["conditions"] for row in store.page(Filter())[1]] == [{}, {"speed": 2.5}, {"pose": "level"}]


def test_a_picture_given_before_the_models_are_loaded_is_judged_once_they_are(opened: Open, url: str) -> None:
    page, held = opened(url), []
    page.route("**/page/models", lambda route: held.append(route))
    page.reload()
    give(page, ("bad.png", bad(15)))
    assert page.locator(".said h2").count() == 0
    [one] = held
    one.continue_()
    expect(page.locator(".said h2")).to_be_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1440])
def test_axe_finds_no_serious_issue(opened: Open, url: str, store: JudgedStore, scheme: str, width: int) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe().axe_script
    send(url, *[(f"{i}.png", (good if i % 3 else bad)(20 + i)) for i in range(12)])
    page = opened(url, viewport={"width": width, "height": 900}, color_scheme=scheme)

    def check(what: str) -> None:
        assert page.evaluate("document.documentElement.scrollWidth") <= width, what
        page.evaluate(axe)
        assert not page.evaluate(SERIOUS), what

    give(page, ("bad.png", bad(15)), ("good.png", good(16)))
    expect(page.locator(".said h2")).to_be_visible()
    check("judge")
    page.keyboard.press("d")
    expect(page.locator(".reviewed")).to_be_visible()
    check("reviewed")
    for view, ready in (("gallery", ".wall figure"), ("line", ".chart"), ("models", "#cards section")):
        page.goto(f"{url}#{view}")
        expect(page.locator(ready).first).to_be_visible()
        check(view)
    page.goto(f"{url}#gallery")
    page.locator(".wall button").first.click()
    expect(page.get_by_role("dialog")).to_be_visible()
    check("opened")
