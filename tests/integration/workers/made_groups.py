"""Groups that are made from groups, their options, and the barrier that names who is late."""

import copy
import time
from datetime import timedelta

import torch
import torch.distributed as dist
from checklib import check, expect_equal, main, raised_by, values

import rdmatrain

CPU = torch.device("cpu")
SHORT = timedelta(seconds=0.5)


def rank() -> int:
    return dist.get_rank()


def world() -> int:
    return dist.get_world_size()


def expect_sum(group: dist.ProcessGroup, ranks: list[int]) -> None:
    x = values(rank(), 1000)
    group.allreduce([x]).wait()
    expect_equal(x, torch.stack([values(r, 1000) for r in ranks]).sum(0))


def expect_closed(group: dist.ProcessGroup) -> None:
    group.shutdown()
    assert "destroyed" in str(raised_by(group.allreduce, [torch.ones(1)]))


@check
def split_makes_a_group_of_some_ranks(group):
    ranks = [0, world() - 1]
    made = group.split_group(ranks)
    if rank() not in ranks:
        assert made is None
        return
    assert (made.rank(), made.size()) == (ranks.index(rank()), 2)
    expect_sum(made, ranks)
    assert made._get_backend(CPU).options.global_ranks_in_group == ranks
    expect_closed(made)


@check
def split_leaves_the_options_of_its_parent(group):
    before = group._get_backend(CPU).options
    made = group.split_group(list(range(world())), timeout=timedelta(seconds=7), group_name="made")
    options = made._get_backend(CPU).options
    assert (options._timeout, options.group_name) == (timedelta(seconds=7), "made")
    after = group._get_backend(CPU).options
    assert (after._timeout, after.group_name) == (before._timeout, before.group_name)
    expect_sum(made, list(range(world())))
    expect_closed(made)


@check
def merge_makes_a_group_of_groups(group):
    halves = [dist.new_group([0]), dist.new_group(list(range(1, world())))]
    store = dist.PrefixStore(
        f"merged/{group.group_name}", dist.distributed_c10d._get_default_store()
    )
    made = halves[rank() > 0].merge_remote_group(store, world(), timedelta(seconds=20))
    assert made.size() == world()
    expect_sum(made, list(range(world())))
    expect_closed(made)


@check
def shrink_leaves_ranks_out(group):
    mine = dist.new_group()  # shrinking destroys it
    gone = [1]
    left = [r for r in range(world()) if r not in gone]
    if rank() in gone:
        error = raised_by(mine._get_backend(CPU).shrink, gone)
        assert "one of those to exclude" in str(error), error
        dist.destroy_process_group(mine)
        return
    made = dist.shrink_group(gone, mine)
    assert (made.rank(), made.size()) == (left.index(rank()), len(left))
    x = values(rank(), 1000)
    dist.all_reduce(x, group=made)
    expect_equal(x, torch.stack([values(r, 1000) for r in left]).sum(0))
    assert rdmatrain.transports(made)[made.rank()] == "self"
    dist.destroy_process_group(made)


@check
def shrink_with_abort_ends_what_is_pending(group):
    mine = dist.new_group()
    if rank() == 1:
        time.sleep(0.5)
        dist.destroy_process_group(mine)
        return
    pending = mine.allreduce([torch.ones(3)])
    made = dist.shrink_group([1], mine, dist.distributed_c10d.SHRINK_ABORT)
    assert "abort" in str(raised_by(pending.wait))
    expect_sum(made, [r for r in range(world()) if r != 1])
    dist.destroy_process_group(made)


