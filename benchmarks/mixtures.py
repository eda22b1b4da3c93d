"""`python -m benchmarks mixtures`: one model of several groups of parts, with the groups as a condition or without.

Groups are inspection sets, also in a view (bottle@turned): products that have nothing in common, or the same part as
two cameras show it; `bottle+bottle` is one set in two halves, groups that do not differ. Of each as many normal images
as asked for, drawn by the seed, or all if there are fewer; all with the features of the product at 192 pixels, computed
once for each set. The model and score are the product's. "conditioned" knows the group, "pooled" does not, and "alone"
is a model a group.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from benchmarks.inspection_data import inspection_set
from benchmarks.paper_tables import spread_of
from benchmarks.protocols import Form, check_form
from benchmarks.runner import RESULTS, append, read_results
from benchmarks.tables import spread, write_csv
from knowngood.config import FeatureOptions, PatchDistance, PatchGaussianOptions, implementation
from knowngood.data import ImageSet
from knowngood.errors import DataError
from knowngood.metrics import roc_auc
from knowngood.models.patch_gaussian import PatchGaussian
from knowngood.scores.patch_distance import PatchDistanceScore
from knowngood.training import Source

MIXTURES = ("bottle+tile", "bottle+tile+x-ray", "bottle+bottle@turned+bottle@brighter", "bottle+bottle")
METHODS = ("conditioned", "pooled", "alone")
SIZE = 192
MOST_TRAINED, MOST_TESTED = 200, 70  # images of a group, and of each label
AT_ONCE = 32


class Group(NamedTuple):
    """Feature grids of one set: normal ones to fit to, and tested ones with their labels."""

    train: Tensor
    test: Tensor
    labels: np.ndarray


def main(
    mixtures: tuple[str, ...] = MIXTURES,
    counts: tuple[int, ...] = (10, 20, 50, 100, 200),
    seeds: tuple[int, ...] = (0, 1, 2),
    form: Form = "dev",
    out: Path = Path("out/benchmarks/mixtures"),
) -> list[dict[str, Any]]:
    """Image AUROC within each group, by mixture, images a group and method. Prints and returns the table."""
    check_form(form)
    out.mkdir(parents=True, exist_ok=True)
    done, groups, records = read_results(out / RESULTS), {}, []
    for mixture in mixtures:
        names = mixture.split("+")
        for n in counts:
            for seed in seeds:
                for method in METHODS:
                    key = f"{form} {mixture} {n} {seed} {method}"
                    if key not in done:
                        for name in names:
                            if name not in groups:
                                groups[name] = group_of(name, form)
                        found = measure(drawn(names, groups, n, seed), method)
                        heading = {"key": key, "mixture": mixture, "images": n, "seed": seed, "method": method}
                        done[key] = append(out / RESULTS, {**heading, **found})
                        print(f"{key}: {found}", file=sys.stderr)
                    records.append(done[key])
    table = summary(records)
    write_csv(out / "table.csv", table)
    print(markdown(table))
    return table


def group_of(name: str, form: Form) -> Group:
    """The features of a set, of at most 200 images to fit to and 70 of each label to test.

    Raises:
        DataError: the data are missing.
    """
    parts = inspection_set(name, form=form)
    if isinstance(parts, str):
        raise DataError(f"{name}: {parts}")
    options, rng = FeatureOptions(image_size=SIZE), np.random.default_rng(0)
    fitted = implementation(options).fit(parts.train[:1], options)

    def grids(images: ImageSet, kept: np.ndarray) -> Tensor:
        rows = [fitted.to_tensor(images[some]) for some in np.array_split(kept, max(1, len(kept) // AT_ONCE))]
        return torch.cat([torch.as_tensor(some).half() for some in rows])

    def some(at: np.ndarray, most: int) -> np.ndarray:
        return np.sort(rng.permutation(at)[:most])

    tested = np.concatenate([some(np.flatnonzero(parts.labels == label), MOST_TESTED) for label in (0, 1)])
    train = grids(parts.train, some(np.arange(len(parts.train)), MOST_TRAINED))
    return Group(train, grids(parts.test, tested), parts.labels[tested])


def drawn(names: Sequence[str], groups: dict[str, Group], n: int, seed: int) -> list[Group]:
    """n images of each group to fit to; a set that occurs twice gives both groups different ones."""
    rng, found = np.random.default_rng(seed), []
    orders = {name: rng.permutation(len(groups[name].train)) for name in dict.fromkeys(names)}
    for i, name in enumerate(names):
        own = orders[name][names[:i].count(name) :: names.count(name)]
        found.append(groups[name]._replace(train=groups[name].train[np.sort(own[:n])]))
    return found


def measure(groups: Sequence[Group], method: str) -> dict[str, Any]:
    """AUROC of the images of each group, their mean, and of all images together."""
    if method == "alone":
        scores = [one for group in groups for one in scored([group], conditioned=False)]
    else:
        scores = scored(groups, conditioned=method == "conditioned")
    each = [roc_auc(group.labels, values) for group, values in zip(groups, scores, strict=True)]
    together = roc_auc(np.concatenate([group.labels for group in groups]), np.concatenate(scores))
    return {"groups": each, "mean": float(np.mean(each)), "together": together}


@torch.no_grad()
def scored(groups: Sequence[Group], *, conditioned: bool) -> list[np.ndarray]:
    """Scores of the test images of each group, by one model of all."""
    x, keys = torch.cat([group.train for group in groups]), torch.eye(len(groups)) if conditioned else torch.zeros(1, 0)

    def conditions(of: Sequence[Tensor]) -> Tensor:
        at = torch.arange(len(of)).repeat_interleave(torch.tensor([len(some) for some in of]))
        return keys[at] if conditioned else torch.zeros(len(at), 0)

    model = PatchGaussian(PatchGaussianOptions(), x.shape[1:], keys.tolist(), [False] * keys.shape[1])
    source = Source(x, lambda grids: grids, c=conditions([group.train for group in groups]))
    model.fit(source)
    score = PatchDistanceScore(PatchDistance())
    state = score.fit(model, source.batches(torch.arange(len(x)).split(AT_ONCE)))
    test = torch.cat([group.test for group in groups])
    given = Source(test, c=conditions([group.test for group in groups]))
    values = [
        score.score(model, state, some.x, some.c, some.stratum).values
        for some in given.batches(torch.arange(len(test)).split(AT_ONCE))
    ]
    return [some.numpy() for some in torch.cat(values).split([len(group.test) for group in groups])]


def summary(records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row a mixture, number of images and method: mean and standard deviation over seeds."""
    rows: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for record in records:
        rows.setdefault((record["mixture"], record["images"], record["method"]), []).append(record)
    table = []
    for (mixture, n, method), some in rows.items():
        row: dict[str, Any] = {"mixture": mixture, "images": n, "method": method, "seeds": len(some)}
        for name in ("mean", "together"):
            row[name], row[f"{name}_sd"] = spread_of([record[name] for record in some])
        row["groups"] = [spread_of([record["groups"][i] for record in some])[0] for i in range(len(some[0]["groups"]))]
        table.append(row)
    return table


def markdown(table: Sequence[dict[str, Any]]) -> str:
    """The table in Markdown: a row a mixture and number of images."""
    columns = [f"{method}: mean (each group), together" for method in METHODS]
    lines = [f"| mixture | images a group | {' | '.join(columns)} |", "|---" * (2 + len(METHODS)) + "|"]
    for i in range(0, len(table), len(METHODS)):
        some = table[i : i + len(METHODS)]
        cells = []
        for row in some:
            each = ", ".join(f"{value:.3f}" for value in row["groups"])
            cells.append(
                f"{spread(row['mean'], row['mean_sd'])} ({each}), {spread(row['together'], row['together_sd'])}"
            )
        lines.append(f"| {some[0]['mixture']} | {some[0]['images']} | {' | '.join(cells)} |")
    return "\n".join(lines)
