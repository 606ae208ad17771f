"""Every call that a backend of torch can get, each against arithmetic on known inputs."""

import threading
import time

import torch
import torch.distributed as dist
from checklib import check, expect_equal, main, raised_by, values
from torch.distributed.distributed_c10d import _coalescing_manager

MOVED = [
    torch.bool, torch.uint8, torch.int64, torch.float16, torch.bfloat16, torch.float8_e4m3fn,
    torch.float8_e5m2, torch.float8_e8m0fnu, torch.complex32, torch.complex128,
]  # fmt: skip
CPU = torch.device("cpu")


def rank() -> int:
    return dist.get_rank()


def world() -> int:
    return dist.get_world_size()


def part(source: int, target: int, count: int) -> torch.Tensor:
    """What source has for target."""
    return values(source, count, shift=5 * target)


def size_of(source: int, target: int) -> int:
    """Of a part, where each pair has its own; some are empty."""
    return (3 * source + target) % 4 * 1000


def root_at(rank: int) -> dist.BroadcastOptions:
    options = dist.BroadcastOptions()
    options.rootRank = rank
    return options


def bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().reshape(-1).view(torch.uint8)


@check
def reduce_gives_the_root_alone_the_sum(group):
    for root in range(world()):
        for count in (1, 1000, 100_001):
            mine = values(rank(), count)
            x = mine.clone()
            dist.reduce(x, root, group=group)
            total = torch.stack([values(r, count) for r in range(world())]).sum(0)
            expect_equal(x, total if rank() == root else mine)


@check
def gather_and_scatter_move_a_part_for_each_rank(group):
    for root in range(world()):
        for count in (0, 7, 70_001):
            parts = [torch.full((count,), -1.0) for _ in range(world())]
            outputs = parts if rank() == root else None
            dist.gather(part(rank(), root, count), outputs, root, group=group)
            for source, found in enumerate(parts):
                sent = part(source, root, count)
                expect_equal(found, sent if rank() == root else torch.full_like(sent, -1))
            x = torch.empty(count)
            inputs = [part(root, r, count) for r in range(world())] if rank() == root else None
            dist.scatter(x, inputs, root, group=group)
            expect_equal(x, part(root, rank(), count))


@check
def all_to_all_of_lists_that_differ_in_size(group):
    inputs = [part(rank(), target, size_of(rank(), target)) for target in range(world())]
    outputs = [torch.empty(size_of(source, rank())) for source in range(world())]
    dist.all_to_all(outputs, inputs, group=group)
    for source, found in enumerate(outputs):
        expect_equal(found, part(source, rank(), size_of(source, rank())))


@check
def all_to_all_single_with_and_without_splits(group):
    rows = [size_of(rank(), target) for target in range(world())]
    taken = [size_of(source, rank()) for source in range(world())]
    x = torch.cat([part(rank(), t, n).repeat_interleave(2).view(-1, 2) for t, n in enumerate(rows)])
    y = torch.empty(sum(taken), 2)
    dist.all_to_all_single(y, x, taken, rows, group=group)
    expect_equal(y[:, 1], torch.cat([part(s, rank(), n) for s, n in enumerate(taken)]))
    x = torch.cat([part(rank(), target, 3) for target in range(world())])
    y = torch.empty_like(x)
    dist.all_to_all_single(y, x, group=group)
    expect_equal(y, torch.cat([part(source, rank(), 3) for source in range(world())]))


@check
def splits_of_one_rank_meet_equal_parts_of_the_others(group):
    x = torch.cat([part(rank(), target, 3) for target in range(world())])
    y = torch.empty_like(x)
    splits = [3] * world() if rank() == 0 else None
    dist.all_to_all_single(y, x, splits, splits, group=group)
    expect_equal(y, torch.cat([part(source, rank(), 3) for source in range(world())]))


@check
def all_to_all_whose_output_is_its_input(group):
    for count in (5, 100_000):
        x = torch.cat([part(rank(), target, count) for target in range(world())])
        dist.all_to_all_single(x, x, group=group)
        expect_equal(x, torch.cat([part(source, rank(), count) for source in range(world())]))
        inputs = [part(rank(), target, count) for target in range(world())]
        dist.all_to_all(inputs[::-1], inputs, group=group)
        for source, found in enumerate(inputs[::-1]):
            expect_equal(found, part(source, rank(), count))


