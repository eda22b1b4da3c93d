"""Fusion: surprises by the definition, weights that follow what tells, equal ones where little is known."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from knowngood.calibration import surprise
from knowngood.config import Elbo, Fusion, Mahalanobis, PriorDistance, Reconstruction, parse_settings
from knowngood.errors import SettingsError
from knowngood.metrics import roc_auc
from knowngood.models.objectives import Batch
from knowngood.models.vae import ConditionalVAE
from knowngood.scores import Score
from knowngood.scores.hidden import Cells
from knowngood.scores.marginal import Rows
from knowngood.scores.trial import FEWEST, MOST, Trial, evenly, fitted_weights, gain, placements, simplex
from score_models import IMAGE, TABLE, batches, items, small_model

TWO = Fusion(scores=(Elbo(), PriorDistance()))


def settled(options: Fusion, held_out: int, shape: tuple[int, ...] = IMAGE):
    model, score = small_model(shape), options.build()
    state = score.fit(model, batches(60, shape))
    return model, score, score.settle(model, state, batches(held_out, shape), batches(60, shape))


# Surprise ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weighting", [(1.0, 1.0), (3.0, 1.0), (0.0, 2.0)])
def test_it_is_the_weighted_surprise_within_the_stratum(weighting: tuple[float, float]) -> None:
    model, score, state = settled(TWO.model_copy(update={"weighting": weighting}), 120)
    held_out, (x, c, stratum) = batches(120), items(30)
    expected = np.zeros(30)
    for inner, weight in zip((Elbo().build(), PriorDistance().build()), weighting, strict=True):
        own = inner.fit(model, held_out)
        seen = np.concatenate([inner.score(model, own, b.x, b.c, b.stratum).values.numpy() for b in held_out])
        of = torch.cat([b.stratum for b in held_out]).numpy()
        values = inner.score(model, own, x, c, stratum).values.numpy()
        for s in range(3):
            assert (of == s).sum() >= 19
            rows = stratum.numpy() == s
            expected[rows] += weight / sum(weighting) * surprise(seen[of == s], values[rows])
    found = score.score(model, state, x, c, stratum)
    np.testing.assert_allclose(found.values, expected, rtol=1e-4)
    assert list(found.parts) == [
        *("elbo", "elbo_surprise", "elbo_reconstruction", "elbo_kl"),
        *("prior_distance", "prior_distance_surprise"),
    ]
    torch.testing.assert_close(found.parts["elbo_reconstruction"] + found.parts["elbo_kl"], found.parts["elbo"])
    torch.testing.assert_close(found.parts["prior_distance"], torch.from_numpy(values), rtol=1e-5, atol=0)
    surprises = (found.parts["elbo_surprise"], found.parts["prior_distance_surprise"])
    mixed = sum(w * part for w, part in zip(weighting, surprises, strict=True)) / sum(weighting)
    torch.testing.assert_close(found.values, mixed)


def test_small_and_unseen_strata_are_compared_with_all() -> None:
    model, score, state = settled(TWO.model_copy(update={"weighting": (1.0, 0.0)}), 40)  # 19 in none of three
    inner, held_out, (x, c, stratum) = Elbo().build(), batches(40), items(20)
    own = inner.fit(model, held_out)
    seen = np.concatenate([inner.score(model, own, b.x, b.c, b.stratum).values.numpy() for b in held_out])
    expected = surprise(seen, inner.score(model, own, x, c, stratum).values.numpy())
    for strata in (stratum, torch.full_like(stratum, -1), torch.full_like(stratum, 9)):
        np.testing.assert_allclose(score.score(model, state, x, c, strata).values, expected, rtol=1e-4)


def test_a_fusion_of_one_score_ranks_as_it_does() -> None:
    model, score, state = settled(Fusion(scores=(Elbo(),)), 60)
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


@pytest.mark.parametrize("weighting", [(1.0, 1.0), (3.0, 1.0), (0.0, 2.0)])
def test_each_score_is_summed_out_by_its_own_rule_before_they_are_added(weighting: tuple[float, float]) -> None:
    model, score, state = settled(TWO.model_copy(update={"weighting": weighting}), 120)
    state = score.settle_hidden(model, state, batches(120), batches(60), CELLS)
    good, (x, _, _) = torch.cat([b.x for b in batches(120)]), items(30)
    expected = np.zeros(30)
    log_weight = CELLS.log_weight.numpy()
    for inner, weight in zip((Elbo().build(), PriorDistance().build()), weighting, strict=True):
        own = inner.fit(model, batches(60))
        seen, asked = (under_each(inner, model, own, some) for some in (good, x))
        if inner.is_likelihood:
            summed = [
                -np.log(np.exp(log_weight - v + v.min(1, keepdims=True)).sum(1)) + v.min(1) for v in (seen, asked)
            ]
        else:
            summed = [seen.min(1), asked.min(1)]
        expected += weight / sum(weighting) * surprise(*summed)
    results = [score.score(model, state, x, c.expand(30, -1), torch.full((30,), s)) for s, c in enumerate(torch.eye(3))]
    parts = {name: np.stack([r.parts[name].numpy() for r in results], 1).ravel() for name in results[0].parts}
    values = np.stack([r.values.numpy() for r in results], 1).ravel()
    rows = Rows(values, parts, np.tile([0, 1, 2], 30), np.repeat(np.arange(30), 3), np.tile(log_weight, 30))
    np.testing.assert_allclose(score.summed_out(state, rows), expected, rtol=1e-4)


def test_few_held_out_items_leave_hidden_tails_to_those_fitted() -> None:
    model, score, state = settled(TWO, 10)
    state = score.settle_hidden(model, state, batches(10), batches(60), CELLS)
    assert state["hidden"].shape == (2, 60)


def test_far_beyond_the_largest_it_still_grows() -> None:
    model, score, state = settled(TWO, 60)
    x, c, stratum = items(1)
    values = [score.score(model, state, x * k, c, stratum).values.item() for k in (4, 8, 16, 32)]
    assert values == sorted(values)
    assert len(set(values)) == 4
    assert values[-1] > 20


def test_items_that_cannot_be_scored_stay_so() -> None:
    model, score, state = settled(TWO, 60)
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
    model, score, state = settled(options, 60)
    assert state["1.noise"].shape == (2, 5)
    assert state["2.noise"].shape == (3, 5)
    assert "0.cholesky" in state
    found = score.score(model, state, *items(3))
    for name in ("mahalanobis", "elbo", "elbo_2", "reconstruction"):
        assert {name, f"{name}_surprise"} <= found.parts.keys()
    for name, own in (("elbo", ""), ("elbo_2", "elbo_2_")):
        parts = found.parts[f"{own}elbo_reconstruction"] + found.parts[f"{own}elbo_kl"]
        torch.testing.assert_close(parts, found.parts[name])
    assert state["weights"].sum().item() == pytest.approx(1)


def test_the_map_is_that_of_the_heaviest_score_that_has_one() -> None:
    options = Fusion(scores=(PriorDistance(), Elbo(), Reconstruction()), weighting=(6, 1, 2))
    model, score, state = settled(options, 60)
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

    state = score.settle(model, score.fit(model, once(60)), once(60), once(60))
    again = score.settle(model, score.fit(model, batches(60)), batches(60), batches(60))
    assert state.keys() == again.keys()
    assert all(torch.equal(state[name], again[name]) for name in state)


# Weights ----------------------------------------------------------------------------------------------------------


def test_auroc_is_the_mean_of_placements() -> None:
    rng = np.random.default_rng(0)
    values = {"good": rng.integers(0, 9, 50), "a": rng.integers(2, 12, 50), "b": rng.integers(0, 9, 50)}
    found = placements({kind: each.astype(float) for kind, each in values.items()}).mean(1)
    for kind, auroc in zip("ab", found, strict=True):
        assert auroc == pytest.approx(roc_auc(np.r_[np.zeros(50), np.ones(50)], np.r_[values["good"], values[kind]]))


def test_the_error_of_a_gain_is_that_over_draws() -> None:
    """The estimate from one draw against the spread over 400 draws; two scores of the same images."""
    rng = np.random.default_rng(1)
    gains, errors = [], []
    for _ in range(400):
        shared, noise = rng.standard_normal(80), rng.standard_normal((2, 2, 80))
        first = {"good": shared + noise[0, 0], "a": shared + noise[0, 1] + 1}
        second = {"good": shared + noise[1, 0], "a": shared + noise[1, 1] + 1.5}
        lead, error = gain(placements(second), placements(first))
        gains.append(lead)
        errors.append(error)
    assert np.mean(errors) == pytest.approx(np.std(gains), rel=0.15)


def test_the_simplex_is_complete() -> None:
    found = {tuple(np.rint(4 * w).astype(int)) for w in simplex(3, 4)}
    assert found == {(a, b, 4 - a - b) for a in range(5) for b in range(5 - a)}
    assert all(w.sum() == pytest.approx(1) for w in simplex(5, 4))


def made_up(n: int, *shifts: float, seed: int = 0) -> dict[str, np.ndarray]:
    """Surprises of independent scores that tell an anomaly by so many standard deviations."""
    rng = np.random.default_rng(seed)
    good, bad = rng.standard_normal((2, len(shifts), n))
    return {"good": good, "odd": bad + np.array(shifts)[:, None]}


def test_weight_goes_to_what_tells() -> None:
    weights = fitted_weights(made_up(2000, 2.0, 0.0, 0.0))
    assert weights[0] >= 0.75
    assert weights.sum() == pytest.approx(1)
    assert (weights >= 0).all()


def test_weights_stay_equal_where_nothing_is_known_better() -> None:
    assert fitted_weights(made_up(30, 1.0, 0.9)).tolist() == [0.5, 0.5]
    assert fitted_weights(made_up(500, 9.0, 9.0, 9.0)).tolist() == pytest.approx([1 / 3] * 3)  # all are told by all
    same = np.random.default_rng(0).standard_normal(100)
    assert fitted_weights({"good": np.stack([same, same]), "odd": np.stack([same, same]) + 1}).tolist() == [0.5, 0.5]


def test_settling_takes_weight_from_a_score_that_is_wrong() -> None:
    """Of the ELBO and a score for which smooth images are odd."""
    model, score = small_model(), TWO.build()
    score.inners[1] = Turned()
    held_out = smooth_batches(200)
    state = score.settle(model, score.fit(model, held_out), held_out, held_out)
    assert state["weights"][0] >= 0.75


class Turned:
    has_map = False

    def fit(self, model, batches):
        return {}

    def settle(self, model, state, held_out, fitted):
        return state

    def score(self, model, state, x, c, stratum, *, want_map=False):
        from knowngood.scores import ScoreResult

        return ScoreResult(-(x - x.mean((2, 3), keepdim=True)).square().double().sum((1, 2, 3)), None, {})


def smooth_batches(n: int) -> list[Batch]:
    x, c, stratum = items(n)
    return [Batch(0.45 + 0.1 * x, c, stratum, torch.zeros(n), torch.arange(n))]


def test_few_held_out_items_leave_tails_to_those_fitted_and_weights_equal() -> None:
    state = settled(TWO, FEWEST - 1)[2]
    assert state["tails"].shape == (2, 60)
    assert state["weights"].tolist() == [0.5, 0.5]
    state = settled(TWO, FEWEST)[2]
    assert state["tails"].shape == (2, FEWEST)


def test_tables_have_equal_weights() -> None:
    model, score, state = settled(TWO, 90, TABLE)
    assert state["weights"].tolist() == [0.5, 0.5]
    assert score.score(model, state, *items(3, TABLE), want_map=True).map is None


# The trial --------------------------------------------------------------------------------------------------------


def test_items_are_spread_evenly_whatever_the_batches() -> None:
    def of(size: int) -> list[int]:
        taken = evenly(batches(1000, (1, 2, 2), size), 100, 10**9)
        assert taken is not None
        return taken.index.tolist()

    assert of(7) == of(64) == of(1000) == list(range(0, 1000, 16))
    assert evenly([], 10, 10) is None
    few = evenly(batches(500, (1, 2, 2)), 100, 4 * 8)  # values for 8 items alone, but 30 are kept
    assert few is not None
    assert len(few.x) >= FEWEST


def test_a_trial_has_an_anomaly_of_every_kind_for_each_image() -> None:
    trial = Trial.of(batches(700))
    assert trial is not None
    assert len(trial) == MOST
    assert trial.kinds == ["cutpaste", "noise", "blur", "warp", "shuffle", "mixture"]
    for kind in trial.kinds:
        assert trial.x[kind].shape == trial.x["good"].shape
        assert ((trial.x[kind] - trial.x["good"]).abs().amax((1, 2, 3)) > 0.03).all()
    again = Trial.of(batches(700, size=64))
    assert again is not None
    assert all(torch.equal(trial.x[kind], again.x[kind]) for kind in trial.x)
    assert Trial.of(batches(FEWEST - 1)) is None


# Settings ---------------------------------------------------------------------------------------------------------


def test_a_list_of_scores_is_their_fusion() -> None:
    by_list = parse_settings({"scoring": ["elbo", {"name": "reconstruction", "distance": "mean"}]}).scoring
    assert by_list == Fusion(scores=(Elbo(), Reconstruction(distance="mean")))
    assert parse_settings({"scoring": "elbo, prior_distance"}).scoring == TWO


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["elbo", "prior_distanse"], "unknown scoring 'prior_distanse'; did you mean 'prior_distance'"),
        (["elbo", "fusion"], "unknown scoring 'fusion'"),
        ([], "at least 1 item"),
        ({"name": "fusion", "scores": ["elbo"], "weighting": [1, 2]}, r"weighting = 1, 2 for 1 scores; give each"),
        ({"name": "fusion", "scores": ["elbo", "kl"], "weighting": [0, 0]}, "not all of them 0"),
        ({"name": "fusion", "scores": ["elbo", "kl"], "weighting": [1, -1]}, "greater than or equal to 0"),
        ({"name": "fusion", "scores": [{"name": "elbo", "sample": 1}]}, "'elbo' has no option 'sample'"),
    ],
)
def test_what_is_wrong_with_a_fusion_is_said(given, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        parse_settings({"scoring": given})


def test_what_one_score_refuses_the_fusion_does() -> None:
    options = Fusion(scores=(Elbo(), Reconstruction(distance="ssim")))
    with pytest.raises(SettingsError, match="'ssim' needs images"):
        options.build().check(small_model(TABLE))
