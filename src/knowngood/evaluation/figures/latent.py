"""Latent codes: images in the plane, what each dimension carries, and how strongly dimensions are correlated."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from scipy.ndimage import gaussian_filter

from knowngood.config import counted, nearest
from knowngood.errors import DataError, SettingsError
from knowngood.evaluation.conditions import natural_order
from knowngood.evaluation.figures import style
from knowngood.evaluation.figures.subject import MOST_CODED, Subject

_IN_LEGEND = 12
_SHARE = 0.95
MANY = 1000  # points that overlap
_LARGE, _CELLS = 100, 96  # points of a group with an outline, cells of its histogram along an axis
ROUNDS = 400  # at most, in which names are moved apart
_WITH_NUMBERS = 12  # dimensions at most with r written in each cell
TSNE_AXES = "t-SNE 1 (no unit)", "t-SNE 2 (no unit)"
Projection = Literal["auto", "raw", "pca", "tsne"]


def latent(
    subject: Subject,
    *,
    projection: str = "auto",
    dims: list[int] | None = None,
    by: str | None = None,
    most: int = MOST_CODED,
    seed: int = 0,
    narrow: bool = False,
) -> Figure:
    """Posterior means of at most `most` images in the plane. Groups differ in colour and marker and carry their name.

    Anomalous images are vermillion crosses, below all others. Where there are many points, lines hold half of each
    large group.

    Args:
        projection, dims, seed: see `project`.
        by: the column of the groups; default "class".
        narrow: the legend stands below instead of at the right.
    """
    images = subject.sample(most)
    points, axis_names = project(subject.codes(images).mean, projection, dims=dims, seed=seed)
    figure = style.new_figure(4.8, 4.9) if narrow else style.new_figure(6.6, 5.0)
    axes = figure.add_subplot()
    names = scatter(axes, points, subject.groups(images, by), images.labels)
    xlabel = axis_names[0] + ("\nlines: half of a group" if len(points) >= MANY else "")
    style.tidy(axes, xlabel=xlabel, ylabel=axis_names[1], grid="both")
    if texts := axes.get_legend_handles_labels()[1]:
        title = style.plain(by or "class") if any(names) and len(names) <= _IN_LEGEND else None
        position: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (1.0, 1.0)}
        if narrow:
            position = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.13), "ncols": min(3, len(texts))}
        look = {"fontsize": 8.5, "frameon": False, "labelcolor": style.INK, "markerscale": 1.6}
        axes.legend(title=title, title_fontsize=9, **look, **position)
    return figure


def scatter(axes: Axes, points: np.ndarray, groups: np.ndarray | None, labels: np.ndarray) -> list[str]:
    """Points (N, 2) by group and label, with the name of each group where it lies; the names of the normal groups."""
    if groups is not None:  # the legend names classes in natural order
        order = natural_order(groups)
        points, groups, labels = points[order], groups[order], labels[order]
    n = len(points)
    groups = np.full(n, "") if groups is None else groups
    anomalous = labels == 1
    names = list(dict.fromkeys(groups[~anomalous].tolist()))
    area, many = float(np.clip(9000 / n, 6, 26)), n >= MANY
    normal = "images" if np.isnan(labels).all() else "normal"
    members = [(groups == name) & ~anomalous for name in names]
    for i, (name, member) in enumerate(zip(names, members, strict=True)):
        marker = style.MARKERS[i // len(style.CYCLE) % len(style.MARKERS)]
        label = f"{style.short(name) or normal} (n = {int(member.sum()):,})" if len(names) <= _IN_LEGEND else None
        look = {"c": _colour(i), "marker": marker, "alpha": 0.7, "linewidths": 0, "zorder": 3}
        axes.scatter(*points[member].T, s=area, rasterized=True, label=label, **look)
    if anomalous.any():
        kinds = list(dict.fromkeys(groups[anomalous].tolist()))
        which = f": {style.short(', '.join(kinds))}" if any(kinds) and len(kinds) <= 4 else ""
        label = f"anomalous{which} (n = {int(anomalous.sum()):,})"
        look = {"c": style.ANOMALOUS, "marker": "x", "alpha": 0.5 if many else 1.0, "linewidths": 0.7 if many else 1.1}
        axes.scatter(*points[anomalous].T, s=area + 8, rasterized=True, label=label, zorder=2, **look)
    if many:
        for i, member in enumerate(members):
            _outline(axes, points[member], _colour(i))
        _outline(axes, points[anomalous], style.ANOMALOUS)
    if len(names) > 1:
        _name_groups(axes, names, np.array([np.median(points[member], axis=0) for member in members]))
    return names


def kl(subject: Subject, *, most: int = 48) -> Figure:
    """Mean KL(q(z_d|x,c) ‖ r(z_d|c)) of the `most` dimensions that carry most, with relevances where they are learned.

    Blue are the fewest dimensions that hold 95 % of the total; the others carry little and are grey.
    """
    kl, relevance = subject.mean_kl(), subject.relevance()
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
        panels[1].bar(range(len(kept)), relevance[kept], color=colours, width=0.78)
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


def correlation(subject: Subject, *, dims: list[int] | None = None, most: int = MOST_CODED) -> Figure:
    """Pearson correlation of the posterior means of at most `most` images, of all dimensions or those in `dims`.

    Dimensions that never vary have none and stay grey.
    """
    codes = subject.codes(subject.sample(most)).mean
    dims = list(range(codes.shape[1])) if dims is None else check_dims(dims, codes.shape[1])
    codes, count = codes[:, dims].astype(float), len(dims)
    if len(codes) < 2:
        raise DataError(f"correlation: {counted(len(codes), 'image')} given; expected at least 2")
    constant = codes.std(0) < 1e-12
    with np.errstate(invalid="ignore", divide="ignore"):
        r = np.corrcoef(codes.T).reshape(count, count)
    r[constant | constant[:, None]] = np.nan
    side = float(np.clip(0.3 * count, 2.4, 6.5))
    figure = style.new_figure(side + 1.5, side + 0.7)
    axes = figure.add_subplot()
    axes.set_facecolor(style.RULE)
    drawn = axes.imshow(r, cmap=style.DIFFERENCE, vmin=-1, vmax=1, interpolation="nearest")
    ticks = np.arange(0, count, -(-count // 34))
    axes.set_xticks(ticks, [f"z{dims[i]}" for i in ticks], rotation=90 if count > 10 else 0)
    axes.set_yticks(ticks, [f"z{dims[i]}" for i in ticks])
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
    bar.set_label(f"correlation r over {counted(len(codes), 'image')}", fontsize=8.5, color=style.INK)
    bar.ax.tick_params(labelsize=8, colors=style.MUTED, length=2)
    bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue]
    return figure


def project(
    codes: np.ndarray, method: str = "auto", *, dims: Sequence[int] | None = None, seed: int = 0
) -> tuple[np.ndarray, tuple[str, str]]:
    """(N, 2) points and what their axes are.

    Args:
        codes: (N, D), N ≥ 3.
        method: "raw" takes two dimensions as they are; "pca" the two directions of largest variance; "tsne" keeps
            neighbours together, its distances mean nothing; "auto" is raw if D is 1 or 2, else pca.
        dims: the two of "raw"; by default 0 and 1. One-dimensional codes get zeros beside them.
        seed: of t-SNE.

    Raises:
        SettingsError: an unknown method, or dimensions that do not exist or do not go with it.
        DataError: fewer than three items.
    """
    codes = np.asarray(codes, float)
    if method not in get_args(Projection):
        raise SettingsError(f"unknown projection '{method}'" + nearest(method, list(get_args(Projection))))
    if len(codes) < 3:
        raise DataError(f"codes of shape {codes.shape} cannot be projected; expected (N ≥ 3, D)")
    if dims is not None and (len(check_dims(dims, codes.shape[1])) != 2 or method not in ("auto", "raw")):
        raise SettingsError(f"dims {dims}, projection '{method}': two dimensions go with the projection raw")
    if codes.shape[1] == 1:
        return np.c_[codes, np.zeros(len(codes))], ("z0", "")
    if method == "raw" or dims is not None or (method == "auto" and codes.shape[1] == 2):
        a, b = dims or (0, 1)
        return codes[:, [a, b]], (f"z{a}", f"z{b}")
    if method != "tsne":
        return _pca(codes)
    if (codes == codes[0]).all():  # of a collapsed posterior, say: the tree of t-SNE has no end then
        return np.zeros((len(codes), 2)), TSNE_AXES
    from sklearn.manifold import TSNE

    perplexity = min(30.0, (len(codes) - 1) / 3)
    points = TSNE(2, perplexity=perplexity, init="pca", random_state=seed).fit_transform(codes)
    return np.asarray(points, float), TSNE_AXES


def check_dims(dims: Sequence[int], count: int) -> list[int]:
    """The dimensions of a latent space of `count`. Raises SettingsError for one that it does not have."""
    for dim in dims:
        if not 0 <= dim < count:
            raise SettingsError(f"--dims: there is no dimension {dim}; the model has {count}, counted from 0")
    return list(dims)


def _pca(codes: np.ndarray) -> tuple[np.ndarray, tuple[str, str]]:
    centred = codes - codes.mean(0)
    values, vectors = np.linalg.eigh(centred.T @ centred)
    axes = vectors[:, ::-1][:, :2]
    axes = axes * np.sign(axes[np.abs(axes).argmax(0), [0, 1]])  # the same way round on every machine
    share = 100 * values[::-1][:2] / max(values.sum(), 1e-300)
    return centred @ axes, (f"PC 1 ({share[0]:.0f} % of the variance)", f"PC 2 ({share[1]:.0f} %)")


def _colour(i: int) -> str:
    return style.CYCLE[i % len(style.CYCLE)]


def _outline(axes: Axes, points: np.ndarray, colour: str) -> None:
    """The smallest region that holds half of the points of a large group, by a smoothed histogram."""
    if len(points) < _LARGE or not np.ptp(points, axis=0).all():
        return
    limits = [axes.get_xlim(), axes.get_ylim()]
    counts, *edges = np.histogram2d(*points.T, bins=_CELLS, range=limits)
    density = gaussian_filter(counts, _CELLS / 32)
    cells = [
        np.clip(np.searchsorted(along, at, "right") - 1, 0, _CELLS - 1)
        for along, at in zip(edges, points.T, strict=True)
    ]
    level = np.median(density[tuple(cells)])
    middles = [(along[1:] + along[:-1]) / 2 for along in edges]
    halo: list[Any] = [withStroke(linewidth=3.0, foreground=style.PAPER)]
    axes.contour(*middles, density.T, [level], colors=[colour], linewidths=1.6, zorder=4).set_path_effects(halo)
    axes.set(xlim=limits[0], ylim=limits[1])


def _name_groups(axes: Axes, names: Sequence[str], middles: np.ndarray) -> None:
    """Each group's name at its median; names that would overlap move apart and keep a line to where they belong."""
    low, high = np.array([axes.get_xlim(), axes.get_ylim()]).T
    at = (middles - low) / (high - low)
    width = np.array([0.012 + 0.0155 * min(len(name), 16) for name in names])
    placed = spread_apart(at, width, np.full(len(names), 0.042))
    halo = [withStroke(linewidth=2.6, foreground=style.PAPER)]
    look: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 9, "fontweight": "bold", "zorder": 5}
    for i, (name, place, home) in enumerate(zip(names, low + placed * (high - low), middles, strict=True)):
        if np.abs(placed[i] - at[i]).max() > 0.02:
            axes.plot(*np.c_[place, home], color=style.INK, linewidth=0.6, alpha=0.6, zorder=4)
        box = {"boxstyle": "round,pad=0.12", "facecolor": style.PAPER, "alpha": 0.85, "lw": 1}
        box["edgecolor"] = _colour(i)
        axes.text(place[0], place[1], style.short(name, 16), color=style.INK, path_effects=halo, bbox=box, **look)


def spread_apart(at: np.ndarray, width: np.ndarray, height: np.ndarray) -> np.ndarray:
    """(K, 2) centres near `at`, in 0..1, of boxes of these sizes, moved until they overlap as little as possible."""
    placed = at + 1e-4 * np.random.default_rng(0).standard_normal(at.shape)
    reach = np.stack([width[:, None] + width, height[:, None] + height], -1) / 2
    for step in range(ROUNDS):
        apart = placed[:, None] - placed
        inside = reach - np.abs(apart)
        clash = (inside > 0).all(-1) & ~np.eye(len(at), dtype=bool)
        # Along the axis that needs the shorter way.
        shorter = inside.argmin(-1)[..., None] == np.arange(2)
        push = np.where(clash[..., None] & shorter, np.sign(apart) * inside, 0).sum(1)
        if not clash.any():
            break
        home = 0.02 * (at - placed) * (1 - step / ROUNDS)
        placed = np.clip(placed + 0.3 * push + home, 0.02, 0.98)
    return placed
