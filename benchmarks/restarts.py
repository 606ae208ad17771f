"""Kill ranks of a job on two hosts over and over: it goes on soon, and with the same bits.

The hosts are two network namespaces with two ranks each; root makes them. First a worker that
reduces a tensor over and over: a random rank of it is killed with SIGKILL, and two times are taken:
until the last worker of that round is gone, and until the next collective of all ranks. Then the
demo: it is killed at random points, restarted in place each time, and its parameters must have the
bits of a run that nobody disturbed. Last the demo again: one of its launchers gets SIGTERM, over
and over, and each time it must save the step that it was at, end in time, and go on from there.
"""

import argparse
import contextlib
import json
import os
import random
import re
import secrets
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from common import ROOT, append_records, commit, exit_on_sigterm, machine, where
from two_hosts import ADDRESSES, hosts

from rdmatrain.bench.stats import percentile

PORT = 29537
RANKS = 4
MARKER = f"BENCH_JOB={secrets.token_hex(8)}"
WAIT_S = 300.0
MAX_P95_S = 1.5
MAX_END_P99_S = 0.5
SPARE_S = 2.0  # of the grace period, which a job that is told to stop leaves unused
WARM_S = 9.0  # after which the successors of the workers are ready, on a crowded machine too
WORKER = """
import os, sys, time
from pathlib import Path
rank, attempt = int(os.environ["RANK"]), int(os.environ["TORCHELASTIC_RESTART_COUNT"])
import torch, torch.distributed as dist
dist.init_process_group("rdmatrain")
x = torch.ones(1000)
while True:
    dist.all_reduce(x)
    x /= dist.get_world_size()
    if attempt >= 0:
        path = Path(sys.argv[1], f"{attempt}-{rank}")
        path.with_suffix(".new").write_text(f"{os.getpid()} {time.monotonic()}")
        path.with_suffix(".new").rename(path)
        attempt = -1
    time.sleep(0.005)
"""
DEMO = ["--steps", "3000", "--global-batch", "8", "--seq-len", "64", "--width", "48"]
DEMO += ["--layers", "2", "--log-every", "100"]
ENDLESS = ["--steps", "1000000", "--log-every", "1", "--checkpoint-every", "1000000"]
Measured = tuple[bool, dict[str, object]]  # whether all was good; for the record


@contextlib.contextmanager
def job(names: Sequence[str], out: Path, *arguments: str) -> Iterator[list[subprocess.Popen]]:
    """Start the launchers of both hosts; their output goes to a file for each."""
    name, _, value = MARKER.partition("=")
    extra = {name: value, "RDMATRAIN_SECRET": secrets.token_hex(16), "OMP_NUM_THREADS": "1"}
    common = ["--nnodes", "2", "--nproc-per-node", "2", "--max-restarts", "1000000"]
    common += ["--master-addr", ADDRESSES[0], "--master-port", str(PORT), "--rdzv-id", "restarts"]
    nodes = []
    for node, name in enumerate(names):
        command = ["ip", "netns", "exec", name, sys.executable, "-m", "rdmatrain.cli", "run"]
        with Path(f"{out}.{node}").open("wb") as file:
            nodes.append(
                subprocess.Popen(
                    [*command, *common, "--node-rank", str(node), *arguments],
                    env=os.environ | extra,
                    stdout=file,
                    stderr=file,
                    cwd=ROOT,
                )
            )
    try:
        yield nodes
    finally:
        for each in nodes:
            each.terminate()
        for each in nodes:
            each.wait()


def wait_for(condition: Callable[[], bool], what: str) -> None:
    """Wait, for at most WAIT_S."""
    end = time.monotonic() + WAIT_S
    while not condition():
        if time.monotonic() > end:
            raise RuntimeError(f"waited {WAIT_S:g} s for {what}")
        time.sleep(0.005)


def notes(folder: Path, attempt: int) -> list[tuple[int, float]]:
    """Wait for the first collective of an attempt; return process id and time of each rank."""
    paths = [folder / f"{attempt}-{rank}" for rank in range(RANKS)]
    wait_for(lambda: all(path.exists() for path in paths), f"the collective of attempt {attempt}")
    found = [path.read_text(encoding="utf-8").split() for path in paths]
    return [(int(pid), float(clock)) for pid, clock in found]


