"""Exported graphs in half precision and in 8-bit integers, and what normal images score by them.

The scores of a graph that computes with other weights are not those by which the model was calibrated. So its p-values
come from normal images that the graph itself has scored.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np

from knowngood.calibration import largest_value, minimum_normals
from knowngood.data import ImageSet
from knowngood.data.progress import track
from knowngood.detector.calibrate import NormalScores, check_enough, check_unfitted
from knowngood.detector.pipeline import Pipeline
from knowngood.errors import NotEnoughNormals, SettingsError
from knowngood.runtime import ExportedDetector
from knowngood.runtime.fitting import fitting
from knowngood.runtime.marginal import RAW

Precision = Literal["fp32", "fp16", "int8"]
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8")
LARGE = 1024  # elements of a tensor that is stored in half precision
HALF = float(np.finfo(np.float16).max)
RANGES = 32  # images at most, of which the ranges of activations are taken
SHARE = 5  # one in so many images


def check_precision(pipeline: Pipeline, precision: str, normals: ImageSet | None) -> None:
    """Raise if the model cannot be exported so, or these images cannot calibrate it.

    Raises:
        SettingsError: no such precision; none for this model; no images. DataError, NotEnoughNormals: as `calibrate`.
    """
    if precision not in PRECISIONS:
        raise SettingsError(f"precision '{precision}'; expected one of {', '.join(PRECISIONS)}")
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


def divided(pipeline: Pipeline, precision: str, normals: ImageSet) -> tuple[ImageSet, ImageSet]:
    """Images for the ranges of activations, and others to calibrate on: the ranges fit those that they are taken of.

    Raises:
        NotEnoughNormals: too few are left to calibrate on.
    """
    if precision != "int8":
        return normals[:0], normals
    order = np.random.default_rng(0).permutation(len(normals))
    n = min(RANGES, -(-len(normals) // SHARE))
    needed = minimum_normals(pipeline.level())
    if len(normals) - n < needed:
        raise NotEnoughNormals(
            f"{len(normals)} normal images: {n} give the ranges of activations, and {needed} others must calibrate; "
            f"give {needed + n - len(normals)} more",
            missing=needed + n - len(normals),
        )
    return normals[np.sort(order[:n])], normals[np.sort(order[n:])]


def reduced(model: Any, precision: str, runtime: ExportedDetector, ranges: ImageSet) -> Any:
    """An ONNX model in this precision; `runtime` reads the images of `ranges` for it."""
    return halved(model) if precision == "fp16" else quantised(model, runtime, ranges)


def halved(model: Any) -> Any:
    """Large tensors of float32 are stored as float16 and computed with as float32."""
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


def quantised(model: Any, runtime: ExportedDetector, ranges: ImageSet) -> Any:
    """Convolutions in 8 bits: weights by channel, activations by the ranges that these images give."""
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.inputs = inputs_of(runtime, ranges)

        def get_next(self) -> Any:
            return next(self.inputs, None)

    if not any(node.op_type == "Conv" for node in model.graph.node):
        raise SettingsError("precision int8: this model has no convolutions; export it in fp32 or fp16")
    with tempfile.TemporaryDirectory(prefix="knowngood-") as folder:
        source, target = Path(folder, "source.onnx"), Path(folder, "target.onnx")
        onnx.save(model, source)
        quantize_static(
            source,
            target,
            Reader(),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["Conv"],
            per_channel=True,
            weight_type=QuantType.QInt8,
            activation_type=QuantType.QUInt8,
        )
        return onnx.load(target)


def inputs_of(runtime: ExportedDetector, images: ImageSet) -> Iterator[dict[str, np.ndarray]]:
    """The inputs of the graph for one image after the other. Raises DataError: an image does not fit, or lacks a
    condition."""
    used = {column.name for column in runtime.conditions.columns}
    given = {name: values for name, values in images.conditions.items() if name in used}
    encoded = runtime.conditions.encode(given, len(images))
    for i in range(len(images)):
        every = {
            "image": fitting(images.read(i), runtime.facts["image"])[None],
            "alpha": np.array(runtime.alpha),
            "condition": encoded.condition[i : i + 1],
            "stratum": encoded.stratum[i : i + 1],
        }
        yield {one.name: every[one.name] for one in runtime.session.get_inputs()}


def graph_scores(runtime: ExportedDetector, images: ImageSet) -> NormalScores:
    """What normal images score by the graph, which has the output `raw_score`."""
    names = [RAW, "map"] if runtime.has_map else [RAW]
    values, strata, maps = [], [], []
    for given in track(inputs_of(runtime, images), "calibration", len(images)):
        found = runtime.session.run(names, given)
        values.append(found[0][0])
        strata.append(given["stratum"][0] if "stratum" in given else 0)
        maps += [largest_value(one[0]) for one in found[1:]]
    largest = np.array(maps) if maps else None
    return NormalScores(images.ids, np.array(values), np.array(strata, np.int64), None, largest, images.groups, None)
