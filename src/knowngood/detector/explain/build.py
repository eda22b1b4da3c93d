"""Explanations of judged images, from what the nets were given of them when they were judged, if that was held."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from knowngood.calibration.regions import Region
from knowngood.config import LiteGrid
from knowngood.data import ImageSet
from knowngood.data.conditions import Expanded
from knowngood.detector.explain.explanation import Component, Explanation, Latent, Nearest, Nuisance
from knowngood.detector.explain.reference import LIGHT, KnownGood, kinds, light_of, pixels_of, pooled
from knowngood.detector.explain.words import sentences, summary
from knowngood.detector.maps import Mapped, map_chunks, mapped, regions_in, restored_rows, score_chunk
from knowngood.detector.rows import take
from knowngood.errors import SettingsError
from knowngood.models.likelihoods import GaussianLikelihood
from knowngood.models.objectives.lit import Lit
from knowngood.models.vae import DiagonalGaussian
from knowngood.representations import Edges, Features, Pixels
from knowngood.representations.hog import DIRECTIONS

if TYPE_CHECKING:
    from knowngood.detector.decide import Judgement
    from knowngood.detector.pipeline import Pipeline
    from knowngood.detector.rows import Chunk, Items
    from knowngood.detector.watching import Watch

TOP = 5
ENOUGH = 8  # good images that say what light is usual
NO_INDEX = "the model was saved without an index of its good images; fit it again to have one"
NO_WHOLE = "the model sees tiles, so whole good images are not compared"


def check_explains(pipeline: Pipeline) -> None:
    """Raise SettingsError for a model of tables."""
    if not isinstance(pipeline.representation, Pixels | Edges | Features):
        raise SettingsError("explanations are of images; this model was fitted on a table")


def oddest(judged: Judgement, flagged: np.ndarray, most: int, *, others: bool = False) -> np.ndarray:
    """Rows to explain, the oddest first: at most so many of those that are flagged, or with `others` of all."""
    score = judged.anomaly_score
    rows = np.flatnonzero(~np.isnan(score) & (flagged | others))
    return rows[np.argsort(-score[rows], kind="stable")][:most]


@torch.no_grad()
def explain(
    pipeline: Pipeline,
    items: Items,
    judged: Judgement,
    flagged: np.ndarray,
    chosen: np.ndarray,
    *,
    alpha: float,
    conditions: Sequence[str | None] | None = None,
    watch: Watch | None = None,
) -> list[Explanation]:
    """Explanations of the chosen rows (M,) of judged items, in their order.

    Args:
        flagged: (N,) bool, the verdicts; `alpha`: the false-alarm rate they were made at.
        conditions: (N,) as the table names them.
        watch: what looked on as the items were judged; those that it does not hold are read again.

    Raises:
        SettingsError: the model was fitted on a table.
    """
    check_explains(pipeline)
    if not len(chosen):
        return []
    assert isinstance(items, ImageSet)
    images = items[chosen]
    best = take(judged.best, chosen)
    names = best.label if conditions is None else [conditions[i] or "" for i in chosen]
    pipeline.model.eval()
    found: list[Explanation] = []
    held = None if watch is None else watch.chunk(chosen, best, pipeline)
    for look in _looks(pipeline, images, best, alpha, held):
        inside = _inside(pipeline, look)
        for i, (facts, place, seen) in enumerate(
            zip(inside, look.places, look.seen, strict=True), look.chunk.rows.start
        ):
            of = int(chosen[i])
            if place.map is None:
                facts["missing"]["map"] = f"the score '{pipeline.score.options.name}' has no map"
            one = Explanation(
                id=str(images.ids[i]),
                anomaly_score=float(judged.anomaly_score[of]),
                p_value=float(judged.p_value[of]),
                is_anomalous=bool(flagged[of]),
                condition=names[i],
                image=images.read(i),
                map=place.map,
                peak=place.peak,
                regions=place.regions,
                seen=seen,
                **_compared(pipeline, facts, int(best.stratum[i]), seen),
            )
            one = replace(one, sentences=sentences(one, alpha))
            found.append(replace(one, summary=summary(one)))
    return found


class Place(NamedTuple):
    """Where an image is odd: its map (H, W), the pixel of the peak, and regions, where there are any."""

    map: np.ndarray | None = None
    peak: tuple[int, int] | None = None
    regions: tuple[Region, ...] = ()


class Look(NamedTuple):
    """Some images as the nets see them; of a model that sees tiles the tile of each in which it is oddest."""

    chunk: Chunk
    maps: Tensor | None  # (B, h, w) as the score makes them
    places: list[Place]  # in the whole images
    seen: list[np.ndarray]  # (h, w, C) each, scaled


def _looks(pipeline: Pipeline, images: ImageSet, best: Expanded, alpha: float, held: Chunk | None) -> Iterator[Look]:
    if not pipeline.score.has_map:
        for chunk in pipeline.rows(images, best, {}) if held is None else [held]:
            yield Look(chunk, None, [Place()] * len(chunk.x), _prepared(pipeline, images[chunk.rows]))
    elif pipeline.settings.tile is None:
        for chunk, result in map_chunks(pipeline, images, best) if held is None else [score_chunk(pipeline, held)]:
            values, strata = result.values.tolist(), best.stratum[chunk.rows].tolist()
            wholes = [whole for _, whole in restored_rows(pipeline, images, chunk, result.map)]
            every = zip(values, strata, wholes, strict=True)
            places = [_place(pipeline, Mapped(*one), alpha) for one in every]
            yield Look(chunk, result.map, places, _prepared(pipeline, images[chunk.rows]))
    else:
        places = [_place(pipeline, one, alpha) for one in mapped(pipeline, images, best)]
        tiles = _oddest_tiles(pipeline, images, [place.peak for place in places])
        for chunk, result in map_chunks(pipeline, tiles, best):
            yield Look(chunk, result.map, places[chunk.rows], _prepared(pipeline, tiles[chunk.rows]))


def _place(pipeline: Pipeline, one: Mapped, alpha: float) -> Place:
    peak, known = None, pipeline.maps_of_normals
    if not np.isnan(one.map).all():
        row, column = divmod(int(np.nanargmax(one.map)), one.map.shape[1])
        peak = (row, column)
    return Place(one.map, peak, () if known is None else tuple(regions_in(known, one, alpha)))


def _oddest_tiles(pipeline: Pipeline, images: ImageSet, peaks: list[tuple[int, int] | None]) -> ImageSet:
    """Of each image the tile in whose middle its peak lies, as far as may be."""
    tiles, rows = pipeline.tiles(images), []
    assert tiles is not None
    for i, peak in enumerate(peaks):
        at = peak or (0, 0)
        middles = [(tile.top + tile.height / 2, tile.left + tile.width / 2) for tile in tiles.merger(i).tiles]
        off = [max(abs(y - at[0]), abs(x - at[1])) for y, x in middles]
        rows.append(int(np.flatnonzero(tiles.owner == i)[int(np.argmin(off))]))
    return tiles.images[np.array(rows)]


def _prepared(pipeline: Pipeline, images: ImageSet) -> list[np.ndarray]:
    """Each image prepared for the nets, scaled, (h, w, C)."""
    pixels = pixels_of(pipeline)
    prepared, _ = pixels.read(images, None, 4)
    return list(np.moveaxis(pixels.scale(torch.from_numpy(prepared)).numpy(), 1, -1))


def _inside(pipeline: Pipeline, look: Look) -> list[dict[str, Any]]:
    if pipeline.model.patches is not None:
        return _of_features(pipeline, look)
    return (_of_edges if isinstance(pipeline.representation, Edges) else _of_pixels)(pipeline, look)


def _of_pixels(pipeline: Pipeline, look: Look) -> list[dict[str, Any]]:
    model, chunk = pipeline.model, look.chunk
    posterior = model.encode(chunk.x, chunk.c)
    made = model.reconstruct(chunk.x, chunk.c)
    kl = posterior.kl(model.prior(chunk.c, like=posterior.mean))
    return [
        {
            "reconstruction": _picture(made[i]),
            "residual": _picture(chunk.x[i] - made[i]),
            "code": posterior.mean[i].cpu().double().numpy(),
            "latents": _latents(kl[i], posterior, i, pipeline.known_good),
            "missing": {},
        }
        for i in range(len(chunk.x))
    ]


def _of_edges(pipeline: Pipeline, look: Look) -> list[dict[str, Any]]:
    model, chunk = pipeline.model, look.chunk
    posterior = model.encode(chunk.x, chunk.c)
    params = model.decode(posterior.mean, chunk.c)
    assert isinstance(model.likelihood, GaussianLikelihood)
    left = (chunk.x - model.likelihood.mean(params)) / model.likelihood.log_sigma(params).exp()
    norm = left.square().mean(1).sqrt().cpu().numpy()
    kl = posterior.kl(model.prior(chunk.c, like=posterior.mean))
    found = []
    for i in range(len(chunk.x)):
        grid = norm[i] if look.maps is None else look.maps[i].cpu().numpy()
        deviation = left[i].flatten(1)[:, int(grid.argmax())].cpu().numpy()
        top = np.argsort(-np.abs(deviation), kind="stable")[:TOP]
        found.append(
            {
                "residual": norm[i],
                "components": tuple(Component(f"an edge lighter {DIRECTIONS[j]}", float(deviation[j])) for j in top),
                "code": posterior.mean[i].cpu().double().numpy(),
                "latents": _latents(kl[i], posterior, i, pipeline.known_good),
                "missing": {"reconstruction": "the model reconstructs edges by cell, which are no picture"},
            }
        )
    return found


def _of_features(pipeline: Pipeline, look: Look) -> list[dict[str, Any]]:
    model, chunk, patches = pipeline.model, look.chunk, pipeline.model.patches
    assert patches is not None
    assert isinstance(pipeline.representation, Features)
    rows, conditions = patches.split(chunk.x, chunk.c)
    posterior = model.encode(rows, conditions)
    made = model.reconstruct(rows, conditions)
    norm = patches.join((rows - made).square().mean(1).sqrt())
    kl = posterior.kl(model.prior(conditions, like=posterior.mean))
    expected = patches.unwhiten(made, chunk.c, chunk.x)
    codes, cells = pooled(patches, chunk.x, chunk.c), patches.cell(chunk.c, len(chunk.x)).tolist()
    maps = None if look.maps is None else look.maps.cpu().numpy()
    names = feature_names(pipeline.representation)
    found = []
    for i in range(len(chunk.x)):
        grid = None if maps is None else maps[i]
        at = int(np.nanargmax(norm[i].cpu().numpy() if grid is None else grid))
        delta = (chunk.x[i].float() - expected[i]).flatten(1)[:, at]
        deviation = (delta / spread_at(patches.root[cells[i], at])).cpu().numpy()
        top = np.argsort(-np.abs(deviation), kind="stable")[:TOP]
        row = i * patches.places + at
        found.append(
            {
                "residual": norm[i].cpu().numpy(),
                "components": tuple(Component(names[j], float(deviation[j])) for j in top),
                "code": codes[i],
                "latents": _latents(kl[row], posterior, row, None),
                "missing": {"reconstruction": "the model reconstructs features, which are no picture"},
            }
        )
    return found


def spread_at(root: Tensor) -> Tensor:
    """(F,) standard deviations of the features of a place whose inverse Cholesky factor is root (F, F)."""
    eye = torch.eye(len(root), dtype=torch.float64, device=root.device)
    return torch.linalg.solve_triangular(root.double(), eye, upper=False).norm(dim=1).float()


def feature_names(features: Features) -> list[str]:
    """A name for each feature: the block of the backbone, counted from 0, and its number there."""
    options = features.options
    blocks = [f"block {b}" for b in options.blocks] if isinstance(options, LiteGrid) else []
    if len(blocks) != len(features.widths):
        blocks = [f"map {i}" for i in range(len(features.widths))]
    return [f"{block}, feature {j}" for block, width in zip(blocks, features.widths, strict=True) for j in range(width)]


def _latents(kl: Tensor, posterior: DiagonalGaussian, row: int, good: KnownGood | None) -> tuple[Latent, ...]:
    """The dimensions of kl (D,) that carry most."""
    nats, mean = kl.cpu().double().numpy(), posterior.mean[row].cpu().double().numpy()
    deviation: list[float | None] = [None] * len(nats)
    if good is not None and len(good.codes) >= ENOUGH:
        codes = good.codes.astype(np.float64)
        deviation = ((mean - codes.mean(0)) / np.maximum(codes.std(0), 1e-6)).tolist()
    return tuple(Latent(int(d), float(nats[d]), deviation[d]) for d in np.argsort(-nats, kind="stable")[:TOP])


def _compared(pipeline: Pipeline, facts: dict[str, Any], stratum: int, seen: np.ndarray) -> dict[str, Any]:
    """The facts with nearest good images, usual light and usual look in place of the code."""
    code, good = facts.pop("code"), pipeline.known_good
    if good is None:
        why = NO_INDEX if pipeline.settings.tile is None else NO_WHOLE
        return facts | {"missing": facts["missing"] | dict.fromkeys(("nearest", "nuisances", "usual"), why)}
    kind = int(kinds(pipeline)[stratum]) if stratum >= 0 else -1
    rows, distance = good.nearest(code, kind, TOP)
    facts["nearest"] = tuple(Nearest(good.ids[r], float(d)) for r, d in zip(rows, distance, strict=True))
    if len(good.apart) >= ENOUGH and len(distance):
        facts["farther"] = float((good.apart < distance[0]).mean())
    facts["usual"] = np.moveaxis(good.usual_look(kind), 0, -1)
    usual = good.usual_light(kind)
    if len(usual) < ENOUGH:
        facts["missing"]["nuisances"] = f"{len(usual)} good images of this condition, too few to say what is usual"
        return facts
    value = light_of_scaled(seen)
    facts["nuisances"] = tuple(
        _nuisance(pipeline, name, float(value[k]), usual[:, k].astype(np.float64)) for k, name in enumerate(LIGHT)
    )
    return facts


def light_of_scaled(seen: np.ndarray) -> np.ndarray:
    """(2,) brightness and contrast of one image (h, w, C) whose values are scaled."""
    identity = Pixels(size=seen.shape[:2], channels=seen.shape[2], low=0, high=1, dtype="float32", rule="scaled")
    return light_of(identity, np.moveaxis(seen, -1, 0)[None])[0]


def _nuisance(pipeline: Pipeline, name: str, value: float, good: np.ndarray) -> Nuisance:
    low, usual, high = (float(q) for q in np.quantile(good, [0.025, 0.5, 0.975]))
    settings = pipeline.settings
    change = abs(value / usual - 1) if usual else 0.0
    told = name in settings.measure or name in getattr(settings.objective, "factors", ())
    lit = settings.light_tolerance is not None and name in Lit.FOLLOWING and change <= settings.light_tolerance
    unseen = isinstance(pipeline.representation, Edges)
    return Nuisance(name, value, usual, low, high, told or lit or unseen)


def _picture(x: Tensor) -> np.ndarray:
    """(C, h, w) → (h, w, C)."""
    return np.moveaxis(x.cpu().numpy(), 0, -1)
