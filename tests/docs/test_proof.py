"""docs/proof.md keeps its word: each test it names is there, and what has no file of its own is tested here."""

from __future__ import annotations

import ast
import importlib
import re
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from forms import FORMS, batch_for, context_for, every_form, model_for, objective_for
from knowngood import Detector, ImageSet
from knowngood.config import Options, choices
from knowngood.evaluation.evaluate import evaluate
from knowngood.metrics import roc_auc
from knowngood.models.objectives import Batch
from knowngood.training import Source
from training_helpers import settings, trained

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "proof.md").read_text(encoding="utf-8")
NAMED = re.compile(r"`(test_\w+\.py)::(test_\w+)`")
FOUND_BY = re.compile("limit|gradient|density")
DEFECTS = 12
PICKLES = {"pickle", "dill", "cloudpickle", "joblib"}


def rows(heading: str) -> dict[str, str]:
    """The table under a heading: its rows by their first cell."""
    section = PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")][2:]
    return {line.split("|")[1].strip().strip("`"): line for line in lines}


def functions_in(file: str) -> set[str]:
    tree = ast.parse((ROOT / "tests" / file).read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


# The page -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", sorted({file for file, _ in NAMED.findall(PAGE)}))
def test_every_test_the_page_names_is_there(file: str) -> None:
    assert {test for at, test in NAMED.findall(PAGE) if at == file} <= functions_in(file)


def test_every_objective_has_a_row_with_limit_and_gradient_tests() -> None:
    table = rows("Objectives")
    assert table.keys() == choices("objective").keys()
    for name, row in table.items():
        named = [test for _, test in NAMED.findall(row)]
        assert sum(bool(FOUND_BY.search(test)) for test in named) >= 2, name


def test_what_is_common_to_all_objectives_runs_for_each_and_is_found_by_name() -> None:
    named = [test for _, test in NAMED.findall(PAGE.split("\n## Objectives\n")[0])]
    assert len(named) >= 6
    assert all(FOUND_BY.search(test) for test in named)
    assert {options.name for options in FORMS.values()} == set(choices("objective"))


@pytest.mark.parametrize("name", choices("objective"))
def test_sources_of_the_page_are_those_of_the_code(name: str) -> None:
    module = importlib.import_module(choices("objective")[name].implementation.partition(":")[0])
    code = Path(str(module.__file__)).read_text(encoding="utf-8")
    for arxiv in re.findall(r"arXiv:\d{4}\.\d{5}", rows("Objectives")[name]):
        assert arxiv in code, arxiv


def test_every_defect_has_its_tests() -> None:
    table = rows("Defects")
    assert list(table) == [str(number + 1) for number in range(DEFECTS)]
    assert all(NAMED.search(row) for row in table.values())


# Metrics on raw scores ----------------------------------------------------------------------------------------------


def images(n: int, seed: int, brightness: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).integers(0, 40, (n, 8, 8)) + brightness).astype(np.uint8)


def quick(**changes: Any) -> Detector:
    return Detector(net={"name": "mlp", "hidden": (16,)}, latent_dim=2, device="cpu", epochs=2, **changes)


def test_metrics_rank_raw_scores_where_p_values_tie() -> None:
    """Beyond all calibration normals p is 1/(n+1) for everything; what is odder still ranks higher."""
    detector = quick(scaling=(0, 255)).fit(images(300, 0))
    odd = np.concatenate([images(1, 2, brightness) for brightness in range(80, 200, 10)])
    labels = np.repeat([0.0, 1.0], (60, len(odd)))
    found = evaluate(detector, ImageSet.from_arrays(np.concatenate((images(60, 1), odd)), labels=labels))
    scores = found.table["anomaly_score"].to_numpy(float)
    assert found.table["p_value"][labels == 1].nunique() == 1
    assert (np.diff(scores[labels == 1]) > 0).all()
    assert np.unique(scores).size == scores.size
    assert found.metrics["auroc"] == roc_auc(labels.astype(int), scores)


# Nothing one by one, no waiting -------------------------------------------------------------------------------------


def test_many_images_are_scored_by_few_passes_through_the_nets(monkeypatch: pytest.MonkeyPatch) -> None:
    detector = quick().fit(images(200, 0))
    sizes: list[int] = []
    encode = detector.model_.encode
    monkeypatch.setattr(detector.model_, "encode", lambda x, c=None: sizes.append(len(x)) or encode(x, c))
    detector.score_samples(images(1000, 1))
    assert sum(sizes) == 1000
    assert len(sizes) <= 4


def test_a_batch_is_made_at_once_and_not_item_by_item() -> None:
    calls: list[int] = []
    source = Source(images(200, 0)[:, None], lambda x: calls.append(len(x)) or x.float())
    assert source.batch(torch.arange(64)).x.shape == (64, 1, 8, 8)
    assert calls == [64]


class Looks(TorchDispatchMode):
    """Counts how often a tensor becomes a Python number, for which a step on a GPU would have to wait."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


def test_training_does_not_look_at_a_value_in_every_step() -> None:
    with Looks() as looks:
        torch.ones(()).item()
        assert looks.count == 1
        after: list[int] = []
        trained(settings=settings(epochs=20), on_step=lambda _: after.append(looks.count))
    assert len(after) == 80
    assert after[-1] == after[0]


@every_form
def test_no_step_of_an_objective_looks_at_a_value(options: Options, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the device that has shapes and no values any look is an error."""
    for module in [module for name, module in sys.modules.items() if name.startswith("knowngood.")]:
        if hasattr(module, "full_precision_region"):  # autocast does not know this device
            monkeypatch.setattr(module, "full_precision_region", lambda _: nullcontext())

    def valueless(batch: Batch | None) -> Any:
        return batch and Batch(*(None if t is None else t.to("meta") for t in vars(batch).values()))  # type: ignore[arg-type]

    model = model_for(options)
    objective, batch = objective_for(options, model), batch_for(options, model)
    context = context_for(objective, model, batch, step=50)
    context.generator, context.stratum_counts = None, context.stratum_counts.to("meta")  # type: ignore[assignment]
    context.second = valueless(context.second)
    model.to("meta")
    objective.to("meta")
    losses, _ = objective.loss(model, valueless(batch), context)
    with pytest.raises(RuntimeError, match="meta"):
        losses["model"].item()
    for player, parameters in objective.players(model).items():
        torch.autograd.grad(losses[player], parameters, retain_graph=True)


# No pickle ----------------------------------------------------------------------------------------------------------


def test_nothing_in_the_library_can_unpickle() -> None:
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
                assert not {name.partition(".")[0] for name in names} & {"pickle", "dill", "cloudpickle", "joblib"}, (
                    path
                )
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                call = ast.unparse(node.func)
                assert call != "torch.save", path
                assert call != "torch.load" or "weights_only=True" in ast.unparse(node), path
                assert call != "np.load" or "allow_pickle=False" in ast.unparse(node), path
