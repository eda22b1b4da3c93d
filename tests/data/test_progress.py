"""How far a run is: lines where nothing can be redrawn, a bar on a terminal, the outermost loop alone."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator

import pytest

from knowngood.data import progress
from knowngood.data.progress import busy, counting, in_words, reporting, track


class Clock:
    """Seconds that pass as they are told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress.Reporter.__init__, "__defaults__", (clock,))
    return clock


def passed(clock: Clock, seconds: float, n: int = 100, **more: object) -> None:
    for _ in track(range(n), "scoring", n, **more):  # type: ignore[arg-type]
        clock.now += seconds


def test_a_line_soon_and_every_half_minute_with_the_time_left(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with reporting():
        passed(clock, 1.0)
    assert capsys.readouterr().err.splitlines() == [
        "scoring: 5 of 100 images, 2 min left",
        "scoring: 35 of 100 images, 65 s left",
        "scoring: 65 of 100 images, 35 s left",
        "scoring: 95 of 100 images, 5 s left",
    ]


def test_nothing_is_said_of_what_is_short_or_not_asked_for(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with reporting():
        passed(clock, 0.001)
    with reporting(False):
        passed(clock, 10.0)
    passed(clock, 10.0)
    assert capsys.readouterr().err == ""


def test_items_that_stand_for_several_images_count_as_these(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with reporting():
        for _ in track([[1] * 8, [2] * 8, [3] * 4], "maps", 20, size=len):
            clock.now += 40.0
    assert capsys.readouterr().err.splitlines()[0] == "maps: 8 of 20 images, 60 s left"


def test_work_that_is_no_loop_is_counted(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with reporting(), counting("models", 4, "models") as advance:
        passed(clock, 40.0, n=1)  # within
        advance(1)
        clock.now += 60.0
        advance(2)
    assert capsys.readouterr().err.splitlines() == [
        "models: 1 of 4 models, 2 min left",
        "models: 3 of 4 models, 33 s left",
    ]
    with counting("models", 4, "models") as advance:
        advance(1)


def test_of_loops_within_loops_the_outermost_is_shown(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with reporting():
        for _ in track(range(3), "folds", 3, "steps"):
            assert busy()
            for _ in track(range(5), "scoring", 5):
                clock.now += 10.0
        assert not busy()
    said = capsys.readouterr().err
    assert "folds: 1 of 3 steps, 100 s left".replace("100 s", "2 min") in said
    assert "scoring" not in said


def test_a_loop_that_fails_leaves_the_next_one_free(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    def broken() -> Iterator[int]:
        yield 1
        raise KeyError

    with reporting():
        with pytest.raises(KeyError):
            list(track(broken(), "reading", 3))
        passed(clock, 40.0, n=2)
    assert "scoring: 1 of 2 images" in capsys.readouterr().err


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.slow
def test_at_80_columns_the_time_left_is_there(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Screen()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    with reporting():
        for _ in track(range(123_456), "looking at images", 123_456, size=lambda _: 30_000):
            clock.now += 2.0
            if clock.now > 6:
                break
    assert "90,000 of 123,456 images" in screen.getvalue()
    assert "left" in screen.getvalue()


@pytest.mark.parametrize(("seconds", "words"), [(0.2, "1 s"), (89, "89 s"), (91, "2 min"), (5400, "1 h 30 min")])
def test_seconds_in_words(seconds: float, words: str) -> None:
    assert in_words(seconds) == words
