"""Train a small byte-level GPT with data parallelism: the example to copy.

rdmatrain run --nproc-per-node 2 launch/train_gpt.py
torchrun --nproc-per-node 2 launch/train_gpt.py --backend gloo
python launch/train_gpt.py                      (no launcher: a group of one rank)
"""

import argparse
import hashlib
import json
import os
import sys
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

MAX_TEXT_BYTES = 8_000_000
TEXT_SUFFIXES = {".c", ".h", ".md", ".py", ".rst", ".txt"}  # what is read of a folder
OPTIONS = (
    ("--backend", "rdmatrain", "torch.distributed backend; any name works, such as gloo"),
    ("--steps", 600, "optimizer steps"),
    ("--global-batch", 12, "sequences per step, over all ranks"),
    ("--seq-len", 128, "bytes per sequence"),
    ("--layers", 3, "transformer layers"),
    ("--heads", 6, "attention heads"),
    ("--width", 96, "model width"),
    ("--lr", 5e-3, "peak learning rate"),
    ("--seed", 0, "seed of the weights, the batches and the sample"),
    ("--log-every", 20, "steps between progress lines"),
    ("--checkpoint-every", 100, "steps between checkpoints, where --checkpoint is given"),
    ("--out", Path("out"), "folder for loss.csv, loss.png and result.json"),
)


def parse_args(argv: list[str] | None, world: int) -> argparse.Namespace:
    """Read and check the command line."""
    p = argparse.ArgumentParser(description="Train a small byte-level GPT with data parallelism.")
    stdlib = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    text = "text files or folders (default: the modules of Python's standard library)"
    p.add_argument("--data", nargs="+", type=Path, default=stdlib, metavar="PATH", help=text)
    text = "folder for checkpoints; started again with it, a job goes on from the newest"
    p.add_argument("--checkpoint", type=Path, metavar="FOLDER", help=text)
    for name, default, text in OPTIONS:
        p.add_argument(name, type=type(default), default=default, help=f"{text} ({default})")
    args = p.parse_args(argv)
    for name, value in vars(args).items():
        if isinstance(value, int) and name != "seed" and value < 1:
            raise ValueError(f"--{name.replace('_', '-')} must be at least 1, not {value}")
    if not dist.is_backend_available(args.backend):
        raise ValueError(f"--backend {args.backend} is not known to torch.distributed")
    if args.global_batch % world:
        raise ValueError(f"--global-batch {args.global_batch} is not divisible by {world} ranks")
    if args.width % args.heads:
        raise ValueError(f"--width {args.width} is not divisible by --heads {args.heads}")
    return args


def read_text(paths: list[Path]) -> bytes:
    """Join the files in order, and those of folders by name, up to MAX_TEXT_BYTES."""
    text = bytearray()
    for path in paths:
        before = len(text)
        found = (f for f in path.rglob("*") if f.is_file() and f.suffix in TEXT_SUFFIXES)
        for file in sorted(found) if path.is_dir() else [path]:
            text += file.read_bytes()[: MAX_TEXT_BYTES - len(text)]
        if len(text) == before < MAX_TEXT_BYTES:
            raise ValueError(f"--data {path}: no text in it")
    return bytes(text)


