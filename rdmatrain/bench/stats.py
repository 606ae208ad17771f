"""From the samples of ranks to what a table shows. Seconds, standard library only."""

import bisect
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from rdmatrain.bench.model import Case, Entry, Result, Round


def slowest(samples: Sequence[Sequence[float]]) -> tuple[float, Round]:
    """Return what a turn says: the slowest rank's median, and the slowest rank of each call.

    The root of a broadcast may leave early; that does not make the operation fast.

    Args:
        samples: seconds of each call, for each rank.

    """
    median = max(statistics.median(of_rank) for of_rank in samples)
    return median, Round(tuple(map(max, zip(*samples, strict=True))))


class Turn(NamedTuple):
    """What was found in a round: median seconds of the slowest rank, all calls, and the spin."""

    median: float
    calls: Round
    spin: float


@dataclass
class Taken:
    """What was found of one case of one contestant so far.

    Attributes:
        nwrong: wrong elements of the checked call; None: not checked.
        turns: one for each round.

    """

    nwrong: int | None = None
    turns: list[Turn] = field(default_factory=list)

    def add(self, samples: Sequence[Sequence[float]], spin: float) -> None:
        """Add a round, whole or not at all, whenever it is interrupted.

        Args:
            samples: seconds of each call, for each rank.
            spin: how fast the CPUs were: see ``spin.py``.

        """
        self.turns.append(Turn(*slowest(samples), spin))

    def result(self, entry: Entry, case: Case, ranks: int, hosts: int, transport: str) -> Result:
        """Sum up one round or more."""
        calls = [seconds for turn in self.turns for seconds in turn.calls.samples]
        # A slow round has few calls, as their number is by time: each round counts alike.
        weights = [1 / len(turn.calls.samples) for turn in self.turns for _ in turn.calls.samples]
        medians = tuple(turn.median for turn in self.turns)
        return Result(
            entry=entry,
            case=case,
            ranks=ranks,
            hosts=hosts,
            transport=transport,
            rounds=medians,
            seconds_p50=statistics.median(medians),
            seconds_p99=percentile(calls, 0.99, weights),
            seconds_min=min(calls),
            cv=variation(medians),
            calls=len(calls),
            nwrong=self.nwrong,
            spins=tuple(turn.spin for turn in self.turns),
        )


def percentile(
    values: Sequence[float], part: float, weights: Sequence[float] | None = None
) -> float:
    """Return the value that a part of all lies below, on the line between the two next to it.

    Args:
        values: in any order.
        part: 0 to 1.
        weights: of each value; None: all weigh the same.

    """
    if weights is None:
        weights = [1.0] * len(values)
    ordered = sorted(zip(values, weights, strict=True))
    # Each value is at the middle of its weight; the first and the last are the ends of the line.
    places, below = [], 0.0
    for _, weight in ordered:
        places.append(below + weight / 2)
        below += weight
    place = places[0] + part * (places[-1] - places[0])
    above = min(bisect.bisect_left(places, place), len(places) - 1)
    if above == 0:
        return ordered[0][0]
    (low, _), (high, _) = ordered[above - 1 : above + 1]
    share = (place - places[above - 1]) / (places[above] - places[above - 1])
    return low + min(share, 1.0) * (high - low)


def variation(values: Sequence[float]) -> float:
    """Return the coefficient of variation: that of a sample, n - 1; 0 for a single value."""
    mean = statistics.fmean(values)
    return statistics.stdev(values) / mean if len(values) > 1 and mean else 0.0
