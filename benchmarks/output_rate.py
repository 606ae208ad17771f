"""Numbered lines of two ranks through a launcher: how fast, how late, and whether all came.

rdmatrain run and torchrun --tee 3 in turn, on the same worker. ``flood`` is 10^6 lines as fast as
the ranks can: thousands of lines a second, counted from the first line that arrived to the last.
``paced`` is 2000 lines a second and rank: milliseconds from the print to the reader. ``lost`` lines
did not come whole; ``wrong`` ones came torn, mixed, twice or out of order within their rank.
"""

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from common import append_records, bare_environment, commit, machine, where

RANKS = 2
FILLER = 90
WORKER = """
import os, sys, time
count, pace_s = int(sys.argv[1]), float(sys.argv[2])
rank, text, now, write = os.environ["RANK"], "x" * 90, time.monotonic, sys.stdout.write
for i in range(count):
    write(f"<{rank} {i} {now():.6f} {text[:i % 90]}>\\n")
    if pace_s:
        time.sleep(pace_s)
"""
LINE = re.compile(rb"[^<]*<([01]) ([0-9]+) ([0-9.]+) (x*)>")
FLOOD, PACED = "flood", "paced"
PACE_S = 0.0005
MAX_PACED = 4000


class Result(NamedTuple):
    """What came of one run.

    Attributes:
        lines_s: whole lines a second.
        delays_ms: of each whole line.
        lost: lines that did not come whole.
        wrong: what came and is no whole line, or came before an earlier line of its rank.

    """

    lines_s: float
    delays_ms: list[float]
    lost: int
    wrong: int


def main() -> None:
    """Print a table; exit with 1 if a line of rdmatrain is wrong."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--lines", type=int, default=1_000_000, help="of both ranks together")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=[*launchers()], help="leave the other out")
    parser.add_argument("--json", type=Path, help="append records to this file")
    args = parser.parse_args()
    print(f"# {machine()}, {commit()}, medians of {args.rounds}")
    print(f"{'#':20}{'lines':>9}{'k lines/s':>11}{'p50 ms':>9}{'p99 ms':>9}{'lost':>9}{'wrong':>9}")
    names = [args.only] if args.only else [*launchers()]
    records = [record for mode in (FLOOD, PACED) for record in compare(names, mode, args)]
    if args.json:
        append_records(args.json, [where() | record for record in records])
    ours = [record for record in records if record["launcher"] == "rdmatrain run"]
    sys.exit(any(record["lost"] or record["wrong"] for record in ours))


def compare(names: list[str], mode: str, args: argparse.Namespace) -> list[dict[str, object]]:
    """Run the launchers in turn; return a record of each."""
    count = args.lines // RANKS if mode == FLOOD else min(MAX_PACED, args.lines // RANKS)
    results: dict[str, list[Result]] = {name: [] for name in names}
    for _ in range(args.rounds):
        for name in names:
            results[name].append(run(launchers()[name], count, mode))
    return [show(name, mode, count * RANKS, results[name]) for name in names]


def launchers() -> dict[str, list[str]]:
    """Return the beginning of each launcher's command line."""
    python = [sys.executable, "-m"]
    return {
        "rdmatrain run": [*python, "rdmatrain.cli", "run"],
        "torchrun --tee 3": [*python, "torch.distributed.run", "--tee", "3"],
    }


def run(launcher: list[str], count: int, mode: str) -> Result:
    """Run both ranks through a launcher, and judge what it wrote."""
    pace_s = PACE_S if mode == PACED else 0.0
    with tempfile.TemporaryDirectory(prefix="rdmatrain-bench-") as folder:
        script = Path(folder, "worker.py")
        script.write_text(WORKER, encoding="utf-8")
        env = bare_environment() | {"TMPDIR": folder}
        options = ["--nproc-per-node", str(RANKS)]
        command = [*launcher, *options, str(script), str(count), str(pace_s)]
        with subprocess.Popen(command, env=env, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            chunks = []
            while chunk := os.read(process.stdout.fileno(), 1 << 20):
                chunks.append((time.monotonic(), chunk))
        if process.returncode:
            raise SystemExit(f"{command} ended with {process.returncode}")
    return judge(chunks, count)


def judge(chunks: list[tuple[float, bytes]], count: int) -> Result:
    """Compare what arrived, and when, with what the ranks wrote."""
    next_number, came_whole = [0] * RANKS, [bytearray(count) for _ in range(RANKS)]
    delays_ms, num_torn, num_disordered, rest = [], 0, 0, b""
    for came, chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            whole = LINE.fullmatch(line)
            if whole is None or len(whole[4]) != int(whole[2]) % FILLER or int(whole[2]) >= count:
                num_torn += 1
                continue
            rank, number = int(whole[1]), int(whole[2])
            num_disordered += number < next_number[rank]
            next_number[rank] = number + 1
            came_whole[rank][number] = 1
            delays_ms.append(1000 * (came - float(whole[3])))
    num_lost = RANKS * count - sum(map(sum, came_whole))
    seconds = chunks[-1][0] - chunks[0][0] if len(chunks) > 1 else float("inf")
    return Result(len(delays_ms) / seconds, delays_ms, num_lost, num_torn + num_disordered)


def show(name: str, mode: str, num_lines: int, results: list[Result]) -> dict[str, object]:
    """Print one line of the table; return its record."""
    rate = statistics.median(result.lines_s for result in results)
    cuts = [statistics.quantiles(result.delays_ms, n=100) for result in results if result.delays_ms]
    p50, p99 = (statistics.median(cut[at] for cut in cuts) for at in (49, 98))
    lost, wrong = (sum(getattr(result, kind) for result in results) for kind in ("lost", "wrong"))
    speed = f"{rate / 1000:11.0f}" if mode == FLOOD else f"{'':11}"
    delay = f"{p50:9.1f}{p99:9.1f}" if mode == PACED else f"{'':18}"
    print(f"{name:20}{num_lines:9}{speed}{delay}{lost:9}{wrong:9}", flush=True)
    record = {"launcher": name, "mode": mode, "lines": num_lines, "lost": lost, "wrong": wrong}
    return record | {"lines_s": round(rate), "p50_ms": round(p50, 3), "p99_ms": round(p99, 3)}


if __name__ == "__main__":
    main()
