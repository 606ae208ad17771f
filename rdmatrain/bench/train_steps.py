"""Training steps of the demo's model, over a group and over none. Only ranks import this."""

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks import debugging_hooks

from rdmatrain.bench.gpt import BYTES, GPT, Shape, loss_of

Tensor = Any
Group = Any
Step = Callable[[], Tensor]  # trains a step and returns the loss before it


def over(group: Group, strategy: str, shape: Shape) -> Step:
    """Return what trains over a group.

    Args:
        group: of ``torch.distributed``.
        strategy: ddp, fsdp2.
        shape: of the model.

    """
    wrap = _ddp if strategy == "ddp" else _fsdp2
    return _stepper(wrap(_model(shape), group), _batch(dist.get_rank(), shape))


def silent(strategy: str, shape: Shape) -> Step:
    """Return what does all that a strategy does, but for communicating. A collective call."""
    if strategy == "fsdp2":
        # A group whose collectives do nothing; what they should have brought is never written.
        import torch.testing._internal.distributed.fake_pg  # noqa: PLC0415, F401 - registers it

        return over(dist.new_group(backend="fake"), strategy, shape)
    # DDP's reducer asks a group for results, which that one does not have.
    net = _ddp(_model(shape), dist.group.WORLD)
    net.register_comm_hook(None, debugging_hooks.noop_hook)
    return _stepper(net, _batch(dist.get_rank(), shape))


def expected_loss(shape: Shape, steps: int) -> float:
    """Return this rank's loss at a step of plain training on the batches of all ranks."""
    model = _model(shape)
    step = _stepper(model, torch.cat([_batch(r, shape) for r in range(dist.get_world_size())]))
    for _ in range(steps - 1):
        step()
    loss: float = loss_of(model, _batch(dist.get_rank(), shape)).item()
    return loss


def num_parameters(shape: Shape) -> int:
    """Count the parameters of the model."""
    return sum(each.numel() for each in _model(shape).parameters())


def _model(shape: Shape) -> GPT:
    torch.manual_seed(0)
    return GPT(shape)


def _batch(rank: int, shape: Shape) -> Tensor:
    generator = torch.Generator().manual_seed(1 + rank)
    return torch.randint(BYTES, (shape.batch, shape.seq_len + 1), generator=generator)


def _ddp(model: GPT, group: Group) -> nn.Module:
    # Small buckets, as in the demo, so that their all-reduces run beside backward().
    options = {"bucket_cap_mb": 1, "gradient_as_bucket_view": True}
    return nn.parallel.DistributedDataParallel(model, process_group=group, **options)


def _fsdp2(model: GPT, group: Group) -> nn.Module:
    from torch.distributed.device_mesh import DeviceMesh  # noqa: PLC0415 - only here, and slow
    from torch.distributed.fsdp import fully_shard  # noqa: PLC0415

    mesh = DeviceMesh.from_group(group, "cpu")
    for layer in model.layers.layers:
        fully_shard(layer, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def _stepper(net: nn.Module, x: Tensor) -> Step:
    """Return the demo's step, always on the same batch."""
    optimizer = torch.optim.AdamW(net.parameters(), 5e-3, betas=(0.9, 0.95), eps=1e-6)

    def step() -> Tensor:
        loss = loss_of(net, x)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        return loss.detach()

    return step
