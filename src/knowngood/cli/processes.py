"""Which of the processes of one run this is, as what started them says: lightning, torchrun or SLURM."""

from __future__ import annotations

import os


def follows() -> bool:
    """Whether this process is not the first one of the run, which alone locks, writes and prints."""
    for names in (("RANK",), ("NODE_RANK", "LOCAL_RANK"), ("SLURM_PROCID",)):
        if said := [os.environ[name] for name in names if name in os.environ]:
            return any(rank != "0" for rank in said)
    return False
