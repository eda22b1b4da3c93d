"""The benchmark of drift: what lies outside of its range, which dimension is whose, and its tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import drift
from benchmarks.baselines import PPCA
from benchmarks.drift_data import WORLDS, changed, factor_values, images_of
from benchmarks.drift_models import RotatedPPCA, matched, not_applicable, vae_settings, varimax
from knowngood.config import parse_settings
from knowngood.data.image_factors import rotation
from knowngood.errors import SettingsError

COUNTS = {"train": 40, "calibrate": 20, "normal": 20, "drifted": 20, "factor": 20, "defect": 20}


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.mark.parametrize("name", list(WORLDS))
def test_a_factor_leaves_its_range_where_it_is_said_to_and_nowhere_else(name: str, rng: np.random.Generator) -> None:
    world = WORLDS[name]
    for factor, column in factor_values(world, 200, rng, world.harmless).items():
        low, high = world.inside[factor]
        if factor not in world.harmless:
            assert ((low <= column) & (column <= high)).all()
            continue
        below, above = world.outside[factor]
        assert below[1] < low
        assert high < above[0]
        is_below = (below[0] <= column) & (column <= below[1])
        assert (is_below | ((above[0] <= column) & (column <= above[1]))).all()
        assert 0.3 < is_below.mean() < 0.7


def test_in_every_world_factors_apart_from_the_harmless_ones_move() -> None:
    for world in WORLDS.values():
        assert world.moved not in world.harmless
        assert {*world.harmless, world.moved} <= set(world.outside)
        assert {*world.harmless, world.moved} <= set(world.inside)


def test_images_turn_counter_clockwise_and_change_about_their_mean() -> None:
    bar = np.full((1, 32, 32, 1), 40, np.uint8)
    bar[0, 14:18, 6:26] = 120
    turned = changed(bar, {"rotation": np.array([20.0])})
    assert rotation(turned / 255.0) == pytest.approx(20, abs=1)
    weaker = changed(bar, {"contrast": np.array([0.5])})
    assert weaker.mean() == pytest.approx(bar.mean(), abs=0.5)
    assert np.ptp(weaker) == 40
    assert (changed(bar, {"brightness": np.array([1.5])}) == 1.5 * bar).all()
    assert (changed(bar, {}) == bar).all()


def test_images_have_their_factors_as_columns_and_forms_are_drawn_apart() -> None:
    world = WORLDS["factors"]
    test, again, dev = (images_of(world, form, 0, COUNTS, 16, True) for form in ("test", "test", "dev"))  # type: ignore[arg-type]
    assert {part: len(images) for part, images in test.items()} == COUNTS
    assert test["train"].read(3).shape == (16, 16, 1)
    assert set(test["train"].conditions) == {*world.inside, "condition"}
    assert test["train"].fingerprint() == again["train"].fingerprint() != dev["train"].fingerprint()
    centre = [
        float((np.arange(16) * test["factor"].read(i)[..., 0]).sum() / test["factor"].read(i).sum()) for i in (0, 1)
    ]
    x = test["factor"].conditions["x"][:2]
    assert np.array(centre) == pytest.approx((x + 16) / 4, abs=1)  # 32 positions of a window of 33 pixels, at 16 px


def test_varimax_undoes_a_rotation_of_loadings_that_are_each_on_their_own_pixels(rng: np.random.Generator) -> None:
    simple = np.kron(np.eye(3), rng.uniform(0.5, 1, (6, 1)))
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    found = varimax(simple @ turn)
    assert found.T @ found == pytest.approx(np.eye(3))
    assert np.sort(np.abs(turn @ found), axis=0) == pytest.approx(np.diag([0, 0, 1]) @ np.ones((3, 3)), abs=1e-6)


def test_rotated_ppca_is_ppca_and_rotation_leaves_the_sum(rng: np.random.Generator) -> None:
    x = rng.normal(size=(300, 12)) * np.geomspace(3, 0.2, 12)
    found = RotatedPPCA(4).fit(x, np.zeros(300)).surprise(x, np.zeros(300))
    whole = found.dims.sum(1) + found.rest
    plain = PPCA(4).fit(x).score(x)
    assert whole - whole.mean() == pytest.approx(plain - plain.mean())
    assert np.cov(found.codes.T, bias=True) == pytest.approx(np.eye(4), abs=1e-8)


def test_rotated_ppca_is_about_the_mean_of_each_condition(rng: np.random.Generator) -> None:
    c = np.repeat(["a", "b"], 100)
    x = rng.normal(size=(200, 6)) + 50.0 * (c == "b")[:, None]
    found = RotatedPPCA(2).fit(x, c).surprise(x, c)
    assert found.codes[c == "b"].mean(0) == pytest.approx([0, 0], abs=1e-8)
    assert np.median(found.rest) < 12


def test_dimensions_are_matched_one_to_one_also_where_they_fold(rng: np.random.Generator) -> None:
    factors = {"x": rng.uniform(-1, 1, 400), "y": rng.uniform(-1, 1, 400)}
    codes = np.stack([rng.normal(size=400), factors["y"], factors["x"] ** 2], axis=1)  # x² has no correlation with x
    assert matched(codes, factors) == {"x": 2, "y": 1}


def test_the_dimensions_of_dan_vae_are_its_last_ones(rng: np.random.Generator) -> None:
    world = WORLDS["mnist"]
    columns = {name: rng.uniform(size=200) for name in world.inside}
    codes = np.stack([rng.normal(size=200), columns["rotation"], columns["brightness"], columns["contrast"]], axis=1)
    assert drift.dimensions(world, codes, columns, nuisance=2) == ({2, 3}, 1)
    assert drift.dimensions(world, codes, columns, nuisance=0) == ({2, 3}, 1)


@pytest.mark.parametrize("model", ["vae", "cvae", "dcvae", "dan_vae"])
def test_the_condition_is_given_to_conditional_models_alone(model: str) -> None:
    settings = parse_settings(vae_settings(model, WORLDS["mnist"], 0, 1))
    assert bool((settings.conditioning.roles or {})["condition"]) == (model in ("cvae", "dcvae"))
    assert getattr(settings.model.objective, "factors", None) == (  # type: ignore[union-attr]
        ("brightness", "contrast") if model == "dan_vae" else None
    )


def test_numbers_compare_drifted_images_with_drifted_ones() -> None:
    scores = {"calibrate": np.arange(99.0), "normal": np.arange(0, 100, 5.0), "drifted": np.full(10, 200.0)}
    found = drift.numbers({**scores, "factor": np.full(10, 300.0), "defect": np.full(10, 100.0)})
    assert found == {"factor": 1, "defect": 0, "false_alarms": 1, "in_range": pytest.approx(1 / 20)}


@pytest.mark.slow
def test_a_second_run_measures_nothing_again_and_what_does_not_apply_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[tuple[str, str]] = []

    def measure(model: str, world: Any, *rest: Any) -> dict[str, Any]:
        seen.append((model, world.name))
        one = {"factor": 0.7, "defect": 0.6, "false_alarms": 0.2, "in_range": 0.05}
        return {"scores": dict.fromkeys(drift.SCORES, one), "names_factor": 0.4, "names_drift": 0.3, "seconds": 1}

    monkeypatch.setattr(drift, "measure", measure)
    monkeypatch.setattr(drift, "code_version", lambda: "0")
    given: dict[str, Any] = {"worlds": ("mnist", "bottle"), "models": ("cvae", "features"), "out": tmp_path}
    first = drift.main(**given)
    assert seen == [("cvae", "mnist"), ("features", "bottle")] * 2
    assert drift.main(**given) == first
    assert len(seen) == 4
    shown = capsys.readouterr().out
    assert "cvae      plain          0.700 ± 0.000  n/a" in shown
    assert "n/a: bottle, cvae: no condition: it is vae" in shown
    assert (tmp_path / "table.csv").exists()


def test_unknown_names_are_refused_and_photographs_alone_have_features(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="unknown name 'bottel'; did you mean 'bottle'"):
        drift.main(worlds=("bottel",), out=tmp_path)
    assert not_applicable("features", WORLDS["tile"]) is None
    assert not_applicable("features", WORLDS["mnist"]) is not None
