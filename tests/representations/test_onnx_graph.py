"""ONNX files as backbones: the maps are those of torch; what is refused; a saved model is complete."""

from __future__ import annotations

import builtins
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from knowngood import Detector
from knowngood.config import ONNXBackbone
from knowngood.errors import ArtifactError, SettingsError
from knowngood.representations.backbones.onnx_graph import load_onnx, restore_onnx


class Convolutions(nn.Module):
    """Two maps, the coarse one first, and a vector."""

    def __init__(self) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(0)
        self.fine = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.coarse = nn.Conv2d(4, 6, 3, stride=2, padding=1)
        with torch.no_grad():
            for p in self.parameters():
                p.copy_(0.2 * torch.randn(p.shape, generator=draw))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        fine = self.fine(x).relu()
        coarse = self.coarse(fine).relu()
        return coarse, fine, coarse.mean((2, 3))


def graph(sides: tuple[Any, ...] = ("B", 3, "H", "W"), outputs: tuple[str, ...] = ("coarse", "fine", "mean")) -> Any:
    """The same net as an ONNX model."""
    net = Convolutions()
    weights = [numpy_helper.from_array(p.detach().numpy(), name) for name, p in net.named_parameters()]
    pads = {"strides": [2, 2], "pads": [1, 1, 1, 1], "kernel_shape": [3, 3]}
    nodes = [
        helper.make_node("Conv", ["x", "fine.weight", "fine.bias"], ["a"], **pads),
        helper.make_node("Relu", ["a"], ["fine"]),
        helper.make_node("Conv", ["fine", "coarse.weight", "coarse.bias"], ["b"], **pads),
        helper.make_node("Relu", ["b"], ["coarse"]),
        helper.make_node("ReduceMean", ["coarse"], ["mean"], axes=[2, 3], keepdims=0),
    ]
    shapes = {"coarse": ["b", 6, "h2", "w2"], "fine": ["b", 4, "h1", "w1"], "mean": ["b", 6]}
    made = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, sides)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shapes[name]) for name in outputs],
        weights,
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def images(height: int = 16, width: int = 24, n: int = 2) -> Tensor:
    return torch.rand(n, 3, height, width, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def saved(tmp_path: Path) -> Callable[..., Path]:
    def save(*args: Any, **kwargs: Any) -> Path:
        path = tmp_path / "net.onnx"
        onnx.save(graph(*args, **kwargs), path)
        return path

    return save


def same(found: list[Tensor], wanted: list[Tensor]) -> None:
    assert len(found) == len(wanted)
    for f, w in zip(found, wanted, strict=True):
        torch.testing.assert_close(f, w, rtol=0, atol=1e-5)


@pytest.mark.parametrize("sides", [("B", 3, "H", "W"), (1, 3, 16, 24), ("B", 3, 16, 24), (None, None, None, None)])
def test_all_maps_finest_first_as_torch_makes_them(saved: Callable[..., Path], sides: tuple[Any, ...]) -> None:
    x = images()
    with torch.no_grad():
        coarse, fine, _ = Convolutions()(x)
    same(load_onnx(ONNXBackbone(path=str(saved(sides)))).features(x), [fine, coarse])


def test_a_dynamic_size_the_outputs_named_and_a_normalisation(saved: Callable[..., Path]) -> None:
    mean, std = (0.3, 0.4, 0.5), (0.2, 0.3, 0.4)
    net = load_onnx(ONNXBackbone(path=str(saved()), outputs=("coarse",), mean=mean, std=std))
    for x in (images(9, 13), images(32, 16, 3)):
        with torch.no_grad():
            wanted, _, _ = Convolutions()((x - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None])
        same(net.features(x), [wanted])


@pytest.mark.slow
def test_what_torch_exports_with_its_weights_in_a_second_file(tmp_path: Path) -> None:
    x, sides = images(), {0: torch.export.Dim("n"), 2: torch.export.Dim("h"), 3: torch.export.Dim("w")}
    torch.onnx.export(
        Convolutions().eval(), (x,), tmp_path / "net.onnx", dynamo=True, dynamic_shapes=(sides,), external_data=True
    )
    assert (tmp_path / "net.onnx.data").is_file()
    options = ONNXBackbone(path=str(tmp_path / "net.onnx"))
    net = load_onnx(options)
    (tmp_path / "net.onnx.data").unlink()
    with pytest.raises(SettingsError, match=r"net\.onnx\.data cannot be read: No such file"):
        load_onnx(options)
    (tmp_path / "net.onnx").unlink()
    again = restore_onnx(options, net.description(), net.state_dict())
    for x in (images(), images(20, 12, 3)):
        with torch.no_grad():
            coarse, fine, _ = Convolutions()(x)
        same(net.features(x), [fine, coarse])
        same(again.features(x), [fine, coarse])


def test_what_does_not_fit_is_refused_by_name(saved: Callable[..., Path], tmp_path: Path) -> None:
    def refused(message: str, path: Path, **options: Any) -> None:
        with pytest.raises(SettingsError, match=message):
            load_onnx(ONNXBackbone(path=str(path), **options)).features(images(20, 24))

    (tmp_path / "text.onnx").write_text("no graph")
    refused("missing.onnx cannot be read: No such file", tmp_path / "missing.onnx")
    refused("cannot be read: Is a directory", tmp_path)
    refused("text.onnx: not an ONNX file that can be run", tmp_path / "text.onnx")
    refused(r"outputs mean \['b', 6\]; expected maps \(B, F, h, w\)", saved(outputs=("mean",)))
    refused(r"expected maps \(B, F, h, w\) named mean", saved(), outputs=("mean",))
    refused("expected maps .* named fine, deep", saved(), outputs=("fine", "deep"))
    refused(r"takes images of 24 × 16 px .*have 24 × 20; set image_size = 16,24 \(height", saved((1, 3, 16, 24)))
    refused("takes 4 images at a time", saved((4, 3, "H", "W")))
    refused(r"expected one input, float32 \(B, 3, H, W\)", saved(("B", 1, "H", "W")))


def test_a_saved_model_works_without_the_file(saved: Callable[..., Path], tmp_path: Path) -> None:
    path, draw = saved(), np.random.default_rng(0)
    parts, new = (draw.integers(90, 160, (n, 16, 16, 3), dtype=np.uint8) for n in (12, 4))
    features = {"name": "features", "backbone": path, "image_size": 16, "stride": 4, "average": 1}
    detector = Detector(features, "memory_bank", calibration={"method": "split", "fraction": 0.3}, device="cpu")
    detector.fit(parts)
    detector.save(tmp_path / "model")
    path.unlink()
    again = Detector.load(tmp_path / "model")
    np.testing.assert_array_equal(again.score_samples(new), detector.score_samples(new))


def test_the_fingerprint_tells_graphs_outputs_and_normalisation_apart(saved: Callable[..., Path]) -> None:
    path = str(saved())
    options = [
        {}, {"outputs": ("fine",)}, {"mean": (0.5, 0.5, 0.5)}, {"std": (2, 2, 2)},
    ]  # fmt: skip
    prints = [load_onnx(ONNXBackbone(path=path, **given)).fingerprint() for given in options]
    path = str(saved(outputs=("fine", "coarse")))
    assert len({*prints, load_onnx(ONNXBackbone(path=path)).fingerprint()}) == 5


def test_a_damaged_graph_of_a_saved_model_is_refused(saved: Callable[..., Path]) -> None:
    options = ONNXBackbone(path=str(saved()))
    net = load_onnx(options)
    cut = {name: tensor[:50] for name, tensor in net.state_dict().items()}
    for tensors, message in (({}, "file of the backbone is missing"), (cut, "cannot be made again")):
        with pytest.raises(ArtifactError, match=message):
            restore_onnx(options, net.description(), tensors)


def test_a_missing_runtime_is_named_with_its_extra(saved: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    path, real = saved(), builtins.__import__

    def missing(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "onnxruntime":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(SettingsError, match=r'pip install "knowngood\[onnx\]"'):
        load_onnx(ONNXBackbone(path=str(path)))
