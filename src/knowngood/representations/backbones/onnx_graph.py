"""A network in the ONNX format, run by ONNX Runtime on the CPU. A saved model holds the file."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from knowngood.config import ONNXBackbone
from knowngood.config.words import in_pixels
from knowngood.errors import ArtifactError, SettingsError

BYTES = "onnx"  # name of the tensor that holds the file; those of its weights begin with it and a slash
LOCATION = re.compile(rb"\n\x08location\x12([\x01-\x7f])")  # in the file, before a length and the name of another one


class ONNXGraph:
    """The feature maps of an ONNX file; a `SavedBackbone`.

    Args:
        data: the file.
        weights: the files beside it that hold its weights, by name.
        options: which outputs, and how pixels are normalised.

    Raises:
        SettingsError: it is no ONNX file, takes something else than images, or has no such output.
    """

    def __init__(self, data: bytes, weights: Mapping[str, bytes], options: ONNXBackbone) -> None:
        self.data, self.weights, self.options = data, dict(sorted(weights.items())), options
        self._session = _session(data, self.weights)
        inputs = self._session.get_inputs()
        self._sizes = inputs[0].shape if len(inputs) == 1 else []
        if len(self._sizes) != 4 or inputs[0].type != "tensor(float)" or _fixed(self._sizes[1]) not in (None, 3):
            shown = ", ".join(f"{one.name} {one.type} {one.shape}" for one in inputs)
            raise SettingsError(f"the graph takes {shown}; expected one input, float32 (B, 3, H, W)")
        if _fixed(self._sizes[0]) not in (None, 1):
            raise SettingsError(f"the graph takes {self._sizes[0]} images at a time; expected any number, or one")
        self._input = inputs[0].name
        shapes = {one.name: one.shape for one in self._session.get_outputs()}
        maps = tuple(name for name, shape in shapes.items() if len(shape) == 4)
        self.outputs = maps if options.outputs is None else options.outputs
        if not self.outputs or not set(self.outputs) <= set(maps):
            shown = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
            asked = "" if options.outputs is None else f" named {', '.join(options.outputs)}"
            raise SettingsError(f"the graph has the outputs {shown}; expected maps (B, F, h, w){asked}")

    def features(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) in 0…1 → maps (B, F_i, h_i, w_i), the finest first.

        Raises SettingsError: the graph takes images of one other size, or fails.
        """
        size = tuple(images.shape[-2:])
        expected = tuple(_fixed(side) or given for side, given in zip(self._sizes[2:], size, strict=True))
        if size != expected:
            raise SettingsError(
                f"backbone 'onnx': the graph takes images of {in_pixels(expected)} px (width × height), these have "
                f"{in_pixels(size)}; set image_size = {expected[0]},{expected[1]} (height, width), or export it with a "
                "dynamic size"
            )
        mean, std = (np.array(part, np.float32)[:, None, None] for part in (self.options.mean, self.options.std))
        x = np.ascontiguousarray((images.cpu().numpy() - mean) / std)
        parts = [x[i : i + 1] for i in range(len(x))] if _fixed(self._sizes[0]) == 1 else [x]
        try:
            runs = [self._session.run(list(self.outputs), {self._input: part}) for part in parts]
        except Exception as error:  # the runtime raises many types
            raise SettingsError(
                f"backbone 'onnx': the graph fails on images of {in_pixels(size)} px: {error}"
            ) from None
        maps = [torch.from_numpy(np.concatenate(one)) for one in zip(*runs, strict=True)]
        return sorted(maps, key=lambda one: -one.shape[2] * one.shape[3])

    def description(self) -> dict[str, Any]:
        return {"outputs": list(self.outputs)}

    def state_dict(self) -> dict[str, Tensor]:
        files = {BYTES: self.data} | {f"{BYTES}/{name}": data for name, data in self.weights.items()}
        return {name: torch.frombuffer(bytearray(data), dtype=torch.uint8) for name, data in files.items()}

    def fingerprint(self) -> str:
        normalised = f"mean {self.options.mean} std {self.options.std}"
        digests = (hashlib.sha256(data).hexdigest() for data in (self.data, *self.weights.values()))
        return f"onnx outputs {','.join(self.outputs)} {normalised} file {' '.join(digests)}"


def load_onnx(options: ONNXBackbone) -> ONNXGraph:
    """The graph that the options name. Raises SettingsError: there is no such file, or as `ONNXGraph`."""
    path = Path(options.path).expanduser()
    try:
        data = path.read_bytes()
        names = {data[at.end() : at.end() + at[1][0]].decode(errors="replace") for at in LOCATION.finditer(data)}
        weights = {name: (path.parent / Path(name).name).read_bytes() for name in sorted(names)}
    except OSError as error:
        raise SettingsError(
            f"backbone 'onnx': path = {path}: {error.filename} cannot be read: {error.strerror or error}"
        ) from None
    try:
        return ONNXGraph(data, weights, options)
    except SettingsError as error:
        raise SettingsError(f"{path}: {error}") from None


def restore_onnx(options: ONNXBackbone, description: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> ONNXGraph:
    """The graph of a saved model; its file is not needed. Raises ArtifactError: it cannot be made again."""
    files = {name: tensor.numpy().tobytes() for name, tensor in tensors.items()}
    if BYTES not in files:
        raise ArtifactError("the ONNX file of the backbone is missing")
    try:
        weights = {name.removeprefix(f"{BYTES}/"): data for name, data in files.items() if name != BYTES}
        return ONNXGraph(files[BYTES], weights, options)
    except SettingsError as error:
        raise ArtifactError(f"the backbone cannot be made again: {error}") from None


def _session(data: bytes, weights: Mapping[str, bytes]) -> Any:
    """On the CPU, with as many threads as torch uses."""
    runtime = _runtime()
    options = runtime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = torch.get_num_threads(), 4
    try:
        if weights:
            names, files = list(weights), list(weights.values())
            options.add_external_initializers_from_files_in_memory(names, files, [len(file) for file in files])
        return runtime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the runtime raises many types
        raise SettingsError(f"not an ONNX file that can be run: {error}") from None


def _fixed(side: Any) -> int | None:
    """A side that the graph fixes; None if it is dynamic."""
    return side if isinstance(side, int) else None


def _runtime() -> Any:
    try:
        import onnxruntime
    except ImportError:
        raise SettingsError("backbone 'onnx' needs the package onnxruntime: pip install \"knowngood[onnx]\"") from None
    return onnxruntime
