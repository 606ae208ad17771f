"""Measure how long a group takes to form, and to meet, by the number of its ranks.

Ranks are threads of this process, each as if on a host of its own. ``eager`` and ``lazy`` are ranks
that know each other's addresses; ``hash`` and ``tcp`` form the group through that store of torch,
as ``init_process_group`` does, with a client of its own for each rank. ``form`` is the time until
the last rank is connected, ``first`` that of the first all_reduce, for which lazy ranks connect;
``pairs`` are the connections that there are then; ``asks`` are questions to the store. Each pair
needs two descriptors, so 128 ranks need a limit of 20,000 open files in one process.
"""

import argparse
import os
import statistics
import sys
import threading
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch.distributed as dist
from common import append_records, others_share, where

from rdmatrain import _core
from rdmatrain.comm import host
from rdmatrain.comm.bootstrap import Place, connect, forming
from rdmatrain.config import Settings

LOOPBACK = "127.0.0.1"
LIMIT_SECONDS = 120.0
PASS_RANKS, PASS_SECONDS = 128, 5.0
FIRST_BYTES = 8

Form = Callable[[int], _core.Comm]


class CountingStore:
    """One rank's way to the store; counts what it asks."""

    def __init__(self, store: dist.Store) -> None:
        self.asks = 0
        self._store = store

    def __getattr__(self, name: str) -> Any:
        self.asks += 1
        return getattr(self._store, name)


def num_sockets() -> int:
    """Count the sockets of this process."""
    links = [str(path.readlink()) for path in Path("/proc/self/fd").iterdir() if path.is_symlink()]
    return sum(link.startswith("socket:") for link in links)


def at_once(world: int, body: Callable[[int], Any]) -> tuple[float, float, list[Any]]:
    """Run all ranks; seconds until the last one is done, CPU seconds of all, and what they gave."""
    given: dict[int, Any] = {}
    errors: list[Exception] = []
    ready = threading.Barrier(world + 1)

    def run(rank: int) -> None:
        ready.wait()
        try:
            given[rank] = body(rank)
        except Exception as error:
            errors.append(error)

    threads = [
        threading.Thread(target=run, args=(rank,), name=f"host {rank}") for rank in range(world)
    ]
    for thread in threads:
        thread.start()
    ready.wait()
    began, cpu = time.perf_counter(), time.process_time()
    for thread in threads:
        thread.join(LIMIT_SECONDS)
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    if errors or len(given) < world:
        raise SystemExit(f"{world - len(given)} of {world} ranks failed: {errors[:1]}")
    return seconds, cpu, [given[rank] for rank in range(world)]


def form_alone(kind: str, world: int) -> tuple[Form, list[CountingStore]]:
    """Ranks that listen already."""
    token = os.urandom(16)
    hosts = list(range(world))
    comms = [
        _core.Comm(rank, world, token, hosts=hosts, lazy=kind == "lazy") for rank in range(world)
    ]
    peers = [("tcp", comm.listen("tcp", LOOPBACK), "") for comm in comms]

    def form(rank: int) -> _core.Comm:
        comms[rank].connect(peers, LIMIT_SECONDS)
        return comms[rank]

    return form, []


def form_through(kind: str, world: int) -> tuple[Form, list[CountingStore]]:
    """Ranks that know a store, and listen on the way."""
    limit = timedelta(seconds=LIMIT_SECONDS)
    os.environ["LOCAL_WORLD_SIZE"] = str(world)  # for all their hosts they share the CPUs
    if kind == "hash":
        stores: list[dist.Store] = [dist.HashStore()] * world
    else:
        server = dist.TCPStore(LOOPBACK, 0, is_master=True, timeout=limit, wait_for_workers=False)
        stores = [server]
        stores += [dist.TCPStore(LOOPBACK, server.port, timeout=limit) for _ in range(world - 1)]
    counting = [CountingStore(store) for store in stores]
    settings = Settings(transport="tcp", addr=LOOPBACK)

    def form(rank: int) -> _core.Comm:
        with forming(counting[rank], Place(rank, world, LIMIT_SECONDS, LOOPBACK)) as turn:
            return connect(turn, settings)

    return form, counting


def reduce_first(comm: _core.Comm) -> None:
    """Meet the other ranks for the first time."""
    data = bytearray(FIRST_BYTES)
    comm.post("all_reduce", "float64", out=data, timeout=LIMIT_SECONDS).wait()


def measure_once(kind: str, world: int) -> dict[str, float]:
    """Form a group, let it meet, and close it."""
    alone = kind in ("eager", "lazy")
    form, stores = (form_alone if alone else form_through)(kind, world)
    before = num_sockets() + (0 if alone else world)
    seconds, cpu, comms = at_once(world, form)
    asks = sum(store.asks for store in stores)
    first, more, _ = at_once(world, lambda rank: reduce_first(comms[rank]))
    pairs = (num_sockets() - before) / 2
    at_once(world, lambda rank: comms[rank].close())
    return {"form": seconds, "first": first, "cpu": cpu + more, "asks": asks, "pairs": pairs}


def measure(kind: str, world: int, rounds: int) -> dict[str, Any]:
    """Form groups, one after the other; medians, and the largest sum of both times."""
    before = others_share()
    runs = [measure_once(kind, world) for _ in range(rounds)]
    used, total = others_share(before)
    medians = {what: statistics.median(run[what] for run in runs) for what in runs[0]}
    largest = max(run["form"] + run["first"] for run in runs)
    others = used / total if total else 0.0
    return {"kind": kind, "ranks": world, **medians, "largest": largest, "others": others}


def print_row(record: dict[str, Any]) -> None:
    """One line of the table."""
    print(
        f"{record['kind']:>5} {record['ranks']:6d} {record['form']:8.3f} {record['first']:9.3f} "
        f"{record['largest']:11.3f} {record['cpu']:8.3f} {record['pairs']:7.0f} "
        f"{record['asks']:6.0f} {100 * record['others']:6.1f} %",
        flush=True,
    )


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--ranks", default="2,8,32,128", help="numbers of ranks, with commas")
    parser.add_argument("--kinds", default="eager,lazy,hash,tcp")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="append records to this file")
    return parser.parse_args(argv)


def main() -> int:
    """Print the table; 1 when 128 ranks need more time than is allowed."""
    args = parse(sys.argv[1:])
    host.host_id = lambda: threading.current_thread().name
    records = []
    print(" kind  ranks form [s] first [s] largest [s]  CPU [s]   pairs   asks   others")
    for kind in args.kinds.split(","):
        for world in map(int, args.ranks.split(",")):
            record = measure(kind, world, args.rounds)
            print_row(record)
            records.append({**record, **where(), "argv": " ".join(sys.argv)})
    if args.json:
        append_records(args.json, records)
    slowest = max((r["largest"] for r in records if r["ranks"] == PASS_RANKS), default=0.0)
    late = slowest > PASS_SECONDS
    verdict = "MISS" if late else "PASS" if slowest else "SKIP, not measured"
    print(f"{verdict}: {PASS_RANKS} ranks formed and met in {slowest:.2f} s of {PASS_SECONDS:g} s")
    return 1 if late else 0


if __name__ == "__main__":
    sys.exit(main())
