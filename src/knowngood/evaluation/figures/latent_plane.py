"""Images in the plane of their codes: a projection of any number of dimensions, and a scatter plot by class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from knowngood.config import nearest
from knowngood.errors import DataError, SettingsError
from knowngood.evaluation.figures import style

_IN_LEGEND = 12
_BLUE = "#0173b2"  # unlike style.NORMAL it stays as it is on a dark page, like the points
_COLOURS = (_BLUE, "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#8c6d46")  # vermillion is for anomalies
Projection = Literal["auto", "raw", "pca", "tsne"]
AxisNames = tuple[str, str]


def project(
    codes: np.ndarray, method: str = "auto", *, dims: tuple[int, int] | None = None, seed: int = 0
) -> tuple[np.ndarray, AxisNames]:
    """(N, 2) points and what their axes are.

    Args:
        codes: (N, D), N ≥ 3.
        method: "raw" takes two dimensions as they are; "pca" the two directions of largest variance; "tsne" keeps
            neighbours together, its distances mean nothing; "auto" is raw if D is 1 or 2, else pca.
        dims: the two of "raw"; by default 0 and 1. One-dimensional codes get zeros beside them.
        seed: of t-SNE.

    Raises:
        SettingsError: an unknown method, or dimensions that do not exist.
        DataError: fewer than three items.
    """
    codes = np.asarray(codes, float)
    if method not in get_args(Projection):
        raise SettingsError(f"unknown projection '{method}'" + nearest(method, list(get_args(Projection))))
    if codes.ndim != 2 or len(codes) < 3:
        raise DataError(f"codes of shape {codes.shape} cannot be projected; expected (N ≥ 3, D)")
    count = codes.shape[1]
    if dims is not None and (len(dims) != 2 or not all(0 <= dim < count for dim in dims)):
        raise SettingsError(f"dims = {tuple(dims)}: expected two of the {count} dimensions, counted from 0")
    if method == "auto":
        method = "raw" if count <= 2 or dims is not None else "pca"
    if count == 1:
        return np.c_[codes, np.zeros(len(codes))], ("z0", "")
    if method == "raw":
        a, b = dims or (0, 1)
        return codes[:, [a, b]], (f"z{a}", f"z{b}")
    if method == "pca":
        return _pca(codes)
    from sklearn.manifold import TSNE

    perplexity = min(30.0, (len(codes) - 1) / 3)
    points = TSNE(2, perplexity=perplexity, init="pca", random_state=seed).fit_transform(codes)
    return np.asarray(points, float), ("t-SNE 1 (no unit)", "t-SNE 2 (no unit)")


def _pca(codes: np.ndarray) -> tuple[np.ndarray, AxisNames]:
    centred = codes - codes.mean(0)
    values, vectors = np.linalg.eigh(centred.T @ centred)
    axes = vectors[:, ::-1][:, :2]
    axes = axes * np.sign(axes[np.abs(axes).argmax(0), [0, 1]])  # the same way round on every machine
    share = 100 * values[::-1][:2] / max(values.sum(), 1e-300)
    return centred @ axes, (f"PC 1 ({share[0]:.0f} % of the variance)", f"PC 2 ({share[1]:.0f} %)")


def latent_scatter(
    points: np.ndarray,
    groups: Sequence[str] | np.ndarray | None = None,
    labels: np.ndarray | None = None,
    *,
    axis_names: tuple[str, str] = ("z0", "z1"),
    group_name: str = "class",
    narrow: bool = False,
) -> Figure:
    """Points in the plane. Groups differ in colour and marker, and each carries its name where it lies.

    Args:
        points: (N, 2), see `project`.
        groups: (N,) name of each item's group, or None.
        labels: (N,) 0 normal, 1 anomalous, NaN unknown; anomalous ones are vermillion crosses above all others.
        axis_names: with their units.
        group_name: what a group is.
        narrow: the legend stands below instead of at the right.

    Raises:
        DataError: the arrays do not fit each other.
    """
    points = np.asarray(points, float)
    n = len(points)
    anomalous = np.zeros(n, bool) if labels is None else np.asarray(labels, float) == 1
    groups_ = np.full(n, "") if groups is None else np.asarray(groups).astype(str)
    if points.shape != (n, 2) or len(groups_) != n or len(anomalous) != n or not n:
        raise DataError(f"latent_scatter: points {points.shape}, {len(groups_)} groups and {len(anomalous)} labels")
    names = list(dict.fromkeys(groups_[~anomalous].tolist()))
    figure = style.new_figure(4.8, 4.9) if narrow else style.new_figure(6.6, 5.0)
    axes = figure.add_subplot()
    area = float(np.clip(9000 / n, 7, 26))
    normal = "normal" if labels is not None else "images"
    for i, name in enumerate(names):
        member = (groups_ == name) & ~anomalous
        marker = style.MARKERS[i // len(_COLOURS) % len(style.MARKERS)]
        label = f"{style.short(name) or normal} (n = {int(member.sum()):,})" if len(names) <= _IN_LEGEND else None
        axes.scatter(
            *points[member].T, s=area, c=_COLOURS[i % len(_COLOURS)], marker=marker, alpha=0.65, linewidths=0,
            rasterized=True, label=label,
        )  # fmt: skip
    if anomalous.any():
        kinds = list(dict.fromkeys(groups_[anomalous].tolist()))
        which = f": {style.short(', '.join(kinds))}" if any(kinds) and len(kinds) <= 4 else ""
        axes.scatter(
            *points[anomalous].T, s=area + 8, c=style.ANOMALOUS, marker="x", linewidths=1.1, rasterized=True,
            label=f"anomalous{which} (n = {int(anomalous.sum()):,})", zorder=3,
        )  # fmt: skip
    style.tidy(axes, xlabel=axis_names[0], ylabel=axis_names[1], grid="both")
    if len(names) > 1:
        members = [(groups_ == name) & ~anomalous for name in names]
        _name_groups(axes, names, np.array([np.median(points[member], axis=0) for member in members]))
    texts = axes.get_legend_handles_labels()[1]
    if texts:
        title = style.plain(group_name) if any(names) and len(names) <= _IN_LEGEND else None
        position: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (1.0, 1.0)}
        if narrow:
            position = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.13), "ncols": min(3, len(texts))}
        axes.legend(fontsize=8.5, frameon=False, labelcolor=style.INK, title=title, title_fontsize=9, **position)
    return figure


def _name_groups(axes: Axes, names: Sequence[str], middles: np.ndarray) -> None:
    """Each group's name at its median; names that would overlap move apart and keep a line to where they belong."""
    low, high = np.array([axes.get_xlim(), axes.get_ylim()]).T
    at = (middles - low) / (high - low)
    width = np.array([0.012 + 0.0155 * min(len(name), 16) for name in names])
    height = 0.042
    placed = spread_apart(at, width, np.full(len(names), height))
    halo = [withStroke(linewidth=2.6, foreground=style.PAPER)]
    for i, (name, place, home) in enumerate(zip(names, low + placed * (high - low), middles, strict=True)):
        colour = _COLOURS[i % len(_COLOURS)]
        if np.abs(placed[i] - at[i]).max() > 0.02:
            axes.plot(*np.c_[place, home], color=style.INK, linewidth=0.6, alpha=0.6, zorder=4)
        axes.text(
            place[0], place[1], style.short(name, 16), ha="center", va="center", fontsize=9, fontweight="bold",
            color=style.INK, path_effects=halo, zorder=5,
            bbox={"boxstyle": "round,pad=0.12", "facecolor": style.PAPER, "edgecolor": colour, "alpha": 0.85, "lw": 1},
        )  # fmt: skip


def spread_apart(at: np.ndarray, width: np.ndarray, height: np.ndarray, *, rounds: int = 400) -> np.ndarray:
    """(K, 2) centres near `at`, in 0..1, of boxes of these sizes, moved until they overlap as little as possible."""
    placed = at + 1e-4 * np.random.default_rng(0).standard_normal(at.shape)
    reach = np.stack([width[:, None] + width, height[:, None] + height], -1) / 2
    for step in range(rounds):
        apart = placed[:, None] - placed
        inside = reach - np.abs(apart)
        clash = (inside > 0).all(-1) & ~np.eye(len(at), dtype=bool)
        # Along the axis that needs the shorter way.
        shorter = inside.argmin(-1)[..., None] == np.arange(2)
        push = np.where(clash[..., None] & shorter, np.sign(apart) * inside, 0).sum(1)
        if not clash.any():
            break
        home = 0.02 * (at - placed) * (1 - step / rounds)
        placed = np.clip(placed + 0.3 * push + home, 0.02, 0.98)
    return placed
