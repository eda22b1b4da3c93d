"""A penalty learned from a few labelled anomalies: added where cross-validation improves AUROC, and harmless."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from knowngood import Detector
from knowngood.data import TableSet
from knowngood.data.progress import reporting
from knowngood.detector.fit.few_labels import learn_penalty
from knowngood.detector.fit.penalty_choice import (
    Choice,
    Evidence,
    centres,
    choose,
    gain,
    harm,
    logistic,
    shares_below,
)
from knowngood.detector.scoring import score_batches
from knowngood.metrics import roc_auc
from knowngood.scores.adjustment import bounded, moments


def auroc(anomalous: np.ndarray, normal: np.ndarray) -> float:
    return roc_auc(np.r_[np.ones(len(anomalous)), np.zeros(len(normal))], np.r_[anomalous, normal])


# Gain and harm ------------------------------------------------------------------------------------------------------

Pair = tuple[np.ndarray, np.ndarray]


def draws(seed: int = 0) -> tuple[Pair, Pair]:
    """Scores of anomalies and normal items before and after, with ties; those of normal items only rise."""
    rng = np.random.default_rng(seed)
    anomalous, normal = rng.integers(0, 9, 30) + 1.0, rng.integers(0, 9, 40) + 0.0
    rise = [rng.integers(0, 5, n) * (rng.random(n) < 0.2) for n in (30, 40)]
    return (anomalous, normal), (anomalous + 2 * rise[0], normal + rise[1])


def test_shares_below_are_the_auroc() -> None:
    anomalous, normal = draws()[0]
    assert shares_below(anomalous, normal).mean() == pytest.approx(auroc(anomalous, normal))


def test_the_gain_is_the_difference_of_aurocs() -> None:
    before, after = draws()
    assert gain(before, after)[0] == pytest.approx(auroc(*after) - auroc(*before))
    assert gain(before, before) == (0.0, 0.0)


@pytest.mark.slow
def test_the_error_of_a_gain_is_that_of_resampled_items() -> None:
    before, after = draws()
    rng = np.random.default_rng(1)
    gains = []
    for _ in range(2000):
        rows = [rng.integers(0, len(some), len(some)) for some in before]
        aurocs = [shares_below(pair[0][rows[0]], pair[1][rows[1]]).mean() for pair in (before, after)]
        gains.append(aurocs[1] - aurocs[0])
    assert gain(before, after)[1] == pytest.approx(np.std(gains), rel=0.1)


@pytest.mark.parametrize("seed", range(5))
def test_harm_is_the_most_that_an_anomaly_of_any_score_loses(seed: int) -> None:
    before, after = (pair[1] for pair in draws(seed))
    anywhere = np.arange(-1, 15, 0.25)
    lost = shares_below(anywhere, before) - shares_below(anywhere, after)
    assert harm(before, after) == pytest.approx(lost.max(), abs=1e-12)
    assert harm(before, before) == 0


def test_centres_are_medians_of_large_groups_and_of_all_for_small_ones() -> None:
    scores, group = np.arange(30.0), np.repeat([0, 1], [25, 5])
    assert centres(scores, group, 3).tolist() == [12.0, 14.5, 14.5, 14.5]


# The direction ------------------------------------------------------------------------------------------------------


def several(seed: int = 0) -> Evidence:
    """30 normal items of 2 vectors each, and 6 labelled anomalies of 1 to 6."""
    rng = np.random.default_rng(seed)
    item = np.r_[np.repeat(np.arange(30), 2), np.repeat(np.arange(30, 36), np.arange(1, 7))]
    label = np.repeat([0, 1], [30, 6])
    vectors = rng.normal(size=(len(item), 5)) + label[item][:, None] * np.linspace(0, 1, 5)
    return evidence_of(vectors, label, np.zeros(36), item)


def evidence_of(vectors: np.ndarray, label: np.ndarray, base: np.ndarray, item: np.ndarray | None = None) -> Evidence:
    """Items with one location each, and these scores without a penalty."""
    return Evidence(
        vectors=vectors,
        item=np.arange(len(vectors)) if item is None else item,
        label=label,
        compared=np.ones(len(label), dtype=bool),
        centre=np.zeros(len(label)),
        spread=float(base[label == 0].std()),
        projected=lambda direction, at: (vectors[at] @ direction)[:, None],
        scores=lambda added, at: base[at] + added[:, 0],
    )


def weights_of(evidence: Evidence) -> np.ndarray:
    """Half for each label, the same for each of its items, shared by the item's vectors."""
    of = evidence.label[evidence.item]
    counts = np.bincount(evidence.item)[evidence.item]
    return 0.5 / (np.bincount(evidence.label)[of] * counts)


