"""What `score` writes beside its table: anomaly maps, explanations, and the inspection page."""

from __future__ import annotations

import math
import os
import shlex
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, TextIO

from knowngood.cli.console import say
from knowngood.files import LOCK, locked, whole, write_json

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from knowngood.data import ImageSet
    from knowngood.detector.estimator import Detector
    from knowngood.detector.explain import Explanation


@contextmanager
def writing(*places: Path | None) -> Iterator[None]:
    """Within, no other run writes to these files and folders.

    Raises:
        SettingsError: one does; the message names its process.
    """
    with ExitStack() as locks:
        for place in sorted({Path(os.path.realpath(place)) for place in places if place is not None}):
            if place.is_file() or place.is_dir() or not place.exists():  # a device or a pipe needs none
                locks.enter_context(locked(place.with_name(f".{place.name}{LOCK}"), str(place)))
        yield


def write_table(table: pd.DataFrame, output: Path | None) -> None:
    """A table in the format that the suffix names, or CSV on stdout. CSV has no formulas."""
    write_tables([table], output)


def write_tables(tables: Iterable[pd.DataFrame], output: Path | None, facts: Mapping[str, str] | None = None) -> None:
    """The same of a table in parts with the same columns. CSV takes the memory of one part, other formats all.

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
            table.assign(**(facts or {})).to_json(draft, orient="records", indent=1, force_ascii=False)
        else:
            table.attrs.clear()
            table.attrs.update(facts or {})
            table.to_parquet(draft, index=False)


def _write_csv(tables: Iterable[pd.DataFrame], file: TextIO) -> None:
    for i, table in enumerate(tables):
        without_formulas(table).to_csv(file, index=False, header=not i)


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


class MapWriter:
    """16-bit grey PNGs of anomaly maps on one scale, and the scale itself in maps.json.

    A scale is known when the last map is; until then maps wait in a file beside the images, not in memory.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ids: list[str] = []
        self.shapes: list[tuple[int, int]] = []
        folder.mkdir(parents=True, exist_ok=True)
        self._waiting = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
        self._smallest, self._largest = math.inf, -math.inf

    def add(self, name: str, values: np.ndarray) -> None:
        """The map (H, W) of the next image."""
        import numpy as np

        self.ids.append(name)
        self.shapes.append(values.shape)
        values = np.asarray(values, np.float32)
        self._smallest = min(self._smallest, float(np.nanmin(values)))
        self._largest = max(self._largest, float(np.nanmax(values)))
        self._waiting.write(values.tobytes())

    def finish(self) -> None:
        """Write the images, one a map; ignored regions, where a map is NaN, get the lowest value."""
        import numpy as np
        from PIL import Image

        from knowngood.deploy.map_png import grey_levels, scale_of

        self._waiting.seek(0)
        offset, scale = self._smallest if self.shapes else 0.0, scale_of(self._smallest, self._largest)
        names = file_names(self.ids)
        for name, (height, width) in zip(names, self.shapes, strict=True):
            values = np.frombuffer(self._waiting.read(4 * height * width), np.float32).reshape(height, width)
            with whole(self.folder / name) as draft:
                Image.fromarray(grey_levels(values, offset, scale)).save(draft)
        self._waiting.close()
        index = {
            "offset": offset,
            "scale": scale,
            "meaning": "anomaly = offset + scale * grey level",
            "maps": dict(zip(self.ids, names, strict=True)),
        }
        write_json(self.folder / "maps.json", index)


def write_explanations(folder: Path, explanations: Sequence[Explanation], *sources: ImageSet) -> None:
    """A PNG for each explanation, and explanations.json. The nearest normal images are drawn if a source has them."""
    from knowngood.evaluation.figures import style
    from knowngood.evaluation.figures.explanation import explanation
    from knowngood.evaluation.report.inspection_page import pictures

    names = file_names([one.id for one in explanations])
    for one, name in zip(explanations, names, strict=True):
        ids = [near.id for near in (*one.nearest, *one.lookalikes[:1])]
        style.save(explanation(one, pictures(ids, *sources)), folder / name)
    records = [{**one.to_record(), "picture": name} for one, name in zip(explanations, names, strict=True)]
    write_json(folder / "explanations.json", records)


def say_false_alarms(detector: Detector) -> None:
    """How many false alarms the calibration allows, in a line; none where nothing can be flagged."""
    from knowngood.detector.card import false_alarms

    if line := false_alarms(detector.pipeline_):
        say(f"alarms  {line}")


def this_command() -> str:
    """The command line that runs."""
    return shlex.join(["knowngood", *sys.argv[1:]])


def file_names(ids: list[str]) -> list[str]:
    """A PNG path below a folder for each image id: its own path where that is unique and stays inside."""
    names = []
    for i, text in enumerate(ids):
        path = PurePosixPath(text.replace("\\", "/"))
        inside = not path.is_absolute() and ".." not in path.parts and ":" not in text and path.name
        names.append(str(path.with_suffix(".png")) if inside else f"{i:06d}.png")
    seen: dict[str, int] = {}
    for name in names:
        seen[name.lower()] = seen.get(name.lower(), 0) + 1
    return [name if seen[name.lower()] == 1 else f"{i:06d}-{PurePosixPath(name).name}" for i, name in enumerate(names)]
