"""Explanations of images: against brute force, constructed defects, and cases where a part is not available."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from feature_cells import Cells, noise
from feature_cells import detector as cells
from knowngood import Detector
from knowngood.calibration import Region
from knowngood.config import MemoryBankOptions, PatchGaussianOptions
from knowngood.data import ImageSet
from knowngood.detector.explain import Explanation, ImageFactor, Nearest, ReferenceIndex
from knowngood.detector.explain.appearance import Difference
from knowngood.detector.explain.deviations import feature_names
from knowngood.detector.explain.explanation import WordCount
from knowngood.detector.explain.reference import code_size, groups_of, model_codes
from knowngood.detector.explain.words import sentences, summary, where
from knowngood.detector.latents import best_conditions, best_rows
from knowngood.detector.scoring import score_rows
from knowngood.errors import ArtifactError, SettingsError
from knowngood.evaluation.figures.explanation import explanation as drawn
from patch_models import TinyBackbone

SPOT = (slice(4, 9), slice(18, 23))  # of the defects
CENTRE = (6, 20)
SPLIT = {"method": "split", "fraction": 0.3}
OWN = {"name": "features", "backbone": "own", "stride": 4, "average": 1}
SMALL = {"name": "vae", "latent_dim": 2}


def normal(n: int, seed: int = 0, brightness: float = 1.0) -> np.ndarray:
    """(n, 24, 32) uint8 images of a fixed pattern under noise, of this relative brightness."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:24, :32]
    pattern = 120 + 40 * np.sin(x / 3) * np.cos(y / 4)
    level = rng.normal(1, 0.02, n)[:, None, None]
    return np.clip(brightness * level * pattern + rng.normal(0, 3, (n, 24, 32)), 0, 255).astype(np.uint8)


def spotted(n: int, seed: int = 1) -> np.ndarray:
    images = normal(n, seed)
    images[:, *SPOT] = 255
    return images


def of_pixels(model: Any = SMALL, epochs: int = 2, representation: Any = "pixels", **settings: Any) -> Detector:
    given = {"alpha": 0.2, "calibration": SPLIT, "training": {"epochs": epochs}}
    return Detector(representation, model, **{**given, **settings})


@pytest.fixture(scope="module")
def by_pixels() -> Detector:
    return of_pixels({"name": "vae", "latent_dim": 4, "net": {"name": "mlp", "hidden": [32]}}, 30).fit(normal(80))


@pytest.fixture(scope="module")
def by_features() -> Detector:
    score = {"name": "patch_distance", "pooling": "max", "standardise": False}
    detector = Detector(OWN | {"image_size": (24, 32)}, "patch_gaussian", score, alpha=0.2, calibration=SPLIT)
    return detector.fit(normal(60), backbone=TinyBackbone())


@pytest.fixture(scope="module")
def by_patches() -> Detector:
    detector = Detector(OWN | {"image_size": (24, 32)}, "memory_bank", "patch_distance", alpha=0.2, calibration=SPLIT)
    return detector.fit(normal(60), backbone=TinyBackbone())


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["by_pixels", "by_features", "by_patches"])
def test_the_peak_is_where_the_defect_is(kind: str, request: pytest.FixtureRequest) -> None:
    detector: Detector = request.getfixturevalue(kind)
    for one in detector.explain(spotted(3)):
        assert one.is_anomalous
        assert one.peak is not None
        assert max(abs(a - b) for a, b in zip(one.peak, CENTRE, strict=True)) <= 6
        assert one.map is not None
        assert one.map[one.peak] == np.nanmax(one.map)
        assert "32 × 24 pixels" in one.sentences[1]


@pytest.mark.slow
def test_an_explanation_is_shown_in_a_line_without_its_arrays(by_features: Detector) -> None:
    (one,) = by_features.explain(spotted(1), others=True)
    shown = repr(one)
    assert shown.startswith(f"Explanation(id='{one.id}', anomaly_score=")
    assert one.summary in shown
    assert "array" not in shown


