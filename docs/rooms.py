"""Draws the rooms of the package and which import which, from the source.

python docs/rooms.py     # writes docs/images/rooms.svg
"""

from __future__ import annotations

import ast
from pathlib import Path

from matplotlib.figure import Figure

ROOT = Path(__file__).parents[1]
SRC = ROOT / "src" / "knowngood"
INK, LINE, BOX = "#1d2530", "#8b929c", "#dbe9f4"


def imports() -> dict[str, set[str]]:
    """By room, the other rooms that its modules import anywhere."""
    found: dict[str, set[str]] = {}
    for path in SRC.rglob("*.py"):
        here = path.relative_to(SRC).parts[0].removesuffix(".py")
        if here.startswith("__"):
            continue
        there = found.setdefault(here, set())
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
            rooms = {name.split(".")[1] for name in names if name.startswith("knowngood.")}
            there |= rooms - {here}
    return found


def floors(graph: dict[str, set[str]]) -> dict[str, int]:
    """The floor of each room: one above the highest room that it imports."""
    found: dict[str, int] = {}

    def floor(room: str) -> int:
        if room not in found:
            found[room] = 1 + max((floor(other) for other in graph[room] if other in graph), default=-1)
        return found[room]

    for room in graph:
        floor(room)
    return found


def reduced(graph: dict[str, set[str]]) -> set[tuple[str, str]]:
    """The arrows that no longer way replaces."""

    def reach(room: str) -> set[str]:
        return set().union(*({other} | reach(other) for other in graph.get(room, ())))

    return {(a, b) for a in graph for b in graph[a] if not any(b in reach(c) for c in graph[a] - {b})}


def draw(target: Path) -> None:
    """Boxes on floors, the ground floor at the bottom."""
    graph = imports()
    floor = floors(graph)
    rows = [sorted(room for room in graph if floor[room] == level) for level in range(max(floor.values()) + 1)]
    place = {room: (i - (len(row) - 1) / 2, level) for level, row in enumerate(rows) for i, room in enumerate(row)}
    figure = Figure(figsize=(7.5, 0.72 * len(rows) + 0.4))
    axes = figure.add_axes((0, 0, 1, 1))
    for a, b in sorted(reduced(graph)):
        (x, y), (u, v) = place[a], place[b]
        arrow = {"arrowstyle": "->", "color": LINE, "lw": 1.0, "connectionstyle": f"arc3,rad={0.12 * (y - v - 1)}"}
        axes.annotate("", (u, v + 0.26), (x, y - 0.26), arrowprops=arrow)
    for room, (x, y) in place.items():
        count = len(list((SRC / room).rglob("*.py"))) or 1
        style = {"boxstyle": "round,pad=0.45", "facecolor": BOX, "edgecolor": LINE}
        axes.text(x, y, f"{room} ({count})", ha="center", va="center", fontsize=9, color=INK, bbox=style)
    wide = max(abs(x) for x, _ in place.values()) + 0.6
    axes.set(xlim=(-wide, wide), ylim=(-0.6, len(rows) - 0.4))
    axes.axis("off")
    figure.savefig(target, metadata={"Date": None}, facecolor="white")


if __name__ == "__main__":
    draw(ROOT / "docs" / "images" / "rooms.svg")
