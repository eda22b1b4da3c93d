"""Baselines of inspection on the same features: a Gaussian per location (PaDiM), neighbours in a coreset (PatchCore),
one Gaussian for all locations, and the residual from a subspace of all patches.

Features are (N, F, h, w) float32: F numbers at each location of a grid, N images. A baseline has `fit(features)` on
normal images and `score(features)`, which gives image scores (M,) and maps (M, h, w), float32; higher: more anomalous.
`smooth` brings maps to image size as both papers do. Contrast needs the images alone, no features.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from knowngood.data import ImageSet
from knowngood.data.image_factors import measure
from knowngood.errors import DataError

Scored = tuple[np.ndarray, np.ndarray]
VALUES_AT_ONCE = 1 << 23  # numbers of an intermediate result: 32 MB in float32
POOL = 256  # points among which a round of the greedy choice is made


class FeatureBaseline(Protocol):
    def fit(self, features: np.ndarray) -> FeatureBaseline:
        """Fit to normal images (N, F, h, w)."""
        ...

    def score(self, features: np.ndarray) -> Scored:
        """Image scores (M,) and maps (M, h, w)."""
        ...


class Padim:
    """PaDiM (2011.08785): at each position a Gaussian with its own mean and full covariance + 0.01 I.

    The map is the Mahalanobis distance at each position (eq. 2), the image score its largest value. The paper takes the
    largest after `smooth`.

    Args:
        channels: so many features, drawn once at random, as in the paper (100 of ResNet-18's 448); None takes all.
        seed: of that draw.
    """

    RIDGE = 0.01

    def __init__(self, channels: int | None = None, seed: int = 0) -> None:
        self.channels, self.seed = channels, seed

    def fit(self, features: np.ndarray) -> Padim:
        n, f, self.h, self.w = _shape(features)
        if n < 2:
            raise DataError(f"PaDiM needs at least 2 good images for a covariance; there are {n}")
        drawn = np.random.default_rng(self.seed).permutation(f)[: self.channels]
        self.f, self.chosen = f, np.sort(drawn)
        k = len(drawn)
        self.mean = torch.empty(self.h * self.w, 1, k)
        self.whitening = torch.empty(self.h * self.w, k, k)  # the inverse of the covariance's Cholesky factor
        for part in self._parts(n):
            x = self._at(features, part).double()  # (P, N, k)
            mean = x.mean(dim=1, keepdim=True)
            x -= mean
            covariance = x.mT @ x / (n - 1)
            covariance.diagonal(dim1=1, dim2=2).add_(self.RIDGE)
            factor = torch.linalg.cholesky(covariance)
            eye = torch.eye(k, dtype=torch.float64).expand_as(factor)
            self.whitening[part] = torch.linalg.solve_triangular(factor, eye, upper=False).float()
            self.mean[part] = mean.float()
        return self

    def score(self, features: np.ndarray) -> Scored:
        n = _shape(features, (self.f, self.h, self.w))[0]
        maps = torch.empty(n, self.h * self.w)
        for part in self._parts(n):
            white = (self._at(features, part) - self.mean[part]) @ self.whitening[part].mT
            maps[:, part] = white.norm(dim=2).T
        return maps.amax(dim=1).numpy(), maps.reshape(n, self.h, self.w).numpy()

    def _parts(self, n: int) -> list[slice]:
        """Slices of the positions, small enough for the memory of their values and covariances."""
        k = len(self.chosen)
        step = max(1, VALUES_AT_ONCE // (2 * k * max(n, k)))
        return [slice(start, start + step) for start in range(0, self.h * self.w, step)]

    def _at(self, features: np.ndarray, part: slice) -> Tensor:
        """(P, N, k) float32."""
        flat = features.reshape(len(features), self.f, -1)[:, :, part]
        return _tensor(flat[:, self.chosen].transpose(2, 0, 1))


class CoresetNeighbours:
    """PatchCore (2106.08265): distance to the nearest of a coreset of normal patches.

    At most `candidates` patches, drawn at random from all normal images, are candidates. The coreset is `share`
    of them, chosen greedily: each next patch is the one farthest from those chosen, seen in a random projection to 128
    dimensions (algorithm 1). Distances of the map are Euclidean, between unprojected features.

    The image score is the largest distance of the map, at patch p with nearest neighbour m, times
    1 − exp‖p − m‖ / Σ exp‖p − n‖ over the `neighbours` patches n of the coreset nearest to m, m included (eq. 7).

    Args:
        share: of the candidates, above 0, at most 1.
        candidates: None takes all patches: memory and seconds grow with them.
        neighbours: b of eq. 7.
        seed: of the candidates, the projection and the first patch.
    """

    PROJECTED = 128

    def __init__(self, share: float = 0.1, candidates: int | None = 40_000, neighbours: int = 9, seed: int = 0) -> None:
        self.share, self.candidates, self.neighbours, self.seed = share, candidates, neighbours, seed

    def fit(self, features: np.ndarray) -> CoresetNeighbours:
        n, self.f, self.h, self.w = _shape(features)
        rng = np.random.default_rng(self.seed)
        positions = self.h * self.w
        taken = np.sort(rng.permutation(n * positions)[: self.candidates])
        flat = features.reshape(n, self.f, positions)
        patches = _tensor(flat[taken // positions, :, taken % positions])  # (K, F)
        size = max(1, round(self.share * len(patches)))
        self.bank = patches[greedy_coreset(_projected(patches, self.PROJECTED, rng), size, rng)]
        self.squares = (self.bank**2).sum(dim=1)
        return self

    def score(self, features: np.ndarray) -> Scored:
        n = _shape(features, (self.f, self.h, self.w))[0]
        maps, scores = np.empty((n, self.h, self.w), np.float32), np.empty(n, np.float32)
        for i in range(n):
            patches = _tensor(features[i].reshape(self.f, -1).T)
            distance, nearest = self._nearest(patches)
            maps[i] = distance.reshape(self.h, self.w).numpy()
            worst = int(distance.argmax())
            scores[i] = float(distance[worst]) * self._weight(patches[worst], int(nearest[worst]))
        return scores, maps

    def _nearest(self, patches: Tensor) -> tuple[Tensor, Tensor]:
        """Distance to the nearest of the bank, and which it is, (P,) each."""
        step = max(1, VALUES_AT_ONCE // len(self.bank))
        found = [torch.addmm(self.squares, part, self.bank.T, alpha=-2).min(dim=1) for part in patches.split(step)]
        nearest = torch.cat([part.indices for part in found])
        # Once more without the cancellation of |p|² − 2pm + |m|².
        return (patches - self.bank[nearest]).norm(dim=1), nearest

    def _weight(self, patch: Tensor, nearest: int) -> float:
        if min(self.neighbours, len(self.bank)) < 2:
            return 1.0
        round_it = (self.bank - self.bank[nearest]).norm(dim=1)
        others = round_it.topk(min(self.neighbours, len(self.bank)), largest=False).indices
        distances = (self.bank[others] - patch).norm(dim=1)
        own = (self.bank[nearest] - patch).norm()
        return float(1 - torch.exp(own - distances.logsumexp(dim=0)))


class OneGaussian:
    """PaDiM with one mean and one covariance (+ 0.01 I) for all locations: the Mahalanobis distance of each patch.

    The image score is the largest value of the map.
    """

    def fit(self, features: np.ndarray) -> OneGaussian:
        self.shape, (self.mean, covariance) = features.shape[1:], _moments(features)
        covariance.diagonal().add_(Padim.RIDGE)
        factor = torch.linalg.cholesky(covariance)
        eye = torch.eye(len(factor), dtype=factor.dtype)
        self.whitening = torch.linalg.solve_triangular(factor, eye, upper=False).float()
        return self

    def score(self, features: np.ndarray) -> Scored:
        n, _, h, w = _shape(features, self.shape)
        maps = torch.stack([((_patches(each) - self.mean) @ self.whitening.T).norm(dim=1) for each in features])
        return maps.amax(dim=1).numpy(), maps.reshape(n, h, w).numpy()


class SubspaceResidual:
    """Subspace residual (SubspaceAD, 2602.23013): the PCA of all patches, whose leading components keep `kept`.

    The map is the squared distance of each patch to that subspace, the image score the mean of its highest `TOP`. The
    paper has the features of DINOv2, and augments few images; here are the features of the other baselines.

    Args:
        kept: share of the variance, above 0, at most 1; that of the paper.
    """

    TOP = 0.01

    def __init__(self, kept: float = 0.99) -> None:
        self.kept = kept

    def fit(self, features: np.ndarray) -> SubspaceResidual:
        self.shape, (self.mean, covariance) = features.shape[1:], _moments(features)
        values, vectors = torch.linalg.eigh(covariance)
        share = values.flip(0).clamp(min=0).cumsum(0) / values.clamp(min=0).sum()
        leading = int((share < self.kept).sum()) + 1
        self.components = vectors.flip(1)[:, :leading].float()
        return self

    def score(self, features: np.ndarray) -> Scored:
        n, _, h, w = _shape(features, self.shape)
        maps = torch.stack([self._residual(_patches(each) - self.mean) for each in features])
        top = maps.topk(max(1, round(self.TOP * h * w)), dim=1).values.mean(dim=1)
        return top.numpy(), maps.reshape(n, h, w).numpy()

    def _residual(self, off: Tensor) -> Tensor:
        return (off - off @ self.components @ self.components.T).square().sum(dim=1)


def greedy_coreset(points: Tensor, size: int, rng: np.random.Generator) -> Tensor:
    """Greedy k-centre (2106.08265, algorithm 1): which `size` of the points (K, D) are chosen, in that order.

    The first is drawn at random, each next is a point farthest from all chosen ones; no clustering of that size has
    less than half its radius. Exact, but in rounds: among the points now farthest the greedy order is found with their
    mutual distances alone, for as long as the best of them is at least as far as every other point was before.
    """
    size = min(size, len(points))
    squares = (points**2).sum(dim=1)
    chosen = [int(rng.integers(len(points)))]
    far = _least_squared(points, squares, torch.tensor(chosen))
    while len(chosen) < size:
        far[torch.tensor(chosen)] = -1.0
        top, pool = far.topk(min(POOL, len(points)))
        bound = float(top[-1]) if len(pool) < len(points) else -1.0
        between = torch.cdist(points[pool], points[pool], compute_mode="donot_use_mm_for_euclid_dist").square().numpy()
        distance, picked = top.numpy().copy(), []
        while len(chosen) + len(picked) < size:
            at = int(distance.argmax())
            if picked and distance[at] < bound:
                break
            picked.append(at)
            distance = np.minimum(distance, between[at])
            distance[picked] = -1.0
        new = pool[torch.tensor(picked)]
        chosen += new.tolist()
        far = torch.minimum(far, _least_squared(points, squares, new))
    return torch.tensor(chosen)


def _least_squared(points: Tensor, squares: Tensor, centres: Tensor) -> Tensor:
    """(K,) squared distance of each point to the nearest of those at `centres`."""
    step = max(1, VALUES_AT_ONCE // len(centres))
    there = points[centres].T
    parts = [torch.addmm(squares[centres], part, there, alpha=-2).amin(dim=1) for part in points.split(step)]
    return (torch.cat(parts) + squares).clamp_(min=0)


def _projected(patches: Tensor, dimensions: int, rng: np.random.Generator) -> Tensor:
    """A random projection that keeps distances roughly (Johnson, Lindenstrauss); none where it would not save any."""
    f = patches.shape[1]
    if f <= dimensions:
        return patches
    return patches @ _tensor(rng.standard_normal((f, dimensions)) / np.sqrt(dimensions))


def smooth(maps: np.ndarray, size: tuple[int, int], sigma: float = 4.0) -> np.ndarray:
    """Maps (N, h, w) at image size (N, H, W) float32: bilinear, then a Gaussian of `sigma` image pixels; 0: none."""
    from scipy.ndimage import gaussian_filter

    out = np.empty((len(maps), *size), np.float32)
    for i, map in enumerate(maps):
        large = torch.nn.functional.interpolate(_tensor(map)[None, None], size=size, mode="bilinear")
        out[i] = gaussian_filter(large[0, 0].numpy(), sigma) if sigma else large[0, 0].numpy()
    return out


def contrast_scores(train: ImageSet, test: ImageSet) -> dict[str, np.ndarray]:
    """Scores by the contrast of each image, (M,) per direction, as `baselines.Contrast` on luminance from 0 to 1.

    All directions are shown, so that none is chosen by a test image.
    """
    good, judged = (measure(images, ["contrast"])["contrast"] for images in (train, test))
    return {
        "low contrast": -judged,
        "high contrast": judged,
        "unusual contrast": np.abs(judged - np.median(good)),
    }


def _shape(features: np.ndarray, fitted: tuple[int, int, int] | None = None) -> tuple[int, int, int, int]:
    if features.ndim != 4 or 0 in features.shape:
        raise DataError(f"features of shape {features.shape}; expected (N, F, h, w), none of them 0")
    if fitted is not None and features.shape[1:] != fitted:
        raise DataError(f"features (F, h, w) = {features.shape[1:]}; the baseline was fitted on {fitted}")
    n, f, h, w = features.shape
    return n, f, h, w


def _moments(features: np.ndarray) -> tuple[Tensor, Tensor]:
    """Mean (F,) float32 and covariance (F, F) float64 of all patches of all images."""
    n, f, h, w = _shape(features)
    if n * h * w < 2:
        raise DataError("a covariance needs at least 2 patches; there is 1")
    mean = sum((_patches(each).double().sum(dim=0) for each in features), torch.zeros(f).double()) / (n * h * w)
    covariance = torch.zeros(f, f, dtype=torch.float64)
    for each in features:
        off = _patches(each).double() - mean
        covariance += off.T @ off
    return mean.float(), covariance / (n * h * w - 1)


def _patches(grid: np.ndarray) -> Tensor:
    """(F, h, w) → (h · w, F) float32."""
    return _tensor(grid.reshape(len(grid), -1).T)


def _tensor(x: np.ndarray) -> Tensor:
    """A float32 copy."""
    return torch.from_numpy(np.array(x, dtype=np.float32, order="C"))
