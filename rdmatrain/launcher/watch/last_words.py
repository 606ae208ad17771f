"""Where a worker stands, and what it died of: written by the worker, read by its launcher.

Errors are in the format of ``torch.distributed.elastic``'s error files, so that a program with
``@record`` writes the same file; ``status`` of an error of rdmatrain is beside the call stack.
"""

import faulthandler
import json
import os
import re
import signal
import sys
import threading
import time
import traceback
from pathlib import Path
from types import TracebackType
from typing import IO

STACKS_SIGNAL = signal.SIGRTMIN + 8
"""Lets a worker write its stacks; real-time signals have no other users, or hardly any."""

MAX_LINES = 40
MAX_CAUSES = 16

_MAIN = "main thread: "
_THREAD = re.compile(r"(?:Current thread|Thread) (0x[0-9a-f]+)")
_FRAME = re.compile(r'  File "(?P<path>.+)", line (?P<line>\d+)')
_NOT_THE_USERS = re.compile(r"/(site|dist)-packages/|/lib/python3|^<frozen|/torch/|/rdmatrain/")


def offer_stacks(path: Path) -> IO[str]:
    """Write all threads' stacks to the file whenever :data:`STACKS_SIGNAL` comes, GIL or not.

    Returns:
        The file, which must stay open.

    Raises:
        ValueError: the program has a handler of its own for the signal.

    """
    if signal.getsignal(STACKS_SIGNAL) is not signal.SIG_DFL:
        raise ValueError(f"signal {STACKS_SIGNAL} has a handler")
    file = path.open("w", encoding="utf-8")
    file.write(f"{_MAIN}0x{threading.main_thread().ident or 0:016x}\n")
    file.flush()
    faulthandler.register(STACKS_SIGNAL, file, all_threads=True)
    return file


def write_errors(path: Path) -> None:
    """Write what ends the program to the file, before the hook that was there is called.

    A child that was forked writes nothing.
    """
    previous, owner = sys.excepthook, os.getpid()

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        try:
            if isinstance(error, Exception) and os.getpid() == owner:
                path.write_text(_as_json(error), encoding="utf-8")
        except Exception:  # whatever it is, the error itself must be shown
            pass
        previous(kind, error, trace)

    sys.excepthook = hook


def short_stacks(text: str) -> str:
    """Return what the stacks' file says: the main thread first, at most MAX_LINES lines."""
    head, *lines = text.splitlines() or [""]
    main = head.removeprefix(_MAIN)
    threads = sorted(_by_thread(lines), key=lambda thread: thread[0] != main)
    result = []
    for ident, frames in threads:
        name = "Main thread" if ident == main else f"Thread {ident}"
        result += [f"{name} (most recent call first):", *frames]
    if len(result) > MAX_LINES:
        left = len(result) - MAX_LINES + 1
        result = [*result[: MAX_LINES - 1], f"... and {left} more lines"]
    return "\n".join(result)


def short_error(text: str) -> str:
    """Return an error file's content as one line, ``KeyError: 'x' (train.py:12)``; or empty."""
    try:
        message = json.loads(text)["message"]
        if isinstance(message, str):
            return one_line(message)
        stack = str(message["extraInfo"]["py_callstack"])
        said = one_line(str(message["message"]))
    except (ValueError, KeyError, TypeError):
        return ""
    frames = list(_FRAME.finditer(stack))
    users = [frame for frame in frames if not _NOT_THE_USERS.search(frame["path"])]
    if not frames:
        return said
    last = (users or frames)[-1]
    return f"{said} ({Path(last['path']).name}:{last['line']})"


def status_of(text: str) -> str:
    """Return the status of rdmatrain that an error file has, such as ``PEER_LOST``; or empty."""
    try:
        return str(json.loads(text)["message"]["extraInfo"].get("status", ""))
    except (ValueError, KeyError, TypeError, AttributeError):
        return ""


def _as_json(error: Exception) -> str:
    stack = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    extra = {"py_callstack": stack, "timestamp": str(int(time.time()))}
    if status := _status(error):
        extra["status"] = status
    return json.dumps({"message": {"message": _said(error), "extraInfo": extra}})


def _said(error: Exception) -> str:
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:  # its own __str__ fails
        return type(error).__name__


def _status(error: BaseException | None) -> str:
    """Return the status of the error, or of what it came from."""
    for _ in range(MAX_CAUSES):
        if error is None:
            break
        if status := _status_of_one(error):
            return status
        error = error.__cause__ or error.__context__
    return ""


def _status_of_one(error: BaseException) -> str:
    core = sys.modules.get("rdmatrain._core")
    if core is None:
        return ""
    status = getattr(error, "status", None)
    if isinstance(status, str) and status in core.STATUSES:
        return status
    # torch's error has no room for the status, but the flight recorder has it.
    if type(error).__name__ == "DistBackendError" and str(error).startswith("rdmatrain: "):
        failed = [row[-1] for row in core.recorder_read() if row[-1] not in {None, "OK"}]
        return str(failed[-1]) if failed else ""
    return ""


def one_line(text: str) -> str:
    """Return text as one line of at most 300 characters."""
    line = " ".join(text.split())
    return line if len(line) <= 300 else f"{line[:299]}…"


def _by_thread(lines: list[str]) -> list[tuple[str, list[str]]]:
    threads: list[tuple[str, list[str]]] = []
    for line in lines:
        if match := _THREAD.match(line):
            threads.append((match[1], []))
        elif threads and line.strip():
            threads[-1][1].append(line)
    return threads
