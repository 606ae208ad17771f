"""The job's store: torch's TCPStore in a process of its own, which needs no Python.

It answers long before a worker has imported torch, and clients can connect at once: the launcher
makes the listening socket and hands it over.
"""

import importlib.util
import socket
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from rdmatrain.config import inherited_environment
from rdmatrain.errors import BootstrapError
from rdmatrain.launcher.loop import Loop

LOOPBACK = "127.0.0.1"
_BACKLOG = 4096
_KILL_S = 5.0


def listen_on_loopback(port: int = 0) -> socket.socket:
    """Return a listening socket that does not block.

    Args:
        port: 0 for a free one.

    Raises:
        OSError: the port is in use.

    """
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((LOOPBACK, port))
        sock.listen(_BACKLOG)
        sock.setblocking(False)
    except BaseException:
        sock.close()
        raise
    return sock


class StoreServer:
    """A TCPStore on loopback, for this process and no longer than it.

    Args:
        loop: calls back.
        lost: called when the server ends though nobody closed it, with the reason.
        port: that it listens on, always; 0 for a free one, another with each :meth:`renew`.

    Attributes:
        port: that it listens on.
        ready: the store answers; before, clients can connect, and wait.
        alive: the server runs, or is about to.

    Raises:
        BootstrapError: the server's program, or torch, is not there; or the port is in use.

    """

    def __init__(self, loop: Loop, lost: Callable[[str], None], port: int = 0) -> None:
        self.port: int = port
        self.ready = False
        self.alive = False
        self._loop = loop
        self._lost = lost
        self._num_awaited = 0
        command, environment = [_program()], _environment()
        self._fixed = _listen(port) if port else None
        self._control, theirs = socket.socketpair()
        self._control.setblocking(False)
        with theirs:
            self._process = subprocess.Popen(command, stdin=theirs.fileno(), env=environment)
        self.alive = True
        loop.watch(self._control.fileno(), self._hear)
        self.renew()

    @property
    def pid(self) -> int:
        """Process id of the server."""
        return int(self._process.pid)

    def renew(self) -> None:
        """Begin anew, with an empty store: who is connected to the one before is cut off.

        Raises:
            BootstrapError: no port is free.

        """
        if not self.alive:
            return
        listener = self._fixed or _listen(0)
        self.port = listener.getsockname()[1]
        self.ready = False
        self._num_awaited += 1
        try:
            socket.send_fds(self._control, [b"n"], [listener.fileno()])
        except OSError as error:
            self._end(f"the job's store has ended: {error.strerror}")
        finally:
            if listener is not self._fixed:
                listener.close()  # the server has its own

    def close(self) -> None:
        """End the server; returns when it has ended. Idempotent."""
        if self.alive:
            self._stop()

    def _hear(self) -> None:
        try:
            answers = self._control.recv(64)
        except BlockingIOError:
            return
        except OSError:
            answers = b""
        self._num_awaited -= len(answers)
        self.ready = self._num_awaited == 0
        if not answers:
            self._end("the job's store has ended")

    def _end(self, reason: str) -> None:
        self._stop()
        self._lost(reason)

    def _stop(self) -> None:
        self.alive = self.ready = False
        self._loop.watch(self._control.fileno())
        self._control.close()
        if self._fixed:
            self._fixed.close()
        self._process.kill()
        with suppress(subprocess.TimeoutExpired):  # who reaps orphans will have it
            self._process.wait(_KILL_S)


def _listen(port: int) -> socket.socket:
    try:
        return listen_on_loopback(port)
    except OSError as error:
        raise BootstrapError(
            f"the job's store cannot listen on {LOOPBACK}:{port} (--master-port): "
            f"{error.strerror}; choose another port, or leave it out for a free one"
        ) from error


def _program() -> str:
    """Return the server's path: it is beside the extensions, wherever these are installed."""
    spec = importlib.util.find_spec("rdmatrain._core")
    path = Path(spec.origin).with_name("_store_server") if spec and spec.origin else None
    if path is None or not path.is_file():
        raise BootstrapError(
            "rdmatrain is installed without its store server (_store_server): install it again"
        )
    return str(path)


def _environment() -> dict[str, str]:
    """Return this process's environment, and where the server finds torch's libraries."""
    spec = importlib.util.find_spec("torch")
    if spec is None or not spec.submodule_search_locations:
        raise BootstrapError(
            "torch is not installed for this Python, and the job's store is torch's: install torch"
        )
    environment = inherited_environment()
    folders = [f"{spec.submodule_search_locations[0]}/lib", environment.get("LD_LIBRARY_PATH", "")]
    environment["LD_LIBRARY_PATH"] = ":".join(filter(None, folders))
    environment["TORCH_CPP_LOG_LEVEL"] = "ERROR"
    return environment
