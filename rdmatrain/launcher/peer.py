"""The nodes as the leader sees them, and what it lets them say."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from rdmatrain.launcher import exit_codes
from rdmatrain.launcher.contracts import CONTROL, Wire
from rdmatrain.launcher.messages import Fault, Join, Message, Node, RankState, Report, encode

# Far above all that is real, so that no sum of them is too large for a message.
MAX_COUNT = 1 << 32
MAX_WORD, MAX_DETAIL = 64, 4_000
_HOST = re.compile(r"[0-9A-Za-z_.:%\[\]-]{1,253}")


@dataclass(eq=False)
class Peer:
    """A node.

    Attributes:
        wire: its channel.
        since_s: since when it is not known who it is, on the monotonic clock.
        key: its seat in the membership; None before it has joined, and when it has lost it.
        host: its name.
        node: its place in the round that runs; None if it has none.
        report: the last of this round.
        stopped: none of its workers of this round is left.

    """

    wire: Wire
    since_s: float
    key: int | None = None
    host: str = ""
    node: Node | None = None
    report: Report | None = None
    stopped: bool = False

    @property
    def done(self) -> bool:
        """Whether all its workers of this round have ended with 0."""
        return self.report is not None and self.report.done

    @property
    def is_in(self) -> bool:
        """Whether it has joined, and is still there."""
        return self.key is not None

    @property
    def address(self) -> str:
        """Its address as the kernel sees it."""
        return self.wire.peer.rpartition(":")[0].strip("[]")

    def say(self, message: Message) -> None:
        """Send it a message."""
        self.wire.send(CONTROL, encode(message))

    def begin(self, node: Node) -> None:
        """Give it a place in a new round."""
        self.node, self.report, self.stopped = node, None, False

    def keep(self, report: Report) -> None:
        """Remember a report, with what it says of the node's own ranks. Done stays done."""
        ranks = self.node.ranks if self.node else range(0)
        states = tuple(state for state in report.states if state.rank in ranks)
        done = report.done or self.done
        ended = tuple(ranks) if done else tuple(rank for rank in report.ended if rank in ranks)
        self.report = replace(report, done=done, ended=ended, states=states)

    @property
    def ended(self) -> tuple[int, ...]:
        """Its ranks that have ended with 0."""
        return self.report.ended if self.report else ()

    @property
    def states(self) -> tuple[RankState, ...]:
        """What its watcher saw last."""
        return self.report.states if self.report else ()

    def fault(self, kind: str, detail: str, exit_code: int) -> Fault:
        """Return a fault of this node."""
        return Fault(kind=kind, host=self.host, detail=detail, exit_code=exit_code)

    def lost(self, node_rank: int, reason: str) -> Fault:
        """Return the fault that it was lost in its place in a round."""
        detail = f"node rank {node_rank} was lost: {reason}"
        return self.fault("lost-node", detail, exit_codes.PEER_LOST)


class Peers:
    """All that have proved the secret, by their channels.

    Args:
        is_local: tells the channel of the leader's own node.

    """

    def __init__(self, is_local: Callable[[Wire], bool]) -> None:
        self._is_local = is_local
        self._of: dict[int, Peer] = {}  # by id() of the channel

    def add(self, wire: Wire, now: float) -> None:
        """Take note of a new one."""
        self._of[id(wire)] = Peer(wire, now)

    def get(self, wire: Wire) -> Peer | None:
        """Return whose channel that is; None once it was removed."""
        return self._of.get(id(wire))

    def remove(self, peer: Peer) -> None:
        """Hear no more of it. Idempotent."""
        self._of.pop(id(peer.wire), None)

    def clear(self, reason: str) -> None:
        """Hang up on all."""
        peers, self._of = list(self._of.values()), {}
        for peer in peers:
            peer.wire.close(reason)

    def is_local(self, peer: Peer) -> bool:
        """Tell whether it is the leader's own node."""
        return self._is_local(peer.wire)

    @property
    def local(self) -> Peer:
        """The leader's own node."""
        return next(peer for peer in self._of.values() if self.is_local(peer))

    def tell(self, message: Message) -> None:
        """Send a message to those that have joined."""
        for peer in self.joined().values():
            peer.say(message)

    def tell_others(self, message: Message) -> None:
        """Send it to them, but not to the leader's own node."""
        for peer in self.others():
            peer.say(message)

    def others(self) -> list[Peer]:
        """Return those that have joined, without the leader's own node."""
        return [peer for peer in self.joined().values() if not self.is_local(peer)]

    def joined(self) -> dict[int, Peer]:
        """Return those that have joined, by their seats."""
        return {peer.key: peer for peer in self._of.values() if peer.key is not None}

    def silent(self, now: float, lost_s: float, join_s: float) -> Iterator[tuple[Peer, str]]:
        """Yield those that do not say what they should, and why they are lost.

        The leader's own node is in its process, and sleeps only when the leader does.
        """
        for peer in list(self._of.values()):
            if not peer.is_in and now - peer.since_s > join_s:
                yield peer, f"it did not join within {join_s:g} s"
            elif peer.wire.idle_s > lost_s and not self.is_local(peer):
                yield peer, f"nothing was heard of it for {lost_s:g} s"


def why_not(join: Join) -> str:
    """Say why a Join makes no sense; nothing if it does."""
    if not _HOST.fullmatch(join.host) or (join.address and not _HOST.fullmatch(join.address)):
        return "its name or address is none"
    numbers = (join.last_round, join.restarts, join.nproc, join.node_rank or 0)
    if not all(0 <= number < MAX_COUNT for number in numbers):
        return "a number of it is out of range"
    return ""


def bounded(fault: Fault) -> Fault:
    """Cut what would not fit into a message together with other things; 0 is no fault's code."""
    return replace(
        fault,
        exit_code=fault.exit_code if 0 < fault.exit_code < 256 else 1,
        kind=fault.kind[:MAX_WORD],
        detail=fault.detail[:MAX_DETAIL],
    )
