"""How much slower one run is than another, and how sure that is. Arrays in, numbers out.

A run has, of each case, a few rounds, each the median of many calls. The unit here is the natural
logarithm of seconds, so that 10 % is 0.095 whatever the case.

**Of a case the fastest round counts.** What else a machine does can only add time, so of all
summaries the fastest moves least between runs of the same code (Chen and Revels, Robust
benchmarking in noisy environments, 2016): on a crowded virtual machine by 2 % where the median of
the rounds moved by 7 %. A call that is slow in less than half of its calls or in some rounds only
is therefore not seen.

Runs of the same code differ all the same, and each way of it has its variance:

1. ``rounds``: no round of the run was as fast as can be. Seen by leaving out half of the rounds;
2. ``luck``: of a case in a run, as where its memory lies, which no number of rounds shows
   (Mytkowicz et al., Producing wrong data without doing anything obviously wrong, ASPLOS 2009).
   Seen in how far the changes of cases lie apart, and LUCK counts like PRIOR cases beside those
   (Smyth's moderated variance, 2004);
3. the machine's pace: a virtual CPU may be slower by half for a whole run. It is measured beside
   each round (``spin.py``), and what it changed by is taken off, by the weight of the best linear
   estimate, PACE^2 / (PACE^2 + its variance). Where it was not measured all of PACE stays. Peers
   do not serve: on a crowded machine they wait for its scheduler, each in its own way;
4. OWN_LUCK: of a contestant in a run, all its cases alike, which only more runs would show;
5. the crowd: other programs on the CPUs. The more a usual round is slower than the fastest, the
   less is that the code's own time: CROWDING of that is in doubt.

The change of several cases is the Hodges-Lehmann estimate, which a few odd cases do not move.
"""

import math
from dataclasses import dataclass
from itertools import combinations, islice

import numpy as np
import numpy.typing as npt

from rdmatrain.bench import student

PACE = 0.25  # standard deviation of the machine's pace between two runs
MISFIT = 0.05  # of what the pace changed by: not all that is measured follows it alike
MISFIT_USUAL = 0.5  # of what the usual pace changed by more than the fastest
LUCK, PRIOR = 0.02, 6
OWN_LUCK = 0.005
CROWDING, CROWDING_DF = 0.1, 4.0
TO_SIGMA = 1.4826  # standard deviation / median absolute deviation, of a normal distribution
MAX_HALVES = 40
MANY_HALVES = 200_000  # those of 20 rounds: up to here all are gone through
EPSILON = 1e-9  # of rounding

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Change:
    """An estimate of log(b / a).

    Attributes:
        log_ratio: above 0: b is slower.
        variance: of it.
        df: degrees of freedom of the variance.

    """

    log_ratio: float
    variance: float
    df: float

    @property
    def ratio(self) -> float:
        """Seconds of b / seconds of a."""
        return math.exp(self.log_ratio)

    def interval(self, confidence: float) -> tuple[float, float]:
        """Return the two-sided confidence interval of the ratio."""
        reach = student.quantile((1 - confidence) / 2, self.df) * math.sqrt(self.variance)
        return math.exp(self.log_ratio - reach), math.exp(self.log_ratio + reach)

    def p_slower(self, ratio: float) -> float:
        """Return the probability of this estimate or a higher one, were b / a that ratio."""
        t = (self.log_ratio - math.log(ratio)) / math.sqrt(self.variance)
        return student.upper_tail(t, self.df)

    def p_faster(self, ratio: float) -> float:
        """Return the probability of this estimate or a lower one, were b / a that ratio."""
        return 1.0 - self.p_slower(ratio)


@dataclass(frozen=True)
class Pair:
    """The same cases in both runs: logarithms of seconds, cases x rounds, as many in both."""

    a: Array
    b: Array


@dataclass(frozen=True)
class Changes:
    """The change of a group of cases, and of each of them.

    Attributes:
        group: of all.
        cases: of each.
        crowd: log of how much slower a usual round is than the fastest, in the worse run.

    """

    group: Change
    cases: list[Change]
    crowd: float


@dataclass(frozen=True)
class Pace:
    """What the machine's pace changed by, as far as it is known, and is to be taken off.

    Attributes:
        change: that; no degrees of freedom: it was not measured.
        halves: what was taken off one half of the rounds more than the other, in run a and in b.
        crowds: how much slower than the fastest a usual round was, in run a and in b.
        variance: of the change, but for what the rounds show.

    """

    change: Change
    halves: tuple[Array, Array]
    crowds: tuple[float, float]
    variance: float


def pace_of(spins: Pair | None) -> Pace:
    """Return how much slower the machine was in run b.

    Args:
        spins: what was measured beside each round of each case; None: it was not measured.

    """
    if spins is None:
        none = np.zeros(1), np.zeros(1)
        return Pace(Change(0.0, PACE**2, 0.0), none, (0.0, 0.0), PACE**2)
    parts = _parts(spins)
    usual = float(np.median(spins.b) - np.median(spins.a)) - parts.centre
    unseen = parts.luck / parts.num + (MISFIT * parts.centre) ** 2 + (MISFIT_USUAL * usual) ** 2
    known = _rounds_variance(parts.halves) + unseen
    weight = PACE**2 / (PACE**2 + known)
    halves = weight * parts.halves[0], weight * parts.halves[1]
    # What is left of PACE, if this is the best linear estimate, beside what its rounds add.
    variance = weight**2 * unseen + (1 - weight) ** 2 * PACE**2
    crowds = float(np.median(parts.crowds[0])), float(np.median(parts.crowds[1]))
    return Pace(Change(weight * parts.centre, weight * known, parts.df), halves, crowds, variance)


