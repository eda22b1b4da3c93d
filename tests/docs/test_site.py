"""The site: every page has its place, the public face is explained, pictures have credits."""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from knowngood import errors
from knowngood.data import PixelSource
from knowngood.representations.base import Representation

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
FACES = (
    *("knowngood", "knowngood.calibration", "knowngood.metrics", "knowngood.errors", "knowngood.runtime"),
    *("knowngood.scores", "knowngood.models.objectives", "knowngood.data", "knowngood.representations"),
    "knowngood.config",
)
PROTOCOLS = (PixelSource, Representation)  # explain what a class does by them
AUTOMATIC = re.compile(r"\w+\(\w+(: [^)]*)?(, \w+[^)]*)*\)$")  # the docstring that dataclass and NamedTuple make


def contents() -> dict[str, list[str]]:
    sys.path.insert(0, str(DOCS / "_ext"))
    try:
        pages: dict[str, list[str]] = importlib.import_module("contents").PAGES
    finally:
        sys.path.pop(0)
    return pages


def test_every_page_has_one_place_and_every_place_a_page() -> None:
    named = [page for below in contents().values() for page in below]
    there = {str(path.relative_to(DOCS).with_suffix("")) for path in DOCS.rglob("*.md")}
    assert len(named) == len(set(named))
    assert {*named, "index"} == there


def public() -> Iterator[tuple[str, Any]]:
    """Classes and functions of the public face."""
    for face in FACES:
        module = importlib.import_module(face)
        for name in getattr(module, "__all__", [name for name in vars(module) if name[0].isupper()]):
            one = getattr(module, name)
            if inspect.isclass(one) or inspect.isfunction(one):
                yield f"{face}.{name}", one


def members(name: str, one: type) -> Iterator[tuple[str, Any]]:
    """Public methods and properties that a class has of its own; what they override may explain them."""
    for attribute, value in vars(one).items():
        kinds = (property, classmethod, staticmethod)
        if not attribute.startswith("_") and (isinstance(value, kinds) or inspect.isfunction(value)):
            yield f"{name}.{attribute}", getattr(one, attribute)


@pytest.mark.slow
def test_the_public_face_is_explained() -> None:
    silent = []
    for name, one in public():
        text = (one.__doc__ or "").strip()
        silent += [name] if not text or AUTOMATIC.fullmatch(text) else []
        if inspect.isclass(one):
            silent += [inner for inner, _ in members(name, one) if not explained(one, inner)]
    assert silent == []


def explained(one: type, name: str) -> bool:
    """Whether a member, or what it overrides, has a docstring."""
    attribute = name.rpartition(".")[2]
    return any(getattr(vars(above).get(attribute), "__doc__", None) for above in (*one.__mro__, *PROTOCOLS))


@pytest.mark.slow
def test_what_a_public_function_raises_by_itself_is_said() -> None:
    """Errors of this library in the body of a public function stand in its docstring, or in that of its class."""
    unsaid = []
    for name, one in public():
        for inner, function in list(members(name, one)) if inspect.isclass(one) else [(name, one)]:
            if isinstance(function, property):
                continue
            said = (inspect.getdoc(function) or "") + (inspect.getdoc(one) or "")
            raised = set(re.findall(r"raise (\w+)\(", inspect.getsource(function)))
            unsaid += [f"{inner}: {error}" for error in raised & set(vars(errors)) if error not in said]
    assert unsaid == []


def test_every_picture_has_a_credit() -> None:
    credits = (DOCS / "credits.md").read_text(encoding="utf-8")
    pictures = [path for path in (DOCS / "images").iterdir() if path.is_file() and path.suffix != ".svg"]
    assert [path.name for path in pictures if path.name not in credits] == []


def test_no_picture_of_the_first_screen_is_for_private_use_alone() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    shown = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", text)
    assert shown == ["docs/images/washers.jpg"]
    assert "MVTec Software" not in text
    assert len(text.encode()) <= 5_200
