from __future__ import annotations

import itertools
import json
import math
import subprocess
import sys
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load, save
from scipy import stats

from knowngood.calibration import (
    Calibration,
    alarm_rank,
    benjamini_hochberg,
    false_alarm_interval,
    minimum_normals,
    p_values,
    surprise,
    threshold,
    verdict,
)
from knowngood.errors import ArtifactError, DataError, NotEnoughNormals, SettingsError

tied_scores = st.lists(st.integers(-3, 3).map(float), min_size=1, max_size=40)
any_scores = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=40)
rates = st.sampled_from([0.05, 0.07, 0.1, 0.1 + 0.2, 0.29, 1 / 3, 0.5, 0.999]) | st.floats(0.01, 0.99)


# p-values and thresholds --------------------------------------------------------------------------------------------


@pytest.mark.slow
@given(tied_scores, tied_scores)
def test_p_value_is_its_definition(normals: list[float], items: list[float]) -> None:
    expected = [(1 + sum(v >= s for v in normals)) / (len(normals) + 1) for s in items]
    assert p_values(normals, items).tolist() == expected


@pytest.mark.parametrize("values", [(1, 2, 3, 4, 5), (1, 1, 2, 2, 3), (1, 2, 3, 3, 3), (7, 7, 7, 7, 7)])
def test_p_values_are_super_uniform_over_all_orders(values: tuple[int, ...]) -> None:
    """n = 4 normals and the item exchangeable: over all orders, P(p ≤ α) ≤ α, with equality at j/5 without ties."""
    p = np.array([p_values(order[:4], order[4:])[0] for order in itertools.permutations(values)])
    for j in range(1, 6):
        share = Fraction(int((p <= j / 5).sum()), len(p))
        assert share <= Fraction(j, 5)
        if len(set(values)) == 5:
            assert share == Fraction(j, 5)
    for alpha in (0.1, 0.3, 0.55, 0.99):
        assert (p <= alpha).mean() <= alpha


@pytest.mark.slow
@given(tied_scores | any_scores, rates)
def test_threshold_flags_exactly_where_p_is_at_most_alpha(normals: list[float], alpha: float) -> None:
    """At, one float above and one float below each calibration score, and far beyond them."""
    edges = np.array(normals)
    items = np.concatenate([edges, np.nextafter(edges, np.inf), np.nextafter(edges, -np.inf), [-np.inf, 1e300, np.inf]])
    flagged = p_values(normals, items) <= alpha
    assert (flagged == (items > threshold(normals, alpha))).all()


def test_rounding_of_alpha_never_moves_the_rank() -> None:
    """k = ⌊α(n+1)⌋ in exact arithmetic of the decimal that was written, for all of .001 … .999 and n up to 400."""
    assert math.floor(0.29 * 100) == 28  # what plain floats give
    assert alarm_rank(99, 0.29) == 29
    assert (alarm_rank(19, 0.05), alarm_rank(18, 0.05), alarm_rank(9, 0.1), alarm_rank(2, 1 / 3)) == (1, 0, 1, 1)
    for thousandth in range(1, 1000, 7):
        alpha = thousandth / 1000
        for n in (*range(1, 60), 99, 199, 399):
            assert alarm_rank(n, alpha) == math.floor(Fraction(thousandth, 1000) * (n + 1))


@given(rates)
def test_minimum_normals_is_the_first_n_that_can_flag(alpha: float) -> None:
    n = minimum_normals(alpha)
    assert alarm_rank(n, alpha) == 1
    assert n == 0 or alarm_rank(n - 1, alpha) == 0
    assert p_values(np.zeros(n), [1.0])[0] <= alpha


def test_minimum_normals_known_values() -> None:
    assert [minimum_normals(a) for a in (0.5, 0.1, 0.05, 0.01, 0.001)] == [1, 9, 19, 99, 999]


def test_threshold_is_infinite_when_alpha_is_out_of_reach() -> None:
    assert threshold(np.arange(18.0), 0.05) == math.inf
    assert threshold(np.arange(19.0), 0.05) == pytest.approx(18.0, rel=2e-5)


@pytest.mark.parametrize("alpha", [0.0, 1.0, -0.1, float("nan")])
def test_alpha_outside_its_range_is_refused(alpha: float) -> None:
    with pytest.raises(SettingsError, match=r"alpha = .*above 0 and below 1"):
        threshold([1.0], alpha)


