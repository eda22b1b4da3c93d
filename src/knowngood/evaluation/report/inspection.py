"""The inspection page: scored images by p-value with their maps laid over them, as one file that asks for nothing."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from knowngood.errors import DataError
from knowngood.evaluation.figures import style
from knowngood.evaluation.figures.explanation import shown
from knowngood.evaluation.report.gallery import data_uri
from knowngood.evaluation.report.heat import map_limits
from knowngood.evaluation.report.inputs import ReportInputs
from knowngood.evaluation.report.words import count, number, percent

if TYPE_CHECKING:
    import pandas as pd

LEVELS = 64  # colours of a map


@dataclass(frozen=True, kw_only=True)
class Inspected:
    """One image of the page.

    Args:
        id: of its row in the table.
        image: (h, w, C), of any type; reduced beforehand, since it goes into the page as it is.
        map: (a, b) over the whole image, higher is odder, NaN where nothing counts; None if there is none.
        size: (H, W) of the image before it was reduced, in whose pixels the boxes are.
        sentences: why it is odd.
        boxes: (top, left, bottom, right) of regions, half-open.
    """

    id: str
    image: np.ndarray
    map: np.ndarray | None = None
    size: tuple[int, int]
    sentences: Sequence[str] = ()
    boxes: Sequence[tuple[int, int, int, int]] = ()


def write_inspection(path: str | Path, items: Sequence[Inspected], table: pd.DataFrame, **about: Any) -> Path:
    """Write the page as one HTML file; the same inputs give the same bytes. See `render_inspection`."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(render_inspection(items, table, **about), encoding="utf-8")
    return path


def render_inspection(
    items: Sequence[Inspected],
    table: pd.DataFrame,
    *,
    alpha: float,
    title: str,
    command: str = "",
    normal_name: str = "good",
    anomalous_name: str = "anomalous",
) -> str:
    """The page as HTML text: a gallery by p-value, filters by verdict and condition, a slider for the maps.

    Args:
        table: as for `ReportInputs`; `items` are rows of it, by id.
        alpha: the false-alarm rate of the verdicts.

    Raises:
        DataError: an item is not in the table, or the table is empty or lacks a column.
    """
    facts = ReportInputs(table=table, alpha=alpha, title=title, metrics={"none": None})
    rows = {name: row for row, name in enumerate(facts.texts("id"))}
    for item in items:
        if item.id not in rows:
            raise DataError(f"inspection: the image '{item.id}' is not in the table's column 'id'")
    p, score = facts.p_values, facts.scores
    order = sorted(items, key=lambda item: (p[rows[item.id]], -score[rows[item.id]]))
    limits = map_limits([(item.map, bool(facts.flagged[rows[item.id]])) for item in order])
    names = [normal_name, anomalous_name]
    conditions = facts.texts("condition")
    cards = []
    for item in order:
        row = rows[item.id]
        flagged, label = bool(facts.flagged[row]), facts.labels[row]
        verdict = "flagged" if flagged else "passed"
        kind = "" if np.isnan(label) else "right" if flagged == (label == 1) else "alarm" if flagged else "missed"
        height, width = item.size
        cards.append(
            {
                "id": item.id,
                "picture": data_uri(
                    Image.fromarray(np.round(255 * shown(item.image)).astype(np.uint8)).convert("RGBA")
                ),
                "map": None if item.map is None else map_uri(item.map, limits),
                "width": width,
                "height": height,
                "pixelated": max(item.size) <= 96,
                "boxes": [(left, top, right - left, bottom - top) for top, left, bottom, right in item.boxes],
                "sentences": list(item.sentences),
                "p": number(p[row], 2),
                "p_value": f"{p[row]:.6g}",
                "score": number(score[row]),
                "score_value": f"{score[row]:.9g}",
                "flagged": flagged,
                "verdict": verdict,
                "kind": kind,
                "label": "" if np.isnan(label) else names[int(label)],
                "condition": "" if conditions[row] == "all" else conditions[row],
            }
        )
    known = sorted({card["condition"] for card in cards if card["condition"]})
    context = {
        "title": title,
        "cards": cards,
        "conditions": known if len(known) > 1 else [],
        "labelled": any(card["label"] for card in cards),
        "mapped": any(card["map"] for card in cards),
        "boxed": any(card["boxes"] for card in cards),
        "lead": _lead(facts, len(cards)),
        "low": number(limits[0], 3),
        "high": number(limits[1], 3),
        "command": command,
    }
    loader = PackageLoader("knowngood.evaluation.report", "templates")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined)
    return environment.get_template("inspection.html.j2").render(context)


def map_uri(values: np.ndarray, limits: tuple[float, float]) -> str:
    """A map (a, b) as a PNG with transparency: clear at the lower limit and below, and where it is NaN."""
    share = (np.nan_to_num(values.astype(float), nan=limits[0]) - limits[0]) / (limits[1] - limits[0])
    level = np.round(np.clip(share, 0, 1) * (LEVELS - 1)).astype(np.uint8)
    colours = np.round(255 * np.asarray(style.HEAT(np.linspace(0, 1, LEVELS)))).astype(np.uint8)
    whole = Image.frombytes("P", level.shape[::-1], level.tobytes())
    whole.putpalette(colours[:, :3].reshape(-1).tobytes())
    buffer = io.BytesIO()
    whole.save(buffer, "PNG", optimize=True, transparency=colours[:, 3].tobytes())
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _lead(facts: ReportInputs, n: int) -> str:
    flagged = int(facts.flagged.sum())
    total = int(facts.judged.sum())
    text = f"{flagged:,} of {count(total, 'image')} {'is' if flagged == 1 else 'are'} flagged at a false-alarm rate of "
    text += f"{percent(facts.alpha)}."
    return text + (f" Shown are the {n:,} with the smallest p-values." if n < total else "")
