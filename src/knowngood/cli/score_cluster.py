"""`knowngood score … --cluster`: workers of a Ray cluster score the images; the table is a folder of parts."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from knowngood.cli.console import note, say
from knowngood.cli.outputs import anomalous_of
from knowngood.config import counted
from knowngood.config.version import __version__
from knowngood.data.progress import track
from knowngood.errors import DataError, Interrupted, SettingsError

if TYPE_CHECKING:
    from knowngood.data import ImageSet
    from knowngood.deploy.ray_data import ScoredPart
    from knowngood.detector.estimator import Detector


def score_on_cluster(
    detector: Detector,
    images: ImageSet,
    model: Path,
    output: str,
    *,
    address: str,
    workers: int | None,
    threads: int,
    resume: bool,
    mark: str,
    alpha: float | None,
    unknown: Any,
) -> None:
    """Score the images and say what came of it.

    Raises:
        SettingsError: the output holds another run, or Ray is not there. DataError: none of the images can be scored.
    """
    from knowngood.data.content_digest import data_digest
    from knowngood.deploy.ray_data import Asked, part_size, score_parts
    from knowngood.deploy.scored_parts import DONE, ScoredParts
    from knowngood.detector.remarks import remarks_on
    from knowngood.detector.scoring import items_at_once

    pipeline, parts = detector.pipeline_, ScoredParts.at(output)
    detector.stream(images, unknown=unknown, alpha=alpha)  # refuses and warns before anything is sent
    size, device = part_size(items_at_once(pipeline), len(images)), pipeline.device.type
    run = {"knowngood": __version__, "device": device, "images": len(images), "data": data_digest(images)}
    run |= {"model": mark, "alpha": alpha, "unknown": unknown, "part": size, "threads": threads}
    there = parts.begin(run, resume)
    if there:
        note(f"{counted(len(there), 'part')} of {-(-len(images) // size):,} are scored already")
    asked = Asked(alpha, unknown, mark, threads, device)
    found, started = [], time.perf_counter()
    done = score_parts(
        model, images, parts, asked, size=size, there=there, address=address, workers=workers
    )  # fmt: skip
    try:
        left = len(images) - len(_rows(there, size, len(images)))
        found.extend(track(done, "scoring", left, size=lambda one: len(one.p_values)))
    except (KeyboardInterrupt, Interrupted):
        note(f"{counted(len(there) + len(found), 'part')} scored; the same command with --resume goes on")
        raise
    except SettingsError:  # of the cluster: a corrected command begins anew
        parts.withdraw()
        raise
    seconds = time.perf_counter() - started
    missing = set(range(0, len(images), size)) - parts.firsts()
    if missing:
        raise SettingsError(
            f"{output}: {counted(len(missing), 'part')} missing; the same command with --resume goes on"
        )
    aside = _set_aside(images, mark)
    if len(aside):
        parts.write_aside(aside)
    rows = np.concatenate([np.arange(one.first, one.first + len(one.p_values)) for one in found]) if found else []
    if len(rows):
        remarks_on(pipeline, images[rows], _decisions(found), alpha).warn()
    errors, flags = sum(one.errors for one in found), sum(one.flagged for one in found)
    counts = {"scored": len(rows) - errors, "flagged": flags, "unreadable": errors, "set aside": len(aside)}
    parts.write_json(DONE, {"items": len(images) + len(aside), "this run": counts})
    if len(rows) and errors == len(images):
        raise DataError(f"no image can be scored (of {len(images):,}); see the column error in {output}")
    rate = detector.alpha if alpha is None else alpha
    say(f"{anomalous_of(flags, counts['scored'])} at a false-alarm rate of {rate:g}" + " (this run)" * bool(there))
    if errors or len(aside):
        say(f"{errors + len(aside):,} more could not be scored: see the column error")
    if len(rows):
        note(f"{len(rows) / seconds:,.0f} images/s, the start of the workers included")
    say(f"table   {output}")


def _rows(firsts: set[int], size: int, n: int) -> list[int]:
    return [row for first in firsts for row in range(first, min(first + size, n))]


def _set_aside(images: ImageSet, mark: str) -> Any:
    """Rows of the files that were set aside when the images were opened."""
    import pandas as pd

    rejected = images.unusable
    names, reasons = [one.path_or_id for one in rejected], [one.reason for one in rejected]
    return pd.DataFrame({"id": names, "error": reasons, "scored_by": mark})


def _decisions(found: list[ScoredPart]) -> Any:
    """The decisions on all items of the parts, with what `remarks_on` needs of them."""
    from knowngood.data.conditions import Expanded
    from knowngood.detector.decide import Decisions

    p, stratum, known, group = (
        np.concatenate([np.asarray(getattr(one, name)) for one in found])
        for name in ("p_values", "stratum", "known", "group")
    )
    best = Expanded.kept(stratum, known)
    return Decisions(np.full(len(p), np.nan), p, {}, best, np.arange(len(p)), {}, group)
