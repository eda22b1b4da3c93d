"""Small runs of the training loop, and objectives that make one thing about it visible."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from helpers import vae
from knowngood.config import MLP, VAE, TrainingOptions
from knowngood.models.base import Batch
from knowngood.models.objectives import Context, Objective
from knowngood.models.objectives.vae import VAEObjective
from knowngood.models.vae import ConditionalVAE
from knowngood.training import Source, train

SHAPE = (1, 8, 8)
CLASSES = 3


def options(**changes: Any) -> TrainingOptions:
    return TrainingOptions(**{"precision": "float32", "batch_size": 32, "epochs": 6, **changes})


def model(
    net: Any = None, seed: int = 0, shape: tuple[int, ...] = SHAPE, likelihood: Any = "gaussian"
) -> ConditionalVAE:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return vae(shape, 4, CLASSES, net or MLP(hidden=(16,)), likelihood)


def images(n: int, seed: int = 0, shape: tuple[int, ...] = SHAPE) -> tuple[Tensor, Tensor]:
    """(n, *shape) uint8 of three noisy patterns, and the pattern of each, (n,)."""
    generator = torch.Generator().manual_seed(seed)
    kind = torch.randint(0, CLASSES, (n,), generator=generator)
    patterns = torch.randint(0, 256, (CLASSES, *shape), generator=torch.Generator().manual_seed(99))
    noise = torch.randint(-40, 41, (n, *shape), generator=generator)
    return (patterns[kind] + noise).clamp(0, 255).to(torch.uint8), kind


def scale(x: Tensor) -> Tensor:
    return x.float() / 255


def source(n: int = 100, seed: int = 0, shape: tuple[int, ...] = SHAPE) -> Source:
    x, kind = images(n, seed, shape)
    return Source(x, scale, c=torch.eye(CLASSES)[kind], stratum=kind, n_strata=CLASSES)


def weights(module: nn.Module) -> dict[str, Tensor]:
    return {name: t.detach().clone() for name, t in module.state_dict().items()}


def same_bits(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def trained(objective: Objective | None = None, data: Any = None, held_out: Any = None, seed: int = 1, **kw: Any):
    """(weights of model and objective, history) of a run; `options=`, `net=` and what `train` takes beside."""
    chosen, net = kw.pop("options", None) or options(), kw.pop("net", None)
    trainee = kw.pop("model", None) or model(net)
    method: Objective = objective or VAE().build()
    kw = {"device": "cpu", **kw}
    history = train(trainee, method, data or source(), held_out, chosen, seed=seed, **kw)
    both = {**weights(trainee), **{f"objective.{k}": v for k, v in weights(method).items()}}
    return both, history


class TwoPlayers(Objective):
    """A VAE and a critic that guesses the squared length of z; the critic's gradient stays its own."""

    second_batch = True

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(5)
            self.critic = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.2), nn.Linear(8, 1))

    def players(self, model: ConditionalVAE) -> dict[str, list[nn.Parameter]]:
        return {"model": list(model.parameters()), "critic": list(self.critic.parameters())}

    def loss(self, model: ConditionalVAE, batch: Batch, ctx: Context) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        assert ctx.second is not None
        q = model.encode(batch.x, batch.c)
        z = q.rsample(torch.empty_like(q.mean).normal_(generator=ctx.generator))
        error = (model.likelihood.mean(model.decode(z, batch.c)) - batch.x).square().flatten(1).sum(1)
        kl = 0.5 * (q.mean.square() + q.log_var.exp() - 1 - q.log_var).sum(1)
        other = model.encode(ctx.second.x, ctx.second.c).mean.detach()
        guess = self.critic(torch.cat((z, other))).squeeze(1)
        truth = torch.cat((z, other)).detach().square().sum(1)
        losses = {"model": (error + kl).mean() + 0.1 * guess.mean(), "critic": (guess - truth).square().mean()}
        return losses, {"error": error, "kl": kl}


class Plain(Objective):
    """The squared error of what is decoded from the mean code: no noise, so that a batch can be cut in two."""

    def loss(self, model, batch, ctx):
        decoded = model.decode(model.encode(batch.x, batch.c).mean, batch.c)
        return {"model": (model.likelihood.mean(decoded) - batch.x).square().flatten(1).sum(1).mean()}, {}


class Overfits(VAEObjective):
    """A loss that has its minimum where the first weight is 1, and drives that weight on and on when training."""

    def loss(self, model, batch, ctx):
        watched = next(model.parameters()).flatten()[0]
        value = -watched if self.training else (watched - 1).square()
        return {"model": value}, {"watched": watched.expand(len(batch.x))}
