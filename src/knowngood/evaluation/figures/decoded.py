"""Decoded images in grids: draws from the prior, planes and walks along dimensions, paths between two images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
from matplotlib.figure import Figure

from knowngood.config import counted
from knowngood.errors import DataError, SettingsError
from knowngood.evaluation.figures import style
from knowngood.evaluation.figures.latent import check_dims
from knowngood.evaluation.figures.subject import Subject, spread
from knowngood.evaluation.figures.tiles import draw_tiles, mosaic, tile_inches

_BLOCK = 16  # conditions in a block of draws
FEW = 12  # conditions with finer grids
WIDE = 1.4  # width over height of a figure of many grids
_UNIT = "prior standard deviations"


def samples(
    subject: Subject, *, conditions: list[str] | None = None, most: int = 10, seed: int = 0, room: float = 14.0
) -> Figure:
    """`most` draws z ~ r(z|c) decoded, one row a condition; more than 16 conditions stand in blocks side by side.

    The noise is the same under every condition, so that a column differs by its condition alone.

    Args:
        room: inches that the tiles may take side by side.
    """
    known = subject.conditions(conditions)
    mean, deviation = subject.prior(known)
    names = known.names or [""] * 5
    noise = np.random.default_rng(seed).standard_normal((1 if known.names else 5, most, mean.shape[1]))
    images = subject.decoded(mean[:, None] + deviation[:, None] * noise, None if known.c is None else known.c[:, None])
    count, _, height, width, _ = images.shape
    blocks = math.ceil(count / _BLOCK)
    rows = math.ceil(count / blocks)
    tile = tile_inches(most * blocks, room)
    label = 0.45 + 0.07 * min(28, max(map(len, names)))
    figure = style.new_figure(blocks * (most * tile * width / height + label) + 0.1, max(rows * tile + 0.7, 1.4))
    blank = np.full((blocks * rows - count, *images.shape[1:]), np.nan)  # the last block is as high as the others
    tiles, names = np.concatenate([images, blank]), [*names, *[""] * len(blank)]
    for block, axes in enumerate(figure.subplots(1, blocks, squeeze=False)[0]):
        part = slice(block * rows, (block + 1) * rows)
        draw_tiles(axes, tiles[part], rows=names[part])
        if block == 0:
            axes.set_ylabel(style.plain(known.what), fontsize=9, color=style.INK)
    figure.supxlabel(f"{most} draws from the prior a row, decoded", fontsize=9, color=style.INK)
    return figure


def manifold(
    subject: Subject,
    *,
    dims: list[int] | None = None,
    conditions: list[str] | None = None,
    steps: int | None = None,
    reach: float = 2.0,
) -> Figure:
    """Grids over the plane of two dimensions, those in `dims` or the ones of highest KL, one grid a condition.

    Args:
        steps: along each dimension; by default 15, of several conditions 7, of more than 12 conditions 5.
        reach: the outermost positions, in standard deviations of the prior; all other dimensions are at its mean.
    """
    known = subject.conditions(conditions)
    mean, deviation = subject.prior(known)
    if mean.shape[1] == 1:
        raise SettingsError("manifold: the model has one latent dimension; draw it with 'traversal'")
    chosen, kl = _dimensions(subject, dims, mean.shape[1], 2)
    if len(chosen) != 2:
        raise SettingsError(f"manifold: {len(chosen)} dimensions given; expected two, as in --dims 3,7")
    titles = known.names or [""]
    steps = steps or (15 if len(titles) == 1 else 7 if len(titles) <= FEW else 5)
    along = np.linspace(-reach, reach, steps)
    z = np.zeros((len(mean), steps, steps, mean.shape[1]))
    z[..., chosen[0]] = along
    z[..., chosen[1]] = along[::-1, None]  # upwards
    z = mean[:, None, None] + deviation[:, None, None] * z
    grids = subject.decoded(z, None if known.c is None else known.c[:, None, None])
    height, width = grids.shape[3:5]
    columns = max(1, round(math.sqrt(WIDE * len(titles) * height / width)))
    rows = math.ceil(len(titles) / columns)
    room = min(14 * height / (width * columns), 10 / rows)
    side = float(np.clip(room, 0.2 * steps, min((0.4 if len(titles) == 1 else 0.36) * steps, 5.5)))
    figure = style.new_figure(columns * side * width / height + 1.0, rows * (side + 0.25) + 0.8)
    half = reach * steps / (steps - 1) if steps > 1 else 1.0
    for k, axes in enumerate(figure.subplots(rows, columns, squeeze=False).flat):
        if k >= len(titles):
            axes.set_axis_off()
            continue
        style.show(axes, mosaic(grids[k]), tile=max(height, width), extent=(-half, half, -half, half))
        axes.set_aspect(height / width)
        axes.set_xticks([-reach, 0, reach] if k + columns >= len(titles) else [])
        axes.set_yticks([-reach, 0, reach] if k % columns == 0 else [])
        axes.tick_params(labelsize=7.5, colors=style.MUTED, length=2)
        look = {"fontsize": 9, "color": style.INK, "fontweight": "bold"}
        axes.set_title(style.short(titles[k]), loc="left", pad=3, **look)
    a, b = (f"z{dim}" if kl is None else f"z{dim} ({kl[dim]:.2f} nats)" for dim in chosen)
    figure.supxlabel(f"{a}, in {_UNIT}", fontsize=9, color=style.INK)
    figure.supylabel(f"{b},\nin {_UNIT}", fontsize=9, color=style.INK)
    return figure


def traversal(
    subject: Subject,
    *,
    dims: list[int] | Literal["surprising"] | None = None,
    items: list[str] | None = None,
    conditions: list[str] | None = None,
    steps: int = 9,
    reach: float = 3.0,
    most: int = 10,
) -> Figure:
    """Walks along the `most` dimensions of highest KL, or along `dims`, one row each, all other dimensions held.

    They start at the code of the one image in `items`, or at the prior mean, for a conditional model under the first of
    its `conditions`. Positions are in standard deviations of the prior. "surprising" dimensions are those whose KL in
    that image is furthest above its mean; the walks reach as far as the image lies.
    """
    if items is not None and (len(items) != 1 or conditions):
        raise SettingsError("traversal: walks start at one image (--items ID) or under one condition, not both")
    known = subject.conditions(conditions)
    known = known._replace(c=None if known.c is None else known.c[:1])
    centre, start = None, f"the prior mean of {known.what} {known.names[0]}" if known.names else "the prior mean"
    if items is not None:
        codes = subject.codes(subject.chosen(items))
        known, centre, start = known._replace(c=codes.c), codes.mean[0], f"image {items[0]}"
    mean, deviation = (values[0] for values in subject.prior(known))
    own = None
    if dims == "surprising":
        if items is None:
            raise SettingsError("traversal: --dims surprising is of one image; name it with --items ID")
        codes, kl = subject.codes(subject.chosen(items)), subject.mean_kl()
        own = codes.kl[0]
        chosen = np.argsort(kl - own, kind="stable")[:most].tolist()
        reach = max(reach, float(np.abs((codes.mean[0] - mean) / deviation)[chosen].max()))
    else:
        chosen, kl = _dimensions(subject, dims, len(mean), most)
    along = np.linspace(-reach, reach, steps)
    z = np.tile(mean if centre is None else centre, (len(chosen), steps, 1)).astype(float)
    for row, dim in enumerate(chosen):
        z[row, :, dim] = mean[dim] + deviation[dim] * along
    images = subject.decoded(z, known.c)
    height, width = images.shape[2:4]
    tile = tile_inches(steps, 8)
    figure = style.new_figure(
        steps * tile * width / height + (1.75 if kl is not None else 1.1), len(chosen) * tile + 0.95
    )
    axes = figure.add_subplot()
    rows = [f"z{dim}" if kl is None else f"z{dim}   {kl[dim]:.2f} nats" for dim in chosen]
    if own is not None:
        rows = [f"{row}\nimage {own[dim]:.2f}" for row, dim in zip(rows, chosen, strict=True)]
    columns = [f"{value:+.3g}".replace("-", "−") if value else "0" for value in along]
    draw_tiles(axes, images, rows=rows, columns=columns)
    label = f"position along the dimension ({_UNIT})\nothers at {style.short(start, 60)}"
    axes.set_xlabel(label, fontsize=8.5, color=style.INK)
    axes.set_ylabel("dimension, mean KL" if kl is not None else "dimension", fontsize=8.5, color=style.INK)
    return figure


def interpolation(
    subject: Subject, *, items: list[str] | None = None, most: int = 3, steps: int | None = None, moving: bool = False
) -> Figure | list[Figure]:
    """Straight paths between the codes (and conditions) of two images, decoded: one row a pair, the images at its ends.

    Args:
        items: ids, pair by pair; by default at most `most` pairs of normal images, of different classes if there are.
        steps: codes on the path, both ends included; by default 8, of a moving figure 20.
        moving: one figure a step instead, there and back: the frames of a GIF.
    """
    images = subject.data()
    if items is None:
        normals = images[images.labels != 1]
        images = normals if len(normals) > 1 else images
        rows, groups = np.arange(len(images)), subject.groups(images, None)
        if groups is not None and len(set(groups)) > 1:
            rows = np.unique(groups, return_index=True)[1]
        images = images[rows[spread(len(rows), 2 * most)][: len(rows) // 2 * 2]]
    else:
        images = subject.chosen(items)
    if len(images) < 2 or len(images) % 2:
        raise DataError(f"interpolation: {counted(len(images), 'image')}; expected pairs, such as --items ID,ID")
    (mean, _, c), share = subject.codes(images), np.linspace(0, 1, steps or (20 if moving else 8))[:, None]
    z = (1 - share) * mean[0::2, None] + share * mean[1::2, None]
    c = None if c is None else (1 - share) * c[0::2, None] + share * c[1::2, None]
    inputs, _ = subject.reconstructed(images)
    tiles = np.concatenate([inputs[0::2, None], subject.decoded(z, c), inputs[1::2, None]], 1)
    rows = [f"{style.short(a, 14)} → {style.short(b, 14)}" for a, b in images.ids.reshape(-1, 2)]
    names = np.array(["image 1", *[f"{100 * part:.0f} %" for part in share[:, 0]], "image 2"])
    (pairs, count, height, width, _), figures = tiles.shape, []
    for shown in [[0, i, -1] for i in range(1, count - 1)] if moving else [list(range(count))]:
        tile = tile_inches(len(shown), 8.5)
        figure = style.new_figure(len(shown) * tile * width / height + 1.9, pairs * tile + 0.75)
        axes = figure.add_subplot()
        draw_tiles(axes, tiles[:, shown], rows=rows, columns=names[shown].tolist())
        axes.set_xlabel("position on the path, decoded", fontsize=8.5, color=style.INK)
        figures.append(figure)
    return figures + figures[-2:0:-1] if moving else figures[0]


def _dimensions(
    subject: Subject, dims: Sequence[int] | None, count: int, most: int
) -> tuple[list[int], np.ndarray | None]:
    """The dimensions to draw, those of largest KL by default, and the KL of all where there are images."""
    kl = subject.mean_kl() if subject.images is not None or dims is None else None
    if dims is None and kl is not None:
        dims = np.argsort(-kl, kind="stable")[:most].tolist()
    return check_dims(dims or [], count), kl