def estimate(pair: Pair, pace: Pace) -> Changes:
    """Return the change of a group of cases, and of each of them, with the pace taken off.

    Args:
        pair: with as many rounds as those of the pace.
        pace: of the machine.

    """
    parts = _parts(pair)
    taken = pace.change.log_ratio
    crowds = [np.maximum(parts.crowds[run] - pace.crowds[run], 0.0) for run in (0, 1)]
    usual = [float(np.median(each)) for each in crowds]
    crowd = sum((CROWDING * each) ** 2 for each in usual), CROWDING_DF
    luck = parts.luck, PRIOR + len(parts.cases) - 1.0
    group = _sum_up(
        parts.centre - taken,
        (
            _rounds_variance((parts.halves[0] - pace.halves[0], parts.halves[1] - pace.halves[1])),
            parts.df,
        ),
        (luck[0] / parts.num, luck[1]),
        (pace.variance + OWN_LUCK**2, math.inf),
        crowd,
    )
    common = (pace.change.variance + OWN_LUCK**2, math.inf), crowd
    cases = [
        # The luck of single cases has longer tails than that of their mean.
        _sum_up(change - taken, (max(variance, luck[0]), PRIOR), *common)
        for change, variance in zip(parts.cases.tolist(), parts.case_rounds.tolist(), strict=True)
    ]
    return Changes(group, cases, max(usual))


@dataclass(frozen=True)
class _Parts:
    """What is seen of a pair.

    Attributes:
        cases: change of each case.
        centre: of all.
        halves: what the centre of one half of the rounds is above the other, in run a and in b.
        case_rounds: variance of each case that comes from rounds.
        crowds: how much slower than the fastest a usual round of each case is, in run a and in b.
        df: degrees of freedom of what rounds show.
        luck: variance of a case's change beyond its rounds.
        num: of cases that the centre is worth.

    """

    cases: Array
    centre: float
    halves: tuple[Array, Array]
    case_rounds: Array
    crowds: tuple[Array, Array]
    df: float
    luck: float
    num: float


def _parts(pair: Pair) -> _Parts:
    cases = pair.b.min(axis=1) - pair.a.min(axis=1)
    halves = [_halves(run) for run in (pair.a, pair.b)]
    case_rounds = np.mean(halves[0] ** 2, axis=0) / 8 + np.mean(halves[1] ** 2, axis=0) / 8
    weights = 1 / (case_rounds + LUCK**2)
    centre = float(_centre(cases, weights))
    apart = TO_SIGMA * float(_median(np.abs(cases - centre), weights))
    more = len(cases) - 1
    return _Parts(
        cases=cases,
        centre=centre,
        halves=(_centre(halves[0], weights), _centre(halves[1], weights)),
        case_rounds=case_rounds,
        crowds=(_crowd(pair.a), _crowd(pair.b)),
        df=float(pair.a.shape[1] - 1),
        luck=(PRIOR * LUCK**2 + more * apart**2) / (PRIOR + more),
        num=float(weights.sum() ** 2 / (weights**2).sum()),
    )


def _crowd(run: Array) -> Array:
    return np.asarray(np.median(run, axis=1) - run.min(axis=1))


def _halves(run: Array) -> Array:
    """Return what the fastest of one half of the rounds and of the other differ by: pairs x cases.

    The fastest of n rounds varies by about 1 / n, so that of a half does by twice that of all, and
    the variance of the difference is eight times that of the fastest of all.

    """
    rounds = run.shape[1]
    picks = _picks(rounds)
    rest = [np.setdiff1d(np.arange(rounds), pick) for pick in picks]
    return np.array(
        [
            run[:, list(pick)].min(axis=1) - run[:, others].min(axis=1)
            for pick, others in zip(picks, rest, strict=True)
        ]
    )


def _picks(rounds: int) -> list[tuple[int, ...]]:
    """Return halves of the rounds, all over their order: of many rounds there are too many."""
    half = rounds // 2
    num = math.comb(rounds, half)
    if num <= MANY_HALVES:
        return list(islice(combinations(range(rounds), half), 0, None, -(-num // MAX_HALVES)))
    rng = np.random.default_rng(rounds)  # the same each time
    return [tuple(rng.permutation(rounds)[:half].tolist()) for _ in range(MAX_HALVES)]


def _rounds_variance(halves: tuple[Array, Array]) -> float:
    return float(np.mean(halves[0] ** 2) + np.mean(halves[1] ** 2)) / 8


def _centre(changes: Array, weights: Array) -> Array:
    """Return the Hodges-Lehmann estimate along the last axis: the median of all pairs' means."""
    one, other = np.triu_indices(changes.shape[-1])
    return _median((changes[..., one] + changes[..., other]) / 2, weights[one] * weights[other])


def _median(values: Array, weights: Array) -> Array:
    """Return the value along the last axis that has half of all weight up to it."""
    order = np.argsort(values, axis=-1)
    half = np.cumsum(weights[order], axis=-1) >= weights.sum() * (0.5 - EPSILON)
    place = half.argmax(axis=-1)[..., None]
    found = np.take_along_axis(np.take_along_axis(values, order, axis=-1), place, axis=-1)
    return np.asarray(found[..., 0])


def _sum_up(log_ratio: float, *parts: tuple[float, float]) -> Change:
    """Add up variances, each with its degrees of freedom, by Satterthwaite's rule."""
    variance = sum(each for each, _ in parts)
    return Change(log_ratio, variance, variance**2 / sum(v**2 / df for v, df in parts))
