# SPDX-License-Identifier: Apache-2.0
"""Random schedules of nodes that come, go, fail, hang and are cut off: what holds in all of them.

The launchers are real, leader and members; clock and network are not.
"""

import dataclasses
import itertools

import pytest
from fake_gang import job
from gang_world import Launcher, World

from rdmatrain.launcher import leader, member
from rdmatrain.launcher.job import Job
from rdmatrain.launcher.messages import Finish, Round

LOST_S, JOIN_S = 4.0, 12.0
NUM_SCHEDULES = 500


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> "list[World]":
    worlds: list[World] = []
    for module in (leader, member):
        monkeypatch.setattr(module, "monotonic", lambda: worlds[-1].now)
    return worlds


class Schedule:
    """One random life of a gang."""

    def __init__(self, world: World) -> None:
        self.world, chance = world, world.chance
        self.most = chance.choice((1, 2, 2, 3, 4))
        self.fewest = chance.choice((self.most, self.most, max(1, self.most - 1)))
        self.restarts = chance.choice((0, 0, 1, 3))
        self.ranks_given = chance.random() < 0.7
        self.kinds: set[str] = set()
        self.odd = ""
        self._number = itertools.count()
        for index in range(self.most):
            world.later(chance.choice((0.0, 0.1, 3.0, 9.0)), lambda index=index: self.start(index))  # type: ignore[misc]
        for _ in range(chance.choice((0, 1, 1, 2, 4))):
            self.disturb(chance.uniform(0.0, 25.0))
        world.later(30.0, self.finish)

    def job(self, index: int) -> Job:
        its = job(
            nproc=1 + index % 3,
            max_restarts=self.restarts,
            min_nodes=self.fewest,
            max_nodes=self.most,
            node_rank=index if self.ranks_given else None,
            leader="pod-0",
            join_s=JOIN_S,
            lost_s=LOST_S,
            last_call_s=2.0,
        )
        return dataclasses.replace(its)

    def start(self, index: int) -> Launcher:
        agree = "same"
        if self.world.chance.random() < 0.03:
            self.kinds.add("odd")
            agree = "other"
        host = f"pod-{index}-{next(self._number)}"
        return Launcher(self.world, self.job(index), host, leads=index == 0, agree=agree)

    def disturb(self, at_s: float) -> None:
        kind = self.world.chance.choice(
            ("fail", "fail", "done", "kill", "vanish", "replace", "cut", "stop", "double")
        )
        self.kinds.add(kind)
        self.world.later(at_s, lambda: getattr(self, f"_{kind}")())

    def finish(self) -> None:
        """Let all workers end well, again and again: rounds may begin late."""
        for each in self.world.launchers:
            if each.alive and each.working and not each.killing:
                each.done()
        self.world.later(1.0, self.finish)

    def _any(self) -> Launcher | None:
        here = [each for each in self.world.launchers if each.alive and not each.finishes]
        return self.world.chance.choice(here) if here else None

    def _fail(self) -> None:
        if each := self._any():
            each.fail(self.world.chance.choice((1, 7, 137)))

    def _done(self) -> None:
        if each := self._any():
            each.done()

    def _kill(self) -> None:
        if each := self._any():
            each.kill(quietly=False)

    def _vanish(self) -> None:
        if each := self._any():
            each.kill(quietly=True)

    def _replace(self) -> None:
        """End a pod, and start it again elsewhere a moment later: as an orchestrator does."""
        if each := self._any():
            each.kill(quietly=self.world.chance.random() < 0.5)
            index = int(each.host.split("-")[1])
            self.world.later(
                self.world.chance.uniform(0.0, 6.0), lambda: self.start(index) and None
            )

    def _cut(self) -> None:
        each = self._any()
        if each is None:
            return
        if each.cut:
            return
        each.cut = True
        began = each.rounds[-1].number if each.rounds else 0
        for_s = self.world.chance.choice((1.0, 3.0, LOST_S + 2.0, 15.0))

        def check() -> None:
            # Nobody trains on without the leader; the leader not without its members, unless
            # these have done their part.
            if each.working and self.most > 1 and not each.killing and "done" not in self.kinds:
                assert (each.leads and self.fewest == 1) or each.working.number != began

        def join() -> None:
            each.cut = False

        if for_s > LOST_S:
            self.world.later(LOST_S + 1.5, check)
        self.world.later(for_s, join)

    def _stop(self) -> None:
        if each := self._any():
            each.stop(self.world.chance.choice(("SIGTERM", "SIGINT")))

    def _double(self) -> None:
        """Start a node that is there already: a second one with its rank, or one too many."""
        if self.most > 1:
            self.start(self.world.chance.randrange(1, self.most))