@pytest.mark.slow
def test_maps_and_regions_are_those_of_the_detector(by_features: Detector) -> None:
    images = ImageSet.from_arrays(spotted(20))
    explained = {one.id: one for one in by_features.explain(images, most=20, others=True)}  # more than a batch
    regions = by_features.regions(images)
    for i, expected in enumerate(by_features.anomaly_maps(images)):
        one = explained[str(images.ids[i])]
        np.testing.assert_allclose(one.map, expected, rtol=1e-5, atol=1e-4)
        np.testing.assert_array_equal(one.image, images.read(i))
        mine = regions[regions["id"].astype(str) == one.id]
        assert [region.peak for region in one.regions] == pytest.approx(mine["peak"].tolist())


@pytest.mark.slow
def test_pixels_bring_reconstruction_and_signed_residual(by_pixels: Detector) -> None:
    one = by_pixels.explain(spotted(1))[0]
    expected = by_pixels.reconstruct(spotted(1))[0]
    representation: Any = by_pixels.pipeline_.representation
    low, high = representation.low, representation.high
    assert one.reconstruction is not None
    assert one.residual is not None
    np.testing.assert_allclose(one.reconstruction * (high - low) + low, expected, rtol=1e-4, atol=0.05)
    np.testing.assert_allclose(one.residual, one.model_input - one.reconstruction, atol=1e-5)
    assert one.residual[CENTRE].mean() > 0.2
    assert one.components == ()
    nats = [latent.nats for latent in one.latents]
    assert nats == sorted(nats, reverse=True)
    assert len(nats) == 4


def test_the_kind_of_patch_whose_share_deviates_lies_in_the_image(by_features: Detector) -> None:
    one = by_features.explain(ImageSet.from_arrays(spotted(1)), others=True)[0]
    assert one.count is not None
    assert one.count.place is not None
    assert one.count.place[0] < one.image.shape[0]
    assert one.count.place[1] < one.image.shape[1]
    assert one.to_record()["count"]["share"] == one.count.share
    json.dumps(one.to_record())


def test_features_bring_what_deviates_at_the_peak(by_features: Detector) -> None:
    pipeline, images = by_features.pipeline_, ImageSet.from_arrays(spotted(1))
    one = by_features.explain(images)[0]
    assert one.reconstruction is None
    assert "reconstruction" in one.missing
    assert one.latents == ()
    rows = next(best_rows(pipeline, images, None))
    grids = score_rows(pipeline, images, best_conditions(pipeline, images, None), maps=True)[0].grids
    model: Any = pipeline.model
    assert grids is not None
    at, cell = int(grids[0].argmax()), torch.zeros(1, dtype=torch.int64)
    lower = model.lower[0, at].double()
    spread = (lower @ lower.T).diagonal().sqrt()
    deviation = ((rows.x.flatten(2)[0, :, at] - model.expected(rows.x, cell)[0, at]) / spread).numpy()
    order = np.argsort(-np.abs(deviation))[: len(one.components)]
    names = feature_names(pipeline.representation)  # type: ignore[arg-type]
    assert [component.name for component in one.components] == [names[j] for j in order]
    np.testing.assert_allclose([c.deviation for c in one.components], deviation[order], rtol=1e-3)
    residual = model.whiten(rows.x, cell).square().mean(2).sqrt()  # root mean square over the features
    assert one.residual is not None
    np.testing.assert_allclose(one.residual.reshape(1, -1), residual, rtol=1e-4)
    typical = by_features.explain(normal(1, 7), others=True)[0].residual
    assert typical is not None
    assert np.median(typical) < 1.5
    assert one.residual.max() > 3 * np.median(typical)


@pytest.mark.slow
def test_a_memory_bank_brings_map_regions_and_nearest(by_patches: Detector) -> None:
    one = by_patches.explain(spotted(1))[0]
    assert one.map is not None
    assert one.nearest
    assert one.residual is one.reconstruction is None
    assert one.components == one.latents == ()
    drawn(one)


def test_hog_brings_orientations() -> None:
    one = of_pixels(representation="hog").fit(normal(60)).explain(spotted(1), others=True)[0]
    assert one.residual is not None
    assert one.residual.shape == (7, 7)
    assert all(component.name.startswith("the gradient") for component in one.components)
    assert all(factor.explained_away for factor in one.image_factors)
    assert len(one.latents) == 2


def patch_gaussian(x: torch.Tensor, ignored: torch.Tensor | None = None) -> Any:
    model = PatchGaussianOptions(context=0, global_grid=0).build(shape=tuple(x.shape[1:]))
    if ignored is not None:
        model.ignored.copy_(ignored[None])
    return model.fit_grids(x, torch.zeros(len(x), dtype=torch.int64))


