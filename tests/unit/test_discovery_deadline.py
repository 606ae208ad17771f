# SPDX-License-Identifier: Apache-2.0
"""Calls that may never come back, and who waits for them."""

import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from rdmatrain.discovery import deadline
from rdmatrain.discovery.deadline import LATE, Together, all_ended, in_time

UNANSWERED = {"error": f"{LATE} 0.05 s", "unanswered": True}


@pytest.fixture
def let_go() -> Iterator[threading.Event]:
    """What hanging calls wait for: at a test's end they end."""
    event = threading.Event()
    yield event
    event.set()
    for each in threading.enumerate():
        if isinstance(each, deadline._Caller):
            each.join(30)
            assert not each.is_alive()


def test_a_call_that_hangs_is_given_up() -> None:
    (read, write), waits = os.pipe(), []
    assert in_time(0.01, lambda: waits.append(os.read(read, 1))) == f"{LATE} 0.01 s"
    os.write(write, b"x")
    assert in_time(5.0, lambda: None) == ""
    os.close(write)


def test_the_first_question_starts_all_and_each_turn_waits_for_the_one_before() -> None:
    called: list[str] = []
    gate = threading.Event()
    both = threading.Barrier(2, timeout=30)
    calls: dict[str, Callable[[], Any]] = {
        "first": lambda: called.append("first") or gate.wait(30),
        "second": gate.is_set,
        "one": lambda: both.wait() in {0, 1},
        "other": lambda: both.wait() in {0, 1},
    }
    together = Together(calls, [("first", "second")], 30.0)
    assert called == []
    assert together.answer("one") is together.answer("other") is True
    gate.set()
    assert together.answer("second") is True
    assert called == ["first"]


def test_all_are_waited_for_as_long_as_one(
    let_go: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deadline, "BUSY_S", 1e9)  # not for what sleeps
    hang = lambda: let_go.wait(20)  # noqa: E731
    together = Together({"a": hang, "b": hang, "c": hang, "d": dict}, [("a", "b")], 0.05)
    assert together.answer("a") == UNANSWERED
    assert together._left == 0
    assert [together.answer(name) for name in "bc"] == [UNANSWERED] * 2
    assert together.answer("d") == {}


def test_who_was_told_that_there_is_no_answer_is_told_so_again(let_go: threading.Event) -> None:
    ended = threading.Event()

    def late() -> str:
        let_go.wait(60)
        return "late"

    together = Together({"a": late, "b": ended.set}, [("a", "b")], 0.05)
    assert together.answer("a") == UNANSWERED
    let_go.set()
    assert ended.wait(30)
    assert together.answer("a") == UNANSWERED


def test_time_in_which_nobody_waits_does_not_count(
    let_go: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    together = Together({"a": lambda: let_go.wait(60), "b": dict}, [], 30.0)
    together.answer("b")
    monkeypatch.setattr(deadline, "monotonic", lambda: time.monotonic() + 1000)
    threading.Timer(0.05, let_go.set).start()
    assert together.answer("a") is True


def test_what_computes_does_not_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    ends, block = [False], bytes(1 << 20)

    def computes() -> str:
        while not ends[0]:
            hashlib.sha256(block)  # without the interpreter's lock, as a driver does
        return "computed"

    monkeypatch.setattr(deadline, "BUSY_S", 60.0)
    together = Together({"a": computes}, [], 0.01)
    threading.Timer(0.3, lambda: ends.__setitem__(0, True)).start()
    assert together.answer("a") == "computed"
    ends[0] = False
    monkeypatch.setattr(deadline, "BUSY_S", 0.02)
    together = Together({"a": computes, "b": computes}, [], 0.01)
    assert together.answer("a")["unanswered"] is True
    assert together._busy_left == 0  # for the others too
    assert together.answer("b")["unanswered"] is True
    ends[0] = True


def test_what_has_not_run_for_some_looks_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who waits for the interpreter's lock sleeps most of the time, and runs now and then."""
    caller = deadline._Caller(1.0, lambda: None)
    looks = ["S1", "S1", "S1", "S2", "S2", "S2", "S2", "D2", "R2", "S2"]
    facts = iter([fact for state, ran in looks for fact in (f"{ran} 0 0", f"7 (a) b) {state} 1")])
    monkeypatch.setattr(caller, "_fact", lambda _: next(facts))
    busy = [caller.is_busy() for _ in looks]
    assert busy == [True] * 6 + [False] * 2 + [True] * 2


def test_a_call_that_breaks_is_told_and_those_after_it_are_made() -> None:
    together = Together({"a": lambda: 1 // 0, "b": dict}, [("a", "b")], 30.0)
    assert "ZeroDivisionError" in together.answer("a")["error"]
    assert together.answer("b") == {}


def test_where_no_more_threads_are_allowed_nothing_is_answered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def start(_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(deadline._Caller, "start", start)
    said = "RuntimeError: can't start new thread"
    assert Together({"a": dict}, [], 30.0).answer("a") == {"error": said, "unanswered": True}
    assert in_time(30.0, dict) == said


def test_an_end_is_waited_for_until_its_time_is_over(let_go: threading.Event) -> None:
    ended: list[str] = []

    def slow() -> None:
        let_go.wait(60)
        ended.append("slow")

    threading.Timer(0.05, let_go.set).start()
    Together({"slow": slow, "b": dict}, [], 30.0).answer("b")
    assert all_ended()
    assert ended == ["slow"]


def test_nobody_waits_for_an_end_longer_than_its_time(let_go: threading.Event) -> None:
    in_time(0.01, lambda: let_go.wait(60) and None)
    assert not all_ended()


def test_who_ends_at_once_waits_for_no_time_to_be_over(let_go: threading.Event) -> None:
    Together({"slow": lambda: let_go.wait(60), "b": dict}, [], 600.0).answer("b")
    assert not all_ended(at_once=True)
