"""`python -m benchmarks corruptions`: other light, cameras and poses than those fitted to, at one fixed threshold.

Data as for `inspection_data`. A fifth of the normal training images is set aside; every method is fitted to the others,
and calibrates split-conformally on that fifth, clean. Then test images are corrupted as `corruption_kinds` says, the
normal ones and those with defects alike. A method that stands a corruption keeps both rates: its false alarms near α,
and its detections. No method has seen a corruption.

`illumination` is ours with the option that corrects the illumination; compare it by `--methods ours,illumination
--kinds darker,brighter`.
"""

from __future__ import annotations

import hashlib
import json
import sys
import warnings
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.corruption_curves import write_curves
from benchmarks.corruption_kinds import KINDS, STRONGEST, corrupted, defined
from benchmarks.inspection import OURS, digest, thinned
from benchmarks.inspection_baselines import CoresetNeighbours, FeatureBaseline, OneGaussian, Padim, SubspaceResidual
from benchmarks.inspection_data import inspection_set
from benchmarks.inspection_measures import SET_ASIDE, calibrated, square_features
from benchmarks.inspection_parts import InspectionSet
from benchmarks.protocols import Form, check_form
from benchmarks.runner import RESULTS, append, code_version, essence, read_results
from benchmarks.settings import chosen_settings, merged
from benchmarks.tables import print_table, write_csv
from knowngood.calibration import false_alarm_interval, split_normals
from knowngood.config import nearest, parse_settings
from knowngood.data import ImageSet
from knowngood.detector.estimator import Detector
from knowngood.detector.scoring import READERS
from knowngood.errors import BatchWarning, SettingsError
from knowngood.metrics import roc_auc
from knowngood.representations import Features, cached_features

Row = dict[str, Any]
Judge = Callable[["Shown"], tuple[np.ndarray, np.ndarray]]  # scores (M,) and which are flagged (M,)
NONE = "none"
PRODUCTS: dict[str, dict[str, Any]] = {
    "ours": {},
    "illumination": {"representation": {"name": "features", "illumination": 0.3}},
}
BASELINES: dict[str, Callable[[int], FeatureBaseline]] = {
    "padim": lambda seed: Padim(),
    "knn": lambda seed: CoresetNeighbours(seed=seed),
    "gaussian": lambda seed: OneGaussian(),
    "subspace": lambda seed: SubspaceResidual(),
}
NUMBERS_HERE = (
    "corruptions.py",
    "corruption_kinds.py",
    "inspection_measures.py",
    "inspection_baselines.py",
    "settings.py",
)
RATES = {"false_alarms": "false alarms", "detected": "detected", "image_auroc": "image AUROC"}


def main(
    sets: tuple[str, ...] = ("bottle", "tile"),
    methods: tuple[str, ...] = ("ours", "padim", "knn"),
    kinds: tuple[str, ...] = tuple(KINDS),
    seeds: tuple[int, ...] = (0,),
    images: int = 40,
    form: Form = "test",
    alpha: float = 0.05,
    config: Path | None = None,
    device: str | None = None,
    quick: bool = False,
    show: bool = False,
    out: Path = Path("out/benchmarks/corruptions"),
) -> list[Row]:
    """False alarms, detections and image AUROC by corruption and strength. Prints and returns the table.

    Args:
        sets: as `inspection` takes them; one that is missing is reported and skipped.
        methods: ours, illumination, padim, knn, gaussian, subspace.
        kinds: of `corruption_kinds`; what is not defined for the channels of a set is left out.
        images: normal and as many anomalous test images, evenly spaced among all.
        config, device: settings for ours over `features`, `config` a YAML file.
        quick: a few images of the dev form and one corruption; only checks that it runs.
        show: only the tables of finished measurements; nothing is measured.
    """
    check_form(form)
    for names, known in ((methods, [*PRODUCTS, *BASELINES]), (kinds, list(KINDS))):
        unknown = next((name for name in names if name not in known), None)
        if unknown is not None:
            raise SettingsError(f"unknown '{unknown}'{nearest(unknown, known)}; expected some of {', '.join(known)}")
    if images < 1:
        raise SettingsError(f"images = {images}; expected at least 1 normal and 1 anomalous image")
    if quick:
        form, images, seeds, kinds = "dev", 4, seeds[:1], kinds[:1]
    given = merged(OURS, chosen_settings(None, config, alpha=alpha, device=device))
    done, records = read_results(out / RESULTS), []
    for source in sets:
        for seed in seeds:
            parts = inspection_set(source, form=form, seed=seed)
            if isinstance(parts, str):
                print(f"{source}: {parts}", file=sys.stderr)
                continue
            bench = Bench(thinned(parts) if quick else parts, given, seed)
            test = bench.chosen(images)
            data = digest(bench.parts)
            channels = int(test.shapes()[0][2])
            for kind in (NONE, *(kind for kind in kinds if defined(kind, channels))):
                keys = {method: _key([source, form, seed, method, kind, images], bench, data) for method in methods}
                missing = [] if show else [method for method in methods if keys[method] not in done]
                if missing:
                    out.mkdir(parents=True, exist_ok=True)
                    found = measure(bench, test, kind, missing)
                    heading = {"set": source, "form": form, "seed": seed, "kind": kind}
                    for method in missing:
                        record = {"key": keys[method], **heading, "method": method, **found[method]}
                        done[keys[method]] = append(out / RESULTS, record)
                    print(f"{source} {kind} seed {seed}: {_said(found)}", file=sys.stderr, flush=True)
                records += [done[key] for key in keys.values() if key in done]
    table = summary(records)
    write_csv(out / "table.csv", table)
    print_tables(table)
    if table:
        print(f"Curves: {write_curves(table, out / 'corruptions.png')}")
    return table


