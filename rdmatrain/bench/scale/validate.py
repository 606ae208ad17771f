"""Whether the simulation is right: real all_reduces between hosts of this machine, and predicted.

The hosts are network namespaces at one switch whose cables have a known rate (``namespaces.py``);
their ranks are threads, which run the library over tcp, and over shm within a host. What the
engine is fed with is measured between two of them, by messages there and back; then it predicts
all_reduces of more hosts, in each way, which it has not seen.
"""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rdmatrain import _core
from rdmatrain.bench.scale import engine, namespaces, plans
from rdmatrain.bench.scale.engine import Tree
from rdmatrain.bench.scale.plans import Costs, Group
from rdmatrain.bench.scale.threads import at_once, enter

MBIT = 100
SIZES = (64, 16 << 10, 1 << 20)
GROUPS = (Group(4, 1), Group(8, 1), Group(8, 2))
WAIT_S = 60.0
PING_BYTES, LARGE_BYTES, MANY = 8, 2 << 20, 100
CALLS, LONG_CALLS, LONG_BYTES = 200, 10, 1 << 18


@dataclass(frozen=True)
class Fed:
    """What was measured between two hosts.

    Attributes:
        latency_s: of a small message, one way.
        message_s: of each of many small ones.
        bytes_per_s: of large ones.

    """

    latency_s: float
    message_s: float
    bytes_per_s: float


@dataclass(frozen=True)
class Check:
    """One measured all_reduce, and what was predicted."""

    way: str
    ranks: int
    hosts: int
    nbytes: int
    measured_s: float
    predicted_s: float

    @property
    def error_percent(self) -> float:
        """How much too long the prediction is, in percent of what was measured."""
        return 100 * (self.predicted_s / self.measured_s - 1)