@pytest.mark.parametrize("ridge", [0.01, 1.0])
def test_the_direction_is_the_minimum_of_the_weighted_loss(ridge: float) -> None:
    evidence = several()
    direction, intercept = logistic(evidence, np.arange(36), ridge)
    x, sign = torch.from_numpy(evidence.vectors), torch.from_numpy(2.0 * evidence.label[evidence.item] - 1)
    d = torch.tensor(direction, requires_grad=True)
    loss = (torch.from_numpy(weights_of(evidence)) * torch.log1p(torch.exp(-sign * (x @ d + intercept)))).sum()
    (gradient,) = torch.autograd.grad(loss + ridge / 2 * d.square().sum(), d)
    assert float(gradient.norm()) < 1e-5


def test_under_a_strong_ridge_it_is_the_difference_of_weighted_means() -> None:
    evidence = several()
    direction, _ = logistic(evidence, np.arange(36), 1e3)
    difference = (weights_of(evidence) * (2 * evidence.label[evidence.item] - 1)) @ evidence.vectors
    np.testing.assert_allclose(1e3 * direction, difference / 2, rtol=0.01, atol=1e-3)


def test_without_a_vector_of_a_labelled_anomaly_there_is_no_direction() -> None:
    direction, intercept = logistic(several(), np.arange(30), 0.1)
    assert not direction.any()
    assert intercept == 0


def test_held_out_items_have_no_part_in_the_direction() -> None:
    evidence = several()
    items = np.setdiff1d(np.arange(36), [3, 31])
    changed = evidence.vectors.copy()
    changed[np.isin(evidence.item, [3, 31])] = 99.0
    same = logistic(replace(evidence, vectors=changed), items, 0.1)
    before = logistic(evidence, items, 0.1)
    assert np.array_equal(same[0], before[0])
    assert same[1] == before[1]


# The choice ---------------------------------------------------------------------------------------------------------


