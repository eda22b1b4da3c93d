"""`knowngood figure`: every figure from tiny models, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from knowngood import Detector
from knowngood.cli import main
from knowngood.data import open_dataset
from knowngood.data.select import select
from knowngood.errors import SettingsError
from knowngood.evaluation.evaluate import evaluate
from knowngood.evaluation.figures import FIGURES
from knowngood.evaluation.figures.comparison import models
from knowngood.evaluation.figures.decoded import samples
from knowngood.evaluation.figures.latent import kl, latent
from knowngood.evaluation.figures.reconstruction import reconstructions
from knowngood.evaluation.figures.subject import Subject
from knowngood.evaluation.report import render, report_inputs
from knowngood.metrics import roc_auc

pytestmark = pytest.mark.slow

QUICK = {"name": "vae", "net": {"name": "mlp", "hidden": [16]}, "latent_dim": 3}
OPTIONS = {
    "curves": ["--also", "plain"],
    "models": ["--also", "plain", "--most", "1"],
    "interpolation": ["--steps", "3"],
    "reconstructions": ["--also", "plain", "--most", "2"],
    "triptychs": ["--most", "2"],
    "samples": ["--conditions", "1,0"],
    "latent": ["--projection", "pca"],
    "manifold": ["--dims", "2,0", "--steps", "3"],
    "traversal": ["--steps", "3", "--most", "2", "--conditions", "1"],
    "correlation": ["--dims", "0,2"],
}


def run(*words: str | Path) -> int:
    with pytest.raises(SystemExit) as left:
        main([str(word) for word in words])
    return int(left.value.code or 0)


def digits(**labels: str):
    return select(open_dataset("digits"), **{"normal": "0-1", "anomalous": "2", **labels})


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders `given` and `plain`: models of the digits 0 and 1 that are given the class, and that are not."""
    root = tmp_path_factory.mktemp("figure")
    train = digits().split("train")
    for name, objective in {"given": "cvae", "plain": "vae"}.items():
        detector = Detector(
            representation="pixels",
            model={**QUICK, "objective": objective},
            score="elbo",
            conditioning={"unknown": "infer"},
            alpha=0.2,
            training={"epochs": 1, "batch_size": 64, "ema": None},
        )
        detector.fit(train[train.labels == 0]).save(root / name / "model")
    return root


