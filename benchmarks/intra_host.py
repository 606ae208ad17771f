"""Collectives of the ranks of one host: rdmatrain beside Gloo, three MPIs, and the memory limit.

One run measures every line that the collectives must pass. Contestants alternate over rounds, each
as processes of its own on pinned CPUs; a time is the median over the rounds of a round's median
call. Rounds in which other programs used the CPUs do not count where there are better ones. Every
result is checked, on values that depend on rank and index, before it is timed. DDP's step, as
`rdmatrain bench train` times it, and the demo's memory, as memory.py measures it, follow.
Exit code 1: a line is missed. 2: something could not run.
"""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from itertools import product
from pathlib import Path
from typing import NamedTuple

import memory
from common import (
    MAX_REPEATS,
    MIN_REPEATS,
    Case,
    Command,
    Environment,
    JobError,
    append_records,
    json_lines,
    others_share,
    rank_commands,
    run_job,
    size_text,
    where,
)
from pass_lines import LARGE, MPIS, OTHER_LIMITS, OTHERS, SIZES, Cell, Key, Line, Times, judge

from rdmatrain.bench import model, mpi, train
from rdmatrain.bench.machine import context_of
from rdmatrain.bench.memory import MemoryLimit
from rdmatrain.bench.running import ContestantError
from rdmatrain.bench.train_results import Model, lines_of, records_of

FOLDER = Path(__file__).resolve().parent
QUICK_SIZES = [8, 8 << 10, 64 << 10, *LARGE]
BUDGET_SECONDS = 0.05  # of each round, for each size
JOB_TIMEOUT = 600.0
QUIET_SHARE = 0.03  # of the CPUs: what others may use unnoticed
CLEAR = "\r\x1b[K"  # of the line that tells how far it is
TORCH_BACKENDS: dict[str, tuple[str, Environment]] = {
    "donothing": ("fake", {}),
    "rdmatrain": ("rdmatrain", {"RDMATRAIN_ARENA": "on"}),
    "rdmatrain-staged": ("rdmatrain", {"RDMATRAIN_ARENA": "off"}),
    "gloo": ("gloo", {}),
}
TRAINING = ("ddp", "memory")
# 10 million parameters, and little to compute beside their gradients' way.
TRAINED = Model(width=456, layers=4, heads=6, seq_len=64, batch=1)
EXPOSED_ALLOWED = 0.25


class Round(NamedTuple):
    """One job: the part of the CPUs that other programs used meanwhile, and seconds a call."""

    others: float
    seconds: dict[Case, float]


Rounds = dict[tuple[str, int], list[Round]]  # of a contestant and a rank count
CONTESTANTS = ("donothing", "limit", "rdmatrain", "rdmatrain-staged", "gloo", *MPIS)


