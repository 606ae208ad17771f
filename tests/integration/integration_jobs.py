"""Starts jobs of real processes and reads what they say.

A worker is a script. ``note(key=value)`` in it is how it reports: each call is a line of JSON that
ends up, merged, in the ``facts`` of its process. Nothing here waits without a timeout.
"""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

WORKERS = Path(__file__).with_name("workers")
PYTHON = [sys.executable]
RUN = [sys.executable, "-m", "rdmatrain.cli", "run"]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]
TIMEOUT_S = 100.0
# Jobs that fail, as they should, leave traces here instead of in the user's cache.
TRACES = str(Path(__file__).parents[2] / "build" / "test-traces")
MARKER = "INTEGRATION_JOB"  # in the environment of all processes of a job

HEAD = """
import faulthandler, json, os, sys, threading, time
faulthandler.dump_traceback_later(75, exit=True)
from datetime import timedelta
RANK, WORLD = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
def note(**facts):
    # One write: lines of two threads must not mix.
    os.write(1, b"\\n@" + json.dumps(facts).encode() + b"\\n")
import torch
import torch.distributed as dist
"""

# Appended to a worker that is expected to fail: what it raised becomes facts.
REPORT_ERROR = """
def reported(call, *args, **kwargs):
    began = time.monotonic()
    try:
        call(*args, **kwargs)
    except Exception as error:
        note(raised=time.monotonic(), after_s=time.monotonic() - began, error=str(error),
             kind=type(error).__name__, is_dist=isinstance(error, dist.DistError))
        return error
"""
# The launcher ends a job 0.15 s after a rank's death; on a slow machine that may be before the
# others have said what they saw.
HEARD_OUT = """
import signal
if RANK != 1:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
"""


@dataclass
class Ended:
    """A command that has ended.

    Attributes:
        code: its exit code.
        out: what it wrote to stdout and stderr.
        facts: what was noted, by rank; a process without a launcher counts as rank 0.

    """

    code: int
    out: str
    facts: dict[int, dict[str, Any]] = field(default_factory=dict)

    def of(self, rank: int) -> dict[str, Any]:
        return self.facts.get(rank, {})


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    dropped = ("RDMATRAIN_", "OMP_", "TORCH", "RANK", "WORLD_SIZE", "LOCAL_", "MASTER_", "GROUP_")
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(dropped)}
    own = {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", "RDMATRAIN_RECORDER_DIR": TRACES}
    return inherited | own | dict(extra or {})


def write_worker(folder: Path, body: str) -> str:
    path = folder / f"worker_{uuid.uuid4().hex[:8]}.py"
    path.write_text(HEAD + REPORT_ERROR + body, encoding="utf-8")
    return str(path)


def start(command: Sequence[str], env: Mapping[str, str] | None = None) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        command,
        env=environment(env),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def finish(
    processes: "Sequence[subprocess.Popen[str]]", timeout_s: float = TIMEOUT_S
) -> list[Ended]:
    """Wait for all of them; one that does not end is killed, and that is an error."""
    end = time.monotonic() + timeout_s
    results, late = [], []
    for process in processes:
        try:
            out, _ = process.communicate(timeout=max(end - time.monotonic(), 0.1))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            out, _ = process.communicate(timeout=20)
            late.append(process.args)
        results.append(Ended(process.returncode, out, facts_of(out)))
    assert not late, f"{late} ran past {timeout_s:.0f} s:\n" + "\n".join(r.out for r in results)
    return results


def facts_of(out: str) -> dict[int, dict[str, Any]]:
    facts: dict[int, dict[str, Any]] = {}
    for rank, text in re.findall(r"^(?:\S+:(\d+)│ )?@(\{.*)", out, flags=re.MULTILINE):
        facts.setdefault(int(rank or 0), {}).update(json.loads(text))
    return facts


def run(
    worker: str,
    *args: str,
    ranks: int = 2,
    env: Mapping[str, str] | None = None,
    timeout_s: float = TIMEOUT_S,
) -> Ended:
    """Run the worker on so many ranks with ``rdmatrain run``."""
    command = [*RUN, "--nproc-per-node", str(ranks), worker, *args]
    return finish([start(command, env)], timeout_s)[0]


def run_alone(
    worker: str, *args: str, env: Mapping[str, str] | None = None, timeout_s: float = TIMEOUT_S
) -> Ended:
    return finish([start([*PYTHON, worker, *args], env)], timeout_s)[0]


def run_by_hand(
    worker: str, environments: Sequence[Mapping[str, str]], timeout_s: float = TIMEOUT_S
) -> list[Ended]:
    """Run a process for each environment, with a store in common and no launcher."""
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    started = [start([*PYTHON, worker], common | dict(env)) for env in environments]
    return finish(started, timeout_s)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


def run_checks(worker: str, layout: str) -> tuple[Ended, int]:
    """Run a worker that is built on checklib, on a layout such as "3-over-tcp"; also its ranks."""
    ranks, _, transport = layout.partition("-over-")
    env = {"RDMATRAIN_TRANSPORT": transport}
    return run(str(WORKERS / worker), ranks=int(ranks), env=env), int(ranks)


def checks_in(worker: str) -> list[str]:
    """Names of the checks in a worker that is built on checklib."""
    return re.findall(r"^@check\ndef (\w+)", (WORKERS / worker).read_text(), flags=re.MULTILINE)


def failure_of(job: Ended, name: str, ranks: int) -> str:
    """What went wrong in a check, on any rank; empty when nothing did."""
    results = [job.of(rank).get(name, f"not reached; output:\n{job.out}") for rank in range(ranks)]
    return "\n".join(f"rank {rank}: {r}" for rank, r in enumerate(results) if r != "ok")


# What a job leaves behind


def processes_with(marker: str) -> list[int]:
    """Living processes that have the marker in their environment."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            state = (path / "stat").read_text(errors="replace").rpartition(")")[2].split()[0]
            if state not in "ZX" and marker.encode() in (path / "environ").read_bytes():
                found.append(int(path.name))
    return found


def sockets_of(pids: Sequence[int]) -> set[str]:
    """Inodes of the sockets that the processes hold."""
    inodes = set()
    for pid in pids:
        with contextlib.suppress(OSError):
            for fd in Path(f"/proc/{pid}/fd").iterdir():
                with contextlib.suppress(OSError):
                    target = str(fd.readlink())
                    if target.startswith("socket:["):
                        inodes.add(target[8:-1])
    return inodes


def living_sockets() -> dict[str, str]:
    """Every socket of this network namespace: its inode, and the line that describes it."""
    columns = {"tcp": 9, "tcp6": 9, "unix": 6}
    found = {}
    for table, column in columns.items():
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            found[line.split()[column]] = f"{table}: {line}"
    return found


@contextlib.contextmanager
def nothing_left_behind() -> Iterator[dict[str, str]]:
    """Yield the environment for a job, and check at the end that nothing of it is left.

    Whoever knows the job's sockets while it runs adds their inodes, joined by commas, as "inodes".
    """
    marker = f"{uuid.uuid4()}"
    shm_before = set(Path("/dev/shm").iterdir())
    env = {MARKER: marker}
    yield env
    inodes = set(env.pop("inodes", "").split(",")) - {""}
    deadline = time.monotonic() + 3.0
    while True:
        alive = processes_with(marker)
        new_shm = set(Path("/dev/shm").iterdir()) - shm_before
        sockets = [line for inode, line in living_sockets().items() if inode in inodes]
        if not (alive or new_shm or sockets):
            return
        assert time.monotonic() < deadline, f"left: {alive=} {new_shm=} {sockets=}"
        time.sleep(0.05)
