"""A client of the job's store, which is torch's TCPStore, that needs no torch.

It speaks the few commands that :class:`rdmatrain.comm.bootstrap.Store` has. Numbers are of this
machine's byte order, as torch's are. tests/unit/test_doctor_gang_store.py holds it against torch's
own server.
"""

import socket
import struct
from collections.abc import Callable
from functools import partial
from time import monotonic, sleep
from typing import TypeVar

from rdmatrain.errors import BootstrapError

T = TypeVar("T")
_VALIDATE, _SET, _, _GET, _ADD, _CHECK = range(6)
_MAGIC = 0x3C85F7CE
_PREFIX = "/"  # of every key, as torch's client has it
_READY = 0
MAX_VALUE = 64 << 20
POLL_S, LAST_POLL_S = 0.001, 0.02


class StoreClient:
    """A connection to the store.

    Args:
        host: where it is.
        port: where it is.
        timeout_s: longest wait for an answer.

    Raises:
        BootstrapError: it cannot be reached.

    """

    def __init__(self, host: str, port: int, timeout_s: float) -> None:
        self._where = f"the job's store at {host}:{port}"
        self._timeout_s = timeout_s
        self._socket = self._try(lambda: socket.create_connection((host, port), timeout_s))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._send(_VALIDATE, struct.pack("=I", _MAGIC))

    def set(self, key: str, value: str, /) -> None:
        """Set a key's value."""
        self._send(_SET, _text(_PREFIX + key) + _text(value))

    def get(self, key: str, /) -> bytes:
        """Return a key's value; waits until it has one."""
        end, pause = monotonic() + self._timeout_s, POLL_S
        while not self.check([key]):
            if monotonic() > end:
                raise BootstrapError(f"{self._where} was not told {key} in {self._timeout_s:g} s")
            sleep(pause)
            pause = min(2 * pause, LAST_POLL_S)
        self._send(_GET, _text(_PREFIX + key))
        return self._receive(self._number("=Q"))

    def add(self, key: str, amount: int, /) -> int:
        """Add to a counter; returns what it is then."""
        self._send(_ADD, _text(_PREFIX + key) + struct.pack("=q", amount))
        return self._number("=q")

    def check(self, keys: list[str], /) -> bool:
        """Tell whether all of the keys have values."""
        names = b"".join(_text(_PREFIX + key) for key in keys)
        self._send(_CHECK, struct.pack("=Q", len(keys)) + names)
        return self._number("=B") == _READY

    def close(self) -> None:
        """Hang up. Idempotent."""
        self._socket.close()

    def _send(self, command: int, payload: bytes) -> None:
        self._try(lambda: self._socket.sendall(bytes([command]) + payload))

    def _number(self, form: str) -> int:
        return int(struct.unpack(form, self._receive(struct.calcsize(form)))[0])

    def _receive(self, length: int) -> bytes:
        if length > MAX_VALUE:
            raise BootstrapError(f"{self._where} answers with {length} bytes: it is no store")
        got = bytearray()
        while len(got) < length:
            part = self._try(partial(self._socket.recv, min(length - len(got), 1 << 20)))
            if not part:
                raise BootstrapError(f"{self._where} is gone: it has closed the connection")
            got += part
        return bytes(got)

    def _try(self, call: Callable[[], T]) -> T:
        try:
            return call()
        except OSError as error:
            raise BootstrapError(f"{self._where} is gone: {error}") from error


class Part:
    """The keys of a store that begin so.

    Args:
        store: the whole.
        prefix: what they begin with.

    """

    def __init__(self, store: "StoreClient | Part", prefix: str) -> None:
        self._store, self._prefix = store, prefix

    def set(self, key: str, value: str, /) -> None:
        """Set a key's value."""
        self._store.set(self._prefix + key, value)

    def get(self, key: str, /) -> bytes:
        """Return a key's value; waits until it has one."""
        return self._store.get(self._prefix + key)

    def add(self, key: str, amount: int, /) -> int:
        """Add to a counter; returns what it is then."""
        return self._store.add(self._prefix + key, amount)

    def check(self, keys: list[str], /) -> bool:
        """Tell whether all of the keys have values."""
        return self._store.check([self._prefix + key for key in keys])


def _text(value: str) -> bytes:
    data = value.encode()
    return struct.pack("=Q", len(data)) + data
