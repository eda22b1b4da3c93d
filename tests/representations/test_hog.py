"""Edges as a representation: its formula, the way there and back, what is refused, and digits of a class held out."""

from __future__ import annotations

import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from knowngood.evaluation.drawing.subject import Subject
from knowngood.representations.gradients import oriented_gradients
from sklearn.datasets import load_digits

from knowngood import Detector
from knowngood.cli import main
from knowngood.config import Settings, parse_settings
from knowngood.data import ImageSet, open_images
from knowngood.detector.explain.words import sentences
from knowngood.detector.fit.plan import plan
from knowngood.errors import DataError, SettingsError
from knowngood.evaluation.evaluate import evaluate, report_inputs
from knowngood.evaluation.figures.explanation import explanation as drawn
from knowngood.metrics import roc_auc
from knowngood.representations import Edges, Pixels
from knowngood.representations.hog import DIRECTIONS, LOOKED_AT, SHAPE
from knowngood.training import Source, StreamSource

HELD_OUT = 4
QUICK: dict[str, Any] = {"epochs": 30, "batch_size": 64, "lr": 2e-3, "ema": None, "net": "mlp", "alpha": 0.1}
EDGES: dict[str, Any] = {"representation": "oriented_gradients"}


def noise(n: int, *shape: int, seed: int = 0) -> np.ndarray:
    """(n, *shape) uint8 images."""
    return np.random.default_rng(seed).integers(0, 256, (n, *shape), dtype=np.uint8)


def fitted(images: np.ndarray, **settings: Any) -> Edges:
    return Edges.fit(open_images(images), Settings(**settings))


def digits() -> tuple[np.ndarray, np.ndarray]:
    """Handwritten digits enlarged to 28×28, uint8, in an order drawn by a seed, and what they are."""
    known: Any = load_digits()
    order = np.random.default_rng(0).permutation(len(known.target))
    small = torch.from_numpy(known.images[order] / 16 * 255).float()[:, None]
    large = torch.nn.functional.interpolate(small, size=(28, 28), mode="bicubic").clamp(0, 255)
    return large.round().to(torch.uint8)[:, 0].numpy(), known.target[order]


# Formula --------------------------------------------------------------------------------------------------------------


def test_edges_are_gradients_of_length_one_times_the_root_of_their_number_less_the_centre() -> None:
    x = noise(6, 20, 26)
    edges = fitted(x)
    q = oriented_gradients(torch.from_numpy(x)[:, None] / 255, power=0.25)
    torch.testing.assert_close(q.norm(dim=1), torch.ones(6))
    centre = (math.sqrt(392) * q).double().mean(0)
    torch.testing.assert_close(torch.tensor(edges.centre, dtype=torch.float64), centre, rtol=0, atol=1e-6)
    found = edges.scale(torch.from_numpy(x)[:, None])
    assert found.shape == (6, *SHAPE) == (6, *edges.shape)
    torch.testing.assert_close(found.flatten(1), (math.sqrt(392) * q - centre).float(), rtol=0, atol=1e-5)
    torch.testing.assert_close(edges.unscale(found).flatten(1), q, rtol=0, atol=1e-6)


def test_powers_are_of_the_same_sums() -> None:
    x = torch.from_numpy(noise(3, 1, 16, 16)).float()
    root, plain = oriented_gradients(x), oriented_gradients(x, power=1.0)
    torch.testing.assert_close(oriented_gradients(x, power=0.5), root, rtol=0, atol=0)
    for power, of in ((0.25, root.sqrt()), (1.0, root.square()), (0.25, plain.pow(0.25))):
        expected = of / of.norm(dim=1, keepdim=True)
        torch.testing.assert_close(oriented_gradients(x, power=power), expected, rtol=0, atol=1e-6)


def test_brightness_and_contrast_change_nothing_and_values_are_of_order_one() -> None:
    x = noise(40, 24, 24) // 4
    edges = fitted(x)
    seen, lit = (edges.scale(torch.from_numpy(v)[:, None]) for v in (x, 3 * x + 20))
    torch.testing.assert_close(seen, lit, rtol=0, atol=1e-3)
    assert 0.05 < float(seen.std()) < 2


