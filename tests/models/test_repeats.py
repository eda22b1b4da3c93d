"""Items under several conditions: what is shared is found, and computed once with the same result."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from knowngood.models.patch_bank import PatchBank
from knowngood.models.patch_words import PatchWords
from knowngood.models.repeats import repeats
from patch_models import features


@given(st.lists(st.integers(0, 2), max_size=12))
def test_every_row_is_in_one_run_of_equal_rows_and_neighbouring_runs_differ(values: list[int]) -> None:
    x = torch.tensor(values, dtype=torch.float32)[:, None].expand(-1, 3)
    runs = list(repeats(x))
    assert [i for run in runs for i in range(run.start, run.stop)] == list(range(len(values)))
    assert all(len(set(values[run])) == 1 for run in runs)
    assert all(values[a.start] != values[b.start] for a, b in pairwise(runs))


@pytest.mark.parametrize("ignored", [0, 5])
def test_images_in_all_cells_are_judged_as_each_alone(ignored: int) -> None:
    x, cell, hidden = features(24), torch.arange(24) % 3, torch.zeros(3, 12, dtype=torch.bool)
    hidden[1, :ignored] = True  # then the halved grids of an image are not those of other cells
    bank = PatchBank(x.shape[1], 3).fit(x + cell[:, None, None, None], cell, hidden, 60)
    bank.penalty = torch.tensor([0.3, 0.0, 1.0])
    words = PatchWords(x.shape[1], 3, 4).fit(x, cell, hidden, (False,) * 3)
    new = features(4, seed=1)
    rows, of = new.repeat_interleave(3, 0), torch.arange(3).repeat(4)
    apart = [(rows[i : i + 1], of[i : i + 1]) for i in range(12)]
    near = torch.cat([bank.nearest(*one, hidden) for one in apart])
    torch.testing.assert_close(bank.nearest(rows, of, hidden), near, rtol=1e-6, atol=1e-6)
    assert len(bank.nearest(rows, of, hidden).flatten(1).unique(dim=0)) == 12
    shares = torch.cat([words.shares(*one, hidden) for one in apart])
    torch.testing.assert_close(words.shares(rows, of, hidden), shares, rtol=1e-6, atol=1e-9)
