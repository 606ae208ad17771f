"""The way from the workers of all nodes to the job's store, inside the gang's own channels.

A worker connects to its node's *door*, on loopback; each connection is a *stream*, a number in the
frames that the channel carries to the leader, whose *room* connects it to the store. A frame is
``OPEN``, ``DATA``, ``END`` (no more from here), ``RESET`` or ``CREDIT``, and a stream number; only
the door opens streams, and 0 in ``RESET`` stands for all of them.

Nobody can fill anybody's memory: each end of a stream may send :data:`WINDOW` bytes more than the
other has passed on (``CREDIT``), so a worker that does not read stops nobody else; and no stream
takes from its socket while the channel has :data:`MAX_PENDING` bytes to send.
"""

import errno
import logging
import os
import resource
import socket
import struct
from collections.abc import Callable, Hashable
from contextlib import suppress

from rdmatrain import _core
from rdmatrain.errors import BootstrapError
from rdmatrain.launcher.loop import Loop, Timer
from rdmatrain.launcher.store import LOOPBACK, StoreServer, listen_on_loopback

logger = logging.getLogger(__name__)

WINDOW = 256 << 10
CHUNK = 64 << 10
MAX_PENDING = 1 << 20
MAX_STREAMS = 1 << 14
MANY_DESCRIPTORS = 1 << 16
_POLL_S = 0.005  # the channel does not say when it has sent
_NO_DESCRIPTOR_S = 0.1

OPEN, DATA, END, RESET, CREDIT = range(5)
ALL = 0
HEADER = struct.Struct("!BI")
_COUNT = struct.Struct("!I")

Send = Callable[[bytes], None]
Note = Callable[[str], None]


class StoreDoor:
    """Where the workers of a node find the store: a port on loopback that leads to the leader.

    Args:
        loop: calls back.
        send: puts a frame into the channel to the leader.
        num_pending: how many bytes that channel has still to send.
        note: takes a line about what went wrong.

    Attributes:
        port: that it listens on.

    Raises:
        BootstrapError: no port is free.

    """

    def __init__(
        self, loop: Loop, send: Send, num_pending: Callable[[], int], note: Note = logger.warning
    ) -> None:
        self._loop = loop
        self._note = note
        try:
            self._listener = listen_on_loopback()
        except OSError as error:
            raise BootstrapError(f"no port for the workers on {LOOPBACK}: {error}") from error
        self.port: int = self._listener.getsockname()[1]
        self._retry: Timer | None = None
        self._told: set[str] = set()
        self._link = _Link(loop, send, num_pending)
        self._watch()

    def receive(self, payload: bytes) -> None:
        """Take a frame of the leader."""
        if problem := self._link.receive(payload):
            self._note(f"the leader's store connection is broken: {problem}")

    def reset(self) -> None:
        """Close all streams: the workers that they belonged to are gone."""
        self._link.reset()

    def close(self) -> None:
        """Close all, and take no more. Idempotent."""
        self._link.reset()
        if self._retry is not None:
            self._retry.cancel()
        if self._listener.fileno() >= 0:
            self._loop.watch(self._listener.fileno())
            self._listener.close()

    def _watch(self) -> None:
        self._loop.watch(self._listener.fileno(), self._accept)

    def _accept(self) -> None:
        try:
            sock, _ = self._listener.accept()
        except (BlockingIOError, ConnectionError):  # whoever it was has left
            return
        except OSError as error:  # no descriptor: asked again, it would only say so again
            self._note(f"a worker cannot connect to the store: {error.strerror}")
            self._loop.watch(self._listener.fileno())
            self._retry = self._loop.later(_NO_DESCRIPTOR_S, self._watch)
            return
        if self._may_enter(sock):
            self._link.open(sock)
        else:
            sock.close()

    def _may_enter(self, sock: socket.socket) -> bool:
        """Tell whether that is a process of this user, and there is room; say once why not."""
        try:
            user = _core.peer_user(sock)
        except OSError as error:
            if error.errno != errno.ENOTCONN:  # else whoever it was has left
                self._tell(
                    "the kernel does not tell whose process wants to enter the job's store, so it "
                    f"may not: {error.strerror}; is /proc mounted?"
                )
            return False
        if user != os.geteuid():
            self._tell(
                f"user {user} was kept out of the job's store, which is for user {os.geteuid()}, "
                "who runs the job"
            )
        elif self._link.is_full:
            self._tell(f"this node has {MAX_STREAMS} connections to the job's store: no more fit")
        else:
            return True
        return False

    def _tell(self, text: str) -> None:
        if text not in self._told:
            self._told.add(text)
            self._note(text)


