"""`knowngood score`: a saved model on new images; a table of verdicts, and heat maps."""

from __future__ import annotations

import json
import shlex
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated

import typer

from knowngood.cli.console import note, say
from knowngood.cli.inputs import Data, Device, Model, Unknown, load
from knowngood.errors import SettingsError

if TYPE_CHECKING:
    import pandas as pd

    from knowngood.detector import Detector
    from knowngood.explaining import Explanation
    from knowngood.images import ImageSet

FORMATS = (".csv", ".parquet", ".json")
_CHUNK = 256  # images whose maps are held
_PIXELS = 1 << 25  # of them


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
    unknown: Unknown = None,
    fdr: Annotated[
        float | None, typer.Option(min=0, max=1, help="flag by false-discovery rate over these images instead of alpha")
    ] = None,
    device: Device = None,
) -> None:
    """Score images: anomaly score, p-value, and whether it is anomalous at the false-alarm rate."""
    for flag, file in (("--output", output), ("--regions", regions)):
        if file is not None and file.suffix.lower() not in FORMATS:
            raise SettingsError(f"{flag} {file}: unknown format '{file.suffix}'; known: {', '.join(FORMATS)}")
    if good is not None and explain is None:
        raise SettingsError("--good shows good images beside explanations; give --explain DIR with it")
    detector = load(model, device, unknown)

    from knowngood.images import open_images

    if maps is not None:
        detector.pipeline_.check_maps()
    if regions is not None:
        detector.pipeline_.check_regions()
    images = open_images(data)
    known = open_images(good) if good is not None else None
    found = detector.detect(images, alpha=alpha, unknown=unknown, fdr=fdr, explain=explain is not None)  # type: ignore[arg-type]
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
        for name, reason in found.loc[found["error"].notna(), ["id", "error"]].itertuples(index=False):
            note(f"not scored: {name}: {reason}")
        images = images[found["error"].isna().to_numpy()[: len(images)]]  # files set aside when opening come last
    if maps is not None:
        write_maps(maps, detector, images, unknown)
        tell(f"maps    {maps}")
    if regions is not None:
        located = detector.regions(images, alpha=alpha, unknown=unknown)  # type: ignore[arg-type]
        write_table(located, regions, "--regions")
        tell(f"regions {regions}: {len(located):,} in {located['id'].nunique():,} images")
    if explain is not None:
        table = found[found["error"].isna()] if "error" in found else found
        write_explanations(explain, said, *([] if known is None else [known]), images)
        write_page(explain / "inspection.html", detector, images, table, said, rate, unknown)
        tell(f"why     {explain}: {len(said):,} explained, and inspection.html")


def write_table(found: pd.DataFrame, output: Path | None, flag: str = "--output") -> None:
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
        try:
            found.to_parquet(output, index=False)
        except ImportError:
            raise SettingsError(f"{flag} {output}: parquet needs pyarrow: pip install 'knowngood[parquet]'") from None


def write_maps(folder: Path, detector: Detector, images: ImageSet, unknown: str | None) -> None:
    """One 16-bit grey PNG an image, at the image's own size, all on one scale that maps.json states.

    Grey level v stands for the anomaly offset + v · scale; shared, they keep the maps comparable. What is ignored is 0.
    Constant memory: the maps wait in a temporary file until the smallest and the largest value are known.
    """
    import numpy as np
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    shapes: list[tuple[int, int]] = []
    smallest, largest = np.inf, -np.inf
    with tempfile.TemporaryFile(dir=folder) as waiting:
        pixels = max((height * width for height, width, _ in images.shapes().tolist()), default=1)
        together = max(1, min(_CHUNK, _PIXELS // pixels))
        for start in range(0, len(images), together):
            part = images[start : start + together]
            for one in detector.anomaly_maps(part, unknown=unknown):  # type: ignore[arg-type]
                values = np.nan_to_num(np.asarray(one, np.float32), nan=np.nan)
                shapes.append(values.shape)  # type: ignore[arg-type]
                smallest, largest = min(smallest, float(np.nanmin(values))), max(largest, float(np.nanmax(values)))
                waiting.write(values.tobytes())
        waiting.seek(0)
        offset = smallest if shapes else 0.0
        scale = (largest - smallest) / 65535 if largest > smallest else 1.0
        names = file_names([str(name) for name in images.ids])
        for name, (height, width) in zip(names, shapes, strict=True):
            values = np.frombuffer(waiting.read(4 * height * width), np.float32).reshape(height, width)
            values = np.nan_to_num(values, nan=offset)
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.rint(np.clip((values - offset) / scale, 0, 65535)).astype(np.uint16)).save(folder / name)
    index = {
        "offset": offset,
        "scale": scale,
        "meaning": "anomaly = offset + scale * grey level",
        "maps": dict(zip(map(str, images.ids), names, strict=True)),
    }
    (folder / "maps.json").write_text(json.dumps(index, indent=1, ensure_ascii=False), encoding="utf-8")


def write_explanations(folder: Path, said: Sequence[Explanation], *good: ImageSet) -> None:
    """A PNG for each explanation, and explanations.json. The nearest good images are drawn where `good` has them."""
    from knowngood.figures import style
    from knowngood.figures.explanation import explanation
    from knowngood.inspecting import pictures

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
) -> None:
    """The inspection page of these images, whose rows the table has in their order."""
    from knowngood.inspecting import inspected
    from knowngood.report import write_inspection

    items = inspected(detector, images, table, said, unknown=unknown)  # type: ignore[arg-type]
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
