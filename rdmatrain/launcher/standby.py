"""Workers that wait for a restart with their imports done, so that a round begins at once.

``import torch`` takes longer than all else between a fault and the first collective after it. So
where restarts are allowed, each running worker has a successor: an interpreter that has imported
what was asked for and waits on a socket. It is told its environment, gets its output's descriptors,
and is a worker like any other from then on: same process group rules, same command line arguments,
``__main__`` run by ``runpy``.
"""

import contextlib
import json
import os
import runpy
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from rdmatrain import config
from rdmatrain.launcher import process
from rdmatrain.launcher.job import Program
from rdmatrain.launcher.loop import Loop, Timer
from rdmatrain.launcher.start import Start, spawn
from rdmatrain.launcher.watch.beat import start as start_beats

MAX_BYTES = 1 << 22
# How long after a round has begun; the imports of its own workers are over then, as a rule.
AFTER_S = 5.0
# Known only when the worker starts, and read when torch is imported.
LATE = ("RDMATRAIN_WATCH", config.METRICS)


class Standby:
    """A successor of one worker.

    Args:
        start: how the worker is started that it may succeed: it imports with its environment, on
            its CPUs.
        modules: what it imports.
        enter: called in its process before it becomes an interpreter.

    Raises:
        OSError: it could not be started.

    """

    def __init__(
        self,
        start: Start,
        modules: Sequence[str],
        enter: Callable[[], None] | None = None,
    ) -> None:
        ours, theirs = socket.socketpair()
        with theirs, Path(os.devnull).open("r+b") as null, contextlib.ExitStack() as failed:
            failed.callback(ours.close)
            early = {k: value for k, value in start.environment.items() if k not in LATE}
            fd = theirs.fileno()
            self.pid = spawn(
                [start.program.python, "-u", "-m", __name__, str(fd), ",".join(modules)],
                early,
                (null.fileno(), null.fileno()),
                process.child_setup(start.cpus, enter),
                [fd],
            )
            failed.pop_all()
        self._socket = ours

    def begin(self, start: Start) -> None:
        """Make it a worker.

        Raises:
            OSError: it has died, or is stuck: start another.

        """
        order = {
            "script": start.program.script,
            "args": list(start.program.args),
            "module": start.program.module,
            "environment": dict(start.environment),
        }
        # Both the launcher and Python give names and arguments that are not UTF-8 as surrogates.
        data = json.dumps(order).encode()
        self._socket.settimeout(1.0)
        with self._socket:
            fds = [start.stdout, start.stderr]
            socket.send_fds(self._socket, [len(data).to_bytes(4, "big")], fds)
            self._socket.sendall(data)

    def kill(self) -> None:
        """End it, if it has not become a worker."""
        self._socket.close()
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)


class Reserve:
    """A standby for each worker of this node.

    Args:
        loop: the launcher's.
        modules: what they import; none, and there is no standby.
        enter: called in each one's process before it becomes an interpreter.

    """

    def __init__(
        self,
        loop: Loop,
        modules: Sequence[str],
        enter: Callable[[], None] | None = None,
    ) -> None:
        self._loop = loop
        self._modules = tuple(modules)
        self._enter = enter
        self._standbys: dict[int, Standby] = {}
        self._timer: Timer | None = None

    @property
    def pids(self) -> list[int]:
        """Process ids of those that are no workers yet."""
        return [standby.pid for standby in self._standbys.values()]

    def prepare(self, starts: Sequence[Start]) -> None:
        """Start one for each worker, a while from now: the workers that start come first."""
        self._cancel()
        if self._modules:
            wanted = [start for start in starts if _can_wait(start.program)]
            self._timer = self._loop.later(AFTER_S, lambda: self._fill(wanted))

    def take(self, local_rank: int) -> Standby | None:
        """Return the one of a local rank, for the caller to keep; None if there is none."""
        self._cancel()
        return self._standbys.pop(local_rank, None)

    def close(self) -> None:
        """End them all."""
        self._cancel()
        while self._standbys:
            self._standbys.popitem()[1].kill()

    def _fill(self, starts: Sequence[Start]) -> None:
        for start in starts:
            if start.local_rank not in self._standbys:
                # Without one a restart takes longer, and is the same otherwise.
                with contextlib.suppress(OSError):
                    self._standbys[start.local_rank] = Standby(start, self._modules, self._enter)

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _can_wait(program: Program) -> bool:
    """Whether it is Python code that is run as ``python script`` does."""
    return not program.no_python and not program.run_path


def wait_and_run(order_fd: int, modules: Sequence[str]) -> None:
    """Be a standby: import, wait for the order, run it as ``python script`` would."""
    for name in modules:
        with contextlib.suppress(Exception):  # the program meets it too, where it can be read
            import_module(name)
    order = _receive(socket.socket(fileno=order_fd))
    config.replace_environment(order["environment"])
    if page := config.watch_page():  # the import of torch found none
        with contextlib.suppress(OSError):  # the launcher misses something, not the program
            start_beats(page)
    sys.argv = [order["script"], *order["args"]]
    script = order["script"] if order["module"] else str(Path(order["script"]).absolute())
    if not getattr(sys.flags, "safe_path", False):  # PYTHONSAFEPATH, since Python 3.11
        sys.path[0] = str(Path.cwd() if order["module"] else Path(script).resolve().parent)
    if order["module"]:
        runpy.run_module(script, run_name="__main__", alter_sys=True)
    else:
        # Absolute, as Python makes it: the program may change its folder.
        runpy.run_path(script, run_name="__main__")


def _receive(source: socket.socket) -> dict[str, Any]:
    """Wait for the order and make its descriptors stdout and stderr; end if nobody sends one."""
    with source:
        size, fds, _, _ = socket.recv_fds(source, 4, 2)
        if len(size) < 4:
            sys.exit(0)
        for number, fd in zip((1, 2), fds, strict=True):
            os.dup2(fd, number)
            os.close(fd)
        data = b""
        while len(data) < int.from_bytes(size, "big"):
            if not (more := source.recv(MAX_BYTES)):
                sys.exit(0)
            data += more
    order: dict[str, Any] = json.loads(data)
    return order


if __name__ == "__main__":
    wait_and_run(int(sys.argv[1]), [name for name in sys.argv[2].split(",") if name])
