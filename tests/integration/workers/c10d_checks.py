"""What torch.distributed promises, checked against Gloo or against arithmetic on known inputs."""

import gc
import threading
import time

import torch
import torch.distributed as dist
from checklib import check, expect_equal, main, note, raised_by, values
from torch.distributed.distributed_c10d import _coalescing_manager

ARITHMETIC = [
    torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int8, torch.uint8,
    torch.int16, torch.int32, torch.int64, torch.uint16, torch.uint32, torch.uint64,
]  # fmt: skip
MOVED = [torch.bool, torch.complex64, torch.complex128, torch.float8_e4m3fn, torch.float8_e5m2]
OPS = {"SUM": torch.sum, "PRODUCT": torch.prod, "MIN": torch.amin, "MAX": torch.amax}
SIZES = [1, 7, 1000, 65_537, 300_001]


def rank() -> int:
    return dist.get_rank()


def world() -> int:
    return dist.get_world_size()


def each(count: int, dtype: torch.dtype = torch.float32, shift: int = 0) -> list[torch.Tensor]:
    return [values(r, count, dtype, shift) for r in range(world())]


def total(count: int, shift: int = 0) -> torch.Tensor:
    return torch.stack(each(count, torch.float64, shift)).sum(0).float()


def as_bytes(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().reshape(-1).view(torch.uint8)


@check
def all_reduce_of_every_dtype_and_op_is_exact(group):
    for dtype in ARITHMETIC:
        for name, reduce in OPS.items():
            x = values(rank(), 37, dtype)
            dist.all_reduce(x, op=getattr(dist.ReduceOp, name), group=group)
            wide = torch.float64 if dtype.is_floating_point else torch.int64
            expect_equal(x, reduce(torch.stack(each(37, wide)), dim=0).to(dtype))


@check
def all_reduce_avg_divides_by_the_number_of_ranks(group):
    x = values(rank(), 1001, torch.float64)
    dist.all_reduce(x, op=dist.ReduceOp.AVG, group=group)
    expect_equal(x, torch.stack(each(1001, torch.float64)).sum(0) / world())


@check
def all_reduce_agrees_with_gloo_on_fractions(group):
    gloo = dist.new_group(backend="gloo")
    for size in SIZES:
        mine = torch.rand(size, generator=torch.Generator().manual_seed(100 * rank() + size))
        theirs = mine.clone()
        dist.all_reduce(mine, group=group)
        dist.all_reduce(theirs, group=gloo)
        torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-6)
    dist.destroy_process_group(gloo)


@check
def all_ranks_hold_the_same_bits_after_all_reduce(group):
    x = torch.rand(100_003, generator=torch.Generator().manual_seed(rank()))
    dist.all_reduce(x, group=group)
    all_of_them = [torch.empty_like(x) for _ in range(world())]
    dist.all_gather(all_of_them, x, group=group)
    for other in all_of_them:
        expect_equal(as_bytes(other), as_bytes(x))


@check
def broadcast_copies_from_every_root(group):
    for root in range(world()):
        for size in SIZES:
            x = values(rank(), size)
            dist.broadcast(x, src=root, group=group)
            expect_equal(x, values(root, size))


@check
def all_gather_fills_one_tensor_for_each_rank(group):
    for size in SIZES:
        out = [torch.full((size,), -1.0) for _ in range(world())]
        dist.all_gather(out, values(rank(), size), group=group)
        for found, expected in zip(out, each(size), strict=True):
            expect_equal(found, expected)


@check
def all_gather_into_tensor_concatenates_by_rank(group):
    for size in SIZES:
        out = torch.full((size * world(),), -1.0)
        dist.all_gather_into_tensor(out, values(rank(), size), group=group)
        expect_equal(out, torch.cat(each(size)))


@check
def all_gather_into_tensor_works_in_place(group):
    out = torch.full((5 * world(),), -1.0)
    mine = out[5 * rank() : 5 * rank() + 5]
    mine.copy_(values(rank(), 5))
    dist.all_gather_into_tensor(out, mine, group=group)
    expect_equal(out, torch.cat(each(5)))


