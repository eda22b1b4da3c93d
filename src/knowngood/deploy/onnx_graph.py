"""A fitted detector as one ONNX graph, from raw pixels (or rows of a table) to anomaly score, p-value and map.

`knowngood.runtime` reads it without torch. Any other ONNX runtime can: the graph holds resize, scaling, backbone,
model, score and calibration, and its metadata says how conditions become its inputs. Where parts are brought to one
pose, the graph begins after that, and the runtime does it by the metadata: finding a part depends on the picture.
"""

from __future__ import annotations

import json
import logging
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from knowngood.config.version import __version__
from knowngood.data import ImageSet
from knowngood.deploy.onnx_calibration import CalibrationOutputs, calibrated_by
from knowngood.deploy.onnx_ignored import Areas, ignored_graphs, pixels_of
from knowngood.deploy.onnx_metadata import metadata, pose_of
from knowngood.deploy.onnx_precision import check_precision, graph_scores, halved
from knowngood.deploy.onnx_scores import check_score, score_graph
from knowngood.detector.calibrate import with_calibration
from knowngood.detector.decide import calibrated
from knowngood.detector.estimator import Detector
from knowngood.detector.fit.inputs import readable
from knowngood.detector.guarantee import normal_ones
from knowngood.detector.pipeline import Pipeline
from knowngood.detector.scoring import BEYOND
from knowngood.errors import OutputError, SettingsError
from knowngood.files import whole
from knowngood.representations import HOG, Features, Pixels, Table
from knowngood.representations.features import HALF_LIMIT
from knowngood.representations.pixels import LUMINANCE, middle
from knowngood.runtime import ExportedDetector
from knowngood.runtime.marginal import RAW
from knowngood.runtime.model import KEY
from knowngood.scores.adjustment import of_adjustment

DTYPES = ("uint8", "uint16", "int16", "float32")
LARGEST = 2**31 - 2**24  # bytes of a file; protobuf ends at 2 GiB
AGREE = 1e-3  # relative, of scores of the graph and of the detector on noise, above which it is not written
EXAMPLES = 2
SEEN = 2**22  # pixels of tiles that go through the backbone together: more make the graph smaller and take more memory


def export(
    detector: Detector,
    path: str | Path,
    *,
    precision: str = "fp32",
    normals: ImageSet | None = None,
    tolerance: float | None = None,
) -> Path:
    """Write a fitted detector as an ONNX file: the same scores, p-values and maps without torch.

    Inputs, for B items: `image` (B, H, W, C) raw pixels in the dtype of the fit, or `rows` (B, F) float64; `condition`
    (B, W) float32 and `stratum` (B,) int64 where the model has conditions; `ignored` (B, H, W) bool where polygons to
    ignore are drawn in pictures of any size; `alpha`, a float64 scalar. Outputs:
    `anomaly_score` (B,) float64, `p_value` (B,) float64, `is_anomalous` (B,) bool, `map` (B, H, W) float32 where the
    score has one, and the parts of the score. Of a model with a pose, images and maps are of the picture in that pose.

    Before the file gets its name, the graph is compared with the detector on images of noise.

    Args:
        precision: "fp32", or "fp16": large tensors are stored in half precision, and computed with in single.
        normals: images that the model was not fitted to. The graph in another precision is calibrated on them; those
            labelled anomalous, and files that cannot be read, are left out with a warning.
        tolerance: share of them that may be unreadable; default as fitted.

    Raises:
        SettingsError: some part of the model cannot be exported, or the extra `export` is not installed.
        OutputError: the file cannot be written, or the graph disagrees with the detector.
        DataError, NotEnoughNormals: `normals` cannot calibrate.
    """
    check_exportable(detector.pipeline_)
    if normals is not None:
        normals = normal_ones(readable(normals, detector.pipeline_.settings, tolerance))  # type: ignore[assignment]
    check_precision(detector.pipeline_, precision, normals)
    graph = DetectorGraph(detector.pipeline_, calibrates=normals is None)
    model = graph_of(graph, detector.pipeline_)
    if normals is None:
        _describe(model, metadata(detector, _names(model)))
    else:
        model = _calibrated(halved(model), detector, precision, normals)
    return _written(model, Path(path))


