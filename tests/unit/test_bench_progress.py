# SPDX-License-Identifier: Apache-2.0
"""What a sweep shows of how far it is, by a clock that stands still."""

import io
import re
import sys
from types import SimpleNamespace

import pytest

from rdmatrain.bench import progress
from rdmatrain.bench.conduct import Standing
from rdmatrain.bench.model import Case, Entry

CASE = Case("all_reduce", "float32", "SUM", 4096, True)


class Terminal(io.StringIO):
    """Standard error that is a terminal."""

    def isatty(self) -> bool:
        return True


def standing(number: int, turns: int, left_s: float) -> Standing:
    return Standing(number, CASE, Entry("gloo"), turns, 10, left_s)


def on_terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """No fixture: pytest takes standard error back before it calls a test."""
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    return terminal


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    now = SimpleNamespace(s=100.0)
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: now.s))
    return now


def test_a_log_gets_a_line_for_each_round_that_is_done(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.shown(quiet=False) as tell:
        for number, turns, left_s in ((0, 0, 0.0), (0, 1, 9.0), (1, 5, 125.4), (1, 6, 100.0)):
            tell(standing(number, turns, left_s))
    assert capsys.readouterr().err == "rdmatrain bench: 2:05 left, round 1 is done\n"


def test_a_log_gets_lines_within_a_round_that_is_long(
    capsys: pytest.CaptureFixture[str], clock: SimpleNamespace
) -> None:
    with progress.shown(quiet=False) as tell:
        for after_s in (1.0, 9.9, 10.0, 15.0, 20.1):
            clock.s = 100.0 + after_s
            tell(standing(0, 3, 30.0))
    case = "all_reduce of 4096 bytes of float32"
    assert (
        capsys.readouterr().err.splitlines()
        == [f"rdmatrain bench: 0:30 left, round 1: gloo, {case}"] * 2
    )


def test_what_is_left_is_guessed_from_what_was_done(clock: SimpleNamespace) -> None:
    left = progress.Left([2, 4, 8])
    clock.s += 50.0  # before the first one, which counts for none
    assert left.text() == ""
    clock.s += 10.0
    assert left.text() == "1:00 left, "
    clock.s += 30.0
    assert left.text() == "0:53 left, "
    assert progress.Left([]).text() == ""


def test_of_the_first_turn_nobody_knows_how_long_it_takes() -> None:
    assert progress._left(standing(0, 0, 0.0)) == ""
    assert progress._left(standing(0, 1, 59.6)) == "1:00 left, "


def test_nothing_is_shown_where_nothing_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = on_terminal(monkeypatch)
    with progress.shown(quiet=True) as tell:
        tell(standing(3, 5, 9.0))
    assert terminal.getvalue() == ""


def test_a_terminal_gets_a_bar_that_is_drawn_anew_a_few_times_a_second(
    monkeypatch: pytest.MonkeyPatch, clock: SimpleNamespace
) -> None:
    pytest.importorskip("rich")
    terminal = on_terminal(monkeypatch)

    def shown() -> str:
        text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.getvalue()[so_far:])
        return " ".join(text.split())

    with progress.shown(quiet=False) as tell:
        for after_s, turns, expected in (
            (0.0, 1, "0:21 left, round 1: gloo, all_reduce of 4096 bytes of float32"),
            (0.5 * progress.REDRAW_S, 2, ""),
            (progress.REDRAW_S, 3, "0:23 left, round 1: gloo"),
        ):
            so_far = len(terminal.getvalue())
            clock.s = 100.0 + after_s
            tell(standing(0, turns, 20.0 + turns))
            assert shown() == "" if not expected else expected in shown(), shown()
