"""What communication costs a training step under DDP: rdmatrain beside Gloo and beside none.

Two ranks train a model of 10 million parameters. Steps alternate between DDP over rdmatrain, DDP
over Gloo, DDP whose hook communicates nothing, and the module without DDP. The exposed
communication of a backend is the median of its step minus the silent DDP step beside it, which
copies gradients into buckets and back like the others: that is DDP's work, not communication.
Fails where rdmatrain's is more than a quarter of Gloo's.
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

from common import append_records, json_lines, pin, rank_commands, run_job, where
from pass_lines import Cell, Line, exit_code

RANKS = 2
WIDTH, LAYERS, BATCH = 1000, 10, 64
PARAMETERS = LAYERS * (WIDTH * WIDTH + WIDTH)
WARM_UP_STEPS, STEPS, QUICK_STEPS = 5, 60, 15
ALLOWED = 0.25
BACKENDS = ("rdmatrain", "gloo")
SILENT, PLAIN = "silent DDP", "no DDP"


def main() -> int:
    """Measure and judge, or be one of the ranks; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--steps", type=int, default=STEPS, help=f"steps of each (default: {STEPS})"
    )
    parser.add_argument("--json", type=Path, help="append a record a backend to this file")
    args = parser.parse_args()
    if "RANK" in os.environ:
        return run_rank(args.steps)
    return exit_code(lambda: measure(args.steps, args.json))


def measure(steps: int, json_path: Path | None) -> Line:
    """Run the ranks, print what was found, and return the line that it must pass.

    Args:
        steps: steps of each backend.
        json_path: where to append records, if anywhere.

    """
    argv = [str(Path(__file__).resolve()), "--steps", str(steps)]
    jobs = rank_commands(argv, RANKS, {"RDMATRAIN_ARENA": "on"})
    (found,) = json_lines(run_job(jobs, timeout=600))
    print(f"\n# DDP, {PARAMETERS / 1e6:.1f} M parameters, {RANKS} ranks, median of {steps} steps")
    for name, row in found.items():
        print(f"{name:>16} {row['step'] * 1e3:8.2f} ms", end="")
        more = " ".join(f"{row[base] * 1e3:+8.2f} ms beside {base}" for base in (SILENT, PLAIN))
        print(f"  {more}")
    if json_path:
        common: dict[str, object] = {"op": "ddp_step", "ranks": RANKS, "dtype": "float32"}
        common |= {"nbytes": 4 * PARAMETERS, "argv": "benchmarks/ddp_exposed.py", **where()}
        rows = found.items()
        append_records(
            json_path,
            [
                {"backend": name, "seconds_p50": row["step"], "exposed_s": row[SILENT]} | common
                for name, row in rows
            ],
        )
    exposed = {name: found[name][SILENT] for name in BACKENDS}
    text = f"DDP, {RANKS} ranks: exposed communication at most {ALLOWED} of Gloo's"
    cell = Cell("exposed", exposed["rdmatrain"], ALLOWED * exposed["gloo"], "ms")
    return Line(text, (cell,))


def run_rank(steps: int) -> int:
    """Train in turns; rank 0 prints one JSON line."""
    import torch  # noqa: PLC0415 - the process that only starts the ranks needs none
    import torch.distributed as dist  # noqa: PLC0415

    rank = int(os.environ["RANK"])
    pin(rank)
    torch.set_num_threads(1)
    dist.init_process_group("rdmatrain")
    gloo = dist.new_group(backend="gloo")
    trainers = {
        "rdmatrain": make_trainer(rank, dist.group.WORLD),
        "gloo": make_trainer(rank, gloo),
        SILENT: make_trainer(rank, dist.group.WORLD, silent=True),
        PLAIN: make_trainer(rank, None),
    }
    samples: dict[str, list[float]] = {name: [] for name in trainers}
    for _ in range(WARM_UP_STEPS + steps):
        for name, train in trainers.items():
            dist.barrier()
            begin = time.perf_counter()
            train()
            samples[name].append(time.perf_counter() - begin)
    for values in samples.values():
        del values[:WARM_UP_STEPS]
    mine = {name: summarize(values, samples) for name, values in samples.items()}
    every: list[dict[str, dict[str, float]]] = [{}] * RANKS
    dist.all_gather_object(every, mine)
    if rank == 0:
        print(json.dumps({name: average([one[name] for one in every]) for name in trainers}))
    dist.destroy_process_group()
    return 0


def make_trainer(rank: int, group: object | None, silent: bool = False) -> Callable[[], None]:
    """Return a function that trains one step: under DDP over the group, or without DDP."""
    import torch  # noqa: PLC0415
    from torch import nn  # noqa: PLC0415
    from torch.distributed.algorithms.ddp_comm_hooks import debugging_hooks  # noqa: PLC0415

    torch.manual_seed(0)
    layers = [module for _ in range(LAYERS) for module in (nn.Linear(WIDTH, WIDTH), nn.GELU())]
    model: nn.Module = nn.Sequential(*layers)
    if group is not None:
        model = nn.parallel.DistributedDataParallel(model, process_group=group)
    if silent:
        model.register_comm_hook(None, debugging_hooks.noop_hook)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    torch.manual_seed(rank)
    x = torch.randn(BATCH, WIDTH)

    def train() -> None:
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()

    return train


def summarize(values: list[float], samples: dict[str, list[float]]) -> dict[str, float]:
    """Return the median step, and the medians of what it takes beyond the steps beside it."""
    result = {"step": statistics.median(values)}
    for base in (SILENT, PLAIN):
        pairs = zip(values, samples[base], strict=True)
        result[base] = statistics.median(one - other for one, other in pairs)
    return result


def average(parts: list[dict[str, float]]) -> dict[str, float]:
    """Return the mean over the ranks."""
    return {name: statistics.fmean(part[name] for part in parts) for name in parts[0]}


if __name__ == "__main__":
    sys.exit(main())
