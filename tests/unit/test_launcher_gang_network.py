# SPDX-License-Identifier: Apache-2.0
"""Gangs of several nodes, over loopback, in one process."""

import dataclasses
import socket
import time
from collections.abc import Iterator

import pytest
from fake_gang import SECRET, Agent, FakeDoor, FakeRoom, job, run, settle, start

from rdmatrain.launcher import seeker
from rdmatrain.launcher.job import Job
from rdmatrain.launcher.loop import Loop
from rdmatrain.launcher.messages import Finish, StopAsked, Stopped


class Company:
    """Nodes of one gang on one loop."""

    def __init__(self) -> None:
        self.loop = Loop()
        self.agents: list[Agent] = []

    def start(self, its: Job, agent: Agent | None = None, secret: bytes = SECRET) -> Agent:
        agent = agent or Agent()
        start(self.loop, its, agent, secret)
        self.agents.append(agent)
        return agent

    def until(self, *agents: Agent, rounds: int = 0, finishes: int = 0) -> None:
        run(
            self.loop,
            lambda: all(
                len(each.rounds) >= rounds and len(each.finishes) >= finishes
                for each in agents or self.agents
            ),
            within_s=12,
        )

    def leader(self) -> Agent:
        (found,) = [
            agent for agent in self.agents if agent.member and agent.member._leader is not None
        ]
        return found


@pytest.fixture
def company() -> Iterator[Company]:
    its = Company()
    yield its
    for agent in its.agents:
        if agent.member is not None:
            agent.member.close()
    settle(its.loop)


def free_port(address: str = "127.0.0.1") -> int:
    with socket.socket() as probe:
        probe.bind((address, 0))
        return int(probe.getsockname()[1])


def nodes(most: int, *, fewest: int | None = None, restarts: int = 0, **gang: object) -> Job:
    gang = {"leader": "127.0.0.1", "port": free_port(), "node_rank": None, **gang}
    return job(
        max_restarts=restarts,
        min_nodes=most if fewest is None else fewest,
        max_nodes=most,
        **gang,
    )


def rank(its: Job, number: int | None, nproc: int = 1, **gang: object) -> Job:
    changed = dataclasses.replace(its.gang, node_rank=number, **gang)  # type: ignore[arg-type]
    return dataclasses.replace(its, gang=changed, nproc=nproc)


def test_ranks_follow_the_given_node_ranks_and_nproc_may_differ(company: Company) -> None:
    its = nodes(3)
    agents = [company.start(rank(its, n, nproc)) for n, nproc in ((2, 1), (0, 4), (1, 2))]
    company.until(rounds=1)
    for agent, mine in zip(agents, (2, 0, 1), strict=True):
        (told,) = agent.rounds
        assert told.mine == mine
        assert [(n.node_rank, n.nproc, n.first_rank) for n in told.nodes] == [
            (0, 4, 0), (1, 2, 4), (2, 1, 6),
        ]  # fmt: skip
        assert {node.address for node in told.nodes} == {"127.0.0.1"}
    assert company.leader() is agents[1]
    ports = [agent.member.store_port for agent in agents if agent.member]
    assert ports == [28888, 29999, 28888]  # the leader's node has the store itself
    for agent in agents:
        agent.done()
    company.until(finishes=1)
    assert [agent.finishes for agent in agents] == [[Finish(exit_code=0)]] * 3


def test_who_has_the_address_leads_where_no_ranks_are_given(company: Company) -> None:
    its = nodes(3, local_addr="")
    agents = [company.start(its) for _ in range(3)]
    company.until(rounds=1)
    assert company.leader().rounds[0].mine == 0
    assert sorted(agent.rounds[0].mine for agent in agents) == [0, 1, 2]


def test_frames_of_the_store_go_both_ways(company: Company) -> None:
    its = nodes(2)
    first, second = company.start(rank(its, 0)), company.start(rank(its, 1))
    company.until(rounds=1)
    assert first.member and first.member._leader and second.member
    room, door = first.member._leader.room, second.member._door
    assert isinstance(room, FakeRoom) and isinstance(door, FakeDoor)
    (key,) = room.attached  # the leader's own workers need no way
    door.send(b"question")
    run(company.loop, lambda: bool(room.received))
    assert room.received == [(key, b"question")]


def test_a_fault_on_one_node_restarts_all_with_the_cause_told(company: Company) -> None:
    its = nodes(2, restarts=1)
    first, second = company.start(rank(its, 0)), company.start(rank(its, 1))
    company.until(rounds=1)
    first.fail(code=1, consequence=True)
    second.fail(code=9)
    company.until(rounds=2)
    for agent in (first, second):
        (end,) = agent.ends
        assert (end.fault.exit_code, end.again) == (9, True)
        assert [(each.number, each.restart) for each in agent.rounds] == [(1, 0), (2, 1)]
    second.fail(code=8)
    company.until(finishes=1)
    assert [agent.finishes[0].exit_code for agent in (first, second)] == [8, 8]


