"""In a worker: a thread that counts what the backend did, and tells it in a file.

No collective knows of it. It reads what the core keeps anyway: the flight recorder's ring and the
counters of each pair of ranks.
"""

import atexit
import contextlib
import os
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rdmatrain.metrics.tally import Tally

INTERVAL_S = 1.0
# Where so many operations are new that the ring may soon overtake the reader, it reads again
# sooner; but reading is not free.
HURRY_S = 0.2
MANY = 512

TALLY = Tally()
"""What this process counts; it costs nothing to speak of where nobody asks for it."""

_sampler: "_Sampler | None" = None
_BYTES = (("sent", "sent_bytes"), ("received", "received_bytes"))


def start(path: Path) -> None:
    """Begin to tell in a file what this process does; once is enough."""
    global _sampler  # noqa: PLW0603 - one for the process, as the ring
    if _sampler is None:
        _sampler = _Sampler(path)
        threading.Thread(target=_sampler.run, name="rdmatrain-metrics", daemon=True).start()
        atexit.register(publish)


def publish() -> None:
    """Tell now what was counted, if it is to be told at all.

    Bytes of a group are known for as long as it is open: call this before it is destroyed, or the
    last second's are missing.
    """
    if _sampler is not None:
        _sampler.sample()


class _Sampler:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._bytes: dict[tuple[int, int, str], int] = {}  # seen, by communicator, peer, counter
        self._transports: dict[int, tuple[str, ...]] = {}  # by communicator, and rank in it
        self._together: dict[int, str] = {}  # those of all its ranks
        self._operations: Any = None

    def run(self) -> None:
        while True:
            time.sleep(HURRY_S if self.sample() > MANY else INTERVAL_S)

    def sample(self) -> int:
        """Count and tell; returns how many operations were new."""
        if self._pid != os.getpid():  # a fork, which is not the worker
            return 0
        new = 0
        with self._lock:
            if sys.modules.get("rdmatrain.comm.backend") is not None:
                with contextlib.suppress(ImportError, AttributeError):  # it is being imported
                    new = self._count()
            with contextlib.suppress(OSError):  # the launcher's folder is full, or gone
                TALLY.write(self._path)
        return new

    def _count(self) -> int:
        from rdmatrain import _core  # noqa: PLC0415 - both are loaded
        from rdmatrain.comm import traffic  # noqa: PLC0415

        self._count_traffic(traffic.traffic())
        if self._operations is None:
            from rdmatrain.metrics.operations import Operations  # noqa: PLC0415

            self._operations = Operations(TALLY, self._transport_of)
        new: int = self._operations.count(_core.recorder_read())
        if last_ns := self._operations.last_progress_ns:
            ago_s = (time.monotonic_ns() - last_ns) * 1e-9
            TALLY.set("rdmatrain_last_progress_timestamp_seconds", time.time() - ago_s)
        return new

    def _count_traffic(self, groups: Sequence[Any]) -> None:
        joined: dict[int, dict[str, Any]] = {}
        for each in groups:
            transports = ["self"] * len(each.group.ranks)
            for peer in each.peers:
                transports[peer["rank"]] = peer["transport"]
                joined[each.group.ranks[peer["rank"]]] = peer
                self._count_bytes(each.number, peer)
            self._transports[each.number] = tuple(transports)
            self._together[each.number] = "+".join(sorted({*transports} - {"self"})) or "self"
        if groups:
            _count_peers(joined)

    def _count_bytes(self, number: int, peer: dict[str, Any]) -> None:
        transport = peer["transport"]
        device = "+".join(str(rail).partition(" ")[0] for rail in peer["rails"])
        for direction, counter in _BYTES:
            if more := self._more(number, peer, counter):
                TALLY.add("rdmatrain_bytes_total", more, direction, transport, device)
        if more := self._more(number, peer, "staged_bytes"):
            TALLY.add("rdmatrain_staged_bytes_total", more, transport)

    def _more(self, number: int, peer: dict[str, Any], counter: str) -> int:
        """Return by how much a counter of the core has grown since it was seen."""
        key = (number, peer["rank"], counter)
        before, now = self._bytes.get(key, 0), int(peer[counter])
        self._bytes[key] = now
        return max(now - before, 0)

    def _transport_of(self, record: Any) -> str:
        transports = self._transports.get(record.comm)
        if transports is None:  # the group was gone before anybody looked
            return "unknown"
        if record.coll in {"send", "recv"} and record.peer < len(transports):
            return str(transports[record.peer])
        return self._together[record.comm]


def _count_peers(joined: dict[int, dict[str, Any]]) -> None:
    TALLY.drop("rdmatrain_peers")
    kinds = [peer["transport"] for peer in joined.values()]
    for transport in sorted({*kinds}):
        TALLY.set("rdmatrain_peers", kinds.count(transport), transport)
    fell_back = sum(bool(peer["fell_back"]) for peer in joined.values())
    TALLY.set("rdmatrain_fallback_peers", fell_back)
