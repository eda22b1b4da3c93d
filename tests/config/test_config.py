"""Settings: what is refused and how it is said, YAML, and the presets."""

from __future__ import annotations

from pathlib import Path

import pytest

from knowngood.config import DCVAE, Settings, choices, nearest, parse_settings, read_settings
from knowngood.config.presets import preset_names, read_preset
from knowngood.errors import SettingsError


def test_a_name_stands_for_a_choice_with_its_defaults() -> None:
    settings = parse_settings({"objective": "dcvae", "net": "mlp"})
    assert settings.objective == DCVAE()
    assert settings.net == choices("net")["mlp"]()


def test_an_unknown_setting_names_the_nearest_one() -> None:
    with pytest.raises(SettingsError, match=r"unknown setting 'batchsize'; did you mean 'batch_size'\?"):
        parse_settings({"batchsize": 3})


def test_an_unknown_choice_names_the_nearest_one() -> None:
    with pytest.raises(SettingsError, match=r"unknown objective 'dcvea'; did you mean 'dcvae'\?"):
        parse_settings({"objective": "dcvea"})


def test_of_names_equally_near_the_first_is_meant() -> None:
    with pytest.raises(SettingsError, match=r"'efficientnet_lite'; did you mean 'efficientnet_lite0'\?"):
        parse_settings({"features": "efficientnet_lite"})
    assert nearest("b", ["ba", "bz"]) == "; did you mean 'ba'? (known: ba, bz)"
    assert nearest("b", ["cz"]) == " (known: cz)"
    assert nearest("b", []) == " (known: )"


@pytest.mark.parametrize("family", ["objective", "net", "likelihood", "scoring"])
def test_an_unknown_option_of_a_choice_names_the_choice(family: str) -> None:
    name = next(iter(choices(family)))
    with pytest.raises(SettingsError, match=f"{family} '{name}' has no option 'surprise'"):
        parse_settings({family: {"name": name, "surprise": 1}})


def test_every_problem_is_reported_at_once() -> None:
    with pytest.raises(SettingsError) as caught:
        parse_settings({"epochs": 0, "lr": -1, "colour": True})
    assert [word in str(caught.value) for word in ("'epochs' = 0", "'lr' = -1", "'colour'")] == [True] * 3


def test_a_wrong_type_names_setting_and_value() -> None:
    with pytest.raises(SettingsError, match="setting 'epochs' = 'many'"):
        parse_settings({"epochs": "many"})


def test_the_bound_form_refuses_another_beta() -> None:
    with pytest.raises(SettingsError, match="tc='bound'"):
        parse_settings({"objective": {"name": "dcvae", "tc": "bound", "beta": 2}})
    assert parse_settings({"objective": {"name": "dcvae", "tc": "bound", "beta": 1}}).objective.name == "dcvae"


def test_splits_that_leave_nothing_to_fit_on_are_refused() -> None:
    with pytest.raises(SettingsError, match="must be below 1"):
        parse_settings({"select_fraction": 0.5, "calibrate_fraction": 0.5})


def test_settings_survive_json() -> None:
    settings = parse_settings({"objective": {"name": "dcvae", "beta": 3}, "net": "conv", "image_size": [64, 48]})
    assert Settings.model_validate_json(settings.model_dump_json()) == settings


def test_yaml_with_overrides(tmp_path: Path) -> None:
    path = tmp_path / "ein stellung ü.yaml"
    path.write_text("objective: {name: dcvae, beta: 3}\nepochs: 7\nema: null\n", encoding="utf-8")
    settings = read_settings(path, epochs=9)
    assert (settings.objective, settings.epochs, settings.ema) == (DCVAE(beta=3), 9, None)


def test_yaml_with_an_unknown_key(tmp_path: Path) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text("epoch: 7\n", encoding="utf-8")
    with pytest.raises(SettingsError, match=r"did you mean 'epochs'\?"):
        read_settings(path)


def test_yaml_that_is_a_list(tmp_path: Path) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text("- 1\n- 2\n", encoding="utf-8")
    with pytest.raises(SettingsError, match="found a list"):
        read_settings(path)


def test_an_empty_yaml_file_means_the_defaults(tmp_path: Path) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text("# nothing\n", encoding="utf-8")
    assert read_settings(path) == Settings()


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_is_valid_and_described(name: str) -> None:
    preset = read_preset(name)
    assert parse_settings(preset.settings).model_dump(exclude_unset=True).keys() == preset.settings.keys()
    assert preset.description


def test_the_presets_are_the_lineage_and_kinds_of_task() -> None:
    tasks = ("known-kinds", "shapes")
    lineage = [name for name in preset_names() if name not in tasks]
    assert set(preset_names()) == {*lineage, *tasks}
    assert {name: read_preset(name).settings["latent_dim"] for name in lineage} == {
        "chest-xray": 200,
        "dan-vae": 32,
        "one-class-conv": 128,
        "one-class-conv-z2": 2,
        "paper-conv": 2,
        "paper-mlp": 20,
    }


def test_a_preset_on_a_base_changes_only_what_it_names() -> None:
    base, variant = read_preset("one-class-conv").settings, read_preset("one-class-conv-z2").settings
    assert {name for name in base if base[name] != variant[name]} == {"latent_dim"}


def test_an_unknown_preset_names_the_nearest_one() -> None:
    with pytest.raises(SettingsError, match=r"did you mean 'paper-mlp'\?"):
        read_preset("paper_mlp")
