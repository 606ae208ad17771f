"""Measure where the switch points of the tuning table lie on this machine.

Started plainly it starts its ranks. For an entry of ``rdmatrain topo --tuning`` that is a switch,
groups that always and that never take it are timed in turns over a range of sizes; the size from
which one way stays the faster one is the switch point. For sizes of pieces, some are timed and the
fastest is taken. ``stream_to`` is left out: beyond it the transport tries by itself. Prints the
times and a line for ``RDMATRAIN_TUNING``, which holds for groups of that many ranks.
"""

import argparse
import json
import os
import statistics
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

from common import commit, json_lines, machine, p50_seconds, pin, rank_commands, run_job, size_text

NEVER, ALWAYS = 1 << 36, 0
KIB, MIB = 1 << 10, 1 << 20
ROUNDS = 5


class Switch(NamedTuple):
    """A switch point: ``op`` on tensors in or out of the arena, over sizes low to high."""

    name: str
    op: str
    in_arena: bool
    low: int
    high: int
    up_to: bool = False  # the entry ends the first way instead of beginning the second
    fixed: str = ""  # other entries, so that only this one decides


SWITCHES = (
    Switch("stream_from", "all_reduce", False, 128, 32 * KIB, fixed="one_shot=1M,stream_to=1M"),
    Switch("one_shot", "all_reduce", False, 2 * KIB, 128 * KIB, up_to=True),
    Switch("direct", "all_gather", True, 2 * KIB, 256 * KIB),
    Switch("scatter", "broadcast", False, 16 * KIB, 4 * MIB),
    Switch("bypass", "all_gather", True, 512 * KIB, 64 * MIB),
)
# Sizes of pieces, each timed on an all_reduce of the sizes that it matters for.
PIECES = {
    "chunk": (False, (256 * KIB, 4 * MIB), (32 * KIB, 64 * KIB, 128 * KIB, 256 * KIB)),
    "block": (True, (256 * KIB, 4 * MIB), (4 * KIB, 8 * KIB, 16 * KIB, 32 * KIB)),
}


