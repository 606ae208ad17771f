"""The leader's side of a gang: who takes part, when to start, whose fault it was, when to stop.

The README tells what its states are and what ends each: the life of a gang.
"""

import signal
from collections.abc import Callable
from dataclasses import replace
from enum import Enum, auto
from functools import partial
from time import monotonic
from typing import ClassVar

from rdmatrain.errors import BootstrapError
from rdmatrain.launcher import exit_codes
from rdmatrain.launcher.contracts import CONTROL, STORE, Room, Wire
from rdmatrain.launcher.exit_codes import of_signal
from rdmatrain.launcher.job import Job
from rdmatrain.launcher.loop import Loop
from rdmatrain.launcher.membership import Membership, Seat
from rdmatrain.launcher.messages import (
    Beat,
    EndRound,
    Fault,
    Finish,
    Join,
    Message,
    Refuse,
    Report,
    StopAsked,
    Stopped,
    StopWorkers,
    decode,
)
from rdmatrain.launcher.peer import Peer, Peers, why_not
from rdmatrain.launcher.running import Running
from rdmatrain.launcher.waiting import Waiting

TICK_S = 0.5
BEAT_S = 1.0
# Nodes that differ are refused when all are there; if some never come, after this time.
DIFFER_S = 10.0
# Who has proved the secret says Join within this time.
JOIN_SAID_S = 10.0
# What killing takes beyond the limits that the nodes keep.
SLACK_S = 10.0
# How long the leader stays, at most, for the others to hear that the job is over.
FAREWELL_S = 2.0


class State(Enum):
    """What the leader is about; see the module."""

    FORMING = auto()
    RUNNING = auto()
    SETTLING = auto()
    ENDING = auto()
    STOPPING = auto()
    OVER = auto()


# In these, nodes say that nothing is left of their workers.
_KILLS = {State.ENDING, State.STOPPING}


