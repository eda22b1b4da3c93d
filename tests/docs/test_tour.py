"""The tour of the page on the command line runs as it stands, without any data but the embedded ones."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from knowngood.cli import main

PAGE = Path(__file__).parents[2] / "docs" / "guide" / "command-line.md"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_tour_runs_from_its_first_to_its_last_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("KNOWNGOOD_DATA", raising=False)
    tour = re.search(r"## A tour.*?```bash\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert tour is not None
    commands = [shlex.split(line) for line in tour[1].splitlines()]
    assert len(commands) >= 5
    for word, *arguments in commands:
        assert word == "knowngood"
        with pytest.raises(SystemExit) as left:
            main(arguments)
        assert left.value.code == 0, arguments
    assert {"tour.csv", "tour.json", "tour.html", "digits.png"} <= {path.name for path in tmp_path.iterdir()}
