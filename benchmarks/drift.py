"""`python -m benchmarks drift`: does disentangling let a model ignore a drift that was declared harmless?

Models are trained on normal images whose factors are known (`drift_data`). At test the factors that are declared
harmless are outside of their training range, in normal and in anomalous images. Every model gives a surprise for each
of its dimensions and one for what they do not explain (`drift_models`): KL and reconstruction term of a VAE, ½y² and
the residual of a PPCA. The dimensions are matched to the factors on the calibration images, one to one, by mutual
information; for dan_vae those of the harmless factors are z_n. Scores:

- plain: −log p, the sum of all.
- without: the same without the dimensions of the harmless factors.
- codes, codes without: as these two, but only the dimensions.
- features: plain, as by default; without, with the illumination corrected (± 30 %).

AUROC is of drifted normal images against images that drifted and in which another factor moved, or that have a
defect. False alarms are the share of drifted normal images with p ≤ .05, p from the calibration images. "Names the
factor": of the images in which a factor moved, the share in which the dimension of that factor is the most surprising
of those that are not declared harmless. "Names the drift": of the drifted normal images, the share in which a
dimension of a harmless factor is the most surprising of all. Both after the mean surprise of the calibration images.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import drift_data, drift_models
from benchmarks.drift_data import WORLDS, World, images_of
from benchmarks.drift_models import FEATURES, MODELS, PPCA, WAYS, matched, not_applicable, surprises, vae_settings
from benchmarks.protocols import Form, check_form
from benchmarks.runner import RESULTS, append, code_version, essence, read_results
from benchmarks.tables import deviation, print_table, spread, write_csv
from knowngood.calibration import p_values
from knowngood.config import nearest, parse_settings
from knowngood.data import ImageSet
from knowngood.errors import DataError, SettingsError
from knowngood.metrics import roc_auc

Row = dict[str, Any]
ALPHA = 0.05
COUNTS = {"train": 1000, "calibrate": 300, "normal": 200, "drifted": 200, "factor": 200, "defect": 200}
FEW = {"train": 120, "calibrate": 60, "normal": 60, "drifted": 60, "factor": 60, "defect": 60}  # for features
SIDE = 192  # of photographs for features
SCORES = ("plain", "without", "codes", "codes without")
TABLES = {
    "factor": "AUROC, another factor moved",
    "defect": "AUROC, local defect",
    "false_alarms": "False-alarm rate on drifted normal images, α = .05",
    "in_range": "False-alarm rate on normal images without drift, α = .05",
}
NAMES = {"names_factor": "Names the factor that moved", "names_drift": "Names the drift"}


def main(
    worlds: tuple[str, ...] = tuple(WORLDS),
    models: tuple[str, ...] = MODELS,
    seeds: tuple[int, ...] = (0, 1),
    form: Form = "test",
    epochs: int = 80,
    quick: bool = False,
    show: bool = False,
    out: Path = Path("out/benchmarks/drift"),
) -> list[Row]:
    """Scores with and without the dimensions of harmless factors. Prints the tables; returns the measurements.

    Args:
        epochs: of every VAE, 8 steps each.
        quick: one seed, two epochs, few images; only checks that it runs.
        show: only the tables of finished measurements; nothing is trained.
    """
    check_form(form)
    for names, known in ((worlds, WORLDS), (models, MODELS)):
        unknown = [name for name in names if name not in known]
        if unknown:
            raise SettingsError(f"unknown name '{unknown[0]}'{nearest(unknown[0], list(known))}")
    counts, few = COUNTS, FEW
    if quick:
        seeds, epochs = seeds[:1], 2
        counts = few = {**dict.fromkeys(COUNTS, 24), "train": 120}
    out.mkdir(parents=True, exist_ok=True)
    done, rows = read_results(out / RESULTS), []
    for seed in seeds:
        for name in worlds:
            for model in models:
                reason = not_applicable(model, WORLDS[name])
                head: Row = {"world": name, "model": model, "seed": seed, "form": form}
                if reason:
                    rows.append({**head, "error": reason})
                    continue
                sizes = few if model == FEATURES else counts
                key = key_of([head, epochs, sizes, drift_models.SHARED])
                if key not in done and not show:
                    try:
                        found = measure(model, WORLDS[name], form, seed, epochs, sizes)
                    except DataError as error:
                        rows.append({**head, "error": f"missing: {error}"})
                        continue
                    done[key] = append(out / RESULTS, {"key": key, "code": code_version(), **head, **found})
                    print(f"{name}, {model}, seed {seed}: {found['seconds']:.0f} s", file=sys.stderr, flush=True)
                rows.append(done.get(key, {**head, "error": "not measured yet"}))
    write_csv(out / "cells.csv", [flat(row) for row in rows])
    write_csv(out / "table.csv", tables(rows, worlds))
    return rows


def measure(model: str, world: World, form: Form, seed: int, epochs: int, counts: dict[str, int]) -> Row:
    """One fit: the numbers of every score, and which factors are named."""
    large = model == FEATURES
    images = _images(world.name, form, seed, tuple(_at_most(world, counts, form).items()), large)
    started = time.process_time()
    if large:
        scores = {way: of_features(images, tolerance, seed) for way, tolerance in WAYS.items()}
        named = dict(zip(("plain", "without"), scores.values(), strict=True))
        return {"scores": {way: numbers(found) for way, found in named.items()}, **_spent(started)}
    settings = {} if model == PPCA else vae_settings(model, world, seed, epochs)
    found, nuisance = surprises(model, world, images, settings)
    dims = len(found["calibrate"].codes.T)
    harmless, moved = dimensions(world, found["calibrate"].codes, images["calibrate"].conditions, nuisance)
    kept = [d for d in range(dims) if d not in harmless]
    by_score = {
        "plain": {part: some.rest + some.dims.sum(1) for part, some in found.items()},
        "without": {part: some.rest + some.dims[:, kept].sum(1) for part, some in found.items()},
        "codes": {part: some.dims.sum(1) for part, some in found.items()},
        "codes without": {part: some.dims[:, kept].sum(1) for part, some in found.items()},
    }
    usual = found["calibrate"].dims.mean(axis=0)
    most = np.array(kept)[(found["factor"].dims - usual)[:, kept].argmax(axis=1)]
    drifted = (found["drifted"].dims - usual).argmax(axis=1)
    return {
        "scores": {name: numbers(values) for name, values in by_score.items()},
        "names_factor": float((most == moved).mean()),
        "names_drift": float(np.isin(drifted, list(harmless)).mean()),
        "chance_factor": 1 / len(kept),
        "chance_drift": len(harmless) / dims,
        **_spent(started),
    }


def dimensions(world: World, codes: np.ndarray, columns: Any, nuisance: int) -> tuple[set[int], int]:
    """The dimensions of codes (N, D) for the harmless factors, and that of the factor that moves."""
    if not nuisance:
        found = matched(codes, {name: columns[name] for name in world.inside if name in columns})
        return {found[name] for name in world.harmless}, found[world.moved]
    rest = codes.shape[1] - nuisance
    others = [name for name in world.inside if name in columns and name not in world.harmless]
    found = matched(codes[:, :rest], {name: columns[name] for name in others})
    return set(range(rest, codes.shape[1])), found[world.moved]


def of_features(images: dict[str, ImageSet], tolerance: float | None, seed: int) -> dict[str, np.ndarray]:
    """Anomaly scores of the recipe for photographs, with or without corrected illumination."""
    from knowngood.detector.estimator import Detector

    representation = {"name": "features", "image_size": SIDE, "illumination": tolerance, "scaling": (0, 255)}
    calibration = {"method": "split", "select_fraction": 0.2}
    roles = {"condition": ("model", "stratify")} if "condition" in images["train"].conditions else {}
    settings = {
        "representation": representation,
        "calibration": calibration,
        "conditioning": {"roles": roles},
        "device": "cpu",
        "random_state": seed,
    }
    detector = Detector.from_settings(parse_settings(settings))
    detector.fit(images["train"], calibration_set=images["calibrate"])
    return {part: -detector.score_samples(some) for part, some in images.items() if part != "train"}


def numbers(scores: dict[str, np.ndarray]) -> Row:
    """AUROC and false alarms of one score, from its values on each part."""
    found: Row = {}
    for part in ("factor", "defect"):
        truth = np.repeat([0.0, 1.0], [len(scores["drifted"]), len(scores[part])])
        found[part] = roc_auc(truth, np.concatenate([scores["drifted"], scores[part]]))
    for name, part in (("false_alarms", "drifted"), ("in_range", "normal")):
        found[name] = float((p_values(scores["calibrate"], scores[part]) <= ALPHA).mean())
    return found


def tables(rows: Sequence[Row], worlds: Sequence[str]) -> list[Row]:
    """Means over seeds, a line a model and score, a column a world; printed."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["model"], row["world"]), []).append(row)
    models = list(dict.fromkeys(row["model"] for row in rows))
    found: list[Row] = []
    for measure_, title in (TABLES | NAMES).items():
        lines = []
        for model in models:
            for score in SCORES if measure_ in TABLES else (None,):
                if model == FEATURES and score in SCORES[2:]:
                    continue
                cells = [_cell(groups.get((model, world), []), measure_, score) for world in worlds]
                lines.append([model, *([score] if score else []), *(text for text, _ in cells)])
                means = {world: mean for world, (_, mean) in zip(worlds, cells, strict=True)}
                found.append({"table": title, "model": model, "score": score, **means})
        print_table(["model", *(["score"] if measure_ in TABLES else []), *worlds], lines, title)
    for reason in dict.fromkeys(f"{row['world']}, {row['model']}: {row['error']}" for row in rows if "error" in row):
        print(f"n/a: {reason}")
    return found


