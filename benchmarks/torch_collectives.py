"""One rank of a torch.distributed group: checks and times collectives, prints JSON lines on rank 0.

Usage: torch_collectives.py BACKEND BUDGET CASE..., with the variables of a launcher. The backend
``fake`` is torch's own that does nothing: what is left is the cost of the call.
"""

import json
import os
import sys
from collections.abc import Callable

import torch
import torch.distributed as dist
from common import Case, p50_seconds, pin
from torch import Tensor

MODULUS = {"float32": 1021, "bfloat16": 31, "float16": 31}  # keeps every sum exact
Call = Callable[[], object]
Group = dist.ProcessGroup | None
Prepared = tuple[Call, list[Tensor], Tensor, Tensor]


def main() -> int:
    """Check and time every case; fail on the first wrong result."""
    backend, budget = sys.argv[1], float(sys.argv[2])
    pin(int(os.environ["RANK"]))  # before the backend starts threads
    torch.set_num_threads(1)
    form_group(backend)
    try:
        require_arena(os.environ.get("RDMATRAIN_ARENA"))
        for case in map(Case.parse, sys.argv[3:]):
            call, nwrong = prepare(case)
            if nwrong and backend != "fake":
                print(f"rank {dist.get_rank()}: {nwrong} wrong elements, {case}", file=sys.stderr)
                return 1
            seconds = p50_seconds(call, dist.barrier, largest, budget)
            if dist.get_rank() == 0:
                print(json.dumps(case._asdict() | {"seconds_p50": seconds}), flush=True)
    finally:
        dist.destroy_process_group()
    return 0


def form_group(backend: str) -> None:
    """Form the group as the launcher's variables say."""
    if backend != "fake":
        dist.init_process_group(backend)
        return
    from torch.testing._internal.distributed.fake_pg import FakeStore  # noqa: PLC0415

    world = int(os.environ["WORLD_SIZE"])
    dist.init_process_group(backend, rank=0, world_size=world, store=FakeStore())


def require_arena(wanted: str | None) -> None:
    """Make sure that a plain tensor lies in rdmatrain's arena, or does not, as was asked.

    Raises:
        RuntimeError: it is otherwise: what would be timed is not what the table says.

    """
    import rdmatrain  # noqa: PLC0415

    if wanted is None:
        return
    before = rdmatrain.arena_stats()["num_blocks"]
    tensor = torch.empty(1 << 20)
    found = "on" if rdmatrain.arena_stats()["num_blocks"] > before else "off"
    if found != wanted:
        raise RuntimeError(f"RDMATRAIN_ARENA={wanted}, but torch.empty({len(tensor)}): {found}")


def largest(value: float) -> float:
    """Return the largest of the ranks' values."""
    tensor = torch.tensor([value], dtype=torch.float64)
    dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
    return float(tensor.item())


def prepare(case: Case, group: Group = None) -> tuple[Call, int]:
    """Run the case once on values that depend on rank and index.

    Args:
        case: what to do.
        group: where; None for the default group.

    Returns:
        The call to time, and how many elements of its first result were wrong.

    """
    dtype = getattr(torch, case.dtype)
    count = case.nbytes // dtype.itemsize
    call, filled, result, expected = OPERATIONS[case.op](count, dtype, group)
    call()
    nwrong = int((result != expected).sum())
    for tensor in filled:
        tensor.zero_()  # repeated sums would overflow
    return call, nwrong


def values(count: int, dtype: torch.dtype, rank: int, first: int = 0) -> Tensor:
    """Return elements first, first + 1... of what a rank starts with."""
    modulus = MODULUS[str(dtype).removeprefix("torch.")]
    index = torch.arange(first, first + count, dtype=torch.int32)
    return (index.remainder_(modulus) + 3 * rank).to(dtype)


