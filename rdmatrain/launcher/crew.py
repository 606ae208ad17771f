"""The workers of one node in one round: started, watched by the kernel's word, and ended.

SIGKILL goes to a worker's process group, every other signal to the worker alone: it ends its own
children. What leaves the group is found by the sweep when the crew is gone.
"""

import contextlib
import os
import signal
from collections.abc import Callable, Sequence

from rdmatrain.launcher import process
from rdmatrain.launcher.loop import Loop, Timer
from rdmatrain.launcher.report import Worker
from rdmatrain.launcher.standby import Standby
from rdmatrain.launcher.start import Start, spawn

# A process that SIGKILL has not ended after so long is stuck in the kernel.
UNKILLABLE_S = 5.0


class Crew:
    """The workers that this node runs now.

    Args:
        loop: the launcher's.
        on_end: called when a worker has ended, with all that ended in the same moment.
        on_empty: called when none is left, or what is left cannot be killed.
        enter: called in each worker's process before it becomes its program.

    """

    def __init__(
        self,
        loop: Loop,
        on_end: Callable[[Sequence[Worker]], None],
        on_empty: Callable[[], None],
        enter: Callable[[], None] | None = None,
    ) -> None:
        self._loop = loop
        self._enter = enter
        self._on_end = on_end
        self._on_empty = on_empty
        self._timer: Timer | None = None
        self._given_up = False
        self.workers: list[Worker] = []

    @property
    def alive(self) -> list[Worker]:
        """Workers that have not been reaped."""
        return [worker for worker in self.workers if worker.status is None]

    @property
    def busy(self) -> bool:
        """Whether there are such, and not all of them have been given up."""
        return bool(self.alive) and not self._given_up

    def start(self, start: Start, standby: Standby | None = None) -> None:
        """Start a worker.

        Args:
            start: how.
            standby: becomes the worker, if it still can.

        Raises:
            OSError: it could not be started.

        """
        pid = self._promote(standby, start) if standby else None
        if pid is None:
            pid = self._spawn(start)
        self.workers.append(Worker(start.rank, start.local_rank, pid))

    @staticmethod
    def _promote(standby: Standby, start: Start) -> int | None:
        try:
            standby.begin(start)
        except OSError:
            standby.kill()
            return None
        return standby.pid

    def _spawn(self, start: Start) -> int:
        in_child = process.child_setup(start.cpus, self._enter)
        output = start.stdout, start.stderr
        return spawn(start.program.command(), start.environment, output, in_child)

    def send(self, number: int, only: int | None = None) -> None:
        """Send a signal to each worker that is alive, or only to that of one rank."""
        for worker in self.alive:
            if only is not None and worker.rank != only:
                continue
            worker.sent = number
            # Not reaped yet, so the id is still the worker's, even if it has died.
            with contextlib.suppress(ProcessLookupError):
                if number == signal.SIGKILL:
                    os.killpg(worker.pid, number)
                else:
                    os.kill(worker.pid, number)

    def stop(self, number: int, kill_after_s: float) -> None:
        """Send a signal, and SIGKILL to whoever is still there after so many seconds."""
        self.send(number)
        self._forget_timer()
        self._timer = self._loop.later(kill_after_s, self.kill)

    def kill(self) -> None:
        """Send SIGKILL, if there is anyone; ``on_empty`` comes then, whatever happens."""
        if self.busy:
            self._forget_timer()
            self.send(signal.SIGKILL)
            self._timer = self._loop.later(UNKILLABLE_S, self._give_up)

    def reap(self) -> list[int]:
        """Collect every dead child of this process, workers and others; call it at SIGCHLD.

        Returns:
            Process ids of those that were no workers.

        """
        others = []
        by_pid = {worker.pid: worker for worker in self.alive}
        ended = []
        with contextlib.suppress(ChildProcessError):
            while found := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                worker = by_pid.get(found.si_pid)
                if worker is not None and (found.si_code != os.CLD_EXITED or found.si_status):
                    # Its children hold copies of its sockets: peers see it die only without them.
                    with contextlib.suppress(ProcessLookupError, PermissionError):
                        os.killpg(worker.pid, signal.SIGKILL)
                _, wait_status = os.waitpid(found.si_pid, 0)
                if worker is None:
                    others.append(found.si_pid)
                else:
                    worker.status = os.waitstatus_to_exitcode(wait_status)
                    ended.append(worker)
        if ended:
            self._on_end(ended)
            if not self.alive and not self._given_up:
                self._forget_timer()
                self._on_empty()
        return others

    def clear(self) -> None:
        """Forget the workers of a round that is over."""
        self._forget_timer()
        self._given_up = False
        self.workers.clear()

    def _give_up(self) -> None:
        self._given_up = True
        self._on_empty()

    def _forget_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
