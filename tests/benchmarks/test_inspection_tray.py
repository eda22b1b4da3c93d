"""Generated trays: seeds, forms, and that a mask is where the picture differs."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from benchmarks import inspection_tray
from benchmarks.inspection_data import inspection_set
from benchmarks.inspection_parts import InspectionSet
from benchmarks.inspection_tray import DEFECTS, picture

SIDE = 48


def one(kind: str, mixed: bool, seed: int = 3) -> tuple[np.ndarray, np.ndarray | None]:
    return picture(np.random.default_rng(seed), kind, mixed, SIDE)


@pytest.mark.parametrize("kind", ["missing", "extra", "swapped", "between", "exchanged"])
def test_a_mask_covers_what_differs_from_the_normal_tray(kind: str) -> None:
    (image, mask), (normal, empty) = one(kind, False), one("good", False)
    assert mask is not None
    assert empty is not None
    assert not empty.any()
    differs = np.abs(image.astype(int) - normal).max(2) > 10
    assert differs.any()
    assert not (differs & ~mask).any()
    assert mask.mean() < 0.2


def test_in_mixed_trays_no_location_is_wrong_but_between_the_slots() -> None:
    assert one("missing", True)[1] is None
    assert one("swapped", True)[1] is None
    between = one("between", True)[1]
    assert between is not None
    assert between.any()


@pytest.mark.slow
def test_sets_follow_from_name_form_and_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, count in (("TRAIN", 3), ("GOOD", 2), ("EACH", 1)):
        monkeypatch.setattr(inspection_tray, name, count)

    def the(source: str, **given: object) -> InspectionSet:
        found = inspection_set(source, size=SIDE, **given)  # type: ignore[arg-type]
        assert isinstance(found, InspectionSet)
        return found

    dev = the("tray", form="dev", seed=0)
    assert (len(dev.train), dev.train.labels.any()) == (3, False)
    assert Counter(dev.classes.tolist()) == {"good": 2} | dict.fromkeys(DEFECTS, 1)
    assert (dev.labels == (dev.classes != "good")).all()
    assert dev.in_pixel_metrics.all()
    mixed = the("tray-mixed", form="dev", seed=0)
    assert mixed.in_pixel_metrics.tolist() == [True, True, False, False, False, True]
    prints = {
        the("tray", form=form, seed=seed).train.fingerprint() for form, seed in (("dev", 0), ("dev", 1), ("test", 0))
    }
    assert len(prints) == 3
    assert the("tray", form="test", seed=5).train.fingerprint() in prints
