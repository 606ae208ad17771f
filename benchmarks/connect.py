"""Measure how long a group takes to form, by the number of its ranks.

Ranks are threads of this process. ``core`` connects ranks that know each other's addresses;
``hash`` and ``tcp`` form the group through that store of torch, as ``init_process_group`` does,
with a client of its own for each rank. A time is that of the slowest rank; asks are questions to
the store, of all ranks together. Each pair of ranks needs two descriptors (shm: four), so 128
ranks need a limit of 20,000 open files in one process, and shm stays below 100.
"""

import argparse
import os
import statistics
import sys
import threading
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import torch.distributed as dist
from common import append_records, others_share, where

from rdmatrain import _core
from rdmatrain.comm.bootstrap import Place, connect, forming
from rdmatrain.config import Settings

LOOPBACK = "127.0.0.1"
LIMIT_SECONDS = 120.0
PASS_RANKS, PASS_SECONDS = 128, 5.0

Form = Callable[[int], _core.Comm]


class CountingStore:
    """One rank's way to the store; counts what it asks."""

    def __init__(self, store: dist.Store) -> None:
        self.asks = 0
        self._store = store

    def __getattr__(self, name: str) -> Any:
        self.asks += 1
        return getattr(self._store, name)


def at_once(world: int, form: Form) -> tuple[float, float, list[_core.Comm]]:
    """Form a group; seconds until the last rank had done so, CPU seconds of all, and the ranks."""
    comms: dict[int, _core.Comm] = {}
    errors: list[Exception] = []
    ready = threading.Barrier(world + 1)

    def body(rank: int) -> None:
        ready.wait()
        try:
            comms[rank] = form(rank)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=body, args=(rank,)) for rank in range(world)]
    for thread in threads:
        thread.start()
    ready.wait()
    began, cpu = time.perf_counter(), time.process_time()
    for thread in threads:
        thread.join(LIMIT_SECONDS)
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    if errors or len(comms) < world:
        raise SystemExit(f"{world - len(comms)} of {world} ranks did not connect: {errors[:1]}")
    return seconds, cpu, [comms[rank] for rank in range(world)]


def close_at_once(comms: Sequence[_core.Comm]) -> None:
    """Close all ranks together: each would wait a moment for the others' ends."""
    threads = [threading.Thread(target=comm.close) for comm in comms]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def form_core(world: int, transport: str) -> tuple[Form, Callable[[], int]]:
    """Ranks that listen already."""
    token = os.urandom(16)
    comms = [_core.Comm(rank, world, token) for rank in range(world)]
    address = LOOPBACK if transport == "tcp" else None
    peers = [(transport, comm.listen(transport, address), "") for comm in comms]

    def form(rank: int) -> _core.Comm:
        comms[rank].connect(peers, LIMIT_SECONDS)
        return comms[rank]

    return form, lambda: 0


def form_through(kind: str, world: int, transport: str) -> tuple[Form, Callable[[], int]]:
    """Ranks that know a store."""
    limit = timedelta(seconds=LIMIT_SECONDS)
    if kind == "hash":
        stores: list[dist.Store] = [dist.HashStore()] * world
    else:
        server = dist.TCPStore(LOOPBACK, 0, is_master=True, timeout=limit, wait_for_workers=False)
        stores = [server]
        stores += [dist.TCPStore(LOOPBACK, server.port, timeout=limit) for _ in range(world - 1)]
    counting = [CountingStore(store) for store in stores]
    settings = Settings(transport=transport, addr=LOOPBACK)

    def form(rank: int) -> _core.Comm:
        with forming(counting[rank], Place(rank, world, LIMIT_SECONDS, LOOPBACK)) as turn:
            return connect(turn, settings)

    return form, lambda: sum(store.asks for store in counting)


def measure(kind: str, world: int, transport: str, rounds: int) -> dict[str, Any]:
    """Form groups, one after the other."""
    seconds, cpus, asks = [], [], []
    before = others_share()
    for _ in range(rounds):
        make = form_core if kind == "core" else partial(form_through, kind)
        form, num_asks = make(world, transport)
        took, cpu, comms = at_once(world, form)
        seconds.append(took)
        cpus.append(cpu)
        asks.append(num_asks())
        close_at_once(comms)
    used, total = others_share(before)
    return {
        "store": kind,
        "transport": transport,
        "ranks": world,
        "seconds_p50": statistics.median(seconds),
        "seconds_max": max(seconds),
        "cpu_seconds": statistics.median(cpus),
        "asks": statistics.median(asks),
        "others": used / total if total else 0.0,
    }


def print_row(record: dict[str, Any]) -> None:
    """One line of the table."""
    print(
        f"{record['store']:>5} {record['transport']:>9} {record['ranks']:6d} "
        f"{record['seconds_p50']:8.3f} {record['seconds_max']:8.3f} {record['cpu_seconds']:8.3f} "
        f"{record['asks']:8.0f} {100 * record['others']:6.1f} %",
        flush=True,
    )


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--ranks", default="2,8,32,128", help="numbers of ranks, with commas")
    parser.add_argument("--stores", default="core,hash,tcp")
    parser.add_argument("--transports", default="tcp")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="append records to this file")
    return parser.parse_args(argv)


def main() -> int:
    """Print the table; 1 when 128 ranks need more time than is allowed."""
    args = parse(sys.argv[1:])
    records = []
    print("store transport  ranks  p50 [s]  max [s]  CPU [s]     asks   others")
    for transport in args.transports.split(","):
        for kind in args.stores.split(","):
            for world in map(int, args.ranks.split(",")):
                record = measure(kind, world, transport, args.rounds)
                print_row(record)
                records.append({**record, **where(), "argv": " ".join(sys.argv)})
    if args.json:
        append_records(args.json, records)
    slowest = max((r["seconds_max"] for r in records if r["ranks"] == PASS_RANKS), default=0.0)
    late = slowest > PASS_SECONDS
    verdict = "MISS" if late else "PASS" if slowest else "SKIP, not measured"
    print(f"{verdict}: {PASS_RANKS} ranks in {slowest:.2f} s, allowed {PASS_SECONDS:g} s")
    return 1 if late else 0


if __name__ == "__main__":
    sys.exit(main())