class StoreRoom:
    """The job's store and the ways of all other nodes into it.

    The leader's own workers connect to ``port`` directly.

    Args:
        loop: calls back.
        port: that the store listens on, always; 0 for free ones.
        note: takes a line about what went wrong.

    Raises:
        BootstrapError: the store cannot be started.

    """

    def __init__(self, loop: Loop, port: int = 0, note: Note = logger.warning) -> None:
        self._loop = loop
        self._note = note
        self._links: dict[Hashable, _Link] = {}
        self._server = StoreServer(loop, lost=note, port=port)

    @property
    def port(self) -> int:
        """Where the store listens on loopback; :meth:`reset` may change it."""
        return self._server.port

    @property
    def alive(self) -> bool:
        """Whether the store is there, or about to be: clients can connect at once."""
        return self._server.alive

    @property
    def ready(self) -> bool:
        """Whether the store answers."""
        return self._server.ready

    @property
    def pid(self) -> int:
        """Process id of the store, which whoever kills all descendants must spare."""
        return self._server.pid

    def attach(self, key: Hashable, send: Send, num_pending: Callable[[], int]) -> None:
        """Let a node in; what it was before is forgotten.

        Args:
            key: which node.
            send: puts a frame into the channel to it.
            num_pending: how many bytes that channel has still to send.

        """
        self.detach(key)
        _allow_many_descriptors()
        self._links[key] = _Link(self._loop, send, num_pending, self._connect)

    def receive(self, key: Hashable, payload: bytes) -> None:
        """Take a frame of a node; one that makes no sense ends that node's streams."""
        link = self._links.get(key)
        if link and (problem := link.receive(payload)):
            self._note(f"the store connection of node {key} is broken: {problem}")

    def detach(self, key: Hashable) -> None:
        """Close the streams of a node that is gone. Idempotent."""
        if link := self._links.pop(key, None):
            link.close_streams()

    def reset(self) -> None:
        """Begin a round: an empty store, on a new port unless one was given, and no streams.

        Raises:
            BootstrapError: no port is free.

        """
        for link in self._links.values():
            link.reset()
        self._server.renew()

    def close(self) -> None:
        """End the store and all streams. Idempotent."""
        for key in tuple(self._links):
            self.detach(key)
        self._server.close()

    def _connect(self) -> socket.socket:
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        sock.setblocking(False)
        code = sock.connect_ex((LOOPBACK, self.port))
        if code not in {0, errno.EINPROGRESS}:
            sock.close()
            raise OSError(code, "the store cannot be reached")
        return sock


