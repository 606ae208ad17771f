"""What becomes of a job that meets a fault: rdmatrain run beside torchrun, in the same run.

Each fault is made for real, by turns under both launchers, with the same worker: it reduces a
tensor over and over, over rdmatrain's backend or over Gloo. Prints a table and appends records to a
JSON lines file. The faults between hosts need root, for network namespaces. What becomes of
checkpoints is in checkpoint_faults.py.
"""

import argparse
import contextlib
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from common import append_records, commit, machine, where
from two_hosts import ADDRESSES, CABLE_END, hosts, ip

LIMIT_S = 40.0
PORT = 29533
SECRET = secrets.token_hex(16)
OURS, THEIRS = "rdmatrain", "torchrun"
MODULES = {OURS: ["rdmatrain.cli", "run"], THEIRS: ["torch.distributed.run"]}
BACKENDS = {OURS: "rdmatrain", THEIRS: "gloo"}
WORKER = """
import os, signal, subprocess, sys, time
from pathlib import Path
folder, fault = Path(sys.argv[1]), sys.argv[2]
rank, attempt = int(os.environ["RANK"]), int(os.environ["TORCHELASTIC_RESTART_COUNT"])
def note(name, value=""):
    path = folder / f"{name}.{rank}.{attempt}"
    path.with_suffix(".new").write_text(str(value))
    path.with_suffix(".new").rename(path)
if fault == "exit":
    sys.exit(77 if rank == 1 else time.sleep(30))
if fault == "ignore":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if fault == "grandchild":
    child = subprocess.Popen(["sleep", "600"], start_new_session=True)
    note("grandchild", child.pid)
import torch, torch.distributed as dist
dist.init_process_group(os.environ["BENCH_BACKEND"])
x = torch.ones(1000)
note("world", dist.get_world_size())
for step in range(10**9):
    dist.all_reduce(x)
    x /= dist.get_world_size()
    if step == 0:
        note("ready", os.getpid())
        note("clock", time.monotonic())
    if fault == "steps" and step == 200:
        break
    time.sleep(0.005)
"""


@dataclass
class Outcome:
    """What one launcher made of a fault.

    Attributes:
        good: whether it is what a user would want.
        text: in a few words.
        facts: for the record.

    """

    good: bool
    text: str
    facts: dict[str, object] = field(default_factory=dict)


class JobRun:
    """One job under one of the launchers, and the files that its workers leave.

    Args:
        launcher: ``rdmatrain`` or ``torchrun``.
        folder: for its files.
        fault: what the workers are to do.
        options: of each node; one node of two ranks, without.
        prefixes: of each node's command, as to enter a namespace.

    """

    def __init__(
        self,
        launcher: str,
        folder: Path,
        fault: str,
        options: Sequence[Sequence[str]] = (("--nproc-per-node", "2"),),
        prefixes: Sequence[Sequence[str]] = ((),),
    ) -> None:
        worker = folder / "worker.py"
        worker.write_text(WORKER, encoding="utf-8")
        self.folder = folder
        self.out = folder / "out"
        python = [sys.executable, "-m", *MODULES[launcher]]
        extra = {"BENCH_BACKEND": BACKENDS[launcher], "OMP_NUM_THREADS": "1"}
        extra["RDMATRAIN_SECRET"] = SECRET
        if len(options) > 1:
            extra["GLOO_SOCKET_IFNAME"] = CABLE_END
        self.began = time.monotonic()
        with self.out.open("wb") as out:
            self.nodes = [
                subprocess.Popen(
                    [*prefix, *python, *own, str(worker), str(folder), fault],
                    env=os.environ | {"RDMATRAIN_NO_DOCTOR": "1"} | extra,
                    stdout=out,
                    stderr=out,
                    start_new_session=True,
                )
                for prefix, own in zip(prefixes, options, strict=True)
            ]

    def noted(self, name: str, rank: int, attempt: int = 0) -> str:
        """Wait for what a worker has noted; empty when it does not come."""
        path = self.folder / f"{name}.{rank}.{attempt}"
        wait_for(path.exists)
        return path.read_text(encoding="utf-8") if path.exists() else ""

    def pids(self, ranks: int = 2, attempt: int = 0) -> list[int]:
        """Wait until all ranks have reduced once; return their process ids."""
        texts = [self.noted("ready", rank, attempt) for rank in range(ranks)]
        if "" in texts:
            raise RuntimeError(f"the job did not start:\n{self.text()}")
        return [int(text) for text in texts]

    def wait(self, limit_s: float = LIMIT_S) -> list[int | None]:
        """Return the exit codes of all nodes; None for one that is still there."""
        wait_for(lambda: all(node.poll() is not None for node in self.nodes), limit_s)
        return [node.returncode for node in self.nodes]

    def text(self) -> str:
        """Return what has been written so far."""
        return self.out.read_text(encoding="utf-8", errors="replace")

    def names(self, rank: int) -> bool:
        """Tell whether the first line of the launcher's report names the rank."""
        for line in self.text().splitlines():
            if "rdmatrain run: " in line or "Root Cause" in line or "failed (exitcode" in line:
                return f"rank {rank}" in line or f"local_rank: {rank}" in line
        return False


