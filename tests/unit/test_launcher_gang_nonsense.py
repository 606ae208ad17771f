# SPDX-License-Identifier: Apache-2.0
"""Members and leaders that say what they should not: they lose their channel, and nobody else."""

import dataclasses
import socket
from collections.abc import Callable, Iterator

import pytest
from fake_gang import SECRET, Agent, FakeDoor, FakeRoom, job, run, settle, start

from rdmatrain.launcher.channel import Channel
from rdmatrain.launcher.gang import context_of
from rdmatrain.launcher.job import Job
from rdmatrain.launcher.listener import Listener, bind
from rdmatrain.launcher.loop import Loop
from rdmatrain.launcher.messages import (
    MAX_BYTES,
    Beat,
    EndRound,
    Fault,
    Finish,
    Join,
    Message,
    Node,
    RankState,
    Report,
    Round,
    StopAsked,
    Stopped,
    StopWorkers,
    decode,
    encode,
)


class Raw:
    """A peer that has the secret, and says whatever a test wants."""

    def __init__(self) -> None:
        self.heard: list[Message] = []
        self.channel: Channel | None = None
        self.closed = ""

    def on_open(self, channel: Channel) -> None:
        self.channel = channel

    def on_message(self, channel: Channel, kind: int, payload: bytes) -> None:
        message = decode(payload)
        if not isinstance(message, Beat):
            self.heard.append(message)

    def on_close(self, channel: Channel, reason: str) -> None:
        self.closed = reason or "closed"

    def say(self, *messages: Message) -> None:
        for message in messages:
            self.raw(encode(message))

    def raw(self, payload: bytes, kind: int = 1) -> None:
        assert self.channel is not None
        self.channel.send(kind, payload)


class Scene:
    def __init__(self) -> None:
        self.loop = Loop()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self.agent = Agent()
        self.raws: list[Raw] = []

    def job(self, rank: int, restarts: int = 0, most: int = 2, **gang: object) -> Job:
        return job(
            max_restarts=restarts, min_nodes=most, max_nodes=most, node_rank=rank,
            leader="127.0.0.1", port=self.port, **gang,
        )  # fmt: skip

    def until(self, done: Callable[[], bool], within_s: float = 5.0) -> None:
        run(self.loop, done, within_s)

    def dial(self, its: Job) -> Raw:
        raw = Raw()
        self.raws.append(raw)
        sock = socket.create_connection(("127.0.0.1", self.port))
        Channel(self.loop, sock, SECRET, dialed=True, context=context_of(its.gang), handler=raw)
        self.until(lambda: raw.channel is not None)
        return raw

    def lead(self, restarts: int = 0, most: int = 2, **gang: object) -> Job:
        its = self.job(0, restarts, most, **gang)
        start(self.loop, its, self.agent)
        member = self.agent.member
        self.until(lambda: bool(member and member._close_listener))
        return its


@pytest.fixture
def scene() -> Iterator[Scene]:
    its = Scene()
    yield its
    if its.agent.member is not None:
        its.agent.member.close()
    for raw in its.raws:
        if raw.channel is not None:
            raw.channel.close()
    settle(its.loop)


JOIN = Join(host="pod-1", node_rank=1, incarnation="raw")
FAULT = Fault(kind="exit", host="liar", exit_code=9, detail="x")


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xff" * 100,
        b'{"": "Join"}',
        encode(Finish(exit_code=0)),
        encode(EndRound(number=1, fault=FAULT, again=True)),
        encode(Join(host="")),
        encode(Join(host="a b")),
        encode(Join(host="x" * 254)),
        encode(Join(host="ok", address="\n")),
        encode(Join(host="ok", nproc=-1)),
        encode(Join(host="ok", nproc=1 << 40)),
        encode(Join(host="ok", node_rank=-1)),
        encode(Join(host="ok", last_round=1 << 62)),
        encode(Join(host="ok", restarts=-1)),
    ],
)
def test_a_node_that_makes_no_sense_loses_its_channel(scene: Scene, payload: bytes) -> None:
    raw = scene.dial(scene.lead())
    raw.raw(payload)
    scene.until(lambda: bool(raw.closed))
    assert not scene.agent.told
    good = scene.dial(scene.job(1))
    good.say(JOIN)
    scene.until(lambda: bool(scene.agent.rounds and good.heard))


def test_frames_of_the_store_before_a_join_go_nowhere(scene: Scene) -> None:
    raw = scene.dial(scene.lead())
    raw.raw(b"frame", kind=2)
    raw.say(JOIN)
    scene.until(lambda: bool(raw.heard))
    member = scene.agent.member
    assert member and member._leader and isinstance(member._leader.room, FakeRoom)
    assert member._leader.room.received == []
    raw.raw(b"frame", kind=2)
    raw.raw(b"what is this", kind=99)
    scene.until(lambda: bool(member._leader and member._leader.room.received))  # type: ignore[attr-defined]


