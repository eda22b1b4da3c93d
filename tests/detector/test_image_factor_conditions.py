"""Image factors as measured conditions, and as nuisance factors of DAN-VAE, in a whole detector."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from knowngood import Detector
from knowngood.data import ImageSet
from knowngood.data.image_factors import measure
from knowngood.errors import SettingsError

VAE: dict[str, Any] = {"name": "vae", "net": "mlp", "latent_dim": 3}
QUICK: dict[str, Any] = {"representation": "pixels", "training": {"epochs": 3, "precision": "float32"}}
MEASURED: dict[str, Any] = {"measure": ("brightness",), "roles": {"brightness": ("model",)}}


def bright(n: int, seed: int = 0) -> np.ndarray:
    """(n, 8, 8) uint8 images of different brightness."""
    rng = np.random.default_rng(seed)
    return (rng.uniform(0.4, 1, n)[:, None, None] * rng.uniform(60, 200, (n, 8, 8))).astype(np.uint8)


def test_measured_conditions_are_measured_at_scoring_too() -> None:
    images = bright(120)
    detector = Detector(**QUICK, model=VAE, conditioning=MEASURED).fit(images)
    (column,) = detector.pipeline_.schema.columns
    assert column.name == "brightness"
    known = measure(ImageSet.from_arrays(images), ["brightness"])["brightness"]
    by_hand = Detector(**QUICK, model=VAE, conditioning={"roles": MEASURED["roles"]}).fit(
        images, conditions={"brightness": known}
    )
    new = bright(20, seed=1)
    light = measure(ImageSet.from_arrays(new), ["brightness"])["brightness"]
    expected = by_hand.score_samples(new, conditions={"brightness": light})
    np.testing.assert_array_equal(detector.score_samples(new), expected)
    shifted = detector.score_samples(new, conditions={"brightness": light + 0.3})
    assert not np.array_equal(shifted, expected)


def test_an_unreadable_image_is_set_aside_for_what_it_is(tmp_path: Path) -> None:
    for i, image in enumerate(bright(60)):
        Image.fromarray(image).save(tmp_path / f"{i:02}.png")
    detector = Detector(**QUICK, model=VAE, conditioning=MEASURED).fit(str(tmp_path))
    (tmp_path / "07.png").write_bytes(b"no image")
    table = detector.detect(str(tmp_path))
    assert table["error"].notna().sum() == 1
    assert table.loc[table["error"].notna(), "id"].tolist() == ["07.png"]


def test_what_cannot_be_measured_or_is_two_things_at_once_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"measure.* needs images"):
        Detector(conditioning={"measure": ("brightness",)}).fit(np.random.default_rng(0).normal(size=(60, 4)))
    dan_vae = {**VAE, "objective": {"name": "dan_vae", "nuisance_dim": 1}}
    with pytest.raises(SettingsError, match="'brightness' is a nuisance factor of the objective and a condition"):
        Detector(**QUICK, model=dan_vae, conditioning=MEASURED).fit(bright(60))


def test_a_factor_column_never_enters_the_nets() -> None:
    images, dust = bright(80), np.random.default_rng(0).normal(size=80)
    objective: dict[str, Any] = {"name": "dan_vae", "nuisance_dim": 1, "factors": ("dust",), "labelled_share": 0.5}
    detector = Detector(**QUICK, model={**VAE, "objective": objective}).fit(images, conditions={"dust": dust})
    assert detector.pipeline_.schema.columns == ()
    assert detector.model_.condition_dim == 0
    assert detector.model_.nuisance_dim == 1
    assert detector.pipeline_.score.options.name == "split_elbo"
    assert "head.weight" in detector.pipeline_.objective_state
