"""What `benchmark paper` measures when classes are told."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.random import default_rng

from benchmarks.paper_told import other_set, released, told, under_each
from benchmarks.protocols import CellImages
from knowngood import Detector
from knowngood.data import ImageSet
from knowngood.detector.items import items_to_score
from knowngood.metrics import roc_auc


@pytest.mark.parametrize("seed", range(5))
def test_the_released_auc_is_a_half_for_every_score(seed: int) -> None:
    rng = default_rng(seed)
    classes = rng.permutation(np.repeat(list("abcd"), [30, 25, 40, 28]))
    scores = rng.normal(size=len(classes)) + 3 * (classes == "b") - 2 * (classes == "c")
    even = np.concatenate([np.flatnonzero(classes == name)[:25] for name in "abcd"])
    separated = roc_auc((classes[even] == "b").astype(float), scores[even])
    assert separated > 0.95
    assert released(scores, classes) == pytest.approx(0.5, abs=1e-12)


def images(n: int, classes: np.ndarray, seed: int) -> ImageSet:
    """Bright left halves are class 0, bright right halves class 1."""
    rng = default_rng(seed)
    pixels = rng.integers(0, 40, (n, 8, 8), dtype=np.uint8)
    for i, name in enumerate(classes):
        pixels[i, :, 4 * int(name) : 4 * int(name) + 4] += 200
    return ImageSet.from_arrays(pixels, conditions={"class": classes})


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["vae", "cvae"])
def test_a_wrong_class_is_found_by_the_mismatch(objective: str) -> None:
    classes = np.array(["0", "1"] * 100)
    vae = {"name": "vae", "net": {"name": "mlp", "hidden": [16]}, "latent_dim": 3, "objective": objective}
    options = {"conditioning": {"unknown": "infer"}, "training": {"epochs": 40}, "device": "cpu"}
    detector = Detector("pixels", vae, "elbo", random_state=0, **options).fit(images(200, classes, 0))
    labels = np.repeat([0.0, 1.0], [100, 20])
    test = images(120, classes[:120], 1).replace(conditions={}, labels=labels)
    parts = CellImages(test, test, None, classes[:120])
    found = told(detector, parts)
    if objective == "vae":
        assert set(found.values()) == {None}
        return
    assert found["wrong_mismatch"] == pytest.approx(1.0, abs=1e-3)
    assert found["released"] == pytest.approx(0.5, abs=1e-12)
    seen = under_each(detector.pipeline_, items_to_score(detector, test))
    assert seen.labels == ["0", "1"]
    assert (seen.e.argmin(1) == classes[:120].astype(int)).mean() > 0.99
    assert other_set(detector, parts._replace(test=test.replace(name="digits"))) in (None, pytest.approx(1.0))
