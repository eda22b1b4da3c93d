"""A few labelled anomalies teach the score of whole images and tables: where that helps, and to nobody's harm."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor

from knowngood import Detector
from knowngood.cli import main
from knowngood.config import Elbo, parse_settings
from knowngood.data import ImageSet, TableSet
from knowngood.detector.fit import teaching
from knowngood.detector.fit.discriminant import found_among, gain, harm
from knowngood.detector.fit.learn import learn
from knowngood.detector.fit.plan import Plan, plan
from knowngood.detector.fit.teaching import teach, usable
from knowngood.detector.fit.teaching_trial import Offset, Pair, Trial
from knowngood.detector.pipeline import Pipeline
from knowngood.metrics import roc_auc
from knowngood.representations.gradients import oriented_gradients
from knowngood.scores.base import Score, ScoreResult
from knowngood.scores.marginal import soft
from knowngood.scores.taught import TaughtScore, described, taught_state, usual, with_taught
from score_models import IMAGE, TABLE, batches, items, small_model

QUICK: dict[str, Any] = {"device": "cpu", "precision": "float32", "select_fraction": 0.3, "alpha": 0.1}


# How sure a gain is, and whom it may harm -----------------------------------------------------------------------------


def draws(seed: int = 0) -> tuple[Pair, Pair]:
    """Scores before and after, with ties; the good ones only rise."""
    rng = np.random.default_rng(seed)
    odd, good = (torch.from_numpy(rng.integers(0, 9, n) + float(shift)) for n, shift in ((30, 1), (40, 0)))
    rise = [torch.from_numpy(rng.integers(0, 5, len(some)) * (rng.random(len(some)) < 0.2)) for some in (odd, good)]
    return Pair(odd, good), Pair(odd + 2 * rise[0], good + rise[1])


def auroc(pair: Pair) -> float:
    labels = np.r_[np.ones(len(pair.odd)), np.zeros(len(pair.good))]
    return roc_auc(labels, torch.cat(pair).numpy())


def test_the_gain_is_the_difference_of_aurocs() -> None:
    before, after = draws()
    assert gain(before, after)[0] == pytest.approx(auroc(after) - auroc(before))
    assert gain(before, before) == (0.0, 0.0)


def test_the_error_of_a_gain_is_that_of_items_drawn_again() -> None:
    before, after = draws()
    rng = np.random.default_rng(1)
    found = []
    for _ in range(2000):
        rows = [torch.from_numpy(rng.integers(0, len(some), len(some))) for some in before]
        drawn = [found_among(pair.odd[rows[0]], pair.good[rows[1]]).mean() for pair in (before, after)]
        found.append(float(drawn[1] - drawn[0]))
    assert gain(before, after)[1] == pytest.approx(np.std(found), rel=0.1)


@pytest.mark.parametrize("seed", range(5))
def test_harm_is_the_most_that_an_anomaly_of_any_score_loses(seed: int) -> None:
    before, after = (pair.good for pair in draws(seed))
    anywhere = torch.arange(-1, 15, 0.25).double()
    lost = found_among(anywhere, before) - found_among(anywhere, after)
    assert harm(before, after) == pytest.approx(float(lost.max()), abs=1e-12)
    assert harm(before, before) == 0


# The score ------------------------------------------------------------------------------------------------------------


class Plain(Score):
    """A score with a map, a part and a state."""

    has_map = is_likelihood = True

    def score(self, model: Any, state: Any, x: Tensor, c: Any, stratum: Tensor, *, want_map: bool = False) -> Any:
        values = (x.flatten(1).double().sum(1) + (0 if c is None else c.double() @ torch.arange(3).double())) * state[
            "s"
        ]
        return ScoreResult(values, x.sum(1).double() if want_map else None, {"own": values})


def taught(shape: tuple[int, ...], offset: float = 0.1) -> tuple[TaughtScore, dict[str, Tensor], dict[str, Tensor]]:
    """A taught score, its state, and that of the score without."""
    model = small_model(shape)
    v = described(model, items(40, shape, seed=3)[0])
    direction = torch.randn(v.shape[1], generator=torch.Generator().manual_seed(0)).double()
    own = {"s": torch.tensor(2.0)}
    return TaughtScore(Plain(Elbo())), own | taught_state(usual(v), direction, offset, 1.5), own


@pytest.mark.parametrize("shape", [IMAGE, TABLE, (1, 5, 5)])
def test_it_adds_by_hand_and_never_takes_away(shape: tuple[int, ...]) -> None:
    score, state, own = taught(shape)
    model, (x, c, stratum) = small_model(shape), items(30, shape)
    found = score.score(model, state, x, c, stratum, want_map=len(shape) == 3)
    inner = score.inner.score(model, own, x, c, stratum, want_map=len(shape) == 3)
    v = oriented_gradients(x).double() if shape == IMAGE else x.flatten(1).double()
    z = (v - state["taught_mean"]) / state["taught_std"]
    b = z / (1 + z.square().mean(1, keepdim=True)).sqrt()
    term = 1.5 * (b @ state["taught_direction"] - 0.1).clamp_min(0)
    torch.testing.assert_close(found.values, inner.values + term)
    torch.testing.assert_close(found.parts["labelled"], term)
    assert torch.equal(found.parts["own"], inner.values)
    assert 5 < int((term > 0).sum()) < 25
    assert (found.values >= inner.values).all()
    if found.map is not None:
        assert inner.map is not None
        assert torch.equal(found.map, inner.map)


def test_beyond_every_item_it_is_the_score_itself() -> None:
    score, state, own = taught(IMAGE, offset=1e9)
    model, some = small_model(), items(9)
    assert torch.equal(score.score(model, state, *some).values, score.inner.score(model, own, *some).values)


def test_conditions_are_summed_out_as_of_the_score_itself() -> None:
    score, state, own = taught(IMAGE)
    model, (x, _, stratum) = small_model(), items(6)
    assert score.is_likelihood
    rows, c = x.repeat_interleave(3, 0), torch.eye(3).repeat(6, 1)
    item, weight = np.repeat(np.arange(6), 3), np.log(np.tile([0.5, 0.3, 0.2], 6))
    of = stratum.repeat_interleave(3)
    found, inner = (s.score(model, state, rows, c, of).values.numpy() for s in (score, score.inner))
    term = score.score(model, state, x, None, stratum).parts["labelled"].numpy()
    np.testing.assert_allclose(soft(found, item, weight), soft(inner, item, weight) + term, rtol=1e-9)
    assert term.max() > 0.5
    assert own["s"] == state["s"]


def test_it_is_fitted_and_settled_as_the_score_within() -> None:
    wrapped, plain = TaughtScore(Elbo().build()), Elbo().build()
    model = small_model()
    assert wrapped.fit(model, batches(40)).keys() == plain.fit(model, batches(40)).keys()
    assert with_taught(plain, {}) is plain
    assert isinstance(with_taught(plain, taught(IMAGE)[1]), TaughtScore)


def test_a_code_that_hardly_varies_does_not_count_without_end() -> None:
    v = torch.randn(50, 4, generator=torch.Generator().manual_seed(0)).double() * torch.tensor([1.0, 1, 1, 0])
    mean, std = usual(v)
    torch.testing.assert_close(std[:3], v[:, :3].std(0, correction=0))
    assert float(std[3]) == pytest.approx(0.1 * float(v.std(0, correction=0).mean()))
    assert float(usual(torch.ones(3, 2).double())[1].min()) > 0
    assert float(mean[3]) == 0


# The trial ------------------------------------------------------------------------------------------------------------


def table(n: int, seed: int, shift: float = 0.0) -> np.ndarray:
    """(n, 6) correlated normals; with a shift, moved along one line by more than some."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 6)) @ np.linalg.cholesky(0.5 * np.eye(6) + 0.5).T
    x[:, :2] += shift * np.array([1.0, -1.0])
    return x


