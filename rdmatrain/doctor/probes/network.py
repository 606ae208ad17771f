"""Probes of the network: names, the place where the nodes meet, loopback, and the clock."""

import ctypes
import errno
import os
import re
import select
import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from importlib import import_module
from pathlib import Path
from time import monotonic
from typing import Any

from rdmatrain.config import inherited_environment
from rdmatrain.discovery.deadline import LATE, in_time
from rdmatrain.discovery.orchestrator import whoami
from rdmatrain.discovery.pod import read_pod
from rdmatrain.discovery.source import Tree
from rdmatrain.doctor.meeting import Meeting, meeting
from rdmatrain.doctor.model import Needs
from rdmatrain.launcher.job import Gang
from rdmatrain.launcher.listener import BindError, bind
from rdmatrain.launcher.proof import MAGIC
from rdmatrain.launcher.seat import choose, is_own
from rdmatrain.launcher.seeker import addresses_of

NAMES_S, LEADER_S, SERVERS_S, DIAL_S, HELLO_S = 0.3, 0.5, 0.2, 0.25, 0.1
MAX_ADDRESSES = 8
# States of a socket in /proc/net/tcp.
_LISTENS = "0A"
# A question for the name servers of the root, which each server answers, if only by refusing.
_DNS_QUESTION = b"\x72\x64\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00" + b"\x00\x00\x02\x00\x01"
# Of linux/timex.h.
_STA_UNSYNC = 0x40
_SERVER = re.compile(r"^\s*nameserver\s+(\S+)", re.MULTILINE)


def probes(needs: Needs) -> Mapping[str, Callable[[], Any]]:
    """Return them, by name: ``names``, ``leader``, ``loopback``, ``clock``, ``cluster``."""
    return {
        "names": ask_names,
        "leader": lambda: ask_leader(meeting_here(needs)),
        "loopback": ask_loopback,
        "clock": ask_clock,
        "cluster": lambda: ask_cluster(inherited_environment()),
    }


def ask_names() -> dict[str, Any]:
    """Return what this host's own name resolves to, and ``localhost``.

    Returns:
        ``hostname``, and for it and ``localhost``: ``addresses``, ``own`` for those that are this
        host's, and ``problem``.

    """
    name = socket.gethostname()
    return {"hostname": name, "own_name": _lookup(name), "localhost": _lookup("localhost")}


def ask_leader(place: Meeting) -> dict[str, Any]:
    """Return whether node 0 can be found, and whether this node could lead, or reach who leads.

    Returns:
        ``name``, ``port``, ``addresses``, ``own``, ``problem``; where the name does not resolve,
        ``service`` and what that resolves to, and ``servers``: which of them answer; otherwise
        ``listen`` of who leads: ``address``, ``problem`` and ``holder``; or else ``dial``: for each
        address, an errno's name, empty for a connection, and ``hello``: who answers.

    """
    facts: dict[str, Any] = {"name": place.leader, "port": place.port}
    if place.problem:
        return facts | {"error": place.problem}
    if place.alone:
        return facts | ({"listen": _listen_alone(place.port)} if place.port else {})
    facts |= _lookup(place.leader, LEADER_S)
    if not facts["addresses"]:
        return facts | _why_unresolved(place.leader, late=facts["late"])
    gang = Gang(
        min_nodes=2, max_nodes=2, node_rank=place.node_rank, leader=place.leader, port=place.port
    )
    return facts | _try(gang, facts["addresses"], leads=bool(facts["own"]))


def ask_loopback() -> dict[str, Any]:
    """Return whether two sockets of this host can talk over 127.0.0.1: ``error``."""
    try:
        with ExitStack() as opened:
            listener = opened.enter_context(socket.create_server(("127.0.0.1", 0)))
            listener.settimeout(HELLO_S)
            caller = opened.enter_context(
                socket.create_connection(listener.getsockname(), timeout=HELLO_S)
            )
            answerer = opened.enter_context(listener.accept()[0])
            answerer.sendall(b"r")
            said = caller.recv(1)
    except OSError as error:
        return {"error": str(error)}
    return {"error": "" if said == b"r" else "what was sent did not come"}


