"""`knowngood score`: a saved model on new images; a table of verdicts, and anomaly maps."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from knowngood.cli.console import note, say, tracked
from knowngood.cli.inputs import Alpha, As, Data, Device, Model, Unknown, as_values, load, with_values
from knowngood.cli.outputs import MapWriter, this_command, write_explanations, write_table
from knowngood.config import counted
from knowngood.errors import SettingsError

if TYPE_CHECKING:
    import pandas as pd

    from knowngood.calibration import Region
    from knowngood.data import ImageSet
    from knowngood.detector.estimator import Detector
    from knowngood.detector.explain import Explanation
    from knowngood.evaluation.evaluate import TopMaps

EXPLAINED = 20  # images at most
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
    alpha: Alpha = None,
    fdr: Annotated[
        float | None, typer.Option(min=0, max=1, help="flag by false-discovery rate over these images instead of alpha")
    ] = None,
    maps: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="write anomaly maps: 16-bit grey PNG of the image's size, offset and scale in maps.json"
        ),
    ] = None,
    regions: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="write anomalous regions, one a row: .csv, .parquet or .json"),
    ] = None,
    explain: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help=f"explain the {EXPLAINED} flagged images with the highest scores: a PNG each, explanations.json, and "
            "inspection.html of all",
        ),
    ] = None,
    normals: Annotated[
        str | None,
        typer.Option(
            "--normals", "--good", metavar="DATA", help="with --explain: normal images, to show the most similar ones"
        ),
    ] = None,
    probabilities: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="write p(condition | image), a column a condition: .csv, .parquet or .json"),
    ] = None,
    as_condition: As = None,
    unknown: Unknown = None,
    device: Device = None,
) -> None:
    """Score images: anomaly score, p-value, and whether it is anomalous at the false-alarm rate."""
    for flag, file in (("--output", output), ("--regions", regions), ("--probabilities", probabilities)):
        if file is not None and file.suffix.lower() not in FORMATS:
            raise SettingsError(f"{flag} {file}: unknown format '{file.suffix}'; known: {', '.join(FORMATS)}")
        if file is not None and file.suffix.lower() == ".parquet" and find_spec("pyarrow") is None:
            raise SettingsError(f"{flag} {file}: parquet needs pyarrow: pip install pyarrow")
    if normals is not None and explain is None:
        raise SettingsError("--normals shows normal images beside explanations; give --explain DIR with it")
    detector = load(model, device, unknown)

    from knowngood.calibration import regions_table
    from knowngood.data import open_images
    from knowngood.data.readers.limits import Limits
    from knowngood.detector.condition_posterior import check_posterior
    from knowngood.detector.maps import check_maps, check_regions

    if maps is not None:
        check_maps(detector.pipeline_)
    if regions is not None:
        check_regions(detector.pipeline_)
    if probabilities is not None:
        check_posterior(detector.pipeline_)
    limits = Limits.of(detector.pipeline_.settings.data)
    images = with_values(open_images(data, limits=limits), as_values(as_condition))
    sources = [] if normals is None else [open_images(normals, limits=limits)]
    writer = MapWriter(maps) if maps is not None else None
    small = None
    if explain is not None and detector.pipeline_.score.has_map:
        from knowngood.evaluation.evaluate import TopMaps

        small = TopMaps()
    table, located = _one_pass(
        detector, images, writer, small, alpha=alpha, fdr=fdr, unknown=unknown, regions=regions is not None
    )
    explanations = [] if explain is None else _explanations(detector, images, table, alpha, unknown)
    if explain is not None:
        summaries = {one.id: one.summary for one in explanations}
        table.insert(table.columns.get_loc("condition") + 1, "explanation", table["id"].map(summaries))  # type: ignore[arg-type]
    write_table(table, output)

    tell = note if output is None else say  # a table on stdout stays alone there
    rate = detector.alpha if alpha is None else alpha
    how = f"at a false-alarm rate of {rate:g}" if fdr is None else f"at a false-discovery rate of {fdr:g}"
    unread = table["error"].notna().to_numpy() if "error" in table else table["id"].isna().to_numpy()
    flagged = int(table["is_anomalous"].fillna(False).sum())
    tell(f"{flagged:,} of {counted(len(table) - unread.sum(), 'image')} are anomalous {how}")
    if unread.any():
        tell(f"{unread.sum():,} more could not be scored: see the column error")
        for name, reason in table.loc[unread, ["id", "error"]][:SHOWN].itertuples(index=False):
            note(f"not scored: {name}: {reason}")
        if unread.sum() > SHOWN:
            note(f"not scored: {unread.sum() - SHOWN:,} more")
    if output is not None:
        tell(f"table   {output}")
    if writer is not None:
        writer.finish()
        tell(f"maps    {maps}")
    if probabilities is not None:
        readable = images[~unread[: len(images)]]  # files set aside when opening come last in the table
        columns = detector.condition_probabilities(readable).set_index("id")
        write_table(columns.reindex(table["id"]).reset_index(), probabilities)
        tell(f"p(c|x)  {probabilities}")
    if regions is not None:
        import numpy as np

        found = regions_table(np.array([name for name, _ in located], dtype=object), [some for _, some in located])
        write_table(found, regions)
        tell(f"regions {regions}: {len(found):,} in {counted(found['id'].nunique(), 'image')}")
    if explain is not None:
        write_explanations(explain, explanations, *sources, images)
        from knowngood.evaluation.report import inspected, write_inspection

        readable, kept = images[~unread[: len(images)]], {} if small is None else small.maps
        items = inspected(detector, readable, table[~unread], explanations, unknown=unknown, maps=kept)  # type: ignore[arg-type]
        about = {"alpha": rate, "title": images.variant or images.name, "command": this_command()}
        write_inspection(explain / "inspection.html", items, table[~unread], **about)  # type: ignore[arg-type]
        tell(f"why     {explain}: {len(explanations):,} explained, and inspection.html")


def _one_pass(
    detector: Detector,
    images: ImageSet,
    writer: MapWriter | None,
    small: TopMaps | None,
    *,
    alpha: float | None,
    fdr: float | None,
    unknown: Any,
    regions: bool,
) -> tuple[pd.DataFrame, list[tuple[str, list[Region]]]]:
    """The table of all images and the regions of each readable one; maps go where they are collected."""
    from knowngood.detector.batch import with_remark
    from knowngood.detector.decide import Decisions
    from knowngood.detector.results import table_of, with_rejected

    parts, located = [], []
    mapped = writer is not None or small is not None
    batches = detector.stream(images, unknown=unknown, alpha=alpha, maps=mapped, regions=regions)
    for batch in tracked(batches, len(images), "scoring"):
        parts.append(batch.decisions)
        scores = batch.decisions.anomaly_score
        for name, score, values, some in zip(batch.items.ids, scores, batch.maps, batch.regions, strict=True):
            if values is not None and writer is not None:
                writer.add(str(name), values)
            if values is not None and small is not None:
                small.add(str(name), float(score), values)
            if some is not None:
                located.append((str(name), some))
    level = detector.alpha if alpha is None else alpha
    decisions = Decisions.concat(parts)
    table = with_rejected(table_of(images, decisions, level, fdr=fdr), images)
    return with_remark(table, detector.pipeline_, images, decisions, alpha), located


def _explanations(
    detector: Detector, images: ImageSet, table: pd.DataFrame, alpha: float | None, unknown: Any
) -> list[Explanation]:
    """Of the flagged images with the highest scores."""
    import numpy as np

    flagged = table["is_anomalous"][: len(images)].fillna(False).to_numpy(bool)
    scores = table["anomaly_score"][: len(images)].to_numpy(float)
    rows = np.flatnonzero(flagged)
    rows = rows[np.argsort(-scores[rows], kind="stable")][:EXPLAINED]
    if not len(rows):
        return []
    return detector.explain(images[rows], unknown=unknown, alpha=alpha, most=EXPLAINED, others=True)