@check
def reduce_scatter_gives_each_rank_its_own_sum(group):
    for size in SIZES:
        out = torch.full((size,), -1.0)
        shards = [values(rank(), size, shift=shard) for shard in range(world())]
        dist.reduce_scatter(out, shards, group=group)
        expect_equal(out, total(size, shift=rank()))


@check
def reduce_scatter_tensor_cuts_by_rank(group):
    for size in SIZES:
        out = torch.full((size,), -1.0)
        dist.reduce_scatter_tensor(out, values(rank(), size * world()), group=group)
        expect_equal(out, total(size * world())[rank() * size : (rank() + 1) * size])


@check
def reduce_scatter_tensor_works_in_place(group):
    whole = values(rank(), 4 * world())
    mine = whole[4 * rank() : 4 * rank() + 4]
    dist.reduce_scatter_tensor(mine, whole, op=dist.ReduceOp.AVG, group=group)
    expect_equal(mine, (total(4 * world()) / world())[4 * rank() : 4 * rank() + 4])


@check
def barrier_waits_for_the_last_rank(group):
    late = world() - 1
    if rank() == late:
        time.sleep(0.5)
    arrived = torch.tensor([time.monotonic()], dtype=torch.float64)
    dist.barrier(group)
    left = time.monotonic()
    dist.broadcast(arrived, src=late, group=group)
    assert left >= arrived.item()


@check
def send_and_recv_pass_tensors_around_a_ring(group):
    after, before = (rank() + 1) % world(), (rank() - 1) % world()
    for size in SIZES:
        out = torch.empty(size)
        if rank() == 0:
            dist.send(values(0, size), dst=after, group=group)
            dist.recv(out, src=before, group=group)
        else:
            dist.recv(out, src=before, group=group)
            dist.send(values(rank(), size), dst=after, group=group)
        expect_equal(out, values(before, size))


@check
def isend_and_irecv_are_matched_by_tag_not_by_order(group):
    tags = [5, 3, 9]
    after, before = (rank() + 1) % world(), (rank() - 1) % world()
    sends = [dist.isend(values(rank(), 100, shift=t), after, group=group, tag=t) for t in tags]
    outs = {t: torch.empty(100) for t in sorted(tags)}
    recvs = [dist.irecv(out, before, group=group, tag=t) for t, out in outs.items()]
    for work in [*recvs, *sends]:
        work.wait()
    for tag, out in outs.items():
        expect_equal(out, values(before, 100, shift=tag))


@check
def batch_isend_irecv_exchanges_both_ways_at_once(group):
    after, before = (rank() + 1) % world(), (rank() - 1) % world()
    for size in [0, 1, 300_001]:
        out = torch.empty(size)
        ops = [
            dist.P2POp(dist.isend, values(rank(), size), after, group=group),
            dist.P2POp(dist.irecv, out, before, group=group),
        ]
        for work in dist.batch_isend_irecv(ops):
            work.wait()
        expect_equal(out, values(before, size))


@check
def objects_are_gathered_and_broadcast(group):
    mine = {"rank": rank(), "text": "x" * (1000 * rank()), "nested": [rank()] * 3}
    found = [None] * world()
    dist.all_gather_object(found, mine, group=group)
    expected = [{"rank": r, "text": "x" * (1000 * r), "nested": [r] * 3} for r in range(world())]
    assert found == expected
    several = [mine, "second"] if rank() == 1 else [None, None]
    dist.broadcast_object_list(several, src=1, group=group)
    assert several == [expected[1], "second"]