@check
def gathers_and_scatters_whose_output_overlaps_their_input(group):
    count = 50_000
    memory = torch.full((count * world() + 1,), -1.0)
    memory[:count] = values(rank(), count)
    dist.all_gather_into_tensor(memory[1:], memory[:count], group=group)
    expect_equal(memory[1:], torch.cat([values(r, count) for r in range(world())]))
    memory = torch.cat([part(rank(), target, count) for target in range(world())])
    dist.reduce_scatter_tensor(memory[7 : count + 7], memory, group=group)
    mine = torch.stack([part(source, rank(), count) for source in range(world())]).sum(0)
    expect_equal(memory[7 : count + 7], mine)


@check
def all_gather_and_reduce_scatter_of_lists_that_differ_in_size(group):
    sizes = [size_of(r, 1) for r in range(world())]
    outputs = [torch.empty(n) for n in sizes]
    dist.all_gather(outputs, values(rank(), sizes[rank()]), group=group)
    for r, found in enumerate(outputs):
        expect_equal(found, values(r, sizes[r]))
    x = torch.empty(sizes[rank()])
    dist.reduce_scatter(x, [part(rank(), r, n) for r, n in enumerate(sizes)], group=group)
    parts = [part(source, rank(), sizes[rank()]) for source in range(world())]
    expect_equal(x, torch.stack(parts).sum(0))


@check
def gather_and_scatter_of_lists_that_differ_in_size(group):
    sizes = [size_of(r, 2) for r in range(world())]
    outputs = [[torch.empty(n) for n in sizes]] if rank() == 1 else []
    options = dist.GatherOptions()
    options.rootRank = 1
    group.gather(outputs, [values(rank(), sizes[rank()])], options).wait()
    for r, found in enumerate(outputs[0] if outputs else []):
        expect_equal(found, values(r, sizes[r]))
    inputs = [[part(1, r, n) for r, n in enumerate(sizes)]] if rank() == 1 else []
    options = dist.ScatterOptions()
    options.rootRank = 1
    x = torch.empty(sizes[rank()])
    group.scatter([x], inputs, options).wait()
    expect_equal(x, part(1, rank(), sizes[rank()]))


@check
def recv_from_any_rank_says_from_whom(group):
    if rank() > 0:
        sent = [values(rank(), 100, shift=tag) for tag in (1, 2)]
        works = [dist.isend(x, 0, tag=tag, group=group) for tag, x in enumerate(sent, 1)]
        for work in works:
            work.wait()
        return
    for tag in (2, 1):
        sources = []
        for _ in range(world() - 1):
            x = torch.empty(100)
            sources.append(dist.recv(x, tag=tag, group=group))
            expect_equal(x, values(sources[-1], 100, shift=tag))
        assert sorted(sources) == list(range(1, world())), sources


@check
def a_recv_from_any_rank_knows_no_source_before_it_ends(group):
    x = torch.empty(3)
    if rank() == 0:
        work = group.recv_anysource([x], 4)
        assert "nothing has been received" in str(raised_by(work._source_rank))
        dist.barrier(group)
        work.wait()
        assert work._source_rank() == 1
    else:
        dist.barrier(group)
        if rank() == 1:
            dist.send(x, 0, tag=4, group=group)


@check
def batches_of_sends_and_recvs_in_either_order(group):
    right, left = (rank() + 1) % world(), (rank() - 1) % world()
    for send_first in (True, False):
        x = torch.empty(200_000)
        send = dist.P2POp(dist.isend, values(rank(), 200_000), right, group)
        recv = dist.P2POp(dist.irecv, x, left, group)
        operations = [send, recv] if send_first ^ (rank() % 2 == 1) else [recv, send]
        for work in dist.batch_isend_irecv(operations):
            work.wait()
        expect_equal(x, values(left, 200_000))


@check
def coalesced_calls_do_what_single_ones_do(group):
    counts = (3, 1000, 0)
    inputs = [values(rank(), n) for n in counts]
    outputs = [[torch.empty(n) for n in counts] for _ in range(world())]
    dist.all_gather_coalesced(outputs, inputs, group=group)
    for source, found in enumerate(outputs):
        for n, one in zip(counts, found, strict=True):
            expect_equal(one, values(source, n))
    dist.all_reduce_coalesced(inputs, dist.ReduceOp.MAX, group=group)
    for n, one in zip(counts, inputs, strict=True):
        expect_equal(one, torch.stack([values(r, n) for r in range(world())]).amax(0))
    with _coalescing_manager(group, CPU, async_ops=True) as manager:
        for one in inputs:
            dist.reduce_scatter_tensor(one.new_empty(0), one.new_empty(0), group=group)
    manager.wait()


