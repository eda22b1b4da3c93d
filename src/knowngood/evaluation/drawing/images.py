"""Figures of images: reconstructions, triptychs, draws from the prior, ways between images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from knowngood.errors import DataError, SettingsError
from knowngood.evaluation import figures
from knowngood.evaluation.drawing.subject import Subject, spread


def reconstructions(subject: Subject, *, items: list[str] | None = None, most: int = 4) -> Figure:
    """Up to `most` normal and as many anomalous images, spread over the data, or the `items` named."""
    images = subject.data() if items is None else subject.chosen(items)
    if items is None:
        kinds = [np.flatnonzero(images.labels == value) for value in (0, 1)]
        if not any(map(len, kinds)):
            kinds = [np.arange(len(images))]
        images = images[np.concatenate([rows[spread(len(rows), most)] for rows in kinds if len(rows)])]
    found = {name: subject.reconstructed(images, detector) for name, detector in subject.models.items()}
    inputs = next(iter(found.values()))[0]
    for name, (seen, _) in found.items():
        if seen.shape != inputs.shape:
            raise SettingsError(
                f"model '{name}' takes images of {seen.shape[1:]}, '{next(iter(found))}' of {inputs.shape[1:]}; "
                "compare models of the same image size"
            )
    ids = [str(name) for name in images.ids]
    return figures.reconstructions(inputs, {n: made for n, (_, made) in found.items()}, images.labels, ids=ids)


def triptychs(subject: Subject, *, items: list[str] | None = None, most: int = 6) -> Figure:
    """The `most` most anomalous images, or the `items` named."""
    table = subject.table()
    images = subject.data()
    if items is None:
        score = table["anomaly_score"].to_numpy(float)
        order = np.argsort(-np.where(np.isnan(score), -np.inf, score), kind="stable")
        images = images[order[~np.isnan(score[order])][:most]]
    else:
        images = subject.chosen(items)
    rows = table.set_index("id").loc[images.ids]
    inputs, made = subject.reconstructed(images)
    captions = [
        f"{name}: score {score:.4g}, p = {p:.2g}"
        for name, score, p in zip(images.ids, rows["anomaly_score"], rows["p_value"], strict=True)
    ]
    return figures.triptychs(list(zip(inputs, made.images, strict=True)), captions)


def samples(subject: Subject, *, conditions: list[str] | None = None, most: int | None = None, seed: int = 0) -> Figure:
    """`most` draws a row; the same noise under every condition, so that a column differs by its condition alone."""
    known = subject.conditions(conditions)
    mean, deviation = subject.prior(known)
    several = known.names is not None
    rows, draws = (1, most or 10) if several else (5, most or 10)
    noise = np.random.default_rng(seed).standard_normal((rows, draws, mean.shape[1]))
    z = mean[:, None] + deviation[:, None] * noise
    c = None if known.c is None else known.c[:, None]
    names = known.names if known.names is not None else [""] * rows
    return figures.prior_samples(subject.decoded(z, c), names, what=known.what)


def interpolation(
    subject: Subject,
    *,
    items: list[str] | None = None,
    most: int = 3,
    steps: int | None = None,
    gif: Path | None = None,
) -> Figure | None:
    """Straight ways between the codes of `most` pairs of normal images, or of the pairs of `items` named.

    The condition goes from one image's to the other's along with the code. With `gif` a GIF is written there.
    """
    images = subject.data()
    if items is None:
        good = images[images.labels != 1]
        images = good if len(good) > 1 else images
        images = images[_pairs(subject.groups(images, None), len(images), most)]
    else:
        images = subject.chosen(items)
    if len(images) < 2 or len(images) % 2:
        raise DataError(f"interpolation: {len(images)} images; expected pairs, an even number of them")
    steps = steps or (8 if gif is None else 20)
    codes = subject.codes(images)
    inputs, _ = subject.reconstructed(images)
    share = np.linspace(0, 1, steps)[None, :, None]

    def way(values: np.ndarray) -> np.ndarray:
        return (1 - share) * values[0::2, None] + share * values[1::2, None]

    frames = subject.decoded(way(codes.mean), None if codes.c is None else way(codes.c))
    ends = np.stack([inputs[0::2], inputs[1::2]], axis=1)
    if gif is not None:
        figures.interpolation_gif(gif, ends, frames)
        return None
    names = [(str(a), str(b)) for a, b in zip(images.ids[0::2], images.ids[1::2], strict=True)]
    return figures.interpolation(ends, frames, names)


def _pairs(groups: np.ndarray | None, n: int, most: int) -> np.ndarray:
    """Images 1 and 2 of each pair, of different classes where there are any."""
    if groups is None or len(set(groups)) < 2:
        rows = spread(n, 2 * most)
    else:
        firsts = [np.flatnonzero(groups == name)[0] for name in sorted(set(groups))]
        rows = np.array(firsts)[spread(len(firsts), 2 * most)]
    return rows[: len(rows) // 2 * 2]