@check
def strided_tensors_are_read_and_written_in_place(group):
    base = torch.full((50, 8), -1.0)
    view = base[:, 2:5]
    view.copy_(values(rank(), 150).view(50, 3))
    dist.all_reduce(view, group=group)
    expect_equal(view.reshape(-1), total(150))
    assert (base[:, :2] == -1).all() and (base[:, 5:] == -1).all()
    turned = values(rank(), 12).view(3, 4).t()
    dist.broadcast(turned, src=1, group=group)
    expect_equal(turned, values(1, 12).view(3, 4).t())
    outs = [torch.zeros(4, 3).t() for _ in range(world())]
    dist.all_gather(outs, values(rank(), 12).view(4, 3).t(), group=group)
    for out, expected in zip(outs, each(12), strict=True):
        expect_equal(out, expected.view(4, 3).t())
    out = torch.zeros(10)[::2]
    dist.reduce_scatter_tensor(out, values(rank(), 10 * world())[::2], group=group)
    expect_equal(out, total(10 * world())[::2][5 * rank() : 5 * rank() + 5])
    if rank() == 0:
        dist.send(values(0, 20)[::2], dst=1, group=group)
    elif rank() == 1:
        out = torch.zeros(20)[::2]
        dist.recv(out, src=0, group=group)
        expect_equal(out, values(0, 20)[::2])


@check
def a_tensor_with_an_offset_is_not_touched_beyond_its_ends(group):
    base = torch.full((100,), -1.0)
    base[13:57] = values(rank(), 44)
    dist.all_reduce(base[13:57], group=group)
    expect_equal(base[13:57], total(44))
    assert (base[:13] == -1).all() and (base[57:] == -1).all()


@check
def tensors_that_require_grad_can_be_reduced(group):
    leaf = values(rank(), 10).requires_grad_()
    dist.all_reduce(leaf, group=group)
    expect_equal(leaf.detach(), total(10))
    strided = values(rank(), 20).requires_grad_()
    with torch.no_grad():
        dist.all_reduce(strided[::2], group=group)
    expect_equal(strided.detach()[::2], total(20)[::2])
    out = [torch.empty(10) for _ in range(world())]
    dist.all_gather(out, values(rank(), 10).requires_grad_(), group=group)
    expect_equal(torch.stack(out), torch.stack(each(10)))


@check
def tensors_of_the_inference_mode_are_written_outside_of_it(group):
    with torch.inference_mode():
        strided = values(rank(), 20)[::2]
        sparse = values(rank(), 20).to_sparse()
    for x in (strided, sparse):
        work = dist.all_reduce(x, group=group, async_op=True)
        while not work.is_completed():  # another thread drives
            time.sleep(0.001)
        work.wait()
    expect_equal(strided, total(20)[::2])
    expect_equal(sparse.to_dense(), total(20))


@check
def empty_tensors_are_legal_everywhere(group):
    nothing = torch.empty(0)
    dist.all_reduce(nothing, group=group)
    dist.broadcast(nothing, src=1, group=group)
    dist.all_gather([torch.empty(0) for _ in range(world())], nothing, group=group)
    dist.all_gather_into_tensor(torch.empty(0), nothing, group=group)
    dist.reduce_scatter_tensor(torch.empty(0), nothing, group=group)
    if rank() == 0:
        dist.send(nothing, dst=1, group=group)
    elif rank() == 1:
        dist.recv(nothing, src=0, group=group)
    x = torch.ones(3)
    dist.all_reduce(x, group=group)
    expect_equal(x, torch.full((3,), float(world())))


@check
def a_scalar_tensor_can_be_reduced(group):
    x = torch.tensor(float(rank() + 1))
    dist.all_reduce(x, group=group)
    assert x.shape == () and x.item() == world() * (world() + 1) / 2


@check
def dtypes_without_arithmetic_are_moved_as_bytes(group):
    for dtype in MOVED:
        pattern = [((torch.arange(48) * 5 + 3 * r) % 2).to(torch.uint8) for r in range(world())]
        if dtype != torch.bool:
            pattern = [
                ((torch.arange(48) * 5 + 3 * r) % 120).to(torch.uint8) for r in range(world())
            ]
        inputs = [p.view(dtype) for p in pattern]
        x = inputs[rank()].clone()
        dist.broadcast(x, src=1, group=group)
        expect_equal(as_bytes(x), as_bytes(inputs[1]))
        out = [torch.zeros_like(x) for _ in range(world())]
        dist.all_gather(out, inputs[rank()], group=group)
        for found, expected in zip(out, inputs, strict=True):
            expect_equal(as_bytes(found), as_bytes(expected))


