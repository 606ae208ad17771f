"""Record what torch's CPU allocator is asked for while a model is made and trained for some steps.

python benchmarks/alloc_trace.py --width 384 --layers 6 --out benchmarks/traces/gpt-11m.csv

The model is that of launch/train_gpt.py under DistributedDataParallel, on one rank. The trace is a
line for each event, in order: ``alloc,BLOCK,BYTES``, ``free,BLOCK,BYTES``, or ``step,NUMBER,0``
where a step begins. benchmarks/alloc_replay.c plays it.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.distributed as dist
from torch._C._profiler import _EventType

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "launch"))
import train_gpt

STEP = "alloc_trace:step"


def train(args: argparse.Namespace) -> None:
    """Make the model and train it on noise; only the sizes matter."""
    torch.manual_seed(0)
    data = torch.randint(256, (100_000,), dtype=torch.uint8)
    model = train_gpt.GPT(args)
    net = torch.nn.parallel.DistributedDataParallel(
        model, bucket_cap_mb=1, gradient_as_bucket_view=True
    )
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    for step in range(args.steps):
        with torch.profiler.record_function(STEP):
            loss = train_gpt.loss_of(net, train_gpt.batch(data, args, step, 0, 1))
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()


def events(profile: torch.profiler.profile) -> Iterator[tuple[str, int, int]]:
    """Yield (event, block, bytes) in order of time; blocks are numbered from 0 as they come."""
    tree = profile.profiler.kineto_results.experimental_event_tree()
    found, todo = [], list(tree)
    while todo:
        event = todo.pop()
        todo += event.children
        if event.name == STEP or event.typed[0] == _EventType.Allocation:
            found.append(event)
    alive: dict[int, tuple[int, int]] = {}
    num_blocks = num_steps = 0
    for event in sorted(found, key=lambda event: event.start_time_ns):
        if event.name == STEP:
            yield "step", num_steps, 0
            num_steps += 1
            continue
        ptr, size = event.typed[1].ptr, event.typed[1].alloc_size
        if size > 0:
            alive[ptr] = num_blocks, size
            yield "alloc", num_blocks, size
            num_blocks += 1
        elif ptr in alive:  # not those from before
            yield "free", *alive.pop(ptr)


def main() -> None:
    """Record and write the trace."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    for name, default in (("width", 96), ("layers", 3), ("heads", 6), ("seq-len", 128)):
        p.add_argument(f"--{name}", type=int, default=default)
    p.add_argument("--global-batch", type=int, default=12)
    p.add_argument("--steps", type=int, default=4)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--out", type=Path, required=True)
    args = p.parse_args()
    torch.set_num_threads(1)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profile:
        train(args)
    lines = ["event,block,bytes", *(",".join(map(str, event)) for event in events(profile))]
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{args.out}: {len(lines) - 1} events")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
