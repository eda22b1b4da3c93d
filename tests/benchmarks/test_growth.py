"""Exponents of costs, and the picture of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from benchmarks.growth import PARTS, exponent, lines, main, write_curves
from knowngood.errors import SettingsError


def rows(part: str) -> list[dict]:
    """Fit costs 3 + 2·v, scoring v²."""
    quantity = PARTS[part].what
    return [
        {"part": part, "quantity": quantity, "value": v, "fit": 3 + 2.0 * v, "score": float(v) ** 2}
        for v in PARTS[part].values
    ]


@pytest.mark.parametrize("power", [0.0, 1.0, 2.0])
def test_the_exponent_of_a_power_is_the_power(power: float) -> None:
    values = [10.0, 20.0, 40.0, 80.0, 160.0]
    assert exponent(values, [7 * v**power for v in values]) == pytest.approx(power, abs=1e-9)
    bent = [7 * v**power for v in values[2:]]
    assert exponent(values, [1e3, 1e-3, *bent]) == pytest.approx(power, abs=1e-9)  # the smaller half does not count


def test_sides_are_stated_as_pixels() -> None:
    (line,) = lines(rows("pixels-vae"))
    assert line[1] == "16, 28, 40, 56, 80"
    assert line[5] == "1.00"  # cost ~ side² is linear in pixels


@pytest.mark.slow
def test_a_panel_a_part(tmp_path: Path) -> None:
    some = [row for part in list(PARTS)[:5] for row in rows(part)]
    path = write_curves(some, tmp_path / "growth.png")
    assert Image.open(path).size[0] > 1000


def test_unknown_parts_are_refused() -> None:
    with pytest.raises(SettingsError, match=r"parts has no 'colour'; known: images-features"):
        main(parts=("colour",))
