"""The round that runs, as the leader sees it: who takes part, and what went wrong."""

from collections.abc import Mapping
from dataclasses import replace

from rdmatrain.launcher import exit_codes
from rdmatrain.launcher.blame import absent_rank, missed, root_cause, settle_s
from rdmatrain.launcher.messages import Fault, Message, Node, Round
from rdmatrain.launcher.peer import Peer, bounded
from rdmatrain.launcher.watch.hang import judge

# A deadlock is of all nodes; so many are named.
MAX_HOSTS = 4


class Running:
    """A round, from its start until nothing of it is left.

    Args:
        number: of the round.
        restart: how many faults there were before.

    """

    def __init__(self, number: int = 0, restart: int = 0) -> None:
        self.number, self.restart = number, restart
        self._peers: dict[int, Peer] = {}  # by their seats, without the lost
        self._faults: list[Fault] = []
        self._first_fault_s = 0.0

    def begin(self, nodes: Mapping[int, Node], peers: Mapping[int, Peer]) -> None:
        """Tell the nodes to start their workers; both are by seat, nodes in order of node rank."""
        self._peers = {key: peers[key] for key in nodes}
        for key, node in nodes.items():
            self._peers[key].begin(node)
        everyone = tuple(nodes.values())
        for mine, peer in enumerate(list(self._peers.values())):
            peer.say(Round(number=self.number, restart=self.restart, nodes=everyone, mine=mine))

    def tell(self, message: Message) -> None:
        """Send a message to all that take part."""
        for peer in self.peers:
            peer.say(message)

    def leave(self, key: int, peer: Peer) -> bool:
        """Forget a node that is gone; return whether that is a fault.

        One that is done may go: its part of the round stays done.
        """
        if peer.done or self._peers.pop(key, None) is None:
            return False
        peer.node = None
        return True

    def end(self) -> None:
        """Take all places back."""
        for peer in self._peers.values():
            peer.node = None
        self._peers = {}

    @property
    def peers(self) -> tuple[Peer, ...]:
        """All that take part and are not lost."""
        return tuple(self._peers.values())

    @property
    def is_done(self) -> bool:
        """Whether all workers have ended with 0."""
        return all(peer.done for peer in self.peers)

    @property
    def is_stopped(self) -> bool:
        """Whether no worker is left, after a signal that all have got."""
        return all(peer.stopped or peer.done for peer in self.peers)

    @property
    def is_killed(self) -> bool:
        """Whether no worker is left of those that were to be killed."""
        return all(peer.stopped or not peer.is_in for peer in self.peers)

    def find_hang(self, hang_s: float) -> Fault | None:
        """Return the fault that a rank hangs, by what the watchers of all nodes see."""
        suspect = judge([state for peer in self.peers for state in peer.states], hang_s)
        if suspect is None:
            return None
        guilty = [peer for peer in self.peers if peer.node and suspect.rank in peer.node.ranks]
        host = ", ".join(peer.host for peer in (guilty or self.peers)[:MAX_HOSTS])
        return Fault(
            kind="hang",
            host=host,
            rank=suspect.rank,
            detail=suspect.detail,
            exit_code=exit_codes.HUNG,
        )

    def add_fault(self, fault: Fault, now: float) -> float:
        """Remember a fault; return for how long its cause may still come, in seconds."""
        if not self._faults:
            self._first_fault_s = now
        self._faults.append(bounded(fault))
        return max(0.0, self._first_fault_s + settle_s(self._faults) - now)

    @property
    def cause(self) -> Fault:
        """The likely cause of the faults, of which there is at least one."""
        cause = root_cause(self._faults)
        if not cause.consequence:
            return cause
        return self._raised() or self._left_behind(cause) or cause

    def _raised(self) -> Fault | None:
        """Return the fault of a rank that takes its time to die of what it raised, if one does."""
        for peer in self.peers:
            fault = peer.report.raised if peer.report else None
            if fault is not None and not fault.consequence:
                return replace(bounded(fault), host=peer.host)
        return None

    def _left_behind(self, victim: Fault) -> Fault | None:
        """Return the fault of a rank that others missed although it never failed, if one is."""
        hosts = self._hosts()
        ended = [rank for peer in self.peers for rank in peer.ended]
        failed = {fault.rank for fault in self._faults}
        for rank in [absent_rank(victim.detail, len(hosts)), *ended]:
            if rank is not None and rank in hosts and rank not in failed:
                return missed(victim, rank, hosts[rank], rank in ended)
        return None

    def _hosts(self) -> dict[int, str]:
        return {rank: peer.host for peer in self.peers if peer.node for rank in peer.node.ranks}
