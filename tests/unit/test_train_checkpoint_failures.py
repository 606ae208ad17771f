# SPDX-License-Identifier: Apache-2.0
"""rdmatrain.train.checkpoint: a save that is cut anywhere, and errors of any rank."""

import contextlib
import errno
import os
import resource
import shutil
import threading
from pathlib import Path

import pytest
import torch
from checkpoint_folder import expect_step, load, names, save, shard, state_of
from fake_ranks import on_ranks

from rdmatrain.metrics.tally import Tally
from rdmatrain.train import CheckpointError, Checkpoints
from rdmatrain.train import checkpoint as module

EVENTS = ((os, "fsync"), (Path, "rename"), (Path, "mkdir"), (Path, "unlink"), (shutil, "rmtree"))


# Crashes: the process stops at an event, whatever it is


class Crash(BaseException):
    """No handler of errors catches it, as none runs when a process is killed."""


class Trap:
    """Raises at the nth event of a rank, before or after it happened.

    Errors have what the kernel's would: a path where the call has one, which an fsync has not.
    """

    def __init__(self, monkeypatch, error, at, after=False, rank=0):
        self.error, self.at, self.after = error, at, after
        self.thread, self.seen, self.sprung = f"rank {rank}", 0, ""
        for owner, name in EVENTS:
            monkeypatch.setattr(owner, name, self.wrapped(getattr(owner, name), name))

    def wrapped(self, real, name):
        def event(*args, **kwargs):
            if threading.current_thread().name != self.thread:
                return real(*args, **kwargs)
            self.seen += 1
            springs = self.seen == self.at
            if springs and not self.after:
                self.spring(name, args[0])
            result = real(*args, **kwargs)
            if springs and self.after:
                self.spring(name, args[0])
            return result

        return event

    def spring(self, name, subject):
        self.sprung = name
        if isinstance(self.error, OSError) and isinstance(subject, Path):
            self.error.filename = str(subject)
        raise self.error


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("keep", [1, 2])
def test_a_save_that_is_cut_anywhere_costs_one_generation_at_most(
    tmp_path, monkeypatch, keep, after
):
    newest = set()
    monkeypatch.setattr(threading.current_thread(), "name", "rank 0")
    for at in range(1, 100):
        root = tmp_path / str(at)
        for step in (1, 2):
            Checkpoints(root, keep=keep).save(step, state_of(step))
        with monkeypatch.context() as patched:
            trap = Trap(patched, Crash(), at, after)
            with contextlib.suppress(Crash):
                Checkpoints(root, keep=keep).save(3, state_of(3))
        if not trap.sprung:
            break
        found = Checkpoints(root).load()
        newest.add(found.step)
        assert found.state["list"] == [(found.step, 0)]
        Checkpoints(root, keep=keep).save(4, state_of(4))
        assert Checkpoints(root).load().step == 4
        assert len(names(root)) == keep
    assert newest == {2, 3}
    assert at > 8


# Errors of the file system


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EROFS, errno.EDQUOT, errno.EACCES])
@pytest.mark.parametrize("rank", [0, 1])
def test_an_error_on_one_rank_is_raised_on_all_and_named(tmp_path, monkeypatch, code, rank):
    for at in range(1, 100):
        root = tmp_path / str(at)
        save(root, 1, 2)
        with monkeypatch.context() as patched:
            trap = Trap(patched, OSError(code, os.strerror(code)), at, rank=rank)
            results = save(root, 2, 2)
        if not trap.sprung:
            break
        texts = {str(result) for result in results if isinstance(result, CheckpointError)}
        assert len(texts) == 1, results
        (text,) = texts
        assert f"rank {rank}: {root}" in text
        assert f"errno {code}, {errno.errorcode[code]}" in text
        expect_step(root, 1, 2)
        save(root, 3, 2)
        expect_step(root, 3, 2)
    assert at > 3


def test_the_first_failure_is_a_growth_of_its_counter(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "TALLY", Tally())
    saved, failed = (("rdmatrain_checkpoints_total", (result,)) for result in ("saved", "failed"))
    checkpoints = Checkpoints(tmp_path)
    assert module.TALLY.values == {saved: 0, failed: 0}
    with monkeypatch.context() as patched:
        Trap(patched, OSError(errno.ENOSPC, "full"), 1, rank=0)
        patched.setattr(threading.current_thread(), "name", "rank 0")
        with pytest.raises(CheckpointError):
            checkpoints.save(1, state_of(1))
    checkpoints.save(2, state_of(2))
    assert module.TALLY.values == {saved: 1, failed: 1}


