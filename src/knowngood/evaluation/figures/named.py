"""The figures of `knowngood figure NAME`: each takes a `Subject` and options, and calls the pure function."""

from __future__ import annotations

import math

import numpy as np
from matplotlib.figure import Figure

from knowngood.errors import DataError, SettingsError
from knowngood.evaluation.conditions import by_condition, expected_band, natural_order, sharing_groups
from knowngood.evaluation.evaluate import results
from knowngood.evaluation.figures import curves as ranking
from knowngood.evaluation.figures import decoded as grids
from knowngood.evaluation.figures import distributions, false_alarms, latent_dimensions, latent_plane, losses, triptych
from knowngood.evaluation.figures import reconstruction as reconstructed
from knowngood.evaluation.figures.subject import MOST_CODED, Subject, spread
from knowngood.evaluation.results import Results
from knowngood.metrics import bootstrap_interval

_ROWS = 12  # conditions with a row of several grids each; more get one grid each

# Images ---------------------------------------------------------------------------------------------------------------


def reconstructions(subject: Subject, *, items: list[str] | None = None, most: int = 4, across: bool = False) -> Figure:
    """Up to `most` normal and as many anomalous images, spread over the data, or those in `items`."""
    images = subject.data() if items is None else subject.chosen(items)
    if items is None:
        kinds = [np.flatnonzero(images.labels == value) for value in (0, 1)]
        if not any(map(len, kinds)):
            kinds = [np.arange(len(images))]
        images = images[np.concatenate([rows[spread(len(rows), most)] for rows in kinds if len(rows)])]
    views = {name: subject.reconstructed(images, detector) for name, detector in subject.models.items()}
    first, (inputs, _) = next(iter(views.items()))
    for name, (other, _) in views.items():
        if other.shape != inputs.shape:
            raise SettingsError(
                f"model '{name}' takes images of {other.shape[1:]}, '{first}' of {inputs.shape[1:]}; "
                "compare models of the same image size"
            )
    ids = None if across else [str(name) for name in images.ids]
    made = {name: view for name, (_, view) in views.items()}
    return reconstructed.reconstructions(inputs, made, images.labels, ids=ids, across=across)


def triptychs(subject: Subject, *, items: list[str] | None = None, most: int = 6) -> Figure:
    """The `most` most anomalous images, or those in `items`; with anomaly maps where there is no reconstruction."""
    table, images = subject.table(), subject.data()
    if items is None:
        score = table["anomaly_score"].to_numpy(float)
        order = np.argsort(-score, kind="stable")  # NaN last
        images = images[order[~np.isnan(score[order])][:most]]
    else:
        images = subject.chosen(items)
    rows = table.set_index("id").loc[images.ids]
    pairs, maps = subject.pairs(images)
    values = zip(images.ids, rows["anomaly_score"], rows["p_value"], strict=True)
    captions = [f"{name}: score {score:.4g}, p = {p:.2g}" for name, score, p in values]
    return triptych.triptychs(pairs, captions, maps=maps)


def samples(
    subject: Subject,
    *,
    conditions: list[str] | None = None,
    most: int | None = None,
    seed: int = 0,
    room: float | None = None,
) -> Figure:
    """`most` draws a row; the same noise under every condition, so that a column differs by its condition alone."""
    known = subject.conditions(conditions)
    mean, deviation = subject.prior(known)
    names = known.names or [""] * 5
    noise = np.random.default_rng(seed).standard_normal((1 if known.names else 5, most or 10, mean.shape[1]))
    images = subject.decoded(mean[:, None] + deviation[:, None] * noise, None if known.c is None else known.c[:, None])
    return grids.prior_samples(images, names, what=known.what, **({} if room is None else {"room": room}))


# Latent space ---------------------------------------------------------------------------------------------------------


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
    """Posterior means of at most `most` images, coloured by the column `by`."""
    if dims is not None and (len(dims) != 2 or projection not in ("auto", "raw")):
        raise SettingsError(f"dims {dims}, projection '{projection}': two dimensions go with the projection raw")
    images = subject.sample(most)
    pair = None if dims is None else (dims[0], dims[1])
    points, names = latent_plane.project(subject.codes(images).mean, projection, dims=pair, seed=seed)
    groups = subject.groups(images, by)
    if groups is not None:  # the legend names classes in natural order
        order = natural_order(groups)
        points, groups, images = points[order], groups[order], images[order]
    labels = None if np.isnan(images.labels).all() else images.labels
    return latent_plane.latent_scatter(
        points, groups, labels, axis_names=names, group_name=by or "class", narrow=narrow
    )


