"""The penalty of labelled anomalies, by its definition, and what it leaves as it was."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from knowngood.config import Elbo
from knowngood.scores.adjustment import (
    LabelPenalty,
    bounded,
    described,
    marginal,
    moments,
    of_adjustment,
    penalty,
    prefixed,
    scored,
)
from knowngood.scores.marginal import Rows
from score_models import TABLE, items, small_model


def fitted(offset: float = 0.1, weight: float = 2.0) -> dict[str, Tensor]:
    """The state of a penalty on a table, with a random direction."""
    mean, std = moments(described(small_model(TABLE), items(200, TABLE, seed=5)[0]))
    direction = torch.randn(6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    numbers = {"offset": torch.tensor(offset), "weight": torch.tensor(weight)}
    return prefixed(LabelPenalty(), {"mean": mean, "std": std, "direction": direction, **numbers})


def test_it_is_the_score_plus_what_exceeds_the_offset() -> None:
    model, score, adjustment = small_model(TABLE), Elbo().build(), LabelPenalty()
    x, c, stratum = items(30, TABLE)
    state = {**score.fit(model, []), **fitted()}
    plain, result = (scored(model, score, some, state, x, c, stratum) for some in ([], [adjustment]))
    own = {name: t.numpy() for name, t in of_adjustment(state, adjustment).items()}
    v = (x.double().numpy() - own["mean"]) / own["std"]
    v = v / np.sqrt(1 + (v**2).mean(1, keepdims=True))
    expected = 2 * np.maximum(0, v @ own["direction"] - own["offset"])
    assert (expected > 0).any()
    assert (expected == 0).any()
    np.testing.assert_allclose(result.parts["label_penalty"], expected, rtol=1e-6)
    np.testing.assert_allclose(result.values, plain.values + result.parts["label_penalty"], rtol=1e-12)


def test_limit_a_weight_of_zero_is_the_score() -> None:
    model, score = small_model(TABLE), Elbo().build()
    state = {**score.fit(model, []), **fitted(weight=0.0)}
    given = items(9, TABLE)
    values = [scored(model, score, some, state, *given).values for some in ([], [LabelPenalty()])]
    assert torch.equal(*values)


def test_marginalising_adds_the_same_to_what_is_marginalised_of_the_score() -> None:
    score, adjustment = Elbo().build(), LabelPenalty()
    assert adjustment.additive
    values, added = np.array([3.0, 5.0, 2.0, 4.0]), np.array([1.0, 1.0, 0.0, 0.0])
    item, log_weight = np.array([0, 0, 1, 1]), np.log([0.3, 0.7, 0.3, 0.7])
    rows = Rows(values + added, {"label_penalty": added}, np.zeros(4, np.int64), item, log_weight)
    plain = score.marginal({}, rows._replace(values=values))
    np.testing.assert_allclose(marginal(score, [adjustment], {}, rows), plain + np.array([1, 0]))
    np.testing.assert_allclose(marginal(score, [], {}, rows), score.marginal({}, rows))


def test_penalties_of_locations_are_those_of_their_vectors() -> None:
    own = of_adjustment(fitted(), LabelPenalty())
    v = torch.randn(2, 5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(penalty(v, own)[1, 3], penalty(v[1, 3], own))
    assert penalty(v, own).shape == (2, 5)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3, 1e6])
def test_vectors_are_bounded_and_small_ones_stay(scale: float) -> None:
    v = scale * torch.randn(50, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert bounded(v).norm(dim=1).max() <= 3
    torch.testing.assert_close(torch.nn.functional.cosine_similarity(bounded(v), v), torch.ones(50).double())
    if scale < 0.1:
        torch.testing.assert_close(bounded(v), v, rtol=1e-5, atol=0)


def test_nearly_constant_values_do_not_count_for_much() -> None:
    v = torch.randn(100, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    v[:, 0] = 7
    mean, std = moments(v)
    assert mean[0] == 7
    assert std[0] == pytest.approx(0.1 * float(v.std(0, correction=0).mean()))
