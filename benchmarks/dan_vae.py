"""`python -m benchmarks dan-vae`: DAn-VAE's sweep, and how well brightness is read from z_n and from z_a.

Size of z_a × share of labelled anomalies × share of darkened training images, on PneumoniaMNIST with the parts and the
darkening of `benchmarks.light`. Two models: the preset `dan-vae`, which follows its source, and the library's own
variant with everything else as in the preset.

The tested normal images are darkened by factors from U(.7, 1), and a ridge regression predicts their measured
brightness from posterior means, each image by a regression without its fifth of the images. Disentangled codes have R²
near 1 from z_n and near 0 from z_a.
"""

from __future__ import annotations

import sys
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.light import NUISANCE_DIM, Parts, Run, dimmed, fitted, key_of, parts_of
from benchmarks.protocols import Form, check_form
from benchmarks.runner import RESULTS, append, essence, open_whole, read_results
from benchmarks.settings import chosen_settings, merged
from benchmarks.tables import deviation, print_table, spread, write_csv
from knowngood.config import nearest, parse_settings
from knowngood.data import ImageSet
from knowngood.errors import SettingsError

Row = dict[str, Any]
MODELS: dict[str, dict[str, Any]] = {
    "source": {},
    "one-encoder": {"variant": "one_encoder", "head_weight": None},
}
SHOWN = 200  # images of a run in the pictures
PARTS = ("z_n", "z_a")


def main(
    models: tuple[str, ...] = tuple(MODELS),
    z_a: tuple[int, ...] = (24, 56, 120),
    labelled: tuple[float, ...] = (0.05, 0.1, 0.2),
    dark: tuple[float, ...] = (0.0, 0.1, 0.5),
    seeds: tuple[int, ...] = (0,),
    form: Form = "test",
    epochs: int | None = None,
    config: Path | None = None,
    device: str | None = None,
    quick: bool = False,
    show: bool = False,
    out: Path = Path("out/benchmarks/dan-vae"),
) -> list[Row]:
    """The sweep. Writes table.csv, brightness.png and sweep.png; prints and returns the rows of the table.

    Args:
        z_a: dimensions without the 8 of z_n.
        labelled: share of labelled anomalies among all training images.
        dark: share of darkened training images.
        epochs: default 200, as in the source.
        config: settings over those of every model.
        quick: the smallest of everything and two epochs; only checks that it runs.
        show: only the table and pictures of finished measurements; nothing is trained.
    """
    check_form(form)
    for name in models:
        if name not in MODELS:
            raise SettingsError(f"unknown model '{name}'{nearest(name, list(MODELS))}")
    if quick:
        z_a, labelled, dark, seeds, epochs = z_a[:1], labelled[:1], dark[-1:], seeds[:1], 2
    parts = parts_of(open_whole("pneumoniamnist"), form)
    done, rows, own = read_results(out / RESULTS), [], essence(Path(__file__).read_text(encoding="utf-8"))
    runs = [
        Run(model, size, share, part, seed)
        for size, share, part, seed, model in product(z_a, labelled, dark, seeds, models)
    ]
    for number, run in enumerate(runs, 1):
        over = {"representation": {"name": "pixels", "image_size": None, "scaling": (0, 255)}}
        over["model"] = {"name": "vae", "latent_dim": run.z_a + NUISANCE_DIM, "objective": {"name": "dan_vae"}}
        over["model"]["objective"] |= MODELS[run.model]
        over |= {"random_state": run.seed}
        base = merged(chosen_settings("dan-vae"), over)
        settings = parse_settings(merged(base, chosen_settings(None, config, epochs=epochs, device=device)))
        key = key_of([form, *run, settings.model_dump(mode="json"), own], parts)
        if key not in done and not show:
            out.mkdir(parents=True, exist_ok=True)
            record = {"key": key, "form": form, **run._asdict(), **measure(run, settings, parts)}
            done[key] = append(out / RESULTS, record)
            print(f"[{number}/{len(runs)}] {' '.join(map(str, run))}: {done[key]['auroc']:.3f}", file=sys.stderr)
        if key in done:
            rows.append(done[key])
    found = table(rows)
    write_csv(out / "table.csv", found)
    if rows:
        draw(rows, found, out)
    return found


def measure(run: Run, settings: Any, parts: Parts) -> Row:
    """One fit: AUROC, seconds, and measured and predicted brightness of the tested normal images."""
    from knowngood.data.image_factors import measure as measured
    from knowngood.metrics import roc_auc

    draw = np.random.default_rng([run.seed, 12])
    detector, seconds, count = fitted(run, settings, parts, draw)
    judged = ImageSet.from_arrays(dimmed(parts.judged, draw.uniform(0.7, 1.0, (len(parts.judged), 1, 1))))
    brightness, codes = measured(judged, ["brightness"])["brightness"], detector.transform(judged)
    split = dict(zip(PARTS, (codes[:, -NUISANCE_DIM:], codes[:, :-NUISANCE_DIM]), strict=True))
    predicted = {name: predictions(part, brightness) for name, part in split.items()}
    return {
        "auroc": roc_auc(parts.truth, -detector.score_samples(parts.test)),
        "seconds": seconds,
        "normals": len(parts.train),
        "taught": count,
        **{f"r2_{name}": r2(brightness, values) for name, values in predicted.items()},
        "brightness": [
            [round(float(value), 3) for value in values[:SHOWN]] for values in (brightness, *predicted.values())
        ],
    }


