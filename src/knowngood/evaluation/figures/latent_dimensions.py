"""Latent dimensions: how many nats each one carries, and how strongly they are correlated."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from knowngood.errors import DataError
from knowngood.evaluation.figures import style

_SHARE = 0.95
_WITH_NUMBERS = 12  # dimensions at most with r written in each cell


def kl_bars(kl: np.ndarray, *, relevance: np.ndarray | None = None, most: int = 48) -> Figure:
    """Mean KL(q(z_d|x,c) ‖ r(z_d|c)) of each dimension, the largest first.

    Blue are the fewest dimensions that hold 95 % of the total; the others carry little and are grey.

    Args:
        kl: (D,) nats, averaged over images.
        relevance: (D,) from 0 to 1 where the method learns one (`rf_vae`), drawn in a second panel.
        most: bars at most; the rest are counted in the axis label.

    Raises:
        DataError: no dimension, or a value that is negative or not finite.
    """
    kl = np.asarray(kl, float)
    if not kl.size or not np.isfinite(kl).all() or kl.min() < -1e-6:
        raise DataError("kl_bars: expected finite, non-negative nats for at least one dimension")
    order = np.argsort(-kl, kind="stable")
    total = float(kl.sum())
    holding = int(np.searchsorted(np.cumsum(kl[order]), _SHARE * total * (1 - 1e-12)) + 1) if total > 0 else 0
    kept = order[:most]
    figure = style.new_figure(max(3.8, 1.1 + 0.2 * len(kept)), 3.0 if relevance is None else 4.6)
    panels = figure.subplots(1 if relevance is None else 2, 1, squeeze=False, sharex=True)[:, 0]
    colours = [style.NORMAL if rank < holding else style.UNKNOWN for rank in range(len(kept))]
    panels[0].bar(range(len(kept)), kl[kept], color=colours, width=0.78)
    title = f"{holding} of {len(kl)} dimensions hold 95 %\nof {total:.3g} nats"
    style.tidy(panels[0], xlabel="", ylabel="mean KL (nats per image)", title=title, size=8.5)
    if relevance is not None:
        panels[1].bar(range(len(kept)), np.asarray(relevance, float)[kept], color=colours, width=0.78)
        panels[1].set_ylim(0, 1.02)
        style.tidy(panels[1], xlabel="", ylabel="relevance (0 to 1)", size=8.5)
    label = "latent dimension, largest KL first"
    if len(kept) < len(order):
        label += f"; {len(order) - len(kept)} more hold {kl[order[most:]].sum():.2g} nats together"
    panels[-1].set_xlabel(label)
    panels[-1].set_xticks(range(len(kept)), [f"z{dim}" for dim in kept], rotation=90 if len(kept) > 16 else 0)
    panels[-1].tick_params(axis="x", labelsize=8 if len(kept) <= 24 else 6.5, length=0)
    panels[-1].set_xlim(-0.7, max(len(kept), 4) - 0.3)
    return figure


def latent_correlation(codes: np.ndarray, dims: Sequence[int] | None = None) -> Figure:
    """Pearson correlation of every two dimensions. Dimensions that never vary have none and stay grey.

    Args:
        codes: (N, D) posterior means, N ≥ 2.
        dims: (D,) numbers of the dimensions; by default 0 … D − 1.

    Raises:
        DataError: fewer than two items or no dimension.
    """
    codes = np.asarray(codes, float)
    if codes.ndim != 2 or len(codes) < 2 or not codes.shape[1]:
        raise DataError(f"latent_correlation: codes of shape {codes.shape}; expected (N ≥ 2, D ≥ 1)")
    n, count = codes.shape
    constant = codes.std(0) < 1e-12
    with np.errstate(invalid="ignore", divide="ignore"):
        r = np.corrcoef(codes.T).reshape(count, count)
    r[constant | constant[:, None]] = np.nan
    names = [f"z{dim}" for dim in (range(count) if dims is None else dims)]
    side = float(np.clip(0.3 * count, 2.4, 6.5))
    figure = style.new_figure(side + 1.5, side + 0.7)
    axes = figure.add_subplot()
    axes.set_facecolor(style.RULE)
    drawn = axes.imshow(r, cmap=style.DIFFERENCE, vmin=-1, vmax=1, interpolation="nearest")
    ticks = np.arange(0, count, -(-count // 34))
    axes.set_xticks(ticks, [names[i] for i in ticks], rotation=90 if count > 10 else 0)
    axes.set_yticks(ticks, [names[i] for i in ticks])
    if count <= _WITH_NUMBERS:
        for i, j in np.argwhere(np.isfinite(r)):
            text = "1" if i == j else f"{r[i, j]:+.2f}".replace("-", "−")
            ink = style.PAPER if abs(r[i, j]) > 0.6 else style.INK
            axes.text(j, i, text, ha="center", va="center", fontsize=6.5, color=ink)
    pairs = np.abs(r[np.triu_indices(count, 1)])
    pairs = pairs[np.isfinite(pairs)]
    note = f"\noff the diagonal: mean |r| {pairs.mean():.2f}, largest {pairs.max():.2f}" if pairs.size else ""
    style.tidy(axes, xlabel=f"latent dimension{note}", ylabel="latent dimension", size=8.5)
    axes.grid(False)
    axes.tick_params(labelsize=8 if count <= 16 else 6.5, length=0)
    bar = figure.colorbar(drawn, ax=axes, shrink=0.8, ticks=[-1, -0.5, 0, 0.5, 1])
    bar.set_label(f"correlation r over {n:,} images", fontsize=8.5, color=style.INK)
    bar.ax.tick_params(labelsize=8, colors=style.MUTED, length=2)
    bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue]
    return figure
