"""``--metrics-port``: what Prometheus is told of this node, by a process beside the launcher.

The launcher says who its workers are, in a file; each worker says in a file what it counts; the
server reads the files when it is asked. So whoever asks takes no time of the launcher's loop.
"""

import contextlib
import importlib.util
import os
import signal
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from rdmatrain import __version__, config
from rdmatrain.errors import SettingError
from rdmatrain.launcher import process
from rdmatrain.launcher.job import Job
from rdmatrain.launcher.messages import RankState
from rdmatrain.launcher.start import spawn
from rdmatrain.metrics.node import NODE_FILE
from rdmatrain.metrics.tally import Tally

SERVER = "rdmatrain.metrics.server"
_BACKLOG = 16
# Nothing is sent to these: they are only asked for the way out. Reserved for documentation.
_ELSEWHERE = ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1"))


class Scrape:
    """What a node tells of itself while its job runs.

    Args:
        job: has the port, 0 for nobody is told anything.
        folder: the launcher's private folder.
        enter: called in the server's process before it becomes its program.

    Raises:
        SettingError: prometheus-client is not installed, or the address cannot be had.

    """

    def __init__(self, job: Job, folder: Path, enter: Callable[[], None] | None = None) -> None:
        self._folder = folder / "metrics"
        self._job = job
        self._serial = 0
        self._names: dict[int, str] = {}  # of the workers' files, by local rank
        self._ranks: dict[str, int] = {}  # of all rounds
        self._now: dict[str, tuple[int, int]] = {}
        self._rounds = 0
        self.pid = 0
        if job.metrics.port:
            _require_library(job.metrics.port)
            self._folder.mkdir(mode=0o700)
            with listen(job.metrics.addr, job.metrics.port) as listener:
                self._write(())
                self.pid = self._serve(listener, enter)

    def environment(self, local_rank: int) -> dict[str, str]:
        """Return what a worker that is about to start must find in its environment."""
        if not self.pid:
            return {}
        self._serial += 1
        self._names[local_rank] = f"{self._serial}-{local_rank}.json"
        return {config.METRICS: str(self._folder / self._names[local_rank])}

    def begin(self, workers: Mapping[int, tuple[int, int]]) -> None:
        """Say who has started: rank and process id, by local rank."""
        if self.pid:
            self._rounds += 1
            self._now = {self._names[local]: found for local, found in workers.items()}
            # What the server has taken in is gone; its ranks need not be told any longer.
            kept = {n: r for n, r in self._ranks.items() if (self._folder / n).exists()}
            self._ranks = kept | {name: rank for name, (rank, _) in self._now.items()}
            self._write(())

    def observe(self, states: Sequence[RankState]) -> None:
        """Say how the workers are."""
        if self.pid:
            self._write(states)

    def close(self) -> None:
        """End the server."""
        if self.pid:
            # Who has been reaped already is no child any more; its id may be another's.
            with contextlib.suppress(ChildProcessError):
                if os.waitpid(self.pid, os.WNOHANG) == (0, 0):
                    os.kill(self.pid, signal.SIGKILL)
                    os.waitpid(self.pid, 0)
            self.pid = 0

    def _serve(self, listener: socket.socket, enter: Callable[[], None] | None) -> int:
        command = [sys.executable, "-m", SERVER, str(listener.fileno()), str(self._folder)]
        in_child = process.child_setup(first=enter)
        return spawn(command, config.inherited_environment(), (1, 2), in_child, [listener.fileno()])

    def _write(self, states: Sequence[RankState]) -> None:
        tally = Tally()
        tally.set("rdmatrain_job_info", 1, self._job.gang.run_id[:100], __version__)
        tally.set("rdmatrain_restarts_total", max(self._rounds - 1, 0))
        tally.set("rdmatrain_workers_expected", self._job.nproc)
        for state in states:
            rank = str(state.rank)
            tally.set("rdmatrain_rank_waiting_seconds", state.waiting_s or 0.0, rank)
            tally.set("rdmatrain_rank_idle_seconds", state.idle_s, rank)
        with contextlib.suppress(OSError):  # Prometheus misses something, not the job
            tally.write(self._folder / NODE_FILE, now=self._now, ranks=self._ranks)


def own_address() -> str:
    """Return the address of this host that the way elsewhere leaves from: a pod's own one.

    Loopback where there is no way.
    """
    for family, target in _ELSEWHERE:
        with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((target, 9))
            return str(probe.getsockname()[0])
    return "127.0.0.1"


def listen(addr: str, port: int) -> socket.socket:
    """Return a socket that listens for scrapes.

    Raises:
        SettingError: the address is not of this host, or the port is in use.

    """
    host = addr or own_address()
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as error:
        raise SettingError(
            f"--metrics-addr {host} cannot be resolved: {error.strerror}: give an address of this "
            "host, or leave it out"
        ) from error
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        sock.listen(_BACKLOG)
    except OSError as error:
        sock.close()
        raise SettingError(
            f"--metrics-port {port} cannot be served on {host}: {error.strerror}: give another "
            "port, or --metrics-addr with an address of this host"
        ) from error
    return sock


def _require_library(port: int) -> None:
    if importlib.util.find_spec("prometheus_client") is None:
        raise SettingError(
            f"--metrics-port {port} needs prometheus-client, which is not installed: "
            "pip install 'rdmatrain[metrics]', or leave the option out"
        )