def table(n: int, seed: int, shift: float = 0.0) -> np.ndarray:
    """(n, 6) correlated normal numbers; with a shift, moved along a line in the first two columns."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 6)) @ np.linalg.cholesky(0.5 * np.eye(6) + 0.5).T
    x[:, :2] += shift * np.array([1.0, -1.0])
    return x


def coded(normal: np.ndarray, anomalous: np.ndarray) -> tuple[np.ndarray, Any]:
    """Bounded codes standardised by the normal items, and the way there for others."""
    mean, std = moments(torch.from_numpy(normal))
    code = lambda x: bounded((torch.from_numpy(x) - mean) / std).numpy()  # noqa: E731
    return code(np.concatenate([normal, anomalous])), code


def tabular(anomalous: np.ndarray, n: int = 200, scale: float | np.ndarray = 1.0) -> tuple[Evidence, Any]:
    """Scored by the size of the last column, which says nothing of these anomalies."""
    normal = table(n, 10)
    base = np.abs(np.concatenate([normal, anomalous])[:, -1])
    vectors, code = coded(normal * scale, anomalous * scale)
    return evidence_of(vectors, np.repeat([0, 1], [n, len(anomalous)]), base), code


def penalty(choice: Choice, vectors: np.ndarray) -> np.ndarray:
    return choice.weight * (vectors @ choice.direction - choice.offset).clip(0)


@pytest.mark.slow
def test_separable_anomalies_are_found_and_normal_items_stay() -> None:
    evidence, code = tabular(table(12, 1, 2.0))
    choice = choose(evidence, 0)
    assert choice.weight > 0
    assert choice.auroc[1] - choice.auroc[0] > 0.15
    normal, anomalous = table(1000, 2), table(300, 3, 2.0)
    added = [penalty(choice, code(x)) for x in (normal, anomalous)]
    assert (added[0] == 0).mean() >= 0.97
    assert (penalty(choice, evidence.vectors[:200]) == 0).mean() >= 0.99
    before, after = (
        [np.abs(x[:, -1]) + k * a for x, a in zip((anomalous, normal), added[::-1], strict=True)] for k in (0, 1)
    )
    assert auroc(*after) - auroc(*before) > 0.15
    assert harm(before[1], after[1]) <= 0.02


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
def test_normal_items_labelled_anomalous_change_nothing(seed: int) -> None:
    choice = choose(tabular(table(12, 60 + seed))[0], seed)
    assert choice.weight == 0
    assert choice.auroc[0] == choice.auroc[1]
    assert not choice.direction.any()


def test_anomalies_that_the_score_finds_need_no_penalty() -> None:
    evidence, _ = tabular(table(12, 1, 2.0))
    base = np.where(evidence.label == 1, 100.0, np.arange(212.0) / 212)
    choice = choose(replace(evidence, scores=lambda added, at: base[at] + added[:, 0]), 0)
    assert choice.weight == 0
    assert choice.auroc == (1.0, 1.0)


def test_a_penalty_on_many_normal_items_is_not_taken() -> None:
    evidence, _ = tabular(table(12, 1, 2.0))
    lost = lambda added, at: evidence.scores(added, at) + 5 * (evidence.label[at] == 0) * (added.max() > 0)  # noqa: E731
    assert choose(replace(evidence, scores=lost), 0).weight == 0


@pytest.mark.slow
def test_the_choice_is_deterministic() -> None:
    one, same = (choose(tabular(table(12, 1, 2.0))[0], 3) for _ in range(2))
    assert np.array_equal(one.direction, same.direction)
    assert one[2:] == same[2:]
    assert one.weight == same.weight


@pytest.mark.slow
def test_the_choice_does_not_depend_on_the_units_of_columns() -> None:
    plain, _ = tabular(table(12, 1, 2.0))
    scale = np.array([1e3, 0.5, 7.0, 1e3, 2.0, 1.0])
    one, other = choose(plain, 0), choose(tabular(table(12, 1, 2.0), scale=1e3)[0], 0)
    np.testing.assert_allclose(one.direction, other.direction, rtol=1e-4, atol=1e-6)
    assert one.auroc == pytest.approx(other.auroc)
    unequal = choose(tabular(table(12, 1, 2.0), scale=scale / scale.mean())[0], 0)
    assert unequal.weight > 0


@pytest.mark.slow
def test_a_shift_of_all_scores_of_a_group_does_not_count() -> None:
    evidence, _ = tabular(table(12, 1, 2.0))
    offset = 50.0 * (np.arange(212) % 2)
    moved = replace(evidence, centre=offset, scores=lambda added, at: evidence.scores(added, at) + offset[at])
    one, other = choose(evidence, 0), choose(moved, 0)
    assert one.auroc == pytest.approx(other.auroc)
    np.testing.assert_array_equal(one.direction, other.direction)


@pytest.mark.slow
def test_an_ignored_location_adds_nothing() -> None:
    evidence, _ = tabular(table(12, 1, 2.0))
    two = lambda direction, at: np.pad(evidence.projected(direction, at), ((0, 0), (0, 1)), constant_values=-np.inf)  # noqa: E731
    sizes = []

    def scores(added: np.ndarray, at: np.ndarray) -> np.ndarray:
        sizes.append(float(added[:, 1].max()))
        return evidence.scores(added, at)

    choice = choose(replace(evidence, projected=two, scores=scores), 0)
    np.testing.assert_array_equal(choice.direction, choose(evidence, 0).direction)
    assert max(sizes) == 0


# Whole items --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fitted_table() -> tuple[Detector, TableSet]:
    normals = table(200, 10)
    quick: dict[str, Any] = {"model": {"name": "vae", "latent_dim": 2}, "training": {"epochs": 2}, "device": "cpu"}
    return Detector("table", labels="ignore", **quick).fit(normals), TableSet.from_array(normals)


def raw(pipeline: Any, items: Any) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Scores (N,) and their parts."""
    batches = list(score_batches(pipeline, items))
    columns = {name: np.concatenate([batch.parts[name] for batch in batches]) for name in batches[0].parts}
    return np.concatenate([batch.values for batch in batches]), columns


