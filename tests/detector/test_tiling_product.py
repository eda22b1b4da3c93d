"""Large images in tiles: each is judged as an image of its own, and an image by its oddest tile."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from feature_cells import Cells, detector, noise
from knowngood.data.conditions import ConditionSchema
from knowngood.data.imageset import ImageSet
from knowngood.data.open import open_images
from knowngood.data.pixel_source import ArrayPixels
from knowngood.data.tiling.plan import merge, plan_tiles
from knowngood.data.tiling.tiles import KEPT, Tiles, drawn, largest
from knowngood.detector.estimator import Detector
from knowngood.detector.fit.plan import plan
from knowngood.errors import DataError, SettingsError

SIDE, OVERLAP = 32, 8  # a quarter
HEIGHT, WIDTH = 48, 88


def large(n: int, seed: int = 0) -> np.ndarray:
    return noise(n, HEIGHT, WIDTH, seed)


def told(n: int) -> dict[str, list[str]]:
    return {"kind": ["A", "B"] * (n // 2)}


@pytest.fixture(scope="module")
def fitted() -> Detector:
    return detector(tile=SIDE, unknown="infer").fit(large(60), conditions=told(60), backbone=Cells())


class Counted:
    """Pixels that count how often each image is decoded."""

    def __init__(self, array: np.ndarray, rows: np.ndarray | None = None, counts: dict[int, int] | None = None) -> None:
        self.array = array
        self.rows = np.arange(len(array)) if rows is None else rows
        self.counts: dict[int, int] = {} if counts is None else counts

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, i: int) -> np.ndarray:
        row = int(self.rows[i])
        self.counts[row] = self.counts.get(row, 0) + 1
        return self.array[row]

    def take(self, indices: np.ndarray) -> Counted:
        return Counted(self.array, self.rows[indices], self.counts)

    def shapes(self) -> np.ndarray:
        return np.array([self.array[row].shape for row in self.rows], dtype=np.int64).reshape(-1, 3)

    def update(self, digest: Any) -> None:
        digest.update(self.array.tobytes())


# Tiles ----------------------------------------------------------------------------------------------------------------


def test_tiles_are_the_cuts_of_the_plan() -> None:
    images = ImageSet.from_arrays(large(3), [0, 1, 0], {"kind": ["A", "B", "C"]})
    tiles = Tiles.of(images, SIDE, OVERLAP / SIDE)
    places = plan_tiles(HEIGHT, WIDTH, SIDE, OVERLAP)
    assert len(tiles.images) == 3 * len(places) == 24
    assert tiles.owner.tolist() == np.repeat([0, 1, 2], len(places)).tolist()
    assert tiles.images.conditions["kind"].tolist() == np.repeat(["A", "B", "C"], len(places)).tolist()
    assert tiles.images.labels.tolist() == np.repeat([0, 1, 0], len(places)).tolist()
    assert set(map(tuple, tiles.images.shapes().tolist())) == {(SIDE, SIDE, 3)}
    for t, place in enumerate(places * 3):
        assert np.array_equal(tiles.images.read(t), images.read(t // len(places))[place.slices])
        assert tiles.images.ids[t] == f"{images.ids[t // len(places)]}@{place.top},{place.left}"
    some = np.array([20, 3, 3])
    for t, tile in zip(some, range(3), strict=True):
        assert np.array_equal(tiles.images[some].read(tile), tiles.images.read(t))


def test_a_tile_holds_no_image() -> None:
    images = ImageSet.from_arrays(large(1))
    assert Tiles.of(images, SIDE, 0).images.read(0).base is None


def test_an_image_is_decoded_once_for_all_its_tiles(fitted: Detector) -> None:
    source = Counted(large(6, 1))
    images = dataclasses.replace(ImageSet.from_arrays(large(6, 1), conditions=told(6)), pixels=source)
    expected = fitted.detect(large(6, 1), conditions=told(6))
    assert fitted.detect(images)["anomaly_score"].tolist() == expected["anomaly_score"].tolist()
    assert source.counts == dict.fromkeys(range(6), 1)
    assert KEPT < 6


def test_rows_of_tiles_are_those_of_their_images() -> None:
    schema = ConditionSchema.fit({"kind": ["A", "B", "C"]}, 3)
    expanded = schema.expand({"kind": ["B", None, "A"]}, 3, unknown="infer")  # 1, 3 and 1 rows
    tiles = Tiles.of(ImageSet.from_arrays(large(3)), SIDE, 0)  # 2 × 3 tiles
    rows, row = tiles.expand(expanded)
    assert rows.item.tolist() == [*range(6), *np.repeat(np.arange(6, 12), 3).tolist(), *range(12, 18)]
    assert row.tolist() == [0] * 6 + [1, 2, 3] * 6 + [4] * 6
    assert np.array_equal(rows.c, expanded.c[row])
    assert np.array_equal(rows.stratum, expanded.stratum[row])
    assert rows.known.tolist() == [True] * 6 + [False] * 6 + [True] * 6


def test_the_largest_of_each_row() -> None:
    values, row = np.array([3.0, 1.0, 7.0, 2.0, 9.0, 9.0]), np.array([0, 1, 0, 1, 2, 2])
    found = largest(values, row)
    assert values[found].tolist() == [7, 2, 9]
    assert row[found].tolist() == [0, 1, 2]
    assert len(largest(np.empty(0), np.empty(0, dtype=np.int64))) == 0


def test_a_draw_is_ascending_and_follows_from_the_seed() -> None:
    index = np.arange(100, 200)
    found = drawn(index, 10, 3)
    assert len(set(found.tolist())) == 10
    assert np.array_equal(found, np.sort(found))
    assert set(found) <= set(index)
    assert np.array_equal(found, drawn(index, 10, 3))
    assert drawn(index, 100, 3) is index


# Scores ---------------------------------------------------------------------------------------------------------------


def by_tile(fitted: Detector, image: np.ndarray, kind: str) -> tuple[np.ndarray, list[np.ndarray]]:
    """Raw scores and maps of the tiles of an image (H, W, C), each an image by itself."""
    pipeline = fitted.pipeline_
    single = dataclasses.replace(pipeline, settings=pipeline.settings.model_copy(update={"tile": None}))
    cut = np.stack([image[place.slices] for place in plan_tiles(HEIGHT, WIDTH, SIDE, OVERLAP)])
    tiles = ImageSet.from_arrays(cut, conditions={"kind": [kind] * len(cut)})
    return single.raw_scores(tiles, single.expand(tiles))[0], single.maps(tiles)


def test_an_image_scores_as_its_oddest_tile_and_its_map_is_theirs_merged(fitted: Detector) -> None:
    new = large(4, 2)
    new[2, 10:20, 40:50] = 255
    images = ImageSet.from_arrays(new, conditions=told(4))
    values, parts, errors = fitted.pipeline_.raw_scores(images, fitted.pipeline_.expand(images))
    assert not errors
    for i, found in enumerate(fitted.anomaly_maps(images)):
        scores, maps = by_tile(fitted, new[i], told(4)["kind"][i])
        assert values[i] == pytest.approx(scores.max(), rel=1e-6)
        np.testing.assert_allclose(found, merge(maps, HEIGHT, WIDTH, SIDE, OVERLAP), rtol=1e-5)
    assert values.argmax() == 2
    assert all(len(part) == 4 for part in parts.values())
    table = fitted.regions(images, alpha=0.2)
    worst = table.loc[table["peak"].idxmax()]
    assert worst["id"] == "2"
    assert worst["top"] < 15 < worst["bottom"]
    assert worst["left"] < 45 < worst["right"]


def test_good_images_calibrate_whole_and_are_split_whole(fitted: Detector) -> None:
    parts = fitted.split_
    assert {name: len(index) for name, index in parts.items()} == {"fit": 30, "select": 6, "calibrate": 24}
    chosen = ImageSet.from_arrays(large(60), conditions=told(60))[parts["calibrate"]]
    values = fitted.pipeline_.raw_scores(chosen, fitted.pipeline_.expand(chosen))[0]
    assert fitted.pipeline_.calibration is not None
    np.testing.assert_allclose(np.sort(fitted.pipeline_.calibration.scores), np.sort(values), rtol=1e-6)
    images = ImageSet.from_arrays(large(60), conditions=told(60))
    made = plan(images, fitted.pipeline_.settings, 0, backbone=Cells())
    tiles = Tiles.of(images, SIDE, OVERLAP / SIDE)
    for name, index in made.split.items():
        assert set(tiles.owner[made.shares[name]].tolist()) == set(index.tolist()), name


def test_a_model_on_tiles_is_the_model_on_the_cuts() -> None:
    """With no overlap and images of just one tile, tiles change nothing."""
    good, new = noise(60), noise(5, seed=3)
    fixed: dict[str, Any] = {
        "features": {"levels": "off", "pooling": "top"},
        "scoring": "elbo",
    }  # by no synthetic defect
    plain = detector(**fixed).fit(good, backbone=Cells())
    tiled = detector(**fixed, tile=SIDE, tile_overlap=0.0).fit(good, backbone=Cells())
    assert tiled.detect(new).equals(plain.detect(new))
    for a, b in zip(tiled.anomaly_maps(new), plain.anomaly_maps(new), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


def test_tiles_are_seen_at_the_image_size() -> None:
    fitted = detector(tile=64, image_size=16).fit(noise(20, 64, 128), backbone=Cells())
    assert fitted.pipeline_.representation.shape[1:] == (2, 2)
    assert fitted.anomaly_maps(noise(1, 64, 128))[0].shape == (64, 128)


def test_unknown_conditions_are_summed_out_over_whole_images(fitted: Detector) -> None:
    new = large(4, 4)
    found = fitted.detect(new, conditions={"kind": [None] * 4})
    each = [fitted.detect(new, conditions={"kind": [kind] * 4})["anomaly_score"].to_numpy() for kind in "AB"]
    assert found["condition"].str.contains("inferred").all()
    np.testing.assert_allclose(found["anomaly_score"], np.minimum(*each), rtol=1e-9)


def test_tiles_beyond_memory_are_drawn_by_the_seed() -> None:
    images = ImageSet.from_arrays(large(20))
    settings = detector(tile=SIDE, memory_gb=40 * 192 / 2**30).get_params()  # 192 bytes a tile: 6 features, 16 places
    from knowngood.config import parse_settings

    made = plan(images, parse_settings(settings), 0, backbone=Cells())
    assert len(made.shares["fit"]) == 40
    assert set(Tiles.of(images, SIDE, 0.25).owner[made.shares["fit"]]) <= set(made.split["fit"].tolist())


# Saved, and refused ---------------------------------------------------------------------------------------------------


def test_a_saved_model_cuts_images_as_before(fitted: Detector, tmp_path: Path) -> None:
    fitted.save(tmp_path)
    loaded = Detector.load(tmp_path, backbone=Cells())
    new = large(3, 5)
    kinds = {"kind": ["A", "B", "A"]}
    assert loaded.detect(new, conditions=kinds).equals(fitted.detect(new, conditions=kinds))
    assert loaded.regions(new, conditions=kinds, alpha=0.3).equals(fitted.regions(new, conditions=kinds, alpha=0.3))


def test_small_and_unreadable_images_are_set_aside_by_name(tmp_path: Path) -> None:
    fitted = detector(tile=SIDE).fit(large(40), backbone=Cells())
    for i, one in enumerate(large(2, 6)):
        Image.fromarray(one).save(tmp_path / f"good{i}.png")
    Image.fromarray(noise(1, 20, 90)[0]).save(tmp_path / "small.png")
    (tmp_path / "torn.png").write_bytes((tmp_path / "good0.png").read_bytes()[:2000])
    (tmp_path / "none.png").write_bytes(b"no image at all")
    table = fitted.detect(open_images(tmp_path)).set_index("id")
    assert table.loc[["good0.png", "good1.png"], "error"].isna().all()
    assert "20×90" in str(table.loc["small.png", "error"])
    assert table.loc[["torn.png", "none.png"], "error"].notna().all()
    assert np.isfinite(table.loc[["good0.png", "good1.png"], "anomaly_score"].astype(float)).all()
    with pytest.raises(DataError, match=r"small\.png.*20×90"):
        fitted.anomaly_maps(open_images(tmp_path / "small.png"))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"tile": 64}, "48×88 and tiles have 64×64"),
        ({"tile": 16, "crop": 8}, "leave crop and pad out"),
        ({"tile": 16, "align": "shift"}, "compares whole images"),
        ({"tile": 16, "light_tolerance": 0.2}, "compares whole images"),
        ({"tile": 16, "tile_overlap": 0.9}, "tile_overlap"),
    ],
)
def test_what_cannot_be_cut_is_refused_before_training(settings: dict[str, Any], words: str) -> None:
    with pytest.raises((DataError, SettingsError), match=words):
        detector(**settings).fit(large(40), backbone=Cells())


def test_what_is_of_whole_images_is_refused(fitted: Detector) -> None:
    with pytest.raises(SettingsError, match="needs features"):
        Detector(tile=16, epochs=1).fit(large(30))
    for ask in (fitted.embed, fitted.reconstruct):
        with pytest.raises(SettingsError, match="a model on tiles"):
            ask(large(2), conditions=told(2))


def test_arrays_are_cut_without_a_copy_of_the_whole() -> None:
    images = ImageSet.from_arrays(large(2))
    tiles = Tiles.of(images, SIDE, 0)
    assert isinstance(images.pixels, ArrayPixels)
    assert tiles.images.pixels.whole.read(0).base is not None  # type: ignore[attr-defined]
