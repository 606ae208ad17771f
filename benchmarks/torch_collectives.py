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


def prepare(case: Case) -> tuple[Call, int]:
    """Run the case once on values that depend on rank and index.

    Args:
        case: what to do.

    Returns:
        The call to time, and how many elements of its first result were wrong.

    """
    dtype = getattr(torch, case.dtype)
    count = case.nbytes // dtype.itemsize
    call, filled, result, expected = OPERATIONS[case.op](count, dtype)
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


def all_reduce(count: int, dtype: torch.dtype) -> tuple[Call, list[Tensor], Tensor, Tensor]:
    """Sum ``count`` elements in place."""
    x = own(count, dtype, dist.get_rank())
    return lambda: dist.all_reduce(x), [x], x, total(count, dtype)


def reduce_scatter(count: int, dtype: torch.dtype) -> tuple[Call, list[Tensor], Tensor, Tensor]:
    """Sum ``count`` elements into parts, one a rank."""
    rank, part = dist.get_rank(), count // dist.get_world_size()
    x, out = own(count, dtype, rank), torch.empty(part, dtype=dtype)
    expected = total(part, dtype, rank * part)
    return lambda: dist.reduce_scatter_tensor(out, x), [x, out], out, expected


def all_gather(count: int, dtype: torch.dtype) -> tuple[Call, list[Tensor], Tensor, Tensor]:
    """Gather ``count`` elements from parts that lie elsewhere."""
    rank, part = dist.get_rank(), count // dist.get_world_size()
    return gather(own(part, dtype, rank), torch.empty(count, dtype=dtype))


def all_gather_own(count: int, dtype: torch.dtype) -> tuple[Call, list[Tensor], Tensor, Tensor]:
    """Gather ``count`` elements where each rank's input is its own part of the output."""
    rank, part = dist.get_rank(), count // dist.get_world_size()
    out = torch.empty(count, dtype=dtype)
    x = out[rank * part : (rank + 1) * part].copy_(values(part, dtype, rank))
    return gather(x, out)


def gather(x: Tensor, out: Tensor) -> tuple[Call, list[Tensor], Tensor, Tensor]:
    """Gather ``x`` of all ranks into ``out``."""
    world = dist.get_world_size()
    expected = torch.cat([values(len(x), x.dtype, rank) for rank in range(world)])
    return lambda: dist.all_gather_into_tensor(out, x), [x, out], out, expected


def broadcast(count: int, dtype: torch.dtype) -> tuple[Call, list[Tensor], Tensor, Tensor]:
    """Send ``count`` elements of rank 0 to all."""
    x = own(count, dtype, dist.get_rank())
    return lambda: dist.broadcast(x, src=0), [x], x, values(count, dtype, 0)


OPERATIONS = {
    "all_reduce": all_reduce,
    "reduce_scatter": reduce_scatter,
    "all_gather": all_gather,
    "all_gather_own": all_gather_own,
    "broadcast": broadcast,
}


if __name__ == "__main__":
    sys.exit(main())
