"""Ways to see an image, a model that is told which, an objective that draws them and a score over all of them."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from torch import Tensor

from helpers import gradients, greatest_difference, prepared, toy_batch, toy_context, toy_model
from knowngood.config import (
    CVAE,
    DCVAE,
    KL,
    MLP,
    Elbo,
    Fusion,
    Gaussian,
    Hinge,
    Mahalanobis,
    PriorDistance,
    Reconstruction,
    Shift,
)
from knowngood.data.conditions import ConditionSchema
from knowngood.detector.fit.building import class_vectors
from knowngood.errors import SettingsError
from knowngood.models.objectives import Batch
from knowngood.models.objectives.class_aware import ClassAware
from knowngood.models.objectives.densities import SMALLEST_GROUP
from knowngood.models.objectives.lit import Lit
from knowngood.models.objectives.viewed import Viewed, draw_views, in_view
from knowngood.models.vae import ConditionalVAE
from knowngood.models.views import Views
from knowngood.scores.marginal import soft
from knowngood.scores.steady import SteadyScore
from knowngood.scores.views import ViewScore

ALL = ("rotate", "flip", "shift")
SHAPE = (2, 6, 6)


def random_images(n: int, shape: tuple[int, ...] = SHAPE, seed: int = 0) -> Tensor:
    return torch.rand(n, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def viewed_model(
    names: tuple[str, ...] = ("rotate", "flip"),
    *,
    condition_dim: int = 2,
    prior: str = "learned",
    blind: bool = False,
    jitter: float = 0.4,
) -> ConditionalVAE:
    """A small model with random weights; a blind one has nets and a prior that do not see which view it is."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        parts = (MLP(hidden=(8,)), Gaussian(), prior, 0, 40.0, names)
        model = ConditionalVAE(SHAPE, 12, condition_dim, *parts).double()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter += (0.02 if name.startswith("likelihood") else jitter) * torch.randn_like(parameter)
            if blind:
                assert model.views is not None
                for weight in (model.net.encoder[0].weight, model.net.decoder[0].weight, model.prior_weight):
                    weight[:, -len(model.views) :] = 0
    return model


def views_of(model: ConditionalVAE) -> Views:
    assert model.views is not None
    return model.views


# Views ----------------------------------------------------------------------------------------------------------------


def test_quarter_turns_and_mirror_images_are_the_group_of_the_square() -> None:
    views, x = Views(("rotate", "flip"), SHAPE), random_images(1)
    assert len(views) == 8
    assert views.labels[0] == "as it is"
    seen = [views.apply(x, k) for k in range(8)]
    by_hand = [torch.rot90(y, turns, (2, 3)) for y in (x, x.flip(3)) for turns in range(4)]
    for one, expected in zip(seen, by_hand, strict=True):
        assert one.equal(expected)

    def which(image: Tensor) -> int:
        (found,) = (k for k, one in enumerate(seen) if one.equal(image))
        return found

    table = torch.tensor([[which(views.apply(seen[a], b)) for b in range(8)] for a in range(8)])
    assert (table.sort(0).values == torch.arange(8)[:, None]).all()  # each row and column of the table of a group
    assert (table.sort(1).values == torch.arange(8)).all()
    assert not table.equal(table.t())
    assert (table == 0).sum() == 8


@pytest.mark.parametrize("names", [("rotate",), ("flip",), ("rotate", "flip")])
@pytest.mark.parametrize("shape", [(1, 5, 5), (3, 6, 6), (2, 4, 7)])
def test_turned_and_mirrored_maps_come_back_where_they_were(names: tuple[str, ...], shape: tuple[int, ...]) -> None:
    views, x = Views(names, shape), random_images(3, shape)
    for k in range(len(views)):
        assert views.back(views.apply(x, k)[:, 0], k).equal(x[:, 0])


def test_images_that_are_not_square_are_turned_by_half_turns_only() -> None:
    views, x = Views(("rotate", "flip"), (1, 4, 7)), random_images(2, (1, 4, 7))
    assert views.labels == ("as it is", "turned 180°", "mirrored", "mirrored, turned 180°")
    for k, axes in enumerate([(), (2, 3), (3,), (2,)]):
        assert views.apply(x, k).equal(x.flip(axes))