def main() -> int:
    """Measure, print the tables and the verdicts; return the exit code."""
    args = parse_args()
    sizes = QUICK_SIZES if args.quick else SIZES
    try:
        prepare(args.only)
        rounds = measure(args, sizes)
        if args.json:
            write_records(args.json, rounds)
        times = medians(rounds)
        for ranks in args.ranks:
            print_all_reduce(times, sizes, ranks)
            print_disturbance(rounds, ranks)
            print_others(times, ranks)
        lines = judge(times, sizes, args.ranks) + measure_training(args)
    except (ContestantError, JobError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print("\n# pass lines: measured of allowed, for the worst size or for every size that misses")
    print("\n".join(map(str, lines)))
    return int(any(line.verdict == "MISS" for line in lines))


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    names, counts = list_of(str, (*CONTESTANTS, *TRAINING)), list_of(int, (2, 4))
    everything, text = [*CONTESTANTS, *TRAINING], f"of {', '.join(CONTESTANTS + TRAINING)}"
    parser.add_argument("--only", type=names, default=everything, metavar="NAMES", help=text)
    parser.add_argument("--ranks", type=counts, default=[2, 4], help="rank counts (default: 2,4)")
    parser.add_argument("--rounds", type=int, default=5, help="default: 5")
    parser.add_argument("--quick", action="store_true", help="six sizes instead of 24")
    text = "seconds to spend on repeating a job that others disturb (default: 0)"
    parser.add_argument("--patience", type=float, default=0.0, metavar="SECONDS", help=text)
    parser.add_argument("--json", type=Path, help="append a record a case to this file")
    return parser.parse_args()


def list_of(kind: type, allowed: Iterable[object]) -> Callable[[str], list[object]]:
    """Return a reader of lists, for argparse."""
    allowed = tuple(allowed)

    def read(text: str) -> list[object]:
        values = [kind(part) for part in text.split(",")]
        if not set(values) <= set(allowed):
            raise argparse.ArgumentTypeError(f"{text}: choose from {', '.join(map(str, allowed))}")
        return values

    return read


def prepare(names: Iterable[str]) -> None:
    """Make sure that the peers are there; none is installed unasked."""
    missing = [name for name in MPIS if name in names and mpi.environment(name) is None]
    if missing:
        raise JobError(f"not installed: run rdmatrain bench peers {' '.join(missing)} first")


def measure(args: argparse.Namespace, sizes: list[int]) -> Rounds:
    """Run the rounds; return what each contestant showed in each."""
    rounds: Rounds = {}
    names = [name for name in args.only if name in CONTESTANTS]
    for number, ranks, name in product(range(args.rounds), args.ranks, names):
        cases = cases_of(name, ranks, sizes)
        if not cases:
            continue
        progress = f"round {number + 1} of {args.rounds}, {ranks} ranks, {name}"
        print(f"{CLEAR}{progress}", end="", file=sys.stderr, flush=True)
        found = run_undisturbed(name, ranks, cases, args.patience)
        rounds.setdefault((name, ranks), []).append(found)
    print(CLEAR, end="", file=sys.stderr, flush=True)
    return {who: undisturbed(found) for who, found in rounds.items()}


def run_undisturbed(name: str, ranks: int, cases: list[Case], patience: float) -> Round:
    """Time the cases, again while other programs use the CPUs, for as long as patience lasts."""
    tries: list[Round] = []
    deadline = time.monotonic() + patience
    while not tries or (tries[-1].others > QUIET_SHARE and time.monotonic() < deadline):
        before = others_share()
        seconds = run(name, ranks, cases)
        used, total = others_share(before)
        tries.append(Round(used / total, seconds))
    return min(tries, key=lambda one: one.others)


def undisturbed(rounds: list[Round]) -> list[Round]:
    """Leave out the rounds that other programs disturbed; the least disturbed one stays."""
    least = min(rounds, key=lambda one: one.others)
    return [one for one in rounds if one.others <= QUIET_SHARE] or [least]


def medians(rounds: Rounds) -> Times:
    """Return the median of each case over the rounds."""
    return {
        Key(name, ranks, case): statistics.median(one.seconds[case] for one in found)
        for (name, ranks), found in rounds.items()
        for case in found[0].seconds
    }


def measure_training(args: argparse.Namespace) -> list[Line]:
    """Measure what training gets of it."""
    lines = []
    if "ddp" in args.only:
        lines.append(measure_ddp(15 if args.quick else 60, args.json))
    if "memory" in args.only:
        lines.append(memory.measure(memory.STEPS, args.json))
    return lines


def measure_ddp(steps: int, json_path: Path | None) -> Line:
    """Time DDP's steps, print them, and return the line that exposed communication must pass."""
    ddp = train.TrainOptions("2", "ddp", steps=steps, model=TRAINED, quiet=True)
    training = train.measure(ddp)
    if training.failures:
        raise JobError("\n".join(training.failures))
    context = context_of(" ".join(["benchmarks/intra_host.py", *sys.argv[1:]]), True, {}, None)
    print("\n" + "\n".join(lines_of(training, context)))
    if json_path:
        append_records(json_path, records_of(training, context))
    exposed = {result.backend: result.exposed_s for result in training.results}
    text = f"DDP, 2 ranks: exposed communication at most {EXPOSED_ALLOWED} of Gloo's"
    allowed = EXPOSED_ALLOWED * exposed["gloo"]
    return Line(text, (Cell("exposed", exposed["rdmatrain"], allowed, "ms"),))


def cases_of(name: str, ranks: int, sizes: list[int]) -> list[Case]:
    """List what a contestant is timed on."""
    if name == "donothing":
        return [Case("all_reduce", "float32", 8)] if ranks == 2 else []
    if name == "limit" and ranks != 2:
        return []
    cases = [Case("all_reduce", "float32", nbytes) for nbytes in sizes]
    if name != "rdmatrain":
        return cases
    cases += [Case("all_reduce", *two) for two in product(("bfloat16", "float16"), LARGE)]
    return cases + [Case(op, "float32", nbytes) for op, nbytes in product(OTHER_LIMITS, OTHERS)]


def run(name: str, ranks: int, cases: list[Case]) -> dict[Case, float]:
    """Time the cases once; every one of them must come back."""
    if name == "limit":
        return run_limit(cases)
    lines = json_lines(run_job(commands(name, ranks, cases), JOB_TIMEOUT))
    found = {Case(line["op"], line["dtype"], line["nbytes"]): line["seconds_p50"] for line in lines}
    if set(found) != set(cases):
        raise JobError(f"{name}, {ranks} ranks: not timed: {set(cases) - set(found)}")
    return found


def run_limit(cases: list[Case]) -> dict[Case, float]:
    """Time the memory limit."""
    limit = MemoryLimit()
    try:
        return {case: limit_seconds(limit, case) for case in cases}
    finally:
        limit.close()


def limit_seconds(limit: MemoryLimit, case: Case) -> float:
    """Return the median call of the slower process."""
    prepared = limit.prepare(model.Case(case.op, case.dtype, "SUM", case.nbytes, True), True)
    if prepared.nwrong:
        raise JobError(f"limit: {prepared.nwrong} wrong elements, {case}")
    calls = max(MIN_REPEATS, min(MAX_REPEATS, int(BUDGET_SECONDS / prepared.guess_s)))
    seconds = max(map(statistics.median, limit.time(calls, 3)))
    limit.drop()
    return seconds


def commands(name: str, ranks: int, cases: list[Case]) -> list[Command]:
    """Return the processes of a contestant."""
    texts = [str(BUDGET_SECONDS), *map(str, cases)]
    if name in MPIS:
        return [mpi.command(name, ranks, [str(FOLDER / "mpi_allreduce.py"), *texts])]
    backend, env = TORCH_BACKENDS[name]
    argv = [str(FOLDER / "torch_collectives.py"), backend, *texts]
    started = rank_commands(argv, ranks, env)
    return started[:1] if name == "donothing" else started


def print_all_reduce(times: Times, sizes: list[int], ranks: int) -> None:
    """Print a table of sizes and contestants."""
    names = [name for name in CONTESTANTS if any(k[:2] == (name, ranks) for k in times)]
    place = where()
    print(f"\n# all_reduce, float32, SUM, {ranks} ranks on {len(os.sched_getaffinity(0))} CPUs")
    print(f"# {place['machine']}, commit {place['commit']}; p50 in us")
    print(f"{'size':>8} " + " ".join(f"{name:>16}" for name in names))
    for nbytes in sizes:
        cells = []
        for name in names:
            seconds = times.get(Key(name, ranks, Case("all_reduce", "float32", nbytes)))
            cells.append(f"{'' if seconds is None else f'{seconds * 1e6:.2f}':>16}")
        print(f"{size_text(nbytes):>8} " + " ".join(cells))


def print_disturbance(rounds: Rounds, ranks: int) -> None:
    """Print how many rounds count, and how much of the CPUs other programs used in them."""
    found = [rounds[name, ranks] for name in CONTESTANTS if (name, ranks) in rounds]
    print(f"{'rounds':>8} " + " ".join(f"{len(of):>16}" for of in found))
    shares = [max(one.others for one in of) for of in found]
    print(f"{'others':>8} " + " ".join(f"{share:>16.1%}" for share in shares))
    print("# rounds that count, and the largest part of the CPUs that others used in them")


def print_others(times: Times, ranks: int) -> None:
    """Print rdmatrain's other collectives and half types, and what part of all_reduce they take."""
    print(f"\n# rdmatrain, {ranks} ranks: other collectives, and types; p50, of all_reduce float32")
    for (name, found_ranks, case), seconds in times.items():
        whole = times.get(Key(name, ranks, Case("all_reduce", "float32", case.nbytes)))
        if name != "rdmatrain" or found_ranks != ranks or not whole:
            continue
        if case[:2] != ("all_reduce", "float32"):
            label = f"{case.op} {case.dtype} {size_text(case.nbytes)}"
            print(f"{label:>32} {seconds * 1e6:10.2f} us {seconds / whole:6.2f}")


def write_records(path: Path, rounds: Rounds) -> None:
    """Append one record a case."""
    common = {"argv": " ".join(["benchmarks/intra_host.py", *sys.argv[1:]]), **where()}
    records: list[dict[str, object]] = []
    for key, seconds in medians(rounds).items():
        found = rounds[key.backend, key.ranks]
        record = {**key.case._asdict(), "backend": key.backend, "ranks": key.ranks}
        record |= {"seconds_p50": seconds, "rounds": [one.seconds[key.case] for one in found]}
        records.append(record | {"others": max(one.others for one in found)} | common)
    append_records(path, records)


if __name__ == "__main__":
    sys.exit(main())
