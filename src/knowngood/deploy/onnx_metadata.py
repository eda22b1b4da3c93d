"""What an exported file says of itself, for `knowngood.runtime`, for programs in other languages and for people."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from knowngood.calibration import Calibration
from knowngood.calibration.map_scale import scale_of
from knowngood.config.version import __version__
from knowngood.data import ImageSet
from knowngood.data.readers.limits import Limits
from knowngood.deploy.onnx_ignored import Areas, pixels_of
from knowngood.detector.decide import calibrated
from knowngood.detector.estimator import Detector
from knowngood.detector.model_folder import CARD, pack
from knowngood.detector.pipeline import Pipeline
from knowngood.detector.remarks import shape_range
from knowngood.detector.versions import CONFIG
from knowngood.representations.alignment.pose import Pose
from knowngood.runtime.calibration import calibration_facts
from knowngood.runtime.model import BEFORE_GRAPH, BY_CONDITION, FORMAT, FORMAT_VERSION, POSED
from knowngood.scores.fusion import FusionScore


def metadata(
    detector: Detector, outputs: list[str], precision: str = "fp32", calibrated_on: ImageSet | None = None
) -> dict[str, Any]:
    """What the file says of itself, for `knowngood.runtime` and for people; see `graph_of`."""
    pipeline = detector.pipeline_
    known, pixels, schema = calibrated(pipeline), pixels_of(pipeline.representation), pipeline.schema
    files = pack(pipeline, detector.about_, detector.training_, detector.card_)
    settings, maps, pose = pipeline.settings, pipeline.map_calibration, pose_of(pipeline.representation)
    areas = Areas.of(pipeline)
    card, own = files[CARD].decode(), hashlib.sha256(files[CONFIG])  # as `versions.fingerprint`
    if calibrated_on is not None:
        own.update(precision.encode() + known.scores.tobytes())
        card += f"\n## Exported in {precision}\n\nThe graph is calibrated on {len(known)} normal images of "
        card += f"{calibrated_on.name} that it scored itself; the calibration described above does not apply.\n"
    facts: dict[str, Any] = {
        "format": FORMAT,
        "format_version": _format_version(pose, areas),
        "versions": {"knowngood": __version__, "torch": torch.__version__},
        "model_sha256": json.loads(files[CONFIG])["sha256"][CONFIG],
        "fingerprint": own.hexdigest()[:16],
        "precision": precision,
        "recipe": {part: getattr(settings, part).name for part in ("representation", "model", "score")},
        "limits": asdict(Limits.of(settings.data)),
        "alpha": pipeline.settings.alpha,
        "calibration_items": len(known),
        "threshold": known.pooled_threshold if np.isfinite(known.pooled_threshold) else None,
        "calibration": _facts(known),
        "calibrated_by": pipeline.calibrated_by,
        "map_calibration": None if maps is None else _facts(maps),
        "map_scale": None if maps is None else scale_of(maps)._asdict(),
        "outputs": outputs,
        "columns": [{**asdict(column), "code_names": list(column.code_names)} for column in schema.columns],
        "unknown": pipeline.settings.conditioning.unknown,
        "cells": schema.cells,
        "cell_counts": schema.counts,
        "marginal": _marginal(pipeline),
        "strata": schema.strata.tolist(),
        "stratum_items": known.counts.tolist(),
        "stratum_names": schema.stratum_names,
        "resize": "in the graph: antialiased bilinear" if pose is None else "before the graph: the pose",
        "pose": None if pose is None else pose.part.facts(),
        "card": card,
    }
    if pixels is not None:
        names = ("size", "channels", "grey", "colour", "resize", "dtype", "by_type", "low", "high", "rule", "about")
        facts["image"] = {name: getattr(pixels, name) for name in names}
        facts["shapes"] = shape_range(pipeline)._asdict()
        nothing = {"ignored": None, "polygons": None, "regions": None}
        facts["image"] |= nothing if areas is None else areas.facts(pipeline.model)  # type: ignore[arg-type]
    else:
        facts["names"], facts["features"] = list(pipeline.representation.names), pipeline.representation.shape[0]  # type: ignore[union-attr]
    return facts


def _format_version(pose: Pose | None, areas: Areas | None) -> int:
    """The oldest that says all of it: runtimes refuse what is newer than they are."""
    if pose is not None:
        return POSED
    if areas is None:
        return FORMAT_VERSION
    return BY_CONDITION if areas.column is not None else BEFORE_GRAPH if areas.outlines else FORMAT_VERSION


def _facts(known: Calibration) -> dict[str, Any]:
    return calibration_facts(known.scores, known.strata, known.stratum_names, known.alpha)


def _marginal(pipeline: Pipeline) -> dict[str, Any] | None:
    """How scores are averaged where no condition of an item is known; None where the most normal condition decides."""
    known, score = pipeline.marginal_calibration, pipeline.score
    if known is None:
        return None
    members = []
    if isinstance(score, FusionScore):
        tails = pipeline.state["marginal_tails"].tolist()
        for name, inner, weight, normals in zip(score.names, score.inners, score.weights, tails, strict=True):
            if weight:
                facts = {"name": name, "likelihood": inner.is_likelihood, "weight": float(weight), "normals": normals}
                members.append(facts)
    limit = known.pooled_threshold if np.isfinite(known.pooled_threshold) else None
    added = [adjustment.name for adjustment in pipeline.adjustments]
    return {"normals": known.scores.tolist(), "threshold": limit, "members": members, "added": added}


def pose_of(representation: Any) -> Pose | None:
    return getattr(representation, "pose", None)
