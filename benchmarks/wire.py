"""``rdmatrain bench write`` and ``pingpong`` beside perftest on one RDMA device: within 10 %.

Runs where the device is; on a machine without one, in the guest of tests/vm:

    python tests/vm/vm_run.py .venv/bin/python benchmarks/wire.py --json out/vm/wire.jsonl

The rounds of both alternate; what is compared at each size are the medians over the rounds. Prints
the lines that must hold and fails where one does not, or could not be measured.
"""

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common import size_text, where
from verbs import KIB, MIB, Line, swept

from rdmatrain.comm import rdma
from rdmatrain.config import load_settings

MOST = 1.10  # of perftest's time
SIZES = {
    "write": (64 * KIB, 512 * KIB, 4 * MIB),
    "pingpong": (8, 64, 512, 4 * KIB),
}
CALLS = {"write": 20, "pingpong": 200}  # of a round
BUDGET_S = 120  # of an operation's rounds: fewer are made on a machine that is busy
FACTOR = 8  # from a size to the next one


def command(op: str, rounds: int) -> list[str]:
    """Return the sweep of an operation."""
    argv = [sys.executable, "-m", "rdmatrain.cli", "bench", op, "--transport", "verbs"]
    argv += ["--vs", "perftest", "--rounds", str(rounds), "-n", str(CALLS[op])]
    argv += ["--time-budget", str(BUDGET_S)]
    return [*argv, "-b", str(SIZES[op][0]), "-e", str(SIZES[op][-1]), "-f", str(FACTOR)]


def line_of(records: Sequence[dict[str, Any]], op: str, nbytes: int) -> Line:
    """Return the line of a size, which is missed where there is no result, or a wrong one."""
    us = {
        each["backend"]: each["seconds_p50"] * 1e6
        for each in records
        if (each["op"], each["nbytes"]) == (op, nbytes) and not each["nwrong"]
    }
    ours, wire = us.get("rdmatrain", math.nan), us.get("perftest", math.nan)
    text = f"{op} {size_text(nbytes)}, of perftest's time"
    return Line(text, f"{ours:.1f} us", f"{wire:.1f} us", ours / wire, most=MOST)


def main() -> int:
    """Measure, print and judge; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="append records to this file")
    args = parser.parse_args()
    search = rdma.find_rails(load_settings())
    if not search.rails:
        print(f"no RDMA device can be used: {search.why_not}", file=sys.stderr)
        return 2
    lines = []
    for op, sizes in SIZES.items():
        records = swept(command(op, args.rounds), args.json)
        lines += [line_of(records, op, nbytes) for nbytes in sizes]
    print(f"# {search.rails[0]}; {where()}\n# medians of {args.rounds} alternating rounds")
    print(f"{'# both ends on one device':<44} {'rdmatrain':>14} {'perftest':>14} {'ratio':>6}")
    print("\n".join(map(str, lines)))
    return int(not all(line.passes for line in lines))


if __name__ == "__main__":
    sys.exit(main())
