"""The rooms of the package: a room imports only rooms before it, and no modules import each other in a circle."""

from __future__ import annotations

import ast
from functools import cache
from graphlib import TopologicalSorter
from importlib import import_module
from pathlib import Path

import pytest

SRC = Path(__file__).parents[1] / "src" / "knowngood"
FLOORS = [
    *({"errors"}, {"files"}, {"config", "calibration", "metrics"}, {"data"}, {"representations", "runtime"}),
    *({"models"}, {"scores", "training"}, {"detector"}, {"evaluation"}, {"deploy"}, {"cli"}),
]
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
LOOSE = {"__init__", "__main__", "errors", "files"}  # `__init__` is lazy


def modules() -> dict[str, Path]:
    """Every module of the package by its full name."""
    names = {path: ".".join(("knowngood", *path.relative_to(SRC).with_suffix("").parts)) for path in SRC.rglob("*.py")}
    return {name.removesuffix(".__init__"): path for path, name in names.items()}


@cache
def imports(path: Path) -> tuple[list[ast.stmt], list[ast.stmt]]:
    """The statements of a module that import: all, and those at its top, without the trees around them."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    both = ast.Import, ast.ImportFrom
    return [node for node in ast.walk(tree) if isinstance(node, both)], [n for n in tree.body if isinstance(n, both)]


def imported(nodes: list[ast.stmt], known: dict[str, Path]) -> set[str]:
    """The modules of the package that these statements import."""
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are absolute"
            inside = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in known else str(node.module) for name in inside}
    return {name for name in found if name in known}


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def test_a_room_imports_only_rooms_before_it() -> None:
    known, upward = modules(), []
    for name, path in known.items():
        if room(name) not in FLOOR:
            continue
        for other in imported(imports(path)[0], known):
            here, there = room(name), room(other)
            if there in FLOOR and there != here and FLOOR[there] >= FLOOR[here]:
                upward.append(f"{name} → {other}")
    assert sorted(upward) == []


def test_every_module_is_in_a_room() -> None:
    loose = {path.stem for path in SRC.glob("*.py")}
    assert loose <= LOOSE
    assert len(loose) <= 4
    assert {path.name for path in SRC.iterdir() if path.is_dir() and (path / "__init__.py").exists()} <= FLOOR.keys()


def test_no_modules_import_each_other_in_a_circle() -> None:
    """When they are imported: imports inside functions come later, and those of types never."""
    known, graph = modules(), {}
    for name, path in known.items():
        graph[name] = imported(imports(path)[1], known) - {name, "knowngood"}
    TopologicalSorter(graph).prepare()


@pytest.mark.parametrize("name", ["knowngood", "knowngood.calibration", "knowngood.config", "knowngood.data"])
def test_the_names_of_a_room_that_is_read_when_used_can_be_listed(name: str) -> None:
    module = import_module(name)
    assert set(dir(module)) >= set(module.__all__)
