"""Tensors of an accelerator through the backend, with a fake one whose work can be held back.

A check that holds work shows order without a clock: what is held has not happened, and whatever
should wait for it would go wrong at once.
"""

import copy
import os
import time
from collections.abc import Callable
from contextlib import nullcontext
from datetime import timedelta

import torch
import torch.distributed as dist
from checklib import check, expect_equal, main, raised_by, values
from fakegpu import ACROSS, DOWN, KERNEL, UP, allow, held, num_finished, num_violations, synchronize
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel

DEVICE = torch.device("fakegpu:0")
GRACE_S = 0.05  # for what must not happen: a right program passes however long it is
CHUNK = (4 << 20) // 4  # of float32, where a tensor has no shards
CHUNKS_2 = CHUNK // 2  # the same, where it has one for each of 2 ranks
DTYPES = [
    *(torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
    *(torch.uint16, torch.uint32, torch.uint64, torch.float16, torch.bfloat16, torch.float32),
    *(torch.float64, torch.complex64, torch.complex128, torch.float8_e4m3fn, torch.float8_e5m2),
]


def rank_and_world(group: dist.ProcessGroup) -> tuple[int, int]:
    return dist.get_rank(group), dist.get_world_size(group)


def everybodys(count: int, shift: int = 0) -> list[torch.Tensor]:
    return [values(rank, count, shift=shift) for rank in range(dist.get_world_size())]


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 15
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.001)


def eventually_equal(found: torch.Tensor, want: torch.Tensor) -> None:
    eventually(lambda: torch.equal(found.cpu(), want))


@check
def a_kernel_that_is_queued_before_is_seen(group: dist.ProcessGroup) -> None:
    rank, world = rank_and_world(group)
    tensor = torch.zeros(1000, device=DEVICE)
    with held(KERNEL):
        tensor.fill_(rank + 1)
        work = dist.all_reduce(tensor, group=group, async_op=True)  # returns: the host runs ahead
        time.sleep(GRACE_S)
        assert not work.is_completed()
    work.wait()
    expect_equal(tensor.cpu(), torch.full((1000,), world * (world + 1) / 2))


@check
def wait_makes_the_current_stream_wait_and_not_the_host(group: dist.ProcessGroup) -> None:
    rank, _ = rank_and_world(group)
    tensor = values(rank, 1000).to(DEVICE)
    synchronize()
    with held(UP):
        work = dist.all_reduce(tensor, group=group, async_op=True)
        work.wait()
        assert not work.is_completed()
        behind = tensor.clone()
    expect_equal(behind.cpu(), sum(everybodys(1000)))
    eventually(work.is_completed)
    assert work.is_success()


@check
def a_result_waits_for_what_still_reads_the_tensor(group: dist.ProcessGroup) -> None:
    rank, _ = rank_and_world(group)
    tensor = values(rank, 100).to(DEVICE)
    with held(ACROSS) if rank == 1 else nullcontext():
        before = tensor.clone()
        work = dist.broadcast(tensor, 0, group=group, async_op=True)
        time.sleep(GRACE_S)
    expect_equal(before.cpu(), values(rank, 100))
    work.wait()
    expect_equal(tensor.cpu(), values(0, 100))


@check
def chunks_travel_while_later_ones_are_still_on_the_device(group: dist.ProcessGroup) -> None:
    rank, _ = rank_and_world(group)
    count = 2 * CHUNK + 5
    tensor = values(rank, count).to(DEVICE)
    synchronize()
    down, up = num_finished(DOWN), num_finished(UP)
    allow(DOWN, 1)
    work = dist.all_reduce(tensor, group=group, async_op=True)
    eventually(lambda: num_finished(UP) == up + 1)
    assert num_finished(DOWN) == down + 1
    assert not work.is_completed()
    dist.barrier()  # a group of its own; both have seen it
    allow(DOWN, -1)
    work.wait()
    expect_equal(tensor.cpu(), sum(everybodys(count)))
    assert num_finished(UP) == up + 3


