"""Numbers on the pages are printed by a command that stands beside them, and the commands on the pages are ones."""

from __future__ import annotations

import importlib
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer

from benchmarks import BENCHMARKS
from benchmarks.__main__ import keyword_arguments
from knowngood.cli import build_app

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
CELL = re.compile(r"[-−]?\d*\.\d{2,}[\d.,/%±–− ]*")  # of a table of results, such as .963, 1.000 / .944
ROW = re.compile(r"^\|.*$", re.MULTILINE)
IN_TEXT = re.compile(
    r"(?<![\w.])\d?\.\d{3,4}(?!\d|\.\d)"  # .963, but no version
    r"|± ?\d*\.\d+"
    r"|(?<![\w.])\.\d\d (?:→|to|for|in place of|against) \.\d\d"
    r"|\d (?:MB|GB|MiB|GiB|ms|images a second|images/s)\b"
)
COMMAND = re.compile(
    r"python -m benchmarks \w|python -m knowngood\.runtime|knowngood \w+ |^    python |^python |```python"
    r"|`test_\w+\.py::|benchmarks\.md#",
    re.MULTILINE,
)
CITED = re.compile(r"not measured here.*?arxiv\.org/abs", re.DOTALL)
FENCED = re.compile(r"^(?:```|~~~)\w*\n.*?^(?:```|~~~)$", re.MULTILINE | re.DOTALL)
GIVEN = {
    ("generated-parts.md", "Columns"): "how the pictures are made",
    ("backbones.md", "Memory and speed"): "by the formulas there",
    ("calibration.md", "A batch that does not fit"): "levels of the tests",
}


def sections(text: str) -> dict[str, str]:
    """By heading, from it to the next heading of any level below the title."""
    parts = re.split(r"^##+ ", text, flags=re.MULTILINE)
    return {part.split("\n", 1)[0]: part for part in parts}


def measured(section: str) -> list[str]:
    """The results that a section states."""
    prose = FENCED.sub("", section)
    rows = [row for row in ROW.findall(prose) if sum(bool(CELL.fullmatch(cell.strip())) for cell in row.split("|")) > 1]
    return rows + IN_TEXT.findall(prose)


def unfounded(page: str, text: str) -> list[str]:
    """Headings of sections with results and without a command or a source."""
    return [
        heading
        for heading, section in sections(text).items()
        if measured(section) and not (COMMAND.search(section) or CITED.search(section)) and (page, heading) not in GIVEN
    ]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_results_have_a_command_in_their_section(page: Path) -> None:
    assert unfounded(page.name, page.read_text(encoding="utf-8")) == []


def strays(text: str) -> list[str]:
    """Rows of a table that have another number of cells than its heading: they belong to another table."""
    found = []
    for block in re.findall(r"(?:^\|.*\n?)+", FENCED.sub("", text), re.MULTILINE):
        rows = block.strip("\n").split("\n")
        widths = [len(re.findall(r"(?<!\\)\|", re.sub(r"`[^`]*`", "", row))) for row in rows]
        found += [row for row, width in zip(rows, widths, strict=True) if width != widths[0]]
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_rows_belong_to_their_table(page: Path) -> None:
    assert strays(page.read_text(encoding="utf-8")) == []


def test_a_row_of_another_table_is_found() -> None:
    assert strays("| a | b |\n|---|---|\n| 1 | 2 |\n| 1 | 2 | 3 |\n") == ["| 1 | 2 | 3 |"]


@pytest.mark.parametrize(
    "said", ["An AUROC of .963.", "It is .98 ± .01.", "AP .57 → .64", "130 MB are held", "| a | .97 | .98 |"]
)
def test_a_result_without_a_command_would_be_found(said: str) -> None:
    page = f"# Title\n\n## One\n\n    python -m benchmarks speed\n\n### Two\n\n{said}\n"
    assert unfounded("page.md", page) == ["Two"]
    assert unfounded("page.md", page + "\n    python -m benchmarks speed\n") == []


def benchmarks_on(text: str) -> list[str]:
    """What stands after `python -m benchmarks`, in code within a line or in a block."""
    joined = re.sub(r"\\\n\s*", " ", text)
    inline = re.findall(r"`python -m benchmarks ([^`]+)`", joined)
    return [" ".join(one.split()) for one in inline] + re.findall(r"^ *python -m benchmarks (\S.*)$", joined, re.M)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_benchmark_on_a_page_is_one_with_these_options(page: Path) -> None:
    for line in benchmarks_on(page.read_text(encoding="utf-8")):
        name, *options = shlex.split(line, comments=True)
        if name == "NAME":
            continue
        module, _, function = BENCHMARKS[name][0].partition(":")
        keyword_arguments(getattr(importlib.import_module(module), function), options, name)


def commands_on(text: str) -> list[str]:
    """Lines of blocks that begin with `knowngood`, up to what the shell makes of their output."""
    blocks = re.findall(r"^```bash\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in re.sub(r"\\\n\s*", " ", block).splitlines()]
    return [re.split(r" [|>&]|;", line)[0] for line in lines if line.startswith("knowngood ")]


def parse(line: str) -> Any:
    app: Any = typer.main.get_command(build_app())
    words = [word for word in shlex.split(line, comments=True)[1:] if word != "--debug"]
    with app.make_context("knowngood", list(words), resilient_parsing=True) as context:
        name, command, rest = app.resolve_command(context, [*context._protected_args, *context.args])
        assert command is not None, line
        return command.make_context(name, rest, parent=context)


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_line_on_a_page_is_one(page: Path) -> None:
    for line in commands_on(page.read_text(encoding="utf-8")):
        if "median_residual" not in line:  # of the example plug-in
            parse(line)


@pytest.mark.parametrize("line", ["knowngood scroe m d", "knowngood score m d --alpah .1"])
def test_a_wrong_command_line_would_be_found(line: str) -> None:
    assert commands_on(f"```bash\n{line} > file\n```") == [line]
    with pytest.raises(Exception, match=r"No such option|knowngood scroe"):
        parse(line)
