"""Write the report: results in, one HTML file out that asks for nothing from outside."""

from __future__ import annotations

import base64
import io
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from knowngood import figures
from knowngood.errors import DataError
from knowngood.figures import style
from knowngood.figures.triptychs import describe_difference, difference_limit, strip, value_range
from knowngood.report.inputs import ReportInputs, Triptych
from knowngood.report.verdict import Verdict, count, judge, percent

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_ROWS = 5000
MOST_FINDINGS = 500
_FIRST_ROWS = 50
_PNG_BYTES = 30_000


def write_report(path: str | Path, inputs: ReportInputs) -> Path:
    """Write one self-contained HTML file (no script, font, image or style from elsewhere); the same inputs, same bytes.

    Tables are capped at `MOST_ROWS` images and `MOST_FINDINGS` findings, with a note, so the file stays small.

    Raises:
        DataError: an image of the gallery and its reconstruction differ in shape.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(render(inputs), encoding="utf-8")
    return path


def render(inputs: ReportInputs) -> str:
    """The report as HTML text."""
    environment = Environment(
        loader=PackageLoader("knowngood.report", "templates"), autoescape=True, undefined=StrictUndefined
    )
    environment.filters.update(thousands=lambda n: f"{n:,}", number=number)
    verdict = judge(inputs)
    labelled = bool(np.isfinite(inputs.labels).any())
    conditions = inputs.texts("condition")
    context: dict[str, Any] = {
        "title": inputs.title,
        "verdict": verdict,
        "labelled": labelled,
        "conditioned": len(set(conditions)) > 1,
        "separation": _separation(inputs, verdict),
        "promise": _promise(inputs, verdict),
        "training": _training(inputs),
        "metrics": [(_words(k), _value(v)) for k, v in inputs.metrics.items() if v is not None],
        "findings": list(inputs.audit)[:MOST_FINDINGS],
        "audit_summary": _audit_summary(inputs.audit),
        "command": inputs.command,
        "settings": _flatten(inputs.settings),
        "environment": _flatten(inputs.environment),
        **_gallery(inputs),
        **_results(inputs, conditions),
    }
    sections = [("gallery", "Gallery")] if context["most"] or context["least"] else []
    sections += [("separation", "Separation"), ("promise", "False alarms"), ("results", "All results")]
    sections += [("training", "Training")] if context["training"] else []
    context["sections"] = [*sections, ("audit", "Data audit"), ("reproduce", "Reproduce")]
    return environment.get_template("report.html.j2").render(context)


def number(value: float | None, digits: int = 4) -> str:
    """A number with `digits` significant digits, or a dash where there is none."""
    if value is None or not math.isfinite(value):
        return "–"
    if value and (abs(value) >= 1e6 or abs(value) < 1e-4):
        return f"{value:.{digits - 1}e}"
    text = f"{value:,.{max(0, digits - 1 - math.floor(math.log10(abs(value))))}f}" if value else "0"
    return text


# Gallery ------------------------------------------------------------------------------------------------------------


def _gallery(inputs: ReportInputs) -> dict[str, Any]:
    shown = [*inputs.most, *inputs.least]
    if not shown:
        return {"most": [], "least": []}
    limits = value_range(item.image for item in shown)
    full = difference_limit((item.image, item.reconstruction) for item in shown)
    rows = {name: row for row, name in enumerate(inputs.texts("id"))}
    return {
        "most": [_card(inputs, item, rows, limits, full) for item in inputs.most],
        "least": [_card(inputs, item, rows, limits, full) for item in inputs.least],
        "signed": np.ndim(shown[0].image) == 2 or np.shape(shown[0].image)[-1] == 1,
        "scale": describe_difference(shown[0].image, full).capitalize(),
        "black": number(limits[0], 3),
        "white": number(limits[1], 3),
    }


def _card(
    inputs: ReportInputs, item: Triptych, rows: Mapping[str, int], limits: tuple[float, float], full: float
) -> dict[str, Any]:
    picture = strip(item.image, item.reconstruction, limits=limits, full=full)
    card: dict[str, Any] = {
        "src": _data_uri(picture),
        "width": picture.width,
        "height": picture.height,
        "pixelated": max(np.shape(item.image)[:2]) <= 96,
        "id": item.id,
        "caption": item.caption,
        "score": None,
        "p": None,
        "condition": "",
        "flagged": False,
        "badges": [],
    }
    told = item.caption
    if item.id is not None:
        if item.id not in rows:
            raise DataError(f"report: gallery id '{item.id}' is not in the table's column 'id'")
        row = rows[item.id]
        flagged, label = bool(inputs.flagged[row]), inputs.labels[row]
        condition = inputs.texts("condition")[row]
        card |= {
            "score": number(inputs.scores[row]),
            "p": number(inputs.p_values[row], 2),
            "condition": "" if condition == "all" else condition,
            "flagged": flagged,
            "badges": _badges(inputs, flagged, label),
        }
        told = f"{item.id}, score {card['score']}, p-value {card['p']}, {', '.join(text for _, text in card['badges'])}"
    card["alt"] = (
        f"Input, reconstruction and difference side by side: {told}" if told else "Input, reconstruction, difference"
    )
    return card


def _badges(inputs: ReportInputs, flagged: bool, label: float) -> list[tuple[str, str]]:
    verdict = ("flag", "flagged") if flagged else ("", "not flagged")
    if not np.isfinite(label):
        return [verdict]
    truth = ("", f"truly {inputs.anomalous_name if label == 1 else inputs.normal_name}")
    wrong = [("bad", "false alarm" if flagged else "missed")] if flagged != (label == 1) else []
    return [verdict, truth, *wrong]


def _data_uri(picture: Any) -> str:
    """PNG, or JPEG where a photograph would make the PNG large."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    kind = "png"
    if buffer.tell() > _PNG_BYTES:
        from PIL import Image

        opaque = Image.new("RGB", picture.size, "#8b929c")
        opaque.paste(picture, mask=picture.getchannel("A"))
        buffer, kind = io.BytesIO(), "jpeg"
        opaque.save(buffer, "JPEG", quality=86, subsampling=0, optimize=True)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