class Last(Score):
    """The size of the last value of a table, which tells nothing of anomalies."""

    def score(self, model: Any, state: Any, x: Tensor, c: Any, stratum: Tensor, *, want_map: bool = False) -> Any:
        return ScoreResult(x[:, -1].double().abs(), None, {})


def ready(n: int = 200) -> tuple[Pipeline, Plan]:
    """An untrained pipeline on a table."""
    chosen = parse_settings({"objective": "vae", **QUICK})
    made = plan(TableSet.from_array(table(n, 0)), chosen, 0)
    return Pipeline(chosen, made.schema, made.representation, made.model.eval(), Last(Elbo())), made


def told_of(odd: np.ndarray, n: int = 200, seed: int = 0) -> tuple[Pipeline, dict[str, Any]]:
    pipeline, made = ready(n)
    told = teach(pipeline, replace(made, labelled=TableSet.from_array(odd)), seed)
    assert told is not None
    return pipeline, told


def made_trial(odd: np.ndarray) -> Trial:
    return Trial.of(*ready(), TableSet.from_array(odd), np.random.default_rng(0))


def test_what_is_judged_has_no_part_in_what_it_is_judged_by() -> None:
    trial = made_trial(table(20, 1, 2.0))
    before = trial.line(0.1, 2)
    odd, good = (codes.clone() for codes in (trial.odd, trial.good))
    odd[trial.odd_fold == 2], good[trial.good_fold == 2] = 99.0, -99.0
    changed = replace(trial, odd=odd, good=good)
    assert torch.equal(changed.line(0.1, 2).direction, before.direction)
    assert not torch.equal(changed.line(0.1, 1).direction, trial.line(0.1, 1).direction)
    sides = trial.sides(0.1)
    mine = torch.from_numpy(trial.good_fold == 2)
    assert torch.equal(sides.good[mine], before(trial.good)[mine])
    moved = Pair(sides.odd, torch.where(mine, sides.good + 50, sides.good))
    at = torch.from_numpy(trial.odd_fold == 2)
    unit = trial.factor(moved) / trial.factor(sides)  # the spread of all is no part of where the term begins
    same = unit * trial.terms(sides, Offset(0.0)).odd[at]
    torch.testing.assert_close(trial.terms(moved, Offset(0.0)).odd[at], same)


