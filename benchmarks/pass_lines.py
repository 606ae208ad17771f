"""The lines that the intra-host collectives must pass, as arithmetic on measured times.

Each line compares a time of ours with the most that is allowed; nothing here measures.
"""

import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

from common import Case, JobError, size_text

KIB, MIB = 1 << 10, 1 << 20
UNITS = {"us": 1e6, "ms": 1e3, "MiB": 1 / MIB}  # how many of them one second or byte is
SIZES = [8 << shift for shift in range(24)]  # 8 B to 64 MiB
LARGE = [512 * KIB, 4 * MIB, 64 * MIB]
OTHERS = [4 * MIB, 64 * MIB]  # where the other collectives are compared with all_reduce
MPIS = ("openmpi", "mpich", "intelmpi")
OTHER_LIMITS = {
    "reduce_scatter": 0.85,
    "all_gather": 1.05,
    "all_gather_own": 0.65,
    "broadcast": 1.0,
}


class Key(NamedTuple):
    """What was timed: who, with how many ranks, and which operation."""

    backend: str
    ranks: int
    case: Case


Times = dict[Key, float]


@dataclass(frozen=True)
class Cell:
    """One comparison.

    Attributes:
        label: where in the line it stands, as "4 MiB".
        ours: seconds or bytes measured.
        allowed: the most of them that pass.
        unit: how they are printed.

    """

    label: str
    ours: float
    allowed: float
    unit: str = "us"

    @property
    def ratio(self) -> float:
        """Return ours as a part of what is allowed; it passes up to 1.

        Where nothing is allowed, as when the other's share is lost in the noise, nothing passes.
        """
        return self.ours / self.allowed if self.allowed > 0 else float("inf")

    def __str__(self) -> str:
        """Write both values and the ratio."""
        ours, allowed = (f"{x * UNITS[self.unit]:10.2f}" for x in (self.ours, self.allowed))
        return f"{self.label:>16}: {ours} of {allowed} {self.unit} allowed, {self.ratio:.2f}"


@dataclass(frozen=True)
class Line:
    """One line of the table: passes when all of its cells pass.

    Attributes:
        text: what it demands.
        cells: the comparisons.
        missing: who was not measured; such a line cannot pass.

    """

    text: str
    cells: tuple[Cell, ...]
    missing: tuple[str, ...] = ()

    @property
    def verdict(self) -> str:
        """Return ``PASS``, ``MISS``, or ``SKIP`` where measurements are missing."""
        if any(cell.ratio > 1 for cell in self.cells):
            return "MISS"
        return "SKIP" if self.missing or not self.cells else "PASS"

    def __str__(self) -> str:
        """Write the verdict, the worst cell, and every cell that misses."""
        rows = [f"{self.verdict}  {self.text}"]
        worst = sorted(self.cells, key=lambda cell: -cell.ratio)
        shown = [cell for cell in worst if cell.ratio > 1] or worst[:1]
        rows += [f"      {cell}" for cell in shown]
        if self.missing:
            rows.append(f"        not measured: {', '.join(self.missing)}")
        return "\n".join(rows)


class Judge:
    """Looks measured times up for the lines, and notes what is missing."""

    def __init__(self, times: Times) -> None:
        self._times = times
        self._cells: list[Cell] = []
        self._missing: dict[str, None] = {}

    def time(self, backend: str, nbytes: int, ranks: int = 2, **case: str) -> float | None:
        """Return seconds, or None, which is noted."""
        what = Case(case.get("op", "all_reduce"), case.get("dtype", "float32"), nbytes)
        seconds = self._times.get(Key(backend, ranks, what))
        if seconds is None:
            self._missing[backend] = None
        return seconds

    def do_nothing(self) -> float | None:
        """Return the seconds of a call that does nothing."""
        return self.time("donothing", 8)

    def best_mpi(self, nbytes: int, ranks: int) -> float | None:
        """Return the seconds of the fastest MPI; all of them must have run."""
        found = [self.time(name, nbytes, ranks) for name in MPIS]
        return min((t for t in found if t is not None), default=None) if all(found) else None

    def compare(self, label: str, ours: float | None, allowed: float | None) -> None:
        """Add a cell, where both are known."""
        if ours is not None and allowed is not None:
            self._cells.append(Cell(label, ours, allowed))

    def line(self, text: str) -> Line:
        """Return the line of the cells so far, and begin the next."""
        line = Line(text, tuple(self._cells), tuple(self._missing))
        self._cells, self._missing = [], {}
        return line


def scaled(seconds: float | None, factor: float, more: float | None = 0.0) -> float | None:
    """Return ``(seconds + more) x factor``; None where either is unknown."""
    return None if seconds is None or more is None else (seconds + more) * factor


