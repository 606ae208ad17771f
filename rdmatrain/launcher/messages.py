"""What the members of a gang say to each other: JSON, a line each, nothing that runs.

A member says ``Join``, ``Report``, ``Stopped`` and ``StopAsked``; the leader ``Refuse``, ``Round``,
``EndRound``, ``StopWorkers`` and ``Finish``; both ``Beat``.
"""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn, cast

from rdmatrain.launcher.restore import restore

MAX_BYTES = 1 << 20
MAX_DIGITS = 20  # of a whole number


@dataclass(frozen=True, kw_only=True)
class Fault:
    """Why a round ended.

    Attributes:
        kind: a key of :data:`rdmatrain.launcher.blame.NEXT_STEP`: ``exit``, ``signal``, ``hang``.
        host: of whom.
        rank: the guilty rank; None for a whole node, or none.
        pid: its process id on its host, or None.
        detail: what was seen, in words, without rank and host.
        exit_code: the launcher's, if nothing helps; see :mod:`rdmatrain.launcher.exit_codes`.
        consequence: a rank that failed because another one had.

    """

    kind: str
    host: str
    rank: int | None = None
    pid: int | None = None
    detail: str = ""
    exit_code: int = 1
    consequence: bool = False


@dataclass(frozen=True, kw_only=True)
class Node:
    """A node's seat in a round.

    Attributes:
        node_rank: 0, 1, ... without gaps.
        host: its name.
        address: how the others reach it.
        nproc: its workers.
        first_rank: the rank of its local rank 0.

    """

    node_rank: int
    host: str
    address: str
    nproc: int
    first_rank: int

    @property
    def ranks(self) -> range:
        """Its ranks in the job."""
        return range(self.first_rank, self.first_rank + self.nproc)


@dataclass(frozen=True, kw_only=True)
class RankState:
    """What the watcher of a node sees of a worker.

    Attributes:
        rank: in the job.
        process: the kernel's letter of its state: ``T`` is stopped, ``t`` traced, ``R``, ``S``...
        stopped_s: seconds that it has been ``T``.
        beat_s: seconds since a thread of its interpreter ran last; None: it does not say.
        idle_s: seconds that it has used no CPU and moved no bytes.
        waiting_s: seconds that it has been waiting in a collective; None: it is in none, or its
            backend does not say.
        waits_for: ranks that the collective may miss; empty for any.
        waits_in: the collective, in words that are the same on all of its ranks.

    """

    rank: int
    process: str = "R"
    stopped_s: float = 0.0
    beat_s: float | None = None
    idle_s: float = 0.0
    waiting_s: float | None = None
    waits_for: tuple[int, ...] = ()
    waits_in: str = ""


@dataclass(frozen=True, kw_only=True)
class Join:
    """A node wants to take part.

    Attributes:
        host: its name.
        address: how the others reach it; empty: as the leader sees it.
        nproc: its workers.
        node_rank: the number that it was given, or None.
        agree: what must be equal on all nodes, in words: ``torch: 2.13.0``.
        incarnation: tells this launcher from one before it on the same host.
        last_round: number of the last round that it was told of; 0 for none.
        restarts: how many faults it has seen end a round.

    """

    host: str
    address: str = ""
    nproc: int = 1
    node_rank: int | None = None
    agree: Mapping[str, str] = field(default_factory=dict)
    incarnation: str = ""
    last_round: int = 0
    restarts: int = 0


