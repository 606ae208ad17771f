"""A node's side of a gang: it finds the leader, joins, and does as it is told."""

import signal
from collections.abc import Callable
from dataclasses import replace
from enum import Enum, auto
from time import monotonic
from typing import Any, ClassVar, Protocol

from rdmatrain.errors import BootstrapError
from rdmatrain.launcher import exit_codes
from rdmatrain.launcher.contracts import CONTROL, STORE, Door, GangHandler, Parts, Wire, WireHandler
from rdmatrain.launcher.job import Job
from rdmatrain.launcher.leader import Leader
from rdmatrain.launcher.loop import Loop, Timer
from rdmatrain.launcher.messages import (
    Beat,
    EndRound,
    Fault,
    Finish,
    Join,
    Message,
    Refuse,
    Report,
    Round,
    StopAsked,
    Stopped,
    StopWorkers,
    decode,
    encode,
)
from rdmatrain.launcher.peer import bounded
from rdmatrain.launcher.waiting import Waiting

TICK_S = 0.5
BEAT_S = 1.0
# What killing takes beyond the limits that the node keeps.
SLACK_S = 10.0


class State(Enum):
    """What a member is about."""

    SEEKING = auto()  # the leader
    WAITING = auto()  # for a round, or for the end
    WORKING = auto()  # on a round
    ENDING = auto()  # its workers
    OVER = auto()


class Seeker(Protocol):
    """Finds the leader; calls the member's ``lead``, or makes a channel that the member handles."""

    def seek(self, member: "Member") -> None:
        """Begin; go on until one or the other, or :meth:`close`."""

    def failed(self, reason: str) -> None:
        """Try again: a channel was closed before it was open."""

    def missing(self) -> str:
        """Say who is sought, what was tried, and what came of it."""

    def close(self) -> None:
        """Stop. Idempotent."""


