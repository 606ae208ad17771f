"""Ranks as threads of one process, joined by any transport. Nothing here can hang a test."""

import ctypes
import faulthandler
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pytest
from oracle import Array

from rdmatrain import _core
from rdmatrain.comm import rdma
from rdmatrain.config import Settings

LIMIT_S = 40.0  # for the threads of a test together
CALL_S = 10.0  # for one operation: turns most hangs into an error that says which one
CONNECT_S = 15.0
LOOPBACK = "127.0.0.1"
DEVICE = os.environ.get("VM_DEVICE", "")  # for RDMA, in a guest of tests/vm


def on_fake(rails: str, script: str = "") -> str:
    """What the verbs transport is opened with on the fake of csrc/ibv."""
    return f"rails={rails} addr={LOOPBACK} fake={script}"


def on_device() -> str:
    """The same on the guest's device."""
    settings = Settings(devices=DEVICE)
    return rdma.listen_argument(rdma.find_rails(settings).rails, LOOPBACK, settings)


# A new transport joins the contract here: what each rank listens on, as (transport, argument).
# With "-arena" in its name, call() moves the arrays into the arena; "-some": of odd ranks only.
# With "-place", all data that can be goes straight into the receiver's array, however small it is.
LISTENS: dict[str, list[tuple[str, str | None]]] = {
    "shm": [("shm", None)],
    "tcp": [("tcp", LOOPBACK)],
    "tcp-lazy": [("tcp", LOOPBACK)],  # ranks are connected when they need each other
    "verbs-fake-lazy": [("verbs", on_fake("fake0/1/1"))],
    "verbs-fake-arena-lazy": [("verbs", on_fake("fake0/1/1+fake1/1/1", "delay=3;seed=6"))],
    "mixed": [("shm", None), ("tcp", LOOPBACK)],  # two hosts: even ranks and odd ranks
    "tcp-arena-place": [("tcp", LOOPBACK)],
    "shm-arena": [("shm", None)],
    "shm-arena-some": [("shm", None)],
    "verbs-fake": [("verbs", on_fake("fake0/1/1"))],
    "verbs-fake-arena": [("verbs", on_fake("fake0/1/1+fake1/1/1", "delay=3;seed=4"))],
    "mixed-verbs": [("shm", None), ("verbs", on_fake("fake0/1/1"))],
    "fake": [("fake", None)],
    "fake-delay-arena": [("fake", "delay=3,seed=8")],
    "fake-delay": [("fake", "delay=3,seed=5")],
    "fake-delay-slot": [("fake", "delay=7,slots=1,seed=9")],
    "fake-delay-place": [("fake", "delay=4,slots=2,seed=11,place=1")],
}
if DEVICE:
    LISTENS |= {f"verbs{kind}": [("verbs", on_device())] for kind in ("", "-arena", "-lazy")}
TRANSPORTS = tuple(LISTENS)
# Of these, what every dtype, size and reduction runs over: the rest differ in how ranks are joined.
MATRIX = tuple(name for name in LISTENS if "-lazy" not in name and name != "mixed-verbs")
REAL = ("shm", "tcp", "verbs") if DEVICE else ("shm", "tcp")


def sizes(*counts: int) -> tuple[int, ...]:
    """Of these numbers of elements, all but the large ones where emulated CPUs move them."""
    return tuple(count for count in counts if count <= 100_000 or not DEVICE)


LEAD_BYTES = 24  # an odd number of elements of 8 bytes, off a cache line for all
MEMORY = threading.local()  # in_arena: whether this thread is a rank that moves its arrays

Body = Callable[[_core.Comm, int], Any]


@dataclass
class Outcome:
    """How a rank's body ended."""

    value: Any = None
    error: Exception | None = None
    seconds: float = 0.0


def stacks() -> str:
    """Where every thread of this process is."""
    with tempfile.TemporaryFile("w+") as file:
        faulthandler.dump_traceback(file, all_threads=True)
        file.seek(0)
        return file.read()


