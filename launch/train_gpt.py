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
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn

MAX_TEXT_BYTES = 8_000_000
TEXT_SUFFIXES = {".c", ".h", ".md", ".py", ".rst", ".txt"}  # what is read of a folder
OPTIONS = (
    ("--backend", "rdmatrain", "torch.distributed backend; any name works, such as gloo"),
    ("--steps", 500, "optimizer steps"),
    ("--global-batch", 12, "sequences per step, over all ranks"),
    ("--seq-len", 128, "bytes per sequence"),
    ("--layers", 3, "transformer layers"),
    ("--heads", 6, "attention heads"),
    ("--width", 96, "model width"),
    ("--lr", 5e-3, "peak learning rate"),
    ("--seed", 0, "seed of the weights, the batches and the sample"),
    ("--log-every", 20, "steps between progress lines"),
    ("--out", Path("out"), "folder for loss.csv, loss.png and result.json"),
)


def parse_args(argv: list[str] | None, world: int) -> argparse.Namespace:
    """Read and check the command line."""
    p = argparse.ArgumentParser(description="Train a small byte-level GPT with data parallelism.")
    stdlib = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    text = "text files or folders (default: the modules of Python's standard library)"
    p.add_argument("--data", nargs="+", type=Path, default=stdlib, metavar="PATH", help=text)
    for name, default, text in OPTIONS:
        p.add_argument(name, type=type(default), default=default, help=f"{text} ({default})")
    args = p.parse_args(argv)
    for name, value in vars(args).items():
        if isinstance(value, int) and name != "seed" and value < 1:
            raise ValueError(f"--{name.replace('_', '-')} must be at least 1, not {value}")
    if args.global_batch % world:
        raise ValueError(f"--global-batch {args.global_batch} is not divisible by {world} ranks")
    if args.width % args.heads:
        raise ValueError(f"--width {args.width} is not divisible by --heads {args.heads}")
    return args


def read_text(paths: list[Path]) -> bytes:
    """Join the files in order, and those of folders by name, up to MAX_TEXT_BYTES."""
    text = bytearray()
    for path in paths:
        before, files = len(text), [path]
        if path.is_dir():
            files = sorted(f for f in path.rglob("*") if f.suffix in TEXT_SUFFIXES)
        for file in files:
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
        self.byte, self.position = nn.Embedding(256, width), nn.Embedding(args.seq_len, width)
        nn.init.normal_(self.byte.weight, std=0.1)
        nn.init.normal_(self.position.weight, std=0.02)
        layer = nn.TransformerEncoderLayer(width, args.heads, 4 * width, 0.0, "gelu", **options)
        self.layers = nn.TransformerEncoder(layer, args.layers, enable_nested_tensor=False)
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 256)

    def forward(self, x: Tensor) -> Tensor:
        """Map bytes (batch, time) to logits (batch, time, 256)."""
        h = self.byte(x) + self.position.weight[: x.shape[1]]
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1])
        return self.head(self.norm(self.layers(h, mask=mask, is_causal=True)))


def loss_of(model: nn.Module, sequences: Tensor) -> Tensor:
    """Mean cross-entropy per byte, in nats."""
    logits, targets = model(sequences[:, :-1]), sequences[:, 1:]
    return nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())