class Member:
    """A node of a gang; the handler of its channel to the leader.

    Args:
        loop: calls back.
        job: the node's.
        handler: is told what to do, from the loop.
        seeker: finds the leader.
        parts: makes the rest.

    """

    def __init__(
        self,
        loop: Loop,
        job: Job,
        handler: GangHandler,
        seeker: Seeker,
        parts: Parts,
    ) -> None:
        self._loop, self._job, self._handler = loop, job, handler
        self._seeker, self._parts = seeker, parts
        self._leader: Leader | None = None
        self._close_listener: Callable[[], None] | None = None
        self._leaders_end: Wire | None = None
        self._wire: Wire | None = None
        self._door: Door | None = None
        self._round: Round | None = None
        self._end: EndRound | None = None
        self._stop = ""
        self._leader_waits_for = ""
        now = monotonic()
        self._beat_s = now
        self._waiting, self._limit_s = Waiting(now), now + job.gang.join_s
        self.state = State.SEEKING
        self._timer = Timer(self._begin)
        self._hello = Join(host="")

    # What the agent calls.

    def join(self, hello: Join) -> None:
        """Begin, from the loop; ``hello`` is what this node says of itself."""
        self._hello = hello
        self._timer = self._loop.later(0, self._begin)

    @property
    def store_port(self) -> int:
        """Where this node's workers find the store, on loopback; valid while a round is on."""
        if self._leader is not None:
            return self._leader.room.port
        return self._door.port if self._door is not None else 0

    @property
    def store_pid(self) -> int:
        """Process id of the store's server, which no worker is; 0 on all nodes but the leader's."""
        return self._leader.room.pid if self._leader is not None else 0

    def say(self, message: Report | Stopped | StopAsked) -> None:
        """Tell the leader; what is not of this round is ignored."""
        if self.state is State.OVER:
            return
        if isinstance(message, StopAsked):
            self._ask_stop(message)
        elif isinstance(message, Stopped):
            self._say_stopped(message)
        else:
            self._say_report(message)

    def close(self) -> None:
        """Leave the gang; the leader's node ends it. Idempotent."""
        self.state = State.OVER
        self._timer.cancel()
        self._seeker.close()
        self._hang_up("this node leaves")
        if self._door is not None:
            self._door.close()

    # What the seeker calls.

    def lead(
        self, address: str, listen: Callable[[WireHandler], Callable[[], None]] | None = None
    ) -> None:
        """Lead the gang.

        Args:
            address: how the others reach this node.
            listen: lets the others in; returns how to end that. None: there are no others.

        """
        self._hello = replace(self._hello, address=address)
        try:
            self._leader = Leader(
                self._loop,
                self._job,
                self._parts.room(self._loop, self._handler.on_note),
                lambda wire: wire is self._leaders_end,
                self._handler.on_note,
            )
        except BootstrapError as error:
            self.give_up("start", str(error), exit_codes.NO_JOB)
            return
        if listen is not None:
            self._close_listener = listen(self._leader)
        pair = self._parts.pair(self._loop, self._leader, self)
        self._leaders_end = pair[0]

    # What the channel calls.

    def on_open(self, wire: Wire) -> None:
        """Join: the leader has proved that it knows the secret."""
        if self.state is not State.SEEKING:
            wire.close("this node has another leader")
            return
        self._wire, self.state = wire, State.WAITING
        last = self._round
        self._send(
            replace(
                self._hello,
                last_round=last.number if last else 0,
                restarts=last.restart + 1 if last else 0,
            )
        )

    def on_message(self, wire: Wire, kind: int, payload: bytes) -> None:
        """Do as the leader says; one that makes no sense is none."""
        if wire is not self._wire:
            return
        if kind == STORE:
            if self._door is not None:
                self._door.receive(payload)
            return
        try:
            message = decode(payload)
        except ValueError as error:
            self._lose_leader(f"it made no sense: {error}")
            return
        act = self._ACTIONS.get(type(message))
        if act is None:
            self._lose_leader(f"a leader does not say {type(message).__name__}")
        else:
            act(self, message)

    def on_close(self, wire: Wire, reason: str) -> None:
        """Act on the loss of the leader, or of what might have led to it."""
        if wire is self._wire:
            self._lose_leader(reason or "its connection was closed")
        elif self.state is State.SEEKING:
            self._seeker.failed(reason)

    # What the leader says.

    def _take_round(self, round: Round) -> None:
        if self.state is not State.WAITING or (self._round and round.number <= self._round.number):
            self._lose_leader(f"round {round.number} cannot follow")
            return
        try:
            self._open_door()
        except BootstrapError as error:
            self.give_up("start", str(error), 1)
            return
        self._round, self._end, self.state = round, None, State.WORKING
        self._handler.on_round(round)

    def _open_door(self) -> None:
        if self._leader is not None:
            return
        if self._door is None:
            self._door = self._parts.door(
                self._loop, self._send_frame, self._num_pending, self._handler.on_note
            )
        else:
            self._door.reset()

    def _take_end(self, end: EndRound) -> None:
        if self.state is State.WORKING and self._round and end.number == self._round.number:
            self._end_workers(end)

    def _end_workers(self, end: EndRound) -> None:
        self._end, self.state = end, State.ENDING
        self._limit_s = monotonic() + self._job.limits.shutdown_s + SLACK_S
        self._handler.on_end_round(end)

    def _take_stop(self, stop: StopWorkers) -> None:
        if self.state is State.WORKING and stop.signal in signal.Signals.__members__:
            self._stop = stop.signal
            self._handler.on_stop_workers(stop)

    def _take_refusal(self, refuse: Refuse) -> None:
        self.give_up("refused", refuse.reason, refuse.exit_code)

    def _take_beat(self, beat: Beat) -> None:
        self._leader_waits_for = beat.waits_for

    def _finish(self, finish: Finish) -> None:
        if self.state is not State.OVER:
            self.close()
            self._handler.on_finish(finish)

    # What this node says.

    def _say_stopped(self, stopped: Stopped) -> None:
        if self._round is None or stopped.round != self._round.number:
            return
        if self.state not in {State.WORKING, State.ENDING}:
            return
        self._send(stopped)
        self.state = State.WAITING
        now = monotonic()
        self._waiting, self._limit_s = Waiting(now), now + self._job.gang.join_s
        if self._wire is None:
            self._seek_or_finish()

    def _say_report(self, report: Report) -> None:
        if report.fault is not None:
            report = replace(report, fault=bounded(report.fault))
        try:
            self._send(report)
        except ValueError:  # very many ranks that wait for very many
            self._send(replace(report, states=()))

    def _ask_stop(self, asked: StopAsked) -> None:
        if self._wire is not None:
            self._send(replace(asked, host=self._hello.host))
        elif asked.signal in signal.Signals.__members__:
            self._stop = self._stop or asked.signal
            if self.state is State.SEEKING:
                self._seek_or_finish()

    def _send(self, message: Message) -> None:
        if self._wire is not None:
            self._wire.send(CONTROL, encode(message))

    def _send_frame(self, payload: bytes) -> None:
        if self._wire is not None:
            self._wire.send(STORE, payload)

    def _num_pending(self) -> int:
        return self._wire.num_pending_bytes if self._wire is not None else 0

    # The leader is lost, or never found.

    def _hang_up(self, reason: str) -> None:
        wire, self._wire = self._wire, None
        if wire is not None:
            wire.close(reason)
        if self._close_listener is not None:
            self._close_listener()
        if self._leader is not None:
            self._leader.close()
        self._close_listener = self._leader = None

    def _lose_leader(self, reason: str) -> None:
        self._hang_up(reason)
        if self.state is State.WAITING:
            self._seek_or_finish()
        elif self.state is State.WORKING and self._stop:
            # The workers have their time for a checkpoint all the same.
            self.state = State.ENDING
            self._limit_s = monotonic() + self._job.limits.grace_s + SLACK_S
        elif self.state is State.WORKING and self._round is not None:
            leader = self._round.nodes[0].host
            fault = _lost(leader, f"the gang's leader was lost: {reason}")
            again = self._round.restart < self._job.limits.max_restarts
            self._end_workers(EndRound(number=self._round.number, fault=fault, again=again))

    def _seek_or_finish(self) -> None:
        """Look for a leader again, if the job goes on; no worker is left here."""
        if self._stop:
            self._finish(Finish(exit_code=exit_codes.of_signal(self._stop)))
        elif self._end is not None and not self._end.again:
            self._finish(Finish(exit_code=self._end.fault.exit_code, fault=self._end.fault))
        else:
            self.state = State.SEEKING
            self._seeker.seek(self)

    def give_up(self, kind: str, detail: str, exit_code: int) -> None:
        """End this node's part before there is a fault of the gang's."""
        fault = Fault(kind=kind, host=self._hello.host, detail=detail, exit_code=exit_code)
        self._finish(Finish(exit_code=exit_code, fault=fault))

    # What time brings.

    def _begin(self) -> None:
        self._timer = self._loop.later(TICK_S, self._tick)
        self._seeker.seek(self)

    def _tick(self) -> None:
        self._timer = self._loop.later(TICK_S, self._tick)
        now, lost_s = monotonic(), self._job.gang.lost_s
        if self._wire is not None and now - self._beat_s >= BEAT_S:
            self._beat_s = now
            self._send(Beat())
        # A leader in this process is there; it sleeps when this node does.
        silent = self._leader is None and self._wire is not None and self._wire.idle_s > lost_s
        if silent:
            self._lose_leader(f"nothing was heard of it for {lost_s:g} s")
        if now >= self._limit_s + SLACK_S * (self.state is State.WAITING):
            self._time_is_up()
        elif self._is_waiting() and (waited_s := self._waiting.due(now)):
            self._handler.on_note(f"waiting for {self._whom()} ({waited_s:.0f} s so far)")

    def _is_waiting(self) -> bool:
        """Whether this node waits, and no leader here tells the user."""
        return self._leader is None and self.state in {State.SEEKING, State.WAITING}

    def _whom(self) -> str:
        if self.state is State.SEEKING:
            return self._seeker.missing()
        return self._leader_waits_for or "the leader to start a round"

    def _time_is_up(self) -> None:
        join_s = self._job.gang.join_s
        if self.state in {State.SEEKING, State.WAITING}:
            detail = f"the gang was not complete within {join_s:g} s: missing {self._whom()}"
            self.give_up("timeout", detail, exit_codes.GANG_TIMEOUT)
        elif self.state is State.ENDING:
            # Whatever is left dies with this launcher.
            self._end = replace(self._end, again=False) if self._end else None
            self._seek_or_finish()

    _ACTIONS: ClassVar[dict[type, Callable[["Member", Any], None]]] = {
        Round: _take_round,
        EndRound: _take_end,
        StopWorkers: _take_stop,
        Refuse: _take_refusal,
        Beat: _take_beat,
        Finish: _finish,
    }


def _lost(host: str, detail: str) -> Fault:
    return Fault(kind="lost-leader", host=host, detail=detail, exit_code=exit_codes.PEER_LOST)
