"""Ensembles: means of members' scores, WAIC by its definition, and what becomes of both through the detector."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_end_to_end import parts, quick

from knowngood import Detector
from knowngood.config import KL, WAIC, Elbo, Mahalanobis, Neighbours, Options, Settings
from knowngood.errors import SettingsError
from knowngood.models.vae import ConditionalVAE
from knowngood.scores import build_score
from knowngood.scores.ensemble import EnsembleScore
from knowngood.training import train
from score_models import IMAGE, TABLE, batches, items, small_model


def ensemble(shape: tuple[int, ...] = IMAGE, size: int = 3) -> ConditionalVAE:
    models = [small_model(shape) for _ in range(size)]
    for k, model in enumerate(models):
        generator = torch.Generator().manual_seed(k)
        for parameter in model.parameters():
            parameter += 0.02 * k * torch.randn(parameter.shape, generator=generator)
    models[0].others.extend(models[1:])
    return models[0]


@pytest.mark.parametrize("shape", [IMAGE, TABLE])
@pytest.mark.parametrize("options", [Elbo(), KL(), Mahalanobis(), Neighbours(of="residual")], ids=lambda o: o.name)
def test_scores_parts_and_maps_are_means_over_members(options: Options, shape: tuple[int, ...]) -> None:
    model, (x, c, stratum) = ensemble(shape), items(6, shape)
    fitted, alone, score = batches(50, shape), options.build(), EnsembleScore(options.build())
    expected = [
        alone.score(member, alone.fit(member, fitted), x, c, stratum, want_map=True) for member in model.members
    ]
    state = score.fit(model, fitted)
    assert state.keys() == {f"{m}.{name}" for m in range(3) for name in alone.fit(model, fitted)}
    got = score.score(model, score.settle(model, state, [], fitted), x, c, stratum, want_map=True)
    torch.testing.assert_close(got.values, sum(one.values for one in expected) / 3)
    assert got.values.std() > 0
    for name in expected[0].parts:
        torch.testing.assert_close(got.parts[name], sum(one.parts[name] for one in expected) / 3)
    if expected[0].map is None:
        assert got.map is None
    else:
        torch.testing.assert_close(got.map, sum(one.map for one in expected) / 3)
    assert (score.has_map, score.is_likelihood) == (alone.has_map, alone.is_likelihood)


def test_the_mean_of_surprises_is_no_less_than_that_of_the_mixture() -> None:
    model, (x, c, stratum) = ensemble(), items(6)
    score = EnsembleScore(Elbo().build())
    values = score.score(model, score.fit(model, []), x, c, stratum).values
    each = [Elbo().build().score(m, Elbo().build().fit(m, []), x, c, stratum).values for m in model.members]
    mixture = -(torch.stack([-one for one in each]).logsumexp(0) - np.log(3))
    assert (values >= mixture).all()


def test_waic_is_its_definition_and_the_parts_add_up() -> None:
    model, (x, c, stratum) = ensemble(), items(6)
    waic, elbo = WAIC(samples=3).build(), Elbo(samples=3).build()
    state = waic.fit(model, batches(20))
    log_p = np.stack([-elbo.score(m, state, x, c, stratum).values.numpy() for m in model.members])
    got = waic.score(model, state, x, c, stratum)
    np.testing.assert_allclose(got.values, -(log_p.mean(0) - log_p.var(0)), rtol=1e-9)
    np.testing.assert_allclose(got.parts["waic_mean"] + got.parts["waic_variance"], got.values, rtol=1e-12)
    assert (got.parts["waic_variance"] > 0).all()
    alone = [waic.score(model, state, x[i : i + 1], c[i : i + 1], stratum[i : i + 1]).values for i in range(6)]
    torch.testing.assert_close(torch.cat(alone), got.values, rtol=1e-5, atol=0)


def test_of_members_that_agree_waic_is_their_elbo() -> None:
    model, (x, c, stratum) = small_model(), items(6)
    model.others.append(small_model())
    waic, elbo = WAIC().build(), Elbo().build()
    got = waic.score(model, waic.fit(model, []), x, c, stratum)
    torch.testing.assert_close(got.values, elbo.score(model, elbo.fit(model, []), x, c, stratum).values)
    assert (got.parts["waic_variance"] == 0).all()


def test_one_model_has_no_waic() -> None:
    with pytest.raises(SettingsError, match="'waic' is what the models of an ensemble disagree on; set ensemble=5"):
        WAIC().build().fit(small_model(), [])
    with pytest.raises(SettingsError, match="set ensemble=5"):
        build_score(WAIC(), Settings())
    assert build_score(WAIC(), Settings(ensemble=2)).options == WAIC()


def test_members_are_further_models_of_the_same_split_and_the_first_is_that_without_them() -> None:
    images, kind = parts(120)
    one, three = (quick(ensemble=n, epochs=3).fit(images, conditions={"kind": kind}) for n in (1, 3))
    first, *others = three.model_.members
    assert len(others) == 2
    assert all(torch.equal(t, first.state_dict()[name]) for name, t in one.model_.state_dict().items())
    weights = [dict(member.named_parameters())["net.encoder.0.weight"] for member in three.model_.members]
    assert not any(weights[i].equal(weights[j]) for i, j in ((0, 1), (0, 2), (1, 2)))
    assert all(not member.training for member in three.model_.members)
    assert np.array_equal(one.split_["fit"], three.split_["fit"])
    assert "an ensemble of 3 such models" in three.card_
    assert "ensemble" not in one.card_
    again = quick(ensemble=3, epochs=3).fit(images, conditions={"kind": kind})
    assert all(torch.equal(t, again.model_.state_dict()[name]) for name, t in three.model_.state_dict().items())


@pytest.mark.parametrize(
    "settings",
    [
        {"scoring": "elbo"},
        {"scoring": "waic"},
        {"scoring": "mahalanobis", "light_tolerance": 0.2},
        {"scoring": ["waic", "reconstruction"]},
        {"augment_condition": ("flip",)},
        {"objective": {"name": "factor_vae", "discriminator_width": 16}, "roles": {"kind": ("stratify", "infer")}},
        {"objective": {"name": "dan_vae", "nuisance_dim": 1}},
        {"class_aware": 1.0, "prior": "separated"},
    ],
    ids=str,
)
def test_ensembles_keep_their_values_when_saved_and_in_any_batch(settings: dict[str, Any], tmp_path: Path) -> None:
    images, kind = parts(200)
    detector = quick(ensemble=2, epochs=2, unknown="infer", **settings).fit(images, conditions={"kind": kind})
    new, kinds = parts(30, seed=1)
    found = detector.detect(new, conditions={"kind": kinds})
    assert found["anomaly_score"].notna().all()
    loaded = Detector.load(detector.save(tmp_path / "model"))
    assert len(loaded.model_.members) == 2
    assert loaded.detect(new, conditions={"kind": kinds}).equals(found)
    assert loaded.detect(new).equals(detector.detect(new))
    values = detector.score_samples(new, conditions={"kind": kinds})
    cuts = [slice(0, 1), slice(1, 20), slice(20, 30)]
    pieces = [detector.score_samples(new[cut], conditions={"kind": kinds[cut]}) for cut in cuts]
    np.testing.assert_allclose(np.concatenate(pieces), values, rtol=1e-5, atol=1e-5 * np.abs(values).max())


def test_members_share_no_second_player(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def spy(model: Any, objective: Any, *args: Any, **kwargs: Any) -> Any:
        history = train(model, objective, *args, **kwargs)
        seen.append({p.data_ptr() for p in objective.parameters()})
        return history

    monkeypatch.setattr("knowngood.detector.fit.learn.train", spy)
    objective = {"name": "factor_vae", "discriminator_width": 16}
    quick(ensemble=3, epochs=1, alpha=0.2, objective=objective).fit(parts(60)[0])
    assert len(seen) == 3
    assert all(seen)
    assert len(set.union(*seen)) == sum(map(len, seen))


def test_a_stopped_ensemble_goes_on_where_it_was(tmp_path: Path) -> None:
    images, _ = parts(80)
    whole = quick(ensemble=2, epochs=3, alpha=0.2).fit(images)
    quick(ensemble=2, epochs=3, alpha=0.2).fit(images, run_dir=tmp_path / "run")
    assert (tmp_path / "run" / "member-1").is_dir()
    # The second member's run is lost, as if all had stopped before it began.
    shutil.rmtree(tmp_path / "run" / "member-1")
    again = quick(ensemble=2, epochs=3, alpha=0.2).fit(images, run_dir=tmp_path / "run", resume=True)
    assert all(torch.equal(t, again.model_.state_dict()[name]) for name, t in whole.model_.state_dict().items())


def test_places_of_features_have_no_ensemble_and_one_model_no_waic() -> None:
    images = np.random.default_rng(0).integers(0, 255, (30, 64, 64, 3)).astype(np.uint8)
    with pytest.raises(SettingsError, match="ensemble = 2 is of nets that see whole images, and with features"):
        quick(ensemble=2, features="efficientnet_lite0").fit(images)
    with pytest.raises(SettingsError, match="set ensemble=5, say"):
        quick(scoring="waic").fit(parts(60)[0])
