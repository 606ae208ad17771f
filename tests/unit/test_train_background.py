# SPDX-License-Identifier: Apache-2.0
"""rdmatrain.train.checkpoint in the background: what was saved is what was there at that time."""

import threading
import time

import pytest
import torch
from checkpoint_folder import names, shard, state_of
from fake_ranks import on_ranks

from rdmatrain.train import CheckpointError, Checkpoints
from rdmatrain.train import checkpoint as module
from rdmatrain.train.shard import snapshot


@pytest.fixture
def gate(monkeypatch):
    """Writing waits for it."""
    gate = threading.Event()
    write = module.write_shard

    def write_later(*args):
        assert gate.wait(10)
        return write(*args)

    monkeypatch.setattr(module, "write_shard", write_later)
    yield gate
    gate.set()


def test_what_changes_meanwhile_is_not_saved(tmp_path, gate):
    job = Checkpoints(tmp_path, background=True)
    state = {"tensor": torch.zeros(3), "list": [1, (2, {"deep": [3]})]}
    job.save(1, state)
    state["tensor"] += 1
    state["list"][1][1]["deep"].append(4)
    assert not job.written
    gate.set()
    job.wait()
    assert job.written
    found = Checkpoints(tmp_path).load()
    assert found.state["tensor"].tolist() == [0, 0, 0]
    assert found.state["list"] == [1, (2, {"deep": [3]})]


def test_it_is_no_checkpoint_before_all_ranks_waited_for_it(tmp_path, gate):
    def act(ranks):
        job = Checkpoints(tmp_path, ranks, background=True)
        job.save(1, state_of(1, ranks.rank))
        gate.set()
        job.save(2, state_of(2, ranks.rank))  # waits for the first
        before = Checkpoints(tmp_path, ranks).load().step
        return before, job.load().step

    assert on_ranks(2, act) == [(1, 2), (1, 2)]


def test_a_process_that_ends_in_between_leaves_the_generation_before(tmp_path):
    Checkpoints(tmp_path).save(1, state_of(1))
    job = Checkpoints(tmp_path, background=True)
    job.save(2, state_of(2))
    while not job.written:
        time.sleep(0.001)
    assert shard(tmp_path, 2).exists()
    assert Checkpoints(tmp_path).load().step == 1
    Checkpoints(tmp_path).save(3, state_of(3))
    assert names(tmp_path) == [1, 3]


@pytest.mark.parametrize("end", ["wait", "save", "load"])
def test_what_goes_wrong_is_raised_by_the_next_call_on_all_ranks(tmp_path, gate, end):
    gate.set()

    def act(ranks):
        job = Checkpoints(tmp_path, ranks, background=True)
        job.save(1, state_of(1, ranks.rank))
        job.wait()
        gate.clear()
        job.save(2, state_of(2, ranks.rank))
        if ranks.rank == 1:
            shard(tmp_path, 2, 1).mkdir()
        ranks.share("")
        gate.set()
        try:
            getattr(job, end)(*((3, {}) if end == "save" else ()))
        except CheckpointError as error:
            return str(error), job.load().step
        return None

    (text, step), other = on_ranks(2, act)
    assert other == (text, step)
    assert "the checkpoint of step 2 was not saved: rank 1: " in text
    assert step == 1
    assert names(tmp_path) == [1]


def test_metadata_that_is_no_json_is_told_by_wait(tmp_path):
    job = Checkpoints(tmp_path, background=True)
    job.save(1, {}, {"when": object()})
    with pytest.raises(CheckpointError, match="rank 0: TypeError"):
        job.wait()
    job.wait()
    assert names(tmp_path) == []


def test_a_snapshot_shares_nothing():
    parameter = torch.nn.Parameter(torch.zeros(2))
    state = {"a": parameter, "b": (torch.ones(1), [2.5, None, "x"])}
    copy = snapshot(state)
    with torch.no_grad():
        parameter.fill_(7)
    state["b"][0].fill_(8)
    assert copy["a"].tolist() == [0, 0]
    assert not copy["a"].requires_grad
    assert copy["b"] == (torch.ones(1), [2.5, None, "x"])