def test_the_centre_is_of_at_most_some_thousand_images_spread_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("knowngood.representations.hog.LOOKED_AT", 5)
    monkeypatch.setattr("knowngood.representations.hog.TOGETHER", 2)
    x = noise(17, 12, 12)
    np.testing.assert_allclose(fitted(x).centre, fitted(x[[0, 4, 8, 12, 16]]).centre, rtol=0, atol=0)
    assert 1000 <= LOOKED_AT <= 10_000


def test_an_image_without_edges_is_the_centre_turned_round_and_of_its_batch_alone() -> None:
    x = noise(9, 16, 16)
    x[3] = 77
    edges = fitted(x)
    found = edges.scale(torch.from_numpy(x)[:, None])
    torch.testing.assert_close(found[3].flatten(), -torch.tensor(edges.centre))
    alone = torch.cat([edges.scale(torch.from_numpy(x[i : i + 1])[:, None]) for i in range(9)])
    torch.testing.assert_close(found, alone, rtol=0, atol=1e-5)
    torch.testing.assert_close(edges.scale_all(x[:, None]), found, rtol=0, atol=1e-5)


# There and back -------------------------------------------------------------------------------------------------------


def test_images_are_prepared_as_pixels_are_and_any_size_has_the_same_cells() -> None:
    x = noise(5, 30, 20, 3)
    settings = {"grey": True, "crop": (24, 20), "pad": 28}
    edges, pixels = fitted(x, **settings), Pixels.fit(open_images(x), Settings(**settings))
    assert edges.pixels == pixels
    assert edges.bytes_per_image == pixels.bytes_per_image == 28 * 28
    np.testing.assert_array_equal(edges.read(open_images(x))[0], pixels.read(open_images(x))[0])
    np.testing.assert_array_equal(edges.prepare(x[0]), pixels.prepare(x[0]))
    assert edges.shape == (8, 7, 7)
    with pytest.raises(DataError, match="channels"):
        edges.check((30, 20, 4), np.uint8)


def test_json_gives_the_same_bits_and_copies_travel() -> None:
    edges = fitted(noise(7, 19, 23))
    batch = torch.from_numpy(noise(4, 1, 19, 23, seed=1))
    for copy in (Edges.model_validate_json(edges.model_dump_json()), pickle.loads(pickle.dumps(edges))):
        assert copy == edges
        assert torch.equal(copy.scale(batch), edges.scale(batch))


def test_maps_come_back_smoothly_to_where_the_cells_are() -> None:
    edges = fitted(noise(3, 28, 42))
    grid = np.zeros((2, 7, 7), np.float32)
    grid[0, 1, 5] = 1
    grid[1] = 3
    restored = edges.restore(grid, (28, 42))
    assert restored.shape == (2, 28, 42)
    row, column = np.unravel_index(restored[0].argmax(), (28, 42))
    assert (row // 4, column // 6) == (1, 5)
    assert restored[0, :, :24].max() == 0
    assert np.abs(np.diff(restored[0], axis=0)).max() <= 1 / 4 + 1e-6  # a cell's side of 4 from 0 to 1
    np.testing.assert_allclose(restored[1], 3)
    cropped = fitted(noise(3, 28, 42), crop=(28, 28)).restore(grid[:1], (28, 42))
    assert cropped.shape == (1, 28, 42)
    assert cropped[0, :, :7].max() == 0 == cropped[0, :, 35:].max()
    with pytest.raises(ValueError, match="7, 7"):
        edges.restore(np.zeros((1, 8, 8), np.float32), (28, 42))


def test_an_image_that_cannot_be_used_is_named_before_training() -> None:
    x = noise(20, 12, 12).astype(np.float32)
    x[7, 3, 3] = np.nan
    with pytest.raises(DataError, match="NaN"):
        fitted(x)


# Refusals -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"features": "efficientnet_lite0"}, "two things to model"),
        ({"augment_condition": ("flip",)}, "models edges; leave one of them out"),
        ({"augment_condition": ("flip",), "objective": "vae"}, "models edges; leave one of them out"),
        ({"light_tolerance": 0.3}, "leave it out"),
        ({"likelihood": "bernoulli"}, "take likelihood='gaussian'"),
        ({"likelihood": {"name": "gaussian", "squash": True}}, "take likelihood='gaussian'"),
        ({"net": "conv"}, "take net='mlp'"),
        ({"scoring": "choose"}, "name a score"),
        ({"scoring": "input_complexity"}, "take scoring='elbo'"),
        ({"scoring": "restoration"}, "take scoring='elbo'"),
        ({"scoring": {"name": "reconstruction", "distance": "ssim"}}, "take distance='l2'"),
        ({"scoring": {"name": "reconstruction", "distance": "cross_entropy"}}, "take distance='l2'"),
        ({"scoring": {"name": "neighbours", "of": "gradients"}}, "of='pixels'"),
        ({"scoring": {"name": "mahalanobis", "of": "gradients"}}, "of='latent'"),
        ({"scoring": ["elbo", "neighbours"]}, r"weighting=\(1, 1\)"),
        ({"scoring": {"name": "fusion", "scores": ["elbo", "restoration"], "weighting": (1, 1)}}, "restoration"),
    ],
)
def test_what_needs_pixels_is_refused_before_training_with_the_way_out(settings: dict[str, Any], said: str) -> None:
    images = open_images(noise(60, 12, 12))
    with pytest.raises(SettingsError, match=said):
        plan(images, parse_settings({**EDGES, **settings}), 0)