def test_scores_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(DataError, match=r"1 of 2 calibration scores are not finite .*inf at position 1"):
        p_values([0.0, np.inf], [0.0])
    with pytest.raises(DataError, match=r"2 of 3 scores are NaN .*position 0"):
        p_values([0.0], [np.nan, 1, np.nan])
    with pytest.raises(DataError, match=r"expected shape \(n,\), got \(1, 2\)"):
        p_values([[0.0, 1.0]], [0.0])


# What is promised ---------------------------------------------------------------------------------------------------


def test_realised_false_alarm_rate_follows_the_beta_law() -> None:
    rng = np.random.default_rng(1)
    n, alpha, sets = 99, 0.1, 1500
    # Scores uniform on (0, 1): the rate realised by a threshold t among all future normals is 1 − t.
    rates = np.array([1 - threshold(rng.random(n), alpha) for _ in range(sets)])
    k = alarm_rank(n, alpha)
    assert stats.kstest(rates, stats.beta(k, n + 1 - k).cdf).pvalue > 0.01
    low, high = false_alarm_interval(n, alpha)
    assert abs(((rates >= low) & (rates <= high)).mean() - 0.95) < 0.012  # 3.5 standard errors
    assert rates.mean() == pytest.approx(alpha, abs=0.002)


def test_nothing_is_promised_beyond_reach() -> None:
    assert false_alarm_interval(5, 0.01) == (0.0, 0.0)


@pytest.mark.slow
def test_hidden_condition_largest_p_is_valid_and_smallest_is_not() -> None:
    """Normals of 5 conditions with scores of their own under each; the true one is not known."""
    rng = np.random.default_rng(3)
    n, conditions, alpha, items = 49, 5, 0.1, 1500
    flagged = {"max": 0, "min": 0}
    for _ in range(items):
        # Under its true condition an item scores like the calibration normals; under the others it is independent.
        p = np.concatenate([p_values(rng.normal(size=n), rng.normal(size=1)) for _ in range(conditions)])
        flagged["max"] += p.max() <= alpha
        flagged["min"] += p.min() <= alpha
    assert flagged["max"] / items <= alpha
    assert flagged["min"] / items > 3 * alpha
    # The bound is sharp when all conditions agree: then the largest is the true one's.
    same = p_values(rng.normal(size=n), np.repeat(rng.normal(size=3000), conditions))
    assert (same.reshape(3000, conditions).max(axis=1) == same[::conditions]).all()


# False discovery ----------------------------------------------------------------------------------------------------


def step_up(p: list[Fraction], q: Fraction) -> list[bool]:
    """Benjamini & Hochberg 1995 in exact arithmetic."""
    m = len(p)
    passed = [j for j, value in enumerate(sorted(p), 1) if value <= q * j / m]
    return [value <= q * passed[-1] / m if passed else False for value in p]


def test_benjamini_hochberg_by_hand() -> None:
    # Sorted: .01 ≤ .0125, .02 ≤ .025, .03 ≤ .0375, .9 > .05: three are called.
    assert benjamini_hochberg([0.9, 0.02, 0.01, 0.03], 0.05).tolist() == [False, True, True, True]
    # A step-up: .02 > .0167 alone, but .03 ≤ .0333 carries it.
    assert benjamini_hochberg([0.02, 0.03, 0.5], 0.05).tolist() == [True, True, False]
    # On the edge, .14 ≤ .21·2/3, where .14·(3/2) rounds to more than .21.
    assert benjamini_hochberg([0.14, 0.14, 1.0], 0.21).tolist() == [True, True, False]
    assert benjamini_hochberg([], 0.1).shape == (0,)
    with pytest.raises(SettingsError, match="q = 1"):
        benjamini_hochberg([0.5], 1.0)


@given(st.lists(st.integers(1, 100), min_size=1, max_size=30), st.integers(1, 99))
def test_benjamini_hochberg_is_exact_on_conformal_p_values(numerators: list[int], hundredths: int) -> None:
    p = [Fraction(n, 100) for n in numerators]
    expected = step_up(p, Fraction(hundredths, 100))
    assert benjamini_hochberg([n / 100 for n in numerators], hundredths / 100).tolist() == expected


# Verdict ------------------------------------------------------------------------------------------------------------


def test_verdict_and_its_abstain_band() -> None:
    p = [0.01, 0.05, 0.06, 0.2, 0.21]
    assert verdict(p, 0.05).tolist() == ["anomalous", "anomalous", "normal", "normal", "normal"]
    assert verdict(p, 0.05, abstain=0.2).tolist() == ["anomalous", "anomalous", "unsure", "unsure", "normal"]
    with pytest.raises(SettingsError, match=r"abstain = 0.01 with alpha = 0.05"):
        verdict(p, 0.05, abstain=0.01)


