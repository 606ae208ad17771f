"""Kill ranks of a job on two hosts over and over: it goes on soon, and with the same bits.

The hosts are two network namespaces with two ranks each; root makes them. First a worker that
reduces a tensor over and over: a random rank of it is killed with SIGKILL, and the time to the next
collective of all ranks is taken. Then the demo: it is killed at random points, restarted in place
each time, and its parameters must have the bits of a run that nobody disturbed.
"""

import argparse
import contextlib
import json
import os
import random
import re
import secrets
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from common import ROOT, append_records, commit, machine, where
from two_hosts import ADDRESSES, hosts

PORT = 29537
RANKS = 4
MARKER = f"BENCH_JOB={secrets.token_hex(8)}"
WAIT_S = 60.0
MAX_P95_S = 1.5
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


def restart_seconds(times: int) -> list[float]:
    """Kill a rank so often; return the times from there to the next collective of all ranks.

    Raises:
        RuntimeError: a restart did not succeed at the first attempt.

    """
    seconds = []
    with tempfile.TemporaryDirectory(prefix="rdmatrain-bench-") as text, hosts() as names:
        folder = Path(text)
        worker = folder / "worker.py"
        worker.write_text(WORKER, encoding="utf-8")
        with job(names, folder / "out", str(worker), text):
            here = notes(folder, 0)
            for attempt in range(1, times + 1):
                time.sleep(WARM_S + random.random())
                began = time.monotonic()
                os.kill(random.choice(here)[0], signal.SIGKILL)
                here = notes(folder, attempt)
                seconds.append(max(clock for _, clock in here) - began)
    return seconds


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


def main() -> int:
    """Measure; return 0 if all restarts were at the first attempt, soon, and kept the bits."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--times", type=int, default=100, help="kills of the small worker")
    parser.add_argument("--kills", type=int, default=20, help="kills of the demo")
    parser.add_argument("--seed", type=int, default=0, help="of when and whom to kill")
    parser.add_argument("--json", type=Path, help="append a record to this file")
    args = parser.parse_args()
    random.seed(args.seed)
    print(f"# {machine()}, commit {commit()}")
    record: dict[str, object] = where()
    good = True
    if args.times:
        seconds = sorted(restart_seconds(args.times))
        p95 = seconds[min(len(seconds) - 1, int(0.95 * len(seconds)))]
        print(
            f"{args.times} of {args.times} restarts at the first attempt; kill -9 to the next "
            f"collective of {RANKS} ranks on 2 hosts: median {statistics.median(seconds):.2f} s, "
            f"p95 {p95:.2f} s, most {seconds[-1]:.2f} s",
            flush=True,
        )
        record |= {"restart_seconds": seconds}
        good &= p95 <= MAX_P95_S
    if args.kills:
        with tempfile.TemporaryDirectory(prefix="rdmatrain-bench-") as text, hosts() as names:
            calm, _ = train(names, Path(text), 0)
            killed, restarts = train(names, Path(text), args.kills)
        equal = len(set(calm + killed)) == 1
        print(f"demo killed {restarts} times: parameters {'equal' if equal else 'DIFFER'}")
        record |= {"demo_restarts": restarts, "demo_equal": equal}
        good &= equal and restarts == args.kills
    if args.json:
        append_records(args.json, [record])
    return int(not good)


if __name__ == "__main__":
    sys.exit(main())