def judge(times: Times, sizes: Iterable[int], ranks: Iterable[int]) -> list[Line]:
    """Evaluate every line.

    Args:
        times: median seconds.
        sizes: the sizes of this run; others are left out of the lines.
        ranks: the rank counts of this run, likewise.

    """
    sizes, counts = sorted(sizes), set(ranks)
    lines = []
    if 2 in counts:
        lines += two_ranks(Judge(times), sizes)
    if 4 in counts:
        lines += four_ranks(Judge(times), sizes)
    lines += against_gloo(Judge(times), sizes, counts)
    if 2 in counts:
        lines += other_collectives(Judge(times), sizes)
    return lines


def two_ranks(j: Judge, sizes: list[int]) -> list[Line]:
    """Latency, the memory limit, and the best MPI."""
    j.compare("8 B", j.time("rdmatrain", 8), scaled(j.do_nothing(), 2))
    lines = [j.line("all_reduce 8 B, 2 ranks: at most 2 x a call that does nothing")]
    for n in [n for n in LARGE if n in sizes]:
        allowed = scaled(j.time("limit", n), 1 / 0.85, j.do_nothing())
        j.compare(size_text(n), j.time("rdmatrain", n), allowed)
    lines.append(j.line("all_reduce, 2 ranks: at most (memory limit + do-nothing call) / 0.85"))
    for n in [n for n in sizes if n >= 8 * KIB]:
        allowed = scaled(j.best_mpi(n, 2), 1, j.do_nothing())
        j.compare(size_text(n), j.time("rdmatrain-staged", n), allowed)
    text = "all_reduce outside the arena, 2 ranks, 8 KiB up: at most best MPI + do-nothing call"
    return [*lines, j.line(text)]


def four_ranks(j: Judge, sizes: list[int]) -> list[Line]:
    """More ranks than cores."""
    for n in [n for n in sizes if n >= 64 * KIB]:
        j.compare(size_text(n), j.time("rdmatrain", n, 4), j.best_mpi(n, 4))
    lines = [j.line("all_reduce, 4 ranks, 64 KiB up: at most the best MPI")]
    for n in [n for n in sizes if n < 64 * KIB]:
        j.compare(size_text(n), j.time("rdmatrain", n, 4), scaled(j.best_mpi(n, 4), 4))
    lines.append(j.line("all_reduce, 4 ranks, below 64 KiB: at most 4 x the best MPI"))
    for n in [n for n in sizes if n <= 64 * KIB]:
        j.compare(size_text(n), j.time("rdmatrain", n, 4), scaled(j.time("gloo", n, 4), 1 / 20))
    return [*lines, j.line("all_reduce, 4 ranks, up to 64 KiB: at least 20 x Gloo")]


def against_gloo(j: Judge, sizes: list[int], counts: set[int]) -> list[Line]:
    """Gloo with every rank count."""
    lines = []
    for ranks in sorted(counts):
        for factor, chosen, where in (
            (10, [n for n in sizes if n <= 512 * KIB], "up to 512 KiB"),
            (8, [n for n in sizes if n > 512 * KIB], "above 512 KiB"),
        ):
            for n in chosen:
                allowed = scaled(j.time("gloo", n, ranks), 1 / factor)
                j.compare(size_text(n), j.time("rdmatrain", n, ranks), allowed)
            lines.append(j.line(f"all_reduce, {ranks} ranks, {where}: at least {factor} x Gloo"))
    return lines


def other_collectives(j: Judge, sizes: list[int]) -> list[Line]:
    """Other collectives and half types, held against all_reduce of as many bytes."""
    lines = []
    for op, factor in OTHER_LIMITS.items():
        for n in [n for n in OTHERS if n in sizes]:
            allowed = scaled(j.time("rdmatrain", n), factor)
            j.compare(size_text(n), j.time("rdmatrain", n, op=op), allowed)
        lines.append(j.line(f"{op}, 2 ranks: at most {factor} of all_reduce's time"))
    for dtype in ("bfloat16", "float16"):
        for n in [n for n in LARGE if n in sizes]:
            allowed = scaled(j.time("rdmatrain", n), 1 / 0.8)
            j.compare(size_text(n), j.time("rdmatrain", n, dtype=dtype), allowed)
        lines.append(j.line(f"all_reduce {dtype}, 2 ranks: at least 0.8 of float32's bytes/s"))
    return lines


def exit_code(measure: Callable[[], Line]) -> int:
    """Print the one line that a program measures: 1 when it is missed, 2 when a job failed."""
    try:
        line = measure()
    except JobError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(line)
    return int(line.verdict == "MISS")
