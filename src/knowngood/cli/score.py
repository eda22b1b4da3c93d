"""`knowngood score`: a saved model on new images; a table of verdicts, and anomaly maps."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple
from urllib.parse import quote

import typer

from knowngood.cli.bounds import Bounds, with_bounds
from knowngood.cli.console import note, say
from knowngood.cli.destination import Destination
from knowngood.cli.inputs import (
    ALL,
    Alpha,
    As,
    Data,
    Device,
    Scorer,
    Unknown,
    as_rate,
    check_company,
    keep_split,
    load,
    note_pace,
    open_selected,
    with_values,
)
from knowngood.cli.map_files import WRITERS
from knowngood.cli.outputs import (
    anomalous_of,
    check_replaced,
    keep_apart,
    note_unread,
    tell_written,
    this_command,
    write_explanations,
    write_tables,
    writing,
)
from knowngood.config import counted, nearest
from knowngood.config.version import __version__
from knowngood.data.column_values import as_values
from knowngood.detector.versions import fingerprint, in_use
from knowngood.errors import DataError, Interrupted, KnowngoodError, SettingsError

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from knowngood.calibration import Region
    from knowngood.cli.map_files import OverlayWriter, RawWriter
    from knowngood.cli.scored_rows import ScoredRows
    from knowngood.config import DataOptions
    from knowngood.data import ImageSet
    from knowngood.data.columns import Column
    from knowngood.detector.decide import Decisions
    from knowngood.detector.estimator import Detector
    from knowngood.detector.explain import Explanation
    from knowngood.evaluation.evaluate import TopMaps

EXPLAINED = 20  # images, unless more are asked for
FORMATS = (".csv", ".parquet", ".json")
UNFINISHED = ".unfinished"


class _Wanted(NamedTuple):
    """How images are judged, and what is written beside the table. sources: where normal images are found by id."""

    alpha: float | None
    fdr: float | None
    unknown: Any
    writer: OverlayWriter | RawWriter | None
    regions: Path | None
    explain: Path | None
    most: int
    probabilities: Path | None
    sources: list[ImageSet]


@with_bounds
def score(
    model: Scorer,
    data: Data,
    *,
    to: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help=".csv, .parquet or .json, or a URL of an object store (s3://bucket/results/); default: CSV on stdout",
        ),
    ] = None,
    alpha: Alpha = None,
    fdr: Annotated[
        float | None,
        typer.Option(
            parser=as_rate, metavar="FLOAT", help="flag by false-discovery rate over these images instead of alpha"
        ),
    ] = None,
    maps: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="write anomaly maps: a PNG of each image with what is above the threshold in colour"
        ),
    ] = None,
    maps_format: Annotated[
        str | None,
        typer.Option(
            metavar="overlay|raw",
            help="overlay: colour over the image; raw: 16-bit grey, its scale in maps.json; default overlay",
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
            help="explain flagged images, those with the highest scores first: a PNG each, explanations.json, and "
            "inspection.html of all",
        ),
    ] = None,
    explain_most: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help=f"with --explain: explain so many images; default {EXPLAINED}"),
    ] = None,
    normals: Annotated[
        str | None,
        typer.Option(
            "--normals",
            "--good",
            metavar="DATA",
            help="with --explain: normal images, to show the most similar ones; default: those that it was trained on",
        ),
    ] = None,
    probabilities: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="write p(condition | image), a column a condition: .csv, .parquet or .json"),
    ] = None,
    split: Annotated[
        str | None, typer.Option(metavar="NAME", help="score this split alone; default: every image")
    ] = None,
    as_condition: As = None,
    unknown: Unknown = None,
    device: Device = None,
    cluster: Annotated[
        str | None,
        typer.Option(
            metavar="local|ADDRESS",
            help="score on a Ray cluster; --output is then a folder or URL for parquet parts",
        ),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="with --cluster: so many workers; default one for each CPU")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="with --cluster: threads of each worker; default 1")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="go on with an unfinished run into this --output: FILE.unfinished")
    ] = False,
    bounds: Bounds,
) -> None:
    """Score images: anomaly score, p-value, and whether it is anomalous at the false-alarm rate.

    What is scored is kept in FILE.unfinished until the output FILE is whole. If the run is interrupted, the same
    command with --resume goes on after the last batch and ends with the same bytes.
    """
    if cluster is not None:
        asked = {"--fdr": fdr, "--maps": maps, "--regions": regions, "--explain": explain, "--normals": normals}
        asked["--explain-most"] = explain_most
        _score_on_cluster(
            model, data, to, {**asked, "--probabilities": probabilities}, address=cluster, workers=workers,
            threads=threads or 1, resume=resume, alpha=alpha, unknown=unknown, device=device, split=split,
            values=as_values(as_condition), bounds=bounds,
        )  # fmt: skip
        return
    place = Destination.of(to)
    output = place.path
    for flag, file in (("--output", output), ("--regions", regions), ("--probabilities", probabilities)):
        if file is not None and file.suffix.lower() not in FORMATS:
            raise SettingsError(f"{flag} {file}: unknown format '{file.suffix}'; known: {', '.join(FORMATS)}")
        if file is not None and file.suffix.lower() == ".parquet" and find_spec("pyarrow") is None:
            raise SettingsError(f"{flag} {file}: parquet needs pyarrow: pip install pyarrow")
    if workers or threads:
        raise SettingsError("--workers and --threads are of a cluster: give --cluster with them, or leave them out")
    check_company("--maps-format", maps_format, "--maps DIR", maps is None)
    maps_format = maps_format or "overlay"
    if maps_format not in WRITERS:
        raise SettingsError(f"--maps-format {maps_format}: no such format{nearest(maps_format, list(WRITERS))}")
    if normals is not None and explain is None:
        raise SettingsError("--normals shows normal images beside explanations; give --explain DIR with it")
    check_company("--explain-most", explain_most, "--explain DIR", explain is None)
    apart = [f for f, place in (("--maps", maps), ("--regions", regions), ("--explain", explain)) if place is not None]
    if resume and output is None:
        raise SettingsError("--resume goes on with a run into an --output FILE; give the FILE")
    if resume and apart:
        raise SettingsError(
            f"--resume goes on with the table alone; leave {' and '.join(apart)} out, or leave --resume out to score "
            "all images again"
        )
    if model.suffix.lower() == ".onnx":
        from knowngood.cli.score_exported import score_exported

        only = {"--fdr": fdr, "--regions": regions, "--explain": explain, "--probabilities": probabilities}
        only |= {"--device": device, "--resume": resume}
        shown: dict[str, Any] = {"place": place, "alpha": alpha, "split": split, "unknown": unknown}
        shown |= {"maps": maps, "maps_format": maps_format}
        score_exported(model, data, only, **shown, values=as_values(as_condition), bounds=bounds)
        return
    with writing(output, regions, probabilities, folders=[maps, explain]):
        detector = load(model, device, data, normals)

        from knowngood.detector.condition_posterior import check_posterior
        from knowngood.detector.maps import check_maps, check_regions

        if maps is not None:
            check_maps(detector.pipeline_)
        if regions is not None:
            check_regions(detector.pipeline_)
        if probabilities is not None:
            check_posterior(detector.pipeline_)
        options = bounds.over(detector.pipeline_.settings.data)
        images, _ = keep_split(open_selected(data, data_options=options), split, default=ALL)
        images = with_values(images, as_values(as_condition), detector.pipeline_.given_columns)
        if normals is not None:
            sources = [open_selected(normals, data_options=options)]
        else:
            sources = [] if explain is None else _trained_on(model, options)
        tables = {"--output": output, "--regions": regions, "--probabilities": probabilities}
        given = [data, *([] if normals is None else [normals])]
        keep_apart(given, images, *sources, files=tables, folders={"--maps": maps, "--explain": explain})
        check_replaced({"--output": output, "--regions": regions})
        asked = {"alpha": alpha, "fdr": fdr, "unknown": unknown}
        mark = fingerprint(in_use(model))
        if resume and output is not None and output.is_file() and not _unfinished(output).exists():
            _check_finished(detector, images, model, output)
        rows = _rows(detector, images, output, {"model": mark, **asked}, apart=bool(apart), resume=resume)
        keep = True
        try:
            writer = None if maps is None else WRITERS[maps_format](maps, images.ids.tolist())
            beside = writer, regions, explain, explain_most or EXPLAINED, probabilities, sources
            _score(detector, images, rows, mark, place, _Wanted(alpha, fdr, unknown, *beside))
            keep = False
        except DataError:
            keep = rows.done < len(images)  # else none of them could be scored
            raise
        finally:
            rows.close(keep=keep and rows.done > 0)


def _trained_on(model: Path, options: DataOptions) -> list[ImageSet]:
    """The images that `train` was given, where they still lie on this machine: explanations show some of them."""
    from knowngood.data.readers.limits import Limits
    from knowngood.data.stores.address import is_url
    from knowngood.detector.run_record import trained_on, training_images

    with suppress(KnowngoodError):
        if not is_url(trained_on(model)) and (found := training_images(model, Limits.of(options))) is not None:
            return [found]
    return []


def _score_on_cluster(
    model: Path,
    data: str,
    output: str | None,
    others: dict[str, Any],
    *,
    device: str | None,
    split: str | None,
    values: dict[str, str],
    bounds: Bounds,
    **how: Any,
) -> None:
    """What `--cluster` does with these options; the others it does not take."""
    from knowngood.cli.score_cluster import score_on_cluster

    given = [flag for flag, value in others.items() if value is not None]
    if output is None:
        raise SettingsError("--cluster writes parts of the table: give a folder or a URL by --output")
    if given:
        raise SettingsError(f"--cluster takes no {' and no '.join(given)}; leave it out, or score on one machine")
    detector = load(model, device, data)
    options = bounds.over(detector.pipeline_.settings.data)
    images, _ = keep_split(open_selected(data, data_options=options), split, default=ALL)
    images = with_values(images, values, detector.pipeline_.given_columns)
    score_on_cluster(detector, images, model, output, mark=fingerprint(in_use(model)), **how)


def _check_finished(detector: Detector, images: ImageSet, model: Path, output: Path) -> None:
    """Raises SettingsError: --resume would replace a finished table of another model, of other images or unknown."""
    from knowngood.evaluation.score_stream import read_results
    from knowngood.evaluation.scored_by import scored_by

    table = read_results(output)
    why: str | None = "it is no table of results"
    if table is not None:
        found = scored_by(table, model, detector.pipeline_)
        ids = {str(name).lstrip("'") for name in [*images.ids.tolist(), *(one.path_or_id for one in images.rejected)]}
        others = "id" not in table or not set(table["id"].astype(str).str.lstrip("'")) <= ids  # ' guards a formula
        why = "it holds other images" if found.same and others else None if found.same else found.why
    if why is not None:
        raise SettingsError(
            f"--resume: {output} is finished, and {why}. Choose another --output, or leave --resume out to replace it"
        )
    note(f"{output} is finished, and {model} scored it: these images are scored again")


def _unfinished(output: Path) -> Path:
    return output.with_name(output.name + UNFINISHED)


def _rows(
    detector: Detector, images: ImageSet, output: Path | None, asked: dict[str, Any], *, resume: bool, apart: bool
) -> ScoredRows:
    """Where the decisions are kept: beside the output, if nothing but the table is asked for."""
    from knowngood.cli.scored_rows import ScoredRows
    from knowngood.data.content_digest import data_digest
    from knowngood.detector.scoring import items_at_once

    if output is None or (output.exists() and not output.is_file()):  # not beside a device or a pipe
        return ScoredRows(None, {})
    path = _unfinished(output)
    if apart:
        if path.exists():
            ScoredRows(path, {})  # refuses
        return ScoredRows(None, {})
    pipeline = detector.pipeline_
    run = {"knowngood": __version__, "device": pipeline.device.type, "images": len(images)}
    run |= {"data": data_digest(images), **asked, "batch": items_at_once(pipeline)}
    return ScoredRows(path, run, resume)


def _score(
    detector: Detector, images: ImageSet, rows: ScoredRows, mark: str, place: Destination, wanted: _Wanted
) -> None:
    """Score what is not scored yet, and write all that was asked for."""
    import numpy as np

    from knowngood.calibration import regions_table
    from knowngood.detector.remarks import remarks_on
    from knowngood.detector.results import flagged
    from knowngood.detector.versions import MARK

    output, explain, fdr = place.path, wanted.explain, wanted.fdr
    small, started = None, time.perf_counter()
    if explain is not None and detector.pipeline_.score.has_map:
        from knowngood.evaluation.evaluate import TopMaps

        small = TopMaps()
    located = _one_pass(detector, images, rows, wanted, small)
    note_pace(images, time.perf_counter() - started)
    decisions, rate = rows.joined(), detector.alpha if wanted.alpha is None else wanted.alpha
    if len(decisions.errors) == len(images):  # some of them in the run before
        raise DataError(
            f"no item can be scored (of {len(images):,}); the first, {images.ids[0]}: {decisions.errors[0]}"
        )
    joint = decisions.joint_p_values
    flags = flagged(joint, rate, fdr)
    largest = rate if fdr is None else float(joint[flags].max(initial=0.0))  # p-value that is flagged
    explanations = [] if explain is None else _explanations(detector, images, decisions, flags, wanted)
    summaries = None if explain is None else {one.id: one.summary for one in explanations}
    remarks = remarks_on(detector.pipeline_, images, decisions, wanted.alpha)
    remarks.warn()
    rejected = images.unusable
    unread = [(str(images.ids[i]), why) for i, why in decisions.errors.items()]
    unread += [(one.path_or_id, one.reason) for one in rejected]
    checked = detector.pipeline_.checked_columns
    tables = _tables(rows, images, largest, checked, bool(unread), summaries, remarks.notes)
    table = None
    if explain is not None:  # the inspection page shows all of it
        import pandas as pd

        table = pd.concat(tables, ignore_index=True)
        table.attrs.update(remarks.found)
        tables = iter([table])
    about = {MARK: mark} | ({"batch_warning": remarks.text} if remarks.found else {})
    write_tables(tables, output, about)

    tell = note if output is None else say  # a table on stdout stays alone there
    how = f"at a false-alarm rate of {rate:g}" if fdr is None else f"at a false-discovery rate of {fdr:g}"
    wrong = ""
    if decisions.stated is not None:
        n = int((flags & ~(decisions.p_values <= largest / 2)).sum())
        wrong = f", {n:,} of them wrong for what they are said to be"
    tell(f"{anomalous_of(int(flags.sum()), len(images) - len(decisions.errors))} {how}{wrong}")
    if unread:
        tell(f"{len(unread):,} more could not be scored: see the column error")
        note_unread(unread)
    tell_written(tell, place, wanted.writer)
    read = ~np.isnan(decisions.p_values)
    if wanted.probabilities is not None:
        columns = detector.condition_probabilities(images[read]).set_index("id")
        ids = [*images.ids.tolist(), *(one.path_or_id for one in rejected)]
        write_tables([columns.reindex(ids).rename_axis("id").reset_index()], wanted.probabilities)
        tell(f"p(c|x)  {wanted.probabilities}")
    if wanted.regions is not None:
        found = regions_table(np.array([name for name, _ in located], dtype=object), [some for _, some in located])
        write_tables([found], wanted.regions)
        tell(f"regions {wanted.regions}: {len(found):,} in {counted(found['id'].nunique(), 'image')}")
    if explain is not None and table is not None:
        fitted_to = detector.pipeline_.fitted_to
        own = [] if fitted_to is None else [images]  # the images that are judged may have the names of normal ones
        pictures = write_explanations(explain, explanations, *wanted.sources, *own, fitted_to=fitted_to)
        links = {name: quote(picture) for name, picture in pictures.items()}
        from knowngood.evaluation.report import inspected, write_inspection

        kept, scored = {} if small is None else small.maps, table[: len(images)][read]
        items = inspected(detector, images[read], scored, explanations, kept, links=links, sources=wanted.sources)
        words: dict[str, Any] = {"alpha": rate, "title": images.variant or images.name, "command": this_command()}
        if len(explanations) < flags.sum():
            words["explained"] = f"{explained_of(len(explanations), int(flags.sum()))}."
        write_inspection(explain / "inspection.html", items, scored, **words)  # type: ignore[arg-type]
        tell(f"why     {explain}: {explained_of(len(explanations), int(flags.sum()))}, and inspection.html")


def _one_pass(
    detector: Detector, images: ImageSet, rows: ScoredRows, wanted: _Wanted, small: TopMaps | None
) -> list[tuple[str, list[Region]]]:
    """Keep decisions and maps where they are collected; the regions of each readable image."""
    from knowngood.data.interruption import deferred

    located, writer = [], wanted.writer
    start, asked = rows.done, {"unknown": wanted.unknown, "alpha": wanted.alpha}
    if start:
        note(f"{start:,} of {len(images):,} images are scored already")
    asked |= {"maps": writer is not None or small is not None, "regions": wanted.regions is not None}
    batches = detector.stream(images, **asked, start=start)
    try:
        with deferred() as asked_to_end:
            for batch in batches:
                p, scores = batch.decisions.joint_p_values, batch.decisions.anomaly_score
                names = [str(name) for name in batch.items.ids]
                for i, (name, values, scale) in enumerate(zip(names, batch.maps, batch.scales, strict=True)):
                    if values is None or scale is None:
                        continue
                    if writer is not None:
                        writer.add(name, partial(batch.items.read, i), values, scale)  # type: ignore[union-attr]
                    if small is not None:
                        small.add(name, float(p[i]), float(scores[i]), values, scale)
                located += [(name, some) for name, some in zip(names, batch.regions, strict=True) if some is not None]
                rows.add(batch.decisions)
                if asked_to_end():
                    break
    except (KeyboardInterrupt, Interrupted):
        if rows.path is not None:
            note(f"{rows.done:,} of {len(images):,} images are scored; the same command with --resume goes on")
        raise
    return located


def _tables(
    rows: ScoredRows,
    images: ImageSet,
    largest: float,
    checked: list[Column],
    errors: bool,
    explanations: dict[str, str] | None,
    notes: Mapping[int, str],
) -> Iterator[pd.DataFrame]:
    """The table of `Detector.detect`, a batch at a time, all with the same columns; files set aside come last.

    Items with a p-value up to `largest` are flagged.
    """
    import numpy as np

    from knowngood.detector.results import table_of, with_rejected

    labelled, first = not np.isnan(images.labels).all(), 0
    table = None
    for decisions in rows.batches():
        some = slice(first, first + len(decisions.p_values))
        items, first = images[some], some.stop
        table = table_of(items, decisions, largest, checked=checked, labelled=labelled, errors=errors)
        if explanations is not None:
            summaries: Any = [explanations.get(str(name)) for name in items.ids]
            table.insert(table.columns.get_loc("condition") + 1, "explanation", summaries)  # type: ignore[arg-type]
        if notes:
            table["note"] = [notes.get(i) for i in range(some.start, first)]
        yield table
    if table is not None and len(more := with_rejected(table.tail(1), images)) > 1:
        yield more[1:]


def explained_of(explained: int, flagged: int) -> str:
    """How many of the flagged images are explained; and how more would be, where not all are."""
    if explained == flagged:
        return f"{explained:,} explained"
    return f"{explained:,} of {flagged:,} flagged explained (--explain-most {flagged} explains all)"


def _explanations(
    detector: Detector, images: ImageSet, decisions: Decisions, flags: np.ndarray, wanted: _Wanted
) -> list[Explanation]:
    """Of the flagged images with the highest scores."""
    import numpy as np

    rows = np.flatnonzero(flags)
    rows = rows[np.argsort(-decisions.anomaly_score[rows], kind="stable")][: wanted.most]
    asked: Any = {"unknown": wanted.unknown, "alpha": wanted.alpha, "most": wanted.most}
    return detector.explain(images[rows], **asked, others=True) if len(rows) else []
