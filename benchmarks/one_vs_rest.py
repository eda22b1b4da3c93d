"""`python -m benchmarks one-vs-rest`: each class in turn is normal, all others are anomalous."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks import protocols
from benchmarks.methods import Method, baselines
from benchmarks.protocols import TEN, Form
from benchmarks.runner import run
from benchmarks.settings import chosen_settings
from benchmarks.tables import print_pivot, print_summary, write_tables


def main(
    dataset: str = "mnist",
    normal: tuple[str, ...] = TEN,
    seeds: tuple[int, ...] = (0,),
    form: Form = "test",
    preset: str | None = None,
    config: Path | None = None,
    epochs: int | None = None,
    device: str | None = None,
    jobs: int = 1,
    quick: bool = False,
    out: Path = Path("out/benchmarks/one-vs-rest"),
) -> list[dict[str, Any]]:
    """A VAE and baselines on `protocols.one_vs_rest`; prints and returns the table.

    Args:
        jobs: number of processes that measure at the same time.
        quick: two epochs.
    """
    base = {} if preset or config else {"model": "vae"}
    settings = chosen_settings(preset, config, epochs=2 if quick else epochs, device=device, **base)
    methods = [
        Method(preset or "knowngood", settings, command="python -m benchmarks one-vs-rest"),
        *baselines(settings),
    ]
    cells = protocols.one_vs_rest(dataset, normal, seeds=seeds, form=form)
    rows = write_tables(run(cells, methods, out, jobs=jobs), out)
    print_summary(rows, f"One class of {dataset} normal, the rest anomalous, {form} form")
    print_pivot(rows, "normal", "AUROC by normal class")
    return rows
