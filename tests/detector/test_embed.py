"""`Detector.transform`: one vector an item, as the model's own parts give it."""

from __future__ import annotations

import doctest
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from knowngood import Detector
from knowngood.data import TableSet
from knowngood.data.open import open_images
from knowngood.detector import estimator
from knowngood.errors import DataError
from tests.patch_models import TinyBackbone

ROWS = np.random.default_rng(0).normal(size=(60, 4))
IMAGES = np.random.default_rng(0).integers(0, 255, (40, 32, 32, 3), np.uint8)
VAE = {"name": "vae", "latent_dim": 3, "net": {"name": "mlp", "hidden": [16]}}


@pytest.fixture(scope="module")
def with_kinds() -> Detector:
    kinds = np.repeat(["a", "b"], 30)
    model = {**VAE, "objective": "cvae"}
    return Detector("table", model, training={"epochs": 3}).fit(ROWS, conditions={"kind": kinds})


def on_features(model: str, **settings) -> Detector:
    representation = {"name": "features", "backbone": "own", "image_size": [32, 32]}
    return Detector(representation, model, alpha=0.1, **settings).fit(IMAGES, backbone=TinyBackbone())


def seen_of(detector: Detector, items: Any) -> torch.Tensor:
    representation = detector.pipeline_.representation
    native, errors = representation.read(items, np.arange(len(items)))
    assert not errors
    return representation.scale(torch.from_numpy(native)).float()


def features_of(detector: Detector, images: np.ndarray) -> torch.Tensor:
    return seen_of(detector, open_images(images))


def test_a_vae_gives_the_posterior_means_of_its_encoder(with_kinds: Detector) -> None:
    kinds = {"kind": np.array(list("abababa"))}
    found = with_kinds.transform(ROWS[:7], conditions=kinds)
    x = seen_of(with_kinds, TableSet.from_array(ROWS[:7]))
    c = torch.from_numpy(with_kinds.pipeline_.schema.expand(kinds, 7).c)
    with torch.no_grad():
        expected = with_kinds.model_.encode(x, c).mean.numpy()
    assert found.dtype == np.float32
    assert found.shape == (7, 3)
    assert np.allclose(found, expected, atol=1e-6)


def test_an_unknown_condition_is_one_of_those_that_there_are(with_kinds: Detector) -> None:
    found = with_kinds.transform(ROWS[:9], unknown="infer")
    under = np.stack([with_kinds.transform(ROWS[:9], conditions={"kind": np.repeat(kind, 9)}) for kind in "ab"])
    assert np.isclose(found, under, atol=1e-6).all(axis=2).any(axis=0).all()
    with pytest.raises(DataError, match="kind"):
        with_kinds.transform(ROWS[:9], unknown="error")


@pytest.mark.slow
@pytest.mark.parametrize("model", ["patch_gaussian", "shared_gaussian", "memory_bank"])
def test_features_are_averaged_over_the_locations(model: str) -> None:
    detector = on_features(model)
    found = detector.transform(IMAGES[:5])
    expected = features_of(detector, IMAGES[:5]).mean((2, 3)).numpy()
    assert np.allclose(found, expected, atol=1e-5)
    assert len(detector.get_feature_names_out()) == found.shape[1]


@pytest.mark.slow
def test_ignored_locations_do_not_count() -> None:
    box = [[0, 0], [0.5, 0], [0.5, 1], [0, 1]]
    detector = on_features("patch_gaussian", data={"ignore": [box]})
    blank = IMAGES[:5].copy()
    blank[:, :, :16] = 0  # as the model sees them
    seen = features_of(detector, blank)
    ignored = detector.model_.ignored[0].reshape(seen.shape[2:])
    assert ignored.any()
    found = detector.transform(IMAGES[:5])
    assert np.allclose(found, seen[:, :, ~ignored].mean(2).numpy(), atol=1e-5)
    assert np.array_equal(found, detector.transform(blank))


@pytest.mark.slow
def test_hog_and_tables_are_as_they_are_compared(tmp_path) -> None:
    hog = Detector("hog", "memory_bank").fit(IMAGES)
    assert np.allclose(hog.transform(IMAGES[:5]), features_of(hog, IMAGES[:5]).flatten(1).numpy(), atol=1e-6)
    table = Detector("table", "memory_bank").fit(ROWS)
    order = np.random.default_rng(1).permutation(60)
    assert np.array_equal(table.transform(ROWS[order]), table.transform(ROWS)[order])
    hog.save(tmp_path / "hog")
    assert np.array_equal(Detector.load(tmp_path / "hog").transform(IMAGES), hog.transform(IMAGES))


def test_a_file_that_cannot_be_read_is_refused_by_name(tmp_path) -> None:
    hog = Detector("hog", "memory_bank").fit(IMAGES)
    (tmp_path / "torn.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"torn\.png"):
        hog.transform(tmp_path)
    with pytest.raises(NotFittedError):
        Detector().transform(IMAGES)


def test_a_pipeline_classifies_the_vectors() -> None:
    kind = np.arange(60) % 2
    rows = ROWS + 6 * kind[:, None]
    pipeline = make_pipeline(Detector("table", "memory_bank"), LogisticRegression()).fit(rows[:40], kind[:40])
    assert np.array_equal(pipeline.predict(rows[40:]), kind[40:])


def test_a_frame_has_the_rows_of_what_was_given() -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(ROWS, columns=list("wxyz"), index=np.arange(100, 160))
    found = Detector("table", "memory_bank").set_output(transform="pandas").fit_transform(frame)
    assert found.index.equals(frame.index)
    assert list(found.columns) == ["detector0", "detector1", "detector2", "detector3"]


def test_the_example_of_the_docstring_holds() -> None:
    (example,) = doctest.DocTestFinder().find(estimator.Detector.transform, "transform", globs={})
    assert doctest.DocTestRunner().run(example).failed == 0
