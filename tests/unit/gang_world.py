# SPDX-License-Identifier: Apache-2.0
"""A world of launchers with a clock of its own: hours of it take seconds, and chance is a seed."""

import heapq
import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from fake_gang import FakeDoor, FakeRoom

from rdmatrain.launcher.contracts import Parts, WireHandler
from rdmatrain.launcher.job import Job
from rdmatrain.launcher.loop import Timer
from rdmatrain.launcher.member import Member, State
from rdmatrain.launcher.messages import (
    EndRound,
    Fault,
    Finish,
    Join,
    Report,
    Round,
    StopAsked,
    Stopped,
    StopWorkers,
)


class World:
    """Time, chance, and the network between launchers."""

    def __init__(self, seed: int) -> None:
        self.now = 1000.0
        self.chance = random.Random(seed)
        self.launchers: list[Launcher] = []
        self.history: list[tuple[float, str, object]] = []
        self._queue: list[tuple[float, int, Timer]] = []
        self._number = itertools.count()

    def later(self, delay_s: float, callback: Callable[[], None]) -> Timer:
        timer = Timer(callback)
        heapq.heappush(self._queue, (self.now + delay_s, next(self._number), timer))
        return timer

    def run(self, for_s: float, done: Callable[[], bool] = lambda: False) -> None:
        end_s = self.now + for_s
        while self._queue and self._queue[0][0] <= end_s and not done():
            self.now, _, timer = heapq.heappop(self._queue)
            if timer.callback is not None:
                timer.callback()

    def leader(self) -> "Launcher | None":
        """Return the newest launcher that leads, as a name of DNS would."""
        found = [each for each in self.launchers if each.alive and each.leads]
        return found[-1] if found else None


class Process:
    """What a launcher has of the world: when it is dead, nothing calls it any more."""

    def __init__(self, world: World, launcher: "Launcher") -> None:
        self._world, self._launcher = world, launcher

    def later(self, delay_s: float, callback: Callable[[], None]) -> Timer:
        def guarded() -> None:
            if self._launcher.alive and timer.callback is not None:
                callback()

        timer = self._world.later(delay_s, guarded)
        return timer


class FakeWire:
    """One end of a connection. What is sent arrives in order, a moment later, unless it is cut."""

    def __init__(self, world: World, owner: "Launcher", handler: WireHandler) -> None:
        self.world, self.owner, self.handler = world, owner, handler
        self.other: FakeWire = self
        self.peer = f"{owner.host}:1"
        self.num_pending_bytes = 0
        self.open = True
        self._heard_s = world.now
        self._last_s = world.now

    @property
    def idle_s(self) -> float:
        return self.world.now - self._heard_s

    @property
    def cut(self) -> bool:
        return self.owner is not self.other.owner and (self.owner.cut or self.other.owner.cut)

    def send(self, kind: int, payload: bytes) -> None:
        if self.open:
            self.pass_on(lambda: self.other.take(kind, payload))

    def pass_on(self, act: Callable[[], None]) -> None:
        delay_s = self.world.chance.choice((0.0, 0.001, 0.01, 0.05))
        self._last_s = max(self._last_s, self.world.now + delay_s)
        # Nothing is lost of a connection that is cut and joined again in time, as with TCP.
        self.world.later(self._last_s - self.world.now, lambda: self._arrive(act))

    def _arrive(self, act: Callable[[], None]) -> None:
        if self.cut:
            self.world.later(0.3, lambda: self._arrive(act))
        elif self.other.owner.alive:
            act()

    def take(self, kind: int, payload: bytes) -> None:
        self._heard_s = self.world.now
        if self.open:
            self.handler.on_message(self, kind, payload)

    def close(self, reason: str = "") -> None:
        if self.open:
            self.open = False
            self.pass_on(lambda: self.other.ended(f"the other side closed: {reason}"))
            self.world.later(0.0, lambda: self._closed(reason))

    def ended(self, reason: str) -> None:
        if self.open:
            self.open = False
            self._closed(reason)

    def _closed(self, reason: str) -> None:
        if self.owner.alive:
            self.handler.on_close(self, reason)


def connect(
    world: World, ends: tuple["Launcher", "Launcher"], handlers: tuple[WireHandler, WireHandler]
) -> tuple[FakeWire, FakeWire]:
    first, second = (FakeWire(world, *each) for each in zip(ends, handlers, strict=True))
    first.other, second.other = second, first
    first.peer, second.peer = second.peer, first.peer
    for end in (first, second):
        end.owner.wires.append(end)
        end.other.pass_on(lambda end=end: end.open and end.handler.on_open(end))  # type: ignore[misc]
    return first, second


