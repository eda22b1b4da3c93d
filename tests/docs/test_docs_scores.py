"""The page of all scores: every one has its row, and the row says what the code says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from knowngood.config import choices

PAGE = Path(__file__).resolve().parents[2] / "docs" / "methods" / "scores.md"
TEXT = PAGE.read_text(encoding="utf-8")
ROWS = re.findall(r"^\| `(\w+)`([^|]*)\|(.+)\|$", TEXT, re.MULTILINE)
SCORES = choices("scoring")
ON_PATCHES = "gaussian"  # its map is that of all scores of places


def test_every_score_has_a_row() -> None:
    assert set(SCORES) <= {name for name, _, _ in ROWS}


@pytest.mark.parametrize("name", sorted(set(SCORES) - {"fusion"}))
def test_rows_tell_of_map_and_likelihood_what_the_code_does(name: str) -> None:
    score = SCORES[name]().build()
    for _, _, cells in (row for row in ROWS if row[0] == name):
        mapped, likelihood, cost = (cell.strip() for cell in cells.split("|")[-3:])
        assert mapped == ("yes" if score.has_map or name == ON_PATCHES else "no")
        assert likelihood == ("yes" if score.is_likelihood else "no")
        assert re.match(r"(some )?\d", cost)


@pytest.mark.parametrize("name", sorted(SCORES))
def test_papers_named_in_the_code_are_on_the_page(name: str) -> None:
    for source in re.findall(r"arXiv:(\d{4}\.\d{5})", SCORES[name].__doc__ or ""):
        assert f"https://arxiv.org/abs/{source}" in TEXT


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\((?!http)(.+?)\)", TEXT):
        name, _, heading = target.partition("#")
        page = PAGE.parent / name if name else PAGE
        assert page.exists(), target
        if heading:
            titles = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
            assert heading in [re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles], target


def test_numbers_of_draws_and_steps_are_the_defaults() -> None:
    def default(name: str, field: str) -> int:
        return SCORES[name].model_fields[field].default

    assert f"over {default('elbo', 'samples')} draws of z" in TEXT
    assert f"K = {default('iwae', 'samples')} |" in TEXT
    assert f"at most {default('likelihood_regret', 'steps')} gradients" in TEXT
