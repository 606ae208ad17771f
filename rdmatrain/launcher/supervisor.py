"""Starts the workers of a node, watches them in one loop, and stops them.

How a job is stopped:

* A worker fails: the others have 5 s to end by themselves, so that they can print which rank they
  miss; then SIGTERM; 5 s later SIGKILL.
* The launcher gets SIGTERM, SIGINT, SIGHUP or SIGQUIT: each worker gets the same signal (not its
  children: the worker ends those); 5 s later SIGKILL. A SIGINT after that kills at once, other
  repeated signals are ignored.
* SIGKILL goes to the worker's process group, and before the launcher ends it kills whatever
  descendants are left, in other sessions too.
"""

import contextlib
import os
import selectors
import signal
import socket
import subprocess
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence

from rdmatrain.errors import BootstrapError
from rdmatrain.launcher import process
from rdmatrain.launcher.logs import OutputPump
from rdmatrain.launcher.report import Worker, exit_code_of, likely_first, summary
from rdmatrain.launcher.signals import SignalInbox
from rdmatrain.launcher.spec import LaunchSpec

GRACE_S = 5.0
TERM_S = 5.0
UNKILLABLE_S = 5.0
DRAIN_S = 2.0
SWEEP_S = 2.0


class Supervisor:
    """Runs one node's workers to their end; use it once, from the main thread.

    Args:
        spec: what to start.
        environments: the environment of each worker, by local rank.
        color: whether colour may be used on a terminal.

    """

    def __init__(
        self, spec: LaunchSpec, environments: Sequence[Mapping[str, str]], *, color: bool
    ) -> None:
        self._spec = spec
        self._environments = environments
        self._selector = selectors.PollSelector()  # unlike epoll it takes regular files
        self._pump = OutputPump(self._selector, color=color)
        self._inbox = SignalInbox()
        self._workers: list[Worker] = []
        self._first_failed: Worker | None = None
        self._stop_signal: signal.Signals | None = None
        # Steps still to take to stop the job: monotonic seconds, and what to send (None: give up).
        self._steps: deque[tuple[float, signal.Signals | None]] = deque()

    def run(self, messages: Sequence[str] = ()) -> int:
        """Start the workers and return when nothing of them is left.

        Args:
            messages: lines to write to stderr before any output of a worker.

        Returns:
            The exit code for the launcher, 0 to 255.

        Raises:
            BootstrapError: a worker could not be started; names the rank and the cause.

        """
        if not process.become_subreaper():
            self._pump.say("warning: not a subreaper: children that leave a worker can be missed")
        # A script that became this process by exec may have left children of its own.
        spare = process.descendants(os.getpid())
        with self._inbox, self._selector:
            self._selector.register(self._inbox, selectors.EVENT_READ)
            for message in messages:
                self._pump.say(message)
            try:
                self._start_workers()
                self._watch()
                self._report(process.sweep(SWEEP_S, spare))
            finally:
                process.sweep(SWEEP_S, spare)
                self._drain()
        return self._exit_code()

    def _start_workers(self) -> None:
        in_child = process.child_setup()
        for local_rank, environment in enumerate(self._environments):
            rank = self._spec.rank(local_rank)
            try:
                self._start_worker(rank, environment, in_child)
            except (OSError, ValueError, subprocess.SubprocessError) as error:
                raise BootstrapError(
                    f"rank {rank} could not be started on {socket.gethostname()}: {error}; "
                    f"{local_rank} of {len(self._environments)} workers had started and were killed"
                ) from error

    def _start_worker(
        self, rank: int, environment: Mapping[str, str], in_child: Callable[[], None]
    ) -> None:
        with contextlib.ExitStack() as on_failure, contextlib.ExitStack() as always:
            ends = []
            for _ in range(2):
                read_fd, write_fd = os.pipe()
                on_failure.callback(os.close, read_fd)
                always.callback(os.close, write_fd)
                ends.append((read_fd, write_fd))
            (out_read_fd, out_fd), (err_read_fd, err_fd) = ends
            popen = subprocess.Popen(
                self._spec.command(),
                env=environment,
                stdout=out_fd,
                stderr=err_fd,
                preexec_fn=in_child,  # noqa: PLW1509 - the launcher has one thread
            )
            popen.returncode = 0  # not known yet: it keeps Popen from reaping, which _reap does
            on_failure.pop_all()
            self._workers.append(Worker(rank, popen.pid))
            self._pump.add_worker(rank, out_read_fd, err_read_fd)

    def _alive(self) -> list[Worker]:
        return [worker for worker in self._workers if worker.status is None]

    def _watch(self) -> None:
        """Run the loop until every worker has been reaped or cannot even be killed."""
        while self._alive():
            timeout_s = self._steps[0][0] - time.monotonic() if self._steps else None
            if timeout_s is not None and timeout_s <= 0:
                if not self._take_step():
                    return
                continue
            if self._wait(timeout_s):
                self._handle_signals()
                self._reap()

    def _wait(self, timeout_s: float | None) -> bool:
        """Serve output until a signal or the timeout; returns whether a signal has come."""
        woken = False
        for key, _ in self._selector.select(timeout_s):
            if key.data is None:
                woken = True
            elif key.fd in self._selector.get_map():  # not closed by a callback before it
                key.data()
        return woken

    def _take_step(self) -> bool:
        """Take the next step of stopping the job; returns False when nothing is left to try."""
        _, number = self._steps.popleft()
        if number is None:
            return False
        self._send(number)
        if number == signal.SIGKILL:
            self._steps = deque([(time.monotonic() + UNKILLABLE_S, None)])
        return True

    def _send(self, number: signal.Signals) -> None:
        for worker in self._alive():
            worker.sent = number
            # Not reaped yet, so the id is still the worker's, even if it has died.
            with contextlib.suppress(ProcessLookupError):
                if number == signal.SIGKILL:
                    os.killpg(worker.pid, number)
                else:
                    os.kill(worker.pid, number)

    def _handle_signals(self) -> None:
        for number in self._inbox.drain():
            if self._stop_signal is None:
                self._stop_signal = number
                self._send(number)
                self._steps = deque([(time.monotonic() + TERM_S, signal.SIGKILL)])
            elif number == signal.SIGINT and self._steps and self._steps[0][1] is not None:
                self._steps = deque([(time.monotonic(), signal.SIGKILL)])

    def _reap(self) -> None:
        """Collect every dead child; orphans of workers have become children too."""
        by_pid = {worker.pid: worker for worker in self._alive()}
        failed = []
        with contextlib.suppress(ChildProcessError):
            while found := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                worker = by_pid.get(found.si_pid)
                if worker is not None and (found.si_code != os.CLD_EXITED or found.si_status):
                    failed.append(worker)
                    # Its children hold copies of its sockets: peers see it die only without them.
                    with contextlib.suppress(ProcessLookupError, PermissionError):
                        os.killpg(worker.pid, signal.SIGKILL)
                _, wait_status = os.waitpid(found.si_pid, 0)
                if worker is not None:
                    worker.status = os.waitstatus_to_exitcode(wait_status)
        self._note_failures(failed)

    def _note_failures(self, failed: list[Worker]) -> None:
        if not failed or self._first_failed is not None or self._stop_signal is not None:
            return
        self._first_failed = likely_first(failed)
        now = time.monotonic()
        self._steps = deque(
            [(now + GRACE_S, signal.SIGTERM), (now + GRACE_S + TERM_S, signal.SIGKILL)]
        )

    def _report(self, survivors: list[int]) -> None:
        for line in summary(self._workers, self._first_failed, self._stop_signal):
            self._pump.say(line)
        if survivors:
            self._pump.say(f"processes that could not be killed: {survivors}")

    def _drain(self) -> None:
        """Write out what the workers left; a signal ends the wait for a reader that has stopped."""
        end = time.monotonic() + DRAIN_S
        while self._pump.num_open_streams or self._pump.num_pending_bytes:
            if self._pump.num_pending_bytes and self._stop_signal is None:
                end = time.monotonic() + DRAIN_S
                timeout_s = None
            elif (timeout_s := end - time.monotonic()) <= 0:
                if self._pump.num_pending_bytes or not self._pump.num_open_streams:
                    break  # stopped by a signal, and nobody reads what is left
                self._pump.close()  # a process out of our reach holds a pipe open
                end = time.monotonic() + DRAIN_S
                continue
            if self._wait(timeout_s):
                self._handle_signals()

    def _exit_code(self) -> int:
        if self._first_failed is not None:
            return exit_code_of(self._first_failed.status)
        if self._stop_signal is not None:
            return 128 + self._stop_signal
        return 0 if not self._alive() else 1
