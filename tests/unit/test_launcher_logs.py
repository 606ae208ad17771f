"""Lines are cut the same way wherever the chunks of a stream happen to end."""

import itertools
import os
import time
from pathlib import Path

import pytest

from rdmatrain.launcher.logs import LinePrefixer, Sink


def forward(*chunks: bytes) -> bytes:
    prefixer = LinePrefixer(b"> ")
    return b"".join([*map(prefixer.feed, chunks), prefixer.close()])


def by_bytes(data: bytes) -> bytes:
    """The rule, one byte at a time: the oracle."""
    lines, line, after_cr = [], b"", False
    for byte in (data[i : i + 1] for i in range(len(data))):
        if byte == b"\n":
            if not after_cr:
                lines.append(line)
                line = b""
            after_cr = False
        elif byte == b"\r":
            if line:
                lines.append(line)
                line, after_cr = b"", True
        else:
            line += byte
            after_cr = False
    return b"".join(b"> " + text + b"\n" for text in [*lines, *([line] if line else [])])


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", b""),
        (b"a\nb\n", b"> a\n> b\n"),
        (b"a\n\nb", b"> a\n> \n> b\n"),
        (b"a\r\nb\r\n", b"> a\n> b\n"),
        (b"\r 10%\r 20%\r\n", b"> 10%\n>  20%\n".replace(b"> 10", b">  10")),
        (b"\xff\x00\xfe\n\x80", b"> \xff\x00\xfe\n> \x80\n"),
    ],
)
def test_lines_get_the_prefix(data: bytes, expected: bytes) -> None:
    assert forward(data) == expected


def test_every_short_stream_in_every_chunking_follows_the_rule() -> None:
    for length in range(1, 7):
        for letters in itertools.product(b"a\r\n", repeat=length):
            data = bytes(letters)
            expected = by_bytes(data)
            for cuts in range(1 << (length - 1)):
                ends = [i + 1 for i in range(length - 1) if cuts >> i & 1]
                chunks = [data[a:b] for a, b in itertools.pairwise([0, *ends, length])]
                assert forward(*chunks) == expected, chunks


def test_a_line_of_a_mebibyte_stays_whole_and_cheap() -> None:
    chunks = [b"x" * 64] * (1 << 14)
    started = time.process_time()
    assert forward(*chunks, b"\n") == b"> " + b"x" * (1 << 20) + b"\n"
    assert time.process_time() - started < 1.0


def test_a_line_without_end_does_not_grow_for_ever() -> None:
    prefixer = LinePrefixer(b"> ")
    chunk = b"x" * (1 << 20)
    written = sum(len(prefixer.feed(chunk)) for _ in range(20))
    assert written > 16 << 20


def test_a_sink_never_blocks_on_a_full_pipe_and_loses_nothing() -> None:
    reader, writer = os.pipe()
    try:
        sink = Sink(writer)
        sink.put(b"x" * 6000)
        sink.write_some()
        assert sink.num_pending_bytes == 6000 - 4096
        assert os.read(reader, 1 << 16) == b"x" * 4096
        sink.write_some()
        assert os.read(reader, 1 << 16) == b"x" * (6000 - 4096)
        assert sink.num_pending_bytes == 0
    finally:
        os.close(reader)
        os.close(writer)


def test_a_sink_whose_reader_has_gone_drops_what_it_has() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        sink = Sink(writer)
        sink.put(b"x")
        sink.write_some()
        assert sink.broken and sink.num_pending_bytes == 0
        sink.put(b"y")
        assert sink.num_pending_bytes == 0
    finally:
        os.close(writer)


def test_only_a_terminal_gets_colour_and_each_rank_its_own(tmp_path: Path) -> None:
    leader, follower = os.openpty()
    try:
        terminal = Sink(follower)
        first, second = (terminal.prefix(rank, color=True) for rank in range(2))
        assert first.startswith(b"\x1b[") and b"[0]: " in first and first.endswith(b"\x1b[0m")
        assert first.split(b"m")[0] != second.split(b"m")[0]
        assert terminal.prefix(0, color=False) == b"[0]: "
    finally:
        os.close(leader)
        os.close(follower)
    with (tmp_path / "log").open("wb") as file:
        assert Sink(file.fileno()).prefix(0, color=True) == b"[0]: "
