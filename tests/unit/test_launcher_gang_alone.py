# SPDX-License-Identifier: Apache-2.0
"""A gang of one node: leader and member in one process."""

from collections.abc import Iterator

import pytest
from fake_gang import Agent, FakeRoom, job, run, settle, start

from rdmatrain.launcher.loop import Loop
from rdmatrain.launcher.messages import Finish, Node, StopAsked, Stopped, StopWorkers


@pytest.fixture
def loop() -> Iterator[Loop]:
    its = Loop()
    yield its
    settle(its)


def test_a_round_begins_and_ends_with_0(loop: Loop) -> None:
    agent = Agent()
    member = start(loop, job(nproc=4), agent)
    assert agent.told == []  # nothing is called from within join
    run(loop, lambda: bool(agent.rounds))
    (round_,) = agent.rounds
    assert (round_.number, round_.restart, round_.world_size, round_.mine) == (1, 0, 4, 0)
    assert round_.nodes == (
        Node(node_rank=0, host=round_.node.host, address="127.0.0.1", nproc=4, first_rank=0),
    )
    assert (member.store_port, member.store_pid) == (29999, 4711)
    agent.done()
    run(loop, lambda: bool(agent.finishes))
    assert agent.told == [round_, Finish(exit_code=0)]


def test_faults_restart_until_none_is_left(loop: Loop) -> None:
    agent = Agent()
    start(loop, job(max_restarts=2), agent)
    for number in (1, 2, 3):
        run(loop, lambda number=number: len(agent.rounds) == number)  # type: ignore[misc]
        agent.fail(code=40 + number, rank=0)
        agent.fail(code=40 + number, rank=0)  # told twice
    run(loop, lambda: bool(agent.finishes))
    assert [(each.number, each.restart) for each in agent.rounds] == [(1, 0), (2, 1), (3, 2)]
    assert [end.again for end in agent.ends] == [True, True, False]
    (finish,) = agent.finishes
    assert finish.exit_code == 43 and finish.fault == agent.ends[-1].fault
    assert finish.fault.host == agent.rounds[0].node.host  # not what the fault said of itself


def test_no_round_begins_before_the_last_one_has_stopped(loop: Loop) -> None:
    agent = Agent(obedient=False)
    member = start(loop, job(max_restarts=1), agent)
    run(loop, lambda: bool(agent.rounds))
    agent.fail()
    run(loop, lambda: bool(agent.ends))
    loop.later(0.3, lambda: agent.then(None))
    waited: list[object] = []
    agent.then = waited.append
    run(loop, lambda: bool(waited))
    assert len(agent.rounds) == 1
    member.say(Stopped(round=99))  # of none
    member.say(Stopped(round=1))
    member.say(Stopped(round=1))
    run(loop, lambda: len(agent.rounds) == 2)
    agent.done()
    run(loop, lambda: bool(agent.finishes))
    assert agent.finishes == [Finish(exit_code=0)]


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGINT", 130)])
def test_a_signal_stops_once_and_there_is_no_restart(loop: Loop, name: str, code: int) -> None:
    agent = Agent(obedient=False)
    member = start(loop, job(max_restarts=5), agent)
    run(loop, lambda: bool(agent.rounds))
    member.say(StopAsked(signal="SIGNONE"))
    member.say(StopAsked(signal=name))
    member.say(StopAsked(signal="SIGHUP"))
    run(loop, lambda: len(agent.told) == 2)
    agent.fail(code=128 + 15)
    agent.say(Stopped(round=1))
    run(loop, lambda: bool(agent.finishes))
    host = agent.rounds[0].node.host
    assert agent.told[1:] == [StopWorkers(signal=name, host=host), Finish(exit_code=code)]


def test_a_store_that_ends_ends_the_round(loop: Loop) -> None:
    agent = Agent()
    member = start(loop, job(max_restarts=1), agent)
    run(loop, lambda: bool(agent.rounds))
    assert member._leader is not None
    room = member._leader.room
    assert isinstance(room, FakeRoom)
    room.alive = False
    run(loop, lambda: bool(agent.ends))
    room.alive = True
    assert "store" in agent.ends[0].fault.detail
    run(loop, lambda: len(agent.rounds) == 2)
    assert room.num_resets == 1
    member.close()
    member.close()
    assert room.closed
