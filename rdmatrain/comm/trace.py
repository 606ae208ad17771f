"""From the flight recorder's records to what torch's ``torchfrtrace`` analyses.

torch names operations ``library:operation`` and knows a few libraries only, so ours is called gloo.
It matches a collective of one rank with the others' by group and sequence number, so each pair of
ranks and direction is a group of its own here, in which a send and its recv have one number.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, NamedTuple

from rdmatrain import __version__

FORMAT_VERSION = "2.10"
NS_PER_MS = 1_000_000
ANY_PEER = 0xFFFFFFFF

# What torch knows; what is not here, a refused call, took no part in the collective.
_COLLECTIVES = {
    "all_reduce",
    "reduce",
    "broadcast",
    "all_gather",
    "gather",
    "scatter",
    "reduce_scatter",
    "all_to_all",
    "barrier",
}
_UNEVEN_NAMES = {"all_gather": "all_gather_v", "reduce_scatter": "reduce_scatter_v"}
_DTYPES = {
    "float16": "Half",
    "bfloat16": "BFloat16",
    "float32": "Float",
    "float64": "Double",
    "int8": "Char",
    "uint8": "Byte",
    "int16": "Short",
    "uint16": "UInt16",
    "int32": "Int",
    "uint32": "UInt32",
    "int64": "Long",
    "uint64": "UInt64",
    "bool": "Bool",
    "float8_e4m3fn": "Float8_e4m3fn",
    "float8_e5m2": "Float8_e5m2",
    "float8_e4m3fnuz": "Float8_e4m3fnuz",
    "float8_e5m2fnuz": "Float8_e5m2fnuz",
    "float8_e8m0fnu": "Float8_e8m0fnu",
    "complex32": "ComplexHalf",
    "complex64": "ComplexFloat",
    "complex128": "ComplexDouble",
}


class Record(NamedTuple):
    """What ``_core.recorder_read()`` tells of one operation.

    Attributes:
        id: 1, 2, 3... in the order of posting, over all communicators of the process.
        comm: ``_core.Comm.number()``.
        coll: one of ``_core.COLLS``, or ``"a refused call"``.
        dtype: one of ``_core.DTYPES``.
        op: one of ``_core.REDOPS``.
        peer: the root, or the other rank of a send or recv.
        tag: of a send or recv.
        shape: of the tensor, where it was said.
        in_count: elements read.
        out_count: elements written.
        uneven: whether the ranks' shards differ in size.
        seq: counts the collectives of a communicator, and what a sender and its receiver have
            exchanged; 0 while it is not known.
        created_ns: of the monotonic clock, as are the others: when it was posted.
        started_ns: when it was the oldest collective, or had met its peer; 0 before.
        over_ns: when it had succeeded or failed; 0 before.
        timeout_ns: 0 for none.
        status: once it is over: a name of ``_core.STATUSES``.

    """

    id: int
    comm: int
    coll: str
    dtype: str
    op: str
    peer: int
    tag: int
    shape: tuple[int, ...] | None
    in_count: int
    out_count: int
    uneven: bool
    seq: int
    created_ns: int
    started_ns: int
    over_ns: int
    timeout_ns: int
    status: str | None


@dataclass(frozen=True)
class Group:
    """A process group, as torch knows it.

    Attributes:
        name: torch's name for it, equal on its ranks.
        desc: what it is for.
        ranks: the global rank of each rank.
        rank: this process's rank in the group.

    """

    name: str
    desc: str
    ranks: Sequence[int]
    rank: int


def make_trace(
    records: Iterable[Record], groups: Mapping[int, Group], wall_ns: int, reason: str
) -> dict[str, Any]:
    """Build the dictionary that torch's analyser unpickles.

    Args:
        records: oldest first; those of communicators that are not in groups are left out.
        groups: by the number of their communicator.
        wall_ns: what to add to a monotonic time to have one since 1970.
        reason: why the trace was asked for.

    """
    config = {group.name: _config(group.name, group.desc, group.ranks) for group in groups.values()}
    status = {str(number): _Progress() for number in groups}
    entries = []
    for record in records:
        group = groups.get(record.comm)
        if group is None:
            continue
        if record.coll in {"send", "recv"}:
            entry = _p2p_entry(record, group, config)
        elif record.coll in _COLLECTIVES:
            entry = _collective_entry(record, group, status[str(record.comm)])
        else:
            continue
        entries.append(entry | _common(record, wall_ns))
    return {
        "version": FORMAT_VERSION,
        "comm_lib_version": f"rdmatrain {__version__}",
        "pg_config": config,
        "pg_status": {number: progress.status() for number, progress in status.items()},
        "entries": entries,
        "reason": reason,
    }


@dataclass
class _Progress:
    """How far the collectives of a group have come."""

    enqueued: int = 0
    started: int = 0
    completed: int = 0

    def take(self, record: Record) -> int:
        """Return the record's sequence number: what no driver has begun yet is the next one."""
        seq = record.seq or self.enqueued + 1
        self.enqueued = max(self.enqueued, seq)
        if record.started_ns:
            self.started = max(self.started, seq)
        if record.status == "OK":
            self.completed = max(self.completed, seq)
        return seq

    def status(self) -> dict[str, int]:
        return {
            "last_enqueued_collective": self.enqueued,
            "last_started_collective": self.started,
            "last_completed_collective": self.completed,
        }


