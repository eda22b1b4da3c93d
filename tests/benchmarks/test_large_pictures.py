"""Scratches on large pictures: what is drawn, and that every view is a setting."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.large_pictures import VIEWS, main, pictures
from benchmarks.settings import merged
from knowngood.config import parse_settings
from knowngood.errors import SettingsError


def test_every_second_tested_picture_has_a_scratch_where_it_is_said_to_be() -> None:
    fit, tested, at = pictures("sheet", 128, 3, 6, seed=0)
    assert (len(fit), tested.labels.tolist()) == (3, [0, 1, 0, 1, 0, 1])
    assert np.isnan(at[::2]).all()
    assert not np.isnan(at[1::2]).any()
    values = np.stack([tested.read(i) for i in range(6)]).astype(int).mean(3)
    for i in (1, 3, 5):
        row, column = at[i].astype(int)
        near = values[i, row - 2 : row + 3, column - 2 : column + 3]
        assert abs(near - values[i].mean()).max() > 25


def test_the_same_seed_draws_the_same_pictures() -> None:
    one, other, another = (pictures("sheet", 64, 2, 2, seed)[1].read(1) for seed in (0, 0, 1))
    assert np.array_equal(one, other)
    assert not np.array_equal(one, another)


@pytest.mark.parametrize("view", list(VIEWS))
def test_a_view_is_a_setting(view: str) -> None:
    parse_settings(merged({"representation": "features"}, VIEWS[view]))


def test_unknown_names_are_refused() -> None:
    with pytest.raises(SettingsError, match=r"unknown 'bottle'.*bottles"):
        main(sets=("bottle",))