@check
def calls_on_the_cpu_keep_their_place_behind_the_devices(group: dist.ProcessGroup) -> None:
    rank, _ = rank_and_world(group)
    ready = torch.empty(10, device=DEVICE)
    sizes = (10, CHUNK + 1, 0)
    host = [values(rank, size) for size in sizes]
    with held(KERNEL) if rank == 0 else nullcontext():
        ready.fill_(rank + 1)
        works = [dist.all_reduce(ready, group=group, async_op=True)]
        if rank == 1:  # whose stager is idle by then
            time.sleep(GRACE_S)
        works += [dist.all_reduce(each, group=group, async_op=True) for each in host]
        time.sleep(GRACE_S)
        if rank == 0:
            assert not any(work.is_completed() for work in works)
    for work in reversed(works):
        work.wait()
    expect_equal(ready.cpu(), torch.full((10,), 3.0))
    for size, each in zip(sizes, host, strict=True):
        expect_equal(each, sum(everybodys(size)))


@check
def many_calls_may_be_outstanding(group: dist.ProcessGroup) -> None:
    rank, world = rank_and_world(group)
    sizes = [0, 1, 7, 1000, CHUNK - 1, CHUNK, CHUNK + 1] + [50] * 40
    tensors = [torch.zeros(size, device=DEVICE) for size in sizes]
    with held(KERNEL):
        for i, tensor in enumerate(tensors):
            tensor.fill_(rank + i)
        works = [dist.all_reduce(tensor, group=group, async_op=True) for tensor in tensors]
    for work in reversed(works):
        work.wait()
    for i, tensor in enumerate(tensors):
        expect_equal(tensor.cpu(), torch.full((sizes[i],), float(sum(range(world)) + world * i)))


@check
def collectives_with_shards(group: dist.ProcessGroup) -> None:
    rank, world = rank_and_world(group)
    for count in (0, 1, 63, CHUNKS_2 - 1, CHUNKS_2 + 1):
        mine, whole = values(rank, count).to(DEVICE), torch.cat(everybodys(count))
        gathered = torch.empty(world * count, device=DEVICE)
        dist.all_gather_into_tensor(gathered, mine, group=group)
        expect_equal(gathered.cpu(), whole)
        parts = [torch.empty(count, device=DEVICE) for _ in range(world)]
        dist.all_gather(parts, mine, group=group)
        expect_equal(torch.cat([part.cpu() for part in parts]), whole)

        summed = sum(everybodys(world * count))[rank * count : (rank + 1) * count]
        source = values(rank, world * count).to(DEVICE)
        reduced = torch.empty(count, device=DEVICE)
        dist.reduce_scatter_tensor(reduced, source, group=group)
        expect_equal(reduced.cpu(), summed)
        reduced.fill_(-1)
        dist.reduce_scatter(reduced, list(source.chunk(world)) if count else parts, group=group)
        expect_equal(reduced.cpu(), summed)


@check
def collectives_with_a_root(group: dist.ProcessGroup) -> None:
    rank, world = rank_and_world(group)
    for root in range(world):
        for count in (1, CHUNKS_2 + 1, CHUNK + 1):
            mine = values(rank, count).to(DEVICE)
            dist.broadcast(mine, root, group=group)
            expect_equal(mine.cpu(), values(root, count))
            mine = values(rank, count).to(DEVICE)
            dist.reduce(mine, root, group=group)
            if rank == root:
                expect_equal(mine.cpu(), sum(everybodys(count)))
            mine = values(rank, count).to(DEVICE)
            parts = [torch.empty(count, device=DEVICE) for _ in range(world)]
            dist.gather(mine, parts if rank == root else None, root, group=group)
            if rank == root:
                expect_equal(torch.cat(parts).cpu(), torch.cat(everybodys(count)))
            shards = [values(root, count, shift=i).to(DEVICE) for i in range(world)]
            dist.scatter(mine, shards if rank == root else None, root, group=group)
            expect_equal(mine.cpu(), values(root, count, shift=rank))


