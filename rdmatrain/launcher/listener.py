"""Where members of a gang knock. Strangers cost little, and keep nobody out."""

import errno
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rdmatrain.errors import SettingError
from rdmatrain.launcher.channel import Channel, ChannelHandler
from rdmatrain.launcher.loop import Loop

if TYPE_CHECKING:
    import ssl

MAX_WAITING = 256
BACKLOG = 1024
MAX_TOLD = 32
RETRY_S = 0.1
_ACCEPTS_A_TURN = 16
_NO_ROOM = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
_WHY_NOT = {
    errno.EADDRINUSE: "another program has that port: choose another port",
    errno.EADDRNOTAVAIL: "that is no address of this host: choose one that `ip address` shows",
    errno.EACCES: "this user may not: choose a port from 1024 on",
}


class BindError(SettingError):
    """Nobody can listen there.

    Attributes:
        errno: the kernel's; ``EADDRNOTAVAIL``: it is no address of this host.

    """

    def __init__(self, text: str, errno: int | None) -> None:
        super().__init__(text)
        self.errno = errno


def bind(address: str, port: int, *, anywhere: bool = False) -> socket.socket:
    """Return a non-blocking socket that listens on one address.

    Args:
        address: IPv4 or IPv6, no name.
        port: 0 for one that is free.
        anywhere: it may be the address that stands for all.

    Raises:
        BindError: it cannot; says what to do.

    """
    where = f"cannot listen on {address!r}, port {port}"
    if not 0 <= port <= 65535:
        raise BindError(f"{where}: a port is a number from 0 to 65535", errno.EINVAL)
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(
            address, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST
        )[0]
    except (OSError, ValueError) as error:
        raise BindError(f"{where}: that is no IP address", errno.EINVAL) from error
    if _stands_for_all(family, str(place[0])) and not anywhere:
        raise BindError(
            f"{where}: that stands for every address of this host, and other networks could "
            "reach it: name one address",
            errno.EINVAL,
        )
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(place)
        sock.listen(BACKLOG)  # two may bind to a port, but only one may listen
    except OSError as error:
        sock.close()
        why = _WHY_NOT.get(error.errno or 0, error.strerror)
        raise BindError(f"{where}: {why}", error.errno) from error
    return sock


@dataclass(eq=False)
class Listener:
    """Accepts connections, and hands over the channels of those who have proved the secret.

    The others are bounded: ``max_waiting`` descriptors, a few hundred bytes each, five seconds.
    When more come, one is dropped: the oldest of the host that has the most, so that a flood from
    one host drops its own, and a flood from many drops those that wait longest.

    Attributes:
        loop: who calls.
        sock: as :func:`bind` returns it; the listener's own from now on.
        secret: the job's.
        context: as the channels have it.
        handler_for: returns the handler of a channel that has just opened.
        note: takes a line for the user: who was turned away, once for each host and reason.
        max_waiting: most connections that have not proved the secret.
        tls: gives each channel its own.
        num_refused: how many were turned away.

    """

    loop: Loop
    sock: socket.socket
    secret: bytes = field(repr=False)
    context: str = field(kw_only=True)
    handler_for: Callable[[Channel], ChannelHandler] = field(kw_only=True)
    note: Callable[[str], None] = field(kw_only=True, default=lambda _: None)
    max_waiting: int = field(kw_only=True, default=MAX_WAITING)
    tls: "Callable[[], ssl.SSLContext | None]" = field(kw_only=True, default=lambda: None)
    num_refused: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self._host_of: dict[Channel, str] = {}
        self._waiting: dict[str, dict[Channel, None]] = {}  # by host, in order of age
        self._told: set[tuple[str, str]] = set()
        self._closed = False
        self.sock.setblocking(False)
        self.sock.listen(BACKLOG)
        self.loop.watch(self.sock.fileno(), self._accept)

    @property
    def num_waiting(self) -> int:
        """How many have not proved the secret yet."""
        return len(self._host_of)

    def close(self) -> None:
        """Listen no more, and drop who has not proved the secret. Idempotent."""
        if self._closed:
            return
        self._closed = True
        self.loop.watch(self.sock.fileno())
        self.sock.close()
        for channel in list(self._host_of):
            channel.abort("the listener closed")

    def on_open(self, channel: Channel) -> None:
        """Hand over a channel."""
        self._forget(channel)
        channel.handler = self.handler_for(channel)
        channel.handler.on_open(channel)

    def on_message(self, channel: Channel, kind: int, payload: bytes) -> None:
        """Have nothing to do: who has proved the secret has another handler."""

    def on_close(self, channel: Channel, reason: str) -> None:
        """Count who was turned away, and tell the user of the first ones."""
        host = self._forget(channel)
        self.num_refused += 1
        if not self._closed:
            self._tell(host, f"{channel.peer or host} was turned away: {reason}", reason)

    def _accept(self) -> None:
        for number in range(_ACCEPTS_A_TURN):
            try:
                sock, address = self.sock.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno not in _NO_ROOM:
                    continue  # the connection failed before it was accepted
                # The kernel says so even if nobody is there: only at first somebody must be.
                if number == 0:
                    self._rest(error)
                return
            if self.num_waiting >= self.max_waiting:
                self._drop_one()
            self._admit(sock, address[0] if isinstance(address, tuple) else "")

    def _admit(self, sock: socket.socket, host: str) -> None:
        channel = Channel(
            self.loop,
            sock,
            self.secret,
            dialed=False,
            context=self.context,
            handler=self,
            tls=self.tls(),
        )
        self._host_of[channel] = host
        self._waiting.setdefault(host, {})[channel] = None

    def _forget(self, channel: Channel) -> str:
        host = self._host_of.pop(channel)
        crowd = self._waiting[host]
        del crowd[channel]
        if not crowd:
            del self._waiting[host]
        return host

    def _drop_one(self) -> None:
        crowd = max(self._waiting.values(), key=len)
        next(iter(crowd)).abort("too many connections wait to prove the secret")

    def _rest(self, error: OSError) -> None:
        """Accept nobody for a moment: the process has no descriptors or memory left."""
        if self._waiting:
            self._drop_one()
        why = os.strerror(error.errno or 0)
        self._tell("", f"nobody can join at the moment: {why}; is `ulimit -n` too low?", why)
        self.loop.watch(self.sock.fileno())
        self.loop.later(RETRY_S, self._accept_again)

    def _accept_again(self) -> None:
        if not self._closed:
            self.loop.watch(self.sock.fileno(), self._accept)

    def _tell(self, host: str, text: str, reason: str) -> None:
        if len(self._told) < MAX_TOLD and (host, reason) not in self._told:
            self._told.add((host, reason))
            self.note(text)


def _stands_for_all(family: int, address: str) -> bool:
    packed = socket.inet_pton(family, address.partition("%")[0])
    return not any(packed.removeprefix(bytes(10) + b"\xff\xff"))
