"""From the plans of the library to the stages of a simulated job.

What each rank sends to whom comes from the C core itself (``_core.all_reduce_sends``), message by
message. Between hosts it becomes flows on the fabric. Within a host, messages cost what the tuning
table says, as in the library's own cost model (``csrc/coll/cost.h``): no fabric is in between.

A rank that sends to more than ``merge`` others in a stage has its messages merged into that many
flows with as many bytes in all, to ranks spread evenly over those that it sends to; that its
messages are many is still paid for, each by itself.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rdmatrain import _core
from rdmatrain.bench.scale.engine import Stage

WAYS = ("flat", "by_host", "gather", "halving")
ITEM_BYTES = 4  # of float32
Numbers = NDArray[Any]


@dataclass(frozen=True)
class Costs:
    """What a rank pays itself.

    Attributes:
        latency_s: of an exchange between hosts, but for its wire.
        message_s: of each message between hosts.
        host_latency_s: of an exchange in a host.
        host_message_s: of each message in a host.
        host_bytes_per_s: of each rank, to and from its host's memory; also of what it reduces.

    """

    latency_s: float
    message_s: float
    host_latency_s: float
    host_message_s: float
    host_bytes_per_s: float


@dataclass(frozen=True)
class Group:
    """Ranks that are spread evenly over hosts, those of a host one after the other."""

    ranks: int
    per_host: int

    @property
    def hosts(self) -> int:
        """Number of hosts."""
        return self.ranks // self.per_host


def fits(group: Group, way: str, nbytes: int) -> bool:
    """Tell whether the library can take the way for so many bytes, instead of flat."""
    sends = _core.all_reduce_sends(group.ranks, group.hosts, 0, nbytes // ITEM_BYTES, _said(way))
    return way == "flat" or (group.ranks > 1 and sends[-1][0] > 0)


def _said(way: str) -> dict[str, int]:
    return {"way": 1 + WAYS.index(way)}


@dataclass
class _Sent:
    """What a rank sends in a step: its own seconds for that, and flows on the fabric."""

    busy_s: float
    to: Numbers
    nbytes: Numbers


_NOTHING = _Sent(0.0, np.zeros(0, np.uint32), np.zeros(0))


class _Step:
    """One stream of a stage, of all ranks."""

    def __init__(self, group: Group) -> None:
        self.sent = [_NOTHING] * group.ranks
        self.reduced = np.zeros(group.ranks)  # bytes that each gets from other hosts and reduces

    def stages(self, costs: Costs) -> list[Stage]:
        arrivals = np.bincount(
            np.concatenate([sent.to for sent in self.sent]).astype(np.int64),
            minlength=len(self.sent),
        )
        return [
            Stage(
                costs.latency_s if len(sent.to) or got else 0.0,
                sent.busy_s + float(reduced) / costs.host_bytes_per_s,
                int(got),
                sent.to.tolist(),
                sent.nbytes.tolist(),
            )
            for sent, got, reduced in zip(self.sent, arrivals, self.reduced, strict=True)
        ]


def stages(group: Group, way: str, nbytes: int, costs: Costs, merge: int) -> list[list[Stage]]:
    """Return what each rank does in each stage of an all_reduce of ``nbytes`` of float32.

    Args:
        group: who.
        way: of ``WAYS``, which must fit.
        nbytes: a multiple of 4.
        costs: of the ranks themselves.
        merge: flows of a rank in a stage, at most.

    """
    steps: dict[tuple[int, bool], _Step] = {}
    for rank in range(group.ranks):
        count = nbytes // ITEM_BYTES
        for item in _core.all_reduce_sends(group.ranks, group.hosts, rank, count, _said(way)):
            step = steps.setdefault((item[0], item[1]), _Step(group))
            to, sizes, messages = (
                np.frombuffer(data, kind)
                for data, kind in zip(item[3:], (np.uint32, np.uint64, np.uint32), strict=True)
            )
            far = to // group.per_host != rank // group.per_host
            busy = _busy(far, sizes, messages, costs)
            to, sizes = to[far], sizes[far]
            step.sent[rank] = _Sent(busy, *_merged(group, rank, to, sizes, merge))
            if item[2]:
                step.reduced[to] += sizes
    each = [steps[key].stages(costs) for key in sorted(steps)]
    return [list(rank) for rank in zip(*each, strict=True)]


def _busy(far: Numbers, sizes: Numbers, messages: Numbers, costs: Costs) -> float:
    """Seconds for the messages to other hosts, and for all that is done within the host."""
    seconds = float(messages[far].sum()) * costs.message_s
    near = ~far
    if near.any():
        seconds += costs.host_latency_s + float(messages[near].sum()) * costs.host_message_s
        seconds += float(sizes[near].sum()) / costs.host_bytes_per_s
    return seconds


def _merged(
    group: Group, rank: int, to: Numbers, sizes: Numbers, merge: int
) -> tuple[Numbers, Numbers]:
    """At most so many flows, with as many bytes in all: to whom, bytes."""
    num = len(to)
    if num <= merge:
        return to, sizes.astype(float)
    # Those that are so many ranks away from the next host: each distance is a permutation of the
    # ranks, so that all of them get alike, as they do of all messages.
    host, place = divmod(rank, group.per_host)
    first = int(np.searchsorted(to, (host + 1) * group.per_host))
    room = num
    if num == group.ranks - group.per_host:  # all of the other hosts: not only one place of each
        first, room = first + place, num - group.per_host + 1
    picks = (first + ((np.arange(merge) + 0.5) * room / merge).astype(np.int64)) % num
    picked = sizes[picks].astype(float)
    total = float(picked.sum())
    return to[picks], picked * (float(sizes.sum()) / total if total else 1.0)