@pytest.mark.parametrize("shape", [(1, 8, 8), (2, 5, 9), (1, 2, 3)])
def test_shifted_images_go_on_as_their_mirror_image(shape: tuple[int, ...]) -> None:
    views, x = Views(("shift",), shape), random_images(2, shape)
    height, width = shape[1:]
    wide = np.pad(x.numpy(), [(0, 0), (0, 0), (height, height), (width, width)], mode="symmetric")
    down, right = max(1, height // 4), max(1, width // 4)
    assert len(views) == 9
    found = set()
    for k, label in enumerate(views.labels):
        y, x_ = map(int, re.findall(r"-?\d+", label)) if k else (0, 0)
        found.add((y, x_))
        expected = wide[:, :, height - y : 2 * height - y, width - x_ : 2 * width - x_]
        np.testing.assert_array_equal(views.apply(x, k).numpy(), expected)
    assert found == {(y, z) for y in (-down, 0, down) for z in (-right, 0, right)}


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 6, 6), (1, 5, 9)])
def test_over_all_views_each_pixel_is_seen_equally_often(shape: tuple[int, ...]) -> None:
    views = Views(ALL, shape)
    ones = torch.ones(1, *shape[1:], dtype=torch.float64)
    assert sum(views.back(ones, k) for k in range(len(views))).equal(len(views) * ones)  # type: ignore[union-attr]


def test_all_groups_together_are_the_72_views_of_geom() -> None:
    views, x = Views(ALL, SHAPE), random_images(1)
    assert len(views) == 72
    assert len(views.every(x).unique(dim=0)) == 72
    assert views.every(x)[:1].equal(x)


@pytest.mark.parametrize("shape", [(1, 6, 6), (1, 5, 8)])
def test_back_is_the_adjoint_of_apply(shape: tuple[int, ...]) -> None:
    views = Views(ALL, shape)
    x, m = random_images(2, shape), random_images(2, shape, seed=1)[:, 0]
    for k in range(len(views)):
        left = (views.apply(x, k)[:, 0] * m).sum()
        torch.testing.assert_close(left, (x[:, 0] * views.back(m, k)).sum())
        torch.testing.assert_close(views.back(m, k).sum((1, 2)), m.sum((1, 2)))


@pytest.mark.parametrize("shape", [SHAPE, (3, 4, 7)])
def test_each_image_in_its_own_view_is_that_image_in_that_view(shape: tuple[int, ...]) -> None:
    views, x = Views(ALL, shape), random_images(20, shape)
    view = torch.randint(len(views), (20,), generator=torch.Generator().manual_seed(0))
    for layout in (torch.contiguous_format, torch.channels_last):
        found = views.apply(x.contiguous(memory_format=layout), view)
        assert found.is_contiguous(memory_format=layout)
        for i, k in enumerate(view.tolist()):
            assert found[i].equal(views.apply(x[i : i + 1], k)[0])
    assert views.every(x).equal(torch.cat([views.apply(x, k) for k in range(len(views))]))


def test_conditions_and_strata_tell_the_view() -> None:
    views = Views(("flip",), SHAPE)
    c, view = torch.tensor([[0.0, 1.0], [2.5, 0.0]]), torch.tensor([1, 0])
    assert views.told(c, view, like=c).tolist() == [[0, 1, 0, 1], [2.5, 0, 1, 0]]
    assert views.told(None, 1, like=c).tolist() == [[0, 1], [0, 1]]
    assert views.stratum(torch.tensor([0, 3, -1]), 1).tolist() == [1, 7, -1]
    assert views.stratum(torch.tensor([0, 3, -1]), 0).tolist() == [0, 6, -1]
    assert views.stratum(torch.tensor([0, 3]), view).tolist() == [1, 6]


def test_what_has_no_second_view_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"augment_condition = rotate: items of shape \(6,\) are no images"):
        Views(("rotate",), (6,))
    with pytest.raises(SettingsError, match="images of 1×1 pixels have no second view"):
        Views(ALL, (3, 1, 1))
    assert len(Views(ALL, (1, 1, 8))) == 6  # one row: turned by half and mirrored are the same


