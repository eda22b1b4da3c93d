"""The audit: one pass over all images before they are used, and every finding by path with its reason."""

from __future__ import annotations

import math
import os
from collections import Counter, defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import NamedTuple

import numpy as np

from knowngood.config import counted
from knowngood.config.words import for_caller, in_pixels
from knowngood.data.findings import UNUSABLE, Finding, Severity, Unreadable
from knowngood.data.groups import pixel_digest
from knowngood.data.imageset import ImageSet, Marks
from knowngood.data.near_copies import SIDE, near_copies, signature
from knowngood.data.pixel_source import ArrayPixels, FilePixels
from knowngood.data.progress import track
from knowngood.data.stores.fetched_pixels import FetchedPixels
from knowngood.data.values import text_of
from knowngood.errors import DataError

FEW = 20
KIND, KIND_SHARE = 10, 0.2  # images, and their share, from which on alike ones are a kind rather than copies
ASPECTS_DIFFER = 1.1  # factor from which on it is said
_ORDER = {"error": 0, "warning": 1, "note": 2}


@dataclass(frozen=True)
class Audit:
    """What was found, and the images that can be used.

    Attributes:
        images: the set without unreadable images; masks that cannot be used are None. `groups` are those of copies.
        findings: errors first, then warnings, then notes.
        total: images looked at, including files set aside while opening.
    """

    images: ImageSet
    findings: tuple[Finding, ...]
    total: int

    def to_records(self) -> list[dict[str, str]]:
        """One record a finding: path_or_id, kind, reason, severity."""
        return [asdict(finding) for finding in self.findings]

    @property
    def unusable(self) -> list[Finding]:
        """Those of images that are set aside."""
        return [one for one in self.findings if one.severity == "error" and one.kind in UNUSABLE]

    def check(self, tolerance: float | None = None) -> None:
        """Stop if more than `tolerance` (default .01) of the images are unreadable or have two labels.

        With tolerance 0 every finding of severity "error" stops the run: duplicates across splits and unusable masks.

        Raises:
            DataError: lists the findings and the way out.
        """
        tolerance = 0.01 if tolerance is None else tolerance
        refused = UNUSABLE | {"duplicate-normal-anomalous"}
        serious = [f for f in self.findings if f.severity == "error" and (tolerance == 0 or f.kind in refused)]
        if serious and len(serious) > tolerance * self.total + 1e-6:  # 29 of 100 are not above .29
            enough = max(math.ceil(100 * sum(f.kind in refused for f in serious) / self.total), 1) / 100
            listed = "\n".join(f"  {finding}" for finding in serious[:20])
            more = f"\n  … and {len(serious) - 20} more" if len(serious) > 20 else ""
            allowed = for_caller(
                f'tolerance={enough:g}, of a fit data={{"tolerance": {enough:g}}}', f"--tolerance {enough:g}"
            )
            raise DataError(
                f"{self.images.name}: {counted(len(serious), 'finding')} among {counted(self.total, 'image')}, "
                f"above the tolerance of {tolerance:g}:\n{listed}{more}\n"
                f"Repair or remove these files, or allow more: {allowed}"
            )
        if len(self.images) == 0:
            raise DataError(f"{self.images.name}: no usable image is left of {self.total}")


