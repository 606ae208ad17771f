"""What memory a sweep takes on this host, counted before a process is started."""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rdmatrain.bench.options import SweepOptions
from rdmatrain.bench.sizes import size_text
from rdmatrain.discovery.machine import line_of
from rdmatrain.discovery.quota import memory_limit
from rdmatrain.discovery.source import Source
from rdmatrain.errors import SettingError

if TYPE_CHECKING:
    from rdmatrain.bench.contestants import Start

RANK_BYTES = (
    150 << 20
)  # of a process with torch, without tensors, that cannot be given back: 147 MiB
TENSORS_OF_CALL = 2  # input and output; a check looks at pieces


def memory_available(source: Source) -> int:
    """Return the bytes that are free on this host, or that this pod may have if that is less."""
    kib = line_of(source, "/proc/meminfo", "MemAvailable").partition(" ")[0]
    free = int(kib) * 1024 if kib.isdecimal() else sys.maxsize
    return min(free, memory_limit(source) or free)


def check_memory(
    options: SweepOptions, starts: Sequence["Start"], available_bytes: int, on_host: int
) -> None:
    """Refuse what does not fit.

    All contestants count together: what one has freed may stay in its arena.

    Args:
        options: that were checked.
        starts: the contestants that are here; those that have none of the cases do not count.
        available_bytes: memory that is left on this host, or in this pod.
        on_host: how many of the ranks are on it.

    Raises:
        SettingError: what is needed, and what to give.

    """
    sizes = {}
    for start in starts:
        if own := [case.nbytes for case in options.cases if not start.why_not(case)]:
            sizes[start] = max(own)
    bare = sum(start.memory(on_host, 0) for start in sizes)
    needed = sum(start.memory(on_host, nbytes) for start, nbytes in sizes.items())
    contestants = len({start.entry for start in sizes})
    what = f"{_count(on_host, 'rank')} of {_count(contestants, 'contestant')} together"
    available = f"{size_text(available_bytes)} is available"
    if bare > available_bytes:
        raise SettingError(
            f"--ranks {options.ranks}: {what} need {size_text(bare)} of memory, without tensors; "
            f"{available}: give fewer ranks, transports or peers"
        )
    if needed > available_bytes:
        largest = max(options.cases, key=lambda case: case.nbytes)
        raise SettingError(
            f"-e: {largest} needs {size_text(needed)} of memory in {what}; {available}: give a "
            "smaller -e, or fewer ranks, transports or peers"
        )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' if number != 1 else ''}"