def test_to_join_twice_costs_the_seat(scene: Scene) -> None:
    raw = scene.dial(scene.lead())
    raw.say(JOIN)
    scene.until(lambda: bool(raw.heard))
    raw.say(JOIN)
    scene.until(lambda: bool(scene.agent.finishes), within_s=8)
    (finish,) = scene.agent.finishes
    assert finish.fault and "joined twice" in finish.fault.detail and finish.exit_code == 201


def test_a_launcher_that_connects_again_takes_its_own_seat(scene: Scene) -> None:
    first = scene.dial(scene.lead(restarts=3))
    first.say(JOIN)
    scene.until(lambda: bool(first.heard))
    second = scene.dial(scene.job(1))
    second.say(dataclasses.replace(JOIN, last_round=1, restarts=1))
    scene.until(lambda: bool(first.closed and second.heard))
    assert "connected again" in first.closed
    (told,) = second.heard
    # It has counted the fault that the leader counts only when the round is over.
    assert isinstance(told, Round) and (told.number, told.restart) == (2, 1)


def test_a_node_that_is_done_may_go(scene: Scene) -> None:
    raw = scene.dial(scene.lead())
    raw.say(JOIN)
    scene.until(lambda: bool(raw.heard))
    raw.say(Report(round=1, done=True))
    assert raw.channel is not None
    raw.channel.close()
    scene.until(lambda: bool(raw.closed))
    scene.agent.done()
    scene.until(lambda: bool(scene.agent.finishes))
    assert scene.agent.finishes == [Finish(exit_code=0)]


def test_what_is_of_another_round_is_ignored(scene: Scene) -> None:
    raw = scene.dial(scene.lead(restarts=1))
    raw.say(
        Report(round=1, fault=FAULT), Stopped(round=0), JOIN,
        Report(round=0, fault=FAULT), Report(round=2, done=True), Stopped(round=7),
    )  # fmt: skip
    scene.until(lambda: bool(raw.heard))
    assert not scene.agent.ends
    scene.agent.fail(code=3)
    scene.until(lambda: bool(scene.agent.ends))
    assert scene.agent.ends[0].fault.exit_code == 3
    raw.say(Report(round=1, fault=FAULT), Stopped(round=1), Stopped(round=1))
    scene.until(lambda: len(scene.agent.rounds) == 2)
    raw.say(Report(round=1, fault=FAULT), Report(round=1, done=True), Report(round=2, done=True))
    raw.say(Report(round=2, done=False))  # done stays done
    scene.agent.done()
    scene.until(lambda: bool(scene.agent.finishes))
    assert scene.agent.finishes == [Finish(exit_code=0)]


def test_a_fault_is_of_the_node_that_reports_it_and_fits_into_a_message(scene: Scene) -> None:
    raw = scene.dial(scene.lead())
    raw.say(JOIN)
    scene.until(lambda: bool(raw.heard))
    huge = Fault(kind="exit", host="liar", exit_code=0, detail="d" * 400_000)
    raw.say(Report(round=1, fault=huge))
    scene.until(lambda: bool(scene.agent.ends))
    fault = scene.agent.ends[0].fault
    assert fault.host == "pod-1" and fault.exit_code == 1  # 0 would be no fault
    assert len(encode(Finish(exit_code=1, fault=fault))) < MAX_BYTES // 8


def test_a_report_that_is_too_long_is_cut_where_it_is_made(scene: Scene) -> None:
    raw = scene.dial(scene.lead())
    raw.say(JOIN)
    scene.until(lambda: bool(raw.heard and scene.agent.rounds))
    waits = RankState(rank=0, waits_for=tuple(range(400_000)))
    huge = Fault(kind="exit", host="x", exit_code=9, detail="d" * MAX_BYTES)
    scene.agent.say(Report(round=1, states=(waits,), fault=huge))
    scene.until(lambda: bool(scene.agent.ends))
    assert scene.agent.ends[0].fault.exit_code == 9


def test_stopped_means_nothing_while_the_round_runs(scene: Scene) -> None:
    raw = scene.dial(scene.lead())
    raw.say(JOIN)
    scene.until(lambda: bool(raw.heard))
    raw.say(Stopped(round=1), Report(round=1, done=True))
    scene.agent.done()
    scene.until(lambda: bool(scene.agent.finishes))
    assert scene.agent.finishes == [Finish(exit_code=0)]


def test_a_hang_is_found_in_the_states_of_all_nodes(scene: Scene) -> None:
    raw = scene.dial(scene.lead())
    raw.say(JOIN)
    scene.until(lambda: bool(raw.heard and scene.agent.rounds))
    stopped = RankState(rank=1, process="T", stopped_s=9.0)
    waits = RankState(rank=0, waiting_s=9.0, idle_s=9.0, beat_s=0.1, waits_for=(1,))
    # A node speaks for its own ranks alone.
    scene.agent.say(Report(round=1, states=(waits, stopped)))
    scene.loop.later(0.7, lambda: scene.agent.then(None))
    passed: list[object] = []
    scene.agent.then = passed.append
    scene.until(lambda: bool(passed))
    assert not scene.agent.ends
    raw.say(Report(round=1, states=(stopped,)))
    scene.until(lambda: bool(scene.agent.ends))
    fault = scene.agent.ends[0].fault
    assert (fault.kind, fault.host, fault.rank, fault.exit_code) == ("hang", "pod-1", 1, 204)
    assert "SIGSTOP" in fault.detail