def audit(images: ImageSet, group: str | None = "group") -> Audit:
    """Look at every image once: decode it, hash it, compare it. A thousand files of 256 px take seconds.

    Finds: files that are empty, truncated, no images, or of an unsupported kind; values that are not finite; constant
    images; the same pixels twice (an error across labels or across splits, otherwise a note); images that are nearly
    copies, from 32 px on, and are not of one value of the column `group`; groups (parts, patients) with images in
    several splits; mixed sizes, aspects, channels or dtypes; what reading changed (alpha dropped, …); masks that are
    unreadable, of the wrong size or empty, masks without an image and anomalous images without a mask; images
    without a label beside normal ones; fewer than 20 normal images.
    """
    if isinstance(images.pixels, ArrayPixels):
        looks = [_look(images, i) for i in range(len(images))]
    else:
        images.expect(np.arange(len(images)))
        with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
            found = pool.map(lambda i: _look(images, i), range(len(images)))
            looks = list(track(found, "looking at images", len(images)))
    findings = list(images.rejected)
    for name, look in zip(images.ids.tolist(), looks, strict=True):
        if look.kind:
            findings.append(Finding(name, look.kind, look.note, "error"))
        elif look.constant:
            findings.append(Finding(name, "constant", "all its pixels have one value", "warning"))
        if not look.kind and look.note:
            findings.append(Finding(name, "changed-in-reading", look.note, "note"))
    masks, mask_findings = _checked_masks(images, looks)
    findings += [
        *_duplicates(images, looks),
        *_near_duplicates(images, looks, group),
        *_groups_across_splits(images, group),
        *_mixed(images.name, looks),
        *_without_label(images),
        *mask_findings,
    ]
    copies = np.unique([look.digest.hex() for look in looks], return_inverse=True)[1]
    kept = images.replace(masks=masks, groups=copies)[np.array([not look.kind for look in looks], dtype=bool)]
    n = int(np.sum(kept.labels != 1))
    if n < FEW:
        why = f"with fewer than {FEW} a false-alarm rate is hardly guaranteed"
        reason = f"only {counted(n, 'image')} not labelled anomalous; {why}"
        findings.append(Finding(images.name, "too-few", reason, "warning"))
    set_aside = len(images.unusable)
    ordered = sorted(findings, key=lambda f: (_ORDER[f.severity], f.kind))
    return Audit(kept.replace(rejected=()), tuple(ordered), len(images) + set_aside)


class _Look(NamedTuple):
    """What one image showed. `kind` is set if it cannot be used, and `note` then is the reason."""

    digest: bytes = b""
    shape: tuple[int, ...] = ()
    dtype: np.dtype | None = None
    constant: bool = False
    kind: str = ""
    note: str = ""
    signature: np.ndarray | None = None


def _look(images: ImageSet, i: int) -> _Look:
    try:
        if isinstance(images.pixels, FilePixels | FetchedPixels):
            header, image = images.pixels.read_with_header(i)
            note = "; ".join(header.notes)
        else:
            image, note = images.read(i), ""
    except Unreadable as error:
        return _Look(kind=error.kind, note=error.reason)
    if image.dtype.kind == "f" and not np.isfinite(image).all():
        return _Look(kind="non-finite", note="holds values that are NaN or infinite")
    digest = pixel_digest(image)
    constant = bool((image == image[0, 0]).all())
    return _Look(
        digest,
        image.shape,
        image.dtype,
        constant,
        "",
        note,
        None if constant or min(image.shape[:2]) < SIDE else signature(image),
    )


def _duplicates(images: ImageSet, looks: Sequence[_Look]) -> list[Finding]:
    groups: dict[bytes, list[int]] = defaultdict(list)
    for i, look in enumerate(looks):
        if look.digest:
            groups[look.digest].append(i)
    classes = images.conditions.get("class")
    findings = []
    for group in (group for group in groups.values() if len(group) > 1):
        if pair := _differing(images.labels, group):
            kind, severity, how = "duplicate-normal-anomalous", "error", ": one is labelled normal, one anomalous"
        elif images.splits is not None and (pair := _differing(images.splits, group)):
            kind, severity = "duplicate-across-splits", "error"
            how = ": they are in splits {} and {}".format(*images.splits[list(pair)])
        elif classes is not None and (pair := _differing(classes, group)):
            kind, severity = "duplicate-other-class", "warning"
            how = ": their classes are {} and {}".format(*classes[list(pair)])
        else:
            kind, severity, how = "duplicate", "note", ""
        a, b = pair or group[:2]
        more = f" ({len(group)} copies in all)" if len(group) > 2 else ""
        reason = f"has the same pixels as {images.ids[b]}{how}{more}"
        findings.append(Finding(str(images.ids[a]), kind, reason, severity))
    return findings


