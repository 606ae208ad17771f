"""How a job ended, in a few lines and an exit code."""

import signal
import socket
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass
class Worker:
    """A worker as the launcher sees it.

    Attributes:
        rank: its rank in the job.
        pid: its process id, also the id of its process group.
        status: exit code, or minus the signal that ended it; None while it is not reaped.
        sent: the last signal that the launcher sent it.

    """

    rank: int
    pid: int
    status: int | None = None
    sent: signal.Signals | None = None


def exit_code_of(status: int | None) -> int:
    """Return the exit code that stands for a worker's status: 128 + N after signal N."""
    if status is None:
        return 128 + signal.SIGKILL
    return status if status >= 0 else 128 - status


def likely_first(failed: Sequence[Worker]) -> Worker:
    """Return the likely cause among workers that were found dead together, at least one.

    One that a signal ended is the cause, one that exited with an error the consequence.
    """
    return min(failed, key=lambda worker: (exit_code_of(worker.status) < 128, worker.rank))


def summary(
    workers: Sequence[Worker], first_failed: Worker | None, stop_signal: signal.Signals | None
) -> list[str]:
    """Return the lines that tell how the job ended; none when it ended well.

    Args:
        workers: all workers of this node.
        first_failed: the worker that failed before any signal stopped the job.
        stop_signal: the signal that the launcher got.

    """
    host = socket.gethostname()
    lines = []
    if first_failed is not None:
        hint = " (out of memory?)" if first_failed.status == -signal.SIGKILL else ""
        lines.append(
            f"rank {first_failed.rank} (host {host}, pid {first_failed.pid}) failed first: "
            f"{_ending(first_failed)}{hint}"
        )
    if stop_signal is not None:
        lines.append(f"stopped by {stop_signal.name} on host {host}")
    if not lines:
        return []
    others = _outcomes([worker for worker in workers if worker is not first_failed])
    return [*lines, f"{'other ranks' if first_failed else 'ranks'}: {others}"] if others else lines


def _outcomes(workers: Sequence[Worker]) -> str:
    ranks_by_ending = defaultdict(list)
    for worker in workers:
        ranks_by_ending[_ending(worker) + _sent(worker)].append(worker.rank)
    return "; ".join(f"{_ranges(ranks)} {end}" for end, ranks in ranks_by_ending.items())


def _ending(worker: Worker) -> str:
    if worker.status is None:
        return "cannot be killed"
    if worker.status >= 0:
        return f"ended with exit code {worker.status}"
    return f"killed by {_signal_name(-worker.status)}"


def _sent(worker: Worker) -> str:
    if worker.sent is None:
        return " by itself" if worker.status is not None and worker.status >= 0 else ""
    if worker.status == -worker.sent:
        return " from the launcher"
    return f" after {worker.sent.name} from the launcher"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"


def _ranges(ranks: Sequence[int]) -> str:
    """Write sorted ranks short: 0-2,5."""
    spans: list[list[int]] = []
    for rank in ranks:
        if spans and rank == spans[-1][1] + 1:
            spans[-1][1] = rank
        else:
            spans.append([rank, rank])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in spans)
