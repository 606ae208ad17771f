"""How long a group takes to form, and to meet, by the number of its ranks.

Ranks are threads of this process, each as if on a host of its own. Ranks of ``eager``, ``lazy``
and ``verbs`` know each other's addresses; those of ``hash`` and ``tcp`` form the group through that
store of torch, as ``init_process_group`` does, with a client of its own for each. All are over tcp,
but ``verbs``: as ``lazy``, over the scripted device of csrc/ibv, whose one lock all ranks share.

Pairs are counted after a small all_reduce, and again after a large one and a reduce_scatter, as
training has them: not over ``verbs``, where each end of a pair has 4 MiB, here all in one process,
nor where all would meet (hosts whose number is a prime) and there are no files for that many.
"""

import os
import resource
import statistics
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from rdmatrain import _core
from rdmatrain.bench.scale.threads import LIMIT_S, RanksError, at_once
from rdmatrain.comm import host
from rdmatrain.comm.bootstrap import Place, connect, forming
from rdmatrain.comm.pairs import ASSUMED_GBPS
from rdmatrain.comm.tuning import whole_table
from rdmatrain.config import Settings

KINDS = ("eager", "lazy", "verbs", "hash", "tcp")
ALONE = KINDS[:3]  # without a store
LOOPBACK = "127.0.0.1"
FAKE = f"rails=fake0/1/1 addr={LOOPBACK} fake="
FIRST_BYTES, LARGE_BYTES = 8, 64 << 10
SHARERS = "LOCAL_WORLD_SIZE"
SPARE_FILES = 256
PASS_RANKS, PASS_S = 128, 5.0  # what so many ranks may need to form and to meet

Form = Callable[[int], _core.Comm]


@dataclass(frozen=True)
class Setup:
    """Groups of one kind and size that were formed, one after the other: medians of them.

    Attributes:
        kind: of ``KINDS``.
        ranks: of each group.
        form_s: until the last rank is connected.
        first_s: of the first all_reduce, for which lazy ranks connect.
        largest_s: the largest sum of both.
        cpu_s: CPU seconds of all ranks together.
        pairs: connections that there are then.
        asks: questions to the store.
        large_pairs: connections after an all_reduce of ``LARGE_BYTES`` and a reduce_scatter; None:
            they were left out.

    """

    kind: str
    ranks: int
    form_s: float
    first_s: float
    largest_s: float
    cpu_s: float
    pairs: float
    asks: float
    large_pairs: float | None = None


class CountingStore:
    """One rank's way to the store; counts what it asks."""

    def __init__(self, store: Any) -> None:
        self.asks = 0
        self._store = store

    def __getattr__(self, name: str) -> Any:
        self.asks += 1
        return getattr(self._store, name)


def measure(kind: str, world: int, rounds: int) -> Setup:
    """Form groups, let each meet, and close it.

    Raises:
        RanksError: a rank failed, or there are too few file descriptors.

    """
    _need_files(kind, world)
    with _as_hosts(world):
        runs = [_measure_once(kind, world, _may_meet_more(kind, world)) for _ in range(rounds)]
    median = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
    largest = max(run["form_s"] + run["first_s"] for run in runs)
    return Setup(kind, world, largest_s=largest, **median)


@contextmanager
def _as_hosts(world: int) -> Iterator[None]:
    """Let each thread be on a host of its own; they still know that they share the CPUs."""
    before, was = host.host_id, os.environ.get(SHARERS)
    host.host_id = lambda: threading.current_thread().name
    os.environ[SHARERS] = str(world)
    try:
        yield
    finally:
        host.host_id = before
        if was is None:
            del os.environ[SHARERS]
        else:
            os.environ[SHARERS] = was


def _need_files(kind: str, world: int) -> None:
    """Let this process open two descriptors for each pair of ranks, where all of them connect."""
    needed = world * (world - 1 if kind == "eager" else 64) + SPARE_FILES
    if (limit := _allow_files(needed)) < needed:
        raise RanksError(
            f"{world} {kind} ranks need {needed} open files, and the limit is {limit}: ulimit -Hn"
        )


