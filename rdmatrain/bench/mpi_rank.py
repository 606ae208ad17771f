"""A rank of an MPI library: answers a conductor's orders through mpi4py, on NumPy arrays.

Runs by path in the library's own environment, which has mpi4py and NumPy, and nothing of ours:
``mpirun -n 2 python mpi_rank.py openmpi``, with the variables that ``mpi.py`` sets.
"""

import functools
import importlib
import importlib.util
import os
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

if __name__ == "__main__":
    sys.path.pop(0)  # this folder, whose modules are no packages of others

import numpy as np

# This rank's number on this host, as Open MPI, Hydra and gforker call it.
RANK_VARIABLES = ("OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID", "PMI_RANK")
PIECE = 1 << 20  # elements that are checked at a time
MAX = 1 << 20  # that a sum of inputs must not reach; float32 is exact up to 1 << 24
MAX_SMALL = {"int8": 1 << 7, "uint8": 1 << 8}
UNSET = 77  # in what a call should overwrite

Array = np.ndarray[Any, np.dtype[Any]]
Order = dict[str, Any]

REDUCTIONS: dict[str, Callable[[Array, Array], Array]] = {
    "SUM": np.add,
    "PRODUCT": np.multiply,
    "MIN": np.minimum,
    "MAX": np.maximum,
}
MPI_NAMES = {"SUM": "SUM", "PRODUCT": "PROD", "MIN": "MIN", "MAX": "MAX"}


def main() -> None:
    """Be a rank until the conductor says end."""
    orders = load("orders.py")
    # Before MPI starts, which reads the affinity and may start threads.
    orders.pin_if_asked(
        int(next(os.environ[name] for name in RANK_VARIABLES if name in os.environ))
    )
    mpi = importlib.import_module("mpi4py.MPI")
    rank = Rank(mpi)
    hello = {
        "rank": rank.rank,
        "ranks": rank.ranks,
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "transport": "",  # MPI does not say
        "versions": {
            sys.argv[1]: ".".join(map(str, mpi.get_vendor()[1])),
            "mpi4py": version("mpi4py"),
            "numpy": np.__version__,
        },
    }
    handlers = {"prepare": rank.prepare, "time": rank.time, "drop": rank.drop}
    orders.serve(hello, handlers)