def _cell(rows: Sequence[Row], what: str, score: str | None) -> tuple[str, float | None]:
    values = [row["scores"][score][what] if score else row.get(what) for row in rows if "error" not in row]
    known = [value for value in values if value is not None]
    if not known:
        return "n/a", None
    return spread(float(np.mean(known)), deviation(known)), float(np.mean(known))


def flat(row: Row) -> Row:
    """One measurement as one row of plain values."""
    numbers_ = {f"{what}, {score}": v for score, found in row.get("scores", {}).items() for what, v in found.items()}
    return {name: value for name, value in row.items() if name not in ("scores", "code")} | numbers_


def key_of(content: list[Any]) -> str:
    """Hash (hex) of all that a measurement depends on."""
    files = (__file__, drift_data.__file__, drift_models.__file__)
    own = [essence(Path(str(file)).read_text(encoding="utf-8")) for file in files]
    text = json.dumps([*content, own, code_version()], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


@lru_cache(maxsize=1)
def _images(name: str, form: Form, seed: int, counts: tuple[tuple[str, int], ...], large: bool) -> dict[str, ImageSet]:
    """The images of a world, held for the models that follow."""
    world = WORLDS[name]
    return images_of(world, form, seed, dict(counts), SIDE if large else world.small, not large)


def _at_most(world: World, counts: dict[str, int], form: Form) -> dict[str, int]:
    """Calibration images as many as there are different ones."""
    most = {"bottle": 40 if form == "dev" else 62, "tile": 150 if form == "dev" else 228, "x-ray": 240}
    return {**counts, "calibrate": min(counts["calibrate"], most.get(world.name, counts["calibrate"]))}


def _spent(started: float) -> Row:
    return {"seconds": time.process_time() - started}
