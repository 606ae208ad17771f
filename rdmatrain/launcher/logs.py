"""Forwarding of the workers' output: whole lines, each behind its rank, none lost or mixed.

Everything runs in the supervisor's loop and nothing here blocks: a reader of our output that is
slow or stopped makes the workers wait, as a full pipe would, and never the loop.
"""

import contextlib
import os
import re
import select
import selectors
import stat
from dataclasses import dataclass
from functools import partial

_READ_BYTES = 1 << 16
_MAX_LINE_BYTES = 16 << 20
_HIGH_WATER_BYTES = 1 << 20
_PIPE_WRITE_BYTES = select.PIPE_BUF  # as much as a writable pipe takes without blocking
_FILE_WRITE_BYTES = 1 << 20
_COLORS = (36, 33, 32, 35, 34, 96, 93, 92, 95, 94)  # ANSI foregrounds; red is left for errors
_CR_AT_LINE_START = re.compile(rb"\n\r+")
_CR_END = re.compile(rb"\r+\n?")


class LinePrefixer:
    r"""Cuts one stream into lines and puts a prefix before each.

    A line ends with ``\n``, ``\r\n`` or ``\r`` and is written with ``\n``; a ``\r`` that ends an
    empty line is dropped, because progress bars begin with it. All other bytes pass through. A line
    longer than 16 MiB is cut.

    Args:
        prefix: written before each line.

    """

    def __init__(self, prefix: bytes) -> None:
        self._prefix = prefix
        self._pending: list[bytes] = []
        self._num_pending_bytes = 0
        self._after_cr = False

    def feed(self, data: bytes) -> bytes:
        """Return the lines that ``data`` completes, with their prefixes."""
        data = self._with_newlines(data)
        cut = data.rfind(b"\n") + 1
        if cut == 0:
            self._hold(data)
            return self.close() if self._num_pending_bytes > _MAX_LINE_BYTES else b""
        lines = b"".join([*self._pending, data[: cut - 1]])
        self._pending.clear()
        self._num_pending_bytes = 0
        self._hold(data[cut:])
        return self._prefix + lines.replace(b"\n", b"\n" + self._prefix) + b"\n"

    def close(self) -> bytes:
        """Return the last line if it had no end, with its prefix and with an end."""
        line = b"".join(self._pending)
        self._pending.clear()
        self._num_pending_bytes = 0
        return self._prefix + line + b"\n" if line else b""

    def _hold(self, data: bytes) -> None:
        if data:
            self._pending.append(data)
            self._num_pending_bytes += len(data)

    def _with_newlines(self, data: bytes) -> bytes:
        if self._after_cr:  # the line has ended: this may be the rest of its \r\n
            data = data.lstrip(b"\r")
            if not data:
                return data
            self._after_cr = False
            data = data.removeprefix(b"\n")
        if b"\r" not in data:
            return data
        if self._num_pending_bytes == 0:
            data = data.lstrip(b"\r")
        data = _CR_AT_LINE_START.sub(b"\n", data)
        self._after_cr = data.endswith(b"\r")
        return _CR_END.sub(b"\n", data)


class Sink:
    """One of the launcher's own outputs, with what is still to be written to it.

    Args:
        fd: descriptor to write to; not closed by this object.

    """

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.broken = False
        is_file = stat.S_ISREG(os.fstat(fd).st_mode)
        self._step_bytes = _FILE_WRITE_BYTES if is_file else _PIPE_WRITE_BYTES
        self._buffer = bytearray()

    @property
    def num_pending_bytes(self) -> int:
        """Bytes that are still to be written."""
        return len(self._buffer)

    def put(self, data: bytes) -> None:
        """Queue whole lines; dropped when the reader has gone."""
        if not self.broken:
            self._buffer += data

    def write_some(self) -> None:
        """Write what fits without blocking; call it when the descriptor is writable."""
        try:
            num_written = os.write(self.fd, self._buffer[: self._step_bytes])
        except BlockingIOError:
            return
        except OSError:  # the reader has gone or the disk is full: nobody can be told here
            self.broken = True
            self._buffer.clear()
            return
        del self._buffer[:num_written]

    def prefix(self, rank: int, *, color: bool) -> bytes:
        """Return what marks a line of ``rank``; coloured only if allowed and a terminal."""
        text = f"[{rank}]: "
        if color and os.isatty(self.fd):
            text = f"\x1b[{_COLORS[rank % len(_COLORS)]}m{text}\x1b[0m"
        return text.encode()


