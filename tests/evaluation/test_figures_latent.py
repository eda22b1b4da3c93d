"""Figures of codes and decoded images: what they say and which data they hold, never their pixels."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from stand_in import stand_in

from figure_text import words
from knowngood.errors import DataError, SettingsError
from knowngood.evaluation.figures import style
from knowngood.evaluation.figures.decoded import interpolation, manifold, samples, traversal
from knowngood.evaluation.figures.latent import correlation, kl, latent, project, spread_apart
from knowngood.evaluation.figures.pixels import reduced
from knowngood.evaluation.figures.reconstruction import film_frames, reconstructions
from knowngood.evaluation.figures.subject import Reconstructed
from knowngood.evaluation.figures.tiles import gap_of, mosaic
from knowngood.training.film import Film


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


# Tiles --------------------------------------------------------------------------------------------------------------


def test_mosaic_puts_each_image_in_its_row_and_column_with_nothing_between(rng):
    images = rng.random((2, 3, 4, 5, 1))
    whole, gap = mosaic(images), gap_of(4, 5)
    assert whole.shape == (2 * 4 + gap, 3 * 5 + 2 * gap, 4)
    for r, k in np.ndindex(2, 3):
        top, left = r * (4 + gap), k * (5 + gap)
        assert whole[top : top + 4, left : left + 5, 0] == pytest.approx(images[r, k, :, :, 0])
        assert (whole[top : top + 4, left : left + 5, 3] == 1).all()
    assert (whole[4] == [1, 1, 1, 0]).all()


def test_mosaic_has_one_scale_for_all_and_leaves_missing_tiles_empty():
    images = np.stack([np.full((2, 2, 1), v) for v in (-0.5, 0.5, 2.0, np.nan)])[None]
    row = mosaic(images)[0, ::3]
    assert row[:, 0].tolist() == [0, 0.5, 1, 1]
    assert row[:, 3].tolist() == [1, 1, 1, 0]


@pytest.mark.parametrize("dtype", [np.float32, np.uint8])
def test_images_are_reduced_by_means_and_small_ones_kept(rng, dtype):
    images = (255 * rng.random((2, 3, 40, 20, 3))).astype(dtype)
    assert reduced(images, 40) is images
    small = reduced(images, 10)
    assert small.shape == (2, 3, 10, 5, 3)
    assert small.dtype == dtype
    tolerance = 1 if dtype == np.uint8 else 1e-4  # levels are rounded along each axis
    assert small == pytest.approx(images.reshape(2, 3, 10, 4, 5, 4, 3).mean((3, 5), dtype=float), abs=tolerance)


# Reconstructions ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_reconstructions_have_one_row_a_model_and_normal_images_first(rng):
    inputs = rng.random((3, 8, 8, 1))
    views = {
        name: (inputs, Reconstructed(inputs * shade, np.array([-10.0, 2e4, 30.0]) * shade, np.array([1.0, 2.0, 3.0])))
        for name, shade in (("vae", 1.0), ("dcvae", 0.5))
    }
    subject = stand_in(labels=[1.0, 0.0, np.nan], views=views)
    figure = reconstructions(subject, items=["0", "1", "2"])
    grid = np.array(figure.axes).reshape(3, 3)
    assert [axes.get_ylabel() for axes in grid[:, 0]] == ["input", "vae", "dcvae"]
    assert [axes.get_title() for axes in grid[0]] == ["normal\n1", "anomalous\n0", "not labelled\n2"]
    assert [axes.get_xlabel() for axes in grid[2]] == ["E 10000\nA 2.00", "E −5.0\nA 1.00", "E 15.0\nA 3.00"]
    for row, shade in zip(grid, (1, 1, 0.5), strict=True):
        assert np.asarray(row[1].get_images()[0].get_array())[..., 0] == pytest.approx(shade * inputs[0, ..., 0])
    assert "E = −ELBO (nats)" in words(figure)
    assert "decoded under" not in words(figure)
    inferred = Reconstructed(*views["vae"][1][:3], np.array(list("abc")))
    told = reconstructions(
        stand_in(labels=[1.0, 0.0, np.nan], views={"cvae": (inputs, inferred)}), items=["0", "1", "2"]
    )
    assert [axes.get_xlabel().split("\n")[2] for axes in told.axes if axes.get_xlabel()] == ["as b", "as a", "as c"]
    assert "decoded under, inferred where it is hidden" in words(told)
    width, height = figure.get_size_inches()
    assert width > height
    views["other"] = (inputs[:, :4], views["vae"][1])
    with pytest.raises(SettingsError, match="model 'other' takes images of"):
        reconstructions(stand_in(labels=[1.0, 0.0, np.nan], views=views))


# Samples, traversal, manifold ---------------------------------------------------------------------------------------


@pytest.mark.slow
def test_samples_name_every_one_of_62_conditions_and_share_their_noise():
    names = [f"k{i}" for i in range(62)]
    subject = stand_in(kl=np.ones(2), names=names, what="class")
    figure = samples(subject, most=3)
    assert [t.get_text() for axes in figure.axes for t in axes.get_yticklabels() if t.get_text()] == names
    assert {"class", "3 draws from the prior a row, decoded"} <= set(words(figure).split("\n"))
    assert subject.z.shape == (62, 3, 2)
    assert (subject.z == subject.z[:1]).all()
    assert len(np.unique(subject.z)) == 6


def test_traversal_walks_along_the_dimensions_of_largest_kl():
    subject = stand_in(np.full((1, 4), 9.0), kl=np.array([0.0, 0.25, 0.1, 1.5]))
    figure = traversal(subject, items=["12"], steps=3, reach=2.25, most=2)
    axes = figure.axes[0]
    assert [t.get_text() for t in axes.get_yticklabels()] == ["z3   1.50 nats", "z1   0.25 nats"]
    assert [t.get_text() for t in axes.get_xticklabels()] == ["−2.25", "0", "+2.25"]
    assert "prior standard deviations" in axes.get_xlabel()
    assert "image 12" in axes.get_xlabel()
    assert subject.z.tolist() == [[[9, 9, 9, x] for x in (-2.25, 0, 2.25)], [[9, x, 9, 9] for x in (-2.25, 0, 2.25)]]


def test_traversal_of_what_is_surprising_in_an_image_goes_as_far_as_the_image():
    subject = stand_in(np.array([[1.0, -4.0, 0.5, 2.0]]), kl=np.array([0.0, 0.25, 0.1, 2.0]))
    figure = traversal(subject, items=["12"], dims="surprising", steps=3, most=2)
    labels = [t.get_text() for t in figure.axes[0].get_yticklabels()]
    assert labels == ["z1   0.25 nats\nimage 8.00", "z0   0.00 nats\nimage 0.50"]
    assert subject.z[0].tolist() == [[1, x, 0.5, 2] for x in (-4, 0, 4)]
    with pytest.raises(SettingsError, match="name it with --items"):
        traversal(subject, dims="surprising")


@pytest.mark.slow
def test_manifold_has_a_grid_a_condition():
    subject = stand_in(kl=np.arange(6.0), names=list("abcd"))
    figure = manifold(subject, dims=[5, 0], steps=3)
    panels = np.array(figure.axes).reshape(2, 2)
    assert [axes.get_title(loc="left") for axes in panels.flat] == list("abcd")
    assert {"z5 (5.00 nats), in prior standard deviations", "z0 (0.00 nats),"} <= set(words(figure).split("\n"))
    drawn = np.asarray(panels[1, 0].get_images()[0].get_array())
    assert drawn == pytest.approx(mosaic(np.round(7 * subject.pictures[2]) / 7))
    assert subject.z[0, 0].tolist() == [[2, 0, 0, 0, 0, x] for x in (-2, 0, 2)]  # the top row, from left to right


def test_manifold_places_positions_where_the_axes_say():
    figure = manifold(stand_in(kl=np.array([2.0, 1.0, 0.0])), steps=5, reach=2.0)
    left, right, bottom, top = figure.axes[0].get_images()[0].get_extent()
    tile = (right - left) / 5
    assert (left + tile / 2, right - tile / 2, bottom + tile / 2, top - tile / 2) == pytest.approx((-2, 2, -2, 2))
    assert "z0 (2.00 nats), in prior standard deviations" in words(figure)


@pytest.mark.slow
def test_manifold_of_ten_conditions_is_wider_than_high_with_tiles_that_can_be_seen():
    figure = manifold(stand_in(kl=np.ones(2), names=list("abcdefghij"), size=8), steps=7)
    width, height = figure.get_size_inches()
    assert 1 < width / height < 1.8
    assert (width - 1) / 4 / 7 > 0.3  # inches a tile


@pytest.mark.slow
def test_manifold_of_62_conditions_fills_a_square():
    names = [f"k{i}" for i in range(62)]
    figure = manifold(stand_in(kl=np.ones(2), names=names, size=4), steps=2)
    assert [axes.get_title(loc="left") for axes in figure.axes if axes.axison] == names
    width, height = figure.get_size_inches()
    assert 0.5 < width / height < 2


def between(rng, count: int):
    """Codes of images, and a subject that has them."""
    codes, inputs = rng.random((count, 2)), rng.random((count, 8, 8, 1))
    made = Reconstructed(inputs, np.zeros(count), np.zeros(count))
    return codes, inputs, stand_in(codes, labels=np.zeros(count), views={"": (inputs, made)})


def test_interpolation_goes_straight_from_code_to_code_with_the_images_at_its_ends(rng):
    codes, inputs, subject = between(rng, 4)
    axes = interpolation(subject, items=["0", "1", "2", "3"], steps=3).axes[0]
    assert [t.get_text() for t in axes.get_xticklabels()] == ["image 1", "0 %", "50 %", "100 %", "image 2"]
    assert [t.get_text() for t in axes.get_yticklabels()] == ["0 → 1", "2 → 3"]
    first, last = codes[0::2], codes[1::2]
    assert subject.z == pytest.approx(np.stack([first, (first + last) / 2, last], 1))
    drawn = np.asarray(axes.get_images()[0].get_array())
    assert drawn[:8, :8, 0] == pytest.approx(inputs[0, ..., 0])
    assert drawn[-8:, -8:, 0] == pytest.approx(inputs[3, ..., 0])
    with pytest.raises(DataError, match="3 images; expected pairs"):
        interpolation(between(rng, 3)[2], items=["0", "1", "2"])


@pytest.mark.slow
def test_a_moving_interpolation_runs_there_and_back(rng, tmp_path):
    figures = interpolation(between(rng, 2)[2], items=["0", "1"], steps=3, moving=True)
    middle = [figure.axes[0].get_xticklabels()[1].get_text() for figure in figures]
    assert middle == ["0 %", "50 %", "100 %", "50 %"]
    with Image.open(style.save(figures, tmp_path / "path.gif")) as film:
        assert film.n_frames == 4
        assert film.info["loop"] == 0


def test_frames_of_a_film_say_step_and_loss_above_the_reconstructions(rng):
    film = Film()
    film.inputs, film.steps = np.full((2, 8, 8, 1), 255, np.uint8), [0, 1200]
    film.frames = [np.zeros((2, 8, 8, 1), np.uint8), np.full((2, 8, 8, 1), 51, np.uint8)]
    first, last = film_frames(film, [{"step": 1200, "split": "held_out", "loss/model": -3.25}])
    assert first.axes[0].xaxis.get_label_text() == "step 0"
    assert last.axes[0].xaxis.get_label_text() == "step 1,200: held-out loss −3.25 nats"
    drawn = np.asarray(last.axes[0].get_images()[0].get_array())
    assert drawn[0, 0, 0] == 1
    assert drawn[-1, -1, 0] == pytest.approx(0.2)


def test_dimensions_that_are_not_there_are_refused():
    with pytest.raises(SettingsError, match="no dimension 3; the model has 3"):
        traversal(stand_in(kl=np.ones(3)), dims=[3])
    with pytest.raises(SettingsError, match="expected two"):
        manifold(stand_in(kl=np.ones(3)), dims=[0, 1, 2])


# KL and correlation -------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_kl_bars_are_sorted_and_mark_the_dimensions_that_hold_95_percent():
    figure = kl(stand_in(kl=np.array([0.01, 3.0, 0.04, 1.0])))
    axes = figure.axes[0]
    assert [bar.get_height() for bar in axes.patches] == [3.0, 1.0, 0.04, 0.01]
    assert [t.get_text() for t in axes.get_xticklabels()] == ["z1", "z3", "z2", "z0"]
    assert "2 of 4 dimensions hold 95 %\nof 4.05 nats" in words(figure)
    from matplotlib.colors import to_hex

    colours = [to_hex(bar.get_facecolor()) for bar in axes.patches]
    assert colours == [style.NORMAL] * 2 + [style.UNKNOWN] * 2
    assert "nats per image" in axes.get_ylabel()


@pytest.mark.slow
def test_kl_bars_count_what_they_leave_out_and_show_relevance():
    figure = kl(stand_in(kl=np.ones(60), relevance=np.linspace(0, 1, 60)), most=50)
    assert "10 more hold 10 nats together" in words(figure)
    assert [bar.get_height() for bar in figure.axes[1].patches] == pytest.approx(np.linspace(0, 1, 60)[:50])


@pytest.mark.slow
def test_correlation_is_pearsons_and_grey_where_nothing_varies(rng):
    codes = rng.normal(size=(50, 10))
    codes[:, 5] += codes[:, 4]
    codes[:, 9] = 0.3
    figure = correlation(stand_in(codes), dims=[4, 5, 6, 9])
    expected = np.corrcoef(codes[:, 4:7].T)
    drawn = np.ma.filled(figure.axes[0].get_images()[0].get_array(), np.nan)
    assert drawn[:3, :3] == pytest.approx(expected)
    assert np.isnan(drawn[3]).all()
    text = words(figure)
    r = np.abs(expected[np.triu_indices(3, 1)])
    assert f"mean |r| {r.mean():.2f}, largest {r.max():.2f}" in text
    assert "z9" in text
    assert "correlation r over 50 images" in text
    with pytest.raises(DataError, match="at least 2"):
        correlation(stand_in(codes[:1]))


# Projection and scatter ---------------------------------------------------------------------------------------------


def test_pca_finds_the_directions_of_largest_variance(rng):
    codes = rng.normal(size=(400, 5)) * [0.1, 3, 0.1, 1, 0.1]
    points, names = project(codes, "pca")
    assert abs(np.corrcoef(points[:, 0], codes[:, 1])[0, 1]) > 0.99
    assert abs(np.corrcoef(points[:, 1], codes[:, 3])[0, 1]) > 0.99
    share = 100 * points.var(0) / codes.var(0).sum()
    assert names == (f"PC 1 ({share[0]:.0f} % of the variance)", f"PC 2 ({share[1]:.0f} %)")
    assert np.array_equal(project(codes)[0], points)


def test_projection_is_raw_for_two_dimensions_or_named_ones(rng):
    codes = rng.normal(size=(9, 4))
    points, names = project(codes, dims=(3, 1))
    assert np.array_equal(points, codes[:, [3, 1]])
    assert names == ("z3", "z1")
    assert np.array_equal(project(codes, "raw")[0], codes[:, :2])
    assert np.array_equal(project(codes[:, :2])[0], codes[:, :2])
    assert project(codes[:, :1])[0].tolist() == np.c_[codes[:, 0], np.zeros(9)].tolist()
    with pytest.raises(SettingsError, match="no dimension 4; the model has 4"):
        project(codes, "raw", dims=(0, 4))
    for wrong in ({"dims": (0, 1, 2)}, {"dims": (0, 1), "method": "pca"}):
        with pytest.raises(SettingsError, match="two dimensions go with the projection raw"):
            project(codes, **wrong)
    with pytest.raises(SettingsError, match="pca"):
        project(codes, "pcs")
    with pytest.raises(DataError, match="N ≥ 3"):
        project(codes[:2])


def test_tsne_of_equal_codes_is_a_point():
    points, names = project(np.full((6, 3), 0.4), "tsne")  # the process ended in the library
    assert np.array_equal(points, np.zeros((6, 2)))
    assert names == ("t-SNE 1 (no unit)", "t-SNE 2 (no unit)")


@pytest.mark.slow
def test_tsne_keeps_far_groups_apart(rng):
    codes = np.concatenate([rng.normal(0, 0.1, (15, 3)), rng.normal(9, 0.1, (15, 3))])
    points, _ = project(codes, "tsne")
    middle = points[:15].mean(0), points[15:].mean(0)
    nearest = np.linalg.norm(points[:, None] - np.array(middle), axis=-1).argmin(1)
    assert nearest.tolist() == [0] * 15 + [1] * 15


@pytest.mark.slow
def test_scatter_shows_every_point_once_and_anomalies_as_crosses(rng):
    points, groups = rng.normal(size=(30, 2)), np.repeat(["a", "b", "c"], 10)
    figure = latent(stand_in(points, groups=groups, labels=groups == "c"), by="camera")
    axes = figure.axes[0]
    drawn = np.concatenate([np.asarray(part.get_offsets()) for part in axes.collections])
    assert np.array_equal(np.unique(drawn, axis=0), np.unique(points, axis=0))
    assert len(drawn) == 30
    text = words(figure)
    for part in ("a (n = 10)", "b (n = 10)", "anomalous: c (n = 10)", "camera", "z0", "z1"):
        assert part in text
    crosses = next(part for part in axes.collections if part.get_label().startswith("anomalous"))
    assert np.array_equal(np.asarray(crosses.get_offsets()), points[20:])


def test_scatter_draws_normal_images_above_anomalies_and_outlines_where_thousands_overlap(rng):
    points = np.concatenate([rng.normal(0, 1, (600, 2)), rng.normal(6, 1, (600, 2))])
    labels = np.repeat([0.0, 1.0], 600)
    axes = latent(stand_in(points, labels=labels)).axes[0]
    normal, anomalous, *lines = axes.collections
    assert normal.get_label().startswith("normal")
    assert anomalous.get_label().startswith("anomalous")
    assert normal.get_zorder() > anomalous.get_zorder()
    for some, middle in zip(lines, (0, 6), strict=True):
        assert some.get_zorder() > normal.get_zorder()
        path = some.get_paths()[0]
        inside = path.contains_points(points[labels == middle / 6]).mean()
        assert inside == pytest.approx(0.5, abs=0.06)
    assert "half of a group" in axes.get_xlabel()
    few = latent(stand_in(points[::4], labels=labels[::4])).axes[0]
    assert len(few.collections) == 2
    assert "half" not in few.get_xlabel()


@pytest.mark.slow
def test_scatter_names_each_of_62_classes_where_it_lies(rng):
    names = [f"k{i}" for i in range(62)]
    middles = rng.normal(0, 3, (62, 2))
    figure = latent(stand_in(np.repeat(middles, 5, axis=0), groups=np.repeat(names, 5)))
    axes = figure.axes[0]
    placed = {t.get_text(): np.array(t.get_position()) for t in axes.texts}
    assert set(placed) == set(names)
    far = [np.abs(placed[name] - home).max() for name, home in zip(names, middles, strict=True)]
    assert np.median(far) < 0.05 * np.ptp(middles)
    assert axes.get_legend() is None


def test_labels_that_overlap_move_apart():
    size = np.full(12, 0.05)
    placed = spread_apart(np.full((12, 2), 0.5), size, size)
    apart = np.abs(placed[:, None] - placed).max(-1)[np.triu_indices(12, 1)]
    assert apart.min() > 0.045
    assert np.abs(placed - 0.5).max() < 0.25