def _near_duplicates(images: ImageSet, looks: Sequence[_Look], group: str | None) -> list[Finding]:
    """One finding for all images that are nearly copies of each other. Of those with the same pixels one counts.

    What is alike is relative to how all images differ: many alike ones are likely a kind among others.
    """
    first = {look.digest: i for i, look in reversed(list(enumerate(looks))) if look.signature is not None}
    return _alike(images, looks, group, sorted(first.values()))


def _alike(images: ImageSet, looks: Sequence[_Look], group: str | None, at: list[int]) -> list[Finding]:
    """The same of the images at these positions, which have a signature."""
    if not at:
        return []
    same = near_copies(np.stack([looks[i].signature for i in at]))  # type: ignore[arg-type]
    named = images.conditions.get(group or "")
    members: dict[int, list[int]] = defaultdict(list)
    for i, which in zip(at, same.tolist(), strict=True):
        members[which].append(i)
    findings = []
    for alike in members.values():
        known = named is not None and len(set(map(str, named[alike]))) == 1 and text_of(named[alike[0]]) is not None
        if len(alike) >= KIND and len(alike) >= KIND_SHARE * len(at) and not known:
            if _distinguished(images, alike, at):
                findings += _alike(images, looks, group, alike)
                continue
            reason = (
                f"{len(alike)} of {len(at)} images are alike beside how the others differ, this one and "
                f"{images.ids[alike[1]]} among them: likely one of several products or cameras, which a class folder "
                "or a column should distinguish, so that each is compared with its own; or one burst of frames"
            )
            findings.append(Finding(str(images.ids[alike[0]]), "several-kinds", reason, "warning"))
        elif len(alike) > 1 and not known:
            more = f" ({len(alike)} images in all)" if len(alike) > 2 else ""
            reason = (
                f"looks like {images.ids[alike[1]]}{more}: a copy, recompressed, brighter or turned, or a frame of one "
                f"burst. If they show one part, give both one value in a column '{group or 'group'}': then they are "
                "never fitted to and calibrated with at once"
            )
            findings.append(Finding(str(images.ids[alike[0]]), "near-duplicate", reason, "warning"))
    return findings


def _distinguished(images: ImageSet, alike: list[int], at: list[int]) -> bool:
    """Whether a condition has one value for all those that are alike, and others for the rest."""
    texts = ([text_of(value) for value in column] for column in images.conditions.values())
    return any(len({own[i] for i in alike}) == 1 < len({own[i] for i in at}) for own in texts)


def _groups_across_splits(images: ImageSet, group: str | None) -> list[Finding]:
    """One finding for all groups (parts, patients) with images in several splits."""
    named = images.conditions.get(group or "")
    if named is None or images.splits is None:
        return []
    members: dict[str, set[str]] = defaultdict(set)
    for value, split in zip(map(text_of, named), map(text_of, images.splits), strict=True):
        if value is not None and split is not None:
            members[value].add(split)
    shared = {value: sorted(splits) for value, splits in members.items() if len(splits) > 1}
    if not shared:
        return []
    first, splits = next(iter(shared.items()))
    reason = (
        f"{counted(len(shared), 'value')} of the column '{group}' in several splits, the first '{first}' in "
        f"{' and '.join(splits)}: images of one part or patient are not independent, and results on them are too good. "
        "Keep all images of one value in one split"
    )
    return [Finding(images.name, "group-across-splits", reason, "warning")]


def _differing(values: np.ndarray, group: list[int]) -> tuple[int, int] | None:
    """The first member and the first other one whose known value differs, or None."""
    known = [i for i in group if values[i] is not None and values[i] == values[i]]
    other = next((i for i in known[1:] if values[i] != values[known[0]]), None)
    return None if other is None else (known[0], other)