class Shown:
    """Test images as they are shown to all methods, and their features for the baselines, computed when asked for."""

    def __init__(self, images: ImageSet, features: Callable[[ImageSet], np.ndarray]) -> None:
        self.images, self._features = images, features

    @cached_property
    def features(self) -> np.ndarray:
        return self._features(self.images)


class Bench:
    """One set and seed: which normal images calibrate, and the methods, each fitted when first asked for."""

    def __init__(self, parts: InspectionSet, given: Row, seed: int) -> None:
        self.parts, self.given, self.seed = parts, given, seed
        self.settings = parse_settings(given)
        aside = split_normals(len(parts.train), seed=seed, select=0, calibrate=SET_ASIDE)
        self.fit, self.aside = aside["fit"], aside["calibrate"]
        self._judges: dict[str, Judge] = {}

    def chosen(self, images: int) -> ImageSet:
        """So many normal and as many anomalous test images, evenly spaced among all."""
        by_label = [np.flatnonzero(self.parts.labels == label) for label in (0, 1)]
        spaced = [each[np.unique(np.linspace(0, len(each) - 1, images).round().astype(int))] for each in by_label]
        return self.parts.test[np.concatenate(spaced)]

    def shown(self, images: ImageSet) -> Shown:
        return Shown(images, self._features_of)

    def judge(self, method: str) -> Judge:
        if method not in self._judges:
            make = self._product if method in PRODUCTS else self._baseline
            self._judges[method] = make(method)
        return self._judges[method]

    def _product(self, method: str) -> Judge:
        settings = parse_settings(merged(self.given, PRODUCTS[method], {"random_state": self.seed}))
        train = self.parts.train
        detector = Detector.from_settings(settings).fit(train[self.fit], calibration_set=train[self.aside])

        def judge(shown: Shown) -> tuple[np.ndarray, np.ndarray]:
            margin = detector.decision_function(shown.images)
            return -margin, margin < 0

        return judge

    def _baseline(self, method: str) -> Judge:
        alpha = self.settings.alpha
        fitted, calibration = calibrated(BASELINES[method](self.seed), self._learned, self.aside, alpha)

        def judge(shown: Shown) -> tuple[np.ndarray, np.ndarray]:
            scores = fitted.score(shown.features)[0]
            return scores, calibration.p_values(scores) <= alpha

        return judge

    @cached_property
    def _representation(self) -> Features:
        return square_features(self.parts.train[self.fit], self.settings)

    @cached_property
    def _learned(self) -> np.ndarray:
        return self._features_of(self.parts.train)

    def _features_of(self, images: ImageSet) -> np.ndarray:
        memory = self.settings.training.memory_gb
        return cached_features(images, self._representation, memory_gb=memory, workers=READERS)


