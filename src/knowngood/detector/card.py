"""The model card: what a saved model was trained on, how, what it promises, and what it does not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from knowngood.calibration import false_alarm_interval, minimum_normals
from knowngood.config import Fusion
from knowngood.representations import Edges

if TYPE_CHECKING:
    from knowngood.detector.pipeline import Pipeline


def model_card(pipeline: Pipeline, about: Mapping[str, Any]) -> str:
    """Markdown, from the facts that are saved with the model."""
    data, training, versions = about["data"], about["training"], about["versions"]
    settings, model = pipeline.settings, pipeline.model
    variant = f" ({data['variant']})" if data.get("variant") else ""
    shape = " × ".join(map(str, model.shape))
    lines = [
        f"# Anomaly detector for {data['name']}",
        "",
        f"A conditional variational autoencoder trained on {data['normals']} good items of {data['name']}{variant}. "
        "It scores how unlike them a new item is and turns the score into a p-value.",
        "",
        "## Data",
        f"- {_shares(pipeline, data)}; "
        f"{data['known_anomalies']} known anomalies, {data['taught_anomalies']} of them trained on",
        *([f"- features of every place: {pipeline.settings.features.name}"] if model.patches is not None else []),  # type: ignore[union-attr]
        f"- input: {shape}; {getattr(pipeline.representation, 'rule', 'standardised columns')}",
        *_edges(pipeline),
        f"- fingerprint: `{data['fingerprint']}`",
        f"- conditions: {_conditions(pipeline)}",
        *([f"- seen in {len(model.views)} views: {'; '.join(model.views.labels)}"] if model.views is not None else []),
        "",
        "## Method",
        f"- objective `{settings.objective.name}` {_options(settings.objective)}, net `{model.net.options.name}` "
        f"{_options(model.net.options)}, likelihood `{model.likelihood.options.name}` "
        f"{_options(model.likelihood.options)}",
        *([f"- an ensemble of {len(model.members)} such models"] if len(model.members) > 1 else []),
        f"- latent dimensions: {model.latent_dim}; score: {_score(pipeline)}"
        + (", added up over the views" if model.views is not None else ""),
        *[f"- {about[choice]['sentence']}" for choice in ("scoring", "labelled") if choice in about],
        f"- {training['steps']} steps over {training['epochs']} epochs, batch {settings.batch_size}, "
        f"seed {about['seed']}, {about['seconds']:.1f} s in all",
        "",
        "## Promise",
        *_promise(pipeline),
        "",
        "## Limits",
        "- The false-alarm rate holds for items drawn like the calibration normals. A new camera, light or product is "
        "not: calibrate again on good items of the new kind.",
        "- What the training set holds is what counts as good: defects in it will be missed later.",
        "- A p-value says how rare a score is among good items. It is not the probability of a defect.",
        "",
        f"Made {about['created']} with knowngood {versions['knowngood']}, torch {versions['torch']}, "
        f"Python {versions['python']}.",
        "",
    ]
    return "\n".join(lines)


def _shares(pipeline: Pipeline, data: Mapping[str, Any]) -> str:
    if pipeline.left_out:
        return f"{data['fit'] + data['select']} items learned from, all of which calibrate, each left out in turn"
    return f"{data['fit']} items fitted, {data['select']} for selection, {data['calibrate']} for calibration"


def _edges(pipeline: Pipeline) -> list[str]:
    if not isinstance(pipeline.representation, Edges):
        return []
    size = " × ".join(map(str, pipeline.representation.pixels.shape))
    return [
        f"- modelled of images of {size}: their edges, by 8 directions and 7 × 7 cells; tone, brightness and contrast "
        "are not seen"
    ]


def _score(pipeline: Pipeline) -> str:
    options = pipeline.score.options
    if not isinstance(options, Fusion):
        return f"`{options.name}` {_options(options)}"
    weights = pipeline.state["weights"].tolist()
    parts = (f"{w:.2f} · `{one.name}` {_options(one)}" for one, w in zip(options.scores, weights, strict=True))
    return "`fusion`, surprises added up: " + " + ".join(parts)


def _options(options: Any) -> str:
    values = options.model_dump(exclude={"name"}, exclude_none=True)
    return "(" + ", ".join(f"{k} = {v}" for k, v in values.items()) + ")" if values else "(no options)"


def _conditions(pipeline: Pipeline) -> str:
    columns = pipeline.schema.columns
    if not columns:
        return "none"
    kinds = (f"{c.name} ({c.kind}, {c.n_codes} {'values' if c.kind == 'categorical' else 'bins'})" for c in columns)
    return "; ".join(kinds)


def _promise(pipeline: Pipeline) -> list[str]:
    calibration = pipeline.calibration
    if calibration is None:
        return ["- Not calibrated."]
    alpha = pipeline.settings.alpha
    needed = minimum_normals(alpha)
    if len(calibration) < needed:
        missing = needed - len(calibration)
        return [
            f"- None at α = {alpha:g}: it needs {needed} calibration normals, there are {len(calibration)} ({missing} "
            "missing). Nothing is flagged; items can still be ranked by their anomaly score."
        ]
    about, how = "", ""
    if pipeline.left_out:
        about, how = "about ", ", each learned from and left out in turn: no exact promise"
    rows = calibration.summary(alpha)
    pooled = [row["condition"] for row in rows if row["false_alarm_low"] is None]
    lines = [
        f"- {row['condition']}: of good items, {about}{row['false_alarm_low']:.1%} to {row['false_alarm_high']:.1%} "
        f"are flagged at α = {alpha:g} (95 % interval, {row['normals']} calibration normals{how})"
        for row in rows
        if row["false_alarm_low"] is not None
    ]
    if pipeline.hidden is not None:
        low, high = false_alarm_interval(len(pipeline.hidden), alpha)
        lines.append(
            f"- where no condition is known: {low:.1%} to {high:.1%} ({len(pipeline.hidden)} calibration normals, "
            "their conditions hidden)"
        )
    if pooled:
        lines.append(f"- calibrated together, with no promise for each: {', '.join(pooled)}")
    return lines
