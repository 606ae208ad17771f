"""Each collective over rdmatrain beside Gloo, two ranks on this host, in the same run.

Started plainly it starts its ranks with ``rdmatrain run``. Rounds alternate between the two
backends, so that whatever else the machine does hits both; every case is checked on every rank
before it is timed. Prints a table, appends records to a JSON lines file, and fails where Gloo is
faster or a result is wrong.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from common import Case, append_records, commit, machine, pin, where

SIZES = [8 << 3 * shift for shift in range(8)]  # 8 B to 16 MiB
OPS = (
    "all_reduce",
    "reduce",
    "broadcast",
    "all_gather",
    "reduce_scatter",
    "all_to_all",
    "gather",
    "scatter",
    "send_recv",
)
ROUNDS = 7
ROUND_SECONDS = 0.02
HEADER = "#             op      bytes   rdmatrain        gloo    ratio  wrong"


def main() -> int:
    """Start the ranks, or be one of them; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--nproc", type=int, default=2, help="ranks to start (default: 2)")
    parser.add_argument(
        "--json", type=Path, help="append one record a case and backend to this file"
    )
    parser.add_argument("--op", choices=OPS, action="append", help="only this one; may be repeated")
    parser.add_argument("--max-bytes", type=int, default=SIZES[-1], help="no larger cases")
    parser.add_argument(
        "--bytes", type=int, action="append", help="this size instead of all; may be repeated"
    )
    parser.add_argument(
        "--no-pin", action="store_true", help="leave the ranks where the kernel puts them"
    )
    args = parser.parse_args()
    if "RANK" in os.environ:
        return run_rank(args)
    command = [sys.executable, "-m", "rdmatrain.cli", "run", "--nproc-per-node", str(args.nproc)]
    forwarded = ["--json", str(args.json.resolve())] if args.json else []
    forwarded += [f"--op={op}" for op in args.op or ()] + [f"--max-bytes={args.max_bytes}"]
    forwarded += [f"--bytes={nbytes}" for nbytes in args.bytes or ()]
    forwarded += ["--no-pin"] if args.no_pin else []
    # The old names of some collectives warn in torch 2.13.
    env = os.environ | {"PYTHONWARNINGS": "ignore::FutureWarning"}
    return subprocess.run([*command, __file__, *forwarded], env=env, check=False).returncode


def run_rank(args: argparse.Namespace) -> int:
    """Measure all cases; return 1 where Gloo was faster or a result was wrong."""
    import torch  # noqa: PLC0415 - the process that only starts the ranks needs none
    import torch.distributed as dist  # noqa: PLC0415

    if not args.no_pin:
        pin(int(os.environ["RANK"]))  # before the backends start threads
    torch.set_num_threads(1)
    dist.init_process_group("rdmatrain")
    rank, world = dist.get_rank(), dist.get_world_size()
    groups = {"rdmatrain": dist.group.WORLD, "gloo": dist.new_group(backend="gloo")}
    if rank == 0:
        pinned = "not pinned" if args.no_pin else "pinned"
        print(f"# float32, SUM, {world} ranks {pinned}, torch {torch.__version__}, {machine()}")
        print(f"# commit {commit()}, p50 in us over {ROUNDS} alternating rounds")
        print(HEADER, flush=True)
    failed_at = [str(case) for case in chosen(args, world) if not compare(case, groups, args.json)]
    if rank == 0:
        verdict = f"slower or wrong in {failed_at}" if failed_at else "faster in every case"
        print(f"# rdmatrain is {verdict}; transport: {transports()}")
    dist.destroy_process_group()
    return int(bool(failed_at))


def chosen(args: argparse.Namespace, world: int) -> list[Case]:
    """Return the cases that the options ask for."""
    return [
        case
        for case in cases(world, args.bytes or SIZES)
        if case.nbytes <= args.max_bytes and (not args.op or case.op in args.op)
    ]


def cases(world: int, nbytes: Sequence[int]) -> list[Case]:
    """Return what is measured; sizes are rounded up to as many elements for each rank."""
    unit = 4 * world
    sizes = [-(-each // unit) * unit for each in nbytes]
    sized = [Case(op, "float32", nbytes) for op in OPS for nbytes in sizes]
    return [*sized, Case("barrier", "float32", 0)]


def compare(case: Case, groups: dict[str, object], json_path: Path | None) -> bool:
    """Check and time a case over both backends; tell whether it went as it should."""
    import torch  # noqa: PLC0415
    import torch.distributed as dist  # noqa: PLC0415
    from torch_collectives import prepare  # noqa: PLC0415

    prepared = {name: prepare(case, group) for name, group in groups.items()}
    wrong = torch.tensor([nwrong for _, nwrong in prepared.values()])
    dist.all_reduce(wrong)
    times = interleave({name: call for name, (call, _) in prepared.items()})
    if dist.get_rank() == 0:
        nwrong = dict(zip(groups, wrong.tolist(), strict=True))
        record(json_path, case, dist.get_world_size(), times, nwrong)
    return times["rdmatrain"] < times["gloo"] and not wrong.any()


def interleave(calls: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Time calls in turns.

    Args:
        calls: one for each backend.

    Returns:
        For each backend the median over the rounds; a round is the median of its calls, on the
        rank where that is largest. The same on all ranks.

    """
    import torch.distributed as dist  # noqa: PLC0415

    repeats = {}
    for name, call in calls.items():
        begin = time.perf_counter()
        for _ in range(3):
            call()
        (guess,) = largest([(time.perf_counter() - begin) / 3])
        repeats[name] = max(2, min(500, int(ROUND_SECONDS / guess)))
    rounds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(ROUNDS):
        for name, call in calls.items():
            dist.barrier()
            samples = []
            for _ in range(repeats[name]):
                begin = time.perf_counter()
                call()
                samples.append(time.perf_counter() - begin)
            rounds[name].append(statistics.median(samples))
    return {name: statistics.median(largest(medians)) for name, medians in rounds.items()}


def largest(seconds: list[float]) -> list[float]:
    """Return the largest of the ranks' values, one by one."""
    import torch  # noqa: PLC0415
    import torch.distributed as dist  # noqa: PLC0415

    tensor = torch.tensor(seconds, dtype=torch.float64)
    dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
    return list(tensor.tolist())


def record(
    path: Path | None, case: Case, world: int, times: dict[str, float], wrong: dict[str, int]
) -> None:
    """Print a row of the table and append its records to the file."""
    ours, theirs = (times[name] * 1e6 for name in ("rdmatrain", "gloo"))
    print(
        f"{case.op:>16} {case.nbytes:10d} {ours:11.2f} {theirs:11.2f} {theirs / ours:7.1f}x "
        f"{sum(wrong.values()):6d}",
        flush=True,
    )
    if path is None:
        return
    common = case._asdict() | {"ranks": world, "argv": f"benchmarks/smoke.py --nproc {world}"}
    append_records(
        path,
        [
            {"backend": name, "seconds_p50": seconds, "nwrong": wrong[name]} | common | where()
            for name, seconds in times.items()
        ],
    )


def transports() -> str:
    """Name what joins the ranks."""
    import rdmatrain  # noqa: PLC0415

    return ", ".join(sorted(set(rdmatrain.transports()) - {"self"}))


if __name__ == "__main__":
    sys.exit(main())