def test_the_term_begins_where_good_items_end() -> None:
    trial = made_trial(table(20, 1, 2.0))
    sides = trial.sides(0.1)
    for offset, least, most in ((Offset(0.1), 0.85, 0.95), (Offset(0.0), 0.97, 1.0), (Offset(0.0, 1.0), 1.0, 1.0)):
        share = float((trial.terms(sides, offset).good == 0).double().mean())
        assert least <= share <= most, offset


def test_scores_are_compared_within_their_stratum_and_the_best_condition_counts() -> None:
    kinds = np.where(np.arange(240) % 2 == 0, "a", "b")
    rows = table(240, 0)
    rows[kinds == "b", -1] += 5.0  # their scores are larger
    chosen = parse_settings({"unknown": "infer", **QUICK})
    made = plan(TableSet.from_array(rows).annotate(None, {"kind": kinds}), chosen, 0)
    pipeline = Pipeline(chosen, made.schema, made.representation, made.model.eval(), Last(Elbo()))
    odd = TableSet.from_array(rows[[1, 1, 1]]).annotate(None, {"kind": np.array(["a", "b", "new"])})
    trial = Trial.of(pipeline, made, odd, np.random.default_rng(0))
    select = made.split["select"]
    values = pipeline.raw_scores(made.normals[select], pipeline.expand(made.normals[select]))[0]
    of = {kind: float(torch.from_numpy(values[kinds[select] == kind]).median()) for kind in "ab"}
    own = pipeline.raw_scores(made.normals[[1]], pipeline.expand(made.normals[[1]]))[0][0]
    assert trial.scores.odd.tolist() == pytest.approx([own - of["a"], own - of["b"], own - max(of.values())])
    assert trial.scores.good.tolist() == pytest.approx([v - of[k] for v, k in zip(values, kinds[select], strict=True)])
    assert len(trial.good) == len(select) + len(made.split["fit"]) == len(trial.good_fold)


def test_anomalies_whose_conditions_cannot_be_inferred_are_left_out_and_many_are_drawn_from() -> None:
    rows = TableSet.from_array(table(60, 0)).annotate(None, {"kind": np.where(np.arange(60) % 2 == 0, "a", "b")})
    made = plan(rows, parse_settings({"roles": {"kind": ("model", "stratify")}, **QUICK}), 0)
    pipeline = Pipeline(made.settings, made.schema, made.representation, made.model.eval(), Last(Elbo()))
    odd = TableSet.from_array(table(3, 1)).annotate(None, {"kind": np.array(["a", "new", "b"])})
    kept, left_out = usable(pipeline, odd, np.random.default_rng(0))
    assert kept.ids.tolist() == odd.ids[[0, 2]].tolist()
    assert left_out == {odd.ids[1]: "a condition of it is unknown, or new"}
    many = rows[np.arange(2100) % 60].replace(ids=np.array([str(i) for i in range(2100)]))
    kept, left_out = usable(pipeline, many, np.random.default_rng(0))
    assert (len(kept), len(left_out)) == (2000, 0)


