"""Options, defaults and flags that the pages name are those of the code."""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path
from typing import Any

import pytest
import typer

from benchmarks import BENCHMARKS
from knowngood.cli import build_app
from knowngood.cli.options import setting_options
from knowngood.config import Settings, VAEOptions, choices

ROOT = Path(__file__).parents[2]
METHODS = ROOT / "docs" / "methods"
OBJECTIVES = choices(VAEOptions, "objective")
PAGES = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
FLAG = re.compile(r"(?<![\w-])--[a-z][a-z-]*[a-z]")
OF_OTHERS = {
    "deployment.md": {"--rm", "--read-only", "--tmpfs", "--network", "--build", "--now", "--offline"},
    "export.md": {"--no-deps", "--onnx", "--save"},
    "serving.md": {"--max-time", "--exclude-checks"},
    "plugins.md": {"--quantile", "--score-quantile", "--share"},
    "backbones.md": {"--local-dir"},
    "install.md": {"--index-url"},
    "README.md": {"--index-url"},
    "plugin.md": {"--no-deps", "--no-build-isolation", "--target"},
    "scaling-out.md": {"--nnodes", "--nproc-per-node", "--rdzv-backend", "--rdzv-endpoint", "--ntasks-per-node"},
}  # by page


def table(page: Path, *columns: str) -> list[list[str]]:
    """The cells of the rows below a line of these column titles, without what marks code; no rows: no such table."""
    lines = iter(page.read_text(encoding="utf-8").splitlines())
    for line in lines:
        if line == f"| {' | '.join(columns)} |":
            next(lines)
            rows = []
            for row in lines:
                if not row.startswith("|"):
                    break
                rows.append([cell.strip() for cell in row.strip("|").split(" |")])
            return rows
    return []


def written(default: Any) -> str:
    """A default as the pages write it."""
    if default is None:
        return "–"
    if isinstance(default, tuple):
        return f"`{', '.join(map(str, default))}`"
    return f"`{default:g}`" if isinstance(default, float) else f"`{default}`"


@pytest.mark.parametrize("name", sorted(OBJECTIVES))
def test_the_page_of_an_objective_lists_its_options_with_their_defaults(name: str) -> None:
    flags = {
        option.field: option.flag
        for option in setting_options()
        if option.path == ("model", "objective") and option.owners
    }
    fields = {field: info for field, info in OBJECTIVES[name].model_fields.items() if field != "name"}
    expected = [
        [f"`{field}`", f"`{flags[field]}`", written(info.get_default(call_default_factory=True))]
        for field, info in fields.items()
    ]
    rows = table(METHODS / f"{name}.md", "option", "on the command line", "default", "meaning")
    assert sorted(row[:3] for row in rows) == sorted(expected)
    for option, *_, meaning in rows:
        assert meaning.startswith((fields[option.strip("`")].description or "").partition(";")[0].replace("|", "∣"))


def test_the_page_of_features_names_options_that_are_there() -> None:
    rows = table(METHODS / "patch_gaussian.md", "of", "options")
    assert len(rows) >= 4
    known = {**choices(Settings, "representation"), **choices(Settings, "model"), **choices(Settings, "score")}
    for choice, options in rows:
        own, _, of_the_backbone = options.partition("; of the backbone:")
        given = known[choice.strip("`")]
        assert set(re.findall(r"`(\w+)`", own)) <= set(given.model_fields)
        if of_the_backbone:
            backbones = choices(given, "backbone").values()
            there = {field for backbone in backbones for field in backbone.model_fields}
            assert set(re.findall(r"`(\w+)`", of_the_backbone)) <= there


def test_the_page_of_scores_has_every_score() -> None:
    rows = table(METHODS / "scores.md", "score", "definition", "use", "map", "likelihood", "cost")
    assert {row[0].split(",")[0].strip("`") for row in rows} == set(choices(Settings, "score"))
    assert all(len(row) == 6 for row in rows)


def flags_of(command: Any) -> set[str]:
    found = {flag for option in command.params for flag in (*option.opts, *option.secondary_opts)}
    context, names = typer.Context(command), getattr(command, "commands", ())
    return found.union(*(flags_of(command.resolve_command(context, [name])[1]) for name in names))


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_flag_on_a_page_is_one(page: Path) -> None:
    known = flags_of(typer.main.get_command(build_app())) | {"--help"}
    for place, _ in BENCHMARKS.values():
        module, _, function = place.partition(":")
        options = inspect.signature(getattr(importlib.import_module(module), function)).parameters
        known |= {"--" + option.replace("_", "-") for option in options}
    allowed = OF_OTHERS.get(page.name, set())
    text = page.read_text(encoding="utf-8").replace("`--name value`", "")  # which stands for any
    assert set(FLAG.findall(text)) - known <= allowed