def wait_for(condition: Callable[[], bool], limit_s: float = LIMIT_S) -> float:
    """Wait; return the seconds that it took, or the limit."""
    began = time.monotonic()
    while not condition() and time.monotonic() - began < limit_s:
        time.sleep(0.01)
    return time.monotonic() - began


def alive(pid: int) -> bool:
    """Tell whether a process is there and no zombie."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return text.rpartition(")")[2].split()[0] not in "ZX"


@contextlib.contextmanager
def running(launcher: str, fault: str = "", **how: Sequence[Sequence[str]]) -> Iterator[JobRun]:
    """Start a job; at the end nothing of it is left, whatever became of it."""
    with tempfile.TemporaryDirectory(prefix="rdmatrain-bench-") as folder:
        job = JobRun(launcher, Path(folder), fault, **how)
        try:
            yield job
        finally:
            marker = folder.encode()
            for path in Path("/proc").glob("[0-9]*"):
                with contextlib.suppress(OSError):
                    if marker in (path / "cmdline").read_bytes():
                        os.kill(int(path.name), signal.SIGKILL)
            for note in job.folder.glob("grandchild.*"):
                with contextlib.suppress(OSError):
                    os.kill(int(note.read_text(encoding="utf-8")), signal.SIGKILL)
            for node in job.nodes:
                node.wait()


def two_ends(launcher: str, kill: Callable[[int], None]) -> tuple[float, int | None, bool]:
    """Do something to rank 1; return seconds until the job's end, its exit code, and if named."""
    with running(launcher) as job:
        began, victim = time.monotonic(), job.pids()[1]
        began = time.monotonic()
        kill(victim)
        (code,) = job.wait()
        return time.monotonic() - began, code, job.names(1)


def ended(took_s: float, code: int | None, named: bool) -> str:
    """Say how a job ended."""
    if code is None:
        return f"still there after {took_s:.0f} s"
    return f"{took_s:.2f} s, exit {code}, rank {'named' if named else 'not named'}"


def killed_rank(launcher: str) -> Outcome:
    """M3: kill -9 of a rank in all_reduce."""
    took_s, code, named = two_ends(launcher, lambda pid: os.kill(pid, signal.SIGKILL))
    return Outcome(named and code == 137, ended(took_s, code, named), {"seconds": took_s})


def killed_launcher(launcher: str) -> Outcome:
    """M4: kill -9 of the launcher."""
    with running(launcher) as job:
        pids = job.pids()
        job.nodes[0].kill()
        took_s = wait_for(lambda: not any(map(alive, pids)), 5.0)
        left = sum(map(alive, pids))
    return Outcome(
        left == 0, f"{left} of 2 workers live on" if left else f"all gone in {took_s:.2f} s"
    )


