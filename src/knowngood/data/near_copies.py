"""Images that show nearly the same: recompressed, brighter, rotated or mirrored copies, and frames of one burst.

A perceptual hash whose reference is the data set itself. Images of one product under one camera all look alike, so the
mean image is subtracted, and the main directions in which images differ are brought to equal variance. What is left is
the individual. Pictures under 32 px hold too little of it: digits of two writers can be as alike as copies. Bits of
random projections of it (locality-sensitive hashing, Charikar 2002) find candidates, and two correlations decide.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.fft import dctn
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from knowngood.data.combinations import count_up
from knowngood.data.values import Ints

Floats = NDArray[np.floating]

SIDE, KEPT = 32, 16  # pixels of the reduced image, and its coefficients, a side
FEWEST = 20  # images; of fewer it cannot be said what is individual
DIRECTIONS, A_DIRECTION = 32, 4  # at most, and images for each
BANDS, MOST = 16, 64  # hashes, and images of one hash that an image is compared with
ALIKE, INDIVIDUAL = 0.98, 0.95  # least correlation of what is not the mean image, and in the main directions


def signature(image: np.ndarray) -> Floats:
    """(16, 16) float32: low frequencies (DCT) of the grey image at 32 × 32, without its mean, of length 1 or 0."""
    largest = max(abs(float(image.max())), abs(float(image.min())), 1e-300)  # first: large values have no finite sum
    grey = Image.fromarray((image / largest).mean(axis=2).astype(np.float32))
    small = np.asarray(grey.resize((SIDE, SIDE), Image.Resampling.BOX), dtype=np.float32)
    found = np.asarray(dctn(small, norm="ortho"))[:KEPT, :KEPT]
    found[0, 0] = 0
    return found / max(float(np.linalg.norm(found)), 1e-12)


def near_copies(signatures: Floats) -> Ints:
    """(N,) the same number for images (N, 16, 16) that are near-copies of each other, also by way of others.

    Time and memory grow with N: nothing is compared pair by pair but images of the same hash.
    """
    n, alone = len(signatures), np.arange(len(signatures))
    if n < FEWEST:
        return alone
    flat = signatures.reshape(n, -1)
    mean = flat.mean(axis=0)
    residual = flat - mean
    values, vectors = np.linalg.eigh(residual.T @ residual / n)
    count = min(DIRECTIONS, n // A_DIRECTION, int((values > 1e-9).sum()))
    if count < 2:
        return alone
    whiten = vectors[:, -count:] / np.sqrt(values[-count:])

    def rest(turn: int, rows: Ints) -> Floats:
        return _turned(signatures[rows], turn).reshape(len(rows), KEPT * KEPT) - mean

    codes = np.stack([_unit(rest(turn, alone) @ whiten) for turn in range(8)])
    rng, bits, pairs = np.random.default_rng(0), max(6, int(np.ceil(np.log2(n)))), []
    for _ in range(BANDS):
        hashes = (codes @ rng.normal(size=(count, bits)).astype(np.float32) > 0) @ (1 << np.arange(bits))  # (8, N)
        order = np.argsort(hashes[0], kind="stable")
        first, last = (np.searchsorted(hashes[0][order], hashes, side=side) for side in ("left", "right"))
        for turn in range(8):
            sizes = np.minimum(last[turn] - first[turn], MOST)
            one = np.repeat(alone, sizes)
            other = order[np.repeat(first[turn], sizes) + count_up(sizes)]
            kept = (one != other) & (_products(codes[turn], codes[0], one, other) > INDIVIDUAL)
            one, other = one[kept], other[kept]
            a, b = np.unique(one, return_inverse=True), np.unique(other, return_inverse=True)
            kept = _products(_unit(rest(turn, a[0])), _unit(rest(0, b[0])), a[1], b[1]) > ALIKE
            pairs.append(np.stack([one[kept], other[kept]]))
    one, other = np.concatenate(pairs, axis=1)
    return connected_components(coo_matrix((np.ones(len(one), dtype=bool), (one, other)), shape=(n, n)))[1]


def _turned(signatures: Floats, turn: int) -> Floats:
    """The signatures of images turned by a multiple of 90°, and mirrored: of the 8 symmetries of the square."""
    signs = np.where(np.arange(KEPT) % 2, -1.0, 1.0).astype(np.float32)  # a flip changes the sign of odd frequencies
    found = signatures.transpose(0, 2, 1) if turn & 4 else signatures
    found = found * signs[:, None] if turn & 2 else found
    return found * signs if turn & 1 else found


def _unit(rows: Floats) -> Floats:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True).clip(1e-12)).astype(np.float32)


def _products(a: Floats, b: Floats, one: Ints, other: Ints) -> Floats:
    """(M,) scalar products of rows of a and b, some at a time."""
    step = 1 << 16
    parts = [np.einsum("md,md->m", a[one[i : i + step]], b[other[i : i + step]]) for i in range(0, len(one), step)]
    return np.concatenate([np.empty(0, np.float32), *parts])
