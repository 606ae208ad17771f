"""``rdmatrain bench limit``: the ceilings of this machine, and what part of them is reached.

An all-reduce of two ranks through ``torch.distributed`` costs a call, and moves and adds the bytes.
Both are measured alone, as contestants of a sweep beside rdmatrain: ``fake``, torch's process group
that does nothing, and ``limit``, see memory.py. Where there is an RDMA device, perftest is measured
beside rdmatrain's own writes.
"""

from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import replace

from rdmatrain.bench.command import FAULT, measure, remarks, write_files
from rdmatrain.bench.contestants import (
    LIMITS,
    OF_CORE,
    RDMATRAIN,
    CoreRanks,
    FakeRank,
    Memory,
    Perftest,
    Start,
    TorchRanks,
    missing,
)
from rdmatrain.bench.footprint import check_memory, memory_available
from rdmatrain.bench.memory import RANKS, STREAMS, MemoryLimit
from rdmatrain.bench.model import Case, Entry, Result, Sweep
from rdmatrain.bench.options import SweepOptions, check_options
from rdmatrain.bench.running import ContestantError
from rdmatrain.bench.sizes import size_text
from rdmatrain.bench.table import comment, context_lines
from rdmatrain.discovery.source import Tree

LIMIT, FAKE = map(Entry, LIMITS)
PERFTEST = "perftest"
ALL_REDUCE = ("all_reduce",)
WIRE = tuple(sorted(OF_CORE))
STREAM_BYTES, STREAM_CALLS = 64 << 20, 11
Shown = dict[Case, dict[Entry, Result]]


def run_limit(options: SweepOptions, command: str, show: Callable[[str], object]) -> int:
    """Measure, write the files and show the tables.

    Args:
        options: of a sweep; its operations and ranks are replaced.
        command: the command line, for the record.
        show: prints text.

    Returns:
        Exit code: 0; 1 if a result is wrong or is missing; 128 and the signal that stopped it.

    Raises:
        SettingError: an option is wrong; nothing was started.

    """
    options = replace(options, operations=ALL_REDUCE, ranks=RANKS)
    check_options(options)
    check_memory(options, _starts(options), memory_available(Tree()), RANKS)
    found = measure(options, _starts(options), [], command)
    sweep, code = found.sweep, found.exit_code
    no_wire = missing(PERFTEST) if sweep.complete else "the sweep before it was stopped"
    if not no_wire:
        found = measure(replace(options, operations=WIRE), _starts_of_wire(), [], command)
        sweep = _joined(sweep, found.sweep)
        code = max(code, found.exit_code)
    not_written = write_files(options, sweep)
    lines = [*context_lines(sweep.context), *all_reduce_lines(sweep.results)]
    lines += wire_lines(sweep.results)
    lines += [f"#\n# the wire: skipped: {no_wire}"] if no_wire else []
    lines += stream_lines() if sweep.complete else []
    lines += [*remarks(sweep, found.stopped_by), *(f"# {each}" for each in not_written)]
    show("\n".join(lines))
    return code or (FAULT if not_written else 0)


def _starts(options: SweepOptions) -> list[Start]:
    ops = frozenset(ALL_REDUCE)
    ours = [TorchRanks(Entry(RDMATRAIN, asked), ops) for asked in options.transports]
    return [Memory(LIMIT, ops), FakeRank(FAKE, ops), *ours]


def _starts_of_wire() -> list[Start]:
    ops = frozenset(WIRE)
    return [Perftest(Entry(PERFTEST), ops), CoreRanks(Entry(RDMATRAIN, "verbs"), ops)]


def _joined(one: Sweep, other: Sweep) -> Sweep:
    return Sweep(
        context=replace(one.context, nic=other.context.nic),
        results=one.results + other.results,
        failures=one.failures + other.failures,
        complete=other.complete,
    )


