"""The bank of patches: exhaustive nearest distances, leaving an image out, cells apart, and its weight."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from knowngood.models.patch_bank import PatchBank, halved
from patch_models import features, fitted, one_cell

MOST = 10_000  # more than there are: all patches are kept


def bank_of(x: Tensor, cell: Tensor | None = None, most: int = MOST, ignored: Tensor | None = None) -> PatchBank:
    cell = one_cell(x) if cell is None else cell
    cells = int(cell.max()) + 1
    hidden = torch.zeros(cells, x.shape[2] * x.shape[3], dtype=torch.bool) if ignored is None else ignored
    return PatchBank(x.shape[1], cells).fit(x, cell, hidden, most)


def means(x: Tensor) -> Tensor:
    """Means of 2 × 2 locations, one by one."""
    rows, columns = (range(0, side, 2) for side in x.shape[2:])
    return torch.stack([torch.stack([x[:, :, r : r + 2, c : c + 2].mean((2, 3)) for c in columns], 2) for r in rows], 2)


def patches(x: Tensor) -> Tensor:
    """(N P', F) float64: the patches compared."""
    return means(x).permute(0, 2, 3, 1).reshape(-1, x.shape[1]).double()


def squares(bank: PatchBank, x: Tensor, cell: Tensor | None = None, **how: bool) -> Tensor:
    return bank.squares(means(x), one_cell(x) if cell is None else cell, **how)


def half(shape: tuple[int, ...]) -> list[int]:
    return [-(-side // 2) for side in shape]


def test_with_all_components_and_patches_it_is_the_exact_nearest_distance() -> None:
    x, new = features(12), features(5, seed=1)
    expected = torch.cdist(patches(new), patches(x)).square().amin(1).reshape(5, *half(x.shape[2:]))
    found = squares(bank_of(x), new)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_leaving_an_image_out_is_a_bank_without_it() -> None:
    x = features(8)
    bank = bank_of(x)
    found = squares(bank, x, leave_one_out=True)
    for i in range(8):
        rest = torch.cat([x[:i], x[i + 1 :]])
        expected = torch.cdist(patches(x[i : i + 1]), patches(rest)).square().amin(1).reshape(half(x.shape[2:]))
        torch.testing.assert_close(found[i], expected, rtol=1e-4, atol=1e-4)
    assert squares(bank, x).max() < 1e-3
    unseen = features(4, seed=2)
    torch.testing.assert_close(squares(bank, unseen, leave_one_out=True), squares(bank, unseen))


def test_patches_of_other_cells_count_at_the_penalty_of_a_cell() -> None:
    x, cell = torch.cat([features(6), features(6, seed=1) + 1]), torch.arange(2).repeat_interleave(6)
    bank, new = bank_of(x, cell), features(3, seed=2)
    bank.penalty = torch.tensor([5.0, 0.5])
    own, other = (torch.cdist(patches(new), patches(x[cell == k])).square().amin(1) for k in (1, 0))
    expected = torch.minimum(own, other + 0.5).reshape(3, *half(x.shape[2:]))
    torch.testing.assert_close(squares(bank, new, one_cell(new) + 1), expected, rtol=1e-4, atol=1e-3)


def test_the_penalty_is_large_where_cells_differ_and_small_where_they_do_not() -> None:
    cell, found = torch.arange(2).repeat_interleave(20), []
    for apart in (0, 20):
        x = torch.cat([features(20), features(20, seed=1) + apart])
        bank = bank_of(x, cell)
        bank.weigh(x, cell, torch.zeros(2, 12, dtype=torch.bool), features(40)[:, 0].double())
        found.append(bank.penalty)
    typical = squares(bank_of(x, cell), x, cell, leave_one_out=True).mean()
    assert found[0].max() < 0.3 * typical
    assert found[1].min() > 10 * typical


def test_what_does_not_count_is_neither_kept_nor_averaged() -> None:
    x = features(6)  # 3 × 4 locations: the fourth patch of a halved grid is the mean of (2, 2) and (2, 3)
    ignored = torch.zeros(1, 12, dtype=torch.bool)
    ignored[0, [0, 1, 4, 10, 11]] = True  # three of the first patch, all of the fourth
    bank = bank_of(x, ignored=ignored)
    assert set(bank.place.tolist()) == {0, 1, 2}
    changed = x.clone()
    changed.flatten(2)[:, :, ignored[0]] = 500.0
    torch.testing.assert_close(halved(changed, ignored, one_cell(x)), halved(x, ignored, one_cell(x)))
    torch.testing.assert_close(halved(x, ignored, one_cell(x))[:, :, 0, 0], x[:, :, 1, 1])
    near = [bank.nearest(one, one_cell(x), ignored) for one in (x, changed)]
    torch.testing.assert_close(*near)


def test_a_map_has_the_distances_of_its_patches_and_lies_between_them() -> None:
    x, new = features(12), features(5, seed=1)
    bank, none = bank_of(x), torch.zeros(1, 12, dtype=torch.bool)
    near, of_patches = bank.nearest(new, one_cell(new), none), squares(bank, new)
    assert near.shape == (5, 3, 4)
    # The corner lies outside all centres but one.
    torch.testing.assert_close(near[:, 0, 0], of_patches[:, 0, 0], rtol=1e-5, atol=0)
    low, high = of_patches.flatten(1).amin(1), of_patches.flatten(1).amax(1)
    assert bool((near >= low[:, None, None]).all() & (near <= high[:, None, None]).all())
    torch.testing.assert_close(halved(new, none, one_cell(new)), means(new))


def test_a_coreset_covers_what_a_random_draw_misses() -> None:
    x = features(150)
    x[7, :, :2, 2:] += 40  # one rare kind of patch
    bank = bank_of(x, most=150)
    assert len(bank.rows) == 150
    assert squares(bank, x[7:8])[0, 0, 1] < 1e-3


@pytest.mark.parametrize("dimension", [64, 176])
def test_components_keep_the_distances_at_the_size_in_use(dimension: int) -> None:
    """Features of 64 dimensions' worth of variance are exact in 64 components."""
    draw = torch.Generator().manual_seed(0)
    mixing = torch.randn(32, dimension, generator=draw)
    x = (torch.randn(20, 6, 6, 32, generator=draw) @ mixing).permute(0, 3, 1, 2)
    new = (torch.randn(2, 6, 6, 32, generator=draw) @ mixing).permute(0, 3, 1, 2)
    expected = torch.cdist(patches(new), patches(x)).square().amin(1).reshape(2, 3, 3)
    torch.testing.assert_close(squares(bank_of(x), new), expected, rtol=1e-3, atol=1e-2)


def test_among_normal_images_the_bank_varies_a_quarter_as_much_as_the_gaussian() -> None:
    x = features(48)  # as many as the weight is estimated from
    both = fitted(x, neighbours=MOST)
    alone = fitted(x)
    gaussian = alone.leave_one_out(x, one_cell(x))
    near = both.leave_one_out(x, one_cell(x)) - gaussian
    torch.testing.assert_close(near.std(0).mean(), gaussian.std(0).mean() / 4, rtol=1e-6, atol=0)


def test_an_update_keeps_old_and_new_patches() -> None:
    x, more = features(10), features(6, seed=3)
    bank = bank_of(x)
    bank.update(more, one_cell(more), torch.zeros(1, x.shape[2] * x.shape[3], dtype=torch.bool), MOST)
    everything = torch.cat([x, more])
    assert squares(bank, everything).max() < 1e-2
    new = features(3, seed=4)
    expected = torch.cdist(patches(new), patches(everything)).square().amin(1).reshape(3, *half(x.shape[2:]))
    torch.testing.assert_close(squares(bank, new), expected, rtol=1e-3, atol=1e-3)
    left_out = squares(bank, more, leave_one_out=True)
    assert left_out.min() > 1e-3


def test_a_further_image_of_many_features_is_known_by_its_patches_when_it_is_left_out() -> None:
    """Its patches lie in the components of the first images, as what they are compared with."""
    x = torch.randn(30, 100, 8, 8, generator=torch.Generator().manual_seed(0))
    none = torch.zeros(1, 64, dtype=torch.bool)
    bank = PatchBank(100, 1).fit(x[:20], one_cell(x[:20]), none, MOST)
    bank.update(x[20:], one_cell(x[20:]), none, MOST)
    assert squares(bank, x[20:]).max() < 1e-2
    assert squares(bank, x[20:], leave_one_out=True).min() > 1