def test_codes_are_means_of_whitened_features_over_what_counts() -> None:
    x = torch.randn(30, 5, 3, 4, generator=torch.Generator().manual_seed(0))
    ignored = torch.arange(12) < 5
    for model, counted in ((patch_gaussian(x), slice(None)), (patch_gaussian(x, ignored), ~ignored)):
        expected = model.whiten(x, torch.zeros(30, dtype=torch.int64))[:, counted].double().mean(1)
        np.testing.assert_allclose(model_codes(model, x, None), expected, rtol=1e-5, atol=1e-6)
        assert code_size(model) == 5


def test_codes_of_a_memory_bank_are_the_items_or_mean_features() -> None:
    x = torch.randn(6, 5, 3, 4, generator=torch.Generator().manual_seed(0))
    for patches, expected in ((True, x.flatten(2).mean(2)), (False, x.flatten(1))):
        model = MemoryBankOptions().build((5, 3, 4), patches=patches)
        np.testing.assert_allclose(model_codes(model, x, None), expected, rtol=1e-6, atol=1e-6)
        assert code_size(model) == expected.shape[1]


def index_of(codes: np.ndarray, group: np.ndarray | None = None, held_out_distances: Any = ()) -> ReferenceIndex:
    n = len(codes)
    return ReferenceIndex(
        tuple(f"g{i}" for i in range(n)),
        codes.astype(np.float16),
        np.zeros(n, np.int32) if group is None else group,
        np.full((n, 2), 0.5, np.float32),
        np.zeros((2, 1, 2, 2), np.float16),
        np.asarray(held_out_distances, np.float32),
        np.zeros((2, 2, 2, 2, 2), np.float16),
    )


def test_nearest_are_the_nearest_of_the_same_group() -> None:
    rng = np.random.default_rng(0)
    codes, group = rng.normal(size=(50, 3)).astype(np.float16), rng.integers(0, 2, 50).astype(np.int32)
    index, code = index_of(codes, group), rng.normal(size=3)
    rows, distance = index.nearest(code, 1, 4)
    expected = {i: float(np.linalg.norm(codes[i].astype(float) - code)) for i in range(50) if group[i] == 1}
    assert rows.tolist() == sorted(expected, key=expected.__getitem__)[:4]
    np.testing.assert_allclose(distance, [expected[i] for i in rows])
    assert len(index.nearest(code, 7, 60)[0]) == 50  # a group without normal images: all of them


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["by_pixels", "by_features", "by_patches"])
def test_an_image_fitted_to_is_its_own_nearest(kind: str, request: pytest.FixtureRequest) -> None:
    detector: Detector = request.getfixturevalue(kind)
    images = ImageSet.from_arrays(normal(80 if kind == "by_pixels" else 60))
    fit = images[detector.split_["fit"][:3]]
    rows = next(best_rows(detector.pipeline_, fit, None))
    largest = float(np.linalg.norm(model_codes(detector.pipeline_.model, rows.x, rows.c), axis=1).max())
    rounding = 2**-10 * (largest + 10)  # of float16
    for one in detector.explain(fit, most=3, others=True):
        own = {near.id: near.distance for near in one.nearest}[one.id]
        assert own <= one.nearest[0].distance + rounding
        assert own <= rounding
        assert [near.distance for near in one.nearest] == sorted(near.distance for near in one.nearest)


def test_held_out_distances_are_those_of_images_not_fitted_to(by_pixels: Detector) -> None:
    images = ImageSet.from_arrays(normal(80))
    held_out, index = images[by_pixels.split_["select"]], by_pixels.pipeline_.reference
    assert index is not None
    assert sorted(map(int, index.ids)) == sorted(by_pixels.split_["fit"])
    explained = by_pixels.explain(held_out, most=len(held_out), others=True)
    distances = {one.id: one.nearest[0].distance for one in explained}
    expected = [distances[str(name)] for name in held_out.ids]
    np.testing.assert_allclose(index.held_out_distances, expected, rtol=1e-3, atol=1e-5)
    for one in by_pixels.explain(np.concatenate([normal(3, 9), spotted(1)]), others=True):
        assert one.farther_than == np.mean(index.held_out_distances < one.nearest[0].distance)