def load(name: str) -> ModuleType:
    """Import a neighbour of this file by its path."""
    spec = importlib.util.spec_from_file_location(Path(name).stem, Path(__file__).with_name(name))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def values(order: Order, ranks: int, rank: Any, index: Array) -> Array:
    """Return what a rank puts in at each index: no reduction of it is rounded, or overflows.

    Open MPI's sums of small integers saturate where they would overflow, and those of C wrap.

    Args:
        order: for which dtype and reduction.
        ranks: how many there are.
        rank: whose: one, or one for each index.
        index: 64-bit integers.

    """
    if order["redop"] == "PRODUCT":  # of all ranks: 2 or 3, or 1
        found: Array = np.where(index % (ranks + 1) == rank, 2 + index % 2, 1)
    else:
        found = (7 * index + 131 * rank) % max(2, MAX_SMALL.get(order["dtype"], MAX) // ranks)
    return found.astype(order["dtype"])


def expected(order: Order, rank: int, ranks: int, index: Array) -> Array:
    """Compute what the result of a rank has at each index, from what all ranks put in."""
    op, root = order["op"], order["root"]
    part = order["nbytes"] // np.dtype(order["dtype"]).itemsize // ranks
    if order["redop"]:
        at = index + rank * part if op == "reduce_scatter" else index
        inputs = (values(order, ranks, each, at) for each in range(ranks))
        return functools.reduce(REDUCTIONS[order["redop"]], inputs)
    came_from: dict[str, Callable[[], tuple[Any, Array]]] = {
        "all_gather": lambda: (index // part, index % part),
        "gather": lambda: (index // part, index % part),
        "all_to_all": lambda: (index // part, rank * part + index % part),
        "broadcast": lambda: (root, index),
        "scatter": lambda: (root, rank * part + index),
        "sendrecv": lambda: ((rank - 1) % ranks, index),
        "pingpong": lambda: (rank ^ 1, index),
    }
    return values(order, ranks, *came_from[op]())


@dataclass
class Call:
    """A call that is ready to be made.

    Attributes:
        order: that it is for.
        send: what goes in; in place, a view of ``result`` or the other way round.
        result: what comes out on this rank; empty if nothing does.
        make: makes the call.

    """

    order: Order
    send: Array
    result: Array
    make: Callable[[], Any]


class Rank:
    """A member of MPI's world.

    Args:
        mpi: the module mpi4py.MPI.

    """

    def __init__(self, mpi: Any) -> None:
        self._mpi = mpi
        self._comm = mpi.COMM_WORLD
        self.rank: int = self._comm.Get_rank()
        self.ranks: int = self._comm.Get_size()
        self._call: Call | None = None

    def prepare(self, order: Order) -> dict[str, Any]:
        """Allocate, call once on values, check the result if asked, and time a second call."""
        self._call = call = self._new_call(order)
        rank, ranks = self.rank, self.ranks
        if order["check"]:
            fill(call.send, lambda index: values(order, ranks, rank, index))
        call.make()
        nwrong = None
        if order["check"]:
            nwrong = count_wrong(call.result, lambda index: expected(order, rank, ranks, index))
        call.send.fill(0)  # sums of sums would overflow
        call.result.fill(0)
        return {"nwrong": nwrong, "guess_s": self.time({"warmup": 0, "calls": 1})["seconds"][0]}

    def time(self, order: Order) -> dict[str, Any]:
        """Meet, warm up, and time each call."""
        assert self._call is not None, "nothing is prepared"
        make, clock = self._call.make, time.perf_counter
        seconds = []
        self._comm.Barrier()
        for _ in range(order["warmup"]):
            make()
        self._comm.Barrier()
        for _ in range(order["calls"]):
            begin = clock()
            make()
            seconds.append(clock() - begin)
        trips = 2 if self._call.order["op"] == "pingpong" else 1
        return {"seconds": [each / trips for each in seconds]}

    def drop(self, order: Order) -> dict[str, Any]:
        """Free the arrays."""
        self._call = None
        return {}

    def _new_call(self, order: Order) -> Call:
        makers = {
            **dict.fromkeys(("all_reduce", "reduce", "reduce_scatter"), self._reducing),
            **dict.fromkeys(("all_gather", "gather", "scatter"), self._spreading),
            **dict.fromkeys(("sendrecv", "pingpong"), self._between_two),
            "all_to_all": self._all_to_all,
            "broadcast": self._broadcast,
            "barrier": self._barrier,
        }
        return makers[order["op"]](order)

    def _arrays(self, order: Order, sent: int = 1, received: int = 1) -> tuple[Array, Array]:
        """Return arrays to send from and to receive in; in place both are the same.

        Args:
            order: says how large the larger is.
            sent: what part of that is sent, a divisor.
            received: what part is received.

        """
        count = order["nbytes"] // np.dtype(order["dtype"]).itemsize
        result = np.full(count // received, UNSET, order["dtype"])
        if order["in_place"]:
            return result, result
        return np.zeros(count // sent, order["dtype"]), result

    def _reducing(self, order: Order) -> Call:
        comm, op = self._comm, getattr(self._mpi, MPI_NAMES[order["redop"]])
        split = self.ranks if order["op"] == "reduce_scatter" and not order["in_place"] else 1
        send, result = self._arrays(order, received=split)
        source = self._mpi.IN_PLACE if order["in_place"] else send
        if order["op"] == "all_reduce":
            return Call(order, send, result, lambda: comm.Allreduce(source, result, op))
        if order["op"] == "reduce_scatter":
            shown = result[: send.size // self.ranks]  # all of it, unless in place
            return Call(order, send, shown, lambda: comm.Reduce_scatter_block(source, result, op))
        root = order["root"]
        if self.rank == root:
            return Call(order, send, result, lambda: comm.Reduce(source, result, op, root))
        return Call(order, send, result[:0], lambda: comm.Reduce(send, None, op, root))

    def _spreading(self, order: Order) -> Call:
        comm, root, ranks = self._comm, order["root"], self.ranks
        if order["op"] == "scatter":
            send, result = self._arrays(order, received=ranks)
            source = send if self.rank == root else None
            return Call(order, send, result, lambda: comm.Scatter(source, result, root))
        send, result = self._arrays(order, sent=ranks)
        if order["op"] == "gather":
            out = result if self.rank == root else None
            return Call(
                order,
                send,
                result if out is result else result[:0],
                lambda: comm.Gather(send, out, root),
            )
        if not order["in_place"]:
            return Call(order, send, result, lambda: comm.Allgather(send, result))
        mine = np.split(result, ranks)[self.rank]
        return Call(order, mine, result, lambda: comm.Allgather(self._mpi.IN_PLACE, result))

    def _all_to_all(self, order: Order) -> Call:
        send, result = self._arrays(order)
        source = self._mpi.IN_PLACE if order["in_place"] else send
        return Call(order, send, result, lambda: self._comm.Alltoall(source, result))

    def _broadcast(self, order: Order) -> Call:
        root = order["root"]
        buffer, _ = self._arrays(order)
        send = buffer if self.rank == root else buffer[:0]
        return Call(order, send, buffer, lambda: self._comm.Bcast(buffer, root))

    def _between_two(self, order: Order) -> Call:
        comm, rank, ranks = self._comm, self.rank, self.ranks
        send, result = self._arrays(order)
        if order["op"] == "sendrecv":
            after, before = (rank + 1) % ranks, (rank - 1) % ranks
            return Call(
                order, send, result, lambda: comm.Sendrecv(send, after, 0, result, before, 0)
            )
        peer = rank ^ 1

        def begin() -> None:
            comm.Send(send, peer)
            comm.Recv(result, peer)

        def answer() -> None:
            comm.Recv(result, peer)
            comm.Send(send, peer)

        return Call(order, send, result, begin if rank < peer else answer)

    def _barrier(self, order: Order) -> Call:
        nothing = np.zeros(0, order["dtype"])
        return Call(order, nothing, nothing, self._comm.Barrier)


def fill(array: Array, value: Callable[[Array], Array]) -> None:
    """Set each element to the value of its index."""
    for start in range(0, array.size, PIECE):
        piece = array[start : start + PIECE]
        piece[:] = value(np.arange(start, start + piece.size))


def count_wrong(array: Array, value: Callable[[Array], Array]) -> int:
    """Count the elements that are not the value of their index."""
    wrong = 0
    for start in range(0, array.size, PIECE):
        piece = array[start : start + PIECE]
        wrong += int((piece != value(np.arange(start, start + piece.size))).sum())
    return wrong


if __name__ == "__main__":
    main()
