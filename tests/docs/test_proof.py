"""docs/proof.md keeps its word, links in the docs lead somewhere, and nothing can unpickle."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEST = re.compile(r"^ *def (test_\w+)\(", re.MULTILINE)
NAMED = re.compile(r"`(test_\w+\.py)::(test_\w+)`")
LINK = re.compile(r"\]\(([^)#]+?)(?:#[^)]*)?\)")
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]


def test_every_test_the_page_of_proofs_names_is_there() -> None:
    there = set()
    for path in (ROOT / "tests").rglob("test_*.py"):
        there |= {(path.name, name) for name in TEST.findall(path.read_text(encoding="utf-8"))}
    named = set(NAMED.findall((ROOT / "docs" / "proof.md").read_text(encoding="utf-8")))
    assert len(named) > 50
    assert not named - there


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    links = LINK.findall(page.read_text(encoding="utf-8"))
    assert not [link for link in links if not link.startswith("http") and not (page.parent / link).exists()]


@pytest.mark.slow
def test_nothing_in_the_library_can_unpickle() -> None:
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
                roots = {name.partition(".")[0] for name in names}
                assert not roots & {"pickle", "dill", "cloudpickle", "joblib"}, path
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                call = ast.unparse(node.func)
                assert call != "torch.save", path
                assert call != "torch.load" or "weights_only=True" in ast.unparse(node), path
                assert call != "np.load" or "allow_pickle=False" in ast.unparse(node), path