def _may_meet_more(kind: str, world: int) -> bool:
    if kind == "verbs":
        return False
    ways = _core.collective_ways("all_reduce", world, world, LARGE_BYTES, {})
    if any(name == "halving" and chosen for name, _, chosen in ways):
        return True  # there are files enough already
    needed = 2 * world * (world - 1) + SPARE_FILES  # both of a pair may call each other at once
    return _allow_files(needed) >= needed


def _allow_files(needed: int) -> int:
    """Let this process have so many open files, or as many as it may; return how many that is."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= needed:
        return soft
    allowed = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    return allowed


def _num_sockets() -> int:
    links = [str(path.readlink()) for path in Path("/proc/self/fd").iterdir() if path.is_symlink()]
    return sum(link.startswith("socket:") for link in links)


def _form_alone(kind: str, world: int) -> tuple[Form, list[CountingStore]]:
    """Ranks that listen already."""
    token = os.urandom(16)
    hosts = list(range(world))
    tuning = whole_table(world, world, ASSUMED_GBPS if kind == "verbs" else 0.0, {})
    comms = [
        _core.Comm(rank, world, token, hosts=hosts, lazy=kind != "eager", tuning=tuning)
        for rank in range(world)
    ]
    listen = ("verbs", FAKE) if kind == "verbs" else ("tcp", LOOPBACK)
    peers = [(listen[0], comm.listen(*listen), "") for comm in comms]

    def form(rank: int) -> _core.Comm:
        comms[rank].connect(peers, LIMIT_S)
        return comms[rank]

    return form, []


def _form_through(kind: str, world: int) -> tuple[Form, list[CountingStore]]:
    """Ranks that know a store, and listen on the way."""
    import torch.distributed as dist  # noqa: PLC0415 - takes seconds

    limit = timedelta(seconds=LIMIT_S)
    if kind == "hash":
        stores: list[Any] = [dist.HashStore()] * world
    else:
        server = dist.TCPStore(LOOPBACK, 0, is_master=True, timeout=limit, wait_for_workers=False)
        stores = [server]
        stores += [dist.TCPStore(LOOPBACK, server.port, timeout=limit) for _ in range(world - 1)]
    counting = [CountingStore(store) for store in stores]
    settings = Settings(transport="tcp", addr=LOOPBACK)

    def form(rank: int) -> _core.Comm:
        with forming(counting[rank], Place(rank, world, LIMIT_S, LOOPBACK)) as turn:
            return connect(turn, settings)

    return form, counting


def _meet(comm: _core.Comm, nbytes: int) -> None:
    data = bytearray(nbytes)
    comm.post("all_reduce", "float64", out=data, timeout=LIMIT_S).wait()


def _scatter(comm: _core.Comm, world: int) -> None:
    given, data = bytearray(FIRST_BYTES * world), bytearray(FIRST_BYTES)
    comm.post("reduce_scatter", "float64", in_=given, out=data, timeout=LIMIT_S).wait()


def _measure_once(kind: str, world: int, large: bool) -> dict[str, float]:
    alone = kind in ALONE
    form, stores = (_form_alone if alone else _form_through)(kind, world)
    before = _num_sockets() + (0 if alone else world)
    formed = at_once(world, form)
    asks = sum(store.asks for store in stores)
    met = at_once(world, lambda rank: _meet(formed.given[rank], FIRST_BYTES))
    found = {
        "form_s": formed.seconds,
        "first_s": met.seconds,
        "cpu_s": formed.cpu_s + met.cpu_s,
        "pairs": (_num_sockets() - before) / 2,
        "asks": asks,
    }
    if large:
        at_once(world, lambda rank: _meet(formed.given[rank], LARGE_BYTES))
        at_once(world, lambda rank: _scatter(formed.given[rank], world))
        found["large_pairs"] = (_num_sockets() - before) / 2
    at_once(world, lambda rank: formed.given[rank].close())
    return found