def main() -> int:
    """Start the ranks, or be one of them; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--ranks", type=int, default=2, help="ranks to start (default: 2)")
    args = parser.parse_args()
    if "RANK" in os.environ:
        return run_rank()
    print(f"# {machine()}, commit {commit()}, {args.ranks} ranks, medians of {ROUNDS} rounds")
    found = json_lines(run_job(rank_commands([__file__], args.ranks, {}), timeout=900))
    for line in found:
        sizes = line["us"]
        print(f"\n{line['name']}: us of {line['op']}; {' / '.join(line['ways'])}")
        for nbytes, times in sizes.items():
            print(f"  {size_text(int(nbytes)):>8}  " + "  ".join(f"{t:10.2f}" for t in times))
    print("\nRDMATRAIN_TUNING=" + ",".join(f"{x['name']}={x['best']}" for x in found))
    return 0


def run_rank() -> int:
    """Measure everything; rank 0 writes a JSON line for each entry."""
    import torch  # noqa: PLC0415 - the process that only starts the ranks needs none
    import torch.distributed as dist  # noqa: PLC0415

    pin(int(os.environ["RANK"]))
    torch.set_num_threads(1)
    dist.init_process_group("rdmatrain")
    for switch in SWITCHES:
        if switch.name == "scatter" and dist.get_world_size() < 3:
            continue  # two ranks have nobody to pass parts on to
        report(measure_switch(switch))
    for name in PIECES:
        report(measure_piece(name))
    dist.destroy_process_group()
    return 0


def report(found: dict[str, Any]) -> None:
    """Write what rank 0 has found."""
    if os.environ["RANK"] == "0":
        print(json.dumps(found), flush=True)


def measure_switch(switch: Switch) -> dict[str, Any]:
    """Time both sides of a switch over its sizes."""
    sides = (NEVER, ALWAYS) if switch.up_to else (ALWAYS, NEVER)
    fixed = f",{switch.fixed}" if switch.fixed else ""
    groups = [new_group(f"{switch.name}={side}{fixed}") for side in sides]
    sizes = [switch.low << i for i in range((switch.high // switch.low).bit_length())]
    us = {n: time_groups(groups, switch.op, n, switch.in_arena) for n in sizes}
    wins = [us[n][0] < us[n][1] for n in sizes]
    best = last_before_a_loss(sizes, wins) if switch.up_to else first_of_all_wins(sizes, wins)
    return {"name": switch.name, "op": switch.op, "ways": ["on", "off"], "us": us, "best": best}


def last_before_a_loss(sizes: list[int], wins: list[bool]) -> int:
    """Return the largest size up to which all win, or 0."""
    losses = [i for i, win in enumerate(wins) if not win]
    first = losses[0] if losses else len(sizes)
    return sizes[first - 1] if first > 0 else 0


def first_of_all_wins(sizes: list[int], wins: list[bool]) -> int:
    """Return the smallest size from which on all win; beyond the largest one if that loses."""
    losses = [i for i, win in enumerate(wins) if not win]
    first = losses[-1] + 1 if losses else 0
    return sizes[first] if first < len(sizes) else 2 * sizes[-1]


def measure_piece(name: str) -> dict[str, Any]:
    """Time the sizes of a piece; the best has the smallest product of times."""
    in_arena, sizes, pieces = PIECES[name]
    groups = [new_group(f"{name}={piece},one_shot=0,direct=1") for piece in pieces]
    us = {n: time_groups(groups, "all_reduce", n, in_arena) for n in sizes}
    score = [statistics.geometric_mean(us[n][i] for n in sizes) for i in range(len(pieces))]
    ways = [size_text(piece) for piece in pieces]
    best = pieces[score.index(min(score))]
    return {"name": name, "op": "all_reduce", "ways": ways, "us": us, "best": best}


def new_group(tuning: str) -> Any:
    """Make a group of all ranks with these changes to the table."""
    import torch.distributed as dist  # noqa: PLC0415

    os.environ["RDMATRAIN_TUNING"] = tuning
    return dist.new_group(backend="rdmatrain")


def time_groups(groups: list[Any], op: str, nbytes: int, in_arena: bool) -> list[float]:
    """Return the microseconds of the operation in each group, medians of alternating rounds."""
    calls = [make_call(group, op, nbytes, in_arena) for group in groups]
    rounds = [[time_call(call) for call in calls] for _ in range(ROUNDS)]
    return [statistics.median(times) * 1e6 for times in zip(*rounds, strict=True)]


def make_call(group: Any, op: str, nbytes: int, in_arena: bool) -> Callable[[], object]:
    """Return the operation on tensors of their own; nbytes is the size of the larger one."""
    import torch  # noqa: PLC0415
    import torch.distributed as dist  # noqa: PLC0415

    import rdmatrain  # noqa: PLC0415

    def zeros(count: int) -> torch.Tensor:
        return rdmatrain.empty(count).zero_() if in_arena else torch.zeros(count)

    count = nbytes // 4
    out = zeros(count)
    if op == "all_gather":
        part = zeros(count // dist.get_world_size())
        whole = out[: part.numel() * dist.get_world_size()]
        return lambda: dist.all_gather_into_tensor(whole, part, group=group)
    if op == "broadcast":
        return lambda: dist.broadcast(out, src=0, group=group)
    return lambda: dist.all_reduce(out, group=group)


def time_call(call: Callable[[], object]) -> float:
    """Return the median seconds of a call on the slowest rank."""
    import torch  # noqa: PLC0415
    import torch.distributed as dist  # noqa: PLC0415

    def largest(value: float) -> float:
        tensor = torch.tensor([value], dtype=torch.float64)
        dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
        return float(tensor.item())

    return p50_seconds(call, dist.barrier, largest, budget=0.05)


if __name__ == "__main__":
    sys.exit(main())