def _config(name: str, desc: str, ranks: Sequence[int]) -> dict[str, str]:
    return {"name": name, "desc": desc, "ranks": str(list(ranks))}


def _collective_entry(record: Record, group: Group, progress: _Progress) -> dict[str, Any]:
    world = len(group.ranks)
    inputs, outputs = record.in_count, record.out_count
    name = record.coll
    if record.uneven and record.coll != "all_to_all":
        # What is equal on all ranks is the whole, and torch compares.
        inputs = outputs = max(inputs, outputs)
        name = _UNEVEN_NAMES.get(name, name)
    moves = record.coll != "barrier"
    return {
        "process_group": (group.name, group.desc),
        "profiling_name": f"gloo:{name}",
        "collective_seq_id": progress.take(record),
        "p2p_seq_id": 0,
        "is_p2p": False,
        "input_sizes": [_sizes(record.shape, inputs, world)] if moves else [],
        "output_sizes": [_sizes(record.shape, outputs, world)] if moves else [],
    }


def _sizes(shape: tuple[int, ...] | None, count: int, world: int) -> list[int]:
    if shape is None:
        return [count]
    if prod(shape) == count:
        return list(shape)
    return [world, *shape] if world * prod(shape) == count else [count]


def _p2p_entry(record: Record, group: Group, config: dict[str, dict[str, str]]) -> dict[str, Any]:
    me = group.ranks[group.rank]
    peer = group.ranks[record.peer] if record.peer != ANY_PEER else me
    sender, receiver = (me, peer) if record.coll == "send" else (peer, me)
    name = f"{group.name} rank {sender} to rank {receiver}"
    ranks = sorted({sender, receiver})
    config[name] = _config(name, group.desc, ranks)
    source, target = ranks.index(sender), ranks.index(receiver)
    ends = f"{source}->{target}" if record.coll == "send" else f"{target}<-{source}"
    seq = record.seq or -record.id  # a recv that has met no send equals no send
    return {
        "process_group": (name, group.desc),
        "profiling_name": f"gloo:{record.coll} {ends}",
        "collective_seq_id": seq,
        "p2p_seq_id": seq,
        "is_p2p": True,
        "tag": record.tag,
        "input_sizes": [[record.in_count]],
        "output_sizes": [[record.out_count]],
    }


def _common(record: Record, wall_ns: int) -> dict[str, Any]:
    dtypes = [_DTYPES[record.dtype]] if record.coll != "barrier" else []
    entry: dict[str, Any] = {
        "frames": [],
        "record_id": record.id,
        "pg_id": record.comm,
        "op_id": record.id,
        "input_dtypes": dtypes,
        "output_dtypes": dtypes,
        "state": _state(record),
        "status": record.status,
        "retired": record.over_ns != 0,
        "reduction": record.op,
        "peer": record.peer,
        "timeout_ms": record.timeout_ns // NS_PER_MS,
        "time_created_ns": record.created_ns + wall_ns,
        "time_discovered_started_ns": record.started_ns + wall_ns if record.started_ns else None,
        "time_discovered_completed_ns": None,
    }
    if record.status == "OK":
        entry["time_discovered_completed_ns"] = record.over_ns + wall_ns
        entry["duration_ms"] = (record.over_ns - record.started_ns) / NS_PER_MS
    return entry


def _state(record: Record) -> str:
    """Torch's word; what failed is retired and not completed."""
    if record.status == "OK":
        return "completed"
    return "started" if record.started_ns else "scheduled"