class FakeSeeker:
    """Finds the leader at once if it is there, else asks again."""

    def __init__(self, world: World, launcher: "Launcher") -> None:
        self._world, self._launcher, self._closed = world, launcher, False

    def seek(self, member: Member) -> None:
        launcher, leader = self._launcher, self._world.leader()
        if self._closed or not launcher.alive:
            return
        if launcher.leads:
            member.lead(launcher.host, lambda handler: launcher.listen(handler))
        elif leader and leader.listening and not leader.cut and not launcher.cut:
            connect(self._world, (leader, launcher), (leader.listening, member))
        else:
            self._world.later(0.4, lambda: self.seek(member))

    def failed(self, reason: str) -> None:
        self._world.later(0.4, lambda: self.seek(self._launcher.member))

    def missing(self) -> str:
        return "the leader"

    def close(self) -> None:
        self._closed = True


@dataclass(eq=False)
class Launcher:
    """A node's launcher, its agent and its workers."""

    world: World
    job: Job
    host: str
    leads: bool
    agree: str = "same"
    alive: bool = True
    cut: bool = False
    working: Round | None = None
    rounds: list[Round] = field(default_factory=list)
    finishes: list[Finish] = field(default_factory=list)
    stops: list[StopWorkers] = field(default_factory=list)
    wires: list[FakeWire] = field(default_factory=list)
    listening: WireHandler | None = None
    killing: bool = False
    since_s: float = 0.0
    stopped_alone: bool = False

    def __post_init__(self) -> None:
        world, self.since_s = self.world, self.world.now
        parts = Parts(
            FakeRoom,
            FakeDoor,
            lambda _, leader, member: connect(world, (self, self), (leader, member)),
        )
        self.member = Member(
            Process(world, self),  # type: ignore[arg-type]
            self.job,
            self,
            FakeSeeker(world, self),
            parts,
        )
        world.launchers.append(self)
        self.member.join(
            Join(
                host=self.host,
                nproc=self.job.nproc,
                node_rank=self.job.gang.node_rank,
                agree={"the image": self.agree},
                incarnation=self.host,
            )
        )

    def listen(self, handler: WireHandler) -> Callable[[], None]:
        self.listening = handler

        def end() -> None:
            self.listening = None

        return end

    def kill(self, quietly: bool) -> None:
        """End as by SIGKILL; quietly: with its host, so that nobody is told."""
        self.alive, self.working = False, None
        for wire in self.wires:
            if wire.open and not quietly and wire.other.owner is not self:
                wire.pass_on(lambda wire=wire: wire.other.ended("gone"))  # type: ignore[misc]
            wire.open = False

    # What the agent is told.

    def on_round(self, round: Round) -> None:
        assert self.working is None, "workers of an older round are still there"
        assert not self.finishes
        assert not self.rounds or round.number > self.rounds[-1].number, "a number is used again"
        assert round.node.host == self.host
        self.rounds.append(round)
        self.working, self.killing = round, False
        self.world.history.append((self.world.now, self.host, round))

    def on_end_round(self, end: EndRound) -> None:
        assert self.rounds and end.number == self.rounds[-1].number and not self.finishes
        assert not self.killing, "told twice"
        self.killing = True
        self._end_workers(self.world.chance.choice((0.0, 0.02, 0.5)))

    def on_stop_workers(self, stop: StopWorkers) -> None:
        assert not self.stops and self.working
        self.stops.append(stop)
        self._end_workers(self.world.chance.choice((0.0, 0.4)))

    def on_finish(self, finish: Finish) -> None:
        assert not self.finishes, "two ends"
        self.finishes.append(finish)
        self.working = None
        self.world.history.append((self.world.now, self.host, finish))

    def on_note(self, text: str) -> None:
        assert len(text) < 1000

    def _end_workers(self, within_s: float) -> None:
        number = self.rounds[-1].number

        def ended() -> None:
            if self.alive and self.working and self.working.number == number:
                self.working = None
                self.member.say(Stopped(round=number))

        self.world.later(within_s, ended)

    # What the agent says of its own.

    def done(self) -> None:
        if self.alive and self.rounds:
            self.member.say(Report(round=self.rounds[-1].number, done=True))

    def fail(self, code: int) -> None:
        if self.alive and self.rounds:
            fault = Fault(kind="exit", host=self.host, exit_code=code, detail="failed")
            self.member.say(Report(round=self.rounds[-1].number, fault=fault))

    def stop(self, name: str) -> None:
        if self.alive:
            self.stopped_alone = self.member.state is State.SEEKING
            self.member.say(StopAsked(signal=name))
