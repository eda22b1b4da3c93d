"""`knowngood figure`: every figure from tiny models, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from knowngood.cli import main
from knowngood.evaluation.drawing import FIGURES

QUICK = ["--net", "mlp", "--hidden", "16", "--latent-dim", "3", "--epochs", "1", "--batch-size", "64", "--ema", "none"]
OPTIONS = {
    "reconstructions": ["--also", "plain", "--most", "2"],
    "triptychs": ["--most", "2"],
    "samples": ["--conditions", "1,0"],
    "latent": ["--projection", "pca"],
    "manifold": ["--dims", "2,0", "--steps", "3"],
    "traversal": ["--steps", "3", "--most", "2", "--conditions", "1"],
    "curves": ["--also", "plain", "--by", "class"],
    "correlation": ["--dims", "0,2"],
}


def run(*words: str | Path) -> int:
    with pytest.raises(SystemExit) as left:
        main([str(word) for word in words])
    return int(left.value.code or 0)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders `given` and `plain`: models of the digits 0 and 1 that are told the class, and that are not."""
    root = tmp_path_factory.mktemp("figure")
    chosen = ["--normal", "0-1", "--anomalous", "2", "--alpha", "0.2", *QUICK]
    assert run("train", "digits", *chosen, "--out", root / "given") == 0
    assert run("train", "digits", *chosen, "--objective", "vae", "--out", root / "plain") == 0
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


def test_svg_text_says_what_is_drawn(here: Path, tmp_path: Path) -> None:
    out = tmp_path / "curves.svg"
    assert run("figure", "curves", "given", *DATA, "--also", "plain", "--out", out) == 0
    text = out.read_text(encoding="utf-8")
    assert "given: AUROC" in text
    assert "plain: AP" in text


def test_interpolation_moves_in_a_gif(here: Path, tmp_path: Path) -> None:
    out = tmp_path / "way.gif"
    assert run("figure", "interpolation", "given", *DATA, "--steps", "4", "--out", out) == 0
    with Image.open(out) as film:
        assert getattr(film, "n_frames", 1) == 6


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


# What is computed ---------------------------------------------------------------------------------------------------


def test_captions_hold_the_scores_that_detect_gives(home: Path) -> None:
    from knowngood import Detector
    from knowngood.data import open_dataset, select
    from knowngood.evaluation.drawing.subject import Subject

    detector = Detector.load(home / "plain" / "model")
    images = select(open_dataset("digits"), normal="0-1", anomalous="2").split("test")[:12]
    subject = Subject({"plain": detector}, images)
    inputs, found = subject.reconstructed(images)
    assert inputs.shape == found.images.shape == (12, 8, 8, 1)
    assert found.a == pytest.approx(np.sqrt(((inputs - found.images) ** 2).sum((1, 2, 3))), rel=1e-5)
    table = detector.detect(images.replace(conditions={}))
    assert found.e == pytest.approx((table["elbo_reconstruction"] + table["elbo_kl"]).to_numpy(), rel=1e-5)


def test_decoding_codes_under_their_own_condition_gives_the_reconstructions(home: Path) -> None:
    from knowngood import Detector
    from knowngood.data import open_dataset, select
    from knowngood.evaluation.drawing.subject import Subject

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
    import torch

    from knowngood import Detector
    from knowngood.data import open_dataset, select
    from knowngood.evaluation.drawing.latent import kl
    from knowngood.evaluation.drawing.subject import Subject

    objective = {"name": "rf_vae", "discriminator_layers": 1, "discriminator_width": 8}
    net = {"name": "mlp", "hidden": [16]}
    images = select(open_dataset("digits"), normal="0-1")
    images = images[images.labels == 0]
    detector = Detector(objective=objective, net=net, latent_dim=3, epochs=2, ema=None).fit(images)
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
    from knowngood import Detector
    from knowngood.evaluation.drawing.subject import Subject

    assert Subject({"plain": Detector.load(home / "plain" / "model")}).relevance() is None


# What a report shows of the model ------------------------------------------------------------------------------------


def test_a_report_looks_into_the_model(home: Path) -> None:
    from knowngood import Detector
    from knowngood.data import open_dataset, select
    from knowngood.evaluation.drawing import inside as looking
    from knowngood.evaluation.evaluate import evaluate, report_inputs
    from knowngood.evaluation.report import render

    detector = Detector.load(home / "given" / "model")
    images = select(open_dataset("digits"), normal="0-1", anomalous="2").split("test")
    found = evaluate(detector, images.replace(conditions={}), unknown="infer")
    inputs = report_inputs(detector, found, title="", command="", classes=images.conditions["class"])
    inside = inputs.inside
    assert inside is not None
    labels = images.labels[inside.shown]
    assert (labels == 0).sum() == (labels == 1).sum() == looking.SHOWN
    pipeline = detector.pipeline_
    told = images[inside.shown].replace(conditions={})
    seen, made = pipeline.reconstruct(told, unknown="infer")
    assert inside.inputs == pytest.approx(np.moveaxis(seen, 1, -1))
    assert inside.reconstructed.images == pytest.approx(np.moveaxis(made, 1, -1), abs=1e-6)
    codes = pipeline.embed(images[inside.coded].replace(conditions={}), unknown="infer")
    assert inside.codes == pytest.approx(codes, abs=1e-6)
    assert len(inside.coded) == len(images)
    assert inside.draws.shape == (2, looking.DRAWS, 8, 8, 1)
    assert list(inside.draw_names) == ["0", "1"]
    page = render(inputs)
    assert "Scores by class" in page
    assert ">0 (n = " in page


def test_a_report_can_do_without_pictures(home: Path) -> None:
    from knowngood import Detector
    from knowngood.data import open_dataset, select
    from knowngood.evaluation.evaluate import evaluate, report_inputs

    images = select(open_dataset("digits"), normal="0-1", anomalous="2").split("test")
    detector = Detector.load(home / "plain" / "model")
    inputs = report_inputs(detector, evaluate(detector, images), title="", command="", pictures=False)
    assert inputs.inside is None
    assert not inputs.most
    assert not inputs.least
    assert inputs.metrics


def test_pictures_are_reduced_by_means_and_small_ones_left() -> None:
    from knowngood.evaluation.drawing.inside import reduced

    images = np.random.default_rng(0).random((2, 3, 40, 20, 3)).astype(np.float32)
    assert reduced(images, 40) is images
    small = reduced(images, 10)
    assert small.shape == (2, 3, 10, 5, 3)
    assert small == pytest.approx(images.reshape(2, 3, 10, 4, 5, 4, 3).mean((3, 5)), abs=1e-6)


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
