"""`python -m benchmarks leave-one-out`: one class is the anomaly; those of the others are known in training only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks import protocols
from benchmarks.methods import Method, baselines
from benchmarks.protocols import Form
from benchmarks.recipes import INFER
from benchmarks.runner import run
from benchmarks.settings import chosen_settings, merged
from benchmarks.tables import print_pivot, print_summary, write_tables

QUICK_EPOCHS, QUICK_LIMIT = 2, 300


def main(
    dataset: str = "mnist",
    digits: tuple[str, ...] = ("0", "1", "4", "9"),
    objectives: tuple[str, ...] = ("vae", "beta_vae", "cvae", "dcvae"),
    seeds: tuple[int, ...] = (0,),
    form: Form = "test",
    preset: str | None = None,
    config: Path | None = None,
    score: str | None = None,
    epochs: int | None = None,
    device: str | None = None,
    jobs: int = 1,
    quick: bool = False,
    out: Path = Path("out/benchmarks/leave-one-out"),
) -> list[dict[str, Any]]:
    """Objectives with all other settings equal, scored by the ELBO, and baselines, on `protocols.leave_one_out`.

    Prints and returns the table.

    Args:
        digits: the classes to hold out, one after the other.
        preset, config, score: settings other than the defaults, the same for all objectives.
        jobs: number of processes that measure at the same time.
        quick: two epochs on 300 images, 600 tested; only checks that it runs; its numbers mean nothing.
    """
    fixed = {"score": score, "device": device, "epochs": QUICK_EPOCHS if quick else epochs}
    methods = [
        Method(
            name,
            merged(
                {"score": "elbo", **INFER},
                chosen_settings(preset, config, **fixed),
                {"model": {"name": "vae", "objective": name}},
            ),
            command=f"python -m benchmarks leave-one-out --dataset {dataset}",
        )
        for name in objectives
    ]
    methods += baselines(chosen_settings(preset, config), names=("pixel 5-NN", "PPCA 32"))
    most = QUICK_LIMIT if quick else None
    cells = protocols.leave_one_out(dataset, digits, seeds=seeds, form=form, train_size=most, test_size=most)
    rows = write_tables(run(cells, methods, out, jobs=jobs), out)
    print_summary(rows, f"Leave one class of {dataset} out, {form} form{', quick' if quick else ''}")
    print_pivot(rows, "anomalous", "AUROC by the class held out")
    return rows
