"""References for knowngood's speed: the same nets in plain torch loops, and the machine's matrix products.

Every function that runs something returns images (or FLOPs) a second of wall-clock time; work on an accelerator is
waited for before the clock is read. Pixels are (N, 28, 28) uint8.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from knowngood.config import PixelOptions, Settings, VAEOptions
from knowngood.data import ImageSet
from knowngood.models.vae import ConditionalVAE
from knowngood.representations import Pixels
from knowngood.training import Source
from knowngood.training import train as knowngood_train

if TYPE_CHECKING:
    from knowngood.detector.estimator import Detector

DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16}
SIDE = 28


def noise_images(n: int) -> np.ndarray:
    """(n, 28, 28) uint8 noise; speed does not depend on the content of an image."""
    return np.random.default_rng(0).integers(0, 256, (n, SIDE, SIDE), dtype=np.uint8)


def make_model(settings: Settings, condition_dim: int = 0) -> ConditionalVAE:
    """A VAE of 28×28 grey images; net and likelihood must be named. The same weights every time."""
    options = settings.model
    assert isinstance(options, VAEOptions)
    resolved = options.model_copy(update={"prior": "standard"})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return ConditionalVAE(resolved, (1, SIDE, SIDE), condition_dim)


def our_training(pixels: np.ndarray, settings: Settings, device: torch.device, classes: int = 0) -> float:
    """`knowngood.training.train`, all its steps but the first, by a clock outside it.

    A conditional objective is given `classes` classes in turn, one-hot, as conditions and as Mondrian groups.
    """
    images = ImageSet.from_arrays(pixels)
    options, training = settings.model, settings.training
    assert isinstance(options, VAEOptions)
    representation = Pixels.fit(images, PixelOptions())
    objective = options.objective.build()
    facts, width = {}, classes if objective.conditional else 0
    if width:
        stratum = torch.arange(len(pixels)) % classes
        facts = {"c": torch.eye(classes)[stratum], "stratum": stratum}
    source = Source(pixels[:, None], representation.scale, **facts)
    assert training.epochs
    last = training.epochs * -(-len(pixels) // training.batch_size)
    clock: list[float] = []

    def look(step: int) -> None:
        if step in (1, last):
            clock.append(_now(device))

    model, where = make_model(settings, width), settings.device
    knowngood_train(model, objective, source, None, training, seed=0, device=where, on_step=look)
    return (last - 1) * training.batch_size / (clock[-1] - clock[0])


def train(
    pixels: np.ndarray,
    settings: Settings,
    steps: int,
    device: torch.device,
    layout: torch.memory_format = torch.contiguous_format,
) -> float:
    """A plain loop, timed without its first step: float32 pixels on the device, fused AdamW."""
    model = make_model(settings).to(device, memory_format=layout)  # type: ignore[call-overload]
    data = _scaled(pixels, device).contiguous(memory_format=layout)
    optimiser = torch.optim.AdamW(model.parameters(), lr=settings.training.lr, weight_decay=0.0, fused=True)
    size, bf16 = settings.training.batch_size, settings.training.precision == "bf16"
    generator = torch.Generator(device).manual_seed(0)
    started, done = 0.0, 0
    while done < steps:
        for rows in torch.randperm(len(data), generator=generator, device=device).split(size):
            x = data[rows]
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                loss = negative_elbo(model, x, generator)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            done += 1
            if done == 1:
                started = _now(device)
            if done == steps:
                break
    return (steps - 1) * size / (_now(device) - started)


def negative_elbo(model: ConditionalVAE, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """−ELBO, mean over the batch: the same computation as objective `vae`, and nothing else."""
    mean, log_var = model.net.encode(x, None).float().chunk(2, dim=1)
    noise = torch.empty_like(mean).normal_(generator=generator)
    params = model.net.decode(mean + (0.5 * log_var).exp() * noise, None).float()
    reconstruction = -model.likelihood.log_prob(x, params).sum()
    kl = 0.5 * (mean.square() + log_var.exp() - 1 - log_var).sum()
    return (reconstruction + kl) / len(x)


def our_scoring(detector: Detector, pixels: np.ndarray) -> float:
    """`Detector.score_samples`: from uint8 pixels to scores on the CPU."""
    started = time.perf_counter()
    detector.score_samples(pixels)
    return len(pixels) / (time.perf_counter() - started)


@torch.no_grad()
def forward(model: ConditionalVAE, pixels: np.ndarray, size: int, decodes: int, device: torch.device) -> float:
    """Encode once and decode `decodes` times, batches of `size`, float32 pixels on the device, results thrown away."""
    model.eval()
    data = _scaled(pixels, device)
    started = _now(device)
    for x in data.split(size):
        _passes(model, x, decodes)
    return len(pixels) / (_now(device) - started)


def training_flops(settings: Settings, batch: int) -> float:
    """Floating-point operations of forward and backward per image; products and convolutions, as torch counts them."""
    with FlopCounterMode(display=False) as counter:
        negative_elbo(make_model(settings), torch.zeros(batch, 1, SIDE, SIDE)).backward()
    return counter.get_total_flops() / batch


@torch.no_grad()
def forward_flops(settings: Settings, decodes: int) -> float:
    """As `training_flops`, for one encode and `decodes` decodes."""
    with FlopCounterMode(display=False) as counter:
        _passes(make_model(settings), torch.zeros(4, 1, SIDE, SIDE), decodes)
    return counter.get_total_flops() / 4


@torch.no_grad()
def matmul_rate(device: torch.device, dtype: torch.dtype, n: int = 2048, repetitions: int = 5) -> float:
    """FLOP/s of products of two n × n matrices, the fastest of several: the rate of the machine."""
    a, b = (torch.full((n, n), 0.5, device=device, dtype=dtype) for _ in range(2))
    torch.mm(a, b)
    seconds = []
    for _ in range(repetitions):
        started = _now(device)
        torch.mm(a, b)
        seconds.append(_now(device) - started)
    return 2 * n**3 / min(seconds)


def _passes(model: ConditionalVAE, x: Tensor, decodes: int) -> None:
    z = model.net.encode(x, None).chunk(2, dim=1)[0]
    for _ in range(decodes):
        model.net.decode(z, None)


def _scaled(pixels: np.ndarray, device: torch.device) -> Tensor:
    return torch.from_numpy(pixels[:, None]).to(device).float() / 255


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
    return time.perf_counter()
