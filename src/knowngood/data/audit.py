"""The audit: one pass over all images before they are used, and every finding by path with its reason."""

from __future__ import annotations

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from knowngood.data.findings import UNUSABLE, Finding, Unreadable
from knowngood.data.imageset import ImageSet
from knowngood.data.pixel_source import ArrayPixels, FilePixels
from knowngood.data.readers.files import read_mask, read_with_header
from knowngood.errors import DataError

FEW = 20
_ORDER = {"error": 0, "warning": 1, "note": 2}
_DEFAULT_TOLERANCE = 0.01


@dataclass(frozen=True)
class Audit:
    """What was found, and the images that can be used.

    Attributes:
        images: the set without unreadable images; masks that cannot be used are None.
        findings: errors first, then warnings, then notes.
        total: images looked at, including files set aside while opening.
    """

    images: ImageSet
    findings: tuple[Finding, ...]
    total: int

    @cached_property
    def unreadable(self) -> tuple[Finding, ...]:
        """Images that cannot be used at all, one finding each."""
        return tuple(finding for finding in self.findings if finding.kind in UNUSABLE)

    def summary(self, examples: int = 3) -> str:
        """Text for people: a line a kind of finding with its number, then the first few by name."""
        lines = [f"{self.images.name}: {self.total} images, {len(self.unreadable)} set aside"]
        if self.images.variant:
            lines[0] += f" [{self.images.variant}]"
        groups: dict[tuple[str, str], list[Finding]] = defaultdict(list)
        for finding in self.findings:
            groups[finding.severity, finding.kind].append(finding)
        for (severity, kind), found in groups.items():
            lines.append(f"{severity}: {kind} ({len(found)})")
            lines += [f"  {finding}" for finding in found[:examples]]
            if len(found) > examples:
                lines.append(f"  … and {len(found) - examples} more")
        return "\n".join(lines)

    def to_records(self) -> list[dict[str, str]]:
        """One record a finding: path_or_id, kind, reason, severity."""
        return [finding.to_record() for finding in self.findings]

    def check(self, tolerance: float | None = None) -> None:
        """Stop if more than `tolerance` (default .01) of the images are unreadable or have two labels.

        With tolerance 0 every finding of severity "error" stops the run: duplicates across splits and unusable masks.

        Raises:
            DataError: lists the findings and the way out.
        """
        tolerance = _DEFAULT_TOLERANCE if tolerance is None else tolerance
        refused = UNUSABLE | {"duplicate-normal-anomalous"}
        serious = [f for f in self.findings if f.severity == "error" and (tolerance == 0 or f.kind in refused)]
        if serious and len(serious) > tolerance * self.total:
            listed = "\n".join(f"  {finding}" for finding in serious[:20])
            more = f"\n  … and {len(serious) - 20} more" if len(serious) > 20 else ""
            raise DataError(
                f"{self.images.name}: {len(serious)} findings among {self.total} images, "
                f"above the tolerance of {tolerance:g}:\n{listed}{more}\n"
                'Repair or remove these files, or allow more: data={"tolerance": 0.1} (--tolerance 0.1)'
            )
        if len(self.images) == 0:
            raise DataError(f"{self.images.name}: no usable image is left of {self.total}")