# Figures ------------------------------------------------------------------------------------------------------------


def _drawn(figure: Figure, name: str, title: str, alt: str, caption: str) -> dict[str, str]:
    from markupsafe import Markup

    return {"svg": Markup(style.to_svg(figure, name)), "title": title, "alt": alt, "caption": caption}


def thresholds(inputs: ReportInputs) -> list[float]:
    """The thresholds in use, one a stratum."""
    found = [stratum.get("threshold") for stratum in inputs.calibration.get("strata", ())]
    return [float(value) for value in found if value is not None]


def _separation(inputs: ReportInputs, verdict: Verdict) -> list[dict[str, str]]:
    labels, scores = inputs.labels, inputs.scores
    drawn = []
    if (labels == 0).any() and (labels == 1).any():
        auroc, interval = inputs.metrics.get("auroc"), inputs.metrics.get("auroc_interval")
        flagged = inputs.flagged if verdict.attainable else None
        figure = figures.roc(labels, scores, flagged=flagged, interval=interval)
        drawn.append(_drawn(
            figure, "roc", "ROC curve",
            "ROC curve: share of anomalous images flagged against share of normal images flagged"
            + (f"; area {auroc:.3f}" if auroc is not None else ""),
            "Each point is one threshold. The nearer the curve to the upper left corner, the better the score tells the two apart.",
        ))  # fmt: skip
    if np.isfinite(scores).any():
        names = (inputs.normal_name, inputs.anomalous_name)
        figure = figures.score_histogram(
            scores, labels, thresholds=thresholds(inputs), names=names, unit=inputs.score_unit
        )
        drawn.append(_drawn(
            figure, "histogram", "Scores",
            f"Histogram of {len(scores):,} anomaly scores by label, with the threshold",
            "Every label uses the same bins and is shown as a share of its own images. To the right of the threshold an image is flagged.",
        ))  # fmt: skip
    return drawn


