"""From the flight recorder's ring to counts, without counting anything twice.

The ring is read again and again. Its records are numbered without gaps, so it is known which ones
are new, which were still running, and which have left the ring before they were read.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from rdmatrain.comm.trace import Record
from rdmatrain.metrics.tally import Tally

OK = "OK"
_P2P = ("send", "recv")


@dataclass
class Operations:
    """Counts operations once they are over.

    Attributes:
        tally: where to.
        transport_of: names the transports of a record's group.
        last_progress_ns: when the last one ended well, by the monotonic clock.

    """

    tally: Tally
    transport_of: Callable[[Record], str]
    last_progress_ns: int = 0
    _last: int = 0
    _open: set[int] = field(default_factory=set)

    def count(self, rows: Iterable[tuple[object, ...]]) -> int:
        """Count what is over since the last time; returns how many records were new.

        Args:
            rows: all that the ring holds, oldest first, as ``_core.recorder_read()`` gives them.

        """
        before, first, found = self._last, 0, set()
        over = []
        for row in rows:
            number = int(row[0])  # type: ignore[call-overload]
            first = first or number
            if number > before or number in self._open:
                found.add(number)
                record = Record(*row)  # type: ignore[arg-type]
                if record.over_ns:
                    over.append(record)
                else:
                    self._open.add(number)
                self._last = max(self._last, number)
        self._open |= set(range(max(before + 1, first), self._last + 1)) - found  # being written
        self._open -= {record.id for record in over}
        self._add(over)
        self._count_missed(before, first)
        return self._last - before

    def _add(self, over: Iterable[Record]) -> None:
        """Count what is over, each metric in one go: there may be thousands."""
        ends: Counter[tuple[str, str]] = Counter()
        errors: Counter[tuple[str, str]] = Counter()
        durations: defaultdict[str, list[float]] = defaultdict(list)
        for record in over:
            if record.status != OK:
                errors[record.coll, str(record.status)] += 1
                continue
            self.last_progress_ns = max(self.last_progress_ns, record.over_ns)
            ends[record.coll, self.transport_of(record)] += 1
            if record.started_ns:
                durations[record.coll].append((record.over_ns - record.started_ns) * 1e-9)
        for labels, number in ends.items():
            self.tally.add("rdmatrain_collectives_total", number, *labels)
        for labels, number in errors.items():
            self.tally.add("rdmatrain_collective_errors_total", number, *labels)
        for coll, seconds in durations.items():
            self.tally.observe_all("rdmatrain_collective_duration_seconds", seconds, coll)
            if coll not in _P2P:  # those of one group run one after the other
                self.tally.add("rdmatrain_rank_wait_seconds_total", sum(seconds))

    def _count_missed(self, before: int, first: int) -> None:
        gone = {number for number in self._open if number < first}
        self._open -= gone
        missed = len(gone) + max(first - before - 1, 0)
        # Also 0: of a counter that begins with 1, Prometheus' increase() says nothing.
        self.tally.add("rdmatrain_collectives_missed_total", missed)
