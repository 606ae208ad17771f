"""Collectives on tensors in the arena, in memory that is used as real programs use it."""

import multiprocessing
from collections.abc import Callable

import numpy as np
import torch
import torch.distributed as dist
from checklib import SpoiledRows, check, expect_equal, main, values
from torch.utils.data import DataLoader

from rdmatrain import _core

N = 200_003  # float32: 800 KB, far beyond where tensors are read in place
FORK = multiprocessing.get_context("fork")


def world() -> int:
    return dist.get_world_size()


def rank() -> int:
    return dist.get_rank()


def inputs(count: int, shift: int = 0) -> list[torch.Tensor]:
    return [values(r, count, shift=shift) for r in range(world())]


def total(count: int, shift: int = 0) -> torch.Tensor:
    return torch.stack(inputs(count, shift)).sum(0)


def in_arena(tensor: torch.Tensor) -> bool:
    storage = tensor.untyped_storage()
    return _core.arena_offset(storage.data_ptr(), storage.nbytes()) is not None


# -- memory that moves between collectives --


@check
def storage_that_is_emptied_and_filled_between_collectives(group: dist.ProcessGroup) -> None:
    tensor = torch.empty(N)
    for step, count in enumerate([N, 30_000, 3 * N, 17, N, 2 * N, 64_000]):
        tensor.untyped_storage().resize_(0)
        between = torch.ones(count)  # may get the pages that were just given back
        tensor.untyped_storage().resize_(4 * count)
        tensor = tensor.new_empty(0).set_(tensor.untyped_storage(), 0, (count,))
        tensor.copy_(values(rank(), count, shift=step))
        dist.all_reduce(tensor, group=group)
        expect_equal(tensor, total(count, step))
        expect_equal(between, torch.ones(count))