@pytest.fixture
def here(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(home)
    return home


DATA = ["digits", "--normal", "0-1", "--anomalous", "2"]


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_is_written(here: Path, name: str, tmp_path: Path) -> None:
    out = tmp_path / "new folder" / f"{name}.png"
    assert run("figure", name, "given", *DATA, "--out", out, *OPTIONS.get(name, [])) == 0
    with Image.open(out) as picture:
        assert min(picture.size) > 150
        assert len(np.unique(np.asarray(picture.convert("L")))) > 10
    assert out.stat().st_size < 600_000


@pytest.mark.parametrize("name", ["samples", "manifold", "traversal", "latent", "kl"])
def test_latent_figures_of_a_model_without_conditions(here: Path, name: str, tmp_path: Path) -> None:
    assert run("figure", name, "plain", *DATA, "--out", tmp_path / "a.png") == 0


@pytest.mark.parametrize("suffix", ["svg", "pdf"])
def test_vector_formats_are_the_same_bytes_each_time(here: Path, suffix: str, tmp_path: Path) -> None:
    first, again = (tmp_path / f"{n}.{suffix}" for n in "ab")
    for out in (first, again):
        assert run("figure", "roc", "given", *DATA, "--out", out) == 0
    assert first.read_bytes() == again.read_bytes()


def test_interpolation_moves_in_a_gif(here: Path, tmp_path: Path) -> None:
    out = tmp_path / "path.gif"
    assert run("figure", "interpolation", "given", *DATA, "--steps", "4", "--out", out) == 0
    with Image.open(out) as film:
        assert getattr(film, "n_frames", 1) == 6


def test_a_film_is_kept_by_a_vae_on_pixels_and_refused_by_others() -> None:
    images = digits().split("train")
    images = images[images.labels == 0]
    model, training = {**QUICK, "objective": "cvae"}, {"epochs": 1}
    detector = Detector(representation="pixels", model=model, training=training).fit(images, film=True)
    assert detector.film_ is not None
    assert detector.film_.steps[0] == 0
    assert detector.film_.frames[-1].shape == detector.film_.inputs.shape == (10, 8, 8, 1)
    assert detector.fit(images).film_ is None
    with pytest.raises(SettingsError, match="film: it shows reconstructions"):
        Detector(representation="hog", model="memory_bank").fit(images, film=True)


def test_loss_and_samples_need_no_data(here: Path, tmp_path: Path) -> None:
    assert run("figure", "loss", "given", "--out", tmp_path / "loss.png") == 0
    assert run("figure", "samples", "given", "--out", tmp_path / "samples.png") == 0


def test_without_a_name_all_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("figure") == 0
    text = capsys.readouterr().out
    assert all(name in text for name in FIGURES)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["latnet", "given", *DATA, "--out", "a.png"], "latent"),
        (["roc"], "name the model"),
        (["roc", "given", *DATA], "--out roc.png"),
        (["roc", "given", *DATA, "--out", "a.png", "--dims", "1,2"], "takes no --dims"),
        (["roc", "given", *DATA, "--out", "a.png", "--also", "plain"], "is of one model: leave --also plain out"),
        (["roc", "given", *DATA, "--out", "a.gif"], ".png, .svg, .pdf"),
        (["roc", "given", "--out", "a.png"], "name them after the model"),
        (["latent", "given", *DATA, "--out", "a.png", "--dims", "1,x"], "whole numbers"),
        (["latent", "given", *DATA, "--out", "a.png", "--projection", "pcs"], "pca"),
        (["kl", "nowhere", *DATA, "--out", "a.png"], "no such folder"),
        (["traversal", "given", *DATA, "--out", "a.png", "--dims", "9"], "there is no dimension 9; the model has 3"),
        (["samples", "given", "--out", "a.png", "--conditions", "7"], "no condition '7'"),
        (["samples", "plain", "--out", "a.png", "--conditions", "7"], "has no conditions"),
        (["traversal", "given", *DATA, "--out", "a.png", "--items", "nobody"], "no image 'nobody'"),
        (["box", "given", *DATA, "--out", "a.png", "--by", "klass"], "no column 'klass'"),
        (["roc", "given", "digits", "--normal", "0", "--anomalous", "0", "--out", "a.png"], "both as normal"),
    ],
)
def test_what_cannot_be_drawn_is_refused_and_nothing_written(
    here: Path, capsys: pytest.CaptureFixture[str], given: list[str], said: str
) -> None:
    assert run("figure", *given) in (2, 3)
    assert said in capsys.readouterr().err
    assert not (here / "a.png").exists()


def test_models_stand_side_by_side_in_their_columns(home: Path) -> None:
    detectors = {name: Detector.load(home / name / "model") for name in ("given", "plain")}
    figure = models(Subject(detectors, digits().split("test"), ("class",), "infer"), most=1)
    grid = np.array(figure.axes[:8]).reshape(4, 2)
    assert [axes.get_title() for axes in grid[0]] == ["given", "plain"]
    conditional, plain = grid[1]
    assert [text.get_text() for text in conditional.get_yticklabels()] == ["0", "1"]
    assert len(plain.get_yticklabels()) == 9
    shown = [text.get_text().split("\n") for text in grid[2, 0].get_xticklabels()]
    assert [one[0] for one in shown] == ["normal", "anomalous"]
    assert all(one[3] in ("as 0", "as 1") for one in shown)
    for axes, detector in zip(grid[3], detectors.values(), strict=True):
        scores = Subject({"": detector}, digits().split("test"), ("class",), "infer").table()["anomaly_score"]
        auroc = roc_auc(digits().split("test").labels, scores.to_numpy())
        assert f"AUROC {auroc:.3f}" in axes.get_legend_handles_labels()[1]
    normals = digits().split("test")
    assert len(models(Subject(detectors, normals[normals.labels == 0], ("class",), "infer")).axes) == 6


# What is computed ---------------------------------------------------------------------------------------------------


def test_captions_hold_the_scores_that_detect_gives(home: Path) -> None:
    detector = Detector.load(home / "plain" / "model")
    images = digits().split("test")[:12]
    subject = Subject({"plain": detector}, images)
    inputs, found = subject.reconstructed(images)
    assert inputs.shape == found.images.shape == (12, 8, 8, 1)
    assert found.a == pytest.approx(np.sqrt(((inputs - found.images) ** 2).sum((1, 2, 3))), rel=1e-5)
    table = detector.detect(images.replace(conditions={}))
    assert found.e == pytest.approx((table["elbo_reconstruction"] + table["elbo_kl"]).to_numpy(), rel=1e-5)