def test_the_index_is_saved_with_the_model(by_pixels: Detector, tmp_path: Any) -> None:
    again = Detector.load(by_pixels.save(tmp_path / "model"))
    before, after = (detector.explain(spotted(2)) for detector in (by_pixels, again))
    assert [one.to_record() for one in before] == [one.to_record() for one in after]
    assert not any(name.startswith("reference") for name in again.pipeline_.state)
    kept = by_pixels.pipeline_.reference
    assert kept is not None
    with pytest.raises(ArtifactError, match="2 ids"):
        ReferenceIndex.from_tensors(kept.to_tensors(), ["a", "b"])


@pytest.mark.slow
def test_without_an_index_that_part_is_missing_with_a_reason(by_pixels: Detector) -> None:
    bare = copy.copy(by_pixels)
    bare.pipeline_ = replace(by_pixels.pipeline_, reference=None)
    one = bare.explain(spotted(1))[0]
    assert one.nearest == one.image_factors == ()
    assert "without a reference index" in one.missing["nearest"]
    drawn(one)


def test_darker_images_are_reported_as_such(by_pixels: Detector) -> None:
    one = by_pixels.explain(normal(1, 5, brightness=0.7), others=True)[0]
    brightness = one.image_factors[0]
    assert brightness.change == pytest.approx(-0.3, abs=0.06)
    assert brightness.outside_normal_range
    text = " ".join(one.sentences)
    assert f"{-100 * brightness.change:.0f} % darker than the median normal image" in text
    assert "accounts for" not in text


@pytest.mark.slow
def test_illumination_that_the_model_was_fitted_for_is_explained_away() -> None:
    options = {"name": "pixels", "illumination": 0.4, "scaling": (0, 255)}
    tolerant = of_pixels(representation=options).fit(normal(40))
    within, beyond = (
        tolerant.explain(normal(1, 5, brightness=level), others=True)[0].image_factors[0] for level in (0.75, 0.4)
    )
    assert within.explained_away
    assert not beyond.explained_away
    measured = of_pixels(conditioning={"measure": ("brightness",)}).fit(normal(40))
    one = measured.explain(normal(1, 5, brightness=0.75), others=True)[0]
    brightness, contrast = one.image_factors
    assert brightness.explained_away
    assert brightness.outside_normal_range  # against all normal images, not those as dark
    assert not contrast.explained_away
    assert any(text.endswith("median normal image (the model accounts for that).") for text in one.sentences)


@pytest.mark.slow
def test_a_factor_of_dan_vae_is_declared_harmless_and_not_explained_away() -> None:
    model = {"name": "vae", "objective": {"name": "dan_vae", "nuisance_dim": 1}, "net": {"name": "mlp", "hidden": [8]}}
    declared = of_pixels(model=model, score="split_elbo").fit(normal(40))
    one = declared.explain(normal(1, 5, brightness=0.7), others=True)[0]
    brightness, contrast = one.image_factors
    assert (brightness.declared_harmless, contrast.declared_harmless) == (True, False)
    assert not brightness.explained_away
    assert any(text.endswith("median normal image (declared harmless).") for text in one.sentences)


def test_detect_adds_a_column_and_the_explanations(by_pixels: Detector) -> None:
    images = np.concatenate([normal(5, 9), spotted(2)])
    plain, table = by_pixels.detect(images), by_pixels.detect(images, explain=True)
    assert table.drop(columns="explanation").equals(plain)
    explanations = table.attrs["explanations"]
    scores = [one.anomaly_score for one in explanations]
    assert scores == sorted(scores, reverse=True)
    assert {one.id for one in explanations} == set(table["id"][table["is_anomalous"]])
    assert table["explanation"].notna().tolist() == table["is_anomalous"].tolist()
    texts = dict(zip(table["id"], table["explanation"], strict=True))
    assert texts[explanations[0].id] == explanations[0].summary
    assert table.head(3).attrs["explanations"][0] is explanations[0]
    json.dumps([one.to_record() for one in explanations])


def test_at_most_so_many_are_explained(by_pixels: Detector) -> None:
    images = np.concatenate([spotted(4), normal(4, 9)])
    assert len(by_pixels.explain(images, most=2)) == 2
    assert len(by_pixels.explain(images, most=7, others=True)) == 7
    with pytest.warns(UserWarning, match="2 of 4 flagged images are explained; explain=4 explains all"):
        assert by_pixels.detect(images, explain=2)["explanation"].notna().sum() == 2
    with pytest.raises(SettingsError, match="-1 images to explain; expected a number from 0"):
        by_pixels.explain(images, most=-1)