def test_two_nodes_with_one_rank_are_refused_by_name(company: Company) -> None:
    its = nodes(3)
    agents = [company.start(rank(its, number)) for number in (0, 1, 1)]
    company.until(finishes=1)
    for agent in agents:
        (finish,) = agent.finishes
        assert finish.exit_code == 78 and finish.fault
        assert "node rank 1 too" in finish.fault.detail
        assert finish.fault.detail.count(socket.gethostname()) == 2
        assert not agent.rounds


def test_the_odd_node_is_named_with_its_value_and_the_majoritys(
    company: Company, monkeypatch: pytest.MonkeyPatch
) -> None:
    its = nodes(3)
    versions = iter(["2.13.0", "2.13.0", "2.14.1"])
    monkeypatch.setattr("rdmatrain.launcher.facts.metadata.version", lambda _: next(versions))
    hosts = iter(["pod-a", "pod-b", "pod-c"])
    monkeypatch.setattr("socket.gethostname", lambda: next(hosts))
    agents = [company.start(rank(its, number)) for number in range(3)]
    company.until(finishes=1)
    for agent in agents:
        (finish,) = agent.finishes
        assert finish.exit_code == 78 and finish.fault and not agent.rounds
        assert finish.fault.detail == (
            "the nodes do not fit together: torch's version differs on pod-c (127.0.0.1): "
            "2.14.1, where the other 2 have 2.13.0"
        )


def test_a_gang_that_is_not_complete_in_time_says_who_is_missing(company: Company) -> None:
    its = nodes(3, join_s=0.6)
    leader, member = company.start(rank(its, 0)), company.start(rank(its, 2))
    company.until(finishes=1)
    for agent in (leader, member):
        (finish,) = agent.finishes
        assert finish.exit_code == 200 and finish.fault and not agent.rounds
        assert "not complete within 0.6 s: missing node rank 1 of 3; 2 there" in finish.fault.detail


def test_a_leader_that_never_comes_is_named_with_what_was_tried(company: Company) -> None:
    its = nodes(2, join_s=0.6)
    member = company.start(rank(its, 1))
    company.until(finishes=1)
    (finish,) = member.finishes
    assert finish.exit_code == 200 and finish.fault
    where = f"the leader 127.0.0.1, port {its.gang.port} at 127.0.0.1"
    assert where in finish.fault.detail and "refused" in finish.fault.detail