@check
def shards_that_differ_in_size(group: dist.ProcessGroup) -> None:
    rank, world = rank_and_world(group)
    sizes = [CHUNK + 2 + 5 * i for i in range(world)]
    mine = values(rank, sizes[rank]).to(DEVICE)
    wanted = torch.cat([values(i, size) for i, size in enumerate(sizes)])
    parts = [torch.empty(size, device=DEVICE) for size in sizes]
    dist.all_gather(parts, mine, group=group)
    expect_equal(torch.cat(parts).cpu(), wanted)
    parts = [torch.empty(size, device=DEVICE) for size in sizes]
    dist.gather(mine, parts if rank == 1 else None, 1, group=group)
    if rank == 1:
        expect_equal(torch.cat(parts).cpu(), wanted)
    shards = [values(1, size, shift=i).to(DEVICE) for i, size in enumerate(sizes)]
    dist.scatter(mine, shards if rank == 1 else None, 1, group=group)
    expect_equal(mine.cpu(), values(1, sizes[rank], shift=rank))


@check
def all_to_all_even_uneven_and_as_lists(group: dist.ProcessGroup) -> None:
    rank, world = rank_and_world(group)
    whole = values(rank, 30 * world).to(DEVICE)
    found = torch.empty_like(whole)
    dist.all_to_all_single(found, whole, group=group)
    wanted = [each[rank * 30 : (rank + 1) * 30] for each in everybodys(30 * world)]
    expect_equal(found.cpu(), torch.cat(wanted))

    sizes = [[3 * source + target for target in range(world)] for source in range(world)]
    outgoing, incoming = sizes[rank], [row[rank] for row in sizes]
    whole = values(rank, sum(outgoing)).to(DEVICE)
    found = torch.empty(sum(incoming), device=DEVICE)
    dist.all_to_all_single(found, whole, incoming, outgoing, group=group)
    wanted = [values(i, sum(sizes[i])).split(sizes[i])[rank] for i in range(world)]
    expect_equal(found.cpu(), torch.cat(wanted))
    parts = [torch.empty(size, device=DEVICE) for size in incoming]
    dist.all_to_all(parts, list(whole.split(outgoing)), group=group)
    expect_equal(torch.cat(parts).cpu(), torch.cat(wanted))


@check
def messages_between_two_ranks(group: dist.ProcessGroup) -> None:
    rank, world = rank_and_world(group)
    to, source = (rank + 1) % world, (rank - 1) % world
    for count in (0, 5, CHUNK + 1):
        outgoing = [values(rank, count, shift=i).to(DEVICE) for i in range(3)]
        incoming = [torch.empty(count, device=DEVICE) for _ in range(3)]
        works = [dist.irecv(tensor, source, group=group) for tensor in incoming]
        works += [dist.isend(tensor, to, group=group) for tensor in outgoing]
        for work in works:
            work.wait()
        for i, tensor in enumerate(incoming):
            expect_equal(tensor.cpu(), values(source, count, shift=i))
    found = torch.empty(9, device=DEVICE)
    work = dist.isend(values(rank, 9).to(DEVICE), to, group=group)
    sender = dist.recv(found, group=group)
    work.wait()
    assert sender == source
    expect_equal(found.cpu(), values(sender, 9))


@check
def every_dtype_is_moved(group: dist.ProcessGroup) -> None:
    rank, _ = rank_and_world(group)
    for dtype in DTYPES:
        tensor = values(rank, 33).to(dtype).to(DEVICE)
        dist.broadcast(tensor, 1, group=group)
        expect_equal(tensor.cpu(), values(1, 33).to(dtype))


@check
def reductions_give_the_bits_that_they_give_on_the_cpu(group: dist.ProcessGroup) -> None:
    rank, _ = rank_and_world(group)
    count = CHUNK + 77
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        host = torch.sin(torch.arange(count) * (rank + 1)).to(dtype)
        tensor = host.to(DEVICE)
        dist.all_reduce(tensor, group=group)
        dist.all_reduce(host, group=group)
        expect_equal(tensor.cpu(), host)


