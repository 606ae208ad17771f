"""The wire: ``ib_write_bw`` and ``ib_write_lat``, both ends on one RDMA port of this host.

perftest has no ranks that wait: each turn starts a server and a client, which connect, measure and
end; a write is warmed up on its connection, as the core's is. The port and its GID are those that
the core's ranks take first.
"""

import contextlib
import math
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rdmatrain.bench.job import child_setup
from rdmatrain.bench.model import Case
from rdmatrain.bench.orders import pin_if_asked
from rdmatrain.bench.running import ContestantError, Prepared
from rdmatrain.comm import rdma
from rdmatrain.config import load_settings

if TYPE_CHECKING:
    from rdmatrain.bench.contestants import Start

LOOPBACK = "127.0.0.1"
TOOLS = {"write": "ib_write_bw", "pingpong": "ib_write_lat"}
MIN_CALLS = 5  # perftest takes no fewer
ATTEMPTS = 3
MIB = 1 << 20
# What a turn may take, until it is known how long a call takes.
SLOW_S, SLOW_BYTES_PER_S, SLOW_FACTOR = 60.0, 1e6, 20
END_S = 5.0  # from the client's end to the server's
POLL_S = 0.01
LISTENS = "0A"  # a socket's state in /proc/net/tcp
LAST_LINES = 3
# 65536  400  8.32  5.48  0.000088: bytes, calls, peak and average MiB/s, million calls a second.
_BANDWIDTH = re.compile(r"^ *\d+ +\d+ +\S+ +(\S+)\s+\S+\s*$", re.MULTILINE)
_CALL = re.compile(r"^(\d+), (\S+)\s*$", re.MULTILINE)  # 17, 12.79: number and microseconds


class PerftestWire:
    """See ``rdmatrain.bench.running.Running``. Each call of ``write`` counts as their mean.

    Args:
        start: who it is, and which operations it has.
        ranks: of the sweep; perftest has two ends.
        folder: for what the programs write.

    Raises:
        ContestantError: no RDMA port can be used.
        BootstrapError: that which the settings name cannot be used.

    """

    transport = "verbs"
    device = "cpu"
    hosts = 1

    def __init__(self, start: "Start", ranks: int, folder: Path) -> None:
        search = rdma.find_rails(load_settings())
        if not search.rails:
            why_not = f"perftest: no RDMA port can be used: {search.why_not}"
            raise ContestantError(why_not, gone=True)
        self._rail = search.rails[0]
        self._start = start
        self._ranks = ranks
        self._folder = folder
        self._case: Case | None = None
        self._guesses_s: dict[Case, float] = {}

    @property
    def versions(self) -> dict[str, str]:
        """Ask the program."""
        command = [TOOLS["write"], "--version"]
        said = subprocess.run(command, capture_output=True, text=True, timeout=SLOW_S, check=False)
        found = re.search(r"[\d.]+", said.stdout)
        return {"perftest": found[0]} if found else {}

    def why_not(self, case: Case) -> str:
        """Return why it has no such case; "" where it has."""
        if self._ranks != 2:
            return f"perftest has two ends, and there are {self._ranks} ranks"
        return self._start.why_not(case)

    def prepare(self, case: Case, check: bool) -> Prepared:
        """Run it shortly, the first time. It compares no data, whatever is asked."""
        self._case = case
        if case not in self._guesses_s:
            seconds = self._run(case, MIN_CALLS)
            self._guesses_s[case] = sum(seconds) / len(seconds)
        return Prepared(None, self._guesses_s[case])

    def time(self, calls: int, warmup: int) -> list[list[float]]:
        """Run it; the client's clock counts."""
        assert self._case is not None, "prepare comes first"
        if self._case.op == "write":
            # It makes as many warm-up calls as fit into its queue, whatever their number here.
            warm_up = ["--perform_warm_up"] if warmup else []
            return [self._run(self._case, calls, warm_up) * max(calls, MIN_CALLS)]
        return [self._run(self._case, warmup + calls + 1)[-calls:]]

    def drop(self) -> None:
        """Nothing is kept between turns."""

    def close(self) -> None:
        """Nothing runs between turns."""

    def _run(self, case: Case, calls: int, options: Sequence[str] = ()) -> list[float]:
        """Measure; again where perftest could not find out how fast the CPU's clock is."""
        tool = TOOLS[case.op]
        calls = max(calls, MIN_CALLS)
        for _ in range(ATTEMPTS):
            said = self._measure(case, calls, options)
            seconds = write_seconds(said, case.nbytes) if case.op == "write" else ping_seconds(said)
            if not seconds:
                raise ContestantError(f"{tool} ended without a result: {_end(said)}", gone=False)
            if all(0 < each < math.inf for each in seconds):
                return seconds
        raise ContestantError(
            f"{tool} could not time its calls, {ATTEMPTS} times: {_end(said)}: "
            "use fewer ranks, or a machine that does nothing else",
            gone=False,
        )

    def _measure(self, case: Case, calls: int, options: Sequence[str]) -> str:
        """Run both ends once, and return what the client wrote."""
        argv = [TOOLS[case.op], "-d", self._rail.port.device, "-i", str(self._rail.port.number)]
        argv += ["-x", str(self._rail.gid.index), "-F", "-s", str(case.nbytes), "-n", str(calls)]
        argv += [*options]
        argv += ["-U"] if case.op == "pingpong" else []
        port = _free_port()
        argv += ["-p", str(port)]
        guess_s = self._guesses_s.get(case, case.nbytes / SLOW_BYTES_PER_S)
        limit_s = SLOW_S + SLOW_FACTOR * calls * guess_s
        deadline = time.monotonic() + limit_s
        server_out, client_out = self._folder / "server.out", self._folder / "client.out"
        with _program(argv, server_out, 1) as server:
            while server.poll() is None and not _listens(port) and time.monotonic() < deadline:
                time.sleep(POLL_S)
            if server.poll() is not None:
                raise ContestantError(f"{argv[0]}, the server: {_failure(server_out)}", gone=False)
            with _program([*argv, LOOPBACK], client_out, 0) as client:
                try:
                    status = client.wait(max(deadline - time.monotonic(), 0.0))
                except subprocess.TimeoutExpired as late:
                    why = f"{argv[0]} took more than {limit_s:.0f} s: {_failure(client_out)}"
                    raise ContestantError(why, gone=False) from late
            if status != 0:
                raise ContestantError(f"{argv[0]}: {_failure(client_out)}", gone=False)
            with contextlib.suppress(subprocess.TimeoutExpired):
                server.wait(END_S)
        return client_out.read_text(errors="replace")