def test_tables_and_films_are_refused(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(60, 4))
    with pytest.raises(SettingsError, match="needs images"):
        Detector(**EDGES).fit(rows)
    with pytest.raises(SettingsError, match="film"):
        Detector(**EDGES, **QUICK).fit(noise(60, 12, 12), film=tmp_path / "film.gif")


# Whole detectors ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def held_out() -> tuple[np.ndarray, ImageSet]:
    """Good digits to fit on, and others with those of the class held out, labelled."""
    x, y = digits()
    good, bad = np.flatnonzero(y != HELD_OUT), np.flatnonzero(y == HELD_OUT)
    rows = np.concatenate([good[700:], bad])
    return x[good[:700]], open_images(x[rows]).replace(labels=(y[rows] == HELD_OUT).astype(float))


@pytest.fixture(scope="module")
def by_edges(held_out: tuple[np.ndarray, ImageSet]) -> Detector:
    return Detector(**EDGES, **QUICK).fit(held_out[0])


def test_a_class_held_out_is_found_better_than_by_pixels(
    by_edges: Detector, held_out: tuple[np.ndarray, ImageSet]
) -> None:
    train, test = held_out
    by_pixels = Detector(scoring="elbo", **QUICK).fit(train)
    found = [roc_auc(test.labels.astype(int), -one.score_samples(test)) for one in (by_edges, by_pixels)]
    assert found[0] > found[1] + 0.01
    assert found[0] > 0.97


def test_saved_and_loaded_it_scores_the_same_bits_and_says_what_it_sees(by_edges: Detector, tmp_path: Path) -> None:
    x = noise(30, 28, 28)
    loaded = Detector.load(by_edges.save(tmp_path / "model"))
    np.testing.assert_array_equal(loaded.score_samples(x), by_edges.score_samples(x))
    assert isinstance(loaded.pipeline_.representation, Edges)
    assert loaded.model_.net.options.name == "mlp"
    assert "edges, by 8 directions" in loaded.card_


def test_a_change_of_light_changes_no_score(by_edges: Detector) -> None:
    x = digits()[0][:100] // 4
    scores = by_edges.score_samples(x)
    for lit in (3 * x + 20, x + 180):  # but for rounding
        np.testing.assert_allclose(by_edges.score_samples(lit), scores, rtol=0, atol=0.05 * scores.std())


def test_the_map_peaks_where_a_stroke_was_added_and_the_reason_is_an_edge(by_edges: Detector) -> None:
    x = digits()[0][:3].copy()
    x[:, 22:27, 1:7] = 255  # where digits leave the image empty
    for one, values in zip(by_edges.explain(x), by_edges.anomaly_maps(x), strict=True):
        assert one.map is not None
        np.testing.assert_array_equal(one.map, values)
        assert one.map.shape == (28, 28)
        assert one.peak is not None
        assert one.peak[0] >= 18
        assert one.peak[1] <= 10
        assert one.reconstruction is None
        assert "no picture" in one.missing["reconstruction"]
        assert one.residual is not None
        assert one.residual.shape == (7, 7)
        assert np.unravel_index(one.residual.argmax(), (7, 7)) in [(r, c) for r in (4, 5, 6) for c in (0, 1, 2)]
        assert abs(one.components[0].deviation) >= one.residual.max() - 1e-4  # the largest there
        assert {c.name.removeprefix("an edge lighter ") for c in one.components} <= set(DIRECTIONS)
        assert "There an edge lighter " in " ".join(sentences(one, 0.1))
        assert one.seen.shape == (28, 28, 1)
        assert one.nearest
        assert all(light.explained_away for light in one.nuisances)
        drawn(one)


