# SPDX-License-Identifier: Apache-2.0
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from rdmatrain.bench import command
from rdmatrain.bench.conduct import MAX_CALLS, Conductor, Plan, Standing
from rdmatrain.bench.contestants import Start
from rdmatrain.bench.model import OPS, Case, Entry
from rdmatrain.bench.options import SweepOptions
from rdmatrain.bench.running import ContestantError, Prepared
from rdmatrain.bench.scale import measured

CASES = [Case("all_reduce", "float32", "SUM", nbytes, True) for nbytes in (8, 16, 32)]
US, GLOO, MPI = Entry("rdmatrain"), Entry("gloo"), Entry("openmpi")


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Fake:
    """A contestant that takes what time it is told to, and writes down what is asked of it."""

    entry: Entry
    log: list[str] = field(default_factory=list)
    clock: Clock = field(default_factory=Clock)
    call_s: float = 0.001
    prepare_s: float = 0.0
    nwrong: int = 0
    fails: Callable[[str, Case], None] = lambda _what, _case: None
    lacks: Sequence[str] = ()
    transport: str = "shm"
    device: str = "cpu"
    hosts: int = 1
    versions: dict[str, str] = field(default_factory=dict)
    case: Case = CASES[0]
    turns: list[tuple[int, int]] = field(default_factory=list)

    def why_not(self, case: Case) -> str:
        return f"{self.entry} has no {case.op}" if case.op in self.lacks else ""

    def prepare(self, case: Case, check: bool) -> Prepared:
        self.case = case
        self.log.append(f"{self.entry} {case.nbytes}{' checked' if check else ''}")
        self.clock.now += self.prepare_s
        self.fails("prepare", case)
        return Prepared(self.nwrong if check else None, self.call_s)

    def time(self, calls: int, warmup: int) -> list[list[float]]:
        self.clock.now += self.call_s * (calls + warmup)
        self.fails("time", self.case)
        self.turns.append((calls, warmup))
        return [[self.call_s] * calls, [self.call_s / 2] * calls]

    def drop(self) -> None:
        self.log.append("dropped")

    def close(self) -> None:
        pass


class Started(Start):
    """Starts a fake, which fails where it is told to."""

    failing: frozenset[str] = frozenset()

    def open(self, ranks: int, folder: Path) -> Fake:
        def fails(what: str, case: Case) -> None:
            if case.op in self.failing:
                raise ContestantError("rank 1 was killed", gone=True)

        return Fake(self.entry, fails=fails)


class Dying(Started):
    failing = frozenset({"all_reduce"})


def conduct(fakes: Sequence[Fake], clock: Clock | None = None, **plan: object) -> Conductor:
    whole = Plan(**{"cases": CASES, "rounds": 2, "ranks": 2} | plan)  # type: ignore[arg-type]
    conductor = Conductor(whole, [(fake.entry, fake) for fake in fakes], clock=clock or Clock())
    conductor.run()
    return conductor


def found(conductor: Conductor) -> dict[tuple[Entry, int], int]:
    """Number of rounds of each result."""
    return {(r.entry, r.case.nbytes): len(r.rounds) for r in conductor.results()}


def test_rounds_are_outermost_and_another_one_is_first_in_each() -> None:
    log: list[str] = []
    conduct([Fake(US, log), Fake(GLOO, log), Fake(MPI, log)], cases=CASES[:2], rounds=4)
    turns = [line.split()[0] for line in log if line != "dropped"]
    orders = ["rdmatrain gloo openmpi", "gloo openmpi rdmatrain", "openmpi rdmatrain gloo"]
    assert turns == " ".join(orders[number % 3] for number in range(4) for _ in CASES[:2]).split()


def test_each_case_is_checked_in_the_first_round_alone_and_is_always_dropped() -> None:
    log: list[str] = []
    conduct([Fake(US, log)], rounds=2)
    first = [f"rdmatrain {case.nbytes} checked" for case in CASES]
    second = [f"rdmatrain {case.nbytes}" for case in CASES]
    assert log == [line for turn in first + second for line in (turn, "dropped")]
    conduct([Fake(US, log := [])], check=False)
    assert not any("checked" in line for line in log)


