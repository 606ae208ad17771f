"""The verbs transport beside the wire and beside Gloo, on one RDMA device, in one run.

Runs where the device is; on a machine without one, in the guest of tests/vm:

    python tests/vm/vm_run.py .venv/bin/python benchmarks/verbs.py --json out/vm/verbs.jsonl

Rounds alternate between perftest (the wire) and ``bench_core`` (two ranks, tensors in the arena),
so that whatever else the machine does hits both; each value is the median over the rounds. Then
``rdmatrain bench`` runs ``dist.all_reduce`` over verbs beside Gloo over TCP. Prints the lines that
must hold and fails where one does not, or could not be measured.
"""

import argparse
import json
import math
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from common import ROOT, append_records, json_lines, size_text, where

from rdmatrain.comm import rdma
from rdmatrain.config import load_settings

KIB, MIB = 1 << 10, 1 << 20
LOOPBACK = "127.0.0.1"
BENCH_CORE = ROOT / "build/c-plain/tests/c/bench_core"
LIMIT_S = 120.0
# How many times as long as rdmatrain Gloo must take, by bytes: powers of two.
DIST_TIMES = {**{8 << power: 10.0 for power in range(10)}, 64 * KIB: 3.0}


class Line(NamedTuple):
    """One line of the verdict; ``ratio`` passes from ``least`` on, or up to ``most``."""

    text: str
    ours: str
    theirs: str
    ratio: float
    least: float = 0.0
    most: float = float("inf")

    @property
    def passes(self) -> bool:
        """Tell whether the line holds."""
        return self.least <= self.ratio <= self.most

    def __str__(self) -> str:
        """Write it as a row of the table."""
        limit = f">= {self.least:g}" if self.least else f"<= {self.most:g}"
        values = f"{self.ours:>14} {self.theirs:>14} {self.ratio:6.2f} {limit:>8}"
        return f"{self.text:<44} {values}  {'ok' if self.passes else 'MISSED'}"


class Wire:
    """perftest on one device, both ends in this machine."""

    def __init__(self, rail: rdma.Rail) -> None:
        self.options = ["-d", rail.port.device, "-i", str(rail.port.number)]
        self.options += ["-x", str(rail.gid.index), "-F"]

    def mb_per_s(self, *extra: str) -> float:
        """Average bandwidth of 1 MiB RDMA WRITEs, both directions together with ``-b``."""
        return self._run("ib_write_bw", ["-s", str(MIB), "-n", "100", *extra], column=3)

    def latency_us(self) -> float:
        """Typical time of an 8-byte RDMA WRITE, one way."""
        return self._run("ib_write_lat", ["-s", "8", "-n", "2000"], column=4)

    def _run(self, tool: str, options: list[str], column: int) -> float:
        command = [tool, *self.options, *options]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as server:
            time.sleep(1.5)  # perftest's server says nothing when it listens
            client = subprocess.run(
                [*command, LOOPBACK], capture_output=True, text=True, timeout=LIMIT_S, check=True
            )
            server.wait(LIMIT_S)
        rows = [line.split() for line in client.stdout.splitlines()]
        (row,) = (row for row in rows if row and re.fullmatch(r"\d+", row[0]) and len(row) > column)
        return float(row[column])


class Core:
    """``bench_core``: two ranks over one rail."""

    def __init__(self, rail: rdma.Rail, binary: Path) -> None:
        self.argument = rdma.listen_argument([rail], LOOPBACK, load_settings({}))
        self.binary = binary
        self.records: list[dict[str, object]] = []

    def seconds(self, op: str, nbytes: int) -> float:
        """Median seconds of a call; keeps what was reported."""
        done = subprocess.run(
            [str(self.binary), "verbs", self.argument, op, str(nbytes), "2", "1"],
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=True,
        )
        record = json.loads(done.stdout)
        if record["staged_bytes"] != 0:
            raise SystemExit(f"{op} of {nbytes} bytes: {record['staged_bytes']} bytes were copied")
        self.records.append(record)
        return float(record["seconds_p50"])


def interleave(measures: dict[str, Callable[[], float]], rounds: int) -> dict[str, float]:
    """Take each measure once a round; the medians."""
    taken: dict[str, list[float]] = {name: [] for name in measures}
    for number in range(rounds):
        for name, measure in measures.items():
            taken[name].append(measure())
            print(f"# round {number + 1}: {name} {taken[name][-1]:.6g}", flush=True)
    return {name: statistics.median(values) for name, values in taken.items()}


