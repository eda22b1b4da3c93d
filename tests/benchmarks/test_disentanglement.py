"""The disentanglement benchmark: what it draws, what it says of codes that are known, runs that stop and go on."""

from __future__ import annotations

import csv
import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import disentanglement
from benchmarks import factor_metrics as metrics
from benchmarks.disentanglement import METHODS, make_model, settings_of, vae_options
from benchmarks.factor_metrics import Dci
from benchmarks.grid import ALL, WITHIN, Encode, GridSource, drawn, encoder, judge, metrics_of
from knowngood.data.datasets.factors import COUNT, GRID, factor_codes, render
from knowngood.errors import SettingsError, TrainingError
from knowngood.training import train

CPU = torch.device("cpu")
ROWS = np.random.default_rng(3).choice(COUNT, 640, replace=False)
ITEMS, GROUPS = 400, 100
STEPS = 6


# Training data -------------------------------------------------------------------------------------------------------


def test_batches_are_drawn_as_the_renderer_draws_them() -> None:
    source = GridSource(ROWS, 16)
    places = [torch.tensor([5, 0, 639]), torch.tensor([7])]
    for index, batch in zip(places, source.to(CPU).batches(places), strict=True):
        rows = ROWS[index.numpy()]
        assert np.array_equal(batch.x.numpy(), render(rows, 16).transpose(0, 3, 1, 2) / np.float32(255))
        assert batch.x.dtype == torch.float32
        assert batch.c is not None
        assert np.array_equal(batch.c.argmax(1).numpy(), factor_codes(rows)[:, 0])
        assert batch.c.sum(1).eq(1).all()
        assert torch.equal(batch.stratum, batch.c.argmax(1))
        assert torch.equal(batch.index, index)
        assert batch.label.eq(0).all()


def test_a_source_knows_how_many_there_are_of_each_shape() -> None:
    source = GridSource(ROWS, 16)
    assert len(source) == 640
    assert source.facts.stratum_counts.tolist() == np.bincount(factor_codes(ROWS)[:, 0]).tolist()
    assert GridSource(ROWS[:0], 16).facts.n_strata == 3


