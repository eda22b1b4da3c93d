"""Scores by list and by choice, and p(c|x), from the outside: what is chosen, said, saved and scored again."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from knowngood import Detector
from knowngood.config import Elbo, Fusion
from knowngood.detector.condition_posterior import TEMPERATURE, condition_probabilities
from knowngood.detector.fit.choosing import MARGIN, SURE, _best
from knowngood.errors import SettingsError
from knowngood.scores.fusion import FusionScore
from knowngood.scores.steady import SteadyScore
from knowngood.scores.trial import gain
from knowngood.scores.views import ViewScore
from patch_models import patch_model

SIDE = 8


def squares(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Grey 8×8 images (N, 8, 8) uint8 of a bright 3×3 square: top left for kind "0", bottom right for "1"."""
    rng = np.random.default_rng(seed)
    images, kind = rng.integers(0, 40, (n, SIDE, SIDE)), rng.integers(0, 2, n)
    for image, k in zip(images, kind, strict=True):
        at = 1 if k == 0 else 4
        image[at : at + 3, at : at + 3] += rng.integers(120, 200)
    return images.astype(np.uint8), kind.astype(str)


def quick(**settings) -> Detector:
    small = {"net": {"name": "mlp", "hidden": (32,)}, "latent_dim": 4, "epochs": 25, "device": "cpu"}
    return Detector(**{**small, **settings})


@pytest.fixture(scope="module")
def fused() -> Detector:
    images, kind = squares(600)
    return quick(scoring=["elbo", "mahalanobis"]).fit(images, conditions={"kind": kind})


@pytest.fixture(scope="module")
def chosen() -> Detector:
    images, kind = squares(700)
    return quick(scoring="choose", unknown="infer", prior="separated", class_aware=1.0).fit(
        images, conditions={"kind": kind}
    )


# Fusion ---------------------------------------------------------------------------------------------------------------


def test_a_list_of_scores_is_fused(fused):
    images, kind = squares(200, seed=1)
    table = fused.detect(images, conditions={"kind": kind})
    parts = table[["elbo_surprise", "mahalanobis_surprise"]]
    weights = fused.pipeline_.state["weights"].numpy()
    raw = (parts * weights).sum(axis=1)
    shift = (table["anomaly_score"] - raw).groupby(kind).agg(["min", "max"])  # an offset for each condition
    np.testing.assert_allclose(shift["min"], shift["max"], atol=1e-9)
    assert table["is_anomalous"].mean() < 0.15
    noise = np.random.default_rng(2).integers(0, 255, (50, SIDE, SIDE)).astype(np.uint8)
    assert fused.detect(noise, conditions={"kind": np.full(50, "0")})["is_anomalous"].all()
    assert fused.anomaly_maps(images[:2], conditions={"kind": kind[:2]})[0].shape == (SIDE, SIDE)


def test_the_card_says_what_is_fused_and_how_much_each_counts(fused):
    elbo, mahalanobis = fused.pipeline_.state["weights"].tolist()
    assert f"score: `fusion`, surprises added up: {elbo:.2f} · `elbo` (samples = 4) + " in fused.card_
    assert f" + {mahalanobis:.2f} · `mahalanobis` (" in fused.card_


def test_fused_scores_do_not_depend_on_the_batch(fused):
    images, kind = squares(40, seed=3)
    whole = fused.score_samples(images, conditions={"kind": kind})
    one = [fused.score_samples(images[i : i + 1], conditions={"kind": kind[i : i + 1]})[0] for i in range(40)]
    np.testing.assert_allclose(one, whole, rtol=1e-4)
    order = np.random.default_rng(0).permutation(40)
    shuffled = fused.score_samples(images[order], conditions={"kind": kind[order]})
    np.testing.assert_allclose(shuffled, whole[order], rtol=1e-4)


@pytest.mark.parametrize("which", ["fused", "chosen"])
def test_a_saved_model_scores_the_same(which, tmp_path, request):
    fitted = request.getfixturevalue(which)
    images, kind = squares(60, seed=4)
    loaded = Detector.load(fitted.save(tmp_path / "model"))
    before, after = (one.score_samples(images, conditions={"kind": kind}) for one in (fitted, loaded))
    assert np.array_equal(before, after)
    assert np.array_equal(fitted.condition_probabilities(images), loaded.condition_probabilities(images))
    assert loaded.pipeline_.score.options == fitted.pipeline_.score.options
    assert loaded.about_.get("scoring") == fitted.about_.get("scoring")


