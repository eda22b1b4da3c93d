"""What the commands print."""

from __future__ import annotations

import pytest

from knowngood.cli.console import fail, note, say, silent


def test_a_process_that_follows_another_says_only_what_went_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    with silent():
        say("a result")
        note("a remark")
        fail("an error")
    say("after")
    out, err = capsys.readouterr()
    assert (out, err) == ("after\n", "error: an error\n")
