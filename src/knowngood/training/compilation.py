"""Optional torch.compile of the model's encoder and decoder while it trains."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from knowngood.errors import SettingsError

COMPILED = ("encode", "decode")


@contextmanager
def compiled(model: nn.Module, wanted: bool, device: torch.device) -> Iterator[None]:
    """Within, `model.encode` and `model.decode` are compiled; afterwards they are as they were.

    Raises:
        SettingsError: there is no compiler for this device.
    """
    if not wanted:
        yield
        return
    _require_compiler(device)
    for name in COMPILED:
        model.__dict__[name] = torch.compile(getattr(model, name))
    try:
        yield
    finally:
        for name in COMPILED:
            del model.__dict__[name]


def _require_compiler(device: torch.device) -> None:
    if device.type == "cuda":
        if importlib.util.find_spec("triton") is None:
            raise SettingsError("compile = true on a GPU needs the package triton, which is not installed")
        return
    compilers = [os.environ.get("CXX", ""), "g++", "clang++", "c++"]
    if not any(name and shutil.which(name) for name in compilers):
        raise SettingsError(
            "compile = true needs a C++ compiler, and neither g++ nor clang++ is found; "
            "install one, or leave compile out"
        )