def test_a_node_that_does_not_stop_in_time_is_lost(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rdmatrain.launcher.leader.SLACK_S", 0.2)
    raw = scene.dial(scene.lead(restarts=1))
    raw.say(JOIN)
    scene.until(lambda: bool(raw.heard))
    scene.agent.fail()
    scene.until(lambda: bool(raw.closed))
    assert "did not end in time" in raw.closed
    again = scene.dial(scene.job(1))
    again.say(JOIN)
    scene.until(lambda: len(scene.agent.rounds) == 2)


def test_a_signal_that_is_none_is_ignored_and_a_real_one_names_the_true_host(scene: Scene) -> None:
    raw = scene.dial(scene.lead())
    raw.say(JOIN)
    scene.until(lambda: bool(raw.heard))
    raw.say(StopAsked(signal="SIGX"), StopAsked(signal="SIGTERM", host="liar"))
    scene.until(lambda: bool(scene.agent.told[1:]))
    assert "pod-1" in str(scene.agent.told[1])


ROUND = Round(
    number=5,
    restart=0,
    nodes=(
        Node(node_rank=0, host="pod-0", address="a", nproc=1, first_rank=0),
        Node(node_rank=1, host="pod-1", address="b", nproc=1, first_rank=1),
    ),
    mine=1,
)


class Leaders:
    """A leader that says whatever a test wants."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.raws: list[Raw] = []
        self.listener = Listener(
            scene.loop,
            bind("127.0.0.1", scene.port),
            SECRET,
            context=context_of(scene.job(1).gang),
            handler_for=self._handler,
        )

    def _handler(self, channel: Channel) -> Raw:
        raw = Raw()
        self.raws.append(raw)
        self.scene.raws.append(raw)
        return raw

    def next(self, number: int) -> Raw:
        self.scene.until(lambda: len(self.raws) >= number and bool(self.raws[-1].heard))
        return self.raws[-1]


@pytest.mark.parametrize("restarts", [0, 2])
def test_a_leader_that_makes_no_sense_is_lost(scene: Scene, restarts: int) -> None:
    leaders = Leaders(scene)
    start(scene.loop, scene.job(1, restarts), scene.agent)
    first = leaders.next(1)
    first.say(ROUND)
    scene.until(lambda: bool(scene.agent.rounds))
    first.raw(encode(JOIN))
    scene.until(lambda: bool(scene.agent.ends))
    assert scene.agent.ends[0].fault.kind == "lost-leader"
    if not restarts:
        scene.until(lambda: bool(scene.agent.finishes))
        assert scene.agent.finishes[0].exit_code == 201
    else:
        second = leaders.next(2)
        (join,) = second.heard
        assert isinstance(join, Join) and (join.last_round, join.restarts) == (5, 1)
        second.say(ROUND)  # a number that was used
        scene.until(lambda: bool(second.closed))
        third = leaders.next(3)
        third.say(
            EndRound(number=5, fault=FAULT, again=True),  # of no round that runs
            Round(number=6, restart=1, nodes=ROUND.nodes, mine=1),
        )
        scene.until(lambda: len(scene.agent.rounds) == 2)
        third.raw(b"frame", kind=2)
        third.say(EndRound(number=5, fault=FAULT, again=True), Finish(exit_code=0))
        scene.until(lambda: bool(scene.agent.finishes))
        assert len(scene.agent.ends) == 1
        assert isinstance(scene.agent.member and scene.agent.member._door, FakeDoor)
    leaders.listener.close()


def test_a_leader_that_says_nothing_is_lost(scene: Scene) -> None:
    leaders = Leaders(scene)
    start(scene.loop, scene.job(1, lost_s=0.6, join_s=2.0), scene.agent)
    leaders.next(1).say(ROUND)
    scene.until(lambda: bool(scene.agent.finishes))
    (end,) = scene.agent.ends
    assert "nothing was heard of it for 0.6 s" in end.fault.detail
    assert scene.agent.finishes[0].exit_code == 201
    leaders.listener.close()


def test_a_leader_lost_while_workers_have_their_time_ends_with_the_signal(scene: Scene) -> None:
    scene.agent.obedient = False
    leaders = Leaders(scene)
    start(scene.loop, scene.job(1, restarts=5), scene.agent)
    first = leaders.next(1)
    first.say(ROUND, StopWorkers(signal="SIGTERM"))
    scene.until(lambda: len(scene.agent.told) == 2)
    assert first.channel is not None
    first.channel.close("gone")
    scene.loop.later(0.3, lambda: scene.agent.say(Stopped(round=5)))
    scene.until(lambda: bool(scene.agent.finishes))
    assert not scene.agent.ends  # nothing killed them
    assert scene.agent.finishes == [Finish(exit_code=143)]
    leaders.listener.close()