# The model ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("condition_dim", [0, 2])
@pytest.mark.parametrize("prior", ["standard", "learned", "separated"])
def test_without_a_view_the_image_is_meant_as_it_is(condition_dim: int, prior: str) -> None:
    model = viewed_model(condition_dim=condition_dim, prior=prior)
    batch, views = toy_batch(model, n=5), views_of(model)
    whole = views.told(batch.c, 0, like=batch.x)
    assert whole.shape == (5, condition_dim + 8)
    other = views.told(batch.c, 3, like=batch.x)
    z = model.encode(batch.x, batch.c).mean
    for ask in (
        lambda c: model.encode(batch.x, c).mean,
        lambda c: model.decode(z, c),
        lambda c: model.prior(c, like=z).mean,
        lambda c: model.reconstruct(batch.x, c),
    ):
        assert ask(batch.c).equal(ask(whole))
    assert not model.decode(z, other).equal(model.decode(z, whole))
    assert model.prior(other, like=z).mean.equal(model.prior(whole, like=z).mean) == (prior == "standard")
    with pytest.raises(ValueError, match=rf"shape \(5, 7\) given; this model needs \(5, {condition_dim}\)"):
        model.encode(batch.x, batch.x.new_zeros(5, 7))


def test_a_model_without_views_has_the_weights_it_had() -> None:
    for condition_dim in (0, 2):
        plain = toy_model(SHAPE, condition_dim=condition_dim)
        assert plain.views is None
        assert plain.width == condition_dim
    state = viewed_model().state_dict()
    assert {name.split(".")[0] for name in state} == {"net", "likelihood", "prior_bias", "prior_weight"}


def test_density_separated_priors_of_classes_and_views_are_at_least_the_separation_apart() -> None:
    model = viewed_model(condition_dim=4, prior="separated")
    views = views_of(model)
    c = torch.eye(4, dtype=torch.float64).repeat_interleave(8, 0)
    mean = model.prior(views.told(c, torch.arange(8).repeat(4), like=c), like=c).mean
    apart = torch.cdist(mean, mean).view(4, 8, 4, 8)
    for a in range(4):
        for k in range(8):
            differ = (torch.arange(4) != a)[:, None].double() + (torch.arange(8) != k).double()
            torch.testing.assert_close(apart[a, k], 40 * differ.sqrt(), atol=1e-3, rtol=0)
    with pytest.raises(SettingsError, match="prior = 'separated' needs conditions"):
        viewed_model((), condition_dim=0, prior="separated")


# Training -------------------------------------------------------------------------------------------------------------


def test_views_are_drawn_uniformly_and_spread_evenly() -> None:
    generator = torch.Generator().manual_seed(0)
    none = torch.zeros(20, dtype=torch.int64)
    draws = torch.stack([draw_views(none, 1, 8, generator) for _ in range(4000)])
    counts = torch.nn.functional.one_hot(draws, 8)
    share = counts.double().mean(0)  # (20, 8) of each item
    assert (share - 1 / 8).abs().max() < 5 * (7 / 64 / 4000) ** 0.5
    of_step = counts.sum(1)
    assert set(of_step.unique().tolist()) == {2, 3}
    assert draws.unique(dim=0).shape[0] == 4000
    again = torch.Generator().manual_seed(0)
    assert draw_views(none, 1, 8, again).equal(draws[0])


