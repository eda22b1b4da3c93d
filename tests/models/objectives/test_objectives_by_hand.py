"""The loss of every objective, worked item by item in plain Python from what the nets put out."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from forms import batch_for, context_for, every_form, model_for, objective_for
from helpers import toy_batch
from knowngood.config import DANVAE, DCVAE, DIPVAE, RFVAE, TCVAE, BetaVAE, FactorVAE, InfoVAE, Options
from knowngood.models.base import Batch
from knowngood.models.objectives import Objective
from knowngood.models.objectives.rf_vae import RFVAEObjective
from knowngood.models.vae import ConditionalVAE

HEAD_SPEED, RELEVANCE_SPEED = 10, 30  # factors of what one number a dimension learns

Rows = list[list[float]]
SEED, STEP, STEPS, TIMES = 4, 10, 100, 5  # of the draws; of the schedule; training items for one of the batch


# What the losses are made of -----------------------------------------------------------------------------------------


def mean(values: Any) -> float:
    listed = list(values)
    return math.fsum(listed) / len(listed)


def log_normal(x: float, m: float, v: float) -> float:
    return -0.5 * ((x - m) ** 2 / v + math.log(v) + math.log(2 * math.pi))


def kl_of_normals(m: float, v: float, m0: float, v0: float) -> float:
    return 0.5 * (v / v0 + (m - m0) ** 2 / v0 - 1 - math.log(v / v0))


def log_densities(z: Rows, m: Rows, v: Rows, stratum: list[int], density: str) -> tuple[list[float], Rows]:
    """log q̂(z_i|c_i) and log q̂(z_id|c_i): a weighted mean over the items of the same stratum."""
    joint, marginals = [], []
    for i, point in enumerate(z):
        group = [j for j, k in enumerate(stratum) if k == stratum[i]]
        n, b = TIMES * len(group), len(group)
        each = []
        for j in group:
            weight = 1 / (n * b)
            if density == "mss":
                weight = 1 / n if j == i else (n - 1) / (n * (b - 1))
            each.append((weight, [math.exp(log_normal(*of)) for of in zip(point, m[j], v[j], strict=True)]))
        joint.append(math.log(math.fsum(w * math.prod(p) for w, p in each)))
        marginals.append([math.log(math.fsum(w * p[d] for w, p in each)) for d in range(len(point))])
    return joint, marginals


def linear(layer: Any, x: list[float]) -> list[float]:
    rows, biases = layer.weight.tolist(), layer.bias.tolist()
    return [math.fsum(map(math.prod, zip(row, x, strict=True))) + b for row, b in zip(rows, biases, strict=True)]


def log_odds(z: list[float], objective: Any) -> float:
    """What the discriminator says of one z: leaky linear layers, and a last one without the leak."""
    for layer in (objective.discriminator.first, *objective.discriminator.between):
        z = [x if x > 0 else 0.2 * x for x in linear(layer, z)]
    return linear(objective.discriminator.last, z)[0]


def moments(objective: Any, k: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Mean and covariance of the codes of stratum k so far, and how many they are."""
    codes = objective.estimate.ratio.codes
    slot = int(codes.slot[k])
    return codes.mean[k].numpy(), codes.covariance[slot].numpy(), float(codes.seen[slot])


def added_by_moments(z: list[float], objective: Any, k: int) -> float:
    """Σ over pairs of dimensions and polynomials of M·h_a(z_i)·h_b(z_j) − ½M², M of order 3 or 4, over a Gaussian's."""
    centre, covariance, _ = moments(objective, k)
    polynomials, total, d = objective.estimate.ratio.polynomials, 0.0, len(z)
    of_h, slot = polynomials.covariance.numpy(), int(objective.estimate.ratio.codes.slot[k])
    deviation = np.sqrt(np.diagonal(covariance))
    u = np.clip((np.array(z) - centre) / deviation, -3, 3)
    h = np.stack((u, (u**2 - 1) / 2**0.5, (u**3 - 3 * u) / 6**0.5)) - polynomials.mean[slot].numpy().reshape(3, d)
    for i, j in itertools.combinations(range(d), 2):
        for a, b in ((0, 1), (1, 0), (1, 1), (0, 2), (2, 0)):
            m = of_h[slot, a * d + i, b * d + j]
            if a == b == 1:
                m -= (covariance[i, j] / deviation[i] / deviation[j]) ** 2
            total += m * h[a, i] * h[b, j] - m**2 / 2
    return float(total)


