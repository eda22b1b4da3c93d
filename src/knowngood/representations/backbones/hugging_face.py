"""Pretrained networks in the format of Hugging Face's transformers, up to the last layer that is used.

Maps are the outputs of stages (ResNet, arXiv:1512.03385; ConvNeXt, arXiv:2201.03545) or of transformer blocks (ViT,
arXiv:2010.11929; DINOv2, arXiv:2304.07193; registers, arXiv:2309.16588; DINOv3, arXiv:2508.10104) on the grid of
patches, without class and register tokens. Layers in the middle separate normal from anomalous patches best: stages 2
and 3 in PatchCore (arXiv:2106.08265), 1 to 3 in PaDiM (arXiv:2011.08785), the middle 8 of 12 blocks in Dinomaly
(arXiv:2405.14325).
"""

from __future__ import annotations

import hashlib
import inspect
import json
import math
import os
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from knowngood.config import TransformersBackbone
from knowngood.errors import ArtifactError, SettingsError

STAGES = ("resnet", "convnext", "convnextv2", "dinov3_convnext")
TRANSFORMERS = ("vit", "deit", "vit_msn", "dinov2", "dinov2_with_registers", "dinov3_vit")
WEIGHTS, INDEX, SETTINGS, IMAGES = (
    "model.safetensors", "model.safetensors.index.json", "config.json", "preprocessor_config.json",
)  # fmt: skip
UNSAFE = ("pytorch_model.bin", "pytorch_model.bin.index.json", "tf_model.h5", "flax_model.msgpack")
ON_HUB = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HALVES = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)  # of the published ViT
UNUSED = ("mask_token", "num_batches_tracked")  # tensors that no output depends on
DROPPED = (  # of the settings: what only names things, and what could load code
    "id2label", "label2id", "out_features", "out_indices", "stage_names", "dtype", "torch_dtype", "auto_map",
    "architectures", "name_or_path", "transformers_version", "attn_implementation", "attn_implementation_internal",
    "quantization_config",
)  # fmt: skip