def grandchildren(launcher: str) -> Outcome:
    """M5: workers' children in sessions of their own, SIGTERM to the launcher."""
    with running(launcher, "grandchild") as job:
        job.pids()
        children = [int(job.noted("grandchild", rank)) for rank in range(2)]
        job.nodes[0].terminate()
        job.wait()
        wait_for(lambda: not any(map(alive, children)), 2.0)
        left = sum(map(alive, children))
    return Outcome(left == 0, f"{left} of 2 live on")


def ignored_sigterm(launcher: str) -> Outcome:
    """M6: workers that ignore SIGTERM, of which the launcher gets one; a grace of 5 s is asked."""
    grace = ["--grace", "5"] if launcher == OURS else []
    with running(launcher, "ignore", options=[["--nproc-per-node", "2", *grace]]) as job:
        job.pids()
        began = time.monotonic()
        job.nodes[0].terminate()
        (code,) = job.wait()
        took_s = time.monotonic() - began
    good = code == 128 + signal.SIGTERM and took_s < 7
    return Outcome(good, f"{took_s:.1f} s, exit {code}", {"seconds": took_s})


def exit_code(launcher: str) -> Outcome:
    """M7: a worker that ends with 77."""
    with running(launcher, "exit") as job:
        (code,) = job.wait()
    return Outcome(code == 77, f"exit {code}")


def stopped_rank(launcher: str) -> Outcome:
    """M8: SIGSTOP of a rank."""
    took_s, code, named = two_ends(launcher, lambda pid: os.kill(pid, signal.SIGSTOP))
    good = named and code == 204 and took_s <= 10
    return Outcome(good, ended(took_s, code, named), {"seconds": took_s})


def node_options(launcher: str, names: Sequence[str]) -> dict[str, list[list[str]]]:
    """Return what starts a job of two hosts."""
    endpoint = f"{ADDRESSES[0]}:{PORT}"
    common = ["--nnodes", "2", "--nproc-per-node", "1", "--rdzv-id", "bench"]
    common += ["--rdzv-backend", "c10d", "--rdzv-endpoint", endpoint]
    return {
        "options": [common, common],
        "prefixes": [["ip", "netns", "exec", name] for name in names],
    }


def black_hole(launcher: str) -> Outcome:
    """M9: two hosts, and no packet between them any more, in either direction."""
    with hosts() as names, running(launcher, **node_options(launcher, names)) as job:
        try:
            job.pids()
        except RuntimeError:
            return Outcome(False, f"did not start in {LIMIT_S:.0f} s")
        began = time.monotonic()
        for name, other in zip(names, reversed(ADDRESSES), strict=True):
            ip("-n", name, "route", "add", "blackhole", f"{other}/32")
        codes = job.wait()
        took_s = time.monotonic() - began
    if None in codes:
        return Outcome(False, f"{codes.count(None)} of 2 still there after {took_s:.0f} s")
    good = took_s <= 10 and 0 not in codes
    return Outcome(good, f"{took_s:.1f} s, exits {codes}", {"seconds": took_s})


def secondary_nic(launcher: str) -> Outcome:
    """M10: the rendezvous is at the address of a NIC that the host name does not stand for."""
    with hosts() as names, running(launcher, "steps", **node_options(launcher, names)) as job:
        codes = job.wait()
        world = job.noted("world", 0) if codes == [0, 0] else ""
    good = codes == [0, 0] and world == "2"
    took = f"formed and trained in {time.monotonic() - job.began:.1f} s"
    return Outcome(good, took if good else f"not formed in {LIMIT_S:.0f} s")


