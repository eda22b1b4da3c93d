"""`python -m benchmarks peers`: speed beside Pythae and PyOD, on the same nets, data and batch, in one run.

Nets, losses and data are the same: the MLP 784-512-32 that is Pythae's default, Bernoulli likelihood, digits, float32.
All sides take turns in one process with one thread, and costs are processor seconds, which other jobs of the machine
change little. A library that is not installed is a row that says so; `benchmarks/peers.txt` names the versions.
"""

from __future__ import annotations

import importlib.metadata
import io
import logging
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from benchmarks import bare
from benchmarks import peers_costs as costs
from benchmarks.tables import print_table, write_csv
from knowngood import Detector, ImageSet
from knowngood.config import PixelOptions, VAEOptions, parse_settings
from knowngood.data.datasets.named import open_dataset
from knowngood.errors import DataError, SettingsError
from knowngood.representations import Pixels
from knowngood.training import Source, train

Row = dict[str, Any]
PARTS = ("training", "elbo", "scoring", "latency", "start", "memory", "size")
TRAINED, HELD_OUT = 10_000, 2_000  # digits
OURS = {
    "representation": "pixels",
    "model": {"name": "vae", "likelihood": "bernoulli", "latent_dim": 32, "net": {"name": "mlp", "hidden": [512]}},
    "device": "cpu",
}
IMPORTS = {
    "knowngood": "from knowngood import Detector",
    "pythae": "from pythae.models import VAE; from pythae.trainers import BaseTrainer",
    "pyod": "from pyod.models.vae import VAE",
}
OBJECTIVES = {"VAE": "vae", "FactorVAE": "factor_vae", "BetaTCVAE": "tc_vae"}


def main(
    parts: tuple[str, ...] = PARTS,
    repetitions: int = 3,
    epochs: int = 100,
    quick: bool = False,
    out: Path = Path("out/benchmarks/peers"),
) -> list[Row]:
    """Ratios of processor times. Prints and returns the table.

    training: images a second of an epoch at batch 64, ours ÷ theirs, and ÷ a bare loop. elbo: processor seconds until
    the ELBO of 2,000 tested digits is as good as the best of Pythae's default recipe (Adam at 1e-4, batch 64), with our
    defaults, which keep a fifth of the training images for early stopping; those evaluations count as our time.
    scoring: images a second of `Detector.score_samples` ÷ those of PyOD's VAE, `decision_function`, with the same
    layers; latency: of one image, p50 and p99 of 300 calls in turn. start: seconds of the import, memory: the largest
    resident set of a fit, each in a process of its own. size: packages of an installation, and their bytes. The rates
    of the machine are measured before and after.

    Args:
        epochs: of Pythae's recipe; 100 is its default.
        quick: few images and epochs; only checks that it runs.
    """
    unknown = [part for part in parts if part not in PARTS]
    if unknown:
        raise SettingsError(f"parts has no '{unknown[0]}'; known: {', '.join(PARTS)}")
    torch.set_num_threads(1)
    x = digits()
    x, held_out = (x[:640], x[-64:]) if quick else (x[:TRAINED], x[-HELD_OUT:])
    repetitions, epochs = (1, 2) if quick else (repetitions, epochs)
    rows: list[Row] = [costs.machine("before")]
    if "training" in parts:
        rows += training(x, repetitions)
    if "elbo" in parts:
        rows += attempt("time to the same ELBO ÷ Pythae", lambda: to_elbo(x, held_out, epochs))
    if {"scoring", "latency"} & set(parts):
        calls = 300 if "latency" in parts and not quick else 10 * ("latency" in parts)
        rows += attempt(
            "scoring ÷ PyOD VAE", lambda: scoring(x, held_out, repetitions if "scoring" in parts else 0, calls)
        )
    for part, measure, names in (
        ("start", start, IMPORTS),
        ("memory", costs.memory, costs.FITS),
        ("size", costs.installation, IMPORTS),
    ):
        if part in parts:
            rows += [row for name in names for row in attempt(f"{part} of {name}", partial(measure, name))]
    rows += [row for name in costs.ABSENT for row in costs.absent(name)]
    rows.append(costs.machine("after"))
    write_csv(out / "peers.csv", rows)
    lines = [[row["what"], row.get("said", ""), row.get("error", "")] for row in rows]
    print_table(["what", "measured", ""], lines, f"Beside other libraries, one thread, torch {torch.__version__}")
    return rows


def digits() -> np.ndarray:
    """(N, 28, 28) uint8 training digits of MNIST, or noise where it is missing."""
    try:
        images = open_dataset("mnist", split="train")
        return np.stack([images.read(i).reshape(28, 28) for i in range(TRAINED + HELD_OUT)])
    except DataError:
        return bare.noise_images(TRAINED + HELD_OUT)


