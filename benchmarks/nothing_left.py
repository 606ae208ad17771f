"""What is left of a job two seconds after it died, for each way of dying, many times.

Each job is ``rdmatrain run`` with two ranks. Each rank listens on a port and starts three processes
in sessions of their own: a child, an orphan, and an orphan that ignores signals and listens on a
port too. With ``--torch`` the ranks also reduce a tensor through the rdmatrain backend, so that its
shared memory is there. The job is killed at a random moment once all runs, or while it starts.

Counted are live processes that carry the variable that this program gave the job, ports that
answer, files in the job's temporary folder, where its runtime folder is, new entries in /dev/shm
that no process uses, and cgroups, where this program can give the job one to make its own in.
"""

import argparse
import contextlib
import os
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from common import bare_environment, commit, machine

from rdmatrain.launcher import cgroup

RANKS = 2
NOTES_EACH = 6
START_S = 120.0
END_S = 60.0
LEFT_S = 2.0
MARK = "NOTHING_LEFT"
COMMON = """
import os, signal, socket, subprocess, sys, time
folder = sys.argv[1]
def note(kind, number):
    open(f"{folder}/notes/{kind}.{number}", "w").close()
def listen():
    server = socket.create_server(("127.0.0.1", 0))
    note("port", server.getsockname()[1])
    return server
def start(code):
    command = [sys.executable, "-S", "-c", HEAD + code, folder]
    return subprocess.Popen(command, start_new_session=True, env=os.environ)
HEAD = "import sys; sys.path.insert(0, sys.argv[1]); from common_of_job import *; "
SLEEP = "note('pid', os.getpid()); time.sleep(600)"
STUBBORN = "[signal.signal(n, signal.SIG_IGN) for n in (1, 2, 3, 15)]; server = listen(); " + SLEEP
"""
WORKER = """
import sys; sys.path.insert(0, sys.argv[1])
from common_of_job import *
if "torch" in sys.argv:
    import torch
    import torch.distributed as dist
    dist.init_process_group("rdmatrain")
    dist.all_reduce(torch.ones(1 << 20))
server = listen()
start(SLEEP)
start(f"start({SLEEP!r})").wait()
start(f"start({STUBBORN!r})").wait()
note("rank", os.getpid())
time.sleep(600)
"""
# Notes of a rank: two ports, three processes, itself.


class Job:
    """A job that runs in a folder of its own.

    Args:
        folder: a new folder.
        with_torch: the ranks use the backend.

    """

    def __init__(self, folder: Path, *, with_torch: bool) -> None:
        self.mark = uuid.uuid4().hex
        self.folder = folder
        self.tmp = folder / "tmp"
        self.notes_folder = folder / "notes"
        self.tmp.mkdir()
        self.notes_folder.mkdir()
        (folder / "common_of_job.py").write_text(COMMON, encoding="utf-8")
        script = folder / "worker.py"
        script.write_text(WORKER, encoding="utf-8")
        python = [sys.executable, "-m", "rdmatrain.cli", "run", "--nproc-per-node", str(RANKS)]
        command = [*python, str(script), str(folder), *(["torch"] if with_torch else [])]
        env = bare_environment() | {"TMPDIR": str(self.tmp), MARK: self.mark}
        self.cgroup = cgroup.create(f"nothing-left-{self.mark}")
        self.log = (folder / "log").open("wb")
        self.launcher = subprocess.Popen(
            command,
            env=env,
            stdout=self.log,
            stderr=self.log,
            start_new_session=True,
            preexec_fn=self.cgroup and self.cgroup.join,  # noqa: PLW1509 - one thread
        )

    def notes(self, kind: str) -> list[int]:
        """Return the numbers that processes of the job have noted."""
        return [int(path.suffix[1:]) for path in self.notes_folder.glob(f"{kind}.*")]

    def wait_until_all_runs(self) -> None:
        """Wait until each rank and all that it starts is there."""
        end = time.monotonic() + START_S
        while len(self.notes("*")) < RANKS * NOTES_EACH:
            if time.monotonic() > end or self.launcher.poll() is not None:
                log = (self.folder / "log").read_text(errors="replace")
                raise SystemExit(f"the job did not start:\n{log}")
            time.sleep(0.01)

    def processes(self) -> list[int]:
        """Return the live processes of the job, by a mark that only this program knows."""
        found = []
        wanted = f"{MARK}={self.mark}".encode()
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError, ValueError):
                if wanted in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
        return found

    def left(self) -> list[str]:
        """Name all that is left."""
        found = [f"process {pid}: {_command(pid)}" for pid in self.processes()]
        found += [f"port {port}" for port in self.notes("port") if _answers(port)]
        cgroups = (
            [each for each in _below(self.cgroup.path) if each.is_dir()] if self.cgroup else []
        )
        return found + [f"left {path}" for path in [*_below(self.tmp), *cgroups]]

    def close(self) -> None:
        """Kill what is left, after it was counted."""
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.launcher.wait()
        self.log.close()
        if self.cgroup:
            self.cgroup.remove()


