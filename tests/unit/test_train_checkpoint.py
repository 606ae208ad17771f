# SPDX-License-Identifier: Apache-2.0
"""rdmatrain.train.checkpoint: all ranks save and load the same generation, or none does."""

import logging
import os
import shutil
from pathlib import Path

import pytest
import torch
from checkpoint_folder import expect_step, flip, load, manifest, names, save, shard, state_of, swap
from fake_ranks import on_ranks
from hypothesis import given, settings
from hypothesis import strategies as st

from rdmatrain.train import CheckpointError, Checkpoints

README = Path(__file__).parents[2] / "README.md"


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
