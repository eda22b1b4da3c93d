"""Which latent dimensions carry something: nats each of them spends on an image."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from knowngood.errors import DataError
from knowngood.evaluation.figures import style

_SHARE = 0.95


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
    shown = order[:most]
    figure = style.new_figure(max(3.8, 1.1 + 0.2 * len(shown)), 3.0 if relevance is None else 4.6)
    panels = figure.subplots(1 if relevance is None else 2, 1, squeeze=False, sharex=True)[:, 0]
    colours = [style.NORMAL if place < holding else style.UNKNOWN for place in range(len(shown))]
    panels[0].bar(range(len(shown)), kl[shown], color=colours, width=0.78)
    words = f"{holding} of {len(kl)} dimensions hold 95 %\nof {total:.3g} nats"
    style.tidy(panels[0], xlabel="", ylabel="mean KL (nats per image)", title=words, size=8.5)
    if relevance is not None:
        panels[1].bar(range(len(shown)), np.asarray(relevance, float)[shown], color=colours, width=0.78)
        panels[1].set_ylim(0, 1.02)
        style.tidy(panels[1], xlabel="", ylabel="relevance (0 to 1)", size=8.5)
    label = "latent dimension, largest KL first"
    if len(shown) < len(order):
        label += f"; {len(order) - len(shown)} more hold {kl[order[most:]].sum():.2g} nats together"
    panels[-1].set_xlabel(label)
    small = 8 if len(shown) <= 24 else 6.5
    panels[-1].set_xticks(range(len(shown)), [f"z{dim}" for dim in shown], rotation=90 if len(shown) > 16 else 0)
    panels[-1].tick_params(axis="x", labelsize=small, length=0)
    panels[-1].set_xlim(-0.7, max(len(shown), 4) - 0.3)
    return figure