def _calibrated(model: Any, detector: Detector, precision: str, normals: ImageSet) -> Any:
    """A graph in another precision that ends with raw scores, with the calibration by what normal images score by it.

    So the network is traced once, however it is calibrated.
    """
    _describe(model, metadata(detector, _names(model), precision))
    with tempfile.TemporaryDirectory(prefix="knowngood-") as folder:
        draft = _written(model, Path(folder, "draft.onnx"))
        scores = graph_scores(ExportedDetector(draft), normals)
    other = object.__new__(type(detector))  # a copy would be one of what is saved, which holds no backbone of the user
    other.__dict__.update(vars(detector), pipeline_=with_calibration(detector.pipeline_, scores, "set"))
    calibration, inputs = CalibrationOutputs(calibrated(other.pipeline_)), example_inputs(detector.pipeline_)
    given = {RAW: torch.from_numpy(np.zeros(EXAMPLES, scores.values.dtype))}
    given |= {name: inputs[name] for name in ("alpha", "stratum") if name in inputs}
    shapes = {name: None if name == "alpha" else {0: torch.export.Dim("batch")} for name in given}
    model = calibrated_by(model, _exported(calibration, given, shapes, CalibrationOutputs.names))
    found = _computed(model, inputs)
    given[RAW] = torch.from_numpy(found[RAW])
    _compare(found, dict(zip(CalibrationOutputs.names, calibration(**given), strict=True)), "anomaly_score", "p_value")
    _describe(model, metadata(other, _names(model), precision, normals))
    return model


def graph_of(graph: DetectorGraph, pipeline: Pipeline) -> Any:
    """The ONNX model of the graph of a pipeline, in fp32 and compared with it.

    Raises:
        SettingsError: no graph can be made of it. OutputError: it computes something else.
    """
    inputs = example_inputs(pipeline)
    with torch.no_grad():
        expected = graph.eval()(**inputs)  # and fills caches that must hold no traced tensors
    model = _exported(graph, inputs, _dynamic(pipeline, inputs), graph.outputs)
    wanted = dict(zip(graph.outputs, expected, strict=True))
    _compare(_computed(model, inputs), wanted, "anomaly_score" if "anomaly_score" in wanted else RAW)
    return model


def _exported(graph: nn.Module, inputs: dict[str, Tensor], shapes: dict[str, Any], outputs: Sequence[str]) -> Any:
    """The ONNX model of a module, by torch's exporter."""
    try:
        with _quiet():
            traced = torch.export.export(graph, (), inputs, dynamic_shapes=shapes, strict=False)
            program: Any = torch.onnx.export(
                traced, dynamo=True, input_names=list(inputs), output_names=list(outputs), verbose=False
            )
    except Exception as error:  # of the exporter, of many types
        reason = str(error).strip().splitlines()[-1:]
        raise SettingsError(
            f"this model cannot be exported to ONNX: torch {torch.__version__} makes no graph of it, most likely "
            f"for steps of its backbone that depend on the data ({type(error).__name__}: {''.join(reason)})"
        ) from error
    for node in program.model_proto.graph.node:
        del node.metadata_props[:]  # of the exporter's steps, with paths of this machine
    return program.model_proto


def _describe(model: Any, facts: dict[str, Any]) -> None:
    """Let the model say these of itself, and no others."""
    model.producer_name, model.producer_version = "knowngood", __version__
    del model.metadata_props[:]
    entry = model.metadata_props.add()
    entry.key, entry.value = KEY, json.dumps(facts, ensure_ascii=False)


def _names(model: Any) -> list[str]:
    return [one.name for one in model.graph.output]


def _written(model: Any, path: Path) -> Path:
    with whole(path) as part:
        part.write_bytes(model.SerializeToString())
    return path