class Averager:
    """Averages DDP's buckets of gradients over the ranks, and times what that costs the step.

    "comm" is the time in which this rank could not compute because of it: starting the
    all-reduces, and then from the start of the last one until backward() returns. What runs
    beside backward() is free and does not count; waiting for a slower rank does.
    """

    seconds = last_start = 0.0

    def hook(self, _state: None, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
        """Start one all-reduce; DDP calls this as soon as a bucket is full."""
        begin = time.perf_counter()
        work = dist.all_reduce(bucket.buffer().div_(dist.get_world_size()), async_op=True)
        future = work.get_future().then(lambda done: done.value()[0])
        self.last_start = time.perf_counter()
        self.seconds += self.last_start - begin
        return future


def train(model: GPT, data: Tensor, args: argparse.Namespace, rank: int) -> list[tuple]:
    """Train, report, and return the curve: step, loss, tokens/s, ms per step, share of comm."""
    averager, rows, world = Averager(), [], dist.get_world_size()
    # Small buckets, so that their all-reduces run beside backward().
    net = nn.parallel.DistributedDataParallel(model, bucket_cap_mb=1, gradient_as_bucket_view=True)
    net.register_comm_hook(None, averager.hook)
    optimizer = torch.optim.AdamW(model.parameters(), args.lr, betas=(0.9, 0.95), eps=1e-6)
    begin, last = time.perf_counter(), 0
    for step in range(1, args.steps + 1):
        done = (step - 1) / args.steps
        optimizer.param_groups[0]["lr"] = args.lr * min(10 * done + 0.1, 1 - done)  # up, then down
        loss = loss_of(net, batch(data, args, step, rank, world))
        optimizer.zero_grad()
        loss.backward()
        averager.seconds += time.perf_counter() - averager.last_start
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step in (1, args.steps) or step % args.log_every == 0:
            seconds = (time.perf_counter() - begin) / (step - last)  # mean since the last line
            comm = averager.seconds / (step - last) / seconds
            dist.all_reduce(loss := loss.detach() / world)
            tokens = args.global_batch * args.seq_len / seconds
            rows.append((step, loss.item(), tokens, 1000 * seconds, comm))
            if rank == 0:
                line = "step {:4}  loss {:.4f}  tokens/s {:7.0f}  step {:6.1f} ms  comm {:6.1%}"
                print(line.format(*rows[-1]), flush=True)
            begin, last, averager.seconds = time.perf_counter(), step, 0.0
    return rows


@torch.no_grad()
def heldout_loss(model: GPT, data: Tensor, args: argparse.Namespace, rank: int) -> float:
    """Loss over 128 fixed windows of the held-out text, split over the ranks."""
    starts = torch.linspace(0, len(data) - args.seq_len - 1, 128, dtype=torch.float64).long()
    total = torch.zeros((), dtype=torch.float64)
    for start in starts[rank :: dist.get_world_size()]:
        total += loss_of(model, windows(data, start[None], args.seq_len))
    dist.all_reduce(total)
    return total.item() / len(starts)


@torch.no_grad()
def sample(model: GPT, text: Tensor, args: argparse.Namespace) -> str:
    """Continue the text by 200 bytes; unprintable ones are escaped."""
    generator = torch.Generator().manual_seed(args.seed)
    for _ in range(200):
        chances = (model(text[None, -args.seq_len :])[0, -1] / 0.7).softmax(0)
        text = torch.cat([text, torch.multinomial(chances, 1, generator=generator)])
    return "".join(chr(b) if 32 <= b < 127 or b == 10 else f"\\x{b:02x}" for b in text.tolist())


def plot(rows: list[tuple], path: Path) -> None:
    """Draw the loss curve, where matplotlib is installed."""
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415 (optional, and slow to import)
    except ImportError:
        return print(f"no {path}: matplotlib is not installed")
    axes = (figure := Figure()).subplots()
    axes.plot([row[0] for row in rows], [row[1] for row in rows])
    axes.set(xlabel="step", ylabel="training loss (nats per byte)")
    return figure.savefig(path)


def report(model: GPT, heldout: Tensor, rows: list[tuple], args: argparse.Namespace) -> None:
    """Measure the result on all ranks; rank 0 prints and saves it."""
    rank, world = dist.get_rank(), dist.get_world_size()
    loss = heldout_loss(model, heldout, args, rank)
    params = b"".join(p.detach().numpy().tobytes() for p in model.parameters())
    digest = torch.frombuffer(bytearray(hashlib.sha256(params).digest()), dtype=torch.uint8)
    digests = [torch.empty_like(digest) for _ in range(world)]
    dist.all_gather(digests, digest)
    if rank != 0:
        return
    backend = dist.distributed_c10d._get_default_group()._get_backend(torch.device("cpu"))
    result = {
        "world_size": world,
        "backend": args.backend,
        "transport": getattr(backend, "transport", None),
        "steps": args.steps,
        "final_loss": rows[-1][1],
        "heldout_loss": loss,
        "tokens_per_s": sorted(row[2] for row in rows)[len(rows) // 2],
        "param_sha256": [bytes(d.tolist()).hex() for d in digests],
    }
    print(f"sample: {sample(model, heldout[:32].long(), args)}\nheld-out loss {loss:.4f}")
    for i, sha in enumerate(result["param_sha256"]):
        print(f"rank {i}: parameters sha256 {sha}", flush=True)
    (args.out / "result.json").write_text(json.dumps(result, indent=2) + "\n")
    lines = [("step", "loss", "tokens_per_s", "step_ms", "comm_share"), *rows]
    (args.out / "loss.csv").write_text("".join(",".join(map(str, line)) + "\n" for line in lines))
    plot(rows, args.out / "loss.png")


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
        report(model, heldout, train(model, training, args, rank), args)
    finally:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
