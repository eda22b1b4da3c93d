"""Other ways to find what is stated wrong: classifiers and nearest neighbours, fitted to the same images.

Each has `fit(x, groups)` on normal images and `score(x, told)`. x is (N, …) float32, what the method sees of an image;
groups and told are (N,) classes, numbers from 0. All are calibrated as the library is: images that were set aside give
p-values within each class.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

import numpy as np
import torch
from scipy.special import logsumexp
from torch import nn

from knowngood.calibration import Calibration, split_normals

AT_ONCE = 512  # images


class Told(NamedTuple):
    """What a method says of M images, each of which is said to be of a class. Higher scores are more anomalous.

    mismatch: (M,) how badly the image fits what it is said to be. itself: (M,) how anomalous it is as an image of any
    class, or None where a method does not say. p_condition, p_value: (M,) their p-values.
    """

    mismatch: np.ndarray
    itself: np.ndarray | None
    p_condition: np.ndarray
    p_value: np.ndarray | None


class Baseline(Protocol):
    def fit(self, x: np.ndarray, groups: np.ndarray) -> Baseline:
        """Fit to normal images (N, …) and their true classes (N,)."""
        ...

    def score(self, x: np.ndarray, told: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """`mismatch` and `itself` of images (M, …) that are said to be of classes (M,)."""
        ...


def odds_against(log_p: np.ndarray, told: np.ndarray) -> np.ndarray:
    """(M,) log (1 − p)/p of the classes told (M,), from log probabilities or other logits (M, K).

    The order is that of −log p. It does not round where p is close to 1.
    """
    rows = np.arange(len(log_p))
    others = np.array(log_p, dtype=np.float64)
    own = others[rows, told]
    others[rows, told] = -np.inf
    return np.asarray(logsumexp(others, axis=1)) - own


class Logistic:
    """Logistic regression. `inverse_penalty` was chosen on the dev forms of the three sets, out of .01 to 10."""

    def __init__(self, seed: int = 0, inverse_penalty: float = 1.0, iterations: int = 200) -> None:
        self.options = {"C": inverse_penalty, "max_iter": iterations, "random_state": seed}

    def fit(self, x: np.ndarray, groups: np.ndarray) -> Logistic:
        from sklearn.linear_model import LogisticRegression

        self.model = LogisticRegression(**self.options).fit(_flat(x), groups)
        return self

    def score(self, x: np.ndarray, told: np.ndarray) -> tuple[np.ndarray, None]:
        logits = self.model.decision_function(_flat(x))
        if logits.ndim == 1:  # of two classes
            logits = np.stack([-logits, logits], axis=1) / 2
        return odds_against(logits, np.searchsorted(self.model.classes_, told)), None


class CNN:
    """A small network trained to classify: two convolutions, 16 and 32 channels, each halved, and a layer of 128."""

    def __init__(self, seed: int = 0, epochs: int = 5) -> None:
        self.seed, self.epochs = seed, epochs

    def fit(self, x: np.ndarray, groups: np.ndarray) -> CNN:
        generator = torch.Generator().manual_seed(self.seed)
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            self.net = _network(x.shape[1:], int(groups.max()) + 1)
        images, truth = torch.from_numpy(x), torch.from_numpy(groups.astype(np.int64))
        batches = self.epochs * (len(x) // 128 + 1)
        optimiser = torch.optim.AdamW(self.net.parameters(), lr=2e-3)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, total_steps=batches + 1)
        for _ in range(self.epochs):
            for some in torch.randperm(len(x), generator=generator).split(128):
                optimiser.zero_grad()
                nn.functional.cross_entropy(self.net(images[some]), truth[some]).backward()
                optimiser.step()
                schedule.step()
        return self

    @torch.no_grad()
    def score(self, x: np.ndarray, told: np.ndarray) -> tuple[np.ndarray, None]:
        self.net.eval()
        logits = [self.net(some).double() for some in torch.from_numpy(x).split(AT_ONCE)]
        return odds_against(torch.cat(logits).numpy(), told), None


class Neighbours:
    """Distance to the nearest normal image of the class told; with `others`, less that to the nearest of another class.

    By itself an image is as anomalous as it is far from the nearest normal image of any class.
    """

    def __init__(self, seed: int = 0, others: bool = False) -> None:
        self.others = others

    def fit(self, x: np.ndarray, groups: np.ndarray) -> Neighbours:
        rows = torch.from_numpy(_flat(x))
        self.banks = [rows[torch.from_numpy(groups == k)] for k in range(int(groups.max()) + 1)]
        return self

    def score(self, x: np.ndarray, told: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        queries = torch.from_numpy(_flat(x)).split(AT_ONCE)
        nearest = [torch.cat([torch.cdist(some, bank).amin(1) for some in queries]) for bank in self.banks]
        distances = torch.stack(nearest, 1).double().numpy()
        rows = np.arange(len(x))
        own, itself = distances[rows, told], distances.min(axis=1)
        if not self.others:
            return own, itself
        distances[rows, told] = np.inf
        return own - distances.min(axis=1), itself


BASELINES: dict[str, Callable[..., Baseline]] = {  # each takes a seed
    "logistic": Logistic,
    "cnn": CNN,
    "neighbours": Neighbours,
    "neighbours-difference": lambda seed=0: Neighbours(seed, others=True),
}


def told_by(
    baseline: Baseline,
    train: tuple[np.ndarray, np.ndarray],
    test: tuple[np.ndarray, np.ndarray],
    *,
    fraction: float,
    alpha: float,
    seed: int,
) -> Told:
    """Fit to a share of `train`, images and their classes, calibrate on the `fraction` set aside, and score `test`."""
    (x, groups), (tested, told) = train, test
    part = split_normals(len(x), groups, select=0.0, calibrate=fraction, seed=seed)
    baseline.fit(x[part["fit"]], groups[part["fit"]])
    held_out = baseline.score(x[part["calibrate"]], groups[part["calibrate"]])
    found = baseline.score(tested, told)
    names = [str(k) for k in range(int(groups.max()) + 1)]
    own = Calibration.fit(held_out[0], groups[part["calibrate"]], names, alpha=alpha).p_values(found[0], told)
    if held_out[1] is None or found[1] is None:
        return Told(found[0], None, own, None)
    return Told(found[0], found[1], own, Calibration.fit(held_out[1], alpha=alpha).p_values(found[1]))


def _network(shape: tuple[int, ...], classes: int) -> nn.Module:
    """Images (C, H, W) → logits."""
    channels, height, width = shape
    return nn.Sequential(
        nn.Conv2d(channels, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(32 * (height // 4) * (width // 4), 128),
        nn.ReLU(),
        nn.Linear(128, classes),
    )


def _flat(x: np.ndarray) -> np.ndarray:
    return x.reshape(len(x), -1)
