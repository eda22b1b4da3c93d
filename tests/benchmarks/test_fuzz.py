"""Damaged and hostile files: every case is read, or refused with the library's own error. None crashes or hangs."""

from __future__ import annotations

import signal

import numpy as np
import pytest

from benchmarks.fuzz.run import LIMIT, TARGETS, outcome_of

CASES = 50


def hang(signum, frame):
    raise TimeoutError(f"no answer within {LIMIT:g} seconds")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of decoders, about damaged files
@pytest.mark.parametrize("name", [name for name in TARGETS if not name.startswith("models-")])
def test_no_case_crashes_hangs_or_loses_an_item(name, tmp_path):
    target = TARGETS[name]()
    before = signal.signal(signal.SIGALRM, hang)
    try:
        for case in range(CASES):
            folder = tmp_path / str(case)
            folder.mkdir()
            target.make(folder, np.random.default_rng([1, case]))
            signal.alarm(6 * int(LIMIT))
            outcome, why = outcome_of(target.check, folder)
            signal.alarm(0)
            assert outcome in ("read", "refused"), f"case {case}: {why}"
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
