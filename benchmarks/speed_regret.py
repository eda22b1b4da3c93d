"""The cost of likelihood regret: the published procedures, one image at a time, and the library's score.

All ways take turns in one process, on one model, several times; the result is the median of the ratios within a turn.
"""

from __future__ import annotations

import copy
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.tables import print_table
from knowngood.config import LikelihoodRegret, parse_settings
from knowngood.data import open_dataset
from knowngood.data.datasets.factors import open_factors
from knowngood.errors import DataError
from knowngood.models.vae import ConditionalVAE, DiagonalGaussian
from knowngood.scores.base import Score, item_sum
from knowngood.scores.likelihood_regret import elbo

MODEL: dict[str, Any] = {
    "representation": "pixels",
    "model": {"name": "vae", "objective": "vae", "net": "conv", "likelihood": "gaussian", "latent_dim": 32},
    "training": {"epochs": 12, "precision": "float32"},
    "score": "reconstruction",
}
TRAINED_ON, BATCH = 2000, 256
STEPS = 100
RATE, DECAY = 2e-4, 5e-5  # of Adam on the encoder, as in the authors' code
OWN_RATE = 0.1  # of Adam on (μ, log σ²)
FEWER = 5  # gradients of the score, with which it gains what the published procedure does
PUBLISHED, CHEAPER, SINGLY, TOGETHER, SOONER, PASSES = (
    "encoder's copy by Adam",
    "(μ, log σ²) by Adam",
    "the score, one by one",
    "the score, a batch",
    f"the score, a batch, {FEWER} steps",
    "encode and decode, a batch",
)
BARS = {PUBLISHED: 100.0}


@dataclass(frozen=True)
class Way:
    what: str
    batch: int
    regrets: Callable[[Tensor], Tensor]  # (batch, *shape) → (batch,) in nats; of the passes anything of this shape


def compare(repetitions: int, seconds: float, device: torch.device) -> list[dict[str, Any]]:
    """A row for each way: `ratio` is its time an image over that of the score on a batch.

    Half of the images scored are like those trained on. `gained` is the regret found, as a share of what the score on
    a batch finds on the same images. `seconds` is about how long a way runs in a turn, though at least one batch.
    """
    from knowngood.detector.estimator import Detector

    pixels, judged, data = one_class()
    settings = {**MODEL, "device": device.type}
    model = Detector.from_settings(parse_settings(settings)).fit(pixels).model_.eval().requires_grad_(False)
    x = torch.from_numpy(judged[:, None]).to(device).float() / 255
    with torch.no_grad():
        ways = make_ways(model, x)
        first = {way.what: measure(way, x[: way.batch]) for way in ways}  # allocators and kernels are warm from here on
        batches = {way.what: max(1, round(seconds / first[way.what][0] / way.batch)) for way in ways}
        turns = [_turn(ways, batches, x, turn) for turn in range(repetitions)]
    rows = [_row(way, data, turns, first[TOGETHER][1]) for way in ways]
    print(", ".join(f"{row['what']} {row['ratio']:.2f}" for row in rows), file=sys.stderr)
    return rows


