"""How fast the CPUs are just now: seconds of a fixed piece of work, taken beside each turn.

A virtual CPU whose sibling is busy, or that the host clocks down, is slower by half for seconds or
minutes, and so is all that is measured then. The work knows nothing of communication: what it
changed by from one run to another is the machine's doing, and no build's.
"""

import os
import time

LOOPS = 2000  # about 50 us
REPEATS = 5
MAX_CPUS = 8  # what is looked at, of those that ranks are bound to


def spin_seconds(ranks: int) -> float:
    """Return seconds of the work on the slowest of the CPUs that so many ranks are bound to.

    Of each CPU's repeats the fastest counts: what interrupts it is no matter of its speed.

    """
    before = os.sched_getaffinity(0)
    try:
        return max(_on(cpu) for cpu in sorted(before)[: min(ranks, MAX_CPUS)])
    finally:
        os.sched_setaffinity(0, before)


def _on(cpu: int) -> float:
    os.sched_setaffinity(0, {cpu})
    return min(_once() for _ in range(REPEATS))


def _once() -> float:
    began = time.perf_counter()
    total = 0
    for number in range(LOOPS):
        total += number
    return time.perf_counter() - began
