"""`knowngood compare`: recipes side by side on the same images, with or without labels."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from knowngood.cli.bounds import Bounds, with_bounds
from knowngood.cli.console import note, say, table
from knowngood.cli.inputs import ALL, Anomalous, Data, Holdout, Normal, keep_split, open_selected
from knowngood.cli.outputs import keep_apart, this_command, writing
from knowngood.config import nearest
from knowngood.data.progress import in_words
from knowngood.errors import SettingsError

if TYPE_CHECKING:
    from knowngood.config import Settings
    from knowngood.data import ImageSet

TEST = "test"


@with_bounds
def compare(
    data: Data,
    *,
    recipes: Annotated[
        str, typer.Option(metavar="A,B,…", help="auto, presets by name, or YAML files of settings, divided by commas")
    ],
    normal: Normal = None,
    anomalous: Anomalous = None,
    holdout: Holdout = None,
    split: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="the split whose labelled anomalies are judged; all: every image; default: all but test",
        ),
    ] = None,
    folds: Annotated[
        int, typer.Option(min=0, help="models for the stability, each without one fold; 0: leave out")
    ] = 3,
    seed: Annotated[int, typer.Option(help="of the division and the synthetic defects")] = 0,
    report: Annotated[
        Path | None, typer.Option(metavar="FILE", help="write a page with pictures: one HTML file")
    ] = None,
    bounds: Bounds,
) -> None:
    """Compare recipes: false alarms, stability, synthetic defects, labelled images, time. It chooses nothing.

    All recipes are fitted to the same normal images and judge the same others. Synthetic defects are drawn on good
    images; they are not real ones.
    """
    given = [name.strip() for name in recipes.split(",") if name.strip()]
    short = [Path(name).stem if Path(name).is_file() else name for name in given]  # unless two are the same
    named = dict(zip(short if len(set(short)) == len(short) else given, map(_settings, given), strict=True))
    with writing(report):
        images = open_selected(data, normal=normal, anomalous=anomalous, holdout=holdout, data_options=bounds.over())
        keep_apart([data], images, files={"--report": report})
        if (normal or anomalous or holdout) and "class" in images.conditions:
            images = images.replace(conditions={k: v for k, v in images.conditions.items() if k != "class"})
        to_fit, labelled = _parts(images, split)

        from knowngood.evaluation.recipe_comparison import compare as compared
        from knowngood.evaluation.report.comparison_page import CAUTION, HEADINGS, kinds_of, rows_of, write_comparison

        started = time.monotonic()
        found = compared(to_fit, named, labelled=labelled, folds_of=folds, seed=seed, announce=note)
        say(f"{found.fitted:,} normal images are fitted to, {len(found.held_out):,} are held out; the same for all")
        table(HEADINGS, rows_of(found))
        measured = [one.name for one in found.recipes if not one.refused]
        if measured:
            table(["synthetic defect", "images", *measured], kinds_of(found), title="found of each kind")
        for one in found.recipes:
            if one.recipe:
                note(f"{one.name}: {one.recipe}")
        say(CAUTION)
        say(f"time    {in_words(time.monotonic() - started)}")
        if report is not None:
            title = images.variant or images.name
            say(f"report  {write_comparison(report, found, title=title, command=this_command())}")


def _settings(name: str) -> Settings:
    """The settings of a recipe: those of a file, of a preset, or the defaults."""
    from knowngood.config import parse_settings
    from knowngood.config.parsing import read_settings
    from knowngood.config.presets import preset_names, read_preset

    if name == "auto":
        return parse_settings({})
    if name in preset_names():
        return parse_settings(read_preset(name))
    if Path(name).is_file():
        return read_settings(name)
    raise SettingsError(
        f"--recipes {name}: no preset and no file of that name{nearest(name, ['auto', *preset_names()])}"
    )


def _parts(images: ImageSet, split: str | None) -> tuple[ImageSet, ImageSet | None]:
    """Images to fit to, and those labelled anomalous that are judged.

    Raises:
        DataError: there is no such split.
    """
    known = [] if images.splits is None else sorted(set(images.splits.tolist()))
    if split is None:
        apart = images if images.splits is None else images[images.splits != TEST]
    else:
        apart, _ = keep_split(images, split)
    if images.splits is not None and TEST in known and split is None and (images.split(TEST).labels == 1).any():
        note("the split test is left alone: whoever chooses by it has no images left to state results for")
    if split == TEST or (split == ALL and TEST in known):
        note("these labelled images are of the split test: if you choose by them, state results for other images")
    labelled = apart[apart.labels == 1]
    to_fit = images[images.splits == "train"] if "train" in known else images
    if "train" not in known and TEST in known:
        to_fit = images[images.splits != TEST]
    return to_fit, labelled if len(labelled) else None