def test_no_group_of_a_stratum_becomes_smaller_than_it_must_be() -> None:
    generator = torch.Generator().manual_seed(0)
    sizes = {0: 5, 1: 16, 2: 40, 4: 32, 5: 200}  # none of stratum 3
    stratum = torch.cat([torch.full((n,), s) for s, n in sizes.items()])
    stratum = stratum[torch.randperm(len(stratum), generator=generator)]
    seen: set[tuple[int, int]] = set()
    for _ in range(200):
        view = draw_views(stratum, 6, 8, generator, SMALLEST_GROUP)
        for s, n in sizes.items():
            drawn = view[stratum == s].bincount()
            used = drawn[drawn > 0]
            assert len(used) == min(8, max(1, n // SMALLEST_GROUP))
            assert used.min() >= min(n, SMALLEST_GROUP)
            seen |= {(s, k) for k in drawn.nonzero().flatten().tolist()}
    assert len(seen) == 5 * 8


def captured(objective: Viewed) -> list[Any]:
    calls: list[Any] = []
    objective.base.loss = lambda model, batch, ctx: calls.append((batch, ctx))  # type: ignore[assignment, method-assign]
    return calls


def test_the_objective_within_sees_every_image_in_the_view_that_it_is_told() -> None:
    model = viewed_model()
    views, batch = views_of(model), replace(toy_batch(model), factors=torch.arange(40.0)[:, None])
    objective = Viewed(CVAE().build())
    calls = captured(objective)
    second = toy_batch(model, seed=5)
    ctx = replace(toy_context(batch, second=second), stratum_counts=torch.tensor([120, 80]))
    objective.loss(model, batch, ctx)
    ((found, given),) = calls
    for one, raw in ((found, batch), (given.second, second)):
        view = one.c[:, 2:].argmax(1)
        assert one.c.equal(torch.cat((raw.c, torch.eye(8)[view]), 1))
        assert one.x.equal(views.apply(raw.x, view))
        assert one.stratum.equal(raw.stratum * 8 + view)
        assert view.bincount().tolist() == [5] * 8
    assert not found.c[:, 2:].equal(given.second.c[:, 2:])
    assert found.factors is batch.factors
    assert given.stratum_counts.tolist() == [120] * 8 + [80] * 8
    assert given.n_items == 8 * ctx.n_items
    assert batch.c is not None
    assert batch.c.shape == (40, 2)


@pytest.mark.parametrize("base", [CVAE(), DCVAE(beta=3)], ids=["cvae", "dcvae"])
def test_density_loss_is_that_of_the_objective_within_on_the_images_as_seen(base: Any) -> None:
    model = viewed_model()
    batch = toy_batch(model)
    objective, plain = Viewed(prepared(base, model)), prepared(base, model)
    ctx = toy_context(batch)
    expected = plain.loss(model, *objective._seen(model, batch, ctx))[0]["model"]
    loss, terms = objective.loss(model, batch, toy_context(batch))
    assert loss["model"].equal(expected)
    assert all(len(term) == 40 for term in terms.values())


def test_strata_of_dcvae_stay_large_enough_for_their_total_correlation() -> None:
    model = viewed_model()
    batch = toy_batch(model, n=128)
    _, terms = Viewed(prepared(DCVAE(), model)).loss(model, batch, toy_context(batch))
    assert not terms["tc_skipped"].any()
    alone = replace(batch, stratum=torch.zeros_like(batch.stratum))
    _, terms = Viewed(prepared(DCVAE(), model)).loss(model, alone, toy_context(alone))
    assert not terms["tc_skipped"].any()


def test_gradient_reaches_the_weights_of_every_view() -> None:
    model = viewed_model()
    batch = toy_batch(model)
    found = gradients(Viewed(CVAE().build()).loss(model, batch, toy_context(batch))[0]["model"], model)
    for name in ("net.encoder.0.weight", "net.decoder.0.weight", "prior_weight"):
        assert (found[name][:, -8:].abs().amax(0) > 0).all(), name


def test_labelled_anomalies_of_unknown_condition_are_seen_in_views_of_their_own() -> None:
    model = viewed_model()
    batch = toy_batch(model)
    odd = toy_batch(model, n=16, seed=9)
    assert odd.c is not None
    odd = replace(odd, c=odd.c.clone())
    odd.c[::2] = float("nan")
    for options in (Hinge(warmup=0), Shift(warmup=0)):
        objective = options.build(Viewed(CVAE().build()))
        ctx = replace(toy_context(batch), anomalies=odd)
        with patch.object(model, "encode", wraps=model.encode) as encode:
            loss = objective.loss(model, batch, ctx)[0]["model"]
        (told,) = [call.args[1] for call in encode.call_args_list if len(call.args[0]) == 16]
        assert told.isfinite().all()
        assert told[:, 2:].argmax(1).bincount().tolist() == [2] * 8
        assert loss.isfinite()


def test_density_classes_of_the_class_aware_term_are_all_pairs_of_condition_and_view() -> None:
    kinds = np.array(["a"] * 30 + ["b"] * 10)
    model = viewed_model()
    vectors, log_shares = class_vectors(ConditionSchema.fit({"kind": kinds}, 40), model)
    assert vectors.shape == (16, 10)
    assert len(vectors.unique(dim=0)) == 16
    torch.testing.assert_close(log_shares.exp().sum().item(), 1.0)
    torch.testing.assert_close(log_shares.exp().view(2, 8), torch.tensor([[30.0], [10]]).double().expand(2, 8) / 40 / 8)
    alone, even = class_vectors(ConditionSchema.fit({}, 40), viewed_model(condition_dim=0))
    assert alone.equal(torch.eye(8))
    torch.testing.assert_close(even, torch.full((8,), -np.log(8), dtype=even.dtype))
    with pytest.raises(SettingsError, match="class_aware needs at least two conditions"):
        class_vectors(ConditionSchema.fit({}, 40), toy_model(SHAPE, condition_dim=0))

    objective = Viewed(ClassAware(CVAE().build(), 1.0, vectors, log_shares).double())
    batch = toy_batch(model)
    _, terms = objective.loss(model, batch, toy_context(batch))
    seen, _ = objective._seen(model, batch, toy_context(batch))
    mean = model.encode(seen.x, seen.c).mean
    densities = torch.stack([model.prior(v.double().expand(40, -1), like=mean).log_prob(mean).sum(1) for v in vectors])
    densities = densities + log_shares.double()[:, None]
    own = (seen.c[:, None] == vectors.double()).all(2).double().argmax(1)  # type: ignore[index]
    torch.testing.assert_close(terms["class_error"], -densities.log_softmax(0)[own, torch.arange(40)])


# Scores ---------------------------------------------------------------------------------------------------------------

SCORES = [Elbo(samples=3), KL(), PriorDistance(), Reconstruction(distance="squared"), Mahalanobis()]


def normals(model: ConditionalVAE, n: int = 60) -> list[Batch]:
    whole = toy_batch(model, n=n, seed=7)
    assert whole.c is not None
    parts = zip(*(t.split(16) for t in (whole.x, whole.c, whole.stratum, whole.label, whole.index)), strict=True)
    return [Batch(*part) for part in parts]


@pytest.mark.parametrize("options", SCORES, ids=lambda options: options.name)
@torch.no_grad()
def test_density_score_is_the_sum_over_views_of_the_score_within(options: Any) -> None:
    model = viewed_model().eval()
    views, batch = views_of(model), toy_batch(model, n=9)
    score, inner = ViewScore(options.build()), options.build()
    score.check(model)
    state = score.fit(model, normals(model))
    found = score.score(model, state, batch.x, batch.c, batch.stratum, want_map=True)
    every = [in_view(views, batch, k) for k in range(8)]
    parts = [inner.score(model, state, one.x, one.c, one.stratum, want_map=True) for one in every]
    torch.testing.assert_close(found.values, torch.stack([part.values for part in parts]).sum(0))
    for name, value in found.parts.items():
        torch.testing.assert_close(value, torch.stack([part.parts[name] for part in parts]).sum(0))
    assert (found.map is not None) == score.has_map == inner.has_map
    if found.map is not None:
        total = found.parts.get("elbo_reconstruction", found.values)
        torch.testing.assert_close(found.map.sum((1, 2)), total)
    assert score.is_likelihood == inner.is_likelihood
    again = [score.score(model, state, *(t[i : i + 1] for t in (batch.x, batch.c, batch.stratum))) for i in range(9)]  # type: ignore[index]
    torch.testing.assert_close(torch.cat([one.values for one in again]), found.values)


@torch.no_grad()
def test_state_by_stratum_is_by_view_too() -> None:
    model = viewed_model().eval()
    score = ViewScore(Mahalanobis().build())
    state = score.fit(model, normals(model))
    assert len(state["mean"]) == 2 * 8 + 1
    whole = toy_batch(model, n=60, seed=7)
    for k in (0, 5):
        seen = in_view(views_of(model), whole, k)
        codes = model.encode(seen.x, seen.c).mean[whole.stratum == 1]
        torch.testing.assert_close(state["mean"][8 + k], codes.mean(0))


@torch.no_grad()
def test_what_settles_on_held_out_images_sees_these_in_all_views() -> None:
    model = viewed_model(("flip",)).eval()
    views, held_out = views_of(model), normals(model, 40)
    score = ViewScore(Fusion(scores=(PriorDistance(), KL()), weighting=(1, 1)).build())
    state = score.settle(model, score.fit(model, held_out), held_out, held_out)
    whole = toy_batch(model, n=40, seed=7)
    inner = PriorDistance().build()
    expected = [inner.score(model, {}, s.x, s.c, s.stratum).values for s in (in_view(views, whole, k) for k in (0, 1))]
    torch.testing.assert_close(state["tails"][0].sort().values, torch.cat(expected).sort().values)


@pytest.mark.parametrize("options", [Elbo(samples=2), PriorDistance()], ids=lambda options: options.name)
@torch.no_grad()
def test_limit_where_the_view_tells_nothing_a_turned_image_scores_the_same_and_its_map_is_turned(options: Any) -> None:
    for blind in (True, False):
        model = viewed_model(blind=blind).eval()
        views, batch = views_of(model), toy_batch(model, n=4)
        score = ViewScore(options.build())
        state = score.fit(model, [])
        plain = score.score(model, state, batch.x, batch.c, batch.stratum, want_map=True)
        for k in range(1, 8):
            found = score.score(model, state, views.apply(batch.x, k), batch.c, batch.stratum, want_map=True)
            assert torch.allclose(found.values, plain.values, rtol=1e-10) == blind
            if blind and plain.map is not None and found.map is not None:
                torch.testing.assert_close(found.map, views.apply(plain.map[:, None], k)[:, 0])


@torch.no_grad()
def test_density_unknown_conditions_are_summed_out_of_all_views_together() -> None:
    model = viewed_model(("flip",), jitter=0.1).eval()
    views, x = views_of(model), random_images(5)
    score, inner = ViewScore(Elbo(samples=2).build()), Elbo(samples=2).build()
    state = score.fit(model, [])
    log_share = np.log([0.3, 0.7])
    rows = x.repeat_interleave(2, 0)
    c = torch.eye(2, dtype=torch.float64).repeat(5, 1)
    zero = torch.zeros(10, dtype=torch.int64)
    values = score.score(model, state, rows, c, zero).values
    found = soft(values.numpy(), np.repeat(np.arange(5), 2), np.tile(log_share, 5))
    expected = np.zeros(5)
    middle = values.mean().item()
    for k, share in enumerate((0.3, 0.7)):
        told = torch.eye(2, dtype=torch.float64)[[k]].expand(5, -1)
        terms = [
            inner.score(model, state, views.apply(x, v), views.told(told, v, like=x), zero[:5]).values for v in (0, 1)
        ]
        expected += share * np.exp(middle - (terms[0] + terms[1]).numpy())
    np.testing.assert_allclose(found, middle - np.log(expected), rtol=1e-10)
    assert np.abs(found - values.view(5, 2).numpy().min(1)).max() > 0.01


@torch.no_grad()
def test_light_is_read_off_the_image_and_the_sum_over_views_is_adjusted() -> None:
    model = viewed_model().eval()
    batches = normals(model)
    within = ViewScore(PriorDistance().build())
    score = SteadyScore(within, 0.3)
    state = score.settle(model, score.fit(model, batches), batches, batches)
    batch = toy_batch(model, n=6)
    found = score.score(model, state, batch.x, batch.c, batch.stratum)
    assert found.values.isfinite().all()
    assert found.parts.keys() == {"light"}


def test_light_and_views_change_an_image_together() -> None:
    model = viewed_model()
    batch = toy_batch(model)
    objective = Viewed(Lit(CVAE().build(), 0.3))
    (loss,) = objective.loss(model, batch, toy_context(batch))[0].values()
    (plain,) = Viewed(CVAE().build()).loss(model, batch, toy_context(batch))[0].values()
    assert loss.isfinite()
    assert greatest_difference(gradients(loss, model), gradients(plain, model)) > 0


def test_a_score_over_views_needs_a_model_with_views() -> None:
    with pytest.raises(SettingsError, match="set augment_condition"):
        ViewScore(Elbo().build()).check(toy_model(SHAPE))
