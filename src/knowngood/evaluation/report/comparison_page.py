"""The page of a comparison of recipes: a table, and pictures with what each recipe says of them; one HTML file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from scipy.ndimage import binary_erosion

from knowngood.data import ImageSet
from knowngood.evaluation.figures.pixels import as_picture, reduced
from knowngood.evaluation.recipe_comparison import Compared, Comparison
from knowngood.evaluation.report.build import templates, write_page
from knowngood.evaluation.report.gallery import data_uri
from knowngood.evaluation.report.words import percent

PICTURE, MOST = 220, 48
OUTLINE = (230, 60, 30, 255)
HEADINGS = (
    "recipe",
    "false alarms",
    "95 % interval",
    "alpha",
    "stability",
    "AUROC, synthetic",
    "found, synthetic",
    "AUROC, labelled",
    "found, labelled",
    "fit",
    "an image",
)
CAUTION = (
    "Synthetic defects are drawn on good images. They are not real ones: a recipe that finds more of them need not "
    "find more real defects. Nothing is chosen here. If you choose by labelled images, state results for others."
)


def rows_of(comparison: Comparison) -> list[list[str]]:
    """Cells under `HEADINGS`, a row a recipe; of one that was refused the reason in place of the numbers."""
    rows = []
    for one in comparison.recipes:
        if one.refused:
            rows.append([one.name, f"refused: {one.refused.splitlines()[0]}", *[""] * (len(HEADINGS) - 2)])
            continue
        low, high = one.interval
        rows.append(
            [
                one.name,
                f"{one.false_alarms} of {len(comparison.held_out)}",
                f"{low:.3f} to {high:.3f}",
                f"{comparison.alpha[one.name]:g}",
                "-" if one.stability is None else f"{one.stability:.3f}",
                f"{one.synthetic_auroc:.3f}",
                _share(one.synthetic_flagged),
                "-" if one.labelled_auroc is None else f"{one.labelled_auroc:.3f}",
                _share(one.labelled_flagged),
                f"{one.fit_seconds:.1f} s",
                f"{one.image_ms:.0f} ms",
            ]
        )
    return rows


def kinds_of(comparison: Comparison) -> list[list[str]]:
    """Of each kind of synthetic defect, how many each recipe finds; the kind and the number of them first."""
    kinds = comparison.synthetic.kinds
    return [
        [kind, str(int((kinds == kind).sum())), *[_share(_of(one, kinds == kind)) for one in _measured(comparison)]]
        for kind in sorted(set(kinds.tolist()))
    ]


def write_comparison(path: str | Path, comparison: Comparison, *, title: str, command: str = "") -> Path:
    """Write the page as one HTML file that makes no request."""
    return write_page(path, render_comparison(comparison, title=title, command=command))


def render_comparison(comparison: Comparison, *, title: str, command: str = "") -> str:
    """The page as HTML text."""
    recipes, synthetic = _measured(comparison), comparison.synthetic
    drawn = [(one.name, one.synthetic_flagged) for one in recipes]
    galleries: list[dict[str, Any]] = [
        {
            "title": "Synthetic defects",
            "lead": "Each is drawn on a held-out good image, with its outline in red.",
            "cards": _cards(synthetic.images, drawn, np.arange(min(MOST, len(synthetic.images))), synthetic.masks),
        }
    ]
    if comparison.labelled is not None:
        told = [(one.name, one.labelled_flagged) for one in recipes]
        at = np.arange(min(MOST, len(comparison.labelled)))
        lead = "Images labelled anomalous, which no recipe was fitted to."
        galleries.append({"title": "Labelled", "lead": lead, "cards": _cards(comparison.labelled, told, at)})
    alarms = [(one.name, one.flagged) for one in recipes]
    any_flag = np.zeros(len(comparison.held_out), dtype=bool)
    for _, values in alarms:
        any_flag |= False if values is None else values
    galleries.append(
        {
            "title": "False alarms",
            "lead": "Held-out normal images that at least one recipe flags.",
            "cards": _cards(comparison.held_out, alarms, np.flatnonzero(any_flag)[:MOST]),
        }
    )
    context = {
        "title": title,
        "lead": f"{comparison.fitted:,} normal images are fitted to, {len(comparison.held_out):,} are held out; the "
        "same for all recipes.",
        "caution": CAUTION,
        "headings": HEADINGS,
        "rows": rows_of(comparison),
        "names": [one.name for one in recipes],
        "kinds": kinds_of(comparison),
        "recipes": [(one.name, one.recipe) for one in recipes],
        "galleries": [one for one in galleries if one["cards"]],
        "command": command,
    }
    return templates().get_template("comparison.html.j2").render(context)


def _measured(comparison: Comparison) -> list[Compared]:
    return [one for one in comparison.recipes if not one.refused]


def _of(one: Compared, some: np.ndarray) -> np.ndarray | None:
    return None if one.synthetic_flagged is None else one.synthetic_flagged[some]


def _share(flags: np.ndarray | None) -> str:
    return "-" if flags is None else percent(float(flags.mean()))


def _cards(
    images: ImageSet, flags: list[tuple[str, np.ndarray | None]], at: np.ndarray, masks: list[np.ndarray] | None = None
) -> list[dict[str, Any]]:
    """A picture each, with the names of the recipes that flag it and that do not."""
    cards = []
    for i in at.tolist():
        image = reduced(images.read(i), PICTURE)
        picture = as_picture(image)
        if masks is not None:
            whole = reduced(masks[i][..., None].astype(float), PICTURE)[..., 0] > 0.25
            edge = whole & ~np.asarray(binary_erosion(whole), dtype=bool)
            for y, x in np.argwhere(edge).tolist():
                picture.putpixel((x, y), OUTLINE)
        said = [(name, bool(values[i])) for name, values in flags if values is not None]
        cards.append({"id": str(images.ids[i]), "picture": data_uri(picture), "said": said})
    return cards
