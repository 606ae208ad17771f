"""Regenerate every number that the documents quote: ``make bench``.

Each step is a command of the table below; what it prints, and its records, become files of the
folder ``--out``, named like those in ``results/``. Steps that the documents quote from longer runs
are shorter here, and say so in their command. Steps that mostly wait, for faults to be found, run
two at a time; all others have the machine to themselves. A step that could not do all says why,
as SKIP. Exit code 1: a step failed, or missed its line.
"""

import argparse
import contextlib
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from common import ROOT, commit, machine

from rdmatrain.bench.scale import engine
from rdmatrain.launcher.process import descendants

JSON, SVG = "{json}", "{svg}"  # stand for the files of a step's records, and of its picture
BUILT = "build/c-plain/tests/c/"  # programs of the C tests' build
ALL_S = 1200.0  # that all steps together may take
RDMATRAIN = ("-m", "rdmatrain.cli", "bench")
MEASURE = ("--measure", "--ranks", "2,8,64", "--bytes", "64,1M")
CONNECT = ("--setup-ranks", "2,8,32,128,256", "--kinds", "lazy,hash")
CONNECT_VERBS = ("--setup-ranks", "2,8,32,128", "--kinds", "verbs")
CONNECT_TCP = ("--setup-ranks", "2,8,32", "--kinds", "tcp")
SHARDED = ("--op=all_gather", "--op=reduce_scatter", "--dtype=float32")
PREDICT = ("--validate", "--simulate", "--gpus", "8,4096", "--fabric", "rail", "--svg", SVG)
GUEST = ("tests/vm/vm_run.py", "--limit-s", "420", ".venv/bin/python")
WAITING_AT_ONCE = 2
children: set["subprocess.Popen[bytes]"] = set()  # steps that run


class Step(NamedTuple):
    """A command, run in the repository's root.

    Attributes:
        name: of its files.
        argv: arguments of this Python, or a program that was built, and its.
        limit_s: seconds after which it has failed.
        guest: it runs in a guest, where records can be written to out/vm alone.
        waits: it leaves most of the CPUs to others.
        missing: says what it cannot do without and is not here, or "".

    """

    name: str
    argv: tuple[str, ...]
    limit_s: float = 300.0
    guest: bool = False
    waits: bool = False
    missing: Callable[[], str] = str


STEPS = (
    Step("collectives", ("benchmarks/smoke.py", "--json", JSON)),
    Step("intra-host", ("benchmarks/intra_host.py", "--quick", "--rounds", "1", "--json", JSON)),
    Step("limit", (*RDMATRAIN, "limit", "--json", JSON)),
    Step("train", (*RDMATRAIN, "train", "--json", JSON)),
    Step("scale", (*RDMATRAIN, "scale", *MEASURE, "--json", JSON)),
    Step("connect", (*RDMATRAIN, "scale", "--setup", *CONNECT, "--json", JSON)),
    Step("connect-verbs", (*RDMATRAIN, "scale", "--setup", *CONNECT_VERBS, "--json", JSON)),
    Step("connect-tcp", (*RDMATRAIN, "scale", "--setup", *CONNECT_TCP, "--json", JSON)),
    Step("simulation", (*RDMATRAIN, "scale", *PREDICT, "--json", JSON), missing=engine.why_not),
    Step("two-hosts", ("benchmarks/two_hosts.py", "--json", JSON)),
    Step("two-hosts-sharded", ("benchmarks/two_hosts.py", *SHARDED, "--json", JSON)),
    Step("verbs", (*GUEST, "benchmarks/verbs.py", "--json", JSON), 480.0, guest=True),
    Step("wire", (*GUEST, "benchmarks/wire.py", "--rounds=3", "--json", JSON), 480.0, guest=True),
    Step("guest-faults", ("benchmarks/guest_faults.py", "--runs=1", "--json", JSON)),
    Step("two-guests", ("-m", "pytest", "-q", "-s", "--thorough", "tests/vm")),
    Step("launcher", ("benchmarks/launch_overhead.py", "--rounds", "3", "--json", JSON)),
    Step("output", ("benchmarks/output_rate.py", "--rounds", "1", "--json", JSON)),
    Step("false-alarms", ("benchmarks/false_alarms.py", "--minutes", "0.3", "--json", JSON)),
    Step("doctor", ("benchmarks/doctor_times.py", "--json", JSON)),
    Step("listener", ("benchmarks/listener_flood.py", "--connections=10000", "--json", JSON)),
    Step("recorder", (f"{BUILT}test_recorder", "bench")),
    Step("arena", (f"{BUILT}bench_alloc_replay", "benchmarks/traces/gpt-0.4m.csv")),
    Step("nothing-left", ("benchmarks/nothing_left.py", "--times", "2")),
    Step(
        "launcher-faults",
        ("benchmarks/launcher_faults.py", "--restarts", "1", "--json", JSON),
        900.0,
        waits=True,
    ),
    Step(
        "restarts",
        ("benchmarks/restarts.py", "--times=2", "--kills=1", "--terms=1", "--json", JSON),
        waits=True,
    ),
    Step("fault-corpus", ("benchmarks/fault_corpus.py", "--json", JSON), waits=True),
    Step(
        "checkpoint-faults",
        ("benchmarks/checkpoint_faults.py", "--flips", "500", "--kills", "2", "--json", JSON),
        waits=True,
    ),
)


