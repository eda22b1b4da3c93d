"""`knowngood benchmark lineage`: one normal class, 1,000 images to train on, 1,000 + 1,000 to test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from knowngood.benchmarks import protocols
from knowngood.benchmarks.methods import Method, baselines, chosen_settings
from knowngood.benchmarks.protocols import Form
from knowngood.benchmarks.runner import run
from knowngood.benchmarks.tables import print_summary, write_tables

FORMS = {"test": "the lineage's protocol", "dev": "its dev form, for choosing settings"}


def main(
    datasets: tuple[str, ...] = ("mnist", "fashion-mnist"),
    presets: tuple[str, ...] = ("one-class-conv", "one-class-conv-z2"),
    normal: str = "1",
    seeds: tuple[int, ...] = (0, 1, 2),
    form: Form = "test",
    config: Path | None = None,
    epochs: int | None = None,
    device: str | None = None,
    out: Path = Path("out/benchmarks/lineage"),
) -> list[dict[str, Any]]:
    """The lineage's nets and settings, our defaults and baselines, on `protocols.lineage`.

    Prints and returns the table.
    """
    methods = [
        Method(name, chosen_settings(name, config, epochs=epochs, device=device), command="knowngood benchmark lineage")
        for name in presets
    ]
    methods.append(Method("our defaults", chosen_settings(None, config, objective="vae", epochs=epochs, device=device)))
    methods += baselines(names=("low contrast", "high contrast", "pixel 5-NN", "PPCA 32"))
    cells = [cell for name in datasets for cell in protocols.lineage(name, normal, seeds=seeds, form=form)]
    rows = write_tables(run(cells, methods, out, reports=True), out)
    print_summary(rows, f"Class {normal} normal, 1,000 to train, 1,000 + 1,000 to test: {FORMS[form]}")
    return rows