def ask_clock() -> dict[str, Any]:
    """Return whether the kernel's clock is kept right: ``synchronized``, ``max_error_s``."""

    class Timex(ctypes.Structure):  # its beginning; the kernel fills in 208 bytes
        _fields_ = (
            ("modes", ctypes.c_uint),
            ("offset", ctypes.c_long),
            ("freq", ctypes.c_long),
            ("maxerror", ctypes.c_long),
            ("esterror", ctypes.c_long),
            ("status", ctypes.c_int),
            ("rest", ctypes.c_char * 256),
        )

    timex = Timex()
    try:
        adjtimex = ctypes.CDLL(None, use_errno=True).adjtimex
    except (OSError, AttributeError) as error:
        return {"error": str(error)}
    if adjtimex(ctypes.byref(timex)) < 0:
        return {"error": f"adjtimex: {os.strerror(ctypes.get_errno())}"}
    synchronized = not timex.status & _STA_UNSYNC
    return {"error": "", "synchronized": synchronized, "max_error_s": timex.maxerror / 1e6}


def ask_cluster(environ: Mapping[str, str]) -> dict[str, Any]:
    """Return what the cluster's clock says, see :mod:`rdmatrain.doctor.probes.cluster`."""
    if not environ.get("KUBERNETES_SERVICE_HOST"):
        return {"error": "this is no pod of a cluster"}
    # HTTP takes longer to import than most probes take.
    asked: dict[str, Any] = import_module("rdmatrain.doctor.probes.cluster").ask_clock(environ)
    return asked


def meeting_here(needs: Needs) -> Meeting:
    """Return where the nodes of this pod's job meet."""
    source = Tree()
    pod = read_pod(source)
    return meeting(pod, whoami(source, pod), needs)


def holder(port: int, root: Path = Path("/proc")) -> str:
    """Say which process has a TCP port, or else which user; empty if nobody is seen to have it.

    Args:
        port: which.
        root: where procfs is.

    """
    rows = [*_rows(root / "net/tcp", port), *_rows(root / "net/tcp6", port)]
    rows.sort(key=lambda row: row[0] != _LISTENS)
    for inode in [inode for _, _, inode in rows if inode != "0"][:MAX_ADDRESSES]:
        for process in root.glob("[0-9]*"):
            if _has_socket(process, inode):
                return f"process {process.name}: {_command(process)}"
    return next((f"a process of user {uid}, not of this container" for _, uid, _ in rows), "")


def _lookup(name: str, seconds: float = NAMES_S) -> dict[str, Any]:
    found: list[tuple[Sequence[str], str]] = []
    problem = in_time(seconds, lambda: found.append(addresses_of(name)))
    if problem:
        late = problem.startswith(LATE)
        return {"addresses": [], "own": [], "problem": problem, "late": late}
    addresses, problem = found[0]
    shown = list(addresses[:MAX_ADDRESSES])
    own = [each for each in shown if is_own(each)]
    return {"addresses": shown, "own": own, "problem": problem, "late": False}


def _why_unresolved(name: str, *, late: bool) -> dict[str, Any]:
    """Ask for what a name of a pod in Kubernetes ends with, and whether the servers live."""
    service = name.partition(".")[2]
    above = _lookup(service, SERVERS_S) if service and not late else {}
    return {
        "service": service,
        "service_addresses": above.get("addresses", []),
        "service_problem": above.get("problem", ""),
        "servers": _ask_servers(),
    }


def _ask_servers() -> dict[str, str]:
    """Return for each name server of /etc/resolv.conf why it does not answer, or nothing."""
    found = _SERVER.findall(Tree().text("/etc/resolv.conf") or "")
    deadline = monotonic() + SERVERS_S
    with ExitStack() as opened:
        asked = {server: _ask_server(server, opened) for server in dict.fromkeys(found[:3])}
        return {
            server: sock if isinstance(sock, str) else _answer(sock, deadline)
            for server, sock in asked.items()
        }


def _ask_server(server: str, opened: ExitStack) -> socket.socket | str:
    try:
        family, kind, _, _, place = socket.getaddrinfo(
            server, 53, type=socket.SOCK_DGRAM, flags=socket.AI_NUMERICHOST
        )[0]
        sock = opened.enter_context(socket.socket(family, kind))
        sock.connect(place)
        sock.send(_DNS_QUESTION)
    except OSError as error:
        return error.strerror or str(error)
    return sock


