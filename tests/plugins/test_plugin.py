"""The plug-in package of the guide: installed beside the library, its score is known by its name everywhere."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "docs" / "guide" / "plugin_example"

PROGRAM = """
import json
import sys

import numpy as np

from knowngood import Detector, open_images
from knowngood.config import read_settings
from knowngood.detector.latents import reconstruct

images = np.load(sys.argv[1])
settings = read_settings(sys.argv[2])
detector = Detector.from_settings(settings).fit(images)
detector.save(sys.argv[3])
again = Detector.load(sys.argv[3])
x, reconstruction = reconstruct(detector.pipeline_, open_images(images))
print(json.dumps({
    "quantile": settings.score.quantile,
    "scores": (-detector.score_samples(images)).tolist(),
    "loaded": (-again.score_samples(images)).tolist(),
    "by_hand": np.quantile(np.abs(x - reconstruction).reshape(len(x), -1), settings.score.quantile, axis=1).tolist(),
    "map": list(detector.anomaly_maps(images[:1])[0].shape),
}))
"""
CONFIG = """
representation: pixels
model: {name: vae, latent_dim: 2, net: {name: mlp, hidden: [16]}}
score: {name: median_residual, quantile: 0.75}
training: {epochs: 1}
"""


OBJECTIVE = """
import json
from types import SimpleNamespace

import numpy as np
import torch

from knowngood import Detector
from knowngood.config import VAEOptions, choices
from knowngood.models.objectives import Objective, elbo_terms

images = np.random.default_rng(0).integers(0, 256, (40, 8, 8), dtype=np.uint8)
model = {"name": "vae", "objective": {"name": "annealed", "share": 0.5}, "net": {"name": "mlp", "hidden": [16]}}
detector = Detector("pixels", model, training={"epochs": 1}).fit(images)
vae = detector.pipeline_.model
batch = SimpleNamespace(x=torch.rand(6, 1, 8, 8), c=None, stratum=torch.zeros(6, dtype=torch.int64))
objective = choices(VAEOptions, "objective")["annealed"](share=0.5).build()
found = {}
for step in (0, 25, 50, 100):
    context = SimpleNamespace(step=step, total_steps=100, generator=torch.Generator().manual_seed(0))
    losses, terms = objective.loss(vae, batch, context)
    rest = losses["model"] - terms["reconstruction"].mean()
    found[step] = float(rest / terms["kl"].mean())
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a process that finds the installed example beside the library."""
    # A copy, because the build writes beside its sources.
    folder = tmp_path_factory.mktemp("plugin")
    target, source = folder / "site", folder / "source"
    shutil.copytree(EXAMPLE, source)
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--target", str(target)]
    subprocess.run([*pip, str(source)], check=True, capture_output=True, text=True)
    paths = [str(target), str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in paths if path)}


def run(words: list[str], environment: dict[str, str]) -> str:
    done = subprocess.run([sys.executable, *words], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory, environment: dict[str, str]) -> list[Any]:
    """What the two programs print, one after the other in one process."""
    folder = tmp_path_factory.mktemp("programs")
    np.save(folder / "images.npy", np.random.default_rng(0).integers(0, 256, (60, 8, 8), dtype=np.uint8))
    (folder / "config.yaml").write_text(CONFIG)
    words = [str(folder / name) for name in ("images.npy", "config.yaml", "model")]
    return [json.loads(line) for line in run(["-c", PROGRAM + OBJECTIVE, *words], environment).splitlines()]


@pytest.mark.slow
def test_the_score_of_the_example_is_used_by_its_name(printed: list[Any]) -> None:
    found = printed[0]
    assert found["quantile"] == 0.75
    assert found["scores"] == found["loaded"]
    np.testing.assert_allclose(found["scores"], found["by_hand"], rtol=1e-4)
    assert found["map"] == [8, 8]


@pytest.mark.slow
def test_the_score_of_the_example_is_an_option_of_the_command_line(environment: dict[str, str]) -> None:
    shown = run(["-m", "knowngood", "train", "--help-all"], environment)
    assert "median_residual" in shown
    assert "--quantile" in shown
    assert "annealed" in shown
    assert "--share" in shown


@pytest.mark.slow
def test_the_objective_of_the_example_weighs_the_kl_by_the_step(printed: list[Any]) -> None:
    assert list(printed[1].values()) == pytest.approx([0, 0.5, 1, 1], abs=1e-4)