def measure(bench: Bench, test: ImageSet, kind: str, methods: Sequence[str]) -> dict[str, Row]:
    """Rates of each method at every strength of a kind, by the strength as text; of clean images, kind `NONE`, at 0."""
    found: dict[str, Row] = {method: {"strengths": {}} for method in methods}
    bad = test.labels == 1
    low, high = false_alarm_interval(len(bench.aside), bench.settings.alpha)
    for strength in (0,) if kind == NONE else range(1, STRONGEST + 1):
        shown = bench.shown(test if kind == NONE else all_corrupted(test, kind, strength, bench.seed))
        for method in methods:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", BatchWarning)  # these images are not like those that calibrate
                scores, flagged = bench.judge(method)(shown)
            found[method]["strengths"][str(strength)] = {
                "false_alarms": float(flagged[~bad].mean()),
                "detected": float(flagged[bad].mean()),
                "image_auroc": roc_auc(test.labels, scores),
            }
    counts = {"normal": int((~bad).sum()), "anomalous": int(bad.sum()), "calibration_normals": len(bench.aside)}
    expected = {"alpha": bench.settings.alpha, "alarms_low": low, "alarms_high": high}
    return {method: {**rates, **counts, **expected} for method, rates in found.items()}


def all_corrupted(images: ImageSet, kind: str, strength: float, seed: int) -> ImageSet:
    """Images in memory, each corrupted by itself, with labels, conditions and ids."""
    pixels = np.stack([corrupted(images.read(i), kind, strength, seed) for i in range(len(images))])
    return ImageSet.from_arrays(pixels, images.labels, images.conditions, images.ids, images.name)


def summary(records: Sequence[Row]) -> list[Row]:
    """Means over seeds, a row a set, kind, method and strength, in order."""
    groups: dict[tuple, list[Row]] = defaultdict(list)
    for record in records:
        for strength, rates in record["strengths"].items():
            where = tuple(record[name] for name in ("form", "set", "kind", "method"))
            groups[*where, int(strength)].append({**record, **rates})
    names = (*RATES, "alpha", "alarms_low", "alarms_high", "normal", "anomalous", "calibration_normals")
    return [
        dict(zip(("form", "set", "kind", "method", "strength"), group, strict=True))
        | {"n": len(members)}
        | {name: float(np.mean([one[name] for one in members])) for name in names}
        for group, members in groups.items()
    ]


def print_tables(table: Sequence[Row]) -> None:
    """For each set the three rates, corruption by corruption, with strengths across; clean images as strength 0."""
    for name in dict.fromkeys(row["set"] for row in table):
        own = [row for row in table if row["set"] == name]
        cells = {(row["kind"], row["method"], row["strength"]): row for row in own}
        methods, kinds = (list(dict.fromkeys(row[key] for row in own)) for key in ("method", "kind"))
        first = own[0]
        print(
            f"{name}, {first['form']} form: {first['normal']:.0f} normal, {first['anomalous']:.0f} anomalous images, "
            f"{first['calibration_normals']:.0f} that calibrate.\nFalse alarms of clean images are expected from "
            f"{first['alarms_low']:.3f} to {first['alarms_high']:.3f} at α = {first['alpha']:g}.\n"
        )
        across = range(STRONGEST + 1)
        for rate, title in RATES.items():
            lines = []
            for kind in kinds if kinds == [NONE] else [kind for kind in kinds if kind != NONE]:
                for method in methods:
                    at = [cells.get((kind if strength else NONE, method, strength)) for strength in across]
                    lines.append([kind, method, *("–" if row is None else f"{row[rate]:.2f}" for row in at)])
            print_table(["corruption", "method", *map(str, across)], lines, f"{name}: {title} by strength")


def _said(found: dict[str, Row]) -> str:
    strongest = {method: list(rates["strengths"].values())[-1] for method, rates in found.items()}
    return ", ".join(f"{method} {one['false_alarms']:.2f} / {one['detected']:.2f}" for method, one in strongest.items())


def _key(what: list[Any], bench: Bench, data: str) -> str:
    """Hash (hex) of all that a record depends on."""
    content = [*what, PRODUCTS, bench.settings.model_dump(mode="json"), data, _own_code(), code_version()]
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:24]


@cache
def _own_code() -> list[str]:
    here = Path(__file__).parent
    return [essence((here / name).read_text(encoding="utf-8")) for name in NUMBERS_HERE]
