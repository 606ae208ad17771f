# SPDX-License-Identifier: Apache-2.0
"""rdmatrain.train.sampler: which samples each rank gets, and after a restart."""

from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from rdmatrain.train import ElasticSampler


def samplers(world, length, **options):
    return [ElasticSampler(length, rank=r, world_size=world, **options) for r in range(world)]


def resumed(state, world, length, **options):
    found = samplers(world, length, **options)
    for sampler in found:
        sampler.load_state_dict(state)
    return found


def interleaved(dealt):
    """Return the samples in the order in which ranks take them in turns."""
    longest = max(map(len, dealt))
    return [one[at] for at in range(longest) for one in dealt if at < len(one)]


@settings(deadline=None, max_examples=100)
@given(length=st.integers(0, 60), seed=st.integers(), world=st.integers(1, 7))
def test_the_order_knows_no_ranks(length, seed, world):
    alone = list(ElasticSampler(length, seed, rank=0, world_size=1))
    dealt = [list(sampler) for sampler in samplers(world, length, seed=seed)]
    assert interleaved(dealt) == alone
    assert sorted(alone) == list(range(length))
    assert [len(sampler) for sampler in samplers(world, length)] == [len(one) for one in dealt]


@settings(deadline=None, max_examples=100)
@given(data=st.data(), length=st.integers(1, 200), worlds=st.lists(st.integers(1, 6), min_size=1))
def test_each_sample_is_used_once_however_often_the_world_changes(data, length, worlds):
    used, state = [], ElasticSampler(length, rank=0, world_size=1).state_dict()
    for world in worlds:
        found = resumed(state, world, length)
        steps = data.draw(st.integers(0, (length - found[0].position) // world))
        for sampler in found:
            used += list(sampler)[:steps]
            sampler.advance(steps * world)
        assert all(sampler.state_dict() == found[0].state_dict() for sampler in found)
        state = found[0].state_dict()
    for sampler in resumed(state, 3, length):
        used += list(sampler)
    assert sorted(used) == list(range(length))


@pytest.mark.parametrize("world", [1, 2, 3, 6])
def test_global_batches_are_equal_for_all_world_sizes(world):
    def batches(world):
        loaders = [
            DataLoader(range(100), batch_size=12 // world, sampler=sampler)
            for sampler in samplers(world, 100, global_batch=12)
        ]
        return [
            sorted(s for part in step for s in part.tolist()) for step in zip(*loaders, strict=True)
        ]

    assert len(batches(world)) == 8
    assert batches(world) == batches(1)


def test_a_loader_that_prefetches_resumes_where_training_was():
    def trained(sampler, steps):
        loader = DataLoader(range(40), batch_size=4, sampler=sampler, num_workers=1)
        used = []
        for batch in islice(loader, steps):
            used += batch.tolist()
            sampler.advance(4)
        return used

    alone = ElasticSampler(40, rank=0, world_size=1)
    used = trained(alone, 3)
    (again,) = resumed(alone.state_dict(), 1, 40)
    assert sorted(used + trained(again, 100)) == list(range(40))


@settings(deadline=None, max_examples=50)
@given(length=st.integers(0, 50), steps=st.integers(0, 5), world=st.sampled_from([1, 2, 4]))
def test_with_a_global_batch_all_ranks_make_the_same_steps(length, steps, world):
    found = samplers(world, length, global_batch=8)
    done = min(8 * steps, length // 8 * 8)
    for sampler in found:
        sampler.advance(done)
    assert {len(list(sampler)) for sampler in found} == {(length - done) // 8 * 8 // world}
    assert {len(sampler) for sampler in found} == {(length - done) // 8 * 8 // world}


def test_the_global_batch_may_change_within_an_epoch():
    state = samplers(2, 50, global_batch=8)[0].state_dict() | {"position": 8}
    dealt = [list(sampler) for sampler in resumed(state, 4, 50, global_batch=12)]
    assert [len(one) for one in dealt] == [9] * 4
    assert interleaved(dealt) == list(ElasticSampler(50, rank=0, world_size=1))[8:44]


def test_epochs_and_seeds_have_orders_of_their_own():
    sampler = ElasticSampler(50, rank=0, world_size=1)
    first = list(sampler)
    sampler.advance(50)
    sampler.set_epoch(1)
    assert sampler.position == 0
    assert list(sampler) != first
    assert list(ElasticSampler(50, seed=1, rank=0, world_size=1)) != first
    sampler.set_epoch(0)
    assert list(sampler) == first


def test_the_epoch_under_way_goes_on():
    sampler = ElasticSampler(50, rank=0, world_size=1)
    sampler.advance(7)
    sampler.set_epoch(0)
    assert sampler.position == 7


@pytest.mark.parametrize(("seed", "length", "named"), [(1, 50, "seed"), (0, 51, "length")])
def test_a_state_of_another_order_is_refused(seed, length, named):
    state = ElasticSampler(50, rank=0, world_size=1).state_dict()
    other = ElasticSampler(length, seed, rank=0, world_size=1)
    other.advance(3)
    with pytest.raises(ValueError, match=named):
        other.load_state_dict(state | {"position": 9})
    assert (other.epoch, other.position) == (0, 3)


def test_a_torch_that_shuffles_otherwise_is_noticed():
    state = ElasticSampler(50, rank=0, world_size=1).state_dict()
    state["order"] = state["order"][::-1]
    with pytest.raises(ValueError, match="order differs"):
        ElasticSampler(50, rank=0, world_size=1).load_state_dict(state)


@pytest.mark.parametrize("samples", [-1, 11])
def test_no_more_than_the_epoch_can_be_done(samples):
    with pytest.raises(ValueError, match="10 of the epoch are left"):
        ElasticSampler(10, rank=0, world_size=1).advance(samples)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"rank": 2, "world_size": 2}, "rank 2 of 2"),
        ({"rank": 0, "world_size": 2, "global_batch": 3}, "3 is not divisible by 2"),
        ({"rank": 0, "world_size": 2, "global_batch": 0}, "global_batch 0"),
    ],
)
def test_numbers_that_do_not_fit_are_refused(options, named):
    with pytest.raises(ValueError, match=named):
        ElasticSampler(10, **options)
