# SPDX-License-Identifier: Apache-2.0
"""Nothing that is written to blocks; what cannot be written is told once."""

import fcntl
import os
import resource
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from rdmatrain.launcher.loop import Loop
from rdmatrain.launcher.output.sinks import FileSink, QueueSink


@pytest.fixture
def loop() -> Iterator[Loop]:
    loop = Loop()
    yield loop
    loop.close()


def run_for(loop: Loop, seconds: float) -> None:
    over: list[bool] = []
    loop.later(seconds, lambda: over.append(True))
    loop.run(lambda: bool(over))


def ends(kind: str) -> tuple[int, int]:
    """Return descriptors to read from and to write to."""
    if kind == "pipe":
        return os.pipe()
    if kind == "terminal":
        return os.openpty()
    left, right = socket.socketpair()
    return left.detach(), right.detach()


@pytest.mark.parametrize("kind", ["pipe", "terminal", "socket"])
def test_a_full_end_blocks_nothing_and_loses_nothing(loop: Loop, kind: str) -> None:
    reader, writer = ends(kind)
    flags = fcntl.fcntl(writer, fcntl.F_GETFL)
    sink = QueueSink(loop, writer, lambda: None)
    sent = b"".join(b"%d %s\n" % (i, b"x" * (i % 200)) for i in range(20_000))
    sink.put(sent)
    run_for(loop, 0.2)
    assert 0 < sink.num_pending_bytes < len(sent)
    assert fcntl.fcntl(writer, fcntl.F_GETFL) == flags, "the end is shared: leave it as it is"
    got = bytearray()

    def read() -> None:
        got.extend(os.read(reader, 1 << 16).replace(b"\r", b""))

    loop.watch(reader, read=read)
    loop.run(lambda: len(got) >= len(sent))
    assert bytes(got) == sent
    assert sink.num_pending_bytes == 0
    sink.close()
    os.close(reader)
    os.close(writer)


def test_lines_are_not_torn_by_another_writer_to_the_same_pipe(loop: Loop) -> None:
    reader, writer = os.pipe()
    other = os.dup(writer)
    sink = QueueSink(loop, writer, lambda: os.write(other, b"other\n"))
    sink.put(b"".join(b"%d %s\n" % (i, b"x" * 700) for i in range(1000)))
    got = bytearray()
    loop.watch(reader, read=lambda: got.extend(os.read(reader, 4096)))
    loop.run(lambda: not sink.num_pending_bytes)
    run_for(loop, 0.1)
    lines = [line for line in bytes(got).split(b"\n")[:-1] if line != b"other"]
    assert lines == [b"%d %s" % (i, b"x" * 700) for i in range(1000)]
    assert b"other\n" in got
    sink.close()
    for fd in (reader, writer, other):
        os.close(fd)


def test_a_reader_that_has_gone_is_noticed_and_what_is_queued_dropped(loop: Loop) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    changes: list[bool] = []
    sink = QueueSink(loop, writer, lambda: changes.append(True))
    sink.put(b"x\n")
    loop.run(lambda: bool(changes))
    assert sink.is_broken
    sink.put(b"y\n")
    assert sink.num_pending_bytes == 0
    sink.close()
    os.close(writer)


def test_a_file_that_finds_no_room_says_so_once_and_goes_on_later(tmp_path: Path) -> None:
    path = tmp_path / "log"
    told: list[str] = []
    pid = os.fork()
    if pid == 0:  # the limit is the process's
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        sink = FileSink(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), "log", told.append)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))
        for i in range(40):
            sink.put(b"line %d\n" % i)
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
        sink.put(b"again\n")
        good = told == ["log: File too large: what finds no room there is lost"]
        os._exit(0 if good else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    lines = path.read_bytes().split(b"\n")
    assert lines[:12] == [b"line %d" % i for i in range(12)]
    assert lines[-2:] == [b"again", b""]
    assert len(lines) == 13 + 1 + 2, "one line is torn, and ends before the next"
