"""In the launcher: how the workers of this node are, seen once a second."""

import os
import signal
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from rdmatrain.launcher.messages import RankState
from rdmatrain.launcher.scrape import Scrape
from rdmatrain.launcher.watch import last_words
from rdmatrain.launcher.watch.activity import (
    IDLE_SHARE,
    WAITING_SHARE,
    Activity,
    Table,
    read_stat,
)
from rdmatrain.launcher.watch.page import Beat, PageReader, create, error_file, stacks_file

STEP_S = 0.5
"""How often to observe."""

MAX_STEP_S = 3.0
# Without a beat for so long, its other threads may be waiting for the GIL.
SILENCE_S = 1.5
STACKS_S = 0.5
MAX_FILE_BYTES = 1 << 18
_POLL_S = 0.01


class WatchedTime:
    """The monotonic clock without the times in which nobody watched.

    A launcher that did not run, because the whole machine was paused or crowded, cannot tell who
    else did not. Of a step that is too long only a usual one counts.
    """

    def __init__(self) -> None:
        self.now_ns = time.monotonic_ns()
        self._lost: deque[tuple[int, float]] = deque(maxlen=64)

    def step(self, now_ns: int) -> float:
        """Say that somebody looks now; returns the seconds since the last time that count."""
        seconds = (now_ns - self.now_ns) * 1e-9
        self.now_ns = now_ns
        if seconds <= MAX_STEP_S:
            return seconds
        self._lost.append((now_ns, seconds - STEP_S))
        return STEP_S

    def age_s(self, since_ns: int) -> float:
        """Return the watched seconds from then to the last step."""
        lost_s = sum(seconds for end_ns, seconds in self._lost if end_ns > since_ns)
        return max(0.0, (self.now_ns - since_ns) * 1e-9 - lost_s)


class _Worker:
    def __init__(self, rank: int, pid: int, page: Path, now_ns: int) -> None:
        self.rank = rank
        self.pid = pid
        self.page = page
        self.reader = PageReader(page)
        self._activity = Activity(pid)
        self._busy_ns = now_ns
        self._stopped_ns: int | None = None

    def observe(self, table: Table, watched: WatchedTime, step_s: float) -> RankState | None:
        stat = read_stat(Path(f"/proc/{self.pid}"))
        if stat is None or stat.state in "ZX":
            return None
        state = _of_beat(self.rank, self.reader.read(), watched)
        runs = state.waiting_s is None and state.beat_s is not None and state.beat_s < SILENCE_S
        if self._activity.is_busy(stat, table, step_s, IDLE_SHARE if runs else WAITING_SHARE):
            self._busy_ns = watched.now_ns
        if stat.state != "T":
            self._stopped_ns = None
        elif self._stopped_ns is None:
            self._stopped_ns = watched.now_ns
        return replace(
            state,
            process=stat.state,
            stopped_s=watched.age_s(self._stopped_ns or watched.now_ns),
            idle_s=watched.age_s(self._busy_ns),
        )


def _of_beat(rank: int, beat: Beat | None, watched: WatchedTime) -> RankState:
    if beat is None:
        return RankState(rank=rank)
    return RankState(
        rank=rank,
        beat_s=watched.age_s(beat.beat_ns),
        waiting_s=watched.age_s(beat.since_ns) if beat.since_ns else None,
        waits_for=beat.waits_for,
        waits_in=beat.waits_in,
    )


class Watcher:
    """Watches the workers of one node, round after round.

    Args:
        folder: the launcher's private folder; pages, errors and stacks are files in it.
        scrape: is told what is seen, for Prometheus.

    """

    def __init__(self, folder: Path, scrape: Scrape | None = None) -> None:
        self._folder = folder
        self._scrape = scrape
        self._workers: dict[int, _Worker] = {}
        self._watched = WatchedTime()

    def environment(self, local_rank: int) -> dict[str, str]:
        """Return what a worker that is about to start must find in its environment.

        Raises:
            OSError: its page cannot be made.

        """
        page = self._page(local_rank)
        create(page)
        return {
            "RDMATRAIN_WATCH": str(page),
            "TORCHELASTIC_ERROR_FILE": str(error_file(page)),
            **(self._scrape.environment(local_rank) if self._scrape else {}),
        }

    def begin(self, workers: Mapping[int, tuple[int, int]]) -> None:
        """Watch workers that have started.

        Args:
            workers: rank and process id, by local rank; each has its :meth:`environment`.

        """
        self.end()
        self._watched = WatchedTime()
        self._workers = {
            local_rank: _Worker(rank, pid, self._page(local_rank), self._watched.now_ns)
            for local_rank, (rank, pid) in workers.items()
        }
        if self._scrape:
            self._scrape.begin(workers)

    def observe(self) -> tuple[RankState, ...]:
        """Look at all workers; those that have ended are left out. Call it each STEP_S."""
        step_s = self._watched.step(time.monotonic_ns())
        table = Table()
        seen = [worker.observe(table, self._watched, step_s) for worker in self._workers.values()]
        states = tuple(state for state in seen if state is not None)
        if self._scrape:
            self._scrape.observe(states)
        return states

    def error_of(self, local_rank: int) -> str:
        """Return what a worker died of, such as ``KeyError: 'x' (train.py:12)``, or empty."""
        return last_words.short_error(_read(error_file(self._page(local_rank))))

    def status_of(self, local_rank: int) -> str:
        """Return the status of the rdmatrain error that a worker died of, or empty."""
        return last_words.status_of(_read(error_file(self._page(local_rank))))

    def stacks(self, local_rank: int, wait_s: float = STACKS_S) -> str:
        """Ask a worker that is to be killed where it stands; blocks for at most ``wait_s``.

        One that was stopped runs for that moment: the signal is there before it goes on.

        Returns:
            At most 40 lines, the main thread first; empty when it does not answer.

        """
        worker = self._workers.get(local_rank)
        beat = worker.reader.read() if worker else None
        if worker is None or beat is None or not self._belongs(beat.pid, worker.pid):
            return ""
        path = stacks_file(worker.page)
        try:
            before = path.stat().st_size
            stat = read_stat(Path(f"/proc/{beat.pid}"))
            os.kill(beat.pid, last_words.STACKS_SIGNAL)
            if stat is not None and stat.state == "T":
                os.kill(beat.pid, signal.SIGCONT)
            _wait_for_growth(path, before, wait_s)
            if stat is not None and stat.state == "T":
                os.kill(beat.pid, signal.SIGSTOP)
        except OSError:  # it offers no stacks, or has ended
            return ""
        head, _, dumped = _read(path).partition("\n")
        return last_words.short_stacks(f"{head}\n{dumped[max(0, before - len(head) - 1) :]}")

    def end(self) -> None:
        """Stop watching; files stay, so that errors can still be read."""
        for worker in self._workers.values():
            worker.reader.close()
        self._workers = {}

    def _page(self, local_rank: int) -> Path:
        return self._folder / f"{local_rank}.page"

    @staticmethod
    def _belongs(pid: int, worker: int) -> bool:
        return pid == worker or pid in Table().below(worker)


def _read(path: Path) -> str:
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            return file.read(MAX_FILE_BYTES)
    except OSError:
        return ""


def _wait_for_growth(path: Path, before: int, wait_s: float) -> None:
    """Wait until more is in the file, and no more comes."""
    end = time.monotonic() + wait_s
    size, calm = before, 0
    while time.monotonic() < end and calm < 3:
        time.sleep(_POLL_S)
        now = path.stat().st_size
        calm = calm + 1 if now == size > before else 0
        size = now
