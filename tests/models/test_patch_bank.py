"""The bank of patches: exhaustive nearest distances, leaving an image out, cells apart, and its weight."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from knowngood.models.patch_bank import PatchBank
from patch_models import features, fitted, one_cell

MOST = 10_000  # more than there are: all patches are kept


def bank_of(x: Tensor, cell: Tensor | None = None, most: int = MOST, ignored: Tensor | None = None) -> PatchBank:
    cell = one_cell(x) if cell is None else cell
    cells = int(cell.max()) + 1
    hidden = torch.zeros(cells, x.shape[2] * x.shape[3], dtype=torch.bool) if ignored is None else ignored
    return PatchBank(x.shape[1], cells).fit(x, cell, hidden, most)


def patches(x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1]).double()


def test_with_all_components_and_patches_it_is_the_exact_nearest_distance() -> None:
    x, new = features(12), features(5, seed=1)
    expected = torch.cdist(patches(new), patches(x)).square().amin(1).reshape(5, *x.shape[2:])
    found = bank_of(x).nearest(new, one_cell(new), (False,))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_leaving_an_image_out_is_a_bank_without_it() -> None:
    x = features(8)
    bank = bank_of(x)
    found = bank.nearest(x, one_cell(x), (False,), leave_one_out=True)
    for i in range(8):
        rest = torch.cat([x[:i], x[i + 1 :]])
        expected = torch.cdist(patches(x[i : i + 1]), patches(rest)).square().amin(1).reshape(x.shape[2:])
        torch.testing.assert_close(found[i], expected, rtol=1e-4, atol=1e-4)
    assert bank.nearest(x, one_cell(x), (False,)).max() < 1e-3
    unseen = features(4, seed=2)
    torch.testing.assert_close(
        bank.nearest(unseen, one_cell(unseen), (False,), leave_one_out=True),
        bank.nearest(unseen, one_cell(unseen), (False,)),
    )


def test_cells_are_compared_with_their_own_patches_pooled_ones_with_all() -> None:
    x, cell = torch.cat([features(6), features(6, seed=1) + 20]), torch.arange(2).repeat_interleave(6)
    bank = bank_of(x, cell)
    wrong = bank.nearest(x[:1], torch.tensor([1]), (False, False))
    assert wrong.min() > 100
    assert bank.nearest(x[:1], torch.tensor([1]), (False, True)).max() < 1e-3


def test_patches_that_do_not_count_are_not_kept() -> None:
    x = features(6)
    x[:, :, 0, 0] = 500.0
    ignored = torch.zeros(1, x.shape[2] * x.shape[3], dtype=torch.bool)
    ignored[0, 0] = True
    bank = bank_of(x, ignored=ignored)
    assert not (bank.place == 0).any()
    assert bank.nearest(x[:1], one_cell(x[:1]), (False,))[0, 0, 0] > 1e5


def test_a_coreset_covers_what_a_random_draw_misses() -> None:
    x = features(60)
    x[7, :, 1, 2] += 40  # one rare kind of patch
    bank = bank_of(x, most=200)
    assert len(bank.rows) == 200
    assert bank.nearest(x[7:8], one_cell(x[7:8]), (False,))[0, 1, 2] < 1e-3


@pytest.mark.parametrize("dimension", [64, 176])
def test_components_keep_the_distances_at_the_size_in_use(dimension: int) -> None:
    """Features of 64 dimensions' worth of variance are exact in 64 components."""
    draw = torch.Generator().manual_seed(0)
    mixing = torch.randn(32, dimension, generator=draw)
    x = (torch.randn(20, 6, 6, 32, generator=draw) @ mixing).permute(0, 3, 1, 2)
    new = (torch.randn(2, 6, 6, 32, generator=draw) @ mixing).permute(0, 3, 1, 2)
    expected = torch.cdist(patches(new), patches(x)).square().amin(1).reshape(2, 6, 6)
    torch.testing.assert_close(bank_of(x).nearest(new, one_cell(new), (False,)), expected, rtol=1e-3, atol=1e-2)


def test_among_normal_images_the_bank_varies_half_as_much_as_the_gaussian() -> None:
    x = features(60)
    both = fitted(x, neighbours=MOST)
    alone = fitted(x)
    gaussian = alone.leave_one_out(x, one_cell(x))
    near = both.leave_one_out(x, one_cell(x)) - gaussian
    torch.testing.assert_close(near.std(0).mean(), gaussian.std(0).mean() / 2, rtol=1e-6, atol=0)


def test_an_update_keeps_old_and_new_patches() -> None:
    x, more = features(10), features(6, seed=3)
    bank = bank_of(x)
    bank.update(more, one_cell(more), torch.zeros(1, x.shape[2] * x.shape[3], dtype=torch.bool), MOST)
    everything = torch.cat([x, more])
    assert bank.nearest(everything, one_cell(everything), (False,)).max() < 1e-2
    new = features(3, seed=4)
    expected = torch.cdist(patches(new), patches(everything)).square().amin(1).reshape(3, *x.shape[2:])
    torch.testing.assert_close(bank.nearest(new, one_cell(new), (False,)), expected, rtol=1e-3, atol=1e-3)
    left_out = bank.nearest(more, one_cell(more), (False,), leave_one_out=True)
    assert left_out.min() > 1e-3
