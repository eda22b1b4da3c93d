"""The inspection page, read as a browser would: its cards, their order, pictures, and nothing from outside."""

from __future__ import annotations

import base64
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from html_page import HOSTILE, Page
from PIL import Image

from knowngood.calibration.map_scale import MapScale
from knowngood.data import open_images
from knowngood.errors import DataError, SettingsError
from knowngood.evaluation.report import (
    Card,
    Inspected,
    ReportInputs,
    render,
    render_inspection,
    write_inspection,
)
from knowngood.evaluation.report.inspection_page import map_uri, pictures

RNG = np.random.default_rng(0)
SCALE = MapScale(1.0, 3.0, alpha=0.05)


def table(**more: Any) -> pd.DataFrame:
    rows = {
        "id": ["a", "b", "c", "d"],
        "anomaly_score": [1.0, 5.0, 7.0, 2.0],
        "p_value": [0.5, 0.02, 0.02, 0.04],
        "is_anomalous": [False, True, True, True],
        "condition": ["camera=A", "camera=B", "camera=A", "camera=A"],
        "label": [0, 1, 1, 0],
    }
    return pd.DataFrame({**rows, **more})


def item(name: str, **more: Any) -> Inspected:
    image = RNG.integers(0, 255, (12, 16, 3)).astype(np.uint8)
    facts: dict[str, Any] = {"image": image, "map": RNG.normal(size=(6, 8)), "scale": SCALE, "size": (24, 32), **more}
    return Inspected(id=name, **facts)


def page(names: str = "abcd", found: pd.DataFrame | None = None, **more: Any) -> str:
    items = [item(name) for name in names]
    return render_inspection(items, table() if found is None else found, alpha=0.05, title="bolts", **more)


def cards(text: str) -> list[dict[str, str | None]]:
    return Page(text).all("figure")


def test_cards_come_by_p_value_then_score() -> None:
    assert [card["data-id"] for card in cards(page())] == ["c", "b", "d", "a"]


@pytest.mark.slow
def test_cards_carry_what_is_filtered_by() -> None:
    by_id = {card["data-id"]: card for card in cards(page())}
    assert [by_id[name]["data-verdict"] for name in "abcd"] == ["passed", "flagged", "flagged", "flagged"]
    assert [by_id[name]["data-kind"] for name in "abcd"] == ["right", "right", "right", "alarm"]
    assert by_id["b"]["data-condition"] == "camera=B"
    options = Page(page()).texts["option"]
    assert {"camera=A", "camera=B", "flagged", "not flagged", "false alarms"} <= set(options)
    alone = page(found=table(condition=["all"] * 4))
    assert "condition" not in [select["id"] for select in Page(alone).all("select")]
    assert "false alarms" not in Page(page(found=table().drop(columns="label"))).texts["option"]


def test_the_page_asks_for_nothing_from_outside() -> None:
    text = page(command="knowngood score M D --explain E")
    found = Page(text)
    assert all(str(image["src"]).startswith("data:image/") for image in found.all("img"))
    assert not re.search(r"https?://", text)
    assert "default-src 'none'" in text
    assert found.all("script")[0].get("src") is None
    slider = next(one for one in found.all("input") if one.get("type") == "range")
    assert (slider["id"], slider["min"], slider["max"]) == ("opacity", "0", "100")


def test_texts_from_outside_stay_texts() -> None:
    found = table(id=[HOSTILE, "b", "c", "d"], condition=[HOSTILE] * 2 + ["x"] * 2)
    items = [item(HOSTILE, sentences=[HOSTILE]), item("b")]
    text = render_inspection(items, found, alpha=0.05, title=HOSTILE, command=HOSTILE)
    assert "onerror=alert(1)>" not in text.replace("&gt;", "")
    assert len(Page(text).all("figure")) == 2


def test_every_id_the_script_asks_for_is_there() -> None:
    text = page()
    ids = {attributes.get("id") for _, attributes in Page(text).elements}
    script = text[text.index('"use strict"') :]
    asked = set(re.findall(r'(?:by|value)\("(\w+)"\)', script)) - {"boxes"}
    assert {"wall", "filters", "opacity", "order"} <= asked
    assert asked <= ids


def test_regions_are_drawn_in_pixels_of_the_image() -> None:
    items = [item("a", boxes=[(2, 3, 10, 20)]), item("b")]
    found = Page(render_inspection(items, table(), alpha=0.05, title="t"))
    box = next(one for one in found.all("rect") if one.get("x") == "3")
    assert (box["y"], box["width"], box["height"]) == ("2", "17", "8")
    assert any(one.get("viewbox") == "0 0 32 24" for one in found.all("svg"))


def test_sentences_unfold_on_their_card() -> None:
    items = [item("a", sentences=["The anomaly map has its peak in the centre."]), item("b")]
    found = Page(render_inspection(items, table(), alpha=0.05, title="t"))
    assert found.texts["li"] == ["The anomaly map has its peak in the centre."]
    assert len(found.all("details")) == 1


def test_pages_without_maps_have_no_slider() -> None:
    found = Page(render_inspection([item("a", map=None)], table(), alpha=0.05, title="t"))
    assert not any(one.get("type") == "range" for one in found.all("input"))
    assert len(found.all("img")) == 1


def test_an_unknown_id_is_refused() -> None:
    with pytest.raises(DataError, match="'z' is not in the table"):
        page("z")