@check
def sparse_tensors_are_summed(group):
    torch.manual_seed(3)
    for dtype in (torch.float32, torch.bfloat16, torch.int64):
        dense = [
            values(r, 60, dtype).view(5, 4, 3) * (torch.rand(5, 4, 1) > 0.6) for r in range(world())
        ]
        for sparse_dim in (1, 2, 3):
            x = dense[rank()].to_sparse(sparse_dim)
            work = dist.all_reduce(x, group=group, async_op=True)
            (result,) = work.get_future().wait()
            expect_equal(result.to_dense(), torch.stack(dense).double().sum(0).to(dtype))
            expect_equal(x.to_dense(), result.to_dense())
            assert x._nnz() < 60


@check
def sparse_tensors_with_doubled_indices_or_no_elements(group):
    doubled = torch.sparse_coo_tensor([[1, 1, 2]], [1.0, 2.0, 4.0 + rank()], (4,))
    empty = torch.sparse_coo_tensor(torch.empty(1, 0, dtype=torch.long), [], (4,))
    x = doubled if rank() == 0 else empty
    dist.all_reduce(x, group=group)
    expect_equal(x.to_dense(), torch.tensor([0.0, 3.0, 4.0, 0.0]))


@check
def sparse_tensors_of_different_shapes_are_refused(group):
    x = torch.eye(3 + (rank() == 1)).to_sparse()
    error = raised_by(dist.all_reduce, x, group=group)
    assert "[3, 3]" in str(error) and "[4, 4]" in str(error), error


@check
def every_dtype_is_moved_by_every_call(group):
    for dtype in MOVED:
        count = 33
        parts = [values(rank(), count, torch.float32, 5 * t).to(dtype) for t in range(world())]
        wanted = [bits(part(source, rank(), count).to(dtype)) for source in range(world())]
        outputs = [torch.empty(count, dtype=dtype) for _ in range(world())]
        dist.all_to_all(outputs, parts, group=group)
        for found, want in zip(outputs, wanted, strict=True):
            expect_equal(bits(found), want)
        x = torch.empty(count, dtype=dtype)
        dist.scatter(x, parts if rank() == 1 else None, 1, group=group)
        expect_equal(bits(x), bits(part(1, rank(), count).to(dtype)))


@check
def reductions_of_bits_bools_and_float8(group):
    x = (torch.arange(50, dtype=torch.int32) + 9) * (rank() + 3)
    everybody = [(torch.arange(50, dtype=torch.int32) + 9) * (r + 3) for r in range(world())]
    for name, function in {
        "BAND": torch.bitwise_and, "BOR": torch.bitwise_or, "BXOR": torch.bitwise_xor
    }.items():  # fmt: skip
        y = x.clone()
        dist.all_reduce(y, getattr(dist.ReduceOp, name), group=group)
        want = everybody[0]
        for other in everybody[1:]:
            want = function(want, other)
        expect_equal(y, want)
    flags = torch.arange(12) % (rank() + 2) == 0
    dist.all_reduce(flags, dist.ReduceOp.PRODUCT, group=group)
    expect_equal(
        flags, torch.stack([torch.arange(12) % (r + 2) == 0 for r in range(world())]).all(0)
    )
    small = (torch.arange(16) % 4).to(torch.float8_e4m3fn)
    dist.all_reduce(small, group=group)
    expect_equal(small.float(), (torch.arange(16) % 4).float() * world())


@check
def averages_of_integers_and_sums_with_a_factor(group):
    x = torch.tensor([-7, 7, 100]) * (rank() + 1)
    dist.all_reduce(x, dist.ReduceOp.AVG, group=group)
    total = torch.tensor([-7, 7, 100]) * sum(range(1, world() + 1))
    expect_equal(x, torch.div(total, world(), rounding_mode="trunc"))
    for factor in (0.5, torch.tensor([0.5])):
        x = values(rank(), 20)
        dist.all_reduce(x, dist._make_nccl_premul_sum(factor), group=group)
        expect_equal(x, torch.stack([values(r, 20) for r in range(world())]).sum(0) * 0.5)


