"""Calls that may never come back: names, disks of other hosts, and drivers of devices that hang.

They are made in threads that nobody waits for longer than their time, also not when this process
ends.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from time import monotonic
from typing import Any

LATE = "no answer within"
# How long at most for what computes all the time, and how long between two looks at it.
BUSY_S, SLICE_S = 5.0, 0.05
# So many looks at what never runs tell that it hangs.
LOOKS = 3


class _Caller(threading.Thread):
    """A thread with an end that others need not wait for."""

    def __init__(self, seconds: float, call: Callable[[], None]) -> None:
        super().__init__(target=call, name="probe", daemon=True)
        self.deadline = monotonic() + seconds
        self._ran, self._still = "", 0

    def is_busy(self) -> bool:
        """Tell whether it computes, or would if there was a CPU for it, and so does not hang.

        Who waits for the interpreter's lock sleeps most of the time, and runs ever again.
        """
        before, self._ran = self._ran, self._fact("schedstat")
        is_running = self._fact("stat").rpartition(")")[2].split()[:1] == ["R"]
        self._still = 0 if is_running or self._ran != before else self._still + 1
        return self._still < LOOKS

    def _fact(self, name: str) -> str:
        try:
            return Path(f"/proc/self/task/{self.native_id}/{name}").read_text("ascii", "replace")
        except OSError:  # it has just ended, or this kernel does not tell
            return ""


def in_time(seconds: float, call: Callable[[], None]) -> str:
    """Call something that writes down what it finds; return why it did not end well, or nothing.

    What does not end in time, which is told with :data:`LATE`, goes on in its thread.
    """
    done, problems = threading.Event(), []

    def run() -> None:
        try:
            call()
        except Exception as error:
            problems.append(_said(error))
        finally:
            done.set()

    try:
        _Caller(seconds, run).start()
    except RuntimeError as error:  # no more threads are allowed
        return _said(error)
    if not done.wait(seconds):
        return f"{LATE} {seconds:g} s"
    return "".join(problems)


def all_ended(at_once: bool = False) -> bool:
    """Tell whether all calls have ended; wait as long as their time is not over.

    What ends with this process in the middle of a call would leave its files behind.

    Args:
        at_once: do not wait.

    """
    callers = [each for each in threading.enumerate() if isinstance(each, _Caller)]
    for each in callers:
        each.join(0.0 if at_once else max(0.0, each.deadline - monotonic()))
    return not any(each.is_alive() for each in callers)


class Together:
    """Calls that are all made at the first question, with one limit of time to wait for them all.

    Only waiting for what sleeps counts: on a machine that is busy, answers take longer, and are
    none the worse. For what computes, there is :data:`BUSY_S` more, for all of them too.

    Args:
        calls: by name.
        turns: names of which each is called after the one before it; all others are called at once.
        seconds: longest time that is waited for all of them.

    """

    def __init__(
        self, calls: Mapping[str, Callable[[], Any]], turns: Sequence[Sequence[str]], seconds: float
    ) -> None:
        alone = set(calls).difference(*turns)
        self._calls, self._lines = calls, [*turns, *([name] for name in sorted(alone))]
        self._seconds = self._left = seconds
        self._busy_left = BUSY_S
        self._answers: dict[str, Any] = {}
        self._ended = {name: threading.Event() for name in calls}
        self._callers: dict[str, _Caller] = {}
        self._is_started = False

    def answer(self, name: str) -> Any:
        """Return what a call gave; where it did not end in time, ``error`` and ``unanswered``."""
        if not self._is_started:
            self._start()
        start = monotonic()
        if not (self._ended[name].wait(self._left) or self._ends_soon(name)):
            self._answers.setdefault(
                name, {"error": f"{LATE} {self._seconds:g} s", "unanswered": True}
            )
        self._left = max(0.0, self._left - (monotonic() - start))
        return self._answers[name]

    def _ends_soon(self, name: str) -> bool:
        """Wait longer for what computes, but not for ever."""
        caller, end = self._callers.get(name), monotonic() + self._busy_left
        while caller and caller.is_busy() and monotonic() < end:
            if self._ended[name].wait(SLICE_S):
                break
        self._busy_left = max(0.0, end - monotonic())
        return self._ended[name].is_set()

    def _start(self) -> None:
        self._is_started = True
        for names in self._lines:

            def run(names: Sequence[str] = names) -> None:
                for name in names:
                    self._call(name)

            caller = _Caller(self._seconds, run)
            try:
                caller.start()
                self._callers |= dict.fromkeys(names, caller)
            except RuntimeError as error:  # no more threads are allowed
                for name in names:
                    self._end(name, {"error": _said(error), "unanswered": True})

    def _call(self, name: str) -> None:
        try:
            self._end(name, self._calls[name]())
        except Exception as error:
            self._end(name, {"error": _said(error)})

    def _end(self, name: str, answer: Any) -> None:
        # Who was told that there is none is told so again.
        self._answers.setdefault(name, answer)
        self._ended[name].set()


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