@check
def tensors_with_strides(group: dist.ProcessGroup) -> None:
    rank, world = rank_and_world(group)
    square = values(rank, 600).view(20, 30)
    turned = square.to(DEVICE).t()
    dist.all_reduce(turned, group=group)
    expect_equal(turned.cpu(), sum(everybodys(600)).view(20, 30).t())
    wide = torch.full((world * 20, 60), -1.0, device=DEVICE)
    every_other = wide[:, ::2]
    dist.all_gather_into_tensor(every_other, square.to(DEVICE), group=group)
    expect_equal(wide[:, ::2].cpu(), torch.cat(everybodys(600)).view(world * 20, 30))
    expect_equal(wide[:, 1::2].cpu(), torch.full((world * 20, 30), -1.0))
    expanded = torch.full((1,), float(rank), device=DEVICE).expand(50)
    parts = [torch.empty(50, device=DEVICE) for _ in range(world)]
    dist.all_gather(parts, expanded, group=group)
    for i, part in enumerate(parts):
        expect_equal(part.cpu(), torch.full((50,), float(i)))


@check
def callbacks_of_a_future_see_the_result(group: dist.ProcessGroup) -> None:
    rank, _ = rank_and_world(group)
    tensor = values(rank, 500).to(DEVICE)
    synchronize()
    with held(UP):
        work = dist.all_reduce(tensor, group=group, async_op=True)
        copied = work.get_future().then(lambda future: future.value()[0].clone())
        eventually(copied.done)  # the callback has run; what it queued waits
        late = work.get_future()
        time.sleep(GRACE_S)
    found = copied.wait()
    assert found.device == DEVICE
    expect_equal(found.cpu(), sum(everybodys(500)))
    expect_equal(late.wait()[0].cpu(), sum(everybodys(500)))


@check
def futures_of_several_tensors_wait_for_all(group: dist.ProcessGroup) -> None:
    rank, _ = rank_and_world(group)
    tensors = [values(rank, 100, shift=i).to(DEVICE) for i in range(4)]
    synchronize()
    with held(UP):
        work = group.allreduce_coalesced(tensors, dist.AllreduceCoalescedOptions())
        copied = work.get_future().then(lambda future: [each.clone() for each in future.value()])
        eventually(copied.done)
        time.sleep(GRACE_S)
    for i, found in enumerate(copied.wait()):
        expect_equal(found.cpu(), sum(everybodys(100, shift=i)))


@check
def memory_that_is_let_go_early_stays_until_it_is_copied(group: dist.ProcessGroup) -> None:
    rank, world = rank_and_world(group)
    before = num_violations()
    mine = values(rank, 1000).to(DEVICE)
    found, lost = (torch.empty(world * 1000, device=DEVICE) for _ in range(2))
    with held(UP):
        with held(DOWN):
            dist.all_gather_into_tensor(found, mine.clone(), group=group, async_op=True)
            dist.all_gather_into_tensor(lost, mine.clone(), group=group, async_op=True)
            del lost
        dist.barrier(group)
    dist.barrier(group)
    want = torch.cat(everybodys(1000))
    eventually_equal(found, want)  # nobody waits for what was let go
    synchronize()
    expect_equal(found.cpu(), want)
    del found
    assert num_violations() == before


@check
def tensors_of_two_devices_are_refused_on_every_rank(group: dist.ProcessGroup) -> None:
    rank, world = rank_and_world(group)
    out = torch.empty(world * 5)
    error = raised_by(
        dist.all_gather_into_tensor, torch.empty(world * 5, device=DEVICE), out[:5], group=group
    )
    assert isinstance(error, RuntimeError)
    assert "one device" in str(error) and "cpu" in str(error) and "fakegpu:0" in str(error), error
    assert f"rank {rank}" in str(error)
    tensor = values(rank, 5).to(DEVICE)  # the group goes on
    dist.all_reduce(tensor, group=group)
    expect_equal(tensor.cpu(), sum(everybodys(5)))


@check
def ranks_whose_tensors_differ_in_size_both_hear_it(group: dist.ProcessGroup) -> None:
    rank, _ = rank_and_world(group)
    tensor = torch.zeros((3 + rank) * CHUNK, device=DEVICE)
    error = raised_by(dist.all_reduce, tensor, group=group)
    assert isinstance(error, dist.DistBackendError), error
    assert str(3 * CHUNK) in str(error) and str(4 * CHUNK) in str(error), error


