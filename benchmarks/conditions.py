"""`python -m benchmarks conditions`: images that are normal by themselves and wrong for what they are said to be.

`benchmarks.conditions_data` says who trains, who is tested, and what is stated wrong. Ours is the product: one model of
all conditions by `Detector.fit`, then `detect`. Beside it, on the same images: classifiers, nearest neighbours, and one
detector a class, which knows only the normal images of its own.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
import traceback
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.commands import command_line
from benchmarks.conditions_baselines import BASELINES, Told, told_by
from benchmarks.conditions_data import FACTORS, ToldSet, told_set
from benchmarks.inspection_data import BOTH
from benchmarks.paper_tables import grouped, spread_of
from benchmarks.protocols import Form, check_form
from benchmarks.runner import RESULTS, append, code_version, essence, read_results
from benchmarks.settings import chosen_settings, merged
from benchmarks.tables import Row, spread, write_csv
from knowngood import Detector
from knowngood.config import FeatureOptions, HOGOptions, PixelOptions, Settings, nearest, parse_settings
from knowngood.config.base import implementation
from knowngood.errors import KnowngoodError, SettingsError
from knowngood.metrics import roc_auc

SETS = ("mnist", "fashion-mnist", "kmnist", BOTH, *FACTORS)
OURS, APART = "ours", "detectors"
METHODS = (OURS, APART, *BASELINES)
CHECKED: Mapping[str, Any] = {"conditioning": {"check": "auto"}}  # over the recipe that the library takes by itself
SPLIT: Mapping[str, Any] = {"calibration": {"method": "split"}}  # of parts: one fit for six
PIXELS = PixelOptions(image_size=32, grey=True)  # what the CNN sees
QUICK = 40  # images of a class
MEASURES = {
    "auroc": "AUROC",
    "auroc_p": "of p_condition",
    "auroc_itself": "AUROC by itself",
    "detected": "detected",
    "false_alarms": "false alarms",
    "false_alarms_itself": "by itself",
    "seconds": "seconds",
}
NUMBERS_HERE = (
    "conditions.py",
    "conditions_data.py",
    "conditions_baselines.py",
    "inspection_data.py",
)


def main(
    sets: tuple[str, ...] = SETS,
    methods: tuple[str, ...] = METHODS,
    seeds: tuple[int, ...] = (0, 1, 2),
    form: Form = "test",
    epochs: int | None = None,
    config: Path | None = None,
    device: str | None = None,
    quick: bool = False,
    show: bool = False,
    out: Path = Path("out/benchmarks/conditions"),
) -> list[Row]:
    """AUROC of what is stated wrong, and false alarms. Prints and returns the table.

    Args:
        sets: mnist, fashion-mnist, kmnist, bottle+tile, pose, scale.
        methods: ours, detectors (one a class), logistic, cnn, neighbours, neighbours-difference.
        epochs, config, device: settings over those of ours, `config` a YAML file.
        quick: a few images of the dev form, one seed and two epochs; only checks that it runs.
        show: only the table of finished measurements; nothing is measured.
    """
    command = command_line("conditions", main, locals())
    check_form(form)
    for name in methods:
        if name not in METHODS:
            raise SettingsError(f"unknown method '{name}'{nearest(name, list(METHODS))}")
    if quick:
        form, seeds, epochs = "dev", seeds[:1], epochs or 2
    over = chosen_settings(None, config, epochs=epochs, device=device)
    done, records = read_results(out / RESULTS), []
    for name in dict.fromkeys(sets):
        for seed in seeds:
            parts = told_set(name, form=form, seed=seed)
            if isinstance(parts, str):
                records.append({"set": name, "method": "all", "seed": seed, "error": parts})
                continue
            subject = Subject(thinned(parts) if quick else parts, over)
            data = _digest(subject.parts)
            for method in methods:
                key = key_of(subject, method, data)
                record = done.get(key)
                if record is None and not show:
                    record = _attempt(subject, method, {"key": key, "form": form}, out)
                    print(f"{name} {method} {seed}: {_said(record)}", file=sys.stderr)
                records += [] if record is None else [record]
    table = summary(records)
    write_csv(out / "cells.csv", records)
    write_csv(out / "table.csv", table)
    print(f"    {command}\n\n{markdown(table)}")
    return table


@dataclass(frozen=True, eq=False)
class Subject:
    """A set, the settings over those of each method, and what baselines see of it, computed when first asked for."""

    parts: ToldSet
    over: Mapping[str, Any]

    def settings(self, method: str) -> Settings:
        """Of ours, or of one detector a class."""
        own = merged({} if method == APART else CHECKED, SPLIT if self.parts.name == BOTH else {})
        return parse_settings(merged(own, self.over, {"random_state": self.parts.seed}))

    def seen(self, method: str) -> tuple[np.ndarray, np.ndarray]:
        """Training and test images (N, …) as a baseline sees them: pixels, or the representation of ours."""
        return self.pixels if method == "cnn" else self.represented

    @cached_property
    def pixels(self) -> tuple[np.ndarray, np.ndarray]:
        return self._represented(PIXELS if self.parts.name == BOTH else PixelOptions())

    @cached_property
    def represented(self) -> tuple[np.ndarray, np.ndarray]:
        """HOG; or the mean of each feature over all locations."""
        if self.parts.name != BOTH:
            return self._represented(HOGOptions())
        train, test = self._represented(FeatureOptions())
        return train.mean(axis=(2, 3)), test.mean(axis=(2, 3))

    def _represented(self, options: Any) -> tuple[np.ndarray, np.ndarray]:
        fitted = implementation(options).fit(self.parts.train, options)
        return fitted.to_tensor(self.parts.train).numpy(), fitted.to_tensor(self.parts.test).numpy()


def measure(subject: Subject, method: str) -> Row:
    """One fit and one test.

    Returns:
        auroc: of the wrong ones, by how badly an image fits what it is said to be. auroc_p: by p_condition, within what
        is said; ties count half. auroc_itself: by how anomalous the image is whatever it is said to be; .5 is right, as
        all are normal. detected, false_alarms: shares
        of the wrong ones and of the others with p_condition ≤ α. false_alarms_itself: share with p_value ≤ α, of all.
        seconds: of fit and test. A method that says nothing of the image by itself has None there.
    """
    started, wrong = time.perf_counter(), subject.parts.wrong
    alpha = subject.settings(method).alpha
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # of small groups in the quick form, and of batches that hold what is stated wrong
        found = {OURS: ours, APART: apart}.get(method, baseline)(subject, method)
    flagged = found.p_condition <= alpha
    return {
        "auroc": roc_auc(wrong, found.mismatch),
        "auroc_p": roc_auc(wrong, -found.p_condition),
        "auroc_itself": None if found.itself is None else roc_auc(wrong, found.itself),
        "detected": float(flagged[wrong].mean()),
        "false_alarms": float(flagged[~wrong].mean()),
        "false_alarms_itself": None if found.p_value is None else float((found.p_value <= alpha).mean()),
        "seconds": time.perf_counter() - started,
    }


def ours(subject: Subject, method: str) -> Told:
    """One model of all conditions."""
    parts = subject.parts
    table = Detector.from_settings(subject.settings(method)).fit(parts.train).detect(parts.test)
    return Told(*(table[name].to_numpy(float) for name in ("mismatch", "anomaly_score", "p_condition", "p_value")))


def apart(subject: Subject, method: str) -> Told:
    """A detector for each class, without conditions; by itself an image is as normal as the best of them makes it.

    Scores are less the threshold of their detector, so that they compare.
    """
    parts, settings = subject.parts, subject.settings(method)
    known, told = parts.groups(parts.train), parts.groups(parts.test)
    tested = parts.test.replace(conditions={})
    scores, p = [], []
    for k in range(int(known.max()) + 1):
        detector = Detector.from_settings(settings).fit(parts.train[known == k].replace(conditions={}))
        table = detector.detect(tested)
        scores.append(table["anomaly_score"].to_numpy(float) + np.nan_to_num(detector.offset_, neginf=0.0))
        p.append(table["p_value"].to_numpy(float))
    rows = np.arange(len(told))
    return Told(np.array(scores)[told, rows], np.min(scores, axis=0), np.array(p)[told, rows], np.max(p, axis=0))


def baseline(subject: Subject, method: str) -> Told:
    """A method of `conditions_baselines`, calibrated with the share that ours sets aside."""
    parts, settings = subject.parts, subject.settings(OURS)
    train, test = subject.seen(method)
    return told_by(
        BASELINES[method](seed=parts.seed),
        (train, parts.groups(parts.train)),
        (test, parts.groups(parts.test)),
        fraction=settings.calibration.fraction,
        alpha=settings.alpha,
        seed=parts.seed,
    )


def thinned(parts: ToldSet) -> ToldSet:
    """The first few images of each class, and tested ones of each label."""

    def some(groups: np.ndarray) -> np.ndarray:
        return np.sort(np.concatenate([np.flatnonzero(groups == one)[:QUICK] for one in np.unique(groups)]))

    learned, tested = some(parts.groups(parts.train)), some(parts.wrong)
    return replace(parts, train=parts.train[learned], test=parts.test[tested], wrong=parts.wrong[tested])


def key_of(subject: Subject, method: str, data: str) -> str:
    """Hash (hex) of all that a measurement depends on."""
    settings = subject.settings(method).model_dump(mode="json")
    made_of = [method, subject.parts.seed, settings, data, _own_code(), code_version()]
    return hashlib.sha256(json.dumps(made_of, sort_keys=True, default=str).encode()).hexdigest()[:24]


def summary(records: Sequence[Row]) -> list[Row]:
    """One row a set and method: mean and sample standard deviation of each measure over seeds; or the first error."""
    rows = []
    for (name, method), some in grouped(records, lambda row: (row["set"], row["method"])).items():
        found = [record for record in some if "error" not in record]
        row: Row = {"set": name, "method": method, "seeds": len(found)}
        for measure in MEASURES:
            values = [record[measure] for record in found]
            row[measure], row[f"{measure}_sd"] = spread_of(values)
        row["error"] = next((record["error"] for record in some if "error" in record), None)
        rows.append(row)
    return rows


def markdown(table: Sequence[Row]) -> str:
    """The table in Markdown."""
    columns = ["set", "method", "seeds", *MEASURES.values()]
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for row in table:
        values = [_shown(row, measure) for measure in MEASURES]
        lines.append(f"| {row['set']} | {row['method']} | {row['seeds']} | {' | '.join(values)} |")
        if row["error"]:
            lines[-1] += f" {row['error']}"
    return "\n".join(lines)


def _shown(row: Row, measure: str) -> str:
    value, sd = row[measure], row[f"{measure}_sd"]
    if measure == "seconds":
        return "–" if value is None else f"{value:.0f}"
    if measure in ("auroc", "auroc_p") and value is not None:
        return f"{value:.4f}" + ("" if sd is None else f" ± {sd:.4f}")
    return spread(value, sd)


def _attempt(subject: Subject, method: str, heading: Row, out: Path) -> Row:
    """The record, written to the results; or one with `error`, not written, so that the next run tries again."""
    heading = {**heading, "set": subject.parts.name, "method": method, "seed": subject.parts.seed}
    try:
        found = measure(subject, method)
    except KnowngoodError as error:
        return {**heading, "error": str(error)}
    except Exception as error:  # one measurement of many: the others go on
        traceback.print_exc()
        return {**heading, "error": f"{type(error).__name__}: {error}"}
    out.mkdir(parents=True, exist_ok=True)
    return append(out / RESULTS, {**heading, **found})


@cache
def _own_code() -> list[str]:
    here = Path(__file__).parent
    return [essence((here / name).read_text(encoding="utf-8")) for name in NUMBERS_HERE]


def _digest(parts: ToldSet) -> str:
    """Hash (hex) of images, conditions and which are wrong."""
    digest = hashlib.sha256(f"{parts.train.fingerprint()} {parts.test.fingerprint()}".encode())
    digest.update(np.packbits(parts.wrong).tobytes())
    return digest.hexdigest()


def _said(record: Row) -> str:
    return record.get("error") or f"AUROC {record['auroc']:.4f}, {record['seconds']:.0f} s"
