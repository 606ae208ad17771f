# SPDX-License-Identifier: Apache-2.0
"""rdmatrain.train.checkpoint: all ranks save and load the same generation, or none does."""

import contextlib
import errno
import logging
import os
import resource
import shutil
import threading
from pathlib import Path

import pytest
import torch
from fake_ranks import FakeRanks, on_ranks
from hypothesis import given, settings
from hypothesis import strategies as st

from rdmatrain.train import CheckpointError, Checkpoints
from rdmatrain.train import checkpoint as module

README = Path(__file__).parents[2] / "README.md"
EVENTS = ((os, "fsync"), (Path, "rename"), (Path, "mkdir"), (Path, "unlink"), (shutil, "rmtree"))


@pytest.fixture(autouse=True)
def threads_as_ranks(monkeypatch):
    real = module.Ranks
    monkeypatch.setattr(
        module, "Ranks", lambda group: group if isinstance(group, FakeRanks) else real(group)
    )


def state_of(step, rank=0):
    return {"weights": torch.full((5,), 10.0 * step + rank), "list": [(step, rank)], "text": "x"}


def save(root, step, world=1, **options):
    def act(ranks):
        return Checkpoints(root, ranks, **options).save(step, state_of(step, ranks.rank))

    return on_ranks(world, act)


def load(root, world=1, **options):
    return on_ranks(world, lambda ranks: Checkpoints(root, ranks, **options).load())


def expect_step(root, step, world=1):
    """Every rank loads its own state of that step."""
    for rank, found in enumerate(load(root, world)):
        assert found.step == step
        assert found.state["weights"].tolist() == [10.0 * step + rank] * 5
        assert found.state["list"] == [(step, rank)]


def names(root):
    return sorted(int(path.name.removeprefix("generation-")) for path in root.iterdir())


def shard(root, generation, rank=0):
    return root / f"generation-{generation:010}" / f"rank-{rank:05}.pt"


def manifest(root, generation):
    return root / f"generation-{generation:010}" / "manifest.json"


