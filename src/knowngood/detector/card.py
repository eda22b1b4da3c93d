"""The model card: what a saved model was fitted to, how, what it guarantees, and what it does not."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from knowngood.calibration import false_alarm_interval, minimum_normals
from knowngood.config import Fusion, Group, Options, PatchGaussianOptions, counted
from knowngood.detector.guarantee import but_of
from knowngood.detector.pipeline import Pipeline
from knowngood.models.vae import ConditionalVAE
from knowngood.scores.patch_distance import EXCESS

LONGEST = 200  # characters of a setting
MEANING = {
    "pixels": "pixels",
    "hog": "HOG features in 8 orientations and 7 × 7 cells: invariant to brightness and contrast, blind to both",
    "features": "features of a frozen backbone on a grid of locations",
    "table": "standardised columns",
}


def model_card(pipeline: Pipeline, about: Mapping[str, Any]) -> str:
    """Markdown, from the facts that are saved with the model."""
    data, training, versions = about["data"], about["training"], about["versions"]
    settings, representation = pipeline.settings, pipeline.settings.representation
    variant = f" ({data['variant']})" if data.get("variant") else ""
    kind = representation.name  # type: ignore[union-attr]
    batch, trained = settings.training.batch_size, []
    if training and isinstance(pipeline.model, ConditionalVAE):
        trained = [f"- {counted(training['steps'], 'step')} over {counted(training['epochs'], 'epoch')}, batch {batch}"]
    rule = getattr(getattr(pipeline.representation, "pixels", pipeline.representation), "rule", None)
    shape = " × ".join(map(str, pipeline.representation.shape))
    lines = [
        f"# Anomaly detector for {data['name']}",
        "",
        f"Fitted to {data['normals']} normal items of {data['name']}{variant}. It scores how far a new item lies from "
        "them and turns the score into a p-value.",
        "",
        f"Recipe: {about['recipe']}.",
        "",
        "## Data",
        f"- {_parts(pipeline, data)}; known anomalies: {data['known_anomalies']}",
        *([f"- {about['fit_only']} of these, chosen by their score, never calibrate"] if "fit_only" in about else []),
        f"- input: {MEANING.get(kind, kind)}, {shape}{f'; {rule}' if rule else ''}",
        f"- fingerprint: `{data['fingerprint']}`",
        f"- conditions: {_conditions(pipeline)}",
        "",
        "## Method",
        f"- representation `{kind}` {_options(representation)}",
        f"- model `{settings.model.name}` {_options(settings.model)}",  # type: ignore[union-attr]
        f"- score {_score(pipeline)}",
        *_further(pipeline),
        *([f"- {about['labels']['sentence']}"] if "labels" in about else []),
        *_of_gaussians(settings.model),
        *trained,
        f"- seed {about['seed']}, {about['seconds']:.1f} s in all",
        "",
        "## Guarantee",
        *_guarantee(pipeline),
        "",
        "## Limits",
        "- The false-alarm rate holds for items drawn like the calibration items. A new camera, illumination or "
        "product is not: calibrate again on normal items of the new kind.",
        "- What the training set holds counts as normal: defects in it will be missed later.",
        "- A p-value says how rare a score is among normal items. It is not the probability of a defect.",
        "",
        *(
            f"Updated {one['at']} with {counted(one['items'], 'new normal item')}."
            for one in about["history"]
            if one["what"] == "update"
        ),
        *(
            f"Learned {one['at']} from {counted(one['items'], 'reviewed image')}."
            for one in about["history"]
            if one["what"] == "reviews"
        ),
        f"Made {about['history'][0]['at']} with knowngood {versions['knowngood']}, torch {versions['torch']}, "
        f"Python {versions['python']}.",
        "",
    ]
    return "\n".join(lines)


def false_alarms(pipeline: Pipeline) -> str:
    """How many normal items will be flagged, in one line; of the group with the fewest calibration items.

    Where all groups are too small for a rate of their own, of all together. Empty where nothing can be flagged.
    """
    rows = [row for row in _groups(pipeline) if row["false_alarm_low"] is not None]
    if not rows:
        return _together(pipeline)
    row, alpha = min(rows, key=lambda row: row["normals"]), pipeline.level()
    asked = f"{100 * alpha:g}%" + ", half of alpha, by p_value alone" * bool(pipeline.checked)
    of = f", the smallest of {len(rows)} Mondrian groups" if len(rows) > 1 else ""
    return f"{_range(pipeline, row)} of normal items, asked for {asked} (95 % interval{_with(row)}{of})"


def _together(pipeline: Pipeline) -> str:
    """The same of the calibration items of all groups together; empty where these are too few too."""
    n, alpha = len(pipeline.calibration or ()), pipeline.level()
    if n < minimum_normals(alpha):
        return ""
    low, high = false_alarm_interval(n, alpha)
    row = {"false_alarm_low": low, "false_alarm_high": high, "normals": n}
    why = f", all {len(_groups(pipeline))} Mondrian groups together: each is too small for a rate of its own"
    return f"{_range(pipeline, row)} of normal items, asked for {100 * alpha:g}% (95 % interval{_with(row)}{why})"


def _groups(pipeline: Pipeline) -> list[dict[str, Any]]:
    assert pipeline.calibration is not None
    alpha = pipeline.level()
    return [*pipeline.calibration.summary(alpha), *(group.summary(alpha) for group in pipeline.added)]


def _range(pipeline: Pipeline, row: Mapping[str, Any]) -> str:
    about = "about " if pipeline.calibrated_by == "cross" else ""
    return f"{about}{row['false_alarm_low']:.1%} to {row['false_alarm_high']:.1%}"


def _with(row: Mapping[str, Any]) -> str:
    return f", {counted(row['normals'], 'calibration item')}"


def _parts(pipeline: Pipeline, data: Mapping[str, Any]) -> str:
    if pipeline.calibrated_by == "cross":
        folds = _folds(pipeline)
        return f"{data['fit']} items fitted to; each calibrates in the one of {folds} folds that leaves it out"
    held_out = f", {data['select']} held out for early stopping" if data["select"] else ""
    return f"{data['fit']} items fitted to{held_out}, {data['calibrate']} for calibration"


def _folds(pipeline: Pipeline) -> int:
    """As many as asked for, or as there are items."""
    return min(pipeline.settings.calibration.folds, len(pipeline.calibration or ()))


def _score(pipeline: Pipeline) -> str:
    options = pipeline.score.options
    if not isinstance(options, Fusion):
        return f"`{options.name}` {_options(options)}"
    weights = options.weights or [1.0] * len(options.scores)
    shares = [weight / sum(weights) for weight in weights]
    parts = (f"{w:.2f} · `{one.name}` {_options(one)}" for one, w in zip(options.scores, shares, strict=True))
    return "`fusion`, the weighted sum of surprises: " + " + ".join(parts)


def _of_gaussians(options: Any) -> list[str]:
    """What the words of a Gaussian at every location mean."""
    if not isinstance(options, PatchGaussianOptions):
        return []
    lines = [
        f"- context: at most {options.context} numbers on how the image as a whole differs from others; each location "
        "is judged given these",
        "- `global`, a column of results: how far the image as a whole deviates, in standard deviations of normal "
        f"images; from {EXCESS:g} on it adds to the score",
        f"- `counts`, a column of results: how far the shares of {options.words} kinds of patches deviate, likewise: a "
        "part missing, too many or of another kind",
    ]
    there = (options.context, options.global_grid, options.words)
    return [line for line, has in zip(lines, there, strict=True) if has]


def _options(options: Any) -> str:
    return f"({shown})" if (shown := _changed(options)) else "(defaults)"


def _changed(options: BaseModel) -> str:
    """'beta = 4, net = mlp (hidden = [64])': what is not as by default, of the choices within too."""
    shown = []
    for name, info in type(options).model_fields.items():
        value = getattr(options, name)
        if name != "name" and value != info.get_default(call_default_factory=True):
            shown.append(f"{name} = {_value(value)}")
    return ", ".join(shown)


def _value(value: Any) -> str:
    """A setting in words; of a file its name, of what is long the start."""
    if isinstance(value, Options):
        changed = _changed(value)
        return value.name + (f" ({changed})" if changed else "")
    if isinstance(value, Path):
        return value.name
    if isinstance(value, Mapping):
        text = "{" + ", ".join(f"{key}: {_value(one)}" for key, one in value.items()) + "}"
    elif isinstance(value, list | tuple):
        text = "[" + ", ".join(map(_value, value)) + "]"
    else:
        text = "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} …"


def _further(pipeline: Pipeline) -> list[str]:
    """The groups of settings, and the use of labels, where they are not as by default."""
    settings, lines = pipeline.settings, []
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        used = isinstance(pipeline.model, ConditionalVAE) or name != "training"
        if isinstance(value, Group) and used and (changed := _changed(value)):
            lines.append(f"- {name}: {changed}")
        elif name == "labels" and value != "auto":
            lines.append(f"- {name}: {_value(value)}")
    return lines


def _conditions(pipeline: Pipeline) -> str:
    units = {"categorical": "values", "continuous": "bins"}
    return "; ".join(f"{c.name} ({c.kind}, {c.n_codes} {units[c.kind]})" for c in pipeline.schema.columns) or "none"


def _guarantee(pipeline: Pipeline) -> list[str]:
    calibration = pipeline.calibration
    if calibration is None:
        return ["- Not calibrated."]
    alpha = pipeline.level()
    needed = minimum_normals(alpha)
    rows = _groups(pipeline)
    lines = []
    if len(calibration) < needed:
        missing = needed - len(calibration)
        lines = [
            f"- None at α = {pipeline.settings.alpha:g}: it needs {needed} calibration items, there are "
            f"{len(calibration)} ({missing} missing). Nothing is flagged{but_of(pipeline)}; items can still be ranked "
            "by their anomaly score."
        ]
        rows = [row for row in rows if row["false_alarm_low"] is not None]  # of added groups
        if not rows:
            return lines
    pooled = [row["condition"] for row in rows if row["false_alarm_low"] is None]
    looks = "looks like " * bool(pipeline.checked)
    lines += [
        f"- {looks}{row['condition']}: {_range(pipeline, row)} of normal items are flagged at α = {alpha:g} (95 % "
        f"interval{_with(row)})"
        for row in rows
        if row["false_alarm_low"] is not None
    ]
    if pipeline.calibrated_by == "cross":
        folds, n = _folds(pipeline), len(calibration)
        bound = 2 * alpha + 2 * (1 - alpha) * (folds - 1) / (n + folds)
        lines.append(
            f"- cross-conformal, {folds} folds: each calibration score comes from a model refitted without its fold, "
            "with everything that learns from images. The model that scores new items is fitted to all, so its scores "
            "of normal items tend to be lower and the false-alarm rate to be at most α. This is measured, not proven: "
            f"the proven bound P(p ≤ α) ≤ 2α + 2(1 − α)(K − 1)/(n + K), here {bound:.2g}, holds for scoring with all K "
            'models (Barber et al., arXiv:1905.02928; Vovk 2015). calibration={"method": "split"} gives the exact '
            "guarantee."
        )
    lines += [
        f"- {group.name}: compared with {counted(len(group.calibration), 'item')} of {group.source}, added to the "
        "calibration; the model does not use it. An item whose value is missing gets the largest p-value of all groups."
        for group in pipeline.added
    ]
    if pipeline.checked:
        lines.append(
            f"- stated conditions are checked: {', '.join(pipeline.checked)}. p_value says whether an item is a normal "
            "one of any of their values, p_condition whether it fits the stated ones. p_value flags at most "
            f"{alpha:g} of the normal items that look like a condition, p_condition of those that are stated to have "
            f"it, both together at most {2 * alpha:g} of all (Bonferroni: a verdict needs 2 · min(p_value, "
            "p_condition) ≤ α). An item whose value is missing is judged by p_value alone, at the same level. An item "
            "is scored under up to "
            f"{counted(max(1, len(pipeline.schema.cells)), 'condition')}."
        )
    if pipeline.marginal_calibration is not None:
        n = len(pipeline.marginal_calibration)
        low, high = false_alarm_interval(n, alpha)
        lines.append(f"- where no condition is known: {low:.1%} to {high:.1%} ({n} items, conditions hidden)")
    if pooled:
        lines.append(f"- calibrated together, without a guarantee for each: {', '.join(pooled)}")
    return lines
