"""What is said of an image: against brute force, constructed defects, and cases where a part cannot be."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from knowngood import Detector
from knowngood.data import ImageSet
from knowngood.detector.explain import Explanation, KnownGood, Nearest, Nuisance
from knowngood.detector.explain.build import NO_INDEX, feature_names, spread_at
from knowngood.detector.explain.reference import pooled
from knowngood.detector.explain.words import sentences, summary, where
from knowngood.errors import ArtifactError, SettingsError
from knowngood.evaluation.figures.explanation import explanation as drawn
from knowngood.evaluation.inspected import by_p_value, pictures, thinned
from patch_models import TinyBackbone, features, fitted, one_cell

SPOT = (slice(4, 9), slice(18, 23))  # of the defects
CENTRE = (6, 20)


def good(n: int, seed: int = 0, light: float = 1.0) -> np.ndarray:
    """(n, 24, 32) uint8 images of a fixed pattern under noise, as light as told."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:24, :32]
    pattern = 120 + 40 * np.sin(x / 3) * np.cos(y / 4)
    level = rng.normal(1, 0.02, n)[:, None, None]
    return np.clip(light * level * pattern + rng.normal(0, 3, (n, 24, 32)), 0, 255).astype(np.uint8)


def spotted(n: int, seed: int = 1) -> np.ndarray:
    images = good(n, seed)
    images[:, *SPOT] = 255
    return images


@pytest.fixture(scope="module")
def by_pixels() -> Detector:
    return Detector(epochs=30, latent_dim=4, alpha=0.2, calibrate_fraction=0.3).fit(good(80))


@pytest.fixture(scope="module")
def by_features() -> Detector:
    options = {"name": "own", "stride": 4, "average": 1, "levels": "off", "pooling": "max"}
    settings: dict[str, Any] = {"features": options, "image_size": (24, 32), "epochs": 2, "alpha": 0.2}
    return Detector(**settings, calibrate_fraction=0.3).fit(good(60), backbone=TinyBackbone())


@pytest.mark.parametrize("kind", ["by_pixels", "by_features"])
def test_the_peak_is_where_the_defect_is(kind: str, request: pytest.FixtureRequest) -> None:
    detector: Detector = request.getfixturevalue(kind)
    for one in detector.explain(spotted(3)):
        assert one.is_anomalous
        assert one.peak is not None
        assert max(abs(a - b) for a, b in zip(one.peak, CENTRE, strict=True)) <= 6
        assert one.map is not None
        assert one.map[one.peak] == np.nanmax(one.map)
        assert f"at row {one.peak[0]} and column {one.peak[1]} of 24×32" in " ".join(one.sentences)


def test_pixels_bring_reconstruction_and_signed_residual(by_pixels: Detector) -> None:
    one = by_pixels.explain(spotted(1))[0]
    expected = by_pixels.reconstruct(spotted(1))[0]
    low, high = by_pixels.pipeline_.representation.low, by_pixels.pipeline_.representation.high  # type: ignore[union-attr]
    assert one.reconstruction is not None
    assert one.residual is not None
    np.testing.assert_allclose(one.reconstruction * (high - low) + low, expected, rtol=1e-4, atol=0.05)
    np.testing.assert_allclose(one.residual, one.seen - one.reconstruction, atol=1e-5)
    assert one.residual[CENTRE].mean() > 0.2
    assert one.components == ()
    nats = [latent.nats for latent in one.latents]
    assert nats == sorted(nats, reverse=True)
    assert len(nats) == 4


def test_features_bring_what_deviates_at_the_peak(by_features: Detector) -> None:
    detector, images = by_features, spotted(1)
    one = detector.explain(images)[0]
    assert one.reconstruction is None
    assert "reconstruction" in one.missing
    x, made = detector.pipeline_.reconstruct(ImageSet.from_arrays(images))
    patches = detector.model_.patches
    assert patches is not None
    grid = detector.pipeline_.score.score(
        detector.model_, detector.pipeline_.state, torch.from_numpy(x), None, torch.zeros(1, dtype=torch.int64),
        want_map=True,
    ).map  # fmt: skip
    assert grid is not None
    at = int(grid[0].argmax())
    root = patches.root[0, at].double()
    lower = torch.linalg.solve_triangular(root, torch.eye(len(root), dtype=torch.float64), upper=False)
    deviation = (x - made)[0].reshape(len(root), -1)[:, at] / (lower @ lower.t()).diagonal().sqrt().numpy()
    order = np.argsort(-np.abs(deviation))[: len(one.components)]
    names = feature_names(detector.pipeline_.representation)  # type: ignore[arg-type]
    assert [component.name for component in one.components] == [names[j] for j in order]
    np.testing.assert_allclose([c.deviation for c in one.components], deviation[order], rtol=1e-3)


