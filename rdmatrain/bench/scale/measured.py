"""all_reduce and barrier at more and more ranks of this machine, many to a CPU if need be."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rdmatrain.bench.conduct import Conductor, Plan
from rdmatrain.bench.contestants import RDMATRAIN, Start, find
from rdmatrain.bench.model import Case, Result
from rdmatrain.bench.running import ContestantError

ROUNDS = 3


@dataclass(frozen=True)
class Measured:
    """An operation of so many ranks.

    Attributes:
        op: all_reduce or barrier.
        ranks: processes.
        nbytes: of float32 on each; 0 for a barrier.
        transport: that joined them.
        seconds: median of the rounds.
        seconds_p99: of all calls.
        busbw: GB/s.
        nwrong: wrong elements of the checked call.

    """

    op: str
    ranks: int
    nbytes: int
    transport: str
    seconds: float
    seconds_p99: float
    busbw: float
    nwrong: int | None


def memory_of(ranks: int, sizes: Sequence[int]) -> int:
    """Return the bytes of memory that so many ranks take."""
    return _start().memory(ranks, max(sizes))


def measure(
    ranks: int, sizes: Sequence[int], folder: Path, told: Callable[[Measured], object]
) -> None:
    """Start the ranks, time all cases, tell each, and end the ranks.

    Args:
        ranks: at least 2.
        sizes: of the all_reduces, in bytes.
        folder: for the job; empty.
        told: gets each result.

    Raises:
        ContestantError: the ranks did not start, or one of them failed; what was measured before
            is told.

    """
    cases = [Case("barrier", "uint8", "", 0, False)]
    cases += [Case("all_reduce", "float32", "SUM", nbytes, True) for nbytes in sizes]
    start = _start()
    running = start.open(ranks, folder)
    try:
        conductor = Conductor(Plan(cases, ROUNDS, ranks), [(start.entry, running)])
        conductor.run()
    finally:
        running.close()
    for result in conductor.results():
        told(_of(result))
    for failure in conductor.failures:
        raise ContestantError(f"{RDMATRAIN}, {ranks} ranks: {failure.text}", gone=True)


def _start() -> Start:
    return find([], ["auto"])[0][0]


def _of(result: Result) -> Measured:
    return Measured(
        result.case.op,
        result.ranks,
        result.case.nbytes,
        result.transport,
        result.seconds_p50,
        result.seconds_p99,
        result.busbw,
        result.nwrong,
    )
