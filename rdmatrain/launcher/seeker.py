"""Looking for the gang's leader: names that do not resolve yet, hosts that are not there yet."""

import random
import socket
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic

from rdmatrain.launcher import exit_codes
from rdmatrain.launcher.contracts import WireHandler
from rdmatrain.launcher.job import Gang
from rdmatrain.launcher.loop import Loop, Timer
from rdmatrain.launcher.member import Member
from rdmatrain.launcher.seat import Seat, choose, listen

FIRST_PAUSE_S, LAST_PAUSE_S = 0.05, 2.0
# How long another program may hold the leader's port: one that ends needs a moment.
PORT_S = 15.0
# A leader whose name leads elsewhere asks there for so long whether somebody leads already.
UNSURE_S = 3.0
MAX_SHOWN = 8


class Resolver:
    """Asks for the addresses of a name, without keeping the loop waiting.

    The system's resolver blocks, for half a minute if its servers do not answer, so it is called in
    a thread; it knows the pod's search domains.
    """

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._reader: socket.socket | None = None

    def resolve(self, name: str, then: Callable[[Sequence[str], str], None]) -> None:
        """Call ``then`` from the loop, with addresses, or none and why there are none."""
        self.close()
        answer: list[tuple[Sequence[str], str]] = []
        reader, writer = socket.socketpair()
        self._reader = reader

        def ask() -> None:
            answer.append(addresses_of(name))
            writer.close()

        def take() -> None:
            self.close()
            then(*answer[0])

        self._loop.watch(reader.fileno(), take)
        threading.Thread(target=ask, name="resolve", daemon=True).start()

    def close(self) -> None:
        """Forget the question. Idempotent."""
        if self._reader is not None:
            self._loop.watch(self._reader.fileno())
            self._reader.close()
            self._reader = None


def addresses_of(name: str) -> tuple[Sequence[str], str]:
    """Return the addresses of a name, the best first, or none and why. Blocks."""
    try:
        found = socket.getaddrinfo(name.strip("[]"), None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        return (), f"the name does not resolve: {why}"
    return tuple(dict.fromkeys(str(entry[4][0]) for entry in found)), ""


@dataclass(frozen=True)
class Network:
    """How launchers connect.

    Attributes:
        dial: makes a channel of a socket that is connecting.
        listen: lets others in through a listening socket; returns how to end that.

    """

    dial: Callable[[socket.socket, WireHandler], object]
    listen: Callable[[socket.socket, WireHandler], Callable[[], None]]


class NetworkSeeker:
    """Finds the leader of a gang of several nodes: this one, or one that it connects to."""

    def __init__(self, loop: Loop, gang: Gang, network: Network) -> None:
        self._loop, self._gang, self._network = loop, gang, network
        self._resolver = Resolver(loop)
        self._timer = Timer(_nothing)
        self._pause_s = FIRST_PAUSE_S
        self._member: Member | None = None
        self._to_try: list[str] = []
        self._elsewhere: Sequence[str] = ()
        self._tried: tuple[str, ...] = ()
        self._last = "it was not tried yet"
        self._since_s = 0.0

    def seek(self, member: Member) -> None:
        """Begin; see :class:`rdmatrain.launcher.member.Seeker`."""
        self._member = member
        self._pause_s, self._since_s = FIRST_PAUSE_S, monotonic()
        self._again()

    def failed(self, reason: str) -> None:
        """Try the next address; after the last one, all over again, ever more rarely."""
        self._last = reason
        self._next()

    def missing(self) -> str:
        """Say who is sought, what was tried, and what came of it."""
        where = f" at {', '.join(self._tried[:MAX_SHOWN])}" if self._tried else ""
        gang = self._gang
        return f"the leader {gang.leader}, port {gang.port}{where}: {self._last}"

    def close(self) -> None:
        """Stop. Idempotent."""
        self._member = None
        self._timer.cancel()
        self._resolver.close()

    def _again(self) -> None:
        self._resolver.resolve(self._gang.leader, self._decide)

    def _later(self) -> None:
        pause_s = self._pause_s * random.uniform(0.8, 1.2)
        self._pause_s = min(1.6 * self._pause_s, LAST_PAUSE_S)
        self._timer = self._loop.later(pause_s, self._again)

    def _decide(self, addresses: Sequence[str], problem: str) -> None:
        self._tried = tuple(addresses)
        if not addresses:
            self._last = problem
            self._later()
            return
        seat = choose(self._gang, addresses)
        if seat.problem or seat.listener is not None:
            self._lead(seat)
        else:
            self._elsewhere, self._to_try = seat.elsewhere, list(addresses)
            self._next()

    def _next(self) -> None:
        if self._member is None:
            return
        if self._to_try:
            self._dial(self._to_try.pop(0), self._member)
        elif self._elsewhere and monotonic() - self._since_s > UNSURE_S:
            self._lead(listen(self._elsewhere, self._gang.port))
        else:
            self._later()

    def _lead(self, seat: Seat) -> None:
        member, listener = self._member, seat.listener
        if listener is None:
            self._cannot_listen(seat.problem)
        elif member is not None:
            member.lead(seat.address, lambda leader: self._network.listen(listener, leader))

    def _cannot_listen(self, problem: str) -> None:
        self._last = problem
        # An earlier launcher of the job may have the port, and goes: another start may help.
        if self._member is not None and monotonic() - self._since_s > PORT_S:
            self._member.give_up("start", problem, exit_codes.GANG_TIMEOUT)
        else:
            self._later()

    def _dial(self, address: str, member: Member) -> None:
        try:
            family, kind, protocol, _, place = socket.getaddrinfo(
                address, self._gang.port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST
            )[0]
            sock = socket.socket(family, kind, protocol)
        except OSError as error:
            self._last = str(error)
            self._timer = self._loop.later(0, self._next)
            return
        sock.setblocking(False)
        # Whatever is wrong with it, the channel finds out.
        with suppress(OSError):
            sock.connect(place)
        self._network.dial(sock, member)


class NoSeeker:
    """The leader of a gang of one node is the node."""

    def seek(self, member: Member) -> None:
        """Lead."""
        member.lead("127.0.0.1")

    def failed(self, reason: str) -> None:
        """Nothing is tried that could fail."""

    def missing(self) -> str:
        """Nobody is missing."""
        return "nobody"

    def close(self) -> None:
        """Nothing is to be stopped."""


def _nothing() -> None:
    """Stand for no timer."""
