"""Shares of visual words: blind to where parts lie, not to how many there are; leaving out, updates, cells."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from knowngood.models.patch_words import PatchWords
from patch_models import features, fitted, one_cell

KINDS = 4
COUNTS = (10, 7, 5, 3)  # patches of each kind in a normal image, 5 × 5 in all


def arranged(n: int, seed: int = 0, counts: tuple[int, ...] = COUNTS, noise: float = 0.3) -> Tensor:
    """(n, F, 5, 5) grids of patches of four kinds, so many of each, in any order."""
    draw = torch.Generator().manual_seed(seed)
    kinds = torch.tensor([kind for kind, count in enumerate(counts) for _ in range(count)])
    order = torch.stack([kinds[torch.randperm(25, generator=draw)] for _ in range(n)])
    centres = 6 * torch.eye(KINDS, 6)
    x = centres[order] + noise * torch.randn(n, 25, 6, generator=draw)
    return x.permute(0, 2, 1).unflatten(2, (5, 5))


def words_of(x: Tensor, words: int = 8, cell: Tensor | None = None, pooled: tuple[bool, ...] = (False,)) -> PatchWords:
    cell = one_cell(x) if cell is None else cell
    return PatchWords(x.shape[1], len(pooled), words).fit(x, cell, nothing(x, len(pooled)), pooled)


def nothing(x: Tensor, cells: int = 1) -> Tensor:
    return torch.zeros(cells, x.shape[2] * x.shape[3], dtype=torch.bool)


def distances(model: PatchWords, x: Tensor, **options: bool) -> Tensor:
    return model.distances(model.shares(x, one_cell(x), nothing(x)), one_cell(x), **options)


def test_a_part_missing_doubled_or_swapped_is_far_and_another_order_is_not() -> None:
    x = arranged(120)
    model = words_of(x)
    normal = distances(model, arranged(60, seed=1))
    for counts in ((11, 6, 5, 3), (9, 8, 5, 3), (10, 7, 4, 4)):
        assert distances(model, arranged(20, seed=2, counts=counts)).min() > normal.max()
    left_out = distances(model, x, leave_one_out=True)
    assert 0.8 < left_out.median() / normal.median() < 1.25


def test_the_shares_are_those_of_the_kinds_and_sum_to_one() -> None:
    x = arranged(60)
    model = words_of(x, KINDS)
    shares = model.shares(x, one_cell(x), nothing(x))
    torch.testing.assert_close(shares.sum(1), torch.ones(60).double())
    hidden = nothing(x)
    hidden[0, :24] = True
    alone = model.shares(x, one_cell(x), hidden)
    torch.testing.assert_close(alone[3], model.assigned(x[3])[24].double())


@pytest.mark.parametrize(("images", "words"), [(80, KINDS), (10, KINDS), (139, 32), (24, 32)])
def test_leaving_an_image_out_is_a_gaussian_without_it(images: int, words: int) -> None:
    x = arranged(images, noise=1.5)
    model = words_of(x, words)
    shares = model.shares(x, one_cell(x), nothing(x))
    found = distances(model, x, leave_one_out=True)
    assert found.min() > 0.1
    for i in range(5):
        rest = torch.cat([shares[:i], shares[i + 1 :]]) / model.scale
        without = PatchWords(6, 1, words)
        without.load_state_dict(model.state_dict())
        without.mean[0], without.covariance[0], without.number[0] = rest.mean(0), torch.cov(rest.T), images - 1
        expected = without.distances(shares[i : i + 1], one_cell(shares[:1]))[0]
        torch.testing.assert_close(expected, found[i], rtol=1e-9, atol=0)


def test_an_update_has_the_moments_of_old_and_new_images() -> None:
    x, more = arranged(30), arranged(20, seed=4, counts=(9, 8, 5, 3))
    model = words_of(x)
    both = torch.cat([x, more])
    model.update(more, one_cell(more), nothing(more), (False,))
    shares = model.shares(both, one_cell(both), nothing(both)) / model.scale
    torch.testing.assert_close(model.mean[0], shares.mean(0))
    torch.testing.assert_close(model.covariance[0], torch.cov(shares.T))
    assert model.number.tolist() == [50]


def test_a_cell_has_its_own_counts_and_a_pooled_one_those_of_all() -> None:
    x = torch.cat([arranged(40), arranged(40, seed=1, counts=(3, 5, 7, 10))])
    cell = torch.arange(2).repeat_interleave(40)
    model, shared = words_of(x, 8, cell, (False, False)), words_of(x, 8, cell, (True, True))
    shares = model.shares(x, cell, nothing(x, 2))
    assert model.distances(shares, 1 - cell).min() > model.distances(shares, cell).max()
    torch.testing.assert_close(shared.distances(shares, cell), shared.distances(shares, 1 - cell))


def test_deviations_name_the_kind_that_is_missing() -> None:
    x = arranged(120)
    model = words_of(x, KINDS)
    fewer = arranged(1, seed=5, counts=(11, 6, 5, 3))
    off = model.deviations(model.shares(fewer, one_cell(fewer), nothing(fewer)), one_cell(fewer))[0]
    kind = model.assigned(6 * torch.eye(KINDS, 6).T[:, :, None]).argmax(1)  # the word of each kind
    assert off[kind[0]] > 1
    assert off[kind[1]] < -1


@pytest.mark.slow
def test_a_model_has_the_members_that_it_was_asked_for() -> None:
    x = features(40)
    alone, both = fitted(x, words=4), fitted(x, words=4, global_grid=2)
    assert fitted(x).image_members == ()
    assert (alone.image_members, both.image_members) == (("counts",), ("global", "counts"))
    cell = one_cell(x)
    globally, counted = both.image_distances(x, cell, leave_one_out=True).unbind(1)
    torch.testing.assert_close(globally, both.global_distances(x, cell, leave_one_out=True))
    torch.testing.assert_close(counted, alone.image_distances(x, cell, leave_one_out=True)[:, 0])