def split(text: bytes, args: argparse.Namespace) -> tuple[Tensor, Tensor]:
    """Hold the last 5 % out of the training."""
    window = args.seq_len + 1  # the targets are the inputs, one byte later
    held = max(len(text) // 20, window)
    if len(text) - held < window:
        short = f"{len(text)} bytes of text, but --seq-len {args.seq_len} needs {2 * window}"
        raise ValueError(f"--data {' '.join(map(str, args.data))}: {short}")
    data = torch.frombuffer(bytearray(text), dtype=torch.uint8)
    return data[:-held], data[-held:]


def windows(data: Tensor, starts: Tensor, seq_len: int) -> Tensor:
    """Cut a sequence of seq_len + 1 bytes at each start."""
    return data[starts[:, None] + torch.arange(seq_len + 1)].long()


def batch(data: Tensor, args: argparse.Namespace, step: int, rank: int, world: int) -> Tensor:
    """Draw the global batch of a step, the same for any number of ranks; take this rank's slice."""
    generator = torch.Generator().manual_seed(args.seed * 1_000_003 + step)
    starts = torch.randint(len(data) - args.seq_len, (args.global_batch,), generator=generator)
    return windows(data, starts.chunk(world)[rank], args.seq_len)


class GPT(nn.Module):
    """Predict each next byte from the bytes before it."""

    def __init__(self, args: argparse.Namespace) -> None:
        super().__init__()
        width, options = args.width, {"batch_first": True, "norm_first": True}
        self.byte = nn.Embedding(256, width)
        nn.init.normal_(self.byte.weight, std=0.1)
        self.position = nn.Parameter(torch.zeros(args.seq_len, width))
        # GELU is smooth: with ReLU, last-bit differences in a sum flip units and then grow.
        layer = nn.TransformerEncoderLayer(width, args.heads, 4 * width, 0.0, "gelu", **options)
        self.layers = nn.TransformerEncoder(layer, args.layers, enable_nested_tensor=False)
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 256)

    def forward(self, x: Tensor) -> Tensor:
        """Map bytes (batch, time) to logits (batch, time, 256)."""
        h = self.byte(x) + self.position[: x.shape[1]]
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1])
        return self.head(self.norm(self.layers(h, mask=mask, is_causal=True)))


def loss_of(model: nn.Module, x: Tensor) -> Tensor:
    """Mean cross-entropy per byte, in nats."""
    return nn.functional.cross_entropy(model(x[:, :-1]).flatten(0, 1), x[:, 1:].flatten())