def test_what_has_no_data_is_not_said_to_have_been_checked() -> None:
    barrier = Case("barrier", "uint8", "", 0, False)
    log: list[str] = []
    conductor = conduct([Fake(US, log, nwrong=0)], cases=[barrier])
    assert [each.nwrong for each in conductor.results()] == [None]
    assert not any("checked" in line for line in log)


def test_operations_of_pairs_are_named_where_ranks_are_odd_and_the_rest_runs() -> None:
    names = ("all_reduce", "pingpong", "write")
    options = SweepOptions(names, max_bytes="8", ranks=3, rounds=1, quiet=True)
    found = command.measure(options, [Started(US, frozenset(OPS))], [], "rdmatrain bench all")
    assert found.exit_code == 0
    assert [each.case.op for each in found.sweep.results] == ["all_reduce"]
    (failure,) = found.sweep.failures
    assert failure.entry == US
    assert failure.text.startswith("pingpong, write: between pairs of ranks, and there are 3:")


def test_what_scale_measured_before_a_failure_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measured, "find", lambda *_: ([Dying(US, frozenset(OPS))], []))
    told: list[measured.Measured] = []
    with pytest.raises(ContestantError, match="2 ranks: rank 1 was killed"):
        measured.measure(2, [64], tmp_path, told.append)
    assert [each.op for each in told] == ["barrier"]


def test_results_come_by_case_and_then_by_contestant_with_what_was_wrong() -> None:
    conductor = conduct([Fake(US, call_s=0.004), Fake(GLOO, nwrong=3)])
    results = conductor.results()
    assert [(r.case, r.entry) for r in results] == [(c, e) for c in CASES for e in (US, GLOO)]
    assert [r.nwrong for r in results] == [0, 3] * 3
    assert results[0].rounds == (0.004, 0.004)
    assert conductor.complete
    assert not (conductor.failed or conductor.failures)


@pytest.mark.parametrize(
    ("call_s", "calls", "warmup"),
    [(0.001, 20, 2), (0.0001, 200, 20), (1e-6, MAX_CALLS, 200), (1.0, 2, 2), (0.0, MAX_CALLS, 200)],
)
def test_a_turn_has_the_calls_of_20_ms_within_bounds(
    call_s: float, calls: int, warmup: int
) -> None:
    fake = Fake(US, call_s=call_s)
    conduct([fake])
    assert fake.turns == [(calls, warmup)] * 6


def test_calls_are_as_many_as_asked_for() -> None:
    fake = Fake(US, call_s=1.0)
    conduct([fake], calls=50, warmup=0)
    assert fake.turns == [(50, 0)] * 6


def breaks(at: str, nbytes: int, after: int = 0, gone: bool = True) -> Callable[[str, Case], None]:
    left = [after]

    def fail(what: str, case: Case) -> None:
        if (what, case.nbytes) == (at, nbytes):
            if left[0] == 0:
                raise ContestantError("rank 1 on h was killed by SIGKILL", gone=gone)
            left[0] -= 1

    return fail


@pytest.mark.parametrize("at", ["prepare", "time"])
def test_who_dies_is_named_keeps_what_it_has_and_the_others_go_on(at: str) -> None:
    dying = Fake(GLOO, fails=breaks(at, 16, after=1))
    conductor = conduct([Fake(US), dying], rounds=3)
    everything = {(US, 8): 3, (US, 16): 3, (US, 32): 3}
    assert found(conductor) == everything | {(GLOO, 8): 2, (GLOO, 16): 1, (GLOO, 32): 1}
    (failure,) = conductor.failures
    assert (failure.entry, failure.case) == (GLOO, CASES[1])
    assert "SIGKILL" in failure.text
    assert conductor.failed