@pytest.mark.parametrize("wrong", ["0.05", 0, 1.0, math.nan, None])
def test_a_rate_that_is_none_is_refused_by_name(wrong: Any) -> None:
    for ask in (lambda: alarm_rank(9, wrong), lambda: benjamini_hochberg([0.5], wrong)):
        with pytest.raises(SettingsError, match=f"= {wrong!r}.*expected a number above 0 and below 1"):
            ask()


@pytest.mark.parametrize("wrong", [math.nan, 1.5, -0.1])
def test_a_value_that_is_no_p_value_has_no_verdict(wrong: float) -> None:
    for judge in (lambda p: verdict(p, 0.05), lambda p: benjamini_hochberg(p, 0.1)):
        with pytest.raises(SettingsError, match=f"p-value {wrong}; expected numbers from 0 to 1"):
            judge([0.5, wrong])


# Surprise -----------------------------------------------------------------------------------------------------------


def test_surprise_at_sample_points_is_minus_log_tail() -> None:
    normals = np.array([3.0, 1.0, 2.0, 2.0])
    expected = -np.log([4 / 5, 3 / 5, 1 / 5])
    assert surprise(normals, [1.0, 2.0, 3.0]) == pytest.approx(expected)
    assert surprise(normals, [2.5])[0] == pytest.approx(expected[1:].mean())


@pytest.mark.slow
@given(st.lists(st.integers(-50, 50).map(float), min_size=1, max_size=60))
def test_surprise_rises_strictly_and_without_jumps(normals: list[float]) -> None:
    low, high = min(normals), max(normals)
    span = max(high - low, 1.0)
    grid = np.linspace(low - span, high + 2 * span, 1001)
    nats = surprise(normals, grid)
    assert (np.diff(nats) > 0).all()
    assert (nats > 0).all()
    edges = np.array([low, high])
    below, above = surprise(normals, edges - 1e-9 * span), surprise(normals, edges + 1e-9 * span)
    assert above == pytest.approx(below, abs=1e-6 * len(normals))


@given(st.floats(0.01, 100), st.floats(-100, 100))
def test_surprise_knows_no_unit(scale: float, shift: float) -> None:
    rng = np.random.default_rng(6)
    normals, items = rng.gamma(2, size=200), rng.gamma(2, size=50) * 3 - 1
    changed = surprise(normals * scale + shift, items * scale + shift)
    assert changed == pytest.approx(surprise(normals, items), rel=1e-6)


def test_surprise_extrapolates_an_exponential_tail() -> None:
    normals = np.random.default_rng(7).exponential(size=20_000)
    far = np.array([15.0, 30.0, 100.0])
    assert surprise(normals, far) == pytest.approx(far, rel=0.15)


def test_surprise_of_infinite_scores() -> None:
    assert surprise([1.0, 2.0], [np.inf, -np.inf]).tolist() == [np.inf, 0.0]
    with pytest.raises(NotEnoughNormals):
        surprise([], [1.0])


# Calibration by stratum ---------------------------------------------------------------------------------------------


@pytest.fixture
def three_strata() -> Calibration:
    """At α = .05 strata a (60) and b (19) stand alone, c (18) is pooled."""
    rng = np.random.default_rng(8)
    strata = rng.permutation(np.repeat([0, 1, 2], [60, 19, 18]))
    scores = rng.normal(size=97) * np.array([1, 5, 2])[strata] + np.array([0, 1e4, -50])[strata]
    return Calibration.fit(scores, strata, ["a", "b", "c"], alpha=0.05)


def test_large_strata_stand_alone_and_small_ones_are_pooled(three_strata: Calibration) -> None:
    own, scores = three_strata.own(), np.array([0.5, 1e4, -49.0, 2e4])
    assert own.tolist() == [True, True, False]
    assert three_strata.counts.tolist() == [60, 19, 18]
    by_stratum = {s: three_strata.scores[three_strata.strata == s] for s in range(3)}
    for stratum in range(2):
        got = three_strata.p_values(scores, np.full(4, stratum))
        assert (got == p_values(by_stratum[stratum], scores)).all()
    for stratum in (2, -1):
        assert (three_strata.p_values(scores, np.full(4, stratum)) == p_values(three_strata.scores, scores)).all()
    # At a larger α the small stratum is large enough.
    assert three_strata.own(0.1).all()
    assert (three_strata.p_values(scores, np.full(4, 2), alpha=0.1) == p_values(by_stratum[2], scores)).all()


