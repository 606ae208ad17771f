"""What ``rdmatrain bench scale`` prints and writes: a table for each part, and JSON lines."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from statistics import median
from typing import Any

from rdmatrain.bench.model import Context
from rdmatrain.bench.scale.measured import Measured
from rdmatrain.bench.scale.plans import Costs
from rdmatrain.bench.scale.setup import Setup
from rdmatrain.bench.scale.simulate import Network, Point
from rdmatrain.bench.scale.validate import Check, Fed

SCHEMA = "rdmatrain-bench-scale/1"
Record = dict[str, Any]

HEADERS = {
    "measured": "     op  ranks      bytes      p50 us      p99 us  busbw GB/s  wrong  over",
    "setup": " kind  ranks   form s  first s  largest s    CPU s   pairs training    asks",
    "validated": "    way  ranks  hosts      bytes  measured us  predicted us    error",
    "simulated": "   fabric      way  ranks      bytes  predicted us  busbw GB/s  of the bound",
}


def measured_line(one: Measured) -> str:
    """Return a row of the table of what was measured."""
    wrong = "-" if one.nwrong is None else str(one.nwrong)
    return (
        f"{one.op.removeprefix('all_'):>7} {one.ranks:6d} {one.nbytes:10d} "
        f"{one.seconds * 1e6:11.1f} {one.seconds_p99 * 1e6:11.1f} {one.busbw:11.3f} "
        f"{wrong:>6}  {one.transport}"
    )


def setup_line(one: Setup) -> str:
    """Return a row of the table of set-up times."""
    large = "-" if one.large_pairs is None else f"{one.large_pairs:.0f}"
    return (
        f"{one.kind:>5} {one.ranks:6d} {one.form_s:8.3f} {one.first_s:8.3f} "
        f"{one.largest_s:10.3f} {one.cpu_s:8.3f} {one.pairs:7.0f} {large:>8} "
        f"{one.asks:7.0f}"
    )


def validated_line(one: Check) -> str:
    """Return a row of the table of predictions that were checked."""
    return (
        f"{one.way:>7} {one.ranks:6d} {one.hosts:6d} {one.nbytes:10d} "
        f"{one.measured_s * 1e6:12.1f} {one.predicted_s * 1e6:13.1f} {one.error_percent:+7.1f} %"
    )


def simulated_line(one: Point) -> str:
    """Return a row of the table of the simulation."""
    part = f"{one.percent:11.2f} %" if one.bound_s else f"{'-':>11}"
    return (
        f"{one.fabric:>9} {one.way:>8} {one.ranks:6d} {one.nbytes:10d} "
        f"{one.seconds * 1e6:13.1f} {one.busbw:11.3f} {part}"
    )


def fed_line(fed: Fed) -> str:
    """Say what the engine was fed with for the validation."""
    return (
        f"# fed with what two hosts measure: {fed.latency_s * 1e6:.1f} us one way, "
        f"{fed.message_s * 1e6:.1f} us a message, {fed.bytes_per_s * 8 / 1e6:.1f} Mbit/s"
    )


def error_line(checks: Sequence[Check]) -> str:
    """Sum the errors up, for messages that the wire bounds and for small ones."""
    parts = []
    for text, chosen in (
        ("16 KiB and more", [c for c in checks if c.nbytes >= 16 << 10]),
        ("smaller", [c for c in checks if c.nbytes < 16 << 10]),
    ):
        if chosen:
            errors = [abs(c.error_percent) for c in chosen]
            parts.append(f"{text}: median {median(errors):.0f} %, largest {max(errors):.0f} %")
    return f"error of the prediction, {'; '.join(parts)}"


def records(
    part: str, found: Iterable[Measured | Setup | Check | Point], context: Context
) -> list[Record]:
    """Return the lines of a part: see schemas/scale.schema.json."""
    lines = []
    for one in found:
        record = {"schema": SCHEMA, "part": part} | asdict(one)
        if isinstance(one, Check):
            record["error_percent"] = one.error_percent
        if isinstance(one, Point):
            record |= {"busbw": one.busbw, "percent": one.percent}
        lines.append(record | asdict(context))
    return lines


def fed_with(network: Network, costs: Costs) -> Record:
    """Return what a simulation was fed with, for its records."""
    return asdict(network) | asdict(costs)
