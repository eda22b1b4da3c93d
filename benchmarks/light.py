"""`python -m benchmarks light`: false alarms after illumination changes, and the gain from a few labelled anomalies.

DAn-VAE's sweep (size of z_a × share of labelled anomalies × share of darkened training images) on PneumoniaMNIST, and a
false-alarm protocol, which the original lacks. All pixels are divided by 1.3 first, so that images made brighter by as
much stay in range; every model is trained and tested on the same images.

test: of the NORMAL images of the training split, counted in file order, those at positions p with p % 5 in 0, 1, 2
train, 3 calibrate and 4 are tested, beside the NORMAL images of the split "val". Labelled anomalies are PNEUMONIA
images of the training split, drawn by the seed. AUROC is that of the test split.
dev: no image that the test form tests on. Of the NORMAL images of the training split those with p % 5 in 0, 1
train, 2 calibrate and 3 are tested; AUROC is that of the latter against PNEUMONIA images of the training split with
p % 5 = 3; labelled anomalies have other p.

Darkened are training images only: the given share of them, each by a factor from U(.7, 1). The tested normal images are
taken as they are, for the baseline, and times .7, 1/1.3, .85, 1.15 and 1.3. The false-alarm rate at α = .05 should not
depend on that factor.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from benchmarks.protocols import Form, check_form
from benchmarks.runner import RESULTS, append, code_version, essence, open_whole, read_results
from benchmarks.tables import deviation, print_table, spread, write_csv
from knowngood.config import nearest, parse_settings
from knowngood.data import ImageSet
from knowngood.errors import SettingsError

if TYPE_CHECKING:
    from knowngood.detector.estimator import Detector

Row = dict[str, Any]
FACTORS = (0.7, 1 / 1.3, 0.85, 1.0, 1.15, 1.3)
ROOM = 1.3
NUISANCE_DIM = 8
CONDITIONED = {"conditioning": {"measure": ("brightness",), "roles": {"brightness": ("model",)}}}
DAN: dict[str, Any] = {
    "model": {
        "name": "vae",
        "objective": {"name": "dan_vae", "nuisance_dim": NUISANCE_DIM, "labelled_share": 0.5},
    },
}
STEADY = {"representation": {"name": "pixels", "illumination": 0.3}}
MODELS: dict[str, dict[str, Any]] = {
    "vae": {"model": {"name": "vae", "objective": "vae"}, "score": "elbo"},
    "dan_vae": DAN,
    "cvae-brightness": {"model": {"name": "vae", "objective": "cvae"}, "score": "elbo", **CONDITIONED},
    "vae-steady": {"model": {"name": "vae", "objective": "vae"}, "score": "elbo", **STEADY},
    "dan_vae-steady": {**DAN, **STEADY},
}
LABELS = ("dan_vae-steady",)  # whose labelled anomalies are swept
SHARED: dict[str, Any] = {
    "representation": {"name": "pixels", "scaling": (0, 255)},
    "calibration": {"select_fraction": 0.2},
    "alpha": 0.05,
}


class Parts(NamedTuple):
    """uint8 images (N, 28, 28)."""

    train: np.ndarray
    calibrate: np.ndarray
    judged: np.ndarray
    anomalies: np.ndarray  # that may be labelled
    test: np.ndarray
    truth: np.ndarray  # (N,) of test


class Run(NamedTuple):
    model: str
    z_a: int
    labelled: float
    dark: float
    seed: int


def main(
    models: tuple[str, ...] = tuple(MODELS),
    z_a: tuple[int, ...] = (24, 56, 120),
    labelled: tuple[float, ...] = (0.0, 0.01, 0.05, 0.1),
    dark: tuple[float, ...] = (0.0, 0.1, 0.5),
    seeds: tuple[int, ...] = (0, 1, 2),
    form: Form = "test",
    epochs: int = 60,
    config: Path | None = None,
    device: str | None = None,
    quick: bool = False,
    show: bool = False,
    out: Path = Path("out/benchmarks/light"),
) -> list[Row]:
    """VAE, DAn-VAE, a CVAE with the brightness as condition, corrected scores. Prints and returns the tables.

    Args:
        z_a: dimensions without the nuisance dimensions; dan_vae has 8 more, the others have z_a + 8 in all.
        labelled: share of labelled anomalies among all training images; swept for dan_vae-steady only.
        dark: share of darkened training images.
        epochs, config, device: settings over those of every model.
        quick: the smallest of everything and two epochs; only checks that it runs.
        show: only the tables of finished measurements; nothing is trained.
    """
    from benchmarks.settings import chosen_settings, merged

    check_form(form)
    unknown = [name for name in models if name not in MODELS]
    if unknown:
        raise SettingsError(f"unknown model '{unknown[0]}'{nearest(unknown[0], list(MODELS))}")
    if quick:
        z_a, labelled, dark, seeds, epochs = z_a[:1], labelled[-1:], dark[-1:], seeds[:1], 2
    shared = merged(SHARED, chosen_settings(None, config, epochs=epochs, device=device))
    parts = parts_of(open_whole("pneumoniamnist"), form)
    done, rows = read_results(out / RESULTS), []
    runs = list(grid(models, z_a, labelled, dark, seeds))
    for number, run in enumerate(runs, 1):
        fixed = {
            "random_state": run.seed,
            "model": {"name": "vae", "latent_dim": run.z_a + NUISANCE_DIM},
        }  # the same for all
        settings = parse_settings(merged(shared, MODELS[run.model], fixed))
        key = key_of([form, *run, settings.model_dump(mode="json")], parts)
        if key not in done and not show:
            out.mkdir(parents=True, exist_ok=True)
            record = {"key": key, "form": form, **run._asdict(), **measure(run, settings, parts)}
            done[key] = append(out / RESULTS, record)
            print(f"[{number}/{len(runs)}] {' '.join(map(str, run))}: {done[key]['auroc']:.3f}", file=sys.stderr)
        if key in done:
            rows.append(done[key])
    write_csv(out / "cells.csv", [flat(row) for row in rows])
    tables = [*false_alarms(rows), *anomalies(rows)]
    write_csv(out / "table.csv", tables)
    return tables


def grid(
    models: tuple[str, ...],
    z_a: tuple[int, ...],
    labelled: tuple[float, ...],
    dark: tuple[float, ...],
    seeds: tuple[int, ...],
) -> Iterator[Run]:
    """All runs, seed by seed; models that do not use labelled anomalies run once for all shares of these."""
    for seed, size, share, model in product(seeds, z_a, dark, models):
        for some in labelled if model in LABELS else (0.0,):
            yield Run(model, size, some, share, seed)


def parts_of(images: ImageSet, form: Form) -> Parts:
    """The images of a form, as the module's docstring says."""
    assert images.splits is not None
    pixels = dimmed(np.stack([images.read(i)[..., 0] for i in range(len(images))]), 1 / ROOM)
    kind, split = images.conditions["class"].astype(str), images.splits.astype(str)

    def those(name: str, part: str, folds: tuple[int, ...] | None = None) -> np.ndarray:
        found = pixels[(kind == name) & (split == part)]
        return found if folds is None else found[np.isin(np.arange(len(found)) % 5, folds)]

    if form == "test":
        learn, calibrate, judged = (those("NORMAL", "train", folds) for folds in ((0, 1, 2), (3,), (4,)))
        judged = np.concatenate([judged, those("NORMAL", "val")])
        normal, anomalous = those("NORMAL", "test"), those("PNEUMONIA", "test")
        teachers = those("PNEUMONIA", "train")
    else:
        learn, calibrate, judged = (those("NORMAL", "train", folds) for folds in ((0, 1), (2,), (3,)))
        normal, anomalous = judged, those("PNEUMONIA", "train", (3,))
        teachers = those("PNEUMONIA", "train", (0, 1, 2))
    truth = np.repeat([0.0, 1.0], [len(normal), len(anomalous)])
    return Parts(learn, calibrate, judged, teachers, np.concatenate([normal, anomalous]), truth)