# What labelled anomalies do -------------------------------------------------------------------------------------------


def test_others_of_their_kind_are_found_and_no_score_falls() -> None:
    pipeline, told = told_of(table(12, 1, 2.0))
    assert told["weight"] > 0
    assert (told["given"], told["taught"], told["left_out"]) == (12, 12, {})
    unseen = np.concatenate([table(300, 2), table(300, 3, 2.0)])
    judged = TableSet.from_array(unseen)
    values, parts, _ = pipeline.raw_scores(judged, pipeline.expand(judged))
    before = values - parts["labelled"]
    assert (parts["labelled"] >= 0).all()
    assert (parts["labelled"][:300] > 0).mean() < 0.03
    labels = np.r_[np.zeros(300), np.ones(300)]
    assert roc_auc(labels, values) - roc_auc(labels, before) > 0.15
    assert told["auroc"][1] - told["auroc"][0] > 0.15


@pytest.mark.parametrize("seed", range(4))
def test_good_items_called_anomalous_change_nothing(seed: int) -> None:
    pipeline, told = told_of(table(12, 60 + seed), seed=seed)
    assert told["weight"] == 0
    assert "change nothing" in told["sentence"]
    assert pipeline.state == {}
    assert isinstance(pipeline.score, Last)


def test_what_may_harm_others_or_raises_many_good_items_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    odd = table(12, 1, 2.0)
    with monkeypatch.context() as patch:
        patch.setattr(teaching, "LOST", -1.0)
        assert told_of(odd)[1]["weight"] == 0
    with monkeypatch.context() as patch:
        patch.setattr(teaching, "UNMOVED", 1.1)
        assert told_of(odd)[1]["weight"] == 0
    with monkeypatch.context() as patch:
        patch.setattr(teaching, "SURE", 1e9)
        assert told_of(odd)[1]["weight"] == 0


def test_it_is_the_same_again() -> None:
    (one, told), (same, again) = (told_of(table(12, 1, 2.0)) for _ in range(2))
    assert told == again
    assert all(torch.equal(one.state[name], same.state[name]) for name in one.state)


def test_too_few_are_told_and_none_is_nothing() -> None:
    assert told_of(table(2, 1, 2.0))[1]["sentence"] == (
        "Labelled anomalies change nothing: 2 of 2 can be used, and to hold some out takes 3."
    )
    pipeline, told = told_of(table(9, 1, 2.0), n=24)
    assert "there are 19 good items to learn from, and it takes 30" in told["sentence"]
    assert pipeline.state == {}
    assert teach(*ready(), 0) is None


def test_with_few_that_select_all_good_items_are_compared_with() -> None:
    chosen = parse_settings({"objective": "vae", **QUICK, "select_fraction": 0.05})
    made = plan(TableSet.from_array(table(100, 0)), chosen, 0)
    pipeline = Pipeline(chosen, made.schema, made.representation, made.model.eval(), Last(Elbo()))
    trial = Trial.of(pipeline, made, TableSet.from_array(table(5, 1, 2.0)), np.random.default_rng(0))
    assert len(trial.good) == len(trial.scores.good) == 80


def test_on_digits_labels_never_end_below_none() -> None:
    """Normal is class k, labelled are some of class k + 1, judged are all classes: five k, three shares."""
    found: Any = load_digits()
    images, kind = (found.images * 15).astype(np.uint8), found.target
    train = np.arange(len(kind)) % 3 != 0
    chosen = parse_settings({
        "objective": "vae", "net": {"name": "mlp", "hidden": (32,)}, "latent_dim": 6, "epochs": 20, **QUICK,
        "scoring": "elbo",
    })  # fmt: skip
    test = ImageSet.from_arrays(images[~train])
    gains = []
    for k in range(0, 10, 2):
        normals = ImageSet.from_arrays(images[train & (kind == k)])
        odd = images[train & (kind == k + 1)]
        made = plan(normals, chosen, 0)
        plain = learn(made, normals[:0]).pipeline
        before = roc_auc(kind[~train] != k, plain.raw_scores(test, plain.expand(test))[0])
        for share in (0.02, 0.05, 0.1):
            pipeline = replace(plain, state=dict(plain.state))
            labelled = ImageSet.from_arrays(odd[: max(3, round(share / (1 - share) * len(normals)))])
            teach(pipeline, replace(made, labelled=labelled), 0)
            gains.append(roc_auc(kind[~train] != k, pipeline.raw_scores(test, pipeline.expand(test))[0]) - before)
    assert min(gains) >= -0.002
    assert np.mean(gains) > 0.02
    assert np.mean(np.asarray(gains) > 0) > 0.3


