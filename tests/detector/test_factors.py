"""Measured conditions, and factors that an objective learns, in a detector."""

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
from knowngood.models.objectives.dan_vae import DANVAESourceObjective


def illuminated(n: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.uniform(0.4, 1, n)[:, None, None] * rng.uniform(60, 200, (n, 8, 8))).astype(np.uint8)


def detector(objective: Any = "cvae", **conditioning: Any) -> Detector:
    return Detector(
        "pixels",
        {"name": "vae", "net": "mlp", "latent_dim": 3, "objective": objective},
        conditioning=conditioning,
        training={"epochs": 3, "precision": "float32"},
    )


@pytest.mark.slow
def test_measured_conditions_are_measured_at_scoring_too() -> None:
    images = illuminated(120)
    fitted = detector(measure=("brightness",), roles={"brightness": ["model"]}).fit(images)
    (column,) = fitted.pipeline_.schema.columns
    assert column.name == "brightness"
    known = measure(ImageSet.from_arrays(images), ["brightness"])["brightness"]
    by_hand = detector(roles={"brightness": ["model"]}).fit(images, conditions={"brightness": known})
    new = illuminated(20, seed=1)
    values = measure(ImageSet.from_arrays(new), ["brightness"])["brightness"]
    expected = by_hand.score_samples(new, conditions={"brightness": values})
    np.testing.assert_array_equal(fitted.score_samples(new), expected)
    stated = fitted.score_samples(new, conditions={"brightness": values + 0.3})
    assert not np.array_equal(stated, expected)


@pytest.mark.slow
def test_an_unreadable_image_is_set_aside_for_what_it_is(tmp_path: Path) -> None:
    for i, image in enumerate(illuminated(60)):
        Image.fromarray(image).save(tmp_path / f"{i:02}.png")
    fitted = detector(measure=("brightness",), roles={"brightness": ["model"]}).fit(str(tmp_path))
    (tmp_path / "07.png").write_bytes(b"no image")
    table = fitted.detect(str(tmp_path))
    assert table["error"].notna().sum() == 1
    assert table.loc[table["error"].notna(), "id"].tolist() == ["07.png"]


def test_what_cannot_be_measured_or_is_two_things_at_once_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"brightness.* images"):
        Detector(conditioning={"measure": ("brightness",)}).fit(np.random.default_rng(0).normal(size=(60, 4)))
    both = detector({"name": "dan_vae", "nuisance_dim": 1}, measure=("brightness",), roles={"brightness": ["model"]})
    with pytest.raises(SettingsError, match="'brightness' is a nuisance factor of the objective and a condition"):
        both.fit(illuminated(60))


def test_a_factor_column_never_enters_the_nets() -> None:
    images, dust = illuminated(80), np.random.default_rng(0).normal(size=80)
    objective = {"name": "dan_vae", "nuisance_dim": 1, "factors": ("dust",), "labelled_share": 0.5}
    fitted = detector(objective).fit(images, conditions={"dust": dust})
    assert fitted.pipeline_.schema.columns == ()
    assert fitted.pipeline_.model.condition_dim == 0
    assert fitted.pipeline_.model.nuisance_dim == 1


@pytest.mark.parametrize("told", [("B", "C"), ("B", "new"), (None, None)])
def test_factors_of_labelled_anomalies_mean_what_they_mean_of_normal_items(told: tuple[str | None, ...]) -> None:
    images, seen = illuminated(80), []
    lamp = np.array(["A", "B", "C"], dtype=object)[np.arange(80) % 3]
    lamp[:2] = told
    known = {"A": [1, 0, 0], "B": [0, 1, 0], "C": [0, 0, 1]}
    expected = [known.get(value, [np.nan] * 3) for value in told]
    objective = {"name": "dan_vae", "nuisance_dim": 1, "factors": ("lamp",), "variant": "source"}

    class Seen(DANVAESourceObjective):
        def anomaly_loss(self, model, anomalies, ctx, shift):
            seen.append(anomalies.factors)
            return super().anomaly_loss(model, anomalies, ctx, shift)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("knowngood.models.objectives.dan_vae.DANVAESourceObjective", Seen)
        detector(objective).fit(images, conditions={"lamp": lamp}, anomalies=np.arange(80) < 2)
    rows = [row for batch in seen for row in batch.tolist()]
    assert rows
    assert all(any(np.array_equal(row, one, equal_nan=True) for one in expected) for row in rows)


def test_a_factor_may_rise_from_item_to_item() -> None:
    """A column that would be a serial number as a condition: wear, or a temperature that climbs."""
    images = ImageSet.from_arrays(illuminated(60), conditions={"wear": np.arange(60)})
    objective = {"name": "dan_vae", "nuisance_dim": 1, "factors": ("wear",)}
    fitted = detector(objective).fit(images)
    assert fitted.pipeline_.objective_state["head.weight"].shape == (1, 1)
    detector(objective).fit(illuminated(60), conditions={"wear": np.arange(60)})
