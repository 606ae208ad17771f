"""What a worker tells its launcher: one small file, mapped by both.

The worker writes the whole page, with its checksum, at each beat. A reader that comes upon a page
being written sees a wrong checksum, and so does one whose worker was stopped in the middle: it
keeps what it read before. Times are of CLOCK_MONOTONIC, which all processes of a host share.
"""

import mmap
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

VERSION = 1
MAX_RANKS = 64
MAX_TEXT_BYTES = 96

_HEAD = struct.Struct("=II")  # version, checksum of the rest
# pid, beat_ns, since_ns, length of the text and the text, number of ranks and the ranks
_BODY = struct.Struct(f"=IQQH{MAX_TEXT_BYTES}sH{MAX_RANKS}I")
SIZE = _HEAD.size + _BODY.size


@dataclass(frozen=True, kw_only=True)
class Beat:
    """What a worker says of itself.

    Attributes:
        pid: of the process that beats: the worker, or a child of it when the worker is a wrapper.
        beat_ns: when it said so.
        since_ns: when it posted its oldest operation that is not over; 0: all are.
        waits_in: which operation that is, in words that are the same on all of its ranks.
        waits_for: whom it may be waiting for; empty: it does not know.

    """

    pid: int
    beat_ns: int
    since_ns: int = 0
    waits_in: str = ""
    waits_for: tuple[int, ...] = ()


def create(path: Path) -> None:
    """Make an empty page for a worker that is about to start; what another one left is removed."""
    for each in (path, error_file(path), stacks_file(path)):
        each.unlink(missing_ok=True)
    path.write_bytes(bytes(SIZE))


def error_file(path: Path) -> Path:
    """Where the worker of this page writes what it dies of."""
    return path.with_suffix(".error.json")


def stacks_file(path: Path) -> Path:
    """Where the worker of this page writes its stacks, when it is asked to."""
    return path.with_suffix(".stacks")


def pack(beat: Beat) -> bytes:
    """Return the page as bytes; what is too long is cut, too many ranks become none."""
    text = beat.waits_in.encode()[:MAX_TEXT_BYTES]
    ranks = beat.waits_for if len(beat.waits_for) <= MAX_RANKS else ()
    padded = (*ranks, *[0] * (MAX_RANKS - len(ranks)))
    body = _BODY.pack(beat.pid, beat.beat_ns, beat.since_ns, len(text), text, len(ranks), *padded)
    return _HEAD.pack(VERSION, zlib.crc32(body)) + body


def unpack(data: bytes) -> Beat | None:
    """Return what the page says; None when it is empty, being written, or of another version."""
    if len(data) != SIZE:
        return None
    version, checksum = _HEAD.unpack_from(data)
    body = data[_HEAD.size :]
    if version != VERSION or checksum != zlib.crc32(body):
        return None
    pid, beat_ns, since_ns, text_bytes, text, num_ranks, *ranks = _BODY.unpack(body)
    return Beat(
        pid=pid,
        beat_ns=beat_ns,
        since_ns=since_ns,
        waits_in=text[:text_bytes].decode(errors="replace"),
        waits_for=tuple(ranks[:num_ranks]),
    )


class PageReader:
    """The launcher's side of a page; it keeps the last beat that was whole."""

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            self._map = mmap.mmap(file.fileno(), SIZE, prot=mmap.PROT_READ)
        self._beat: Beat | None = None

    def read(self) -> Beat | None:
        """Return the last beat; None before the first."""
        self._beat = unpack(self._map[:]) or self._beat
        return self._beat

    def close(self) -> None:
        """Unmap the page."""
        self._map.close()