@contextmanager
def _group(names: Sequence[str], group: Group, way: str) -> Iterator[list[_core.Comm]]:
    """Connect ranks, those of a host over shm."""
    token = os.urandom(16)
    hosts = [rank // group.per_host for rank in range(group.ranks)]
    tuning = {"way": 1 + plans.WAYS.index(way)}
    comms = [
        _core.Comm(rank, group.ranks, token, hosts=hosts, tuning=tuning)
        for rank in range(group.ranks)
    ]

    def listen(rank: int) -> tuple[bytes, bytes]:
        enter(names[hosts[rank]])
        tcp = comms[rank].listen("tcp", namespaces.address(hosts[rank]))
        return tcp, comms[rank].listen("shm")

    try:
        wires = at_once(group.ranks, listen).given

        def connect(rank: int) -> None:
            enter(names[hosts[rank]])
            peers = [
                ("shm", shm, "") if hosts[peer] == hosts[rank] else ("tcp", tcp, "")
                for peer, (tcp, shm) in enumerate(wires)
            ]
            comms[rank].connect(peers, WAIT_S)

        at_once(group.ranks, connect)
        yield comms
    finally:
        for comm in comms:
            comm.close()


def _ping(comm: _core.Comm, rank: int, nbytes: int, times: int) -> float:
    """Seconds of a message one way: half of there and back."""
    data = bytearray(nbytes)
    taken = []
    for turn in range(times + 2):
        began = time.perf_counter()
        for sends in (rank == 0, rank == 1):
            if sends:
                comm.post("send", in_=data, peer=1 - rank, timeout=WAIT_S).wait()
            else:
                comm.post("recv", out=data, peer=1 - rank, timeout=WAIT_S).wait()
        if turn >= 2:
            taken.append((time.perf_counter() - began) / 2)
    return min(taken)


def _stream(comm: _core.Comm, rank: int) -> float:
    """Seconds of each of many small messages that are on the way at once."""
    data = [bytearray(PING_BYTES) for _ in range(MANY)]
    taken = []
    for _ in range(LONG_CALLS):
        began = time.perf_counter()
        if rank == 0:
            works = [comm.post("send", in_=each, peer=1, timeout=WAIT_S) for each in data]
        else:
            works = [comm.post("recv", out=each, peer=0, timeout=WAIT_S) for each in data]
        for work in works:
            work.wait()
        taken.append((time.perf_counter() - began) / MANY)
    return min(taken)


def feed(names: Sequence[str]) -> Fed:
    """Measure what the engine is fed with, between the first two hosts."""
    with _group(names, Group(2, 1), "flat") as comms:

        def body(rank: int) -> tuple[float, float, float]:
            comm = comms[rank]
            return (
                _ping(comm, rank, PING_BYTES, CALLS),
                _stream(comm, rank),
                _ping(comm, rank, LARGE_BYTES, LONG_CALLS),
            )

        small, each, large = map(max, zip(*at_once(2, body).given, strict=True))
    return Fed(small, each, LARGE_BYTES / (large - small))


def _time(comms: Sequence[_core.Comm], nbytes: int) -> float:
    """Seconds of the fastest all_reduce, on its slowest rank."""
    calls = CALLS if nbytes < LONG_BYTES else LONG_CALLS

    def body(rank: int) -> list[float]:
        data = bytearray(nbytes)
        taken = []
        for turn in range(calls + 2):
            began = time.perf_counter()
            comms[rank].post("all_reduce", "float32", out=data, timeout=WAIT_S).wait()
            if turn >= 2:
                taken.append(time.perf_counter() - began)
        return taken

    taken = at_once(len(comms), body).given
    return float(min(max(call) for call in zip(*taken, strict=True)))


def validate(
    sizes: Sequence[int],
    told: Callable[[Check], object],
    begins: Callable[[str], object] = lambda _: None,
    mbit: int = MBIT,
) -> Fed:
    """Measure and predict.

    Args:
        sizes: in bytes.
        told: gets each check as it is known.
        begins: gets what is measured next.
        mbit: of each cable.

    Returns:
        What the engine was fed with.

    Raises:
        NoHostsError: there can be no hosts here.
        EngineError: there is no engine, or it failed.
        RanksError: a rank failed.

    """
    with engine.built() as program, namespaces.hosts(max(g.hosts for g in GROUPS), mbit) as names:
        fed = feed(names)
        for group, way, fitting in parts(sizes):
            begins(f"{way}, {group.ranks} ranks on {group.hosts} hosts")
            with _group(names, group, way) as comms:
                measured = [_time(comms, nbytes) for nbytes in fitting]
            predicted = _predict(program, fed, group, way, fitting)
            for nbytes, real, said in zip(fitting, measured, predicted, strict=True):
                told(Check(way, group.ranks, group.hosts, nbytes, real, said))
    return fed


def parts(sizes: Sequence[int]) -> Iterator[tuple[Group, str, list[int]]]:
    """Yield the groups and ways, each with the sizes that fit."""
    for group in GROUPS:
        for way in plans.WAYS:
            fitting = [nbytes for nbytes in sizes if plans.fits(group, way, nbytes)]
            if fitting:
                yield group, way, fitting


def _predict(program: Path, fed: Fed, group: Group, way: str, sizes: Sequence[int]) -> list[float]:
    """Return what the engine says: hosts at one switch, whose ranks share a cable, and the CPUs.

    What a rank pays itself takes as many times longer as there are ranks for each CPU.

    """
    crowd = max(1.0, group.ranks / len(os.sched_getaffinity(0)))
    table = _core.default_tuning(group.ranks)
    costs = Costs(
        latency_s=crowd * max(fed.latency_s - fed.message_s, 0.0),
        message_s=crowd * fed.message_s,
        host_latency_s=crowd * table["host_latency"] / 1e9,
        host_message_s=crowd * table["host_message"] / 1e9,
        host_bytes_per_s=table["host_bandwidth"] * 1e6 / crowd,
    )
    tree = Tree((group.hosts,), (1,), fed.bytes_per_s, 0.0)
    nodes = [rank // group.per_host for rank in range(group.ranks)]
    jobs = [
        engine.Job(nodes, plans.stages(group, way, nbytes, costs, merge=group.ranks))
        for nbytes in sizes
    ]
    return engine.run(program, tree, jobs, WAIT_S)
