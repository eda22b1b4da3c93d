"""Factors that an objective learns: from which columns, of which items, on which scale."""

from __future__ import annotations

import numpy as np
import pytest

from knowngood.data import ImageSet, TableSet
from knowngood.data import factor_targets as factors
from knowngood.data.image_factors import measure
from knowngood.errors import DataError


def illuminated(n: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.uniform(0.4, 1, n)[:, None, None] * rng.uniform(60, 200, (n, 8, 8))).astype(np.uint8)


def test_a_column_counts_before_what_could_be_measured() -> None:
    images = ImageSet.from_arrays(illuminated(6))
    measured = factors.targets(images, ("brightness",))
    assert measured is not None
    np.testing.assert_array_equal(measured[:, 0], measure(images, ["brightness"])["brightness"])
    given = factors.targets(images.annotate(None, {"brightness": np.arange(6.0)}), ("brightness",))
    assert given is not None
    assert given[:, 0].tolist() == [0, 1, 2, 3, 4, 5]
    assert factors.targets(images, ()) is None


def test_a_factor_that_is_nowhere_is_refused_by_name() -> None:
    with pytest.raises(DataError, match="factor 'dust' is no column of the data"):
        factors.targets(ImageSet.from_arrays(illuminated(3)), ("dust",))
    with pytest.raises(DataError, match="factor 'brightness' is no column"):
        factors.targets(TableSet.from_array(np.ones((4, 2))), ("brightness",))


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_the_share_is_of_items_that_have_all_their_factors(share: float) -> None:
    rows = np.ones((100, 2))
    rows[:20, 1] = np.nan
    mask = factors.shown(rows, share, seed=3)
    assert mask.sum() == round(share * 80)
    assert not mask[:20].any()
    np.testing.assert_array_equal(mask, factors.shown(rows, share, seed=3))


def test_standardised_by_known_values_and_constants_stay() -> None:
    rows = np.array([[1.0, 5.0], [3.0, 5.0], [np.nan, 5.0]])
    scaled = factors.Standardised.fit(rows)(rows)
    np.testing.assert_allclose(scaled, [[-1, 0], [1, 0], [np.nan, 0]])
    with pytest.raises(DataError, match="unknown for every training item"):
        factors.Standardised.fit(np.full((3, 1), np.nan))


# What a head predicts -------------------------------------------------------------------------------------------------


def targets(columns: dict[str, object], *names: str) -> np.ndarray:
    n = len(next(iter(columns.values())))  # pyright: ignore[reportArgumentType]
    found = factors.targets(ImageSet.from_arrays(np.zeros((n, 2, 2)), conditions=columns), names)
    assert found is not None
    return found


def test_numbers_stay_text_is_one_hot_and_an_axis_two_numbers() -> None:
    columns = {
        "brightness": np.array([0.1, np.nan, 0.3]),
        "camera": ["B", "A", None],
        "count": np.array([3, 1, 2]),
        "rotation": np.array([0.0, 90.0, np.nan]),
        "flash": np.array([True, False, True]),
    }
    found = targets(columns, "count", "camera", "rotation", "brightness", "flash")
    nan = np.nan
    expected = [[3, 0, 1, 1, 0, 0.1, 1], [1, 1, 0, -1, 0, nan, 0], [2, nan, nan, nan, nan, 0.3, 1]]
    np.testing.assert_allclose(found, expected, atol=1e-12)
    assert found.dtype == np.float64


def test_an_axis_does_not_jump_where_it_passes_the_vertical() -> None:
    before, after, level = targets({"rotation": [89.5, -89.5, 0.0]}, "rotation")
    assert np.abs(before - after).max() < 0.05
    assert np.abs(before - level).max() > 1.9


@pytest.mark.parametrize("given", [["a", "", "b"], ["a", None, "b"], np.array(["a", np.nan, "b"], dtype=object)])
def test_missing_text_is_nan_in_every_entry(given: object) -> None:
    np.testing.assert_array_equal(targets({"t": given}, "t"), [[1, 0], [np.nan, np.nan], [0, 1]])


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (np.array(["a", 1], dtype=object), "'x' mixes text and numbers"),
        ([1.0, np.inf], "'x' is infinite in rows 1"),
        ([object()], "'x' is continuous; row 0 holds .*, not a number"),
    ],
)
def test_columns_that_cannot_be_predicted_are_refused(values: object, said: str) -> None:
    with pytest.raises(DataError, match=said):
        targets({"x": values}, "x")


def test_text_of_other_items_has_the_entries_of_those_it_is_like() -> None:
    like = ImageSet.from_arrays(np.zeros((3, 2, 2)), conditions={"t": ["b", "a", "c"], "n": [1.0, 2.0, 3.0]})
    other = ImageSet.from_arrays(np.zeros((3, 2, 2)), conditions={"t": ["c", "new", None]})
    nan = np.nan
    found = factors.targets(other, ("t", "n"), like)
    np.testing.assert_array_equal(found, [[0, 0, 1, nan], [nan] * 4, [nan] * 4])
