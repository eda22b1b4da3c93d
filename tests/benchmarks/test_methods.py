"""What is measured on a cell: a detector as its user has it, baselines beside it, and settings over one another."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import protocols
from benchmarks.methods import Method, baselines, measure
from benchmarks.protocols import Cell, CellImages, resolve
from benchmarks.recipes import INFER
from benchmarks.settings import chosen_settings, merged, shaped
from knowngood import Detector
from knowngood.data import open_dataset
from knowngood.detector.decide import limit
from knowngood.errors import SettingsError
from knowngood.evaluation.evaluate import evaluate
from protocol_cells import SIZE, TINY, ten_classes

CVAE = Method("cvae", merged(TINY, {"model": {"name": "vae", "objective": "cvae"}}, INFER))


@pytest.fixture(scope="module")
def digits() -> tuple[Cell, CellImages]:
    cell = protocols.leave_one_out("digits", ["9"], train_size=400)[0]
    return cell, resolve(cell, open_dataset("digits"))


@pytest.mark.slow
def test_a_detector_is_measured_as_a_user_would(digits: tuple[Cell, CellImages]) -> None:
    cell, parts = digits
    found = measure(CVAE, cell, parts)
    detector = Detector.from_settings(CVAE.on(cell)).fit(parts.train)
    by_hand = evaluate(detector, parts.test, unknown="infer")
    assert found["metrics"] == by_hand.metrics
    assert found["threshold"] == limit(detector.pipeline_)
    assert (found["metrics"]["normals"], found["metrics"]["anomalies"]) == (403, 46)
    assert found["calibration_normals"] == len(detector.pipeline_.calibration)
    assert json.loads(json.dumps(found)) == found


@pytest.mark.slow
def test_the_class_of_a_test_image_is_never_told(digits: tuple[Cell, CellImages]) -> None:
    cell, parts = digits
    told = parts._replace(test=parts.test.replace(conditions={"class": np.full(len(parts.test), "0")}))
    assert "class" not in parts.test.conditions
    assert measure(CVAE, cell, told)["metrics"] != measure(CVAE, cell, parts)["metrics"]


@pytest.mark.slow
def test_calibration_images_replace_those_set_aside() -> None:
    [cell] = protocols.lineage("stand-in", "3", size=SIZE)
    parts = resolve(cell, ten_classes())
    assert parts.calibrate is not None
    n = len(parts.calibrate)
    learnt = measure(Method("vae", TINY), cell, parts)
    assert learnt["calibration_normals"] == n
    assert learnt["fit"]["data"]["fit"] == SIZE
    for method in baselines(names=("low contrast", "PPCA 32")):
        assert measure(method, cell, parts)["calibration_normals"] == n


@pytest.mark.parametrize("name", ["low contrast", "unusual contrast", "pixel 5-NN", "PPCA 32"])
def test_baselines_are_calibrated_on_normals_they_did_not_see(name: str, digits: tuple[Cell, CellImages]) -> None:
    cell, parts = digits
    found = measure(Method(name, baseline=name), cell, parts)
    assert found["calibration_normals"] == 80
    assert 0 < found["metrics"]["false_alarm_rate"] < 0.2
    assert found["metrics"]["auroc"] > {"pixel 5-NN": 0.9, "PPCA 32": 0.7}.get(name, 0)
    assert json.loads(json.dumps(found)) == found


def test_settings_stack_up(tmp_path: Path) -> None:
    config = tmp_path / "settings.yaml"
    config.write_text("model: {name: vae, latent_dim: 7}\ntraining: {epochs: 3, lr: 0.5}\nalpha: 0.2\n")
    preset = chosen_settings("one-class-conv")
    found = chosen_settings("one-class-conv", config, epochs=5, device=None)
    assert found["training"] == {**preset["training"], "epochs": 5, "lr": 0.5}
    assert found["model"] == {**preset["model"], "latent_dim": 7}
    assert found["alpha"] == 0.2
    assert "device" not in found
    assert chosen_settings("one-class-conv", config, device="gpu")["training"]["epochs"] == 3


def test_a_choice_of_another_name_takes_no_option_along() -> None:
    below = {"model": {"name": "vae", "latent_dim": 7, "net": {"name": "mlp", "hidden": [8]}}, "score": "elbo"}
    assert merged(below, {"model": {"name": "memory_bank", "k": 2}})["model"] == {"name": "memory_bank", "k": 2}
    over = merged(below, {"model": {"name": "vae", "net": {"name": "conv"}}, "score": {"name": "elbo", "samples": 3}})
    assert over["model"] == {"name": "vae", "latent_dim": 7, "net": {"name": "conv"}}
    assert over["score"] == {"name": "elbo", "samples": 3}
    assert below["model"]["net"] == {"name": "mlp", "hidden": [8]}, "what lies below is left as it was"


def test_pixels_are_shaped_unless_the_settings_say_otherwise() -> None:
    pixels = {"image_size": 64, "grey": True}
    assert shaped({"representation": "hog"}, pixels)["representation"] == {"name": "hog", **pixels}
    own = {"representation": {"name": "pixels", "image_size": 32}}
    assert shaped(own, pixels)["representation"] == {"name": "pixels", "image_size": 32, "grey": True}
    assert shaped({"representation": "auto"}, pixels) == {"representation": "auto"}


def test_unknown_baselines_are_refused() -> None:
    with pytest.raises(SettingsError, match="did you mean 'PPCA 32'"):
        Method("x", baseline="PPCA 23")
