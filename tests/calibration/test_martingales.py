"""Online p-values are independent and uniform; bets on them are fair; alarms are as rare as promised."""

from __future__ import annotations

import itertools
import json
from collections import Counter

import numpy as np
import pytest
from scipy import integrate, stats

from knowngood.calibration import DriftMonitor, OnlineRanks, Wealth, log_wealth
from knowngood.errors import ArtifactError, DataError, SettingsError

HALF = 0.5


def cells(ranks: OnlineRanks, stream: tuple[float, ...]) -> tuple[float, ...]:
    """The p-values of a stream, each in the middle of its cell."""
    draws = np.column_stack([np.linspace(0.1, 0.9, len(stream)), np.full(len(stream), HALF)])
    return tuple(ranks.p_values(stream, draws).round(12).tolist())


def test_every_combination_of_ranks_is_equally_frequent_over_all_orders() -> None:
    found = Counter(cells(OnlineRanks.of(order[:2]), order[2:]) for order in itertools.permutations(range(5)))
    assert set(found.values()) == {2}  # 5! orders, 3·4·5 combinations of the ranks of the last three
    assert len(found) == 60


def test_p_values_are_uniform_where_scores_are_counted_by_cell() -> None:
    """P(cell) over all orders is the part of [0, 1] that its p-values cover, given the cell of the item before."""
    found: dict[tuple[int, int], int] = Counter()
    for order in itertools.permutations(range(5)):
        middle = sorted(order[:3])[1]  # the only bound
        low = OnlineRanks(np.array([middle + 0.5j]), np.array([1, 1]), 1)
        first, second = cells(low, order[3:])
        found[int(first > HALF), int(second > HALF)] += 1
    # Pólya's urn with 2 gaps in each of both cells: 2/4 · 3/5 for twice the same.
    assert found == {(0, 0): 36, (1, 1): 36, (0, 1): 24, (1, 0): 24}


@pytest.mark.slow
@pytest.mark.parametrize("most", [5, 1000])
@pytest.mark.parametrize("tied", [False, True])
def test_p_values_of_exchangeable_scores_are_uniform_and_independent(most: int, tied: bool) -> None:
    rng = np.random.default_rng(0)
    pairs = []
    for seed in range(1000):
        scores = rng.integers(3, size=12).astype(float) if tied else rng.normal(size=12)
        ranks = OnlineRanks.of(scores[:9], [seed, 1], most)
        pairs.append(ranks.p_values(scores[9:], rng.random((3, 2)))[[0, 2]])
    first, last = np.array(pairs).T
    assert stats.kstest(first, "uniform").pvalue > 0.001
    assert stats.kstest(last, "uniform").pvalue > 0.001
    table = np.histogram2d(first, last, bins=4, range=[[0, 1], [0, 1]])[0]
    assert stats.chi2_contingency(table).pvalue > 0.001


def test_p_values_of_steps_are_those_of_scores_counted_by_cell() -> None:
    rng = np.random.default_rng(1)
    calibration, stream, draws = rng.normal(size=19), rng.normal(size=50), rng.random((50, 2))
    steps = (1 + (calibration[:, None] >= stream).sum(0)) / 20
    by_steps = OnlineRanks.fixed(-(np.arange(19) + 1.5) / 20).p_values(-steps, draws)
    ranks = OnlineRanks.of(calibration)
    ranks.most = 19
    assert by_steps == pytest.approx(ranks.p_values(stream, draws))


def test_a_bet_is_fair() -> None:
    """E[wealth after a uniform p-value] is the wealth before, also after other bets."""
    before = Wealth()
    for p in (0.01, 0.3, 0.9):
        before.bet(p)

    def after(p: float) -> float:
        wealth = Wealth.from_record(before.to_record())
        wealth.bet(p)
        return float(np.exp(wealth.log))

    # p = q^10 takes the singularity p^(−0.9) away.
    mean = integrate.quad(lambda q: after(q**10) * 10 * q**9, 0, 1)[0]
    assert mean == pytest.approx(float(np.exp(before.log)), rel=1e-6)


def test_the_path_of_many_streams_is_that_of_each() -> None:
    p = 1 - np.random.default_rng(2).random((3, 40))
    paths = log_wealth(p)
    assert paths.shape == (3, 40)
    assert log_wealth(p[1]) == pytest.approx(paths[1])
    wealth = Wealth()
    assert float(wealth.log) == pytest.approx(0)
    for value in p[1]:
        wealth.bet(value)
    assert float(wealth.log) == pytest.approx(paths[1, -1])


def test_first_bet_in_closed_form() -> None:
    exponents = np.arange(1, 11) / 10
    power = np.mean(exponents * 0.04 ** (exponents - 1))
    assert np.exp(log_wealth([0.04])[0]) == pytest.approx(0.5 * power + 0.5)  # the bets of a jumper cancel at first