def fitted(run: Run, settings: Any, parts: Parts, draw: np.random.Generator) -> tuple[Detector, float, int]:
    """A detector fitted to a share of darkened images and to labelled anomalies; seconds, and how many anomalies."""
    from knowngood.detector.estimator import Detector

    train = parts.train.copy()
    darker = draw.permutation(len(train))[: round(run.dark * len(train))]
    train[darker] = dimmed(train[darker], draw.uniform(0.7, 1.0, (len(darker), 1, 1)))
    count = round(run.labelled / (1 - run.labelled) * len(train))
    taught = parts.anomalies[draw.permutation(len(parts.anomalies))[:count]]
    labels = np.repeat([0.0, 1.0], [len(train), len(taught)])
    started = time.perf_counter()
    detector = Detector.from_settings(settings)
    calibration = ImageSet.from_arrays(parts.calibrate)
    detector.fit(np.concatenate([train, taught]), anomalies=labels, calibration_set=calibration)
    return detector, time.perf_counter() - started, count


def measure(run: Run, settings: Any, parts: Parts) -> Row:
    """One fit; false-alarm rates at each factor, the AUROC, and seconds."""
    from knowngood.metrics import roc_auc

    detector, seconds, count = fitted(run, settings, parts, np.random.default_rng([run.seed, 11]))
    flagged = {
        f"{factor:.2f}": float((detector.predict(dimmed(parts.judged, factor)) == -1).mean()) for factor in FACTORS
    }
    auroc = roc_auc(parts.truth, -detector.score_samples(parts.test))
    return {"false_alarms": flagged, "auroc": auroc, "seconds": seconds, "normals": len(parts.train), "taught": count}


