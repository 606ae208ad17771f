"""Signals as data: handlers only wake the loop, which reads what arrived."""

import signal
import socket
from types import FrameType, TracebackType

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)


class SignalInbox:
    """Collects ``STOP_SIGNALS`` and SIGCHLD while it is entered; main thread only.

    A signal that was ignored on entry (``nohup``, a shell's background job) stays ignored.
    """

    def __init__(self) -> None:
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)
        self._previous: dict[signal.Signals, object] = {}
        self._previous_fd = -1

    def __enter__(self) -> "SignalInbox":
        self._previous_fd = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        for number in (*STOP_SIGNALS, signal.SIGCHLD):
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
        self._reader.close()
        self._writer.close()

    def fileno(self) -> int:
        """Return the descriptor that is readable when a signal has come."""
        return self._reader.fileno()

    def drain(self) -> list[signal.Signals]:
        """Return the stop signals that came since the last call, in order."""
        received = b""
        try:
            while chunk := self._reader.recv(4096):
                received += chunk
        except BlockingIOError:
            pass
        return [signal.Signals(number) for number in received if number in STOP_SIGNALS]


def _only_wake(number: int, frame: FrameType | None) -> None:
    """Do nothing: that a handler exists makes the interpreter write to the wake-up descriptor."""
