"""dist.all_reduce over rdmatrain beside Gloo, two ranks on this host, in the same run.

Started plainly it starts its ranks with ``rdmatrain run``. Rounds alternate between the two
backends, so that whatever else the machine does hits both; every size is checked on every rank
before it is timed. Prints a table, appends records to a JSON lines file, and fails where Gloo is
faster.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from common import append_records, commit, machine, where

BACKENDS = ("rdmatrain", "gloo")
SIZES = [8 << shift for shift in range(24)]  # 8 B to 64 MiB
ROUNDS = 7
ROUND_SECONDS = 0.06
TITLES = "#                  p50 us                            busbw"
HEADER = "#     bytes   rdmatrain        gloo    ratio   rdmatrain       gloo  wrong"


def main() -> int:
    """Start the ranks, or be one of them; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--nproc", type=int, default=2, help="ranks to start (default: 2)")
    parser.add_argument(
        "--json", type=Path, help="append one record a size and backend to this file"
    )
    args = parser.parse_args()
    if "RANK" in os.environ:
        return run_rank(args.json)
    command = [sys.executable, "-m", "rdmatrain.cli", "run", "--nproc-per-node", str(args.nproc)]
    forwarded = ["--json", str(args.json.resolve())] if args.json else []
    return subprocess.run([*command, __file__, *forwarded], check=False).returncode


def run_rank(json_path: Path | None) -> int:
    """Measure all sizes; return 1 where Gloo was faster or a sum was wrong."""
    import torch  # noqa: PLC0415 - the process that only starts the ranks needs none
    import torch.distributed as dist  # noqa: PLC0415

    torch.set_num_threads(1)
    dist.init_process_group("rdmatrain")
    rank, world = dist.get_rank(), dist.get_world_size()
    groups = {"rdmatrain": dist.group.WORLD, "gloo": dist.new_group(backend="gloo")}
    if rank == 0:
        print(f"# all_reduce, float32, SUM, {world} ranks, torch {torch.__version__}, {machine()}")
        print(f"# commit {commit()}, p50 of {ROUNDS} alternating rounds; busbw in GB/s (1e9)")
        print(f"{TITLES}\n{HEADER}", flush=True)
    failed_at = []
    for nbytes in SIZES:
        cell = {name: measure(group, nbytes // 4, rank, world) for name, group in groups.items()}
        times = interleave(groups, nbytes // 4)
        if rank == 0:
            record(json_path, nbytes, world, times, cell)
            if times["rdmatrain"] >= times["gloo"] or any(cell.values()):
                failed_at.append(nbytes)
    if rank == 0:
        verdict = f"slower or wrong at {failed_at} bytes" if failed_at else "faster at every size"
        print(f"# rdmatrain is {verdict}; transport: {transports()}")
    failed = torch.tensor([len(failed_at)])
    dist.broadcast(failed, src=0)
    dist.destroy_process_group()
    return int(failed.item() > 0)


def measure(group: object, count: int, rank: int, world: int) -> int:
    """Return how many elements of one all-reduce are wrong: values depend on rank and index."""
    import torch  # noqa: PLC0415
    import torch.distributed as dist  # noqa: PLC0415

    index = torch.arange(count, dtype=torch.float32) % 1021
    tensor = index + 7 * rank
    dist.all_reduce(tensor, group=group)
    return int((tensor != world * index + 7 * world * (world - 1) / 2).sum())


def interleave(groups: dict[str, object], count: int) -> dict[str, float]:
    """Return the median seconds of one all-reduce for each backend."""
    import torch  # noqa: PLC0415
    import torch.distributed as dist  # noqa: PLC0415

    tensor = torch.zeros(count)
    samples: dict[str, list[float]] = {name: [] for name in groups}
    repeats = {}
    for name, group in groups.items():
        begin = time.perf_counter()
        for _ in range(3):
            dist.all_reduce(tensor, group=group)
        guess = torch.tensor([(time.perf_counter() - begin) / 3])
        dist.all_reduce(guess, op=dist.ReduceOp.MAX)
        repeats[name] = max(2, min(500, int(ROUND_SECONDS / guess.item())))
    for _ in range(ROUNDS):
        for name, group in groups.items():
            dist.barrier()
            for _ in range(repeats[name]):
                begin = time.perf_counter()
                dist.all_reduce(tensor, group=group)
                samples[name].append(time.perf_counter() - begin)
    return {name: statistics.median(values) for name, values in samples.items()}


def record(
    path: Path | None, nbytes: int, world: int, times: dict[str, float], wrong: dict[str, int]
) -> None:
    """Print a row of the table and append its records to the file."""
    busbw = {n: nbytes / t * 2 * (world - 1) / world / 1e9 for n, t in times.items()}
    ours, theirs = (times[name] * 1e6 for name in BACKENDS)
    print(
        f"{nbytes:11d} {ours:11.2f} {theirs:11.2f} {theirs / ours:7.1f}x "
        f"{busbw['rdmatrain']:11.2f} {busbw['gloo']:10.2f} {sum(wrong.values()):6d}",
        flush=True,
    )
    if path is None:
        return
    common = {"op": "all_reduce", "dtype": "float32", "ranks": world, "nbytes": nbytes}
    common |= {"argv": f"benchmarks/smoke.py --nproc {world}", **where()}
    append_records(
        path,
        [
            {"backend": name, "seconds_p50": times[name], "busbw": busbw[name]}
            | {"nwrong": wrong[name]}
            | common
            for name in BACKENDS
        ],
    )


def transports() -> str:
    """Name what joins the ranks."""
    import rdmatrain  # noqa: PLC0415

    return ", ".join(sorted(set(rdmatrain.transports()) - {"self"}))


if __name__ == "__main__":
    sys.exit(main())
