"""Whether a process does anything, by the kernel's books: CPU time and bytes, its children's too.

CPU time is told apart by thread: each thread that waits for Python's GIL wakes 200 times a second
to ask for it, and 20 of them use more than one that gets on slowly. A thread is busy, too, while it
is ready to run, however little it gets of a crowded CPU, or is in a call of the kernel that cannot
be interrupted, which writes to a disk as a rule. Gloo's thread for its sockets wakes 100 times a
second whatever happens, and takes 0.2 % of a CPU, as it does with 5 MB/s: so it tells nothing. What
is received with recv(2), as by that thread, is not in the books; what is sent with write(2) is.
"""

import os
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

# Of one CPU: more than a thread takes that waits for the GIL, or for a collective.
WAITING_SHARE = 0.01
# More than the beat takes; a slow download takes more.
IDLE_SHARE = 0.002

# A process that uses so much of a CPU is busy, whatever its threads do.
_BUSY_SHARE = 0.2
# A thread that was ready to run for so much of the time is busy.
_READY_SHARE = 0.5
_TELLS_NOTHING = "gloo_tcp_loop"
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_NS_PER_S = 1_000_000_000


@dataclass(frozen=True)
class Stat:
    """From ``/proc/PID/stat``: state, parent, CPU ticks with those of reaped children, and name."""

    state: str
    parent: int
    ticks: int
    name: str


def read_stat(folder: Path) -> Stat | None:
    """Return what ``stat`` in this folder of /proc says; None when the process is gone."""
    try:
        text = (folder / "stat").read_text(encoding="utf-8", errors="replace")
        # The name in parentheses may itself hold spaces and parentheses.
        head, _, rest = text.rpartition(")")
        fields, name = rest.split(), head.partition("(")[2]
        return Stat(fields[0], int(fields[1]), sum(int(each) for each in fields[11:15]), name)
    except (OSError, ValueError, IndexError):  # it ended while we looked
        return None


def read_bytes(pid: int) -> int:
    """Return the bytes that a process has read and written, through caches or not; 0 if unknown."""
    try:
        lines = Path(f"/proc/{pid}/io").read_text(encoding="utf-8").splitlines()
        named = dict(line.split(": ") for line in lines)
        return sum(int(named[n]) for n in ("rchar", "wchar", "read_bytes", "write_bytes"))
    except (OSError, ValueError, KeyError):
        return 0


class Table:
    """The processes of the host as they are now; looked up once, and only when somebody asks."""

    def __init__(self, root: Path = Path("/proc")) -> None:
        self._root = root
        self._stats: dict[int, Stat] | None = None
        self._children: Mapping[int, list[int]] = {}

    def below(self, pid: int) -> dict[int, Stat]:
        """Return the descendants of a process."""
        if self._stats is None:
            self._stats = dict(self._read())
            children: defaultdict[int, list[int]] = defaultdict(list)
            for child, stat in self._stats.items():
                children[stat.parent].append(child)
            self._children = children
        found: dict[int, Stat] = {}
        todo = list(self._children.get(pid, ()))
        while todo:
            child = todo.pop()
            if child not in found:
                found[child] = self._stats[child]
                todo += self._children.get(child, ())
        return found

    def _read(self) -> Iterable[tuple[int, Stat]]:
        for entry in self._root.iterdir():
            if entry.name.isdecimal() and (stat := read_stat(entry)) is not None:
                yield int(entry.name), stat


@dataclass(frozen=True)
class Thread:
    """What the kernel's books say of a thread: nanoseconds of CPU, and of waiting for one.

    ``grain_ns`` is how exact they are; ``num_slices`` how often it got a CPU, -1 if unknown.
    """

    state: str
    cpu_ns: int
    ready_ns: int
    num_slices: int
    grain_ns: int

    def is_busy(self, before: "Thread", seconds: float, share: float) -> bool:
        """Tell whether it got on since then, or wants to; up to ``share`` of a CPU is nothing."""
        cpu_ns = self.cpu_ns - before.cpu_ns
        whole_ns = seconds * _NS_PER_S
        starved = self.num_slices in {-1, before.num_slices}
        return (
            self.state == "D"
            or (self.state == "R" and starved)
            or cpu_ns > max(share * whole_ns, self.grain_ns)
            or cpu_ns + self.ready_ns - before.ready_ns > _READY_SHARE * whole_ns
        )


def read_threads(pid: int) -> dict[str, Thread]:
    """Return the threads of a process that tell something."""
    try:
        folders = list(Path(f"/proc/{pid}/task").iterdir())
    except OSError:
        return {}
    read = ((each.name, _read_thread(each)) for each in folders)
    return {name: thread for name, thread in read if thread is not None}


def _read_thread(folder: Path) -> Thread | None:
    stat = read_stat(folder)
    if stat is None or stat.name == _TELLS_NOTHING:
        return None
    try:
        text = (folder / "schedstat").read_text(encoding="utf-8")
        cpu_ns, ready_ns, num_slices = (int(each) for each in text.split())
    except (OSError, ValueError):
        cpu_ns = 0
    if cpu_ns == 0:  # a kernel that keeps no such books
        tick_ns = _NS_PER_S // _TICKS_PER_S
        return Thread(stat.state, stat.ticks * tick_ns, 0, -1, tick_ns)
    return Thread(stat.state, cpu_ns, ready_ns, num_slices, 0)


@dataclass(frozen=True)
class _Books:
    ticks: int
    num_bytes: int

    def differ(self, before: "_Books", seconds: float, share: float) -> bool:
        allowed = max(1.0, seconds * share * _TICKS_PER_S)
        return self.num_bytes != before.num_bytes or self.ticks - before.ticks > allowed


class Activity:
    """One process and what is below it, looked at again and again."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._before: _Books | None = None
        # Only looked at while the process itself seems idle; None: not the last time.
        self._threads: dict[str, Thread] | None = None
        self._children: dict[int, _Books] | None = None

    def is_busy(self, stat: Stat, table: Table, seconds: float, share: float) -> bool:
        """Tell whether it has done anything since the last call, or does now.

        Args:
            stat: of the process, now.
            table: all processes, now.
            seconds: since the last call.
            share: of a CPU, that a thread may use and still be idle.

        """
        books = _Books(stat.ticks, read_bytes(self._pid))
        before, self._before = self._before, books
        if before is None or books.differ(before, seconds, _BUSY_SHARE):
            self._threads = self._children = None
            return True
        # Both, so that both are known the next time.
        threads = self._threads_are_busy(seconds, share)
        return self._children_are_busy(table.below(self._pid), seconds) or threads

    def _threads_are_busy(self, seconds: float, share: float) -> bool:
        threads = read_threads(self._pid)
        before, self._threads = self._threads, threads
        if before is None:  # the next time shows what they do
            return any(thread.state == "D" for thread in threads.values())
        return any(
            name not in before or thread.is_busy(before[name], seconds, share)
            for name, thread in threads.items()
        )

    def _children_are_busy(self, below: Mapping[int, Stat], seconds: float) -> bool:
        books = {pid: _Books(stat.ticks, read_bytes(pid)) for pid, stat in below.items()}
        before, self._children = self._children, books
        if any(stat.state in "RD" for stat in below.values()):
            return True
        if before is None:
            return False
        return any(
            pid not in before or each.differ(before[pid], seconds, WAITING_SHARE)
            for pid, each in books.items()
        )