def test_the_spread_of_a_place_is_that_of_its_covariance() -> None:
    x = features(400)
    patches = fitted(x)
    for place in (0, 7):
        rows = x.flatten(2)[:, :, place].double()
        expected = (rows.var(0) + 0.01).sqrt()
        torch.testing.assert_close(spread_at(patches.root[0, place]).double(), expected, rtol=1e-3, atol=1e-4)


def test_pooled_codes_are_means_of_whitened_places() -> None:
    x = features(30)
    patches = fitted(x, 0.1)
    expected = patches.whiten(x, one_cell(x)).double().mean(1)
    np.testing.assert_allclose(pooled(patches, x, None), expected, rtol=1e-5, atol=1e-6)


def known(codes: np.ndarray, kind: np.ndarray | None = None, apart: Any = ()) -> KnownGood:
    n = len(codes)
    return KnownGood(
        tuple(f"g{i}" for i in range(n)),
        codes.astype(np.float16),
        np.zeros(n, np.int32) if kind is None else kind,
        np.full((n, 2), 0.5, np.float32),
        np.zeros((2, 1, 2, 2), np.float16),
        np.asarray(apart, np.float32),
    )


def test_nearest_are_the_nearest_of_the_same_kind() -> None:
    rng = np.random.default_rng(0)
    codes, stratum = rng.normal(size=(50, 3)).astype(np.float16), rng.integers(0, 2, 50).astype(np.int32)
    index, asked = known(codes, stratum), rng.normal(size=3)
    rows, distance = index.nearest(asked, 1, 4)
    expected = {i: float(np.linalg.norm(codes[i].astype(float) - asked)) for i in range(50) if stratum[i] == 1}
    assert rows.tolist() == sorted(expected, key=expected.__getitem__)[:4]
    np.testing.assert_allclose(distance, [expected[i] for i in rows])
    assert len(index.nearest(asked, 7, 60)[0]) == 50  # a kind without good images: all of them


@pytest.mark.parametrize("kind", ["by_pixels", "by_features"])
def test_an_image_fitted_on_is_its_own_nearest(kind: str, request: pytest.FixtureRequest) -> None:
    detector: Detector = request.getfixturevalue(kind)
    images = ImageSet.from_arrays(good(80 if kind == "by_pixels" else 60))
    fit = detector.split_["fit"][:3]
    for one in detector.explain(images[fit], most=3, others=True):
        rounding = 2**-10 * float(np.linalg.norm(detector.embed(images[fit]), axis=1).max() + 10)
        own = {near.id: near.distance for near in one.nearest}[one.id]
        assert own <= one.nearest[0].distance + rounding
        assert own <= rounding
        assert [near.distance for near in one.nearest] == sorted(near.distance for near in one.nearest)


def test_the_index_lives_in_the_saved_model(by_pixels: Detector, tmp_path: Any) -> None:
    again = Detector.load(by_pixels.save(tmp_path / "model"))
    before, after = (detector.explain(spotted(2)) for detector in (by_pixels, again))
    assert [one.to_record() for one in before] == [one.to_record() for one in after]
    assert not any(name.startswith("neighbours") for name in again.pipeline_.state)
    kept = by_pixels.pipeline_.known_good
    assert kept is not None
    with pytest.raises(ArtifactError, match="2 ids"):
        KnownGood.from_tensors(kept.to_tensors(), ["a", "b"])


def test_without_an_index_that_part_is_left_out_with_a_reason(by_pixels: Detector) -> None:
    bare = copy.copy(by_pixels)
    bare.pipeline_ = replace(by_pixels.pipeline_, known_good=None)
    one = bare.explain(spotted(1))[0]
    assert one.nearest == one.nuisances == ()
    assert one.missing["nearest"] == NO_INDEX
    drawn(one)