class Leader:
    """Leads a gang; the handler of its channels.

    Args:
        loop: calls back.
        job: the leader's own; its gang and limits are the gang's.
        room: the job's store; closed with the leader.
        is_local: tells the channel of the leader's own node from others.
        note: gets lines for the user.

    """

    def __init__(
        self,
        loop: Loop,
        job: Job,
        room: Room,
        is_local: Callable[[Wire], bool],
        note: Callable[[str], None],
    ) -> None:
        self._loop, self._job, self._note = loop, job, note
        now = monotonic()
        self._membership = Membership(job.gang, now)
        self._peers = Peers(is_local)
        self._round = Running()
        self._number = 0  # of the last round that anybody here knows of
        self._restarts = 0
        self._has_begun = self._again = False
        self._fault: Fault | None = None
        self._stop = ""
        self._end: Finish | None = None
        self._beat_s, self._differs_s = now, 0.0
        self._waiting, self._limit_s = Waiting(now), now + job.gang.join_s
        self.state = State.FORMING
        self.room = room
        self._timer = loop.later(TICK_S, self._tick)

    # What channels call.

    def on_open(self, wire: Wire) -> None:
        """Take note of who has proved the secret."""
        self._peers.add(wire, monotonic())

    def on_message(self, wire: Wire, kind: int, payload: bytes) -> None:
        """Act on what a node says; one that makes no sense loses its channel."""
        peer = self._peers.get(wire)
        if peer is None:
            return
        if peer.key is not None:
            self._membership.heard(peer.key, monotonic())
            if kind == STORE:
                self.room.receive(peer.key, payload)
        if kind == CONTROL:
            self._take(peer, payload)

    def on_close(self, wire: Wire, reason: str) -> None:
        """Act on a node that is gone."""
        if peer := self._peers.get(wire):
            self._peers.remove(peer)
            self._lose(peer, reason or "its connection was closed")
            self._advance()

    def close(self) -> None:
        """Hang up, and end the store. Idempotent."""
        self.state = State.OVER
        self._timer.cancel()
        self._peers.clear("the leader ends")
        self.room.close()

    # What nodes say.

    def _take(self, peer: Peer, payload: bytes) -> None:
        try:
            message = decode(payload)
        except ValueError as error:
            self._drop(peer, f"it made no sense: {error}")
        else:
            if isinstance(message, Beat):
                return  # It was heard, and that is all.
            self._hear(peer, message)
        self._advance()

    def _hear(self, peer: Peer, message: Message) -> None:
        if isinstance(message, Join):
            self._join(peer, message)
        elif isinstance(message, Report):
            self._take_report(peer, message)
        elif isinstance(message, Stopped):
            if message.round == self._round.number and self.state in _KILLS:
                peer.stopped = True
        elif isinstance(message, StopAsked):
            self._ask_stop(peer, message)
        else:
            self._drop(peer, f"a node does not say {type(message).__name__}")

    def _join(self, peer: Peer, join: Join) -> None:
        if wrong := "it joined twice" if peer.is_in else why_not(join):
            self._drop(peer, wrong)
            return
        if reason := self._membership.why_not(join):
            self._refuse(peer, f"{join.host}: {reason}")
            return
        if self._end is not None:
            peer.say(self._end)
            return
        self._replace(join.incarnation)
        local = self._peers.is_local(peer)
        join = replace(join, address=join.address or peer.address)
        seat = self._membership.add(join, monotonic(), leads=local)
        peer.key, peer.host = seat.key, join.host
        self._number = max(self._number, join.last_round)
        if not self._has_begun:  # Later it knows better than those who have missed something.
            self._restarts = max(self._restarts, join.restarts)
        if not local:  # whose workers connect to the store directly
            send, pending = partial(peer.wire.send, STORE), lambda: peer.wire.num_pending_bytes
            self.room.attach(seat.key, send, pending)
        if self.state not in {State.FORMING, State.ENDING}:
            self._note(f"{seat} waits for the next round, after {self._round.number}")

    def _replace(self, incarnation: str) -> None:
        """Forget the channel that a launcher had before it connected again."""
        if seat := self._membership.of_incarnation(incarnation):
            self._drop(self._peers.joined()[seat.key], "its launcher has connected again")

    def _take_report(self, peer: Peer, report: Report) -> None:
        if peer.node is None or report.round != self._round.number or peer.stopped:
            return
        peer.keep(report)
        if report.fault is not None:
            self._add_fault(replace(report.fault, host=peer.host))

    def _ask_stop(self, peer: Peer, asked: StopAsked) -> None:
        if self._stop or peer.key is None or asked.signal not in signal.Signals.__members__:
            return
        if peer.node is None and self.state is not State.FORMING:
            # It waits for the next round, and this one goes on.
            peer.say(Finish(exit_code=of_signal(asked.signal)))
            return
        self._stop = asked.signal
        if self.state in {State.RUNNING, State.SETTLING}:
            self.state = State.STOPPING
            self._limit_s = monotonic() + self._job.limits.grace_s + SLACK_S
            self._round.tell(StopWorkers(signal=asked.signal, host=peer.host))

    # Nodes that go, or may not stay.

    def _drop(self, peer: Peer, reason: str) -> None:
        self._peers.remove(peer)
        peer.wire.close(reason)
        self._lose(peer, reason)

    def _lose(self, peer: Peer, reason: str) -> None:
        if peer.key is None:
            return
        key, node = peer.key, peer.node
        peer.key, peer.since_s = None, monotonic()
        self._membership.remove(key)
        self.room.detach(key)
        if node is not None and self._round.leave(key, peer):
            self._add_fault(peer.lost(node.node_rank, reason))

    def _refuse(self, peer: Peer, reason: str) -> None:
        self._note(f"refused {reason}")
        self._lose(peer, reason)
        peer.say(Refuse(reason=reason, exit_code=exit_codes.BAD_CONFIG))

    def _turn_away(self, seat: Seat, reason: str) -> None:
        self._refuse(self._peers.joined()[seat.key], f"{seat}: {reason}")

    # What follows.

    def _advance(self) -> None:
        """Leave the state, if what it waits for has come."""
        self._NEXT[self.state](self)

    def _form(self) -> None:
        now = monotonic()
        complete = self._membership.is_complete(now)
        if self._stop:
            self._finish(Finish(exit_code=of_signal(self._stop)))
        elif complete or (self._differs_s and now - self._differs_s >= DIFFER_S):
            if differs := self._membership.disagreement():
                self._give_up(f"the nodes do not fit together: {differs}", exit_codes.BAD_CONFIG)
            elif complete:
                self._start_round()

    def _start_round(self) -> None:
        if differs := self._membership.let_pass():
            self._note(f"the job goes on, though its nodes differ by now: {differs}")
        self._number += 1
        self._has_begun, self.state = True, State.RUNNING
        self._round = Running(self._number, self._restarts)
        try:
            self._round.begin(self._membership.seats(), self._peers.joined())
        except ValueError as error:  # some thousand nodes with long names
            self._give_up(f"the gang is too large: {error}", exit_codes.BAD_CONFIG)

    def _run(self) -> None:
        if self._round.is_done:
            self._finish(Finish(exit_code=0))

    def _add_fault(self, fault: Fault) -> None:
        if self.state is State.RUNNING:
            self.state = State.SETTLING
        if self.state is State.SETTLING:
            left_s = self._round.add_fault(fault, monotonic())
            self._loop.later(left_s, partial(self._end_round, self._round.number))

    def _end_round(self, number: int) -> None:
        if self.state is not State.SETTLING or number != self._round.number:
            return
        self.state, self._fault = State.ENDING, self._round.cause
        self._again = self._restarts < self._job.limits.max_restarts
        self._limit_s = monotonic() + self._job.limits.shutdown_s + SLACK_S
        self._round.tell(EndRound(number=number, fault=self._fault, again=self._again))
        self._advance()

    def _wait_for_stop(self) -> None:
        if self._round.is_stopped:
            self._finish(Finish(exit_code=of_signal(self._stop)))

    def _wait_for_kill(self) -> None:
        if not self._round.is_killed or self._fault is None:
            return
        self._round.end()
        if self._again:
            self._form_again(self._fault)
        else:
            self._finish(Finish(exit_code=self._fault.exit_code, fault=self._fault))

    def _form_again(self, fault: Fault) -> None:
        try:
            self.room.reset()
        except BootstrapError as error:
            fault = replace(fault, detail=f"{fault.detail}; no restart: {error}")
            self._finish(Finish(exit_code=fault.exit_code, fault=fault))
            return
        now = monotonic()
        self._restarts += 1
        self._membership.form_again(now)
        self._waiting, self._limit_s = Waiting(now), now + self._job.gang.join_s
        self.state = State.FORMING
        self._form()

    def _give_up(self, detail: str, exit_code: int) -> None:
        kind = {exit_codes.GANG_TIMEOUT: "timeout", exit_codes.BAD_CONFIG: "refused"}[exit_code]
        fault = Fault(kind=kind, host="", detail=detail, exit_code=exit_code)
        self._finish(Finish(exit_code=exit_code, fault=fault))

    def _finish(self, end: Finish) -> None:
        """Tell all that the job is over; the leader's own node last, which hangs up then."""
        self.state, self._end = State.OVER, end
        self._limit_s = monotonic() + FAREWELL_S
        self._peers.tell_others(end)
        self._take_leave()

    def _take_leave(self) -> None:
        """End this node as well, when the others have hung up or had their time."""
        if self._end and (not self._peers.others() or monotonic() >= self._limit_s):
            for peer in self._peers.joined().values():
                peer.key = None  # It is told once.
                peer.say(self._end)

    # What time brings.

    def _tick(self) -> None:
        self._timer = self._loop.later(TICK_S, self._tick)
        now = monotonic()
        for peer, reason in self._peers.silent(now, self._job.gang.lost_s, JOIN_SAID_S):
            self._drop(peer, reason)
        if now - self._beat_s >= BEAT_S:
            self._beat_s = now
            forming = self.state is State.FORMING
            self._peers.tell(Beat(waits_for=self._membership.missing() if forming else ""))
        if now >= self._limit_s:
            self._time_is_up()
        elif self.state is State.FORMING:
            self._look_at_members(now)
        elif self.state is State.RUNNING:
            self._look_at_round()
        self._settle_claims()
        self._advance()

    def _look_at_members(self, now: float) -> None:
        """Note since when they differ, and for whom they wait."""
        differs = self._membership.disagreement()
        self._differs_s = (self._differs_s or now) if differs else 0.0
        if waited_s := self._waiting.due(now):
            self._note(f"waiting for {self._membership.missing()} ({waited_s:.0f} s so far)")

    def _settle_claims(self) -> None:
        """Refuse who wants what another node has that is still there."""
        if self.state is State.OVER:
            return
        for seat in self._membership.surplus():
            self._turn_away(seat, f"the gang has its {self._job.gang.max_nodes} nodes already")
        if quarrel := self._membership.quarrel():
            older, newer = quarrel
            reason = f"{older} has node rank {newer.join.node_rank} too: give each its own"
            if self._has_begun:
                self._turn_away(newer, reason)
            else:
                self._give_up(f"{newer}: {reason}", exit_codes.BAD_CONFIG)

    def _look_at_round(self) -> None:
        """Find the faults that nobody reports: a store that has ended, a rank that hangs."""
        if not self.room.alive:
            detail = "the job's store ended, which no worker does: see the lines before"
            self._add_fault(self._peers.local.fault("store", detail, exit_codes.PEER_LOST))
        if hang := self._round.find_hang(self._job.limits.hang_s):
            self._add_fault(hang)

    def _time_is_up(self) -> None:
        """End what a state waits for: nothing is waited for without an end."""
        if self.state is State.FORMING:
            waited = f"the gang was not complete within {self._job.gang.join_s:g} s"
            reason = f"{waited}: missing {self._membership.missing()}"
            self._give_up(reason, exit_codes.GANG_TIMEOUT)
        elif self.state in _KILLS:
            for peer in self._round.peers:
                if peer.stopped or peer.done or not peer.is_in:
                    continue
                if self._peers.is_local(peer):
                    peer.stopped, self._again = True, False  # The leader cannot go on without it.
                else:
                    self._drop(peer, "its workers did not end in time")

    _NEXT: ClassVar[dict[State, Callable[["Leader"], None]]] = {
        State.FORMING: _form,
        State.RUNNING: _run,
        State.SETTLING: lambda _: None,
        State.STOPPING: _wait_for_stop,
        State.ENDING: _wait_for_kill,
        State.OVER: _take_leave,
    }
