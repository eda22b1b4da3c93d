"""Which of the processes of one run this is, as what started them says: lightning, torchrun or SLURM."""

from __future__ import annotations

import os


def follows() -> bool:
    """Whether this process is not the first one of the run, which alone locks, writes and prints."""
    found = next((names for names in (("RANK",), ("NODE_RANK", "LOCAL_RANK"), ("SLURM_PROCID",)) if _said(names)), ())
    return any(os.environ.get(name, "0") != "0" for name in found)


def _said(names: tuple[str, ...]) -> bool:
    return any(name in os.environ for name in names)
