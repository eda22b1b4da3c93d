"""The speed benchmark: operations by hand, the same work on both sides, medians within turns."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import bare, speed, speed_objectives
from benchmarks.settings import merged
from helpers import prepared
from knowngood.config import Settings, parse_settings
from knowngood.errors import SettingsError
from knowngood.models.base import Batch
from knowngood.models.objectives import Context, Objective
from knowngood.models.vae import ConditionalVAE
from knowngood.training import Source

CPU = torch.device("cpu")


def settings(objective: str = "vae", hidden: tuple[int, ...] = (512,), **training: Any) -> Settings:
    model = {"name": "vae", "objective": objective, "net": {"name": "mlp", "hidden": list(hidden)}}
    model |= {"likelihood": "gaussian", "latent_dim": 32}
    training = {"precision": "float32", **training}
    return parse_settings({"representation": "pixels", "model": model, "training": training, "device": "cpu"})


@pytest.mark.slow
def test_flops_of_an_mlp_by_hand() -> None:
    encoder, decoder = 784 * 512 + 512 * 64, 32 * 512 + 512 * 784
    assert bare.forward_flops(settings(), 16) == 2 * (encoder + 16 * decoder)
    # Backward: the gradient of every weight and of every layer's input, but none of the image.
    assert bare.training_flops(settings(), 8) == 2 * (3 * (encoder + decoder) - 784 * 512)


@pytest.mark.slow
def test_the_bare_loop_minimises_what_ours_does() -> None:
    chosen = settings(hidden=(16,))
    model, x = bare.make_model(chosen), torch.rand(5, 1, 28, 28)
    zeros = torch.zeros(5)
    batch = Batch(x, None, zeros.long(), zeros, torch.arange(5))
    ctx = Context(0, 1, torch.Generator().manual_seed(3), 5, torch.tensor([5]))
    objective = prepared(chosen.model.objective, model)  # type: ignore[union-attr]
    losses, _ = objective.loss(model, batch, ctx)
    torch.testing.assert_close(bare.negative_elbo(model, x, torch.Generator().manual_seed(3)), losses["model"])


@pytest.mark.slow
def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(speed, "NETS", {"small": {"name": "mlp", "hidden": [8]}})
    monkeypatch.setattr(speed, "SCORINGS", {"reconstruction": 1})
    monkeypatch.setattr(bare, "matmul_rate", lambda device, dtype: 1e12)
    monkeypatch.setattr(speed_objectives, "NETS", {"small": {"name": "mlp", "hidden": [8]}})
    monkeypatch.setattr(speed_objectives, "IMAGES", 512)
    parts = ("training", "scoring", "objectives")
    rows = speed.main(batches=(8,), repetitions=1, seconds=1e-3, device="cpu", parts=parts, out=tmp_path)
    costs = [row for row in rows if "÷" in row["what"]]
    rows = [row for row in rows if "÷" not in row["what"]]
    assert {row["what"] for row in rows} == {"training", "scoring, reconstruction"}
    for row in rows:
        assert row["ratio"] == pytest.approx(row["images_per_second"] / row["bare_images_per_second"])
        assert row["share_of_matmul_rate"] == pytest.approx(row["images_per_second"] * row["flops_an_image"] / 1e12)
    expected = {"dcvae ÷ cvae", "tc_vae ÷ vae", "factor_vae ÷ vae", "rf_vae ÷ vae"}
    assert {row["what"] for row in costs} == expected
    assert {row["bar"] for row in costs if row["what"] == "dcvae ÷ cvae"} == {1.5}
    for row in costs:  # one turn: its ratio is that of its two times
        assert row["ratio"] == pytest.approx(row["milliseconds_a_step"] / row["parent_milliseconds_a_step"])
    shown = capsys.readouterr().out
    assert "peak memory of this process" in shown
    assert "1,000 GFLOP/s float32" in shown
    with (tmp_path / "speed.csv").open(encoding="utf-8") as file:
        assert len(list(csv.DictReader(file))) == len(rows) + len(costs)


def test_each_cost_is_the_median_of_ratios_within_a_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each objective's step has a made-up time; a slow turn slows all objectives and no ratio."""
    times, order = {"vae": 2.0, "cvae": 4.0, "dcvae": 5.0, "tc_vae": 3.0, "factor_vae": 5.0, "rf_vae": 6.0}, []

    def rate(pixels: object, settings: Settings, device: object, classes: int) -> float:
        name = settings.model.objective.name  # type: ignore[union-attr]
        order.append(name)
        return settings.training.batch_size / times[name] / (1 + (len(order) - 1) // len(times))

    monkeypatch.setattr(bare, "our_training", rate)
    monkeypatch.setattr(speed_objectives, "NETS", {"MLP": {"name": "mlp"}, "conv": {"name": "conv"}})
    rows = speed_objectives.compare(["float32"], 3, 1.0, CPU)
    found = {row["what"]: row["ratio"] for row in rows if row["net"] == "MLP"}
    expected = {"dcvae ÷ cvae": 1.25, "tc_vae ÷ vae": 1.5, "factor_vae ÷ vae": 2.5, "rf_vae ÷ vae": 3.0}
    assert found == pytest.approx(expected)
    assert sorted(order[:6]) == sorted(times)
    assert order[6:12] != order[12:18]
    bars = {(row["what"], row["net"]): row["bar"] for row in rows if row["bar"]}
    assert bars == {("dcvae ÷ cvae", "MLP"): 1.5, ("dcvae ÷ cvae", "conv"): 1.25, ("factor_vae ÷ vae", "conv"): 2.0}


def test_a_conditional_objective_is_timed_with_its_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = {}

    def look(
        model: ConditionalVAE, objective: Objective, source: Source, *_: object, on_step: Any, **__: object
    ) -> None:
        seen[type(objective).__name__] = model.condition_dim, source.facts.stratum_counts.tolist()
        on_step(1)
        on_step(4)

    monkeypatch.setattr(bare, "knowngood_train", look)
    for name in ("vae", "dcvae"):
        chosen = settings(name, (16,), batch_size=5, epochs=2)
        assert bare.our_training(bare.noise_images(10), chosen, CPU, classes=5) > 0
    assert sorted(seen.values()) == [(0, [10]), (5, [2] * 5)]


def test_settings_with_other_epochs_are_otherwise_the_same() -> None:
    chosen = settings(epochs=3, batch_size=5)
    assert speed.with_epochs(chosen, 7) == parse_settings(
        merged(chosen.model_dump(exclude_unset=True), {"training": {"epochs": 7}})
    )


def test_an_unknown_part_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="parts has no 'scores'; known: training, scoring, objectives, regret"):
        speed.main(parts=("training", "scores"), out=tmp_path)


def test_the_rate_of_products_is_that_of_the_fastest(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 4.0, 10.0, 12.0, 20.0, 23.0])
    monkeypatch.setattr(bare.time, "perf_counter", lambda: next(clock))
    assert bare.matmul_rate(CPU, torch.float32, n=8, repetitions=3) == 2 * 8**3 / 2
