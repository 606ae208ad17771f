"""The kernel's table of processes: who is whose child, and what a process was given."""

import contextlib
import os
import signal
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple


class Process(NamedTuple):
    """A process at one moment.

    Attributes:
        pid: its id, which another process may have later.
        start: when it was started, in the kernel's ticks: with ``pid`` it names one process.
        parent: its parent's id.
        is_dead: it is a zombie.
        name: at most 15 bytes, which it chose.

    """

    pid: int
    start: int
    parent: int
    is_dead: bool
    name: bytes = b""

    @property
    def identity(self) -> tuple[int, int]:
        """What no other process has, before or after."""
        return self.pid, self.start


Table = Mapping[int, Process]


def read(pid: int) -> Process | None:
    """Return a process, or None if there is none."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    # The name in parentheses may itself hold spaces and parentheses.
    head, _, tail = stat.rpartition(b")")
    fields = tail.split()
    name = head.partition(b"(")[2]
    return Process(pid, int(fields[19]), int(fields[1]), fields[0] in (b"Z", b"X"), name)


def read_all() -> Table:
    """Return all processes that can be seen, by id."""
    pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal()]
    return {pid: found for pid in pids if (found := read(pid)) is not None}


def below(table: Table, roots: Iterable[int]) -> set[int]:
    """Return the ids of processes and of all their descendants, as far as they are there."""
    children = defaultdict(list)
    for process in table.values():
        children[process.parent].append(process.pid)
    found: set[int] = set()
    todo = [pid for pid in roots if pid in table]
    while todo:
        pid = todo.pop()
        if pid not in found:
            found.add(pid)
            todo += children[pid]
    return found


def was_given(pid: int, name: bytes) -> bytes:
    """Return the value of a variable that a process was started with; empty if it cannot be read.

    A process may overwrite what the kernel shows here.
    """
    try:
        variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return b""
    return next((v[len(name) + 1 :] for v in variables if v.startswith(name + b"=")), b"")


def kill(process: Process) -> None:
    """Send SIGKILL to a process, unless another one has its id now. Never raises."""
    now = read(process.pid)
    if now is not None and now.identity == process.identity:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(process.pid, signal.SIGKILL)