def main() -> int:
    """Run the steps; return the exit code."""
    names = [step.name for step in STEPS]
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", action="append", choices=names, help="this step")
    parser.add_argument("--out", type=Path, default=ROOT / "out/bench", help="folder of the files")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    began, good = time.monotonic(), True
    chosen = [step for step in STEPS if not args.only or step.name in args.only]
    for together in at_once(chosen):
        with ThreadPoolExecutor(WAITING_AT_ONCE) as pool:
            good &= all([*pool.map(lambda step: run_and_tell(step, args.out), together)])
    seconds = time.monotonic() - began
    late = seconds > ALL_S
    print(f"{'all':>18} {seconds:7.1f} s  {f'MISSED: {ALL_S:g} s; ' * late}files in {args.out}")
    return int(late or not good)


def at_once(steps: Sequence[Step]) -> Iterator[list[Step]]:
    """Group steps: those that wait with each other, the others alone, in their order."""
    for waits, group in groupby(steps, lambda step: step.waits):
        together = list(group)
        yield from [together] if waits else ([step] for step in together)


def run_and_tell(step: Step, out: Path) -> bool:
    """Run a step and print how it ended; tell whether all was well."""
    if why := step.missing():
        print(f"{step.name:>18} {0:7.1f} s  SKIP: {why}", flush=True)
        return True
    stem = f"{datetime.now(timezone.utc):%Y-%m-%d}-{slug()}-{step.name}"
    code, seconds = run(step, out.resolve(), stem)
    text = (out / f"{stem}.txt").read_text(encoding="utf-8", errors="replace")
    print(f"{step.name:>18} {seconds:7.1f} s  {verdict(code, text)}", flush=True)
    return code == 0


def verdict(code: int, text: str) -> str:
    """Say how a step ended; one that left something out prints a line that begins with SKIP."""
    if code:
        return "MISSED" if code == 1 else f"FAILED, exit code {code}"
    return next((line for line in text.splitlines() if line.startswith("SKIP")), "ok")


def run(step: Step, out: Path, stem: str) -> tuple[int, float]:
    """Run a step, with its files named by ``stem``; return its exit code and its seconds."""
    records = ROOT / "out/vm" / f"{stem}.jsonl" if step.guest else out / f"{stem}.jsonl"
    records.unlink(missing_ok=True)
    files = {JSON: records, SVG: out / f"{stem}.svg"}
    python = not step.argv[0].startswith(BUILT)
    argv = [sys.executable] * python + [str(files.get(word, word)) for word in step.argv]
    shown = ["python"] * python + [getattr(files.get(word), "name", word) for word in step.argv]
    began = time.monotonic()
    with (out / f"{stem}.txt").open("w", encoding="utf-8") as text:
        print(f"$ {shlex.join(shown)}\n# {machine()}, commit {commit()}", file=text, flush=True)
        with subprocess.Popen(argv, cwd=ROOT, stdout=text, stderr=subprocess.STDOUT) as child:
            children.add(child)
            try:
                code = child.wait(step.limit_s)
            except subprocess.TimeoutExpired:
                print(f"# did not end within {step.limit_s:g} s", file=text)
                code = 124
            finally:
                end(child)
                children.discard(child)
    if step.guest and records.exists():
        records.replace(out / records.name)
    return code, time.monotonic() - began


def end(child: "subprocess.Popen[bytes]") -> None:
    """Kill a step and all that it started, in whatever session: cut short, it tidies nothing."""
    if child.poll() is None:
        for pid in (*descendants(child.pid), child.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def end_all(number: int, _frame: object) -> None:
    """End with what runs, on SIGTERM or Ctrl-C."""
    for child in [*children]:
        end(child)
    os._exit(128 + number)


def slug() -> str:
    """Name the machine as the files of results/ do: epyc-2core."""
    known = ("epyc", "xeon", "ryzen", "core", "neoverse", "graviton")
    words = machine().lower().replace("(r)", " ").split()
    family = next((word for word in words if word in known), "cpu")
    return f"{family}-{os.cpu_count()}core"


def run_as_program() -> None:
    """Run main, and end with all that runs when told to."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end_all)
    sys.exit(main())


if __name__ == "__main__":
    run_as_program()