def _answer(sock: socket.socket, deadline: float) -> str:
    sock.settimeout(max(0.01, deadline - monotonic()))
    try:
        sock.recv(512)
    except TimeoutError:
        return "no answer"
    except OSError as error:
        return error.strerror or str(error)
    return ""


def _try(gang: Gang, addresses: Sequence[str], *, leads: bool) -> dict[str, Any]:
    """Take the launcher's own seat, for a moment; or call who has it."""
    seat = choose(gang, addresses)
    if seat.listener is not None:
        seat.listener.close()
        return {"listen": {"address": seat.address, "problem": "", "holder": ""}}
    if seat.problem:
        return {"listen": {"problem": seat.problem, "holder": holder(gang.port)}}
    if seat.elsewhere:
        return {"listen": {"problem": "", "elsewhere": list(seat.elsewhere)}}
    return _dial(addresses, gang.port) | {"shared": leads}


def _listen_alone(port: int) -> dict[str, Any]:
    """Try the port of a job of one node, whose store is on loopback."""
    try:
        bind("127.0.0.1", port).close()
    except BindError as error:
        return {"problem": str(error), "holder": holder(port)}
    return {"address": "127.0.0.1", "problem": "", "holder": ""}


def _dial(addresses: Sequence[str], port: int) -> dict[str, Any]:
    dial: dict[str, str] = {}
    hello = ""
    with ExitStack() as opened:
        waiting = {}
        for address in addresses:
            sock = _connect(address, port, opened)
            if isinstance(sock, str):
                dial[address] = sock
            else:
                waiting[sock] = address
        for sock, name in _outcomes(waiting):
            dial[waiting[sock]] = name
            hello = hello or ("" if name else _hello(sock))
    return {"dial": dial, "hello": hello}


def _connect(address: str, port: int, opened: ExitStack) -> socket.socket | str:
    try:
        family, kind, _, _, place = socket.getaddrinfo(
            address, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST
        )[0]
        sock = opened.enter_context(socket.socket(family, kind))
        sock.setblocking(False)
        with suppress(BlockingIOError):
            sock.connect(place)
    except OSError as error:
        return _name(error.errno)
    return sock


def _outcomes(waiting: Iterable[socket.socket]) -> Iterable[tuple[socket.socket, str]]:
    """Yield each socket with its error, as soon as that is known, or when time is over."""
    left, deadline = set(waiting), monotonic() + DIAL_S
    while left:
        _, ready, _ = select.select([], left, [], max(0.0, deadline - monotonic()))
        if not ready:
            break
        for sock in ready:
            left.discard(sock)
            yield sock, _name(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))
    for sock in left:
        yield sock, "ETIMEDOUT"


def _hello(sock: socket.socket) -> str:
    """Return who answers: a launcher says so at once, unless it has TLS."""
    sock.settimeout(HELLO_S)
    try:
        said = sock.recv(len(MAGIC))
    except OSError:
        return "silent"
    if not said:
        return "closed"
    return "rdmatrain" if said == MAGIC else "another program"


def _name(number: int | None) -> str:
    return errno.errorcode.get(number, str(number)) if number else ""


def _rows(path: Path, port: int) -> list[tuple[str, str, str]]:
    """Return state, user and inode of the sockets that have a port."""
    try:
        rows = [line.split() for line in path.read_text("ascii").splitlines()[1:]]
    except (OSError, ValueError):
        return []
    suffix = f":{port:04X}"
    return [(row[3], row[7], row[9]) for row in rows if len(row) > 9 and row[1].endswith(suffix)]


def _has_socket(process: Path, inode: str) -> bool:
    wanted = f"socket:[{inode}]"
    with suppress(OSError):
        for fd in (process / "fd").iterdir():
            with suppress(OSError):
                if str(fd.readlink()) == wanted:
                    return True
    return False


def _command(process: Path) -> str:
    """Return a process's program, and the script of Python: the rest may have secrets."""
    try:
        words = (process / "cmdline").read_bytes().decode("utf-8", "replace").split("\0")
    except OSError:
        return "?"
    if not Path(words[0]).name.startswith("python"):
        return words[0] or "?"
    script = next((each for each in words[1:] if not each.startswith("-")), "")
    return f"{words[0]} {script}".strip()
