"""`knowngood monitor`: has the distribution of the scores changed? A test that goes on for as long as the stream."""

from __future__ import annotations

import json
import math
import shlex
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from knowngood.cli.bounds import Bounds, with_bounds
from knowngood.cli.console import AsJson, emit, for_machines, note, say, table
from knowngood.cli.inputs import Device, Unknown, load, load_pipeline, open_selected
from knowngood.cli.outputs import writing
from knowngood.config import counted
from knowngood.detector.run_record import trained_on
from knowngood.detector.versions import MARK, fingerprint, in_use
from knowngood.errors import ArtifactError, DataError, SettingsError
from knowngood.files import did_you_mean, write_text

if TYPE_CHECKING:
    import pandas as pd

    from knowngood.calibration import DriftMonitor
    from knowngood.detector.estimator import Detector
    from knowngood.detector.pipeline import Pipeline

DRIFT = 5  # exit status
THRESHOLD = 100.0
FORMATS = (".png", ".svg", ".pdf")


@with_bounds
def monitor(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="[MODEL] STREAM...",
            help="results of `score` (.csv, .json, .parquet), a log with a JSON object a line, or images, in the order "
            "of production; MODEL gives the calibration items to compare with, and scores images",
            show_default=False,
        ),
    ],
    *,
    threshold: Annotated[
        float | None,
        typer.Option(
            help="evidence at which the alarm is raised; P(ever a false alarm) ≤ 1/threshold. "
            f"Default {THRESHOLD:g}, or that of the state"
        ),
    ] = None,
    state: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="go on from this JSON file and keep the state there; an id counts once, ever"
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FILE", help="draw the evidence: .png, .svg or .pdf")
    ] = None,
    unknown: Unknown = None,
    as_json: AsJson = False,
    device: Device = None,
    bounds: Bounds,
) -> None:
    """Test a stream of results for drift: since when, in which condition, and whether scores are higher or lower.

    Exit status 5 if there is drift, 0 if not: for a cron job.
    """
    with for_machines(as_json), writing(state, out):  # of two runs with one state the items of one would be lost
        if out is not None and out.suffix.lower() not in FORMATS:
            raise SettingsError(f"--out {out}: unknown format '{out.suffix}'; known: {', '.join(FORMATS)}")
        model = Path(sources[0]) if _is_model(Path(sources[0])) else None
        streams = sources if model is None else sources[1:]
        if not streams:
            raise SettingsError(
                f"{sources[0]}: this is a model; name what to test after it, such as results.csv or images"
            )
        saved = None if state is None or not state.exists() else _read(state)

        from knowngood.calibration import DriftMonitor
        from knowngood.evaluation.score_stream import reference_of, score_stream

        asked = THRESHOLD if threshold is None else threshold
        drift = DriftMonitor(asked) if saved is None else DriftMonitor.from_record(saved)
        results = _results(streams, model)  # what is wrong with them is said before a model is loaded
        images = [source for source, table in results if table is None]
        detector = None if model is None or not images else load(model, device, *images)
        known = None if model is None else load_pipeline(model) if detector is None else detector.pipeline_
        tables, by = _tables(results, model, known, detector, unknown, bounds)
        items = score_stream(tables, known and known.schema, [group.name for group in known.added] if known else ())
        reference = None if known is None else reference_of(known, items.measure, -items.scores)
        basis = " ".join([items.measure, *by]) if reference is None else reference.fingerprint
        if saved is not None:
            _check(drift, saved, threshold, basis, state)
        elif reference is not None:
            drift = DriftMonitor(drift.threshold, reference.ranks)
        if state is not None and items.ids is None:
            raise DataError("--state needs a column id or time in the results, so that no item counts twice")
        new = drift.update(items.scores, items.groups, items.ids, items.times)
        if state is not None:
            record = {**drift.to_record(), "basis": basis}
            write_text(state, json.dumps(record, ensure_ascii=False) + "\n")

        if drift.unlike:
            have = "has" if drift.unlike == 1 else "have"
            note(
                f"warning: {counted(drift.unlike, 'item')} {have} the id of an earlier one, and another score: of an "
                "id the first counts, in this run or one before. Give each item an id of its own, such as its path "
                "below a folder of the day"
            )
        rows_read, before = len(items.scores) + sum(items.left_out.values()), len(items.scores) - new
        parts = [f"{new:,} new", *([f"{before:,} counted before"] if before else [])]
        parts += [f"{n:,} {why}, left out" for why, n in items.left_out.items()]
        since = f"; {drift.count:,} counted in all" if drift.count > new else ""
        say(f"items    {counted(rows_read, 'row')}: {', '.join(parts)}{since}")
        note(f"{'the stream is compared with itself' if reference is None else reference.sentence}")
        rows = [(name, f"{one.count:,}", _number(one.won / math.log(10))) for name, one in drift.groups.items()]
        if rows:
            table(["condition", "items", "evidence"], rows)
        if out is not None:
            from knowngood.evaluation.figures.drift import drift as drawn
            from knowngood.evaluation.figures.style import save

            out.parent.mkdir(parents=True, exist_ok=True)
            save(drawn(drift), out)
            say(f"figure   {out}")
        alarm = drift.alarm
        emit(_record(drift, new, items.left_out))
        if alarm is None:
            say(f"quiet    evidence {_number(drift.evidence)} of {drift.threshold:g}")
            return
        where = "" if len(drift.groups) == 1 else f" in {alarm.group}"
        say(f"drift    {alarm.change}{where} since about {alarm.since}")
        say(f"alarm    at {alarm.at}: evidence {_number(alarm.evidence)} of {drift.threshold:g}")
        for line in _next(model, known, state):
            say(line)
        raise typer.Exit(DRIFT)


