"""`knowngood data list|get|write`: the named data sets."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Annotated

import typer

from knowngood.cli.bounds import Bounds, with_bounds
from knowngood.cli.completion import data_sets
from knowngood.cli.console import AsJson, emit, for_machines, note, say, table
from knowngood.cli.inputs import Data, open_selected
from knowngood.config import counted

app = typer.Typer(help="Named data sets.", no_args_is_help=True, add_completion=False)


@app.command("list")
def list_(*, as_json: AsJson = False) -> None:
    """List the data sets that can be given by name, such as mnist."""
    from knowngood.data import describe_datasets

    columns, known = ["name", "images", "shape", "classes", "licence", "where"], describe_datasets()
    with for_machines(as_json):
        table(columns, [[record[column] for column in columns] for record in known])
        emit(known)


@app.command()
def get(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME", help="a name that `data list` shows", show_default=False, autocompletion=data_sets
        ),
    ],
) -> None:
    """Find or download a data set, check it, and say what it holds."""
    from knowngood.data import open_dataset

    images = open_dataset(name)
    say(f"{images.variant or images.name}: {counted(len(images), 'image')}")
    if images.splits is not None:
        for split in dict.fromkeys(images.splits):
            say(f"  {split}: {int((images.splits == split).sum()):,}")
    for column, values in images.conditions.items():
        say(f"  {column}: {', '.join(sorted({str(value) for value in values}))}")


@app.command()
@with_bounds
def write(
    data: Data,
    out: Annotated[Path, typer.Argument(metavar="DIR", help="a new folder", show_default=False)],
    *,
    bounds: Bounds,
) -> None:
    """Write DATA as a folder of PNG files with masks and manifest.csv: data write generated-parts/number=200 parts."""
    from knowngood.data.image_folder import write_folder

    images = open_selected(data, data_options=bounds.over())
    if aside := images.unusable:
        note(f"not written: {counted(len(aside), 'file')} that cannot be read, the first: {aside[0]}")
    manifest = write_folder(images, out)
    with manifest.open(newline="", encoding="utf-8") as file:
        say(f"manifest {manifest}: {counted(sum(1 for _ in csv.reader(file)) - 1, 'image')}")
