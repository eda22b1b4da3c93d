"""`knowngood score FILE.onnx`: an exported model on new images, without torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from knowngood.cli.console import note, say
from knowngood.cli.inputs import ALL, keep_split, open_selected, with_values
from knowngood.cli.outputs import MapWriter, write_table, writing
from knowngood.config import DataOptions, counted
from knowngood.errors import SettingsError


def score_exported(
    model: Path,
    data: str,
    refused: Mapping[str, object],
    *,
    output: Path | None,
    alpha: float | None,
    maps: Path | None,
    split: str | None,
    values: dict[str, str],
    bounds: DataOptions,
) -> None:
    """Score images by an exported model; `refused` are the options that it does not take, with their values.

    Raises:
        SettingsError: one of those is given.
    """
    given = [flag for flag, value in refused.items() if value]
    if given:
        raise SettingsError(f"{' and '.join(given)}: not of an exported model; give the folder that `train` wrote")
    import pandas as pd

    from knowngood.runtime import ExportedDetector

    with writing(output, maps):
        detector = ExportedDetector(model)
        images, _ = keep_split(open_selected(data, data_options=bounds), split, default=ALL)
        images = with_values(images, values)
        table = pd.DataFrame(detector.detect(images, alpha=alpha))
        write_table(table, output)
        read = table["p_value"].notna()
        tell = note if output is None else say
        rate = detector.alpha if alpha is None else alpha
        flagged = int(table["is_anomalous"].fillna(False).sum())
        tell(f"{flagged:,} of {counted(int(read.sum()), 'image')} are anomalous at a false-alarm rate of {rate:g}")
        for name, reason in table.loc[~read, ["id", "error"]].itertuples(index=False) if not read.all() else ():
            note(f"not scored: {name}: {reason}")
        if maps is not None:
            writer, some = MapWriter(maps), images[read.to_numpy()]
            for name, values_of in zip(some.ids, detector.anomaly_maps(some), strict=True):
                writer.add(str(name), values_of)
            writer.finish()
            tell(f"maps    {maps}")
