"""When and where the flight recorder is written: on an error, on a signal, on request.

The ring itself is in C and always runs. A thread waits for its events, so that a trace is written
while the program waits in C, and no error is delayed. It never outlives a fork.
"""

import atexit
import logging
import os
import pickle
import signal
import threading
from pathlib import Path
from time import monotonic, monotonic_ns, time_ns
from typing import Any

from rdmatrain import _core
from rdmatrain.comm.trace import Group, Record, make_trace
from rdmatrain.config import Settings, load_settings, recorder_folder
from rdmatrain.errors import SettingError

logger = logging.getLogger(__name__)

# Errors that follow one another closely are in one file.
ERROR_PAUSE_SECONDS = 10.0
# Of so many groups, those that have posted nothing for long are forgotten, the first one never.
MAX_GROUPS = 1024


class _Watcher(threading.Thread):
    """Writes the trace at each event, until it is stopped."""

    def __init__(self) -> None:
        super().__init__(name="rdmatrain-recorder", daemon=True)
        self.fd = os.eventfd(0, os.EFD_CLOEXEC)
        self._stopping = False
        self._errors, self._signals, _ = _core.recorder_events()
        self._next_error = 0.0
        _core.recorder_notify(self.fd)

    def run(self) -> None:
        while not self._stopping:
            os.eventfd_read(self.fd)
            self._catch_up(monotonic())

    def stop(self) -> None:
        """End the thread; an error that it left out is written now."""
        _core.recorder_notify(-1)
        self._stopping = True
        os.eventfd_write(self.fd, 1)
        self.join(timeout=5)
        if not self.is_alive():  # else it writes, to something very slow
            self._catch_up(float("inf"))

    def _catch_up(self, now: float) -> None:
        errors, signals, text = _core.recorder_events()
        reason = ""
        if signals != self._signals:
            reason = "signal"
            self._signals = signals
        if errors != self._errors and now >= self._next_error:
            reason = f"error: {text}"
            self._errors = errors
            self._next_error = now + ERROR_PAUSE_SECONDS
        if reason:
            _write_or_warn(reason)


_lock = threading.Lock()  # of what follows
_groups: dict[int, Group] = {}
_watcher: _Watcher | None = None


def start(settings: Settings) -> None:
    """Let errors and the signal of the settings be followed by a trace; once is enough.

    Raises:
        SettingError: the program has a handler for the signal.

    """
    global _watcher  # noqa: PLW0603 - one for the process, as the ring
    _core.recorder_open(settings.recorder_size)
    if settings.recorder_size == 0:
        return
    if settings.recorder_signal:
        try:
            _core.recorder_on_signal(signal.Signals[f"SIG{settings.recorder_signal}"])
        except ValueError as error:
            raise SettingError(
                f"RDMATRAIN_RECORDER_SIGNAL={settings.recorder_signal}: {error}: choose another "
                "one, or unset it"
            ) from error
    with _lock:
        if _watcher is None:
            _watcher = _Watcher()
            _watcher.start()


def add_group(number: int, group: Group) -> None:
    """Give the records of a communicator their process group.

    Args:
        number: ``_core.Comm.number()``.
        group: what it is; one of the same name that was before it is forgotten.

    """
    with _lock:
        for old in [n for n, known in _groups.items() if known.name == group.name]:
            del _groups[old]
        if len(_groups) >= MAX_GROUPS:
            recorded = {Record(*row).comm for row in _core.recorder_read()} | {min(_groups)}
            for old in [n for n in _groups if n not in recorded]:
                del _groups[old]
        _groups[number] = group


def groups() -> dict[int, Group]:
    """Return the groups that this process has formed, by the number of their communicator."""
    with _lock:
        return dict(_groups)


def waiting() -> tuple[Record, Group | None] | None:
    """Return the oldest operation that is not over, and its group if that is known."""
    row = _core.recorder_waiting()
    if row is None:
        return None
    record = Record(*row)
    return record, _groups.get(record.comm)


def trace(reason: str) -> dict[str, Any]:
    """Return what the recorder holds, as torch's analyser wants it unpickled.

    Raises:
        RuntimeError: no group has been formed in this process.

    """
    with _lock:
        groups = dict(_groups)
    if not groups:
        raise RuntimeError("there is no flight recorder to dump: this process has formed no group")
    records = [Record(*row) for row in _core.recorder_read()]
    return make_trace(records, groups, time_ns() - monotonic_ns(), reason)


def dump(path: str | os.PathLike[str] | None = None, reason: str = "request") -> Path:
    """Write a trace: see :func:`rdmatrain.dump_flight_recorder`."""
    content = pickle.dumps(trace(reason))
    target = Path(path) if path is not None else _default_path()
    target.parent.mkdir(parents=True, exist_ok=True)
    # Of a name that the analyser does not take for a trace.
    part = target.parent / f".{os.getpid()}-{threading.get_ident()}.part"
    try:
        part.write_bytes(content)
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
    return target


def _default_path() -> Path:
    with _lock:
        first = _groups[min(_groups)]
    rank = first.ranks[first.rank]
    return Path(recorder_folder(load_settings())) / f"rank_{rank}"


def _write_or_warn(reason: str) -> None:
    try:
        path = dump(reason=reason)
    except Exception as error:  # whatever it is, it must not hide the error that is reported
        logger.warning("the flight recorder could not be written: %s", error)
    else:
        logger.warning("flight recorder written to %s (%s)", path, reason)


def _stop() -> None:
    global _watcher
    with _lock:
        watcher, _watcher = _watcher, None
    if watcher is not None:
        watcher.stop()


def _forget_after_fork() -> None:
    """Be a child, which has none of the parent's groups, nor its thread."""
    global _lock, _watcher  # noqa: PLW0603
    _lock = threading.Lock()
    _groups.clear()
    if _watcher is not None:
        _core.recorder_notify(-1)
        os.close(_watcher.fd)
        _watcher = None


atexit.register(_stop)
os.register_at_fork(after_in_child=_forget_after_fork)
