"""What commands write, under a lock, and what they say of it: tables, explanations, links."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TextIO
from urllib.parse import quote

from knowngood.cli.console import note, say
from knowngood.cli.map_files import file_names
from knowngood.config import counted
from knowngood.data.progress import track
from knowngood.detector.versions import model_at
from knowngood.errors import SettingsError
from knowngood.files import LOCK, check_file, check_folder, is_stream, locked, plain, whole, write_json

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from knowngood.cli.destination import Destination
    from knowngood.cli.map_files import OverlayWriter, RawWriter
    from knowngood.data import ImageSet
    from knowngood.detector.estimator import Detector
    from knowngood.detector.explain import Explanation

SHOWN = 10  # files that could not be scored


@contextmanager
def writing(*files: Path | None, folders: Iterable[Path | None] = ()) -> Iterator[None]:
    """Within, no other run writes to these files and folders.

    Raises:
        SettingsError: one does, and the message names its process; or two of them are one.
        OutputError: one could not be written to; none of them is changed.
    """
    folders = [*folders]
    given = [one for one in (*files, *folders) if one is not None and not is_stream(one)]
    places = [Path(os.path.realpath(one)) for one in given]
    if twice := next((one for one, place in zip(given, places, strict=True) if places.count(place) > 1), None):
        raise SettingsError(
            f"{twice} is given for two outputs, and one would replace the other; give each its own name"
        )
    with ExitStack() as locks:
        for place, named in sorted(zip(places, given, strict=True)):
            locks.enter_context(locked(place.parent / f".{place.name}{LOCK}", str(named)))
        for kind, named in ((check_file, files), (check_folder, folders)):
            for one in named:
                if one is not None:
                    kind(one)
        yield


def keep_apart(
    given: Sequence[str],
    *sources: ImageSet | None,
    files: Mapping[str, Path | None],
    folders: Mapping[str, Path | None] | None = None,
) -> None:
    """Refuse to write over what is read, before anything is. given: data arguments. files, folders: outputs, by option.

    Raises:
        SettingsError: data are read from the file; or images lie in the folder or below, where pictures of their names
            would replace them, and a later run would take them for results.
    """
    paths = [path for images in sources if images is not None for path in getattr(images.pixels, "paths", ())]
    for flag, file in files.items():
        if file is None:
            continue
        read = [*given, *(path for path in paths if path.name == file.name)]
        if os.path.realpath(file) in map(os.path.realpath, read):
            raise SettingsError(f"{flag} {file}: the data are read from it; choose another file")
    beside = {path.parent: path for path in paths}
    for flag, folder in (folders or {}).items():
        if folder is None:
            continue
        for parent, path in beside.items():
            if Path(os.path.realpath(parent)).is_relative_to(os.path.realpath(folder)):
                raise SettingsError(
                    f"{flag} {folder}: images that are read lie in it, such as {path}, and could be replaced; choose "
                    "another folder"
                )


def check_replaced(files: Mapping[str, Path | None]) -> None:
    """Refuse to replace tables that hold no results, such as a manifest or a list of judgements. files: by option.

    Raises:
        SettingsError: one of them has none of the columns that results have.
    """
    from knowngood.data.values import listing
    from knowngood.evaluation.score_stream import MEASURES, column_names

    for flag, file in files.items():
        columns = None if file is None else column_names(file)
        if columns and not set(columns) & set(MEASURES):
            raise SettingsError(
                f"{flag} {file}: this table would be replaced, and holds no results (columns "
                f"{listing(columns, most=4)}); choose another file, or remove it"
            )


def check_out(model: Path, out: Path | None) -> None:
    """Refuse a folder that holds something else."""
    if out is not None and out.resolve() != model_at(model).resolve() and out.exists() and any(out.iterdir()):
        raise SettingsError(f"--out {out}: this folder is not empty; choose another one")


def write_tables(tables: Iterable[pd.DataFrame], output: Path | None, facts: Mapping[str, str] | None = None) -> None:
    """A table in parts with the same columns, in the format that the suffix names, or as CSV on stdout.

    CSV has no formulas, and takes the memory of one part, other formats of all.

    `facts` on the table as a whole are columns of JSON and metadata of parquet; CSV has no place for them.
    """
    if output is None:
        _write_csv(tables, sys.stdout)
        return
    with whole(output) as draft:
        suffix = output.suffix.lower()
        if suffix == ".csv":
            with draft.open("w", encoding="utf-8", newline="") as file:
                _write_csv(tables, file)
            return
        import pandas as pd

        parts = list(tables)
        table = parts[0] if len(parts) == 1 else pd.concat(parts, ignore_index=True)
        if suffix == ".json":
            _write_json(table.assign(**(facts or {})), draft)
        else:
            table.attrs.clear()
            table.attrs.update(facts or {})
            with draft.open("wb") as file:  # its name need not be text
                table.to_parquet(file, index=False)


def _write_csv(tables: Iterable[pd.DataFrame], file: TextIO) -> None:
    for i, table in enumerate(tables):
        without_formulas(table).to_csv(file, index=False, header=not i)


def _write_json(table: pd.DataFrame, file: Path) -> None:
    """A list of records, with all digits of a number: `to_json` of pandas keeps ten decimals at most."""
    with file.open("w", encoding="utf-8", newline="") as opened:
        texts = (json.dumps(plain(row), ensure_ascii=False, indent=1) for row in table.to_dict("records"))
        opened.write("[" + ",".join(f"\n{text}" for text in texts) + "\n]\n")


def without_formulas(table: pd.DataFrame) -> pd.DataFrame:
    """The table with ' before texts, and names of columns, that a spreadsheet would run as a formula.

    See `harmless`. Numbers stay as they are.
    """
    from knowngood.data.formulas import harmless

    safe = table.rename(columns=harmless)
    for position, dtype in enumerate(table.dtypes):
        if dtype.kind == "O" or dtype.name in ("str", "string", "category"):
            safe.isetitem(position, [harmless(value) for value in table.iloc[:, position]])
    return safe


def write_explanations(
    folder: Path, explanations: Sequence[Explanation], *sources: ImageSet, fitted_to: np.ndarray | None = None
) -> dict[str, str]:
    """A PNG for each explanation, and explanations.json. The nearest normal images are drawn if a source has them.

    `fitted_to` are digests of the normal images: one of the same name and other content is not shown for it.

    Returns the names of the PNGs by the id of the image.
    """
    from knowngood.evaluation.figures import style
    from knowngood.evaluation.figures.explanation import explanation
    from knowngood.evaluation.report.inspection_page import pictures

    names = file_names([one.id for one in explanations])
    for one, name in track(list(zip(explanations, names, strict=True)), "pictures", len(names)):
        ids = [near.id for near in (*one.nearest, *one.lookalikes[:1])]
        style.save(explanation(one, pictures(ids, *sources, fitted_to=fitted_to)), folder / name)
    records = [{**one.to_record(), "picture": name} for one, name in zip(explanations, names, strict=True)]
    write_json(folder / "explanations.json", records)
    return {one.id: name for one, name in zip(explanations, names, strict=True)}


def link(place: Path, page: Path) -> str:
    """The address of a file as a page names it that lies at `page`: relative, if both are on one drive."""
    try:
        return quote(Path(os.path.relpath(place.resolve(), page.resolve().parent)).as_posix())
    except ValueError:
        return place.resolve().as_uri()


def note_unread(unread: Sequence[tuple[str, str]]) -> None:
    """Names of images that could not be scored, with the reason; the first ones of many."""
    for name, reason in unread[:SHOWN]:
        note(f"not scored: {name}: {reason}")
    if len(unread) > SHOWN:
        note(f"not scored: {len(unread) - SHOWN:,} more")


def unread_in(table: pd.DataFrame) -> list[tuple[str, str]]:
    """Names and reasons of what a table of `Detector.detect` has no score of."""
    rows = table[table["error"].notna()] if "error" in table else table[:0]
    return [(str(name), str(why)) for name, why in rows.reindex(columns=["id", "error"]).to_numpy().tolist()]


def tell_written(tell: Callable[[str], None], place: Destination, writer: OverlayWriter | RawWriter | None) -> None:
    """Deliver the table and finish the maps, and say where they are."""
    if place.path is not None:
        tell(f"table   {place.deliver()}")
    if writer is not None:
        meaning = writer.finish()
        tell(f"maps    {writer.folder}")
        if meaning:
            note(meaning)


def anomalous_of(flagged: int, images: int) -> str:
    """'1 of 20 images is anomalous', '0 of 20 images are anomalous'."""
    return f"{flagged:,} of {counted(images, 'image')} {'is' if 1 in (flagged, images) else 'are'} anomalous"


def note_dependent(images: int, independent: int) -> None:
    """Say why fewer images calibrate than were given, where that is so."""
    if independent < images:
        why = "of exact copies, or of images of one group, one counts"
        note(f"{independent:,} of these {images:,} images calibrate: {why}")


def say_false_alarms(detector: Detector) -> None:
    """How many false alarms the calibration allows, in a line; none where nothing can be flagged."""
    from knowngood.detector.card import false_alarms

    if line := false_alarms(detector.pipeline_):
        say(f"alarms  {line}")


def this_command() -> str:
    """The command line that runs."""
    return shlex.join(["knowngood", *sys.argv[1:]])
