"""A job that launcher_faults.py starts under rdmatrain run or under torchrun."""

import contextlib
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from two_hosts import CABLE_END

LIMIT_S = 15.0  # a fault may take 10 s
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
