"""Detect, stream, saved and loaded give the same scores; and no tensor is saved idly."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import zip_longest
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from feature_cells import CELL, Cells, damaged, kinds, noise
from knowngood import Detector
from knowngood.errors import SettingsError
from knowngood.models.base import Model
from knowngood.models.patch_bank import PatchBank
from knowngood.models.patch_gaussian import PatchGaussian

OWN = {"name": "features", "backbone": "own", "image_size": 32, "average": 1, "stride": CELL}
SMALL = {"name": "vae", "net": {"name": "mlp", "hidden": (16,)}, "latent_dim": 3}
PAIRS: dict[str, dict[str, Any]] = {
    "pixels-vae": {"representation": {"name": "pixels", "image_size": 16}, "model": SMALL},
    "pixels-memory_bank": {"representation": {"name": "pixels", "image_size": 16}, "model": "memory_bank"},
    "hog-vae": {"representation": "hog", "model": SMALL},
    "hog-memory_bank": {"representation": "hog", "model": "memory_bank"},
    "features-patch_gaussian": {"representation": OWN, "model": "patch_gaussian"},
    "features-memory_bank": {"representation": OWN, "model": "memory_bank"},
    "table-vae": {"representation": "table", "model": SMALL},
    "table-memory_bank": {"representation": "table", "model": "memory_bank"},
}
every_pair = pytest.mark.parametrize("pair", PAIRS)


def backbone(pair: str) -> nn.Module | None:
    return Cells() if pair.startswith("features") else None


def items(pair: str, n: int, seed: int = 0, *, bad: bool = False) -> np.ndarray:
    if pair.startswith("table"):
        return np.random.default_rng(seed).normal(size=(n, 5)) + 4 * bad
    return damaged(n, seed) if bad else noise(n, seed=seed)


@pytest.fixture(scope="module")
def made() -> dict[str, Detector]:
    """Every pair, fitted when it is first asked for."""

    class Fitted(dict):
        def __missing__(self, pair: str) -> Detector:
            given = {"training": {"epochs": 2}, "device": "cpu", "alpha": 0.2, "conditioning": {"unknown": "infer"}}
            fitted = Detector(**PAIRS[pair], **given)
            self[pair] = fitted.fit(items(pair, 60), conditions=kinds(60), backbone=backbone(pair))
            return self[pair]

    return Fitted()


@pytest.mark.slow
@every_pair
def test_every_way_out_gives_the_same_scores(pair: str, made: dict[str, Detector], tmp_path) -> None:
    fitted, new = made[pair], items(pair, 10, 9, bad=True)
    for conditions in (kinds(10), None):
        table = fitted.detect(new, conditions=conditions)
        streamed = pd.concat([one.table for one in fitted.stream(new, conditions=conditions)], ignore_index=True)
        pd.testing.assert_frame_equal(streamed, table, check_exact=True)
        loaded = Detector.load(fitted.save(tmp_path / "model"), backbone=backbone(pair))
        pd.testing.assert_frame_equal(loaded.detect(new, conditions=conditions), table, check_exact=True)
        assert np.array_equal(-fitted.score_samples(new, conditions=conditions), table["anomaly_score"])


@pytest.mark.slow
@every_pair
def test_scores_do_not_depend_on_the_batch(pair: str, made: dict[str, Detector]) -> None:
    fitted, new = made[pair], items(pair, 6, 3)
    whole = fitted.score_samples(new, conditions=kinds(6))
    alone = [fitted.score_samples(new[i : i + 1], conditions={"kind": kinds(6)["kind"][i : i + 1]}) for i in range(6)]
    np.testing.assert_allclose(np.concatenate(alone), whole, rtol=1e-4, atol=1e-5)


def outputs(fitted: Detector, pair: str) -> Iterator[np.ndarray]:
    """All that a fitted detector says of some items, as arrays, one after the other."""
    new = items(pair, 6, 9, bad=True)
    asked = [
        lambda: fitted.detect(new, conditions=kinds(6)).drop(columns="condition").set_index("id").to_numpy(float),
        lambda: fitted.detect(new).drop(columns="condition").set_index("id").to_numpy(float),
        lambda: np.stack(fitted.anomaly_maps(new, conditions=kinds(6))),
        lambda: fitted.regions(new, conditions=kinds(6)).set_index("id").to_numpy(float),
        lambda: fitted.reconstruct(new, conditions=kinds(6)),
        lambda: fitted.condition_probabilities(new).set_index("id").to_numpy(float),
        lambda: np.array([repr(one) for one in fitted.explain(new, conditions=kinds(6), others=True)]),
        lambda: np.array([fitted.card_]),
        lambda: updated(fitted.pipeline_.model),
    ]
    for ask in asked:
        try:
            yield ask()
        except SettingsError:  # this model has none
            continue
        except Exception as error:  # a tensor of zeros may well make an output impossible
            yield np.array([repr(error)])


def updated(model: Model) -> np.ndarray:
    """What a Gaussian of locations that takes further images says of them; VAEs train instead, others keep items."""
    if not isinstance(model, PatchGaussian):
        raise SettingsError("this model has no moments to bring up to date")
    draw = torch.Generator().manual_seed(1)
    cell = torch.arange(24) % len(model.keys)
    x = model.mean[cell].mT.unflatten(2, model.shape[1:]) + torch.randn(24, *model.shape, generator=draw)
    twin = copy.deepcopy(model).update_grids(x[:16], cell[:16])
    maps = [twin.distances(x, cell), twin.leave_one_out(x, cell)]
    return np.concatenate([one.flatten(1).numpy() for one in (*maps, twin.image_distances(x, cell))], 1)


def tensors(fitted: Detector) -> dict[str, torch.Tensor]:
    """What a saved model holds of model, score and objective, by name; of these the same memory."""
    pipeline = fitted.pipeline_
    # Of the fit alone, or among the sizes.
    unsaved = ["images", "own", "keys", "continuous", "owner", "place"]
    bank = getattr(pipeline.model, "bank", None)
    if isinstance(bank, PatchBank) and not bank.penalty.any():
        unsaved.append("cell")  # patches of other cells are as good as its own
    tensors = [*pipeline.model.named_buffers(), *pipeline.model.named_parameters()]
    weights = {f"model.{name}": tensor for name, tensor in tensors if name.rpartition(".")[2] not in unsaved}
    return {**weights, **{f"state.{name}": tensor for name, tensor in pipeline.state.items()}}


def same(one: Iterable[np.ndarray], other: Iterable[np.ndarray]) -> bool:
    """Compared as they are made: the first difference ends it."""

    def equal(a: np.ndarray, b: np.ndarray) -> bool:
        return a.shape == b.shape and np.array_equal(a, b, equal_nan=a.dtype.kind == "f" and b.dtype.kind == "f")

    return all(a is not None and b is not None and equal(a, b) for a, b in zip_longest(one, other))


@pytest.mark.slow
@every_pair
def test_no_saved_tensor_is_idle(pair: str, made: dict[str, Detector]) -> None:
    """With any one of them zero, something that the detector says is another."""
    fitted = made[pair]
    before, idle = list(outputs(fitted, pair)), []
    for name, tensor in tensors(fitted).items():
        if not tensor.any():  # zeros as they are: nothing ignored, a bias that never moved
            continue
        kept = tensor.detach().clone()
        with torch.no_grad():
            tensor.zero_()
            if same(before, outputs(fitted, pair)):
                idle.append(name)
            tensor.copy_(kept)
    assert not idle, idle


@pytest.mark.slow
@pytest.mark.parametrize("pair", ["features-patch_gaussian", "pixels-vae"])
def test_no_saved_calibration_is_idle(pair: str, made: dict[str, Detector]) -> None:
    fitted = made[pair]
    before, pipeline = list(outputs(fitted, pair)), fitted.pipeline_
    for name in ("calibration", "marginal_calibration", "map_calibration", "reference"):
        if getattr(pipeline, name) is None:
            continue
        fitted.pipeline_ = replace(pipeline, **{name: None})
        changed = not same(before, outputs(fitted, pair))
        fitted.pipeline_ = pipeline
        assert changed, name


@pytest.mark.slow
def test_one_pass_gives_table_maps_and_regions() -> None:
    """`stream` reads each image once, for what detect, anomaly_maps and regions read it three times."""
    seen = Cells()
    fitted = Detector(representation=OWN, model="patch_gaussian", alpha=0.2, device="cpu", calibration={"folds": 2})
    fitted.fit(noise(60), backbone=seen)
    new = damaged(12)
    seen.seen = 0
    batches = list(fitted.stream(new, maps=True, regions=True))
    assert seen.seen == 12
    assert repr(batches[0]) == "<12 items from 0 on: table, decisions, maps, regions>"
    table = pd.concat([one.table for one in batches], ignore_index=True)
    pd.testing.assert_frame_equal(table, fitted.detect(new), check_exact=True)
    maps = [one for batch in batches for one in batch.maps]
    assert all(map(np.array_equal, maps, fitted.anomaly_maps(new)))
    regions = [region for batch in batches for found in batch.regions for region in found or []]
    assert [region.peak for region in regions] == fitted.regions(new)["peak"].tolist() != []
    assert seen.seen == 48