def average(comm: dict, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
    """Average a bucket of DDP's gradients over the ranks, and time what that costs the step.

    "comm" is the time in which this rank could not compute because of it: starting the
    all-reduces, and then from the start of the last one until backward() returns. What runs
    beside backward() is free and does not count; waiting for a slower rank does.
    """
    begin = time.perf_counter()
    work = dist.all_reduce(bucket.buffer().div_(dist.get_world_size()), async_op=True)
    comm["last_start"] = time.perf_counter()
    comm["seconds"] += comm["last_start"] - begin
    return work.get_future().then(lambda done: done.value()[0])


def numbered(args: argparse.Namespace, rank: int, **state: Any) -> Iterator[int]:
    """Yield the steps; with --checkpoint, go on from the newest, save, and stop when told to."""
    if args.checkpoint is None:
        yield from range(1, args.steps + 1)
        return
    from rdmatrain.train import Checkpoints, Training  # noqa: PLC0415 (the rest can do without it)

    checkpoints = Checkpoints(args.checkpoint, replicated=True)
    with Training(checkpoints, state, every=args.checkpoint_every) as run:
        if rank == 0 and run.step:
            print(f"goes on from the checkpoint of step {run.step}", flush=True)
        yield from run.steps(args.steps)
    if rank == 0:
        print(run.goodput, flush=True)


def train(model: GPT, data: Tensor, args: argparse.Namespace, rank: int) -> list[tuple]:
    """Train, report, and return the curve: step, loss, tokens/s, ms per step, share of comm."""
    comm, world = {"seconds": 0.0, "last_start": 0.0}, dist.get_world_size()
    # Small buckets, so that their all-reduces run beside backward().
    net = nn.parallel.DistributedDataParallel(model, bucket_cap_mb=1, gradient_as_bucket_view=True)
    net.register_comm_hook(comm, average)
    optimizer = torch.optim.AdamW(model.parameters(), args.lr, betas=(0.9, 0.95), eps=1e-6)
    rows, count, tokens = [], 0, args.global_batch * args.seq_len
    for step in numbered(args, rank, model=model, optimizer=optimizer, rows=rows):
        if count == 0:
            begin = time.perf_counter()
        count += 1
        done = (step - 1) / args.steps
        optimizer.param_groups[0]["lr"] = args.lr * min(10 * done + 0.1, 1 - done)  # up, then down
        loss = loss_of(net, batch(data, args, step, rank, world))
        optimizer.zero_grad()
        loss.backward()
        comm["seconds"] += time.perf_counter() - comm["last_start"]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step in (1, args.steps) or step % args.log_every == 0:
            seconds = (time.perf_counter() - begin) / count  # mean since the last line
            share = comm["seconds"] / count / seconds
            dist.all_reduce(loss := loss.detach() / world)
            rows.append((step, loss.item(), tokens / seconds, 1000 * seconds, share))
            if rank == 0:
                line = "step {:4}  loss {:.4f}  tokens/s {:7.0f}  step {:6.1f} ms  comm {:6.1%}"
                print(line.format(*rows[-1]), flush=True)
            count, comm["seconds"] = 0, 0.0
    return rows


@torch.no_grad()
def heldout_loss(model: GPT, data: Tensor, args: argparse.Namespace) -> float:
    """Loss over 128 fixed windows of the held-out text, split over the ranks."""
    starts = torch.linspace(0, len(data) - args.seq_len - 1, 128, dtype=torch.float64).long()
    total = torch.zeros((), dtype=torch.float64)
    for start in starts[dist.get_rank() :: dist.get_world_size()]:
        total += loss_of(model, windows(data, start[None], args.seq_len))
    dist.all_reduce(total)
    return total.item() / len(starts)


@torch.no_grad()
def sample(model: GPT, text: Tensor, args: argparse.Namespace) -> str:
    """Continue the text by 200 bytes; unprintable ones are escaped."""
    torch.manual_seed(args.seed)
    for _ in range(200):
        chances = (model(text[None, -args.seq_len :])[0, -1] / 0.7).softmax(0)
        text = torch.cat([text, torch.multinomial(chances, 1)])
    return "".join(chr(b) if 32 <= b < 127 or b == 10 else f"\\x{b:02x}" for b in text.tolist())


def measure(model: GPT, heldout: Tensor, rows: list[tuple], args: argparse.Namespace) -> dict:
    """Return the result, which takes all ranks."""
    params = b"".join(p.detach().numpy().tobytes() for p in model.parameters())
    digest = torch.frombuffer(bytearray(hashlib.sha256(params).digest()), dtype=torch.uint8)
    digests = [torch.empty_like(digest) for _ in range(dist.get_world_size())]
    dist.all_gather(digests, digest)
    ours = sys.modules["rdmatrain"] if args.backend == "rdmatrain" else None
    return {
        "world_size": dist.get_world_size(),
        "backend": args.backend,
        "transport": ours.transports() if ours else None,
        "steps": args.steps,
        "final_loss": rows[-1][1],
        "heldout_loss": heldout_loss(model, heldout, args),
        "tokens_per_s": sorted(row[2] for row in rows)[len(rows) // 2],
        "param_sha256": [bytes(d.tolist()).hex() for d in digests],
    }


def report(result: dict, rows: list[tuple], out: Path) -> None:
    """Print the result and write result.json, loss.csv and loss.png."""
    print(f"held-out loss {result['heldout_loss']:.6f}")
    for rank, sha in enumerate(result["param_sha256"]):
        print(f"rank {rank}: parameters sha256 {sha}", flush=True)
    (out / "result.json").write_text(json.dumps(result, indent=2) + "\n")
    lines = [("step", "loss", "tokens_per_s", "step_ms", "comm_share"), *rows]
    (out / "loss.csv").write_text("".join(",".join(map(str, line)) + "\n" for line in lines))
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415 (optional, and slow to import)
    except ImportError:
        return print("no loss.png: matplotlib is not installed")
    axes = (figure := Figure()).subplots()
    axes.plot([row[0] for row in rows], [row[1] for row in rows])
    axes.set(xlabel="step", ylabel="training loss (nats per byte)")
    return figure.savefig(out / "loss.png")


def main(argv: list[str] | None = None) -> None:
    """Check the input, form the group, train."""
    if "RANK" not in os.environ:  # no launcher: a group of one rank
        os.environ.update(RANK="0", WORLD_SIZE="1", MASTER_ADDR="127.0.0.1", MASTER_PORT="0")
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    try:  # before the group is formed, so that no rank waits for one that gave up
        args = parse_args(argv, world)
        training, heldout = split(read_text(args.data), args)
        args.out.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        print(f"rank {rank}: {error}", file=sys.stderr)
        sys.exit(2)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))  # per rank
    dist.init_process_group(args.backend)
    try:
        torch.manual_seed(args.seed)
        model = GPT(args)
        rows = train(model, training, args, rank)
        result = measure(model, heldout, rows, args)
    finally:
        dist.destroy_process_group()
    if rank == 0:
        report(result, rows, args.out)
        print("sample:", sample(model, heldout[:32].long(), args))


if __name__ == "__main__":
    main()
