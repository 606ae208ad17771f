"""Count whom the watch of ``rdmatrain run`` accuses although it only gets little of a crowded CPU.

Ranks train, and now and then rank 0 computes alone for longer than the limit while the others wait;
beside them run endless loops, several a CPU. No verdict may fall. Then rank 1 really hangs, which
must be found: the check that the watch was awake.
"""

import argparse
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from common import append_records, where

from rdmatrain.launcher.messages import RankState
from rdmatrain.launcher.watch.hang import Suspect, judge
from rdmatrain.launcher.watch.watcher import STEP_S, Watcher

LIMIT_S = 10.0  # in which a hang must be found
ALONE_EACH_S = 60.0


def main() -> int:
    """Start the ranks, or be one of them; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=30.0, help="how long (default: 30)")
    parser.add_argument("--nproc", type=int, default=2, help="ranks (default: 2)")
    parser.add_argument("--loops", type=int, default=2, help="endless loops a CPU (default: 2)")
    parser.add_argument("--hang-s", type=float, default=8.0, help="the limit (default: 8)")
    parser.add_argument("--json", type=Path, help="append a record to this file")
    args = parser.parse_args()
    if "RANK" in os.environ:
        train(args.hang_s)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        watcher = Watcher(Path(folder))
        ranks = start_ranks(watcher, args.nproc)
        spin = [sys.executable, "-c", "while True: pass"]
        loops = [subprocess.Popen(spin) for _ in range(args.loops * len(os.sched_getaffinity(0)))]
        try:
            record = watch(watcher, args.minutes * 60, args.hang_s)
            record["found_s"] = find_a_hang(watcher, ranks[1].pid, args.hang_s)
        finally:
            for process in (*ranks, *loops):
                process.kill()
                process.wait()
            watcher.end()
    print("\n".join(f"{name}: {value}" for name, value in record.items()))
    if args.json:
        append_records(args.json, [record | where()])
    return int(bool(record["alarms"]) or not record["ranks_seen"] or record["found_s"] > LIMIT_S)


def start_ranks(watcher: Watcher, num: int) -> list[subprocess.Popen[bytes]]:
    """Start this file as so many ranks."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(num)}
    ranks = [
        subprocess.Popen(
            [sys.executable, *sys.argv],
            env=os.environ
            | common
            | {"RANK": str(rank), "OMP_NUM_THREADS": "1"}
            | watcher.environment(rank),
        )
        for rank in range(num)
    ]
    watcher.begin({rank: (rank, process.pid) for rank, process in enumerate(ranks)})
    return ranks


def train(hang_s: float) -> None:
    """Be a rank: small steps, and every minute one that only rank 0 computes."""
    import torch  # noqa: PLC0415 - the parent needs none
    import torch.distributed as dist  # noqa: PLC0415

    dist.init_process_group("rdmatrain")
    grads, work = torch.ones(1 << 16), torch.rand(256, 256)
    next_alone = time.monotonic() + 5.0
    while True:
        alone = torch.tensor([float(dist.get_rank() == 0 and time.monotonic() > next_alone)])
        dist.broadcast(alone, 0)
        if alone.item():
            end = time.monotonic() + 2 * hang_s
            while dist.get_rank() == 0 and time.monotonic() < end:
                work @ work
            next_alone = time.monotonic() + ALONE_EACH_S
        for _ in range(20):
            work @ work
            dist.all_reduce(grads, dist.ReduceOp.AVG)


def watch(watcher: Watcher, seconds: float, hang_s: float) -> dict[str, float]:
    """Watch for so long; count verdicts, and note how near the states came to one."""
    record = {"seconds": seconds, "alarms": 0, "observations": 0, "ranks_seen": 0}
    worst = {"latest_beat_s": 0.0, "longest_wait_s": 0.0, "longest_idle_outside_s": 0.0}
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(STEP_S)
        states = watcher.observe()
        record["observations"] += 1
        record["ranks_seen"] = sum(state.beat_s is not None for state in states)
        if suspect := judge(states, hang_s):
            record["alarms"] += 1
            print(f"false alarm: rank {suspect.rank} {suspect.detail}: {states}", flush=True)
        note_worst(worst, states)
    return record | worst


def note_worst(worst: dict[str, float], states: Sequence[RankState]) -> None:
    for state in states:
        outside_s = state.idle_s if state.waiting_s is None else 0.0
        for name, value in (
            ("latest_beat_s", state.beat_s or 0.0),
            ("longest_wait_s", state.waiting_s or 0.0),
            ("longest_idle_outside_s", outside_s),
        ):
            worst[name] = max(worst[name], value)


def find_a_hang(watcher: Watcher, pid: int, hang_s: float) -> float:
    """Stop rank 1; return after how many seconds that was found, or more than LIMIT_S."""
    os.kill(pid, signal.SIGSTOP)
    began = time.monotonic()
    found: Suspect | None = None
    while (found is None or found.rank != 1) and time.monotonic() < began + 2 * LIMIT_S:
        time.sleep(STEP_S)
        found = judge(watcher.observe(), hang_s)
    return time.monotonic() - began


if __name__ == "__main__":
    sys.exit(main())
