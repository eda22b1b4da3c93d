"""Generated trays of twelve slots with screws, washers and nuts, for defects of what lies where.

`tray` has a fixed layout: four screws, three washers, three nuts and two empty slots, each in its place. In
`tray-mixed` the same parts lie in any slots, and only their numbers are fixed: every slot has seen every part, and
none, so that nothing at a location tells that a part is missing.

Positions within the slots, directions, gloss, light and noise vary. Defects, equally often:

- missing: a slot is empty. extra: an empty slot is not. swapped: a part of another kind takes the place of one.
- between: a part lies on the rim between its slot and the next one.
- exchanged (`tray` alone): two slots have traded their contents, so that all numbers are right.

Masks are what a defect changes in the picture. In `tray-mixed` the first three have none: no location is wrong.
Made data: a result on them says nothing about real trays.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter
from scipy import ndimage

from benchmarks.inspection_parts import InspectionSet, Mask
from benchmarks.protocols import Form
from knowngood.data import ImageSet

TRAYS = ("tray", "tray-mixed")
KINDS = ("screw", "washer", "nut")
LAYOUT = (0, 0, 0, 0, 1, 1, 1, None, None, 2, 2, 2)  # kinds by number, row by row
ROWS, COLUMNS = 3, 4
DEFECTS = ("missing", "extra", "swapped", "between", "exchanged")
TRAIN, GOOD, EACH = 160, 80, 20  # normal images, normal test images, and those of each defect
FINER = 3  # drawn larger by this, and averaged
TURN = (14.0, 180.0, 180.0)  # largest angle of a kind, degrees
JITTER = 0.07  # of the slot's pitch, largest
COLOURS = ((190, 165, 95), (165, 170, 178), (105, 108, 118))
TRAY, SLOT = (58, 78, 104), (38, 50, 66)
GAIN, SLOPE, NOISE = 0.1, 0.12, 3.0  # of the light: largest change, and fall across the picture; σ, grey levels
CHANGED = 6.0  # grey levels by which a defect's pixel changes, at least

Slots = list[int | None]


@dataclass(frozen=True)
class Item:
    """One part on the tray: its kind, the slot whose pose it has, and how far it lies from there, in pitches."""

    kind: int
    slot: int
    off: tuple[float, float] = (0.0, 0.0)


def tray_set(name: str, form: Form, seed: int, size: int) -> InspectionSet:
    """Training and test images (size, size, 3) of one of `TRAYS`; the test form does not depend on the seed."""
    mixed, first = name != TRAYS[0], [0] if form == "test" else [1, seed]
    kinds = ["good"] * (TRAIN + GOOD) + [kind for kind in DEFECTS[: 4 if mixed else 5] for _ in range(EACH)]
    made = [picture(np.random.default_rng([*first, mixed, i]), kind, mixed, size) for i, kind in enumerate(kinds)]
    array, classes = np.stack([image for image, _ in made]), np.array(kinds)
    ids = np.array([f"{'train' if i < TRAIN else 'test'}/{kind}/{i:04d}.png" for i, kind in enumerate(kinds)])
    whole = ImageSet.from_arrays(array, (classes != "good").astype(float), ids=ids, name=name)
    train, test = whole[np.arange(TRAIN)], whole[np.arange(TRAIN, len(whole))]
    return InspectionSet(name, form, seed, train, test, tuple(mask for _, mask in made[TRAIN:]), classes[TRAIN:])


def picture(rng: np.random.Generator, defect: str, mixed: bool, size: int) -> tuple[np.ndarray, Mask | None]:
    """A picture (size, size, 3) uint8 and the mask of its defect, None if it has no location."""
    slots: Slots = [LAYOUT[i] for i in rng.permutation(len(LAYOUT))] if mixed else list(LAYOUT)
    turns, jitter = rng.uniform(-1, 1, len(slots)), rng.uniform(-JITTER, JITTER, (len(slots), 2))
    gloss, light = rng.uniform(0.9, 1.1, len(slots)), rng.uniform(-1, 1, 3)
    noise = rng.normal(0, NOISE, (size, size, 1)) + ndimage.gaussian_filter(rng.normal(0, 12, (size, size, 1)), 3)

    def drawn(items: list[Item]) -> np.ndarray:
        return _drawn(items, turns, jitter, gloss, size)

    normal = [Item(kind, i) for i, kind in enumerate(slots) if kind is not None]
    items, without = _with_defect(normal, slots, defect, rng)
    plain = drawn(items)
    across = np.linspace(-0.5, 0.5, size)
    lit = 1 + GAIN * light[0] + SLOPE * (light[1] * across[:, None, None] + light[2] * across[None, :, None])
    image = (plain * lit + noise).round().clip(0, 255).astype(np.uint8)
    if mixed and defect not in ("good", "between"):
        return image, None
    changed = np.abs(plain - drawn(without if mixed else normal)).max(2) > CHANGED
    return image, np.asarray(ndimage.binary_closing(changed, iterations=2), bool)


def _with_defect(
    normal: list[Item], slots: Slots, defect: str, rng: np.random.Generator
) -> tuple[list[Item], list[Item]]:
    """The parts on the tray with a defect, and those that are in place."""
    one = normal[int(rng.integers(len(normal)))]
    rest = [item for item in normal if item is not one]
    if defect == "missing":
        return rest, rest
    if defect == "extra":
        free = [i for i, kind in enumerate(slots) if kind is None]
        return [*normal, Item(int(rng.integers(len(KINDS))), int(rng.choice(free)))], normal
    other = int((one.kind + rng.integers(1, len(KINDS))) % len(KINDS))
    if defect == "swapped":
        return [*rest, Item(other, one.slot)], rest
    if defect == "between":
        row, column = divmod(one.slot, COLUMNS)
        across = bool(rng.integers(2))
        inward = 1.0 if (column < COLUMNS / 2 if across else row < ROWS / 2) else -1.0
        return [*rest, Item(one.kind, one.slot, (0, inward / 2) if across else (inward / 2, 0))], rest
    if defect == "exchanged":
        differing = [i for i, kind in enumerate(slots) if kind != one.kind]
        to = int(rng.choice(differing))
        moved = [Item(item.kind, one.slot) for item in rest if item.slot == to]
        rest = [item for item in rest if item.slot != to]
        return [*rest, Item(one.kind, to), *moved], rest
    return normal, normal


def _drawn(items: list[Item], turns: np.ndarray, jitter: np.ndarray, gloss: np.ndarray, size: int) -> np.ndarray:
    """The tray without light and noise, (size, size, 3) float."""
    side = size * FINER
    pitch = np.array([side / ROWS, side / COLUMNS])
    canvas = Image.new("RGB", (side, side), TRAY)
    draw, unit = ImageDraw.Draw(canvas), side / COLUMNS
    for slot in range(ROWS * COLUMNS):
        (y, x), (down, right) = (np.array(divmod(slot, COLUMNS)) + 0.5) * pitch, 0.42 * pitch
        draw.rounded_rectangle((x - right, y - down, x + right, y + down), 0.1 * unit, SLOT)
    shadow, parts = Image.new("L", (side, side)), []
    for item in items:
        y, x = (np.array(divmod(item.slot, COLUMNS)) + 0.5 + jitter[item.slot] + item.off) * pitch - unit / 2
        shape = _shape(item.kind, np.deg2rad(TURN[item.kind] * turns[item.slot]), unit)
        shadow.paste(150, (round(x + 0.03 * unit), round(y + 0.04 * unit)), shape)
        parts.append((shape, (round(x), round(y)), tuple(int(c * gloss[item.slot]) for c in COLOURS[item.kind])))
    soft = shadow.reduce(FINER).filter(ImageFilter.GaussianBlur(0.03 * unit / FINER)).resize((side, side))
    canvas.paste((12, 14, 18), mask=soft)
    for shape, corner, colour in parts:
        canvas.paste(colour, corner, shape)
    return np.asarray(canvas.reduce(FINER).filter(ImageFilter.GaussianBlur(0.6)), float)


def _shape(kind: int, turn: float, unit: float) -> Image.Image:
    """How much of each pixel a part covers: a screw with its thread, a ring, or a hexagon with a hole."""
    shape = Image.new("L", (round(unit), round(unit)))
    draw, cos, sin = ImageDraw.Draw(shape), np.cos(turn), np.sin(turn)

    def at(right: float, down: float) -> tuple[float, float]:
        return unit * (0.5 + cos * right - sin * down), unit * (0.5 + sin * right + cos * down)

    def disc(right: float, down: float, radius: float, value: int) -> None:
        (middle, level), reach = at(right, down), radius * unit
        draw.ellipse((middle - reach, level - reach, middle + reach, level + reach), value)

    def polygon(points: list[tuple[float, float]], value: int) -> None:
        draw.polygon([at(*point) for point in points], value)

    if KINDS[kind] == "screw":
        polygon([(-0.07, -0.3), (0.07, -0.3), (0.07, 0.36), (0, 0.42), (-0.07, 0.36)], 255)
        for level in np.arange(-0.12, 0.36, 0.06):
            polygon([(-0.07, level), (0.07, level + 0.03), (0.07, level + 0.05), (-0.07, level + 0.02)], 150)
        disc(0, -0.32, 0.16, 255)
        polygon([(-0.11, -0.34), (0.11, -0.34), (0.11, -0.3), (-0.11, -0.3)], 110)
    elif KINDS[kind] == "washer":
        disc(0, 0, 0.27, 255)
        disc(0, 0, 0.14, 0)
    else:
        polygon([(0.3 * np.cos(a), 0.3 * np.sin(a)) for a in np.arange(6) * np.pi / 3], 255)
        disc(0, 0, 0.17, 190)
        disc(0, 0, 0.13, 0)
    return shape
