"""The operations over ``torch.distributed``: what to call, and what it must give.

Each function makes tensors of a case, filled with values that depend on rank and index, and says
what the result must be, computed in integers from what all ranks hold. Only ranks import this.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from rdmatrain.bench.model import Case

# Up to which integers are exact: sums stay below.
_EXACT = {
    torch.float16: 1 << 11,
    torch.bfloat16: 1 << 8,
    torch.float32: 1 << 24,
    torch.uint8: (1 << 8) - 1,
    torch.int8: (1 << 7) - 1,
    torch.int16: (1 << 15) - 1,
}
_MAX_MODULUS = 1021
_PIECE = 1 << 17  # elements that are filled or checked at once: what that needs stays in the cache
Tensor = Any


@dataclass(frozen=True)
class Made:
    """A case that is ready.

    Attributes:
        call: the operation, over when it returns.
        written: what it writes; zeros there keep repeated sums from growing.
        result: what to look at on this rank.
        expected: gives what ``result`` must have at some of its positions.
        part: of the time of one call that counts: half for there and back.

    """

    call: Callable[[], object]
    written: list[Tensor]
    result: Tensor
    expected: Callable[[Tensor], Tensor]
    part: float = 1.0


@dataclass(frozen=True)
class Place:
    """Where tensors are made, and by whom.

    Attributes:
        rank: this one.
        ranks: of the group.
        device: torch's.
        group: None for the default one.

    """

    rank: int
    ranks: int
    device: Any
    group: Any = None


def make(case: Case, place: Place) -> Made:
    """Make the tensors of a case."""
    return _MAKERS[case.op](case, place)


def num_wrong(made: Made, case: Case) -> int:
    """Count the wrong elements of this rank's result; only averages are rounded."""
    count = 0
    for first in range(0, len(made.result), _PIECE):
        result = made.result[first : first + _PIECE].cpu()
        expected = made.expected(torch.arange(first, first + len(result)))
        if case.redop == "AVG" and expected.is_floating_point():
            allowed = 2 * torch.finfo(expected.dtype).eps * expected.double().abs()
            count += int(((result.double() - expected.double()).abs() > allowed).sum())
        else:
            count += int((result != expected).sum())
    return count


