# SPDX-License-Identifier: Apache-2.0
"""An agent that writes down what it is told, and a store that is none."""

import time
from collections.abc import Callable

from rdmatrain.launcher.contracts import Note, Parts
from rdmatrain.launcher.gang import join, pair
from rdmatrain.launcher.job import Gang, Job, Limits, Program
from rdmatrain.launcher.loop import Loop
from rdmatrain.launcher.member import Member
from rdmatrain.launcher.messages import (
    EndRound,
    Fault,
    Finish,
    Report,
    Round,
    StopAsked,
    Stopped,
    StopWorkers,
)

SECRET = b"0123456789abcdef-secret"


class FakeRoom:
    """A store that counts."""

    def __init__(self, loop: Loop, note: Note) -> None:
        self.port, self.pid, self.alive = 29999, 4711, True
        self.attached: set[int] = set()
        self.received: list[tuple[int, bytes]] = []
        self.num_resets = 0
        self.closed = False

    def attach(
        self, key: int, send: Callable[[bytes], None], num_pending: Callable[[], int]
    ) -> None:
        self.attached.add(key)

    def receive(self, key: int, payload: bytes) -> None:
        self.received.append((key, payload))

    def detach(self, key: int) -> None:
        self.attached.discard(key)

    def reset(self) -> None:
        self.num_resets += 1

    def close(self) -> None:
        self.closed = True


class FakeDoor:
    """A way to it that leads nowhere."""

    def __init__(
        self,
        loop: Loop,
        send: Callable[[bytes], None],
        num_pending: Callable[[], int],
        note: Note,
    ) -> None:
        self.port = 28888
        self.send = send
        self.received: list[bytes] = []
        self.num_resets = 0
        self.closed = False

    def receive(self, payload: bytes) -> None:
        self.received.append(payload)

    def reset(self) -> None:
        self.num_resets += 1

    def close(self) -> None:
        self.closed = True


class Agent:
    """A node's agent: it remembers what it was told, and ends its workers at once."""

    def __init__(self, obedient: bool = True) -> None:
        self.told: list[object] = []
        self.notes: list[str] = []
        self.obedient = obedient
        self.member: Member | None = None
        self.then: Callable[[object], None] = lambda _: None

    def on_round(self, round: Round) -> None:
        self._hear(round)

    def on_end_round(self, end: EndRound) -> None:
        self._hear(end)
        if self.obedient:
            self.say(Stopped(round=end.number))

    def on_stop_workers(self, stop: StopWorkers) -> None:
        self._hear(stop)
        if self.obedient:
            self.say(Stopped(round=self.rounds[-1].number))

    def on_finish(self, finish: Finish) -> None:
        self._hear(finish)

    def on_note(self, text: str) -> None:
        self.notes.append(text)

    def say(self, message: Report | Stopped | StopAsked) -> None:
        assert self.member is not None
        self.member.say(message)

    def done(self) -> None:
        self.say(Report(round=self.rounds[-1].number, done=True))

    def fail(self, code: int = 7, rank: int | None = None, consequence: bool = False) -> None:
        fault = Fault(
            kind="exit", host="?", rank=rank, exit_code=code, detail="x", consequence=consequence
        )
        self.say(Report(round=self.rounds[-1].number, fault=fault))

    @property
    def rounds(self) -> list[Round]:
        return [each for each in self.told if isinstance(each, Round)]

    @property
    def ends(self) -> list[EndRound]:
        return [each for each in self.told if isinstance(each, EndRound)]

    @property
    def finishes(self) -> list[Finish]:
        return [each for each in self.told if isinstance(each, Finish)]

    def _hear(self, message: object) -> None:
        self.told.append(message)
        self.then(message)


def job(nproc: int = 1, max_restarts: int = 0, **gang: object) -> Job:
    return Job(
        program=Program(script="train.py"),
        nproc=nproc,
        gang=Gang(run_id="job", **gang),  # type: ignore[arg-type]
        limits=Limits(max_restarts=max_restarts, shutdown_s=1.0, grace_s=1.0, hang_s=2.0),
    )


def start(loop: Loop, its: Job, agent: Agent, secret: bytes = SECRET) -> Member:
    agent.member = join(loop, its, secret, agent, parts=Parts(FakeRoom, FakeDoor, pair))
    return agent.member


def run(loop: Loop, done: Callable[[], bool], within_s: float = 5.0) -> None:
    """Let the loop turn until something is so; fail if that takes too long."""
    end_s = time.monotonic() + within_s
    limit = loop.later(within_s, lambda: None)
    loop.run(lambda: done() or time.monotonic() >= end_s)
    limit.cancel()
    assert done(), "it did not come to that in time"


def settle(loop: Loop) -> None:
    """Let channels that were closed take their leave."""
    run(loop, lambda: not loop._selector.get_map())
    loop.close()
