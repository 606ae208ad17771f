# SPDX-License-Identifier: Apache-2.0
"""rdmatrain.train.sharded on one rank: what is planned, what a file has, each flipped bit.

What ranks divide among them is in tests/integration/test_train_sharded.py.
"""

import json
import warnings

import pytest
import torch
from checkpoint_folder import flip, manifest, shard
from fake_ranks import on_ranks
from hypothesis import given, settings
from hypothesis import strategies as st

from rdmatrain.train import CheckpointError, Checkpoints, ShardedCheckpoints
from rdmatrain.train.sharded import Collection, Division

TYPES = ["float32", "float64", "bfloat16", "float16", "int64", "int8", "bool", "float8_e4m3fn"]


def state_of(step):
    return {
        "model": {"w": torch.arange(12.0).reshape(3, 4) + step, "scalar": torch.tensor(step)},
        "plain": {"list": [step, (1, "x")], "none": None},
    }


def zeros():
    return {
        "model": {"w": torch.zeros(3, 4), "scalar": torch.tensor(0)},
        "plain": {"list": [], "none": 1},
    }


def equal(found, step):
    expected = state_of(step)
    tensors = all(torch.equal(found["model"][k], v) for k, v in expected["model"].items())
    return tensors and found["plain"] == expected["plain"]


@pytest.fixture(autouse=True)
def no_pickle(monkeypatch):
    """Nothing that is saved here may be unpickled freely."""
    load = torch.load

    def careful(*args, **kwargs):
        assert kwargs["weights_only"]
        return load(*args, **kwargs)

    monkeypatch.setattr(torch, "load", careful)


def test_tensors_are_filled_in_place_and_plain_data_replaced(tmp_path):
    ShardedCheckpoints(tmp_path).save(3, state_of(3), {"loss": 1.5})
    into = zeros()
    weights = into["model"]["w"]
    found = ShardedCheckpoints(tmp_path).load(into)
    assert (found.step, found.metadata) == (3, {"loss": 1.5})
    assert found.state is into
    assert into["model"]["w"] is weights
    assert equal(into, 3)


@pytest.mark.parametrize("name", TYPES)
def test_each_type_of_elements_is_saved(tmp_path, name):
    tensor = (torch.arange(24) % 2).to(getattr(torch, name)).reshape(2, 3, 4)
    ShardedCheckpoints(tmp_path).save(1, {"x": tensor, "turned": tensor.transpose(0, 2)})
    into = {"x": torch.zeros_like(tensor), "turned": torch.zeros_like(tensor.transpose(0, 2))}
    ShardedCheckpoints(tmp_path).load(into)
    for found, saved in zip(into.values(), (tensor, tensor.transpose(0, 2)), strict=True):
        assert torch.equal(found.float(), saved.float())


def test_a_part_of_a_big_tensor_is_saved_without_the_rest(tmp_path):
    ShardedCheckpoints(tmp_path).save(1, {"x": torch.zeros(1 << 20)[:10]})
    assert shard(tmp_path, 1).stat().st_size < 5000


def test_what_all_ranks_have_is_written_once(tmp_path):
    def act(ranks):
        ShardedCheckpoints(tmp_path, ranks).save(1, state_of(1))
        return ShardedCheckpoints(tmp_path, ranks).load(zeros())

    assert all(equal(found.state, 1) for found in on_ranks(3, act))
    layout = json.loads(manifest(tmp_path, 1).read_text())["layout"]
    assert layout["model.w"]["chunks"] == [[0, 0, [0, 0], [3, 4]]]
    assert layout["plain"] == {"at": [0, 2]}
    (alone,) = on_ranks(1, lambda ranks: ShardedCheckpoints(tmp_path, ranks).load(zeros()))
    assert equal(alone.state, 1)


@pytest.mark.parametrize("world", [1, 3])
def test_files_that_nobody_needs_are_checked_as_well(tmp_path, world):
    for step in (1, 2):
        on_ranks(2, lambda ranks, step=step: ShardedCheckpoints(tmp_path, ranks).save(step, {}))
    flip(shard(tmp_path, 2, 1), 100)
    found = on_ranks(world, lambda ranks: ShardedCheckpoints(tmp_path, ranks).load({}))
    assert [each.step for each in found] == [1] * world