# The detector ---------------------------------------------------------------------------------------------------------


def fitted(odd: np.ndarray, **changes: Any) -> Detector:
    rows = np.concatenate([table(300, 0), odd])
    labels = np.r_[np.zeros(300), np.ones(len(odd))]
    asked: dict[str, Any] = {**QUICK, "objective": "vae", "epochs": 3, "latent_dim": 2, "scoring": "kl", **changes}
    bright = {"bright": np.arange(len(rows)) % 5.0}
    return Detector(**asked).fit(rows, anomalies=labels, conditions=bright)


def test_a_taught_detector_says_so_is_saved_and_loads(tmp_path: Path) -> None:
    made = fitted(table(15, 1, 2.5))
    told = made.about_["labelled"]
    assert told["weight"] > 0
    assert told["sentence"] in made.card_
    assert "15 labelled anomalies teach the score, with weight" in told["sentence"]
    assert made.about_["data"]["taught_anomalies"] == 15
    judged = np.concatenate([table(9, 5), table(9, 6, 2.5)])
    loaded = Detector.load(made.save(tmp_path / "model"))
    assert np.array_equal(loaded.score_samples(judged), made.score_samples(judged))
    assert isinstance(loaded.pipeline_.score, TaughtScore)
    assert math.isclose(float(loaded.pipeline_.state["taught_weight"]), told["weight"])


def test_a_detector_that_learns_nothing_scores_as_without_to_the_bit() -> None:
    made, plain = fitted(table(15, 8)), fitted(table(15, 8), labelled="ignore")
    assert made.about_["labelled"]["weight"] == 0
    assert made.about_["data"]["taught_anomalies"] == 0
    assert "labelled" not in plain.about_
    assert made.pipeline_.state.keys() == plain.pipeline_.state.keys()
    judged = np.concatenate([table(9, 5), table(9, 6, 2.5)])
    assert np.array_equal(made.score_samples(judged), plain.score_samples(judged))
    assert made.offset_ == plain.offset_


def test_a_term_of_the_objective_is_taught_by_that_alone() -> None:
    for changes in (
        {"labelled": "hinge"},
        {"objective": {"name": "dan_vae", "factors": ("bright",), "nuisance_dim": 1}},
    ):
        made = fitted(table(15, 1, 2.5), **{"scoring": "auto", **changes})
        assert "labelled" not in made.about_
        assert made.about_["data"]["taught_anomalies"] == 15
        assert not isinstance(made.pipeline_.score, TaughtScore)


def test_conditions_that_are_not_known_are_summed_out_with_it() -> None:
    kinds = np.where(np.arange(315) % 2 == 0, "a", "b").astype(object)
    kinds[300:] = "new"
    rows = np.concatenate([table(300, 0), table(15, 1, 2.5)])
    asked: dict[str, Any] = {**QUICK, "epochs": 3, "latent_dim": 2, "unknown": "infer", "scoring": "elbo"}
    made = Detector(**asked).fit(rows, conditions={"kind": kinds}, anomalies=np.arange(315) >= 300)
    assert made.about_["labelled"]["weight"] > 0
    pipeline = made.pipeline_
    assert pipeline.hidden is not None
    judged = TableSet.from_array(np.concatenate([table(40, 5), table(40, 6, 2.5)]))
    expanded = pipeline.expand(judged)
    values, parts, _ = pipeline.raw_scores(judged, expanded)
    assert len(values) == 160
    assert np.array_equal(parts["labelled"][::2], parts["labelled"][1::2])
    p = pipeline.judge(judged).p_value
    assert np.median(p[40:]) < 0.1 < np.median(p[:40])


def test_on_the_command_line_named_classes_teach(tmp_path: Path) -> None:
    for k, (more, given) in enumerate((([], None), (["--anomalous", "4"], 131))):
        out = tmp_path / str(k)
        with pytest.raises(SystemExit) as ended:
            main(["train", "digits", "--normal", "3", *more, "--epochs", "1", "--out", str(out)])
        assert not ended.value.code
        about = Detector.load(out).about_
        assert about.get("labelled", {}).get("given") == given