class HuggingFaceBackbone(nn.Module):
    """A frozen network that returns the outputs of some layers; a `SavedBackbone`.

    Args:
        config: settings of the network, as in config.json; it ends with the last of `layers`.
        layers: blocks or stages, rising, from 1.
        weights: SHA-256 of the file of weights, for the fingerprint.

    Image sides that are no multiple of the patch, or of the stride of ConvNeXt, are resized to the next one, so that
    every map covers the whole image.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: Mapping[str, Any], layers: tuple[int, ...], weights: str) -> None:
        super().__init__()
        library = _library()
        config = _safe(config)
        self.config, self.layers, self.weights, self.version = config, layers, weights, library.__version__
        family, patch = config["model_type"], config.get("patch_size", 1)
        self.is_transformer = family in TRANSFORMERS
        self.sides = tuple(patch) if isinstance(patch, list) else (patch, patch)
        if not self.is_transformer:
            self.sides = (1, 1) if family == "resnet" else (4 * 2 ** (layers[-1] - 1),) * 2
        made = library.AutoConfig.for_model(**config)
        self.net = library.AutoModel.from_config(made).float()
        if getattr(self.net, "pooler", None) is not None and self.is_transformer:
            self.net.pooler = None  # of the class token
        if not self.is_transformer:
            _without_norm(self.net)
        self.resamples = "interpolate_pos_encoding" in inspect.signature(self.net.forward).parameters
        self.register_buffer("mean", torch.zeros(3))
        self.register_buffer("std", torch.ones(3))
        self.requires_grad_(False).eval()

    @torch.no_grad()
    def features(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) in 0…1 → for each layer (B, F_i, h_i, w_i): over the patches, or the stride of the stage."""
        size = tuple(-(-length // side) * side for length, side in zip(images.shape[-2:], self.sides, strict=True))
        if size != tuple(images.shape[-2:]):
            images = F.interpolate(images, size=size, mode="bilinear", align_corners=False)
        x = (images - self.mean[:, None, None]) / self.std[:, None, None]
        given = {"interpolate_pos_encoding": True} if self.resamples else {}
        output = self.net(pixel_values=x, output_hidden_states=True, **given)
        if not self.is_transformer:
            return [output.hidden_states[layer] for layer in self.layers]
        norm = self.net.norm if hasattr(self.net, "norm") else self.net.layernorm
        grid = [length // side for length, side in zip(size, self.sides, strict=True)]
        tokens = [norm(output.hidden_states[layer]) for layer in self.layers[:-1]] + [output.last_hidden_state]
        return [t[:, -math.prod(grid) :].transpose(1, 2).unflatten(2, grid) for t in tokens]

    forward = features

    def description(self) -> dict[str, Any]:
        return {
            "config": self.config,
            "layers": list(self.layers),
            "weights_sha256": self.weights,
            "transformers": self.version,
        }

    def fingerprint(self) -> str:
        digest = hashlib.sha256(json.dumps(self.config, sort_keys=True).encode())
        for key, tensor in sorted(self.state_dict().items()):
            digest.update(key.encode())
            digest.update(tensor.cpu().contiguous().numpy().tobytes())
        layers = ",".join(map(str, self.layers))
        return f"{self.config['model_type']} layers {layers} file {self.weights} network {digest.hexdigest()}"


def load_hugging_face(options: TransformersBackbone) -> HuggingFaceBackbone:
    """The network that the options name, from a folder or from the hub. Only safetensors; no code is run from it.

    Raises:
        SettingsError: it is missing, of another kind, incomplete or damaged, or lacks a layer.
    """
    folder = _folder(options)
    config = _config(folder)
    files = _weight_files(folder)
    layers = _layers(folder, config, options.layers)
    library = _library()
    if config["model_type"] not in library.CONFIG_MAPPING:
        raise SettingsError(
            f"{folder}: transformers {library.__version__} does not know '{config['model_type']}'; "
            "pip install --upgrade transformers"
        )
    try:
        with _quiet(library):
            full, report = library.AutoModel.from_pretrained(
                folder,
                config=library.AutoConfig.for_model(**_safe(config)),
                use_safetensors=True,
                trust_remote_code=False,
                local_files_only=True,
                output_loading_info=True,
            )
        whole = json.loads(full.config.to_json_string(use_diff=False))
        net = HuggingFaceBackbone(_ended(whole, layers[-1]), layers, _sha256(files))
    except Exception as error:  # the library raises many types for a damaged folder
        raise SettingsError(f"{folder}: this network cannot be read: {_first_line(error)}") from None
    lacking = set(report["missing_keys"]) & {name for name in net.net.state_dict() if not name.endswith(UNUSED)}
    if lacking:
        raise SettingsError(f"{folder}: the weights lack {len(lacking)} tensors, such as '{min(lacking)}'")
    tensors = full.float().state_dict()
    net.net.load_state_dict({name: tensors[name] for name in net.net.state_dict()})
    mean, std = _normalisation(folder, config["model_type"])
    net.mean.copy_(torch.tensor(mean))
    net.std.copy_(torch.tensor(std))
    return net


def restore_hugging_face(
    options: TransformersBackbone, description: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> HuggingFaceBackbone:
    """The network of a saved model; its source is not needed. Raises ArtifactError: it cannot be made again."""
    try:
        if description["config"]["model_type"] not in STAGES + TRANSFORMERS:
            raise ValueError(f"unknown kind '{description['config']['model_type']}'")
        net = HuggingFaceBackbone(
            description["config"], tuple(description["layers"]), str(description["weights_sha256"])
        )
        net.load_state_dict(dict(tensors))
    except SettingsError as error:  # the library is missing
        raise ArtifactError(str(error)) from None
    except Exception as error:  # whatever does not fit, in the library
        saved = description.get("transformers")
        raise ArtifactError(
            f"the backbone cannot be made again: {_first_line(error)}. It was saved with transformers {saved}: "
            f"pip install transformers=={saved}"
        ) from None
    return net


# The folder ----------------------------------------------------------------------------------------------------------


def _folder(options: TransformersBackbone) -> Path:
    """The folder of the network; a name on the hub is fetched, or found in the cache if HF_HUB_OFFLINE is set."""
    source, revision = options.source, options.revision
    folder = Path(source).expanduser()
    where = f"backbone 'transformers': source = {source}"
    if folder.is_dir():
        if revision is not None:
            raise SettingsError(f"{where} is a folder and revision = {revision} is of the hub; leave revision out")
        return folder
    if folder.exists():
        raise SettingsError(f"{where} is a file; give the folder that holds {SETTINGS} and {WEIGHTS}")
    if not ON_HUB.fullmatch(source):
        raise SettingsError(f"{where}: there is no such folder, and it is no name on the hub (owner/name)")
    _library()
    from huggingface_hub import snapshot_download

    offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")
    wanted = [SETTINGS, IMAGES, WEIGHTS, INDEX, "model-*.safetensors"]
    try:
        return Path(snapshot_download(source, revision=revision, allow_patterns=wanted, local_files_only=offline))
    except Exception as error:  # network libraries raise many types
        reason = "HF_HUB_OFFLINE is set and the cache lacks it" if offline else _first_line(error)
        raise SettingsError(
            f"{where}: there is no such folder, and the hub does not give it: {reason}. On a machine with a network "
            f"run `hf download {source} --local-dir FOLDER`, copy FOLDER here, and give its path"
        ) from None


def _config(folder: Path) -> dict[str, Any]:
    """The settings of the network. Raises SettingsError: it has none, or is of a kind without known feature maps."""
    config = _json(folder / SETTINGS)
    if config is None:
        raise SettingsError(
            f"{folder}: no {SETTINGS}, so this is no network of Hugging Face; give the folder that "
            "`hf download … --local-dir` or save_pretrained wrote"
        )
    family, known = config.get("model_type"), ", ".join(STAGES + TRANSFORMERS)
    if family not in STAGES + TRANSFORMERS:
        kind = f"model_type '{family}'" if family else "no model_type"
        raise SettingsError(f"{folder}: {SETTINGS} has {kind}; expected one of {known}. Or export it to ONNX")
    if config.get("num_channels", 3) != 3:
        raise SettingsError(f"{folder}: the number of channels is {config['num_channels']}; expected 3")
    return config


def _weight_files(folder: Path) -> list[Path]:
    """The safetensors files, all there. Raises SettingsError: some are missing, or there are only pickled ones."""
    index = _json(folder / INDEX) if not (folder / WEIGHTS).is_file() else None
    if index is None:
        names = [WEIGHTS]
    elif isinstance(index.get("weight_map"), dict):
        names = sorted(set(map(str, index["weight_map"].values())))
    else:
        raise SettingsError(f"{folder / INDEX}: no weight_map, so the parts of the weights are not known")
    lacking = [name for name in names if Path(name).name != name or not (folder / name).is_file()]
    if not lacking:
        return [folder / name for name in names]
    unsafe = next((name for name in UNSAFE if (folder / name).is_file()), None)
    if unsafe:
        raise SettingsError(
            f"{folder}: only {unsafe}, which can run code when it is read; get {WEIGHTS} of the network, or, if you "
            f"trust the file, convert it: AutoModel.from_pretrained('{folder}').save_pretrained(NEW_FOLDER)"
        )
    raise SettingsError(f"{folder}: {', '.join(lacking)} missing; copy the whole folder of the network")


def _layers(folder: Path, config: Mapping[str, Any], wanted: tuple[int, ...] | None) -> tuple[int, ...]:
    """The layers to use, checked against those there are."""
    kind, family = ("blocks" if config["model_type"] in TRANSFORMERS else "stages"), config["model_type"]
    if kind == "blocks":
        depth = config.get("num_hidden_layers", 12)
        default = sorted({max(1, round(depth * share)) for share in (1 / 3, 1 / 2, 2 / 3)})
    else:
        depth = len(config.get("depths", range(4)))
        default = list(range(1, min(3, depth) + 1))
    if wanted is None:
        return tuple(default)
    if not wanted or list(wanted) != sorted(set(wanted)) or wanted[-1] > depth:
        shown = ",".join(map(str, wanted))
        raise SettingsError(
            f"{folder}: layers = {shown}: this {family} has the {kind} 1 to {depth}; give some of them, rising"
        )
    return wanted


def _normalisation(folder: Path, family: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation (3,) by which pixels in 0…1 are normalised."""
    found = _json(folder / IMAGES)
    if found is None:
        mean, std = HALVES if family == "vit" else IMAGENET
        warnings.warn(
            f"{folder}: no {IMAGES}; pixels are normalised with mean {mean} and standard deviation {std}, as usual for "
            f"{family}. If it was trained otherwise, copy its {IMAGES} into the folder",
            stacklevel=2,
        )
        return mean, std
    scale = 255 * float(found.get("rescale_factor", 1 / 255)) if found.get("do_rescale", True) else 255.0
    scale = 1.0 if math.isclose(scale, 1, rel_tol=1e-6) else scale
    mean, std = (0.0,) * 3, (1.0,) * 3
    if found.get("do_normalize", True):
        mean, std = (found.get(f"image_{part}", usual) for part, usual in zip(("mean", "std"), IMAGENET, strict=True))
    try:
        mean, std = (tuple(float(value) / scale for value in part) for part in (mean, std))
        right = len(mean) == len(std) == 3 and all(map(math.isfinite, mean + std)) and min(std) > 0
    except (TypeError, ValueError):
        right = False
    if not right:
        raise SettingsError(f"{folder / IMAGES}: image_mean and image_std must be three numbers each, std above 0")
    return mean, std


def _json(path: Path) -> dict[str, Any] | None:
    """A JSON file; None if it does not exist. Raises SettingsError: it is damaged."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise SettingsError(f"{path} cannot be read: {error}") from None
    if not isinstance(found, dict):
        raise SettingsError(f"{path}: expected a mapping, found a {type(found).__name__}")
    return found


def _sha256(files: list[Path]) -> str:
    """Of one file; of several, of their digests one after the other."""
    digests = []
    for path in files:
        with path.open("rb") as file:
            digests.append(hashlib.file_digest(file, "sha256").hexdigest())
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


# The library ---------------------------------------------------------------------------------------------------------


def _library() -> Any:
    """transformers, imported when it is first needed: that takes seconds. It reports nothing home."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        import transformers
    except ImportError:
        raise SettingsError(
            "backbone 'transformers' needs the package transformers: pip install \"knowngood[transformers]\""
        ) from None
    return transformers


@contextmanager
def _quiet(library: Any) -> Iterator[None]:
    """Without the library's progress bars and its report of tensors that are not used."""
    logging = library.utils.logging
    level, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bar:
            logging.enable_progress_bar()


def _safe(config: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in config.items() if name.lstrip("_") not in DROPPED}


def _ended(config: dict[str, Any], last: int) -> dict[str, Any]:
    """Settings of the same network up to the layer `last`."""
    if config["model_type"] in TRANSFORMERS:
        return {**config, "num_hidden_layers": last}
    shorter = {name: config[name][:last] for name in ("depths", "hidden_sizes")}
    return {**config, **shorter, **({"num_stages": last} if "num_stages" in config else {})}


def _without_norm(net: nn.Module) -> None:
    """Without the final norm of pooled features, which no map has; its width is that of a later stage."""
    for name in ("layernorm", "layer_norm"):
        if hasattr(net, name):
            setattr(net, name, nn.Identity())


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