def attempt(what: str, run: Callable[[], list[Row]]) -> list[Row]:
    """Its rows, or one that says what is missing."""
    try:
        return run()
    except ImportError as error:
        return [{"what": what, "error": f"not installed: {error.name}; pip install -r benchmarks/peers.txt"}]


# Training -------------------------------------------------------------------------------------------------------------


def training(x: np.ndarray, repetitions: int) -> list[Row]:
    """Images per processor second at batch 64, ours beside a bare loop and each of Pythae's models."""
    ours = {objective: partial(seconds_an_image, objective, x) for objective in OBJECTIVES.values()}
    rows = [beside("training: VAE ÷ bare loop", ours["vae"], partial(bare_seconds, x), repetitions)]
    for name, objective in OBJECTIVES.items():
        what = f"training: {objective} ÷ Pythae {name}"
        theirs = partial(pythae_seconds, name, x)
        rows += attempt(what, lambda pair=(what, ours[objective], theirs): [beside(*pair, repetitions)])
    return rows


def beside(what: str, ours: Callable[[], float], theirs: Callable[[], float], repetitions: int) -> Row:
    """How many times as fast ours is: the median of seconds of theirs ÷ ours, in turn, after a first of each."""
    theirs()
    ours()
    ratios = [theirs() / ours() for _ in range(repetitions)]
    said = f"{median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f})"
    return {"what": what, "ratio": median(ratios), "low": min(ratios), "high": max(ratios), "said": said}


def our_run(
    objective: str, x: np.ndarray, options: dict[str, Any], held_out: np.ndarray | None = None, **calls: Any
) -> Any:
    """`knowngood.training.train` with its defaults but for these options and float32; the model."""
    model = {**OURS["model"], "objective": objective}
    options = {"precision": "float32", **options}
    settings = parse_settings({**OURS, "model": model, "training": options})
    assert isinstance(settings.model, VAEOptions)
    images = ImageSet.from_arrays(x)
    scale = Pixels.fit(images, PixelOptions()).scale
    source, kept = Source(x[:, None], scale), None if held_out is None else Source(held_out[:, None], scale)
    net = bare.make_model(settings)
    train(net, settings.model.objective.build(), source, kept, settings.training, seed=0, device="cpu", **calls)
    return net


def seconds_an_image(objective: str, x: np.ndarray) -> float:
    """Processor seconds an image, of the steps after the first."""
    clock: list[float] = []
    our_run(objective, x, {"epochs": 1, "batch_size": 64}, on_step=lambda _: clock.append(time.process_time()))
    return (clock[-1] - clock[0]) / (64 * (len(clock) - 1))


def bare_seconds(x: np.ndarray) -> float:
    settings = parse_settings({**OURS, "training": {"batch_size": 64, "precision": "float32"}})
    started = time.process_time()
    steps = len(x) // 64
    bare.train(x, settings, steps, torch.device("cpu"))
    return (time.process_time() - started) / (64 * steps)


def pythae_seconds(name: str, x: np.ndarray) -> float:
    """Processor seconds an image of an epoch of Pythae's trainer at batch 64."""
    clock: list[float] = []
    pythae_run(name, x, 1, lambda begin, _: clock.append(time.process_time()))
    return (clock[-1] - clock[0]) / len(x)


def pythae_run(name: str, x: np.ndarray, epochs: int, look: Callable[[bool, Any], None]) -> None:
    """Pythae's trainer with its defaults. `look` is called at the begin (True) and end (False) of each epoch."""
    import pythae.models as models  # pyright: ignore[reportMissingImports]
    import pythae.trainers as trainers  # pyright: ignore[reportMissingImports]
    from pythae.data.datasets import BaseDataset  # pyright: ignore[reportMissingImports]
    from pythae.trainers.training_callbacks import TrainingCallback  # pyright: ignore[reportMissingImports]

    class Look(TrainingCallback):
        def on_epoch_begin(self, training_config: Any, **kwargs: Any) -> None:
            look(True, None)

        def on_epoch_end(self, training_config: Any, **kwargs: Any) -> None:
            look(False, model)

    adversarial = name == "FactorVAE"
    shape = {"input_dim": (1, 28, 28), "latent_dim": 32, "reconstruction_loss": "bce"}
    if name == "BetaTCVAE":
        shape["beta"] = 1.0
    torch.manual_seed(0)
    model = getattr(models, name)(getattr(models, f"{name}Config")(**shape))
    data = BaseDataset(torch.from_numpy(x[:, None]).float() / 255, torch.zeros(len(x)))
    silence = io.StringIO()
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(silence), redirect_stderr(silence):
        logging.disable()
        make = trainers.AdversarialTrainerConfig if adversarial else trainers.BaseTrainerConfig
        config = make(output_dir=folder, num_epochs=epochs, per_device_train_batch_size=64, no_cuda=True)
        trainer = trainers.AdversarialTrainer if adversarial else trainers.BaseTrainer
        trainer(model=model, train_dataset=data, training_config=config, callbacks=[Look()]).train()
        logging.disable(logging.NOTSET)


