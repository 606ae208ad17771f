# SPDX-License-Identifier: Apache-2.0
"""Gangs made by hand, and a store in a dictionary for ranks that are threads."""

import threading
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from rdmatrain.doctor.gang.checks import CHECKS
from rdmatrain.doctor.gang.judge import gang_results
from rdmatrain.doctor.gang.model import Gathering, Meeting, Pod, RailFact, Row
from rdmatrain.doctor.model import Finding, Verdict

VERSIONS = {
    "rdmatrain": "0.1.0",
    "torch": "2.13.0",
    "python": "3.11",
    "kernel": "6.1.0-56",
    "rdma-core": "50",
}
PING_US, GBPS = 3.0, 380.0
JUDGES = {each.check.id: each.judge for each in CHECKS}


def rail(number: int = 0, **other: Any) -> RailFact:
    fields = {"link_layer": "Ethernet", "mtu": 4096, "gbps": 400.0} | other
    return RailFact(port=f"mlx5_{number}/1", **fields)


def pod(rank: int, **other: Any) -> Pod:
    fields = {
        "host": f"pod-{rank}",
        "host_id": f"id{rank}",
        "address": f"10.0.0.{rank + 1}",
        "versions": VERSIONS,
        "gpus": ("H100",) * 2,
        "rails": (rail(0), rail(1)),
        "has_rdma": True,
    } | other
    return Pod(rank=rank, **fields)


def meeting(peer: int, **other: Any) -> Meeting:
    fields = {
        "transport": "verbs",
        "why": "both can use RDMA",
        "path_mtu": 4200,
        "ping_us": PING_US,
        "gbps": GBPS,
        "num_checked": 1000,
    } | other
    return Meeting(peer=peer, **fields)


def row(rank: int, world: int, **other: Any) -> Row:
    fields = {"offset_s": None if rank == 0 else 0.001, "rtt_s": 0.002, "gathered": 64} | other
    meetings = tuple(meeting(peer) for peer in range(world) if peer != rank)
    return Row(rank=rank, **({"meetings": meetings} | fields))


def gang(world: int = 4) -> Gathering:
    """A gang with nothing wrong."""
    return Gathering(
        world=world,
        pods=tuple(pod(rank) for rank in range(world)),
        rows=tuple(row(rank, world) for rank in range(world)),
        timeout_s=60.0,
        seconds=1.5,
    )


def with_pods(seen: Gathering, *others: Pod) -> Gathering:
    """The same gang, with these pods in place of those of their ranks."""
    changed = {each.rank: each for each in others}
    return replace(seen, pods=tuple(changed.get(each.rank, each) for each in seen.pods))


def with_meetings(seen: Gathering, where: Callable[[int, int], bool], **changes: Any) -> Gathering:
    """The same gang, with changes to meetings: ``where(rank, peer)``."""

    def changed(each: Row) -> Row:
        meetings = (
            replace(one, **changes) if where(each.rank, one.peer) else one for one in each.meetings
        )
        return replace(each, meetings=tuple(meetings))

    return replace(seen, rows=tuple(changed(each) for each in seen.rows))


def with_row(seen: Gathering, rank: int, **changes: Any) -> Gathering:
    rows = (replace(each, **changes) if each.rank == rank else each for each in seen.rows)
    return replace(seen, rows=tuple(rows))


def found(name: str, seen: Gathering) -> Finding:
    """What a check says of a gang."""
    return JUDGES[name](seen)


def verdicts(seen: Gathering) -> dict[str, Verdict]:
    return {each.check.id: each.finding.verdict for each in gang_results(seen)}


class DictStore:
    """What ranks need of the job's store."""

    def __init__(self) -> None:
        self.data: dict[str, bytes] = {}
        self._lock = threading.Lock()

    def set(self, key: str, value: str, /) -> None:
        with self._lock:
            self.data[key] = value.encode()

    def get(self, key: str, /) -> bytes:
        return self.data[key]

    def add(self, key: str, amount: int, /) -> int:
        with self._lock:
            self.data[key] = str(int(self.data.get(key, b"0")) + amount).encode()
            return int(self.data[key])

    def check(self, keys: list[str], /) -> bool:
        return all(key in self.data for key in keys)


def on_threads(calls: Iterable[Callable[[], Any]]) -> list[Any]:
    """Make the calls at once; what each returned, or raised."""
    results: dict[int, Any] = {}

    def keep(number: int, call: Callable[[], Any]) -> None:
        try:
            results[number] = call()
        except Exception as error:
            results[number] = error

    threads = [threading.Thread(target=keep, args=each, daemon=True) for each in enumerate(calls)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return [results[number] for number in range(len(threads))]
