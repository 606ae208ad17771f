"""Whether the launcher names whose fault it was: 70 jobs that fail for a cause that is known.

Each fault is made for real, under ``rdmatrain run``. The first line of the report must name the
guilty rank, its host, what happened and what to do, in at most 15 lines without the stacks of a
hung rank; the exit code must be the table's, and there must be no traceback of the launcher. Prints
a line a case, and the rate; fails below 95 %. Faults between hosts need root, for namespaces.
"""

import argparse
import contextlib
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from common import append_records, commit, machine, where
from fault_cases import CASES, HEAD, Case
from two_hosts import ADDRESSES, CABLE_END, hosts, ip

PASS_RATE = 0.95
MAX_LINES = 15
LIMIT_S = 90.0
SECRET = secrets.token_hex(16)
PORT = 29537  # in namespaces that nobody else is in
REPORT = re.compile(r"rdmatrain run: |Error: ")  # the latter before anything is started
# What a launcher says before anything is wrong.
NOTICE = re.compile(r"(waiting|still waiting|warning|restart \d)")
STEP = re.compile(r"(; |: give )[^;]+ [^;]+ [^;]+")
LAUNCHERS_OWN = re.compile(r"^Traceback", re.MULTILINE)  # a worker's has a prefix


@dataclass(frozen=True)
class Verdict:
    """What the launcher made of a case.

    Attributes:
        case: which.
        line: the first line of the report.
        misses: what is wrong with it, in words; none where all is right.
        seconds: how long the job took, with its start.

    """

    case: Case
    line: str
    misses: tuple[str, ...]
    seconds: float


def run_case(case: Case) -> Verdict:
    """Make a fault, and judge what the launcher says of it."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="rdmatrain-corpus-") as folder:
        code, text = run_hosts(case, Path(folder)) if case.hosts else run_here(case, Path(folder))
    line, misses = judge(case, code, text)
    return Verdict(case, line, tuple(misses), time.monotonic() - began)


def judge(case: Case, code: int | None, text: str) -> tuple[str, list[str]]:
    """Return the report's first line, and what is wrong with the report."""
    lines = [REPORT.sub("", line, 1) for line in text.splitlines() if REPORT.match(line)]
    told = [line for line in lines if not NOTICE.match(line)]
    first = told[0] if told else ""
    wrong = {
        "who": not re.match(f"({'|'.join(guilty(case))})[ :]", first),
        "what": not re.search(case.says, first),
        "next step": not STEP.search(first),
        f"exit code {code}": code not in case.codes,
        "too long": sum(not line.startswith("  ") for line in told) > MAX_LINES,
        "a traceback of the launcher": bool(LAUNCHERS_OWN.search(text)),
    }
    return first, [what for what, is_so in wrong.items() if is_so]


def guilty(case: Case) -> list[str]:
    """Return how the report may begin."""
    names = [f"host{node}" for node in case.nodes] if case.hosts else [socket.gethostname()]
    if case.ranks:
        return [f"rank {rank} on host {name}" for rank in case.ranks for name in names]
    if not case.nodes:
        return ["script", "program"]
    return [*(f"host {name}" for name in names), "the nodes"]


