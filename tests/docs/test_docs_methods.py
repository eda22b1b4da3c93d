"""The pages on methods: options as they are, commands that would run, pictures that are there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from knowngood.cli import main
from knowngood.cli.options import setting_options
from knowngood.config import Settings, choices

ROOT = Path(__file__).resolve().parents[2]
PAGES, PICTURES = ROOT / "docs" / "methods", ROOT / "docs" / "images" / "methods"
OBJECTIVES = choices("objective")
OTHERS = ["oriented_gradients", "patches", "scores"]
TUTORIAL = ROOT / "docs" / "inspection.md"
SECTIONS = ["Formula", "When to use it", "Options", "What it looks like", "Reference"]
HEAVIEST = 60_000


def page(name: str) -> str:
    return (PAGES / f"{name}.md").read_text(encoding="utf-8")


def commands(name: str) -> list[list[str]]:
    blocks = re.findall(r"^```bash\n(.*?)^```", page(name), re.DOTALL | re.MULTILINE)
    return [shlex.split(line) for block in blocks for line in block.splitlines()]


def option(words: list[str], flag: str) -> str:
    return words[words.index(flag) + 1]


def test_every_method_has_a_page_that_the_index_names_and_no_other_has() -> None:
    assert {path.stem for path in PAGES.glob("*.md")} == {"README", *OBJECTIVES, *OTHERS}
    rows = re.findall(r"^\| \[`(\w+)`\]\((\w+)\.md\)", page("README"), re.MULTILINE)
    assert sorted(name for name, _ in rows) == sorted(OBJECTIVES)
    assert all(name == target for name, target in rows)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_page_has_its_sections_in_order_and_the_source_of_the_code(name: str) -> None:
    text = page(name)
    assert text.startswith(f"# `{name}`: ")
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == SECTIONS
    for source in re.findall(r"arXiv:(\d{4}\.\d{5})", OBJECTIVES[name].__doc__ or ""):
        assert f"https://arxiv.org/abs/{source}" in text


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_page_names_all_options_of_its_method_and_no_other(name: str) -> None:
    flags = {(o.family, o.field): o.flag for o in setting_options()}
    expected = []
    for field, info in OBJECTIVES[name].model_fields.items():
        if field != "name":
            value = info.default
            shown = ",".join(value) if isinstance(value, tuple) else f"{value:g}" if isinstance(value, float) else value
            expected.append((field, flags["objective", field], "–" if value is None else f"`{shown}`"))
    section = page(name).split("## Options\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)` \| `([\w-]+)` \| (.*?) \| .+ \|$", section, re.MULTILINE)
    assert rows == expected
    assert expected or section.strip() == "None of its own."


@pytest.mark.parametrize("name", OBJECTIVES)
def test_pictures_of_a_page_are_there_are_light_and_come_from_its_commands(name: str) -> None:
    shown = re.findall(r"!\[(.+?)\]\(\.\./images/methods/(.+?)\)", page(name))
    assert shown
    made = [option(words, "--out") for words in commands(name) if words[1] == "figure"]
    assert sorted(made) == sorted(f"docs/images/methods/{picture}" for _, picture in shown)
    for words, picture in shown:
        assert len(words) > 20
        assert 1000 < (PICTURES / picture).stat().st_size < HEAVIEST


def test_no_picture_is_left_over() -> None:
    used = {picture for name in OBJECTIVES for picture in re.findall(r"images/methods/([\w.-]+?)\)", page(name))}
    assert {path.name for path in PICTURES.iterdir()} == used


@pytest.mark.parametrize("name", OBJECTIVES)
def test_links_of_a_page_lead_somewhere(name: str) -> None:
    for target in re.findall(r"\]\((?!http)(.+?)\)", page(name) + page("README")):
        assert (PAGES / target).exists(), target


class _ReadyError(Exception):
    """A command got as far as its data."""


@pytest.mark.parametrize("name", OBJECTIVES)
def test_commands_of_a_page_are_understood(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def stop(*_: object, **__: object) -> None:
        raise _ReadyError

    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "methods").symlink_to(PAGES)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("knowngood.cli.train.open_selected", stop)
    monkeypatch.setattr("knowngood.cli.figure._subject", stop)
    trained = set()
    for words in commands(name):
        assert words[0] == "knowngood"
        if words[1] == "train":
            trained.add(option(words, "--out"))
        else:
            assert words[3] in trained
        with pytest.raises(_ReadyError):
            main([*words[1:], "--debug"])
    assert name in {option(words, "--objective") for words in commands(name) if words[1] == "train"}


# Inspection -----------------------------------------------------------------------------------------------------------


def test_the_page_on_patches_is_in_the_index_and_names_every_option_with_its_flag_and_default() -> None:
    assert "](patches.md)" in page("README")
    assert re.findall(r"^## (.*)$", page("patches"), re.MULTILINE) == SECTIONS
    flags = {o.field: o.flag for o in setting_options() if o.family == "features"}
    fields = choices("features")["efficientnet_lite0"].model_fields
    rows = re.findall(r"^\| `(\w+)` \| `([\w-]+)` \| (.*?) \| .+ \|$", page("patches"), re.MULTILINE)
    assert {name: flag for name, flag, _ in rows} == {name: flags[name] for name in fields if name != "name"}
    for name, _, shown in rows:
        value = fields[name].default
        text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
        assert shown == ("–" if value is None else f"`{text}`")


@pytest.mark.parametrize("path", [TUTORIAL, PAGES / "patches.md"], ids=["tutorial", "patches"])
def test_pictures_of_inspection_are_there_light_and_credited(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    shown = re.findall(r"!\[(.+?)\]\((.+?)\)\n\n(.+?)\n\n", text, re.DOTALL)
    assert len(shown) == text.count("![") > 0
    for words, picture, credit in shown:
        assert len(words) > 20
        assert 1000 < (path.parent / picture).stat().st_size < 150_000
        assert "© MVTec Software GmbH" in credit
        assert "by-nc-sa/4.0" in credit
    for target in re.findall(r"\]\((?!http)(.+?)\)", text):
        assert (path.parent / target.partition("#")[0]).exists(), target


@pytest.mark.parametrize("path", [TUTORIAL, PAGES / "patches.md"], ids=["tutorial", "patches"])
def test_commands_of_inspection_are_understood(path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def stop(*_: object, **__: object) -> None:
        raise _ReadyError

    monkeypatch.chdir(tmp_path)
    for name in ("train.open_selected", "score.load", "evaluate.load"):
        monkeypatch.setattr(f"knowngood.cli.{name}", stop)
    blocks = re.findall(r"^```bash\n(.*?)^```", path.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    lines = [shlex.split(line) for block in blocks for line in block.splitlines()]
    mine = [words for words in lines if words[:2] in [["knowngood", c] for c in ("train", "score", "evaluate")]]
    assert len(mine) >= 2
    trained = {option(words, "--out") for words in mine if words[1] == "train"}
    for words in mine:
        assert words[1] == "train" or words[2] in trained
        with pytest.raises(_ReadyError):
            main([*words[1:], "--debug"])


def test_python_of_the_tutorial_compiles_and_names_settings_that_are_there() -> None:
    text = TUTORIAL.read_text(encoding="utf-8")
    for block in re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        compile(block, "inspection.md", "exec")
    for inner in re.findall(r"Detector\(([^)]*=[^)]*)\)", text):
        assert set(re.findall(r"(\w+)=", inner)) <= set(Settings.model_fields)
