"""The score of patches, levels and pooling are chosen with synthetic defects: the same each time, and what helps."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from knowngood.config import OwnBackbone, PlaceGaussian, parse_settings
from knowngood.data import ImageSet
from knowngood.data.synthetic import defective
from knowngood.detector.fit import patch_settling, patch_trial
from knowngood.detector.fit.patch_settling import settle
from knowngood.detector.fit.plan import Plan, plan
from knowngood.detector.pipeline import Pipeline
from knowngood.models.patch_gaussian import Patches
from knowngood.scores.levels import Levels
from knowngood.scores.patches import POOLINGS, PatchScore, pool
from patch_models import TinyBackbone, fitted, parts

SIDE = 32  # of maps that are made up
ONE = torch.ones(SIDE, SIDE, dtype=torch.float64)


def planned(images: np.ndarray, conditions: dict[str, np.ndarray] | None = None, **settings: Any) -> tuple[Any, Plan]:
    """A pipeline as it is after training, but for the training, and its plan."""
    given = {
        "features": {"name": "own", "stride": 4, "average": 1},
        "image_size": 32,
        "latent_dim": 2,
        "calibrate_by": "split",
    }
    chosen = parse_settings({**given, **settings})
    made = plan(ImageSet.from_arrays(images, conditions=conditions), chosen, 0, backbone=TinyBackbone())
    pipeline = Pipeline(chosen, made.schema, made.representation, made.model.eval(), made.score)
    with torch.no_grad():
        pipeline.state = made.score.fit(made.model, [])
    return pipeline, made


def settled(pipeline: Any, made: Plan, seed: int = 0, **options: Any) -> Any:
    """The pipeline settled; the one that is given stays as it is."""
    own = replace(pipeline, state=dict(pipeline.state))
    settle(own, made, made.inners, OwnBackbone(**options), seed)
    return own


# Choices on maps that are made up -------------------------------------------------------------------------------------


def stub(smoothing: float = 0.0, cells: int = 1) -> Any:
    patches = Patches((2, SIDE, SIDE), torch.eye(cells) if cells > 1 else None)
    score = PatchScore(PlaceGaussian().build(), smoothing)
    return SimpleNamespace(model=SimpleNamespace(patches=patches), score=score)


def made_up(level: Tensor, spread: Tensor, depth: Tensor | float, n: int = 60, seed: int = 0) -> tuple[Any, ...]:
    """Scores of places N(level, spread²) of good images and of bad ones, to which `depth` is added in a square.

    Returns maps of good ones, of bad ones, and the places of the squares, (n, h, w) each.
    """
    draw = torch.Generator().manual_seed(seed)
    good, bad = (level + spread * torch.randn(n, SIDE, SIDE, generator=draw, dtype=torch.float64) for _ in range(2))
    hit = torch.zeros(n, SIDE, SIDE, dtype=torch.bool)
    for i, (y, x) in enumerate(torch.randint(0, SIDE - 3, (n, 2), generator=draw).tolist()):
        hit[i, y : y + 3, x : x + 3] = True
    return good, bad + hit * depth, hit


def halves(left: float, right: float) -> Tensor:
    return torch.tensor([left] * (SIDE // 2) + [right] * (SIDE // 2), dtype=torch.float64).expand(SIDE, SIDE)


def best_pooling(good: Tensor, bad: Tensor, ways: tuple[str, ...] = ("on", "off")) -> tuple[str, str]:
    own, cell = torch.arange(len(bad)), torch.zeros(len(good), dtype=torch.int64)
    choices = [(way, pooling) for way in ways for pooling in POOLINGS]
    return patch_settling._best_pooling(stub(), good, bad, own, cell, choices)


@pytest.mark.parametrize(("level", "spread"), [((0, 60), (1, 1)), ((0, 0), (1, 30)), ((10, 100), (1, 10))])
def test_levels_are_on_where_good_places_differ(level: tuple[float, float], spread: tuple[float, float]) -> None:
    """Defects 8 standard deviations deep at their own place drown in what good images score elsewhere."""
    good, bad, _ = made_up(halves(*level), halves(*spread), 8 * halves(*spread))
    for ways in (("on", "off"), ("off", "on")):
        assert best_pooling(good, bad, ways)[0] == "on"


@pytest.mark.parametrize("mixed", [False, True])
def test_levels_are_off_where_good_images_are_odd_at_places_that_hardly_vary(mixed: bool) -> None:
    """Each of 120 good images at one of the left half, by 50 deviations; defects are 20 deep, in the right half.

    Were levels taken from the image too that they judge, no place of it could be odder than √119, and a defect would
    show. A bad image is judged without its own good one, wherever that stands.
    """
    good = halves(0.1, 1) * torch.randn(120, SIDE, SIDE, generator=torch.Generator().manual_seed(0)).double()
    at = torch.arange(120)
    good[at, at // 10, at % 10] += 5
    own = at.flip(0) if mixed else at
    bad = good[own].clone()
    bad[:, 20:23, 25:28] += 20
    choices = [(way, pooling) for way in ("on", "off") for pooling in POOLINGS]
    cell = torch.zeros(120, dtype=torch.int64)
    assert patch_settling._best_pooling(stub(), good, bad, own, cell, choices[::3])[0] == "off"
    assert patch_settling._best_pooling(stub(), good, bad, own, cell, choices[:3])[0] == "on"


@pytest.mark.parametrize("mixed", [False, True])
def test_a_bad_image_is_judged_without_its_own_good_one(mixed: bool) -> None:
    """Which is odd at the same place by 50 deviations, the bad one by 60: without levels both drown on the right."""
    good = halves(0.1, 5) * torch.randn(120, SIDE, SIDE, generator=torch.Generator().manual_seed(0)).double()
    at = torch.arange(120)
    own = at.flip(0) if mixed else at
    bad = good[own].clone()
    good[at, at // 10, at % 10] += 5
    bad[at, own // 10, own % 10] += 6
    choices, cell = [("on", "max"), ("off", "max")], torch.zeros(120, dtype=torch.int64)
    assert patch_settling._best_pooling(stub(), good, bad, own, cell, choices)[0] == "on"


def test_of_equals_the_first_is_chosen() -> None:
    made = made_up(ONE, ONE, 1000.0)[:2]
    assert best_pooling(*made) == ("on", "max")
    assert best_pooling(*made, ways=("off", "on")) == ("off", "max")
    assert best_pooling(*made, ways=("off",)) == ("off", "max")


def test_wide_shallow_defects_are_not_judged_by_their_largest_value() -> None:
    """A quarter of all places .7 deviations deeper is told by means only."""
    draw = torch.Generator().manual_seed(0)
    good, bad = (torch.randn(200, SIDE, SIDE, generator=draw, dtype=torch.float64) for _ in range(2))
    bad[:, :, :8] += 0.7
    assert best_pooling(good, bad)[1] != "max"


class Named(PatchScore):
    """Stands for a score."""

    def __init__(self) -> None:
        super().__init__(PlaceGaussian().build(), 0.0)


def best_inner(pipeline: Any, *made: tuple[Any, ...]) -> int:
    """Which of the made-up scores is chosen; defects are those of the first."""
    inners = [Named() for _ in made]
    hit = made[0][2]
    cells = torch.zeros(len(hit), dtype=torch.int64)
    good, bad = ({inner: one[k] for inner, one in zip(inners, made, strict=True)} for k in (0, 1))
    return inners.index(patch_settling._best_inner(pipeline, good, bad, (cells, cells), hit))  # type: ignore[arg-type]


def test_the_score_that_tells_places_best_is_chosen_and_of_equals_the_first() -> None:
    weak, strong = made_up(ONE, ONE, 1.0), made_up(ONE, ONE, 3.0)
    assert best_inner(stub(), weak, strong) == 1
    assert best_inner(stub(), strong, weak) == 0
    assert best_inner(stub(), strong, strong) == 0
    unit = (strong[0] * 1e3 + 5, strong[1] * 1e3 + 5, strong[2])
    assert best_inner(stub(), strong, unit) == 0  # in other units it is the same score


def test_places_that_are_ignored_have_no_say() -> None:
    """The second is better where nothing counts only."""
    pipeline = stub()
    pipeline.model.patches.ignored[:, : SIDE * SIDE // 2] = True
    one = made_up(ONE, ONE, 2.0)
    upper = torch.zeros(SIDE, SIDE)
    upper[: SIDE // 2] = 1
    other = (one[0], one[1] + 50 * upper * one[2], one[2])
    assert best_inner(pipeline, one, other) == 0
    assert best_inner(stub(), one, other) == 1
    pipeline.model.patches.ignored[:] = True  # nothing is told: the first
    assert best_inner(pipeline, one, other) == 0


def test_covered_is_half_a_place_or_more() -> None:
    mask = np.zeros((8, 8), bool)
    mask[0:2, 0:4] = True  # half of a 4×4 cell
    mask[4:6, 4:7] = True  # less than half
    assert patch_trial.covered(mask, (2, 2)).tolist() == [[True, False], [False, False]]


# Choices on images ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def plain() -> tuple[Any, Plan]:
    return planned(parts(40))


def test_the_same_seed_chooses_the_same_and_draws_nothing_else(plain: tuple[Any, Plan]) -> None:
    pipeline, made = plain
    before = torch.random.get_rng_state()
    kept = {key: value.clone() for key, value in pipeline.state.items()}
    one, same = (settled(pipeline, made, seed=4) for _ in range(2))
    assert torch.equal(before, torch.random.get_rng_state())
    assert one.score.options == same.score.options
    assert one.score.smoothing == pipeline.score.smoothing
    assert one.state.keys() == same.state.keys() == kept.keys() | {"pooled", "whole"}
    assert all(torch.equal(one.state[key], same.state[key]) for key in one.state)
    assert all(torch.equal(pipeline.state[key], kept[key]) for key in kept)


@pytest.mark.parametrize("levels", ["on", "off"])
@pytest.mark.parametrize("pooling", POOLINGS)
def test_what_is_set_is_kept(levels: str, pooling: str, plain: tuple[Any, Plan]) -> None:
    both = settled(*plain, levels=levels, pooling=pooling)
    for one in (both, settled(*plain, levels=levels)):
        assert bool((one.state["level"] != 0).any()) == (levels == "on")
    for one in (both, settled(*plain, pooling=pooling)):
        assert int(one.state["pooling"]) == POOLINGS.index(pooling)  # type: ignore[arg-type]


@pytest.mark.parametrize("by", ["left_out", "split"])
def test_levels_and_the_largest_value_are_tried_first(by: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[tuple[str, str]] = []

    def chosen(_: Any, __: Any, inners: Any, choices: list[tuple[str, str]], *___: Any) -> Any:
        tried.extend(choices)
        return inners[0], choices[0]

    monkeypatch.setattr(patch_settling, "_chosen", chosen)
    settled(*planned(parts(30), calibrate_by=by))
    assert tried == [(way, pooling) for way in ("on", "off") for pooling in POOLINGS]


def test_a_score_that_is_set_is_kept_and_auto_chooses_among_two(plain: tuple[Any, Plan]) -> None:
    assert [inner.options.name for inner in plain[1].inners] == ["gaussian", "elbo"]
    assert settled(*plain).score.options.name in ("gaussian", "elbo")
    left_out = planned(parts(30), calibrate_by="left_out")[1]
    assert [inner.options.name for inner in left_out.inners] == ["gaussian"]
    for scoring in ("elbo", "gaussian", "kl"):
        pipeline, made = planned(parts(30), scoring=scoring)
        assert [inner.options.name for inner in made.inners] == [scoring]
        assert settled(pipeline, made).score.options.name == scoring


def test_where_nothing_is_to_be_chosen_no_defect_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline, made = planned(parts(30), scoring="gaussian")

    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError

    monkeypatch.setattr(patch_trial, "defective", never)
    one = settled(pipeline, made, levels="on", pooling="top")
    assert int(one.state["pooling"]) == POOLINGS.index("top")
    assert (one.state["level"] > 0).all()


def test_images_are_seen_as_if_they_had_not_been_learned_from() -> None:
    """What is usual is taken over images that each were left out, of the part "fit" and of "select", in any order."""
    pipeline, made = planned(
        parts(40, noise=20), scoring="gaussian", features={"name": "own", "shrink": 0.0, "context": 0, "stride": 4}
    )
    one = settled(pipeline, made, levels="on", pooling="max")
    assert made.features is not None
    x = torch.from_numpy(np.concatenate([made.features["fit"], made.features["select"]])).float()
    assert len(made.features["select"]) > 0
    distance, whole = [], []
    cell = torch.zeros(len(x), dtype=torch.int64)
    for i in range(len(x)):
        without = fitted(x[torch.arange(len(x)) != i], coarse=True)
        assert without.coarse is not None
        distance.append(0.5 * without.whiten(x[i : i + 1], cell[:1]).square().sum(2))
        white = without.coarse.whiten(without.coarsen(x[i : i + 1], cell[:1]), cell[:1])
        whole.append(0.5 * white.square().sum(2).mean().double())
    maps = torch.cat(distance).double().unflatten(1, x.shape[2:])
    wanted = Levels.fit(maps, cell, torch.zeros(1, *x.shape[2:], dtype=torch.bool))
    torch.testing.assert_close(one.state["level"], wanted.mean, rtol=0.15, atol=0.1)  # but for the ridge
    torch.testing.assert_close(one.state["spread"], wanted.spread, rtol=0.3, atol=0.3)
    pooled = PatchScore.smoothed(one.score, wanted.judged_without(maps, maps, cell), wanted.ignored[cell]).amax((1, 2))
    for name, values in (("pooled", pooled), ("whole", torch.stack(whole))):
        moments = torch.stack([values.mean(), values.std(correction=0)])[None]
        torch.testing.assert_close(one.state[name], moments, rtol=0.1, atol=0.05)
    seen = 0.5 * made.model.patches.whiten(x, torch.zeros(len(x)).long()).square().sum(2).mean()  # type: ignore[union-attr]
    assert one.state["level"].mean() > 1.1 * seen


@pytest.mark.parametrize(("by", "images"), [("left_out", 40), ("split", 20)])
def test_all_that_calibrate_say_what_is_usual_or_else_some(
    by: str, images: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, number in (("MOST", 20), ("GOOD", 10), ("BAD", 10)):
        monkeypatch.setattr(patch_settling, name, number)
    one = settled(*planned(parts(40), calibrate_by=by, scoring="gaussian"), levels="on")
    torch.testing.assert_close(one.state["level_weight"], torch.full((1, 8, 8), float(images)).double())
    assert {"pooled", "whole"} <= one.state.keys()


@pytest.mark.parametrize("levels", ["on", "off"])
def test_without_the_whole_a_value_is_the_pooled_one(levels: str) -> None:
    pipeline, made = planned(parts(40), features={"name": "own", "stride": 4, "average": 1, "whole": False})
    one = settled(pipeline, made, levels=levels)
    assert one.model.patches.coarse is None
    assert not {"pooled", "whole"} & one.state.keys()
    plain = Levels.none(torch.zeros(1, 8, 8, dtype=torch.bool)).state()
    assert all(torch.equal(one.state[name], value) for name, value in plain.items()) == (levels == "off")


def test_bad_images_are_the_same_images_with_a_defect() -> None:
    """Where the defect cannot reach, the patches are those of the good image, left out too; inside they are not."""
    pipeline, made = planned(parts(40), features={"name": "own", "stride": 4, "average": 1, "context": 0})
    at = np.array([0, 5, len(made.shares["fit"]) + len(made.shares["select"]) - 1])  # the last is of the part "select"
    good = torch.cat(patch_trial.good_sample(pipeline, made, at).white)
    bad, hit = patch_trial.bad_sample(pipeline, made, at, 3)
    moved = (torch.cat(bad.white) - good).abs().amax(2).unflatten(1, (8, 8))
    index = np.concatenate([made.shares["fit"], made.shares["select"]])[at]
    assert set(made.shares["select"]) & set(index)
    _, masks = defective(made.samples[index], 3, size=(32, 32))  # type: ignore[arg-type]
    for i, mask in enumerate(masks):
        rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
        near = np.zeros((32, 32), bool)  # a place sees the 12 pixels around it at most
        near[max(0, rows[0] - 12) : rows[-1] + 13, max(0, columns[0] - 12) : columns[-1] + 13] = True
        far = torch.from_numpy(~near.reshape(8, 4, 8, 4).any((1, 3)))
        assert (moved[i][far] < 0.05).all()
        assert torch.equal(hit[i], patch_trial.covered(mask, (8, 8)))
        assert moved[i].max() > 0.5


@pytest.mark.parametrize("column", ["product", "class", "kind"])
def test_conditions_may_have_the_names_that_synthetic_defects_use(column: str) -> None:
    product = np.array(["disc", "bars"])[np.arange(40) % 2]
    images = np.where((product == "disc")[:, None, None], parts(40), parts(40, seed=1, product="bars"))
    one = settled(*planned(images, {column: product}))
    assert one.state["level"].shape == (2, 8, 8)


def test_masks_are_cropped_as_the_images_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half the side is cropped to: what the grid's places are told of a defect is what lies in the middle."""
    pipeline, made = planned(parts(40), crop=16)
    assert made.model.patches.shape[1:] == (4, 4)  # type: ignore[union-attr]
    at = np.arange(30)
    _, hit = patch_trial.bad_sample(pipeline, made, at, 0)
    index = np.concatenate([made.shares["fit"], made.shares["select"]])[at]
    _, masks = defective(made.samples[index], 0, size=(32, 32))  # type: ignore[arg-type]
    assert hit.any()
    for found, mask in zip(hit, masks, strict=True):
        assert torch.equal(found, patch_trial.covered(mask[8:24, 8:24], (4, 4)))