@pytest.mark.slow
def test_conditions_have_their_own_range_of_image_factors() -> None:
    images = np.concatenate([normal(50, 0), normal(50, 1, brightness=0.6)])
    product = np.repeat(["a", "b"], 50)
    detector = of_pixels(alpha=0.3, conditioning={"roles": {"product": ("model", "stratify")}})
    detector.fit(images, conditions={"product": product})
    dark = normal(1, 7, brightness=0.6)
    explained = {
        name: detector.explain(dark, conditions={"product": np.array([name])}, others=True)[0] for name in ("a", "b")
    }
    assert explained["a"].image_factors[0].outside_normal_range
    assert not explained["b"].image_factors[0].outside_normal_range
    assert any("median normal image of product=a" in text for text in explained["a"].sentences)
    assert {int(near.id) for near in explained["a"].nearest} <= set(range(50))
    assert {int(near.id) for near in explained["b"].nearest} <= set(range(50, 100))
    assert explained["a"].mean_image is not None
    assert explained["b"].mean_image is not None
    assert explained["a"].mean_image.mean() > 1.4 * explained["b"].mean_image.mean()


@pytest.mark.slow
def test_measured_factors_make_no_groups() -> None:
    product = np.repeat(["a", "b"], 40)
    images = np.concatenate([normal(40, 0), normal(40, 1)])
    detector = of_pixels(conditioning={"measure": ("brightness",)}).fit(images, conditions={"product": product})
    groups = groups_of(detector.pipeline_)
    assert len(groups) == detector.pipeline_.schema.n_strata
    assert set(groups.tolist()) == {0, 1}


def test_a_model_of_tables_explains_nothing() -> None:
    rows = np.random.default_rng(0).normal(size=(60, 3))
    detector = Detector("table", "vae", training={"epochs": 1}, alpha=0.2).fit(rows)
    assert detector.pipeline_.reference is None
    with pytest.raises(SettingsError, match="explanations are of images"):
        detector.explain(rows)
    with pytest.raises(SettingsError, match="explanations are of images"):
        detector.detect(rows, explain=True)


@pytest.mark.slow
def test_a_score_without_a_map_has_a_reason() -> None:
    detector = of_pixels(score="mahalanobis").fit(normal(60))
    one = detector.explain(spotted(1), others=True)[0]
    assert one.map is None
    assert one.peak is None
    assert "mahalanobis" in one.missing["map"]
    drawn(one)


def made(**more: Any) -> Explanation:
    blank = np.zeros((30, 60, 1))
    facts = {"id": "x", "anomaly_score": 2.0, "p_value": 0.003, "is_anomalous": True, "condition": "all"}
    return Explanation(**{**facts, "image": blank, "model_input": blank, **more})


def test_numbers_beside_the_nearest_normal_images_are_distances() -> None:
    nearest = (Nearest("good/1.png", 2.768), Nearest("good/2.png", 3))
    figure = drawn(made(nearest=nearest), {"good/2.png": np.zeros((4, 4, 1), np.uint8)})
    expected = ["good/1.png  (distance 2.77)", "good/2.png  (distance 3)"]
    assert [text.get_text() for text in figure.axes[4].texts] == expected


def test_a_count_that_is_off_is_said_with_its_place() -> None:
    one = made(count=WordCount(3, 0.021, 0.03, -6.2, (40, 12)))
    expected = (
        "There is less of one kind of surface like that at x = 12, y = 40: 2.1 % of the image, 3.0 % in normal images. "
        "Something may be missing, extra or of another kind."
    )
    assert expected in sentences(one, 0.05)
    assert "less of one kind of surface than normal" in summary(one).lower()
    assert "more of one kind of surface:" in " ".join(sentences(made(count=WordCount(3, 0.021, 0.03, 6.2)), 0.05))
    assert "surface" not in " ".join(sentences(made(count=WordCount(3, 0.021, 0.03, -2.0)), 0.05))