def predictions(codes: np.ndarray, values: np.ndarray) -> np.ndarray:
    """(N,) values predicted from codes (N, D) by ridge regressions, each item by one that has not seen it."""
    from sklearn.linear_model import RidgeCV
    from sklearn.model_selection import KFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    ridge = make_pipeline(StandardScaler(), RidgeCV(np.logspace(-3, 4, 15)))
    return np.asarray(cross_val_predict(ridge, codes, values, cv=KFold(5, shuffle=True, random_state=0)))


def r2(values: np.ndarray, predicted: np.ndarray) -> float:
    """Share of the variance that is predicted; at most 1."""
    return float(1 - ((values - predicted) ** 2).mean() / values.var())


def table(rows: list[Row]) -> list[Row]:
    """AUROC and both R² by model, size, labelled and darkened share, over seeds; printed."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[name] for name in ("model", "z_a", "labelled", "dark")), []).append(row)
    found, lines = [], []
    for (model, size, share, dark), members in groups.items():
        values = {name: [row[name] for row in members] for name in ("auroc", "r2_z_n", "r2_z_a")}
        means = {name: float(np.mean(some)) for name, some in values.items()}
        head = {"model": model, "z_a": size, "labelled": share, "dark": dark, "n": len(members)}
        found.append({**head, **means, **{f"{name}_sd": deviation(some) for name, some in values.items()}})
        shown = [spread(means[name], deviation(some)) for name, some in values.items()]
        lines.append([model, str(size), f"{share:g}", f"{dark:g}", str(len(members)), *shown])
    columns = ["model", "z_a", "labelled", "darkened", "runs", "AUROC", "brightness from z_n", "from z_a"]
    print_table(columns, lines, "DAn-VAE: AUROC, and R² of brightness")
    return found


def draw(rows: list[Row], found: list[Row], out: Path) -> None:
    """brightness.png: measured against predicted, a row a model and size; sweep.png: the table as lines."""
    from knowngood.evaluation.figures import style

    kinds = list(dict.fromkeys((row["model"], row["z_a"]) for row in rows))
    figure = style.new_figure(6.4, 2.6 * len(kinds) + 0.3)
    for (model, size), pair in zip(kinds, figure.subplots(len(kinds), 2, squeeze=False, sharex=True), strict=True):
        row = next(row for row in rows[::-1] if (row["model"], row["z_a"]) == (model, size))
        measured, *predicted = row["brightness"]
        for axes, name, values, colour in zip(pair, PARTS, predicted, style.CYCLE, strict=False):
            axes.plot([min(measured), max(measured)], [min(measured), max(measured)], color=style.MUTED, linewidth=0.9)
            axes.scatter(measured, values, s=8, color=colour, alpha=0.6, linewidths=0)
            title, ylabel = f"from {name}: R² {row[f'r2_{name}']:.2f}", "predicted"
            ylabel += f"\n{model}, z_a {size}" if name == PARTS[0] else ""
            style.tidy(axes, xlabel="measured brightness", ylabel=ylabel, title=title, grid="both", size=8)
    style.save(figure, out / "brightness.png")
    darks = list(dict.fromkeys(row["dark"] for row in found))
    figure = style.new_figure(2.9 * len(darks) + 2.2, 7.2)
    grid = figure.subplots(3, len(darks), squeeze=False, sharex=True, sharey="row")
    titles = {"auroc": "AUROC", "r2_z_n": "R² from z_n", "r2_z_a": "R² from z_a"}
    for line, (measure_name, title) in zip(grid, titles.items(), strict=True):
        for axes, dark in zip(line, darks, strict=True):
            for i, (model, size) in enumerate(kinds):
                own = [row for row in found if (row["model"], row["z_a"], row["dark"]) == (model, size, dark)]
                look = {"color": style.CYCLE[i % len(style.CYCLE)], "linestyle": style.DASHES[i % len(style.DASHES)]}
                points = [(100 * row["labelled"], row[measure_name]) for row in own]
                axes.plot(*zip(*points, strict=True), marker="o", markersize=4, label=f"{model}, z_a {size}", **look)
            first, last = axes is line[0], measure_name == "r2_z_a"
            style.tidy(
                axes,
                xlabel="labelled anomalies (%)" if last else "",
                ylabel=title if first else "",
                title=f"{100 * dark:g} % darkened" if measure_name == "auroc" else "",
                size=8.5,
            )
            if measure_name != "auroc":
                axes.set_ylim(-0.1, 1.05)
    handles, names = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside right upper", fontsize=8, frameon=False)  # type: ignore[arg-type]
    style.save(figure, out / "sweep.png")
