from __future__ import annotations

import numpy as np
import pytest
from scipy.special import logsumexp

from knowngood.calibration import Calibration
from knowngood.errors import DataError, SettingsError
from knowngood.scores.marginal import best_rows, choose_rule, hard, hard_p_values, segment_starts, soft


@pytest.fixture
def rows() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """values, item, log_weight: 50 items with 1 to 6 rows."""
    rng = np.random.default_rng(0)
    item = np.repeat(np.arange(50), rng.integers(1, 7, size=50))
    weight = rng.random(len(item))
    weight /= np.bincount(item, weight)[item]
    return rng.normal(500, 50, size=len(item)), item, np.log(weight)


def test_reductions_are_their_definitions_item_by_item(rows: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    values, item, log_weight = rows
    p = np.random.default_rng(1).random(len(item))
    for i in range(50):
        mine = item == i
        assert soft(values, item, log_weight)[i] == pytest.approx(
            -logsumexp(log_weight[mine] - values[mine]), rel=1e-12
        )
        assert hard(values, item)[i] == values[mine].min()
        assert hard_p_values(p, item)[i] == p[mine].max()
        assert best_rows(values, item)[i] == np.flatnonzero(mine)[values[mine].argmin()]
        assert best_rows(values, item, log_weight)[i] == np.flatnonzero(mine)[(values - log_weight)[mine].argmin()]


def test_soft_lies_between_the_best_condition_and_its_share(rows: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    values, item, log_weight = rows
    mixed = soft(values, item, log_weight)
    assert (mixed >= hard(values, item) - 1e-9).all()
    assert (mixed <= hard(values - log_weight, item) + 1e-9).all()


def test_one_row_of_weight_one_keeps_its_value() -> None:
    values = np.array([3.0, 1e6, -2.0])
    assert (soft(values, np.arange(3), np.zeros(3)) == values).all()
    # Conditions that explain an item equally well share it: nothing is gained or lost.
    assert soft([7.0] * 4, [0] * 4, np.log([0.1, 0.2, 0.3, 0.4]))[0] == pytest.approx(7.0)


def test_ties_go_to_the_first_row() -> None:
    assert best_rows([2.0, 1.0, 1.0, 5.0], [0, 0, 0, 1]).tolist() == [1, 3]


def test_rows_out_of_order_are_refused() -> None:
    assert segment_starts([0, 0, 1, 2, 2]).tolist() == [0, 2, 3]
    assert segment_starts([]).tolist() == []
    for item in ([1, 0], [0, 2], [1, 1]):
        with pytest.raises(DataError, match="sorted by item"):
            segment_starts(item)


def test_rule_follows_the_score() -> None:
    assert choose_rule("auto", True, "elbo") == choose_rule("soft", True, "elbo") == "soft"
    assert (
        choose_rule("auto", False, "kl")
        == choose_rule("hard", False, "kl")
        == choose_rule("hard", True, "elbo")
        == "hard"
    )
    assert choose_rule("auto", False, "fusion", marginalises=True) == "soft"
    assert choose_rule("hard", False, "fusion", marginalises=True) == "hard"
    with pytest.raises(SettingsError, match=r"marginalise = 'soft' .* score 'kl' is none; use marginalise='hard'"):
        choose_rule("soft", False, "kl")


@pytest.mark.slow
def test_unknown_condition_scores_of_normals_keep_the_rate_under_both_rules() -> None:
    """A mixture of three normals of unlike width; c unknown. Soft is calibrated with c unknown, hard with c known."""
    rng = np.random.default_rng(2)
    centres, widths, alpha = np.array([-5.0, 0.0, 5.0]), np.array([0.5, 1.0, 2.0]), 0.1

    def scores(x: np.ndarray) -> np.ndarray:
        return 0.5 * ((x[:, None] - centres) / widths) ** 2 + np.log(widths)

    def draw(n: int) -> tuple[np.ndarray, np.ndarray]:
        c = rng.integers(3, size=n)
        return rng.normal(centres[c], widths[c]), c

    def expanded(x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return scores(x).ravel(), np.repeat(np.arange(len(x)), 3), np.full(3 * len(x), -np.log(3))

    flagged, detected = np.zeros(2), np.zeros(2)
    for _ in range(200):
        x, c = draw(300)
        known = Calibration.fit(scores(x)[np.arange(300), c], c, "abc", alpha=alpha)
        marginal = Calibration.fit(soft(*expanded(x)), alpha=alpha)
        for into, items in ((flagged, draw(50)[0]), (detected, np.full(50, 15.0))):
            values, item, log_weight = expanded(items)
            p_soft = marginal.p_values(soft(values, item, log_weight))
            p_hard = hard_p_values(known.p_values(values, np.tile([0, 1, 2], 50)), item)
            into += [(p_soft <= alpha).mean(), (p_hard <= alpha).mean()]
    assert flagged[0] / 200 == pytest.approx(alpha, abs=0.015)
    assert flagged[1] / 200 <= alpha
    assert (detected / 200 > 0.95).all()
