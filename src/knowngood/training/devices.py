"""Names of devices."""

from __future__ import annotations

import torch

from knowngood.errors import SettingsError


def torch_device(name: str) -> torch.device:
    """The device that "auto", "cpu", "gpu", "cuda" or "mps" stands for; auto: a GPU if there is one.

    Raises:
        SettingsError: this machine has none, or the name is unknown.
    """
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    kind = {"gpu": "cuda"}.get(name, name)
    if kind == "auto":
        kind = next(kind for kind in ("cuda", "mps", "cpu") if there[kind])
    if kind not in there:
        raise SettingsError(f"unknown device '{name}'; known: auto, cpu, gpu, cuda, mps")
    if not there[kind]:
        raise SettingsError(f"device = '{name}': this machine has none; use device='cpu' or device='auto'")
    return torch.device(kind)
