"""The memory bank: what is kept of items and of patches, distances by brute force, and saving."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from knowngood.config import MemoryBankOptions, Neighbours
from knowngood.errors import DataError, SettingsError
from knowngood.models.base import FitContext
from knowngood.models.memory_bank import MemoryBank
from knowngood.scores.neighbours import NeighboursScore
from knowngood.training import Source


def values(n: int, shape: tuple[int, ...], seed: int = 0) -> Tensor:
    return torch.randn(n, *shape, generator=torch.Generator().manual_seed(seed))


def bank(x: Tensor, coreset: int | None = None, patches: bool = False, stratum: Tensor | None = None) -> MemoryBank:
    model: MemoryBank = MemoryBankOptions(coreset=coreset).build(shape=tuple(x.shape[1:]), patches=patches)
    return model.fit(Source(x, stratum=stratum), FitContext())


def test_every_item_is_a_row_with_its_stratum_and_every_location_with_patches() -> None:
    x, stratum = values(130, (3, 2, 4)), torch.arange(130) % 2
    items, patches = bank(x, stratum=stratum), bank(x, patches=True, stratum=stratum)
    assert torch.equal(items.bank, x.flatten(1))
    assert torch.equal(items.stratum, stratum)
    assert patches.bank.shape == (130 * 8, 3)
    assert torch.equal(patches.bank[8 * 5 + 6], x[5, :, 1, 2])
    assert torch.equal(patches.stratum, stratum.repeat_interleave(8))


@pytest.mark.parametrize("patches", [False, True])
def test_distances_are_those_to_the_nearest_rows_of_the_stratum(patches: bool) -> None:
    x, stratum = values(60, (3, 2, 4)), torch.arange(60) % 2
    model, queries = bank(x, patches=patches, stratum=stratum), values(2, (3, 2, 4), seed=1)
    rows = model.rows(queries)
    of = torch.tensor([1, -1]).repeat_interleave(len(rows) // 2)
    found = model.nearest(rows, of, 4)
    for row, s, distances in zip(rows, of.tolist(), found, strict=True):
        searched = model.bank[model.stratum == s] if s >= 0 else model.bank
        expected = (searched.double() - row.double()).norm(dim=1).sort().values[:4]
        torch.testing.assert_close(distances, expected)


def test_a_coreset_is_the_same_whatever_the_seed_and_holds_items() -> None:
    x = values(300, (5,))
    first, again = bank(x, coreset=40), bank(x, coreset=40)
    assert len(first.bank) == 40
    assert torch.equal(first.bank, again.bank)
    assert all((x == row).all(1).any() for row in first.bank)


def test_a_saved_bank_is_built_from_its_sizes_and_loads() -> None:
    model = bank(values(90, (3, 2, 4)), coreset=50, patches=True)
    loaded: MemoryBank = model.options.build(**model.sizes())
    loaded.load_state_dict(model.state_dict())
    rows, stratum = values(7, (3,), seed=1), torch.zeros(7, dtype=torch.int64)
    assert torch.equal(loaded.nearest(rows, stratum, 3), model.nearest(rows, stratum, 3))


def test_neighbours_of_a_bank_are_its_rows_and_need_no_state() -> None:
    x, queries, stratum = values(50, (6,)), values(8, (6,), seed=1), torch.zeros(8, dtype=torch.int64)
    model = bank(x)
    for cosine in (False, True):
        score: NeighboursScore = Neighbours(k=3, cosine=cosine).build()
        assert score.fit(model, []) == {}
        a, b = (torch.nn.functional.normalize(t) if cosine else t for t in (queries, x))
        expected = torch.cdist(a.double(), b.double()).sort(dim=1).values[:, :3].mean(1)
        torch.testing.assert_close(score.score(model, {}, queries, None, stratum).values, expected, rtol=1e-5, atol=0)


def test_what_a_bank_has_not_is_refused() -> None:
    with pytest.raises(DataError, match="none were given"):
        bank(torch.empty(0, 4))
    with pytest.raises(SettingsError, match="of 'latent' needs model 'vae', not 'memory_bank'"):
        Neighbours(of="latent").build().check(bank(values(20, (4,))))