@pytest.mark.slow
@pytest.mark.parametrize(("steps", "images", "epochs"), [(60, 3840, 1), (10_000, 640_000, 1), (300_000, 640_000, 30)])
def test_a_run_has_the_steps_asked_for(steps: int, images: int, epochs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """And learns from images of the whole grid, none twice in an epoch; another seed, other images."""
    seen: list[np.ndarray] = []

    class Enough(Exception):
        pass

    def look(model: Any, objective: Any, source: GridSource, *rest: Any, **options: Any) -> None:
        seen.append(source.rows)
        raise Enough

    monkeypatch.setattr(disentanglement, "train", look)
    settings = settings_of("vae", steps, 32)
    for seed in (0, 1):
        with pytest.raises(Enough):
            disentanglement.run(settings, seed, steps, 32, ITEMS, GROUPS, Path("nowhere"))
    assert settings.training.epochs == epochs
    assert [len(rows) for rows in seen] == [images, images]
    assert images * epochs == steps * settings.training.batch_size
    assert len(np.unique(seen[0])) == images
    assert not np.array_equal(seen[0], seen[1])
    assert (factor_codes(seen[0]).max(axis=0) == np.array(GRID) - 1).all()


# Settings ------------------------------------------------------------------------------------------------------------


def test_weights_are_the_literature_s_unless_given() -> None:
    weights = {name: vae_options(settings_of(name, 100, 32)).objective.model_dump() for name in METHODS}
    assert weights["factor_vae"]["gamma"] == 35
    assert (weights["tc_vae"]["beta"], weights["dcvae"]["beta"], weights["beta_vae"]["beta"]) == (6, 6, 4)
    assert (weights["factor_vae"]["discriminator_layers"], weights["factor_vae"]["discriminator_width"]) == (6, 1000)
    other = {name: vae_options(settings_of(name, 100, 32, gamma=7, beta=3)).objective.model_dump() for name in METHODS}
    assert other["factor_vae"]["gamma"] == 7
    assert [other[name]["beta"] for name in ("tc_vae", "dcvae", "beta_vae")] == [3, 3, 3]
    assert other["tc_vae"]["gamma"] == 1
    assert vae_options(settings_of("dcvae", 100, 32, beta=0)).objective.model_dump()["beta"] == 0


def test_nothing_but_the_objective_differs_between_methods() -> None:
    chosen = [settings_of(name, 100, 32) for name in METHODS]
    rest = [settings.model_dump(exclude={"model": {"objective"}}) for settings in chosen]
    assert all(settings == rest[0] for settings in rest)
    assert len({vae_options(settings).objective.name for settings in chosen}) == len(METHODS)
    training, model = rest[0]["training"], rest[0]["model"]
    assert training["ema"] is training["clip"] is training["patience"] is None
    assert (model["latent_dim"], training["batch_size"], model["likelihood"]["name"]) == (10, 64, "bernoulli")


def test_long_runs_take_the_literature_s_rate() -> None:
    rates = [settings_of("vae", steps, 32).training.lr for steps in (10_000, 90_000, 100_000, 300_000)]
    assert rates == [1e-3, 1e-3, 1e-4, 1e-4]
    assert settings_of("vae", 300_000, 32, lr=0.5).training.lr == 0.5


@pytest.mark.parametrize("size", [16, 32, 64])
def test_every_size_has_the_same_last_maps(size: int) -> None:
    model = make_model(settings_of("dcvae", 100, size), 0, size)
    assert model.net.inner == (64, 4, 4)
    assert (model.shape, model.latent_dim, model.condition_dim) == ((1, size, size), 10, 3)


def test_only_conditional_methods_are_told_the_shape() -> None:
    told = {name: make_model(settings_of(name, 100, 16), 0, 16).condition_dim > 0 for name in METHODS}
    assert [name for name, given in told.items() if given] == ["dcvae", "cvae"]


def test_what_cannot_be_had_is_refused() -> None:
    with pytest.raises(SettingsError, match="unknown method 'factorvae'; did you mean 'factor_vae'"):
        settings_of("factorvae", 100, 32)
    with pytest.raises(SettingsError, match=r"size = 28; the factor set has 64, 32 or 16 pixels"):
        settings_of("vae", 100, 28)
    with pytest.raises(SettingsError, match=r"steps = 10,001; expected at most 10,000, or a multiple of that"):
        settings_of("vae", 10_001, 32)
    with pytest.raises(SettingsError, match=r"steps = 0"):
        settings_of("vae", 0, 32)


# Codes that are known ------------------------------------------------------------------------------------------------


def levels(rows: np.ndarray) -> np.ndarray:
    """Levels (..., 5) of the factors, from −1 to 1: a code for each that says it whole."""
    return 2 * factor_codes(rows) / (np.array(GRID) - 1) - 1


def perfect(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return levels(rows), np.full((*rows.shape, 5), 1e-3)


def turned_by_shape(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Perfect within a shape; between shapes the codes of scale, rotation, x and y change places."""
    z, shape = levels(rows), factor_codes(rows)[..., :1]
    place = np.arange(4)
    moved = np.take_along_axis(z[..., 1:], (place + shape) % 4, axis=-1)
    return np.concatenate((moved, np.zeros_like(z[..., :1])), axis=-1), np.full((*rows.shape, 5), 1e-3)


def rotated(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All there, but every code holds every factor."""
    mix = np.linalg.qr(np.random.default_rng(0).standard_normal((5, 5)))[0]
    return levels(rows) @ mix, np.full((*rows.shape, 5), 1e-3)


def dead(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.zeros((*rows.shape, 5)), np.ones((*rows.shape, 5))


@pytest.fixture
def no_forests(monkeypatch: pytest.MonkeyPatch) -> None:
    nothing = Dci(0.0, 0.0, 0.0, np.zeros(4), np.zeros((5, 4)))
    monkeypatch.setattr(metrics, "dci", lambda *given, **options: nothing)


@pytest.fixture
def small_forests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "dci", partial(metrics.dci, trees=8))


def judged(encode: Encode, conditional: bool = False) -> dict[str, Any]:
    return judge(encode, ITEMS, GROUPS, conditional=conditional)


@pytest.mark.slow
@pytest.mark.usefixtures("small_forests")
def test_perfect_codes_score_best_within_shape_and_over_all() -> None:
    found = judged(perfect)
    for part, active in ((WITHIN, 4), (ALL, 5)):
        assert found[part]["factor_vae_score"] == 1
        assert found[part]["mig"] > 0.6
        assert found[part]["modularity"] > 0.95
        assert found[part]["active"] == active
        assert found[part]["disentanglement"] > 0.95
        assert found[part]["tc"] < 0.1
    assert found[ALL]["mig_shape"] > 0.95  # three levels fit into 20 bins without loss


@pytest.mark.usefixtures("no_forests")
def test_codes_that_change_places_between_shapes_are_good_within_each() -> None:
    found = judged(turned_by_shape)
    for shape in ("square", "ellipse", "heart"):
        assert found["shapes"][shape]["factor_vae_score"] == 1
        assert found["shapes"][shape]["mig"] > 0.6
    assert found[WITHIN]["mig"] == pytest.approx(np.mean([found["shapes"][s]["mig"] for s in found["shapes"]]))
    assert found[ALL]["mig"] < 0.2


@pytest.mark.slow
@pytest.mark.usefixtures("small_forests")
def test_rotated_codes_score_low() -> None:
    found = judged(rotated)
    for part in (WITHIN, ALL):
        assert found[part]["mig"] < 0.25
        assert found[part]["disentanglement"] < 0.8


@pytest.mark.slow
@pytest.mark.usefixtures("small_forests")
def test_dead_codes_score_nothing() -> None:
    found = judged(dead)
    assert found[WITHIN]["factor_vae_score"] < 0.4
    for metric in ("mig", "sap", "modularity", "disentanglement", "informativeness", "active"):
        assert found[WITHIN][metric] == found[ALL][metric] == 0
    assert found[WITHIN]["tc"] < 0.1  # of draws, which are independent noise


@pytest.mark.usefixtures("no_forests")
def test_the_total_correlation_is_that_of_draws() -> None:
    """Two equal means: infinite for the means themselves, −½ log(1 − ρ²) with noise."""

    def twice(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        z = np.random.default_rng(int(rows.ravel()[0])).standard_normal((*rows.shape, 1))
        return np.concatenate((z, z), axis=-1), np.ones((*rows.shape, 2))

    found = metrics_of(twice, {"shape": [0]}, 20_000, GROUPS)["tc"]
    assert found == pytest.approx(-0.5 * np.log(1 - 0.5**2), abs=0.02)


@pytest.mark.usefixtures("no_forests")
def test_a_model_that_knows_the_shape_is_judged_within_shapes_only() -> None:
    asked: list[np.ndarray] = []

    def look(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        asked.append(np.unique(factor_codes(rows)[..., 0]))
        return perfect(rows)

    found = judged(look, conditional=True)
    assert found[ALL] is None
    assert sorted(found[WITHIN]) == sorted(found["shapes"]["heart"])
    assert all(len(shapes) == 1 for shapes in asked)
    assert {int(shapes[0]) for shapes in asked} == {0, 1, 2}


@pytest.mark.usefixtures("no_forests")
def test_every_model_is_judged_on_the_same_images() -> None:
    asked: list[list[bytes]] = [[], []]
    for mine in asked:

        def look(rows: np.ndarray, mine: list[bytes] = mine) -> tuple[np.ndarray, np.ndarray]:
            mine.append(rows.tobytes())
            return perfect(rows)

        judged(look)
    assert asked[0] == asked[1]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["vae", "dcvae"])
def test_encoder_gives_the_posterior_of_any_shape_of_rows(method: str) -> None:
    model = make_model(settings_of(method, 100, 16), 0, 16).eval()
    rows = np.random.default_rng(0).integers(0, COUNT, (30, 40))
    mean, deviation = encoder(model, 16, CPU)(rows)
    assert mean.shape == deviation.shape == (30, 40, 10)
    c = torch.eye(3)[torch.from_numpy(factor_codes(rows[7])[:, 0])]
    with torch.no_grad():
        q = model.encode(drawn(rows[7], 16, CPU), c)
    assert np.allclose(mean[7], q.mean, atol=1e-5)
    assert np.allclose(deviation[7], (0.5 * q.log_var).exp(), atol=1e-5)


# The command ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, no_forests: None) -> None:
    monkeypatch.setattr(disentanglement, "ITEMS", 120)
    monkeypatch.setattr(disentanglement, "GROUPS", 6)
    monkeypatch.setattr(disentanglement, "code_version", lambda: "fixed")


def go(out: Path, *methods: str, **options: Any) -> list[dict[str, Any]]:
    return disentanglement.main(
        **{"methods": methods, "seeds": (0,), "steps": STEPS, "size": 16, "out": out, **options}
    )


def lines(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.usefixtures("small")
def test_runs_go_seed_by_seed_and_are_not_repeated(tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    found = go(tmp_path, "dcvae", "vae", seeds=(0, 1))
    assert [(row["seed"], row["method"]) for row in found] == [(0, "dcvae"), (0, "vae"), (1, "dcvae"), (1, "vae")]
    assert found == lines(tmp_path)
    assert all(
        row["steps"] == STEPS and row["images"] == 64 * STEPS and row["seconds"] > 0 < row["cpu_ms_a_step"]
        for row in found
    )
    assert [row[ALL] is None for row in found] == [True, False, True, False]
    shown = capsys.readouterr().out
    assert "scale, rotation, x and y within each shape" in shown
    assert "all five factors" in shown
    assert "cpu" in shown

    with (tmp_path / "cells.csv").open() as file:
        cells = list(csv.DictReader(file))
    with (tmp_path / "table.csv").open() as file:
        table = {row["method"]: row for row in csv.DictReader(file)}
    assert [float(cell["mig, within shape"]) for cell in cells] == [row[WITHIN]["mig"] for row in found]
    mine = [row[WITHIN]["mig"] for row in found if row["method"] == "dcvae"]
    assert float(table["dcvae"]["mig, within shape"]) == pytest.approx(np.median(mine))
    assert float(table["dcvae"]["mig, within shape, least"]) == min(mine)
    assert float(table["dcvae"]["mig, within shape, most"]) == max(mine)
    assert table["dcvae"]["n"] == "2"
    assert table["dcvae"]["mig, all factors"] == ""

    monkeypatch.setattr(disentanglement, "run", None)
    assert go(tmp_path, "dcvae", "vae", seeds=(0, 1)) == found
    assert go(tmp_path, "dcvae", "vae", "cvae", seeds=(0, 2), show=True) == found[:2]


@pytest.mark.slow
@pytest.mark.usefixtures("small")
def test_a_run_that_was_stopped_goes_on_to_the_same_numbers(tmp_path: Path, monkeypatch: Any) -> None:
    whole = go(tmp_path / "whole", "tc_vae")[0]

    def stop(step: int) -> None:
        if step == 4:
            raise KeyboardInterrupt

    def stopped(*given: Any, **options: Any) -> None:
        train(*given, **{**options, "on_step": stop})

    monkeypatch.setattr(disentanglement, "train", stopped)
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path / "parts", "tc_vae")
    assert not (tmp_path / "parts" / "results.jsonl").exists()

    steps: list[int] = []

    def looked_at(*given: Any, **options: Any) -> Any:
        return train(*given, **{**options, "on_step": lambda step: (steps.append(step), options["on_step"](step))})

    monkeypatch.setattr(disentanglement, "train", looked_at)
    again = go(tmp_path / "parts", "tc_vae")[0]
    assert steps == list(range(5, STEPS + 1))  # so short a run has a checkpoint at every step
    assert whole.keys() == again.keys()
    assert {name for name in whole if whole[name] != again[name]} <= {"seconds", "cpu_ms_a_step"}


@pytest.mark.slow
@pytest.mark.usefixtures("small")
def test_a_run_that_was_trained_but_not_judged_is_judged(tmp_path: Path, monkeypatch: Any) -> None:
    def ends(*given: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(disentanglement, "judge", ends)
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path, "vae")
    monkeypatch.setattr(disentanglement, "judge", judge)
    found = go(tmp_path, "vae")[0]
    assert found["steps"] == STEPS
    assert found["seconds"] > 0
    assert found["cpu_ms_a_step"] is None


@pytest.mark.slow
@pytest.mark.usefixtures("small")
def test_a_run_that_fails_is_told_and_tried_again(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    def fails(*given: Any, **options: Any) -> None:
        raise TrainingError("the loss is not finite")

    monkeypatch.setattr(disentanglement, "train", fails)
    with pytest.raises(TrainingError, match="vae: every run failed: the loss is not finite"):
        go(tmp_path, "vae")
    assert "vae, seed 0: the loss is not finite" in capsys.readouterr().err
    monkeypatch.setattr(disentanglement, "train", train)
    assert len(go(tmp_path, "vae")) == 1


@pytest.mark.slow
def test_a_key_is_of_all_that_numbers_depend_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disentanglement, "code_version", lambda: "one")
    settings = settings_of("tc_vae", 100, 32)
    usual = (settings, 0, 100, 32, ITEMS, GROUPS)
    key = disentanglement.key_of(*usual)
    assert key == disentanglement.key_of(*usual)
    others = [
        (settings_of("tc_vae", 100, 32, beta=2), *usual[1:]),
        (settings_of("vae", 100, 32), *usual[1:]),
        *((*usual[:i], usual[i] + 1, *usual[i + 1 :]) for i in range(1, 6)),
    ]
    keys = {disentanglement.key_of(*other) for other in others}
    monkeypatch.setattr(disentanglement, "code_version", lambda: "two")
    keys.add(disentanglement.key_of(*usual))
    assert len(keys) == len(others) + 1
    assert key not in keys


@pytest.mark.slow
@pytest.mark.usefixtures("small")
def test_quick_shortens_everything(tmp_path: Path, monkeypatch: Any) -> None:
    asked: list[tuple[Any, ...]] = []

    def look(*given: Any) -> None:
        asked.append(given)
        raise TrainingError("seen enough")

    monkeypatch.setattr(disentanglement, "run", look)
    with pytest.raises(TrainingError, match="seen enough"):
        disentanglement.main(quick=True, seeds=(4, 5), out=tmp_path)
    assert [vae_options(settings).objective.name for settings, *_ in asked] == list(METHODS)
    assert {given[1:6] for given in asked} == {(4, 60, 32, 2_000, 200)}
