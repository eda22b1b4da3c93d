"""`python -m benchmarks inspection`: defects on industrial parts, ours and classical methods on the same features.

`benchmarks.inspection_data` defines training and test images. Ours is the product: `Detector.fit` on the
training images, then `detect` and `anomaly_maps`; "split" is the same with a part of the images set aside to calibrate.
PaDiM, the coreset kNN, one Gaussian for all locations and the subspace residual get the features of all training
images, computed once for all of them; their decisions are those of a second fit, without a fifth of the images, which
calibrates. Contrast gets the images alone.

`bottle+tile` is one model for two products, ours alone: a baseline would be fitted to each, as in the rows of these.
"""

from __future__ import annotations

import hashlib
import json
import sys
import traceback
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.inspection_data import BOTH, InspectionSet, inspection_set
from benchmarks.inspection_measures import METHODS, Subject, measure
from benchmarks.inspection_tables import by_kind, print_tables, rows_of, summary
from benchmarks.protocols import Form, check_form
from benchmarks.runner import RESULTS, append, code_version, essence, read_results
from benchmarks.tables import write_csv
from knowngood.config import FeatureOptions, Settings, nearest, parse_settings
from knowngood.errors import KnowngoodError, SettingsError

Row = dict[str, Any]
SETS = ("bottle", "tile", BOTH, "x-ray")
OURS: dict[str, Any] = {"representation": "features"}
UNSEEDED = ("contrast",)  # draws nothing
NUMBERS_HERE = (
    "inspection.py",
    "inspection_measures.py",
    "inspection_data.py",
    "inspection_parts.py",
    "inspection_tray.py",
    "inspection_views.py",
    "inspection_baselines.py",
    "../src/knowngood/evaluation/synthetic_defects.py",
    "../src/knowngood/evaluation/defect_kinds.py",
)
QUICK_TRAIN, QUICK_TEST = 100, 24  # images of a product, and test images of each label


class Run(NamedTuple):
    set: str
    method: str
    seed: int | None  # None: another would change nothing


def main(
    sets: tuple[str, ...] = SETS,
    methods: tuple[str, ...] = tuple(METHODS),
    seeds: tuple[int, ...] = (0, 1, 2),
    form: Form = "test",
    epochs: int | None = None,
    config: Path | None = None,
    device: str | None = None,
    quick: bool = False,
    show: bool = False,
    out: Path = Path("out/benchmarks/inspection"),
) -> list[Row]:
    """Image and pixel metrics, false alarms, seconds and sizes. Prints and returns the table.

    Args:
        sets: bottle, tile, bottle+tile, x-ray, tray, tray-mixed, washer, bracket, gear, label, also in a view
            (bottle@lying); or folders with splits "train" and "test" in MVTec's layout.
        epochs, config, device: settings for ours over `features: efficientnet_lite0`, `config` a YAML file. The
            baselines take features as they say.
        quick: a few images of the dev form, one seed and one epoch; only checks that it runs.
        show: only the tables of finished measurements; nothing is measured.
    """
    from benchmarks.settings import chosen_settings, merged

    check_form(form)
    unknown = [name for name in methods if name not in METHODS]
    if unknown:
        raise SettingsError(f"unknown method '{unknown[0]}'{nearest(unknown[0], list(METHODS))}")
    given = merged(OURS, chosen_settings(None, config, epochs=epochs, device=device))
    if quick:
        form, seeds, given = "dev", seeds[:1], merged({"training": {"epochs": 1}}, given)
    settings = parse_settings(given)
    if not isinstance(settings.representation, FeatureOptions):
        raise SettingsError("the baselines need features; set representation: features")
    done, records = read_results(out / RESULTS), []
    planned = [(source, each) for source in dict.fromkeys(sets) for each in ([s] for s in seeds)]
    if form == "test":  # whose data are the same for every seed
        planned = [(source, list(seeds)) for source in dict.fromkeys(sets)]
    total = sum(len(list(grid(source, methods, some, form))) for source, some in planned)
    number = 0
    for source, some in planned:
        parts = inspection_set(source, form=form, seed=some[0])
        runs = list(grid(source, methods, some, form))
        if isinstance(parts, str):
            number += len(runs)
            records.append({"form": form, "set": source, "method": "all", "seed": None, "error": parts})
            continue
        subject = Subject(thinned(parts) if quick else parts, settings)
        data = digest(subject.parts)
        for run in runs:
            number += 1
            key = key_of(run, form, settings, data)
            if key in done or not show:
                heading = {"key": key, "form": form, **run._asdict()}
                record = done.get(key) or _attempt(run, heading, subject, out)
                records.append(record)
                print(f"[{number}/{total}] {' '.join(map(str, run))}: {_said(record, key in done)}", file=sys.stderr)
    write_csv(out / "cells.csv", rows_of(records))
    table, kinds = summary(records), by_kind(records)
    write_csv(out / "table.csv", table)
    write_csv(out / "kinds.csv", kinds)
    print_tables(table, kinds, form)
    return table


