"""Whether an error says that memory ran out."""

from __future__ import annotations

import torch

_SAID = ("DefaultCPUAllocator", "out of memory")  # by RuntimeErrors of torch on the CPU and on MPS


def out_of_memory(error: BaseException) -> bool:
    """Whether NumPy or torch, on any device, could not allocate."""
    said = isinstance(error, RuntimeError) and any(words in str(error) for words in _SAID)
    return said or isinstance(error, MemoryError | torch.OutOfMemoryError)
