"""`knowngood score`: a saved model on new images; a table of verdicts, and heat maps."""

from __future__ import annotations

import json
import math
import shlex
import sys
import tempfile
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated

import typer

from knowngood.cli.console import note, say
from knowngood.cli.inputs import Data, Device, Model, Unknown, load
from knowngood.errors import SettingsError

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from knowngood.calibration.map_thresholds import MapCalibration
    from knowngood.calibration.regions import Region
    from knowngood.data import ImageSet
    from knowngood.detector.estimator import Detector
    from knowngood.detector.explain import Explanation
    from knowngood.detector.maps import Mapped

SHOWN = 10  # files that could not be scored
FORMATS = (".csv", ".parquet", ".json")


def score(
    model: Model,
    data: Data,
    *,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help=".csv, .parquet or .json; default: CSV on stdout"),
    ] = None,
    alpha: Annotated[
        float | None, typer.Option(min=0, max=1, help="false-alarm rate of the verdicts; default as trained")
    ] = None,
    maps: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="write anomaly maps: 16-bit grey PNG of the image's size, offset and scale in maps.json"
        ),
    ] = None,
    explain: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="say why of the 20 oddest flagged images: a PNG each, explanations.json, and inspection.html of all",
        ),
    ] = None,
    good: Annotated[
        str | None,
        typer.Option(metavar="DATA", help="with --explain: the good images trained on, to show those most alike"),
    ] = None,
    regions: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="write the regions of anomaly, one a row: .csv, .parquet or .json"),
    ] = None,
    probabilities: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="write p(condition | image), a column a condition: .csv, .parquet or .json"),
    ] = None,
    unknown: Unknown = None,
    fdr: Annotated[
        float | None, typer.Option(min=0, max=1, help="flag by false-discovery rate over these images instead of alpha")
    ] = None,
    device: Device = None,
) -> None:
    """Score images: anomaly score, p-value, and whether it is anomalous at the false-alarm rate."""
    for flag, file in (("--output", output), ("--regions", regions), ("--probabilities", probabilities)):
        if file is not None and file.suffix.lower() not in FORMATS:
            raise SettingsError(f"{flag} {file}: unknown format '{file.suffix}'; known: {', '.join(FORMATS)}")
        if file is not None and file.suffix.lower() == ".parquet" and find_spec("pyarrow") is None:
            raise SettingsError(f"{flag} {file}: parquet needs pyarrow: pip install 'knowngood[parquet]'")
    if good is not None and explain is None:
        raise SettingsError("--good shows good images beside explanations; give --explain DIR with it")
    detector = load(model, device, unknown)

    from knowngood.data import open_images
    from knowngood.detector.condition_posterior import check_tells_conditions
    from knowngood.detector.results import region_table
    from knowngood.evaluation.inspected import Thumbnails

    if maps is not None:
        detector.pipeline_.check_maps()
    if probabilities is not None:
        check_tells_conditions(detector.pipeline_)
    usual = detector.pipeline_.check_regions() if regions is not None else None
    images = open_images(data)
    known = open_images(good) if good is not None else None
    writer = MapWriter(maps) if maps is not None else None
    places = Places(usual, alpha) if usual is not None else None
    small = Thumbnails(detector, images) if explain is not None and detector.pipeline_.score.has_map else None
    found = detector.detect(
        images,
        alpha=alpha,
        unknown=unknown,  # type: ignore[arg-type]
        fdr=fdr,
        explain=explain is not None,
        each=[one for one in (writer, places, small) if one is not None],
    )
    said = found.attrs.pop("explanations", [])
    write_table(found, output)
    tell = note if output is None else say  # a table on stdout stays alone there
    rate = detector.alpha if alpha is None else alpha
    flagged = found["is_anomalous"].fillna(False).tolist().count(True)
    unread = found["error"].notna().tolist().count(True) if "error" in found else 0
    how = f"at a false-alarm rate of {rate:g}" if fdr is None else f"at a false-discovery rate of {fdr:g}"
    tell(f"{flagged:,} of {len(found) - unread:,} images are anomalous {how}")
    if unread:
        tell(f"{unread:,} more could not be scored: see the column error")
    if output is not None:
        tell(f"table   {output}")
    if "error" in found:
        for name, reason in found.loc[found["error"].notna(), ["id", "error"]][:SHOWN].itertuples(index=False):
            note(f"not scored: {name}: {reason}")
        if unread > SHOWN:
            note(f"not scored: {unread - SHOWN:,} more")
        images = images[found["error"].isna().to_numpy()[: len(images)]]  # files set aside when opening come last
    if writer is not None:
        writer.finish([str(name) for name in images.ids])
        tell(f"maps    {maps}")
    if probabilities is not None:
        told = detector.condition_probabilities(images).set_index("id")  # what could not be read has none
        write_table(told.reindex(found["id"]).reset_index(), probabilities)
        tell(f"p(c|x)  {probabilities}")
    if regions is not None and places is not None:
        located = region_table(images, places.found)
        write_table(located, regions)
        tell(f"regions {regions}: {len(located):,} in {located['id'].nunique():,} images")
    if explain is not None:
        table = found[found["error"].isna()] if "error" in found else found
        write_explanations(explain, said, *([] if known is None else [known]), images)
        shown = {} if small is None else small.maps
        write_page(explain / "inspection.html", detector, images, table, said, rate, unknown, shown)
        tell(f"why     {explain}: {len(said):,} explained, and inspection.html")


