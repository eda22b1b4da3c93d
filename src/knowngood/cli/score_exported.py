"""`knowngood score FILE.onnx`: an exported model on new images, without torch."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from knowngood.cli.bounds import Bounds
from knowngood.cli.console import note, say
from knowngood.cli.destination import Destination
from knowngood.cli.inputs import ALL, keep_split, open_selected, with_values
from knowngood.cli.map_files import WRITERS
from knowngood.cli.outputs import (
    anomalous_of,
    check_replaced,
    keep_apart,
    note_unread,
    tell_written,
    write_tables,
    writing,
)
from knowngood.config import DataOptions
from knowngood.data.progress import track
from knowngood.data.values import in_one
from knowngood.detector.versions import MARK
from knowngood.errors import DataError, SettingsError

WHY = {
    "--explain": "explanations compare with normal images, which are not in the file",
    "--probabilities": "p(condition | image) is not in the file",
    "--regions": "their p-values need the calibration of the maps, which is not in the file",
}


def score_exported(
    model: Path,
    data: str,
    refused: Mapping[str, object],
    *,
    place: Destination,
    alpha: float | None,
    maps: Path | None,
    maps_format: str,
    split: str | None,
    unknown: Any,
    values: dict[str, str],
    bounds: Bounds,
) -> None:
    """Score images by an exported model; `refused` are the options that it does not take, with their values.

    Raises:
        SettingsError: one of those is given.
    """
    given = [flag for flag, value in refused.items() if value is not None and value is not False]
    if given:
        why = "; ".join(WHY[flag] for flag in given if flag in WHY)
        what = f"{' and '.join(given)}: not of an exported model{f' ({why})' if why else ''}"
        raise SettingsError(f"{what}; give the folder that `train` wrote")
    import pandas as pd

    from knowngood.data.readers.limits import Limits
    from knowngood.runtime import ExportedDetector
    from knowngood.runtime.misfit import batch_remark

    output = place.path
    with writing(output, folders=[maps]):
        detector = ExportedDetector(model)
        own = Limits(**detector.facts.get("limits", {}))
        trained = DataOptions(max_pixels=own.pixels, max_pages=own.pages, max_unpacked_gb=own.gigabytes)
        images, _ = keep_split(open_selected(data, data_options=bounds.over(trained)), split, default=ALL)
        images = with_values(images, values, detector.schema.names)
        keep_apart([data], images, files={"--output": output}, folders={"--maps": maps})
        check_replaced({"--output": output})
        rate = detector.alpha if alpha is None else alpha
        writer, found = WRITERS[maps_format](maps, images.ids.tolist()) if maps is not None else None, []
        stream = detector.stream(images, alpha=alpha, unknown=unknown, maps=writer is not None)
        for i, one in enumerate(track(stream, "scoring", len(images))):
            if writer is not None and one.map is not None:
                writer.add(one.row["id"], partial(images.read, i), one.map, detector.map_scale(one.map))
            found.append(one._replace(map=None))
        remarks = detector.add_notes(found)
        rejected = [{"id": one.path_or_id, "is_anomalous": None, "error": one.reason} for one in images.unusable]
        table = pd.DataFrame([*(one.row for one in found), *rejected])
        read = table["p_value"].notna()
        reasons: list[Any] = table.loc[~read, ["id", "error"]].to_numpy().tolist() if not read.all() else []
        if not read.any():
            raise DataError(f"no item can be scored (of {len(table):,}); the first, {': '.join(reasons[0])}")
        remark = batch_remark(found, images.labels, detector.facts, rate)
        remarks = [*filter(None, [remark]), *remarks]
        for remark in remarks:
            note(f"warning: {remark}")
        about = {MARK: detector.facts["fingerprint"]} | ({"batch_warning": in_one(remarks)} if remarks else {})
        write_tables([table], output, about)
        tell = note if output is None else say
        flagged = int(table["is_anomalous"].fillna(False).sum())
        tell(f"{anomalous_of(flagged, int(read.sum()))} at a false-alarm rate of {rate:g}")
        if reasons:
            tell(f"{len(reasons):,} more could not be scored: see the column error")
        note_unread(reasons)
        tell_written(tell, place, writer)