def _promise(inputs: ReportInputs, verdict: Verdict) -> list[dict[str, str]]:
    normals = inputs.p_values[inputs.labels == 0]
    calibrated, tested = verdict.groups
    source = "labelled normal images of this table"
    if len(normals) == 0:
        normals = np.asarray(inputs.calibration.get("p_values", ()), float)
        source = "held-out normal images that neither trained nor calibrated the model"
        strata = inputs.calibration.get("strata", ())
        calibrated, tested = ([int(strata[0]["n"])], [len(normals)]) if len(strata) == 1 else ([], [])
    if not np.isfinite(normals).any():
        return []
    known = bool(calibrated) and sum(tested) == len(normals)
    figure = figures.calibration(
        normals, calibrated=calibrated if known else None, tested=tested if known else None, alpha=inputs.alpha
    )
    drawn = [_drawn(
        figure, "calibration", "Requested and realised rate",
        f"Share of {len(normals):,} normal images flagged against the requested false-alarm rate; the diagonal is a kept promise",
        f"For every false-alarm rate one could request: the share of {source} that would be flagged."
        + (" Inside the grey band, the difference to the diagonal is what chance explains." if known else ""),
    )]  # fmt: skip
    rows = [row for row in verdict.conditions if row.normals]
    if len(rows) > 1 and verdict.attainable:
        figure = figures.false_alarm_rates(
            [row.name for row in rows], [row.false_alarms or 0 for row in rows], [row.normals or 0 for row in rows],
            [row.expected for row in rows], alpha=inputs.alpha,
        )  # fmt: skip
        drawn.append(_drawn(
            figure, "rates", "By condition",
            f"Realised false-alarm rate of {len(rows)} conditions against the requested {percent(inputs.alpha)}",
            "Dots right of their grey bar: more false alarms than chance explains in that condition.",
        ))  # fmt: skip
    return drawn


def _training(inputs: ReportInputs) -> list[dict[str, str]]:
    try:
        figure = figures.loss_curves(inputs.history, best_step=inputs.best_step)
    except DataError:
        return []
    return [_drawn(
        figure, "loss", "Loss and its terms", "Loss and its terms over the training steps",
        "Lower loss is better. A held-out line that turns upwards while the training line falls means overfitting.",
    )]  # fmt: skip


# Tables -------------------------------------------------------------------------------------------------------------


def _results(inputs: ReportInputs, conditions: np.ndarray) -> dict[str, Any]:
    ids, scores, p, flagged, labels = inputs.texts("id"), inputs.scores, inputs.p_values, inputs.flagged, inputs.labels
    order = np.argsort(np.where(np.isnan(scores), np.inf, -scores), kind="stable")[:MOST_ROWS]
    known = sorted(set(conditions[order]))
    place = {name: i for i, name in enumerate(known)}
    names = (inputs.normal_name, inputs.anomalous_name)
    rows = [
        [ids[i], _rounded(scores[i], 5), _rounded(p[i], 3), int(flagged[i]), _label(labels[i]), place[conditions[i]]]
        for i in order
    ]
    first = [
        {
            "id": row[0], "score": number(row[1], 5), "p": number(row[2], 3), "verdict": "flagged" if row[3] else "",
            "label": "" if row[4] is None else names[row[4]], "condition": known[row[5]],
        }
        for row in rows[:_FIRST_ROWS]
    ]  # fmt: skip
    data = {
        "rows": rows,
        "conditions": known,
        "names": names,
        "labelled": bool(np.isfinite(labels).any()),
        "conditioned": len(set(conditions)) > 1,
    }
    return {"data": data, "first_rows": first, "listed": len(rows), "total": len(ids)}


def _rounded(value: float, digits: int) -> float | None:
    return float(f"{value:.{digits}g}") if math.isfinite(value) else None


def _label(value: float) -> int | None:
    return int(value) if math.isfinite(value) else None


def _audit_summary(records: Sequence[Mapping[str, Any]]) -> str:
    kinds = Counter(str(record["kind"]) for record in records)
    text = f"{count(len(records), 'finding')}: " + ", ".join(f"{n:,} × {kind}" for kind, n in kinds.most_common()) + "."
    return text + (f" The first {MOST_FINDINGS:,} are listed." if len(records) > MOST_FINDINGS else "")


def _flatten(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    flat: list[tuple[str, str]] = []
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            flat += _flatten(value, f"{prefix}{name}.")
        else:
            flat.append((f"{prefix}{name}", _value(value)))
    return flat


def _words(name: str) -> str:
    known = {"auroc": "AUROC", "auroc_interval": "AUROC, 95 % interval", "fpr_at_95_tpr": "False alarms at 95 % found"}
    return known.get(name, name.replace("_", " ").capitalize())


def _value(value: Any) -> str:
    if isinstance(value, float):
        return number(value)
    if isinstance(value, (list, tuple)):
        return ", ".join(_value(item) for item in value) or "none"
    if value is None or isinstance(value, Mapping):
        return "none"
    return str(value)
