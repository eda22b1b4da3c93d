"""Samplers: what a batch is made of, as a function of seed and epoch."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from knowngood.training import PlainSampler, StratifiedSampler
from knowngood.training.sampler import rows_of, steps_an_epoch


def check_epoch(rows: torch.Tensor, n: int, batches: int) -> None:
    assert len(rows) == batches
    assert set(rows.flatten().tolist()) == set(range(n))
    assert all(len(set(row.tolist())) == len(row) for row in rows)


@given(n=st.integers(1, 200), batch=st.integers(1, 64), epoch=st.integers(0, 5))
@hypothesis_settings(deadline=None, max_examples=25)
def test_a_plain_epoch_has_every_item_and_no_row_has_one_twice(n, batch, epoch):
    sampler = PlainSampler(n, batch, seed=0)
    rows = sampler.epoch(epoch)
    assert rows.shape[1] == min(n, batch)
    check_epoch(rows, n, sampler.batches)
    assert rows.numel() < n + rows.shape[1]


@pytest.mark.slow
@given(sizes=st.lists(st.integers(1, 120), min_size=1, max_size=12), batch=st.integers(1, 150), epoch=st.integers(0, 5))
@hypothesis_settings(deadline=None, max_examples=40)
def test_a_stratified_epoch_has_every_item_and_no_row_has_one_twice(sizes, batch, epoch):
    stratum = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    sampler = StratifiedSampler(stratum, batch, seed=0)
    rows = sampler.epoch(epoch)
    assert rows.shape[1] <= batch
    check_epoch(rows, len(stratum), sampler.batches)
    assert rows.numel() < len(stratum) + rows.shape[1]


@pytest.mark.parametrize("make", [lambda s: PlainSampler(90, 32, **s), lambda s: StratifiedSampler(KINDS, 32, **s)])
def test_an_epoch_follows_from_seed_epoch_and_stream_alone(make):
    before = torch.get_rng_state()
    first = make({"seed": 3}).epoch(4)
    assert torch.equal(first, make({"seed": 3}).epoch(4))
    assert torch.equal(before, torch.get_rng_state())
    others = [make({"seed": 3}).epoch(5), make({"seed": 4}).epoch(4), make({"seed": 3, "stream": 1}).epoch(4)]
    assert all(not torch.equal(first, other) for other in others)


KINDS = torch.arange(90) % 4


def test_stratified_batches_hold_few_strata_and_enough_of_each():
    """10 strata of 600: a plain batch of 64 has 6 of each, a stratified one 16 of each of 4 or fewer."""
    stratum = torch.arange(6000) % 10
    rows = StratifiedSampler(stratum, 64, seed=0).epoch(0)
    counts = torch.stack([torch.bincount(stratum[row], minlength=10) for row in rows])
    enough = (counts == 0) | (counts >= 16)
    assert enough.all(1).float().mean() > 0.95
    assert ((counts > 0).sum(1) <= 4).float().mean() > 0.95
    assert counts.sum(0).min() >= 600


def test_strata_appear_in_proportion_to_their_sizes():
    stratum = torch.repeat_interleave(torch.arange(3), torch.tensor([3000, 900, 60]))
    seen = torch.zeros(3)
    for epoch in range(5):
        seen += torch.bincount(stratum[StratifiedSampler(stratum, 128, seed=1).epoch(epoch).flatten()], minlength=3)
    assert torch.allclose(seen / seen.sum(), torch.tensor([3000, 900, 60]) / 3960, rtol=0.1)


def test_a_stratum_too_small_for_a_group_is_still_visited():
    stratum = torch.cat((torch.zeros(500), torch.ones(500), torch.full((5,), 2))).long()
    rows = StratifiedSampler(stratum, 64, seed=0).epoch(0)
    assert (stratum[rows] == 2).sum() >= 5


def test_leftovers_of_a_stratum_stay_together():
    """29 items left of each of 8 strata: most are found in groups of 16 or more."""
    stratum = torch.arange(8 * 61) % 8
    rows = StratifiedSampler(stratum, 128, seed=0).epoch(0)
    counts = torch.stack([torch.bincount(stratum[row], minlength=8) for row in rows])
    assert counts[counts >= 16].sum() > 0.85 * counts.sum()


@pytest.mark.parametrize("first", [0, 1, 3, 4, 7])
def test_rows_from_the_middle_are_the_rest_of_those_from_the_start(first):
    sampler = PlainSampler(100, 30, seed=0)  # 4 batches an epoch
    whole = list(rows_of(sampler, 0, 9))
    part = list(rows_of(sampler, first, 9))
    assert all(torch.equal(a, b) for a, b in zip(whole[first:], part, strict=True))


def test_processes_share_an_epoch():
    sampler = PlainSampler(120, 20, seed=0)
    assert steps_an_epoch(sampler, 2) == 3
    parts = [torch.cat(list(rows_of(sampler, 0, 3, rank=rank, processes=2))) for rank in (0, 1)]
    assert set(torch.cat(parts).tolist()) == set(range(120))
