"""Results as text: tables in the layout of nccl-tests, and then who is how fast beside whom.

Scripts that read nccl-tests read these: thirteen fields in a row, with numbers in both halves and
nothing after the last, ``#wrong``; all else starts with ``#``. Where only one of the two halves
exists, the other repeats its numbers, and has ``N/A`` as ``#wrong``, which is how nccl-tests shows
the in-place half of its all-to-all. Median, percentile and spread are in the tables at the end.
"""

import re
import textwrap
from collections.abc import Hashable, Iterable, Sequence
from typing import NamedTuple, TypeVar

from rdmatrain.bench.model import OPS, Case, Context, Entry, Nic, Result

WIDTH = 80  # of all lines but those of nccl-tests' tables, which have 118

_DTYPES = {
    "float16": "half",
    "float32": "float",
    "float64": "double",
    "float8_e4m3fn": "f8e4m3",
    "float8_e5m2": "f8e5m2",
}
_REDOPS = {"PRODUCT": "prod", "": "none"}
_NO_CHECK = "N/A"
TOGETHER = "calls of a round are timed together: p99 is that of the rounds, not of calls"

Key = TypeVar("Key", bound=Hashable)


class _Row(NamedTuple):
    """What a line of nccl-tests' table has in common for both halves."""

    dtype: str
    redop: str
    nbytes: int
    root: int


def lines_of(results: Sequence[Result], context: Context) -> list[str]:
    """Return the text of a run, without line ends.

    Args:
        results: in the order of their cases; the first contestant is the one that ratios are to.
        context: of the run.

    """
    lines = context_lines(context)
    by_op = _grouped((result.case.op, result) for result in results)
    for op, of_op in by_op.items():
        for entry, of_entry in _grouped((result.entry, result) for result in of_op).items():
            lines += ["#", *_contestant_lines(op, entry, of_entry)]
    if results:
        first = results[0].entry
        for of_op in by_op.values():
            lines += ["#", *_comparison_lines(of_op, first)]
    return lines


def dtype_name(dtype: str) -> str:
    """Return nccl-tests' name of a dtype of torch: float for float32."""
    return _DTYPES.get(dtype, dtype)


def redop_name(redop: str) -> str:
    """Return nccl-tests' name of a reduction: sum for SUM, none where nothing is reduced."""
    return _REDOPS.get(redop, redop.lower())


def count_of(case: Case, ranks: int) -> int:
    """Return the elements that nccl-tests counts: of a rank's part where the operation has parts.

    Args:
        case: its size is that of the larger tensor of a rank, parts of all ranks together.
        ranks: how many.

    """
    parts = ranks if OPS[case.op].splits else 1
    return case.nbytes // _itemsize(case.dtype) // parts


def _itemsize(dtype: str) -> int:
    bits = re.search(r"[0-9]+", dtype)  # bool has none
    return int(bits[0]) // 8 if bits else 1


def _grouped(pairs: Iterable[tuple[Key, Result]]) -> dict[Key, list[Result]]:
    groups: dict[Key, list[Result]] = {}
    for key, result in pairs:
        groups.setdefault(key, []).append(result)
    return groups


def context_lines(context: Context) -> list[str]:
    """Return what was run, where, and of what, as comments."""
    versions = ", ".join(f"{name} {version}" for name, version in context.versions.items())
    bound = "ranks are bound to CPUs" if context.pinned else "ranks are not bound to CPUs"
    machine = f"{context.cpus} x {context.machine}, {context.memory_bytes / 2**30:.1f} GiB"
    commit = f", commit {context.commit}" if context.commit else ""
    texts = [
        context.command,
        f"{context.time} on {context.host}: {machine}, kernel {context.kernel}; {bound}",
        f"{versions}{commit}",
    ]
    if context.nic:
        texts.append(_nic_text(context.nic))
    return [line for text in texts for line in comment(text)]


def _nic_text(nic: Nic) -> str:
    firmware = f", firmware {nic.firmware}" if nic.firmware else ""
    return (
        f"NIC {nic.device} port {nic.port}: {nic.link_layer}, {nic.rate_gbps:g} Gbit/s, "
        f"MTU {nic.mtu}, GID {nic.gid_index} {nic.gid}{firmware}"
    )


def comment(text: str) -> list[str]:
    """Return a paragraph, wrapped; whatever is in it, each line starts with ``#``."""
    return textwrap.wrap(
        " ".join(text.split()), WIDTH, initial_indent="# ", subsequent_indent="#   "
    )


def _contestant_lines(op: str, entry: Entry, results: Sequence[Result]) -> list[str]:
    """Return a table of nccl-tests, with what stands above and below it."""
    rows: dict[_Row, dict[bool, Result]] = {}
    for result in results:
        case = result.case
        row = _Row(case.dtype, case.redop, case.nbytes, case.root)
        rows.setdefault(row, {})[case.in_place] = result
    return [
        f"# Collective test starting: {op}",
        *comment(_who(entry, results)),
        *comment("time is the median of the rounds, each that of its slowest rank"),
        *(comment(TOGETHER) if OPS[op].together else []),
        *_one_half_only(rows.values()),
        "#",
        *_HEADER,
        *(_row_line(row, halves) for row, halves in rows.items()),
        *_footer(results),
        "#",
        f"# Collective test concluded: {op}",
    ]