def test_what_flagged_an_image_without_a_region_is_said() -> None:
    one = made(peak=(0, 0), whole={"global": 3.14, "counts": 0.92})
    expected = (
        "flagged for the image as a whole and the counts of kinds of patches (global 3.1, counts 0.9 standard "
        "deviations above normal images)"
    )
    assert f"It is {expected}, not for one place." in sentences(one, 0.05)
    assert summary(one).startswith(f"F{expected[1:]}; upper left")
    assert one.to_record()["whole"] == {"global": 3.14, "counts": 0.92}
    region = Region(1, 9, 2.0, (20, 50), (18, 46, 24, 58), (20.0, 50.0), 1.0, 0.004)
    about = {"peak": (0, 0), "whole": one.whole}
    for other in (made(**about, regions=(region,)), made(**about, is_anomalous=False)):
        assert "flagged for" not in " ".join((*sentences(other, 0.05), summary(other)))


@pytest.mark.slow
def test_an_image_that_is_flagged_as_a_whole_is_explained_by_that() -> None:
    score = {"name": "patch_distance"}
    model = {"name": "patch_gaussian", "global_grid": 2, "words": 0}
    detector = Detector(OWN | {"image_size": (24, 32)}, model, score, alpha=0.2, calibration=SPLIT)
    detector.fit(normal(60), backbone=TinyBackbone())
    (one,) = detector.explain(normal(1, 9, 1.25), others=True)
    assert one.whole["global"] > 0.5
    assert bool(one.regions) != any("It is flagged for the image as a whole" in text for text in one.sentences)
    (one,) = detector.explain(normal(1, 9), others=True)
    assert not one.whole


@pytest.mark.parametrize(
    ("peak", "words"),
    [
        ((0, 0), "upper left"),
        ((15, 30), "centre"),
        ((29, 59), "lower right"),
        ((29, 30), "bottom"),
        ((15, 59), "right"),
    ],
)
def test_locations_in_words(peak: tuple[int, int], words: str) -> None:
    assert where(made(peak=peak)) == words


def test_sentences_of_one_image() -> None:
    brightness = ImageFactor("brightness", 0.41, 0.5, 0.45, 0.55, True)
    near = tuple(Nearest(name, 1.0) for name in "abcd")
    about = {"image_factors": (brightness,), "nearest": near, "farther_than": 1.0, "condition": "camera=A"}
    one = made(peak=(0, 0), compared=(0, 332), **about)
    texts = sentences(one, 0.05)
    assert texts[0] == (
        "Anomalous: further from normal than each of the 332 normal images it is compared with (p = .003)."
    )
    assert texts[1] == "Most anomalous in the upper left, at x = 0, y = 0 of 60 × 30 pixels."
    darker = "As a whole it is 18 % darker than the median normal image"
    assert f"{darker} of camera=A (the model accounts for that)." in texts
    assert texts[-1] == (
        "The normal images most like it are a, b and c; all held-out normal images are closer to the one most like "
        "them."
    )
    harmless = made(image_factors=(brightness._replace(explained_away=False, declared_harmless=True),))
    assert f"{darker} (declared harmless)." in sentences(harmless, 0.05)
    assert summary(one) == (
        "Upper left, at x = 0, y = 0; 18 % darker than the median normal image (the model accounts for that); "
        "nearest normal image a."
    )
    assert sentences(made(is_anomalous=False, p_value=0.4, compared=(39, 99)), 0.05)[0] == (
        "Not anomalous at a false-alarm rate of 5.0 %: 39 of the 99 normal images it is compared with are as far from "
        "normal (p = .4)."
    )


def test_the_area_and_what_differs_there_in_words() -> None:
    regions = tuple(Region(i, 9, 2.0, (20, 50), (18, 46, 24, 58), (20.0, 50.0), 1.0, 0.004) for i in (1, 2, 3))
    darker = Difference("darker", 0.23, -0.38, -6.0)
    about = {"peak": (20, 50), "regions": regions, "view_box": (0.6, 0.7, 0.8, 0.9)}
    one = made(**about, differences=(darker, Difference("colour", 0.1, 0.2, 5.0, "redder")))
    assert sentences(one, 0.05)[1:] == (
        "Lower right, 12 × 6 px at x = 46, y = 18 of 60 × 30 pixels (p = .004), and 2 areas more.",
        "23 % of that area is darker than in normal images, by 38 % on average.",
        "10 % of that area has another colour than in normal images: redder.",
    )
    assert summary(one) == (
        "Lower right, 12 × 6 px at x = 46, y = 18: 38 % darker, another colour (redder); 2 areas more."
    )
    assert "do not stand out" in sentences(made(**about), 0.05)[2]
    assert json.loads(json.dumps(one.to_record()))["differences"][0]["change"] == -0.38


