"""What the launcher asks of the kernel about processes, so that none is left behind.

Three nets, each for what the others miss: a worker dies with the launcher (``PDEATHSIG``), orphans
of workers become children of the launcher (subreaper), and the launcher kills all its descendants
before it ends (sweep). What none of them catches is left to the guardian.
"""

import contextlib
import ctypes
import os
import signal
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_SWEEP_INTERVAL_S = 0.005


def _load_prctl() -> Callable[[int, int, int, int, int], int]:
    prctl = ctypes.CDLL(None).prctl
    prctl.argtypes = [ctypes.c_int] + [ctypes.c_ulong] * 4
    prctl.restype = ctypes.c_int
    return prctl


def become_subreaper() -> bool:
    """Make orphaned descendants children of this process; returns False if the kernel refuses."""
    return _load_prctl()(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0


def child_setup(
    cpus: Iterable[int] = (), first: Callable[[], None] | None = None
) -> Callable[[], None]:
    """Return what a child runs between fork and exec.

    It gets a process group of its own, and is killed when this process dies. It stays in this
    session: where the kernel schedules each session as a group (autogroup), a worker in one of its
    own cannot yield its CPU to another worker, which costs a factor of 3 when they share CPUs. A
    read of the terminal, which is not its own, fails instead of stopping it.

    Call it, and fork, in the main thread: the kernel ties the child to the thread that forked it.

    Args:
        cpus: those that it may run on; none for those of its parent.
        first: called in the child before all else.

    """
    prctl = _load_prctl()
    parent_pid = os.getpid()
    mask = frozenset(cpus)

    def in_child() -> None:
        if first is not None:
            first()
        os.setpgid(0, 0)
        if mask:
            os.sched_setaffinity(0, mask)
        for number in (signal.SIGTTIN, signal.SIGTTOU):
            signal.signal(number, signal.SIG_IGN)
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        # The parent may have died before prctl: then no signal will ever come.
        if os.getppid() != parent_pid:
            os.kill(os.getpid(), signal.SIGKILL)

    return in_child


def open_standard_fds() -> None:
    """Open /dev/null on each of descriptors 0 to 2 that is closed, so that no pipe lands there."""
    while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(fd, True)
    os.close(fd)


def descendants(pid: int, spare: Iterable[int] = ()) -> list[int]:
    """List the live descendants of a process, zombies left out.

    Args:
        pid: the ancestor, itself not listed.
        spare: children to leave out together with all below them.

    """
    children = defaultdict(list)
    dead = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and (found := _state_and_parent(entry)) is not None:
            children[found[1]].append(int(entry.name))
            if found[0] in "ZX":
                dead.add(int(entry.name))
    result: list[int] = []
    todo = [child for child in children[pid] if child not in set(spare)]
    while todo:
        child = todo.pop()
        todo += children[child]
        result.append(child)
    return [child for child in result if child not in dead]


def sweep(timeout_s: float, spare: Iterable[int] = ()) -> list[int]:
    """Kill every descendant of this process with SIGKILL and reap what becomes its child.

    Args:
        timeout_s: give up after this many seconds.
        spare: children to leave alone together with all below them.

    Returns:
        Process ids that are still there, empty unless the time was up.

    """
    deadline = time.monotonic() + timeout_s
    spared = set(spare)
    while True:
        left = descendants(os.getpid(), spared)
        for pid in left:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        reap_orphans()
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(_SWEEP_INTERVAL_S)


def reap_orphans() -> None:
    """Reap every dead child; call it only when no worker's exit status is wanted any more."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG) != (0, 0):
            pass


def _state_and_parent(entry: Path) -> tuple[str, int] | None:
    try:
        stat = (entry / "stat").read_text(encoding="utf-8", errors="replace")
    except OSError:  # it ended while we looked
        return None
    # The name in parentheses may itself hold spaces and parentheses.
    state, parent = stat.rpartition(")")[2].split()[:2]
    return state, int(parent)
