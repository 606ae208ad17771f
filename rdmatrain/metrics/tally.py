"""Values of metrics: counted in one process, told to another through a file.

A file holds all of them as JSON, and is replaced as a whole, so that a reader finds the old values
or the new ones. What a file says is checked against the catalog: a worker may write anything.
"""

import bisect
import json
import math
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rdmatrain.metrics.catalog import BY_NAME, COUNTER, GAUGE, HISTOGRAM, Metric

VERSION = 1
MAX_FILE_BYTES = 1 << 20
# A program that makes up labels does not fill the memory of whoever serves them.
MAX_SERIES = 4096
MAX_LABEL_CHARS = 200

Key = tuple[str, tuple[str, ...]]


class Tally:
    """Values by metric and labels; threads may share it.

    Attributes:
        values: of counters and gauges.
        histograms: how many fell into each bucket, the last of which has no bound; and their sum.

    """

    def __init__(self) -> None:
        self.values: dict[Key, float] = {}
        self.histograms: dict[Key, tuple[list[int], float]] = {}
        self._lock = threading.Lock()

    def add(self, name: str, amount: float = 1.0, *labels: str) -> None:
        """Count: add to a counter. The labels are in the catalog's order."""
        key = (name, labels)
        with self._lock:
            if self._has_room(key):
                self.values[key] = self.values.get(key, 0.0) + amount

    def set(self, name: str, value: float, *labels: str) -> None:
        """Say what a gauge is now."""
        with self._lock:
            if self._has_room((name, labels)):
                self.values[name, labels] = value

    def observe(self, name: str, seconds: float, *labels: str) -> None:
        """Count into a histogram."""
        self.observe_all(name, (seconds,), *labels)

    def observe_all(self, name: str, values: Sequence[float], *labels: str) -> None:
        """Count several into a histogram, in seconds."""
        bounds = BY_NAME[name].buckets
        with self._lock:
            if not self._has_room((name, labels)):
                return
            counts, total = self.histograms.get((name, labels)) or ([0] * (len(bounds) + 1), 0.0)
            for seconds in values:
                counts[bisect.bisect_left(bounds, seconds)] += 1
            self.histograms[name, labels] = counts, total + sum(values)

    def drop(self, name: str) -> None:
        """Forget a gauge, whatever its labels."""
        with self._lock:
            for key in [key for key in self.values if key[0] == name]:
                del self.values[key]

    def merge(self, other: "Tally", kinds: Iterable[str] = (COUNTER, GAUGE)) -> None:
        """Take in what another one has: counters and histograms add up, gauges replace."""
        for (name, labels), value in other.values.items():
            kind = BY_NAME[name].kind
            if kind in kinds:
                (self.add if kind == COUNTER else self.set)(name, value, *labels)
        with self._lock:
            for key, (counts, total) in other.histograms.items():
                if self._has_room(key):
                    mine, sum_s = self.histograms.get(key) or ([0] * len(counts), 0.0)
                    added = [a + b for a, b in zip(mine, counts, strict=True)]
                    self.histograms[key] = added, sum_s + total

    def write(self, path: Path, **more: Any) -> None:
        """Replace a file with these values.

        Args:
            path: of the file.
            more: what else it says.

        Raises:
            OSError: it cannot be written.

        """
        with self._lock:
            values = [[name, labels, value] for (name, labels), value in self.values.items()]
            histograms = [[*key, *content] for key, content in self.histograms.items()]
            document = {"version": VERSION, "values": values, "histograms": histograms, **more}
            text = json.dumps(document)
        part = path.with_suffix(".part")
        part.write_text(text, encoding="utf-8")
        part.replace(path)

    def _has_room(self, key: Key) -> bool:
        known = key in self.values or key in self.histograms
        return known or len(self.values) + len(self.histograms) < MAX_SERIES


def read(path: Path) -> tuple[Tally, dict[str, Any]]:
    """Return the values of a file, and all that it says; what makes no sense is left out."""
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            document = json.loads(file.read(MAX_FILE_BYTES))
    except (OSError, ValueError, RecursionError):
        return Tally(), {}
    if not isinstance(document, dict) or document.get("version") != VERSION:
        return Tally(), {}
    return _checked(document), document


def _checked(document: dict[str, Any]) -> Tally:
    tally = Tally()
    for row in _rows(document, "values", 3):
        metric = _metric(row)
        if metric and metric.kind != HISTOGRAM and _is_value(metric, row[2]):
            tally.set(metric.name, float(row[2]), *row[1])
    for row in _rows(document, "histograms", 4):
        metric = _metric(row)
        if metric and _is_histogram(metric, row[2], row[3]):
            tally.histograms[metric.name, tuple(row[1])] = list(row[2]), float(row[3])
    return tally


def _rows(document: dict[str, Any], name: str, length: int) -> list[list[Any]]:
    rows = document.get(name)
    if not isinstance(rows, list):
        return []
    return [row for row in rows[:MAX_SERIES] if isinstance(row, list) and len(row) == length]


def _metric(row: list[Any]) -> Metric | None:
    """Return the metric that a row is of, if its labels are as many as that one has."""
    name, labels = row[:2]
    metric = BY_NAME.get(name) if isinstance(name, str) else None
    if metric is None or not isinstance(labels, list):
        return None
    if len(labels) not in {len(metric.labels), len(metric.all_labels)}:
        return None
    short = all(isinstance(each, str) and len(each) <= MAX_LABEL_CHARS for each in labels)
    return metric if short else None


def _is_number(value: Any) -> bool:
    return type(value) in {int, float} and math.isfinite(value)


def _is_value(metric: Metric, value: Any) -> bool:
    return _is_number(value) and (metric.kind == GAUGE or value >= 0)


def _is_histogram(metric: Metric, counts: Any, total: Any) -> bool:
    if metric.kind != HISTOGRAM or not isinstance(counts, list) or not _is_number(total):
        return False
    whole = all(type(count) is int and count >= 0 for count in counts)
    return whole and len(counts) == len(metric.buckets) + 1