def gaussian_log_ratio(z: list[float], mean: np.ndarray, covariance: np.ndarray, n: float) -> float:
    """log N(z; m, Σ) − Σ_d log N(z_d; m_d, Σ_dd), corrected for the bias of n codes."""
    d, deviation = len(z), np.sqrt(np.diagonal(covariance))
    u, r = (np.array(z) - mean) / deviation, covariance / np.outer(deviation, deviation) + 1e-4 * np.eye(len(z))
    squared = (n - d - 1) / n * u @ np.linalg.inv(r) @ u - u @ u
    return float(-0.5 * squared - 0.5 * np.linalg.slogdet(r)[1] - d * (d - 1) / (4 * n))


def kernel(x: list[float], y: list[float], name: str) -> float:
    squared, scale = sum((a - b) ** 2 for a, b in zip(x, y, strict=True)), 2 * len(x)
    return math.exp(-squared / scale) if name == "rbf" else scale / (scale + squared)


def squared_mmd(x: Rows, y: Rows, name: str) -> float:
    def within(points: Rows) -> float:
        return mean(kernel(a, b, name) for i, a in enumerate(points) for j, b in enumerate(points) if i != j)

    return within(x) + within(y) - 2 * mean(kernel(a, b, name) for a in x for b in y)


# The losses ----------------------------------------------------------------------------------------------------------


class Case:
    """One batch: posterior, prior, the draws of z in the order they are taken, and the two terms of the ELBO."""

    def __init__(self, model: ConditionalVAE, objective: Objective, batch: Batch) -> None:
        self.model, self.objective, self.batch = model, objective, batch
        self.stratum: list[int] = self.batch.stratum.tolist()
        self.generator = torch.Generator().manual_seed(SEED)
        q, r = model.encode(self.batch.x, self.batch.c), model.prior(self.batch.c, like=self.batch.x)
        self.m, self.v = q.mean.tolist(), q.log_var.exp().tolist()
        self.m0, self.v0 = r.mean.tolist(), r.log_var.exp().tolist()
        self.z = self.draw(self.m, self.v)
        params = model.decode(torch.tensor(self.z, dtype=torch.float64), self.batch.c)
        sigma: float = model.likelihood.log_sigma(params).exp().item()  # type: ignore[operator]
        self.reconstruction = [
            -math.fsum(log_normal(a, b, sigma**2) for a, b in zip(x, y, strict=True))
            for x, y in zip(self.batch.x.tolist(), params.tolist(), strict=True)
        ]
        of_items = zip(self.m, self.v, self.m0, self.v0, strict=True)
        self.kls = [[kl_of_normals(*each) for each in zip(*item, strict=True)] for item in of_items]  # (B, D)
        self.kl = [math.fsum(each) for each in self.kls]
        self.elbo = mean(self.reconstruction) + mean(self.kl)

    def draw(self, m: Rows, v: Rows) -> Rows:
        noise = torch.empty(len(m), len(m[0]), dtype=torch.float64).normal_(generator=self.generator).tolist()
        return [[a + math.sqrt(b) * e for a, b, e in zip(*item, strict=True)] for item in zip(m, v, noise, strict=True)]

    def product(self) -> Rows:
        """A draw of each item of the second batch, then each dimension in an order of its own."""
        q = self.model.encode(toy_batch(self.model, n=36, seed=7).x)
        z = self.draw(q.mean.tolist(), q.log_var.exp().tolist())
        keys = torch.rand(len(z), len(z[0]), generator=self.generator).t().tolist()
        orders = [sorted(range(len(z)), key=row.__getitem__) for row in keys]
        return [[z[order[i]][d] for d, order in enumerate(orders)] for i in range(len(z))]

    def against(self, joint: Rows, product: Rows) -> float:
        """The discriminator's cross-entropy."""
        right = [math.log1p(math.exp(-log_odds(z, self.objective))) for z in joint]
        wrong = [math.log1p(math.exp(log_odds(z, self.objective))) for z in product]
        return (mean(right) + mean(wrong)) / 2


def elbo(case: Case, _: Options) -> dict[str, float]:
    return {"model": case.elbo}


