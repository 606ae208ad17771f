"""What the benchmarks share: naming the machine and the commit, pinning, timing, checking, records.

Imports nothing beyond the standard library, so that a peer's environment needs none of ours.
"""

import json
import os
import platform
import resource
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
MIN_REPEATS, MAX_REPEATS = 5, 2000
TICK_SECONDS = 0.05
WE = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
Environment = dict[str, str]
Command = tuple[list[str], Environment]


class JobError(RuntimeError):
    """A process of a job failed or did not end in time; the text has what it wrote."""


class Case(NamedTuple):
    """One thing to time; ``nbytes`` is the size of the larger tensor of the operation."""

    op: str
    dtype: str
    nbytes: int

    def __str__(self) -> str:
        return "/".join(map(str, self))

    @classmethod
    def parse(cls, text: str) -> "Case":
        """Read what ``str`` wrote."""
        op, dtype, nbytes = text.split("/")
        return cls(op, dtype, int(nbytes))


def machine() -> str:
    """Name the processor and count the CPUs."""
    models = [
        line.split(":", 1)[1].strip()
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        if line.startswith("model name")
    ]
    return f"{models[0] if models else platform.machine()} x{os.cpu_count()}"


def commit() -> str:
    """Name the commit that is measured."""
    command = ["git", "describe", "--always", "--dirty"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def where() -> dict[str, str]:
    """Return the fields of a record that say where and when it was measured."""
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    return {"time": now, "machine": machine(), "commit": commit()}


def bare_environment() -> Environment:
    """Return what a job needs of this process's variables, none of which tells it what to do."""
    kept = ("PATH", "HOME", "LD_LIBRARY_PATH")
    ours = {name: os.environ[name] for name in kept if name in os.environ}
    return ours | {"PYTHONPATH": os.environ.get("PYTHONPATH", str(ROOT)), "OMP_NUM_THREADS": "1"}


def append_records(path: Path, records: list[dict[str, object]]) -> None:
    """Append JSON lines."""
    with path.open("a", encoding="utf-8") as out:
        out.writelines(json.dumps(record) + "\n" for record in records)


def others_share(before: tuple[float, float] | None = None) -> tuple[float, float]:
    """Return CPU seconds that other programs used so far, and all CPU seconds that there were.

    What the hypervisor took counts as used by others; what ended children of this process used does
    not, so take it between jobs. With an earlier result, both are counted from there.

    """
    # user nice system idle iowait irq softirq steal, in ticks, summed over the CPUs
    first = Path("/proc/stat").read_text(encoding="utf-8").split("\n", 1)[0]
    ticks = [int(word) / os.sysconf("SC_CLK_TCK") for word in first.split()[1:9]]
    own = sum(sum(resource.getrusage(who)[:2]) for who in WE)
    used, total = sum(ticks) - ticks[3] - ticks[4] - own, sum(ticks)
    return (used - before[0], total - before[1]) if before else (used, total)


def size_text(nbytes: int) -> str:
    """Write a power of two as people read it: 8 B, 512 KiB, 64 MiB."""
    for unit, name in ((1 << 20, "MiB"), (1 << 10, "KiB")):
        if nbytes >= unit:
            return f"{nbytes // unit} {name}"
    return f"{nbytes} B"


def pin(rank: int) -> None:
    """Bind this process, and the threads that it will start, to the CPU of its rank."""
    cpus = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cpus[rank % len(cpus)]})


def p50_seconds(
    call: Callable[[], object],
    barrier: Callable[[], object],
    largest: Callable[[float], float],
    budget: float,
) -> float:
    """Time a collective call on all ranks together.

    Args:
        call: the operation, over when it returns.
        barrier: meets the other ranks.
        largest: the largest of the ranks' values, the same on all of them.
        budget: seconds to spend.

    Returns:
        Median seconds of one call on the rank where it is largest: a rank that may leave early, as
        the root of a broadcast, does not make the operation look fast.

    """
    call()
    barrier()
    begin = time.perf_counter()
    for _ in range(3):
        call()
    guess = largest((time.perf_counter() - begin) / 3)
    samples = []
    barrier()
    for _ in range(max(MIN_REPEATS, min(MAX_REPEATS, int(budget / guess)))):
        begin = time.perf_counter()
        call()
        samples.append(time.perf_counter() - begin)
    return largest(statistics.median(samples))


