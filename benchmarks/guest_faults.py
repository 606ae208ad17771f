"""Faults on a soft-RoCE device in a guest: how soon ranks are told, and that each is named right.

Runs ``tests/verbs/test_faults.py`` in a guest of ``tests/vm``, each fault ``--runs`` times, and
prints a table of what the ranks said. The tests hold each rank to 3 s and to a text that has rank,
host, device and cause, so that one that is late or misnamed fails them, and this program.
"""

import argparse
import json
import statistics
import subprocess
import sys
from itertools import groupby
from pathlib import Path
from typing import Any

from common import ROOT, append_records, commit, machine, where

LOG = ROOT / "out/vm/faults.jsonl"  # that the tests append to
VM_RUN = ("tests/vm/vm_run.py", "--limit-s")
PYTEST = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/verbs/test_faults.py")
BOOT_S, RUN_S = 240.0, 60.0  # limits: of what is done once, and of each fault once more


def main() -> int:
    """Run the tests in a guest, and print the table; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=20, help="of each fault (default: 20)")
    parser.add_argument("--json", type=Path, help="append one record a rank that was told")
    args = parser.parse_args()
    LOG.unlink(missing_ok=True)
    python = [".venv/bin/python", *PYTEST]
    variables = ["env", f"VM_FAULT_RUNS={args.runs}"]
    limit = str(BOOT_S + RUN_S * args.runs)
    done = subprocess.run(
        [sys.executable, *VM_RUN, limit, *variables, *python], cwd=ROOT, check=False
    )
    told = [json.loads(line) for line in LOG.read_text().splitlines()] if LOG.exists() else []
    print(f"# {machine()}, commit {commit()}, in a guest, {args.runs} of each fault")
    print("# seconds from the fault until a rank was told; at most 3")
    print(f"{'fault':<40} {'told':>5} {'median':>8} {'largest':>8}  the first text")
    told.sort(key=lambda each: each["fault"])
    for fault, ranks in groupby(told, key=lambda each: each["fault"]):
        print(row(fault, [*ranks]))
    if args.json:
        append_records(args.json, [each | where() for each in told])
    return done.returncode


def row(fault: str, ranks: list[dict[str, Any]]) -> str:
    """Format what the ranks said of a fault; some end at once, and so have no seconds."""
    seconds = [each["seconds"] for each in ranks if "seconds" in each]
    times = "at once" if not seconds else f"{statistics.median(seconds):8.2f} {max(seconds):8.2f}"
    text = ranks[0].get("error", "")
    said = text[-1] if isinstance(text, list) else str(text)
    return f"{fault:<40} {len(ranks):>5} {times:>17}  {said}"


if __name__ == "__main__":
    sys.exit(main())
