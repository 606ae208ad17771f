# SPDX-License-Identifier: Apache-2.0
"""Two channels in one loop, and whoever is between them."""

import contextlib
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from rdmatrain.launcher.channel import Channel
from rdmatrain.launcher.loop import Loop

SECRET = b"a secret of sixteen bytes or more"
PATIENCE_S = 10.0


@dataclass
class Heard:
    """A handler that remembers."""

    opened: int = 0
    messages: list[tuple[int, bytes]] = field(default_factory=list)
    closed: list[str] = field(default_factory=list)

    def on_open(self, channel: Channel) -> None:
        assert not self.messages
        assert not self.closed
        self.opened += 1

    def on_message(self, channel: Channel, kind: int, payload: bytes) -> None:
        assert self.opened == 1
        assert not self.closed
        self.messages.append((kind, payload))

    def on_close(self, channel: Channel, reason: str) -> None:
        self.closed.append(reason)


def run_until(loop: Loop, done: Callable[[], bool], patience_s: float = PATIENCE_S) -> None:
    """Run the loop; fail when it takes too long."""
    late: list[bool] = []
    timer = loop.later(patience_s, lambda: late.append(True))
    loop.run(lambda: done() or bool(late))
    timer.cancel()
    assert not late, "it did not happen in time"


def run_for(loop: Loop, seconds: float) -> None:
    over: list[bool] = []
    loop.later(seconds, lambda: over.append(True))
    loop.run(lambda: bool(over))


@dataclass
class Two:
    """A dialer and a listener."""

    loop: Loop
    dialer: Channel
    listener: Channel
    by_dialer: Heard
    by_listener: Heard

    def open(self) -> None:
        run_until(self.loop, lambda: self.dialer.is_open and self.listener.is_open)

    def end(self) -> None:
        run_until(self.loop, lambda: bool(self.by_dialer.closed and self.by_listener.closed))


def make(
    loop: Loop,
    socks: tuple[socket.socket, socket.socket] | None = None,
    secrets: tuple[bytes, bytes] = (SECRET, SECRET),
    contexts: tuple[str, str] = ("job 1", "job 1"),
    tls: tuple[Any, Any] = (None, None),
) -> Two:
    ends = socks or socket.socketpair()
    heard = Heard(), Heard()
    dialer, listener = (
        Channel(
            loop,
            ends[i],
            secrets[i],
            dialed=i == 0,
            context=contexts[i],
            handler=heard[i],
            tls=tls[i],
        )
        for i in (0, 1)
    )
    return Two(loop, dialer, listener, *heard)


@contextlib.contextmanager
def two_in(loop: Loop, **how: Any) -> Iterator[Two]:
    made = make(loop, **how)
    try:
        yield made
    finally:
        made.dialer.abort("the test is over")
        made.listener.abort("the test is over")


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    """Return two ends of a connection over loopback; the first has dialed."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        dialed = socket.create_connection(server.getsockname())
        return dialed, server.accept()[0]


class Between:
    """Passes on what two sockets say to each other, or something else.

    Attributes:
        cut: returns how many bytes to pass on next, at most.
        edit: is given the direction (0 is the dialer's), the place of the first byte in it, and the
            bytes; returns what is passed on.
        said: what each has said.

    """

    def __init__(self, loop: Loop, ends: tuple[socket.socket, socket.socket]) -> None:
        self.cut: Callable[[], int] = lambda: 65536
        self.edit: Callable[[int, int, bytes], bytes] = lambda _direction, _place, data: data
        self.said = (bytearray(), bytearray())
        self._loop, self._ends = loop, ends
        for direction in (0, 1):
            ends[direction].settimeout(5)
            loop.watch(ends[direction].fileno(), lambda direction=direction: self._pass(direction))

    def end(self) -> None:
        """Cut the line."""
        for end in self._ends:
            if end.fileno() >= 0:
                self._loop.watch(end.fileno())
                end.close()

    def _pass(self, direction: int) -> None:
        source, target = self._ends[direction], self._ends[1 - direction]
        data = b""
        with contextlib.suppress(ConnectionResetError):
            data = source.recv(self.cut())
        place = len(self.said[direction])
        self.said[direction].extend(data)
        with contextlib.suppress(OSError):
            if data:
                target.sendall(self.edit(direction, place, data))
            else:
                self._loop.watch(source.fileno())
                target.shutdown(socket.SHUT_WR)


@contextlib.contextmanager
def in_between(loop: Loop) -> Iterator[tuple[tuple[socket.socket, socket.socket], Between]]:
    """Give a pair of sockets, and who is between them."""
    dialer, near = socket.socketpair()
    far, listener = socket.socketpair()
    between = Between(loop, (near, far))
    try:
        yield (dialer, listener), between
    finally:
        between.end()
