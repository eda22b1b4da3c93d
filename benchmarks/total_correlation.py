"""`python -m benchmarks total-correlation`: which estimates of TC(z|c) are penalties, and what each does to a dCVAE.

**gradient**: of each estimate, on Gaussian codes that stay as they are, of posteriors with σ = .3, of variance 1, in
four Mondrian groups, in batches of 128. Twice: with independent dimensions, where the gradient by log σ should be 0;
and with pairs of dimensions whose means are correlated by .8, where the gradient by that correlation is known. Both are
means over 20 batches, after 100 steps on earlier ones (200 for the discriminator, which learns in them).

**mnist**: a CVAE and dCVAEs on the classes 1, 2, 4, 5, 6, 7 and 9 of MNIST's training images, given the class: 7,000
train, 2,800 others are evaluated. TC within a class is of draws from the posteriors of these: of the Gaussian fitted to
each class, and by a discriminator that learns afterwards, from the codes of the training images.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.factor_metrics import gaussian_total_correlation
from benchmarks.picks import Pick
from benchmarks.tables import print_table, write_csv
from knowngood.config import DCVAE, TCOptions, TrainingOptions, VAEOptions, parse
from knowngood.data.open import open_images
from knowngood.models.distributions import DiagonalGaussian
from knowngood.models.objectives.total_correlation import ESTIMATES, SampledTC
from knowngood.models.vae import ConditionalVAE, resolve
from knowngood.training import Source, train
from knowngood.training.optimisers import Player

Row = dict[str, Any]

DIMENSIONS = (2, 8, 20, 32, 64)
SIGMA, CORRELATION, GROUPS, BATCH = 0.3, 0.8, 4, 128
ESTIMATED: dict[str, tuple[dict[str, Any], int]] = {  # options, and steps before the gradient is taken
    "moments": ({}, 100),
    "gaussian": ({"tc": "gaussian"}, 100),
    "discriminator": ({"tc": "discriminator"}, 200),
    "sampled, mss": ({"tc": "sampled"}, 0),
    "sampled, mws": ({"tc": "sampled", "density": "mws"}, 0),
}
CLASSES = ("1", "2", "4", "5", "6", "7", "9")  # those of the dev form with 0, 3 and 8 held out
TRAINED: dict[str, dict[str, Any]] = {
    "cvae": {"name": "cvae"},
    "dcvae moments": {"name": "dcvae"},
    "dcvae gaussian": {"name": "dcvae", "tc": "gaussian"},
    "dcvae discriminator": {"name": "dcvae", "tc": "discriminator"},
    "dcvae sampled": {"name": "dcvae", "tc": "sampled"},
}
AFTERWARDS = 400  # steps of the discriminator that measures


def main(
    parts: tuple[str, ...] = ("gradient", "mnist"),
    objectives: tuple[str, ...] = tuple(TRAINED),
    beta: float | None = None,
    net: str = "mlp",
    steps: int = 800,
    quick: bool = False,
    out: Path = Path("out/benchmarks/total-correlation"),
) -> list[Row]:
    """Measure and print; returns the rows of both tables.

    Args:
        objectives: the rows of the second table.
        beta: of dcvae, instead of its default, 2.
        steps: of training on MNIST, 128 images each.
        quick: two dimensions, few steps; only checks that it runs.
    """
    rows: list[Row] = []
    if "gradient" in parts:
        found = [
            gradient_row(name, dims, quick=quick) for name in ESTIMATED for dims in DIMENSIONS[: 1 if quick else None]
        ]
        columns = ("estimate", "D", "by log σ, true 0", "by ρ", "by ρ, true")
        print_table(columns, [shown(row, columns) for row in found], "Gradient of TC, a dimension and a pair")
        rows += found
    if "mnist" in parts:
        found = []
        for name in objectives:
            objective = TRAINED[name]
            given = objective if beta is None or objective["name"] == "cvae" else {**objective, "beta": beta}
            found.append({"objective": name, **trained(given, net, steps, quick=quick)})
        columns = ("objective", "A", "KL", "TC, Gaussian", "TC, discriminator", "ms a step")
        print_table(columns, [shown(row, columns) for row in found], f"MNIST, 7 classes, D = 32, {net}")
        rows += found
    write_csv(out / "table.csv", rows)
    return rows


def shown(row: Row, columns: tuple[str, ...]) -> list[str]:
    """The cells of a line, numbers with two digits."""
    return [f"{row[name]:.2f}" if isinstance(row[name], float) else str(row[name]) for name in columns]


class Codes:
    """Posteriors whose means have the variance 1 − σ² and in pairs of dimensions the correlation ρ, in every group."""

    def __init__(self, dims: int, rho: float, seed: int = 0) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.rho = torch.tensor(rho, requires_grad=True)
        self.log_sigma = torch.full((dims,), math.log(SIGMA), requires_grad=True)
        self.centre = torch.randn(GROUPS, dims, generator=self.generator)  # of each group
        r = rho * (1 - SIGMA**2)  # of the codes; TC = −½ log(1 − r²) a pair
        self.slope = r / (1 - r**2) * (1 - SIGMA**2)

    def draw(self) -> tuple[Tensor, DiagonalGaussian, Tensor]:
        """z and its posterior for one batch of equal groups, and their groups."""
        group = torch.arange(BATCH) % GROUPS
        own, noise = torch.randn(2, BATCH, len(self.log_sigma), generator=self.generator)
        second = self.rho * own[:, ::2] + (1 - self.rho**2).sqrt() * own[:, 1::2]
        mean = math.sqrt(1 - SIGMA**2) * torch.stack((own[:, ::2], second), 2).flatten(1) + self.centre[group]
        q = DiagonalGaussian(mean, (2 * self.log_sigma).expand_as(mean))
        return q.rsample(noise), q, group


class Fitting:
    """An estimate that takes batches of codes one after the other, and learns as it does beside a model."""

    def __init__(self, options: TCOptions, dims: int, counts: Tensor, steps: int) -> None:
        self.counts, self.steps, self.step = counts, steps, 0
        self.generator = torch.Generator().manual_seed(1)
        self.estimate: SampledTC = ESTIMATES[options.tc](options)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.estimate.prepare(dims, counts, torch.zeros(1))
        parameters = list(self.estimate.parameters())
        self.player = Player("discriminator", parameters, TrainingOptions(), (0.5, 0.9)) if parameters else None

    def __call__(self, z: Tensor, q: DiagonalGaussian, group: Tensor) -> Tensor:
        """TC of the batch, a scalar."""
        tc, _, losses = self.estimate(z, q, group, self.counts, self.generator)
        if self.player is not None and self.step < self.steps:
            loss, share = losses["discriminator"], 1 - self.step / self.steps
            self.player.step(loss, self.player.gradients(loss, retain_graph=True), share)
        self.step += 1
        return tc.mean()


def gradient(options: TCOptions, codes: Codes, steps: int, batches: int = 20) -> tuple[float, float]:
    """Mean gradient of an estimate by log σ, a dimension, and by ρ, a pair, after so many steps on other batches."""
    dims = len(codes.log_sigma)
    fitting = Fitting(options, dims, torch.full((GROUPS,), 10_000), steps)
    for _ in range(steps):
        fitting(*codes.draw())
    by = [codes.log_sigma, codes.rho]
    found = [torch.autograd.grad(fitting(*codes.draw()), by) for _ in range(batches)]
    by_sigma, by_rho = (torch.stack(each).mean(0) for each in zip(*found, strict=True))
    return by_sigma.mean().item(), by_rho.item() / (dims // 2)


def gradient_row(name: str, dims: int, *, quick: bool = False) -> Row:
    given, steps = ESTIMATED[name]
    options, steps = DCVAE(**given), min(steps, 20) if quick else steps
    correlated = Codes(dims, CORRELATION)
    by_sigma, by_rho = gradient(options, Codes(dims, 0.0), steps)[0], gradient(options, correlated, steps)[1]
    return {"estimate": name, "D": dims, "by log σ, true 0": by_sigma, "by ρ": by_rho, "by ρ, true": correlated.slope}


def mnist(most: int | None = None) -> tuple[Source, Source]:
    """Training and evaluated images, `most` of each class, with their class as condition and Mondrian group."""
    images = open_images("mnist")
    parts = []
    for start, stop in ((0, most or 1000), (1000, 1000 + (most or 400))):
        index = np.concatenate(
            [Pick((name,), 0, split="train", start=start, stop=stop).index(images) for name in CLASSES]
        )
        group = torch.arange(len(CLASSES)).repeat_interleave(stop - start)
        pixels = torch.from_numpy(np.stack([images.read(int(i)) for i in index])).view(-1, 1, 28, 28)
        parts.append(Source(pixels, lambda x: x.float() / 255, c=torch.eye(len(CLASSES))[group], stratum=group))
    return parts[0], parts[1]


def trained(objective: dict[str, Any], net: str, steps: int, *, quick: bool = False) -> Row:
    """A model of this objective, and what its codes and reconstructions of new images are."""
    fit, apart = mnist(50 if quick else None)
    steps, afterwards = (4, 4) if quick else (steps, AFTERWARDS)
    options = parse(VAEOptions, {"objective": objective, "net": net, "latent_dim": 32, "likelihood": "gaussian"})
    built = options.objective.build()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = ConditionalVAE(resolve(options, built.prior, (1, 28, 28)), (1, 28, 28), len(CLASSES))
    training = TrainingOptions(batch_size=BATCH, epochs=max(1, round(steps * BATCH / len(fit))), ema=0.99)
    history = train(model, built, fit, None, training, seed=0, device="cpu")
    (z, q, group), (new, new_q, new_group) = (codes(model, source) for source in (fit, apart))
    x = apart.batch(torch.arange(len(apart))).x
    zeros = torch.zeros_like(new)
    counts = fit.facts.stratum_counts
    fitting = Fitting(DCVAE(tc="discriminator"), z.shape[1], counts, afterwards)
    for step in range(afterwards):
        some = torch.randperm(len(z), generator=torch.Generator().manual_seed(step))[: 2 * BATCH]
        fitting(z[some], DiagonalGaussian(q.mean[some], q.log_var[some]), group[some])
    fitting.estimate.eval()
    with torch.no_grad():
        distance = (model.reconstruct(x, apart.facts.c) - x).flatten(1).norm(dim=1)
        return {
            "A": distance.mean().item(),
            "KL": new_q.kl(DiagonalGaussian(zeros, zeros)).sum(1).mean().item(),
            "TC, Gaussian": float(
                np.mean([gaussian_total_correlation(new[new_group == k]) for k in range(len(CLASSES))])
            ),
            "TC, discriminator": fitting(new, new_q, new_group).item(),
            "ms a step": 1000 * BATCH / history.images_per_second,
        }


@torch.no_grad()
def codes(model: ConditionalVAE, source: Source) -> tuple[Tensor, DiagonalGaussian, Tensor]:
    """A draw from the posterior of every image, the posteriors, and the classes."""
    q = model.encode(source.batch(torch.arange(len(source))).x, source.facts.c)
    return q.rsample(torch.randn(q.mean.shape, generator=torch.Generator().manual_seed(0))), q, source.facts.stratum