def test_a_name_that_resolves_late_does_no_harm(
    company: Company, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def late(name: str) -> tuple[tuple[str, ...], str]:
        asked.append(name)
        time.sleep(0.05)  # the loop does not wait for it
        return (("127.0.0.1",), "") if len(asked) > 6 else ((), "no such name yet")

    monkeypatch.setattr(seeker, "addresses_of", late)
    its = nodes(2, leader="pod-0.job")
    agents = [company.start(rank(its, number)) for number in (1, 0)]
    company.until(rounds=1)
    assert set(asked) == {"pod-0.job"} and len(asked) > 6
    assert all(len(agent.rounds) == 1 for agent in agents)


def test_a_stranger_without_the_secret_changes_nothing(company: Company) -> None:
    its = nodes(2, join_s=2.0)
    leader = company.start(rank(its, 0))
    stranger = company.start(rank(its, 1, join_s=0.6), secret=b"another secret of 16 bytes")
    old = company.start(rank(its, 1, join_s=0.6, epoch=7))
    company.until(stranger, old, finishes=1)
    assert [a.finishes[0].exit_code for a in (stranger, old)] == [200, 200]
    assert "secret" in str(stranger.finishes[0].fault)
    assert "epoch 7" in str(old.finishes[0].fault) and "epoch 0" in str(old.finishes[0].fault)
    assert not leader.told
    member = company.start(rank(its, 1))
    company.until(leader, member, rounds=1)


def test_a_signal_at_one_node_stops_all(company: Company) -> None:
    its = nodes(2, restarts=3)
    agents = [company.start(rank(its, number), Agent(obedient=False)) for number in (0, 1)]
    company.until(rounds=1)
    agents[1].say(StopAsked(signal="SIGTERM"))
    run(company.loop, lambda: len(agents[0].told) == 2)
    agents[0].say(StopAsked(signal="SIGINT"))
    run(company.loop, lambda: all(len(agent.told) == 2 for agent in agents))
    for agent in agents:
        agent.say(Stopped(round=1))
    company.until(finishes=1)
    assert [agent.finishes[0].exit_code for agent in agents] == [143, 143]


def test_a_node_that_leaves_is_lost_and_one_that_comes_takes_its_place(company: Company) -> None:
    its = nodes(2, restarts=1)
    first, second = company.start(rank(its, 0)), company.start(rank(its, 1))
    company.until(rounds=1)
    assert second.member
    second.member.close()
    run(company.loop, lambda: bool(first.ends))
    (end,) = first.ends
    assert (end.fault.kind, end.fault.exit_code, end.again) == ("lost-node", 201, True)
    third = company.start(rank(its, 1))
    company.until(first, third, rounds=1)
    run(company.loop, lambda: len(first.rounds) == 2)
    assert third.rounds[0].number == first.rounds[1].number == 2
    assert third.rounds[0].restart == 1


def test_a_lost_leader_ends_the_round_and_its_successor_goes_on_counting(
    company: Company,
) -> None:
    its = nodes(2, restarts=1)
    first, second = company.start(rank(its, 0)), company.start(rank(its, 1))
    company.until(rounds=1)
    assert first.member
    first.member.close()
    run(company.loop, lambda: bool(second.ends))
    (end,) = second.ends
    assert (end.fault.kind, end.fault.exit_code, end.again) == ("lost-leader", 201, True)
    third = company.start(rank(its, 0))
    company.until(second, third, rounds=1)
    run(company.loop, lambda: len(second.rounds) == 2)
    (told,) = third.rounds
    assert (told.number, told.restart) == (2, 1)
    third.fail(code=5)  # there is no restart left, whoever counts
    company.until(second, third, finishes=1)
    assert [second.finishes[0].exit_code, third.finishes[0].exit_code] == [5, 5]


@pytest.mark.parametrize("lost", [0, 1])
@pytest.mark.parametrize("changes", [True, False])
def test_code_that_was_edited_since_the_first_round_is_told_and_let_pass(
    company: Company, monkeypatch: pytest.MonkeyPatch, lost: int, changes: bool
) -> None:
    """Those that are left would run it too: their facts are of when their launchers began."""
    name = "the code of nets.py" if changes else "torch's version"
    values = iter(["old", "old", "new"])
    monkeypatch.setattr("rdmatrain.launcher.facts._agree", lambda *_: {name: next(values)})
    its = nodes(2, restarts=1)
    agents = [company.start(rank(its, 0)), company.start(rank(its, 1))]
    company.until(rounds=1)
    left, gone = agents[1 - lost], agents[lost]
    assert gone.member
    gone.member.close()
    run(company.loop, lambda: bool(left.ends))
    new = company.start(rank(its, lost))
    if changes:
        company.until(new, rounds=1)
        leader = left if lost else new
        (told,) = [note for note in leader.notes if "differ by now" in note]
        assert name in told
    else:
        company.until(left, new, finishes=1)
        assert [agent.finishes[0].exit_code for agent in (left, new)] == [78, 78]


def test_a_lost_leader_without_a_restart_ends_the_job(company: Company) -> None:
    its = nodes(2)
    first, second = company.start(rank(its, 0)), company.start(rank(its, 1))
    company.until(rounds=1)
    assert first.member
    first.member.close()
    company.until(second, finishes=1)
    assert second.finishes[0].exit_code == 201
    assert [end.again for end in second.ends] == [False]


def test_an_elastic_gang_starts_short_only_after_the_last_call(company: Company) -> None:
    its = nodes(4, fewest=2, last_call_s=0.7)
    begun = time.monotonic()
    agents = [company.start(rank(its, number)) for number in (0, 3)]
    company.until(rounds=1)
    assert 0.7 <= time.monotonic() - begun < 2.0
    assert [len(agent.rounds[0].nodes) for agent in agents] == [2, 2]
    assert [agent.rounds[0].mine for agent in agents] == [0, 1]  # without gaps
    # A node that comes later waits; one too many is refused, and changes nothing.
    late = [company.start(rank(its, number)) for number in (1, 2)]
    joined = company.leader().member._leader._peers.joined
    run(company.loop, lambda: len(joined()) == 4, within_s=12)  # the surplus one is the last
    surplus = company.start(rank(its, None))
    company.until(surplus, finishes=1)
    assert surplus.finishes[0].exit_code == 78
    assert "has its 4 nodes already" in str(surplus.finishes[0].fault)
    assert not any(agent.told for agent in late) and len(agents[0].told) == 1
    late[0].say(StopAsked(signal="SIGTERM"))  # which does not concern the round
    company.until(late[0], finishes=1)
    assert late[0].finishes[0].exit_code == 143 and len(agents[0].told) == 1
    for agent in agents:
        agent.done()
    company.until(*agents, late[1], finishes=1)
    assert [agent.finishes[0].exit_code for agent in (*agents, late[1])] == [0, 0, 0]


def test_a_port_that_another_program_has_is_named(
    company: Company, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seeker, "PORT_S", 0.3)
    its = nodes(2)
    with socket.create_server(("127.0.0.1", its.gang.port)):
        leader = company.start(rank(its, 0))
        company.until(finishes=1)
    assert leader.finishes[0].exit_code == 200
    assert "another program has that port" in str(leader.finishes[0].fault)
