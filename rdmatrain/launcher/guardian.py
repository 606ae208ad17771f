"""Ends what is left of a job whose launcher was killed.

The guardian is a child of the launcher, forked before anything else is started. It waits at a pipe
whose other end only the launcher has. A byte means that all went well, the pipe's end that the
launcher is dead. Then it kills what belongs to the job:

* processes that were started with the job's marker in ``RDMATRAIN_JOB``, and those below them;
* processes that it has seen below the launcher before, for it looks every 2 s, and those below
  them: some clear or overwrite their environment;
* what is in the job's own cgroup, where there is one.

A launcher inside the job adds its own marker, so what it starts belongs to both jobs. Its guardian
is killed last, for it removes that launcher's folder.

What is left to chance: the guardian is killed together with the launcher, or, where there is no
cgroup, a process shows no marker, has left its parents, and was started less than 2 s before.
"""

import contextlib
import ctypes
import fcntl
import os
import select
import signal
import time
from collections.abc import Mapping
from pathlib import Path

from rdmatrain import config
from rdmatrain.launcher import cgroup, proc, runtime

JOB = "RDMATRAIN_JOB"
_SEPARATOR = ":"
_LOOK_S = 2.0
_END_S = 10.0
_OTHER_GUARDIANS_S = 1.0
_ROUND_S = 0.02
_EMPTY_ROUNDS = 2
_PR_SET_NAME = 15
_NAME = b"rdmatrain-guard"
_ALL_WELL = b"."

Identities = frozenset[tuple[int, int]]


class Guardian:
    """Starts a guardian; make one before this process has threads, or children of the job.

    Children that this process has already are not the job's, and are spared.

    Args:
        folder: the launcher's private folder, which is removed with the rest.
        marker: names the job; None for a new name.

    Attributes:
        pid: the guardian's process id. When it has been reaped, call :meth:`revive`.
        cgroup: the job's own, or None; workers are to ``join`` it between fork and exec.

    """

    def __init__(self, folder: Path, marker: str | None = None) -> None:
        self._folder = folder
        self._marker = marker or os.urandom(16).hex()
        self._launcher_pid = os.getpid()
        self._spared: Identities = frozenset()
        self._spared = self._below_launcher()
        self.cgroup = cgroup.create(f"rdmatrain-{self._marker}")
        self._fd = -1
        self.pid = self._fork()

    def environment(self, inherited: Mapping[str, str] | None = None) -> dict[str, str]:
        """Return the variables by which the job's processes are known.

        Args:
            inherited: read this instead of the process environment.

        """
        inherited = config.inherited_environment() if inherited is None else inherited
        outer = inherited.get(JOB, "")
        return {JOB: f"{outer}{_SEPARATOR}{self._marker}" if outer else self._marker}

    def revive(self) -> None:
        """Start another guardian after one has died, if that can be; the job goes on without."""
        os.close(self._fd)
        self._fd = -1
        with contextlib.suppress(OSError):
            self.pid = self._fork()

    def close(self) -> None:
        """Remove the cgroup, let the guardian end without doing anything, and reap it. Idempotent.

        Call it when nothing else is left to do: until then the guardian would do it.
        """
        if self._fd < 0:
            return
        if self.cgroup is not None:
            self.cgroup.remove()
        with contextlib.suppress(OSError):  # it was killed
            os.write(self._fd, _ALL_WELL)
        os.close(self._fd)
        self._fd = -1
        with contextlib.suppress(ChildProcessError):  # it was reaped
            os.waitpid(self.pid, 0)

    def _fork(self) -> int:
        read_fd, self._fd = os.pipe()
        # The guardian keeps all signals blocked: Ctrl-C is not for it, nor SIGTERM to all.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            pid = os.fork()
            if pid == 0:
                self._live(read_fd)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        os.close(read_fd)
        return pid

    def _live(self, fd: int) -> None:
        """Be the guardian; never returns."""
        try:
            fd = _leave_the_launcher(fd)
            seen = self._watch(fd)
            if seen is not None:
                self._end_job(seen)
        finally:
            os._exit(0)

    def _watch(self, fd: int) -> Identities | None:
        """Wait for the launcher's end; returns what it had started, or None if all is well."""
        seen: Identities = frozenset()
        while not select.select([fd], [], [], _LOOK_S)[0]:
            seen = self._below_launcher()
        return None if os.read(fd, 1) else seen

    def _below_launcher(self) -> Identities:
        """Return the job's processes that are descendants of the launcher."""
        table = proc.read_all()
        spared = [pid for pid, start in self._spared if pid in table and table[pid].start == start]
        found = proc.below(table, [self._launcher_pid]) - proc.below(table, spared)
        found -= {self._launcher_pid, os.getpid()}
        return frozenset(table[pid].identity for pid in found)

    def _end_job(self, seen: Identities) -> None:
        start = time.monotonic()
        num_empty = 0
        while num_empty < _EMPTY_ROUNDS and (spent_s := time.monotonic() - start) < _END_S:
            left = self._left(seen)
            for process in left:
                if process.name != _NAME or spent_s > _OTHER_GUARDIANS_S:
                    proc.kill(process)
            seen |= {process.identity for process in left}
            num_empty = 0 if left else num_empty + 1
            time.sleep(_ROUND_S)
        if self.cgroup is not None:
            self.cgroup.kill()
            self.cgroup.remove()
        runtime.remove(self._folder)

    def _left(self, seen: Identities) -> list[proc.Process]:
        table = proc.read_all()
        roots = [
            process.pid
            for process in table.values()
            if process.identity in seen or self._is_marked(process.pid)
        ]
        found = proc.below(table, roots) - {os.getpid()}
        return [table[pid] for pid in found if not table[pid].is_dead]

    def _is_marked(self, pid: int) -> bool:
        markers = proc.was_given(pid, JOB.encode()).split(_SEPARATOR.encode())
        return self._marker.encode() in markers


def _leave_the_launcher(fd: int) -> int:
    """Keep nothing of the launcher but ``fd``, which is returned under another number."""
    signal.set_wakeup_fd(-1)
    os.setsid()
    os.chdir("/")
    ctypes.CDLL(None).prctl(_PR_SET_NAME, _NAME, 0, 0, 0)
    kept_fd = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)
    null_fd = os.open(os.devnull, os.O_RDWR)
    for standard_fd in range(3):
        os.dup2(null_fd, standard_fd)
    # Not closerange(): without close_range(2) it tries a billion descriptors in some containers.
    for entry in list(Path("/proc/self/fd").iterdir()):
        if int(entry.name) > 2 and int(entry.name) != kept_fd:
            with contextlib.suppress(OSError):
                os.close(int(entry.name))
    return kept_fd
