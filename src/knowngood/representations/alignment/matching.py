"""The transform between two grey images: a search by normalised cross-correlation, then ECC, both by OpenCV.

G. D. Evangelidis, E. Z. Psarakis, "Parametric image alignment using enhanced correlation coefficient maximization",
IEEE TPAMI 30(10), 2008. Both steps are invariant to brightness and contrast.

Planes are grey images (h, w) float32 of mean 0 and variance 1. Transforms are (2, 3) about the middle of an image of
`size`, in its pixels, from reference to image coordinates; planes may be coarser than the image.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from knowngood.data.pose.geometry import Floats, Size, rotation
from knowngood.errors import SettingsError
from knowngood.representations.alignment.warping import rotation_of

Mode = Literal["shift", "rigid", "affine"]
Plane = NDArray[np.float32]

LONGEST, SHORTEST = 128, 32  # sides at which images are compared
ANGLES = (0.0, -5.0, 5.0, -10.0, 10.0, -15.0, 15.0)  # degrees at which the search starts
REACH = 0.15  # of a side, how far the search goes
TIE = 1e-3  # correlation that a start at the limits of the search must gain over the identity
OUTLIER = 3.0  # root mean squares of the residual, beyond which a pixel is excluded from the refinement
ROUNDS = 4  # of excluding outliers and refining, at most
GAIN = 1e-4  # of the correlation, below which a round is the last
CONSTANT = 1e-6  # standard deviation over the largest value, below which an image is constant
APERTURE = 1e-5  # ratio of gradient energies, below which the image determines one direction only


def opencv() -> Any:
    """The module cv2. Raises SettingsError if it is not installed."""
    try:
        import cv2
    except ImportError:
        raise SettingsError('align needs OpenCV, which is not installed: pip install "knowngood[align]"') from None
    return cv2


def compared_size(size: tuple[int, ...]) -> Size:
    """What an image of `size` is resized to: its longer side at most 128, its shorter at least 32 if it was."""
    share = min(1.0, max(LONGEST / max(size), SHORTEST / min(size)))
    return max(1, round(size[0] * share)), max(1, round(size[1] * share))


def plane(grey: NDArray[np.floating]) -> Plane | None:
    """The plane of an image (H, W) of any size; None if it is constant."""
    if grey.std() <= CONSTANT * np.abs(grey).max():
        return None
    height, width = compared_size(grey.shape)
    values = opencv().resize(grey - grey.mean(), (width, height), interpolation=opencv().INTER_AREA)
    spread = values.std()
    return ((values - values.mean()) / spread).astype(np.float32) if spread > 0 else None


def match(reference: Plane, image: Plane, size: Size, mode: Mode) -> Floats:
    """The transform (2, 3) of this mode that maximises the correlation of the image with the reference.

    Models of rising order are fitted one after the other. Then outliers are excluded, so that a defect has no
    influence. A step that lowers the correlation is not made.
    """
    order: tuple[Mode, ...] = ("shift", "rigid", "affine")
    rows, columns = np.gradient(reference)
    energy, axes = np.linalg.eigh(np.cov(np.stack((columns.ravel(), rows.ravel()))))
    free = axes[:, 0] if energy[0] <= APERTURE * energy[1] else None  # the aperture problem: nothing changes along it
    modes = order[: order.index(mode) + 1] if free is None else order[:1]
    best = _search(reference, image, size, ANGLES if mode != "shift" else ANGLES[:1])
    known = np.ones(reference.shape, bool)
    for step, each in enumerate((*modes, *modes[-1:] * ROUNDS)):
        found = _refined(reference, image, best, size, each, known)
        if free is not None:
            found[:, 2] -= free * (free @ (found[:, 2] - best[:, 2]))
        before, after = (_correlation(reference, image, one, size, known) for one in (best, found))
        best = found if after > before else best
        if each == modes[-1]:
            last, known = known, _inliers(reference, image, best, size, known)
            if step >= len(modes) and after < before + GAIN and (known == last).all():
                break
    return best


def correlations(reference: Plane, image: Plane, centred: Floats, size: Size) -> tuple[float, float]:
    """Correlation before and after the transform, over the pixels that both show after; NaN: undefined."""
    _, inside = _warped(image, centred, size)
    before, _ = _warped(image, np.eye(2, 3), size)
    return _pearson(reference[inside], before[inside]), _correlation(reference, image, centred, size, inside)


def _search(reference: Plane, image: Plane, size: Size, angles: tuple[float, ...]) -> Floats:
    """The best rotation of `angles` and shift in whole pixels, by the middle of the reference."""
    cv2, shape = opencv(), reference.shape
    down, right = (int(REACH * n) for n in shape)
    template = reference[down : shape[0] - down, right : shape[1] - right]
    y, x = np.mgrid[-down : down + 1, -right : right + 1]
    far = (y / max(down, 1)) ** 2 + (x / max(right, 1)) ** 2
    best, highest = np.eye(2, 3), -np.inf
    for angle in angles:
        turned, _ = _warped(image, np.column_stack((rotation(angle), (0, 0))), size)
        score = np.nan_to_num(cv2.matchTemplate(turned, template, cv2.TM_CCOEFF_NORMED), nan=-1, posinf=-1, neginf=-1)
        score = score - TIE * (far + (angle / 15) ** 2)
        at = np.unravel_index(score.argmax(), score.shape)
        if score[at] > highest:
            shift = np.array([x[at] * size[1] / shape[1], y[at] * size[0] / shape[0]])
            best, highest = np.column_stack((rotation(angle), rotation(angle) @ shift)), score[at]
    return best


def _refined(reference: Plane, image: Plane, start: Floats, size: Size, mode: Mode, known: NDArray[np.bool_]) -> Floats:
    """ECC from `start` over the pixels `known` of the reference; `start` if it does not converge."""
    cv2, (height, width) = opencv(), reference.shape
    motion = {"shift": cv2.MOTION_TRANSLATION, "rigid": cv2.MOTION_EUCLIDEAN, "affine": cv2.MOTION_AFFINE}[mode]
    matrix, scale, middle = _on_plane(start, size, reference.shape)
    matrix = matrix.astype(np.float32)
    seen = cv2.warpAffine(known.astype(np.uint8), matrix, (width, height), flags=cv2.INTER_NEAREST)
    criteria = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 50, 1e-6)
    try:
        _, matrix = cv2.findTransformECC(reference, image, matrix, motion, criteria, None if known.all() else seen, 3)
    except cv2.error:
        return start.copy()
    linear, shift = matrix[:, :2].astype(np.float64), matrix[:, 2].astype(np.float64)
    shift = (shift - middle + linear @ middle) / scale
    linear = linear * scale / scale[:, None]
    if mode != "affine":
        linear = rotation(rotation_of(linear)) if mode == "rigid" else start[:, :2]
    return np.column_stack((linear, shift))


def _inliers(
    reference: Plane, image: Plane, centred: Floats, size: Size, known: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """(h, w) pixels where the image is about what the reference predicts under the brightness and contrast of `known`.

    Where the image shows nothing they count as inliers.
    """
    warped, inside = _warped(image, centred, size)
    known = known & inside
    r, w = reference - reference[known].mean(), warped - warped[known].mean()
    squared = np.square(w - r * ((r * w)[known].sum() / max(float(np.square(r)[known].sum()), 1e-12)))
    return ~inside | (squared <= OUTLIER**2 * squared[known].mean())


def _correlation(reference: Plane, image: Plane, centred: Floats, size: Size, known: NDArray[np.bool_]) -> float:
    warped, inside = _warped(image, centred, size)
    inside &= known
    return _pearson(reference[inside], warped[inside]) if inside.mean() >= 0.25 else -1.0


def _pearson(a: NDArray[Any], b: NDArray[Any]) -> float:
    a, b = a - a.mean(dtype=np.float64), b - b.mean(dtype=np.float64)
    norm = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / norm if norm > 0 else float("nan")


def _warped(image: Plane, centred: Floats, size: Size) -> tuple[Plane, NDArray[np.bool_]]:
    """The image in the coordinates of the reference, and where it lies between its outermost pixel centres."""
    cv2, (height, width) = opencv(), image.shape
    matrix, _, _ = _on_plane(centred, size, image.shape)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    values = cv2.warpAffine(image, matrix, (width, height), flags=flags, borderMode=cv2.BORDER_REPLICATE)
    x, y = (row[0] * np.arange(width) + (row[1] * np.arange(height) + row[2])[:, None] for row in matrix)
    off = 1e-4  # rounding
    return values, (x >= -off) & (x <= width - 1 + off) & (y >= -off) & (y <= height - 1 + off)


def _on_plane(centred: Floats, size: Size, shape: tuple[int, ...]) -> tuple[Floats, Floats, Floats]:
    """The transform (2, 3) in pixels of planes of `shape`, about the upper left one; their scale, and their middle."""
    scale = np.array([shape[1] / size[1], shape[0] / size[0]])
    middle = np.array([(shape[1] - 1) / 2, (shape[0] - 1) / 2])
    linear = scale[:, None] * centred[:, :2] / scale
    return np.column_stack((linear, scale * centred[:, 2] + middle - linear @ middle)), scale, middle
