"""Exported graphs in half precision, and what normal images score by them.

The scores of a graph that computes with other weights are not those by which the model was calibrated. So its p-values
come from normal images that the graph itself has scored.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from knowngood.calibration import largest_value
from knowngood.data import ImageSet
from knowngood.data.progress import track
from knowngood.detector.calibrate import NormalScores
from knowngood.detector.guarantee import check_enough, check_unfitted
from knowngood.detector.pipeline import Pipeline
from knowngood.errors import SettingsError
from knowngood.runtime import ExportedDetector
from knowngood.runtime.marginal import RAW

PRECISIONS = ("fp32", "fp16")
LARGE = 1024  # elements of a tensor that is stored in half precision
HALF = float(np.finfo(np.float16).max)


def check_precision(pipeline: Pipeline, precision: str, normals: ImageSet | None) -> None:
    """Raise if the model cannot be exported so, or these images cannot calibrate it.

    Raises:
        SettingsError: no such precision; none for this model; no images. DataError, NotEnoughNormals: as `calibrate`.
    """
    if precision == "int8":
        raise SettingsError(
            "precision int8: features in 8 bits are not those that the model was fitted to, and most defects are "
            "missed (docs/guide/export.md has the numbers); take fp16"
        )
    if precision not in PRECISIONS:
        raise SettingsError(f"precision '{precision}'; expected {' or '.join(PRECISIONS)}")
    if precision == "fp32":
        if normals is not None:
            raise SettingsError("--data: a graph in fp32 keeps the calibration of the model; to change that: calibrate")
        return
    if normals is None:
        raise SettingsError(
            f"precision {precision} needs --data NORMAL: the scores of this graph are not those by which the model was "
            "calibrated, so it is calibrated on normal images that the model was not fitted to"
        )
    if pipeline.marginal_calibration is not None:
        raise SettingsError(
            f"precision {precision}: this model averages over unknown conditions, and that calibration is of fp32; "
            "export it in fp32, or fit it with --unknown error"
        )
    check_enough(pipeline, normals)
    check_unfitted(pipeline, normals)


def halved(model: Any) -> Any:
    """An ONNX model whose large tensors of float32 are stored as float16 and computed with as float32."""
    from onnx import TensorProto, helper, numpy_helper

    casts = []
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor) if tensor.data_type == TensorProto.FLOAT else np.zeros(0)
        if values.size < LARGE or np.abs(values).max() > HALF:
            continue
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float16), f"{name}_half"))
        casts.append(helper.make_node("Cast", [f"{name}_half"], [name], f"{name}_cast", to=TensorProto.FLOAT))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    known = [one for one in model.graph.value_info if one.name not in {cast.output[0] for cast in casts}]
    del model.graph.value_info[:]
    model.graph.value_info.extend(known)
    return model


def graph_scores(runtime: ExportedDetector, images: ImageSet) -> NormalScores:
    """What normal images score by the graph, which has the output `raw_score`.

    Raises:
        DataError: an image does not fit the model, or lacks a condition.
    """
    names = [RAW, "map"] if runtime.has_map else [RAW]
    used = {column.name for column in runtime.schema.columns if column.roles}
    given = {name: values for name, values in images.conditions.items() if name in used}
    encoded = runtime.schema.expand(given, len(images))
    inputs = {one.name for one in runtime.session.get_inputs()}
    values, maps = [], []
    for i in track(range(len(images)), "calibration", len(images)):
        seen = runtime.seen(images.read(i), encoded.c[i : i + 1])
        every = {
            **seen.inputs(),
            "alpha": np.array(runtime.alpha),
            "condition": encoded.c[i : i + 1],
            "stratum": encoded.stratum[i : i + 1],
        }
        found = runtime.session.run(names, {name: every[name] for name in inputs})
        values.append(np.asarray(found[0])[0])
        maps += [largest_value(seen.whole(np.asarray(one)[0])) for one in found[1:]]
    largest = np.array(maps) if maps else None
    return NormalScores(images.ids, np.array(values), encoded.stratum, None, largest, images.groups, None)