# Time to the same ELBO ------------------------------------------------------------------------------------------------


def to_elbo(x: np.ndarray, held_out: np.ndarray, epochs: int) -> list[Row]:
    """Processor seconds until the held-out ELBO is the best that Pythae's recipe reaches: of ours, and of theirs."""
    data = torch.from_numpy(held_out[:, None]).float() / 255
    theirs: list[tuple[float, float]] = []
    spent, started = 0.0, 0.0

    def look(begin: bool, model: Any) -> None:
        nonlocal spent, started
        if begin:
            started = time.process_time()
            return
        spent += time.process_time() - started
        training = model.training
        model.eval()
        theirs.append((spent, pythae_loss(model, data)))
        model.train(training)

    pythae_run("VAE", x, epochs, look)
    at, target = min(theirs, key=lambda one: one[1])
    ours: list[tuple[float, float]] = []
    aside, begun = 0.0, time.process_time()

    def looked(_: int, model: Any) -> None:
        nonlocal aside
        now = time.process_time()
        ours.append((now - begun - aside, our_loss(model, data)))
        aside += time.process_time() - now

    fifth = len(x) // 5
    our_run("vae", x[fifth:], {}, x[:fifth], on_evaluation=looked)
    reached = next((seconds for seconds, loss in ours if loss <= target), None)
    best = min(loss for _, loss in ours)
    row: Row = {"what": "time to the same ELBO ÷ Pythae", "target": target, "theirs": at, "ours": reached, "best": best}
    if reached is None:
        row["said"] = f"not reached: −ELBO {best:.2f}, Pythae's {target:.2f}"
    else:
        row["ratio"] = at / reached
        row["said"] = (
            f"{at / reached:.1f} × shorter: −ELBO {target:.2f} after {reached:.0f} s for {at:.0f} s; best {best:.2f}"
        )
    return [row]


@torch.no_grad()
def our_loss(model: Any, data: torch.Tensor) -> float:
    return float(
        np.mean([float(bare.negative_elbo(model, some, generator(i))) for i, some in enumerate(data.split(500))])
    )


@torch.no_grad()
def pythae_loss(model: Any, data: torch.Tensor) -> float:
    """As `our_loss`: one draw of each image."""
    torch.manual_seed(0)
    return float(np.mean([float(model({"data": some}).loss) for some in data.split(500)]))


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# Scoring and start ----------------------------------------------------------------------------------------------------


def scoring(x: np.ndarray, held_out: np.ndarray, repetitions: int, calls: int) -> list[Row]:
    """`Detector.score_samples` beside PyOD's VAE with the same layers, both by reconstruction.

    Args:
        repetitions: of all images, in turn. calls: of one image, likewise.
    """
    from pyod.models.vae import VAE  # pyright: ignore[reportMissingImports]

    flat = held_out.reshape(len(held_out), -1).astype(np.float32) / 255
    theirs = VAE(
        encoder_neuron_list=[512], decoder_neuron_list=[512], latent_dim=32, epoch_num=1, batch_size=128, verbose=0
    ).fit(x[:1000].reshape(-1, 784).astype(np.float32) / 255)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        settings = {**OURS, "score": "reconstruction", "training": {"epochs": 1}}
        ours = Detector(**settings).fit(x[:1000])  # type: ignore[arg-type]

    def seconds(run: Callable[[], Any]) -> float:
        started = time.process_time()
        run()
        return time.process_time() - started

    rows = []
    if repetitions:
        all_ours = partial(seconds, lambda: ours.score_samples(held_out))
        all_theirs = partial(seconds, lambda: theirs.decision_function(flat))
        rows.append(beside("scoring ÷ PyOD VAE", all_ours, all_theirs, repetitions))
    if calls:
        one, same = held_out[:1], flat[:1]
        rows += costs.latencies(
            "PyOD VAE", lambda: ours.score_samples(one), lambda: theirs.decision_function(same), calls
        )
    return rows


def start(name: str) -> list[Row]:
    """Processor seconds of importing what fits a VAE, in a process of its own, the second: the first one compiles."""
    version = importlib.metadata.version(name)
    code = f"import time; {IMPORTS[name]}; print(time.process_time())"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    for _ in range(2):
        words = [sys.executable, "-c", code]
        found = subprocess.run(words, capture_output=True, text=True, check=True, env=environment)
    seconds = float(found.stdout)
    said = f"{seconds:.2f} s, version {version}"
    return [{"what": f"import {name}", "version": version, "seconds": seconds, "said": said}]