def seconds_to_end(pids: Sequence[int], act: Callable[[], None]) -> float:
    """Do something to a job; return the seconds until these processes have ended, all of them."""
    with contextlib.ExitStack() as cleanup:
        ends = [os.pidfd_open(pid) for pid in pids]
        for end in ends:
            cleanup.callback(os.close, end)
        began = time.monotonic()
        act()
        for pid, end in zip(pids, ends, strict=True):
            if not select.select([end], [], [], WAIT_S)[0]:
                raise RuntimeError(f"process {pid} has not ended within {WAIT_S:g} s")
        return time.monotonic() - began


def spread(seconds: Sequence[float]) -> str:
    """Say how long it took in the middle, and at worst."""
    p50, p95, p99 = (percentile(seconds, part) for part in (0.5, 0.95, 0.99))
    return f"median {p50:.2f} s, p95 {p95:.2f} s, p99 {p99:.2f} s, most {max(seconds):.2f} s"


def restart(times: int) -> Measured:
    """Kill a rank so often; take the times to the round's end, and to the next collective.

    Raises:
        RuntimeError: a round did not end, or a restart did not succeed at the first attempt.

    """
    ends, seconds = [], []
    with tempfile.TemporaryDirectory(prefix="rdmatrain-bench-") as text, hosts() as names:
        folder = Path(text)
        worker = folder / "worker.py"
        worker.write_text(WORKER, encoding="utf-8")
        with job(names, folder / "out", str(worker), text):
            here = notes(folder, 0)
            for attempt in range(1, times + 1):
                time.sleep(WARM_S + random.random())
                pids = [pid for pid, _ in here]
                victim = random.choice(pids)
                began = time.monotonic()
                ends.append(seconds_to_end(pids, lambda pid=victim: os.kill(pid, signal.SIGKILL)))
                here = notes(folder, attempt)
                seconds.append(max(clock for _, clock in here) - began)
    print(f"kill -9 to the end of all {RANKS} workers, on 2 hosts: {spread(ends)}")
    print(f"to the next collective, {times} of {times} at the first attempt: {spread(seconds)}")
    good = percentile(seconds, 0.95) <= MAX_P95_S and percentile(ends, 0.99) <= MAX_END_P99_S
    return good, {"end_seconds": ends, "restart_seconds": seconds}


def train(names: Sequence[str], folder: Path, kills: int) -> tuple[list[str], int]:
    """Train the demo, killing a rank so often; return the ranks' digests and the restarts."""
    out = folder / f"out-{kills}"
    demo = [str(ROOT / "launch/train_gpt.py"), *DEMO, "--out", str(out)]
    demo += ["--checkpoint", str(folder / f"saved-{kills}"), "--checkpoint-every", "10"]
    with job(names, out, *demo) as nodes:
        for _ in range(kills):
            wait_for(lambda: len(workers()) == RANKS, "all ranks of the demo")
            time.sleep(random.uniform(0.5, 4.0))
            here = workers()
            if not here or nodes[0].poll() is not None:
                break  # it was faster
            with contextlib.suppress(ProcessLookupError):
                os.kill(random.choice(here), signal.SIGKILL)
            time.sleep(1.0)
        for node in nodes:
            node.wait(timeout=600)
        text = Path(f"{out}.0").read_text(encoding="utf-8", errors="replace")
        if any(node.returncode for node in nodes):
            raise RuntimeError(f"the demo failed:\n{text[-3000:]}")
    result = json.loads((out / "result.json").read_text(encoding="utf-8"))
    return result["param_sha256"], len(re.findall(r"restart \d+ of", text))


