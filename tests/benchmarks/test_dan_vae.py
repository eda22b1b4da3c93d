"""DAn-VAE's sweep: what is predicted from codes, the table, the pictures, and one run on stand-ins."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from test_light import scans

from benchmarks import dan_vae
from knowngood.errors import SettingsError


def row(model: str, size: int, share: float, dark: float, seed: int = 0, auroc: float = 0.5) -> dict[str, Any]:
    head = {"model": model, "z_a": size, "labelled": share, "dark": dark, "seed": seed}
    shown = [[0.1, 0.5, 0.9], [0.2, 0.5, 0.8], [0.5, 0.5, 0.5]]
    return {**head, "auroc": auroc, "r2_z_n": 0.9, "r2_z_a": 0.1, "brightness": shown}


def test_predictions_are_of_items_that_the_regression_has_not_seen() -> None:
    rng = np.random.default_rng(0)
    codes = rng.normal(size=(200, 30))
    told, noise = codes[:, 0] + 0.01 * rng.normal(size=200), rng.normal(size=200)
    assert dan_vae.r2(told, dan_vae.predictions(codes, told)) > 0.99
    assert dan_vae.r2(noise, dan_vae.predictions(codes, noise)) < 0.1
    assert dan_vae.r2(noise, np.full(200, noise.mean())) == pytest.approx(0)


@pytest.mark.slow
def test_the_table_is_a_mean_over_seeds_and_is_drawn(tmp_path: Path) -> None:
    rows = [
        row(model, size, share, dark, seed, auroc=0.6 + 0.2 * seed)
        for model in dan_vae.MODELS
        for size in (24, 56)
        for share in (0.05, 0.1)
        for dark in (0.0, 0.5)
        for seed in (0, 1)
    ]
    found = dan_vae.table(rows)
    assert len(found) == len(rows) / 2
    assert {one["n"] for one in found} == {2}
    assert [one["auroc"] for one in found] == pytest.approx([0.7] * len(found))
    dan_vae.draw(rows, found, tmp_path)
    for name in ("brightness", "sweep"):
        with Image.open(tmp_path / f"{name}.png") as picture:
            assert min(picture.size) > 500


@pytest.mark.slow
def test_a_second_run_measures_nothing_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dan_vae, "open_whole", scans)
    measured = []
    real = dan_vae.measure
    monkeypatch.setattr(dan_vae, "measure", lambda run, *rest: measured.append(run) or real(run, *rest))
    config = tmp_path / "small.yaml"
    config.write_text("model: {name: vae, net: {name: mlp, hidden: [8]}}", encoding="utf-8")
    given: dict[str, Any] = {"quick": True, "config": config, "out": tmp_path}
    first = dan_vae.main(**given)
    assert [(run.model, run.z_a, run.labelled, run.dark) for run in measured] == [
        ("source", 24, 0.05, 0.5),
        ("one-encoder", 24, 0.05, 0.5),
    ]
    assert dan_vae.main(**given) == first
    assert len(measured) == 2
    assert {"brightness.png", "sweep.png", "table.csv"} <= {path.name for path in tmp_path.iterdir()}


def test_an_unknown_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="unknown model 'sorce'; did you mean 'source'"):
        dan_vae.main(models=("sorce",), out=tmp_path)
