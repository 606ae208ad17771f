"""What a node has done: its launcher's file, its workers' files, and the ports of its kernel.

The workers of a round begin to count at zero. So that no counter goes back, what the workers before
them had counted is kept, and their files are removed.
"""

import contextlib
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rdmatrain.metrics import tally as tallies
from rdmatrain.metrics.catalog import BY_NAME, COUNTER, GAUGE
from rdmatrain.metrics.hca import read_ports
from rdmatrain.metrics.tally import Tally

NODE_FILE = "node.json"


class Node:
    """Reads the files of one launcher.

    Args:
        folder: has them.
        ports: reads the RDMA ports' counters.

    """

    def __init__(self, folder: Path, ports: Callable[[], Tally] = read_ports) -> None:
        self._folder = folder
        self._ports = ports
        self._before = Tally()  # of workers that are gone
        self._lock = threading.Lock()

    def collect(self) -> Tally:
        """Return all values, each with all of its labels."""
        with self._lock:
            found, document = tallies.read(self._folder / NODE_FILE)
            current = _current(document)
            self._retire(current, _ranks(document))
            total = Tally()
            total.merge(self._before)
            for name, (rank, _) in current.items():
                total.merge(_labelled(tallies.read(self._folder / name)[0], rank))
        total.merge(found)
        total.merge(self._ports())
        running = sum(_runs(pid) for _, pid in current.values())
        total.set("rdmatrain_workers", running)
        return total

    def _retire(self, current: dict[str, tuple[str, int]], ranks: dict[str, str]) -> None:
        """Keep what workers that are gone have counted; those that are to come have no file yet."""
        for name, rank in ranks.items():
            path = self._folder / name
            if name in current or not path.exists():
                continue
            last = _labelled(tallies.read(path)[0], rank)
            self._before.merge(last, kinds=(COUNTER,))
            for (metric, labels), value in last.values.items():
                if BY_NAME[metric].kind == GAUGE and BY_NAME[metric].sticky:
                    self._before.set(metric, value, *labels)
            with contextlib.suppress(OSError):
                path.unlink()


def _labelled(tally: Tally, rank: str) -> Tally:
    """Return a worker's values with its rank, of which the launcher knows best."""
    found = Tally()
    for (name, labels), value in tally.values.items():
        metric = BY_NAME[name]
        if len(labels) == len(metric.labels):
            found.values[name, (*labels, rank) if metric.per_rank else labels] = value
    found.histograms.update(tally.histograms)
    return found


def _current(document: dict[str, Any]) -> dict[str, tuple[str, int]]:
    """Return rank and process of each worker of the round, by the name of its file."""
    now = document.get("now")
    pairs = now.items() if isinstance(now, dict) else ()
    return {
        name: (str(found[0]), int(found[1]))
        for name, found in pairs
        if isinstance(found, list) and [type(each) for each in found] == [int, int]
    }


def _ranks(document: dict[str, Any]) -> dict[str, str]:
    ranks = document.get("ranks")
    pairs = ranks.items() if isinstance(ranks, dict) else ()
    return {name: str(rank) for name, rank in pairs if type(rank) is int}


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return not _is_zombie(pid)


def _is_zombie(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return True
    return stat.rpartition(")")[2].split()[0] in "ZX"