def grid(source: str, methods: tuple[str, ...], seeds: list[int], form: Form) -> Iterator[Run]:
    """All runs on the data of these seeds, method by method."""
    for method in methods:
        if source == BOTH and method != "ours":
            continue
        once = form == "test" and method in UNSEEDED
        yield from (Run(source, method, seed) for seed in ([None] if once else seeds))


def thinned(parts: InspectionSet) -> InspectionSet:
    """A few images of each product and label, evenly spaced."""

    def some(groups: list[Any], most: int) -> np.ndarray:
        every = [[i for i, one in enumerate(groups) if one == group] for group in dict.fromkeys(groups)]
        spaced = [np.array(each)[np.unique(np.linspace(0, len(each) - 1, most).astype(int))] for each in every]
        return np.sort(np.concatenate(spaced))

    train, test = ((images.conditions.get("product", [""] * len(images))) for images in (parts.train, parts.test))
    learned = some(list(train), QUICK_TRAIN)
    judged = some(list(zip(test, parts.labels, strict=True)), QUICK_TEST)
    return replace(
        parts,
        train=parts.train[learned],
        test=parts.test[judged],
        masks=tuple(parts.masks[i] for i in judged),
        classes=parts.classes[judged],
    )


def key_of(run: Run, form: Form, settings: Settings, data: str) -> str:
    """Hash (hex) of all that a run depends on."""
    shown = settings.model_dump(mode="json")
    if run.method not in ("ours", "split"):
        needed = () if run.method == "contrast" else ("representation", "alpha")
        shown = {name: shown[name] for name in needed}
    text = json.dumps([*run, form, shown, data, _own_code(), code_version()], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


@cache
def _own_code() -> list[str]:
    here = Path(__file__).parent
    return [essence((here / name).read_text(encoding="utf-8")) for name in NUMBERS_HERE]


def digest(parts: InspectionSet) -> str:
    """Hash (hex) of images, masks and classes."""
    digest = hashlib.sha256(f"{parts.train.fingerprint()} {parts.test.fingerprint()}".encode())
    for mask, kind in zip(parts.masks, parts.classes, strict=True):
        digest.update(f"\n{kind}\n".encode() + (b"none" if mask is None else np.packbits(mask).tobytes()))
    return digest.hexdigest()


def _attempt(run: Run, heading: Row, subject: Subject, out: Path) -> Row:
    """The record, written to the results; or one with `error`, not written, so that the next run tries again."""
    try:
        found = measure(run.method, subject, run.seed or 0)
    except KnowngoodError as error:
        return {**heading, "error": str(error)}
    except Exception as error:  # one measurement of many: the others go on
        traceback.print_exc()
        return {**heading, "error": f"{type(error).__name__}: {error}"}
    out.mkdir(parents=True, exist_ok=True)
    return append(out / RESULTS, {**heading, **found})


def _said(record: Row, before: bool) -> str:
    if "error" in record:
        return record["error"]
    told = ", ".join(f"{row['image_auroc']:.4f}" for row in record["rows"])
    return f"image AUROC {told}" + (", done before" if before else "")