def _count(case: Case) -> int:
    return int(case.nbytes // _dtype(case).itemsize)


def _dtype(case: Case) -> Any:
    return getattr(torch, case.dtype)


def _integers(case: Case, place: Place, rank: "int | Tensor", index: Tensor) -> Tensor:
    """Return what a rank starts with at some indexes, as int64."""
    if case.redop == "PRODUCT":  # of all ranks: 2 or -2
        sign = 1 - 2 * ((index * (rank + 1)) % 3 == 0).to(torch.int64)
        return sign * (1 + (index % place.ranks == rank).to(torch.int64))
    exact = _EXACT.get(_dtype(case), 1 << 24)
    return (index + 7 * rank) % max(2, min(_MAX_MODULUS, exact // place.ranks))


def _values(case: Case, place: Place, rank: "int | Tensor", index: Tensor) -> Tensor:
    return _integers(case, place, rank, index).to(_dtype(case))


def _filled(case: Case, place: Place, rank: int, count: int) -> Tensor:
    """Return a tensor of plain torch.empty, as an application's."""
    return _fill(case, place, rank, torch.empty(count, dtype=_dtype(case), device=place.device))


def _fill(case: Case, place: Place, rank: int, out: Tensor) -> Tensor:
    """Give a tensor what a rank starts with."""
    for first in range(0, len(out), _PIECE):
        piece = out[first : first + _PIECE]
        piece.copy_(_values(case, place, rank, torch.arange(first, first + len(piece))))
    return out


def _empty(case: Case, place: Place, count: int) -> Tensor:
    return torch.zeros(count, dtype=_dtype(case), device=place.device)


def _reduced(case: Case, place: Place, index: Tensor) -> Tensor:
    """Return what all ranks start with at some indexes, reduced."""
    total = _integers(case, place, 0, index)
    for rank in range(1, place.ranks):
        more = _integers(case, place, rank, index)
        if case.redop in ("SUM", "AVG"):
            total += more
        elif case.redop == "PRODUCT":
            total *= more
        else:
            total = (torch.minimum if case.redop == "MIN" else torch.maximum)(total, more)
    dtype = _dtype(case)
    if case.redop == "AVG":
        if not dtype.is_floating_point:
            return torch.div(total, place.ranks, rounding_mode="trunc").to(dtype)
        return (total.double() / place.ranks).to(dtype)
    return total.to(dtype)


def _redop(case: Case) -> Any:
    return getattr(dist.ReduceOp, case.redop)


def _all_reduce(case: Case, place: Place) -> Made:
    count, op = _count(case), _redop(case)
    x = _filled(case, place, place.rank, count)
    return Made(
        lambda: dist.all_reduce(x, op=op, group=place.group),
        [x],
        x,
        lambda i: _reduced(case, place, i),
    )


def _reduce(case: Case, place: Place) -> Made:
    count, op, root = _count(case), _redop(case), case.root
    x = _filled(case, place, place.rank, count)
    shown = count if place.rank == root else 0  # what the others then hold is undefined
    return Made(
        lambda: dist.reduce(x, root, op=op, group=place.group),
        [x],
        x[:shown],
        lambda i: _reduced(case, place, i),
    )


def _reduce_scatter(case: Case, place: Place) -> Made:
    part, op = _count(case) // place.ranks, _redop(case)
    first = place.rank * part
    x = _filled(case, place, place.rank, part * place.ranks)
    out = x[first : first + part] if case.in_place else _empty(case, place, part)
    return Made(
        lambda: dist.reduce_scatter_tensor(out, x, op=op, group=place.group),
        [x, out],
        out,
        lambda i: _reduced(case, place, first + i),
    )


def _all_gather(case: Case, place: Place) -> Made:
    part = _count(case) // place.ranks
    out = _empty(case, place, part * place.ranks)
    own = out[place.rank * part : (place.rank + 1) * part]
    x = _fill(case, place, place.rank, own if case.in_place else torch.empty_like(own))
    return Made(
        lambda: dist.all_gather_into_tensor(out, x, group=place.group),
        [x, out],
        out,
        lambda i: _values(case, place, i // part, i % part),
    )


def _broadcast(case: Case, place: Place) -> Made:
    count, root = _count(case), case.root
    x = _filled(case, place, place.rank, count)
    return Made(
        lambda: dist.broadcast(x, root, group=place.group),
        [x],
        x,
        lambda i: _values(case, place, root, i),
    )


def _all_to_all(case: Case, place: Place) -> Made:
    part, rank = _count(case) // place.ranks, place.rank
    x = _filled(case, place, rank, part * place.ranks)
    out = _empty(case, place, part * place.ranks)
    return Made(
        lambda: dist.all_to_all_single(out, x, group=place.group),
        [x, out],
        out,
        lambda i: _values(case, place, i // part, rank * part + i % part),
    )


def _gather(case: Case, place: Place) -> Made:
    part, root = _count(case) // place.ranks, case.root
    x = _filled(case, place, place.rank, part)
    here = place.rank == root
    out = _empty(case, place, part * place.ranks if here else 0)
    parts = list(out.chunk(place.ranks)) if here else None
    return Made(
        lambda: dist.gather(x, parts, root, group=place.group),
        [x, out],
        out,
        lambda i: _values(case, place, i // part, i % part),
    )


def _scatter(case: Case, place: Place) -> Made:
    part, root, rank = _count(case) // place.ranks, case.root, place.rank
    x = _filled(case, place, root, part * place.ranks)
    out = _empty(case, place, part)
    parts = list(x.chunk(place.ranks)) if rank == root else None
    return Made(
        lambda: dist.scatter(out, parts, root, group=place.group),
        [x, out],
        out,
        lambda i: _values(case, place, root, rank * part + i),
    )


def _sendrecv(case: Case, place: Place) -> Made:
    count = _count(case)
    before, after = (place.rank - 1) % place.ranks, (place.rank + 1) % place.ranks
    x, out = _filled(case, place, place.rank, count), _empty(case, place, count)

    def call() -> None:
        ways = [
            dist.P2POp(dist.isend, x, after, place.group),
            dist.P2POp(dist.irecv, out, before, place.group),
        ]
        for work in dist.batch_isend_irecv(ways):
            work.wait()

    return Made(call, [x, out], out, lambda i: _values(case, place, before, i))


def _pingpong(case: Case, place: Place) -> Made:
    count, peer = _count(case), place.rank ^ 1
    x, out = _filled(case, place, place.rank, count), _empty(case, place, count)

    def serve() -> None:
        dist.send(x, peer, group=place.group)
        dist.recv(out, peer, group=place.group)

    def answer() -> None:
        dist.recv(out, peer, group=place.group)
        dist.send(x, peer, group=place.group)

    call = serve if place.rank < peer else answer
    return Made(call, [x, out], out, lambda i: _values(case, place, peer, i), part=0.5)


def _barrier(case: Case, place: Place) -> Made:
    nothing = _empty(case, place, 0)
    return Made(lambda: dist.barrier(place.group), [], nothing, lambda i: nothing)


_MAKERS: dict[str, Callable[[Case, Place], Made]] = {
    "all_reduce": _all_reduce,
    "reduce_scatter": _reduce_scatter,
    "all_gather": _all_gather,
    "broadcast": _broadcast,
    "reduce": _reduce,
    "all_to_all": _all_to_all,
    "gather": _gather,
    "scatter": _scatter,
    "sendrecv": _sendrecv,
    "barrier": _barrier,
    "pingpong": _pingpong,
}