def test_summary_says_what_is_not_guaranteed(three_strata: Calibration) -> None:
    rows = three_strata.summary()
    assert [row["condition"] for row in rows] == ["a", "b", "c"]
    assert rows[2]["calibrated"] == "pooled, no per-condition guarantee"
    assert rows[2]["false_alarm_low"] is None
    assert rows[2]["threshold"] == three_strata.pooled_threshold
    assert (rows[1]["false_alarm_low"], rows[1]["false_alarm_high"]) == pytest.approx(false_alarm_interval(19, 0.05))
    json.dumps(rows)


@pytest.mark.slow
@given(st.data(), st.sampled_from([0.05, 0.1, 0.25, 1 / 3]))
def test_one_number_flags_exactly_as_p_values_do(data: st.DataObject, alpha: float) -> None:
    """Whatever the rounding: scores one float beside a threshold, strata 16 orders of magnitude apart, ties."""
    sizes = data.draw(st.lists(st.integers(0, 25), min_size=1, max_size=4).filter(any))
    strata = np.repeat(np.arange(len(sizes)), sizes)
    scale = np.array(data.draw(st.lists(st.sampled_from([1e-8, 0.1, 1, 1e8]), min_size=4, max_size=4)))
    draws = st.integers(-5, 5) | st.floats(-1, 1)
    scores = np.array(data.draw(st.lists(draws, min_size=len(strata), max_size=len(strata)))) * scale[strata]
    calibration = Calibration.fit(scores, strata, [str(s) for s in range(len(sizes))], alpha=alpha)

    codes = np.tile(np.arange(-1, len(sizes)), 3 * len(scores))
    near = np.concatenate([scores, np.nextafter(scores, np.inf), np.nextafter(scores, -np.inf)])
    items = np.repeat(near, len(sizes) + 1)
    anomaly = calibration.anomaly_score(items, codes)
    flagged = calibration.p_values(items, codes) <= alpha
    assert np.isfinite(calibration.offsets).all()
    assert np.isfinite(anomaly).all()
    assert (flagged == (anomaly > calibration.pooled_threshold)).all()
    for code in range(-1, len(sizes)):  # and no order within a stratum is reversed
        order = np.argsort(items[codes == code])
        assert (np.diff(anomaly[codes == code][order]) >= 0).all()
    # Hidden conditions: the smallest anomaly score over conditions flags as the largest p-value does.
    p = calibration.p_values(items, codes).reshape(len(near), len(sizes) + 1)
    smallest = anomaly.reshape(p.shape).min(axis=1)
    assert ((smallest > calibration.pooled_threshold) == (p.max(axis=1) <= alpha)).all()


def test_with_one_stratum_the_anomaly_score_is_the_score() -> None:
    calibration = Calibration.fit(np.arange(40.0))
    items = np.array([-3.5, 0.1, 38.0, 38.5, 1e9])
    assert (calibration.anomaly_score(items) == items).all()


def test_out_of_reach_alpha_flags_nothing_and_keeps_offsets_finite() -> None:
    calibration = Calibration.fit([1.0, 2.0, 3.0, 101.0, 102.0, 103.0], [0, 0, 0, 1, 1, 1], ["a", "b"], alpha=0.05)
    assert calibration.pooled_threshold == math.inf
    assert calibration.offsets.tolist() == [2 - 52, 102 - 52, 0]
    assert calibration.anomaly_score([2.0, 102.0, 1e9], [0, 1, 0]).tolist() == [52, 52, 1e9 + 50]
    assert (calibration.p_values([1e9], [0]) > 0.05).all()
    with pytest.raises(
        NotEnoughNormals, match=r"alpha = 0.05 needs 19 calibration normals, there are 6: 13 missing"
    ) as e:
        calibration.refuse()
    assert e.value.missing == 13
    with pytest.raises(NotEnoughNormals, match="93 missing"):
        calibration.refuse(0.01)
    calibration.refuse(0.1429)
    Calibration.fit(np.arange(19.0), alpha=0.05).refuse()


def test_calibration_without_normals_is_refused() -> None:
    with pytest.raises(NotEnoughNormals, match="no calibration normals") as e:
        Calibration.fit([], alpha=0.1)
    assert e.value.missing == 9


