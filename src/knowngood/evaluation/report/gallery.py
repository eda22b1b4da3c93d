"""The most and least anomalous images as cards: panels side by side, with score, p-value, verdict and label."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from knowngood.errors import DataError
from knowngood.evaluation.figures.triptych import MAP_PANELS, side_by_side, strips
from knowngood.evaluation.report.inputs import ReportInputs
from knowngood.evaluation.report.words import number
from knowngood.evaluation.results import WRONG

FRAME = "#8b929c"
_PNG_BYTES = 25_000


def gallery(inputs: ReportInputs) -> dict[str, Any]:
    """`most` and `least` as cards, and the scale they share.

    Raises:
        DataError: an id is not in the table, or an image and its reconstruction or map differ in shape.
    """
    shown = [*inputs.most, *inputs.least]
    if not shown:
        return {"most": [], "least": []}
    rows = positions(inputs, [item.id for item in shown])
    maps = any(item.map is not None for item in shown)
    pairs: Any = [(item.image, item.map if maps else item.reconstruction) for item in shown]
    scales: Any = [item.scale for item in shown] if maps else []
    if any(other is None for _, other in pairs) or None in scales:
        raise DataError("report: every card of a gallery needs a reconstruction, or every one a map with its scale")
    drawn = strips(pairs, scales)
    cards = []
    for item, panels in zip(shown, drawn.panels, strict=True):
        picture = side_by_side(panels)
        facts, names = row_facts(inputs, rows[item.id]), drawn.names
        spoken = [item.id, f"score {facts['score']}", f"p-value {facts['p']}", *(text for _, text in facts["badges"])]
        facts |= {
            "id": item.id,
            "src": data_uri(picture),
            "alt": f"{names[0].capitalize()}, {names[1]} and {names[2]}: " + ", ".join(spoken),
            "width": picture.width,
            "height": picture.height,
            "pixelated": max(np.shape(item.image)[:2]) <= 96,
        }
        cards.append(facts)
    shared = "" if len({(one.begins, one.full) for one in scales}) > 1 else " One scale for all strips."
    mapped, first = drawn.names == MAP_PANELS, shown[0].image
    return {
        "most": cards[: len(inputs.most)],
        "least": cards[len(inputs.most) :],
        "large": max(max(np.shape(item.image)[:2]) for item in shown) > 96,
        "panels": drawn.names,
        "mapped": mapped,
        "signed": not mapped and (np.ndim(first) == 2 or np.shape(first)[-1] == 1),
        "scale": f"{drawn.scale[0].upper()}{drawn.scale[1:].rstrip('.')}.{shared}",
    }


def positions(inputs: ReportInputs, ids: Sequence[str]) -> dict[str, int]:
    """Row of the table by id. Raises DataError for an id that it does not have."""
    rows = {name: row for row, name in enumerate(inputs.texts("id"))}
    for name in ids:
        if name not in rows:
            raise DataError(f"report: the image '{name}' is not in the table's column 'id'")
    return rows


def row_facts(inputs: ReportInputs, row: int) -> dict[str, Any]:
    """What a card says of a row of the table. `kind`: right, alarm or missed; empty without a label."""
    flagged, label, condition = bool(inputs.flagged[row]), inputs.labels[row], inputs.texts("condition")[row]
    name = "" if np.isnan(label) else (inputs.anomalous_name if label else inputs.normal_name)
    kind = "" if np.isnan(label) else "right" if flagged == (label == 1) else "alarm" if flagged else "missed"
    verdict = inputs.texts("verdict")[row]
    wrong = verdict if verdict.startswith(WRONG) else ""
    badges = [("flag", wrong or "flagged") if flagged else ("", "not flagged")]
    badges += [("", f"label: {name}")] if name else []
    badges += [("bad", "false alarm" if flagged else "missed")] if kind in ("alarm", "missed") else []
    return {
        "score": number(inputs.scores[row]),
        "p": number(inputs.p_values[row], 2),
        "condition": "" if condition == "all" else condition,
        "flagged": flagged,
        "label": name,
        "kind": kind,
        "badges": badges,
    }


def data_uri(picture: Image.Image) -> str:
    """A picture as a PNG, or as a JPEG where a photograph would make the PNG large."""
    picture, buffer, kind = picture.convert("RGBA"), io.BytesIO(), "png"
    picture.save(buffer, "PNG", optimize=True)
    if buffer.tell() > _PNG_BYTES:
        opaque = Image.new("RGB", picture.size, FRAME)
        opaque.paste(picture, mask=picture.getchannel("A"))
        buffer, kind = io.BytesIO(), "jpeg"
        opaque.save(buffer, "JPEG", quality=82, subsampling=0, optimize=True)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
