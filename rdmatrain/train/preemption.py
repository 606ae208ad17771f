"""A signal that says the process must stop is noted, and the step under way comes to its end."""

import os
import signal
import threading
from collections.abc import Sequence
from types import FrameType, TracebackType
from typing import Any

PREEMPTED = 128 + signal.SIGTERM  # the exit code of a job that stopped because it was told to


class Preemption:
    """Handles signals while its ``with`` block runs; whoever asks may then stop between steps.

    A handler in Python that was there before is called as well, and there again afterwards. A child
    that was forked meanwhile dies of the signal, as it would have without.

    Args:
        signals: what stops the job: SIGTERM, from Kubernetes, torchrun and ``rdmatrain run``; Slurm
            sends what ``--signal`` says, such as SIGUSR1.

    Attributes:
        requested: whether this process was told to stop.

    Raises:
        RuntimeError: on entry: not the main thread, where Python takes signals; or native code
            handles one, and would no longer get it.

    """

    def __init__(self, signals: Sequence[int] = (signal.SIGTERM,)) -> None:
        self._signals = [signal.Signals(number) for number in signals]
        self._before: dict[int, Any] = {}
        self._pid = os.getpid()
        self.requested = False

    def __enter__(self) -> "Preemption":
        if self._signals and threading.current_thread() is not threading.main_thread():
            raise RuntimeError("signals can be handled on the main thread only")
        for number in self._signals:
            if signal.getsignal(number) is None:
                raise RuntimeError(f"{number.name} is handled by native code: choose another")
        self._before = {number: signal.signal(number, self._note) for number in self._signals}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._pid:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        self.requested = True
        before = self._before[number]
        if callable(before) and before is not signal.default_int_handler:
            before(number, frame)
