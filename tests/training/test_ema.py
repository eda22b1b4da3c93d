"""Averaged and best weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from knowngood.training.optimisers import Average, Best


def values(average: Average) -> list[float]:
    return [float(v) for value in average.values for v in value.flatten()]


def test_the_average_is_the_recursion():
    p = nn.Parameter(torch.zeros(1))
    average, expected = Average([p], 0.5), 0.0
    for step in range(50):
        with torch.no_grad():
            p.fill_(step**2 / 7)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * step**2 / 7
        average.update(step)
        assert values(average) == [pytest.approx(expected, rel=1e-5)]


def test_later_it_is_the_same_average_taken_in_less_often():
    """Of a slow movement the average lags by decay/(1 − decay) steps, whether every step is taken in or every 4th."""
    p = nn.Parameter(torch.zeros(1))
    average = Average([p], 0.98)
    for step in range(1101):
        with torch.no_grad():
            p.fill_(float(step))
        average.update(step)
    lag = float(p.detach()) - values(average)[0]
    assert lag == pytest.approx(0.98 / 0.02, abs=2)


def test_the_start_is_forgotten():
    p = nn.Parameter(torch.full((1,), 1000.0))
    average = Average([p], 0.999)
    with torch.no_grad():
        p.fill_(1.0)
    for step in range(40):
        average.update(step)
    assert values(average)[0] == pytest.approx(1.0, abs=0.01)


def test_swapping_exchanges_without_copying():
    layer = nn.Linear(2, 3)
    average, first = Average(list(layer.parameters()), 0.9), layer.weight.detach().clone()
    with torch.no_grad():
        layer.weight.add_(1)
    live, kept = layer.weight.data_ptr(), average.values[0].data_ptr()
    before = layer.weight.detach().clone()
    average.swap()
    assert (layer.weight.data_ptr(), average.values[0].data_ptr()) == (kept, live)
    assert torch.equal(layer.weight, first)
    average.swap()
    assert torch.equal(layer.weight, before)
    assert layer.weight.data_ptr() == live


def test_the_best_is_kept_and_put_back():
    t, buffer = nn.Parameter(torch.zeros(2)), torch.zeros((), dtype=torch.int64)
    best = Best([t, buffer])
    best.put_back()  # before any evaluation there is nothing to put back
    assert t.tolist() == [0, 0]
    for step, value in enumerate((5.0, 3.0, 4.0, 3.0), start=1):
        with torch.no_grad():
            t.fill_(step)
        buffer.fill_(step)
        best.offer(value, step)
    assert (best.value, best.step, best.since) == (3.0, 2, 2)
    best.put_back()
    assert t.tolist() == [2, 2]
    assert buffer == 2


def test_what_is_not_a_number_is_never_best():
    best = Best([torch.zeros(1)])
    best.offer(float("nan"), 1)
    assert best.step == 0
