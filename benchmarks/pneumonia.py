"""`python -m benchmarks pneumonia`: chest X-rays, trained on NORMAL only, with contrast as a baseline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks import protocols
from benchmarks.methods import Method, baselines
from benchmarks.protocols import Form
from benchmarks.recipes import PLAIN_VAE
from benchmarks.runner import run
from benchmarks.settings import chosen_settings, merged, shaped
from benchmarks.tables import print_summary, write_tables

FOLDERS, SMALL = "chest-xray-224", "pneumoniamnist"
DEFAULTS: dict[str, dict[str, Any]] = {FOLDERS: {"image_size": 64, "grey": True}, SMALL: {}}
PRESETS = {FOLDERS: ("chest-xray",), SMALL: ()}


def main(
    sources: tuple[str, ...] = (FOLDERS, SMALL),
    seeds: tuple[int, ...] = (0,),
    form: Form = "test",
    config: Path | None = None,
    epochs: int | None = None,
    device: str | None = None,
    jobs: int = 1,
    quick: bool = False,
    out: Path = Path("out/benchmarks/pneumonia"),
) -> list[dict[str, Any]]:
    """A VAE of pixels with the library's defaults and two scores, the lineage's preset, and baselines.

    SSIM was the best score of pixels on the dev forms of both sources; `benchmark accuracy` has models of HOG.

    Prints and returns the table.

    Args:
        sources: the folders train|val|test / NORMAL|PNEUMONIA at 64 px, grey; and PneumoniaMNIST at 28 px. Another
            name is a folder of that layout.
        config: settings over the defaults.
        jobs: number of processes that measure at the same time.
        quick: two epochs; only checks that it runs.
    """
    given = {"epochs": 2 if quick else epochs, "device": device}
    results = []
    for source in sources:
        pixels = DEFAULTS.get(source, DEFAULTS[FOLDERS])
        settings = merged(shaped(PLAIN_VAE, pixels), chosen_settings(None, config, **given))
        command = f"python -m benchmarks pneumonia --sources {source}"
        ssim = {**settings, "score": {"name": "reconstruction", "distance": "ssim"}}
        methods = [
            Method("knowngood, SSIM", ssim, command=command),
            Method("knowngood, ELBO", settings, command=command),
        ]
        methods += [
            Method(f"{name} preset", chosen_settings(name, **given), command=command)
            for name in PRESETS.get(source, PRESETS[FOLDERS])
        ]
        methods += baselines({"representation": {"name": "pixels", **pixels}})
        results += run(protocols.pneumonia(source, seeds=seeds, form=form), methods, out, reports=True, jobs=jobs)
    rows = write_tables(results, out)
    print_summary(rows, f"Chest X-rays, trained on NORMAL only, {form} form")
    return rows