def check_exportable(pipeline: Pipeline) -> None:
    """Raise SettingsError that names what of a model cannot be exported, and what to do instead."""
    settings, representation = pipeline.settings, pipeline.representation
    calibrated(pipeline)
    options: Any = settings.representation
    backbone = getattr(options, "backbone", None)
    refused = {
        "representation of another package": not isinstance(representation, Pixels | HOG | Features | Table),
        "conditioning.check (stated conditions are checked); fit without it": bool(pipeline.checked),
        "conditioning.measure (image factors as conditions); fit without it": bool(settings.conditioning.measure),
        "a calibration with added groups (calibrate --as); calibrate on the images of one group": bool(pipeline.added),
    }
    if isinstance(representation, Features):
        align = representation.options.align
        refused |= {
            f"align = '{align}' (images are aligned first); fit with --align none and compare": (
                align not in ("none", "pose")
            ),
            "illumination (it is fitted to each image); fit without it": representation.references is not None,
            f"backbone '{getattr(backbone, 'name', '')}'; take one of torch: efficientnet_lite0 or transformers": not (
                isinstance(representation.backbone, nn.Module)
            ),
        }
    pixels = pixels_of(representation)
    if pixels is not None:
        dtype = "float32" if np.dtype(pixels.dtype).kind == "f" else pixels.dtype
        refused[f"images of {pixels.dtype}; fit on one of {', '.join(DTYPES)}"] = dtype not in DTYPES
    why = [reason for reason, holds in refused.items() if holds]
    if why:
        raise SettingsError("this model cannot be exported to ONNX: " + "; and ".join(why))
    check_score(pipeline.score)
    size = sum(t.untyped_storage().nbytes() for t in pipeline.model.buffers())
    if size > LARGEST:
        raise SettingsError(
            f"this model cannot be exported to ONNX: it takes {size / 2**30:.1f} GiB, and an ONNX file holds 2; fit "
            "fewer conditions to a model, or with a larger stride"
        )
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise SettingsError(f"export needs {error.name}: pip install 'knowngood[export]'") from None


