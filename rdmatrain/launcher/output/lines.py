"""Streams cut into lines, and what marks a line."""

import re
from collections.abc import Sequence
from string import Template

_MAX_LINE_BYTES = 16 << 20
_COLORS = (36, 33, 32, 35, 34, 96, 93, 92, 95, 94)  # ANSI foregrounds; red is left for errors
_BAR = "│"
_CR_AT_LINE_START = re.compile(rb"\n\r+")
_CR_END = re.compile(rb"\r+\n?")


class LineCutter:
    r"""Cuts one stream into whole lines.

    A line ends with ``\n``, ``\r\n`` or ``\r`` and leaves with ``\n``; a ``\r`` that ends an empty
    line is dropped, because progress bars begin with it. All other bytes pass through. A line
    longer than 16 MiB is cut.
    """

    def __init__(self) -> None:
        self._pending: list[bytes] = []
        self._num_pending_bytes = 0
        self._after_cr = False

    def feed(self, data: bytes) -> bytes:
        """Return the lines that ``data`` completes."""
        data = self._with_newlines(data)
        cut = data.rfind(b"\n") + 1
        if cut == 0:
            self._hold(data)
            return self.close() if self._num_pending_bytes > _MAX_LINE_BYTES else b""
        lines = b"".join([*self._pending, data[:cut]])
        self._pending.clear()
        self._num_pending_bytes = 0
        self._hold(data[cut:])
        return lines

    def close(self) -> bytes:
        """Return the last line if it had no end, with an end."""
        line = b"".join(self._pending)
        self._pending.clear()
        self._num_pending_bytes = 0
        return line + b"\n" if line else b""

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


def marked(lines: bytes, prefix: bytes) -> bytes:
    """Return whole lines with a prefix before each."""
    return prefix + lines[:-1].replace(b"\n", b"\n" + prefix) + b"\n" if lines else b""


def containing(lines: bytes, texts: Sequence[bytes]) -> bytes:
    """Return those of whole lines that contain one of the texts."""
    if not any(text in lines for text in texts):
        return b""
    # Not splitlines(): it would also cut at \v, \f and others.
    kept = [line for line in lines[:-1].split(b"\n") if any(text in line for text in texts)]
    return b"".join(line + b"\n" for line in kept)


def prefix_text(template: str, *, host: str, role: str, rank: int, local_rank: int) -> str:
    """Return what marks the lines of a worker.

    Args:
        template: with ``${host}``, ``${role_name}``, ``${rank}`` and ``${local_rank}``; empty for
            ``host:rank│`` and a space.
        host: the worker's host.
        role: torchrun's name for the workers.
        rank: in the job.
        local_rank: on the host.

    """
    template = template or f"${{host}}:${{rank}}{_BAR} "
    return Template(template).safe_substitute(
        host=host, role_name=role, rank=rank, local_rank=local_rank
    )


def colored(text: str, rank: int) -> str:
    """Return a text in the colour of a rank."""
    return f"\x1b[{_COLORS[rank % len(_COLORS)]}m{text}\x1b[0m"


def encoded(text: str, encoding: str) -> bytes:
    """Return a text as bytes of an encoding; what it cannot show becomes ASCII.

    Bytes that were no text, as in a file's name, come out as they were.
    """
    try:
        return text.encode(encoding, "surrogateescape")
    except UnicodeEncodeError:
        return text.replace(_BAR, "|").encode(encoding, "backslashreplace")
