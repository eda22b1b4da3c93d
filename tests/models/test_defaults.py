"""Options of a VAE that data and objective decide, and models built again from their sizes."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from knowngood.config import CVAE, DCVAE, MLP, Bernoulli, Conv, Gaussian, Options, VAEOptions
from knowngood.models.base import FitContext
from knowngood.models.vae import ConditionalVAE, resolve
from knowngood.training import Source


@pytest.mark.parametrize(
    ("shape", "net", "latent_dim"),
    [((1, 28, 28), Conv(), 32), ((3, 8, 40), Conv(), 32), ((8, 7, 7), MLP(), 32), ((5,), MLP(), 3), ((90,), MLP(), 16)],
)
def test_defaults_follow_the_shape(shape: tuple[int, ...], net: Options, latent_dim: int) -> None:
    found = resolve(VAEOptions(), CVAE().build().prior, shape)
    assert (found.net, found.latent_dim, found.likelihood) == (net, latent_dim, Gaussian())


@pytest.mark.parametrize(("objective", "prior"), [(CVAE(), "standard"), (DCVAE(tc="bound"), "learned")])
def test_the_prior_is_that_of_the_objective(objective: Options, prior: str) -> None:
    assert resolve(VAEOptions(), objective.build().prior, (4,)).prior == prior


def test_what_is_given_stays() -> None:
    given: dict[str, Any] = {"net": MLP(hidden=(3,)), "likelihood": Bernoulli(), "latent_dim": 2, "prior": "separated"}
    options = VAEOptions(**given)
    assert resolve(options, CVAE().build().prior, (1, 28, 28)) == options


def test_options_that_are_not_resolved_build_nothing() -> None:
    with pytest.raises(ValueError, match="through resolve"):
        VAEOptions().build(shape=(4,))


@pytest.mark.parametrize("prior", ["standard", "learned", "separated"])
def test_a_saved_model_is_built_from_its_sizes_and_loads(prior: Any) -> None:
    options = resolve(VAEOptions(prior=prior, net=MLP(hidden=(4,))), CVAE().build().prior, (6,))
    model: ConditionalVAE = options.build(shape=(6,), condition_dim=2, nuisance_dim=1)
    loaded: ConditionalVAE = model.options.build(**model.sizes())
    loaded.load_state_dict(model.state_dict())
    assert (loaded.shape, loaded.condition_dim, loaded.nuisance_dim, loaded.kind) == ((6,), 2, 1, "vae")
    x, c = torch.rand(5, 6), torch.eye(2)[[0, 1, 0, 1, 1]]
    assert torch.equal(loaded.reconstruct(x, c), model.reconstruct(x, c))


def test_a_fit_passes_model_objective_and_data_to_the_loop() -> None:
    calls: list[tuple[Any, ...]] = []
    options = resolve(VAEOptions(), CVAE().build().prior, (4,))
    model: ConditionalVAE = options.build(shape=(4,))
    source, held_out, anomalies = (Source(torch.rand(n, 4)) for n in (9, 5, 2))
    objective = options.objective.build()
    context = FitContext(lambda *given: calls.append(given), objective, held_out, anomalies)
    assert model.fit(source, context) is model
    assert calls == [(model, objective, source, held_out, anomalies)]
