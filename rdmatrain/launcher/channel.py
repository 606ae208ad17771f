"""A connection between two launchers: both have proved the secret, and every frame is sealed."""

import contextlib
import socket
import time
from dataclasses import InitVar, dataclass, field
from typing import TYPE_CHECKING, Protocol

from rdmatrain.launcher.loop import Loop, Timer
from rdmatrain.launcher.proof import (
    CHANGED,
    CONTEXT,
    FAREWELL,
    HEADER,
    MAX_CONTEXT,
    MAX_PAYLOAD,
    TAG_BYTES,
    RefusedError,
    Session,
    Steps,
    printable,
    prove,
)

if TYPE_CHECKING:
    import ssl

# What frames carry.
CONTROL = 1
STORE = 2
HANDSHAKE_S = 5.0
# Who says farewell waits for so long that the other side takes what was sent.
LINGER_S = 1.0
_READ_BYTES = 64 << 10
_READ_BYTES_UNPROVEN = 256
_WRITE_BYTES = 256 << 10


class ChannelHandler(Protocol):
    """Whom a channel tells what happens; called from the loop."""

    def on_open(self, channel: "Channel") -> None:
        """Start: both sides have proved the secret, and are of the same job."""

    def on_message(self, channel: "Channel", kind: int, payload: bytes) -> None:
        """Take a frame that came whole, in order and unchanged."""

    def on_close(self, channel: "Channel", reason: str) -> None:
        """Learn that the connection is over, and why: once and last, also after ``close``."""


class Veil(Protocol):
    """What is between frames and socket."""

    def cover(self, plain: bytes) -> bytes:
        """Return what is to be sent for this, and whatever else is to be sent now."""

    def uncover(self, data: bytes) -> bytes:
        """Return what the other side said with this; raises ``RefusedError``."""


class _Plain:
    def cover(self, plain: bytes) -> bytes:
        return plain

    def uncover(self, data: bytes) -> bytes:
        return data