@check
def async_works_complete_and_say_so(group):
    x = values(rank(), 1000)
    work = dist.all_reduce(x, group=group, async_op=True)
    assert work.wait() is True or work.is_completed()
    assert work.is_completed() and work.is_success()
    expect_equal(x, total(1000))
    assert work.result()[0].data_ptr() == x.data_ptr()
    work.wait()


@check
def a_work_completes_without_anybody_waiting(group):
    x = values(rank(), 1000)
    work = dist.all_reduce(x, group=group, async_op=True)
    end = time.monotonic() + 10
    while not work.is_completed():
        assert time.monotonic() < end, "nothing drives the collective"
        time.sleep(0.001)
    expect_equal(x, total(1000))


@check
def many_async_works_in_flight_end_in_order(group):
    tensors = [values(rank(), 1 + 97 * i) for i in range(300)]
    works = [dist.all_reduce(t, group=group, async_op=True) for t in tensors]
    for work in reversed(works):
        work.wait()
    for i, tensor in enumerate(tensors):
        expect_equal(tensor, total(1 + 97 * i))


@check
def a_dropped_work_still_reduces_its_tensor(group):
    x = values(rank(), 200_000)
    dist.all_reduce(x, group=group, async_op=True)
    dropped = values(rank(), 200_000)
    dist.all_reduce(dropped, group=group, async_op=True)
    del dropped
    gc.collect()
    dist.barrier(group)
    expect_equal(x, total(200_000))


@check
def a_future_yields_the_output_tensors(group):
    x = values(rank(), 10)
    future = dist.all_reduce(x, group=group, async_op=True).get_future()
    (found,) = future.wait()
    assert found.data_ptr() == x.data_ptr()
    expect_equal(found, total(10))
    # A future asked for after the end is complete at once.
    work = dist.all_reduce(x, group=group, async_op=True)
    work.wait()
    assert work.get_future().done()


@check
def a_callback_of_a_future_may_post_another_collective(group):
    x, y = values(rank(), 5000), values(rank(), 3, shift=1)
    later = []

    def after(future):
        expect_equal(future.value()[0], total(5000))
        later.append(dist.all_reduce(y, group=group, async_op=True))
        return future.value()[0] * 2

    doubled = dist.all_reduce(x, group=group, async_op=True).get_future().then(after).wait()
    expect_equal(doubled, total(5000) * 2)
    later[0].wait()
    expect_equal(y, total(3, shift=1))


@check
def a_callback_of_a_future_may_wait_for_another_collective(group):
    def after(future):
        y = values(rank(), 3, shift=1)
        inner = dist.all_reduce(y, group=group, async_op=True).get_future()
        return future.value()[0] + inner.then(lambda f: f.value()[0]).wait()[0]

    x = values(rank(), 5000)
    outer = dist.all_reduce(x, group=group, async_op=True).get_future().then(after).wait()
    expect_equal(outer, total(5000) + total(3, shift=1)[0])


@check
def a_callback_of_a_future_may_destroy_the_group(group):
    mine = dist.new_group()
    work = dist.all_reduce(values(rank(), 10), group=mine, async_op=True)
    work.get_future().then(lambda _: dist.destroy_process_group(mine)).wait()
    x = values(rank(), 10)
    dist.all_reduce(x, group=group)
    expect_equal(x, total(10))


@check
def callbacks_run_even_if_nobody_waits(group):
    done = threading.Event()
    work = dist.all_reduce(values(rank(), 10), group=group, async_op=True)
    work.get_future().then(lambda _: done.set())
    assert done.wait(10), "the callback did not run"


@check
def an_exception_in_a_callback_fails_its_future_only(group):
    def fail(_future):
        raise KeyError("of the user")

    future = dist.all_reduce(values(rank(), 10), group=group, async_op=True).get_future().then(fail)
    assert "of the user" in str(raised_by(future.wait))
    x = values(rank(), 10)
    dist.all_reduce(x, group=group)
    expect_equal(x, total(10))