def beta_vae(case: Case, options: BetaVAE) -> dict[str, float]:
    rec, kl = mean(case.reconstruction), mean(case.kl)
    if options.capacity is None:
        return {"model": rec + options.beta * kl}
    grown = STEP / (0.5 * STEPS)  # capacity grows over half of the steps by default
    return {"model": rec + options.gamma * abs(kl - options.capacity * grown)}


def dcvae(case: Case, options: DCVAE) -> dict[str, float]:
    if options.tc == "bound":
        return elbo(case, options)
    tc, losses = total_correlation(case, options, case.stratum)
    assert options.beta is not None
    return {"model": case.elbo + (options.beta - 1) * tc, **losses}


def total_correlation(case: Case, options: Any, stratum: list[int]) -> tuple[float, dict[str, float]]:
    """TC of one batch, and the loss of the discriminator where there is one."""
    if options.tc == "sampled":
        joint, marginals = log_densities(case.z, case.m, case.v, stratum, options.density)
        return mean(a - math.fsum(b) for a, b in zip(joint, marginals, strict=True)), {}
    known = [moments(case.objective, k) for k in stratum]
    ratios = [gaussian_log_ratio(z, *of) for z, of in zip(case.z, known, strict=True)]
    if options.tc == "moments":
        return mean(
            r + added_by_moments(z, case.objective, k) for r, z, k in zip(ratios, case.z, stratum, strict=True)
        ), {}
    if options.tc == "gaussian":
        return mean(ratios), {}
    width, places = max(stratum) + 1, sorted(range(len(stratum)), key=stratum.__getitem__)
    keys = torch.rand(len(case.z), len(case.z[0]), generator=case.generator).t().tolist()
    product = [[0.0] * len(case.z[0]) for _ in case.z]
    for d, row in enumerate(keys):
        order = sorted(range(len(stratum)), key=lambda i, row=row: (stratum[i], row[i]))
        for place, i in zip(places, order, strict=True):
            product[place][d] = case.z[i][d]

    def added(z: list[float], k: int, of: Any) -> float:
        standardised = ((np.array(z) - of[0]) / np.sqrt(np.diagonal(of[1]))).tolist()
        return log_odds([*standardised, *(float(k == j) for j in range(width))], case.objective.estimate)

    joint = [r + added(z, k, of) for r, z, k, of in zip(ratios, case.z, stratum, known, strict=True)]
    other = [gaussian_log_ratio(z, *of) + added(z, k, of) for z, k, of in zip(product, stratum, known, strict=True)]
    against = mean(math.log1p(math.exp(-x)) for x in joint) + mean(math.log1p(math.exp(x)) for x in other)
    return mean(joint), {"discriminator": against / 2}


def tc_vae(case: Case, options: TCVAE) -> dict[str, float]:
    _, marginals = log_densities(case.z, case.m, case.v, [0] * len(case.z), options.density)
    own = [math.fsum(map(log_normal, *item)) for item in zip(case.z, case.m, case.v, strict=True)]
    prior = [math.fsum(map(log_normal, *item)) for item in zip(case.z, case.m0, case.v0, strict=True)]
    tc, losses = total_correlation(case, options, [0] * len(case.z))
    information = mean(own) - tc - mean(map(math.fsum, marginals))
    dimensions = mean(map(math.fsum, marginals)) - mean(prior)
    weighted = options.alpha * information + options.beta * tc + options.gamma * dimensions
    return {"model": mean(case.reconstruction) + weighted, **losses}


def factor_vae(case: Case, options: FactorVAE) -> dict[str, float]:
    tc = mean(log_odds(z, case.objective) for z in case.z)
    return {"model": case.elbo + options.gamma * tc, "discriminator": case.against(case.z, case.product())}


def rf_vae(case: Case, options: RFVAE) -> dict[str, float]:
    r: list[float] = case.objective.relevance.tolist()  # type: ignore[union-attr]
    weights = [options.lambda_max - (options.lambda_max - options.lambda_min) * p for p in r]
    weighted = mean(math.fsum(w * k for w, k in zip(weights, item, strict=True)) for item in case.kls)

    def relevant(points: Rows) -> Rows:
        return [[p * x for p, x in zip(r, z, strict=True)] for z in points]

    tc = mean(log_odds(z, case.objective) for z in relevant(case.z))
    entropy = -math.fsum(p * math.log(p) + (1 - p) * math.log(1 - p) for p in r)
    eta_h = options.eta_h * STEP / STEPS  # it rises from the first step on in this form
    loss = mean(case.reconstruction) + weighted + options.gamma * tc + options.eta_s * math.fsum(r) + eta_h * entropy
    against = case.against(relevant(case.z), relevant(case.product()))
    return {"model": loss, "discriminator": against, "relevance": loss}