def _allow_many_descriptors() -> None:
    """Make room for the connections of all nodes: the usual limit is 1024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = MANY_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, MANY_DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


class _BadFrame(ValueError):
    """The other end does not keep to the protocol."""


class _Link:
    """The streams of one channel, at one of its ends.

    Args:
        loop: calls back.
        send: puts a frame into the channel.
        num_pending: how many bytes the channel has still to send.
        connect: returns a socket, perhaps still connecting, for a stream that the other end opens;
            None if it may not open any.

    """

    def __init__(
        self,
        loop: Loop,
        send: Send,
        num_pending: Callable[[], int],
        connect: Callable[[], socket.socket] | None = None,
    ) -> None:
        self.loop = loop
        self._send = send
        self._num_pending = num_pending
        self._connect = connect
        self._streams: dict[int, _Stream] = {}
        self._last_number = 0
        self._congested: Timer | None = None

    @property
    def is_full(self) -> bool:
        """Whether it has all the streams that it may have."""
        return len(self._streams) >= MAX_STREAMS

    def open(self, sock: socket.socket) -> None:
        """Make a stream of a connection, and tell the other end."""
        self._last_number += 1
        self.send(OPEN, self._last_number)
        self._streams[self._last_number] = _Stream(self, self._last_number, sock)

    def send(self, kind: int, number: int, data: bytes = b"") -> None:
        """Put a frame into the channel."""
        self._send(HEADER.pack(kind, number) + data)

    def receive(self, payload: bytes) -> str:
        """Take a frame; one that makes no sense closes all streams. Returns why, or nothing."""
        try:
            self._take(payload)
        except _BadFrame as error:
            self.reset()
            return str(error)
        return ""

    def reset(self) -> None:
        """Close all streams, at the other end too."""
        if self._streams:
            self.send(RESET, ALL)
        self.close_streams()

    def close_streams(self) -> None:
        """Close all streams at this end."""
        for stream in tuple(self._streams.values()):
            self.forget(stream)
        if self._congested is not None:
            self._congested.cancel()
            self._congested = None

    def drop(self, stream: "_Stream") -> None:
        """Close a stream that is broken, and tell the other end."""
        self.forget(stream)
        self.send(RESET, stream.number)

    def forget(self, stream: "_Stream") -> None:
        """Close a stream at this end."""
        self._streams.pop(stream.number, None)
        stream.close()

    def is_congested(self) -> bool:
        """Tell whether the channel has enough to send; when it has not any more, all go on."""
        if self._congested is None and self._num_pending() > MAX_PENDING:
            self._congested = self.loop.later(_POLL_S, self._look_again)
            self._watch_all()
        return self._congested is not None

    def _look_again(self) -> None:
        if self._num_pending() > MAX_PENDING // 2:
            self._congested = self.loop.later(_POLL_S, self._look_again)
        else:
            self._congested = None
            self._watch_all()

    def _watch_all(self) -> None:
        for stream in self._streams.values():
            stream.watch(reading=self._congested is None)

    def _take(self, payload: bytes) -> None:
        if len(payload) < HEADER.size:
            raise _BadFrame(f"a frame of {len(payload)} bytes")
        kind, number = HEADER.unpack_from(payload)
        data = payload[HEADER.size :]
        if kind > CREDIT or (len(data) > 0) != (kind in {DATA, CREDIT}):
            raise _BadFrame(f"a frame of kind {kind} with {len(data)} bytes")
        if kind == OPEN:
            self._take_open(number)
        elif (kind, number) == (RESET, ALL):
            self.close_streams()
        elif not 0 < number <= self._last_number:
            raise _BadFrame(f"stream {number} was never opened")
        elif stream := self._streams.get(number):  # else it was closed here, which crossed this
            stream.take(kind, data)

    def _take_open(self, number: int) -> None:
        if self._connect is None or number <= self._last_number:
            raise _BadFrame(f"stream {number} cannot be opened")
        self._last_number = number
        if self.is_full:  # some that the other end has forgotten are still being written
            self.send(RESET, number)
            return
        try:
            self._streams[number] = _Stream(self, number, self._connect())
        except OSError:  # no descriptor
            self.send(RESET, number)


class _Stream:
    """One connection: its socket's bytes go to the other end, and the other end's to its socket."""

    def __init__(self, link: _Link, number: int, sock: socket.socket) -> None:
        self.number = number
        self._link = link
        self._sock = sock
        self._connected = False
        self._unsent = bytearray()
        self._window = WINDOW  # bytes that the other end has room for
        self._owed = 0  # bytes that left here, of which the other end has not been told
        self._read_end = False  # the socket gives no more
        self._write_end = False  # the other end gives no more
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.watch()

    def watch(self, *, reading: bool = True) -> None:
        """Wait for what can be done; with ``reading`` False, only for writing."""
        may_read = reading and self._connected and not self._read_end and self._window > 0
        may_write = bool(self._unsent) or not self._connected
        if self._sock.fileno() < 0:  # the channel has failed meanwhile
            return
        self._link.loop.watch(
            self._sock.fileno(),
            self._read if may_read else None,
            self._write if may_write else None,
        )

    def take(self, kind: int, data: bytes) -> None:
        """Take a frame from the other end.

        Raises:
            _BadFrame: it makes no sense.

        """
        if kind == DATA:
            self._take_data(data)
        elif kind == CREDIT:
            self._take_credit(data)
        elif kind == END:
            self._write_end = True
            self._write()
        else:
            self._link.forget(self)

    def close(self) -> None:
        """Close the socket. Idempotent."""
        if self._sock.fileno() >= 0:
            self._link.loop.watch(self._sock.fileno())
            self._sock.close()

    def _take_data(self, data: bytes) -> None:
        if self._write_end or len(self._unsent) + self._owed + len(data) > WINDOW:
            raise _BadFrame(f"stream {self.number} got more than it has room for")
        self._unsent += data
        self._write()

    def _take_credit(self, data: bytes) -> None:
        credit = _COUNT.unpack(data)[0] if len(data) == _COUNT.size else 0
        if not 0 < credit <= WINDOW - self._window:
            raise _BadFrame(f"stream {self.number} got a credit of {credit} bytes")
        self._window += credit
        self._watch_again()

    def _read(self) -> None:
        if self._link.is_congested():
            return
        try:
            data = self._sock.recv(min(CHUNK, self._window))
        except BlockingIOError:
            return
        except OSError:
            self._link.drop(self)
            return
        self._window -= len(data)
        if data:
            self._link.send(DATA, self.number, data)
        else:
            self._read_end = True
            self._link.send(END, self.number)
        self._watch_again()

    def _write(self) -> None:
        try:
            if not self._connected and not self._finish_connecting():
                return
            if self._unsent:
                num_sent = self._sock.send(self._unsent)
                del self._unsent[:num_sent]
                self._owed += num_sent
            if self._write_end and not self._unsent:
                self._sock.shutdown(socket.SHUT_WR)
        except BlockingIOError:
            pass
        except OSError:
            self._link.drop(self)
            return
        if self._owed >= WINDOW // 4:
            self._link.send(CREDIT, self.number, _COUNT.pack(self._owed))
            self._owed = 0
        self._watch_again()

    def _finish_connecting(self) -> bool:
        """Tell whether the socket is connected; raises what prevented it."""
        if code := self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            raise OSError(code, "")
        with suppress(OSError):
            self._sock.getpeername()
            self._connected = True
        return self._connected

    def _watch_again(self) -> None:
        if self._read_end and self._write_end and not self._unsent:
            self._link.forget(self)
        else:
            self.watch(reading=not self._link.is_congested())
