"""Nuisance factors: which columns they come from, who shows them, and as measured conditions of a detector."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from knowngood import Detector
from knowngood.data import ImageSet, TableSet
from knowngood.data import factor_targets as factors
from knowngood.data.image_factors import measure
from knowngood.errors import DataError, SettingsError

QUICK: dict[str, Any] = {"net": "mlp", "latent_dim": 3, "epochs": 3, "precision": "float32"}


def lit(n: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.uniform(0.4, 1, n)[:, None, None] * rng.uniform(60, 200, (n, 8, 8))).astype(np.uint8)


def test_a_column_counts_before_what_could_be_measured() -> None:
    images = ImageSet.from_arrays(lit(6))
    measured = factors.targets(images, ("brightness",))
    assert measured is not None
    np.testing.assert_array_equal(measured[:, 0], measure(images, ["brightness"])["brightness"])
    given = factors.targets(images.annotate(None, {"brightness": np.arange(6.0)}), ("brightness",))
    assert given is not None
    assert given[:, 0].tolist() == [0, 1, 2, 3, 4, 5]
    assert factors.targets(images, ()) is None


def test_a_factor_that_is_nowhere_is_refused_by_name() -> None:
    with pytest.raises(DataError, match="factor 'dust' is no column of the data"):
        factors.targets(ImageSet.from_arrays(lit(3)), ("dust",))
    with pytest.raises(DataError, match="factor 'brightness' is no column"):
        factors.targets(TableSet.from_array(np.ones((4, 2))), ("brightness",))


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_the_share_is_of_items_that_have_all_their_factors(share: float) -> None:
    rows = np.ones((100, 2))
    rows[:20, 1] = np.nan
    mask = factors.shown(rows, share, seed=3)
    assert mask.sum() == round(share * 80)
    assert not mask[:20].any()
    np.testing.assert_array_equal(mask, factors.shown(rows, share, seed=3))


def test_standardised_by_known_values_and_constants_stay() -> None:
    rows = np.array([[1.0, 5.0], [3.0, 5.0], [np.nan, 5.0]])
    scaled = factors.Standardised.fit(rows)(rows)
    np.testing.assert_allclose(scaled, [[-1, 0], [1, 0], [np.nan, 0]])
    with pytest.raises(DataError, match="unknown for every item"):
        factors.Standardised.fit(np.full((3, 1), np.nan))


def test_measured_conditions_are_measured_at_scoring_too() -> None:
    images = lit(120)
    detector = Detector(**QUICK, measure=("brightness",), roles={"brightness": ["model"]}).fit(images)
    (column,) = detector.pipeline_.schema.columns
    assert column.name == "brightness"
    known = measure(ImageSet.from_arrays(images), ["brightness"])["brightness"]
    by_hand = Detector(**QUICK, roles={"brightness": ["model"]}).fit(images, conditions={"brightness": known})
    new = lit(20, seed=1)
    light = measure(ImageSet.from_arrays(new), ["brightness"])["brightness"]
    expected = by_hand.score_samples(new, conditions={"brightness": light})
    np.testing.assert_array_equal(detector.score_samples(new), expected)
    told = detector.score_samples(new, conditions={"brightness": light + 0.3})
    assert not np.array_equal(told, expected)


def test_an_unreadable_image_is_set_aside_for_what_it_is(tmp_path: Path) -> None:
    for i, image in enumerate(lit(60)):
        Image.fromarray(image).save(tmp_path / f"{i:02}.png")
    detector = Detector(**QUICK, measure=("brightness",), roles={"brightness": ["model"]}).fit(str(tmp_path))
    (tmp_path / "07.png").write_bytes(b"no image")
    table = detector.detect(str(tmp_path))
    assert table["error"].notna().sum() == 1
    assert table.loc[table["error"].notna(), "id"].tolist() == ["07.png"]


def test_what_cannot_be_measured_or_is_two_things_at_once_is_refused() -> None:
    with pytest.raises(SettingsError, match="measure = brightness needs images"):
        Detector(measure=("brightness",)).fit(np.random.default_rng(0).normal(size=(60, 4)))
    both: dict[str, Any] = {"objective": {"name": "dan_vae", "nuisance_dim": 1}, "roles": {"brightness": ["model"]}}
    with pytest.raises(SettingsError, match="'brightness' is a nuisance factor of dan_vae and a condition at once"):
        Detector(**QUICK, measure=("brightness",), **both).fit(lit(60))


def test_a_factor_column_never_enters_the_nets() -> None:
    images, dust = lit(80), np.random.default_rng(0).normal(size=80)
    objective: dict[str, Any] = {"name": "dan_vae", "nuisance_dim": 1, "factors": ("dust",), "labelled_share": 0.5}
    detector = Detector(**QUICK, objective=objective).fit(images, conditions={"dust": dust})
    assert detector.pipeline_.schema.columns == ()
    assert detector.model_.condition_dim == 0
    assert detector.model_.nuisance_dim == 1
    assert detector.pipeline_.score.options.name == "split_elbo"
    assert "head.weight" in detector.pipeline_.objective_state
