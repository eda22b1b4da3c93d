"""`knowngood watch`: new pictures in a folder, judged as they come."""

from __future__ import annotations

import hashlib
import os
import sys
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Annotated

import typer

from knowngood.cli.bounds import Bounds, with_bounds
from knowngood.cli.console import note, say
from knowngood.cli.inputs import Alpha, As, Device, Scorer, Unknown, check_company, check_order
from knowngood.cli.keep_options import MOST, KeepMost, beside, kept
from knowngood.cli.sink_options import To, check_state, opened, sinks_of
from knowngood.data.column_values import as_values
from knowngood.errors import DataError, Interrupted
from knowngood.files import did_you_mean

IN_FOLDER = ".knowngood-watch.sqlite"  # where the state was by default, among the pictures


def state_of(model: Path, folder: Path) -> Path:
    """Where what was judged is noted by default: beside the model, by the place of the folder; or where it is already.

    A state among the pictures, of an earlier version, is gone on with.
    """
    place = hashlib.sha256(os.fsencode(os.path.realpath(folder))).hexdigest()[:8]
    state = beside(model, "watched") / f"{folder.resolve().name or 'root'}-{place}.sqlite"
    former = folder / IN_FOLDER
    if not former.is_file():
        return state
    if state.is_file():
        note(f"{former} of an earlier version is not used: {state} is there")
        return state
    note(f"what was judged is in {former}, of an earlier version; it is used on. To move it: --state FILE")
    return former


@with_bounds
def watch(
    model: Scorer,
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="where pictures arrive, in subfolders too")],
    *,
    to: To = None,
    state: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="what was judged and is not delivered yet; default: a file for FOLDER in MODEL-watched",
        ),
    ] = None,
    alpha: Alpha = None,
    as_condition: As = None,
    unknown: Unknown = None,
    interval: Annotated[float, typer.Option(min=0.01, help="seconds between looks at the folder")] = 0.2,
    once: Annotated[bool, typer.Option("--once", help="judge what is there, and end")] = False,
    keep: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="keep the pictures for the page of `serve`: MODEL-judged")
    ] = None,
    keep_most: KeepMost = MOST,
    device: Device = None,
    bounds: Bounds,
) -> None:
    """Judge every new picture in a folder once, also after a restart, and print the verdict.

    Half-written files are waited for; those that cannot be read are set aside by name. What is in FOLDER at the first
    start is judged too. SIGTERM and Ctrl-C end it after the pictures in hand.
    """
    check_company("--keep-most", keep_most, "--keep FOLDER", keep is None and keep_most != MOST)
    from knowngood.deploy.served_models import check_model, load_models

    check_order(model, folder)
    check_model(model)
    if not folder.is_dir():
        hint = did_you_mean(folder, Path.is_dir)
        raise DataError(f"{folder}: no such folder{hint}; make it, or give the one where pictures arrive")
    values = as_values(as_condition)
    state = state or state_of(model, folder)
    sinks_of(to)  # what is wrong with them, and with the state, is said before a model is loaded
    check_state(state)
    from knowngood.data.interruption import deferred
    from knowngood.deploy.judgement import Asked
    from knowngood.deploy.logs import written_logs
    from knowngood.deploy.watch import Watch, check_asked

    with ExitStack() as stack:
        stack.enter_context(written_logs(sys.stderr))
        bounds.over()  # refuses what is no bound
        models = load_models([str(model)], device or "cpu", bounds)
        asked = Asked(alpha, unknown)  # type: ignore[arg-type]
        check_asked(models.named(None), values, asked)  # before anything is delivered
        delivery, store = stack.enter_context(opened(to, state)), stack.enter_context(kept(keep, keep_most))
        watched = Watch(folder, models, delivery, asked=asked, conditions=values, store=store)
        note(f"watching {folder}")
        stack.enter_context(suppress(Interrupted))
        asked_to_end, judged = stack.enter_context(deferred()), 0
        while not asked_to_end():
            for one in watched.step():
                say(_line(one.row, one.seconds))
                sys.stdout.flush()
                judged += 1
            if once and not watched.waits:
                if not judged:
                    note(f"nothing new in {folder}")
                break
            time.sleep(interval)


def _line(row: dict[str, object], seconds: float) -> str:
    if row["error"] is not None:
        return f"{row['id']}  not scored: {row['error']}  {seconds:.2f} s"
    verdict = row.get("verdict") or ("anomalous" if row["is_anomalous"] else "normal")
    note = f"  {row['note']}" if row["note"] else ""
    return f"{row['id']}  {verdict}  p {row['p_value']:.4g}  score {row['anomaly_score']:.6g}  {seconds:.2f} s{note}"
