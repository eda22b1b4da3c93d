"""Images go through the backbone once, whatever is asked of them at the same time."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torch import Tensor

from feature_cells import Cells, detector, noise
from knowngood import Detector
from knowngood.calibration.regions import find_regions
from knowngood.cli.score import Places, score
from knowngood.data import ImageSet, open_images
from knowngood.detector.maps import Mapped
from knowngood.detector.watching import HELD
from knowngood.evaluation.inspected import Thumbnails, inspected
from knowngood.representations.alignment import steadied


class Counting(Cells):
    """Counts the images that it sees."""

    seen = 0

    def features(self, images: Tensor) -> list[Tensor]:
        self.seen += len(images)
        return super().features(images)


def kinds(n: int) -> dict[str, np.ndarray]:
    return {"kind": np.array(["a", "b"])[np.arange(n) % 2]}


def damaged(n: int, seed: int = 9) -> np.ndarray:
    """(n, 32, 32, 3), each with a bright square, those of higher number with a brighter one."""
    images = noise(n, seed=seed)
    for i, image in enumerate(images):
        image[8:16, 8:16] = np.minimum(255, image[8:16, 8:16].astype(int) + 40 + 2 * i)
    return images


@pytest.fixture(scope="module")
def fitted() -> tuple[Detector, Counting]:
    backbone = Counting()
    made = detector(alpha=0.2).fit(noise(80), conditions=kinds(80), backbone=backbone)
    return made, backbone


@pytest.fixture(scope="module")
def aligned() -> tuple[Detector, Counting]:
    backbone = Counting()
    rng = np.random.default_rng(3)
    scene = rng.integers(40, 200, (8, 8, 3)).repeat(4, 0).repeat(4, 1)
    images = np.clip(scene + rng.normal(0, 4, (60, 32, 32, 3)), 0, 255).astype(np.uint8)
    return detector(alpha=0.2, align="shift").fit(images, backbone=backbone), backbone


def test_judging_and_explaining_is_one_pass(fitted: tuple[Detector, Counting]) -> None:
    made, backbone = fitted
    images = damaged(12)
    backbone.seen = 0
    table = made.detect(images, conditions=kinds(12), explain=True)
    assert len(table.attrs["explanations"]) == table["is_anomalous"].sum() > 5
    assert backbone.seen == 12


def test_explaining_is_one_pass_for_as_many_as_are_held(fitted: tuple[Detector, Counting]) -> None:
    made, backbone = fitted
    images = np.concatenate([damaged(HELD), noise(20, seed=4)])
    backbone.seen = 0
    held = made.explain(images, conditions=kinds(len(images)), most=HELD, others=True)
    assert backbone.seen == len(images)
    more = made.explain(images, conditions=kinds(len(images)), most=HELD + 3, others=True)
    assert backbone.seen == 3 * len(images) - (len(images) - HELD - 3)
    assert [one.id for one in more[:HELD]] == [one.id for one in held]
    for one, same in zip(held, more[:HELD], strict=True):
        np.testing.assert_allclose(one.map, same.map, rtol=1e-4, atol=1e-4)
        assert one.peak == same.peak
        assert [c.name for c in one.components] == [c.name for c in same.components]
        assert [r.box for r in one.regions] == [r.box for r in same.regions]


def test_scores_and_maps_are_one_pass(fitted: tuple[Detector, Counting]) -> None:
    made, backbone = fitted
    images = damaged(12)
    found: list[tuple[int, Mapped]] = []
    expected = made.detect(images, conditions=kinds(12))
    maps = made.anomaly_maps(images, conditions=kinds(12))
    backbone.seen = 0
    table = made.detect(images, conditions=kinds(12), each=[lambda i, one: found.append((i, one))])
    assert backbone.seen == 12
    assert table.equals(expected)
    assert [i for i, _ in found] == list(range(12))
    for (_, one), values in zip(found, maps, strict=True):
        np.testing.assert_array_equal(one.map, values)


def test_unreadable_images_are_passed_over(fitted: tuple[Detector, Counting], tmp_path: Path) -> None:
    for i, image in enumerate(damaged(6)):
        Image.fromarray(image).save(tmp_path / f"{i}.png")
    Image.fromarray(noise(1, 40, 36)[0]).save(tmp_path / "other.png")
    (tmp_path / "3.png").write_bytes((tmp_path / "3.png").read_bytes()[:200])
    made, _ = fitted
    images = open_images(tmp_path)
    found: list[tuple[int, Mapped]] = []
    told = kinds(len(images))
    table = made.detect(images, conditions=told, each=[lambda i, one: found.append((i, one))])
    read = table["error"].isna().to_numpy()[: len(images)]
    assert [i for i, _ in found] == np.flatnonzero(read).tolist()
    expected = made.anomaly_maps(images[read], conditions={"kind": told["kind"][read]})
    for (_, one), values in zip(found, expected, strict=True):
        np.testing.assert_allclose(one.map, values, rtol=1e-4, atol=1e-4)


def test_where_conditions_are_unknown_maps_are_those_of_the_best(fitted: tuple[Detector, Counting]) -> None:
    made, _ = fitted
    images, nothing = damaged(6), {"kind": np.array([None] * 6, dtype=object)}
    found: list[np.ndarray] = []
    made.detect(images, conditions=nothing, unknown="infer", each=[lambda i, one: found.append(one.map)])
    for one, values in zip(found, made.anomaly_maps(images, conditions=nothing, unknown="infer"), strict=True):
        np.testing.assert_array_equal(one, values)
    explained = made.detect(images, conditions=nothing, unknown="infer", explain=True).attrs["explanations"]
    assert explained


def test_aligned_images_are_located_once(aligned: tuple[Detector, Counting], monkeypatch: pytest.MonkeyPatch) -> None:
    made, backbone = aligned
    placed: list[int] = []
    before = steadied._placed
    monkeypatch.setattr(steadied, "_placed", lambda *given: placed.append(1) or before(*given))
    images = noise(5, seed=11)
    backbone.seen = 0
    made.anomaly_maps(images)
    assert (len(placed), backbone.seen) == (5, 5)


def test_the_page_of_judged_images_needs_no_second_pass(fitted: tuple[Detector, Counting]) -> None:
    made, backbone = fitted
    images = ImageSet.from_arrays(damaged(12)).replace(conditions=kinds(12))
    small, few = Thumbnails(made, images), Thumbnails(made, images, 5)
    table = made.detect(images, each=[small, few])
    backbone.seen = 0
    page = inspected(made, images, table, maps=small.maps)
    assert backbone.seen == 0
    oddest = table.sort_values("anomaly_score", ascending=False)["id"].tolist()[:5]
    assert sorted(few.maps) == sorted(oddest)
    again = inspected(made, images, table, maps=few.maps)
    assert backbone.seen == 7
    for one, same, none in zip(page, again, inspected(made, images, table), strict=True):
        assert one.id == same.id == none.id
        np.testing.assert_allclose(one.map, none.map, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(same.map, none.map, rtol=1e-4, atol=1e-4)


def test_regions_of_handed_on_maps_are_those_of_regions(fitted: tuple[Detector, Counting]) -> None:
    made, _ = fitted
    images = damaged(12)
    usual = made.pipeline_.check_regions()
    places = Places(usual, 0.2)
    made.detect(images, conditions=kinds(12), each=[places])
    table = made.regions(images, conditions=kinds(12), alpha=0.2)
    assert sum(map(len, places.found)) == len(table) > 0
    maps = made.anomaly_maps(images, conditions=kinds(12))
    for i, (mine, values) in enumerate(zip(places.found, maps, strict=True)):
        expected = find_regions(values, usual.threshold(0.2, i % 2), maxima=usual.maxima(0.2, i % 2))
        assert [region.box for region in mine] == [region.box for region in expected]


def test_the_command_scores_draws_and_explains_in_one_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = Counting()
    made = detector(alpha=0.2).fit(noise(60), backbone=backbone)
    (tmp_path / "new").mkdir()
    for i, image in enumerate(damaged(6)):
        Image.fromarray(image).save(tmp_path / "new" / f"{i}.png")
    monkeypatch.setattr("knowngood.cli.score.load", lambda *given: made)
    backbone.seen = 0
    out = {name: tmp_path / name for name in ("maps", "explain")}
    tables = {name: tmp_path / f"{name}.json" for name in ("output", "regions")}
    score(tmp_path, str(tmp_path / "new"), **out, **tables)  # type: ignore[arg-type]
    assert backbone.seen == 6
    assert len(list(out["maps"].glob("*.png"))) == 6
    assert (out["explain"] / "inspection.html").is_file()
    assert sorted({row["id"] for row in json.loads(tables["regions"].read_text())})