def test_two_fits_are_the_same(fused):
    images, kind = squares(600)
    again = quick(scoring="elbo,mahalanobis").fit(images, conditions={"kind": kind})
    assert all(torch.equal(again.pipeline_.state[name], t) for name, t in fused.pipeline_.state.items())


def test_where_no_condition_is_known_each_score_of_a_fusion_is_summed_out_by_itself(tmp_path):
    images, kind = squares(600)
    settings = {"scoring": ["elbo", "prior_distance"], "unknown": "infer", "prior": "learned"}
    fitted = quick(**settings).fit(images, conditions={"kind": kind})
    hidden = fitted.pipeline_.hidden
    assert hidden is not None
    assert fitted.pipeline_.state["hidden"].shape == (2, 60)
    good = fitted.detect(squares(300, seed=5)[0])
    assert good["condition"].str.endswith("(inferred)").all()
    assert good["is_anomalous"].mean() < 0.12
    assert np.array_equal(good["is_anomalous"], good["anomaly_score"] > fitted.pipeline_.limit)
    loaded = Detector.load(fitted.save(tmp_path / "model"))
    assert loaded.detect(squares(300, seed=5)[0]).equals(good)
    noise = np.random.default_rng(2).integers(0, 255, (50, SIDE, SIDE)).astype(np.uint8)
    assert fitted.predict(noise).tolist() == [-1] * 50


def test_by_the_hard_rule_the_condition_that_explains_a_fusion_best_counts():
    images, kind = squares(600)
    settings = {"scoring": ["elbo", "prior_distance"], "unknown": "infer", "marginalise": "hard", "prior": "learned"}
    fitted = quick(**settings).fit(images, conditions={"kind": kind})
    assert fitted.pipeline_.hidden is None
    assert "hidden" not in fitted.pipeline_.state
    asked, _ = squares(50, seed=5)
    either = [fitted.score_samples(asked, conditions={"kind": np.full(50, k)}) for k in "01"]
    np.testing.assert_allclose(fitted.score_samples(asked), np.maximum(*either), rtol=1e-5)
    with pytest.raises(SettingsError, match=r"'soft' averages likelihoods.*'fusion' is none"):
        quick(scoring=["elbo", "kl"], marginalise="soft", unknown="infer").fit(images, conditions={"kind": kind})


def test_under_changing_light_and_in_views_each_score_is_so_before_they_are_fused():
    images, _ = squares(300)
    fitted = quick(
        scoring=["elbo", "mahalanobis"], light_tolerance=0.2, augment_condition=("flip",), epochs=3, scaling="dtype"
    ).fit(images)
    score = fitted.pipeline_.score
    assert isinstance(score, FusionScore)
    inners = score.inners
    assert all(isinstance(inner, SteadyScore) and isinstance(inner.inner, ViewScore) for inner in inners)
    assert np.isfinite(fitted.score_samples(images[:5])).all()


def test_a_fusion_on_features_is_refused():
    patches = patch_model()
    with pytest.raises(SettingsError, match="'fusion' weighs scores of whole images"):
        Fusion(scores=(Elbo(),)).build().check(patches)


# Choice ---------------------------------------------------------------------------------------------------------------


def test_what_was_chosen_is_told(chosen):
    told = chosen.about_["scoring"]
    assert told["default"] == "elbo"
    assert told["chosen"] == chosen.pipeline_.score.options.name
    assert told["conditions"] == "hidden"
    assert 60 <= told["images"] <= 70
    assert set(told["auroc"]) == {"elbo", "prior_distance", "reconstruction", "mahalanobis", "neighbours", "fusion"}
    for each in told["auroc"].values():
        kinds = [value for kind, value in each.items() if kind != "mean"]
        assert each["mean"] == pytest.approx(np.mean(kinds))
        assert len(kinds) == 6
    assert sum(told["weights"].values()) == pytest.approx(1)
    assert told["sentence"] in chosen.card_
    assert "held-out good images" in told["sentence"]
    json.dumps(told)


def test_a_chosen_score_that_beats_the_default_does_so_by_the_margin(chosen):
    told = chosen.about_["scoring"]
    lead = told["auroc"][told["chosen"]]["mean"] - told["auroc"]["elbo"]["mean"]
    assert told["chosen"] == "elbo" or lead > MARGIN