@dataclass(eq=False)
class Channel:
    """One end of a connection. It never blocks; whatever the socket raises becomes a reason.

    Attributes:
        loop: who calls.
        sock: a stream that is connected or about to be; the channel's own from now on.
        secret: the job's.
        dialed: this end made the connection.
        context: name and epoch of the job: both ends must have the same.
        handler: whom to tell.
        tls: encrypt as well; see :mod:`rdmatrain.launcher.tls`.

    """

    loop: Loop
    sock: socket.socket
    secret: InitVar[bytes]
    dialed: bool = field(kw_only=True)
    context: str = field(kw_only=True)
    handler: ChannelHandler = field(kw_only=True)
    tls: InitVar["ssl.SSLContext | None"] = field(kw_only=True, default=None)

    def __post_init__(self, secret: bytes, tls: "ssl.SSLContext | None") -> None:
        self._steps: Steps = prove(secret, self.context, dialed=self.dialed)
        self._veil = _veil(tls, dialed=self.dialed)
        self._session: Session | None = None
        self._incoming = bytearray()
        self._outgoing = bytearray()
        self._early: list[tuple[int, bytes]] = []  # said before the session is there
        self._num_early_bytes = 0
        self._paused = self._closing = self._ended = self._said_all = False
        self._reason = ""
        self._heard = time.monotonic()
        self._peer = _peer_of(self.sock)
        self._watched = (False, False)
        self._deadline: Timer = self.loop.later(HANDSHAKE_S, self._too_late)
        _prepare(self.sock)
        self._step = next(self._steps)
        self._write_plain(self._step.send)

    @property
    def is_open(self) -> bool:
        """Both sides have proved the secret, and neither has closed."""
        return self._session is not None and not self._closing and not self._ended

    @property
    def num_pending_bytes(self) -> int:
        """Bytes that were sent, and that the kernel has not taken yet."""
        return len(self._outgoing) + self._num_early_bytes

    @property
    def idle_s(self) -> float:
        """Seconds since bytes last came; 0 while paused, when nobody looks."""
        return 0.0 if self._paused else time.monotonic() - self._heard

    @property
    def peer(self) -> str:
        """Host and port of the other side as the kernel sees it; empty before it is connected."""
        return self._peer

    def send(self, kind: int, payload: bytes) -> None:
        """Queue a frame; from ``close`` on it does nothing.

        Args:
            kind: 1 to 254.
            payload: at most :data:`MAX_PAYLOAD` bytes.

        Raises:
            ValueError: kind or payload cannot be sent.

        """
        if not CONTEXT < kind < FAREWELL or len(payload) > MAX_PAYLOAD:
            raise ValueError(f"a frame of kind {kind} with {len(payload)} bytes cannot be sent")
        if self._closing or self._ended:
            return
        if self._session is None:
            self._early.append((kind, payload))
            self._num_early_bytes += len(payload)
            return
        self._write_plain(self._session.mine.close(kind, payload))

    def pause(self) -> None:
        """Take no more frames: none is handed out from now on, and few bytes are read."""
        self._paused = True
        self._watch()

    def resume(self) -> None:
        """Take frames again; those that have come already are handed out from the loop."""
        if self._paused:
            self._paused = False
            self._heard = time.monotonic()
            self._watch()
            self.loop.later(0.0, self._use_incoming)

    def close(self, reason: str = "") -> None:
        """Say farewell after what is queued; ``on_close`` comes when that is over.

        What was said before both sides had proved the secret is not said any more.

        Args:
            reason: why, for the other side and for this side's ``on_close``; its first 512 bytes.

        """
        if self._closing or self._ended:
            return
        self._reason = reason or "closed"
        if self._session is not None:
            told = reason.encode(errors="replace")[:MAX_CONTEXT]
            self._write_plain(self._session.mine.close(FAREWELL, told))
        self._close_when_heard()

    def abort(self, reason: str) -> None:
        """End the connection at once, whatever is queued; ``on_close`` comes from within."""
        if self._ended:
            return
        self._ended = True
        self._deadline.cancel()
        self.loop.watch(self.sock.fileno())
        self.sock.close()
        self._steps.close()
        self._incoming.clear()
        self._outgoing.clear()
        self._early.clear()
        self._num_early_bytes = 0
        self.handler.on_close(self, reason)

    def _close_when_heard(self) -> None:
        # A socket that is closed with unread bytes resets the connection, and what the other side
        # has not read yet is lost: so read on, until it ends too.
        self._closing = True
        self._early.clear()
        self._num_early_bytes = 0
        self._deadline.cancel()
        self._deadline = self.loop.later(LINGER_S, self._lingered)
        self._watch()

    def _lingered(self) -> None:
        self.abort(self._reason)

    def _too_late(self) -> None:
        self.abort(f"{self._step.cut} (nothing for {HANDSHAKE_S:g} s)")

    def _watch(self) -> None:
        if self._ended:
            return
        read = self._closing or self._session is None or not self._paused
        write = bool(self._outgoing) or (self._closing and not self._said_all)
        if (read, write) != self._watched:
            self._watched = (read, write)
            self.loop.watch(
                self.sock.fileno(), self._read if read else None, self._write if write else None
            )

    def _write_plain(self, data: bytes) -> None:
        self._outgoing += self._veil.cover(data)
        self._watch()

    def _write(self) -> None:
        try:
            while self._outgoing:
                with memoryview(self._outgoing) as whole, whole[:_WRITE_BYTES] as part:
                    num_sent = self.sock.send(part)
                del self._outgoing[:num_sent]
            if self._closing:
                self.sock.shutdown(socket.SHUT_WR)
                self._said_all = True
        except BlockingIOError:
            pass
        except OSError as error:
            self._lost(error)
        self._watch()

    def _read(self) -> None:
        try:
            data = self.sock.recv(_READ_BYTES if self._session else _READ_BYTES_UNPROVEN)
        except BlockingIOError:
            return
        except OSError as error:
            self._lost(error)
            return
        if not data:
            self._lost(None)
            return
        self._heard = time.monotonic()
        if self._closing:
            return
        try:
            self._incoming += self._veil.uncover(data)
        except RefusedError as error:
            self._write_plain(b"")
            self._refuse(error)
            return
        self._write_plain(b"")  # what TLS has to say of its own
        self._use_incoming()

    def _lost(self, error: OSError | None) -> None:
        """End because the connection did, in order if there is no error."""
        ended = error is None or isinstance(error, (ConnectionResetError, BrokenPipeError))
        if self._closing:
            reason = self._reason
        elif self._session is None and ended:
            reason = self._step.cut
        elif error is None:
            reason = "the connection ended without a farewell: the other side is gone"
        else:
            reason = f"the connection failed: {error.strerror or error}"
        self.abort(reason)

    def _refuse(self, error: RefusedError) -> None:
        if error.heard and not self._ended:
            self._reason = str(error)
            self._close_when_heard()
        else:
            self.abort(str(error))

    def _use_incoming(self) -> None:
        try:
            while not self._closing and not self._ended:
                if not (self._shake_hands() if self._session is None else self._take_frame()):
                    return
        except RefusedError as error:
            self._refuse(error)

    def _shake_hands(self) -> bool:
        if len(self._incoming) < self._step.need:
            return False
        try:
            self._step = self._steps.send(self._take(self._step.need))
        except StopIteration as stop:
            self._open(stop.value)
        else:
            self._write_plain(self._step.send)
        return True

    def _open(self, session: Session) -> None:
        self._session = session
        self._peer = self._peer or _peer_of(self.sock)
        self._deadline.cancel()
        early, self._early, self._num_early_bytes = self._early, [], 0
        for kind, payload in early:
            self.send(kind, payload)
        self._watch()
        self.handler.on_open(self)

    def _take_frame(self) -> bool:
        if self._paused or self._session is None or len(self._incoming) < HEADER.size:
            return False
        length, kind = HEADER.unpack_from(self._incoming)
        if length > MAX_PAYLOAD or kind == CONTEXT:
            raise RefusedError(CHANGED)
        if len(self._incoming) < HEADER.size + length + TAG_BYTES:
            return False
        payload = self._session.theirs.open(self._take(HEADER.size), self._take(length + TAG_BYTES))
        if kind == FAREWELL:
            self.abort(f"the other side closed: {printable(payload)}".removesuffix(": "))
        else:
            self.handler.on_message(self, kind, payload)
        return True

    def _take(self, num_bytes: int) -> bytes:
        taken = bytes(memoryview(self._incoming)[:num_bytes])
        del self._incoming[:num_bytes]
        return taken


def _veil(tls: "ssl.SSLContext | None", *, dialed: bool) -> Veil:
    if tls is None:
        return _Plain()
    from rdmatrain.launcher.tls import TlsVeil  # noqa: PLC0415 - few jobs need ssl

    return TlsVeil(tls, dialed=dialed)


def _prepare(sock: socket.socket) -> None:
    sock.setblocking(False)
    if sock.family in {socket.AF_INET, socket.AF_INET6}:
        with contextlib.suppress(OSError):  # the connection may have ended already
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _peer_of(sock: socket.socket) -> str:
    try:
        address = sock.getpeername()
    except OSError:
        return ""
    if not isinstance(address, tuple):
        return "this host"
    host, port = address[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
