"""`python -m benchmarks monitor`: false alarms and delays of the monitor of drift, on streams of normal numbers.

Every stream has calibration scores of its own. Its p-values are those that `DriftMonitor` bets on; the wealth of all
streams is computed at once.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from knowngood.calibration import OnlineRanks, log_wealth
from knowngood.errors import SettingsError
from knowngood.files import write_json

CALIBRATION = {100: 1.0, 19: 0.2, 1000: 0.2}  # calibration items, and the share of the streams that have so many
THRESHOLDS = (20, 100)
SHIFT = 0.5  # standard deviations
BEFORE, AFTER = 1000, 2000  # items of a stream that changes
AT_ONCE = 50  # streams


def main(
    streams: int = 1000,
    length: int = 10_000,
    shifted: int = 200,
    seed: int = 0,
    out: Path = Path("out/benchmarks/monitor"),
) -> list[list[str]]:
    """The share of exchangeable streams that ever raise an alarm, and the items from a shift to the alarm.

    Prints a Markdown table, and returns its rows: n calibration items, threshold, the promise 1/threshold, streams, the
    share that ever alarms, and quartiles of the delay. A stream that alarms before it changes is left out of these.

    Args:
        streams: exchangeable ones, of `length` items, for n = 100; a fifth of them for 19 and 1000.
        shifted: streams that change by half a standard deviation after 1,000 items, for each n.

    Raises:
        SettingsError: a number is below 5.
    """
    for name, value in (("streams", streams), ("length", length), ("shifted", shifted)):
        if value < 5:
            raise SettingsError(f"{name} = {value}; expected at least 5")
    columns = ["n", "threshold", "promised", "streams", "ever alarmed", "delay, 25 %", "median", "75 %"]
    rows = []
    for line in (columns, ["---:"] * len(columns)):
        print(markdown(line), flush=True)
    for n, share in CALIBRATION.items():
        count = round(share * streams)
        quiet = alarms(count, length, n, [seed, n, 0])
        changed = alarms(shifted, BEFORE + AFTER, n, [seed, n, 1], BEFORE)
        for at, threshold in enumerate(THRESHOLDS):
            delays = changed[changed[:, at] > BEFORE, at] - BEFORE
            quartiles = np.quantile(delays, [0.25, 0.5, 0.75], method="inverted_cdf")
            ever = np.isfinite(quiet[:, at]).mean()
            promised = f"{1 / threshold:.1%}"
            rows.append(
                [f"{n}", f"{threshold}", promised, f"{count:,}", f"{ever:.1%}", *(f"{q:,g}" for q in quartiles)]
            )
            print(markdown(rows[-1]), flush=True)
    write_json(out / "monitor.json", [columns, *rows])
    return rows


def markdown(cells: list[str]) -> str:
    """A row of a table."""
    return f"| {' | '.join(cells)} |"


def alarms(count: int, length: int, n: int, seed: list[int], change: int | None = None) -> np.ndarray:
    """(count, 2) the number of the item, from 1, at which a stream reaches each threshold; inf where it never does.

    Args:
        change: after so many items scores are larger by half a standard deviation.
    """
    found = []
    for first in range(0, count, AT_ONCE):
        p = np.array([stream(length, n, [*seed, k], change) for k in range(first, min(first + AT_ONCE, count))])
        reached = log_wealth(p)[:, None] >= np.log(THRESHOLDS)[:, None]  # (streams, thresholds, items)
        found.append(np.where(reached.any(-1), reached.argmax(-1) + 1.0, np.inf))
    return np.concatenate(found)


def stream(length: int, n: int, seed: list[int], change: int | None = None) -> np.ndarray:
    """(length,) online p-values of a stream with n calibration scores."""
    rng = np.random.default_rng(seed)
    calibration, scores = rng.normal(size=n), rng.normal(size=length)
    if change is not None:
        scores[change:] += SHIFT
    return OnlineRanks.of(calibration, [*seed, 1]).p_values(scores, rng.random((length, 2)))
