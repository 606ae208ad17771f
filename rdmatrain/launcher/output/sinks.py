"""Ends that lines are written to: files at once, pipes and terminals when they have room."""

import os
import select
import socket
import stat
from collections.abc import Callable
from functools import partial

from rdmatrain.launcher.loop import Loop

_WRITES_AT_ONCE = 16
_SOCKET_WRITE_BYTES = 1 << 16


class FileSink:
    """A regular file. What finds no room is lost, which is told once; later lines are tried again.

    Args:
        fd: to write to; this object closes it.
        name: what the file is called in messages.
        tell: called with a message at the first loss.

    """

    num_pending_bytes = 0
    is_broken = False
    is_terminal = False

    def __init__(self, fd: int, name: str, tell: Callable[[str], None]) -> None:
        self._fd = fd
        self._name = name
        self._tell = tell
        self._has_lost = False
        self._in_line = False

    def put(self, data: bytes) -> None:
        """Write data now; never raises."""
        if self._has_lost and self._in_line:  # the end of that line is lost
            data = b"\n" + data
        try:
            while data:
                num_written = os.write(self._fd, data)
                self._in_line = data[num_written - 1 : num_written] != b"\n"
                data = data[num_written:]
        except OSError as error:
            if not self._has_lost:
                self._has_lost = True
                self._tell(f"{self._name}: {error.strerror}: what finds no room there is lost")

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)


class QueueSink:
    """A pipe, terminal or socket, with what is still to be written to it.

    Nothing here blocks, even if others write to the same end. Lines that fit into ``PIPE_BUF`` are
    not torn by theirs.

    Args:
        loop: tells when there is room.
        fd: to write to; it is duplicated.
        on_change: called after each write, and when the reader has gone.

    """

    def __init__(self, loop: Loop, fd: int, on_change: Callable[[], None]) -> None:
        self.is_broken = False
        self.is_terminal = os.isatty(fd)
        self._loop = loop
        self._on_change = on_change
        self._buffer = bytearray()
        self._step_bytes = select.PIPE_BUF
        self._num_steps = _WRITES_AT_ONCE
        self._fd, self._write = self._open(fd)

    @property
    def num_pending_bytes(self) -> int:
        """Bytes that are still to be written."""
        return len(self._buffer)

    def put(self, data: bytes) -> None:
        """Queue whole lines; dropped when the reader has gone."""
        if self.is_broken or not data:
            return
        if not self._buffer:
            self._loop.watch(self._fd, write=self._flush)
        self._buffer += data

    def close(self) -> None:
        """Drop what is queued and close the descriptor."""
        self._loop.watch(self._fd)
        self._buffer.clear()
        os.close(self._fd)

    def _open(self, fd: int) -> tuple[int, Callable[[bytearray], int]]:
        mode = os.fstat(fd).st_mode
        own_fd = os.dup(fd)
        if stat.S_ISSOCK(mode):
            self._step_bytes = _SOCKET_WRITE_BYTES
            return own_fd, partial(_send, own_fd)
        try:
            # O_NONBLOCK on the descriptor itself would hit all who share it, as a shell does.
            flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY
            opened = os.open(f"/proc/self/fd/{fd}", flags)
        except OSError:  # a terminal of another user: one write into what has room
            self._num_steps = 1
        else:
            os.close(own_fd)
            own_fd = opened
        return own_fd, partial(os.write, own_fd)

    def _flush(self) -> None:
        """Write what there is room for."""
        for _ in range(self._num_steps):
            end = self._buffer.rfind(b"\n", 0, self._step_bytes) + 1 or self._step_bytes
            try:
                num_written = self._write(self._buffer[:end])
            except BlockingIOError:
                break
            except OSError:  # nobody can be told here
                self.is_broken = True
                self._buffer.clear()
                break
            del self._buffer[:num_written]
            if not self._buffer:
                break
        if not self._buffer:
            self._loop.watch(self._fd)
        self._on_change()


Sink = FileSink | QueueSink


def sink_for(
    loop: Loop, fd: int, tell: Callable[[str], None], on_change: Callable[[], None]
) -> Sink:
    """Return the sink that fits one of the launcher's own outputs.

    Args:
        loop: tells when a pipe or terminal has room.
        fd: 1 or 2; it is duplicated.
        tell: called with a message when a file has no room.
        on_change: called when a pipe or terminal has taken data, or its reader has gone.

    """
    if stat.S_ISREG(os.fstat(fd).st_mode):
        return FileSink(os.dup(fd), {1: "stdout", 2: "stderr"}[fd], tell)
    return QueueSink(loop, fd, on_change)


def _send(fd: int, data: bytearray) -> int:
    borrowed = socket.socket(fileno=fd)
    try:
        return borrowed.send(data, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
    finally:
        borrowed.detach()