def test_the_default_is_left_only_for_what_is_surely_better():
    rng = np.random.default_rng(0)
    base = 0.5 * rng.random((6, 200))
    same, above = base + 0.001 * rng.standard_normal((6, 200)), base + 0.02
    noisy = base + 0.015 + 0.3 * rng.standard_normal((6, 200))
    assert _best({"elbo": base, "other": same}, "elbo") == "elbo"
    assert _best({"elbo": base, "other": base + MARGIN / 2}, "elbo") == "elbo"  # by too little
    assert _best({"elbo": base, "other": same, "better": above}, "elbo") == "better"
    assert _best({"elbo": base, "better": above, "best": above + 0.01}, "elbo") == "best"
    lead, error = gain(noisy, base)
    assert MARGIN < lead < SURE * error
    assert _best({"elbo": base, "other": noisy}, "elbo") == "elbo"  # by chance


@pytest.mark.parametrize("objective", ["cvae", "dan_vae"])
def test_with_few_images_or_a_score_of_its_own_the_default_stays(objective):
    images, _ = squares(120 if objective == "cvae" else 500)
    fitted = quick(
        scoring="choose",
        objective=objective if objective == "cvae" else {"name": objective, "nuisance_dim": 1},
        epochs=2,
    ).fit(images)
    told = fitted.about_["scoring"]
    assert told["chosen"] == told["default"] == ("elbo" if objective == "cvae" else "split_elbo")
    assert "is the default" in told["sentence"]
    plain = quick(**{**fitted.get_params(), "scoring": "elbo" if objective == "cvae" else "auto"}).fit(images)
    assert np.array_equal(plain.score_samples(images[:20]), fitted.score_samples(images[:20]))


def test_auto_chooses_nothing(fused):
    images, kind = squares(200)
    assert "scoring" not in quick(epochs=2).fit(images, conditions={"kind": kind}).about_
    assert "scoring" not in fused.about_


def test_tables_keep_the_default():
    rng = np.random.default_rng(0)
    fitted = quick(scoring="choose", epochs=2).fit(rng.standard_normal((500, 5)))
    assert fitted.about_["scoring"]["chosen"] == "elbo"


# p(c|x) ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["fused", "chosen"])  # by the ELBO, and by priors held apart
def test_the_right_condition_wins(which, request):
    images, kind = squares(300, seed=6)
    table = request.getfixturevalue(which).condition_probabilities(images)
    assert list(table.columns) == ["id", "kind=0", "kind=1"]
    p = table[["kind=0", "kind=1"]].to_numpy()
    np.testing.assert_allclose(p.sum(axis=1), 1, atol=1e-12)
    assert (p >= 0).all()
    assert (p.argmax(axis=1).astype(str) == kind).mean() > 0.97


def test_probabilities_are_bayes_rule(fused, chosen):
    images, _ = squares(20, seed=7)
    for fitted in (fused, chosen):
        pipeline = fitted.pipeline_
        labels, p = condition_probabilities(pipeline, fitted._items(images, None))
        model, shares = pipeline.model, np.array(pipeline.schema.counts) / sum(pipeline.schema.counts)
        x = torch.from_numpy(images[:, None] / 255.0).float()
        joint = []
        for k in range(2):
            c = torch.eye(2)[k].expand(20, -1)
            if model.prior_name == "separated":
                mean = model.encode(x, c).mean
                log_p = model.prior(c, like=mean).log_prob(mean).double().sum(1).detach().numpy()
            else:
                log_p = (
                    -pipeline.score.inners[0]
                    .score(model, {"noise": pipeline.state["0.noise"]}, x, c, torch.zeros(20).long())
                    .values.detach()
                    .numpy()
                )
            joint.append(np.log(shares[k]) + log_p / float(pipeline.state[TEMPERATURE]))
        by_hand = np.exp(np.array(joint) - np.logaddexp(*joint)).T
        np.testing.assert_allclose(p, by_hand, rtol=1e-3, atol=1e-6)
        assert labels == ["kind=0", "kind=1"]


def test_there_must_be_conditions_to_tell_apart():
    images, kind = squares(120)
    plain = quick(epochs=1).fit(images)
    with pytest.raises(SettingsError, match="sees at least two conditions"):
        plain.condition_probabilities(images)
    told = quick(epochs=1, roles={"kind": ("model", "stratify")}).fit(images, conditions={"kind": kind})
    with pytest.raises(SettingsError, match="role 'infer'"):
        told.condition_probabilities(images)
