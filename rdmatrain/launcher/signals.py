"""Signals as data: handlers only wake the loop, which reads what arrived."""

import os
import signal
from collections.abc import Sequence
from types import FrameType, TracebackType


class SignalInbox:
    """Collects stop signals and SIGCHLD while it is entered; main thread only.

    A signal that was ignored on entry (``nohup``, a shell's background job) stays ignored.

    Args:
        stop: names of the signals that stop the job.

    """

    def __init__(self, stop: Sequence[str]) -> None:
        self._stop = tuple(signal.Signals[name] for name in stop)
        # A pipe: a socket has room for a few hundred signals, and SIGCHLD may be more.
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._reader, False)
        os.set_blocking(self._writer, False)
        self._previous: dict[signal.Signals, object] = {}
        self._previous_fd = -1

    def __enter__(self) -> "SignalInbox":
        self._previous_fd = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        for number in (*self._stop, signal.SIGCHLD):
            before = signal.getsignal(number)
            if number == signal.SIGCHLD or before is not signal.SIG_IGN:
                self._previous[number] = before
                signal.signal(number, _only_wake)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, before in self._previous.items():
            signal.signal(number, before or signal.SIG_DFL)  # type: ignore[arg-type]
        signal.set_wakeup_fd(self._previous_fd)
        os.close(self._reader)
        os.close(self._writer)

    def fileno(self) -> int:
        """Return the descriptor that is readable when a signal has come."""
        return self._reader

    def drain(self) -> list[signal.Signals]:
        """Return the stop signals that came since the last call, in order."""
        received = b""
        try:
            while chunk := os.read(self._reader, 4096):
                received += chunk
        except BlockingIOError:
            pass
        return [signal.Signals(number) for number in received if number in self._stop]


def _only_wake(number: int, frame: FrameType | None) -> None:
    """Do nothing: that a handler exists makes the interpreter write to the wake-up descriptor."""
