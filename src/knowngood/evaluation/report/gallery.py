"""The most and least anomalous images as cards: one picture each, with what was found."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
from PIL import Image

from knowngood.errors import DataError
from knowngood.evaluation.figures.triptychs import (
    MAP_PANELS,
    PANELS,
    describe_difference,
    difference_limit,
    map_panels,
    side_by_side,
    strip,
    value_range,
)
from knowngood.evaluation.report.heat import map_limits
from knowngood.evaluation.report.inputs import Mapped, ReportInputs, Triptych
from knowngood.evaluation.report.words import number

FRAME = "#8b929c"
_PNG_BYTES = 25_000


def gallery(inputs: ReportInputs) -> dict[str, Any]:
    """`most` and `least` as cards, and the scale they share: `signed`, `scale`, `black`, `white`.

    Raises:
        DataError: an id is not in the table, or an image and its reconstruction differ in shape.
    """
    shown = [*inputs.most, *inputs.least]
    if not shown:
        return {"most": [], "least": []}
    pairs = [item for item in shown if isinstance(item, Triptych)]
    mapped = [item for item in shown if isinstance(item, Mapped)]
    limits = value_range(item.image for item in pairs)
    full = difference_limit((item.image, item.reconstruction) for item in pairs)
    heat = gallery_heat(inputs)
    names = MAP_PANELS if mapped else PANELS
    rows = {name: row for row, name in enumerate(inputs.texts("id"))}

    def card(item: Triptych | Mapped) -> dict[str, Any]:
        if isinstance(item, Mapped):
            picture = side_by_side(map_panels(item.image, item.map, limits=heat))
        else:
            picture = strip(item.image, item.reconstruction, limits=limits, full=full)
        facts = _facts(inputs, item, rows)
        spoken = [item.caption] if item.id is None else [item.id, f"score {facts['score']}", f"p-value {facts['p']}"]
        spoken += [text for _, text in facts["badges"]]
        return {
            "src": data_uri(picture),
            "alt": f"{names[0].capitalize()}, {names[1]} and {names[2]}: " + ", ".join(filter(None, spoken)),
            "width": picture.width,
            "height": picture.height,
            "pixelated": max(np.shape(item.image)[:2]) <= 96,
            **facts,
        }

    scale = f"{describe_difference(shown[0].image, full).capitalize()}, where black is {number(limits[0], 3)} "
    scale += f"and white {number(limits[1], 3)}"
    if mapped:
        scale = f"Anomaly map: clear up to {number(heat[0], 3)}, full colour from {number(heat[1], 3)}"
    return {
        "most": [card(item) for item in inputs.most],
        "least": [card(item) for item in inputs.least],
        "large": max(max(np.shape(item.image)[:2]) for item in shown) > 96,
        "panels": names,
        "mapped": bool(mapped),
        "signed": not mapped and (np.ndim(shown[0].image) == 2 or np.shape(shown[0].image)[-1] == 1),
        "scale": scale,
    }


def gallery_heat(inputs: ReportInputs) -> tuple[float, float]:
    """Values of the gallery's maps where colour begins and where it is full."""
    flagged = dict(zip(inputs.texts("id"), inputs.flagged, strict=True))
    shown = [item for item in (*inputs.most, *inputs.least) if isinstance(item, Mapped)]
    return map_limits([(item.map, bool(flagged.get(item.id or "", False))) for item in shown])


def data_uri(picture: Image.Image) -> str:
    """An RGBA picture as a PNG, or as a JPEG where a photograph would make the PNG large."""
    buffer, kind = io.BytesIO(), "png"
    picture.save(buffer, "PNG", optimize=True)
    if buffer.tell() > _PNG_BYTES:
        opaque = Image.new("RGB", picture.size, FRAME)
        opaque.paste(picture, mask=picture.getchannel("A"))
        buffer, kind = io.BytesIO(), "jpeg"
        opaque.save(buffer, "JPEG", quality=82, subsampling=0, optimize=True)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _facts(inputs: ReportInputs, item: Triptych | Mapped, rows: dict[str, int]) -> dict[str, Any]:
    facts: dict[str, Any] = {"id": item.id, "caption": item.caption, "score": None, "flagged": False, "badges": []}
    if item.id is None:
        return facts
    if item.id not in rows:
        raise DataError(f"report: gallery id '{item.id}' is not in the table's column 'id'")
    row = rows[item.id]
    flagged, label = bool(inputs.flagged[row]), inputs.labels[row]
    condition = inputs.texts("condition")[row]
    badges = [("flag", "flagged") if flagged else ("", "not flagged")]
    if np.isfinite(label):
        badges.append(("", f"label: {inputs.anomalous_name if label == 1 else inputs.normal_name}"))
        if flagged != (label == 1):
            badges.append(("bad", "false alarm" if flagged else "missed"))
    return facts | {
        "score": number(inputs.scores[row]),
        "p": number(inputs.p_values[row], 2),
        "condition": "" if condition == "all" else condition,
        "flagged": flagged,
        "badges": badges,
    }
