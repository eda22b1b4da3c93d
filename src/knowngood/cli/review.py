"""`knowngood review`: say of judged images what they are, or list what was said."""

from __future__ import annotations

import shlex
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

import typer

from knowngood.cli.console import AsJson, emit, for_machines, note, say, table
from knowngood.cli.inputs import Scorer, check_company
from knowngood.cli.keep_options import judged_by
from knowngood.config import counted, nearest
from knowngood.errors import DataError, SettingsError

FALSE_ALARM = "false-alarm"
VERDICTS = {FALSE_ALARM: "good", "good": "good", "defect": "defect", "unsure": "unsure", "none": None}
SHOWN = ("number", "time", "id", "verdict", "review", "kind", "who")
MOST = 20  # reviews that are listed for people


def review(
    model: Scorer,
    images: Annotated[
        list[str] | None,
        typer.Argument(metavar="IMAGE", help="judged images: the file, the id or the number", show_default=False),
    ] = None,
    verdict: Annotated[
        str | None,
        typer.Option(
            "--as",
            metavar="false-alarm|good|defect|unsure|none",
            help="what they are; none takes back what was said before",
        ),
    ] = None,
    who: Annotated[str | None, typer.Option("--by", metavar="NAME", help="who says so")] = None,
    kind: Annotated[str | None, typer.Option(metavar="TEXT", help="of a defect: scratch, dent")] = None,
    remark: Annotated[str | None, typer.Option("--note", metavar="TEXT", help="kept with the review")] = None,
    keep: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="where judged images are kept; default: MODEL-judged")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Review images that `serve` or `watch` judged and kept: false alarms and defects for `update --reviews` to learn.

    Without images: what was reviewed so far. All images are found first; if one is not, nothing is reviewed.
    """
    from knowngood.data.values import listing

    check_company("--as", verdict, "IMAGE", not images)
    for flag, given in (("--by", who), ("--kind", kind), ("--note", remark)):
        check_company(flag, given, "--as", verdict is None)
    if images and verdict is None:
        raise SettingsError(f"say what {listing(images, most=3)} is: --as {'|'.join(VERDICTS)}")
    if verdict is not None and verdict not in VERDICTS:
        raise SettingsError(f"--as {verdict}: no such review{nearest(verdict, list(VERDICTS))}")
    if kind is not None and verdict != "defect":
        raise SettingsError(f"--kind {kind} goes with --as defect; leave it out")
    from knowngood.deploy.judged_store import Filter, JudgedStore
    from knowngood.deploy.named_judgements import in_words, judgements_named
    from knowngood.deploy.reviews import add_review
    from knowngood.deploy.served_model import name_of

    folder = judged_by(model, keep, "--keep")
    name = model.stem if model.is_file() else name_of(model)
    with for_machines(as_json), closing(JudgedStore(folder)) as store:
        if name not in (others := store.models()):
            by = listing(others, most=5) if others else "none"
            raise DataError(f"{folder} holds images judged by {by}, none by {name}; give that model, or --keep FOLDER")
        if not images:
            _, found = store.page(Filter(review="any", model=name), most=-1)
            counts = Counter(map(in_words, found))
            say(f"{counted(len(found), 'image')} reviewed" + "".join(f", {n:,} {one}" for one, n in counts.items()))
            rows = [_row(one, in_words(one)) for one in found]
            if rows:
                table(list(SHOWN), [row.values() for row in rows[:MOST]])  # type: ignore[misc]
            if len(rows) > MOST:
                note(f"the latest {MOST} are shown; --json gives all")
            emit({"reviewed": len(found), "counts": counts, "images": rows})
            return
        try:
            found = judgements_named(store, name, images)
        except DataError as error:
            at, place = shlex.quote(str(model)), shlex.quote(str(folder))
            raise DataError(
                f"{error}. Nothing was reviewed. `knowngood reviews {place} --list 20` lists what is kept; `serve` and "
                f"`watch` keep images, `score` does not: `knowngood watch {at} FOLDER --once --keep {place}`"
            ) from None
        numbers, says = [one["number"] for one in found], VERDICTS[str(verdict)]
        add_review(folder, numbers, says, who=who or "", kind=kind or "", note=remark or "")
        rows = [_row(one, in_words(one) or "taken back") for one in (store.one(each["number"]) for each in found)]
        for row in rows:
            say(f"{row['number']}  {row['id']}  {row['review']}")
        unflagged = [str(one["id"]) for one in found if verdict == FALSE_ALARM and not one["flagged"]]
        if unflagged:
            was = "it was" if len(unflagged) == 1 else "they were"
            note(f"{listing(unflagged, most=5)}: stored as good, no false alarm: {was} not flagged")
        emit({"images": rows})
    note(f"`knowngood update {shlex.quote(str(model))} --reviews` learns from the reviews")


def _row(record: dict[str, Any], said: str) -> dict[str, Any]:
    return {**{name: record[name] or "" for name in SHOWN}, "review": said}