@check
def a_work_can_be_waited_for_from_other_threads(group):
    x = values(rank(), 400_000)
    work = dist.all_reduce(x, group=group, async_op=True)
    oks = []
    threads = [threading.Thread(target=lambda: oks.append(work.wait())) for _ in range(4)]
    for thread in threads:
        thread.start()
    work.wait()
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()
    assert len(oks) == 4
    expect_equal(x, total(400_000))


@check
def two_groups_used_by_two_threads_do_not_disturb_each_other(group):
    other = dist.new_group()
    errors = []

    def loop(which, shift):
        try:
            for i in range(50):
                x = values(rank(), 1 + 500 * i, shift=shift)
                dist.all_reduce(x, group=which)
                expect_equal(x, total(1 + 500 * i, shift=shift))
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=loop, args=(other, 1))
    thread.start()
    loop(group, 0)
    thread.join(15)
    assert not thread.is_alive() and not errors, errors
    dist.destroy_process_group(other)


@check
def coalesced_all_reduces_all_happen(group):
    tensors = [values(rank(), 10 * (i + 1)) for i in range(5)]
    with _coalescing_manager(group=group):
        for tensor in tensors:
            dist.all_reduce(tensor, group=group)
    for i, tensor in enumerate(tensors):
        expect_equal(tensor, total(10 * (i + 1)))
    with _coalescing_manager(group=group, async_ops=True) as manager:
        for tensor in tensors:
            dist.all_reduce(tensor, group=group)
    manager.wait()
    for i, tensor in enumerate(tensors):
        expect_equal(tensor, total(10 * (i + 1)) * world())


@check
def collectives_between_start_and_end_of_coalescing_are_one_work(group):
    out = [torch.zeros(6) for _ in range(world())]
    x = values(rank(), 9)
    with _coalescing_manager(group=group, device=torch.device("cpu"), async_ops=True) as manager:
        dist.all_gather(out, values(rank(), 6), group=group)
        dist.broadcast(x, src=1, group=group)
    manager.wait()
    expect_equal(x, values(1, 9))
    expect_equal(torch.stack(out), torch.stack(each(6)))
    later = torch.ones(1)
    dist.all_reduce(later, group=group)
    assert later.item() == world()


@check
def coalesced_gathers_and_scatters_all_happen(group):
    outs = [torch.zeros((i + 1) * world()) for i in range(3)]
    with _coalescing_manager(group=group):
        for i, out in enumerate(outs):
            dist.all_gather_into_tensor(out, values(rank(), i + 1), group=group)
    for i, out in enumerate(outs):
        expect_equal(out, torch.cat(each(i + 1)))
    outs = [torch.zeros(i + 1) for i in range(3)]
    with _coalescing_manager(group=group):
        for i, out in enumerate(outs):
            dist.reduce_scatter_tensor(out, values(rank(), (i + 1) * world()), group=group)
    for i, out in enumerate(outs):
        mine = slice(rank() * (i + 1), (rank() + 1) * (i + 1))
        expect_equal(out, total((i + 1) * world())[mine])


@check
def the_sequence_number_counts_collectives_alike_on_all_ranks(group):
    # The group itself counts for torch's own backends only.
    backend = group._get_backend(torch.device("cpu"))
    begin = backend._get_sequence_number_for_group()
    for _ in range(3):
        dist.all_reduce(torch.ones(1), group=group)
    if rank() == 0:
        dist.send(torch.ones(1), dst=1, group=group)
    elif rank() == 1:
        dist.recv(torch.ones(1), src=0, group=group)
    dist.barrier(group)
    number = torch.tensor([backend._get_sequence_number_for_group() - begin])
    assert number.item() == 4
    numbers = [torch.empty_like(number) for _ in range(world())]
    dist.all_gather(numbers, number, group=group)
    assert len({int(n) for n in numbers}) == 1


