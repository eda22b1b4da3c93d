"""Patches given the context of their image: against the direct formula of a conditional Gaussian, and its limits."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from knowngood.config import OwnBackbone
from knowngood.data.conditions import ConditionSchema
from knowngood.detector.fit.patch_fitting import fit_patches
from knowngood.models import patch_context
from knowngood.models.patch_context import average, principal
from knowngood.models.patch_gaussian import FEWEST, RIDGE, Patches, shrinkage
from patch_models import F, H, W, features, fitted, one_cell

P = H * W


@pytest.fixture(autouse=True)
def _few_images_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """One number for every 4 images, so that small sets have a context."""
    monkeypatch.setattr(patch_context, "IMAGES_EACH", 4)


def alike(n: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    """(n, F, h, w): features that move with three numbers an image, by another amount at each place, and by noise."""
    draw, fixed = torch.Generator().manual_seed(seed), torch.Generator().manual_seed(98)
    moves = torch.randn(3, F, H, W, generator=fixed) + 2 * torch.randn(3, F, 1, 1, generator=fixed)
    return scale * (features(n, seed) + torch.einsum("nt,tfhw->nfhw", torch.randn(n, 3, generator=draw), moves))


def contexts(patches: Patches, x: Tensor, cell: Tensor | None = None) -> Tensor:
    assert patches.context is not None
    cell = one_cell(x) if cell is None else cell
    return patches.context(x.flatten(2).mT - patches.mean[cell], cell, patches.ignored)


def covered() -> Tensor:
    ignored = torch.zeros(1, H, W, dtype=torch.bool)
    ignored[0, 0, 1:] = True
    return ignored


# The context ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hidden", [False, True])
def test_contexts_are_whitened_principal_components_of_the_mean_features(hidden: bool) -> None:
    x, ignored = alike(60), covered() if hidden else torch.zeros(1, H, W, dtype=torch.bool)
    found = contexts(fitted(x, ignored=ignored, context=3), x).double().numpy()
    means = x[:, :, ~ignored[0]].double().mean(2).numpy()
    standard = (means - means.mean(0)) / means.std(0, ddof=1)
    left, _, _ = np.linalg.svd(standard, full_matrices=False)
    wanted = left[:, :3] * np.sqrt(59 / (1 + RIDGE))
    wanted *= np.sign((wanted * found).sum(0))
    np.testing.assert_allclose(found, wanted, atol=1e-4)


def test_what_is_ignored_is_no_part_of_the_context() -> None:
    x = alike(30)
    patches = fitted(x, ignored=covered(), context=3)
    other = x.masked_fill(covered()[:, None], 500.0)
    assert torch.equal(contexts(patches, other), contexts(patches, x))
    assert torch.equal(average(x.flatten(2).mT, torch.ones(30, P, dtype=torch.bool)), torch.zeros(30, F))


@pytest.mark.parametrize(("n", "most", "wanted"), [(8, 16, 2), (11, 16, 2), (12, 16, 3), (100, 16, F), (100, 3, 3)])
def test_a_context_has_a_number_for_every_four_images_at_most(n: int, most: int, wanted: int) -> None:
    x = alike(n)
    patches = fitted(x, None, context=most)
    assert contexts(patches, x).shape == (n, wanted)
    assert patches.whiten(x, one_cell(x)).isfinite().all()


def test_images_alike_as_a_whole_have_no_context() -> None:
    x = alike(40)
    x = x - x.mean((2, 3), keepdim=True)
    assert fitted(x, context=3).context is None
    same = torch.ones(40, F)
    same[:, 1] = torch.arange(40.0)
    assert principal((same - same.mean(0)).double(), 5).shape == (1, F)
    patches, plain = fitted(x, context=3), fitted(x)
    assert torch.equal(patches.root, plain.root)
    torch.testing.assert_close(patches.left_out(x, one_cell(x)), plain.left_out(x, one_cell(x)))


# The Gaussian given it ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shrink", [0.0, 0.3, None])
def test_whitening_is_that_of_the_conditional_gaussian(shrink: float | None) -> None:
    """v·v = r' S⁻¹ r with r = x − μ − Σ_xt Σ_tt⁻¹ (t − μ_t) and S = Σ_xx − Σ_xt Σ_tt⁻¹ Σ_tx, at every place.

    Σ over N − 1 of context and features together, mixed with its mean over places, .01 added to the diagonal.
    """
    good, judged, t = alike(40), alike(5, seed=1), 3
    patches = fitted(good, shrink, context=t, at_once=7)
    context, theirs = (contexts(patches, x).double().numpy() * np.sqrt(1 + RIDGE) for x in (good, judged))
    rows, at = (x.double().flatten(2).permute(2, 0, 1).numpy() for x in (good, judged))
    joint = np.stack([np.cov(np.c_[context, row].T) for row in rows])
    share = shrinkage(40, F) if shrink is None else shrink
    joint = (1 - share) * joint + share * joint.mean(0) + RIDGE * np.eye(t + F)
    slope = joint[:, t:, :t] @ np.linalg.pinv(joint[:, :t, :t], hermitian=True)
    left = joint[:, t:, t:] - slope @ joint[:, :t, t:]
    off = at - rows.mean(1)[:, None] - np.einsum("pft,nt->pnf", slope, theirs)
    wanted = np.einsum("pnf,pfg,png->np", off, np.linalg.pinv(left, hermitian=True), off)
    white = patches.whiten(judged, one_cell(judged))
    np.testing.assert_allclose(white.square().sum(2).numpy(), wanted, rtol=1e-3)
    whole = np.linalg.cholesky(joint)[:, t:, t:]  # the last F of jointly whitened coordinates, and no other root
    np.testing.assert_allclose(np.einsum("pfg,npg->pnf", whole, white.double().numpy()), off, atol=2e-4)
    root = patches.root[0].double().numpy()
    np.testing.assert_allclose(root @ whole, np.broadcast_to(np.eye(F), root.shape), atol=1e-4)


def test_what_is_left_does_not_go_with_the_context() -> None:
    """Up to the ridge: with a = .01 / 1.01 of the slope, and with covariance I − (.01 I + a·slope slopeᵀ), whitened."""
    x = alike(80, scale=20)
    patches = fitted(x, context=3)
    assert patches.context is not None
    u, white = contexts(patches, x), patches.whiten(x, one_cell(x))
    root, slope, a = patches.root[0], patches.context.slope[0], RIDGE / (1 + RIDGE)
    together = torch.einsum("npf,nt->pft", white, u) / 79
    torch.testing.assert_close(together, a * root @ slope, rtol=0, atol=1e-3)
    before = torch.einsum("npf,nt->pft", fitted(x).whiten(x, one_cell(x)), u) / 79
    assert together.abs().max() < 0.1 * before.abs().max()
    np.testing.assert_allclose(white.mean(0), 0, atol=1e-4)
    covariance = torch.stack([torch.cov(place.T) for place in white.transpose(0, 1)])
    left = root @ (RIDGE * torch.eye(F) + a * slope @ slope.mT) @ root.mT
    torch.testing.assert_close(covariance, torch.eye(F) - left, rtol=0, atol=2e-3)


def test_without_a_context_nothing_changes() -> None:
    x, cell = alike(40), torch.arange(40) % 2
    c, schema = np.zeros((40, 0), np.float32), ConditionSchema()
    told = fit_patches([x.numpy()], np.arange(40), c, schema, [""] * 40, OwnBackbone(context=0, whole=False))
    assert told.context is None
    assert not any("context" in name for name in told.state_dict())
    with_one = fit_patches([x.numpy()], np.arange(40), c, schema, [""] * 40, OwnBackbone())
    assert with_one.context is not None
    assert with_one.coarse is not None
    assert with_one.coarse.context is None
    plain = fitted(x, None, cell, coarse=True)
    given = fitted(x, None, cell, coarse=True, context=3)
    assert plain.coarse is not None
    assert given.coarse is not None
    assert torch.equal(given.coarse.root, plain.coarse.root)
    assert torch.equal(given.mean, plain.mean)
    assert (given.root.diagonal(dim1=2, dim2=3)[..., 0] > plain.root.diagonal(dim1=2, dim2=3)[..., 0]).all()


def test_unwhitening_is_the_way_back_given_the_context() -> None:
    good, cell = alike(60), torch.arange(60) % 2
    good[cell == 1] = good[cell == 1] * 3 + 1
    patches = fitted(good, cell=cell, context=3)
    x, c = alike(6, seed=1), torch.eye(2)[[0, 1, 1, 0, 1, 0]]
    x[c[:, 1] == 1] = x[c[:, 1] == 1] * 3 + 1
    rows, _ = patches.split(x, c)
    torch.testing.assert_close(patches.unwhiten(rows, c, x), x, rtol=1e-4, atol=1e-3)
    expected = patches.unwhiten(torch.zeros_like(rows), c, x)  # the best guess of x by its context alone
    before = patches.mean[c.argmax(1)].transpose(1, 2).unflatten(2, (H, W))
    assert ((x - expected).square().mean((0, 2, 3)) < 0.9 * (x - before).square().mean((0, 2, 3)))[:3].all()


def test_cells_have_contexts_of_their_own() -> None:
    """As alone, with fewer images fewer; and one with very few has that of all, as its mean and root are of all."""
    one, two, rare = alike(12), 4 * alike(30, seed=3) + 10, alike(FEWEST - 1, seed=4)
    x, cell = torch.cat([one, two, rare]), torch.tensor([0] * 12 + [1] * 30 + [2] * len(rare))
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    together = fitted(x[order], None, cell[order], at_once=8, context=4)
    assert together.context is not None
    assert together.context.basis.shape == (3, 4, F)
    assert (together.context.basis != 0).any(2).sum(1).tolist() == [3, 4, 4]
    for k, alone in enumerate((one, two, x)):
        patches, other = fitted(alone, None, context=4), alike(4, seed=5)
        for found, wanted in (
            (together.whiten(other, torch.full((4,), k)), patches.whiten(other, one_cell(other))),
            (together.left_out(other, torch.full((4,), k)), patches.left_out(other, one_cell(other))),
        ):
            torch.testing.assert_close(found, wanted, rtol=1e-3, atol=2e-3)
    mixed = together.whiten(x, cell)
    torch.testing.assert_close(mixed[-7:], together.whiten(rare, cell[-7:]), rtol=1e-4, atol=1e-4)


# Left out, and saved --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "shrink"), [(16, 0.0), (40, 0.0), (40, 0.3)])
def test_leaving_an_image_out_is_fitting_without_it_with_the_same_basis(
    n: int, shrink: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the image itself and of another. With shrinkage within a few percent of what leaving it out changes at all."""
    for module in ("patches", "patch_context"):
        monkeypatch.setattr(f"knowngood.{module}.RIDGE", ridge := 1e-6)
    good, other, cell = alike(n, scale=100), alike(n, seed=1, scale=100), torch.zeros(n, dtype=torch.int64)
    patches = fitted(good, shrink, context=3)
    found, of_others = patches.left_out(good, cell), patches.left_out(other, cell, good)
    basis = patches.context.basis[0]  # type: ignore[union-attr]
    assert len(basis) == 3
    for i in (0, 3, n - 1):
        kept = good[torch.arange(n) != i]
        moved = kept.mean((2, 3)) @ basis.T
        lower = torch.linalg.cholesky(torch.cov(moved.T) + ridge / (1 + ridge) * torch.eye(3))
        whitened = torch.linalg.solve_triangular(lower, basis, upper=False).double()
        monkeypatch.setattr("knowngood.models.patch_context.principal", lambda *_, basis=whitened: basis)
        without = fitted(kept, shrink, context=3)
        for white, x in ((found, good), (of_others, other)):
            wanted = without.whiten(x[i : i + 1], cell[:1])[0]
            if shrink == 0:
                torch.testing.assert_close(white[i], wanted, rtol=0.01, atol=2e-3)
            else:
                lengths = [v.square().sum(1) for v in (white[i], wanted)]
                torch.testing.assert_close(lengths[0].mean(), lengths[1].mean(), rtol=0.03, atol=0)