def test_darker_images_are_said_to_be_so(by_pixels: Detector) -> None:
    one = by_pixels.explain(good(1, 5, light=0.7), others=True)[0]
    brightness = one.nuisances[0]
    assert brightness.change == pytest.approx(-0.3, abs=0.06)
    assert brightness.unusual
    said = " ".join(one.sentences)
    assert f"{-100 * brightness.change:.0f} % darker than usual" in said
    assert "explained away" not in said


def test_light_that_the_model_was_fitted_for_is_explained_away() -> None:
    settings: dict[str, Any] = {"epochs": 2, "latent_dim": 2, "alpha": 0.2, "calibrate_fraction": 0.3}
    lit = Detector(**settings, light_tolerance=0.4, scaling=(0, 255)).fit(good(40))
    within, beyond = (lit.explain(good(1, 5, light=light), others=True)[0].nuisances[0] for light in (0.75, 0.4))
    assert within.explained_away
    assert not beyond.explained_away
    told = Detector(**settings, measure=("brightness",)).fit(good(40))
    found = told.explain(good(1, 5, light=0.75), others=True)[0]
    brightness, contrast = found.nuisances
    assert brightness.explained_away
    assert brightness.unusual  # against all good images, not those as dark
    assert not contrast.explained_away
    assert any(text.endswith("darker than usual (explained away).") for text in found.sentences)


def test_detect_adds_a_column_and_the_explanations(by_pixels: Detector) -> None:
    images = np.concatenate([good(5, 9), spotted(2)])
    plain, table = by_pixels.detect(images), by_pixels.detect(images, explain=True)
    assert table.drop(columns="explanation").equals(plain)
    said = table.attrs["explanations"]
    scores = [one.anomaly_score for one in said]
    assert scores == sorted(scores, reverse=True)
    assert {one.id for one in said} == set(table["id"][table["is_anomalous"]])
    assert table["explanation"].notna().tolist() == table["is_anomalous"].tolist()
    assert dict(zip(table["id"], table["explanation"], strict=True))[said[0].id] == said[0].summary
    assert table.head(3).attrs["explanations"][0] is said[0]
    json.dumps([one.to_record() for one in said])


def test_at_most_so_many_are_explained(by_pixels: Detector) -> None:
    images = np.concatenate([spotted(4), good(4, 9)])
    assert len(by_pixels.explain(images, most=2)) == 2
    assert len(by_pixels.explain(images, most=7, others=True)) == 7


def test_conditions_have_their_own_usual_light() -> None:
    images = np.concatenate([good(50, 0), good(50, 1, light=0.6)])
    product = np.repeat(["a", "b"], 50)
    settings: dict[str, Any] = {"epochs": 2, "latent_dim": 2, "alpha": 0.3, "calibrate_fraction": 0.3}
    detector = Detector(**settings, roles={"product": ("model", "stratify")}).fit(
        images, conditions={"product": product}
    )
    dark = good(1, 7, light=0.6)
    found = {
        name: detector.explain(dark, conditions={"product": np.array([name])}, others=True)[0] for name in ("a", "b")
    }
    assert found["a"].nuisances[0].unusual
    assert not found["b"].nuisances[0].unusual
    assert any("for product=a" in text for text in found["a"].sentences)
    fit = {str(i) for i in range(50)}
    assert {str(int(near.id)) for near in found["a"].nearest} <= fit


def test_of_an_image_in_tiles_the_tile_of_the_peak_is_looked_into() -> None:
    options = {"name": "own", "stride": 4, "average": 1, "levels": "off", "pooling": "max"}
    images = np.tile(good(40), (1, 2, 1))  # 48×32
    settings: dict[str, Any] = {"features": options, "image_size": 24, "tile": 24, "tile_overlap": 0.25, "epochs": 1}
    detector = Detector(**settings, alpha=0.2, calibrate_fraction=0.3).fit(images, backbone=TinyBackbone())
    odd = np.tile(good(1, 5), (1, 2, 1))
    odd[:, 36:41, 18:23] = 255
    one = detector.explain(odd, others=True)[0]
    assert one.map is not None
    assert one.map.shape == (48, 32)
    assert one.peak is not None
    assert abs(one.peak[0] - 38) <= 5
    assert abs(one.peak[1] - 20) <= 5
    assert one.seen.shape == (24, 24, 1)
    assert one.seen.max() == 1.0  # the defect is in this tile
    assert one.components
    assert one.regions[0].p_value is not None
    assert one.nearest == ()