def test_an_error_while_old_ones_are_removed_is_a_warning(tmp_path, monkeypatch, caplog):
    save(tmp_path, 1, keep=1)
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "rmtree", lambda _: Path("/nowhere").stat())
        save(tmp_path, 2, keep=1)
    assert "generation-0000000001 could not be removed" in caplog.text
    expect_step(tmp_path, 2)
    save(tmp_path, 3, keep=1)
    assert names(tmp_path) == [3]


def test_a_folder_that_cannot_be_read_after_the_save_is_a_warning(tmp_path, monkeypatch, caplog):
    write = module.Manifest.write

    def write_and_break(manifest, folder):
        write(manifest, folder)
        broken = lambda _: Path("/nowhere").stat()  # noqa: E731
        monkeypatch.setattr(module.generations, "finished", broken)

    monkeypatch.setattr(module.Manifest, "write", write_and_break)
    assert Checkpoints(tmp_path).save(1, state_of(1)).is_dir()
    assert "old checkpoints could not be removed" in caplog.text
    monkeypatch.undo()
    assert Checkpoints(tmp_path).load().step == 1


def test_what_is_half_removed_does_not_exist(tmp_path, monkeypatch):
    def remove_half(_):
        shard(tmp_path, 1).unlink()
        raise Crash

    save(tmp_path, 1, keep=1)
    with monkeypatch.context() as patched, pytest.raises(Crash):
        patched.setattr(shutil, "rmtree", remove_half)
        Checkpoints(tmp_path, keep=1).save(2, state_of(2))
    shutil.rmtree(shard(tmp_path, 2).parent)
    assert load(tmp_path) == [None]


def test_a_disk_that_fills_within_a_tensor_is_named(tmp_path):
    Checkpoints(tmp_path).save(1, state_of(1))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 18, hard))
    try:
        with pytest.raises(CheckpointError, match=r"rank 0: .*rank-00000\.pt: .*EFBIG"):
            Checkpoints(tmp_path).save(2, [torch.zeros(1 << 20), torch.zeros(1 << 20)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert names(tmp_path) == [1]


@pytest.mark.parametrize("state", [{"path": Path("x")}, {"code": lambda: 0}])
def test_what_could_not_be_loaded_is_not_saved(tmp_path, state):
    Checkpoints(tmp_path).save(1, state_of(1))
    results = on_ranks(
        2, lambda ranks: Checkpoints(tmp_path, ranks).save(2, state if ranks.rank else {})
    )
    assert all("rank 1: " in str(error) for error in results)
    assert all(set(error.failures) == {1} for error in results)
    assert names(tmp_path) == [1]


@pytest.mark.parametrize("metadata", [{"when": object()}, 7])
def test_metadata_that_is_no_json_is_an_error_on_all_ranks(tmp_path, metadata):
    def act(ranks):
        return Checkpoints(tmp_path, ranks).save(1, {}, None if ranks.rank else metadata)

    assert all("rank 0: TypeError" in str(error) for error in on_ranks(2, act))
    assert load(tmp_path, 2) == [None, None]


def test_ranks_at_different_steps_are_refused(tmp_path):
    results = on_ranks(2, lambda ranks: Checkpoints(tmp_path, ranks).save(ranks.rank, {}))
    assert all("different steps: [0, 1]" in str(error) for error in results)
    assert load(tmp_path, 2) == [None, None]


def test_ranks_that_see_different_folders_are_told(tmp_path):
    for name in "01":
        Checkpoints(tmp_path / name, replicated=True).save(int(name), state_of(int(name)))
    results = on_ranks(2, lambda ranks: Checkpoints(tmp_path / str(ranks.rank), ranks).load())
    assert all("is the folder shared" in str(error) for error in results)


def test_a_folder_that_is_a_file_is_named(tmp_path):
    (tmp_path / "file").touch()
    for error in load(tmp_path / "file", 2) + save(tmp_path / "file", 1, 2):
        assert isinstance(error, CheckpointError)
        assert "ENOTDIR" in str(error)
