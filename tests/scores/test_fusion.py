"""Fusion: surprises by the definition, their weighted sum, and each score marginalised by its own rule."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from knowngood.calibration import surprise
from knowngood.config import (
    Elbo,
    Fusion,
    Mahalanobis,
    Neighbours,
    PriorDistance,
    Reconstruction,
    ScoreChoice,
    parse,
    parse_settings,
)
from knowngood.errors import SettingsError
from knowngood.models.base import Batch
from knowngood.models.vae import ConditionalVAE
from knowngood.scores import Score
from knowngood.scores.fusion import evenly
from knowngood.scores.marginal import Cells, Rows
from score_models import IMAGE, TABLE, batches, items, small_model

TWO = Fusion(scores=(Elbo(), PriorDistance()))


def fit(options: Fusion, held_out: int, shape: tuple[int, ...] = IMAGE):
    model, score = small_model(shape), options.build()
    state = score.fit(model, batches(60, shape))
    return model, score, score.fit_held_out(model, state, batches(held_out, shape), batches(60, shape))


# Surprise ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weights", [(1.0, 1.0), (3.0, 1.0), (0.0, 2.0)])
def test_it_is_the_weighted_surprise_within_the_stratum(weights: tuple[float, float]) -> None:
    model, score, state = fit(TWO.model_copy(update={"weights": weights}), 120)
    held_out, (x, c, stratum) = batches(120), items(30)
    expected = np.zeros(30)
    for inner, weight in zip((Elbo().build(), PriorDistance().build()), weights, strict=True):
        own = inner.fit(model, held_out)
        reference = np.concatenate([inner.score(model, own, b.x, b.c, b.stratum).values.numpy() for b in held_out])
        of = torch.cat([b.stratum for b in held_out]).numpy()
        values = inner.score(model, own, x, c, stratum).values.numpy()
        for s in range(3):
            assert (of == s).sum() >= 19
            rows = stratum.numpy() == s
            expected[rows] += weight / sum(weights) * surprise(reference[of == s], values[rows])
    found = score.score(model, state, x, c, stratum)
    np.testing.assert_allclose(found.values, expected, rtol=1e-4)
    assert list(found.parts) == [
        *("elbo", "elbo_surprise", "elbo_reconstruction", "elbo_kl"),
        *("prior_distance", "prior_distance_surprise"),
    ]
    torch.testing.assert_close(found.parts["elbo_reconstruction"] + found.parts["elbo_kl"], found.parts["elbo"])
    torch.testing.assert_close(found.parts["prior_distance"], torch.from_numpy(values), rtol=1e-5, atol=0)
    surprises = (found.parts["elbo_surprise"], found.parts["prior_distance_surprise"])
    mixed = sum(w * part for w, part in zip(weights, surprises, strict=True)) / sum(weights)
    torch.testing.assert_close(found.values, mixed)


def test_small_and_unseen_strata_are_compared_with_all() -> None:
    model, score, state = fit(TWO.model_copy(update={"weights": (1.0, 0.0)}), 40)  # 19 in none of three
    inner, held_out, (x, c, stratum) = Elbo().build(), batches(40), items(20)
    own = inner.fit(model, held_out)
    reference = np.concatenate([inner.score(model, own, b.x, b.c, b.stratum).values.numpy() for b in held_out])
    expected = surprise(reference, inner.score(model, own, x, c, stratum).values.numpy())
    for strata in (stratum, torch.full_like(stratum, -1), torch.full_like(stratum, 9)):
        np.testing.assert_allclose(score.score(model, state, x, c, strata).values, expected, rtol=1e-4)


def test_a_fusion_of_one_score_ranks_as_it_does() -> None:
    model, score, state = fit(Fusion(scores=(Elbo(),)), 60)
    x, c, stratum = items(50)
    alone = Elbo().build()
    values = alone.score(model, alone.fit(model, []), x, c, stratum).values
    for s in range(3):
        rows = stratum == s
        found = score.score(model, state, x[rows], c[rows], stratum[rows]).values
        assert torch.equal(found.argsort(), values[rows].argsort())


# Conditions that are not known ----------------------------------------------------------------------------------------

CELLS = Cells(torch.eye(3), torch.arange(3), torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64).log())


def under_each(score: Score, model: ConditionalVAE, state: dict[str, torch.Tensor], x: torch.Tensor) -> np.ndarray:
    """(n, 3) by the definition, one condition after the other."""
    rows = [(c.expand(len(x), -1), torch.full((len(x),), s)) for s, c in enumerate(torch.eye(3))]
    return np.stack([score.score(model, state, x, c, stratum).values.numpy() for c, stratum in rows], 1)


@pytest.mark.parametrize("weights", [(1.0, 1.0), (3.0, 1.0), (0.0, 2.0)])
def test_each_score_is_marginalised_by_its_own_rule_before_they_are_added(weights: tuple[float, float]) -> None:
    model, score, state = fit(TWO.model_copy(update={"weights": weights}), 120)
    state = score.fit_marginal(model, state, batches(120), batches(60), CELLS)
    normal, (x, _, _) = torch.cat([b.x for b in batches(120)]), items(30)
    expected = np.zeros(30)
    log_weight = CELLS.log_weight.numpy()
    for inner, weight in zip((Elbo().build(), PriorDistance().build()), weights, strict=True):
        own = inner.fit(model, batches(60))
        reference, asked = (under_each(inner, model, own, some) for some in (normal, x))
        if inner.is_likelihood:
            values = [
                -np.log(np.exp(log_weight - v + v.min(1, keepdims=True)).sum(1)) + v.min(1) for v in (reference, asked)
            ]
        else:
            values = [reference.min(1), asked.min(1)]
        expected += weight / sum(weights) * surprise(*values)
    results = [score.score(model, state, x, c.expand(30, -1), torch.full((30,), s)) for s, c in enumerate(torch.eye(3))]
    parts = {name: np.stack([r.parts[name].numpy() for r in results], 1).ravel() for name in results[0].parts}
    values = np.stack([r.values.numpy() for r in results], 1).ravel()
    rows = Rows(values, parts, np.tile([0, 1, 2], 30), np.repeat(np.arange(30), 3), np.tile(log_weight, 30))
    np.testing.assert_allclose(score.marginal(state, rows), expected, rtol=1e-4)


def test_few_held_out_items_leave_marginal_tails_to_those_fitted() -> None:
    model, score, state = fit(TWO, 10)
    state = score.fit_marginal(model, state, batches(10), batches(60), CELLS)
    assert state["marginal_tails"].shape == (2, 60)


def test_far_beyond_the_largest_it_still_grows() -> None:
    model, score, state = fit(TWO, 60)
    x, c, stratum = items(1)
    values = [score.score(model, state, x * k, c, stratum).values.item() for k in (4, 8, 16, 32)]
    assert values == sorted(values)
    assert len(set(values)) == 4
    assert values[-1] > 20


def test_items_that_cannot_be_scored_stay_so() -> None:
    model, score, state = fit(TWO, 60)
    x, c, stratum = items(5)
    whole = score.score(model, state, x, c, stratum).values
    x = x.clone()
    x[2] = torch.nan
    found = score.score(model, state, x, c, stratum).values
    assert found[2].isnan()
    keep = torch.tensor([0, 1, 3, 4])
    torch.testing.assert_close(found[keep], whole[keep], rtol=1e-5, atol=0)


def test_the_state_of_each_score_is_its_own() -> None:
    options = Fusion(scores=(Mahalanobis(), Elbo(samples=2), Elbo(samples=3), Reconstruction()))
    model, score, state = fit(options, 60)
    assert state["1.noise"].shape == (2, 5)
    assert state["2.noise"].shape == (3, 5)
    assert "0.cholesky" in state
    found = score.score(model, state, *items(3))
    for name in ("mahalanobis", "elbo", "elbo_2", "reconstruction"):
        assert {name, f"{name}_surprise"} <= found.parts.keys()
    for name, own in (("elbo", ""), ("elbo_2", "elbo_2_")):
        parts = found.parts[f"{own}elbo_reconstruction"] + found.parts[f"{own}elbo_kl"]
        torch.testing.assert_close(parts, found.parts[name])


def test_the_map_is_that_of_the_heaviest_score_that_has_one() -> None:
    options = Fusion(scores=(PriorDistance(), Elbo(), Reconstruction()), weights=(6, 1, 2))
    model, score, state = fit(options, 60)
    x, c, stratum = items(4)
    alone = Reconstruction().build().score(model, {}, x, c, stratum, want_map=True).map
    found = score.score(model, state, x, c, stratum, want_map=True).map
    assert score.has_map
    torch.testing.assert_close(found, alone)
    assert score.score(model, state, x, c, stratum).map is None
    assert not Fusion(scores=(PriorDistance(), Mahalanobis())).build().has_map


def test_batches_that_can_be_read_once_will_do() -> None:
    model, score = small_model(), Fusion(scores=(Mahalanobis(), Mahalanobis(), Elbo())).build()

    def once(n: int) -> Iterator[Batch]:
        yield from batches(n)

    state = score.fit_held_out(model, score.fit(model, once(60)), once(60), once(60))
    again = score.fit_held_out(model, score.fit(model, batches(60)), batches(60), batches(60))
    assert state.keys() == again.keys()
    assert all(torch.equal(state[name], again[name]) for name in state)


@pytest.mark.parametrize(("held_out", "tails"), [(29, 60), (30, 30)])
def test_few_held_out_items_leave_tails_to_those_fitted(held_out: int, tails: int) -> None:
    assert fit(TWO, held_out)[2]["tails"].shape == (2, tails)


def test_weights_are_equal_unless_given_and_add_up_to_one() -> None:
    assert TWO.build().weights.tolist() == [0.5, 0.5]
    assert Fusion(scores=(Elbo(), PriorDistance()), weights=(3, 1)).build().weights.tolist() == [0.75, 0.25]


def test_a_fusion_of_a_table_has_no_map() -> None:
    model, score, state = fit(TWO, 90, TABLE)
    assert score.score(model, state, *items(3, TABLE), want_map=True).map is None


# Normal items --------------------------------------------------------------------------------------------------


def test_items_are_spread_evenly_whatever_the_batches() -> None:
    def of(size: int) -> list[int]:
        taken = evenly(batches(1000, (1, 2, 2), size), 100, 10**9)
        assert taken is not None
        return taken.index.tolist()

    assert of(7) == of(64) == of(1000) == list(range(0, 1000, 16))
    assert evenly([], 10, 10) is None
    few = evenly(batches(500, (1, 2, 2)), 100, 4 * 8)  # values for 8 items alone, but 30 are kept
    assert few is not None
    assert len(few.x) >= 30


# Settings ---------------------------------------------------------------------------------------------------------


def test_a_list_of_scores_is_their_fusion() -> None:
    by_list = parse(ScoreChoice, ["elbo", {"name": "reconstruction", "distance": "mean"}])
    assert by_list == Fusion(scores=(Elbo(), Reconstruction(distance="mean")))
    assert parse(ScoreChoice, "elbo, prior_distance") == TWO


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["elbo", "prior_distanse"], "unknown scores? 'prior_distanse'; did you mean 'prior_distance'"),
        (["elbo", "fusion"], "unknown scores? 'fusion'"),
        ([], "at least 1 item"),
        (
            {"name": "fusion", "scores": ["elbo"], "weights": [1, 2]},
            r"weights = 1, 2 for 1 scores; give one finite number for each",
        ),
        ({"name": "fusion", "scores": ["elbo", "kl"], "weights": [0, 0]}, "not all of them 0"),
        ({"name": "fusion", "scores": ["elbo", "kl"], "weights": [1, -1]}, "greater than or equal to 0"),
        ({"name": "fusion", "scores": [{"name": "elbo", "sample": 1}]}, "'elbo' has no option 'sample'"),
    ],
)
def test_what_is_wrong_with_a_fusion_is_said(given, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        parse_settings({"score": given})


def test_what_one_score_refuses_the_fusion_does() -> None:
    options = Fusion(scores=(Elbo(), Reconstruction(distance="ssim")))
    with pytest.raises(SettingsError, match="'ssim' needs images"):
        options.build().check(small_model(TABLE))


@pytest.mark.parametrize("held_out", [0, 29, 30])
def test_tails_of_items_fitted_on_are_those_of_each_left_out(held_out: int) -> None:
    inner = Neighbours(k=1, of="items", coreset=None)
    model, score, state = fit(Fusion(scores=(inner, Elbo())), held_out)
    state = score.fit_marginal(model, state, batches(held_out) if held_out else [], batches(60), CELLS)
    tail, marginal = state["tails"][0], state["marginal_tails"][0]
    assert len(tail) == len(marginal) == (30 if held_out == 30 else 60)
    assert (tail > 0).all()  # an item itself is at a distance of 0
    assert (marginal > 0).all()
    if held_out < 30:
        every = Batch.cat(list(batches(60)))
        alone = inner.build()
        without = [alone.fit(model, [every.rows(torch.arange(60) != i)]) for i in range(60)]
        values = [
            alone.score(model, own, one.x, one.c, one.stratum).values
            for own, one in zip(without, map(every.rows, torch.arange(60).split(1)), strict=True)
        ]
        torch.testing.assert_close(tail, torch.cat(values))