def _results(sources: list[str], model: Path | None) -> list[tuple[str, pd.DataFrame | None]]:
    """Each source with its table of results; None of images, which a model is to score.

    Raises:
        DataError: a file is damaged, or is of something else and there is no model.
    """
    from knowngood.evaluation.score_stream import read_results

    found = [(source, read_results(Path(source))) for source in sources]
    for source, results in found:
        if results is None and model is None:
            if not Path(source).exists():
                raise DataError(
                    f"{source}: no such file{did_you_mean(source)}; give what `knowngood score` wrote, or a log"
                )
            raise DataError(
                f"{source}: no column anomaly_score or p_value, so no results of `knowngood score`; to score images "
                "give the model first: knowngood monitor MODEL IMAGES"
            )
    return found


def _tables(
    results: list[tuple[str, pd.DataFrame | None]],
    model: Path | None,
    known: Pipeline | None,
    detector: Detector | None,
    unknown: str | None,
    bounds: Bounds,
) -> tuple[list[pd.DataFrame], dict[str, str]]:
    """All tables, images scored by the detector; and a file by each mark of a model that scored some.

    Raises:
        DataError: two models, or another one, scored them.
    """
    from knowngood.evaluation.scored_by import marks, scored_by

    tables: list[pd.DataFrame] = []
    by: dict[str, str] = {}
    for source, judged in results:
        if judged is None:
            images = open_selected(source, data_options=bounds.over(detector.pipeline_.settings.data))  # type: ignore[union-attr]
            tables.append(detector.detect(images, unknown=unknown))  # type: ignore[union-attr,arg-type]
            continue
        if model is not None:
            judged = _of_version(judged, source, model)
        tables.append(judged)
        by |= dict.fromkeys(marks(judged), source)
        if known is not None and model is not None:
            found = scored_by(judged, model, known)
            if found.same is False:
                raise DataError(
                    f"{source}: {found.why}. Scores of one model say nothing about another: score the items again by "
                    f"knowngood score {model} DATA, or give the model that scored them"
                )
            if found.same is None:
                note(f"{source}: {found.why}; it is taken for a table of {model}")
    if len(by) > 1:
        (first, one), (second, other), *_ = by.items()
        raise DataError(f"{one} and {other} were scored by two models ({first}, {second}); monitor each by itself")
    return tables, by


def _of_version(table: pd.DataFrame, source: str, model: Path) -> pd.DataFrame:
    """A table without rows of other versions, if some are of the one in use: `watch` appends all to one file."""
    if MARK not in table:
        return table
    others = table[MARK].notna() & (table[MARK] != fingerprint(in_use(model)))
    if others.all() or not others.any():
        return table
    note(f"{source}: {counted(int(others.sum()), 'row')} scored by other versions or models, left out")
    return table[~others]


def _record(drift: DriftMonitor, new: int, left_out: dict[str, int]) -> dict[str, Any]:
    """What the test says, for machines; evidence as a power of 10, since it may be larger than a number can be."""
    groups = [
        {"condition": name, "items": one.count, "log10_evidence": one.won / math.log(10)}
        for name, one in drift.groups.items()
    ]
    said = None if drift.alarm is None else asdict(drift.alarm)
    record = {"drift": drift.alarm is not None, "new": new, "items": drift.count, "left_out": left_out}
    return {**record, "log10_evidence": drift.evidence, "threshold": drift.threshold, "groups": groups, "alarm": said}


def _next(model: Path | None, known: Pipeline | None, state: Path | None) -> list[str]:
    """What to do after an alarm."""
    from knowngood.config import VAEOptions

    name = "MODEL" if model is None else shlex.quote(str(model))
    again = (
        "the test needs a new state then" if state is None else f"then begin a new state: rm {shlex.quote(str(state))}"
    )
    trained = known is not None and isinstance(known.settings.model, VAEOptions)
    old = f" --with {shlex.quote(trained_on(model) or 'OLD')}" if trained and model is not None else ""
    return [
        "next     look at the images since then. If they are anomalous, the model is right. If normal images changed:",
        f"         a little    knowngood calibrate {name} NEW_NORMAL_IMAGES",
        f"         more        knowngood update {name} NEW_NORMAL_IMAGES{old}",
        f"         {again}",
    ]


def _is_model(path: Path) -> bool:
    return any((folder / name).exists() for folder in (path, path / "model") for name in ("config.json", "versions"))


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8")) or {}  # null is no state, and refused as such
    except ValueError as error:
        raise ArtifactError(f"--state {path}: no JSON ({error}); give another file") from None


def _check(drift: DriftMonitor, saved: dict[str, Any], threshold: float | None, basis: str, path: Path | None) -> None:
    """Refuse to go on with another test than the one that was begun."""
    if saved.get("basis") != basis:
        raise DataError(
            f"--state {path}: it was begun with another model, another calibration, or scores in place of p-values; "
            "begin a new test with another file"
        )
    if threshold is not None and threshold != drift.threshold:
        raise SettingsError(
            f"--threshold {threshold:g}: the test in {path} was begun with {drift.threshold:g}, and its guarantee is "
            "for that; leave --threshold out, or begin a new test with another file"
        )


def _number(log10: float) -> str:
    """10 to this power, in few digits, however large."""
    return f"{10**log10:.3g}" if log10 < 6 else f"10^{log10:.1f}"
