# SPDX-License-Identifier: Apache-2.0
"""The watcher on processes that beat, without torch: whether they work, and where they stand."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import rdmatrain
from rdmatrain import autoload
from rdmatrain.launcher.messages import RankState
from rdmatrain.launcher.watch.activity import Thread, read_threads
from rdmatrain.launcher.watch.watcher import MAX_STEP_S, STEP_S, WatchedTime, Watcher

ROOT = str(Path(rdmatrain.__file__).parents[1])
STEP = 0.2
HEAD = (
    "import os, subprocess, sys, threading, time\n"
    "from rdmatrain.launcher.watch import beat\n"
    "beats = beat.start(os.environ['RDMATRAIN_WATCH'])\n"
)
SLEEP = "threading.Event().wait(60)\n"

Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def watcher(tmp_path: Path) -> Iterator[Watcher]:
    watcher = Watcher(tmp_path)
    yield watcher
    watcher.end()


@pytest.fixture
def start(watcher: Watcher) -> Iterator[Start]:
    """Start workers that beat and watch them as ranks 5, 6...; return the first."""
    started: list[subprocess.Popen[str]] = []

    def run(*bodies: str) -> subprocess.Popen[str]:
        for local_rank, body in enumerate(bodies):
            process = subprocess.Popen(
                [sys.executable, "-c", HEAD + body],
                env={"PYTHONPATH": ROOT, "PATH": os.environ["PATH"]}
                | watcher.environment(local_rank),
                stdout=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
            started.append(process)
        watcher.begin({n: (5 + n, process.pid) for n, process in enumerate(started)})
        return started[0]

    yield run
    for process in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate(timeout=20)


def until(watcher: Watcher, wanted: Callable[[RankState], bool]) -> list[RankState]:
    """Observe until all workers are as wanted."""
    end = time.monotonic() + 20.0
    while time.monotonic() < end:
        states = list(watcher.observe())
        if states and all(wanted(state) for state in states):
            return states
        time.sleep(STEP)
    raise AssertionError(f"never seen; the last was {watcher.observe()}")


def has_beaten(state: RankState) -> bool:
    return state.beat_s is not None


WORK = {
    "computes": "while True: pass\n",
    "computes a little": "while True: time.sleep(0.1); sum(range(10**6))\n",
    "writes a byte": "while True: time.sleep(0.1); open('/dev/null', 'w').write('x')\n",
    "a child computes": "subprocess.run([sys.executable, '-c', 'while True: pass'])\n",
    "sleeping children": "while True: subprocess.run(['sleep', '0.3'])\n",
    "short children": "subprocess.run(['sh', '-c', 'while sleep 0.05; do : ; done'])\n",
}


def test_one_that_works_is_not_idle(watcher: Watcher, start: Start) -> None:
    start(*WORK.values())
    until(watcher, has_beaten)
    idle = dict.fromkeys(WORK, 0.0)
    end = time.monotonic() + 1.5
    while time.monotonic() < end:
        time.sleep(STEP)
        for name, state in zip(WORK, watcher.observe(), strict=True):
            idle[name] = max(idle[name], state.idle_s)
    assert max(idle.values()) < 0.8, idle


def test_one_that_sleeps_is_idle_and_beats_and_so_is_one_whose_child_sleeps(
    watcher: Watcher, start: Start
) -> None:
    start(SLEEP, "subprocess.run(['sleep', '60'])\n")
    until(watcher, has_beaten)
    states = until(watcher, lambda state: state.idle_s > 1.2)
    assert [(each.rank, each.process, each.waiting_s) for each in states] == [
        (5, "S", None),
        (6, "S", None),
    ]
    assert all(each.beat_s is not None and each.beat_s < 1.0 for each in states)


MS = 10**6


@pytest.mark.parametrize(
    ("cpu_ms", "ready_ms", "slices", "state", "busy"),
    [
        (0, 0, 0, "S", False),
        (1, 1, 3, "S", False),
        (3, 0, 3, "S", True),  # a slow download
        (1, 600, 50, "S", True),  # it wanted to run, and was not let
        (0, 0, 0, "R", True),  # not once
        (1, 1, 2, "R", False),  # caught at its moment
        (0, 0, 0, "D", True),
        (0, 0, 0, "T", False),
    ],
)
def test_a_thread_is_busy_if_it_gets_on_or_wants_to(
    cpu_ms: int, ready_ms: int, slices: int, state: str, busy: bool
) -> None:
    before = Thread("S", 70 * MS, 50 * MS, 9, 0)
    now = Thread(state, (70 + cpu_ms) * MS, (50 + ready_ms) * MS, 9 + slices, 0)
    assert now.is_busy(before, 1.0, 0.002) is busy


def test_without_the_schedulers_books_ticks_must_do() -> None:
    before = Thread("S", 70 * MS, 0, -1, 10 * MS)
    assert not Thread("S", 80 * MS, 0, -1, 10 * MS).is_busy(before, 1.0, 0.002)
    assert Thread("S", 90 * MS, 0, -1, 10 * MS).is_busy(before, 1.0, 0.002)
    assert Thread("R", 70 * MS, 0, -1, 10 * MS).is_busy(before, 1.0, 0.002)


def test_one_that_is_stopped_says_where_it_stands(watcher: Watcher, start: Start) -> None:
    process = start(f"def stuck():\n    {SLEEP}stuck()\n")
    until(watcher, has_beaten)
    os.kill(process.pid, signal.SIGSTOP)
    state = until(watcher, lambda state: state.stopped_s > 0.9)[0]
    assert state.process == "T"
    assert state.beat_s is not None
    assert state.beat_s > 0.9
    stacks = watcher.stacks(0).splitlines()
    assert stacks[0] == "Main thread (most recent call first):"
    assert stacks[-1].startswith("  File")
    assert any(line.endswith("in stuck") for line in stacks[:6])
    until(watcher, lambda state: state.process == "T")  # and does not go on


def test_one_that_holds_the_gil_says_where_it_stands(watcher: Watcher, start: Start) -> None:
    """Its other threads ask for the GIL without end, which is no work."""
    start(
        "import ctypes\n"
        "def ask():\n    while True: time.sleep(0.01)\n"
        "for _ in range(5): threading.Thread(target=ask, daemon=True).start()\n"
        "def stuck():\n    while True: ctypes.PyDLL(None).sleep(60)\n"
        "time.sleep(0.6)\nstuck()\n"
    )
    until(watcher, has_beaten)
    until(watcher, lambda state: (state.beat_s or 0.0) > 1.2 and state.idle_s > 1.0)
    began = time.monotonic()
    for _ in range(2):  # the second time it says only what is new
        stacks = watcher.stacks(0)
        assert stacks.count("in stuck") == 1
        assert stacks.startswith("Main thread")
    assert time.monotonic() - began < 1.0


def test_stacks_of_one_that_does_not_answer_take_no_longer(watcher: Watcher, start: Start) -> None:
    process = start(
        "import signal\nsignal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))\n" + SLEEP
    )
    until(watcher, has_beaten)
    time.sleep(0.2)
    # Its beating thread takes the signal; blocked in all threads it would take none.
    assert "Main thread" in watcher.stacks(0)
    os.kill(process.pid, signal.SIGKILL)
    until_gone(watcher)
    began = time.monotonic()
    assert watcher.stacks(0) == ""
    assert watcher.stacks(3) == ""
    assert time.monotonic() - began < 1.5


def until_gone(watcher: Watcher) -> None:
    end = time.monotonic() + 10.0
    while watcher.observe() and time.monotonic() < end:
        time.sleep(0.05)
    assert watcher.observe() == ()


def test_what_it_died_of(watcher: Watcher, start: Start) -> None:
    process = start("raise KeyError('x')\n")
    process.wait(20)
    assert watcher.observe() == ()
    assert watcher.error_of(0) == "KeyError: 'x' (<string>:4)"
    assert watcher.status_of(0) == ""
    assert watcher.error_of(1) == ""


def test_a_child_does_not_beat_for_its_parent(watcher: Watcher, start: Start) -> None:
    process = start(
        "child = subprocess.run([sys.executable, '-c', "
        "'import os; from rdmatrain.launcher.watch import beat; "
        'print(beat.start(os.environ["RDMATRAIN_WATCH"]), flush=True)\'])\n'
        "if os.fork() == 0: time.sleep(60)\n"
        "print(beats, flush=True)\n" + SLEEP
    )
    assert process.stdout is not None
    assert [process.stdout.readline() for _ in range(2)] == ["False\n", "True\n"]
    until(watcher, has_beaten)
    os.kill(process.pid, signal.SIGSTOP)
    until(watcher, lambda state: (state.beat_s or 0.0) > 1.5)


def test_beats_cost_next_to_nothing(watcher: Watcher, start: Start) -> None:
    process = start("time.sleep(0.2)\nprint(time.process_time_ns(), flush=True)\ntime.sleep(2)\n"
                    "print(time.process_time_ns(), flush=True)\n" + SLEEP)  # fmt: skip
    assert process.stdout is not None
    before, after = (int(process.stdout.readline()) for _ in range(2))
    assert (after - before) * 1e-9 / 2 < 0.004  # measured: 0.0002


def test_a_page_that_is_gone_does_not_break_a_program(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    hook = sys.excepthook
    monkeypatch.delenv("RDMATRAIN_WATCH", raising=False)
    autoload.register()
    assert caplog.text == ""
    monkeypatch.setenv("RDMATRAIN_WATCH", "/nowhere/0.page")
    autoload.register()
    assert "cannot see whether this process hangs" in caplog.text
    assert sys.excepthook is hook
    assert "rdmatrain-beat" not in {thread.name for thread in threading.enumerate()}


def test_times_in_which_nobody_watched_do_not_count() -> None:
    watched = WatchedTime()
    began = watched.now_ns
    second = 10**9
    assert watched.step(began + second) == 1.0
    assert watched.age_s(began) == 1.0
    paused = began + 61 * second
    assert watched.step(paused) == STEP_S
    assert watched.age_s(began) == pytest.approx(1.0 + STEP_S)
    assert watched.age_s(paused) == 0.0
    assert watched.step(paused + int(MAX_STEP_S * second)) == MAX_STEP_S
    assert watched.age_s(began) == pytest.approx(1.0 + STEP_S + MAX_STEP_S)
    assert watched.age_s(paused) == pytest.approx(MAX_STEP_S)


def test_the_thread_of_gloo_that_always_wakes_tells_nothing() -> None:
    ended, named = threading.Event(), threading.Event()

    def be_gloos() -> None:
        Path("/proc/thread-self/comm").write_text("gloo_tcp_loop")
        named.set()
        ended.wait()

    thread = threading.Thread(target=be_gloos)
    thread.start()
    try:
        assert named.wait(30)
        seen = read_threads(os.getpid())
        assert str(os.getpid()) in seen
        assert str(thread.native_id) not in seen
    finally:
        ended.set()
        thread.join()