def start(
    case: Case, folder: Path, options: Sequence[str], prefix: Sequence[str] = ()
) -> "subprocess.Popen[bytes]":
    """Start a node's launcher in a session of its own; its output goes to a file of the folder."""
    script = folder / "worker.py"
    script.write_text(HEAD + case.body, encoding="utf-8")
    program = [part.format(folder=folder, script=script) for part in case.program]
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("RDMATRAIN_", "PET_"))}
    environment |= {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore", "CORPUS": str(folder)}
    environment |= {"CORPUS_BACKEND": case.backend, "PYTHONFAULTHANDLER": ""}
    environment["RDMATRAIN_RECORDER_DIR"] = str(folder)
    environment["RDMATRAIN_SECRET"] = SECRET
    if case.hosts:
        environment["GLOO_SOCKET_IFNAME"] = CABLE_END
    with (folder / f"out{len(list(folder.glob('out*')))}").open("wb") as out:
        return subprocess.Popen(
            [*prefix, sys.executable, "-m", "rdmatrain.cli", "run", *options, *program],
            env=environment,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )


def run_here(case: Case, folder: Path) -> tuple[int | None, str]:
    """Run a case's job on this host; return the launcher's exit code and all output."""
    options = ["--standalone", "--nproc-per-node", str(case.nproc), *case.options]
    job = start(case, folder, options)
    try:
        code: int | None = job.wait(LIMIT_S)
    except subprocess.TimeoutExpired:
        code = None
    finally:
        end([job], folder)
    return code, (folder / "out0").read_text(encoding="utf-8", errors="replace")


def run_hosts(case: Case, folder: Path) -> tuple[int | None, str]:
    """Run a case's job on two hosts; return what the launcher of the first one says."""
    with hosts() as names:
        common = ["--nnodes", "2", "--nproc-per-node", "1", "--master-addr", ADDRESSES[0]]
        common += ["--master-port", str(PORT), "--rdzv-id", "corpus", "--join-timeout", "20"]
        jobs = []
        for node, name in enumerate(names):
            named = f'hostname host{node}; exec "$@"'
            prefix = ["ip", "netns", "exec", name, "unshare", "--uts", "sh", "-c", named, "sh"]
            own = case.node_options[node] if case.node_options else ()
            options = [*common, "--node-rank", str(node), *case.options, *own]
            jobs.append(start(case, folder, options, prefix))
        try:
            if case.outside:
                wait_for_files(folder, "ready.*", 2)
                disturb(case.outside, jobs, names)
            code: int | None = jobs[0].wait(LIMIT_S)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            end(jobs, folder)
    return code, (folder / "out0").read_text(encoding="utf-8", errors="replace")


def disturb(what: str, jobs: Sequence["subprocess.Popen[bytes]"], names: Sequence[str]) -> None:
    """Do what no worker could do."""
    if what == "kill launcher":
        jobs[1].kill()
    elif what == "stop launcher":
        os.kill(jobs[1].pid, signal.SIGSTOP)
    else:
        for name, other in zip(names, reversed(ADDRESSES), strict=True):
            ip("-n", name, "route", "add", "blackhole", f"{other}/32")


def wait_for_files(folder: Path, pattern: str, count: int) -> None:
    """Wait until so many files are there, or the limit is over."""
    end_s = time.monotonic() + LIMIT_S
    while len(list(folder.glob(pattern))) < count and time.monotonic() < end_s:
        time.sleep(0.02)


def end(jobs: Sequence["subprocess.Popen[bytes]"], folder: Path) -> None:
    """End whatever is left of the jobs."""
    marker = f"CORPUS={folder}".encode()
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if marker in (path / "environ").read_bytes().split(b"\0"):
                os.kill(int(path.name), signal.SIGKILL)
    for job in jobs:
        job.wait()


def main() -> int:
    """Run the cases; return 0 if the rate is what it must be."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", default="", help="cases whose names match this expression")
    parser.add_argument("--jobs", type=int, default=2, help="so many at a time (default: 2)")
    parser.add_argument("--json", type=Path, help="append a record a case")
    parser.add_argument("--verbose", action="store_true", help="show each report's first line")
    args = parser.parse_args()
    print(f"# {machine()}, commit {commit()}")
    verdicts = []
    with ThreadPoolExecutor(args.jobs) as pool:
        for verdict in pool.map(run_case, chosen(args.only)):
            verdicts.append(verdict)
            show(verdict, args.verbose)
    right = sum(not verdict.misses for verdict in verdicts)
    print(f"# {right} of {len(verdicts)} named right, {PASS_RATE:.0%} must be")
    if args.json:
        append_records(args.json, [record(verdict) for verdict in verdicts])
    return int(right < PASS_RATE * len(verdicts))


def chosen(names: str) -> list[Case]:
    """Return the cases whose names match, without those that this user cannot run."""
    cases = [case for case in CASES if re.search(names, case.name)]
    here = [case for case in cases if not case.hosts or os.geteuid() == 0]
    if len(here) < len(cases):
        print(f"# {len(cases) - len(here)} cases between hosts left out: they need root")
    return here


def show(verdict: Verdict, verbose: bool) -> None:
    """Print what became of a case."""
    result = ", ".join(verdict.misses) or "ok"
    print(f"  {verdict.case.name:44} {verdict.seconds:5.1f} s  {result}", flush=True)
    if verdict.misses or verbose:
        print(f"      {verdict.line}", flush=True)


def record(verdict: Verdict) -> dict[str, object]:
    """Return a case's record."""
    found = {"case": verdict.case.name, "line": verdict.line, "misses": list(verdict.misses)}
    return {**where(), **found, "seconds": round(verdict.seconds, 2)}


if __name__ == "__main__":
    sys.exit(main())
