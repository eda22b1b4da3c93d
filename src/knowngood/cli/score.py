"""`knowngood score`: a saved model on new images; a table of verdicts, and heat maps."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated

import typer

from knowngood.cli.console import note, say
from knowngood.cli.inputs import Data, Device, Model, Unknown, load
from knowngood.errors import SettingsError

if TYPE_CHECKING:
    import pandas as pd

    from knowngood.detector import Detector
    from knowngood.images import ImageSet

FORMATS = (".csv", ".parquet", ".json")
_CHUNK = 256


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
    unknown: Unknown = None,
    fdr: Annotated[
        float | None, typer.Option(min=0, max=1, help="flag by false-discovery rate over these images instead of alpha")
    ] = None,
    device: Device = None,
) -> None:
    """Score images: anomaly score, p-value, and whether it is anomalous at the false-alarm rate."""
    if output is not None and output.suffix.lower() not in FORMATS:
        raise SettingsError(f"--output {output}: unknown format '{output.suffix}'; known: {', '.join(FORMATS)}")
    detector = load(model, device, unknown)

    from knowngood.images import open_images

    if maps is not None:
        detector.pipeline_.check_maps()
    images = open_images(data)
    found = detector.detect(images, alpha=alpha, unknown=unknown, fdr=fdr)  # type: ignore[arg-type]
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


def write_table(found: pd.DataFrame, output: Path | None) -> None:
    """The verdicts, in the format that the suffix names."""
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
            raise SettingsError(f"--output {output}: parquet needs pyarrow: pip install 'knowngood[parquet]'") from None


def write_maps(folder: Path, detector: Detector, images: ImageSet, unknown: str | None) -> None:
    """One 16-bit grey PNG an image, at the image's own size, all on one scale that maps.json states.

    Grey level v stands for the anomaly offset + v · scale; shared, they keep the maps comparable. Constant memory: the
    maps wait in a temporary file until the smallest and the largest value are known.
    """
    import numpy as np
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    shapes: list[tuple[int, int]] = []
    smallest, largest = np.inf, -np.inf
    with tempfile.TemporaryFile(dir=folder) as waiting:
        for start in range(0, len(images), _CHUNK):
            part = images[start : start + _CHUNK]
            for one in detector.anomaly_maps(part, unknown=unknown):  # type: ignore[arg-type]
                values = np.nan_to_num(np.asarray(one, np.float32))
                shapes.append(values.shape)  # type: ignore[arg-type]
                smallest, largest = min(smallest, float(values.min())), max(largest, float(values.max()))
                waiting.write(values.tobytes())
        waiting.seek(0)
        offset = smallest if shapes else 0.0
        scale = (largest - smallest) / 65535 if largest > smallest else 1.0
        names = file_names([str(name) for name in images.ids])
        for name, (height, width) in zip(names, shapes, strict=True):
            values = np.frombuffer(waiting.read(4 * height * width), np.float32).reshape(height, width)
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.rint(np.clip((values - offset) / scale, 0, 65535)).astype(np.uint16)).save(folder / name)
    index = {
        "offset": offset,
        "scale": scale,
        "meaning": "anomaly = offset + scale * grey level",
        "maps": dict(zip(map(str, images.ids), names, strict=True)),
    }
    (folder / "maps.json").write_text(json.dumps(index, indent=1, ensure_ascii=False), encoding="utf-8")


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