def test_defects_that_cover_no_place_are_no_obstacle() -> None:
    """A grid of 2×2 places, half of which no synthetic defect covers."""
    one = settled(*planned(parts(40), features={"name": "own", "stride": 16}))
    assert one.state["level"].shape == (1, 2, 2)


class Alarm(TinyBackbone):
    """With a feature that is 0 on all good parts, and enormous on many defects."""

    def features(self, images: Tensor) -> list[Tensor]:
        bright = (images[:, :1] - 0.95).relu() * 1e9
        return [super().features(images)[0], torch.nn.functional.avg_pool2d(bright, 4)]


def test_what_only_defects_show_may_be_beyond_half_precision() -> None:
    given = {"features": {"name": "own", "stride": 4, "average": 1}, "image_size": 32, "latent_dim": 2}
    images = ImageSet.from_arrays(parts(40).clip(0, 200))
    made = plan(images, parse_settings(given), 0, backbone=Alarm())
    pipeline = Pipeline(made.settings, made.schema, made.representation, made.model.eval(), made.score)
    pipeline.state = made.score.fit(made.model, [])
    bad, _ = patch_trial.bad_sample(pipeline, made, np.arange(30), 0)
    assert torch.cat(bad.white).abs().max() > 1e4
    assert torch.isfinite(patch_trial.maps_of(pipeline, PlaceGaussian().build(), bad)).all()
    settled(pipeline, made)


def test_pooling_told_apart_is_what_is_scored(plain: tuple[Any, Plan]) -> None:
    """What is compared for a choice is what the score gives once it is chosen: the same maps, pooled."""
    pipeline, made = plain
    one = settled(pipeline, made, levels="on", pooling="soft")
    assert made.features is not None
    x = torch.from_numpy(np.array(made.features["fit"][:3])).float()
    with torch.no_grad():
        state = {name: value for name, value in one.state.items() if name != "whole"}
        found = one.score.score(one.model, state, x, None, torch.zeros(3).long())
        white = one.model.patches.whiten(x, torch.zeros(3).long())
        raw, _ = one.score.of_patches(one.model, one.state, white, None, torch.zeros(3).long())
    against = (raw - one.state["level"]) / one.state["spread"]
    shown, ignored = patch_trial.smoothed(one, against, torch.zeros(3).long())
    torch.testing.assert_close(pool(shown, "soft", ignored), found.values)