def audit(images: ImageSet, *, expected: tuple[int | None, int | None, int | None] | None = None) -> Audit:
    """Look at every image once: decode it, hash it, compare it. A thousand files of 256 px take seconds.

    Finds: files that are empty, truncated, no images, or of an unsupported kind; values that are not finite; constant
    images; the same pixels twice (an error across labels or across splits, otherwise a note); mixed sizes, channels
    or dtypes; what reading changed (alpha dropped, turned upright, …); masks that are unreadable, of the wrong size or
    empty, masks without an image and anomalous images without a mask; fewer than 20 normal images.

    Args:
        images: the set to look at.
        expected: (height, width, channels), None for any: images of another shape are errors.
    """
    if isinstance(images.pixels, ArrayPixels):
        looks = _look_at_array(images.pixels)
    else:
        with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
            looks = list(pool.map(lambda i: _look(images, i), range(len(images))))
    findings = list(images.rejected)
    usable = np.ones(len(images), dtype=bool)
    for i, look in enumerate(looks):
        if look.kind:
            usable[i] = False
            findings.append(Finding(str(images.ids[i]), look.kind, look.note, "error"))
        elif look.constant:
            findings.append(Finding(str(images.ids[i]), "constant", "all its pixels have one value", "warning"))
        if look.kind == "" and look.note:
            findings.append(Finding(str(images.ids[i]), "changed-in-reading", look.note, "note"))
    findings += _duplicates(images, looks)
    findings += _mixed(images, looks, expected)
    mask_findings, masks = _check_masks(images, looks)
    findings += mask_findings
    kept = images.replace(masks=masks)[usable]
    findings += _too_few(kept)
    set_aside = sum(finding.kind in UNUSABLE for finding in images.rejected)
    ordered = sorted(findings, key=lambda f: (_ORDER[f.severity], f.kind))
    return Audit(kept.replace(rejected=()), tuple(ordered), len(images) + set_aside)


class _Look(NamedTuple):
    """What one image showed. `kind` is set if it cannot be used, and `note` then is the reason."""

    digest: bytes = b""
    shape: tuple[int, ...] = ()
    dtype: str = ""
    constant: bool = False
    kind: str = ""
    note: str = ""


def _look(images: ImageSet, i: int) -> _Look:
    try:
        if isinstance(images.pixels, FilePixels):
            header, image = read_with_header(images.pixels.paths[i])
            note = "; ".join(header.notes)
        else:
            image, note = images.read(i), ""
    except Unreadable as error:
        return _Look(kind=error.kind, note=error.reason)
    return _look_at_pixels(np.ascontiguousarray(image), note)


def _look_at_pixels(image: np.ndarray, note: str) -> _Look:
    if image.dtype.kind == "f" and not np.isfinite(image).all():
        return _Look(kind="non-finite", note="holds values that are NaN or infinite")
    constant = bool(np.all(image == image[0, 0]))
    return _Look(_digest(image, _prefix(image.shape, image.dtype)), image.shape, image.dtype.name, constant, "", note)


def _look_at_array(pixels: ArrayPixels) -> list[_Look]:
    """As `_look`, for a whole array, in blocks."""
    looks: list[_Look] = []
    shape, dtype = pixels.base.shape[1:], pixels.base.dtype
    prefix = _prefix(shape, dtype)
    for block in pixels.chunks():
        constant = (block == block[:, :1, :1]).all(axis=(1, 2, 3))
        finite = np.ones(len(block), dtype=bool)
        if dtype.kind == "f":
            finite &= np.isfinite(block).all(axis=(1, 2, 3))
        for k, image in enumerate(block):
            if finite[k]:
                looks.append(_Look(_digest(image, prefix), shape, dtype.name, bool(constant[k])))
            else:
                looks.append(_Look(kind="non-finite", note="holds values that are NaN or infinite"))
    return looks


def _prefix(shape: tuple[int, ...], dtype: np.dtype) -> bytes:
    return f"{shape}{dtype.str}".encode()


def _digest(image: np.ndarray, prefix: bytes) -> bytes:
    digest = hashlib.blake2b(prefix, digest_size=16)
    digest.update(image.data)
    return digest.digest()


def _duplicates(images: ImageSet, looks: Sequence[_Look]) -> list[Finding]:
    groups: dict[bytes, list[int]] = defaultdict(list)
    for i, look in enumerate(looks):
        if look.digest:
            groups[look.digest].append(i)
    classes = images.conditions.get("class")
    findings = []
    for group in (group for group in groups.values() if len(group) > 1):
        kind, severity, (a, b), how = "duplicate", "note", group[:2], ""
        if pair := _differing(images.labels, group):
            kind, severity, (a, b), how = (
                "duplicate-normal-anomalous",
                "error",
                pair,
                "one is labelled normal, one anomalous",
            )
        elif images.splits is not None and (pair := _differing(images.splits, group)):
            a, b = pair
            how = f"they are in splits {images.splits[a]} and {images.splits[b]}"
            kind, severity = "duplicate-across-splits", "error"
        elif classes is not None and (pair := _differing(classes, group)):
            a, b = pair
            kind, severity, how = "duplicate-other-class", "warning", f"their classes are {classes[a]} and {classes[b]}"
        reason = f"has the same pixels as {images.ids[b]}" + (f": {how}" if how else "")
        if len(group) > 2:
            reason += f" ({len(group)} copies in all)"
        findings.append(Finding(str(images.ids[a]), kind, reason, severity))
    return findings


