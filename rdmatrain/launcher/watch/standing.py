"""In the worker: whether its main thread stands in a call of torch.distributed, by any backend.

A thread that has used no CPU since the last look stands where it stood then. So a rank that makes
one short call after the other never seems to stand in one, and no frame is held, which would keep
tensors. No file is read: whoever moves bytes is busy, to the launcher.
"""

import sys
import threading
import time
from dataclasses import dataclass
from types import FrameType
from typing import Any

_C10D = "torch.distributed.distributed_c10d"
_LEAST_NS = 1_000_000_000
_PEERS = {"send": "dst", "isend": "dst", "recv": "src", "irecv": "src"}


@dataclass(frozen=True, kw_only=True)
class Call:
    """What it stands in, with the names of a ``rdmatrain.comm.trace.Record``.

    Attributes:
        coll: name of the function; of isend and irecv that of the other end's.
        peer: rank in the group that it sends to or receives from; one that there is not: any.
        group: name of the process group.
        ranks: the group's global ranks.
        rank: this process's rank in the group.
        seq: 0, as torch counts only for some backends.

    """

    coll: str
    peer: int
    group: str
    ranks: list[int]
    rank: int
    seq: int = 0


class Standing:
    """Looks at the main thread again and again."""

    def __init__(self) -> None:
        self._ident = threading.main_thread().ident or 0
        self._clock = time.pthread_getcpuclockid(self._ident)
        self._cpu_ns = self._since_ns = 0

    def look(self) -> tuple[int, Call] | None:
        """Return since when it stands in which call; None if it does not, or not for a second."""
        c10d = sys.modules.get(_C10D)
        if c10d is None:
            return None
        now_ns, cpu_ns = time.monotonic_ns(), time.clock_gettime_ns(self._clock)
        if cpu_ns != self._cpu_ns:
            self._cpu_ns, self._since_ns = cpu_ns, now_ns
        if now_ns - self._since_ns < _LEAST_NS:
            return None
        frame = sys._current_frames().get(self._ident)
        call = _call(frame, c10d) if frame is not None else None
        return (self._since_ns, call) if call else None


def _call(frame: FrameType, c10d: Any) -> Call | None:
    if frame.f_globals.get("__name__") != _C10D:
        return None
    given, name = frame.f_locals, frame.f_code.co_name
    try:
        group = given["group"] or c10d.group.WORLD
        ranks, own = c10d.get_process_group_ranks(group), c10d.get_rank()
        return Call(
            coll=name.removeprefix("i") if name in _PEERS else name,
            peer=_peer(given, _PEERS[name], ranks) if name in _PEERS else 0,
            group=group.group_name,
            ranks=ranks,
            rank=ranks.index(own),
        )
    except Exception:  # a call without a group; or another torch, in which none is found
        return None


def _peer(given: dict[str, Any], side: str, ranks: list[int]) -> int:
    if given[side] is not None:
        return ranks.index(given[side])
    in_group = given[f"group_{side}"]
    return len(ranks) if in_group is None else int(in_group)