def test_the_same_page_has_the_same_bytes(tmp_path: Path) -> None:
    items = [item("a"), item("b")]
    first, second = (
        write_inspection(tmp_path / name / "i.html", items, table(), alpha=0.05, title="t") for name in "xy"
    )
    assert first.read_bytes() == second.read_bytes()


def test_the_threshold_is_named_in_the_legend() -> None:
    assert "the threshold of the map, 1, which at most 5 % of normal images exceed" in " ".join(
        Page(page()).texts["span"]
    )


def test_links_lead_to_the_report_and_to_the_picture_of_an_explanation() -> None:
    items = [item("a", link="a%20b.png"), item("b")]
    found = Page(render_inspection(items, table(), alpha=0.05, title="t", links=[("The report", "r.html")]))
    assert [one["href"] for one in found.all("a")] == ["r.html", "a%20b.png"]


def test_a_map_is_transparent_below_and_full_above() -> None:
    values = np.array([[0.0, 1.0, np.nan], [2.0, 5.0, 3.0]])
    data = base64.b64decode(map_uri(values, SCALE).partition(",")[2])
    picture = np.asarray(Image.open(io.BytesIO(data)).convert("RGBA"))
    assert picture.shape == (2, 3, 4)
    assert (picture[0, :, 3] == 0).all()
    np.testing.assert_array_equal(picture[1, 1], picture[1, 2])
    assert picture[1, 1, 3] > picture[1, 0, 3] > 0
    assert picture[1, 1, 0] > picture[1, 1, 2]


@pytest.mark.slow
def test_a_report_without_reconstructions_shows_maps() -> None:
    image, values = RNG.random((20, 30, 3)), RNG.random((20, 30))
    inputs = ReportInputs(
        table=table(),
        alpha=0.05,
        most=[Card("c", image, map=values, scale=SCALE)],
        least=[Card("a", image, map=values, scale=SCALE)],
    )
    text = render(inputs)
    assert "anomaly map" in Page(text).texts["span"]
    assert "reconstruction" not in Page(text).texts["span"]
    with pytest.raises(DataError, match="height and width"):
        render(ReportInputs(table=table(), alpha=0.05, most=[Card("c", image, map=values.T, scale=SCALE)]))


@pytest.mark.slow
def test_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from knowngood import Detector
    from knowngood.cli import main

    rng = np.random.default_rng(0)
    for part, n in {"train/good": 60, "test/good": 2, "test/bad": 2}.items():
        (tmp_path / "parts" / part).mkdir(parents=True)
        for i in range(n):
            image = rng.normal(120, 8, (12, 16)).clip(0, 255).astype(np.uint8)
            if part.endswith("bad"):
                image[2:7, 9:14] = 250
            Image.fromarray(image).save(tmp_path / "parts" / part / f"{i}.png")
    parts = tmp_path / "parts"
    detector = Detector(
        representation="pixels",
        model={"name": "vae", "latent_dim": 2, "net": {"name": "mlp", "hidden": [16]}},
        alpha=0.1,
        calibration={"fraction": 0.4},
        training={"epochs": 10},
    )
    detector.fit(parts).save(tmp_path / "model")

    def run(*words: object) -> object:
        with pytest.raises(SystemExit) as stop:
            main([str(word) for word in words])
        return stop.value.code

    out = tmp_path / "why"
    bad = parts / "test" / "bad"
    assert run("score", tmp_path / "model", bad, "-o", tmp_path / "s.csv", "--explain", out, "--good", parts) == 0
    said = json.loads((out / "explanations.json").read_text(encoding="utf-8"))
    assert len(said) == 2
    for one in said:
        assert Image.open(out / one["picture"]).width > 500
        row, column = one["peak"]
        assert 1 <= row <= 7
        assert 8 <= column <= 14
    assert len(cards((out / "inspection.html").read_text(encoding="utf-8"))) == 2
    assert pd.read_csv(tmp_path / "s.csv")["explanation"].notna().all()
    inside = Page((out / "inspection.html").read_text(encoding="utf-8"))
    assert {one["href"] for one in inside.all("a")} == {one["picture"] for one in said}
    report = tmp_path / "new folder" / "r.html"
    assert run("evaluate", tmp_path / "model", parts, "--inspect", tmp_path / "i.html", "--report", report) == 0
    links = [one["href"] for one in Page(report.read_text(encoding="utf-8")).all("a") if one["href"][0] != "#"]
    assert links == ["../i.html", "../model"]
    assert [one["href"] for one in Page((tmp_path / "i.html").read_text()).all("a")] == ["new%20folder/r.html"]
    assert len(cards((tmp_path / "i.html").read_text(encoding="utf-8"))) == 4
    assert run("score", tmp_path / "model", bad, "--good", parts) == SettingsError.exit_code
    capsys.readouterr()


def test_a_normal_image_is_that_of_its_content_and_none_that_cannot_be_read(tmp_path: Path) -> None:
    for k, name in enumerate(("train/good/1.png", "train/good/2.png", "today/good/1.png", "today/1.png")):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), 40 * k).save(tmp_path / name)
    train, today = (open_images(tmp_path / name) for name in ("train", "today"))
    ids, fitted_to = ["good/1.png", "good/2.png"], train.digests()
    assert pictures(ids, today, fitted_to=fitted_to) == {}
    found = pictures(ids, today, train, fitted_to=fitted_to)
    assert {name: int(image.max()) for name, image in found.items()} == {"good/1.png": 0, "good/2.png": 40}
    (tmp_path / "train" / "good" / "1.png").write_bytes(b"x")
    (tmp_path / "train" / "good" / "2.png").unlink()
    assert pictures(ids, train) == {}
