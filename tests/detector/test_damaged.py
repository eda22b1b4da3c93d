"""Damaged and edited model folders: refused by an ArtifactError that names the file, or the same scores."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path

import numpy as np
import pytest

from benchmarks.fuzz.mutations import mutated, mutated_json
from knowngood import Detector
from knowngood.detector import model_folder
from knowngood.errors import ArtifactError

X = np.random.default_rng(0).normal(size=(60, 4))
KIND = np.where(np.arange(60) % 2, "a", "b")


@pytest.fixture(scope="module")
def fitted() -> Detector:
    return Detector("table", "memory_bank", alpha=0.2).fit(X, conditions=KIND)


@pytest.fixture(scope="module")
def files(fitted: Detector, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    version = fitted.save(tmp_path_factory.mktemp("saved") / "model") / "versions" / "0001"
    return {path.name: path.read_bytes() for path in version.iterdir()}


@pytest.mark.slow
@pytest.mark.parametrize("part", range(10))
def test_a_mutation_is_refused_or_harmless(
    fitted: Detector, files: dict[str, bytes], tmp_path: Path, part: int
) -> None:
    expected = fitted.score_samples(X[:5], conditions=KIND[:5])
    refused = 0
    for case in range(30):
        rng = np.random.default_rng([part, case])
        name = sorted(files)[int(rng.integers(len(files)))]
        change = mutated_json if name.endswith(".json") and rng.random() < 0.8 else mutated
        for one, data in files.items():
            (tmp_path / one).write_bytes(change(data, rng) if one == name else data)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                found = Detector.load(tmp_path).score_samples(X[:5], conditions=KIND[:5])
            except ArtifactError as error:
                assert name in str(error)  # noqa: PT017
                assert name not in ("card.md", "training.json")
                refused += 1
                continue
        assert np.array_equal(found, expected)
    assert refused > 5


def test_a_model_that_is_not_finite_is_refused(fitted: Detector) -> None:
    broken = copy.deepcopy(fitted)
    next(t for t in broken.pipeline_.model.state_dict().values() if t.is_floating_point()).fill_(np.nan)
    with pytest.raises(ArtifactError, match=r"weights\.safetensors: .* not finite"):
        model_folder.unpack(model_folder.pack(broken.pipeline_, broken.about_, {}, ""))


def test_a_damaged_record_of_the_training_is_left_out_and_said(files: dict[str, bytes]) -> None:
    with pytest.warns(UserWarning, match=r"training\.json is damaged"):
        _, _, training = model_folder.unpack({**files, "training.json": b"{"})
    assert training == {}