@check
def a_wait_may_end_before_the_device_does(group: dist.ProcessGroup) -> None:
    rank, _ = rank_and_world(group)
    tensor = torch.zeros(10, device=DEVICE)
    with held(KERNEL):
        tensor.fill_(rank)
        work = dist.all_reduce(tensor, group=group, async_op=True)
        error = raised_by(work.wait, timedelta(milliseconds=50))
        assert "wait() of all_reduce ended after 50 ms" in str(error), error
        dist.barrier()  # the other rank has seen it too
    work.wait()
    expect_equal(tensor.cpu(), torch.full((10,), 1.0))


@check
def a_device_that_takes_longer_than_the_timeout_fails_the_group(group: dist.ProcessGroup) -> None:
    rank, _ = rank_and_world(group)
    short = dist.new_group(timeout=timedelta(seconds=1))
    tensor = torch.zeros(10, device=DEVICE)
    with held(KERNEL) if rank == 0 else nullcontext():
        tensor.fill_(rank)
        error = raised_by(dist.all_reduce, tensor, group=short)
    assert isinstance(error, dist.DistBackendError), error
    if rank == 0:
        assert "rank 0: the device had not computed the tensors of all_reduce" in str(error), error
    else:
        assert "rank 0" in str(error), error
    dist.destroy_process_group(short)


@check
def destroying_a_group_ends_calls_that_the_device_holds(group: dist.ProcessGroup) -> None:
    rank, _ = rank_and_world(group)
    doomed = dist.new_group()
    tensors = [torch.zeros(2 * CHUNK, device=DEVICE) for _ in range(3)]
    with held(KERNEL):
        for tensor in tensors:
            tensor.fill_(rank)
        works = [dist.all_reduce(tensor, group=doomed, async_op=True) for tensor in tensors]
        works.append(dist.all_reduce(torch.ones(3), group=doomed, async_op=True))
        dist.destroy_process_group(doomed)
        for work in works:
            assert isinstance(raised_by(work.wait), dist.DistBackendError)
            assert not work.is_success()
    backend = dist.new_group()._get_backend(DEVICE)
    backend.shutdown()
    assert isinstance(raised_by(backend.allreduce, [tensors[0]]), dist.DistBackendError)


@check
def a_forked_child_is_refused(group: dist.ProcessGroup) -> None:
    rank, _ = rank_and_world(group)
    tensor = torch.zeros(10, device=DEVICE)
    with held(KERNEL):
        tensor.fill_(rank)
        work = dist.all_reduce(tensor, group=group, async_op=True)
        child = os.fork()
        if child == 0:
            errors = [raised_by(work.wait), raised_by(dist.all_reduce, tensor, group=group)]
            os._exit(0 if all("forked" in str(error) for error in errors) else 1)
        assert os.waitpid(child, 0)[1] == 0
    work.wait()
    expect_equal(tensor.cpu(), torch.full((10,), 1.0))


@check
def ddp_trains_as_it_does_on_the_cpu(group: dist.ProcessGroup) -> None:
    ddp_on_both(group, hook=None)


@check
def ddp_with_a_hook_trains_as_it_does_on_the_cpu(group: dist.ProcessGroup) -> None:
    ddp_on_both(group, hook=allreduce_hook)


def ddp_on_both(group: dist.ProcessGroup, hook: Callable[..., object] | None) -> None:
    rank, _ = rank_and_world(group)
    torch.manual_seed(3)
    alone = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1))
    nets = {"cpu": alone, "fakegpu:0": copy.deepcopy(alone).to(DEVICE)}
    found = {}
    for device, net in nets.items():
        together = DistributedDataParallel(net, process_group=group)
        if hook is not None:
            together.register_comm_hook(group, hook)
        optimizer = torch.optim.SGD(together.parameters(), lr=0.1, foreach=False)
        for step in range(3):
            batch = (values(rank, 32, shift=step).view(4, 8) / 11).to(device)
            optimizer.zero_grad()
            together(batch).square().mean().backward()
            optimizer.step()
        found[device] = [each.detach().cpu() for each in net.parameters()]
    for mine, wanted in zip(found["fakegpu:0"], found["cpu"], strict=True):
        expect_equal(mine, wanted)


@check
def no_memory_was_ever_freed_under_a_copy(group: dist.ProcessGroup) -> None:
    synchronize()
    assert num_violations() == 0


dist.Backend.backend_capability["rdmatrain"].append("fakegpu")
main()