@check
def conjugate_and_negative_views_are_what_they_look_like(group):
    x = torch.complex(values(rank(), 10), values(rank(), 10, shift=3))
    view = x.clone().conj()
    # torch's dispatcher would hand over a copy, and drop what is written to it.
    group._get_backend(CPU).broadcast([view], root_at(1)).wait()
    want = torch.complex(values(1, 10), values(1, 10, shift=3)).conj()
    expect_equal(view.resolve_conj(), want.resolve_conj())
    imag = x.conj().imag
    assert imag.is_neg()
    outputs = [torch.empty(10) for _ in range(world())]
    dist.all_gather(outputs, imag, group=group)
    for r, found in enumerate(outputs):
        expect_equal(found, -values(r, 10, shift=3))


@check
def the_profiler_knows_each_call_by_torchs_name_and_inputs(group):
    x, parts = torch.ones(6), [torch.ones(2) for _ in range(world())]
    root = rank() == 0
    with torch.autograd.profiler.profile(record_shapes=True) as profile:
        dist.all_reduce(x, group=group)
        dist.reduce(x, 0, group=group)
        dist.broadcast(x, 0, group=group)
        dist.all_gather(parts, torch.ones(2), group=group)
        dist.gather(torch.ones(2), parts if root else None, 0, group=group)
        dist.scatter(torch.ones(2), parts if root else None, 0, group=group)
        dist.all_to_all(parts, [torch.ones(2) for _ in parts], group=group)
        dist.all_reduce_coalesced([x, torch.ones(3)], group=group)
        work = group.recv_anysource([torch.ones(4)], 0) if root else None
        if rank() == 1:
            dist.send(torch.ones(4), 0, group=group)
        work and work.wait()
    events = {event.name: event for event in profile.function_events if event.is_async}
    shapes = {name: event.input_shapes for name, event in events.items()}
    want = {
        "reduce": [[6]], "broadcast": [[6]], "all_gather": [[2]], "gather": [[2]],
        "scatter": [[2]] * world() if root else [], "all_to_all": [[2]] * world(),
        "all_reduce": [[6], [3]],
    }  # fmt: skip
    if rank() < 2:
        want["recvAnySource" if root else "send"] = [[4]]
    for name, inputs in want.items():
        assert shapes[f"rdmatrain:{name}"] == inputs, (name, shapes)


@check
def a_hook_hears_of_each_work_and_works_know_how_long_they_took(group):
    heard, block = [], threading.Event()

    def hook(info):
        block.wait(10)
        heard.append((info.op_type, info.seq, info.active_duration.total_seconds()))

    group._register_on_completion_hook(hook)
    assert "already" in str(raised_by(group._register_on_completion_hook, hook))
    for _ in range(3):
        work = group.allreduce([torch.ones(10)])
        work.wait()
    assert work._get_duration() >= 0
    assert heard == []
    threading.Timer(0.2, block.set).start()
    group._wait_for_pending_works()
    assert [one[1] for one in heard] == [1, 2, 3], heard
    assert all(str(one[0]) == "OpType.ALLREDUCE" and 0 <= one[2] < 10 for one in heard), heard


@check
def a_duration_that_was_not_asked_for_is_refused(group):
    work = group.allreduce([torch.ones(10)])
    work.wait()
    assert "timing" in str(raised_by(work._get_duration))
    group._enable_collectives_timing()
    work = group.allreduce([torch.ones(10)])
    work.wait()
    assert work._get_duration() >= 0


@check
def futures_of_results_never_fail(group):
    backend = group._get_backend(CPU)
    assert str(backend.get_error()) == "ErrorType.SUCCESS"
    assert group.allreduce([torch.ones(3)]).get_future_result().wait() == 0
    if rank() == 0:
        time.sleep(0.1)
        backend.abort()
        work = None
    else:
        work = group.allreduce([torch.ones(3)])
        assert work.get_future_result().wait() > 0
        assert not work.is_success() and "rank 0" in str(raised_by(work.wait))
    assert str(backend.get_error()) != "ErrorType.SUCCESS"


@check
def a_timeout_of_one_call_is_kept(group):
    if rank() == 0:
        time.sleep(1.0)
    options = dist.AllToAllOptions()
    options.timeout = torch.distributed.default_pg_timeout / 18_000  # 0.1 s
    x = torch.ones(world())
    began = time.monotonic()
    error = raised_by(lambda: group.alltoall_base(x.clone(), x, [], [], options).wait())
    assert time.monotonic() - began < 5
    assert "rank 0" in str(error) or rank() == 0, error


@check
def memory_statistics_are_those_of_the_arena(group):
    stats = group._get_backend(CPU).memory_stats()
    assert stats["reserved_bytes"] >= stats["in_use_bytes"] >= 0, stats


if __name__ == "__main__":
    main()