def test_a_case_that_fails_is_told_once_and_the_rest_of_its_contestant_goes_on() -> None:
    fake = Fake(GLOO, fails=breaks("prepare", 16, gone=False))
    conductor = conduct([fake], rounds=3)
    assert found(conductor) == {(GLOO, 8): 3, (GLOO, 32): 3}
    assert [failure.case for failure in conductor.failures] == [CASES[1]]
    assert conductor.failed


def test_what_a_contestant_never_had_is_told_once_and_is_no_fault() -> None:
    conductor = conduct([Fake(US), Fake(GLOO, lacks=["all_reduce"])])
    assert {entry for entry, _ in found(conductor)} == {US}
    (failure,) = conductor.failures
    assert (failure.entry, failure.text) == (GLOO, "gloo has no all_reduce")
    assert not conductor.failed


def test_an_entry_may_have_its_operations_of_two() -> None:
    cases = [Case(op, "int8", "", 8, False) for op in ("write", "all_to_all")]
    halves = [Fake(US, lacks=["write"]), Fake(US, lacks=["all_to_all"], transport="verbs")]
    conductor = conduct(halves, cases=cases)
    transports = {result.case.op: result.transport for result in conductor.results()}
    assert transports == {"write": "verbs", "all_to_all": "shm"}
    assert not conductor.failures


def test_a_budget_makes_fewer_calls_so_that_all_rounds_have_time() -> None:
    clock = Clock()
    fakes = [Fake(entry, clock=clock, call_s=0.001) for entry in (US, GLOO)]
    conductor = conduct(fakes, clock, calls=1000, warmup=0, rounds=5, budget_s=3.0)
    assert conductor.complete  # 30 000 calls would take 30 s
    assert clock.now - 100.0 == pytest.approx(3.0, rel=0.05)
    calls = [each for fake in fakes for each, _ in fake.turns]
    assert min(calls) >= 80
    assert max(calls) <= 120


def test_a_budget_that_is_over_keeps_what_there_is_and_all_of_the_first_round_if_it_can() -> None:
    clock = Clock()
    fakes = [Fake(entry, clock=clock, prepare_s=0.1) for entry in (US, GLOO)]
    conductor = conduct(fakes, clock, rounds=100, budget_s=1.0)
    assert not conductor.complete
    assert set(found(conductor)) == {(e, c.nbytes) for e in (US, GLOO) for c in CASES}
    assert clock.now - 100.0 < 1.2
    assert not (conductor.failed or conductor.failures)


def test_an_interrupt_keeps_what_there_is() -> None:
    class Interrupt(BaseException):
        pass

    def interrupt(what: str, case: Case) -> None:
        if case == CASES[2]:
            raise Interrupt

    plan = Plan(CASES, rounds=2, ranks=2)
    conductor = Conductor(plan, [(US, Fake(US)), (GLOO, Fake(GLOO, fails=interrupt))])
    with pytest.raises(Interrupt):
        conductor.run()
    assert found(conductor) == {(US, 8): 1, (US, 16): 1, (US, 32): 1, (GLOO, 8): 1, (GLOO, 16): 1}
    assert not conductor.complete


def test_the_time_left_is_known_from_the_second_round_on() -> None:
    clock = Clock()
    told: list[tuple[Standing, float]] = []
    fakes = [
        (US, Fake(US, clock=clock, prepare_s=0.3)),
        (GLOO, Fake(GLOO, clock=clock, prepare_s=0.7, fails=breaks("prepare", 8, gone=False))),
    ]
    plan = Plan(CASES, rounds=4, ranks=2)
    conductor = Conductor(plan, fakes, lambda s: told.append((s, clock.now)), clock)
    conductor.run()
    assert [standing.turns for standing, _ in told] == sorted(s.turns for s, _ in told)
    assert all(standing.of_turns == 24 for standing, _ in told)
    # The case that failed costs nothing from the second round on, which only the third knows.
    for standing, now in told:
        if standing.round >= 2:
            assert standing.left_s == pytest.approx(clock.now - now, abs=1.1)


def test_nobody_is_conducted_without_an_error() -> None:
    assert conduct([]).results() == []
