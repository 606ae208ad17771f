"""Every collective x dtype x reduction x contiguous or strided x synchronous or asynchronous, on 1
to 5 ranks: the outputs must hold the bits that matrix_oracle.py expects.

One process imports torch; the ranks are its forks. What each rank found is noted under
``COLLECTIVE-WORLD-RANK``.
"""

import contextlib
import faulthandler
import itertools
import json
import os
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from checklib import note
from matrix_oracle import COMPLEX, DTYPES, FACTOR, OPS, has_meaning, reduced, values
from torch import Tensor

WORLDS = (1, 2, 3, 4, 5)
MANY, FEW = 3001, 37  # elements of a tensor that is contiguous, and that is not
MAX_FAILURES = 5
WORLD_S = 60
GUARD = 1  # in the gaps of strided tensors; a legal bool

Call = Callable[[bool], Any]
Expected = list[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Cell:
    """One case of the matrix, as one rank sees it. ``op`` is empty where nothing is reduced."""

    group: dist.ProcessGroup
    dtype: torch.dtype
    op: str
    contiguous: bool

    @property
    def rank(self) -> int:
        return dist.get_rank()

    @property
    def world(self) -> int:
        return dist.get_world_size()

    @property
    def root(self) -> int:
        return self.world // 2

    @property
    def count(self) -> int:
        return MANY if self.contiguous else FEW

    @property
    def reduction(self) -> object:
        if self.op == "PREMUL_SUM":
            return dist._make_nccl_premul_sum(FACTOR)
        return getattr(dist.ReduceOp, self.op)

    def place(self, data: Tensor) -> Tensor:
        """Return a copy to use; if it is strided, the guards in its gaps must survive."""
        if self.contiguous:
            return data.clone()
        base = torch.empty((len(data), 2), dtype=data.dtype)
        base.view(torch.uint8).fill_(GUARD)
        base[:, 0] = data
        return base[:, 0]

    def blank(self, count: int | None = None) -> Tensor:
        count = self.count if count is None else count
        return self.place(torch.zeros(count, dtype=torch.uint8).to(self.dtype))

    def values(self, rank: int | None = None, count: int | None = None) -> Tensor:
        rank = self.rank if rank is None else rank
        return values(self.dtype, rank, self.count if count is None else count)

    def each(self) -> list[Tensor]:
        return [self.values(rank) for rank in range(self.world)]

    def reduced(self, count: int | None = None) -> Tensor:
        count = self.count if count is None else count
        if not has_meaning(self.dtype, self.op):
            return torch.empty(count, dtype=self.dtype)
        return reduced(self.dtype, self.op, self.world, count)


Collective = Callable[[Cell], tuple[Call, Expected]]


# Each makes tensors, and returns the call to make on them and what they must then hold.


def all_reduce(cell: Cell) -> tuple[Call, Expected]:
    x = cell.place(cell.values())

    def call(async_op: bool) -> Any:
        return dist.all_reduce(x, op=cell.reduction, group=cell.group, async_op=async_op)

    return call, [(x, cell.reduced())]


def reduce(cell: Cell) -> tuple[Call, Expected]:
    x = cell.place(cell.values())

    def call(async_op: bool) -> Any:
        return dist.reduce(x, cell.root, op=cell.reduction, group=cell.group, async_op=async_op)

    # What the others hold afterwards is undefined.
    return call, [(x, cell.reduced())] if cell.rank == cell.root else []


def reduce_scatter(cell: Cell) -> tuple[Call, Expected]:
    out, count = cell.blank(), cell.count * cell.world
    shards = [cell.place(shard) for shard in cell.values(count=count).chunk(cell.world)]

    def call(async_op: bool) -> Any:
        return dist.reduce_scatter(
            out, shards, op=cell.reduction, group=cell.group, async_op=async_op
        )

    return call, [(out, cell.reduced(count).chunk(cell.world)[cell.rank])]


def reduce_scatter_tensor(cell: Cell) -> tuple[Call, Expected]:
    out, count = cell.blank(), cell.count * cell.world
    x = cell.place(cell.values(count=count))

    def call(async_op: bool) -> Any:
        return dist.reduce_scatter_tensor(
            out, x, op=cell.reduction, group=cell.group, async_op=async_op
        )

    return call, [(out, cell.reduced(count).chunk(cell.world)[cell.rank])]


def broadcast(cell: Cell) -> tuple[Call, Expected]:
    x = cell.place(cell.values())

    def call(async_op: bool) -> Any:
        return dist.broadcast(x, src=cell.root, group=cell.group, async_op=async_op)

    return call, [(x, cell.values(cell.root))]


def all_gather(cell: Cell) -> tuple[Call, Expected]:
    x, outs = cell.place(cell.values()), [cell.blank() for _ in range(cell.world)]

    def call(async_op: bool) -> Any:
        return dist.all_gather(outs, x, group=cell.group, async_op=async_op)

    return call, list(zip(outs, cell.each(), strict=True))


def all_gather_into_tensor(cell: Cell) -> tuple[Call, Expected]:
    x, out = cell.place(cell.values()), cell.blank(cell.count * cell.world)

    def call(async_op: bool) -> Any:
        return dist.all_gather_into_tensor(out, x, group=cell.group, async_op=async_op)

    return call, list(zip(out.chunk(cell.world), cell.each(), strict=True))


def gather(cell: Cell) -> tuple[Call, Expected]:
    x, is_root = cell.place(cell.values()), cell.rank == cell.root
    outs = [cell.blank() for _ in range(cell.world)] if is_root else None

    def call(async_op: bool) -> Any:
        return dist.gather(x, outs, dst=cell.root, group=cell.group, async_op=async_op)

    return call, list(zip(outs, cell.each(), strict=True)) if outs else []


def scatter(cell: Cell) -> tuple[Call, Expected]:
    out, is_root = cell.blank(), cell.rank == cell.root
    shards = [cell.place(shard) for shard in cell.each()] if is_root else None

    def call(async_op: bool) -> Any:
        return dist.scatter(out, shards, src=cell.root, group=cell.group, async_op=async_op)

    return call, [(out, cell.values())]


def all_to_all(cell: Cell) -> tuple[Call, Expected]:
    """Send more to higher ranks: 7 elements for each."""
    counts = [7 * (rank + 1) for rank in range(cell.world)]
    mine = [cell.place(part) for part in cell.values(count=sum(counts)).split(counts)]
    outs = [cell.blank(counts[cell.rank]) for _ in range(cell.world)]
    wanted = [cell.values(rank, sum(counts)).split(counts)[cell.rank] for rank in range(cell.world)]

    def call(async_op: bool) -> Any:
        return dist.all_to_all(outs, mine, group=cell.group, async_op=async_op)

    return call, list(zip(outs, wanted, strict=True))


def all_to_all_single(cell: Cell) -> tuple[Call, Expected]:
    x, out = (
        cell.place(cell.values(count=cell.count * cell.world)),
        cell.blank(cell.count * cell.world),
    )
    wanted = [
        cell.values(rank, cell.count * cell.world).chunk(cell.world)[cell.rank]
        for rank in range(cell.world)
    ]

    def call(async_op: bool) -> Any:
        return dist.all_to_all_single(out, x, group=cell.group, async_op=async_op)

    return call, list(zip(out.chunk(cell.world), wanted, strict=True))


def all_to_all_single_of_parts_that_differ(cell: Cell) -> tuple[Call, Expected]:
    """Rank i sends rank j (i + 2 j) % 4 elements of what it has: nothing, in some places."""
    sizes = [[(i + 2 * j) % 4 for j in range(cell.world)] for i in range(cell.world)]
    mine = sizes[cell.rank]
    theirs = [row[cell.rank] for row in sizes]
    x, out = cell.place(cell.values(count=sum(mine))), cell.blank(sum(theirs))
    wanted = [
        cell.values(rank, sum(sizes[rank])).split(sizes[rank])[cell.rank]
        for rank in range(cell.world)
    ]

    def call(async_op: bool) -> Any:
        return dist.all_to_all_single(out, x, theirs, mine, group=cell.group, async_op=async_op)

    return call, list(zip(out.split(theirs), wanted, strict=True))


def send_and_recv(cell: Cell) -> tuple[Call, Expected]:
    """Pass tensors around the ring; rank 0 receives first, so that blocking calls can pair."""
    x, out = cell.place(cell.values()), cell.blank()
    to, source = (cell.rank + 1) % cell.world, (cell.rank - 1) % cell.world

    def call(async_op: bool) -> Any:
        if async_op:
            sent = dist.isend(x, to, group=cell.group)
            dist.irecv(out, source, group=cell.group).wait()
            return sent
        ways = [(dist.send, x, to), (dist.recv, out, source)]
        for way, tensor, peer in reversed(ways) if cell.rank == 0 else ways:
            way(tensor, peer, group=cell.group)
        return None

    return call, [(out, cell.values(source))]


REDUCING = [all_reduce, reduce, reduce_scatter, reduce_scatter_tensor]
MOVING = [
    broadcast, all_gather, all_gather_into_tensor, gather, scatter, all_to_all, all_to_all_single,
    all_to_all_single_of_parts_that_differ, send_and_recv,
]  # fmt: skip


# What is done in each cell


def is_refused(collective: Collective, cell: Cell) -> bool:
    """Tell whether it must fail; an all_reduce of complex products is refused by torch itself."""
    by_torch = collective is all_reduce and cell.dtype in COMPLEX and cell.op == "PRODUCT"
    return by_torch or (cell.op != "" and not has_meaning(cell.dtype, cell.op))


def refusal_failure(collective: Collective, cell: Cell) -> str:
    call, _ = collective(cell)
    try:
        call(False)
    except dist.DistError:
        raise
    except (RuntimeError, TypeError, ValueError) as error:
        return "" if cell.op in str(error) else f"the error does not name the reduction: {error}"
    return "it was not refused"


def result_failure(collective: Collective, cell: Cell, asynchronous: bool) -> str:
    call, expected = collective(cell)
    work = call(asynchronous)
    if asynchronous:
        work.wait()
    for i, (found, wanted) in enumerate(expected):
        differ = (as_bytes(found) != as_bytes(wanted)).nonzero()
        if len(differ):
            at = int(differ[0]) // found.element_size()
            return f"output {i}, element {at}: {found[at]} instead of {wanted[at]}"
        if not cell.contiguous and len(found) and as_bytes(gaps_of(found)).ne(GUARD).any():
            return f"output {i}: written between its elements"
    return ""


def as_bytes(tensor: Tensor) -> Tensor:
    return tensor.clone(memory_format=torch.contiguous_format).view(torch.uint8)


def gaps_of(tensor: Tensor) -> Tensor:
    return tensor.as_strided((len(tensor),), (2,), tensor.storage_offset() + 1)


def cells_of(collective: Collective, group: dist.ProcessGroup) -> Iterator[tuple[Cell, bool]]:
    """Yield each cell with whether it is asynchronous; once where it will be refused."""
    ops = OPS if collective in REDUCING else [""]
    for dtype, op in itertools.product(DTYPES, ops):
        for contiguous, asynchronous in itertools.product((True, False), repeat=2):
            cell = Cell(group, dtype, op, contiguous)
            if not is_refused(collective, cell) or (contiguous and not asynchronous):
                yield cell, asynchronous


def check(collective: Collective) -> dict[str, object]:
    """Go through the cells of a collective. Others may have failed elsewhere, so all are tried."""
    num_cells, failures = 0, []
    group = dist.new_group(timeout=timedelta(seconds=10))
    for cell, asynchronous in cells_of(collective, group):
        broken = False
        try:
            if is_refused(collective, cell):
                failure = refusal_failure(collective, cell)
            else:
                failure = result_failure(collective, cell, asynchronous)
        except Exception as error:
            failure = traceback.format_exc(limit=-3)
            broken = isinstance(error, dist.DistError)
        num_cells += 1
        if failure:
            way = f"{'' if cell.contiguous else 'strided '}{'async ' if asynchronous else ''}"
            failures.append(f"{way}{cell.dtype} {cell.op}: {failure}")
        if broken:
            break
    with contextlib.suppress(dist.DistError):
        dist.barrier(group)  # others may still be told of a refusal
    dist.destroy_process_group(group)
    return {"num_cells": num_cells, "num_failures": len(failures), "first": failures[:MAX_FAILURES]}


# Ranks


def be_rank(rank: int, world: int, folder: Path) -> None:
    faulthandler.dump_traceback_later(WORLD_S, exit=True)
    dist.init_process_group("rdmatrain", f"file://{folder}/store", rank=rank, world_size=world)
    found = {}
    for collective in REDUCING + MOVING:
        if collective is not send_and_recv or world > 1:  # torch sends nothing to oneself
            found[f"{collective.__name__}-{world}"] = check(collective)
    dist.destroy_process_group()
    (folder / str(rank)).write_text(json.dumps(found))


def fork_rank(rank: int, world: int, folder: Path) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        be_rank(rank, world, folder)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def main() -> None:
    torch.set_num_threads(1)  # and no threads of torch's own when it forks
    warnings.filterwarnings("ignore", message="ComplexHalf support is experimental")
    warnings.filterwarnings("ignore", category=FutureWarning)  # the old names of collectives
    codes = []
    for world in WORLDS:
        with tempfile.TemporaryDirectory() as name:
            pids = [fork_rank(rank, world, Path(name)) for rank in range(world)]
            codes += [os.waitpid(pid, 0)[1] for pid in pids]
            for rank in range(world):
                report = Path(name, str(rank))
                if report.exists():
                    facts = json.loads(report.read_text())
                    note(**{f"{key}-{rank}": fact for key, fact in facts.items()})
    sys.exit(any(codes))


if __name__ == "__main__":
    main()