@pytest.mark.slow
def test_strata_make_p_values_valid_within_each() -> None:
    """A condition with larger scores is not flagged more often, which one pooled threshold would do."""
    rng = np.random.default_rng(9)
    flagged = np.zeros((2, 2))
    for _ in range(300):
        strata = np.repeat([0, 1], 39)
        calibration = Calibration.fit(rng.normal(size=78) * (1 + 9 * strata), strata, ["small", "large"], alpha=0.1)
        items, codes = rng.normal(size=40) * np.repeat([1, 10], 20), np.repeat([0, 1], 20)
        own = calibration.p_values(items, codes) <= 0.1
        pooled = calibration.p_values(items, np.full(40, -1)) <= 0.1
        flagged += [[own[:20].sum(), own[20:].sum()], [pooled[:20].sum(), pooled[20:].sum()]]
    rates = flagged / 6000
    assert rates[0] == pytest.approx([0.1, 0.1], abs=0.015)
    assert rates[1, 1] > 0.15


def test_stratified_surprise_is_that_of_the_reference(three_strata: Calibration) -> None:
    items = np.array([0.3, 4.0, 1e5])
    expected = surprise(three_strata.scores[three_strata.strata == 1], items)
    assert (three_strata.surprise(items, [1, 1, 1]) == expected).all()
    assert (three_strata.surprise(items, [2, 2, -1]) == surprise(three_strata.scores, items)).all()


def test_state_survives_safetensors_and_json(three_strata: Calibration) -> None:
    tensors = load(save(three_strata.to_tensors()))
    again = Calibration.from_tensors(tensors, json.loads(json.dumps(three_strata.metadata())))
    items, codes = np.linspace(-60, 1.1e4, 50), np.arange(50) % 4 - 1
    assert (again.p_values(items, codes) == three_strata.p_values(items, codes)).all()
    assert (again.anomaly_score(items, codes) == three_strata.anomaly_score(items, codes)).all()
    assert again.metadata() == three_strata.metadata()


def test_a_damaged_state_is_refused(three_strata: Calibration) -> None:
    tensors, names = three_strata.to_tensors(), three_strata.metadata()
    with pytest.raises(ArtifactError, match="no 'strata'"):
        Calibration.from_tensors({"scores": tensors["scores"]}, names)
    with pytest.raises(ArtifactError, match="damaged: strata"):
        Calibration.from_tensors({**tensors, "strata": tensors["strata"][:5]}, names)
    with pytest.raises(ArtifactError, match="damaged: stratum 1 is unknown"):
        Calibration.from_tensors(tensors, {**names, "stratum_names": ["a"]})


def test_strata_that_do_not_fit_are_refused(three_strata: Calibration) -> None:
    with pytest.raises(DataError, match="stratum 3 is unknown; expected 0 to 2"):
        three_strata.p_values([1.0], [3])
    with pytest.raises(DataError, match="strata are needed"):
        three_strata.p_values([1.0])


@pytest.mark.slow
def test_importing_calibration_does_not_import_torch() -> None:
    code = "import knowngood.calibration, sys; sys.exit('torch' in sys.modules or 'scipy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("n", [5, 19, 60, 139, 999])
def test_the_alpha_that_a_refusal_offers_is_not_refused(n: int) -> None:
    calibration = Calibration.fit(np.arange(n, dtype=float))
    with pytest.raises(NotEnoughNormals) as refused:
        calibration.refuse(1e-4)
    calibration.refuse(float(str(refused.value).rstrip(".").rsplit(" ", 1)[1]))


def test_scores_within_rounding_of_each_other_count_as_equal() -> None:
    rng = np.random.default_rng(0)
    calibration = rng.normal(100, 10, 199)
    jitter = 1 + 3e-7 * rng.uniform(-1, 1, 199)
    for scale, shift in ((1.0, 0.0), (1e-6, 0.0), (1e12, 0.0), (1.0, -100.0)):
        c = scale * calibration + shift
        rounded = scale * calibration * jitter + shift
        np.testing.assert_array_equal(p_values(c, rounded), p_values(c, c))
    assert (p_values(calibration, calibration * (1 + 1e-3)) < p_values(calibration, calibration)).all()


def test_equal_scores_only_raise_p_and_keep_the_threshold_in_step() -> None:
    rng = np.random.default_rng(1)
    calibration, scores = rng.normal(size=59), np.concatenate([rng.normal(size=500), [np.inf, -1e300, 1e300]])
    plain = (1 + (calibration[None] >= scores[:, None]).sum(1)) / 60
    p = p_values(calibration, scores)
    assert (p >= plain).all()
    for alpha in (0.02, 0.05, 0.1, 0.5):
        np.testing.assert_array_equal(scores > threshold(calibration, alpha), p <= alpha)
