"""The rounds of a sweep: who does what when, and what becomes of those who fail.

Starts no process, and is given its clock: tests conduct contestants that are plain objects.
"""

import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from rdmatrain.bench.model import OPS, Case, Entry, Failure, Result
from rdmatrain.bench.running import ContestantError, Running
from rdmatrain.bench.spin import spin_seconds
from rdmatrain.bench.stats import Taken

MIN_CALLS, MAX_CALLS, MIN_WARMUP = 2, 2000, 2
TURN_S = 0.02  # what the calls of a turn take, unless their number is given


@dataclass(frozen=True)
class Plan:
    """What to go through.

    Attributes:
        cases: in this order.
        rounds: number of times.
        ranks: of each contestant.
        calls: of a turn; 0: by time.
        warmup: calls before them; negative: a tenth of them, at least two.
        check: compare results, in the first round.
        budget_s: seconds for all; 0: no bound.

    """

    cases: Sequence[Case]
    rounds: int
    ranks: int
    calls: int = 0
    warmup: int = -1
    check: bool = True
    budget_s: float = 0.0


class Standing(NamedTuple):
    """How far it is: ``turns`` of ``of_turns`` are done, and the rest takes ``left_s``."""

    round: int
    case: Case
    entry: Entry
    turns: int
    of_turns: int
    left_s: float


Key = tuple[Entry, Case]
Tell = Callable[[Standing], object]
Clock = Callable[[], float]


class Conductor:
    """Goes through rounds, in each through cases, and for each case through the contestants.

    Args:
        plan: what to do.
        contestants: who does it; an entry may be there twice, with different operations.
        tell: is told of each turn before it is made.
        clock: seconds.

    Attributes:
        failures: contestants and cases that have no result, or not all of their rounds.
        failed: whether one of those is a fault, and not what a contestant never had.
        complete: all rounds of all that did not fail were made.

    """

    def __init__(
        self,
        plan: Plan,
        contestants: Sequence[tuple[Entry, Running]],
        tell: Tell = lambda _: None,
        clock: Clock = time.monotonic,
    ) -> None:
        self._plan = plan
        self._entries = list(dict.fromkeys(entry for entry, _ in contestants))
        self._num_turns = plan.rounds * len(plan.cases) * len(self._entries)
        self._tell = tell
        self._clock = clock
        self._who: dict[Key, Running] = {}
        self._taken: dict[Key, Taken] = {}
        self._over: set[Key] = set()  # what failed
        self._gone: list[Running] = []
        self._cost_s: dict[Key, float] = {}  # of the last turn of each
        self._latest_s: deque[float] = deque(maxlen=max(len(self._entries), 1))
        self._round_s = 0.0  # a whole round, by those
        self._rest_s = 0.0  # what is left of this one
        self._turn = 0  # number of the one that is made
        self._end = math.inf
        self.failures: list[Failure] = []
        self.failed = False
        self.complete = False
        for case in plan.cases:
            for entry in self._entries:
                self._assign(entry, case, [each for who, each in contestants if who == entry])

    def _assign(self, entry: Entry, case: Case, running: Sequence[Running]) -> None:
        reasons = [each.why_not(case) for each in running]
        if "" in reasons:
            self._who[entry, case] = running[reasons.index("")]
            self._taken[entry, case] = Taken()
        elif not any((each.entry, each.text) == (entry, reasons[0]) for each in self.failures):
            self.failures.append(Failure(entry, None, reasons[0]))

    def run(self) -> None:
        """Measure. What was found when it ends, or is interrupted, is in ``results``."""
        if self._plan.budget_s:
            self._end = self._clock() + self._plan.budget_s
        for number in range(self._plan.rounds):
            self._rest_s = self._round_s
            for case in self._plan.cases:
                for entry in self._order(number):
                    begin = self._clock()
                    if begin >= self._end:
                        return
                    self._make_turn(number, case, entry)
                    self._account((entry, case), self._clock() - begin)
        self.complete = True

    def results(self) -> list[Result]:
        """Return what was measured so far: by case, and within it by contestant."""
        return [
            replace(
                taken.result(entry, case, self._plan.ranks, running.hosts, running.transport),
                device=running.device,
            )
            for case in self._plan.cases
            for entry in self._entries
            if (running := self._who.get((entry, case)))
            and (taken := self._taken[entry, case]).turns
        ]

    def _order(self, number: int) -> list[Entry]:
        """Let another one be first in each round: what the one before left in caches counts."""
        first = number % max(len(self._entries), 1)
        return self._entries[first:] + self._entries[:first]

    def _make_turn(self, number: int, case: Case, entry: Entry) -> None:
        key = entry, case
        running = self._who.get(key)
        if running is None or key in self._over or running in self._gone:
            return
        left_s = min(self._left_s(number), self._end - self._clock())
        self._tell(Standing(number, case, entry, self._turn, self._num_turns, left_s))
        try:
            self._measure(number, case, running, self._taken[key])
        except ContestantError as error:
            self.failed = True
            self.failures.append(Failure(entry, case, str(error)))
            self._over.add(key)
            if error.gone:
                self._gone.append(running)

    def _measure(self, number: int, case: Case, running: Running, taken: Taken) -> None:
        begin = self._clock()
        share_s = (self._end - begin) / (self._num_turns - self._turn)
        check = self._plan.check and OPS[case.op].sized and number == 0
        prepared = running.prepare(case, check)
        if number == 0:
            taken.nwrong = prepared.nwrong
        calls = self._calls(prepared.guess_s, share_s - (self._clock() - begin))
        warmup = self._plan.warmup if self._plan.warmup >= 0 else max(calls // 10, MIN_WARMUP)
        taken.add(running.time(calls, warmup), spin_seconds(self._plan.ranks))
        running.drop()

    def _calls(self, guess_s: float, share_s: float) -> int:
        """Return how many calls a turn has: as many as asked for, or as there is time for."""
        guess_s = max(guess_s, 1e-9)
        wanted = self._plan.calls or min(max(int(TURN_S / guess_s), MIN_CALLS), MAX_CALLS)
        return max(int(min(wanted, share_s / guess_s)), min(wanted, MIN_CALLS))

    def _account(self, key: Key, cost_s: float) -> None:
        """Note what a turn took."""
        before = self._cost_s.get(key, 0.0)
        self._cost_s[key] = cost_s
        self._latest_s.append(cost_s)
        self._round_s += cost_s - before
        self._rest_s -= before
        self._turn += 1

    def _left_s(self, number: int) -> float:
        """Guess how long the rest takes, from what each turn took when it was made last.

        In the first round that is the last turn: sizes grow, and with them what a turn takes.

        """
        if number == 0:
            return (self._num_turns - self._turn) * max(self._latest_s, default=0.0)
        return self._round_s * (self._plan.rounds - number - 1) + self._rest_s