def dimmed(images: np.ndarray, factor: Any) -> np.ndarray:
    """uint8 images times a factor, rounded, within range."""
    return np.rint(images * factor).clip(0, 255).astype(np.uint8)


def key_of(content: list[Any], parts: Parts) -> str:
    """Hash (hex) of all that a run depends on."""
    pixels = hashlib.sha256(b"".join(part.tobytes() for part in parts)).hexdigest()
    own = essence(Path(__file__).read_text(encoding="utf-8"))
    text = json.dumps([*content, pixels, own, code_version()], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def flat(row: Row) -> Row:
    """One run as one row of plain values."""
    rates = {f"false_alarms_at_{factor}": rate for factor, rate in row["false_alarms"].items()}
    return {name: value for name, value in row.items() if name not in ("false_alarms", "key")} | rates


def false_alarms(rows: list[Row]) -> list[Row]:
    """Mean rates by model and share of darkened images, over sizes and seeds, without labelled anomalies; printed."""
    groups: dict[tuple[str, float], list[Row]] = {}
    for row in rows:
        if not row["labelled"]:
            groups.setdefault((row["model"], row["dark"]), []).append(row)
    names = [f"{factor:.2f}" for factor in FACTORS]
    found, lines = [], []
    for (model, dark), members in groups.items():
        rates = {name: [row["false_alarms"][name] for row in members] for name in names}
        found.append(
            {"table": "false alarms", "model": model, "dark": dark, "n": len(members)}
            | {f"at_{name}": float(np.mean(values)) for name, values in rates.items()}
            | {f"at_{name}_sd": deviation(values) for name, values in rates.items()}
        )
        shown = [spread(float(np.mean(values)), deviation(values)) for values in rates.values()]
        lines.append([model, f"{dark:g}", str(len(members)), *shown])
    print_table(
        ["model", "darkened", "runs", *(f"× {name}" for name in names)],
        lines,
        "False-alarm rate at α = .05 by brightness",
    )
    return found


def anomalies(rows: list[Row]) -> list[Row]:
    """AUROC by model, size of z_a and share of labelled anomalies, over seeds and darkened shares; printed."""
    groups: dict[tuple[str, int, float], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["model"], row["z_a"], row["labelled"]), []).append(row)
    found, lines = [], []
    for (model, size, share), members in groups.items():
        values = [row["auroc"] for row in members]
        mean, sd = float(np.mean(values)), deviation(values)
        head = {"table": "anomalies", "model": model, "z_a": size, "labelled": share, "n": len(members)}
        found.append({**head, "auroc": mean, "auroc_sd": sd})
        taught = str(members[0]["taught"])
        lines.append([model, str(size), f"{share:g}", taught, str(len(members)), spread(mean, sd)])
    print_table(["model", "z_a", "labelled", "images", "runs", "AUROC"], lines, "AUROC by share of labelled anomalies")
    return found
