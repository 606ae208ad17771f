"""Agents: processes of a launcher's ranks that start those of a contestant when rank 0 says so."""

import contextlib
import hmac
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from secrets import token_hex
from typing import Any

from rdmatrain.bench.job import child_setup
from rdmatrain.bench.orders import INHERITED, SOCKET_VARIABLE, Line
from rdmatrain.comm.host import host_id, route_from
from rdmatrain.config import inherited_environment, load_settings
from rdmatrain.errors import BootstrapError

MEET_S = 120.0  # until all have come: they import torch first
HEAR_S = 10.0
END_S = 5.0
MAX_LINE_BYTES = 1 << 16
POLL_MS = 500
HUNG_UP = select.POLLRDHUP | select.POLLHUP | select.POLLERR


@dataclass(frozen=True)
class Place:
    """Which of the ranks that were started this process is.

    Attributes:
        rank: of ``ranks``.
        ranks: how many there are.
        on_host: how many of them are on this host; all, where nothing says.
        launcher: who started them, for texts.
        addr: where the store is, on the host of rank 0.
        port: of the store.
        hosted: the launcher has the store, not rank 0.
        job: tells this start from an earlier one of the same job.

    """

    rank: int
    ranks: int
    on_host: int
    launcher: str
    addr: str
    port: int
    hosted: bool
    job: str


@dataclass(frozen=True)
class Agent:
    """Where a rank's process listens.

    Attributes:
        addr: of its listener.
        port: of its listener.
        host: what ranks that share memory have in common.
        name: of the host.
        token: that who connects must know.

    """

    addr: str
    port: int
    host: str
    name: str
    token: str


def serve(here: Place) -> int:
    """Be an agent: start ranks until rank 0 lets go.

    Returns:
        Exit code.

    Raises:
        BootstrapError: rank 0 did not come.

    """
    with socket.create_server(("", 0)) as listener:
        store = open_store(here)
        agent = Agent(
            addr=own_address(here),
            port=listener.getsockname()[1],
            host=host_id(),
            name=socket.gethostname(),
            token=token_hex(16),
        )
        store.set(_key(here, here.rank), json.dumps(asdict(agent)))
        _Agent(listener, agent.token).run()
    return 0


class _Agent:
    """The ranks that an agent has started, each with the connection that it ends with."""

    def __init__(self, listener: socket.socket, token: str) -> None:
        self._listener = listener
        self._token = token
        self._hold: socket.socket | None = None
        self._ranks: dict[int, tuple[socket.socket, subprocess.Popen[bytes]]] = {}
        self._poll = select.poll()
        self._poll.register(listener, select.POLLIN)

    def run(self) -> None:
        """Serve until rank 0 hangs up."""
        deadline = time.monotonic() + MEET_S
        try:
            while self._hold is not None or time.monotonic() < deadline:
                if not all(map(self._heed, [number for number, _ in self._poll.poll(POLL_MS)])):
                    return
                ended = [n for n, (_, each) in self._ranks.items() if each.poll() is not None]
                for number in ended:
                    self._end(number)
            raise BootstrapError(f"rank 0 did not come within {MEET_S:.0f} s")
        finally:
            self._close()

    def _close(self) -> None:
        for number in list(self._ranks):
            self._end(number)
        if self._hold is not None:
            self._hold.close()

    def _heed(self, number: int) -> bool:
        """See to a descriptor; return whether rank 0 still holds this agent."""
        if number == self._listener.fileno():
            self._welcome(self._listener.accept()[0])
        elif number in self._ranks:
            self._end(number)
        else:
            return False
        return True

    def _welcome(self, sock: socket.socket) -> None:
        """Do what a caller who knows the token says."""
        order: Any = None
        with contextlib.suppress(OSError, ValueError):
            order = first_line(sock, HEAR_S)
        said = str(order.get("token", "")) if isinstance(order, dict) else ""
        if not hmac.compare_digest(said.encode(), self._token.encode()):
            sock.close()
            return
        sock.settimeout(None)
        if order["do"] == "hold":
            _keep_alive(sock)
            self._hold = sock
        else:
            self._start(sock, order["argv"], order["env"])
        self._poll.register(sock, HUNG_UP)

    def _start(self, sock: socket.socket, argv: list[str], env: dict[str, str]) -> None:
        inherited = {SOCKET_VARIABLE: f"{INHERITED}{sock.fileno()}"}
        process = subprocess.Popen(
            [sys.executable, *argv],
            env={**inherited_environment(), **env, **inherited},
            stdin=subprocess.DEVNULL,
            stdout=sys.stderr,  # for the launcher to show, apart from the table
            pass_fds=[sock.fileno()],
            preexec_fn=child_setup(signal.SIGKILL),  # noqa: PLW1509 - no other thread forks
        )
        self._ranks[sock.fileno()] = sock, process

    def _end(self, number: int) -> None:
        """End a rank that has ended, or that nobody gives orders to any more."""
        self._poll.unregister(number)
        sock, process = self._ranks.pop(number)
        try:
            process.wait(END_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        sock.close()


def call(rank: int, agent: Agent, order: Mapping[str, Any]) -> socket.socket:
    """Connect to an agent and give it an order."""
    try:
        sock = socket.create_connection((agent.addr, agent.port), HEAR_S)
        Line(sock).say({**order, "token": agent.token})
    except OSError as error:
        where = f"rank {rank} on {agent.name}, at {agent.addr}:{agent.port}"
        raise BootstrapError(f"{where}, is out of reach: {error}") from error
    sock.settimeout(None)
    return sock


def first_line(sock: socket.socket, within_s: float) -> Any:
    """Read a line of JSON and no more: what follows is for the rank that is started."""
    deadline = time.monotonic() + within_s
    line = b""
    while not line.endswith(b"\n"):
        sock.settimeout(max(deadline - time.monotonic(), 0.001))
        byte = sock.recv(1)
        if not byte or len(line) == MAX_LINE_BYTES:
            return None
        line += byte
    return json.loads(line)


def _keep_alive(sock: socket.socket) -> None:
    """Notice within half a minute that a host is gone."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (("TCP_KEEPIDLE", 15), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3)):
        sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)


def own_address(here: Place) -> str:
    """Return where others reach this host; under rdmatrain run, MASTER_ADDR is a door here."""
    return load_settings().addr or route_from(here.addr) or here.addr


def _key(here: Place, rank: int) -> str:
    return f"rdmatrain/bench/{here.job}/{rank}"


def open_store(here: Place) -> Any:
    """Connect to the store that all have in common; rank 0 makes it where no launcher has.

    Raises:
        BootstrapError: it cannot be reached, or made.

    """
    from datetime import timedelta  # noqa: PLC0415

    import torch.distributed as dist  # noqa: PLC0415 - takes seconds

    try:
        return dist.TCPStore(
            here.addr,
            here.port,
            is_master=here.rank == 0 and not here.hosted,
            wait_for_workers=False,
            timeout=timedelta(seconds=MEET_S),
        )
    except RuntimeError as error:
        text = str(error).partition("\n")[0]
        raise BootstrapError(f"the store at {here.addr}:{here.port}: {text}") from error


def find(here: Place, store: Any, rank: int) -> Agent:
    """Return what an agent has left in the store.

    Raises:
        BootstrapError: it did not come.

    """
    try:
        return Agent(**json.loads(store.get(_key(here, rank))))
    except RuntimeError as error:
        text = str(error).partition("\n")[0]
        name = f"rank {rank} of {here.ranks}"
        raise BootstrapError(f"{name} did not come within {MEET_S:.0f} s: {text}") from error