def _without_label(images: ImageSet) -> list[Finding]:
    """One finding for all images to train on that have no label, where others are labelled normal."""
    if images.splits is not None and "train" in images.splits:
        images = images.split("train")
    unknown = np.isnan(images.labels)
    if not unknown.any() or not (images.labels == 0).any():
        return []
    reason = (
        f"{int(unknown.sum()):,} of {counted(len(images), 'image')} have no label, the first {images.ids[unknown][0]}; "
        "they count as normal, as those labelled so. Label them, or leave them out"
    )
    return [Finding(images.name, "without-label", reason, "warning")]


def _mixed(name: str, looks: Sequence[_Look]) -> list[Finding]:
    usable = [look for look in looks if not look.kind]
    findings = []
    for kind, what, values in (
        ("mixed-sizes", "sizes", [in_pixels(look.shape[:2]) for look in usable]),
        ("mixed-channels", "channel counts", [str(look.shape[2]) for look in usable]),
        ("mixed-dtypes", "bit depths", [look.dtype for look in usable]),
    ):
        counts = Counter(values)
        if len(counts) > 1:
            shown = ", ".join(f"{value} ({count})" for value, count in counts.most_common(4))
            more = ", …" if len(counts) > 4 else ""
            reason = f"{len(counts)} {what}: {shown}{more}"
            if kind == "mixed-sizes":
                reason += _aspects([look.shape[1] / look.shape[0] for look in usable])
            findings.append(Finding(name, kind, reason, "warning"))
    return findings


def _aspects(found: Sequence[float]) -> str:
    """For the end of the finding on sizes, where aspect ratios differ by more than 10 %."""
    low, high = min(found), max(found)
    if high <= ASPECTS_DIFFER * low:
        return ""
    return (
        f"; aspect ratios (width / height) from {low:.3g} to {high:.3g}: one size for all stretches them, crop or pad "
        "them to one shape"
    )


def _checked_masks(images: ImageSet, looks: Sequence[_Look]) -> tuple[tuple[Marks | None, ...] | None, list[Finding]]:
    """The masks, None for those that cannot be used, and what is wrong with them."""
    if images.masks is None:
        return None, []
    masks, findings = list(images.masks), []
    for i, look in enumerate(looks):
        fault = None if look.kind else _mask_fault(images, i, look.shape[:2])
        if fault is not None:
            kind, reason, severity = fault
            findings.append(Finding(str(images.ids[i]), kind, reason, severity))
            if kind != "mask-on-normal":
                masks[i] = None
    return tuple(masks), findings


def _mask_fault(images: ImageSet, i: int, size: tuple[int, ...]) -> tuple[str, str, Severity] | None:
    """Kind, reason and severity of what is wrong with the masks of image i, of this size, if anything is."""
    assert images.masks is not None
    marks, label = images.masks[i], images.labels[i]
    if marks is None:
        return ("image-without-mask", "is anomalous, but has no mask", "note") if label == 1 else None
    named = "its mask" if callable(marks) else "its mask " + ", ".join(path.name for path in marks)
    try:
        mask = images.mask(i)
        assert mask is not None
    except Unreadable as error:
        kind = error.kind if error.kind == "mask-unclear" else "mask-unreadable"
        return kind, f"its mask {error.path.name} {error.reason}; it is ignored", "error"
    if mask.shape != size:
        return (
            "mask-wrong-size",
            f"{named} is {in_pixels(mask.shape)}, the image {in_pixels(size)}; it is ignored",
            "error",
        )
    if label == 1 and not mask.any():
        return "mask-empty", f"is anomalous, but {named} is empty; it does not count in pixel metrics", "warning"
    if label == 0 and mask.any():
        return "mask-on-normal", f"is normal, but {named} is not empty", "warning"
    return None