@dataclass(frozen=True, kw_only=True)
class Report:
    """How a node's workers are; sent when something changes and with every beat.

    Attributes:
        round: which round it is of.
        fault: the likely cause of the faults on the node, or None.
        done: every worker has ended with 0.
        ended: ranks that have ended with 0, as long as not all have.
        raised: of a rank that has not ended, but has raised what will end it.
        states: what the watcher sees.

    """

    round: int
    fault: Fault | None = None
    done: bool = False
    ended: tuple[int, ...] = ()
    raised: Fault | None = None
    states: tuple[RankState, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Stopped:
    """Nothing of a round's workers is left on the node."""

    round: int


@dataclass(frozen=True, kw_only=True)
class StopAsked:
    """The node's launcher got a signal that stops the job; ``signal`` is its name."""

    signal: str
    host: str = ""


@dataclass(frozen=True, kw_only=True)
class Beat:
    """I am here; the leader says whom it waits for, in words, if it does."""

    waits_for: str = ""


@dataclass(frozen=True, kw_only=True)
class Refuse:
    """The node may not take part, or the gang cannot form; exit with ``exit_code``."""

    reason: str
    exit_code: int


@dataclass(frozen=True, kw_only=True)
class Round:
    """Start your workers.

    Attributes:
        number: 1, 2, ... never used again in this job.
        restart: how many faults there were before: ``TORCHELASTIC_RESTART_COUNT``.
        nodes: all of them, by node rank.
        mine: which of them the receiver is.

    """

    number: int
    restart: int
    nodes: tuple[Node, ...]
    mine: int

    @property
    def node(self) -> Node:
        """The receiver's seat."""
        return self.nodes[self.mine]

    @property
    def world_size(self) -> int:
        """Workers on all nodes."""
        return sum(node.nproc for node in self.nodes)


@dataclass(frozen=True, kw_only=True)
class EndRound:
    """Kill your workers and say ``Stopped``.

    Attributes:
        number: of the round.
        fault: why.
        again: another round follows; else ``Finish`` does.

    """

    number: int
    fault: Fault
    again: bool


@dataclass(frozen=True, kw_only=True)
class StopWorkers:
    """Send your workers the signal: the job is to stop, and they may save their work."""

    signal: str
    host: str = ""


@dataclass(frozen=True, kw_only=True)
class Finish:
    """The job is over; exit with ``exit_code``, for ``fault`` if there is one."""

    exit_code: int
    fault: Fault | None = None


Message = (
    Join | Report | Stopped | StopAsked | Beat | Refuse | Round | EndRound | StopWorkers | Finish
)
_TYPES: dict[str, type] = {
    each.__name__: each
    for each in (
        Join, Report, Stopped, StopAsked, Beat, Refuse, Round, EndRound, StopWorkers, Finish
    )
}  # fmt: skip


def encode(message: Message) -> bytes:
    """Return a message as bytes, at most :data:`MAX_BYTES`.

    A text may have characters that stand for bytes which were no UTF-8, as names of files do; each
    of these becomes a question mark.

    Raises:
        ValueError: it is too long, or a number of it is not finite.

    """
    fields = {"": type(message).__name__, **dataclasses.asdict(message)}
    data = json.dumps(fields, ensure_ascii=False, allow_nan=False).encode(errors="replace")
    if len(data) > MAX_BYTES:
        raise ValueError(f"{type(message).__name__} has {len(data)} bytes, over {MAX_BYTES}")
    return data


def decode(data: bytes) -> Message:
    """Return the message that bytes are: exactly what :func:`encode` makes of one.

    What texts say is not looked at: who shows or uses them checks them.

    Raises:
        ValueError: they are none; says why, without what they hold.

    """
    if len(data) > MAX_BYTES:
        raise ValueError(f"a message has {len(data)} bytes, over {MAX_BYTES}")
    try:
        fields = json.loads(
            data.decode(),
            parse_int=_number,
            parse_constant=_not_finite,
            object_pairs_hook=_object,
        )
    except (ValueError, RecursionError):
        raise ValueError("a message is not JSON, or none that a message may be") from None
    name = fields.pop("", None) if isinstance(fields, dict) else None
    kind = _TYPES.get(name) if isinstance(name, str) else None
    if kind is None:
        raise ValueError("a message is of no known type")
    message = restore(kind, fields, kind.__name__)
    if isinstance(message, Round) and not 0 <= message.mine < len(message.nodes):
        raise ValueError("Round.mine is none of its nodes")
    return cast(Message, message)


def _number(text: str) -> int:
    if len(text) > MAX_DIGITS:  # Python's own limit is far higher, and not in every version
        raise ValueError("a number is too long")
    return int(text)


def _not_finite(_: str) -> NoReturn:
    raise ValueError("a number is not finite")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key is there twice")
    return result