def write_seconds(said: str, nbytes: int) -> list[float]:
    """Return the seconds of a write, from what ``ib_write_bw`` said; none without a result."""
    rates = [float(row[1]) * MIB for row in _BANDWIDTH.finditer(said)]
    return [nbytes / rate if rate else math.inf for rate in rates]


def ping_seconds(said: str) -> list[float]:
    """Return the seconds of half of each round trip, from what ``ib_write_lat -U`` said.

    They come in order, and may come sorted after that.

    """
    calls = [(int(row[1]), float(row[2])) for row in _CALL.finditer(said)]
    return [us * 1e-6 for place, (number, us) in enumerate(calls, 1) if number == place]


@contextlib.contextmanager
def _program(argv: list[str], out: Path, rank: int) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program in the place of a rank; it is gone at the end."""
    set_up = child_setup(signal.SIGKILL)

    def in_child() -> None:
        set_up()
        pin_if_asked(rank)

    with out.open("wb") as file:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            preexec_fn=in_child,  # noqa: PLW1509 - it only makes system calls
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def _failure(out: Path) -> str:
    """Return how a program explains itself."""
    return _end(out.read_text(errors="replace")) or "it said nothing"


def _end(said: str) -> str:
    lines = [line.strip() for line in said.splitlines()]
    words = [line for line in lines if re.search(r"[A-Za-z]", line)]
    return " | ".join(words[-LAST_LINES:])


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port


def _listens(port: int) -> bool:
    """Tell whether a TCP port is listened on here; perftest does not say when it is."""
    suffix = f":{port:04X}"
    for table in (Path("/proc/net/tcp"), Path("/proc/net/tcp6")):
        with contextlib.suppress(OSError):  # no IPv6
            rows = [line.split() for line in table.read_text().splitlines()[1:]]
            if any(row[1].endswith(suffix) and row[3] == LISTENS for row in rows):
                return True
    return False
