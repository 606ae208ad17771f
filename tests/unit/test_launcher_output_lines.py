# SPDX-License-Identifier: Apache-2.0
"""Lines are cut the same way wherever the chunks of a stream happen to end."""

import itertools
import time

import pytest

from rdmatrain.launcher.output.lines import (
    LineCutter,
    colored,
    containing,
    encoded,
    marked,
    prefix_text,
)


def cut(*chunks: bytes) -> bytes:
    cutter = LineCutter()
    return b"".join([*map(cutter.feed, chunks), cutter.close()])


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
    return b"".join(text + b"\n" for text in [*lines, *([line] if line else [])])


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", b""),
        (b"a\nb\n", b"a\nb\n"),
        (b"a\n\nb", b"a\n\nb\n"),
        (b"a\r\nb\r\n", b"a\nb\n"),
        (b"\r 10%\r 20%\r\n", b" 10%\n 20%\n"),
        (b"\xff\x00\xfe\n\x80", b"\xff\x00\xfe\n\x80\n"),
    ],
)
def test_streams_become_whole_lines(data: bytes, expected: bytes) -> None:
    assert cut(data) == expected


def test_every_short_stream_in_every_chunking_follows_the_rule() -> None:
    for length in range(1, 7):
        for letters in itertools.product(b"a\r\n", repeat=length):
            data = bytes(letters)
            expected = by_bytes(data)
            for cuts in range(1 << (length - 1)):
                ends = [i + 1 for i in range(length - 1) if cuts >> i & 1]
                chunks = [data[a:b] for a, b in itertools.pairwise([0, *ends, length])]
                assert cut(*chunks) == expected, chunks


def test_a_line_of_a_mebibyte_stays_whole_and_cheap() -> None:
    chunks = [b"x" * 64] * (1 << 14)
    started = time.process_time()
    assert cut(*chunks, b"\n") == b"x" * (1 << 20) + b"\n"
    assert time.process_time() - started < 1.0


def test_a_line_without_end_does_not_grow_for_ever() -> None:
    cutter = LineCutter()
    chunk = b"x" * (1 << 20)
    assert sum(len(cutter.feed(chunk)) for _ in range(20)) > 16 << 20


@pytest.mark.parametrize(
    ("lines", "expected"), [(b"", b""), (b"\n", b"> \n"), (b"a\n\nb\n", b"> a\n> \n> b\n")]
)
def test_each_line_gets_the_prefix(lines: bytes, expected: bytes) -> None:
    assert marked(lines, b"> ") == expected


def test_lines_that_contain_a_text_are_kept_whole_and_in_order() -> None:
    lines = b"an apple\nnothing\n\x0borange\x0c!\n\napple orange\n"
    assert containing(lines, [b"apple", b"orange"]) == (
        b"an apple\n\x0borange\x0c!\napple orange\n"
    )
    assert containing(lines, [b"pear"]) == containing(b"", [b"a"]) == b""


def test_the_prefix_says_host_and_rank_or_what_the_template_says() -> None:
    names = {"host": "node-a", "role": "trainer", "rank": 13, "local_rank": 5}
    assert prefix_text("", **names) == "node-a:13│ "
    template = "[${role_name}${local_rank}/${rank}@$host] ${other} $"
    assert prefix_text(template, **names) == "[trainer5/13@node-a] ${other} $"


def test_each_rank_has_its_colour() -> None:
    first, second = colored("x", 0), colored("x", 1)
    assert first.startswith("\x1b[") and first.endswith("x\x1b[0m")
    assert first != second


@pytest.mark.parametrize(
    ("text", "encoding", "expected"),
    [
        ("a:0│ ", "utf-8", "a:0│ ".encode()),
        ("a:0│ ", "ascii", b"a:0| "),
        ("a:0│ ", "latin-1", b"a:0| "),
        ("ü│", "latin-1", b"\xfc|"),
        ("\udcff", "utf-8", b"\xff"),
        ("\ud800", "utf-8", b"\\ud800"),
    ],
)
def test_what_an_encoding_cannot_show_becomes_ascii(
    text: str, encoding: str, expected: bytes
) -> None:
    assert encoded(text, encoding) == expected