def test_a_model_of_tables_explains_nothing() -> None:
    rows = np.random.default_rng(0).normal(size=(60, 3))
    detector = Detector(epochs=1, alpha=0.2).fit(rows)
    assert detector.pipeline_.known_good is None
    with pytest.raises(SettingsError, match="explanations are of images"):
        detector.explain(rows)
    with pytest.raises(SettingsError, match="explanations are of images"):
        detector.detect(rows, explain=True)


def test_a_score_without_a_map_says_so() -> None:
    detector = Detector(epochs=1, latent_dim=2, alpha=0.2, scoring="mahalanobis").fit(good(60))
    one = detector.explain(spotted(1), others=True)[0]
    assert one.map is None
    assert one.peak is None
    assert "mahalanobis" in one.missing["map"]
    drawn(one)


def made(**more: Any) -> Explanation:
    blank = np.zeros((30, 60, 1))
    facts = {"id": "x", "anomaly_score": 2.0, "p_value": 0.01, "is_anomalous": True, "condition": "all"}
    return Explanation(**{**facts, "image": blank, "seen": blank, **more})


@pytest.mark.parametrize(
    ("peak", "words"),
    [
        ((0, 0), "at the upper left corner"),
        ((15, 30), "in the centre"),
        ((29, 59), "at the lower right corner"),
        ((29, 30), "at the lower side"),
        ((15, 59), "at the right side"),
    ],
)
def test_places_in_words(peak: tuple[int, int], words: str) -> None:
    assert where(made(peak=peak)) == words


def test_sentences_of_one_image() -> None:
    light = Nuisance("brightness", 0.41, 0.5, 0.45, 0.55, True)
    near = tuple(Nearest(name, 1.0) for name in "abcd")
    one = made(peak=(0, 0), nuisances=(light,), nearest=near, farther=1.0, condition="camera=A")
    said = sentences(one, 0.05)
    assert said[0].startswith("Flagged, p = 0.01")
    assert "It is 18 % darker than usual for camera=A (explained away)." in said
    assert said[-1] == (
        "The good images most like it are a, b and c, yet it lies farther from them than all good images that were "
        "held out."
    )
    assert summary(one) == "Oddest at the upper left corner; 18 % darker than usual (explained away); most like a."
    assert sentences(made(is_anomalous=False, p_value=0.4), 0.05)[0].startswith("Not flagged, p = 0.4, at")


def test_a_small_change_is_not_told_however_rare() -> None:
    assert not Nuisance("brightness", 0.51, 0.5, 0.499, 0.501, False).unusual
    assert Nuisance("brightness", 0.52, 0.5, 0.499, 0.501, False).unusual
    assert not Nuisance("brightness", 0.52, 0.5, 0.45, 0.55, False).unusual


def test_rows_by_p_value_then_score_without_those_not_read() -> None:
    import pandas as pd

    table = pd.DataFrame({"p_value": [0.5, 0.1, 0.1, np.nan], "anomaly_score": [9.0, 1.0, 2.0, np.nan]})
    assert by_p_value(table).tolist() == [2, 1, 0]


def test_thinning_takes_means_and_keeps_the_type() -> None:
    image = np.arange(64, dtype=np.uint8).reshape(8, 8)
    small = thinned(image, 4)
    assert small.dtype == np.uint8
    np.testing.assert_array_equal(small, image.reshape(4, 2, 4, 2).mean((1, 3)).round().astype(np.uint8))
    assert thinned(image, 8) is image
    assert thinned(np.zeros((10, 20, 3)), 10).shape == (5, 10, 3)


def test_good_images_are_found_by_the_end_of_their_id() -> None:
    images = ImageSet.from_arrays(good(2), ids=["good/1.png", "good/2.png"])
    found = pictures(["train/good/2.png", "good/1.png", "other/9.png"], images)
    assert set(found) == {"train/good/2.png", "good/1.png"}
    np.testing.assert_array_equal(found["train/good/2.png"], images.read(1))


def test_the_figure_has_five_panels(by_features: Detector) -> None:
    one = by_features.explain(spotted(1))[0]
    figure = drawn(one, {one.nearest[0].id: spotted(1)[0][..., None]})
    assert [axes.get_title() for axes in figure.axes] == [
        "image", "mean of good images", "where it is odd", "features at the oddest place", "good images most like it",
    ]  # fmt: skip