def wire_lines(wire: Wire, core: Core, rounds: int) -> tuple[list[Line], dict[str, float]]:
    """Measure what is held against perftest."""
    sizes = [MIB, 4 * MIB, 16 * MIB]
    measures: dict[str, Callable[[], float]] = {
        "wire, both ways, MB/s": lambda: wire.mb_per_s("-b"),
        "wire, one way, MB/s": wire.mb_per_s,
        "wire, 8 B, us": wire.latency_us,
        "broadcast 4 MiB": lambda: core.seconds("broadcast", 4 * MIB),
        "send 4 MiB": lambda: core.seconds("send", 4 * MIB),
        "all_reduce 8 B": lambda: core.seconds("all_reduce", 8),
    }
    for size in sizes:
        measures[f"all_reduce {size_text(size)}"] = lambda n=size: core.seconds("all_reduce", n)
    got = interleave(measures, rounds)
    each_way = got["wire, both ways, MB/s"] / 2
    lines = []
    for size in sizes:
        name = f"all_reduce {size_text(size)}"
        ours = size / MIB / got[name]  # perftest's MB are MiB; with two ranks busbw is size / time
        lines.append(
            Line(f"{name}, busbw", f"{ours:.1f} MB/s", f"{each_way:.1f} MB/s", ours / each_way, 0.8)
        )
    for name in ("broadcast 4 MiB", "send 4 MiB"):
        ours, theirs = 4 / got[name], got["wire, one way, MB/s"]
        lines.append(
            Line(f"{name}, one way", f"{ours:.1f} MB/s", f"{theirs:.1f} MB/s", ours / theirs, 0.85)
        )
    ours, theirs = got["all_reduce 8 B"] * 1e6, got["wire, 8 B, us"]
    lines.append(
        Line("all_reduce 8 B, core", f"{ours:.1f} us", f"{theirs:.1f} us", ours / theirs, most=4)
    )
    return lines, got


def dist_lines(json_path: Path | None) -> list[Line]:
    """Run ``dist.all_reduce`` beside Gloo, as launchers start ranks; a line for each size.

    Ranks that are pinned make Gloo twice as fast here: its threads then share their rank's CPU.
    """
    records = swept(dist_command(), json_path)
    return [dist_line(records, nbytes) for nbytes in DIST_TIMES]


def swept(command: Sequence[str], json_path: Path | None) -> list[dict[str, Any]]:
    """Make a sweep; return its records, as far as it came, and append them to a file."""
    with tempfile.TemporaryDirectory(prefix="rdmatrain-bench-") as folder:
        path = Path(folder, "records.jsonl")
        subprocess.run([*command, "--json", str(path)], timeout=600, check=False)
        records = json_lines(path.read_text(encoding="utf-8")) if path.exists() else []
    if json_path:
        append_records(json_path, records)
    return records


def dist_command() -> list[str]:
    """Return the sweep to run."""
    argv = [sys.executable, "-m", "rdmatrain.cli", "bench", "all_reduce", "--vs", "gloo"]
    # An emulated CPU translates code when it first runs: that is not what a call takes.
    argv += ["--transport", "verbs", "--no-pin", "--quiet", "-w", "50", "-n", "50"]
    return [*argv, "-b", str(min(DIST_TIMES)), "-e", str(max(DIST_TIMES))]


def dist_line(records: Sequence[dict[str, Any]], nbytes: int) -> Line:
    """Return the line of a size, which is missed where there is no result, or a wrong one."""
    us = {
        each["backend"]: each["seconds_p50"] * 1e6
        for each in records
        if each["nbytes"] == nbytes and "seconds_p50" in each and not each["nwrong"]
    }
    ours, gloo = us.get("rdmatrain", math.nan), us.get("gloo", math.nan)
    text = f"dist.all_reduce {size_text(nbytes)}, times Gloo"
    return Line(text, f"{ours:.0f} us", f"{gloo:.0f} us", gloo / ours, DIST_TIMES[nbytes])


def main() -> int:
    """Measure, print and judge; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="append records to this file")
    parser.add_argument("--core", type=Path, default=BENCH_CORE, help="the binary of core.c")
    parser.add_argument(
        "--no-dist", action="store_true", help="leave out torch, which starts slowly"
    )
    args = parser.parse_args()
    if not args.core.exists():
        print(f"there is no {args.core}: make bench builds it", file=sys.stderr)
        return 2
    search = rdma.find_rails(load_settings())
    if not search.rails:
        print(f"no RDMA device can be used: {search.why_not}", file=sys.stderr)
        return 2
    rail = search.rails[0]
    core = Core(rail, args.core)
    lines, got = wire_lines(Wire(rail), core, args.rounds)
    if not args.no_dist:
        lines += dist_lines(args.json)
    print(f"# {rail}; {where()}\n# medians of {args.rounds} alternating rounds")
    print(f"{'# 2 ranks on one device':<44} {'rdmatrain':>14} {'beside':>14} {'ratio':>6}")
    print("\n".join(map(str, lines)))
    if args.json:
        common = {"rail": str(rail), "argv": " ".join(sys.argv), **where()}
        append_records(args.json, [{**record, **common} for record in [got, *core.records]])
    return int(not all(line.passes for line in lines))


if __name__ == "__main__":
    sys.exit(main())
