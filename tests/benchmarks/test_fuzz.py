"""Damaged and hostile files: every case is read, or refused with the library's own error. None crashes or hangs."""

from __future__ import annotations

import pytest

from benchmarks.fuzz.run import fuzz
from benchmarks.fuzz.targets import TARGETS

CASES = 60


@pytest.mark.slow
@pytest.mark.parametrize("target", [name for name in TARGETS if not name.startswith("models-")])
def test_no_case_crashes_hangs_or_loses_an_item(target, tmp_path):
    counts = fuzz(target, seed=1, seconds=600, cases=CASES, out=tmp_path / target)

    assert sum(counts.values()) == CASES
    assert set(counts) <= {"read", "refused"}, [path.read_text() for path in tmp_path.rglob("why.json")]
