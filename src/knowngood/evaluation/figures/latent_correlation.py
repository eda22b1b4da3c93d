"""How far the latent dimensions move together over a set of images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from knowngood.errors import DataError
from knowngood.evaluation.figures import style

_WITH_NUMBERS = 12


def latent_correlation(codes: np.ndarray, dims: Sequence[int] | None = None) -> Figure:
    """Pearson correlation of every two dimensions. Dimensions that never vary have none and stay grey.

    Args:
        codes: (N, D) posterior means, N ≥ 2.
        dims: (D,) what the columns are called; by default 0 … D − 1.

    Raises:
        DataError: fewer than two items or no dimension.
    """
    codes = np.asarray(codes, float)
    if codes.ndim != 2 or len(codes) < 2 or not codes.shape[1]:
        raise DataError(f"latent_correlation: codes of shape {codes.shape}; expected (N ≥ 2, D ≥ 1)")
    n, count = codes.shape
    centred = codes - codes.mean(0)
    spread = np.sqrt((centred**2).mean(0))
    with np.errstate(invalid="ignore", divide="ignore"):
        r = (centred.T @ centred / n) / np.outer(spread, spread)
    r[:, spread < 1e-12] = np.nan
    r[spread < 1e-12] = np.nan
    names = [f"z{dim}" for dim in (range(count) if dims is None else dims)]
    side = float(np.clip(0.3 * count, 2.4, 6.5))
    figure = style.new_figure(side + 1.5, side + 0.7)
    axes = figure.add_subplot()
    axes.set_facecolor(style.RULE)
    drawn = axes.imshow(r, cmap=style.DIFFERENCE, vmin=-1, vmax=1, interpolation="nearest")
    every = -(-count // 34)
    places = np.arange(0, count, every)
    small = 8 if count <= 16 else 6.5
    axes.set_xticks(places, [names[i] for i in places], rotation=90 if count > 10 else 0)
    axes.set_yticks(places, [names[i] for i in places])
    if count <= _WITH_NUMBERS:
        for i, j in np.ndindex(count, count):
            if np.isfinite(r[i, j]):
                text = "1" if i == j else f"{r[i, j]:+.2f}".replace("-", "−")
                ink = style.PAPER if abs(r[i, j]) > 0.6 else style.INK
                axes.text(j, i, text, ha="center", va="center", fontsize=6.5, color=ink)
    pairs = np.abs(r[np.triu_indices(count, 1)])
    pairs = pairs[np.isfinite(pairs)]
    words = f"\noff the diagonal: mean |r| {pairs.mean():.2f}, largest {pairs.max():.2f}" if pairs.size else ""
    style.tidy(axes, xlabel=f"latent dimension{words}", ylabel="latent dimension", size=8.5)
    axes.grid(False)
    axes.tick_params(labelsize=small, length=0)
    bar = figure.colorbar(drawn, ax=axes, shrink=0.8, ticks=[-1, -0.5, 0, 0.5, 1])
    bar.set_label(f"correlation r over {n:,} images", fontsize=8.5, color=style.INK)
    bar.ax.tick_params(labelsize=8, colors=style.MUTED, length=2)
    bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue]
    return figure