@check
def options_are_taken_and_told(group):
    wanted = rdmatrain.Options(timedelta(seconds=9), transport="tcp", require="tcp")
    made = dist.new_group([1, 0], pg_options=wanted)
    if rank() < 2:
        options = made._get_backend(CPU).options
        assert isinstance(options, rdmatrain.Options), options
        assert (options._timeout, options.transport) == (timedelta(seconds=9), "tcp")
        assert options.require == "tcp"
        assert options.group_name == made.group_name
        assert options.global_ranks_in_group == [0, 1]
        assert sorted(rdmatrain.transports(made)) == ["self", "tcp"]
        options._timeout = timedelta(seconds=1)
        assert made._get_backend(CPU).options._timeout == timedelta(seconds=9)
        made._get_backend(CPU).set_timeout(timedelta(seconds=8))
        assert made._get_backend(CPU).options._timeout == timedelta(seconds=8)
        dist.destroy_process_group(made)
    assert wanted.group_name == ""
    assert copy.deepcopy(wanted).transport == copy.deepcopy(wanted).require == "tcp"


@check
def options_without_a_timeout_leave_the_groups(group):
    made = dist.new_group(timeout=timedelta(seconds=33), pg_options=rdmatrain.Options())
    assert made._get_backend(CPU).options._timeout == timedelta(seconds=33)
    assert made._get_backend(CPU).options.global_ranks_in_group == list(range(world()))
    dist.destroy_process_group(made)


@check
def options_of_another_kind_are_refused_on_all_ranks(group):
    error = raised_by(dist.new_group, pg_options=torch._C._distributed_c10d.Backend.Options("gloo"))
    assert "rdmatrain.Options" in str(error), error


@check
def an_option_that_is_wrong_is_refused(group):
    error = raised_by(dist.new_group, pg_options=rdmatrain.Options(transport="pigeon"))
    assert "the argument transport='pigeon' is not allowed" in str(error), error


@check
def stats_tell_what_joins_ranks_and_why(group):
    stats = rdmatrain.get_stats(group)
    assert (stats["rank"], stats["world"]) == (rank(), world())
    others = [r for r in range(world()) if r != rank()]
    assert [peer["rank"] for peer in stats["peers"]] == others
    joined = rdmatrain.transports(group)
    for peer in stats["peers"]:
        assert peer["transport"] == joined[peer["rank"]]
        assert peer["why"] == "same host"
        assert (peer["device"], peer["gid_index"], peer["rails"]) == (None, None, [])
    for name, total in stats["totals"].items():
        assert total == sum(peer[name] for peer in stats["peers"])


@check
def stats_count_what_went_to_and_came_from_each_rank(group):
    before = rdmatrain.get_stats(group)
    # Of a size that comes along with its announcement, so that each byte is sent as data.
    sizes = [1000 + 8 * r for r in range(world())]
    right, left = (rank() + 1) % world(), (rank() - 1) % world()
    sent = dist.isend(torch.zeros(sizes[rank()], dtype=torch.uint8), right, group=group)
    dist.recv(torch.empty(sizes[left], dtype=torch.uint8), left, group=group)
    sent.wait()
    after = rdmatrain.get_stats(group)
    for old, new in zip(before["peers"], after["peers"], strict=True):
        went = sizes[rank()] if new["rank"] == right else 0
        came = sizes[left] if new["rank"] == left else 0
        assert new["sent_bytes"] - old["sent_bytes"] == went, (old, new)
        assert new["received_bytes"] - old["received_bytes"] == came, (old, new)
        assert new["staged_bytes"] - old["staged_bytes"] == went + came, (old, new)
    assert after["totals"]["sent_bytes"] - before["totals"]["sent_bytes"] == sizes[rank()]


@check
def stats_of_what_is_no_group_or_no_longer_one_are_refused(group):
    made = dist.new_group()
    backend = made._get_backend(CPU)
    dist.destroy_process_group(made)
    assert "destroyed" in str(raised_by(backend.stats, 0))
    gloo = dist.new_group(backend="gloo")
    assert "not rdmatrain" in str(raised_by(rdmatrain.get_stats, gloo))
    dist.destroy_process_group(gloo)
    assert "rank 77" in str(raised_by(group._get_backend(CPU).stats, 77))


