"""Self-made conditions from settings to verdicts: fits on digits, saved models, maps, what is refused."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from knowngood import Detector
from knowngood.cli.options import settings_from
from knowngood.config import parse_settings
from knowngood.errors import SettingsError
from knowngood.metrics import roc_auc
from knowngood.models.objectives.class_aware import ClassAware
from knowngood.models.objectives.labelled import Labelled
from knowngood.models.objectives.lit import Lit
from knowngood.models.objectives.viewed import Viewed
from knowngood.scores import build_score
from knowngood.scores.fusion import FusionScore
from knowngood.scores.marginal import soft
from knowngood.scores.steady import SteadyScore
from knowngood.scores.views import ViewScore
from knowngood.training.engine import make_engine
from knowngood.training.evaluation import HeldOut

BOTH = ("rotate", "flip")
SMALL: dict[str, Any] = {
    "net": {"name": "mlp", "hidden": (64,)},
    "latent_dim": 12,
    "epochs": 60,
    "precision": "float32",
    "alpha": 0.1,
    "unknown": "infer",
}


def digits(*kinds: int) -> tuple[np.ndarray, np.ndarray]:
    """Half of the digits of these kinds, 8×8 grey, and the kind of each; with none named the other half, of all."""
    found = load_digits()
    images, kind = (found.images * 15).astype(np.uint8), found.target
    first = np.arange(len(kind)) % 2 == 0
    chosen = first & np.isin(kind, kinds) if kinds else ~first
    return images[chosen], kind[chosen]


@pytest.fixture(scope="module")
def apart() -> Detector:
    """Of the digits 2 and 4, each view held apart from the others."""
    images, kind = digits(2, 4)
    chosen: dict[str, Any] = {"prior": "separated", "class_aware": 100.0, "scoring": "prior_distance"}
    return Detector(augment_condition=BOTH, **SMALL, **chosen).fit(images, conditions={"digit": kind})


@pytest.fixture(scope="module")
def drawn() -> Detector:
    """Of the digit 4 without any condition of its own, told by its ELBO."""
    return Detector(augment_condition=("flip", "shift"), scoring="elbo", **SMALL).fit(digits(4)[0])


def test_other_digits_are_odd_in_their_views(apart: Detector) -> None:
    images, kind = digits()
    odd = ~np.isin(kind, (2, 4))
    assert roc_auc(odd, -apart.score_samples(images)) > 0.85
    inferred = apart.detect(images)["condition"].str.removesuffix(" (inferred)").to_numpy()
    assert (inferred == [f"digit={k}" for k in kind])[~odd].mean() > 0.9


def test_a_score_is_the_sum_over_the_views_of_the_image(apart: Detector) -> None:
    images, kind = digits()
    some = np.flatnonzero(kind == 4)[:20]
    pipeline = apart.pipeline_
    items = apart._items(images[some], {"digit": kind[some]})
    found, _, _ = pipeline.raw_scores(items, pipeline.expand(items))
    model = pipeline.model
    assert model.views is not None
    x = torch.from_numpy(images[some, None]).float() / 255
    total = torch.zeros(20, dtype=torch.float64)
    with torch.no_grad():
        for k in range(8):
            turned = torch.rot90(x.flip(3) if k >= 4 else x, k % 4, (2, 3))
            told = torch.zeros(20, 10)
            told[:, 1] = told[:, 2 + k] = 1
            mean = model.encode(turned, told).mean
            total += 0.5 * (mean - model.prior(told, like=mean).mean).double().square().sum(1)
    np.testing.assert_allclose(found, total.numpy(), rtol=1e-4)


def test_saved_models_and_copies_keep_their_views_and_scores(apart: Detector, drawn: Detector, tmp_path: Path) -> None:
    images, _ = digits()
    for detector, views in ((apart, 8), (drawn, 18)):
        expected = detector.score_samples(images[:50])
        for other in (Detector.load(detector.save(tmp_path / f"{views}")), pickle.loads(pickle.dumps(detector))):
            assert len(other.model_.views or ()) == views
            assert other.augment_condition == detector.augment_condition
            np.testing.assert_array_equal(other.score_samples(images[:50]), expected)
        assert f"- seen in {views} views: as it is; " in detector.card_
        assert ", added up over the views" in detector.card_


def test_maps_add_up_to_the_reconstruction_of_all_views(drawn: Detector) -> None:
    images = digits()[0][:10]
    maps = drawn.anomaly_maps(images)
    parts = drawn.detect(images)["elbo_reconstruction"]
    np.testing.assert_allclose([one.sum() for one in maps], parts, rtol=1e-4)


def test_pictures_and_codes_are_of_the_image_as_it_is(drawn: Detector) -> None:
    images = digits()[0][:4]
    assert drawn.reconstruct(images).shape == (4, 8, 8, 1)
    assert drawn.embed(images).shape == (4, 12)
    told = torch.zeros(4, 18)
    told[:, 0] = 1
    x = torch.from_numpy(images[:, None]).float() / 255
    with torch.no_grad():
        np.testing.assert_allclose(drawn.embed(images), drawn.model_.encode(x, told).mean.numpy(), atol=1e-5)
    assert len(drawn.explain(images, others=True)) == 4


def test_unknown_conditions_are_summed_out_over_all_views_where_the_score_is_a_likelihood() -> None:
    images, kind = digits(2, 4)
    detector = Detector(augment_condition=("flip",), objective="dcvae", scoring="elbo", **SMALL)
    detector.fit(images, conditions={"digit": kind})
    assert detector.pipeline_.hidden is not None
    items = detector._items(digits()[0][:100], None)
    rows = detector.pipeline_.expand(items)
    values, parts, _ = detector.pipeline_.raw_scores(items, rows)
    assert len(values) == 200
    assert parts.keys() == {"elbo_reconstruction", "elbo_kl"}
    summed = soft(values, rows.item, rows.log_weight)
    np.testing.assert_array_equal(np.argsort(detector.score_samples(items)), np.argsort(-summed))


def test_evaluations_on_held_out_images_see_every_view_and_are_the_same_each_time() -> None:
    from knowngood.detector.fit import plan as fitting

    images, kind = digits(2, 4)
    settings = parse_settings({**SMALL, "augment_condition": BOTH, "select_fraction": 0.4})
    items = Detector()._items(images, {"digit": kind}, reset=True)
    plan = fitting.plan(items, settings, 0)
    views = plan.model.views
    assert views is not None
    assert isinstance(plan.objective, Viewed)
    told: list[torch.Tensor] = []
    encode = plan.model.encode
    plan.model.__dict__["encode"] = lambda x, c: (told.append(c), encode(x, c))[1]
    plan.objective.prepare(plan.model)
    held_out = HeldOut(plan.objective, plan.source("select"), 32, 0, make_engine(settings))
    first = held_out.evaluate(plan.model, 100, torch.contiguous_format)
    seen = torch.cat(told)[:, 2:].sum(0)
    assert seen.max() - seen.min() <= len(told)
    assert seen.min() > 0
    assert held_out.evaluate(plan.model, 100, torch.contiguous_format) == first


def test_layers_of_objective_and_score_are_in_their_order() -> None:
    from knowngood.detector.fit import plan as fitting

    images, kind = digits(2, 4)
    asked = {"augment_condition": BOTH, "light_tolerance": 0.2, "class_aware": 1.0, "labelled": "hinge"}
    settings = parse_settings({**SMALL, **asked, "scoring": "elbo", "prior": "learned", "scaling": (0, 255)})
    items = Detector()._items(images, {"digit": kind}, reset=True)
    plan = fitting.plan(items[:-20], settings, 0, anomalies=items[-20:])
    layers: list[type] = []
    objective: Any = plan.objective
    while hasattr(objective, "base"):
        layers.append(type(objective))
        objective = objective.base
    assert layers == [Labelled, Viewed, ClassAware, Lit]
    assert isinstance(plan.score, SteadyScore)
    assert isinstance(plan.score.inner, ViewScore)


def test_views_are_added_up_before_scores_are_fused() -> None:
    settings = parse_settings({"augment_condition": BOTH, "scoring": ["elbo", "prior_distance"]})
    assert settings.scoring != "auto"
    score = build_score(settings.scoring, settings)
    assert isinstance(score, FusionScore)
    assert [type(inner) for inner in score.inners] == [ViewScore, ViewScore]


def test_labelled_anomalies_and_changing_light_go_with_views() -> None:
    images, kind = digits(4, 9)
    asked: dict[str, Any] = {**SMALL, "epochs": 20, "labelled": "hinge", "light_tolerance": 0.3, "scaling": (0, 255)}
    detector = Detector(augment_condition=("flip",), **asked).fit(images, anomalies=kind == 9)
    assert detector.about_["data"]["taught_anomalies"] == (kind == 9).sum()
    assert np.isfinite(detector.score_samples(digits()[0][:20])).all()


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"objective": "tc_vae"}, "objective 'tc_vae' ignores conditions; take cvae or dcvae"),
        ({"augment_condition": ("rotate", "twirl")}, "twirl"),
    ],
)
def test_what_cannot_be_is_refused_with_a_way_out(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(SettingsError, match=told):
        Detector(**{"augment_condition": ("flip",), **SMALL, **settings}).fit(digits(4)[0])


def test_tables_have_no_views() -> None:
    rows = np.random.default_rng(0).normal(size=(40, 5))
    with pytest.raises(SettingsError, match=r"augment_condition = flip: items of shape \(5,\) are no images"):
        Detector(augment_condition=("flip",)).fit(rows)


def test_command_line_takes_views_with_commas() -> None:
    assert settings_from({"augment_condition": "rotate,flip,shift"}).augment_condition == ("rotate", "flip", "shift")
    assert settings_from({"augment_condition": "flip"}).augment_condition == ("flip",)
    assert settings_from({}).augment_condition == ()