def rank_commands(argv: Sequence[str], ranks: int, extra: Environment) -> list[Command]:
    """Return the commands that run a Python script as the ranks of one job on this host.

    Args:
        argv: the script and its arguments.
        ranks: how many processes.
        extra: variables on top of this process's and the launcher's.

    """
    with socket.socket() as probe:  # torch's store listens on every address
        probe.bind(("0.0.0.0", 0))
        port = str(probe.getsockname()[1])
    world = {"WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks)}
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    # The old names of some collectives warn in torch 2.13.
    command = [sys.executable, "-W", "ignore::FutureWarning", *argv]
    return [
        (command, common | world | {"RANK": str(rank), "LOCAL_RANK": str(rank)} | extra)
        for rank in range(ranks)
    ]


def run_job(
    commands: list[Command], timeout: float, tick: Callable[[list[int]], object] | None = None
) -> str:
    """Run processes together until all have ended well.

    They stay in this process's session: where the kernel schedules sessions as groups (autogroup),
    a rank in a session of its own cannot yield its CPU to another rank.

    Args:
        commands: argument lists, each with the variables to add to this process's.
        timeout: seconds until the job is given up.
        tick: called every ``TICK_SECONDS`` with the processes' ids.

    Returns:
        What the first process wrote to its standard output.

    Raises:
        JobError: a process failed, or time is up; all of them have ended, as after SIGTERM.

    """
    with tempfile.TemporaryDirectory(prefix="rdmatrain-bench-") as folder:
        errors = [Path(folder, f"{index}.err") for index in range(len(commands))]
        out = Path(folder, "0.out")
        running: list[subprocess.Popen[bytes]] = []
        before = exit_on_sigterm()
        try:
            for (argv, extra), error in zip(commands, errors, strict=True):
                with error.open("wb") as err, (out if not running else error).open("ab") as to:
                    env = os.environ | extra
                    running.append(subprocess.Popen(argv, env=env, stdout=to, stderr=err))
            failed = _wait(running, timeout, tick)
        finally:
            _end(running)
            signal.signal(signal.SIGTERM, before)
        if failed is not None:
            text = errors[failed].read_text(errors="replace")[-4000:]
            code = running[failed].returncode
            raise JobError(f"{' '.join(commands[failed][0])}\nexit status {code}:\n{text}")
        return out.read_text(errors="replace")


def exit_on_sigterm() -> object:
    """Let SIGTERM unwind as Ctrl-C does, so that what was started ends; return what it did."""
    return signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


def _wait(
    running: list[subprocess.Popen[bytes]],
    timeout: float,
    tick: Callable[[list[int]], object] | None,
) -> int | None:
    """Return the index of the first process that failed or was late, or None."""
    deadline = time.monotonic() + timeout
    while True:
        codes = [process.poll() for process in running]
        late = time.monotonic() > deadline
        for index, code in enumerate(codes):
            if code or (code is None and late):
                return index
        if None not in codes:
            return None
        if tick:
            tick([process.pid for process in running])
        time.sleep(TICK_SECONDS)


def _end(running: list[subprocess.Popen[bytes]]) -> None:
    """End what still runs; mpirun ends its own ranks when it is asked to."""
    alive = [process for process in running if process.poll() is None]
    for process in alive:
        process.terminate()
    for process in alive:
        try:
            process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def json_lines(text: str) -> list[dict[str, Any]]:
    """Read the lines that are JSON objects; a launcher may have written others."""
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]