@check
def tensors_that_get_the_address_of_one_that_was_dropped(group: dist.ProcessGroup) -> None:
    seen: dict[int, int] = {}
    for step in range(40):
        count = (N, N, 50_000, 2 * N, N // 2)[step % 5]
        tensor = values(rank(), count, shift=step)
        address = tensor.data_ptr()
        seen[address] = seen.get(address, 0) + 1
        dist.all_reduce(tensor, group=group)
        expect_equal(tensor, total(count, step))
        del tensor
    assert max(seen.values()) > 1, "no address came again: this shows nothing"


@check
def results_that_are_dropped_before_the_peer_has_read_its_own(group: dist.ProcessGroup) -> None:
    for step in range(20):
        own = values(rank(), N, shift=step)
        gathered = torch.empty(world() * N)
        dist.all_gather_into_tensor(gathered, own, group=group)
        own.fill_(-1)  # mine again
        del own
        torch.full((N,), -2.0)
        expect_equal(gathered, torch.cat(inputs(N, step)))


# -- forks --


@check
def workers_of_a_data_loader_while_collectives_run(group: dist.ProcessGroup) -> None:
    rows = torch.arange(64.0 * 1024).view(64, 1024)
    assert in_arena(rows)
    for epoch in range(3):
        loader = DataLoader(SpoiledRows(rows), 8, num_workers=2, multiprocessing_context=FORK)
        found, pending = [], []
        for step, part in enumerate(loader):
            tensor = values(rank(), N, shift=step + epoch)
            pending.append((step + epoch, tensor, dist.all_reduce(tensor, group=group, async_op=1)))
            found.append(part)
        for shift, tensor, work in pending:
            work.wait()
            expect_equal(tensor, total(N, shift))
        expect_equal(torch.cat(found), rows)


def _spoil(tensors: list[torch.Tensor], sender: object) -> None:
    for tensor in tensors:
        tensor.fill_(-1)
    sender.send(sum(tensor.sum().item() for tensor in tensors))


@check
def what_a_forked_child_writes_is_seen_by_neither_parent_nor_peer(group: dist.ProcessGroup) -> None:
    for step in range(6):
        idle, flying = values(rank(), N, shift=step), values(rank(), N, shift=step + 1)
        work = dist.all_reduce(flying, group=group, async_op=True)
        receiver, sender = FORK.Pipe(duplex=False)
        child = FORK.Process(target=_spoil, args=([idle, flying], sender))
        child.start()
        if step % 2:
            work.wait()
        assert receiver.poll(30)
        assert receiver.recv() == -2 * N
        expect_equal(idle, values(rank(), N, shift=step))
        dist.all_reduce(idle, group=group)
        expect_equal(idle, total(N, step))
        work.wait()
        expect_equal(flying, total(N, step + 1))
        child.join(30)
        assert child.exitcode == 0


# -- how a tensor lies in memory --

Layout = Callable[[int], torch.Tensor]


def odd_view(count: int) -> torch.Tensor:
    return torch.zeros(count + 7)[3 : 3 + count]


def transposed(count: int) -> torch.Tensor:
    """Of one column more than a row holds: not contiguous."""
    return torch.zeros(count, 2).t()[1]


def from_numpy(count: int) -> torch.Tensor:
    return torch.from_numpy(np.zeros(count, np.float32))


def odd_from_numpy(count: int) -> torch.Tensor:
    return torch.from_numpy(np.zeros(count + 5, np.float32)[5:])


LAYOUTS: tuple[Layout, ...] = (torch.zeros, odd_view, transposed, from_numpy, odd_from_numpy)


def placed(layout: Layout, data: torch.Tensor) -> torch.Tensor:
    return layout(data.numel()).copy_(data)


def each_mix() -> list[tuple[Layout, Layout]]:
    """Layouts of input and output; every pair of ranks meets every mix of two of them."""
    shift = range(len(LAYOUTS))
    return [
        (LAYOUTS[(i + rank() * j) % len(LAYOUTS)], LAYOUTS[(i + j) % len(LAYOUTS)])
        for i in shift
        for j in shift
    ]


def contiguous_only(layout: Layout) -> Layout:
    return odd_view if layout is transposed else layout


@check
def the_layouts_are_what_they_are_taken_for(group: dist.ProcessGroup) -> None:
    tensors = [layout(N) for layout in LAYOUTS]
    assert [in_arena(t) for t in tensors] == [True, True, True, False, False]
    assert [t.is_contiguous() for t in tensors] == [True, True, False, True, True]


@check
def all_reduce_of_every_layout(group: dist.ProcessGroup) -> None:
    ops = {
        dist.ReduceOp.SUM: lambda x: x.sum(0),
        dist.ReduceOp.MAX: lambda x: x.amax(0),
        dist.ReduceOp.MIN: lambda x: x.amin(0),
        dist.ReduceOp.PRODUCT: lambda x: x.prod(0),
    }
    for step, (layout, _) in enumerate(each_mix()):
        op, expected = list(ops.items())[step % len(ops)]
        tensor = placed(layout, values(rank(), N, shift=step))
        dist.all_reduce(tensor, op, group=group)
        expect_equal(tensor, expected(torch.stack(inputs(N, step))))


@check
def broadcast_of_every_layout(group: dist.ProcessGroup) -> None:
    for step, (layout, _) in enumerate(each_mix()):
        root = step % world()
        tensor = placed(layout, values(rank(), N, shift=step))
        dist.broadcast(tensor, src=root, group=group)
        expect_equal(tensor, values(root, N, shift=step))


@check
def all_gather_of_every_layout(group: dist.ProcessGroup) -> None:
    for step, (own_layout, layout) in enumerate(each_mix()):
        own = placed(own_layout, values(rank(), N, shift=step))
        parts = [layout(N) for _ in range(world())]
        dist.all_gather(parts, own, group=group)
        gathered = contiguous_only(layout)(world() * N)
        dist.all_gather_into_tensor(gathered, own.contiguous(), group=group)
        expect_equal(torch.cat(parts), torch.cat(inputs(N, step)))
        expect_equal(gathered, torch.cat(inputs(N, step)))


@check
def reduce_scatter_of_every_layout(group: dist.ProcessGroup) -> None:
    mine = slice(rank() * N, (rank() + 1) * N)
    for step, (in_layout, layout) in enumerate(each_mix()):
        given = placed(contiguous_only(in_layout), values(rank(), world() * N, shift=step))
        outs = [contiguous_only(layout)(N), layout(N)]
        dist.reduce_scatter_tensor(outs[0], given, group=group)
        dist.reduce_scatter(outs[1], list(given.chunk(world())), group=group)
        for out in outs:
            expect_equal(out, total(world() * N, step)[mine])


@check
def an_all_gather_of_the_shard_in_its_place(group: dist.ProcessGroup) -> None:
    for layout in (torch.zeros, odd_view, from_numpy):
        gathered = layout(world() * N)
        own = gathered[rank() * N : (rank() + 1) * N].copy_(values(rank(), N))
        dist.all_gather_into_tensor(gathered, own, group=group)
        expect_equal(gathered, torch.cat(inputs(N)))


@check
def tensors_that_share_a_storage_in_flight_at_once(group: dist.ProcessGroup) -> None:
    for step in range(5):
        whole = values(rank(), 3 * N, shift=step)
        thirds = whole.split(N)
        works = [dist.all_reduce(third, group=group, async_op=True) for third in thirds]
        for work in works:
            work.wait()
        expect_equal(whole, total(3 * N, step))


if __name__ == "__main__":
    main()