def dip_vae(case: Case, options: DIPVAE) -> dict[str, float]:
    dims = range(len(case.m[0]))
    centre = [mean(m[d] for m in case.m) for d in dims]
    c = [[mean((m[a] - centre[a]) * (m[b] - centre[b]) for m in case.m) for b in dims] for a in dims]
    if options.form == "II":
        for d in dims:
            c[d][d] += mean(v[d] for v in case.v)
    assert options.lambda_d is not None
    off = options.lambda_od * math.fsum(c[a][b] ** 2 for a in dims for b in dims if a != b)
    return {"model": case.elbo + off + options.lambda_d * math.fsum((c[d][d] - 1) ** 2 for d in dims)}


def info_vae(case: Case, options: InfoVAE) -> dict[str, float]:
    mmd = squared_mmd(case.z, case.draw(case.m0, case.v0), options.kernel)
    kl = (1 - options.alpha) * mean(case.kl)
    return {"model": mean(case.reconstruction) + kl + (options.alpha + options.lambda_mmd - 1) * mmd}


def dan_vae(case: Case, options: DANVAE) -> dict[str, float]:
    assert case.batch.factors is not None
    objective: Any = case.objective
    first, last = slice(None, -options.nuisance_dim), slice(-options.nuisance_dim, None)
    spread = (HEAD_SPEED * objective.nuisance_log_var).exp().tolist()
    costs = []
    for z, m, v, kls, y in zip(case.z, case.m, case.v, case.kls, case.batch.factors.tolist(), strict=True):
        nuisance, error = math.fsum(kls[last]), 0.0
        if not any(map(math.isnan, y)):
            centre, guess = linear(objective.nuisance_mean, y), linear(objective.head, z[last])
            known = zip(m[last], v[last], [HEAD_SPEED * x for x in centre], spread, strict=True)
            nuisance = math.fsum(kl_of_normals(*each) for each in known)
            error = math.fsum((a - HEAD_SPEED * b) ** 2 for a, b in zip(y, guess, strict=True))
        costs.append(options.beta_a * math.fsum(kls[first]) + options.beta_n * nuisance + options.head_weight * error)
    return {"model": mean(case.reconstruction) + mean(costs)}


BY_HAND: dict[str, Callable[[Case, Any], dict[str, float]]] = {
    "vae": elbo,
    "beta_vae": beta_vae,
    "cvae": elbo,
    "dcvae": dcvae,
    "factor_vae": factor_vae,
    "tc_vae": tc_vae,
    "rf_vae": rf_vae,
    "dip_vae": dip_vae,
    "info_vae": info_vae,
    "corex": elbo,
    "dan_vae": dan_vae,
}


@pytest.mark.slow
@every_form
def test_density_terms_and_loss_of_every_player_worked_by_hand(options: Options) -> None:
    model = model_for(options, shape=(4,))
    objective = objective_for(options, model)
    if isinstance(objective, RFVAEObjective):
        with torch.no_grad():  # each dimension its own relevance: .95, .05 and .62
            objective.raw_relevance.copy_(torch.tensor([3.0, -3.0, 0.5]) / RELEVANCE_SPEED)
    case = Case(model, objective, batch_for(options, model, n=36))
    context = context_for(objective, model, case.batch, seed=SEED, step=STEP, total_steps=STEPS, times=TIMES)
    losses, terms = objective.loss(model, case.batch, context)
    expected = BY_HAND[options.name](case, options)
    assert {player: loss.item() for player, loss in losses.items()} == pytest.approx(expected, rel=1e-9)
    assert terms["reconstruction"].tolist() == pytest.approx(case.reconstruction, rel=1e-9)
    if options.name != "dan_vae":  # whose prior depends on the factors
        assert terms["kl"].tolist() == pytest.approx(case.kl, rel=1e-9)