def one_class() -> tuple[np.ndarray, np.ndarray, str]:
    """Images of one class to train on, `BATCH` others to score, and what they are; (N, H, W) uint8.

    MNIST's threes; where MNIST is not at hand, hearts that are drawn. Those to score are in turn of this class and of
    another.
    """
    try:
        images, kind, data = open_dataset("mnist", split="train", download=False), "3", "MNIST's threes"
    except DataError:
        images, kind, data = open_factors(4 * (TRAINED_ON + BATCH), size=32), "heart", "hearts drawn at 32×32"
    order = np.random.default_rng(0).permutation(len(images))  # drawn ones come from small to large
    same = np.asarray(images.conditions["class"])[order] == kind
    like, odd = order[same], order[~same]
    judged = np.stack((like[TRAINED_ON : TRAINED_ON + BATCH // 2], odd[: BATCH // 2]), axis=1).ravel()
    pixels, scored = (np.stack([images.read(int(i))[..., 0] for i in rows]) for rows in (like[:TRAINED_ON], judged))
    return pixels, scored, f"{data}, {len(pixels):,} images"


def make_ways(model: ConditionalVAE, x: Tensor) -> list[Way]:
    """All six, each ELBO over the common draws of the score. The model is in eval mode and takes no gradients."""
    score, sooner = LikelihoodRegret().build(), LikelihoodRegret(steps=FEWER).build()
    state = score.fit(model, [])
    noise, names = state["noise"].to(x), encoder_names(model, x[:1])
    generator = torch.Generator(x.device).manual_seed(0)

    def scored(some: Tensor, by: Score = score) -> Tensor:
        return by.score(model, state, some, None, torch.zeros(len(some), dtype=torch.long, device=x.device)).values

    return [
        Way(PUBLISHED, 1, lambda one: gain(model, encoder_fitted(model, names, one, generator), one, noise)),
        Way(CHEAPER, 1, lambda one: gain(model, posterior_fitted(model, one, generator), one, noise)),
        Way(SINGLY, 1, scored),
        Way(TOGETHER, BATCH, scored),
        Way(SOONER, BATCH, lambda some: scored(some, sooner)),
        Way(PASSES, BATCH, lambda some: model.decode(model.encode(some).mean).flatten(1)[:, 0]),
    ]


def encoder_names(model: ConditionalVAE, x: Tensor) -> list[str]:
    """Names of the parameters that q(z|x) depends on."""
    trial = copy.deepcopy(model).requires_grad_(True)
    names, parameters = zip(*trial.named_parameters(), strict=True)
    with torch.enable_grad():
        slopes = torch.autograd.grad(torch.cat(trial.encode(x)).sum(), parameters, allow_unused=True)
    return [name for name, slope in zip(names, slopes, strict=True) if slope is not None]


def encoder_fitted(model: ConditionalVAE, names: list[str], x: Tensor, generator: torch.Generator) -> DiagonalGaussian:
    """The posterior of one image under a copy of the encoder that Adam fits to it. Xiao et al., arXiv:2003.02977."""
    own = copy.deepcopy(model)
    encoder = [own.get_parameter(name).requires_grad_() for name in names]
    optimiser = torch.optim.Adam(encoder, lr=RATE, weight_decay=DECAY)
    descend(optimiser, lambda: negative_elbo(model, own.encode(x), x, generator))
    return own.encode(x)


def posterior_fitted(model: ConditionalVAE, x: Tensor, generator: torch.Generator) -> DiagonalGaussian:
    """The same with μ and log σ² themselves fitted, their cheaper form."""
    own = DiagonalGaussian(*(t.clone().requires_grad_() for t in model.encode(x)))
    descend(torch.optim.Adam(own, lr=OWN_RATE), lambda: negative_elbo(model, own, x, generator))
    return DiagonalGaussian(own.mean.detach(), own.log_var.detach())


@torch.enable_grad()
def descend(optimiser: torch.optim.Optimizer, loss: Callable[[], Tensor]) -> None:
    for _ in range(STEPS):
        optimiser.zero_grad()
        loss().backward()
        optimiser.step()


def negative_elbo(model: ConditionalVAE, q: DiagonalGaussian, x: Tensor, generator: torch.Generator) -> Tensor:
    """−ELBO of one image in nats, by one fresh draw of z."""
    z = q.rsample(torch.randn(q.mean.shape, generator=generator, device=x.device))
    log_p = item_sum(model.likelihood.log_prob(x, model.decode(z)))
    return (item_sum(q.kl(model.prior(None, like=q.mean))) - log_p).sum()


def gain(model: ConditionalVAE, q: DiagonalGaussian, x: Tensor, noise: Tensor) -> Tensor:
    """ELBO under q less that under the encoder's posterior, (B,), over the draws `noise` (L, D)."""
    encoded = model.encode(x)
    prior = model.prior(None, like=encoded.mean)
    return elbo(model, q, prior, noise, x, None) - elbo(model, encoded, prior, noise, x, None)


def measure(way: Way, x: Tensor) -> tuple[float, Tensor]:
    """Seconds an image, and the regrets (N,) on the CPU, before which no clock is read."""
    started = time.perf_counter()
    regrets = torch.cat([way.regrets(some) for some in x.split(way.batch)]).cpu()
    return (time.perf_counter() - started) / len(x), regrets


def _turn(ways: list[Way], batches: dict[str, int], x: Tensor, turn: int) -> dict[str, tuple[float, Tensor, Tensor]]:
    """For each way: seconds per image, the images and their regrets. Order and images change from turn to turn."""
    first, found = turn % len(ways), {}
    for way in ways[first:] + ways[:first]:
        count = batches[way.what] * way.batch
        rows = torch.arange(turn * count, (turn + 1) * count) % len(x)
        found[way.what] = (*measure(way, x[rows.to(x.device)]), rows)
    return found


def _row(way: Way, data: str, turns: list[dict[str, Any]], reference: Tensor) -> dict[str, Any]:
    ratios = [turn[way.what][0] / turn[TOGETHER][0] for turn in turns]
    regrets, rows = (torch.cat([turn[way.what][k] for turn in turns]) for k in (1, 2))
    return {
        "what": f"regret: {way.what}",
        "net": MODEL["model"]["net"],
        "data": data,
        "batch": way.batch,
        "precision": "float32",
        "ratio": median(ratios),
        "ratio_low": min(ratios),
        "ratio_high": max(ratios),
        "bar": BARS.get(way.what),
        "milliseconds_an_image": 1e3 * median(turn[way.what][0] for turn in turns),
        "images_timed": len(rows),
        "gained": None if way.what == PASSES else float(regrets.sum() / reference[rows].sum()),
    }


def show(rows: list[dict[str, Any]]) -> None:
    lines = [
        [
            row["what"],
            str(row["batch"]),
            f"{row['milliseconds_an_image']:.3g}",
            f"{row['ratio']:.3g}",
            f"{row['ratio_low']:.3g}–{row['ratio_high']:.3g}",
            "–" if row["bar"] is None else f"{row['bar']:.0f}",
            "–" if row["gained"] is None else f"{row['gained']:.0%}",
        ]
        for row in rows
    ]
    columns = ["what", "batch", "ms an image", "ratio", "range", "bar, at least", "nats gained"]
    print_table(
        columns,
        lines,
        f"likelihood regret ÷ the score on a batch, time an image; {rows[0]['net']} net, {rows[0]['data']}",
    )
