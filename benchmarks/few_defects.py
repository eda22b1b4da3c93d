"""`python -m benchmarks few-defects`: what one, two or five known defects of a kind do for others of the kind.

On the dev form of an inspection set. The features recipe is fitted to normal training images, and once more without
each fold of them. Some defects of one kind, with their masks, are learned from; other defects of that kind, those of
all other kinds and the normal test images are judged by the same p-values as in the product, cross-conformal with what
was learned in place in every fold. Likenesses are computed once for all defects, so that a draw costs only the pooling.
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from benchmarks.false_alarms import NONE, RECIPE, all_features
from benchmarks.inspection_data import inspection_set
from benchmarks.inspection_parts import InspectionSet
from benchmarks.settings import merged
from benchmarks.tables import write_csv
from knowngood.calibration import folds
from knowngood.config import Settings, parse_settings
from knowngood.data import ImageSet
from knowngood.detector.fit.auto import resolve
from knowngood.detector.fit.cached import CachedFeatures
from knowngood.detector.fit.known_defects import learn_defects
from knowngood.detector.fit.learn import learn
from knowngood.detector.fit.plan import Plan, make_plan
from knowngood.detector.pipeline import Pipeline
from knowngood.metrics import roc_auc
from knowngood.models.patch_gaussian import PatchGaussian
from knowngood.scores.known_defects import likeness

Row = dict[str, Any]
A_KIND = 12  # defects, at most
JUDGED = 100  # normal images, at most
AT_ONCE = 16  # images
MEASURES = ("auroc", "detected", "others", "false_alarms")


class Seen(NamedTuple):
    """N images by one model: distances (N, h, w) and, of whole images, (N, M); likeness to all defects (N, P, D)."""

    pipeline: Pipeline
    maps: Tensor
    whole: Tensor
    likeness: Tensor
    column: np.ndarray  # of each defect in what was learned; -1 if it was left out

    def scores(self, defects: np.ndarray) -> np.ndarray:
        """(N,) once the model has learned from these defects."""
        state, added = self.pipeline.state, None
        defects = self.column[defects]
        if (defects >= 0).any():
            at = torch.from_numpy(defects[defects >= 0])
            above = self.likeness[:, :, at].float().amax(2) - state["defect_reached"][at].max()
            added = (state["defect_weight"] * above.clamp_min(0)).unflatten(1, self.maps.shape[1:])
        known, one = Known(self.pipeline.model, self.whole), torch.zeros(len(self.maps), dtype=torch.int64)
        score: Any = self.pipeline.score
        return score.judged(known, state, self.maps, one, self.maps, added)[0].numpy()


class Known(PatchGaussian):
    """A fitted model of which the distances of whole images are known."""

    def __init__(self, fitted: Any, whole: Tensor) -> None:
        nn.Module.__init__(self)
        self.__dict__.update(fitted.__dict__)
        self.whole: Any = whole

    def image_distances(self, x: Tensor, cell: Tensor, *, leave_one_out: bool = False) -> Tensor:
        return self.whole


@dataclass(frozen=True)
class Subject:
    """Judged images as the model of all normal images sees them, and normal images by the models without their fold."""

    judged: Seen
    calibrating: list[Seen]
    defects: np.ndarray  # (D,) positions among those judged
    kinds: np.ndarray  # (D,)
    normal: np.ndarray  # positions

    @property
    def names(self) -> list[str]:
        """The kinds of defects."""
        return list(dict.fromkeys(self.kinds.tolist()))

    def decisions(self, labelled: np.ndarray, alpha: float) -> tuple[np.ndarray, np.ndarray]:
        """Scores (M,) and verdicts (M,), at α, once the defects `labelled` are learned from."""
        scores = self.judged.scores(labelled)
        known = np.sort(np.concatenate([some.scores(labelled) for some in self.calibrating]))
        p = (1 + len(known) - np.searchsorted(known, scores)) / (1 + len(known))
        return scores, p <= alpha


def main(
    sets: tuple[str, ...] = ("bottle", "tile"),
    labelled: tuple[int, ...] = (1, 2, 5),
    draws: int = 3,
    normals: int = 150,
    seed: int = 0,
    out: Path = Path("out/benchmarks/few-defects"),
) -> list[Row]:
    """AUROC, detections and false alarms without and with known defects, means over kinds and draws. Prints tables.

    Args:
        sets: bottle, tile, or any other set with masks that `inspection` takes.
        labelled: numbers of defects of one kind that are learned from.
        draws: random choices of these, for each kind.
        normals: images to fit to, at most, evenly spaced.
        seed: of the dev form.
    """
    settings, rows = parse_settings(merged(RECIPE, {})), []
    for name in sets:
        parts = inspection_set(name, form="dev", seed=seed)
        if isinstance(parts, str):
            print(f"{name}: {parts}", file=sys.stderr)
            continue
        subject = prepared(parts, settings, normals)
        plain = subject.decisions(NONE, settings.alpha)
        for count in labelled:
            for kind in (kind for kind in subject.names if (subject.kinds == kind).sum() > count):
                for draw in range(draws):
                    heading = {"set": name, "kind": kind, "labelled": count, "draw": draw}
                    rows.append(heading | compared(subject, plain, kind, count, draw, settings.alpha))
    out.mkdir(parents=True, exist_ok=True)
    write_csv(out / "draws.csv", rows)
    print(markdown(rows, ("set", "labelled")))
    print()
    print(markdown([row for row in rows if row["labelled"] == max(labelled)], ("set", "kind", "labelled")))
    return rows


def compared(
    subject: Subject, plain: tuple[np.ndarray, np.ndarray], kind: str, count: int, draw: int, alpha: float
) -> Row:
    """One draw: AUROC and share detected of others of the kind, AUROC of the other kinds, false alarms; both ways.

    Returns:
        Each measure as (before, after); `others_worst`, the largest loss of AUROC among the other kinds.
    """
    own = np.flatnonzero(subject.kinds == kind)
    labelled = np.sort(np.random.default_rng([draw, count]).permutation(own)[:count])
    like, good = subject.defects[np.setdiff1d(own, labelled)], subject.normal
    both, others = [], []
    for scores, flagged in (plain, subject.decisions(labelled, alpha)):
        others.append([auroc(scores, good, subject.defects[subject.kinds == k]) for k in subject.names if k != kind])
        both.append((auroc(scores, good, like), flagged[like].mean(), np.mean(others[-1]), flagged[good].mean()))
    found = {name: tuple(map(float, pair)) for name, pair in zip(MEASURES, zip(*both, strict=True), strict=True)}
    return found | {"others_worst": float(np.subtract(*others[::-1]).min())}


def auroc(scores: np.ndarray, good: np.ndarray, bad: np.ndarray) -> float:
    """Of the images at these positions."""
    return roc_auc(np.repeat([0, 1], [len(good), len(bad)]), scores[np.concatenate([good, bad])])


def prepared(parts: InspectionSet, settings: Settings, most: int) -> Subject:
    """Fit to at most so many normal images, and to those without each fold; each model learns from all defects."""
    kinds, n = parts.classes.astype(str), min(most, len(parts.train))
    normals = parts.train[np.linspace(0, len(parts.train) - 1, n).astype(int)]
    bad = [np.flatnonzero((parts.labels == 1) & (kinds == kind))[:A_KIND] for kind in dict.fromkeys(kinds)]
    defects, normal = np.sort(np.concatenate(bad)), np.flatnonzero(parts.labels == 0)[:JUDGED]
    at = np.concatenate([normal, defects])
    features = all_features(normals, settings, parts.test[at])
    resolved, _ = resolve(settings, normals)
    plan = make_plan(normals, normals[NONE], resolved, 0)
    every = plan.split["fit"]
    parted = folds(len(every), np.zeros(len(every), np.int64), resolved.calibration.folds, 0)
    with tempfile.TemporaryDirectory() as folder:
        marked = with_masks(parts, defects, Path(folder))
        judged = seen(plan, every, features, marked, features.of_items(parts.test[at]))
        apart = [
            seen(plan, np.setdiff1d(every, every[part]), features, marked, features.of_items(normals[every[part]]))
            for part in parted
        ]
    return Subject(judged, apart, len(normal) + np.arange(len(defects)), kinds[defects], np.arange(len(normal)))


def with_masks(parts: InspectionSet, at: np.ndarray, folder: Path) -> ImageSet:
    """The defects, their masks written to files."""
    paths = [folder / f"{i}.png" for i in at]
    for i, path in zip(at, paths, strict=True):
        Image.fromarray(np.asarray(parts.masks[i], dtype=np.uint8) * 255).save(path)
    return parts.test[at].replace(masks=tuple((path,) for path in paths))


@torch.no_grad()
def seen(plan: Plan, fitted: np.ndarray, features: CachedFeatures, defects: ImageSet, grids: np.ndarray) -> Seen:
    """Feature grids (N, F, h, w) by a model of the normal images `fitted` that has learned from all defects."""
    pipeline = learn(plan, fitted, NONE, features).pipeline
    normals = plan.normals[fitted]
    assert isinstance(normals, ImageSet)
    pipeline, report = learn_defects(pipeline, normals, defects, features.of_items(normals), plan.seed)
    learned = ~np.isin(defects.ids, list(report["left_out"]))
    column = np.where(learned, np.cumsum(learned) - 1, -1)
    model, found = pipeline.model, []
    assert isinstance(model, PatchGaussian)
    for first in range(0, len(grids), AT_ONCE):
        x = torch.from_numpy(grids[first : first + AT_ONCE]).float()
        cell = model.cell(None, len(x))
        like = likeness(model.whiten(x, cell), pipeline.state).half()
        found.append((model.distances(x, cell), model.image_distances(x, cell), like))
    print(f"model of {len(fitted)} images, {report['used']} of {len(defects)} defects learned from", file=sys.stderr)
    maps, whole, like = (torch.cat(some) for some in zip(*found, strict=True))
    return Seen(pipeline, maps, whole, like, column)


def markdown(rows: list[Row], by: tuple[str, ...]) -> str:
    """A table of means, before → after, over the rows that agree in the columns `by`."""
    lines = [
        f"| {' | '.join(by)} | AUROC of the kind | detected | AUROC of other kinds | worst of them | false alarms |",
        "|---" * (len(by) + 5) + "|",
    ]
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[name] for name in by), []).append(row)
    for key, some in groups.items():
        pairs = [np.mean([row[name] for row in some], axis=0) for name in MEASURES]
        auroc, detected, others, alarms = (f"{before:.3f} → {after:.3f}" for before, after in pairs)
        worst = min(row["others_worst"] for row in some)
        lines.append(f"| {' | '.join(map(str, key))} | {auroc} | {detected} | {others} | {worst:+.3f} | {alarms} |")
    return "\n".join(lines)