def kill_launcher(job: Job) -> None:
    """SIGKILL to the launcher alone."""
    job.launcher.kill()


def kill_rank(job: Job) -> None:
    """SIGKILL to one rank; the launcher is to end the rest."""
    os.kill(random.choice(job.notes("rank")), signal.SIGKILL)


def kill_all(job: Job) -> None:
    """SIGKILL to the launcher and its ranks in one go."""
    for pid in (job.launcher.pid, *job.notes("rank")):
        os.kill(pid, signal.SIGKILL)


def interrupt_twice(job: Job) -> None:
    """Ctrl-C, and again: the terminal sends it to the launcher's process group."""
    for _ in range(2):
        with contextlib.suppress(ProcessLookupError):  # the first may have been enough
            os.killpg(job.launcher.pid, signal.SIGINT)
        time.sleep(random.uniform(0.0, 0.3))


def terminate(job: Job) -> None:
    """SIGTERM to the launcher."""
    job.launcher.terminate()


Way = Callable[[Job], None]
WAYS: dict[str, tuple[Way, bool]] = {
    "launcher -9": (kill_launcher, True),
    "rank -9": (kill_rank, True),
    "launcher and ranks -9": (kill_all, True),
    "Ctrl-C twice": (interrupt_twice, True),
    "SIGTERM": (terminate, True),
    "launcher -9 at start": (kill_launcher, False),
    "SIGTERM at start": (terminate, False),
}


def die(way: Way, *, all_runs: bool, with_torch: bool) -> list[str]:
    """Start a job and let it die; returns what is left two seconds after its launcher's end."""
    shm = _shm()
    with tempfile.TemporaryDirectory(prefix="nothing-left-") as folder:
        job = Job(Path(folder), with_torch=with_torch)
        try:
            left = _left_after(job, way, all_runs=all_runs)
        finally:
            job.close()
    return left + [f"left {path}" for path in _unused_shm(shm)]


def _left_after(job: Job, way: Way, *, all_runs: bool) -> list[str]:
    if all_runs:
        job.wait_until_all_runs()
    time.sleep(random.uniform(0.0, 0.1 if all_runs else 1.0))
    way(job)
    try:
        job.launcher.wait(END_S)
    except subprocess.TimeoutExpired:
        return ["the launcher did not end"]
    end = time.monotonic() + LEFT_S
    while (left := job.left()) and time.monotonic() < end:
        time.sleep(0.05)
    return left


def _below(folder: Path) -> set[Path]:
    """Return all below a folder, while others add and remove there."""
    found = os.walk(folder)
    return {Path(parent, name) for parent, *names in found for name in names[0] + names[1]}


def _shm() -> set[Path]:
    folder = Path("/dev/shm")
    return set(folder.iterdir()) if folder.is_dir() else set()


def _unused_shm(before: set[Path]) -> set[Path]:
    """Return what is new and no process uses, now and two seconds later."""
    unused = {path for path in _shm() - before if not _is_used(path)}
    if unused:
        time.sleep(LEFT_S)
    return {path for path in unused if path.exists() and not _is_used(path)}


def _is_used(path: Path) -> bool:
    """Tell whether somebody else's program has it, or something in it, mapped or open."""
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if str(path) in (process / "maps").read_text(errors="replace"):
                return True
            if any(str(path) in str(fd.readlink()) for fd in (process / "fd").iterdir()):
                return True
    return False


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _command(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()[:80]
    return ""


def main() -> None:
    """Print a table; exit with 1 if anything was left."""
    # What a shell runs in the background ignores Ctrl-C, and so would the jobs.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seed", type=int, default=0, help="of the random moments")
    parser.add_argument("--times", type=int, default=100, help="of each way (default: 100)")
    parser.add_argument("--only", action="append", choices=[*WAYS], help="this way of dying")
    parser.add_argument("--torch", action="store_true", help="the ranks use the backend")
    args = parser.parse_args()
    random.seed(args.seed)
    print(f"# {machine()}, {commit()}, {args.times} times each{', torch' * args.torch}")
    print(f"{'#':24}{'jobs':>6}{'with left-overs':>17}")
    failed = False
    for name in args.only or WAYS:
        way, all_runs = WAYS[name]
        found: Counter[str] = Counter()
        num_failed = 0
        for _ in range(args.times):
            left = die(way, all_runs=all_runs, with_torch=args.torch)
            num_failed += bool(left)
            found.update(re.sub(r"[0-9a-f]*[0-9][0-9a-f]*", "N", text) for text in left)
        failed |= bool(num_failed)
        print(f"{name:24}{args.times:6}{num_failed:17}", flush=True)
        for text, count in found.most_common(10):
            print(f"    {count} x {text}", flush=True)
    sys.exit(failed)


if __name__ == "__main__":
    main()
