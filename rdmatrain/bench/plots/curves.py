"""From records to curves: what is drawn together, and what each contestant is called there.

Records may be of another version, of several machines, or damaged: what has no positive time is
left out, and all else that is odd is a text like any other.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rdmatrain.bench.model import Entry
from rdmatrain.bench.sizes import size_text
from rdmatrain.errors import SettingError

Record = dict[str, Any]
_Case = tuple[str, str, str, int, int, bool, int]
# Backends that `rdmatrain bench limit` measures. These are no contestants: what moves and adds the
# bytes alone, and what a call costs that moves none. The wire is a peer and a limit.
MEMORY, CALL, WIRE = "limit", "fake", "perftest"
ONLY_LIMITS = {MEMORY: "limit: memory", CALL: "limit: a call"}  # and what they are called
LIMITS = (*ONLY_LIMITS, WIRE)


@dataclass(frozen=True)
class Point:
    """A record on a curve.

    Attributes:
        row: number of the record among all.
        nbytes: size; 0 where there is none.
        p50: seconds, more than 0.
        p99: seconds; p50 where there is none.
        busbw: GB/s; 0 where there is none: nothing is moved.

    """

    row: int
    nbytes: int
    p50: float
    p99: float
    busbw: float


@dataclass(frozen=True)
class Curve:
    """What one contestant did in a view, by size."""

    name: str
    points: tuple[Point, ...]


@dataclass(frozen=True)
class View:
    """What can be compared: all but size and contestant is the same.

    Attributes:
        op, dtype, redop, ranks, hosts, in_place, root: as in records.
        curves: rdmatrain's first, limits last.

    """

    op: str
    dtype: str
    redop: str
    ranks: int
    hosts: int
    in_place: bool
    root: int
    curves: tuple[Curve, ...]

    @property
    def sized(self) -> bool:
        """Whether there are several sizes, so that lines can be drawn."""
        return len({point.nbytes for curve in self.curves for point in curve.points}) > 1

    @property
    def title(self) -> str:
        """As "all_reduce, float32 SUM, 2 ranks"; with the size if there is only one."""
        nbytes = self.curves[0].points[0].nbytes
        size = "" if self.sized or not nbytes else size_text(nbytes)
        return ", ".join(filter(None, [self.op, size, self.kind, self.place]))

    @property
    def kind(self) -> str:
        """As "float32 SUM"; "" where there is no data."""
        moved = any(point.nbytes for curve in self.curves for point in curve.points)
        return f"{self.dtype} {self.redop}".strip() if moved else ""

    @property
    def place(self) -> str:
        """As "4 ranks on 2 hosts, root 1, in place": what a title has after the dtype."""
        hosts = f" on {self.hosts} hosts" if self.hosts > 1 else ""
        root = f"root {self.root}" if self.root > 0 else ""
        ranks = f"{self.ranks} rank{'s' * (self.ranks != 1)}{hosts}"
        return ", ".join(filter(None, [ranks, root, "in place" if self.in_place else ""]))


@dataclass(frozen=True)
class Drawing:
    """All that can be drawn of some records.

    Attributes:
        records: all of them, also those that no curve has.
        views: in the order of the records.
        backends: of each contestant, by name, in the order in which they are told.
        names: of the contestants, by record.

    """

    records: list[Record]
    views: tuple[View, ...]
    backends: dict[str, str]
    names: tuple[str, ...]

    @property
    def num_wrong(self) -> int:
        """Number of records whose values were wrong."""
        return sum(number(record, "nwrong") > 0 for record in self.records)


def drawing(records: list[Record]) -> Drawing:
    """Sort records into views and curves.

    Raises:
        SettingError: there is nothing to draw.

    """
    if not records:
        raise SettingError("there is nothing to draw: the results are empty")
    names = _names(records)
    backends = {names[row]: text(record, "backend") for row, record in enumerate(records)}
    ordered = sorted(backends, key=lambda name: _order(backends[name], name))
    found: dict[_Case, dict[str, dict[int, Point]]] = defaultdict(lambda: defaultdict(dict))
    for row, record in enumerate(records):
        if point := _point(row, record):
            # The last one counts: a run that was made again is appended.
            found[_case(record)][names[row]][point.nbytes] = point
    if not found:
        raise SettingError("there is nothing to draw: no record has a time of more than 0 seconds")
    views = [View(*case, _curves(by_name, ordered)) for case, by_name in found.items()]
    return Drawing(records, tuple(views), {name: backends[name] for name in ordered}, names)


def _curves(by_name: dict[str, dict[int, Point]], ordered: list[str]) -> tuple[Curve, ...]:
    """Order the points of a view by contestant and size.

    0 has no place on a logarithmic axis, and is left out unless it is the only size of all.
    """
    least = 1 if any(max(points) for points in by_name.values()) else 0
    curves = [
        Curve(name, tuple(points[size] for size in sorted(points) if size >= least))
        for name in ordered
        if (points := by_name.get(name))
    ]
    return tuple(curve for curve in curves if curve.points)


def text(record: Record, key: str) -> str:
    """Return a field as text; "" where there is none."""
    value = record.get(key)
    return "" if value is None else str(value)


def number(record: Record, key: str) -> float:
    """Return a field that is a number of more than 0; otherwise 0."""
    value = record.get(key)
    # All that is measured is well within; axes cannot go to the ends of what a float holds.
    return float(value) if isinstance(value, (int, float)) and 1e-15 < value < 1e18 else 0.0


def _case(record: Record) -> _Case:
    """Return the fields of a view, in its order."""
    op, dtype, redop = (text(record, key) for key in ("op", "dtype", "redop"))
    ranks, hosts, root = (int(number(record, key)) for key in ("ranks", "hosts", "root"))
    return op, dtype, redop, ranks, hosts, record.get("in_place") is True, root


def _point(row: int, record: Record) -> Point | None:
    p50 = number(record, "seconds_p50")
    if not p50:
        return None
    p99 = max(number(record, "seconds_p99"), p50)
    busbw = 0.0 if text(record, "backend") == CALL else number(record, "busbw")
    return Point(row, int(number(record, "nbytes")), p50, p99, busbw)


def _order(backend: str, name: str) -> tuple[int, str]:
    if backend in ONLY_LIMITS:
        return 2 + list(ONLY_LIMITS).index(backend), name
    return 0 if backend == "rdmatrain" else 1, name


def _names(records: Sequence[Record]) -> tuple[str, ...]:
    """Name contestants: by backend and transport, and by what else tells them apart."""
    names = [_plain_name(record) for record in records]
    cases = [_case(record) for record in records]
    for key in ("file", "machine", "commit"):
        names = _told_apart(records, names, cases, key)
    sizes = [(case, text(record, "nbytes")) for case, record in zip(cases, records, strict=True)]
    return tuple(_told_apart(records, names, sizes, "time"))


def _plain_name(record: Record) -> str:
    """Return as "rdmatrain (shm)", "rdmatrain/tcp", "gloo"."""
    if text(record, "backend") in ONLY_LIMITS:
        return ONLY_LIMITS[text(record, "backend")]
    name = str(Entry(text(record, "backend") or "?", text(record, "asked")))
    transport = text(record, "transport")
    return f"{name} ({transport})" if transport not in ("", text(record, "asked")) else name


def _told_apart(
    records: Sequence[Record],
    names: Sequence[str],
    groups: Sequence[object],
    key: str,
) -> list[str]:
    """Add a field to the names that have several values of it within a group."""
    values: dict[tuple[str, object], set[str]] = defaultdict(set)
    for record, name, group in zip(records, names, groups, strict=True):
        values[name, group].add(text(record, key))
    several = {name for (name, _), found in values.items() if len(found) > 1}
    return [
        f"{name} [{text(record, key) or 'unknown'}]" if name in several else name
        for record, name in zip(records, names, strict=True)
    ]