def restart(launcher: str) -> tuple[float, int] | None:
    """Return seconds from kill -9 of a rank to the next collective, and at which attempt it was.

    None where there is none within 30 s.
    """
    options = [["--nproc-per-node", "2", "--max-restarts", "3"]]
    with running(launcher, options=options) as job:
        victim = job.pids()[1]
        time.sleep(8.0)  # a job that has trained for a while

        def clocks() -> list[Path]:
            return sorted(job.folder.glob("clock.*.[123]"), key=lambda path: path.name[-1])

        began = time.monotonic()
        os.kill(victim, signal.SIGKILL)
        wait_for(lambda: len(clocks()) >= 2, 30.0)
        if len(clocks()) < 2:
            return None
        last = clocks()[-1]
        return float(last.read_text(encoding="utf-8")) - began, int(last.name[-1])


def restarts(launcher: str, times: int) -> Outcome:
    """M12: kill -9 of a rank where restarts are allowed, until the next collective."""
    found = [restart(launcher) for _ in range(times)]
    seconds = [took_s for took_s, _ in filter(None, found)]
    first = sum(attempt == 1 for _, attempt in filter(None, found))
    text = f"{first} of {times} at the first attempt"
    text += f", {min(seconds):.2f} to {max(seconds):.2f} s" if seconds else ""
    text += f", {found.count(None)} hung" if None in found else ""
    return Outcome(first == times, text, {"found": found})


SKEW = """
import datetime, time
_behind, _time = 20.0, time.time
time.time = lambda: _time() - _behind
class _Behind(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return super().now(tz) - datetime.timedelta(seconds=_behind)
    @classmethod
    def utcnow(cls):
        return super().utcnow() - datetime.timedelta(seconds=_behind)
datetime.datetime = _Behind
"""


def clock_skew(launcher: str) -> Outcome:
    """M11: the clock of one host is 20 s behind."""
    with tempfile.TemporaryDirectory(prefix="rdmatrain-skew-") as folder, hosts() as names:
        Path(folder, "sitecustomize.py").write_text(SKEW, encoding="utf-8")
        how = node_options(launcher, names)
        how["prefixes"][1] += ["env", f"PYTHONPATH={folder}"]
        with running(launcher, "steps", **how) as job:
            codes = job.wait(2 * LIMIT_S)
            worlds = sorted(path.read_text() for path in job.folder.glob("world.*"))
    good = codes == [0, 0] and worlds == ["2", "2"]
    return Outcome(good, f"exits {codes}, world sizes {', '.join(worlds) or 'none'}")


FAULTS: dict[str, Callable[[str], Outcome]] = {
    "M3 kill -9 of a rank": killed_rank,
    "M4 kill -9 of the launcher": killed_launcher,
    "M5 setsid children, SIGTERM": grandchildren,
    "M6 SIGTERM is ignored": ignored_sigterm,
    "M7 a worker exits with 77": exit_code,
    "M8 SIGSTOP of a rank": stopped_rank,
    "M9 black hole between hosts": black_hole,
    "M10 leader on a second NIC": secondary_nic,
    "M11 clock 20 s behind": clock_skew,
    "M12 kill -9 with restarts": lambda launcher: restarts(launcher, 4),
}


def main() -> int:
    """Make the faults; return 0 if ours were all good."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", help="faults whose names contain this")
    parser.add_argument("--ours", action="store_true", help="leave torchrun out")
    parser.add_argument("--json", type=Path, help="append a record a fault and launcher")
    args = parser.parse_args()
    launchers = [OURS] if args.ours else [OURS, THEIRS]
    print(f"# {machine()}, commit {commit()}")
    print(f"# {'fault':28} {'rdmatrain run':52} torchrun")
    good = True
    for name, fault in FAULTS.items():
        if args.only and args.only not in name:
            continue
        outcomes = {launcher: fault(launcher) for launcher in launchers}
        theirs = outcomes[THEIRS].text if THEIRS in outcomes else ""
        print(f"  {name:28} {outcomes[OURS].text:52} {theirs}", flush=True)
        good &= outcomes[OURS].good
        if args.json:
            records = [
                {**where(), "fault": name, "launcher": who, "good": each.good, "text": each.text}
                | each.facts
                for who, each in outcomes.items()
            ]
            append_records(args.json, records)
    return int(not good)


if __name__ == "__main__":
    sys.exit(main())
