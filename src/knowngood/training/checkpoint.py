"""A checkpoint on disk: one safetensors file whose header carries a JSON state, replaced atomically."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from knowngood.errors import ArtifactError, SettingsError

NAME = "checkpoint.safetensors"
VERSION = 1


def write_checkpoint(folder: Path, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
    """Write both so that `folder` holds the previous checkpoint or this one, whole, whenever the process dies."""
    contiguous = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
    draft = folder / (NAME + ".part")
    save_file(contiguous, draft, metadata={"state": json.dumps({"version": VERSION, **state})})
    _flush(draft)
    os.replace(draft, folder / NAME)
    _flush(folder)


def read_checkpoint(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Tensors on the CPU and the state, or None if there is no checkpoint.

    Raises:
        ArtifactError: the file is damaged or was written by a newer version.
    """
    path = folder / NAME
    if not path.exists():
        return None
    state = read_state(folder)
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, state  # noqa: SIM118


def read_state(folder: Path) -> dict[str, Any]:
    """The JSON state alone. Raises ArtifactError as `read_checkpoint` does."""
    path = folder / NAME
    try:
        with safe_open(path, framework="pt") as file:
            state = json.loads((file.metadata() or {})["state"])
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise ArtifactError(f"{path} is not a whole checkpoint ({error}); remove it to start the run anew") from None
    if state["version"] > VERSION:
        raise ArtifactError(f"{path} has version {state['version']}, this knowngood reads up to {VERSION}; update it")
    return state


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def put_into(targets: dict[str, Tensor], tensors: dict[str, Tensor], prefix: str) -> None:
    """Copy the tensors under `prefix` into `targets`, keeping device and memory layout."""
    with torch.no_grad():
        for name, target in targets.items():
            target.copy_(tensors[prefix + name])


def refuse_to_overwrite(folder: Path, resume: bool) -> None:
    """Raise SettingsError if a run that starts anew in `folder` would replace an unfinished one."""
    if resume or not (folder / NAME).exists():
        return
    state = read_state(folder)
    if not state["finished"]:
        raise SettingsError(
            f"run_dir {folder} holds an unfinished run, at step {state['step']}; pass resume=True to go on with it, "
            "or remove the folder"
        )
