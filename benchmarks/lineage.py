"""`python -m benchmarks lineage`: settings of earlier work under its own protocols, with ours and baselines."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from benchmarks import protocols
from benchmarks.methods import Method, baselines
from benchmarks.protocols import Cell, Form
from benchmarks.recipes import PLAIN_VAE
from benchmarks.runner import run
from benchmarks.settings import chosen_settings, merged, shaped
from benchmarks.tables import print_summary, write_tables

FORMS = {"test": "the lineage's protocol", "dev": "its dev form, for choosing settings"}
BASELINES = ("low contrast", "high contrast", "pixel 5-NN", "PPCA 32")
X_RAYS = "chest-xray-224"

Work = tuple[list[Cell], list[Method]]


@dataclass(frozen=True)
class Chosen:
    """The options that all parts share."""

    datasets: tuple[str, ...]
    presets: tuple[str, ...]
    normal: str
    seeds: tuple[int, ...]
    form: Form
    config: Path | None
    over: dict[str, Any]  # settings over those of every method

    def ours(self, pixels: Mapping[str, Any] | None = None) -> Method:
        """The library's defaults with the VAE, scored by its ELBO."""
        return Method(
            "our defaults, ELBO",
            merged(shaped(PLAIN_VAE, pixels or {}), chosen_settings(None, self.config, **self.over)),
        )


def main(
    datasets: tuple[str, ...] = ("mnist", "fashion-mnist"),
    presets: tuple[str, ...] = ("one-class-conv", "one-class-conv-z2"),
    normal: str = "1",
    seeds: tuple[int, ...] = (0, 1, 2),
    form: Form = "test",
    config: Path | None = None,
    epochs: int | None = None,
    device: str | None = None,
    jobs: int = 1,
    part: Literal["one-class", "chest-xray", "all"] = "one-class",
    out: Path = Path("out/benchmarks/lineage"),
) -> list[dict[str, Any]]:
    """The lineage's nets and settings, our defaults and baselines.

    Prints and returns the table.

    Args:
        datasets, presets, normal: of the part one-class.
        jobs: number of processes that measure at the same time.
        part: "one-class", convolutional VAEs on `protocols.lineage`; "chest-xray", the preset of that name on
            `protocols.pneumonia`, at 64 px with 200 dimensions; or "all".
    """
    chosen = Chosen(datasets, presets, normal, seeds, form, config, {"epochs": epochs, "device": device})
    results = []
    for name in PARTS if part == "all" else (part,):
        cells, methods = PARTS[name](chosen)
        results += run(cells, methods, out, reports=True, jobs=jobs)
    rows = write_tables(results, out)
    print_summary(rows, f"{TITLES[part].format(normal=normal)}: {FORMS[form]}")
    return rows


def one_class(chosen: Chosen) -> Work:
    """One class of MNIST or Fashion-MNIST: 1,000 images to train on, 1,000 + 1,000 to test."""
    methods = [
        Method(name, chosen_settings(name, chosen.config, **chosen.over), command="python -m benchmarks lineage")
        for name in chosen.presets
    ]
    seeds, form = chosen.seeds, chosen.form
    cells = [
        cell for name in chosen.datasets for cell in protocols.lineage(name, chosen.normal, seeds=seeds, form=form)
    ]
    return cells, [*methods, chosen.ours(), *baselines(names=BASELINES)]


def chest_xray(chosen: Chosen) -> Work:
    """Chest X-rays, NORMAL only, at 64 px in the files' three channels, as the lineage had them."""
    preset = chosen_settings("chest-xray", chosen.config, **chosen.over)
    pixels = {"image_size": preset["representation"]["image_size"]}
    methods = [
        Method("chest-xray", preset, command="python -m benchmarks lineage --part chest-xray"),
        chosen.ours(pixels),
        *baselines({"representation": {"name": "pixels", **pixels}}, names=BASELINES),
    ]
    return protocols.pneumonia(X_RAYS, seeds=chosen.seeds, form=chosen.form), methods


PARTS: dict[str, Callable[[Chosen], Work]] = {"one-class": one_class, "chest-xray": chest_xray}
TITLES = {
    "one-class": "Class {normal} normal, 1,000 to train, 1,000 + 1,000 to test",
    "chest-xray": "Chest X-rays, trained on NORMAL only",
    "all": "Class {normal} normal, 1,000 to train, 1,000 + 1,000 to test; chest X-rays, trained on NORMAL only",
}