def write_table(found: pd.DataFrame, output: Path | None) -> None:
    """A table, in the format that the suffix names."""
    if output is None:
        found.to_csv(sys.stdout, index=False)
        return
    output.parent.mkdir(parents=True, exist_ok=True)
    suffix = output.suffix.lower()
    if suffix == ".csv":
        found.to_csv(output, index=False)
    elif suffix == ".json":
        found.to_json(output, orient="records", indent=1, force_ascii=False)
    else:
        found.to_parquet(output, index=False)


class MapWriter:
    """One 16-bit grey PNG an image, at the image's own size, all on one scale that maps.json states.

    Grey level v stands for the anomaly offset + v · scale; shared, they keep the maps comparable. What is ignored is 0.
    Constant memory: the maps wait in a temporary file until the smallest and the largest value are known.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.shapes = folder, []
        self._waiting = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
        self._smallest, self._largest = math.inf, -math.inf

    def __call__(self, i: int, one: Mapped) -> None:
        """The next map."""
        import numpy as np

        values = np.asarray(one.map, np.float32)
        self.shapes.append(values.shape)
        self._smallest = min(self._smallest, float(np.nanmin(values)))
        self._largest = max(self._largest, float(np.nanmax(values)))
        self._waiting.write(values.tobytes())

    def finish(self, ids: list[str]) -> None:
        """Write the images that these ids name, one a map."""
        import numpy as np
        from PIL import Image

        self._waiting.seek(0)
        offset = self._smallest if self.shapes else 0.0
        scale = (self._largest - self._smallest) / 65535 if self._largest > self._smallest else 1.0
        names = file_names(ids)
        for name, (height, width) in zip(names, self.shapes, strict=True):
            values = np.frombuffer(self._waiting.read(4 * height * width), np.float32).reshape(height, width)
            values = np.nan_to_num(values, nan=offset)
            file = self.folder / name
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.rint(np.clip((values - offset) / scale, 0, 65535)).astype(np.uint16)).save(file)
        self._waiting.close()
        meaning = "anomaly = offset + scale * grey level"
        index = {"offset": offset, "scale": scale, "meaning": meaning, "maps": dict(zip(ids, names, strict=True))}
        (self.folder / "maps.json").write_text(json.dumps(index, indent=1, ensure_ascii=False), encoding="utf-8")


class Places:
    """The regions of each image, at a false-alarm rate."""

    def __init__(self, usual: MapCalibration, alpha: float | None) -> None:
        self.usual, self.alpha = usual, alpha
        self.found: list[list[Region]] = []

    def __call__(self, i: int, one: Mapped) -> None:
        """Those of the next image."""
        from knowngood.detector.maps import regions_in

        self.found.append(regions_in(self.usual, one, self.alpha))


def write_explanations(folder: Path, said: Sequence[Explanation], *good: ImageSet) -> None:
    """A PNG for each explanation, and explanations.json. The nearest good images are drawn where `good` has them."""
    from knowngood.evaluation.figures import style
    from knowngood.evaluation.figures.explanation import explanation
    from knowngood.evaluation.inspected import pictures

    folder.mkdir(parents=True, exist_ok=True)
    names = file_names([one.id for one in said])
    for one, name in zip(said, names, strict=True):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        style.save(explanation(one, pictures([near.id for near in one.nearest], *good)), folder / name)
    records = [{**one.to_record(), "picture": name} for one, name in zip(said, names, strict=True)]
    text = json.dumps(records, indent=1, ensure_ascii=False)
    (folder / "explanations.json").write_text(text + "\n", encoding="utf-8")


def write_page(
    path: Path,
    detector: Detector,
    images: ImageSet,
    table: pd.DataFrame,
    said: Sequence[Explanation],
    alpha: float,
    unknown: str | None,
    maps: Mapping[str, np.ndarray],
) -> None:
    """The inspection page of these images, whose rows the table has in their order; reduced maps of some are there."""
    from knowngood.evaluation.inspected import inspected
    from knowngood.evaluation.report import write_inspection

    items = inspected(detector, images, table, said, unknown=unknown, maps=maps)  # type: ignore[arg-type]
    command = shlex.join(["knowngood", *sys.argv[1:]])
    write_inspection(path, items, table, alpha=alpha, title=images.variant or images.name, command=command)


def file_names(ids: list[str]) -> list[str]:
    """A PNG path below the maps folder for each image id: its own path where that is unique and stays inside."""
    names = []
    for i, text in enumerate(ids):
        path = PurePosixPath(text.replace("\\", "/"))
        inside = not path.is_absolute() and ".." not in path.parts and ":" not in text and path.name
        names.append(str(path.with_suffix(".png")) if inside else f"{i:06d}.png")
    seen: dict[str, int] = {}
    for name in names:
        seen[name.lower()] = seen.get(name.lower(), 0) + 1
    return [name if seen[name.lower()] == 1 else f"{i:06d}-{PurePosixPath(name).name}" for i, name in enumerate(names)]