def flip(path, bit):
    raw = bytearray(path.read_bytes())
    raw[bit // 8 % len(raw)] ^= 1 << bit % 8
    path.write_bytes(raw)


def swap(one, other):
    raw = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(raw)


# What is saved is loaded


@pytest.mark.parametrize("world", [1, 3])
def test_each_rank_gets_its_own_state_back(tmp_path, world):
    root = tmp_path / "made" / "when needed"
    assert load(root, world) == [None] * world
    save(root, 7, world)
    expect_step(root, 7, world)


def test_without_a_group_a_process_is_a_rank(tmp_path):
    path = Checkpoints(tmp_path).save(3, state_of(3), {"loss": 0.5})
    found = Checkpoints(str(tmp_path)).load()
    assert (found.step, found.metadata, found.path) == (3, {"loss": 0.5}, path)
    assert torch.equal(found.state["weights"], state_of(3)["weights"])


def test_a_replicated_state_is_one_file_for_any_number_of_ranks(tmp_path):
    def act(ranks):
        return Checkpoints(tmp_path, ranks, replicated=True).save(5, state_of(5))

    (path, again) = on_ranks(2, act)
    assert path == again
    assert sorted(file.name for file in path.iterdir()) == ["manifest.json", "rank-00000.pt"]
    for found in load(tmp_path, 3):
        assert found.state["list"] == [(5, 0)]


def test_a_state_for_another_number_of_ranks_is_refused_and_not_passed_over(tmp_path):
    save(tmp_path, 1, 3)
    save(tmp_path, 2, 2)
    for error in load(tmp_path, 3):
        assert isinstance(error, CheckpointError)
        assert "saved by 2 ranks" in str(error)


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_the_newest_stay(tmp_path, keep):
    for step in range(1, 6):
        save(tmp_path, step, keep=keep)
    assert names(tmp_path) == list(range(6 - keep, 6))


def test_keeping_none_is_refused(tmp_path):
    with pytest.raises(ValueError, match="at least 1"):
        Checkpoints(tmp_path, keep=0)


def test_the_example_of_the_readme_resumes(tmp_path):
    (example,) = [
        block for block in README.read_text("utf-8").split("```") if "= Checkpoints(" in block
    ]
    example = example.removeprefix("python\n").replace("/shared/run1", str(tmp_path))
    model, done = torch.nn.Linear(1, 1), []

    def train_step(step):
        if step == 51 and not done.count(51):
            done.append(51)
            raise KeyboardInterrupt
        done.append(step)
        torch.nn.init.constant_(model.weight, step)

    names_in_it = {"model": model, "train_step": train_step}
    with pytest.raises(KeyboardInterrupt):
        exec(example, dict(names_in_it))
    torch.nn.init.zeros_(model.weight)
    exec(example.replace("train_step(step)", "assert model.weight; train_step(step)"), names_in_it)
    assert done == [*range(1, 51), *range(51, 52), *range(51, 101)]


# Damage


DAMAGE = {
    "a shard is missing": lambda root: shard(root, 2).unlink(),
    "a shard is empty": lambda root: shard(root, 2).write_bytes(b""),
    "a shard is truncated": lambda root: os.truncate(shard(root, 2), 1000),
    "a shard is longer": lambda root: shard(root, 2).write_bytes(
        shard(root, 2).read_bytes() + b"\0"
    ),
    "a shard is a folder": lambda root: (shard(root, 2).unlink(), shard(root, 2).mkdir()),
    "shards of ranks are swapped": lambda root: swap(shard(root, 2), shard(root, 2, 1)),
    "shards of generations are swapped": lambda root: swap(shard(root, 2), shard(root, 3)),
    "a shard is of an older generation": lambda root: shutil.copy(shard(root, 1), shard(root, 2)),
    "the manifest is of an older one": lambda root: shutil.copy(
        manifest(root, 1), manifest(root, 2)
    ),
    "the manifest is empty": lambda root: manifest(root, 2).write_bytes(b""),
    "the manifest is flipped": lambda root: flip(manifest(root, 2), 999),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_what_is_damaged_is_passed_over_by_all_ranks(tmp_path, kind, caplog):
    for step in (1, 2, 3):
        save(tmp_path, step, 2, keep=3)
    DAMAGE[kind](tmp_path)
    shutil.rmtree(manifest(tmp_path, 3).parent)
    expect_step(tmp_path, 1, 2)
    (warning,) = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert str(manifest(tmp_path, 2).parent) in warning
    assert warning.count("manifest.json") + warning.count("rank-0000") in {1, 2}
    assert "passed over: rank " in warning


def test_what_all_ranks_meet_is_said_once(tmp_path, caplog):
    save(tmp_path, 1, 3)
    save(tmp_path, 2, 3)
    flip(manifest(tmp_path, 2), 999)
    expect_step(tmp_path, 1, 3)
    path = manifest(tmp_path, 2)
    expected = f"{path.parent} is passed over: rank 0 and 2 more: {path}: its checksum"
    assert expected in caplog.text


def test_a_truncated_shard_is_named_with_its_size(tmp_path, caplog):
    save(tmp_path, 1)
    save(tmp_path, 2)
    size = shard(tmp_path, 2).stat().st_size
    os.truncate(shard(tmp_path, 2), 1000)
    expect_step(tmp_path, 1)
    assert f"{shard(tmp_path, 2)}: has 1000 bytes, saved were {size}" in caplog.text


def test_both_swapped_generations_are_passed_over(tmp_path):
    for step in (1, 2, 3):
        save(tmp_path, step, keep=3)
    swap(shard(tmp_path, 2), shard(tmp_path, 3))
    expect_step(tmp_path, 1)


def test_a_renamed_generation_is_not_the_newest(tmp_path):
    for step in (1, 2):
        save(tmp_path, step)
    manifest(tmp_path, 1).parent.rename(tmp_path / "generation-0000000009")
    expect_step(tmp_path, 2)


def test_without_its_manifest_a_generation_does_not_exist(tmp_path, caplog):
    save(tmp_path, 1)
    save(tmp_path, 2)
    manifest(tmp_path, 2).unlink()
    expect_step(tmp_path, 1)
    manifest(tmp_path, 1).unlink()
    assert load(tmp_path) == [None]
    assert not caplog.records


def test_training_does_not_begin_anew_when_nothing_is_intact(tmp_path):
    save(tmp_path, 1, 2)
    flip(shard(tmp_path, 1, 1), 5000)
    for error in load(tmp_path, 2):
        assert isinstance(error, CheckpointError)
        assert "no checkpoint" in str(error)


@pytest.fixture(scope="module")
def two_generations(tmp_path_factory):
    root = tmp_path_factory.mktemp("two")
    for step in (1, 2):
        Checkpoints(root).save(step, state_of(step))
    return root


@settings(deadline=None, max_examples=200)
@given(bit=st.integers(0, 20_000))
def test_each_flipped_bit_of_a_shard_is_noticed(two_generations, bit):
    flip(shard(two_generations, 2), bit)
    try:
        assert Checkpoints(two_generations).load().step == 1
    finally:
        flip(shard(two_generations, 2), bit)
    assert Checkpoints(two_generations).load().step == 2


@settings(deadline=None, max_examples=50)
@given(start=st.integers(0, 1500), patch=st.binary(min_size=1, max_size=600))
def test_a_region_that_was_written_over_is_noticed(two_generations, start, patch):
    path = shard(two_generations, 2)
    intact = path.read_bytes()
    changed = (intact[:start] + patch + intact[start + len(patch) :])[: len(intact)]
    path.write_bytes(changed)
    try:
        expected = 2 if changed == intact else 1
        assert Checkpoints(two_generations).load().step == expected
    finally:
        path.write_bytes(intact)


def test_damaged_generations_do_not_count_among_those_that_stay(tmp_path):
    job = Checkpoints(tmp_path, keep=2)
    job.save(1, state_of(1))
    job.save(2, state_of(2))
    flip(shard(tmp_path, 2), 5000)
    assert job.load().step == 1
    job.save(3, state_of(3))
    assert names(tmp_path) == [1, 2, 3]
    job.save(4, state_of(4))
    assert names(tmp_path) == [3, 4]


def test_a_truncated_generation_does_not_count_even_if_it_was_never_loaded(tmp_path):
    save(tmp_path, 1, keep=2)
    save(tmp_path, 2, keep=2)
    os.truncate(shard(tmp_path, 2), 100)
    save(tmp_path, 3, keep=2)
    assert names(tmp_path) == [1, 2, 3]


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


def test_metadata_that_is_no_json_is_an_error_on_all_ranks(tmp_path):
    results = on_ranks(
        2, lambda ranks: Checkpoints(tmp_path, ranks).save(1, {}, {"when": object()})
    )
    assert all("rank 0: TypeError" in str(error) for error in results)
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
