"""How long the commands take that a broken pod needs: medians, beside Python doing nothing.

The commands are started in turn, ``--rounds`` times, so that whatever else the machine does hits
all. CPU time is beside that of the clock, which a busy machine stretches. Python's caches are warm,
as they are after an installation.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import time

from common import commit, machine

RDMATRAIN = ("-m", "rdmatrain.cli")
COMMANDS = {
    "python -c pass": ("-c", "pass"),
    "rdmatrain --version": (*RDMATRAIN, "--version"),
    "rdmatrain --help": (*RDMATRAIN, "--help"),
    "rdmatrain whoami": (*RDMATRAIN, "whoami"),
    "rdmatrain topo": (*RDMATRAIN, "topo"),
    "rdmatrain topo --json": (*RDMATRAIN, "topo", "--json"),
}


def main() -> None:
    """Print the medians of all commands."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=11, help="of each command (default: 11)")
    args = parser.parse_args()
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in COMMANDS}
    for turn in range(args.rounds + 1):
        for name, command in COMMANDS.items():
            taken = run(command)
            if turn:
                times[name].append(taken)
    print(f"# {machine()}, {commit()}, medians of {args.rounds}, milliseconds")
    print(f"{'#':24}{'clock':>8}{'CPU':>8}")
    for name, pairs in times.items():
        clock, cpu = (1000 * statistics.median(each) for each in zip(*pairs, strict=True))
        print(f"{name:24}{clock:8.0f}{cpu:8.0f}")


def run(command: tuple[str, ...]) -> tuple[float, float]:
    """Return seconds by the clock and of CPU."""
    before, start = cpu_seconds(), time.perf_counter()
    env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    subprocess.run([sys.executable, *command], env=env, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - start, cpu_seconds() - before


def cpu_seconds() -> float:
    """Of all children that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    main()
