"""Choices of other packages, found by entry point, in Python, YAML and on the command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from knowngood.config import Options
from knowngood.config.installed import plugins

OBJECTIVE = '''
from typing import Literal

from knowngood.config import Options


class MyObjective(Options):
    """An objective of another package."""

    implementation = "my_objective:Nothing"
    name: Literal["my_objective"] = "my_objective"
    strength: float = 1.0
    beta: float = 1.0
'''
SCORE = '''
from typing import Literal

from knowngood.config import ScoreOptions


class MyScore(ScoreOptions):
    """A score of another package."""

    implementation = "my_score:Nothing"
    name: Literal["my_score"] = "my_score"
    depth: int = 3
    epochs: int = 1


NUMBER = 3
'''
POINTS = """[knowngood.objectives]
my_objective = my_objective:MyObjective
[knowngood.scores]
my_score = my_score:MyScore
number = my_score:NUMBER
gone = no_such_package:Score
"""
PROGRAM = """
import json, sys, warnings
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    from knowngood.config import parse_settings
    from knowngood.cli.options import setting_options, settings_from
    setting_options()
settings = parse_settings({"model": {"name": "vae", "objective": "my_objective"}, "score": ["my_score", "elbo"]})
typed = settings_from({"strength": "2", "depth": "5"})
implied = settings_from({"objective": "my_objective", "beta": "3", "score_epochs": "7", "epochs": "9"})
print(json.dumps({
    "objective": settings.model.objective.name,
    "scores": [score.name for score in settings.score.scores],
    "typed": typed.model_dump(mode="json", exclude_unset=True),
    "implied": implied.model_dump(mode="json", exclude_unset=True),
    "flags": [option.flag for option in setting_options()],
    "warnings": [str(one.message) for one in caught],
}))
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder where a package with plug-ins is installed."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "my_objective.py").write_text(OBJECTIVE, encoding="utf-8")
    (folder / "my_score.py").write_text(SCORE, encoding="utf-8")
    about = folder / "my_package-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: my-package\nVersion: 1.0\n", encoding="utf-8")
    (about / "entry_points.txt").write_text(POINTS, encoding="utf-8")
    return folder


def run(site: Path, program: str) -> str:
    path = os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH", "")]))
    environment = {**os.environ, "PYTHONPATH": path}
    words = [sys.executable, "-c", program]
    return subprocess.run(words, capture_output=True, text=True, check=True, env=environment).stdout


@pytest.fixture(scope="module")
def outcome(site: Path) -> dict[str, Any]:
    """What a process finds there."""
    return json.loads(run(site, PROGRAM))


@pytest.mark.slow
def test_a_plug_in_is_known_by_name(outcome: dict[str, Any]) -> None:
    assert outcome["objective"] == "my_objective"
    assert outcome["scores"] == ["my_score", "elbo"]


@pytest.mark.slow
def test_options_of_a_plug_in_are_options_of_the_command_line(outcome: dict[str, Any]) -> None:
    assert outcome["typed"] == {
        "model": {"name": "vae", "objective": {"name": "my_objective", "strength": 2.0}},
        "score": {"name": "my_score", "depth": 5},
    }


@pytest.mark.slow
def test_a_plug_in_shares_or_prefixes_names_but_takes_none_away(outcome: dict[str, Any]) -> None:
    assert outcome["implied"] == {
        "model": {"name": "vae", "objective": {"name": "my_objective", "beta": 3.0}},
        "score": {"name": "my_score", "epochs": 7},
        "training": {"epochs": 9},
    }
    assert len(set(outcome["flags"])) == len(outcome["flags"])


def test_a_broken_plug_in_is_left_out_with_a_warning(outcome: dict[str, Any]) -> None:
    broken, foreign = sorted(text for text in outcome["warnings"] if "plug-in" in text)
    assert "'gone' (no_such_package:Score) cannot be loaded" in broken
    assert "'number' (my_score:NUMBER) in group knowngood.scores is no Options" in foreign


@pytest.mark.slow
def test_a_plug_in_that_is_imported_first_is_known_too(site: Path) -> None:
    program = "import my_score\nfrom knowngood.config import parse_settings\nparse_settings({'score': 'my_score'})"
    assert run(site, program) == ""


class Point:
    def __init__(self, name: str, loaded: Any) -> None:
        self.name, self.value, self.loaded = name, f"package:{name}", loaded

    def load(self) -> Any:
        if isinstance(self.loaded, Exception):
            raise self.loaded
        return self.loaded


class Mine(Options):
    name: str = "mine"


def test_entry_points_are_loaded_in_the_order_of_their_names(monkeypatch: pytest.MonkeyPatch) -> None:
    points = [Point("z", Mine), Point("b", ImportError("no torch here")), Point("a", Mine)]
    monkeypatch.setattr(
        "knowngood.config.installed.entry_points", lambda group: points if group == "knowngood.t" else []
    )
    plugins.cache_clear()
    try:
        with pytest.warns(UserWarning, match=r"plug-in 'b' \(package:b\) cannot be loaded: no torch here"):
            assert plugins("t", Options) == (Mine, Mine)
    finally:
        plugins.cache_clear()
