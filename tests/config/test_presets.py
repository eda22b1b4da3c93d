"""The presets, and settings laid over each other."""

from __future__ import annotations

from typing import Any

import pytest

from knowngood.config import DCVAE, Elbo, FactorVAE, Fusion, HOGOptions, Neighbours, VAEOptions, parse_settings
from knowngood.config.parsing import overlay
from knowngood.config.presets import preset_names, read_preset
from knowngood.errors import SettingsError

TASKS = {"inspection", "known-kinds", "shapes"}


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_is_valid(name: str) -> None:
    preset = read_preset(name)
    assert parse_settings(preset).model_fields_set == preset.keys()


@pytest.mark.parametrize("name", sorted(set(preset_names()) - TASKS))
def test_published_models_are_trained_as_published_and_by_no_default_of_pixels(name: str) -> None:
    preset = read_preset(name)
    assert {"batch_size", "lr", "beta2", "ema"} <= preset["training"].keys()
    assert parse_settings(preset).training.beta2 == 0.999


def test_the_presets_are_published_models_and_recipes_for_tasks() -> None:
    assert set(preset_names()) >= TASKS
    published = {name: read_preset(name)["model"] for name in preset_names() if name not in TASKS}
    assert {name: model["latent_dim"] for name, model in published.items()} == {
        "chest-xray": 200,
        "dan-vae": 32,
        "one-class-conv": 128,
        "one-class-conv-z2": 2,
        "paper-conv": 2,
        "paper-mlp": 20,
        "paper-mlp-wide": 20,
    }
    assert {model["name"] for model in published.values()} == {"vae"}


def test_the_recipes_for_tasks() -> None:
    shapes, kinds, inspection = (parse_settings(read_preset(name)) for name in ("shapes", "known-kinds", "inspection"))
    assert shapes.representation == kinds.representation == HOGOptions()
    assert shapes.score == Fusion(scores=(Elbo(samples=0), Neighbours(of="items")))
    near = Neighbours(of="latent", cosine=True, coreset=None)
    assert kinds.score == Fusion(scores=(Elbo(samples=0), near))
    assert isinstance(kinds.model, VAEOptions)
    assert (kinds.model.prior, kinds.model.class_aware, kinds.conditioning.unknown) == ("separated", 10, "infer")
    names = [getattr(inspection, field).name for field in ("representation", "model", "score")]
    assert names == ["features", "patch_gaussian", "patch_distance"]


def test_a_preset_on_a_base_changes_only_what_it_names() -> None:
    base, variant = read_preset("one-class-conv"), read_preset("one-class-conv-z2")
    assert {name for name in base if base[name] != variant[name]} == {"model"}
    assert variant["model"] == {**base["model"], "latent_dim": 2}
    paper = parse_settings(read_preset("paper-conv"))
    assert paper.model.objective == DCVAE(beta=2)
    assert (paper.representation.pad, paper.model.net.channels) == (None, (32, 64))
    hidden = [parse_settings(read_preset(name)).model.net.hidden for name in ("paper-mlp", "paper-mlp-wide")]
    assert hidden == [(512, 256), (1024, 512, 256)]


@pytest.mark.parametrize("model", [{"objective": "rf_vae"}, VAEOptions(objective=FactorVAE(gamma=2))])
def test_a_preset_may_set_something_for_one_objective_alone(model: Any) -> None:
    assert read_preset("paper-mlp", {"model": model})["model"]["latent_dim"] == 50
    assert read_preset("paper-mlp-wide", {"model": model})["model"]["latent_dim"] == 20
    assert read_preset("paper-mlp", {"model": "vae"}) == read_preset("paper-mlp")


def test_an_unknown_preset_names_the_nearest_one() -> None:
    with pytest.raises(SettingsError, match=r"did you mean 'paper-mlp'\?"):
        read_preset("paper_mlp")


@pytest.mark.parametrize(
    ("below", "above", "expected"),
    [
        # The same choice keeps its options, another one replaces them.
        (
            {"model": {"name": "vae", "latent_dim": 8, "objective": {"name": "dcvae", "beta": 2}}},
            {"model": {"name": "vae", "objective": {"name": "dcvae", "density": "mws"}}},
            {"model": {"name": "vae", "latent_dim": 8, "objective": {"name": "dcvae", "beta": 2, "density": "mws"}}},
        ),
        (
            {"model": {"name": "vae", "objective": {"name": "dcvae", "beta": 2}}},
            {"model": {"name": "vae", "objective": "cvae"}},
            {"model": {"name": "vae", "objective": "cvae"}},
        ),
        ({"model": {"name": "vae", "latent_dim": 8}}, {"model": "memory_bank"}, {"model": "memory_bank"}),
        ({"model": "vae"}, {"model": {"latent_dim": 8}}, {"model": {"name": "vae", "latent_dim": 8}}),
        ({"representation": {"name": "hog", "crop": 8}}, {"representation": "auto"}, {"representation": "auto"}),
        # Groups are merged, plain values and columns replaced.
        (
            {"training": {"epochs": 3, "lr": 0.1}, "conditioning": {"roles": {"a": ["model"]}}},
            {"training": {"epochs": 4}, "conditioning": {"roles": {"b": ["infer"]}}, "alpha": 0.1},
            {"training": {"epochs": 4, "lr": 0.1}, "conditioning": {"roles": {"b": ["infer"]}}, "alpha": 0.1},
        ),
        ({"score": ["elbo", "kl"]}, {"score": ["elbo"]}, {"score": ["elbo"]}),
    ],
)
def test_settings_over_settings(below: dict[str, Any], above: dict[str, Any], expected: dict[str, Any]) -> None:
    assert overlay(below, above) == expected