def manifold(
    subject: Subject,
    *,
    dims: list[int] | None = None,
    conditions: list[str] | None = None,
    steps: int | None = None,
    reach: float = 2.0,
) -> Figure:
    """Grids over pairs of dimensions: those in `dims`, two by two, or the ones of highest KL.

    An unconditional model gets one pair; a conditional one a row of up to three pairs a condition, with more than 12
    conditions one pair each on a coarser grid.
    """
    known = subject.conditions(conditions)
    mean, deviation = subject.prior(known)
    count = mean.shape[1]
    if count == 1:
        raise SettingsError("manifold: the model has one latent dimension; draw it with 'traversal'")
    many = known.names is not None and len(known.names) > _ROWS
    wanted = 2 * (3 if known.names is not None and not many else 1)
    chosen, kl = _dimensions(subject, dims, count, min(wanted, count // 2 * 2))
    if len(chosen) % 2:
        raise SettingsError(f"manifold: {len(chosen)} dimensions given; expected pairs, as in --dims 3,7 or 3,7,0,1")
    pairs = list(zip(chosen[::2], chosen[1::2], strict=True))
    steps = steps or (15 if known.names is None and len(pairs) == 1 else 5 if many else 7)
    along = np.linspace(-reach, reach, steps)
    z = np.zeros((len(mean), len(pairs), steps, steps, count))
    for p, (a, b) in enumerate(pairs):
        z[:, p, :, :, a] = along[None, None, :]
        z[:, p, :, :, b] = along[None, ::-1, None]  # upwards
    z = mean[:, None, None, None] + deviation[:, None, None, None] * z
    images = subject.decoded(z, None if known.c is None else known.c[:, None, None, None])
    return grids.manifold(images, pairs, known.names, reach=reach, kl=kl, what=known.what)


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
    if items is not None and (len(items) != 1 or conditions):
        raise SettingsError("traversal: walks start at one image (--items ID) or under one condition, not both")
    known = subject.conditions(conditions)
    known = known._replace(c=None if known.c is None else known.c[:1])
    centre, start = None, f"the prior mean of {known.what} {known.names[0]}" if known.names else "the prior mean"
    if items is not None:
        codes = subject.codes(subject.chosen(items))
        known, centre, start = known._replace(c=codes.c), codes.mean[0], f"image {items[0]}"
    mean, deviation = (values[0] for values in subject.prior(known))
    chosen, kl = _dimensions(subject, dims, len(mean), most)
    along = np.linspace(-reach, reach, steps)
    z = np.tile(mean if centre is None else centre, (len(chosen), steps, 1)).astype(float)
    for row, dim in enumerate(chosen):
        z[row, :, dim] = mean[dim] + deviation[dim] * along
    return grids.traversal(
        subject.decoded(z, known.c), along, chosen, kl=None if kl is None else kl[chosen], start=start
    )


def kl(subject: Subject, *, most: int = 48) -> Figure:
    """Bars of the `most` dimensions that carry most, with their relevance where the method learned one."""
    return latent_dimensions.kl_bars(subject.mean_kl(), relevance=subject.relevance(), most=most)


def correlation(subject: Subject, *, dims: list[int] | None = None, most: int = MOST_CODED) -> Figure:
    """Correlation of the posterior means of at most `most` images, of all dimensions or those in `dims`."""
    codes = subject.codes(subject.sample(most)).mean
    if dims is not None:
        _check_dims(dims, codes.shape[1])
        codes = codes[:, dims]
    return latent_dimensions.latent_correlation(codes, dims)


def _dimensions(subject: Subject, dims: list[int] | None, count: int, most: int) -> tuple[list[int], np.ndarray | None]:
    """The dimensions to draw, those of largest KL by default, and the KL of all where there are images."""
    kl = subject.mean_kl() if subject.images is not None or dims is None else None
    if dims is None and kl is not None:
        dims = np.argsort(-kl, kind="stable")[:most].tolist()
    _check_dims(dims or [], count)
    return dims or [], kl


def _check_dims(dims: list[int], count: int) -> None:
    for dim in dims:
        if not 0 <= dim < count:
            raise SettingsError(f"--dims: there is no dimension {dim}; the model has {count}, counted from 0")


# Scores ---------------------------------------------------------------------------------------------------------------


def histogram(subject: Subject, *, bins: int = 40) -> Figure:
    """Scores of all images by label, with the threshold of the fit."""
    scores, labels = subject.table()["anomaly_score"].to_numpy(float), subject.data().labels
    limit = [-subject.detector.offset_]
    return distributions.score_histogram(scores, labels, thresholds=limit, unit=subject.unit, bins=bins)


def box(subject: Subject, *, by: str | None = None) -> Figure:
    """One box a class, or a value of the column `by`."""
    images, groups = subject.data(), subject.groups(subject.data(), by)
    name = by or ("class" if groups is not None else "")
    groups = np.full(len(images), "all") if groups is None else groups
    order = natural_order(groups)
    scores = subject.table()["anomaly_score"].to_numpy(float)[order]
    labels = None if np.isnan(images.labels).all() else images.labels[order]
    limit = [-subject.detector.offset_]
    return distributions.scores_by_class(
        scores, groups[order], labels, thresholds=limit, unit=subject.unit, group_name=name
    )


def roc(subject: Subject) -> Figure:
    """The curve of the first model, its 95 % interval, and the point of its verdicts."""
    table = subject.table()
    scores = table["anomaly_score"].to_numpy(float)
    labels = _both(np.where(np.isnan(scores), np.nan, subject.data().labels))
    known = ~np.isnan(labels)
    flagged = None
    if math.isfinite(subject.detector.offset_):
        flagged = table["is_anomalous"].astype("boolean").fillna(False).to_numpy(bool)
    return ranking.roc(labels, scores, flagged=flagged, interval=bootstrap_interval(labels[known], scores[known]))


def curves(subject: Subject, *, by: str | None = None, most: int = 6) -> Figure:
    """All models on the same images; with `by` one row a value of that column among the anomalous images."""
    images = subject.data()
    scores = {n: subject.table(detector)["anomaly_score"].to_numpy(float) for n, detector in subject.models.items()}
    unread = np.any([np.isnan(values) for values in scores.values()], axis=0)
    labels = _both(np.where(unread, np.nan, images.labels))
    return ranking.ranking_grid(labels, scores, None if by is None else subject.groups(images, by), most=most)


def calibration(subject: Subject) -> Figure:
    """P-values of the normal images, with the expected band."""
    scored = _results(subject)
    groups = sharing_groups(by_condition(scored), scored.calibration.get("pooled_n"))
    p = scored.p_values[scored.labels == 0]
    band = expected_band(*groups) if groups[0] and sum(groups[1]) == len(p) else None
    return false_alarms.calibration(p, band=band, alpha=scored.alpha)


def rates(subject: Subject, *, most: int = 20) -> Figure:
    """Share of the normal images of each condition that is flagged."""
    scored = _results(subject)
    rows = [row for row in by_condition(scored) if row.normals]
    columns = zip(*((row.name, row.false_alarms, row.normals, row.expected) for row in rows), strict=True)
    return false_alarms.false_alarm_rates(*map(list, columns), alpha=scored.alpha, most=most)


def loss(subject: Subject, *, most: int = 6) -> Figure:
    """Panels of the training log that was saved with the model."""
    history = subject.detector.training_.get("history", [])
    if not history:
        raise DataError("this model has no training log: either it trains no network, or training.json is missing")
    return losses.loss_curves(history, best_step=subject.detector.about_["training"]["best_step"], most=most)


def _results(subject: Subject) -> Results:
    return results(subject.detector, subject.table(), given=subject.visible(subject.data()).conditions)


def _both(labels: np.ndarray) -> np.ndarray:
    """The labels; DataError unless there are normal and anomalous ones."""
    normals, anomalies = int((labels == 0).sum()), int((labels == 1).sum())
    if not normals or not anomalies:
        raise DataError(
            f"{normals} images labelled normal and {anomalies} labelled anomalous; this figure needs both. "
            "Choose them with --normal, --anomalous or --holdout, in Python images.select."
        )
    return labels
