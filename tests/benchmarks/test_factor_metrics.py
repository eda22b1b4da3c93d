"""Codes whose score is known: perfect, rotated, entangled, dead, doubled, and tiny cases worked by hand."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from benchmarks.factor_metrics import (
    beta_vae_score,
    dci,
    dci_of,
    factor_vae_score,
    gaussian_total_correlation,
    linear_probe,
    modularity,
    modularity_of,
    mutual_information_gap,
    sap,
)
from benchmarks.factor_metrics.information import entropy, equal_width_bins, mutual_information
from benchmarks.generated_factors import sample_groups, sample_pairs, sample_rows
from knowngood.data.datasets.factors import factor_codes
from knowngood.errors import DataError, SettingsError


def grid(*levels):
    """Every combination once: (Π levels, K)."""
    return np.array(list(itertools.product(*map(range, levels))), dtype=float)


@pytest.fixture(scope="module")
def factors():
    """1,000 items: two amounts of five levels and a category of three, independent."""
    rng = np.random.default_rng(0)
    return np.column_stack([rng.integers(5, size=(1000, 2)), rng.integers(3, size=1000)]).astype(float)


def noise(n, dims, seed=9):
    return np.random.default_rng(seed).standard_normal((n, dims))


def turned(codes, angle=np.pi / 4):
    """The first two codes, centred, turned into one another."""
    c, s = np.cos(angle), np.sin(angle)
    mixed = codes.copy()
    mixed[:, :2] = (codes[:, :2] - codes[:, :2].mean(axis=0)) @ np.array([[c, s], [-s, c]])
    return mixed


# The score of each metric that takes items, as one number
MIG = lambda z, v: mutual_information_gap(z, v).score  # noqa: E731
SAP = lambda z, v: sap(z, v, categorical=[2]).score  # noqa: E731
DISENTANGLED = lambda z, v: dci(z, v, categorical=[2], trees=10).disentanglement  # noqa: E731
COMPLETE = lambda z, v: dci(z, v, categorical=[2], trees=10).completeness  # noqa: E731
INFORMED = lambda z, v: dci(z, v, categorical=[2], trees=10).informativeness  # noqa: E731
PROBED = lambda z, v: linear_probe(z, v, categorical=[2]).factors_from_codes.mean()  # noqa: E731
ALL = {
    "mig": MIG,
    "sap": SAP,
    "modularity": modularity,
    "disentanglement": DISENTANGLED,
    "completeness": COMPLETE,
    "informativeness": INFORMED,
    "probe": PROBED,
}
every = pytest.mark.parametrize("score", ALL.values(), ids=ALL.keys())


# What all have in common


@every
def test_one_code_a_factor_is_perfect(score, factors):
    assert score(factors, factors) == pytest.approx(1, abs=0.02)


@pytest.mark.slow
@every
def test_order_sign_place_and_size_of_the_codes_do_not_matter(score, factors):
    codes = turned(factors, 0.3) + 0.1 * noise(1000, 3)
    moved = codes[:, [2, 0, 1]] * [-3, 100, 0.01] + [5, -1, 0]
    assert score(moved, factors) == pytest.approx(score(codes, factors), abs=0.02)


@pytest.mark.slow
@every
def test_order_and_names_of_the_items_and_levels_do_not_matter(score, factors):
    order = np.random.default_rng(1).permutation(1000)
    assert score(factors[order], factors[order] * 10 - 7) == pytest.approx(score(factors, factors), abs=0.02)


@pytest.mark.slow
@every
def test_constant_codes_change_nothing(score, factors):
    codes = turned(factors, 0.3) + 0.1 * noise(1000, 3)
    dead = np.column_stack([np.full(1000, 0.1), codes, np.zeros(1000)])
    if score is COMPLETE:  # its entropy has the number of codes as its base
        few, many = (1 - score(z, factors) for z in (codes, dead))
        assert many * np.log(5) == pytest.approx(few * np.log(3), abs=0.02)
    else:
        assert score(dead, factors) == pytest.approx(score(codes, factors), abs=0.02)


@every
def test_noise_and_dead_codes_score_nothing(score, factors):
    if score not in (modularity, DISENTANGLED, COMPLETE):  # those do not see that the factors are missing
        assert abs(score(noise(1000, 4), factors)) < 0.06
    assert score(np.zeros((1000, 3)), factors) == pytest.approx(0, abs=0.01)


@every
def test_what_does_not_fit_is_refused(score, factors):
    with pytest.raises(DataError, match=r"codes have shape \(1000,\)"):
        score(factors[:, 0], factors)
    with pytest.raises(DataError, match=r"factors have shape \(1000, 3\); expected \(999,\) or \(999, factors\)"):
        score(factors[1:], factors)
    with pytest.raises(DataError, match="2 of 1000 items have a code that is not finite"):
        score(np.where(np.arange(1000)[:, None] < 2, np.nan, factors), factors)
    with pytest.raises(DataError, match="factor 1 has values that are not finite"):
        score(factors, np.where([0, 1, 0], np.nan, factors))
    with pytest.raises(DataError, match=r"factor 0 has the one value 4\.0"):
        score(factors, np.where([1, 0, 0], 4, factors))


def test_two_runs_agree(factors):
    codes = turned(factors) + noise(1000, 3)
    assert np.array_equal(
        dci(codes, factors, trees=5, seed=3).importance, dci(codes, factors, trees=5, seed=3).importance
    )
    assert sap(codes, factors, categorical=[2]).score == sap(codes, factors, categorical=[2]).score


# Information and MIG


def test_bins_are_of_equal_width():
    codes = np.array([[0, 5.0], [0.9, 5], [1.0, 5], [3.9, 5], [4.0, 5]])
    assert equal_width_bins(codes, 4).tolist() == [[0, 0], [0, 0], [1, 0], [3, 0], [3, 0]]
    with pytest.raises(SettingsError, match="bins = 1"):
        equal_width_bins(codes, 1)


def test_mutual_information_by_hand_and_from_scikit_learn():
    from sklearn.metrics import mutual_info_score

    code, factor = np.array([[0], [0], [1], [1]]), np.array([[0], [1], [1], [1]])
    by_hand = math.log(2) + (math.log(4) - 3 / 4 * math.log(3)) - 1.5 * math.log(2)
    assert mutual_information(code, factor)[0, 0] == pytest.approx(by_hand)
    assert entropy(factor)[0] == pytest.approx(math.log(4) - 3 / 4 * math.log(3))
    rng = np.random.default_rng(0)
    a, b = rng.integers(6, size=(200, 3)), rng.integers(4, size=(200, 2))
    expected = [[mutual_info_score(a[:, j], b[:, k]) for k in range(2)] for j in range(3)]
    assert mutual_information(a, b) == pytest.approx(np.array(expected))


def test_mig_by_hand():
    h = math.log(4) - 3 / 4 * math.log(3)
    first = math.log(2) + h - 1.5 * math.log(2)
    factor = [0, 1, 1, 1]
    codes = np.array([[0, 3], [0, 3], [1, 3], [1, 3.0]])
    found = mutual_information_gap(codes, factor)
    assert found.score == pytest.approx(first / h)
    assert found.best.tolist() == [0]
    whole = np.column_stack([codes[:, 0], factor])
    assert mutual_information_gap(whole, factor).score == pytest.approx((h - first) / h)
    assert mutual_information_gap(codes[:, :1], factor).score == pytest.approx(first / h)


def test_mig_of_rotated_doubled_and_shared_codes():
    v = grid(5, 5)
    assert mutual_information_gap(v, v).per_factor == pytest.approx([1, 1])
    assert mutual_information_gap(turned(v), v).score == pytest.approx(0, abs=1e-9)
    assert mutual_information_gap(np.column_stack([v, v]), v).score == pytest.approx(0)
    # One code that holds both: MIG does not see it, modularity does.
    both = np.column_stack([4 * v[:, 0] + v[:, 1], np.zeros(25)])[(v < 4).all(axis=1)]
    small = grid(4, 4)
    assert mutual_information_gap(both, small).score == pytest.approx(1)
    assert modularity(both, small) == pytest.approx(0)


def test_mig_takes_text_and_refuses_continuous_factors():
    v = grid(4, 4)
    words = np.array(["a", "b", "c", "d"])[v.astype(int)]
    assert mutual_information_gap(v, words).score == pytest.approx(1)
    assert mutual_information_gap(v, words[:, 0]).best.tolist() == [0]
    with pytest.raises(DataError, match="factor 0 has 200 values in 200 items"):
        mutual_information_gap(noise(200, 2), noise(200, 1))


# Modularity


def test_modularity_by_hand():
    assert modularity_of([[2, 1, 0]]) == pytest.approx(1 - 1 / (4 * 2))
    assert modularity_of([[2, 1, 0], [0, 0, 0], [0, 3, 0]]) == pytest.approx((7 / 8 + 1) / 2)
    assert modularity_of([[1, 1], [2, 2]]) == 0
    assert modularity_of([[0, 0]]) == 0
    with pytest.raises(DataError, match=r"information has shape \(2, 1\)"):
        modularity_of([[1], [2]])


def test_modularity_of_rotated_and_doubled_codes():
    v = grid(5, 5)
    assert modularity(v, v) == pytest.approx(1)
    assert modularity(turned(v), v) == pytest.approx(0, abs=1e-9)
    assert modularity(np.column_stack([v, v]), v) == pytest.approx(1)  # a factor in two codes is as good
    with pytest.raises(DataError, match="1 factors; this metric needs at least 2"):
        modularity(v, v[:, 0])


# DCI


def test_dci_by_hand():
    def h(p, base):
        return -sum(x * math.log(x, base) for x in p if x)

    importance = np.array([[0.9, 0.2], [0.1, 0.8], [0, 0]])
    first, second = 1 - h([9 / 11, 2 / 11], 2), 1 - h([1 / 9, 8 / 9], 2)
    disentanglement, completeness = dci_of(importance)
    assert disentanglement == pytest.approx((1.1 * first + 0.9 * second) / 2)
    assert completeness == pytest.approx((2 - h([0.9, 0.1], 3) - h([0.2, 0.8], 3)) / 2)
    assert dci_of(np.eye(3)) == pytest.approx((1, 1))
    assert dci_of(np.ones((3, 4))) == pytest.approx((0, 0), abs=1e-12)
    assert dci_of(np.zeros((3, 2))) == (0, 0)
    assert dci_of([[1.0, 0.0], [1.0, 0.0]]) == pytest.approx((1, 0))  # the second factor is nowhere: it counts 0
    assert dci_of([[3.0, 0.0]]) == pytest.approx((1, 0.5))
    with pytest.raises(DataError, match="none negative"):
        dci_of([[1.0, -1.0]])


@pytest.mark.slow
def test_dci_of_rotated_and_doubled_codes(factors):
    v = factors[:, :2]
    rotated = dci(turned(v), v, trees=10)
    assert rotated.disentanglement < 0.1
    assert rotated.completeness < 0.1
    assert rotated.informativeness > 0.95  # all is there, in two codes
    doubled = dci(np.column_stack([v, v]), v, trees=50)
    assert doubled.disentanglement == pytest.approx(1, abs=0.01)
    assert doubled.completeness == pytest.approx(1 - math.log(2) / math.log(4), abs=0.05)
    assert doubled.importance.sum(axis=0) == pytest.approx([1, 1])


@pytest.mark.slow
def test_dci_sees_bent_codes_and_what_is_missing(factors):
    bent = dci(np.exp(factors), factors, categorical=[2], trees=10)
    assert bent.disentanglement > 0.98
    assert bent.per_factor == pytest.approx(np.ones(3), abs=0.02)
    partial = dci(np.column_stack([factors[:, :1], noise(1000, 1)]), factors, categorical=[2], trees=10)
    assert partial.per_factor[0] > 0.98
    assert partial.per_factor[1:].max() < 0.1


# SAP


def test_sap_by_hand_for_amounts():
    v = np.array([0.0, 1, 2, 3])
    weak = np.array([0.0, 0, 1, 1])  # correlation with v: 1 / √(5/4)
    assert sap(np.column_stack([v, weak]), v).score == pytest.approx(1 - 4 / 5)
    assert sap(np.column_stack([weak, np.ones(4)]), v).score == pytest.approx(4 / 5)
    assert sap(np.column_stack([np.ones(4), -weak]), v).best.tolist() == [1]


def test_sap_of_a_category_is_balanced_accuracy_above_chance():
    category = np.repeat([0, 1, 2], [100, 700, 200])
    middle = np.where(category == 0, 1.0, 0.0)  # tells the first from the others: ⅓·(1 + 1 + 0), above chance ½
    order = np.where(category == 2, -5.0, category)  # three places on a line, not in the order of the names
    assert sap(order[:, None], category, categorical=[0]).score == pytest.approx(1)
    assert sap(middle[:, None], category, categorical=[0]).score == pytest.approx(0.5)
    assert sap(np.column_stack([order, middle]), category, categorical=[0]).score == pytest.approx(0.5)
    assert sap(order[:, None], np.array(["u", "v", "w"])[category]).score == pytest.approx(1)


def rare_and_common(n=2000):
    """A category of which 1 is rare, and a code that is 1 for 60 % of the rare items and 11 % of the common ones."""
    place = np.arange(n) % 100
    category = (place < 10).astype(int)
    return category, np.where(category == 1, place < 6, place % 9 == 0).astype(float)[:, None]


@pytest.mark.parametrize(
    "judge",
    [
        lambda z, v: sap(z, v, categorical=[0]).score,
        lambda z, v: linear_probe(z, v, categorical=[0]).factors_from_codes[0],
    ],
    ids=["sap", "probe"],
)
def test_rare_categories_count_as_much_as_common_ones(judge):
    category, code = rare_and_common()
    recalls = code[category == 1].mean(), 1 - code[category == 0].mean()
    assert judge(code, category) == pytest.approx(sum(recalls) - 1, abs=0.08)


def test_sap_of_rotated_and_doubled_codes():
    v = grid(5, 5)
    assert sap(turned(v), v).score == pytest.approx(0, abs=1e-9)
    c, s = np.cos(0.3) ** 2, np.sin(0.3) ** 2
    assert sap(turned(v, 0.3), v).score == pytest.approx(c - s)
    assert sap(np.column_stack([v, v]), v).score == pytest.approx(0)


# Linear probe


def test_the_probe_reads_any_linear_mix_and_nothing_bent(factors):
    mixed = factors[:, :2] @ np.array([[1.0, 2], [3, -1]]) + 4
    found = linear_probe(mixed, factors[:, :2])
    assert found.factors_from_codes == pytest.approx([1, 1])
    assert found.codes_from_factors == pytest.approx([1, 1])
    square = (factors[:, :1] - 2) ** 2
    assert linear_probe(square, factors[:, :2]).factors_from_codes == pytest.approx([0, 0], abs=0.03)


def test_the_probe_both_ways_of_part_noise():
    v = noise(4000, 1, seed=1)
    codes = np.column_stack([v + noise(4000, 1, seed=2), noise(4000, 1, seed=3)])
    found = linear_probe(codes, v)
    assert found.factors_from_codes == pytest.approx([0.5], abs=0.04)
    assert found.codes_from_factors == pytest.approx([0.5, 0], abs=0.04)


def test_the_probe_of_categories_doubled_and_dead_codes(factors):
    category = factors[:, 2]
    one_hot = np.eye(3)[category.astype(int)] @ np.array([[0.0, 1], [5, 0], [1, 1]])
    found = linear_probe(np.column_stack([one_hot, one_hot, np.full(1000, 0.1)]), category, categorical=[0])
    assert found.factors_from_codes == pytest.approx([1])
    assert found.codes_from_factors == pytest.approx([1, 1, 1, 1, 0])
    # As an amount, the category is a line, and three places are no line.
    assert linear_probe(one_hot, category).codes_from_factors.max() < 0.9
    first = (category == 0)[:, None].astype(float)
    assert linear_probe(first, category, categorical=[0]).factors_from_codes == pytest.approx([0.5])


def test_rare_categories_and_unknown_columns_are_refused():
    category = np.array([0, 1] * 20 + [2])
    with pytest.raises(DataError, match="value number 2 in 1 of 41 items"):
        linear_probe(noise(41, 2), category, categorical=[0])
    with pytest.raises(SettingsError, match="categorical names factor 1; expected 0 to 0"):
        linear_probe(noise(41, 2), category, categorical=[1])


# Total correlation


def exact(covariance, n=500):
    """Codes whose sample covariance is exactly this."""
    z = noise(n, len(covariance))
    z -= z.mean(axis=0)
    white = np.linalg.solve(np.linalg.cholesky(np.cov(z.T)), z.T).T
    return white @ np.linalg.cholesky(covariance).T


def test_total_correlation_is_the_closed_form():
    for rho in (0.0, 0.5, -0.9, 0.9999):
        expected = -0.5 * math.log(1 - rho**2)
        assert gaussian_total_correlation(exact([[4, 6 * rho], [6 * rho, 9]])) == pytest.approx(expected, abs=1e-9)
    covariance = np.array([[2, 1, 0], [1, 2, 1], [0, 1, 2.0]])  # determinant 4
    assert gaussian_total_correlation(exact(covariance)) == pytest.approx(0.5 * (3 * math.log(2) - math.log(4)))


def test_total_correlation_of_rotated_dead_and_doubled_codes():
    unequal = exact([[9.0, 0], [0, 1]])
    assert gaussian_total_correlation(unequal) == pytest.approx(0, abs=1e-9)
    assert gaussian_total_correlation(turned(unequal)) == pytest.approx(0.5 * (2 * math.log(5) - math.log(9)))
    codes = turned(unequal)
    dead = np.column_stack([np.full(500, 0.1), codes[:, ::-1] * [1e-6, 1e6] + 3, np.zeros(500)])
    assert gaussian_total_correlation(dead) == pytest.approx(gaussian_total_correlation(codes))
    assert gaussian_total_correlation(np.column_stack([codes, codes[:, 0] * -2 + 1])) == math.inf
    assert gaussian_total_correlation(np.column_stack([codes, codes.sum(axis=1)])) == math.inf
    nearly = codes[:, 0] + 1e-7 * noise(500, 1)[:, 0]  # a copy up to rounding, as from float32
    assert gaussian_total_correlation(np.column_stack([codes, nearly])) == math.inf
    assert gaussian_total_correlation(np.ones((5, 3))) == 0
    with pytest.raises(DataError, match="codes of 3 items; expected at least 4"):
        gaussian_total_correlation(noise(3, 3))


def test_total_correlation_of_independent_noise_is_the_bias_the_docstring_states():
    found = [gaussian_total_correlation(noise(400, 8, seed)) for seed in range(30)]
    assert np.mean(found) == pytest.approx(8 * 7 / (4 * 400), rel=0.15)


# FactorVAE score


def encoded(rows):
    return factor_codes(rows).astype(float) / 4


@pytest.fixture(scope="module")
def groups():
    rows, fixed = sample_groups(400, 24, np.random.default_rng(5))
    return encoded(rows), fixed, encoded(sample_rows(2000, np.random.default_rng(6)))


def test_factor_vae_by_hand():
    # Two codes, variance 1 each over the reference. Within groups the variances are .5 e².
    reference = np.array([[1.0, 1], [-1, -1], [1, -1], [-1, 1]]) * math.sqrt(3) / 2
    spread = [(0.1, 0.2), (0.3, 0.1), (0.3, 0.2), (0.1, 0.2), (0.1, 0.3), (0.1, 0.4), (0.1, 0.5), (0.3, 0.1)]
    groups = np.array([[[-a, -b], [a, b]] for a, b in spread])
    fixed = ["x", "y", "y", "x", "y", "y", "x", "y"]
    # Taught: code 0 → x twice, code 1 → y twice. Judged on the last four: code 0 says x and is wrong twice.
    found = factor_vae_score(groups, fixed, reference)
    assert found.score == 2 / 4
    assert found.votes.tolist() == [[3, 2], [0, 3]]
    # The scale of a code in the reference counts: with code 1 ten times as wide there, it always varies least.
    wide = factor_vae_score(groups, fixed, reference * [1, 10])
    assert wide.votes.tolist() == [[0, 0], [3, 5]]
    assert wide.score == 1 / 4  # x and y were taught equally often: the first counts


def test_factor_vae_of_perfect_rotated_and_noise_codes(groups):
    codes, fixed, reference = groups
    assert factor_vae_score(codes, fixed, reference).score == 1
    # Four factors of equal variance in equal shares in each of four codes: every code varies the same, chance is ¼.
    four, scale = fixed > 0, reference.std(axis=0)[1:]
    mix = np.array([[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]]) / 2
    mixed = factor_vae_score(codes[four][..., 1:] / scale @ mix, fixed[four], reference[:, 1:] / scale @ mix)
    assert mixed.score < 0.4
    assert factor_vae_score(codes[four][..., 1:], fixed[four], reference[:, 1:]).score == 1
    assert factor_vae_score(noise(400 * 24, 5).reshape(400, 24, 5), fixed, noise(2000, 5, 1)).score < 0.35


def test_factor_vae_counts_active_codes_only_and_names_them_rightly(groups):
    codes, fixed, reference = groups

    def with_dead(z):
        still = 1e-3 * noise(z[..., 0].size, 1).reshape(*z.shape[:-1], 1)
        return np.concatenate([np.zeros_like(still), z[..., :2], still, z[..., 2:]], axis=-1)

    found = factor_vae_score(with_dead(codes), fixed, with_dead(reference))
    assert found.score == 1
    assert found.active.tolist() == [False, True, True, False, True, True, True]
    assert (found.votes[[0, 3]] == 0).all()
    alone = factor_vae_score(codes, fixed, reference)
    assert np.array_equal(found.votes[found.active], alone.votes)
    assert np.array_equal(alone.votes, np.diag(np.bincount(fixed)))
    # Where the codes are not perfect, the noise of a dead one would win votes.
    rough = with_dead(codes + noise(codes.size, 1).reshape(codes.shape))
    assert factor_vae_score(rough, fixed, with_dead(reference)).votes[3].sum() == 0
    assert factor_vae_score(rough, fixed, with_dead(reference), active_above=1e-9).votes[3].sum() > 0


def test_factor_vae_in_another_order_doubled_and_without_active_codes(groups):
    codes, fixed, reference = groups
    rough = codes + 0.5 * noise(codes.size, 1).reshape(codes.shape)
    found = factor_vae_score(rough, fixed, reference)
    assert found.score < 0.95
    order = [4, 2, 0, 1, 3]
    moved = factor_vae_score(rough[..., order], fixed, reference[:, order])
    assert moved.score == found.score
    assert np.array_equal(moved.votes, found.votes[order])
    twice = factor_vae_score(np.concatenate([codes, codes], -1), fixed, np.concatenate([reference, reference], -1))
    assert twice.score == 1  # it does not see that a factor is there twice
    dead = factor_vae_score(codes * 0, fixed, reference * 0)
    assert not dead.active.any()
    assert dead.score == np.mean(fixed[200:] == np.bincount(fixed[:200]).argmax())


def test_factor_vae_refuses_what_does_not_fit(groups):
    codes, fixed, reference = groups
    with pytest.raises(DataError, match=r"groups have shape \(400, 24\)"):
        factor_vae_score(codes[..., 0], fixed, reference)
    with pytest.raises(DataError, match="reference 4 dimensions"):
        factor_vae_score(codes, fixed, reference[:, :4])
    with pytest.raises(DataError, match="at least two items a group"):
        factor_vae_score(codes[:, :1], fixed, reference)
    with pytest.raises(DataError, match=r"fixed has shape \(399,\)"):
        factor_vae_score(codes, fixed[1:], reference)
    with pytest.raises(DataError, match="share 1 factors"):
        factor_vae_score(codes, fixed * 0, reference)
    with pytest.raises(DataError, match="not finite"):
        factor_vae_score(codes * np.nan, fixed, reference)


# β-VAE score


@pytest.fixture(scope="module")
def pairs():
    rows, fixed = sample_pairs(300, 16, np.random.default_rng(7))
    return encoded(rows), fixed


def test_beta_vae_of_perfect_noise_and_dead_codes(pairs):
    codes, fixed = pairs
    assert beta_vae_score(codes, fixed) == 1
    unrelated = beta_vae_score(noise(codes.size, 1).reshape(codes.shape), fixed)
    assert unrelated == pytest.approx(1 / 5, abs=0.12)
    dead = np.concatenate([np.full((*codes.shape[:-1], 1), 0.1), codes], axis=-1)
    assert beta_vae_score(dead, fixed) == 1
    assert beta_vae_score(codes * 0, fixed) < 0.35


def test_beta_vae_does_not_depend_on_order_sign_or_size_of_the_codes(pairs):
    codes, fixed = pairs
    rough = codes + 0.7 * noise(codes.size, 1).reshape(codes.shape)
    moved = rough[..., [3, 0, 4, 1, 2]] * [100, -1, 0.01, 5, 1] + 3
    assert beta_vae_score(rough, fixed) < 0.97
    assert beta_vae_score(moved, fixed) == pytest.approx(beta_vae_score(rough, fixed), abs=0.02)


def test_beta_vae_by_hand():
    # |difference| is 0 in the code of the shared factor and 2 in the other, except in one judged group of eight.
    z = np.zeros((16, 3, 2, 2))
    fixed = np.arange(16) % 2
    z[np.arange(16), :, 1, 1 - fixed] = [2, -2, 2]
    assert beta_vae_score(z, fixed) == 1
    z[15] = z[14]
    assert beta_vae_score(z, fixed) == 7 / 8


def test_beta_vae_is_judged_on_groups_it_was_not_taught(pairs):
    codes, fixed = pairs
    rng = np.random.default_rng(0)
    exchanged = np.concatenate([fixed[:150], rng.permutation(fixed[150:])])
    assert beta_vae_score(codes, exchanged) < 0.4


def test_beta_vae_refuses_what_does_not_fit(pairs):
    codes, fixed = pairs
    with pytest.raises(DataError, match=r"expected \(groups, pairs, 2, dimensions\)"):
        beta_vae_score(codes[:, :, 0], fixed)
    with pytest.raises(DataError, match=r"pairs have shape \(300, 16, 1, 5\)"):
        beta_vae_score(codes[:, :, :1], fixed)