class DetectorGraph(nn.Module):
    """From the inputs of the ONNX file to its outputs, in the order of `outputs`.

    Where it does not calibrate, it ends with the raw score: the first three outputs are those of `CalibrationOutputs`.
    """

    def __init__(self, pipeline: Pipeline, calibrates: bool = True) -> None:
        super().__init__()
        representation, state = pipeline.representation, pipeline.state
        graphs: Any = {Pixels: PixelsGraph, HOG: HOGGraph, Features: FeaturesGraph, Table: TableGraph}
        self.model, self.adjustments, self.state = pipeline.model, pipeline.adjustments, state
        self.represent = graphs[type(representation)](representation)
        self.fill = 0.0 if isinstance(representation, Table) else pixels_of(representation).low  # type: ignore[union-attr]
        self.masks = nn.ModuleList(ignored_graphs(Areas.of(pipeline), pipeline.model))
        self.score = score_graph(pipeline.score, pipeline.model, state)
        self.calibrate = CalibrationOutputs(calibrated(pipeline)) if calibrates else None
        self.outputs: list[str] = []
        self.raw = not calibrates or pipeline.marginal_calibration is not None

    def forward(
        self,
        alpha: Tensor,
        image: Tensor | None = None,
        rows: Tensor | None = None,
        condition: Tensor | None = None,
        stratum: Tensor | None = None,
        ignored: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        raw = rows if image is None else image
        assert raw is not None
        stratum = torch.zeros_like(raw.flatten(1)[:, 0], dtype=torch.int64) if stratum is None else stratum
        hidden = ignored
        for masks in self.masks:
            own = masks(raw, condition, stratum)
            hidden = own if hidden is None else hidden | own
        if hidden is not None:
            raw = torch.where(hidden[..., None], torch.tensor(self.fill, dtype=raw.dtype), raw)
        x = self.represent(raw)
        result = self.score(x, condition, stratum)
        for adjustment in self.adjustments:
            own = of_adjustment(self.state, adjustment)
            result = adjustment.adjust(self.model, own, x, condition, stratum, result)
        values = finite(result.values)
        found: dict[str, Tensor] = {}
        if self.calibrate is not None:
            found = dict(zip(self.calibrate.names, self.calibrate(values, alpha, stratum), strict=True))
        if result.map is not None and image is not None:
            whole = self.represent.to_image(finite(result.map.float()), image)
            found["map"] = whole if hidden is None else whole + _nan_where(hidden)
        found |= {name: finite(part) for name, part in result.parts.items()}
        found |= {RAW: values} if self.raw else {}
        self.outputs = list(found)
        return tuple(found.values())


def finite(values: Tensor) -> Tensor:
    """As in `detector.scoring`: what overflowed is as anomalous as can be."""
    return values.nan_to_num(BEYOND, BEYOND, BEYOND).clamp(-BEYOND, BEYOND)


def _nan_where(hidden: Tensor) -> Tensor:
    """NaN there, else 0: ONNX Runtime's `Where` makes 0 of a NaN that it selects by a mask of the whole shape."""
    kept = (~hidden).float()
    return torch.zeros_like(kept) / kept


class PixelsGraph(nn.Module):
    """`Pixels`: raw images (B, H, W, C) → scaled (B, C, H, W), and maps back. Integers are rounded after a resize."""

    def __init__(self, pixels: Pixels) -> None:
        super().__init__()
        self.pixels = pixels

    def forward(self, image: Tensor) -> Tensor:
        pixels, x = self.pixels, image.permute(0, 3, 1, 2).float()
        if pixels.grey:  # grey given as three equal channels stays exactly what it is
            red, green, blue = x.split(1, dim=1)
            x = red + LUMINANCE[1] * (green - red) + LUMINANCE[2] * (blue - red)
        if pixels.resize:
            x = resized(x, pixels.size)
        if np.dtype(pixels.dtype).kind != "f":
            limits = np.iinfo(pixels.dtype)
            x = x.round().clamp(limits.min, limits.max)
        if pixels.crop:
            x = x[middle(pixels.size, pixels.crop)]
        if pixels.pad:
            x = F.pad(x, margins(pixels.pad, pixels.crop or pixels.size))
        return pixels.scale(x)

    def to_image(self, maps: Tensor, image: Tensor) -> Tensor:
        """Maps (B, h, w) over what `forward` gives → (B, H, W)."""
        pixels = self.pixels
        if pixels.pad:
            maps = maps[middle(pixels.pad, pixels.crop or pixels.size)]
        if pixels.crop:
            maps = F.pad(maps, margins(pixels.size, pixels.crop))
        return resized(maps, image.shape[1:3]) if pixels.resize else maps


class HOGGraph(nn.Module):
    """`HOG`."""

    def __init__(self, hog: HOG) -> None:
        super().__init__()
        self.hog, self.pixels = hog, PixelsGraph(hog.pixels)

    def forward(self, image: Tensor) -> Tensor:
        return self.hog.of_scaled(self.pixels(image))

    def to_image(self, maps: Tensor, image: Tensor) -> Tensor:
        return self.pixels.to_image(_upsampled(maps, self.hog.pixels.shape[1:]), image)


class FeaturesGraph(nn.Module):
    """`Features` of images as they lie, or of parts in one pose, rounded to what is stored."""

    def __init__(self, features: Features) -> None:
        super().__init__()
        self.features, self.net = features, features.backbone
        # Parts are brought to the size of the pose before.
        taken = features.pixels if features.pose is None else features.pixels.model_copy(update={"resize": False})
        self.pixels = PixelsGraph(taken)

    def forward(self, image: Tensor) -> Tensor:
        images, tiling = self.pixels(image).expand(-1, 3, -1, -1), self.features.tiling
        if tiling is None:
            maps = list(self.net.features(images))
        else:
            maps = tiling.stitched(images, self.net.features, max(1, SEEN // tiling.side**2))
        x = self.features.on_grid(maps, resized)
        if self.features.stored == "float32":
            return x
        fits = x.abs().amax((1, 2, 3), keepdim=True) <= HALF_LIMIT
        return torch.where(fits, x.clamp(-HALF_LIMIT, HALF_LIMIT).half().float(), x)

    def to_image(self, maps: Tensor, image: Tensor) -> Tensor:
        return self.pixels.to_image(_upsampled(maps, self.features.pixels.shape[1:]), image)


class TableGraph(nn.Module):
    """`Table`: rows (B, F) float64 → standardised."""

    def __init__(self, table: Table) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(table.mean, dtype=torch.float64))
        self.register_buffer("std", torch.tensor(table.std, dtype=torch.float64))

    def forward(self, rows: Tensor) -> Tensor:
        most = torch.finfo(torch.float32).max
        return ((rows - self.mean) / self.std).clamp(-most, most).float()  # type: ignore[operator]


# Images --------------------------------------------------------------------------------------------------------------


def resized(x: Tensor, size: Any) -> Tensor:
    """`interpolate`, bilinear and antialiased, of (…, H, W), with its rounding: a product with a matrix for each side.

    The operator of ONNX Runtime is off by 2e-3, and that of OpenVINO by a fifth. Where integers are rounded after it,
    what is off by 2e-3 changes one value in a hundred by a whole level.
    """
    down, across = (_weights(n, m) for n, m in zip(x.shape[-2:], size, strict=True))
    return down @ (x @ across.t())


def _weights(n: int, m: int) -> Tensor:
    """(m, n) weights of a side of n pixels in one of m, in the precision of each step of torch's own code."""
    position = torch.arange(n, dtype=torch.float32)
    scale = (position[-1:] + 1) / m
    centre = (scale.double() * (torch.arange(m, dtype=torch.float64) + 0.5)).float()
    apart = ((position - centre[:, None]).double() + 0.5) * (1 / scale.clamp_min(1)).double()
    weights = (1 - apart.float().abs()).clamp_min(0)
    return weights / weights.sum(1, keepdim=True)


def _upsampled(maps: Tensor, size: Any) -> Tensor:
    return F.interpolate(maps[:, None], size=tuple(size), mode="bilinear", align_corners=False)[:, 0]


# The file ------------------------------------------------------------------------------------------------------------


def example_inputs(pipeline: Pipeline) -> dict[str, Tensor]:
    """Inputs of noise, with known conditions."""
    rng, n = np.random.default_rng(0), EXAMPLES
    pixels, schema = pixels_of(pipeline.representation), pipeline.schema
    inputs = {"alpha": torch.tensor(pipeline.settings.alpha, dtype=torch.float64)}
    if pixels is None:
        inputs["rows"] = torch.from_numpy(rng.normal(size=(n, *pipeline.representation.shape)))
    else:
        height, width = (side + 3 if _resizes(pipeline) else side for side in pixels.size)
        values = rng.uniform(pixels.low, pixels.high, (n, height, width, 3 if pixels.grey else pixels.channels))
        dtype = np.float32 if np.dtype(pixels.dtype).kind == "f" else pixels.dtype
        inputs["image"] = torch.from_numpy(values.astype(dtype))
    if pipeline.model.condition_dim:
        inputs["condition"] = torch.zeros(n, pipeline.model.condition_dim)
    if schema.n_strata > 1:
        inputs["stratum"] = torch.arange(n) % schema.n_strata
    areas = Areas.of(pipeline)
    if areas is not None and areas.outlines:
        mask = next(iter(areas.outlines.values())).mask(*inputs["image"].shape[1:3])
        inputs["ignored"] = torch.from_numpy(np.stack([mask, np.zeros_like(mask)]))
    return inputs


def _dynamic(pipeline: Pipeline, inputs: dict[str, Tensor]) -> dict[str, Any]:
    batch = torch.export.Dim("batch")
    shapes: dict[str, Any] = {name: {0: batch} for name in inputs if name != "alpha"}
    if _resizes(pipeline):
        sides = {1: torch.export.Dim("height", min=2), 2: torch.export.Dim("width", min=2)}
        for name in ("image", "ignored"):
            shapes |= {name: shapes[name] | sides} if name in shapes else {}
    return {"alpha": None, **shapes}


def _resizes(pipeline: Pipeline) -> bool:
    """Whether the graph takes images of any size: not of parts that are brought to one pose before it."""
    pixels = pixels_of(pipeline.representation)
    return pixels is not None and pixels.resize and pose_of(pipeline.representation) is None


def _computed(model: Any, inputs: dict[str, Tensor]) -> dict[str, np.ndarray]:
    """The outputs of a graph by name."""
    import onnxruntime

    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        found = session.run(_names(model), {name: t.numpy() for name, t in inputs.items()})
    except Exception as error:  # of ONNX Runtime, of many types
        raise OutputError(f"ONNX Runtime refuses the exported graph; nothing was written: {error}") from error
    return {name: np.asarray(one) for name, one in zip(_names(model), found, strict=True)}


def _compare(found: dict[str, np.ndarray], expected: dict[str, Tensor], *names: str) -> None:
    """Raise OutputError if the graph does not compute what the modules do."""
    for name in names:
        values, wanted = found[name], expected[name].numpy()
        if not np.allclose(values, wanted, rtol=AGREE, atol=AGREE):
            raise OutputError(f"the exported graph gives {name} = {values}, the detector {wanted}; nothing was written")


@contextmanager
def _quiet() -> Iterator[None]:
    """Within, the exporter says nothing of what it is missing or will change, and keeps no stack of each step."""
    before, config = logging.root.manager.disable, getattr(torch.fx, "config", None)
    traces = getattr(config, "do_not_emit_stack_traces", None)  # older torch has no such choice
    logging.disable(logging.WARNING)
    if traces is not None:
        config.do_not_emit_stack_traces = True  # type: ignore[union-attr]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
        if traces is not None:
            config.do_not_emit_stack_traces = traces  # type: ignore[union-attr]


def margins(outer: tuple[int, ...], inner: tuple[int, ...]) -> list[int]:
    """What `pad` adds around `inner`."""
    before = [(a - b) // 2 for a, b in zip(outer, inner, strict=True)]
    after = [a - b - start for a, b, start in zip(outer, inner, before, strict=True)]
    return [before[1], after[1], before[0], after[0]]