@pytest.mark.parametrize("cells", [1, 2])
def test_a_saved_state_comes_back_whole(cells: int) -> None:
    x, cell = alike(40), torch.arange(40) % cells
    patches = fitted(x, None, cell, coarse=True, context=16)
    state = patches.state_dict()
    held = [t for t in state.values() if len(t.flatten())]
    assert len({t.untyped_storage().data_ptr() for t in held}) == len(held)
    keys = torch.eye(cells) if cells > 1 else None
    other = Patches((F, H, W), keys, coarse=True, context=state["context.basis"].shape[1])
    other.load_state_dict(state)
    c = torch.eye(cells)[cell] if cells > 1 else None
    assert torch.equal(other.split(x, c)[0], patches.split(x, c)[0])
    assert torch.equal(other.left_out(x, cell), patches.left_out(x, cell))
    assert state["context.slope"].numel() == patches.root.numel() // F * len(state["context.basis"][0])


def test_by_default_a_context_takes_32_images_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    x = alike(100)
    averages = x.flatten(2).mean(2)
    averages = (averages - averages.mean(0)).double()
    assert len(principal(averages, 16)) == 3
    assert len(principal(averages[:31] - averages[:31].mean(0), 16)) == 0
    few = Patches((F, H, W), context=16).fit(lambda: [(x[:31], one_cell(x[:31]))])
    none = Patches((F, H, W)).fit(lambda: [(x[:31], one_cell(x[:31]))])
    cell = one_cell(x[31:])
    torch.testing.assert_close(few.whiten(x[31:], cell), none.whiten(x[31:], cell))
    torch.testing.assert_close(few.left_out(x[:31], one_cell(x[:31])), none.left_out(x[:31], one_cell(x[:31])))


def test_with_too_few_images_for_any_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """And nothing of it is saved, so that what is loaded is the same."""
    monkeypatch.undo()
    x = alike(31)
    few = Patches((F, H, W), context=16).fit(lambda: [(x, one_cell(x))])
    assert few.context is None
    assert not any("context" in name for name in few.state_dict())