def test_decoding_codes_under_their_own_condition_gives_the_reconstructions(home: Path) -> None:
    detector = Detector.load(home / "given" / "model")
    images = select(open_dataset("digits"), normal="0-1").split("test")
    images = images[images.labels == 0][:10]
    subject = Subject({"given": detector}, images)
    codes = subject.codes(images)
    assert subject.decoded(codes.mean, codes.c) == pytest.approx(subject.reconstructed(images)[1].images, abs=1e-5)
    assert subject.conditions().names == ["0", "1"]
    known = subject.conditions(["1"]).c
    assert known is not None
    is_one = images.conditions["class"] == "1"
    assert codes.c is not None
    assert (codes.c[is_one] == known).all()
    both = subject.conditions(["1", "0"]).c
    assert both is not None
    assert (both[0] == known[0]).all()
    assert (both[1] == codes.c[~is_one][0]).all()
    assert subject.mean_kl() == pytest.approx(codes.kl.mean(0), rel=1e-5)


def test_a_method_that_learns_relevances_shows_them(tmp_path: Path) -> None:

    objective = {"name": "rf_vae", "discriminator_layers": 1, "discriminator_width": 8}
    images = select(open_dataset("digits"), normal="0-1")
    images = images[images.labels == 0]
    model = {**QUICK, "objective": objective}
    training = {"epochs": 2, "ema": None}
    detector = Detector(representation="pixels", model=model, training=training).fit(images)
    raw = torch.tensor([-0.1, 0.0, 0.2])
    detector.pipeline_.objective_state["raw_relevance"] = raw
    again = Detector.load(detector.save(tmp_path / "model"))
    subject = Subject({"rf": again}, images[:40])
    relevance = subject.relevance()
    assert relevance == pytest.approx(1 / (1 + np.exp(-30 * raw.numpy())), rel=1e-6)
    figure = kl(subject)
    order = np.argsort(-subject.mean_kl())
    assert [bar.get_height() for bar in figure.axes[1].patches] == pytest.approx(relevance[order])


def test_a_method_without_relevances_has_none(home: Path) -> None:
    assert Subject({"plain": Detector.load(home / "plain" / "model")}).relevance() is None


# What a report shows of the model ------------------------------------------------------------------------------------


def test_a_report_shows_the_model(home: Path) -> None:
    detector = Detector.load(home / "given" / "model")
    images = digits().split("test")
    evaluation = evaluate(detector, images.replace(conditions={}), unknown="infer")
    inputs = report_inputs(detector, evaluation, title="", command="", classes=images.conditions["class"])
    assert set(inputs.model_figures) == {"latent", "samples", "reconstructions", "kl"}
    assert len(inputs.most) == len(inputs.least) == 12
    assert all(card.reconstruction is not None for card in inputs.most)
    page = render(inputs)
    assert "Scores by class" in page
    assert ">0 (n = " in page


def test_maps_of_the_most_anomalous_images_come_with_the_evaluation(home: Path) -> None:
    detector = Detector.load(home / "plain" / "model")
    images = digits().split("test")
    plain, mapped = (evaluate(detector, images, maps=maps) for maps in (False, True))
    assert mapped.metrics == plain.metrics
    scores = plain.table["anomaly_score"].to_numpy()
    assert set(mapped.maps) == set(plain.table["id"][np.argsort(-scores)[:200]])
    some = mapped.table["id"].tolist().index(next(iter(mapped.maps)))
    expected = detector.anomaly_maps(images[[some]])[0]
    assert mapped.maps[str(images.ids[some])].values == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_latent_figures_of_another_model_are_refused_with_a_way_out(home: Path) -> None:
    train = digits().split("train")
    detector = Detector(representation="hog", training={"epochs": 1}).fit(train[train.labels == 0])
    for draw in (latent, samples, reconstructions, kl):
        with pytest.raises(SettingsError, match="--representation pixels --model vae"):
            draw(Subject({"hog": detector}, digits().split("test")))


# The command alone ---------------------------------------------------------------------------------------------------


def test_figure_help_needs_no_heavy_library() -> None:
    import subprocess
    import sys

    code = (
        "import sys\nfrom knowngood.cli import main\n"
        "try: main(['figure', '--help'])\n"
        "except SystemExit: pass\n"
        "print([m for m in ('torch', 'matplotlib', 'numpy') if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip().endswith("[]")