def streams(count: int, n: int, length: int, shift: float = 0.0, after: int = 0, groups: int = 1) -> list[DriftMonitor]:
    monitors = []
    for seed in range(count):
        rng = np.random.default_rng([seed, n])
        names = [f"group {k}" for k in rng.integers(groups, size=length)]
        scores = rng.normal(size=length) + shift * (np.arange(length) >= after)
        references = {f"group {k}": rng.normal(size=n) for k in range(groups)}
        monitor = DriftMonitor(10, references, seed)
        monitor.update(scores, names)
        monitors.append(monitor)
    return monitors


@pytest.mark.slow
@pytest.mark.parametrize(("n", "groups"), [(19, 3), (100, 1)])
def test_false_alarms_are_as_rare_as_promised(n: int, groups: int) -> None:
    alarms = sum(monitor.alarm is not None for monitor in streams(60, n, 500, groups=groups))
    assert alarms <= stats.binom.ppf(0.999, 60, 0.1)


@pytest.mark.slow
def test_a_shift_is_found_and_dated() -> None:
    for monitor in streams(3, 100, 600, shift=1.0, after=300):
        assert monitor.alarm is not None
        assert monitor.alarm.change in ("scores are higher", "more scores are extreme")
        assert 300 < monitor.alarm.at.number < 450
        assert 250 < monitor.alarm.since.number <= 320


def test_lower_scores_are_drift_too() -> None:
    (monitor,) = streams(1, 100, 400, shift=-1.0)
    assert monitor.alarm is not None
    assert monitor.alarm.change == "scores are lower"


@pytest.mark.slow
def test_drift_from_the_first_item_needs_a_reference() -> None:
    rng = np.random.default_rng(3)
    scores = rng.normal(1, 1, 400)
    with_reference, without = DriftMonitor(100, {"all": rng.normal(size=200)}), DriftMonitor(100)
    with_reference.update(scores)
    without.update(scores)
    assert with_reference.alarm is not None
    assert without.alarm is None


@pytest.mark.slow
def test_the_group_that_changed_is_named_however_many_there_are() -> None:
    rng = np.random.default_rng(4)
    names = [f"camera {k}" for k in rng.integers(8, size=1600)]
    scores = rng.normal(size=1600) + 2.0 * np.array([name == "camera 5" for name in names])
    monitor = DriftMonitor(100, {f"camera {k}": rng.normal(size=50) for k in range(8)})
    monitor.update(scores, names)
    assert monitor.alarm is not None
    assert monitor.alarm.group == "camera 5"


def test_sharing_with_a_new_group_neither_makes_nor_loses_wealth() -> None:
    monitor = DriftMonitor(1e6, {"a": np.zeros(20)})
    monitor.update(np.full(10, 5.0), ["a"] * 10)
    before = 10**monitor.evidence
    monitor.update([1.0], ["b"])  # the first item of a group without calibration has a p-value that says nothing
    group = monitor.groups["b"]
    assert np.exp(group.share) == pytest.approx(before / 2)
    assert np.exp(monitor.groups["a"].log) == pytest.approx(before / 2)


def test_a_stream_in_parts_with_a_saved_state_is_the_stream_as_a_whole() -> None:
    rng = np.random.default_rng(5)
    scores, ids = rng.normal(size=90), [f"{i}.png" for i in range(90)]
    names, times = [("a", "b")[i % 2] for i in range(90)], [str(i) for i in range(90)]
    references = {"a": rng.normal(size=30)}
    whole, parts = DriftMonitor(5, references), DriftMonitor(5, references)
    assert whole.update(scores, names, ids, times) == 90
    for part in (slice(0, 20), slice(10, 50), slice(0, 90)):  # what was counted is not counted again
        parts = DriftMonitor.from_record(json.loads(json.dumps(parts.to_record())))
        parts.update(scores[part], names[part], ids[part], times[part])
    assert parts.to_record() == whole.to_record()


def test_the_state_stays_small() -> None:
    monitor = DriftMonitor(100, {"all": np.random.default_rng(0).normal(size=5000)})
    assert len(json.dumps(monitor.to_record())) < 100_000


def test_an_alarm_stays() -> None:
    monitor = DriftMonitor(100, {"all": np.random.default_rng(0).normal(size=100)})
    monitor.update(np.full(20, 9.0))
    alarm = monitor.alarm
    assert alarm is not None
    monitor.update(np.random.default_rng(1).normal(size=200))
    assert DriftMonitor.from_record(json.loads(json.dumps(monitor.to_record()))).alarm == alarm


def test_what_is_refused() -> None:
    with pytest.raises(SettingsError, match="above 1"):
        DriftMonitor(1)
    with pytest.raises(DataError, match="NaN"):
        DriftMonitor().update([np.nan])
    with pytest.raises(DataError, match="groups"):
        DriftMonitor().update([1.0, 2.0], ["a"])
    record = DriftMonitor().to_record()
    for damaged in ({}, [], {**record, "format_version": 9}, {**record, "groups": {"a": {}}}, {**record, "seen": "?"}):
        with pytest.raises(ArtifactError):
            DriftMonitor.from_record(damaged)