def run_threads(bodies: Sequence[Callable[[], Any]], limit_s: float = LIMIT_S) -> list[Outcome]:
    """Runs each body in a thread of its own; fails with all stacks if one does not end."""
    outcomes = [Outcome() for _ in bodies]

    def guarded(index: int) -> None:
        started = time.monotonic()
        try:
            outcomes[index].value = bodies[index]()
        except Exception as error:  # noqa: BLE001, RUF100 - every error is the outcome
            outcomes[index].error = error
        outcomes[index].seconds = time.monotonic() - started

    deadline = time.monotonic() + limit_s
    threads = [
        threading.Thread(target=guarded, args=(i,), name=f"body {i}", daemon=True)
        for i in range(len(bodies))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    hung = [thread.name for thread in threads if thread.is_alive()]
    if hung:
        pytest.fail(f"after {limit_s} s still running: {hung}\n{stacks()}", pytrace=False)
    return outcomes


def results(outcomes: Sequence[Outcome]) -> list[Any]:
    """The values, or the first error."""
    for rank, outcome in enumerate(outcomes):
        if outcome.error is not None:
            raise AssertionError(f"rank {rank} failed") from outcome.error
    return [outcome.value for outcome in outcomes]


def in_arena(data: Array, lead: int = 1) -> Array:
    """A copy in the arena, so many elements behind the start of its block."""
    block = np.frombuffer(_core.arena_buffer((lead + data.size) * data.itemsize), data.dtype)
    block[lead:] = data
    return block[lead:]


def span_of(buffer: Any) -> tuple[int, int]:
    """Where the buffer begins and ends; (0, 0) for what cannot be moved, or need not be."""
    array = np.asarray(buffer)
    if array.size == 0 or not array.flags.c_contiguous:
        return (0, 0)
    start = array.__array_interface__["data"][0]
    return (start, start + array.nbytes)


def bytes_at(span: tuple[int, int]) -> Array:
    return np.ctypeslib.as_array((ctypes.c_uint8 * (span[1] - span[0])).from_address(span[0]))


def arena_call(comm: _core.Comm, coll: str, dtype: str, op: str, kwargs: dict[str, Any]) -> None:
    """As call, on copies in the arena; buffers that overlap do so there as well."""
    given = {name: span_of(kwargs[name]) for name in ("in_", "out") if kwargs.get(name) is not None}
    spans = {name: span for name, span in given.items() if span != (0, 0)}
    if any(memoryview(kwargs["out"]).readonly for name in spans if name == "out"):
        spans = {}
    if len(spans) == 2 and spans["in_"][0] < spans["out"][1] and spans["out"][0] < spans["in_"][1]:
        both = (min(s[0] for s in spans.values()), max(s[1] for s in spans.values()))
        homes = dict.fromkeys(spans, (both[0], in_arena(bytes_at(both), LEAD_BYTES)))
    else:
        homes = {name: (s[0], in_arena(bytes_at(s), LEAD_BYTES)) for name, s in spans.items()}
    moved = {
        name: home[spans[name][0] - start : spans[name][1] - start]
        for name, (start, home) in homes.items()
    }
    try:
        comm.post(coll, dtype, op, **{**kwargs, **moved}).wait()
    finally:
        if "out" in moved:
            bytes_at(spans["out"])[:] = moved["out"]


def call(comm: _core.Comm, coll: str, dtype: str = "uint8", op: str = "SUM", **kwargs: Any) -> None:
    """Posts and waits."""
    kwargs = {"timeout": CALL_S, **kwargs}
    if getattr(MEMORY, "in_arena", False):
        arena_call(comm, coll, dtype, op, kwargs)
    else:
        comm.post(coll, dtype, op, **kwargs).wait()


class Group:
    """Ranks of one group; connected unless told otherwise."""

    def __init__(
        self,
        transport: str,
        world: int,
        *,
        chunk_bytes: int = 0,
        tuning: dict[str, int] | None = None,
        scripts: Sequence[str | None] | None = None,
        connected: bool = True,
        hosts: Sequence[int] | None = None,
    ) -> None:
        self.transport = transport
        self.world = world
        token = os.urandom(16)
        changes = {"chunk": chunk_bytes} if chunk_bytes else {}
        changes |= {"place": 0} if "-place" in transport else {}
        changes |= tuning or {}
        if "-arena" in transport:
            _core.arena_open()
        self.comms = [
            _core.Comm(rank, world, token, tuning=changes, hosts=hosts, lazy="-lazy" in transport)
            for rank in range(world)
        ]
        self._wires: list[dict[str, bytes]] = []
        for rank, comm in enumerate(self.comms):
            listens = LISTENS[transport] if scripts is None else [("fake", scripts[rank])]
            self._wires.append({name: comm.listen(name, arg) for name, arg in listens})
        if connected:
            results(self.outcomes(lambda comm, rank: comm.connect(self.peers(rank), CONNECT_S)))

    def peers(self, rank: int) -> list[tuple[str, bytes, str]]:
        """How the rank reaches each one; labels are "thread N"."""
        return [self._peer(rank, other) for other in range(self.world)]

    def _peer(self, rank: int, other: int) -> tuple[str, bytes, str]:
        names = list(self._wires[other])
        name = names[(rank + other) % 2] if len(names) == 2 else names[0]
        return (name, self._wires[other][name], f"thread {other}")

    def outcomes(self, body: Body, limit_s: float = LIMIT_S) -> list[Outcome]:
        """Runs body(comm, rank) as every rank at once."""

        def as_rank(rank: int, comm: _core.Comm) -> Any:
            some = self.transport.endswith("-some")
            MEMORY.in_arena = "-arena" in self.transport and (rank % 2 == 1 or not some)
            return body(comm, rank)

        return run_threads(
            [lambda c=comm, r=rank: as_rank(r, c) for rank, comm in enumerate(self.comms)], limit_s
        )

    def run(self, body: Body, limit_s: float = LIMIT_S) -> list[Any]:
        """As outcomes, for bodies that must succeed: the values."""
        return results(self.outcomes(body, limit_s))

    def run_each(
        self, body: Callable[[_core.Comm, int, Any], Any], cases: Sequence[Any]
    ) -> Iterator[tuple[Any, list[Any]]]:
        """As run, for one case after the other: each case, and the values of its bodies."""
        for case in cases:
            yield case, self.run(partial(lambda given, comm, rank: body(comm, rank, given), case))

    def close(self) -> None:
        results(self.outcomes(lambda comm, _: comm.close()))
