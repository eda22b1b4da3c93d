"""Neighbours by brute force, against the plain baseline, at vanishing distances; the coreset against its definition."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks.baselines import Neighbours as Baseline
from knowngood.config import Neighbours
from knowngood.errors import DataError, SettingsError
from knowngood.models import memory_bank
from knowngood.models.base import Batch
from knowngood.models.memory_bank import coreset, k_centres, nearest_distances
from knowngood.representations.hog import hog
from knowngood.scores import codes
from score_models import IMAGE, TABLE, batches, items, small_model

HOG_OF_IMAGES = ("hog", IMAGE)


def batch(x: Tensor, stratum: Tensor | None = None) -> Batch:
    stratum = torch.zeros(len(x), dtype=torch.long) if stratum is None else stratum
    return Batch(x, torch.eye(3)[stratum], stratum, torch.zeros(len(x)), torch.arange(len(x)))


@pytest.mark.parametrize(
    ("of", "shape"),
    [*((of, shape) for of in ("latent", "items", "residual") for shape in (IMAGE, TABLE)), HOG_OF_IMAGES],
)
def test_values_are_the_definition_within_the_stratum(of: str, shape: tuple[int, ...]) -> None:
    model, fitted = small_model(shape), batches(90, shape)
    x, c, stratum = items(8, shape)
    stratum = stratum.clone()
    stratum[:2] = -1  # unknown: all are searched

    def v(x: Tensor, c: Tensor) -> Tensor:
        if of == "hog":
            return hog(x).double()
        mean = model.encode(x, c).mean
        made = model.likelihood.mean(model.decode(mean, c))
        return {"latent": mean, "items": x.flatten(1), "residual": (x - made).flatten(1)}[of].double()

    every, strata = torch.cat([v(b.x, b.c) for b in fitted]), torch.cat([b.stratum for b in fitted])
    expected = []
    for one, s in zip(v(x, c), stratum.tolist(), strict=True):
        distances = [
            float((one - other).norm()) for other, t in zip(every, strata.tolist(), strict=True) if s in (t, -1)
        ]
        expected.append(np.mean(sorted(distances)[:3]))

    score = Neighbours(k=3, of=of, coreset=None).build()
    got = score.score(model, score.fit(model, fitted), x, c, stratum).values
    np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_of_items_it_is_the_baseline_of_the_benchmark() -> None:
    x, (queries, _, stratum) = items(200, seed=3)[0], items(30)
    found = Neighbours(of="items", coreset=None).build()
    state = found.fit(small_model(), [batch(x)])
    got = found.score(small_model(), state, queries, None, torch.zeros_like(stratum)).values
    plain = Baseline().fit(x.flatten(1).numpy()).score(queries.flatten(1).numpy())
    np.testing.assert_allclose(got, plain, rtol=1e-5)


def test_images_that_come_under_several_conditions_have_their_hog_taken_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = []
    monkeypatch.setattr(codes, "hog", lambda x: asked.append(len(x)) or hog(x))
    model, score = small_model(), Neighbours(of="hog", k=2).build()
    state = score.fit(model, batches(90))
    x, _, _ = items(5)
    x[1] = x[0]
    x[1, 0, 4, 4] = 1 - x[0, 0, 4, 4]  # one value makes another image
    times = torch.tensor([3, 1, 2, 1, 3])
    rows = torch.arange(5).repeat_interleave(times)
    stratum = torch.cat([torch.arange(int(n)) for n in times])
    asked.clear()
    together = score.score(model, state, x[rows], None, stratum).values
    assert asked == [5]
    alone = [score.score(model, state, x[r][None], None, s[None]).values for r, s in zip(rows, stratum, strict=True)]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-5, atol=0)


def test_neighbours_by_hog_see_neither_brightness_nor_contrast() -> None:
    model, score = small_model(), Neighbours(of="hog", k=1).build()
    x, _, stratum = items(40)
    state = score.fit(model, [batch(x, stratum)])
    near = score.score(model, state, 0.5 * x[:9] + 0.2, None, stratum[:9]).values
    far = score.score(model, state, items(9, seed=5)[0], None, stratum[:9]).values
    assert near.max() < 0.01 * far.min()


def test_hog_of_a_table_are_refused() -> None:
    with pytest.raises(SettingsError, match=r"score 'neighbours' of 'hog'.*take of='latent'"):
        Neighbours(of="hog").build().check(small_model(TABLE))
    Neighbours(of="hog").build().check(small_model())


def test_strata_too_small_to_search_use_all() -> None:
    model = small_model(TABLE)
    x, _, _ = items(40, TABLE)
    score = Neighbours(of="items", k=1).build()
    state = score.fit(model, [batch(x, torch.tensor([0] * 31 + [1] * 9))])
    got = score.score(model, state, x[:1], None, torch.tensor([1])).values
    assert got.item() == 0  # the item itself, of stratum 0
    state = score.fit(model, [batch(x, torch.tensor([0] * 30 + [1] * 10))])
    assert score.score(model, state, x[:1], None, torch.tensor([1])).values > 0
    state = score.fit(model, [batch(x, torch.tensor([0] * 30 + [-1] * 10))])
    assert score.score(model, state, x[:1], None, torch.tensor([-1])).values == 0


def test_tiny_distances_far_from_the_origin_are_exact() -> None:
    kept = 1e4 + torch.arange(6, dtype=torch.float64)[:, None] * torch.tensor([[1e-9, 0.0]])
    got = nearest_distances(kept[:1], kept, 1)
    assert got.item() == 0
    plain = (kept[2] - kept).norm(dim=1).sort().values
    assert plain[1] > 0
    for k in (2, 4, 6):
        torch.testing.assert_close(nearest_distances(kept[2:3], kept, k)[0], plain[:k], rtol=0, atol=0)


def test_tiny_distances_in_one_of_two_distant_groups_are_exact() -> None:
    near = 1e4 + torch.arange(6, dtype=torch.float64)[:, None] * torch.tensor([[1e-9, 0.0]])
    kept = torch.cat((near, -near))
    plain = (kept[2] - kept).norm(dim=1).sort().values
    torch.testing.assert_close(nearest_distances(kept[2:3], kept, 3)[0], plain[:3], rtol=0, atol=0)


def test_a_nearer_code_that_single_precision_hides_is_found() -> None:
    """Codes on a sphere far from a query at its centre: distances differ by less than float32 resolves there."""
    generator = torch.Generator().manual_seed(0)
    ways = torch.nn.functional.normalize(torch.randn(300, 6, generator=generator, dtype=torch.float64), dim=1)
    kept = 1000 + ways * (1 + 1e-7 * torch.randperm(300, generator=generator)[:, None])
    queries = torch.full((2, 6), 1000.0, dtype=torch.float64)
    queries[1] = 0
    single, _ = memory_bank.candidates(queries.float(), kept, 3 + 5)
    exact = (queries[:, None] - kept).norm(dim=2).sort(dim=1)
    assert not set(exact.indices[0, :3].tolist()) <= set(single[0].tolist())  # else this shows nothing
    torch.testing.assert_close(nearest_distances(queries, kept, 3), exact.values[:, :3], rtol=1e-12, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize(("scale", "offset"), [(1e-3, 5), (1.0, 5), (1e3, 5), (1.0, 3000)])
@pytest.mark.parametrize("dims", [3, 400])
def test_no_code_left_out_is_nearer_than_the_bound(scale: float, offset: float, dims: int) -> None:
    generator = torch.Generator().manual_seed(1)
    kept, queries = (scale * (offset + torch.randn(n, dims, generator=generator)) for n in (500, 40))
    index, beyond = memory_bank.candidates(queries, kept, 7)
    squares = (queries.double()[:, None] - kept.double()).square().sum(2)
    left_out = squares.scatter(1, index, float("inf")).amin(1)
    assert (beyond <= left_out).all()
    if offset == 5:  # where products resolve distances it is tight, too
        assert (beyond > 0.9 * left_out).float().mean() > (0.9 if dims == 400 else 0.5)
    _, none_left = memory_bank.candidates(queries, kept[:7], 7)
    assert none_left.isposinf().all()


@pytest.mark.parametrize("at_once", [1, 50, 2**24])
def test_pieces_of_what_is_kept_change_nothing(monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    generator = torch.Generator().manual_seed(0)
    kept = torch.randn(23, 4, generator=generator, dtype=torch.float64)
    queries = torch.randn(7, 4, generator=generator, dtype=torch.float64)
    monkeypatch.setattr(memory_bank, "VALUES", at_once)
    expected = torch.cdist(queries, kept).sort(dim=1).values
    torch.testing.assert_close(nearest_distances(queries, kept, 5), expected[:, :5])
    torch.testing.assert_close(nearest_distances(queries, kept[:3], 5).shape, torch.Size([7, 3]))


def test_k_centres_take_the_farthest_each_time() -> None:
    points = torch.randn(60, 3, generator=torch.Generator().manual_seed(0))
    taken = k_centres(points, 12).tolist()
    assert taken[0] == int((points - points.mean(0)).norm(dim=1).argmin())
    for i in range(1, 12):
        reach = torch.cdist(points, points[taken[:i]]).amin(1)
        assert reach[taken[i]] == pytest.approx(float(reach.max()), rel=1e-5)
    assert sorted(k_centres(points, 60).tolist()) == list(range(60))
    assert len(set(k_centres(torch.zeros(5, 2), 4).tolist())) == 4  # duplicates too are taken once each


def test_the_coreset_covers_better_than_chance_and_each_stratum_has_its_share() -> None:
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(400, 40, generator=generator) * 0.5 ** torch.arange(40)
    strata = (torch.arange(400) >= 300).long()
    chosen = coreset(points, strata, 80, 10, generator)
    assert torch.equal(chosen, chosen.unique())
    assert torch.bincount(strata[chosen]).tolist() == [60, 20]
    chance = torch.randperm(400, generator=generator)[:80]
    assert torch.cdist(points, points[chosen]).amin(1).max() < 0.9 * torch.cdist(points, points[chance]).amin(1).max()
    few = coreset(points, (torch.arange(400) >= 395).long(), 40, 10, generator)
    assert (few >= 395).sum() == 5  # fewer than the least: all of them


def test_large_sets_are_drawn_from_by_a_fixed_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    model, fitted = small_model(TABLE), batches(200, TABLE, size=30)
    score = Neighbours(of="items", coreset=20).build()
    state, again = score.fit(model, fitted), score.fit(model, iter(fitted))
    assert torch.equal(state["codes"], again["codes"])
    assert 20 <= len(state["codes"]) <= 30
    x = torch.cat([b.x for b in fitted])
    position = {tuple(one): i for i, one in enumerate(x.tolist())}
    kept = [position[tuple(one)] for one in state["codes"].tolist()]  # real items, none twice, in their order
    assert kept == sorted(set(kept))
    whole = Neighbours(of="items", coreset=200).build().fit(model, fitted)
    assert torch.equal(whole["codes"], x)
    # The candidates are drawn evenly: of 80 out of 200, about half from each half.
    monkeypatch.setattr(memory_bank, "coreset", lambda codes, *_: torch.arange(len(codes)))
    drawn = [position[tuple(one)] for one in score.fit(model, fitted)["codes"].tolist()]
    assert len(drawn) == 80
    assert 30 <= sum(i >= 100 for i in drawn) <= 50


def test_no_normals_is_an_error() -> None:
    with pytest.raises(DataError, match="none were given"):
        Neighbours().build().fit(small_model(), [])


def test_with_cosine_only_directions_count() -> None:
    """It is the distance of codes of length 1, so that an item and a multiple of it score alike."""
    model, (x, c, stratum) = small_model(TABLE), items(8, TABLE)
    score = Neighbours(k=3, of="items", cosine=True, coreset=None).build()
    state = score.fit(model, batches(90, TABLE))
    torch.testing.assert_close(state["codes"].norm(dim=1), torch.ones(len(state["codes"])))
    found = score.score(model, state, x, c, stratum).values
    torch.testing.assert_close(score.score(model, state, 5 * x, c, stratum).values, found, rtol=1e-5, atol=1e-6)
    plain = Neighbours(k=3, of="items", coreset=None).build()
    unit = batches(90, TABLE)
    for batch in unit:
        batch.x = batch.x / batch.x.norm(dim=1, keepdim=True)
    expected = plain.score(model, plain.fit(model, unit), x / x.norm(dim=1, keepdim=True), c, stratum).values
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("of", ["latent", "items"])
@pytest.mark.parametrize("cosine", [False, True])
@pytest.mark.parametrize("n", [21, 30, 33])  # strata of 7, of the 10 that are searched by themselves, and of 11
def test_an_item_fitted_on_is_scored_as_by_a_fit_without_it(of: str, cosine: bool, n: int) -> None:
    model, stratum = small_model(), torch.arange(n) % 3
    every, score = batch(items(n)[0], stratum), Neighbours(k=3, of=of, cosine=cosine).build()
    expected = []
    for i in range(n):
        others = score.fit(model, [every.rows(torch.arange(n) != i)])
        one = every.rows(torch.tensor([i]))
        expected.append(float(score.score(model, others, one.x, one.c, one.stratum).values))
    state = score.fit(model, [every])
    got = score.leave_one_out(model, state, every.x, every.c, every.stratum)
    np.testing.assert_allclose(got, expected, rtol=1e-4)


def test_an_item_that_is_not_in_the_bank_is_scored_by_all_of_it() -> None:
    model, fitted, new = small_model(), batches(90), items(8, seed=5)
    score = Neighbours(k=3, of="items").build()
    state = score.fit(model, fitted)
    torch.testing.assert_close(score.leave_one_out(model, state, *new), score.score(model, state, *new).values)


def test_of_copies_the_other_one_is_near() -> None:
    x = items(20)[0]
    x[1] = x[0]
    score = Neighbours(k=1, of="items").build()
    state = score.fit(small_model(), [batch(x)])
    got = score.leave_one_out(small_model(), state, x, None, torch.zeros(20, dtype=torch.long))
    assert got[0] == got[1] == 0
    assert (got[2:] > 0).all()