def test_directions_are_named_as_one_sees_them() -> None:
    right = np.zeros((2, 28, 28), np.uint8)
    right[0, :, 14:] = 200
    right[1, 14:] = 200
    q = oriented_gradients(torch.from_numpy(right)[:, None], power=0.25).unflatten(1, SHAPE)
    strongest = [DIRECTIONS[int(o)] for o in q[:, :, 3, 3].argmax(1)]
    assert strongest == ["to the right", "downwards"]


def test_reconstructions_codes_reports_and_figures_work_or_say_why_not(
    by_edges: Detector, held_out: tuple[np.ndarray, ImageSet]
) -> None:
    test = held_out[1][np.r_[0:20, len(held_out[1]) - 20 : len(held_out[1])]]
    seen, made = by_edges.pipeline_.reconstruct(test)
    assert seen.shape == made.shape == (40, *SHAPE)
    assert np.square(seen - made).sum() < np.square(seen).sum()
    inputs = report_inputs(by_edges, evaluate(by_edges, test), title="digits", command="")
    assert inputs.inside is not None
    assert inputs.inside.inputs is None
    assert inputs.most[0].map.shape == (28, 28)  # type: ignore[union-attr]
    subject = Subject({"model": by_edges}, test)
    assert subject.codes(test).mean.shape == (40, 32)
    with pytest.raises(SettingsError, match="edges, which are no pictures"):
        subject.reconstructed(test)


def test_streamed_training_data_are_those_in_memory() -> None:
    images = open_images(noise(60, 12, 12))
    held, streamed = (
        plan(images, parse_settings({**EDGES, "memory_gb": gb, "workers": 0}), 0).source("fit") for gb in (4, 1e-9)
    )
    assert isinstance(held, Source)
    assert isinstance(streamed, StreamSource)
    rows = [torch.arange(5), torch.arange(5, 9)]
    for a, b in zip(held.batches(rows), streamed.batches(rows), strict=True):
        torch.testing.assert_close(a.x, b.x, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "settings",
    [
        {"scoring": "gradient_map"},
        {"scoring": {"name": "neighbours", "of": "pixels"}},
        {"scoring": {"name": "fusion", "scores": ["elbo", "neighbours"], "weighting": (1, 2)}},
        {"objective": "dan_vae", "measure": ()},
        {"measure": ("contrast",), "ensemble": 2},
    ],
)
def test_other_scores_and_objectives_work_on_edges(settings: dict[str, Any]) -> None:
    x = noise(60, 16, 16)
    detector = Detector(**EDGES, **{**QUICK, "epochs": 2}, **settings).fit(x)
    assert np.isfinite(detector.score_samples(noise(5, 16, 16, seed=3))).all()


def test_labelled_anomalies_can_teach() -> None:
    x, y = digits()
    few = np.concatenate([np.flatnonzero(y == 0)[:100], np.flatnonzero(y == 1)[:12]])
    detector = Detector(**EDGES, **{**QUICK, "epochs": 5}).fit(x[few], anomalies=(y[few] == 1).astype(float))
    assert np.isfinite(detector.score_samples(x[:20])).all()


def test_the_command_line_has_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.savez(tmp_path / "parts.npz", images=noise(40, 12, 12))
    words = ["train", str(tmp_path / "parts.npz"), "--representation", "oriented_gradients", "--epochs", "1"]
    for further, status in ((["--num-generated-image", "3"], 2), ([], 0)):
        with pytest.raises(SystemExit) as left:
            main([*words, *further, "--out", str(tmp_path / f"run{status}")])
        assert int(left.value.code or 0) == status
    assert "no pictures" in capsys.readouterr().err
    assert isinstance(Detector.load(tmp_path / "run0").pipeline_.representation, Edges)


def test_a_handful_of_images_will_do_and_takes_no_more_steps_than_many() -> None:
    detector = Detector.from_preset("shapes").fit(digits()[0][:5])
    assert detector.about_["training"]["steps"] <= 1000
    assert np.isfinite(detector.score_samples(digits()[0][:20])).all()
