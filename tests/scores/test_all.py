"""What every score owes: determinism, independence of the batch, maps that add up, plain state."""

from __future__ import annotations

import pytest
import torch

from knowngood.config import (
    IWAE,
    KL,
    Elbo,
    Gradient,
    GradientMap,
    InputComplexity,
    LikelihoodRegret,
    Mahalanobis,
    Neighbours,
    Options,
    PriorDistance,
    Reconstruction,
    ReconstructionProbability,
    Restoration,
    Settings,
    SplitElbo,
    Typicality,
    choices,
)
from knowngood.errors import SettingsError
from score_models import IMAGE, TABLE, batches, items, small_model

EVERY = [
    *(Reconstruction(distance=d) for d in ("l2", "squared", "mean", "cross_entropy", "ssim")),
    Elbo(),
    Elbo(samples=3),
    Elbo(samples=0),
    KL(),
    Mahalanobis(),
    Mahalanobis(relative=True),
    *(Mahalanobis(of="hog", relative=relative) for relative in (False, True)),
    PriorDistance(),
    SplitElbo(),
    IWAE(),
    ReconstructionProbability(),
    LikelihoodRegret(steps=20),
    InputComplexity(),
    Typicality(),
    *(Neighbours(of=of, coreset=30) for of in ("latent", "items", "residual", "hog")),
    Gradient(),
    GradientMap(),
    Restoration(weight=0.01, steps=5),
]


def name(options: Options) -> str:
    return "-".join(str(value) for value in options.model_dump().values())


def on_images_only(options: Options) -> bool:
    distance = isinstance(options, Reconstruction) and options.distance in ("ssim", "cross_entropy")
    hog = isinstance(options, Neighbours | Mahalanobis) and options.of == "hog"
    return distance or hog or isinstance(options, InputComplexity | Restoration)


def test_every_score_of_the_settings_is_tested() -> None:
    known = {name: kind for name, kind in choices(Settings, "score").items() if "vae" in kind.models}
    assert {options.name: type(options) for options in EVERY} == {n: k for n, k in known.items() if n != "fusion"}


@pytest.mark.slow
@pytest.mark.parametrize("options", EVERY, ids=name)
@pytest.mark.parametrize(
    ("shape", "net", "likelihood"),
    [(IMAGE, "mlp", "bernoulli"), (IMAGE, "conv", "gaussian"), (TABLE, "mlp", "gaussian")],
)
def test_values_do_not_depend_on_the_batch(options: Options, shape: tuple[int, ...], net: str, likelihood: str) -> None:
    if (shape == TABLE and on_images_only(options)) or (
        likelihood == "bernoulli" and isinstance(options, InputComplexity)
    ):
        return
    model, score = small_model(shape, likelihood, net), options.build()
    state = score.fit(model, batches(80, shape))
    x, c, stratum = items(40, shape)
    whole = score.score(model, state, x, c, stratum, want_map=True)
    assert whole.values.shape == (40,)
    assert whole.values.dtype == torch.float64
    assert len(whole.values.unique()) == 40
    again = score.score(model, state, x, c, stratum, want_map=True)
    assert torch.equal(whole.values, again.values)

    generator = torch.Generator().manual_seed(3)
    order = torch.randperm(40, generator=generator)
    about_zero = isinstance(options, Mahalanobis) and options.relative  # the difference of two distances
    atol = 1e-5 * float(whole.values.abs().max()) if about_zero else 0
    for piece in order.split([1, 22, 17]):
        part = score.score(model, state, x[piece], c[piece], stratum[piece], want_map=True)
        torch.testing.assert_close(part.values, whole.values[piece], rtol=1e-5, atol=atol)
        assert part.parts.keys() == whole.parts.keys()
        for key, values in part.parts.items():
            torch.testing.assert_close(values, whole.parts[key][piece], rtol=1e-5, atol=1e-6)
        if whole.map is not None:
            torch.testing.assert_close(part.map, whole.map[piece], rtol=1e-4, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("options", EVERY, ids=name)
def test_scoring_draws_nothing_and_changes_nothing(options: Options) -> None:
    model, score = small_model(), options.build()
    before = torch.random.get_rng_state()
    state = score.fit(model, batches(40))
    kept = {key: value.clone() for key, value in state.items()}
    score.score(model, state, *items(4))
    assert torch.equal(before, torch.random.get_rng_state())
    assert state.keys() == kept.keys()
    assert all(torch.equal(state[key], kept[key]) for key in kept)
    refitted = score.fit(model, batches(40))
    assert all(torch.equal(state[key], refitted[key]) for key in kept)


@pytest.mark.slow
@pytest.mark.parametrize("options", EVERY, ids=name)
def test_maps_exist_where_promised_and_add_up(options: Options) -> None:
    model, score = small_model(), options.build()
    state = score.fit(model, batches(40))
    x, c, stratum = items(7)
    result = score.score(model, state, x, c, stratum, want_map=True)
    bare = score.score(model, state, x, c, stratum)
    assert bare.map is None
    torch.testing.assert_close(bare.values, result.values, rtol=1e-9, atol=0)
    assert (result.map is not None) == score.has_map
    if result.map is None:
        return
    assert result.map.shape == (7, 9, 12)
    total = next((part for name, part in result.parts.items() if name.endswith("reconstruction")), result.values)
    if isinstance(options, Reconstruction) and options.distance == "l2":
        total = total.square()
    torch.testing.assert_close(result.map.sum((1, 2)), total, rtol=1e-6, atol=0)


@pytest.mark.parametrize("options", EVERY, ids=name)
def test_tables_have_no_map_and_refuse_image_distances(options: Options) -> None:
    model, score = small_model(TABLE), options.build()
    if on_images_only(options):
        with pytest.raises(
            SettingsError, match=r"needs images; a table of 6 features.*Use distance=|have 6 features|on a table"
        ):
            score.check(model)
        return
    state = score.fit(model, batches(40, TABLE))
    assert score.score(model, state, *items(3, TABLE), want_map=True).map is None


def test_only_bounds_of_the_likelihood_may_be_averaged_over_conditions() -> None:
    assert {name(options) for options in EVERY if options.build().is_likelihood} == {
        *("elbo-4", "elbo-3", "elbo-0"),
        "iwae-16",
    }