@pytest.mark.slow
def test_a_pipeline_gets_a_penalty_that_finds_others_of_the_kind(fitted_table: tuple[Detector, TableSet]) -> None:
    plain, normals = fitted_table[0].pipeline_, fitted_table[1]
    pipeline, report = learn_penalty(plain, normals, TableSet.from_array(table(12, 1, 2.0)), 0)
    assert report["weight"] > 0
    assert (report["given"], report["used"], report["left_out"]) == (12, 12, {})
    before, after = (f"{v:.3f}".removeprefix("0") for v in report["auroc"])
    assert report["sentence"] == (
        f"A penalty learned from 12 labelled anomalies is added with weight {report['weight']:g}: in cross-validation "
        f"AUROC rises from {before} to {after}."
    )
    judged = TableSet.from_array(np.concatenate([table(500, 5), table(200, 6, 2.0)]))
    (old, _), (new, parts) = raw(plain, judged), raw(pipeline, judged)
    np.testing.assert_allclose(new, old + parts["label_penalty"])
    assert (parts["label_penalty"][:500] > 0).mean() < 0.04
    assert auroc(new[500:], new[:500]) > auroc(old[500:], old[:500]) + 0.05


@pytest.mark.slow
def test_how_far_it_is_is_shown(
    fitted_table: tuple[Detector, TableSet], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for seconds in ("AFTER", "FIRST", "EVERY"):
        monkeypatch.setattr(f"knowngood.data.progress.{seconds}", 0.0)
    detector, normals = fitted_table
    with reporting():
        learn_penalty(detector.pipeline_, normals, TableSet.from_array(table(12, 1, 2.0)), 0)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(",")[0] for line in lines if line.startswith("learning from labelled anomalies")] == [
        f"learning from labelled anomalies: {n} of 15 fits" for n in range(1, 15)
    ]


def test_without_a_gain_the_pipeline_is_the_same_object(fitted_table: tuple[Detector, TableSet]) -> None:
    plain, normals = fitted_table[0].pipeline_, fitted_table[1]
    for anomalies, reason in (
        (table(12, 60), "12 are used, and no penalty improves their AUROC"),
        (table(2, 1, 2.0), "2 of 2 can be used, and at least 3 are needed"),
        (table(0, 1), "0 of 0 can be used, and at least 3 are needed"),
    ):
        pipeline, report = learn_penalty(plain, normals, TableSet.from_array(anomalies), 0)
        assert pipeline is plain
        assert report["weight"] == 0
        assert reason in report["sentence"]
    few = learn_penalty(plain, normals[np.arange(20)], TableSet.from_array(table(12, 1, 2.0)), 0)[1]
    assert "there are 20 normal items, and at least 30 are needed" in few["sentence"]


@pytest.mark.slow
def test_scores_of_models_without_the_item_take_the_place_of_the_pipelines_own(
    fitted_table: tuple[Detector, TableSet],
) -> None:
    plain, normals = fitted_table[0].pipeline_, fitted_table[1]
    odd = TableSet.from_array(table(12, 1, 2.0))
    high = learn_penalty(plain, normals, odd, 0, scores=np.full(200, 1e3) + np.arange(200))[1]
    assert high["auroc"][0] == 0
    apart = np.arange(200) < 100
    scores = np.where(apart, raw(plain, normals)[0], 1e6)
    assert learn_penalty(plain, normals, odd, 0, held_out=apart, scores=scores)[1]["auroc"][0] > 0.1


@pytest.mark.slow
def test_unknown_conditions_are_inferred_or_named() -> None:
    kinds = np.where(np.arange(200) % 2 == 0, "a", "b")
    rows, odd = table(200, 0), table(12, 1, 2.0)
    new = np.array(["a", "b", "new"] * 4)
    for roles, used in ((("infer", "model"), 12), (("model",), 8)):
        made = Detector(
            "table",
            {"name": "vae", "latent_dim": 2, "objective": "cvae"},
            labels="ignore",
            conditioning={"roles": {"kind": roles}, "unknown": "infer" if used == 12 else "error"},
            training={"epochs": 2},
        ).fit(rows, conditions={"kind": kinds})
        normals = TableSet.from_array(rows).annotate(None, {"kind": kinds})
        report = learn_penalty(made.pipeline_, normals, TableSet.from_array(odd).annotate(None, {"kind": new}), 0)[1]
        assert report["used"] == used
        assert len(report["left_out"]) == 12 - used
        assert set(report["left_out"].values()) <= {"one of its conditions is unknown or new"}
