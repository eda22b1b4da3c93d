"""Figures of the latent space: where images lie, what dimensions do, what they carry."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from knowngood.errors import SettingsError
from knowngood.evaluation import figures
from knowngood.evaluation.drawing.subject import MOST_CODED, Subject

_ROWS = 12  # conditions with a row of several grids each; more get one grid each


def latent(
    subject: Subject,
    *,
    projection: str = "auto",
    dims: list[int] | None = None,
    by: str | None = None,
    most: int = MOST_CODED,
    seed: int = 0,
) -> Figure:
    """Posterior means of at most `most` images, coloured by the column `by`."""
    images = subject.sample(most)
    codes = subject.codes(images)
    pair = None
    if dims is not None:
        if len(dims) != 2 or projection not in ("auto", "raw"):
            raise SettingsError(f"dims {dims}, projection '{projection}': two dimensions go with the projection raw")
        pair = (dims[0], dims[1])
    points, names = figures.project(codes.mean, projection, dims=pair, seed=seed)
    groups = subject.groups(images, by)
    if groups is not None:  # classes in their order in the legend
        order = _class_order(groups)
        points, groups, images = points[order], groups[order], images[order]
    labels = None if np.isnan(images.labels).all() else images.labels
    return figures.latent_scatter(points, groups, labels, axis_names=names, group_name=by or "class")


def manifold(
    subject: Subject,
    *,
    dims: list[int] | None = None,
    conditions: list[str] | None = None,
    steps: int | None = None,
    reach: float = 2.0,
) -> Figure:
    """Grids over pairs of dimensions: those in `dims`, two by two, or the ones of highest KL.

    An unconditional model gets one pair. A conditional one a row of up to three pairs a condition; with more than 12
    conditions one pair each, on a coarser grid.
    """
    known = subject.conditions(conditions)
    count = subject.detector.model_.latent_dim
    kl = subject.mean_kl() if subject.images is not None or dims is None else None
    if count == 1:
        raise SettingsError("manifold: the model has one latent dimension; draw it with 'traversal'")
    many = known.names is not None and len(known.names) > _ROWS
    several = 3 if known.names is not None and not many else 1
    chosen = _ranked(kl, min(2 * several, count // 2 * 2)) if dims is None else dims
    _check_dims(chosen, count)
    if len(chosen) % 2:
        raise SettingsError(f"manifold: {len(chosen)} dimensions given; expected pairs, as in --dims 3,7 or 3,7,0,1")
    pairs = list(zip(chosen[::2], chosen[1::2], strict=True))
    steps = steps or (15 if known.names is None and len(pairs) == 1 else 5 if many else 7)
    mean, deviation = subject.prior(known)
    along = np.linspace(-reach, reach, steps)
    z = np.zeros((len(mean), len(pairs), steps, steps, count))
    for p, (a, b) in enumerate(pairs):
        z[:, p, :, :, a] = along[None, None, :]
        z[:, p, :, :, b] = along[None, ::-1, None]  # upwards
    z = mean[:, None, None, None] + deviation[:, None, None, None] * z
    c = None if known.c is None else known.c[:, None, None, None]
    return figures.manifold(subject.decoded(z, c), pairs, known.names, reach=reach, kl=kl, what=known.what)


def traversal(
    subject: Subject,
    *,
    dims: list[int] | None = None,
    items: list[str] | None = None,
    conditions: list[str] | None = None,
    steps: int = 9,
    reach: float = 3.0,
    most: int = 10,
) -> Figure:
    """Walks along the `most` dimensions of highest KL, or along `dims`.

    They start at the code of the one image in `items`, or at the prior mean, for a conditional model under the first of
    its `conditions`.
    """
    count = subject.detector.model_.latent_dim
    kl = subject.mean_kl() if subject.images is not None or dims is None else None
    chosen = _ranked(kl, most) if dims is None else dims
    _check_dims(chosen, count)
    if items is not None:
        if len(items) != 1 or conditions:
            raise SettingsError("traversal: walks start at one image (--items ID) or under one condition, not both")
        codes = subject.codes(subject.chosen(items))
        known = subject.conditions()._replace(c=codes.c)
        centre, start = codes.mean[0], f"image {items[0]}"
    else:
        known = subject.conditions(conditions)
        known = known._replace(c=None if known.c is None else known.c[:1])
        centre, start = subject.prior(known)[0][0], "the prior mean"
        start += f" of {known.what} {known.names[0]}" if known.names else ""
    mean, deviation = (values[0] for values in subject.prior(known))
    along = np.linspace(-reach, reach, steps)
    z = np.tile(centre, (len(chosen), steps, 1)).astype(float)
    for row, dim in enumerate(chosen):
        z[row, :, dim] = mean[dim] + deviation[dim] * along
    c = None if known.c is None else known.c[:1]
    return figures.traversal(subject.decoded(z, c), along, chosen, kl=None if kl is None else kl[chosen], start=start)


def kl(subject: Subject, *, most: int = 48) -> Figure:
    """Bars of the `most` dimensions that carry most, with their relevance where the method learned one."""
    return figures.kl_bars(subject.mean_kl(), relevance=subject.relevance(), most=most)


def correlation(subject: Subject, *, dims: list[int] | None = None, most: int = MOST_CODED) -> Figure:
    """Correlation of the posterior means of at most `most` images, of all dimensions or those in `dims`."""
    codes = subject.codes(subject.sample(most)).mean
    if dims is not None:
        _check_dims(dims, codes.shape[1])
        codes = codes[:, dims]
    return figures.latent_correlation(codes, dims)


def _ranked(kl: np.ndarray | None, most: int) -> list[int]:
    assert kl is not None
    return np.argsort(-kl, kind="stable")[:most].tolist()


def _check_dims(dims: list[int], count: int) -> None:
    for dim in dims:
        if not 0 <= dim < count:
            raise SettingsError(f"--dims: there is no dimension {dim}; the model has {count}, counted from 0")


def _class_order(groups: np.ndarray) -> np.ndarray:
    """Indices that put the items of each group together, groups in the order of classes."""
    from knowngood.data.select import sort_classes

    rank = {name: i for i, name in enumerate(sort_classes(set(groups.tolist())))}
    return np.argsort([rank[name] for name in groups.tolist()], kind="stable")