@check
def the_profiler_sees_the_collectives(group):
    from torch.profiler import ProfilerActivity, profile  # noqa: PLC0415

    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        x = values(rank(), 1000)
        dist.all_reduce(x, group=group)
        dist.all_reduce(values(rank(), 10), group=group, async_op=True).wait()
    expect_equal(x, total(1000))
    names = {event.key for event in profiler.key_averages()}
    assert any("rdmatrain:all_reduce" in name for name in names), names


@check
def functional_collectives_work(group):
    import torch.distributed._functional_collectives as functional  # noqa: PLC0415

    out = functional.all_reduce(values(rank(), 10), "sum", group)
    expect_equal(torch.ops._c10d_functional.wait_tensor(out), total(10))


@check
def groups_of_some_ranks_number_their_own(group):
    pair = dist.new_group([1, 0])
    alone = dist.new_group([world() - 1])
    if rank() < 2:
        x = values(rank(), 10)
        dist.all_reduce(x, group=pair)
        expect_equal(x, values(0, 10) + values(1, 10))
    if rank() == world() - 1:
        x = values(rank(), 10)
        dist.all_reduce(x, group=alone)
        expect_equal(x, values(rank(), 10))
        assert dist.get_world_size(alone) == 1


@check
def groups_that_only_their_members_make_do_not_meet(group):
    alone = dist.new_group([rank()])  # of the same name on every rank
    x = values(rank(), 5)
    dist.all_reduce(x, group=alone)
    expect_equal(x, values(rank(), 5))
    dist.destroy_process_group(alone)


@check
def a_group_that_was_destroyed_refuses_calls_at_once(group):
    mine = dist.new_group()
    backend = mine._get_backend(torch.device("cpu"))
    dist.all_reduce(torch.ones(1), group=mine)
    dist.destroy_process_group(mine)
    error = raised_by(backend.barrier)
    assert "destroyed" in str(error), error
    assert isinstance(error, dist.DistBackendError)


@check
def a_rank_that_leaves_is_named_to_the_one_that_goes_on(group):
    pair = dist.new_group([0, 1], timeout=group_timeout())
    if rank() == 0:
        dist.all_reduce(torch.ones(1), group=pair)
        began = time.monotonic()
        error = raised_by(dist.all_reduce, torch.ones(1), group=pair)
        note(leave_s=time.monotonic() - began)
        assert isinstance(error, dist.DistBackendError), type(error)
        assert "rank 1" in str(error) and "left the group" in str(error), error
    elif rank() == 1:
        dist.all_reduce(torch.ones(1), group=pair)
        dist.destroy_process_group(pair)


def group_timeout():
    from datetime import timedelta  # noqa: PLC0415

    return timedelta(seconds=15)


@check
def wait_with_a_timeout_ends_and_the_work_goes_on(group):
    from datetime import timedelta  # noqa: PLC0415

    x = values(rank(), 10)
    if rank() != 0:
        time.sleep(1.0)
    work = dist.all_reduce(x, group=group, async_op=True)
    if rank() == 0:
        began = time.monotonic()
        error = raised_by(work.wait, timedelta(milliseconds=200))
        assert 0.15 < time.monotonic() - began < 0.9
        assert "200 ms" in str(error), error
    work.wait()
    expect_equal(x, total(10))


@check
def a_late_rank_beyond_the_groups_timeout_is_named(group):
    from datetime import timedelta  # noqa: PLC0415

    short = dist.new_group(timeout=timedelta(seconds=1))
    if rank() != 1:
        error = raised_by(dist.all_reduce, torch.ones(5), group=short)
        assert isinstance(error, dist.DistBackendError), type(error)
        assert "1.0 s" in str(error) and "rank 1" in str(error), error
    dist.barrier(group)
    if rank() == 1:
        error = raised_by(dist.all_reduce, torch.ones(5), group=short)
        assert "did not finish within its timeout of 1.0 s on rank" in str(error), error
    dist.destroy_process_group(short)


if __name__ == "__main__":
    main()