@dataclass
class _Stream:
    fd: int
    lines: LinePrefixer
    sink: Sink
    reading: bool = True


class OutputPump:
    """Moves lines from the workers' pipes to stdout and stderr.

    Args:
        selector: the loop's selector; the pump registers callbacks without arguments as data.
        color: whether colour may be used on a terminal.

    """

    def __init__(self, selector: selectors.BaseSelector, *, color: bool) -> None:
        self._selector = selector
        self._color = color
        self._streams: list[_Stream] = []
        self._writing: set[int] = set()
        self._out = Sink(1)
        # Two queues to one file would tear each other's lines.
        same = os.path.sameopenfile(1, 2)
        self._err = self._out if same else Sink(2)

    @property
    def num_open_streams(self) -> int:
        """Streams whose end has not been seen."""
        return len(self._streams)

    @property
    def num_pending_bytes(self) -> int:
        """Bytes read from workers, or said by the launcher, that are still to be written."""
        return self._out.num_pending_bytes + self._err.num_pending_bytes

    def add_worker(self, rank: int, out_fd: int, err_fd: int) -> None:
        """Forward two pipes of a worker from now on; the pump closes them at their end."""
        for fd, sink in ((out_fd, self._out), (err_fd, self._err)):
            stream = _Stream(fd, LinePrefixer(sink.prefix(rank, color=self._color)), sink)
            self._streams.append(stream)
            self._selector.register(fd, selectors.EVENT_READ, partial(self._read, stream))

    def say(self, message: str) -> None:
        """Write a line of the launcher's own to stderr."""
        self._err.put(f"rdmatrain run: {message}\n".encode(errors="surrogateescape"))
        self._update(self._err)

    def close(self) -> None:
        """Stop reading at once; unfinished last lines are still queued. Idempotent."""
        for stream in list(self._streams):
            self._end(stream)

    def _read(self, stream: _Stream) -> None:
        data = os.read(stream.fd, _READ_BYTES)
        if data:
            stream.sink.put(stream.lines.feed(data))
        else:
            self._end(stream)
        self._update(stream.sink)

    def _write(self, sink: Sink) -> None:
        sink.write_some()
        if sink.broken:  # as without a launcher: the worker gets EPIPE when it writes again
            for stream in [s for s in self._streams if s.sink is sink]:
                self._end(stream)
        self._update(sink)

    def _end(self, stream: _Stream) -> None:
        stream.sink.put(stream.lines.close())
        with contextlib.suppress(KeyError):
            self._selector.unregister(stream.fd)
        os.close(stream.fd)
        self._streams.remove(stream)
        self._update(stream.sink)

    def _update(self, sink: Sink) -> None:
        """Ask to be called when the sink is writable, and hold its streams while it is full."""
        wants_write = sink.num_pending_bytes > 0
        if wants_write and sink.fd not in self._writing:
            self._selector.register(sink.fd, selectors.EVENT_WRITE, partial(self._write, sink))
            self._writing.add(sink.fd)
        elif not wants_write and sink.fd in self._writing:
            self._selector.unregister(sink.fd)
            self._writing.remove(sink.fd)
        may_read = sink.num_pending_bytes < _HIGH_WATER_BYTES
        for stream in self._streams:
            if stream.sink is sink and stream.reading != may_read:
                stream.reading = may_read
                if may_read:
                    read = partial(self._read, stream)
                    self._selector.register(stream.fd, selectors.EVENT_READ, read)
                else:
                    self._selector.unregister(stream.fd)