def all_reduce_lines(results: Iterable[Result]) -> list[str]:
    """Return a table: what of the time of an all-reduce the limits would take.

    Args:
        results: of the limits and of rdmatrain; others are left out.

    """
    lines = [
        "#",
        f"# all_reduce, float32, SUM, {RANKS} ranks on this host, p50; percent is what the limit",
        "# would take of the time: the memory's, the price of a call, and both together",
        f"# {'size':>10}  {'memory':>9}  {'call':>7}  {'contestant':<14}  {'time':>9}  {'busbw':>7}"
        f"  {'of memory':>9}  {'of call':>7}  {'of both':>7}",
        f"# {'(B)':>10}  {'(us)':>9}  {'(us)':>7}  {'':<14}  {'(us)':>9}  {'(GB/s)':>7}"
        f"  {'(%)':>9}  {'(%)':>7}  {'(%)':>7}",
    ]
    disturbed = False
    for case, by_entry in _by_case(results).items():
        memory, call = by_entry.get(LIMIT), by_entry.get(FAKE)
        for entry, result in by_entry.items():
            if entry.backend == RDMATRAIN and case.op in ALL_REDUCE:
                lines.append(
                    f"  {case.nbytes:>10}  {_us(memory):>9}  {_us(call):>7}  {entry!s:<14}  "
                    f"{_us(result):>9}  {result.busbw:>7.3f}  {_percent(result, memory):>9}  "
                    f"{_percent(result, call):>7}  {_percent(result, memory, call):>7}"
                )
                disturbed |= memory is not None and memory.seconds_p50 > result.seconds_p50
    if disturbed:
        lines += comment(
            "more than 100 percent: other programs used the CPUs, on which the limit's processes "
            "spin; run it again on a machine that is quiet"
        )
    return lines


def wire_lines(results: Iterable[Result]) -> list[str]:
    """Return a table for each operation of perftest: what part of its bandwidth is reached."""
    lines: list[str] = []
    for op in WIRE:
        rows = []
        for case, by_entry in _by_case(results).items():
            wire = by_entry.get(Entry(PERFTEST))
            for entry, result in by_entry.items():
                if case.op == op and entry.backend == RDMATRAIN:
                    rows.append(
                        f"  {case.nbytes:>10}  {_us(wire):>9}  {entry!s:<14}  {_us(result):>9}  "
                        f"{result.busbw:>7.3f}  {_percent(result, wire):>9}"
                    )
        if rows:
            head = (
                f"# {'size':>10}  {'perftest':>9}  {'contestant':<14}  {'time':>9}  {'busbw':>7}"
                f"  {'of wire':>9}",
                f"# {'(B)':>10}  {'(us)':>9}  {'':<14}  {'(us)':>9}  {'(GB/s)':>7}  {'(%)':>9}",
            )
            lines += ["#", f"# the wire: {op}, {RANKS} ranks, p50", *head, *rows]
    return lines


def stream_lines() -> list[str]:
    """Measure how fast one CPU, and all of them, read and write memory; return a table."""
    lines = [
        "#",
        f"# memory, read and written, arrays of {size_text(STREAM_BYTES)} for each CPU, best of "
        f"{STREAM_CALLS} (GB/s)",
    ]
    try:
        with closing(MemoryLimit()) as memory:
            counts = list(dict.fromkeys([1, memory.cpus]))
            heads = [f"{count} CPU{'s' if count > 1 else ''}" for count in counts]
            lines.append(f"# {'':<10}" + "".join(f"  {head:>9}" for head in heads))
            for name in STREAMS:
                best = [
                    max(memory.bandwidth(name, count, STREAM_BYTES, STREAM_CALLS))
                    for count in counts
                ]
                lines.append(f"  {name:<10}" + "".join(f"  {each:>9.2f}" for each in best))
    except ContestantError as error:
        lines.append(f"# {error}")
    return lines


def _by_case(results: Iterable[Result]) -> Shown:
    shown: Shown = {}
    for result in results:
        shown.setdefault(result.case, {})[result.entry] = result
    return shown


def _us(result: Result | None) -> str:
    return f"{result.seconds_p50 * 1e6:.2f}" if result else "-"


def _percent(result: Result, *limits: Result | None) -> str:
    if None in limits:
        return "-"
    least = sum(limit.seconds_p50 for limit in limits if limit)
    return f"{100 * least / result.seconds_p50:.1f}"
