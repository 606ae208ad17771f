"""What became of the workers of a node, in a line."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from rdmatrain.launcher.blame import signal_name


@dataclass
class Worker:
    """A worker as the launcher sees it.

    Attributes:
        rank: its rank in the job.
        local_rank: its number on this node.
        pid: its process id, also the id of its process group.
        status: exit code, or minus the signal that ended it; None while it is not reaped.
        sent: number of the last signal that the launcher sent it, or None.

    """

    rank: int
    local_rank: int
    pid: int
    status: int | None = None
    sent: int | None = None

    @property
    def failed(self) -> bool:
        """It has ended, and not with 0."""
        return self.status not in {None, 0}


def outcomes(workers: Sequence[Worker]) -> str:
    """Return how workers ended, those that ended alike together."""
    ranks_by_ending = defaultdict(list)
    for worker in workers:
        ranks_by_ending[_ending(worker) + _sent(worker)].append(worker.rank)
    return "; ".join(f"{_ranges(ranks)} {end}" for end, ranks in ranks_by_ending.items())


def _ending(worker: Worker) -> str:
    if worker.status is None:
        return "cannot be killed"
    if worker.status >= 0:
        return f"ended with exit code {worker.status}"
    return f"killed by {signal_name(-worker.status)}"


def _sent(worker: Worker) -> str:
    if worker.sent is None:
        return " by itself" if worker.status is not None and worker.status >= 0 else ""
    if worker.status == -worker.sent:
        return " from the launcher"
    return f" after {signal_name(worker.sent)} from the launcher"


def _ranges(ranks: Sequence[int]) -> str:
    """Write sorted ranks short: 0-2,5."""
    spans: list[list[int]] = []
    for rank in ranks:
        if spans and rank == spans[-1][1] + 1:
            spans[-1][1] = rank
        else:
            spans.append([rank, rank])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in spans)
