"""The inspection page: scored images by p-value with their anomaly maps laid over them, as one self-contained file."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np

from knowngood.calibration.map_scale import MapScale, legend
from knowngood.config import counted
from knowngood.data.findings import Unreadable
from knowngood.data.progress import track
from knowngood.evaluation.evaluate import MOST, SmallMap
from knowngood.evaluation.figures.pixels import as_picture, map_png, reduced
from knowngood.evaluation.report.build import templates, write_page
from knowngood.evaluation.report.gallery import data_uri, positions, row_facts
from knowngood.evaluation.report.inputs import ReportInputs
from knowngood.evaluation.report.words import percent
from knowngood.evaluation.results import joint_p_values

if TYPE_CHECKING:
    from pandas import DataFrame

    from knowngood.data import ImageSet
    from knowngood.detector.estimator import Detector
    from knowngood.detector.explain import Explanation

PICTURE = 480  # pixels of the longer side


@dataclass(frozen=True, kw_only=True)
class Inspected:
    """One image of the page.

    Args:
        id: of its row in the table.
        image: (h, w, C), of any type; reduced beforehand, since it goes into the page as it is.
        map: (a, b) over the whole image, higher is more anomalous, NaN where a region is ignored; None: no map.
        scale: how the map is coloured.
        size: (H, W) of the image before it was reduced, in whose pixels the boxes are.
        sentences: its explanation.
        boxes: (top, left, bottom, right) of regions, half-open. link: to a picture that explains it.
        examples: of an image that is wrong for its condition, what it should be and what it looks like: words, picture.
    """

    id: str
    image: np.ndarray
    map: np.ndarray | None = None
    scale: MapScale | None = None
    size: tuple[int, int]
    sentences: Sequence[str] = ()
    boxes: Sequence[tuple[int, int, int, int]] = ()
    link: str = ""
    examples: Sequence[tuple[str, np.ndarray]] = ()


def inspected(
    detector: Detector,
    images: ImageSet,
    table: DataFrame,
    explanations: Sequence[Explanation],
    maps: Mapping[str, SmallMap],
    *,
    links: Mapping[str, str] | None = None,
    sources: Sequence[ImageSet] = (),
) -> list[Inspected]:
    """The images with the smallest p-values, of equals those with the larger score, each with its map.

    Args:
        table: of `Detector.detect` for these images; rows without a score are skipped.
        explanations: of some of them.
        maps: reduced maps by id, see `TopMaps`; none of a score that has no map. links: of some by id.
        sources: where normal images may be found by id; else the means of such images are shown.
    """
    rows, explained = by_p_value(table)[:MOST], {one.id: one for one in explanations}
    items = []
    for row in track(rows.tolist(), "pictures", len(rows)):
        image, name = images.read(row), str(images.ids[row])
        one, small = explained.get(name), maps.get(name)
        items.append(
            Inspected(
                id=name,
                image=reduced(image, PICTURE),
                map=None if small is None else small.values,
                scale=None if small is None else small.scale,
                size=(image.shape[0], image.shape[1]),
                sentences=() if one is None else one.sentences[1:],
                link=(links or {}).get(name, ""),
                boxes=() if one is None else tuple(region.box for region in one.regions),
                examples=() if one is None else _examples(one, sources, detector.pipeline_.fitted_to),
            )
        )
    return items


def _examples(
    one: Explanation, sources: Sequence[ImageSet], fitted_to: np.ndarray | None
) -> list[tuple[str, np.ndarray]]:
    """What an image is said to be, and what it looks like: the nearest normal image of each, or the mean of such."""
    if not one.misfit or not one.lookalikes:
        return []
    known = pictures([near.id for near in (*one.nearest[:1], *one.lookalikes[:1])], *sources, fitted_to=fitted_to)
    words = f"stated: {one.condition}", one.misfit.partition(": ")[2]
    pairs = (one.nearest, one.mean_image), (one.lookalikes, one.lookalike_image)
    shown = [known.get(near[0].id, mean) if near else mean for near, mean in pairs]
    return [(text, reduced(image, PICTURE)) for text, image in zip(words, shown, strict=True) if image is not None]


def write_inspection(path: str | Path, items: Sequence[Inspected], table: DataFrame, **about: Any) -> Path:
    """Write the page as one HTML file; the same inputs give the same bytes. See `render_inspection`."""
    return write_page(path, render_inspection(items, table, **about))


def render_inspection(
    items: Sequence[Inspected],
    table: DataFrame,
    *,
    alpha: float,
    title: str,
    command: str = "",
    explained: str = "",
    links: Sequence[tuple[str, str]] = (),
    normal_name: str = "normal",
    anomalous_name: str = "anomalous",
) -> str:
    """The page as HTML text: a gallery by p-value, filters by verdict and condition, a slider for the maps.

    Args:
        table: as for `ReportInputs`; `items` are rows of it, by id.
        alpha: the false-alarm rate of the verdicts. explained: a sentence on how many of the images are explained.

    Raises:
        DataError: an item is not in the table, or the table is empty or lacks a column.
    """
    inputs = ReportInputs(
        table=table, alpha=alpha, normal_name=normal_name, anomalous_name=anomalous_name, metrics={"none": None}
    )
    rows = positions(inputs, [item.id for item in items])
    p, score, flagged = joint_p_values(table), inputs.scores, inputs.flagged
    order = sorted(items, key=lambda item: (p[rows[item.id]], -score[rows[item.id]]))
    cards = [
        {
            **row_facts(inputs, rows[item.id]),
            "id": item.id,
            "picture": picture_uri(item.image),
            "map": None if item.map is None or item.scale is None else map_uri(item.map, item.scale),
            "height": item.size[0],
            "width": item.size[1],
            "pixelated": max(item.size) <= 96,
            "boxes": [(left, top, right - left, bottom - top) for top, left, bottom, right in item.boxes],
            "sentences": list(item.sentences),
            "link": item.link,
            "examples": [(words, picture_uri(picture)) for words, picture in item.examples],
            "p_value": f"{p[rows[item.id]]:.6g}",
            "score_value": f"{score[rows[item.id]]:.9g}",
        }
        for item in order
    ]
    conditions = sorted({card["condition"] for card in cards if card["condition"]})
    total, n = int(inputs.scored.sum()), int(flagged.sum())
    lead = f"{n:,} of {counted(total, 'image')} {'is' if n == 1 else 'are'} flagged at a false-alarm rate of "
    lead += f"{percent(alpha)}."
    lead += f" Shown are the {len(cards):,} with the smallest p-values." if len(cards) < total else ""
    if wrong := int(inputs.wrong.sum()):
        lead += f" {wrong:,} of them {'is' if wrong == 1 else 'are'} wrong for what they are said to be."
    lead += f" {explained}" if explained else ""
    for remark in filter(None, map(table.attrs.get, ("batch", "aspect", "small", "fitted"))):
        lead += f" Warning: {remark['sentence']}."
    about = {
        "title": title,
        "cards": cards,
        "conditions": conditions if len(conditions) > 1 else [],
        "labelled": any(card["label"] for card in cards),
        "mapped": any(card["map"] for card in cards),
        "boxed": any(card["boxes"] for card in cards),
        "lead": lead,
        "links": links,
        "legend": legend(item.scale for item in order),
        "command": command,
    }
    return templates().get_template("inspection.html.j2").render(about)


def picture_uri(image: np.ndarray) -> str:
    """An image (h, w, C) of any type as a picture in the page."""
    return data_uri(as_picture(image))


def map_uri(values: np.ndarray, scale: MapScale) -> str:
    """A map as `map_png` draws it, in the page."""
    return f"data:image/png;base64,{base64.b64encode(map_png(values, scale)).decode()}"


def by_p_value(table: DataFrame) -> np.ndarray:
    """Rows that have a score, the smallest p-value first, of equals the highest score."""
    p, score = joint_p_values(table), table["anomaly_score"].to_numpy(float)
    order = np.lexsort((-score, p))
    return order[~np.isnan(score[order])]


def pictures(ids: Sequence[str], *sources: ImageSet, fitted_to: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """(H, W, C) images by id, of those that a source has: by the id itself, or by its end below a folder.

    Args:
        fitted_to: digests of the normal images; one of the same name and other content is another image.
    """
    found: dict[str, np.ndarray] = {}
    for images in sources:
        known = {str(name): i for i, name in enumerate(images.ids)}
        for wanted in ids:
            parts = PurePosixPath(wanted).parts
            ends = ["/".join(parts[start:]) for start in range(len(parts))]
            for at in dict.fromkeys(known[end] for end in (wanted, *ends) if end in known):
                try:
                    if fitted_to is None or np.isin(images[[at]].digests(), fitted_to).all():
                        found.setdefault(wanted, images.read(at))
                except Unreadable:  # then it is named only
                    continue
    return found