def _differing(values: np.ndarray, group: list[int]) -> tuple[int, int] | None:
    """The first member and the first other one whose known value differs, or None."""
    known = [i for i in group if values[i] is not None and values[i] == values[i]]
    other = next((i for i in known[1:] if values[i] != values[known[0]]), None)
    return None if other is None else (known[0], other)


def _mixed(
    images: ImageSet, looks: Sequence[_Look], expected: tuple[int | None, int | None, int | None] | None
) -> list[Finding]:
    usable = [look for look in looks if not look.kind]
    findings = []
    for kind, what, values in (
        ("mixed-sizes", "sizes", [(look.shape[0], look.shape[1]) for look in usable]),
        ("mixed-channels", "channel counts", [look.shape[2] for look in usable]),
        ("mixed-dtypes", "bit depths", [look.dtype for look in usable]),
    ):
        counts = Counter(values)
        if len(counts) > 1:
            findings.append(Finding(images.name, kind, f"{len(counts)} {what}: {_common(counts)}", "warning"))
    if expected is not None:
        for i, look in enumerate(looks):
            if not look.kind and any(w not in (None, h) for w, h in zip(expected, look.shape, strict=True)):
                wanted = "×".join("any" if value is None else str(value) for value in expected)
                reason = f"has shape {'×'.join(map(str, look.shape))}; expected {wanted}"
                findings.append(Finding(str(images.ids[i]), "unexpected-shape", reason, "error"))
    return findings


def _common(counts: Counter, most: int = 4) -> str:
    shown = [
        f"{'×'.join(map(str, value)) if isinstance(value, tuple) else value} ({count})"
        for value, count in counts.most_common(most)
    ]
    return ", ".join(shown) + (", …" if len(counts) > most else "")


def _check_masks(images: ImageSet, looks: Sequence[_Look]) -> tuple[Iterable[Finding], tuple | None]:
    if images.masks is None:
        return [], None
    findings: list[Finding] = []
    masks = list(images.masks)
    for i, path in enumerate(images.masks):
        name = str(images.ids[i])
        if looks[i].kind:
            continue
        if path is None:
            if images.labels[i] == 1:
                findings.append(Finding(name, "image-without-mask", "is anomalous, but has no mask", "note"))
            continue
        try:
            mask = read_mask(path)
        except Unreadable as error:
            findings.append(
                Finding(name, "mask-unreadable", f"its mask {path.name} {error.reason}; it is ignored", "error")
            )
            masks[i] = None
            continue
        if mask.shape != looks[i].shape[:2]:
            has, wanted = ("×".join(map(str, s)) for s in (mask.shape, looks[i].shape[:2]))
            reason = f"its mask {path.name} is {has}, the image {wanted}; it is ignored"
            findings.append(Finding(name, "mask-wrong-size", reason, "error"))
            masks[i] = None
        elif images.labels[i] == 1 and not mask.any():
            reason = f"is anomalous, but its mask {path.name} is empty; it does not count in pixel metrics"
            findings.append(Finding(name, "mask-empty", reason, "warning"))
            masks[i] = None
        elif images.labels[i] == 0 and mask.any():
            findings.append(
                Finding(name, "mask-on-normal", f"is normal, but its mask {path.name} is not empty", "warning")
            )
    return findings, tuple(masks)


def _too_few(images: ImageSet) -> list[Finding]:
    n = int(np.sum(images.labels != 1))
    if n >= FEW:
        return []
    reason = (
        f"only {n} images are not labelled anomalous; with fewer than {FEW} a false-alarm rate is hardly guaranteed"
    )
    return [Finding(images.name, "too-few", reason, "warning")]
