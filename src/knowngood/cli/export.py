"""`knowngood export`: a saved model as one ONNX file, which needs no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from knowngood.cli.bounds import Bounds, with_bounds
from knowngood.cli.console import note, say
from knowngood.cli.inputs import Model, Tolerance, load, open_selected
from knowngood.cli.outputs import writing
from knowngood.errors import SettingsError


@with_bounds
def export(
    model: Model,
    file: Annotated[
        Path | None, typer.Argument(metavar="FILE.onnx", help="the file to write", show_default=False)
    ] = None,
    *,
    out: Annotated[Path | None, typer.Option("--out", "-o", metavar="FILE.onnx", help="the same, as an option")] = None,
    precision: Annotated[
        str,
        typer.Option(metavar="fp32|fp16", help="fp16: half the file; it needs --data"),
    ] = "fp32",
    data: Annotated[
        str | None,
        typer.Option(metavar="NORMAL", help="normal images that the model was not fitted to: they calibrate the graph"),
    ] = None,
    tolerance: Tolerance = None,
    bounds: Bounds,
) -> None:
    """Write a model as one ONNX file: from raw pixels to score, p-value and map, with the model's own verdicts.

    `knowngood score FILE.onnx DATA` and `python -m knowngood.runtime FILE.onnx IMAGES` use it without torch. What
    cannot be exported is named before anything is written.
    """
    if (file is None) == (out is None):
        raise SettingsError("name the file to write, once: knowngood export MODEL FILE.onnx")
    out = file or out
    assert out is not None
    if out.suffix.lower() != ".onnx":
        raise SettingsError(f"{out}: expected a name that ends in .onnx")
    with writing(out):
        detector = load(model, None, data)
        from knowngood.deploy.onnx_graph import export as write

        options = bounds.over(detector.pipeline_.settings.data)
        normals = None if data is None else open_selected(data, data_options=options)
        note("exporting: the graph is made, then compared with the model; this takes a minute or more")
        write(detector, out, precision=precision, normals=normals, tolerance=tolerance)
    how = "compared with the model on images of noise" if precision == "fp32" else f"{precision}, calibrated on {data}"
    say(f"graph   {out}, {out.stat().st_size / 1e6:,.1f} MB, {how}")