def test_the_two_kinds_are_not_mixed_up(tmp_path):
    Checkpoints(tmp_path / "whole").save(1, state_of(1))
    ShardedCheckpoints(tmp_path / "divided").save(1, state_of(1))
    with pytest.raises(CheckpointError, match="load it with Checkpoints"):
        ShardedCheckpoints(tmp_path / "whole").load(zeros())
    with pytest.raises(CheckpointError, match="load it with ShardedCheckpoints"):
        Checkpoints(tmp_path / "divided").load()


def test_plain_data_may_grow_and_be_nested_in_any_way(tmp_path):
    state = {
        "curve": [{"step": 1}, {"step": 2}],
        "mixed": [torch.ones(2), {"deep": (3, "x")}, [torch.zeros(1)]],
        "empty": {},
    }
    ShardedCheckpoints(tmp_path).save(1, state)
    into = {"curve": [], "mixed": [torch.zeros(2), None, [torch.ones(1)]], "empty": {"a": 1}}
    ShardedCheckpoints(tmp_path).load(into)
    assert (into["curve"], into["empty"]) == (state["curve"], {})
    assert into["mixed"][0].tolist() == [1, 1]
    assert into["mixed"][1] == {"deep": (3, "x")}
    assert into["mixed"][2][0].tolist() == [0]


def test_names_that_are_not_unique_are_refused(tmp_path):
    state = {"a.b": torch.zeros(1), "a": {"b": torch.zeros(1)}}
    with pytest.raises(CheckpointError, match=r"two parts of the state are called a\.b"):
        ShardedCheckpoints(tmp_path).save(1, state)


@pytest.mark.parametrize("into", [None, [], 7])
def test_what_cannot_be_filled_is_refused(tmp_path, into):
    ShardedCheckpoints(tmp_path).save(1, state_of(1))
    with pytest.raises(CheckpointError, match="not for this job"):
        ShardedCheckpoints(tmp_path).load(into)


@pytest.mark.parametrize("state", [{"x": lambda: 0}, {"x": object()}, 7])
def test_what_could_not_be_loaded_is_not_saved(tmp_path, state):
    def act(ranks):
        return ShardedCheckpoints(tmp_path, ranks).save(1, state)

    errors = on_ranks(2, act)
    assert all(isinstance(error, CheckpointError) for error in errors)
    assert str(errors[0]) == str(errors[1])
    assert ShardedCheckpoints(tmp_path).load({}) is None


def test_parts_that_do_not_cover_a_tensor_are_refused():
    division = Division({"x": torch.zeros(4)})
    (told,) = division.told()
    name, _, dtype, offsets, _, size = told
    half = [name, "SHARD", dtype, offsets, [2], size]
    with pytest.raises(ValueError, match="x invalid fill"), warnings.catch_warnings():
        division.decide(0, [[half], []])


def test_any_split_of_a_matrix_is_put_together_again(tmp_path):
    whole = torch.arange(35.0).reshape(5, 7)
    parts = {(0, 0): whole[:2, :3], (0, 3): whole[:2, 3:], (2, 0): whole[2:]}
    chunks = [
        [0, place, list(at), list(part.shape)] for place, (at, part) in enumerate(parts.items())
    ]
    layout = {"x": {"dtype": "float32", "size": [5, 7], "chunks": chunks}}
    into = {"x": torch.zeros(5, 7)}
    with (tmp_path / "file").open("wb+") as file:
        torch.save([part.clone() for part in parts.values()], file)
        Collection(layout, into).fill({0: file})
    assert torch.equal(into["x"], whole)


@pytest.fixture(scope="module")
def two_generations(tmp_path_factory):
    root = tmp_path_factory.mktemp("two")
    for step in (1, 2):
        ShardedCheckpoints(root).save(step, state_of(step))
    return root


@settings(deadline=None, max_examples=200)
@given(bit=st.integers(0, 8 * 4000), which=st.booleans())
def test_each_flipped_bit_is_noticed_before_anything_is_used(two_generations, bit, which):
    path = shard(two_generations, 2) if which else manifest(two_generations, 2)
    flip(path, bit)
    try:
        into = zeros()
        assert ShardedCheckpoints(two_generations).load(into).step == 1
        assert equal(into, 1)
    finally:
        flip(path, bit)
    assert ShardedCheckpoints(two_generations).load(zeros()).step == 2