@pytest.mark.parametrize(
    ("differences", "words"),
    [
        (
            (Difference("less contrast", 0.3, -0.6, -8.0), Difference("more contrast", 0.12, 2.0, 9.0)),
            "30 % of it lacks edges or texture, 12 % of it has edges or texture where normal images are smoother",
        ),
        (
            (Difference("brighter", 0.4, 0.8, 8.0), Difference("darker", 0.05, -0.2, -9.0)),
            "40 % of it is 80 % brighter, 5.0 % of it is 20 % darker",
        ),
        (
            (
                Difference("more contrast", 0.3, 2.0, 8.0),
                Difference("darker", 0.2, -0.2, -9.0),
                Difference("less contrast", 0.1, -0.6, -8.0),
            ),
            "30 % of it has edges or texture where normal images are smoother, 10 % of it lacks edges or texture, "
            "20 % darker",
        ),
        ((Difference("less contrast", 0.3, -0.6, -8.0),), "lacks edges or texture"),
    ],
)
def test_the_short_form_says_of_two_that_are_opposite_how_much_each_is(
    differences: tuple[Difference, ...], words: str
) -> None:
    one = made(peak=(0, 0), differences=differences)
    assert summary(one) == f"Upper left, at x = 0, y = 0: {words}."


def test_the_number_of_normal_images_is_that_of_the_p_value(by_pixels: Detector) -> None:
    n = len(by_pixels.pipeline_.calibration or ())
    for one in by_pixels.explain(np.concatenate([normal(6, 9), spotted(1)]), others=True):
        assert one.compared is not None
        higher, compared = one.compared
        assert compared == n
        assert one.p_value == pytest.approx((1 + higher) / (n + 1))


def test_a_spot_is_brighter_and_a_normal_image_does_not_stand_out(by_features: Detector) -> None:
    one = by_features.explain(spotted(1))[0]
    kinds = {difference.kind: difference for difference in one.differences}
    assert "brighter" in kinds
    expected = 255 / normal(60)[:, *SPOT].mean() - 1
    assert kinds["brighter"].change == pytest.approx(expected, rel=0.2)
    assert "darker" not in kinds
    assert not any(one.differences for one in by_features.explain(normal(5, 7), others=True))


def test_a_small_change_is_not_reported_however_rare() -> None:
    assert not ImageFactor("brightness", 0.51, 0.5, 0.499, 0.501, False).outside_normal_range
    assert ImageFactor("brightness", 0.52, 0.5, 0.499, 0.501, False).outside_normal_range
    assert not ImageFactor("brightness", 0.52, 0.5, 0.45, 0.55, False).outside_normal_range


@pytest.mark.slow
def test_the_figure_has_five_panels(by_features: Detector) -> None:
    one = by_features.explain(spotted(1))[0]
    figure = drawn(one, {one.nearest[0].id: spotted(1)[0][..., None]})
    assert [axes.get_title() for axes in figure.axes] == [
        "image", "anomaly map", "that area, as the model sees it", "the same place in the mean normal image",
        "nearest normal images",
    ]  # fmt: skip
    assert len(drawn(one, {}).axes) == 4  # no picture of a normal image is there; the sentences name them
    assert not figure.axes[3].get_xlabel()
    assert "turned and cropped" in drawn(replace(one, posed=True), {}).axes[3].get_xlabel()


@pytest.mark.slow
def test_kinds_of_patches_are_counted_given_the_numbers_of_the_conditions() -> None:
    """An exposure that moves all features makes no kind of patch more frequent, where the model knows the exposure."""
    exposure = np.linspace(-1, 1, 60)
    images = (noise(60) + 60 * exposure[:, None, None, None]).clip(0, 255).astype(np.uint8)
    fitted = cells(gaussian={"words": 4}, alpha=0.2).fit(images, conditions={"exposure": exposure}, backbone=Cells())
    found = fitted.explain(images, conditions={"exposure": exposure}, others=True, most=60)
    assert np.mean([abs(one.count.deviation) for one in found if one.count]) < 2