def _who(entry: Entry, results: Sequence[Result]) -> str:
    first = results[0]
    hosts = f"{first.hosts} host{'s' if first.hosts != 1 else ''}"
    said = dict.fromkeys(result.transport for result in results if result.transport)
    over = f" over {', '.join(said)}" if said else ""
    where = "" if first.device == "cpu" else f", tensors on {first.device}"
    return f"{entry}, {first.ranks} ranks on {hosts}{over}{where}"


def _one_half_only(rows: Iterable[dict[bool, Result]]) -> list[str]:
    """Return what to say of rows that have one half; words that no script takes for a header."""
    lacking = {(True in halves) for halves in rows if len(halves) == 1}
    names = {True: "in place", False: "out of place"}
    return [
        line
        for only_in, name in names.items()
        if only_in in lacking
        for line in comment(f"{name} only: the other half repeats it, with {_NO_CHECK} as #wrong")
    ]


def _header(*, names: Sequence[str], halves: Sequence[str]) -> str:
    left = "  ".join(
        f"{name:>{width}}" for name, width in zip(names, (10, 12, 8, 6, 6), strict=True)
    )
    half = "  ".join(f"{name:>{width}}" for name, width in zip(halves, (7, 6, 6, 6), strict=True))
    return f"# {left}  {half}  {half}".rstrip()


_HEADER = (
    f"# {'':50}           out-of-place                        in-place",
    _header(
        names=("size", "count", "type", "redop", "root"),
        halves=("time", "algbw", "busbw", "#wrong"),
    ),
    _header(names=("(B)", "(elements)", "", "", ""), halves=("(us)", "(GB/s)", "(GB/s)", "")),
)


def _row_line(row: _Row, halves: dict[bool, Result]) -> str:
    some = next(iter(halves.values()))
    left = (
        f"{row.nbytes:12}  {count_of(some.case, some.ranks):12}  {dtype_name(row.dtype):>8}  "
        f"{redop_name(row.redop):>6}  {row.root:6}"
    )
    return "".join((left, *(_half(halves, in_place) for in_place in (False, True))))


def _half(halves: dict[bool, Result], in_place: bool) -> str:
    result = halves.get(in_place) or halves[not in_place]
    unchecked = in_place not in halves or result.nwrong is None
    wrong = _NO_CHECK if unchecked else str(result.nwrong)
    return (
        f"  {_number(result.seconds_p50 * 1e6, 7)}  {_bandwidth(result.algbw)}  "
        f"{_bandwidth(result.busbw)}  {wrong:>6}"
    )


def _number(value: float, width: int) -> str:
    """Write with two decimals, or as many as there is room for; never with an exponent."""
    for decimals in (2, 1):
        text = f"{value:{width}.{decimals}f}"
        if len(text) <= width:
            return text
    return f"{value:{width}.0f}"


def _bandwidth(value: float) -> str:
    """Write GB/s; below 1 with four decimals, as much is slower than what nccl-tests is for."""
    return f"{value:6.4f}" if 0 < value < 0.99995 else _number(value, 6)


def _footer(results: Sequence[Result]) -> list[str]:
    wrong = sum(1 for result in results if result.nwrong)
    mean = sum(result.busbw for result in results) / len(results)
    return [
        f"# Out of bounds values : {wrong} {'FAILED' if wrong else 'OK'}",
        f"# Avg bus bandwidth    : {mean:.6f}",
    ]


def _comparison_lines(results: Sequence[Result], first: Entry) -> list[str]:
    """Return a table for each kind of case of one operation, all contestants in it.

    Args:
        results: of one operation.
        first: who has ratio 1.

    """
    base = {each.case: each.seconds_p50 for each in results if each.entry == first}
    lines: list[str] = []
    for title, of_kind in _grouped((_kind(result.case), result) for result in results).items():
        lines += [f"# {title}", *_COMPARISON_HEADER]
        for case, of_case in _grouped((result.case, result) for result in of_kind).items():
            lines += [_comparison_line(result, base.get(case)) for result in of_case]
        lines.append("#")
    if {result.entry for result in results} == {first}:
        return lines[:-1]
    return lines[:-1] + comment(f"ratio is that of the p50 to {first}'s: above 1 is slower")


def _kind(case: Case) -> str:
    words = [case.op]
    if OPS[case.op].sized:
        place = "in place" if case.in_place else "not in place"
        words += [dtype_name(case.dtype), *([redop_name(case.redop)] if case.redop else []), place]
    if case.root >= 0:
        words.append(f"root {case.root}")
    return ", ".join(words)


_COMPARISON_HEADER = (
    f"# {'size':>10}  {'contestant':<20}  {'p50':>8}  {'p99':>8}  {'cv':>5}  {'busbw':>6}"
    f"  {'ratio':>7}",
    f"# {'(B)':>10}  {'':<20}  {'(us)':>8}  {'(us)':>8}  {'(%)':>5}  {'(GB/s)':>6}",
)


def _comparison_line(result: Result, base: float | None) -> str:
    ratio = f"{result.seconds_p50 / base:.2f}" if base else "-"
    spread = f"{result.cv * 100:.1f}" if len(result.rounds) > 1 else "-"
    wrong = f"  {result.nwrong} wrong" if result.nwrong else ""
    return (
        f"# {result.case.nbytes:10}  {result.entry!s:<20}  {_number(result.seconds_p50 * 1e6, 8)}"
        f"  {_number(result.seconds_p99 * 1e6, 8)}  {spread:>5}"
        f"  {_bandwidth(result.busbw)}  {ratio:>7}{wrong}"
    )
