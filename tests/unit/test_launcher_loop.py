# SPDX-License-Identifier: Apache-2.0
"""Descriptors and timers call back once each, in order, whatever a callback does to others."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from rdmatrain.launcher.loop import Loop


@pytest.fixture
def loop() -> Iterator[Loop]:
    made = Loop()
    yield made
    made.close()


def test_timers_come_in_the_order_of_their_times(loop: Loop) -> None:
    seen: list[str] = []
    for name, delay_s in (("c", 0.03), ("a", 0.01), ("b", 0.01)):
        loop.later(delay_s, lambda name=name: seen.append(name))
    began = time.monotonic()
    loop.run(lambda: len(seen) == 3)
    assert seen == ["a", "b", "c"]
    assert 0.03 <= time.monotonic() - began < 1.0


def test_a_cancelled_timer_does_not_come(loop: Loop) -> None:
    seen: list[str] = []
    never = loop.later(0.0, lambda: seen.append("never"))
    never.cancel()
    never.cancel()
    loop.later(0.01, lambda: seen.append("end"))
    loop.run(lambda: bool(seen))
    assert seen == ["end"]


def test_reading_and_writing_are_called_apart(loop: Loop) -> None:
    reader, writer = os.pipe()
    got: list[bytes] = []

    def write() -> None:
        os.write(writer, b"x")
        loop.watch(writer)

    loop.watch(writer, write=write)
    loop.watch(reader, read=lambda: got.append(os.read(reader, 10)))
    loop.run(lambda: bool(got))
    assert got == [b"x"]
    loop.watch(reader)
    os.close(reader)
    os.close(writer)


def test_a_callback_may_take_another_out_that_was_ready_with_it(loop: Loop) -> None:
    pipes = [os.pipe() for _ in range(2)]
    called: list[int] = []

    def take_both_out(which: int) -> None:
        called.append(which)
        for reader, _ in pipes:
            loop.watch(reader)

    for which, (reader, writer) in enumerate(pipes):
        os.write(writer, b"x")
        loop.watch(reader, read=lambda which=which: take_both_out(which))
    loop.later(0.05, lambda: called.append(-1))
    loop.run(lambda: -1 in called)
    assert len(called) == 2
    for pipe in pipes:
        for fd in pipe:
            os.close(fd)


def test_a_descriptor_may_be_closed_and_used_again(loop: Loop) -> None:
    reader, writer = os.pipe()
    seen: list[str] = []
    loop.watch(reader, read=lambda: seen.append("old"))
    loop.watch(reader)
    os.close(reader)
    other, other_writer = os.pipe()
    assert other == reader
    loop.watch(other, read=lambda: seen.append("new"))
    os.write(other_writer, b"x")
    loop.run(lambda: bool(seen))
    assert seen == ["new"]
    loop.watch(other)
    for fd in (other, other_writer, writer):
        os.close(fd)


def test_a_regular_file_is_always_ready(loop: Loop, tmp_path: Path) -> None:
    seen: list[str] = []
    with (tmp_path / "log").open("wb") as file:
        loop.watch(file.fileno(), write=lambda: seen.append("ready"))
        loop.run(lambda: bool(seen))
        loop.watch(file.fileno())


def test_nothing_is_done_when_it_is_done_already(loop: Loop) -> None:
    loop.later(0.0, lambda: pytest.fail("called"))
    loop.run(lambda: True)


def test_cancelled_timers_do_not_pile_up(loop: Loop) -> None:
    kept = [loop.later(60.0, lambda: None) for _ in range(100)]
    for _ in range(20_000):
        loop.later(60.0, lambda: None).cancel()
    assert len(loop._timers) <= 2048
    seen: list[int] = []
    loop.later(0.0, lambda: seen.append(1))
    loop.run(lambda: bool(seen))
    assert sum(timer.callback is not None for *_, timer in loop._timers) == len(kept)
