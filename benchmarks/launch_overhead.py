"""How long the commands take that a broken pod needs, and what launching costs beside torchrun.

The commands are started in turn, ``--rounds`` times, so that whatever else the machine does hits
all. CPU time, of a command and all that it started, is beside that of the clock, which a busy
machine stretches. The launch is of two workers that do nothing. Python's caches are warm, as they
are after an installation.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from common import append_records, where

RDMATRAIN = ("-m", "rdmatrain.cli")
TORCHRUN = ("-m", "torch.distributed.run")
OUR_LAUNCH, THEIR_LAUNCH = "rdmatrain run, 2 ranks", "torchrun, 2 ranks"
# The worker's file is added.
LAUNCHES = {
    OUR_LAUNCH: (*RDMATRAIN, "run", "--nproc-per-node=2"),
    THEIR_LAUNCH: (*TORCHRUN, "--nproc-per-node=2"),
}
COMMANDS = {
    "python -c pass": ("-c", "pass"),
    "rdmatrain --version": (*RDMATRAIN, "--version"),
    "rdmatrain --help": (*RDMATRAIN, "--help"),
    "rdmatrain run --help": (*RDMATRAIN, "run", "--help"),
    "torchrun --help": (*TORCHRUN, "--help"),
    "rdmatrain whoami": (*RDMATRAIN, "whoami"),
    "rdmatrain topo": (*RDMATRAIN, "topo"),
    "rdmatrain topo --json": (*RDMATRAIN, "topo", "--json"),
    **LAUNCHES,
}
MOST_SECONDS = {
    name: 0.15 for name in ("rdmatrain --version", "rdmatrain --help", "rdmatrain run --help")
}


def main() -> int:
    """Print the table; 1 when something takes longer than it may."""
    args = parse(sys.argv[1:])
    records = measure(chosen(args.only), args.rounds)
    print(f"# medians of {args.rounds}, milliseconds")
    print(f"{'#':24}{'clock':>8}{'least':>8}{'most':>8}{'CPU':>8}")
    for each in records:
        numbers = (each[key] for key in ("clock", "least", "most", "cpu"))
        print(f"{each['command']:24}" + "".join(f"{1000 * seconds:8.0f}" for seconds in numbers))
    if args.json:
        append_records(args.json, [each | where() for each in records])
    return print_verdicts({each["command"]: each["clock"] for each in records})


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=11, help="of each command (default: 11)")
    parser.add_argument("--only", default="", help="commands that have this text in their names")
    parser.add_argument("--json", type=Path, help="append a record a command to this file")
    return parser.parse_args(argv)


def chosen(only: str) -> list[str]:
    """Return the names of commands, without torchrun where there is no torch."""
    has_torch = find_spec("torch") is not None
    names = [name for name in COMMANDS if only in name]
    return [name for name in names if has_torch or not name.startswith("torchrun")]


def measure(names: Sequence[str], rounds: int) -> list[dict[str, Any]]:
    """Start the commands in turn; return a record of each."""
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory(prefix="rdmatrain-bench-") as folder:
        worker = Path(folder, "worker.py")
        worker.write_text("", encoding="utf-8")
        for turn in range(rounds + 1):  # the first one warms the caches
            for name, times in taken.items():
                script = [str(worker)] if name in LAUNCHES else []
                seconds = run([*COMMANDS[name], *script])
                if turn:
                    times.append(seconds)
    return [record(name, times) for name, times in taken.items()]


def run(command: Sequence[str]) -> tuple[float, float]:
    """Return seconds by the clock and of CPU."""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    before, start = cpu_seconds(), time.perf_counter()
    done = subprocess.run([sys.executable, *command], env=env, capture_output=True, check=False)
    taken = time.perf_counter() - start, cpu_seconds() - before
    if done.returncode:
        sys.exit(f"{' '.join(command)}: exit code {done.returncode}\n{done.stderr.decode()}")
    return taken


def cpu_seconds() -> float:
    """Of all children that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def record(name: str, times: Sequence[tuple[float, float]]) -> dict[str, Any]:
    """Return medians and spread of a command, in seconds."""
    clock, cpu = zip(*times, strict=True)
    return {
        "command": name,
        "rounds": len(times),
        "clock": statistics.median(clock),
        "least": min(clock),
        "most": max(clock),
        "cpu": statistics.median(cpu),
    }


def print_verdicts(medians: dict[str, float]) -> int:
    """Compare medians with what they may be; return 1 when one is more."""
    most = dict(MOST_SECONDS)
    if THEIR_LAUNCH in medians:
        most[OUR_LAUNCH] = medians[THEIR_LAUNCH]
    missed = 0
    for name in filter(medians.__contains__, most):
        late = medians[name] > most[name]
        missed |= late
        print(f"{'MISS' if late else 'PASS'}: {name} {medians[name]:.3f} s of {most[name]:.3f} s")
    return missed


if __name__ == "__main__":
    sys.exit(main())