def check_rounds(schedule: Schedule) -> None:
    """Check that all that were told of a round were told the same, and that it makes sense."""
    rounds: dict[tuple[int, str], list[Round]] = {}
    for _, _, told in schedule.world.history:
        if isinstance(told, Round):
            rounds.setdefault((told.number, told.nodes[0].host), []).append(told)
    hosts = {each.host for each in schedule.world.launchers}
    for same in rounds.values():
        first = same[0]
        assert all((each.nodes, each.restart) == (first.nodes, first.restart) for each in same)
        assert len({each.mine for each in same}) == len(same)
        assert schedule.fewest <= len(first.nodes) <= schedule.most
        assert [node.node_rank for node in first.nodes] == list(range(len(first.nodes)))
        assert len({node.host for node in first.nodes}) == len(first.nodes)
        ranks = [rank for node in first.nodes for rank in node.ranks]
        assert ranks == list(range(first.world_size))
        assert {node.host for node in first.nodes} <= hosts
        assert 0 <= first.restart <= schedule.restarts
        if schedule.ranks_given:
            indexes = [int(node.host.split("-")[1]) for node in first.nodes]
            assert indexes == sorted(set(indexes))
        agree = {e.agree for e in schedule.world.launchers for n in first.nodes if e.host == n.host}
        assert len(agree) == 1


def check_ends(schedule: Schedule) -> None:
    """Check that all ended once, and in the same way if they were there until the end."""
    alive = [each for each in schedule.world.launchers if each.alive]
    for each in alive:
        assert len(each.finishes) == 1, f"{each.host} never ends: {each.member.state}"
        assert each.working is None
    codes = {each.finishes[0].exit_code for each in alive}
    assert codes <= {0, 1, 7, 78, 130, 137, 143, 200, 201}
    if not schedule.kinds & {"kill", "vanish", "replace", "cut", "double"}:
        ends_s = [at_s for at_s, _, told in schedule.world.history if isinstance(told, Finish)]
        there = [each for each in alive if each.since_s < min(ends_s) - 1.0]
        there = [each for each in there if each.rounds] or there
        # A signal ends who has not joined yet, and nobody else.
        there = [each for each in there if not each.stopped_alone]
        codes = {each.finishes[0].exit_code for each in there}
        assert len(codes) <= 1, codes
        if not schedule.kinds & {"fail", "stop", "odd"} and _came_in_time(schedule):
            assert codes <= {0}
    ends: dict[str, set[Finish]] = {}
    for each in alive:
        if each.rounds and each.finishes[0].fault is None:
            ends.setdefault(f"{each.rounds[-1].number}", set()).add(each.finishes[0])
    assert all(len({end.exit_code for end in same} - {130, 143}) <= 1 for same in ends.values())


def _came_in_time(schedule: Schedule) -> bool:
    return all(each.rounds for each in schedule.world.launchers)


def live(clock: list[World], seed: int) -> Schedule:
    world = World(seed)
    clock.append(world)
    schedule = Schedule(world)
    world.run(29.0)
    world.run(
        200.0,
        done=lambda: all(each.finishes or not each.alive for each in world.launchers),
    )
    return schedule


def test_random_schedules(clock: list[World]) -> None:
    seen: dict[str, int] = {}
    for seed in range(NUM_SCHEDULES):
        try:
            schedule = live(clock, seed)
            check_rounds(schedule)
            check_ends(schedule)
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {error}") from error
        for each in schedule.world.launchers:
            for end in each.finishes:
                seen[str(end.exit_code)] = seen.get(str(end.exit_code), 0) + 1
            seen["rounds"] = seen.get("rounds", 0) + len(each.rounds)
    # The schedules reach all kinds of ends; else this would prove little.
    assert {"0", "1", "7", "78", "130", "137", "143", "200", "201"} <= seen.keys(), seen
    assert seen["rounds"] > NUM_SCHEDULES
