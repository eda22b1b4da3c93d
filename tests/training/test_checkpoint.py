"""Checkpoints on disk: whole or absent, whatever happens while one is written."""

from __future__ import annotations

import json
import os

import pytest
import torch
from safetensors.torch import save_file

from knowngood.errors import ArtifactError
from knowngood.training.state import read_checkpoint, write_checkpoint

FILE = "checkpoint.safetensors"


def test_tensors_and_state_come_back(tmp_path):
    tensors = {
        "a": torch.randn(2, 3),
        "channels last": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        "bytes": torch.arange(5, dtype=torch.uint8),
        "count": torch.tensor(7),
    }
    write_checkpoint(tmp_path, tensors, {"step": 3, "loss": 0.1, "name": "Süd"})
    found = read_checkpoint(tmp_path)
    assert found is not None
    assert found[1] == {"version": 1, "step": 3, "loss": 0.1, "name": "Süd"}
    assert all(torch.equal(found[0][name], t) and found[0][name].dtype == t.dtype for name, t in tensors.items())
    assert os.listdir(tmp_path) == [FILE]


def test_no_checkpoint_is_none(tmp_path):
    assert read_checkpoint(tmp_path) is None


@pytest.mark.parametrize("call", ["replace", "fsync"])
def test_a_write_that_fails_leaves_the_one_before(tmp_path, monkeypatch, call):
    write_checkpoint(tmp_path, {"a": torch.zeros(3)}, {"step": 1})

    def fail(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(OSError, match="no space"):
        write_checkpoint(tmp_path, {"a": torch.ones(3)}, {"step": 2})
    found = read_checkpoint(tmp_path)
    assert found is not None
    assert found[1]["step"] == 1
    assert found[0]["a"].tolist() == [0, 0, 0]


@pytest.mark.parametrize("damage", ["cut", "empty", "other"])
def test_a_damaged_file_is_named(tmp_path, damage):
    write_checkpoint(tmp_path, {"a": torch.zeros(100)}, {"step": 1})
    path = tmp_path / FILE
    whole = path.read_bytes()
    path.write_bytes({"cut": whole[:-50], "empty": b"", "other": b"\x80\x04pickle" * 30}[damage])
    with pytest.raises(ArtifactError, match=r"checkpoint\.safetensors is not a whole checkpoint"):
        read_checkpoint(tmp_path)


def test_a_foreign_safetensors_file_is_named(tmp_path):
    save_file({"a": torch.zeros(1)}, tmp_path / FILE)
    with pytest.raises(ArtifactError, match="is not a whole checkpoint"):
        read_checkpoint(tmp_path)


def test_a_newer_version_is_refused(tmp_path):
    save_file({"a": torch.zeros(1)}, tmp_path / FILE, metadata={"state": json.dumps({"version": 2})})
    with pytest.raises(ArtifactError, match="version 2, this knowngood reads up to 1"):
        read_checkpoint(tmp_path)
