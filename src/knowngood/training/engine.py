"""Where training runs: device, precision and processes (several of them by lightning-fabric); and the compiler."""

from __future__ import annotations

import importlib.util
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from knowngood.config import TrainingOptions
from knowngood.errors import SettingsError

if TYPE_CHECKING:
    from lightning_fabric import Fabric

COMPILED = ("encode", "decode")
LARGEST_DYNAMIC_BLOCK = 31 << 20  # bytes; glibc adapts to blocks below 32 MB


class Engine:
    """Device, precision and processes, as far as the loop needs them.

    The objective is never wrapped for data parallelism: each process computes its own gradients, and `mean_` makes
    them the mean over processes, whichever player they belong to.

    fabric: the launched processes; None: this one alone.
    """

    def __init__(self, device: torch.device, bf16: bool, fabric: Fabric | None = None) -> None:
        self.device, self.bf16, self._fabric = device, bf16, fabric
        self.rank: int = fabric.global_rank if fabric else 0
        self.processes: int = fabric.world_size if fabric else 1
        self.leads = self.rank == 0  # this process writes files and shows progress

    @cached_property
    def cuda_devices(self) -> list[int]:
        return [self.device.index or 0] if self.device.type == "cuda" else []

    def autocast(self) -> AbstractContextManager[Any]:
        """Within, matrices are multiplied in bf16 where that was chosen."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16) if self.bf16 else nullcontext()

    def barrier(self) -> None:
        """Wait until every process is here."""
        if self._fabric is not None:
            self._fabric.barrier()

    def mean_(self, tensors: list[Tensor]) -> None:
        """Replace each tensor by its mean over processes, all in one exchange.

        Fabric's own all_reduce puts a barrier before each exchange, which would make every step wait for the device.
        """
        if self.processes == 1 or not tensors:
            return
        flat = torch.cat([t.reshape(-1).float() for t in tensors])
        torch.distributed.all_reduce(flat)
        flat /= self.processes
        for t, part in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
            t.copy_(part.view_as(t))

    def from_first_(self, tensors: list[Tensor]) -> None:
        """Replace each tensor by the first process's, so that all start alike."""
        if self.processes > 1:
            for t in tensors:
                contiguous = t.contiguous()
                torch.distributed.broadcast(contiguous, src=0)
                t.copy_(contiguous)

    def gathered(self, t: Tensor) -> Tensor:
        """(processes, *t.shape): every process's tensor, the same everywhere, on the CPU."""
        every = [t.contiguous()]
        if self.processes > 1:
            every = [torch.empty_like(every[0]) for _ in range(self.processes)]
            torch.distributed.all_gather(every, t.contiguous())
        return torch.stack(every).cpu()


def torch_device(name: str) -> torch.device:
    """The device that "auto", "cpu", "gpu", "cuda" or "mps" stands for; auto: a GPU if there is one.

    Raises SettingsError: this machine has none, or the name is unknown.
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


def make_engine(options: TrainingOptions, device: str = "auto") -> Engine:
    """The engine of these options on a device ("auto", "cpu", "gpu", "cuda" or "mps"), its processes launched.

    Raises SettingsError: the device is not there, there are fewer than asked for, or several processes lack the extra
    `distributed`.
    """
    return _engine(device, options.devices, options.nodes, options.precision)


@lru_cache(maxsize=8)
def _engine(device: str, devices: int, nodes: int, precision: str) -> Engine:
    kind = torch_device(device).type
    if kind == "cuda" and devices > torch.cuda.device_count():
        raise SettingsError(f"devices = {devices}: this machine has {torch.cuda.device_count()}")
    bf16 = precision == "bf16" or (precision == "auto" and bf16_pays(kind))
    if devices * nodes == 1:
        return Engine(torch.device(kind, 0) if kind == "cuda" else torch.device(kind), bf16)
    try:
        from lightning_fabric import Fabric
    except ImportError:
        raise SettingsError(
            f"training in several processes (devices = {devices}, nodes = {nodes}) needs lightning-fabric: "
            "pip install 'knowngood[distributed]'"
        ) from None
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # not a line from each process that it starts
    fabric = Fabric(accelerator=kind, devices=devices, num_nodes=nodes)
    fabric.launch()
    return Engine(fabric.device, bf16, fabric)


def bf16_pays(kind: str) -> bool:
    """Whether the device multiplies bf16 matrices in hardware: elsewhere bf16 is emulated, slower than float32."""
    if kind == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if kind == "cpu":
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return False


def keep_freed_memory() -> None:
    """Keep the C library from handing a step's memory back to the system, only to ask for it again in the next.

    glibc trims its heap at twice the size of the largest mapped block freed so far, up to 64 MB (mallopt(3), "dynamic
    mmap threshold"). Freeing one such block, never touched, raises that; the page faults of a small net's gradients
    are otherwise up to a quarter of its step. Elsewhere this does nothing.
    """
    torch.empty(LARGEST_DYNAMIC_BLOCK, dtype=torch.uint8)


@contextmanager
def compiled(model: nn.Module, wanted: bool, device: torch.device) -> Iterator[None]:
    """Within, if `wanted`, `model.encode` and `model.decode` are compiled; afterwards they are as they were.

    Raises SettingsError: there is no compiler for this device.
    """
    if not wanted:
        yield
        return
    if device.type == "cuda" and importlib.util.find_spec("triton") is None:
        raise SettingsError("compile = true on a GPU needs the package triton, which is not installed")
    compilers = (os.environ.get("CXX", ""), "g++", "clang++", "c++")
    if device.type != "cuda" and not any(name and shutil.which(name) for name in compilers):
        raise SettingsError(
            "compile = true needs a C++ compiler, and neither g++ nor clang++ is found; "
            "install one, or leave compile out"
        )
    for name in COMPILED:
        model.__dict__[name] = torch.compile(getattr(model, name))
    try:
        yield
    finally:
        for name in COMPILED:
            del model.__dict__[name]
