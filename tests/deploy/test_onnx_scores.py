from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import patch_models
from knowngood.config import (
    Fusion,
    InputComplexity,
    LikelihoodRegret,
    MemoryBankOptions,
    Neighbours,
    PatchDistance,
    PatchGaussianOptions,
)  # fmt: skip
from knowngood.deploy.onnx_scores import GaussianGraph, NearestGraph, TailGraph, check_score, score_graph
from knowngood.errors import SettingsError
from knowngood.models.base import Facts
from knowngood.models.memory_bank import MemoryBank, nearest_in_stratum
from knowngood.models.patch_gaussian import PatchGaussian
from knowngood.scores.fusion import surprise_by, tail
from knowngood.scores.patch_distance import PatchDistanceScore
from knowngood.training import Source


@pytest.mark.parametrize("n", [1, 7, 60])
def test_surprise_is_that_of_calibration(n: int) -> None:
    rng = np.random.default_rng(n)
    values, strata = rng.gamma(2, size=n).round(1), np.arange(n) % 3 // 2  # ties; 40 and 20 in two strata
    scores = np.concatenate([np.linspace(-1, 12, 60), values])
    of = np.arange(len(scores)) % 4 - 1  # none, both, and one that is not known
    known = tail(values, strata)
    found = TailGraph(known)(torch.from_numpy(scores), torch.from_numpy(of))
    np.testing.assert_allclose(found, surprise_by(known, scores, of), rtol=1e-12, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("k", [1, 5])
def test_neighbours_are_searched_in_the_stratum_where_it_is_large(k: int) -> None:
    draw = torch.Generator().manual_seed(0)
    bank, of = torch.randn(50, 6, generator=draw), torch.arange(50) % 12 // 4 // 2  # the second stratum has 16
    of[-3:] = 2  # and the third 3
    queries = torch.cat([torch.randn(30, 6, generator=draw), bank[:4]])
    stratum = torch.arange(len(queries)) % 5 - 1
    found = NearestGraph(bank, of, k)(queries, stratum)
    torch.testing.assert_close(found, nearest_in_stratum(queries, stratum, bank, of, k), rtol=1e-12, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("pooling", ["top", "max", "soft"])
@pytest.mark.parametrize("cells", [1, 2])
@pytest.mark.parametrize("hidden", [(), ((0, 0), (0, 1), (1, 0), (1, 1), (2, 3))])
def test_patch_distances_are_those_of_the_score(cells: int, pooling: Any, hidden: Any) -> None:
    options: dict[str, Any] = {"context": 3, "global_grid": 2, "neighbours": 40, "words": 6, "shrinkage": None}
    n = 70
    cell = torch.arange(n) % cells
    x = torch.where(cell[:, None, None, None] == 0, patch_models.features(n), patch_models.product_features(1, n))
    ignored = torch.zeros(cells, *x.shape[2:], dtype=torch.bool)
    for row, column in hidden:
        ignored[0, row, column] = True
    for row, column in hidden[1:3]:  # of two cells each has its own
        ignored[-1, row, column] = True
    model = patch_models.fitted(x, cell, ignored, **options)
    score = PatchDistanceScore(PatchDistance(pooling=pooling, smoothing=0.7))
    c = torch.eye(2)[cell] if cells > 1 else None
    state = score.fit(model, [patch_batch(x, c, cell)])
    draw = torch.Generator().manual_seed(1)
    state |= {"defect_directions": torch.randn(3, model.shape[0], generator=draw), "defect_offsets": torch.ones(3)}
    state |= {"defect_reached": torch.full((3,), 0.5), "defect_weight": torch.tensor(2.0)}
    new, c = x[:9] + torch.randn(9, *x.shape[1:], generator=draw), None if c is None else c[:9]
    found = GaussianGraph(score, model, state)(new, c, cell[:9])
    own = score.score(model, state, new, c, cell[:9], want_map=True)
    torch.testing.assert_close(found.values, own.values, rtol=1e-5, atol=1e-5)
    shown = torch.isfinite(own.map)
    assert (~shown).sum(dim=(1, 2)).tolist() == [int(ignored[k].sum()) for k in cell[:9]]
    torch.testing.assert_close(found.map[shown], own.map[shown], rtol=1e-5, atol=1e-4)
    for name in ("global", "counts"):
        torch.testing.assert_close(found.parts[name], own.parts[name], rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_features_that_move_with_a_number_are_brought_to_its_mean() -> None:
    draw = torch.Generator().manual_seed(0)
    c = torch.cat([torch.eye(2)[torch.arange(80) % 2], torch.randn(80, 1, generator=draw)], 1)
    x = patch_models.features(80) + 5 * c[:, 2, None, None, None]
    options = PatchGaussianOptions(context=0, global_grid=2, neighbours=50)
    model = PatchGaussian(options, tuple(x.shape[1:]), [[1.0, 0, 0], [0, 1, 0]], [False, False, True])
    model.fit(Source(x, c=c))
    score, cell = PatchDistanceScore(PatchDistance()), torch.arange(80) % 2
    state = score.fit(model, [patch_batch(x, c, cell)])
    told = c.flip(0)  # also beyond what was fitted to
    told[0, 2] = 100.0
    found = GaussianGraph(score, model, state)(x[:9], told[:9], cell[:9])
    own = score.score(model, state, x[:9], told[:9], cell[:9], want_map=True)
    assert not torch.allclose(own.values, score.score(model, state, x[:9], c[:9], cell[:9]).values)
    torch.testing.assert_close(found.values, own.values, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.map, own.map, rtol=1e-4, atol=1e-3)


def test_patches_of_a_memory_bank() -> None:
    x = patch_models.features(40)
    model = MemoryBank(MemoryBankOptions(), tuple(x.shape[1:]), patches=True)
    model.bank, model.stratum = model.rows(x[:30]), torch.zeros(30 * 12, dtype=torch.int64)
    score = PatchDistanceScore(PatchDistance())
    stratum = torch.zeros(10, dtype=torch.int64)
    found = score_graph(score, model, {})(x[30:], None, stratum)
    own = score.score(model, {}, x[30:], None, stratum, want_map=True)
    torch.testing.assert_close(found.values, own.values, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found.map, own.map, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("options", [LikelihoodRegret(), InputComplexity()])
def test_a_score_that_is_no_graph_is_refused_by_name(options: Any) -> None:
    for one in (options, Fusion(scores=(Neighbours(), options))):
        with pytest.raises(SettingsError, match=f"score '{options.name}' cannot be exported"):
            check_score(one.build())


def patch_batch(x: torch.Tensor, c: torch.Tensor | None, cell: torch.Tensor) -> Any:
    return Facts(len(x), c, cell, n_strata=2).batch(x, torch.arange(len(x)))