def workers() -> list[int]:
    """Return the process ids of the job's workers; standbys, which write nowhere, are none."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            variables = (path / "environ").read_bytes().split(b"\0")
            writes = str((path / "fd/1").readlink()).startswith("pipe:")
            if MARKER.encode() in variables and b"WORLD_SIZE=4" in variables and writes:
                found.append(int(path.name))
    return found


def disturb(kills: int) -> Measured:
    """Train the demo twice, once killing a rank so often; compare the bits."""
    with tempfile.TemporaryDirectory(prefix="rdmatrain-bench-") as text, hosts() as names:
        calm, _ = train(names, Path(text), 0)
        killed, restarts = train(names, Path(text), kills)
    equal = len(set(calm + killed)) == 1
    print(f"demo killed {restarts} times: parameters {'equal' if equal else 'DIFFER'}")
    return equal and restarts == kills, {"demo_restarts": restarts, "demo_equal": equal}


def stop_once(names: Sequence[str], folder: Path, grace: float) -> tuple[float, bool]:
    """Start the demo, or go on with it, and send SIGTERM to a launcher somewhere in its steps.

    Returns:
        Seconds until both launchers had ended, and whether both exited with 143 and the step that
        was done at the signal is in a checkpoint.

    Raises:
        RuntimeError: the demo did not go on from the newest checkpoint, or it did not end.

    """
    saved, out = folder / "saved", folder / "out"
    demo = [str(ROOT / "launch/train_gpt.py"), *DEMO, *ENDLESS, "--out", str(folder / "result")]
    before = newest_step(saved)

    def done() -> list[str]:
        text = Path(f"{out}.0").read_text(encoding="utf-8", errors="replace")
        return re.findall(r"step +(\d+)(?:  loss|\n)", text)

    with job(names, out, "--grace", f"{grace:g}", *demo, "--checkpoint", str(saved)) as nodes:
        wait_for(lambda: len(done()) > bool(before), "the first step of the demo")
        if before and int(done()[0]) != before:
            raise RuntimeError(f"the demo did not go on from step {before}, which it had saved")
        time.sleep(random.uniform(0.0, 2.0))
        step = int(done()[-1])
        seconds = seconds_to_end([node.pid for node in nodes], random.choice(nodes).terminate)
        codes = [node.wait() for node in nodes]
    return seconds, codes == [128 + signal.SIGTERM] * 2 and newest_step(saved) >= step


def newest_step(saved: Path) -> int:
    """Return the step of the newest checkpoint, 0 where there is none."""
    manifests = [path.read_text(encoding="utf-8") for path in saved.glob("*/manifest.json")]
    return max((json.loads(text)["step"] for text in manifests), default=0)


def stop(terms: int, grace: float) -> Measured:
    """Tell the demo to stop so often; count what was saved and ended as it should."""
    with tempfile.TemporaryDirectory(prefix="rdmatrain-bench-") as text, hosts() as names:
        found = [stop_once(names, Path(text), grace) for _ in range(terms)]
    seconds = [took_s for took_s, _ in found]
    right = sum(good for _, good in found)
    print(
        f"{right} of {terms} SIGTERMs with {grace:g} s of grace: both launchers exit with 143, the "
        f"step is saved; to the end: {spread(seconds)}"
    )
    record = {"grace": grace, "term_seconds": seconds, "term_right": right}
    return right == terms and max(seconds) <= grace - SPARE_S, record


def main() -> int:
    """Measure; return 0 if all ended and went on soon, at the first attempt, with their bits."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--times", type=int, default=100, help="kills of the small worker")
    parser.add_argument("--kills", type=int, default=20, help="kills of the demo")
    parser.add_argument("--terms", type=int, default=50, help="SIGTERMs to the demo")
    parser.add_argument("--grace", type=float, default=5.0, help="seconds from SIGTERM to SIGKILL")
    parser.add_argument("--seed", type=int, default=0, help="of when and whom to kill")
    parser.add_argument("--json", type=Path, help="append a record to this file")
    args = parser.parse_args()
    exit_on_sigterm()
    random.seed(args.seed)
    print(f"# {machine()}, commit {commit()}", flush=True)
    record: dict[str, object] = where()
    good = True
    for count, measure in (
        (args.times, restart),
        (args.kills, disturb),
        (args.terms, lambda terms: stop(terms, args.grace)),
    ):
        if count:
            fine, facts = measure(count)
            sys.stdout.flush()
            record |= facts
            good &= fine
    if args.json:
        append_records(args.json, [record])
    return int(not good)


if __name__ == "__main__":
    sys.exit(main())
