"""One rank of a torch.distributed group: checks and times collectives, prints JSON lines on rank 0.

Usage: torch_collectives.py BACKEND BUDGET CASE..., with the variables of a launcher. The backend
``fake`` is torch's own that does nothing: what is left is the cost of the call.
"""

import json
import os
import statistics
import sys
import time
from collections.abc import Callable

import torch
import torch.distributed as dist
from common import Case, p50_seconds, pin

from rdmatrain.bench import model, torch_ops
from rdmatrain.bench.model import OPS

Call = Callable[[], object]
ROUNDS, ROUND_SECONDS = 7, 0.02


def main() -> int:
    """Check and time every case; fail on the first wrong result."""
    backend, budget = sys.argv[1], float(sys.argv[2])
    pin(int(os.environ["RANK"]))  # before the backend starts threads
    torch.set_num_threads(1)
    form_group(backend)
    try:
        require_arena(os.environ.get("RDMATRAIN_ARENA"))
        for case in map(Case.parse, sys.argv[3:]):
            call, nwrong = prepare(case)
            if nwrong and backend != "fake":
                print(f"rank {dist.get_rank()}: {nwrong} wrong elements, {case}", file=sys.stderr)
                return 1
            seconds = p50_seconds(call, dist.barrier, largest, budget)
            if dist.get_rank() == 0:
                print(json.dumps(case._asdict() | {"seconds_p50": seconds}), flush=True)
    finally:
        dist.destroy_process_group()
    return 0


def form_group(backend: str) -> None:
    """Form the group as the launcher's variables say."""
    if backend != "fake":
        dist.init_process_group(backend)
        return
    from torch.testing._internal.distributed.fake_pg import FakeStore  # noqa: PLC0415

    world = int(os.environ["WORLD_SIZE"])
    dist.init_process_group(backend, rank=0, world_size=world, store=FakeStore())


def require_arena(wanted: str | None) -> None:
    """Make sure that a plain tensor lies in rdmatrain's arena, or does not, as was asked.

    Raises:
        RuntimeError: it is otherwise: what would be timed is not what the table says.

    """
    import rdmatrain  # noqa: PLC0415

    if wanted is None:
        return
    before = rdmatrain.arena_stats()["num_blocks"]
    tensor = torch.empty(1 << 20)
    found = "on" if rdmatrain.arena_stats()["num_blocks"] > before else "off"
    if found != wanted:
        raise RuntimeError(f"RDMATRAIN_ARENA={wanted}, but torch.empty({len(tensor)}): {found}")


def largest(value: float) -> float:
    """Return the largest of the ranks' values."""
    tensor = torch.tensor([value], dtype=torch.float64)
    dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
    return float(tensor.item())


def prepare(case: Case, group: dist.ProcessGroup | None = None) -> tuple[Call, int]:
    """Run the case once on values that depend on rank and index.

    Args:
        case: what to do; ``all_gather_own``: each rank's input is its own part of the output.
        group: where; None for the default group.

    Returns:
        The call to time, and how many elements of its first result were wrong.

    """
    op = case.op.removesuffix("_own")
    in_place = OPS[op].in_place == "in" or op != case.op
    redop = "SUM" if OPS[op].reduces else ""
    this = model.Case(op, case.dtype, redop, case.nbytes, in_place, 0 if OPS[op].rooted else -1)
    place = torch_ops.Place(dist.get_rank(), dist.get_world_size(), torch.device("cpu"), group)
    made = torch_ops.make(this, place)
    made.call()
    nwrong = torch_ops.num_wrong(made, this)
    for tensor in made.written:
        tensor.zero_()  # repeated sums would overflow
    return made.call, nwrong


def interleave(calls: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Time calls in turns.

    Args:
        calls: one for each backend.

    Returns:
        For each backend the median over the rounds; a round is the median of its calls, on the
        rank where that is largest. The same on all ranks.

    """
    repeats = {}
    for name, call in calls.items():
        begin = time.perf_counter()
        for _ in range(3):
            call()
        guess = largest((time.perf_counter() - begin) / 3)
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
    return {name: statistics.median(map(largest, medians)) for name, medians in rounds.items()}


if __name__ == "__main__":
    sys.exit(main())