def total(count: int, dtype: torch.dtype, first: int = 0) -> Tensor:
    """Return the sum of those elements over the ranks."""
    world = dist.get_world_size()
    one = values(count, dtype, 0, first).to(torch.int32)
    return (world * one + 3 * world * (world - 1) // 2).to(dtype)


def own(count: int, dtype: torch.dtype, rank: int) -> Tensor:
    """Return a tensor of plain torch.empty, as an application's, filled with a rank's values."""
    return torch.empty(count, dtype=dtype).copy_(values(count, dtype, rank))


# Each makes tensors, and returns the call, what to zero afterwards, a result and what it must be.


def all_reduce(count: int, dtype: torch.dtype, group: Group) -> Prepared:
    """Sum ``count`` elements in place."""
    x = own(count, dtype, dist.get_rank())
    return lambda: dist.all_reduce(x, group=group), [x], x, total(count, dtype)


def reduce(count: int, dtype: torch.dtype, group: Group) -> Prepared:
    """Sum ``count`` elements on rank 0; what the others then hold is undefined."""
    x, expected = own(count, dtype, dist.get_rank()), total(count, dtype)
    shown = count if dist.get_rank() == 0 else 0
    return lambda: dist.reduce(x, 0, group=group), [x], x[:shown], expected[:shown]


def reduce_scatter(count: int, dtype: torch.dtype, group: Group) -> Prepared:
    """Sum ``count`` elements into parts, one a rank."""
    rank, part = dist.get_rank(), count // dist.get_world_size()
    x, out = own(count, dtype, rank), torch.empty(part, dtype=dtype)
    expected = total(part, dtype, rank * part)
    return lambda: dist.reduce_scatter_tensor(out, x, group=group), [x, out], out, expected


def all_gather(count: int, dtype: torch.dtype, group: Group) -> Prepared:
    """Gather ``count`` elements from parts that lie elsewhere."""
    rank, part = dist.get_rank(), count // dist.get_world_size()
    return all_gather_of(own(part, dtype, rank), torch.empty(count, dtype=dtype), group)


def all_gather_own(count: int, dtype: torch.dtype, group: Group) -> Prepared:
    """Gather ``count`` elements where each rank's input is its own part of the output."""
    rank, part = dist.get_rank(), count // dist.get_world_size()
    out = torch.empty(count, dtype=dtype)
    x = out[rank * part : (rank + 1) * part].copy_(values(part, dtype, rank))
    return all_gather_of(x, out, group)


def all_gather_of(x: Tensor, out: Tensor, group: Group) -> Prepared:
    """Gather ``x`` of all ranks into ``out``."""
    return lambda: dist.all_gather_into_tensor(out, x, group=group), [x, out], out, of_all(x)


def of_all(x: Tensor) -> Tensor:
    """Return what all ranks start with, one behind the other, each with as much as ``x``."""
    return torch.cat([values(len(x), x.dtype, r) for r in range(dist.get_world_size())])


def broadcast(count: int, dtype: torch.dtype, group: Group) -> Prepared:
    """Send ``count`` elements of rank 0 to all."""
    x = own(count, dtype, dist.get_rank())
    return lambda: dist.broadcast(x, src=0, group=group), [x], x, values(count, dtype, 0)


def gather(count: int, dtype: torch.dtype, group: Group) -> Prepared:
    """Gather ``count`` elements on rank 0."""
    rank, world = dist.get_rank(), dist.get_world_size()
    x, out = own(count // world, dtype, rank), torch.empty(count, dtype=dtype)
    parts, shown = (list(out.chunk(world)), count) if rank == 0 else (None, 0)
    return lambda: dist.gather(x, parts, group=group), [x, out], out[:shown], of_all(x)[:shown]


def scatter(count: int, dtype: torch.dtype, group: Group) -> Prepared:
    """Give each rank its part of ``count`` elements of rank 0."""
    rank, world = dist.get_rank(), dist.get_world_size()
    x, out = own(count, dtype, 0), torch.empty(count // world, dtype=dtype)
    parts = list(x.chunk(world)) if rank == 0 else None
    expected = values(len(out), dtype, 0, rank * len(out))
    return lambda: dist.scatter(out, parts, group=group), [x, out], out, expected


def all_to_all(count: int, dtype: torch.dtype, group: Group) -> Prepared:
    """Exchange ``count`` elements, one part for each rank."""
    rank, world = dist.get_rank(), dist.get_world_size()
    x, out, part = own(count, dtype, rank), torch.empty(count, dtype=dtype), count // world
    expected = torch.cat([values(part, dtype, r, rank * part) for r in range(world)])
    return lambda: dist.all_to_all_single(out, x, group=group), [x, out], out, expected


def send_recv(count: int, dtype: torch.dtype, group: Group) -> Prepared:
    """Send ``count`` elements to the neighbour in a pair of ranks, and get as many back."""
    rank = dist.get_rank()
    peer = rank ^ 1
    x, out = own(count, dtype, rank), torch.empty(count, dtype=dtype)
    if peer >= dist.get_world_size():
        return lambda: None, [], out[:0], out[:0]
    ways = [lambda: dist.send(x, peer, group=group), lambda: dist.recv(out, peer, group=group)]
    first, second = ways if rank < peer else reversed(ways)
    return lambda: (first(), second()), [x, out], out, values(count, dtype, peer)


def barrier(_count: int, dtype: torch.dtype, group: Group) -> Prepared:
    """Meet the others."""
    nothing = torch.empty(0, dtype=dtype)
    return lambda: dist.barrier(group), [], nothing, nothing


OPERATIONS = {
    "all_reduce": all_reduce,
    "reduce": reduce,
    "broadcast": broadcast,
    "all_gather": all_gather,
    "all_gather_own": all_gather_own,
    "reduce_scatter": reduce_scatter,
    "all_to_all": all_to_all,
    "gather": gather,
    "scatter": scatter,
    "send_recv": send_recv,
    "barrier": barrier,
}


if __name__ == "__main__":
    sys.exit(main())
