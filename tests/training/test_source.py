"""Data in memory and data streamed: the same batches, the same weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from knowngood.errors import DataError
from knowngood.training import Source, StreamSource
from knowngood.training.evaluation import paired
from training_helpers import CLASSES, SHAPE, images, options, same_bits, scale, source, trained


class Files:
    """Images that can only be read one by one, (H, W, C)."""

    def __init__(self, n: int) -> None:
        self.array = images(n)[0].permute(0, 2, 3, 1).numpy()

    def __len__(self) -> int:
        return len(self.array)

    def read(self, i: int) -> np.ndarray:
        return self.array[i]


class Plain:
    def prepare(self, image: np.ndarray) -> np.ndarray:
        return image.transpose(2, 0, 1)

    def scale(self, batch: torch.Tensor) -> torch.Tensor:
        return scale(batch)


def stream(n: int, workers: int) -> StreamSource:
    kind = images(n)[1]
    return StreamSource(Files(n), Plain(), c=torch.eye(CLASSES)[kind], stratum=kind, n_strata=CLASSES, workers=workers)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.float32, np.float64])
def test_data_keep_their_type_until_they_are_a_batch(dtype):
    data = np.arange(5 * 4).reshape(5, 4).astype(dtype)
    held = Source(data, lambda x: x.float() / 2, label=[0, 1, 0, np.nan, 0])
    assert held.data.element_size() == np.dtype(dtype).itemsize
    batch = held.batch(torch.tensor([3, 1]))
    assert batch.x.dtype == torch.float32
    assert torch.equal(batch.x, torch.tensor(data[[3, 1]].astype(np.float32)) / 2)
    assert batch.c is None
    assert batch.index.tolist() == [3, 1]
    assert batch.label[0].isnan()
    assert batch.label[1] == 1


def test_read_only_arrays_are_neither_copied_nor_warned_about(recwarn):
    data = np.zeros((5, 3))
    data.setflags(write=False)
    assert Source(data).data.data_ptr() == data.ctypes.data
    assert not recwarn.list


def test_facts_belong_to_the_items():
    held = source(20)
    kind = images(20)[1]
    batch = held.batch(torch.tensor([7, 2, 11]))
    assert torch.equal(batch.stratum, kind[[7, 2, 11]])
    assert batch.c is not None
    assert torch.equal(batch.c.argmax(1), kind[[7, 2, 11]])
    assert held.facts.stratum_counts.tolist() == torch.bincount(kind, minlength=CLASSES).tolist()


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"c": np.zeros((4, 2))}, "c has 4 rows for 5 items"),
        ({"stratum": [0, 1, 2, 0, 1], "n_strata": 2}, "strata run from 0 to 2; expected 0 to 1"),
        ({"stratum": [0, -1, 0, 0, 0]}, "strata run from -1"),
    ],
)
def test_facts_that_do_not_fit_are_refused(columns, message):
    with pytest.raises(DataError, match=message):
        Source(np.zeros((5, 3)), **columns)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_a_stream_gives_the_batches_of_a_source(workers):
    rows = [torch.tensor([3, 1, 4]), torch.tensor([5, 9, 2, 6])]
    for a, b in zip(source(12).batches(rows), stream(12, workers).batches(rows), strict=True):
        assert a.c is not None
        assert b.c is not None
        pairs = [(a.x, b.x), (a.c, b.c), (a.stratum, b.stratum), (a.index, b.index), (a.label, b.label)]
        assert all(torch.equal(left, right) for left, right in pairs)


@pytest.mark.slow
def test_streamed_training_ends_with_the_same_weights():
    chosen = options(epochs=2)
    held, _ = trained(data=source(90), held_out=source(20, seed=1), options=chosen)
    streamed, _ = trained(data=stream(90, workers=1), held_out=source(20, seed=1), options=chosen)
    assert same_bits(held, streamed)


def test_a_stream_reads_no_further_ahead_than_it_may():
    """Memory stays constant: with no workers nothing is read before it is asked for."""
    read = []

    class Watched(Files):
        def read(self, i: int) -> np.ndarray:
            read.append(i)
            return super().read(i)

    rows = (torch.tensor([i, i + 1]) for i in range(0, 90, 2))
    batches = StreamSource(Watched(100), Plain(), workers=0).batches(rows)
    next(batches)
    next(batches)
    assert read == [0, 1, 2, 3]


def test_second_batches_come_from_their_own_rows():
    first, second = torch.tensor([0, 1, 2]), torch.tensor([5, 4])
    for batch, other in paired(source(10), [(first, second)]):
        assert other is not None
        assert batch.index.tolist() == [0, 1, 2]
        assert other.index.tolist() == [5, 4]
        assert other.x.shape == (2, *SHAPE)
    assert [other for _, other in paired(source(10), [(first,)])] == [None]
