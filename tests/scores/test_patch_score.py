"""Patch scores as maps and one value an image: what every score owes, whatever is asked of each patch."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from knowngood.config import KL, Elbo, Mahalanobis, Options, PlaceGaussian, PriorDistance, Reconstruction, SplitElbo
from knowngood.detector.fit.patch_settling import usual
from knowngood.errors import SettingsError
from knowngood.metrics import roc_auc
from knowngood.models.objectives import Batch
from knowngood.models.patch_gaussian import FEWEST, smooth
from knowngood.models.vae import ConditionalVAE
from knowngood.scores.levels import Levels
from knowngood.scores.patches import POOLINGS, LeftOut, PatchScore, label_term, pool
from patch_models import H, W, fitted, patch_model, product_features
from score_models import small_model

P = H * W
EVERY = [
    Elbo(samples=0),
    Elbo(samples=3),
    KL(),
    Mahalanobis(),
    PriorDistance(),
    SplitElbo(),
    PlaceGaussian(),
    *(Reconstruction(distance=d) for d in ("l2", "squared", "mean")),
]


def name(options: Options) -> str:
    return "-".join(str(value) for value in options.model_dump().values())


every_score = pytest.mark.parametrize("options", EVERY, ids=name)
every_number = pytest.mark.parametrize("products", [1, 2])


def batches(model: ConditionalVAE, products: int) -> list[Batch]:
    """The patches of 12 images of each product, in one batch, strata by product."""
    x, c, stratum = images(products, 12)
    assert model.patches is not None
    rows, told = model.patches.split(x, c)
    stratum = stratum.repeat_interleave(P)
    return [Batch(rows, told, stratum, torch.zeros(len(rows)), torch.arange(len(rows)))]


def images(products: int, each: int = 3, seed: int = 7) -> tuple[Tensor, Tensor | None, Tensor]:
    """Features, conditions and strata of some images of each product, mixed."""
    order = torch.randperm(products * each, generator=torch.Generator().manual_seed(seed))
    x = torch.cat([product_features(k, each, seed) for k in range(products)])[order]
    stratum = torch.arange(products).repeat_interleave(each)[order]
    return x, torch.eye(products)[stratum] if products > 1 else None, stratum


def fitted_score(
    options: Options,
    products: int = 1,
    smoothing: float = 0.5,
    pooling: str = "max",
    *,
    model: ConditionalVAE | None = None,
    **state: Tensor,
) -> tuple[ConditionalVAE, PatchScore, dict[str, Tensor]]:
    model = model or patch_model(products)
    score = PatchScore(options.build(), smoothing)
    score.check(model)
    found = score.fit(model, batches(model, products))
    return model, score, {**found, "pooling": torch.tensor(POOLINGS.index(pooling)), **state}  # type: ignore[arg-type]


def some_levels(products: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(5)
    shape = (products, H, W)
    return {"level": torch.randn(shape, generator=generator), "spread": 0.5 + torch.rand(shape, generator=generator)}


# What every score owes ------------------------------------------------------------------------------------------------


@every_number
@every_score
def test_values_do_not_depend_on_the_batch_and_nothing_is_drawn(options: Options, products: int) -> None:
    model, score, state = fitted_score(options, products, **some_levels(products))
    x, c, stratum = images(products)
    before = torch.random.get_rng_state()
    whole = score.score(model, state, x, c, stratum, want_map=True)
    again = score.score(model, state, x, c, stratum, want_map=True)
    assert torch.equal(before, torch.random.get_rng_state())
    assert torch.equal(whole.values, again.values)
    assert whole.values.dtype == torch.float64
    assert whole.values.shape == (len(x),)
    assert len(whole.values.unique()) == len(x)
    assert whole.map is not None
    assert whole.map.shape == (len(x), H, W)
    for i in range(len(x)):
        told = None if c is None else c[i : i + 1]
        single = score.score(model, state, x[i : i + 1], told, stratum[i : i + 1], want_map=True)
        torch.testing.assert_close(single.values, whole.values[i : i + 1], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(single.map, whole.map[i : i + 1], rtol=1e-4, atol=1e-3)
        for key, part in single.parts.items():
            torch.testing.assert_close(part, whole.parts[key][i : i + 1], rtol=1e-4, atol=1e-4)


@every_number
@every_score
def test_each_place_has_the_inner_score_of_its_patch_under_its_position(options: Options, products: int) -> None:
    model, score, state = fitted_score(options, products, smoothing=0.0)
    assert model.patches is not None
    x, c, stratum = images(products)
    found = score.score(model, state, x, c, stratum, want_map=True)
    assert found.map is not None
    cell = torch.zeros(len(x), dtype=torch.int64) if c is None else c.argmax(1)
    parts: list[dict[str, Tensor]] = []
    for i, j in ((0, 0), (1, 3), (2, 2)):
        place = i * W + j
        off = x[:, :, i, j] - model.patches.mean[cell, place]
        white = torch.einsum("bgf,bf->bg", model.patches.root[cell, place], off)
        position = model.patches.position[place].expand(len(x), -1)
        told = position if c is None else torch.cat([c, position], 1)
        inner = score.inner.score(model, state, white, told, stratum)
        torch.testing.assert_close(found.map[:, i, j], inner.values, rtol=1e-4, atol=1e-4)
        parts.append(inner.parts)
    assert all(found.parts.keys() == part.keys() for part in parts)


@pytest.mark.parametrize("rows", [1, 5, P, 4096])
def test_how_many_patches_go_together_does_not_matter(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model, score, state = fitted_score(Elbo(samples=0), 2)
    given = images(2)
    whole = score.score(model, state, *given, want_map=True)
    monkeypatch.setattr("knowngood.scores.patches.ROWS", rows)
    cut = score.score(model, state, *given, want_map=True)
    torch.testing.assert_close(cut.map, whole.map, rtol=1e-4, atol=1e-4)
    for key, part in cut.parts.items():
        torch.testing.assert_close(part, whole.parts[key], rtol=1e-4, atol=1e-4)


def test_parts_are_means_over_the_places() -> None:
    """Without smoothing and levels they add up to the mean of the map."""
    model, score, state = fitted_score(Elbo(samples=2), smoothing=0.0)
    found = score.score(model, state, *images(1), want_map=True)
    assert found.map is not None
    assert found.parts.keys() == {"elbo_reconstruction", "elbo_kl"}
    torch.testing.assert_close(sum(found.parts.values()), found.map.mean((1, 2)), rtol=1e-5, atol=1e-5)


def test_the_gaussian_is_half_the_squared_distance() -> None:
    model, score, state = fitted_score(PlaceGaussian(), smoothing=0.0)
    assert model.patches is not None
    x, _, stratum = images(1)
    found = score.score(model, state, x, None, stratum, want_map=True)
    white = model.patches.whiten(x, torch.zeros(len(x), dtype=torch.int64)).double()
    torch.testing.assert_close(found.map, 0.5 * white.square().sum(2).unflatten(1, (H, W)))
    torch.testing.assert_close(found.values, 0.5 * white.square().sum(2).amax(1))


def test_mahalanobis_distances_are_to_the_codes_of_the_images_own_stratum() -> None:
    """A stratum whose codes lie elsewhere must not be judged by those of the first."""
    model, score, state = fitted_score(Mahalanobis(), 2, smoothing=0.0)
    x, c, stratum = images(2)
    values = score.score(model, state, x, c, stratum).values
    moved = {**state, "mean": state["mean"].clone()}
    moved["mean"][1] += 50
    found = score.score(model, moved, x, c, stratum).values
    assert torch.equal(found[stratum == 0], values[stratum == 0])
    assert (found[stratum == 1] > values[stratum == 1] + 100).all()


# Maps and values ------------------------------------------------------------------------------------------------------


@every_number
@pytest.mark.parametrize("pooling", POOLINGS)
def test_without_levels_the_value_is_the_pooled_map(pooling: str, products: int) -> None:
    model, score, state = fitted_score(Elbo(samples=0), products, pooling=pooling)
    found = score.score(model, state, *images(products), want_map=True)
    bare = score.score(model, state, *images(products))
    assert found.map is not None
    assert bare.map is None
    assert torch.equal(found.values, bare.values)
    assert torch.equal(found.values, pool(found.map, pooling))  # type: ignore[arg-type]
    assert (state["level"] == 0).all()
    assert (state["spread"] == 1).all()


@pytest.mark.parametrize("pooling", POOLINGS)
def test_values_are_pooled_against_the_levels_of_the_images_cell_and_maps_are_not(pooling: str) -> None:
    """(s − level) / spread, then the smoothing."""
    levels = some_levels(2)
    model, score, state = fitted_score(Elbo(samples=0), 2, smoothing=0.7, pooling=pooling, **levels)
    x, c, stratum = images(2)
    raw = PatchScore(score.inner, 0.0).score(model, state, x, c, stratum, want_map=True).map
    found = score.score(model, state, x, c, stratum, want_map=True)
    assert raw is not None
    torch.testing.assert_close(found.map, smooth(raw, 0.7))
    for i, k in enumerate(stratum.tolist()):
        judged = smooth(((raw[i] - levels["level"][k]) / levels["spread"][k])[None], 0.7)
        torch.testing.assert_close(found.values[i : i + 1], pool(judged, pooling))  # type: ignore[arg-type]


# An image as a whole --------------------------------------------------------------------------------------------------


@pytest.fixture
def coarser(monkeypatch: pytest.MonkeyPatch) -> None:
    """A coarse grid of 2×2 places above one of 3×4."""
    monkeypatch.setattr("knowngood.models.patch_gaussian.COARSE", 2)


def some_usual(products: int) -> dict[str, Tensor]:
    """By product, what is usual of the pooled value and of the whole."""
    found = {"pooled": torch.tensor([[9.0, 3.0], [11.0, 4.0]]), "whole": torch.tensor([[2.0, 0.5], [3.0, 0.4]])}
    return {name: value[:products].double() for name, value in found.items()}


@pytest.mark.usefixtures("coarser")
@every_number
@pytest.mark.parametrize("pooling", POOLINGS)
def test_what_is_unusual_as_a_whole_counts_from_one_deviation_on(pooling: str, products: int) -> None:
    """z(v) + max(0, z(w) − 1), by cell: v the value without it, w the mean of ½‖coarse whitened features‖²."""
    given = some_levels(products)
    model = patch_model(products, coarse=True)
    model, score, state = fitted_score(Elbo(samples=0), products, pooling=pooling, model=model, **given)
    assert model.patches is not None
    coarse = model.patches.coarse
    assert coarse is not None
    assert coarse.shape[1:] == (2, 2)
    x, c, stratum = images(products, each=8)
    plain = score.score(model, state, x, c, stratum, want_map=True)
    known = some_usual(products)
    found = score.score(model, state | known, x, c, stratum, want_map=True)
    torch.testing.assert_close(found.map, plain.map)
    assert found.parts.keys() == plain.parts.keys() | {"whole"}
    beyond = []
    for i, k in enumerate(stratum.tolist()):
        seen = torch.stack(
            [x[i, :, r, s].mean((1, 2)) for r in (slice(2), slice(1, 3)) for s in (slice(2), slice(2, 4))]
        )
        white = torch.einsum("pgf,pf->pg", coarse.root[k], seen - coarse.mean[k]).double()
        (mean, spread), (of_whole, by) = known["pooled"][k], known["whole"][k]
        z = (0.5 * white.square().sum(1).mean() - of_whole) / by
        torch.testing.assert_close(found.parts["whole"][i], z, rtol=1e-4, atol=1e-4)
        wanted = (plain.values[i] - mean) / spread + max(0.0, float(z) - 1)
        torch.testing.assert_close(found.values[i], wanted, rtol=1e-4, atol=1e-4)
        beyond.append(float(z) > 1)
    assert any(beyond)
    assert not all(beyond)


@pytest.mark.usefixtures("coarser")
def test_the_whole_is_of_each_image_by_itself() -> None:
    model, score, state = fitted_score(
        PlaceGaussian(), 2, model=patch_model(2, coarse=True), **some_levels(2), **some_usual(2)
    )
    x, c, stratum = images(2)
    assert c is not None
    together = score.score(model, state, x, c, stratum)
    for i in range(len(x)):
        at = slice(i, i + 1)
        single = score.score(model, state, x[at], c[at], stratum[at])
        torch.testing.assert_close(single.values, together.values[at], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(single.parts["whole"], together.parts["whole"][at], rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures("coarser")
def test_the_whole_sees_nothing_of_what_is_ignored() -> None:
    """In one product all of the first part is ignored, and its mean is one of the three others."""
    ignored = torch.zeros(2, H, W, dtype=torch.bool)
    ignored[0, :2, :3], ignored[1, 2, 3] = True, True
    model = patch_model(2, coarse=True, ignored=ignored)
    model, score, state = fitted_score(PlaceGaussian(), 2, model=model, **some_usual(2))
    assert model.patches is not None
    assert model.patches.coarse is not None
    assert model.patches.coarse.ignored.tolist() == [[True, False, False, False], [False] * 4]
    x, c, stratum = images(2)
    found = score.score(model, state, x, c, stratum)
    other = x.masked_fill(ignored[stratum][:, None], 1e3)
    changed = score.score(model, state, other, c, stratum)
    torch.testing.assert_close(changed.values, found.values)
    torch.testing.assert_close(changed.parts["whole"], found.parts["whole"])
    cell = model.patches.cell(c, len(x))
    white = model.patches.coarse.whiten(model.patches.coarsen(x, cell), cell).double()
    mean = torch.stack(
        [(0.5 * w.square().sum(1))[1 - k :].mean() for w, k in zip(white, stratum.tolist(), strict=True)]
    )
    at, by = some_usual(2)["whole"][stratum].unbind(1)
    torch.testing.assert_close(found.parts["whole"], (mean - at) / by, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_a_small_shift_everywhere_is_seen_as_a_whole_and_good_images_stay_as_they_are(pooling: str) -> None:
    """All features half a deviation off at each of 8×8 places: the values of most places are usual ones."""
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(300, 5, 8, 8, generator=draw)
    model = patch_model()
    model.patches = fitted(x, None, coarse=True)
    score, cell = PatchScore(PlaceGaussian().build(), 0.5), torch.zeros(300, dtype=torch.int64)
    state = score.fit(model, []) | {"pooling": torch.tensor(POOLINGS.index(pooling))}  # type: ignore[arg-type]
    out, patches = LeftOut(score.inner, 0.5), model.patches
    maps, _ = out.of_patches(model, state, out.white(patches, x, cell), None, cell)
    state |= Levels.fit(maps, cell, patches.ignored_grid).state()
    pooled = out.pooled(state, maps, maps, cell, patches.ignored_grid)
    state["pooled"] = usual(pooled, cell, 1)
    bare = dict(state)
    state["whole"] = usual(out.whole(patches, x, cell), cell, 1)

    new = torch.randn(200, 5, 8, 8, generator=draw)
    of = torch.zeros(200, dtype=torch.int64)
    good, shifted = (score.score(model, state, f, None, of) for f in (new, new + 0.5))
    mean, spread = bare.pop("pooled")[0]
    plain, also = ((score.score(model, bare, f, None, of).values - mean) / spread for f in (new, new + 0.5))
    labels = torch.cat([torch.zeros(200), torch.ones(200)]).numpy()
    assert roc_auc(labels, torch.cat([plain, also]).numpy()) < 0.97
    assert roc_auc(labels, torch.cat([good.values, shifted.values]).numpy()) > 0.995
    assert (shifted.values - also).mean() > 3
    added = good.values - plain
    assert (added > -1e-9).all()
    assert (added < 1e-9).double().mean() > 0.75  # z(w) < 1
    assert added.mean() < 0.2
    for found in (plain, good.parts["whole"]):  # images set aside are what left-out ones are
        assert abs(float(found.mean())) < 0.3
        assert float(found.std()) == pytest.approx(1, abs=0.25)


def test_what_is_usual_is_by_cell_and_of_all_where_a_cell_has_few() -> None:
    cell = torch.tensor([0] * 20 + [1] * FEWEST + [2] * (FEWEST - 1))
    values = torch.randn(len(cell), generator=torch.Generator().manual_seed(0)).double() + 10 * cell
    found = usual(values, cell, 4)
    for k, mine in enumerate((values[:20], values[20 : 20 + FEWEST], values, values)):
        torch.testing.assert_close(found[k], torch.stack([mine.mean(), mine.std(correction=0)]))
    assert (usual(torch.ones(9).double(), torch.zeros(9).long(), 1) > 0).all()


def test_what_labelled_defects_add_was_not_among_what_levels_were_taken_from() -> None:
    """Left out, an image takes its own plain map from the levels, and is judged with the term."""
    model = patch_model(n=40)
    score, x, cell = PatchScore(PlaceGaussian().build(), 0.0), product_features(0, 40), torch.zeros(40).long()
    out, patches = LeftOut(score.inner, 0.0), model.patches
    assert patches is not None
    white = out.white(patches, x, cell)
    taught = {
        "label_direction": torch.ones(len(white[0, 0])),
        "label_offset": torch.tensor(-3.0),
        "label_weight": torch.tensor(2.0),
    }
    state = score.fit(model, []) | taught
    plain, _ = out.of_patches(model, state, white, None, cell)
    levels = Levels.fit(plain, cell, patches.ignored_grid)
    found = out.score(model, state | levels.state(), x, None, cell).values
    term = patches.join(label_term(state, white).double())
    assert term.mean() > 1
    for i in (0, 7, 39):
        others = Levels.fit(plain[torch.arange(40) != i], cell[1:], patches.ignored_grid)
        wanted = others.judged((plain + term)[i : i + 1], cell[:1]).amax()
        torch.testing.assert_close(found[i], wanted, rtol=1e-4, atol=1e-4)


# What is ignored ------------------------------------------------------------------------------------------------------


def ignoring(model: ConditionalVAE, *places: tuple[int, int, int]) -> Tensor:
    """(K, h, w) with those cells and places ignored, told to the model."""
    assert model.patches is not None
    ignored = torch.zeros(len(model.patches.keys), H, W, dtype=torch.bool)
    for place in places:
        ignored[place] = True
    model.patches.ignored.copy_(ignored.flatten(1))
    return ignored


@pytest.mark.parametrize("smoothing", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("pooling", POOLINGS)
def test_what_is_ignored_tells_nothing(pooling: str, smoothing: float) -> None:
    """Neither by itself nor through the smoothing of its neighbours; and the map is NaN there."""
    model, score, state = fitted_score(Elbo(samples=0), 2, smoothing, pooling, **some_levels(2))
    ignored = ignoring(model, (0, 1, 1), (0, 1, 2), (1, 0, 0))
    x, c, stratum = images(2)
    found = score.score(model, state, x, c, stratum, want_map=True)
    worse = x.clone()
    for i, k in enumerate(stratum.tolist()):
        worse[i, :, ignored[k]] += 50
    changed = score.score(model, state, worse, c, stratum, want_map=True)
    torch.testing.assert_close(changed.values, found.values)
    assert changed.map is not None
    assert torch.equal(changed.map.isnan(), ignored[stratum])
    torch.testing.assert_close(changed.map, found.map, equal_nan=True)
    elsewhere = x.clone()
    elsewhere[:, :, 2, 3] += 50
    assert (score.score(model, state, elsewhere, c, stratum).values > found.values).all()


def test_smoothing_beside_what_is_ignored_keeps_constants() -> None:
    score = PatchScore(Elbo().build(), 1.0)
    ignored = torch.zeros(1, H, W, dtype=torch.bool)
    ignored[:, :2, :2] = True
    constant = torch.full((1, H, W), 3.0, dtype=torch.float64)
    shown = score.smoothed(constant, ignored)
    torch.testing.assert_close(shown[~ignored], constant[~ignored])


def test_a_defect_is_where_it_was_put_and_all_of_it() -> None:
    model, score, state = fitted_score(PlaceGaussian())
    x, _, stratum = images(1)
    clean = score.score(model, state, x, None, stratum)
    for i in range(H):
        for j in range(W):
            bad = x.clone()
            bad[:, :, i, j] += 15
            found = score.score(model, state, bad, None, stratum, want_map=True)
            assert found.map is not None
            assert (found.map.flatten(1).argmax(1) == i * W + j).all()
            assert (found.values > clean.values).all()


def test_of_two_products_the_right_one_explains_best() -> None:
    model, score, state = fitted_score(Elbo(samples=0), 2)
    x, c, stratum = images(2, each=6)
    assert c is not None
    right = score.score(model, state, x, c, stratum).values
    wrong = score.score(model, state, x, 1 - c, 1 - stratum).values
    assert (right < wrong).all()


# Refusals and kinds ---------------------------------------------------------------------------------------------------


def test_it_is_no_likelihood_and_has_a_map() -> None:
    score = PatchScore(Elbo().build(), 0.5)
    assert score.has_map
    assert not score.is_likelihood
    assert score.options == Elbo()


def test_ssim_is_refused() -> None:
    with pytest.raises(SettingsError, match="'ssim' compares pixels; with features take"):
        PatchScore(Reconstruction(distance="ssim").build(), 0.5).check(patch_model())


def test_the_gaussian_is_refused_where_there_are_no_places() -> None:
    with pytest.raises(SettingsError, match=r"'gaussian' .*only features.*set features="):
        PlaceGaussian().build().check(small_model())