@check
def a_monitored_barrier_waits_for_the_last_rank(group):
    for i in range(3):
        late = (i + 1) % world()
        began = time.time()
        if rank() == late:
            time.sleep(0.3)
            began = time.time()
        rdmatrain.monitored_barrier(group, wait_all_ranks=i == 1)
        ended = torch.tensor([began if rank() == late else 0.0, time.time()], dtype=torch.float64)
        dist.all_reduce(ended[0:1], dist.ReduceOp.MAX, group=group)
        assert ended[1] >= ended[0]


@check
def a_monitored_barrier_names_the_first_rank_that_is_missing(group):
    if rank() == 0:
        error = raised_by(rdmatrain.monitored_barrier, group, SHORT)
        assert "Rank 1 failed to pass monitoredBarrier in 500 ms" in str(error), error
    elif rank() > 1:
        error = raised_by(rdmatrain.monitored_barrier, group, SHORT)
        assert (
            f"Rank {rank()} successfully reached monitoredBarrier, but received errors while "
            "waiting for send/recv from rank 0: Rank 1 failed" in str(error)
        ), error
    dist.barrier(group)
    # The group has taken no harm, and a rank that missed one barrier is in step at the next.
    expect_sum(group, list(range(world())))
    rdmatrain.monitored_barrier(group)


@check
def a_monitored_barrier_names_all_ranks_that_are_missing(group):
    if rank() == 0:
        error = raised_by(rdmatrain.monitored_barrier, group, SHORT, True)
        names = ", ".join(str(r) for r in range(1, world()))
        assert f"Ranks {names} failed to pass monitoredBarrier in 500 ms" in str(error), error
        error = raised_by(group.monitored_barrier, timedelta(0))
        assert "Rank 0 timed out in monitoredBarrier" in str(error), error
    dist.barrier(group)
    rdmatrain.monitored_barrier(group)


@check
def a_monitored_barrier_as_long_as_the_groups_timeout_names_who_is_missing(group):
    mine = dist.new_group(timeout=timedelta(seconds=1))
    if rank() != 1:
        if rank() > 1:
            time.sleep(0.3)  # so that rank 0 ends first; and now the other way round
        for _ in range(2):
            error = raised_by(rdmatrain.monitored_barrier, mine)
            assert "Rank 1 failed to pass monitoredBarrier in 1000 ms" in str(error), error
            time.sleep(0.3 if rank() == 0 else 0)
    dist.barrier(group)
    rdmatrain.monitored_barrier(mine)
    dist.destroy_process_group(mine)


@check
def a_monitored_barrier_without_rank_0_ends_with_the_groups_timeout(group):
    mine = dist.new_group(timeout=timedelta(seconds=1))
    if rank() > 0:
        error = raised_by(rdmatrain.monitored_barrier, mine)
        assert "successfully reached" in str(error), error
        assert "rank 0 did not answer within 2000 ms" in str(error), error
    dist.barrier(group)
    rdmatrain.monitored_barrier(mine)
    dist.destroy_process_group(mine)


@check
def a_monitored_barrier_of_a_failed_group_says_how_it_failed_on_all_ranks(_group):
    mine = dist.new_group()
    raised_by(dist.all_reduce, torch.ones(3 + rank()), group=mine)
    began = time.monotonic()
    error = raised_by(rdmatrain.monitored_barrier, mine)
    assert "ranks differ in collective #1" in str(error), error
    assert time.monotonic() - began < 10  # and not the timeout of 30 minutes
    dist.destroy_process_group(mine)


@check
def a_monitored_barrier_leaves_no_keys(group):
    store = dist.distributed_c10d._world.pg_map[group][1]
    rdmatrain.monitored_barrier(group)
    before = store.num_keys()
    dist.barrier(group)
    for _ in range(3):
        rdmatrain.monitored_barrier(group)
    dist.barrier(group)
    time.sleep(0.1)
    assert store.num_keys() <= before


@check
def ranks_outside_a_group_need_not_wait(group):
    alone = dist.new_group([0])
    rdmatrain.monitored_barrier(alone)


if __name__ == "__main__":
    main()
