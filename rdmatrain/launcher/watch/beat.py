"""In the worker: a thread that says "I live, and wait for this" twice a second.

Whoever claims the page first has it, for as long as it lives: a child that the worker forks or
starts inherits the variable, but finds the page taken, and tells nothing.
"""

import contextlib
import fcntl
import mmap
import os
import sys
import threading
import time
from pathlib import Path
from typing import IO, Any

from rdmatrain import config
from rdmatrain.launcher.watch import last_words, page
from rdmatrain.launcher.watch.standing import Standing

INTERVAL_S = 0.5

# Kept open for as long as the process lives: the page's lock, and where stacks are written.
_open_files: list[IO[Any]] = []


def start(path: str) -> bool:
    """Begin to beat on a page, to write errors beside it, and stacks when the launcher asks.

    Returns:
        Whether this process does so: another one may have the page already.

    Raises:
        OSError: the page cannot be mapped.

    """
    own = Path(path)
    file = own.open("r+b")
    try:
        # Not inherited by a fork, and gone when the process is.
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        return False
    _open_files.append(file)
    mapped = mmap.mmap(file.fileno(), page.SIZE)
    last_words.write_errors(page.error_file(own))
    with contextlib.suppress(ValueError, OSError):  # the program has another use for the signal
        _open_files.append(last_words.offer_stacks(page.stacks_file(own)))
    threading.Thread(target=_beat, args=(mapped,), name="rdmatrain-beat", daemon=True).start()
    if file_of_metrics := config.metrics_file():
        from rdmatrain.metrics import worker  # noqa: PLC0415 - only where they are wanted

        worker.start(Path(file_of_metrics))
    return True


def _beat(mapped: mmap.mmap) -> None:
    standing = Standing()
    while True:
        since_ns, waits_in, waits_for = _waiting(standing)
        mapped[:] = page.pack(
            page.Beat(
                pid=os.getpid(),
                beat_ns=time.monotonic_ns(),
                since_ns=since_ns,
                waits_in=waits_in,
                waits_for=waits_for,
            )
        )
        time.sleep(INTERVAL_S)


def _waiting(standing: Standing) -> tuple[int, str, tuple[int, ...]]:
    """Return since when this process has waited, in what, and for whom it may be waiting."""
    recorder = sys.modules.get("rdmatrain.comm.recorder")
    try:
        found = recorder.waiting() if recorder is not None else None
    except AttributeError:  # it is being imported
        found = None
    stands = standing.look()  # always, as it compares
    if found is None:
        if stands is None:
            return 0, "", ()
        since_ns, call = stands
        return since_ns, *describe(call, call.group, call.ranks, call.rank)
    record, group = found
    if group is None:
        return record.created_ns, record.coll, ()
    return record.created_ns, *describe(record, group.name, group.ranks, group.rank)


def describe(record: Any, group: str, ranks: Any, rank: int) -> tuple[str, tuple[int, ...]]:
    """Return an operation in words that are equal on all of its ranks, and whom it may miss.

    Args:
        record: a ``rdmatrain.comm.trace.Record``, or a ``Call``, which has no number.
        group: name of its process group.
        ranks: the group's global ranks.
        rank: this process's rank in the group.

    """
    others = tuple(each for each in ranks if each != ranks[rank])
    if record.coll not in {"send", "recv"}:
        number = f" #{record.seq}" if record.seq else ""
        return f"{record.coll}{number} of group {group}", others
    if record.peer >= len(ranks):
        return f"recv of rank {ranks[rank]} from any rank", others
    ends = (ranks[rank], ranks[record.peer])
    sender, receiver = ends if record.coll == "send" else ends[::-1]
    return f"send from rank {sender} to rank {receiver}", (ranks[record.peer],)
