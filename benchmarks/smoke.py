"""Each operation over rdmatrain beside Gloo: ``rdmatrain bench``, and a verdict.

Fails where Gloo is faster, or a result is wrong or missing. Prints microseconds a call, and how
many times as long Gloo takes; ``--json`` keeps the records of ``rdmatrain bench``.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

OPS = (
    "all_reduce",
    "reduce",
    "broadcast",
    "all_gather",
    "reduce_scatter",
    "all_to_all",
    "gather",
    "scatter",
    "pingpong",
    "barrier",
)
BACKENDS = ("rdmatrain", "gloo")
MAX_BYTES, FACTOR, ROUNDS = 16 << 20, 8, 5
HEADER = "#             op place      bytes   rdmatrain        gloo    ratio  wrong"


def main() -> int:
    """Measure and judge; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--nproc", type=int, default=2, help="ranks (default: 2)")
    parser.add_argument("--json", type=Path, help="append the records to this file")
    parser.add_argument("--op", choices=OPS, action="append", help="only this one; may be repeated")
    parser.add_argument("--max-bytes", type=int, default=MAX_BYTES, help="no larger cases")
    parser.add_argument("--factor", type=int, default=FACTOR, help="from a size to the next")
    parser.add_argument(
        "--no-pin", action="store_true", help="leave the ranks where the kernel puts them"
    )
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="rdmatrain-bench-") as folder:
        path = Path(folder, "records.jsonl")
        done = subprocess.run([*command(args), "--json", str(path)], check=False)
        text = path.read_text(encoding="utf-8") if path.exists() else ""
    if args.json:
        with args.json.open("a", encoding="utf-8") as out:
            out.write(text)
    records = [json.loads(line) for line in text.splitlines()]
    return max(done.returncode, judge([each for each in records if "seconds_p50" in each]))


def command(args: argparse.Namespace) -> list[str]:
    """Return the sweep to run."""
    argv = [sys.executable, "-m", "rdmatrain.cli", "bench", ",".join(args.op or OPS)]
    argv += ["--vs", "gloo", "--ranks", str(args.nproc), "--rounds", str(ROUNDS), "--quiet"]
    argv += ["-b", "8", "-e", str(args.max_bytes), "-f", str(args.factor)]
    return [*argv, "--no-pin"] if args.no_pin else argv


def judge(records: Sequence[dict[str, object]]) -> int:
    """Print the cases side by side; return 1 where Gloo is faster, or a result wrong or missing."""
    print(HEADER)
    cases: dict[tuple[object, ...], dict[str, dict[str, object]]] = {}
    for each in records:
        key = (each["op"], "in" if each["in_place"] else "out", each["nbytes"])
        cases.setdefault(key, {})[str(each["backend"])] = each
    failed_at = [f"{key[0]} of {key[2]} bytes" for key, each in cases.items() if not row(key, each)]
    verdict = (
        f"slower, wrong or without a result in {failed_at}" if failed_at else "faster in every case"
    )
    print(f"# rdmatrain is {verdict}")
    return int(bool(failed_at) or not cases)


def row(key: tuple[object, ...], found: dict[str, dict[str, object]]) -> bool:
    """Print a case; return whether rdmatrain is faster, and both are right."""
    op, place, nbytes = key
    print(f"{op!s:>16} {place!s:>5} {nbytes:10}", end=" ")
    if missing := [name for name in BACKENDS if name not in found]:
        print(f"no result of {missing[0]}")
        return False
    ours, theirs = (float(str(found[name]["seconds_p50"])) for name in BACKENDS)
    nwrong = sum(int(str(each["nwrong"] or 0)) for each in found.values())
    print(f"{ours * 1e6:11.2f} {theirs * 1e6:11.2f} {theirs / ours:7.1f}x {nwrong:6d}")
    return ours < theirs and not nwrong


if __name__ == "__main__":
    sys.exit(main())
