"""`knowngood reviews`: what people said of judged images, counted and exported."""

from __future__ import annotations

import shlex
from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer

from knowngood.cli.console import AsJson, emit, for_machines, say, table
from knowngood.cli.inputs import check_company
from knowngood.config import counted, nearest
from knowngood.errors import DataError, SettingsError

LISTED = ("number", "time", "id", "verdict", "p", "score", "review")


def reviews(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="where `serve` or `watch` keep judged images, such as MODEL-judged")
    ],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="OUT", help="write the reviewed images to this new folder")
    ] = None,
    layout: Annotated[
        str | None,
        typer.Option(
            "--format",
            metavar="folder|coco|label-studio",
            help="folder: good/, anomalous/KIND/, masks, which is the default",
        ),
    ] = None,
    sample: Annotated[
        int | None,
        typer.Option(min=10, metavar="N", help="draw N more images at random to review: good ones may calibrate"),
    ] = None,
    model: Annotated[str | None, typer.Option(metavar="NAME", help="whose images --sample draws from")] = None,
    listed: Annotated[
        int | None,
        typer.Option("--list", min=1, metavar="N", help="the latest N judged images with their numbers"),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Count the reviews of judged images, and write the images as data to train on or to label further.

    People review on the page of `serve`, or with `knowngood review`; from Python
    `knowngood.deploy.reviews.add_review(FOLDER, NUMBER, VERDICT)`.
    """
    from knowngood.deploy.judged_store import FILE, Filter, JudgedStore
    from knowngood.deploy.reviews import FORMATS, draw_sample, export

    if layout is not None and layout not in FORMATS:
        raise SettingsError(f"--format {layout}: no such format{nearest(layout, list(FORMATS))}")
    check_company("--format", layout, "--out OUT", out is None)
    check_company("--model", model, "--sample N", sample is None)
    if listed is not None and out is not None:
        raise SettingsError(f"--list {listed} and --out {out} are two runs; give one of them")
    layout = layout or "folder"
    if not (folder / FILE).is_file():
        raise DataError(f"{folder}: no judged images; give the folder that `serve` names as it starts: MODEL-judged")
    with for_machines(as_json), closing(JudgedStore(folder)) as store:
        if sample is not None:
            drawn = len(draw_sample(folder, sample, model))
            say(f"drawn    {drawn:,} at random; on the page: Review, random sample")
        if listed is not None:
            _, found = store.page(Filter(), most=listed)
            rows = [{name: one[name] for name in LISTED} for one in found]
            table(list(LISTED), [[_cell(row[name]) for name in LISTED] for row in rows])
            emit({"judged": rows})
            return
        counts = store.counts()
        table(["images", "count"], [(name, f"{n:,}") for name, n in counts.items()])
        if out is None:
            emit(counts)
            return
        written = export(store, out, layout)
        say(f"written  {out}: {written['good']:,} good, {written['defect']:,} with a defect")
        if written["repeated"]:
            say(f"left out {counted(written['repeated'], 'picture')} judged more than once: the last review counts")
        if layout == "folder":
            named = shlex.quote(str(out / "manifest.csv"))
            say(f"next     knowngood update MODEL --reviews {shlex.quote(str(folder))}, or train with {named}")
        emit({**counts, "written": {"folder": out, **written}})


def _cell(value: object) -> object:
    return "-" if value is None else f"{value:.4g}" if isinstance(value, float) else value
