"""DistributedDataParallel against plain torch on the same global batch, in the same process."""

import copy
from collections.abc import Callable

import torch
import torch.distributed as dist
from checklib import check, main, note, values
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import (
    allreduce_hook,
    bf16_compress_hook,
)
from torch.distributed.algorithms.ddp_comm_hooks.powerSGD_hook import PowerSGDState, powerSGD_hook
from torch.distributed.algorithms.join import Join
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.nn.parallel import DistributedDataParallel

STEPS, PER_RANK, WIDTH = 3, 4, 24
TIGHT = {"rtol": 1e-12, "atol": 1e-13}  # float64, where only the order of additions differs
BF16 = {"rtol": 2e-2, "atol": 2e-3}  # gradients travel with 8 significant bits


class Net(nn.Module):
    """Has a part that a switch leaves out, and parameters of very different sizes."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        torch.manual_seed(7)
        self.first = nn.Linear(5, WIDTH, dtype=dtype)
        self.middle = nn.ModuleList([nn.Linear(WIDTH, WIDTH, dtype=dtype) for _ in range(6)])
        self.sometimes = nn.Linear(WIDTH, WIDTH, dtype=dtype)
        self.last = nn.Linear(WIDTH, 1, dtype=dtype)

    def forward(self, x: torch.Tensor, *, skip: bool = False) -> torch.Tensor:
        x = self.first(x).tanh()
        for layer in self.middle:
            x = layer(x).tanh()
        return self.last(x if skip else self.sometimes(x).tanh())


def batch(step: int, rank: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    x = values(rank, PER_RANK * 5, dtype, shift=step).view(PER_RANK, 5) / 11
    return x, x.sum(1, keepdim=True).sin()


def loss_of(net: nn.Module, x: torch.Tensor, y: torch.Tensor, *, skip: bool) -> torch.Tensor:
    return ((net(x, skip=skip) - y) ** 2).mean()


def train_both(
    group: dist.ProcessGroup,
    tolerance: dict[str, float],
    *,
    skips: bool = False,
    dtype: torch.dtype = torch.float64,
    hook: Callable[..., object] | None = None,
    **options: object,
) -> None:
    rank, world = dist.get_rank(), dist.get_world_size()
    alone = Net(dtype)
    together = copy.deepcopy(alone)
    if rank:  # DDP must begin with rank 0's parameters
        with torch.no_grad():
            for parameter in together.parameters():
                parameter.add_(rank)
    ddp = DistributedDataParallel(together, process_group=group, **options)
    if hook is not None:
        ddp.register_comm_hook(group, hook)
    optimizers = [torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9) for net in (alone, ddp)]
    for step in range(STEPS):
        skip = skips and step == 1
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss_of(ddp, *batch(step, rank, dtype), skip=skip).backward()
        parts = [batch(step, r, dtype) for r in range(world)]
        x, y = (torch.cat(part) for part in zip(*parts, strict=True))
        loss_of(alone, x, y, skip=skip).backward()
        compare(alone, together, tolerance)
        for optimizer in optimizers:
            optimizer.step()
    same_on_all_ranks(group, together)


def compare(alone: Net, together: Net, tolerance: dict[str, float]) -> None:
    for (name, ours), theirs in zip(together.named_parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, **tolerance, msg=lambda m, n=name: f"{n}: {m}")
        if theirs.grad is None:
            # DDP may leave zeros where plain torch leaves nothing.
            assert ours.grad is None or not ours.grad.any(), name
        else:
            torch.testing.assert_close(
                ours.grad, theirs.grad, **tolerance, msg=lambda m, n=name: f"gradient of {n}: {m}"
            )


def same_on_all_ranks(group: dist.ProcessGroup, net: nn.Module) -> None:
    mine = torch.cat([p.detach().reshape(-1) for p in net.parameters()])
    all_of_them = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
    dist.all_gather(all_of_them, mine, group=group)
    for other in all_of_them:
        assert torch.equal(other.view(torch.int64), mine.view(torch.int64))


@check
def its_defaults(group):
    train_both(group, TIGHT)


@check
def unused_parameters(group):
    train_both(group, TIGHT, skips=True, find_unused_parameters=True)


@check
def many_small_buckets(group):
    buckets = []

    def counting(state, bucket):
        buckets.append(bucket.index())
        return allreduce_hook(state, bucket)

    train_both(group, TIGHT, hook=counting, bucket_cap_mb=0.001)
    note(buckets=len(set(buckets)))
    assert len(set(buckets)) >= 5, buckets


@check
def many_small_buckets_without_a_hook(group):
    train_both(group, TIGHT, bucket_cap_mb=0.001)


@check
def gradients_as_views_of_buckets(group):
    train_both(group, TIGHT, gradient_as_bucket_view=True, bucket_cap_mb=0.002)


@check
def a_static_graph(group):
    train_both(group, TIGHT, static_graph=True)


@check
def the_all_reduce_hook(group):
    train_both(group, TIGHT, hook=allreduce_hook)


@check
def the_bf16_compression_hook(group):
    def hook(state, bucket):  # under its own name torch allows it on NCCL only
        return bf16_compress_hook(state, bucket)

    train_both(group, BF16, hook=hook, bucket_cap_mb=0.002)


# Groups of Gloo whose futures had callbacks: one of its threads may be the last to let go of these,
# and of the group, which would then wait for that thread, and abort.
KEPT = []


@check
def the_power_sgd_hook(group):
    """Loses what its low rank cannot hold, so it is held against the same over Gloo."""
    gloo = dist.new_group(backend="gloo")
    KEPT.append(gloo)
    nets = []
    for over in (group, gloo):
        net = Net(torch.float64)
        ddp = DistributedDataParallel(net, process_group=over)
        state = PowerSGDState(over, matrix_approximation_rank=2, start_powerSGD_iter=2)
        ddp.register_comm_hook(state, powerSGD_hook)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        for step in range(6):
            optimizer.zero_grad()
            loss_of(ddp, *batch(step, dist.get_rank(), torch.float64), skip=False).backward()
            optimizer.step()
        nets.append(net)
    for ours, theirs in zip(*(net.parameters() for net in nets), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-10)
    same_on_all_ranks(group, nets[0])
    dist.destroy_process_group(gloo)


@check
def ranks_that_run_out_of_batches_and_join(group):
    rank, world = dist.get_rank(), dist.get_world_size()
    alone = Net(torch.float64)
    together = copy.deepcopy(alone)
    ddp = DistributedDataParallel(together, process_group=group)
    optimizers = [torch.optim.SGD(net.parameters(), lr=0.1) for net in (alone, ddp)]
    with Join([ddp]):
        for step in range(2 + rank):
            optimizers[1].zero_grad()
            loss_of(ddp, *batch(step, rank, torch.float64), skip=False).backward()
            optimizers[1].step()
    for step in range(1 + world):
        optimizers[0].zero_grad()
        for r in range(world):
            if step < 2 + r:
                (loss_of(alone, *batch(step, r, torch.float64), skip=False) / world).backward()
        optimizers[0].step()
    for ours, theirs in zip(together.parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, **TIGHT)
    same_on_all_ranks(group, together)


@check
def an_optimizer_whose_state_is_sharded(group):
    rank, world = dist.get_rank(), dist.get_world_size()
    alone = Net(torch.float64)
    together = copy.deepcopy(alone)
    ddp = DistributedDataParallel(together, process_group=group)
    options = {"lr": 0.1, "momentum": 0.9}
    plain = torch.optim.SGD(alone.parameters(), **options)
    sharded = ZeroRedundancyOptimizer(
        ddp.parameters(), torch.optim.SGD, process_group=group, **options
    )
    for step in range(STEPS):
        ddp.zero_grad()
        loss_of(ddp, *batch(step, rank, torch.float64), skip=False).backward()
        sharded.step()
        plain.zero_grad()
        for r in range(world):
            (loss_of(alone, *batch(step, r, torch.float64), skip=False) / world).backward()
        plain.step()
    for ours, theirs in zip(together.parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, **TIGHT)
    same_on_all_ranks(group, together)


@check
def a_python_hook_on_futures(group):
    def hook(_state, bucket):
        work = dist.all_reduce(bucket.buffer(), group=group, async_op=True)
        return work.get_future().then(lambda f: f.value()[0].div_(dist.get_world_size()))

    train_both(group, TIGHT, hook=hook, bucket_cap_mb=0.001)


@check
def the_debug_level_detail(_group):
    """Wraps the backend, and compares what the ranks call before they do."""
    before = dist.get_debug_level()
    dist.set_debug_level(dist.DebugLevel.DETAIL)
    group = dist.new_group()
    try:
        train_both(group, TIGHT, skips=True, find_unused_parameters=True)
    finally:
        dist.set_debug_level(before)
    dist.destroy_process_group(group)


@check
def gradients_accumulated_without_synchronisation(group):
    rank, world = dist.get_rank(), dist.get_world_size()
    alone = Net(torch.float64)
    together = copy.deepcopy(alone)
    ddp = DistributedDataParallel(together, process_group=group)
    with ddp.no_sync():
        loss_of(ddp, *batch(0, rank, torch.float64), skip=False).backward()
    loss_of(ddp, *batch(1, rank, torch.float64), skip=False).backward()
    for step in range(2):
        for r in range(world):
            (loss_of(alone, *batch(step, r, torch.float64), skip=False) / world).backward()
    compare(alone, together, TIGHT)


@check
def a_model_whose_shapes_differ_between_ranks_as_an_error_on_each(group):
    width = 8 + dist.get_rank()
    try:
        DistributedDataParallel(nn.Linear(width, 1), process_group=group)
    except RuntimeError as error:
        note(text_model=str(error))
        # torch compares the shapes with rank 0's; the others see a rank leave, or the same.
        assert "rank " in str(error) or "process 0" in str(error), error
        return
    raise AssertionError("DDP took models of different shapes")


@check
def buffers_are_broadcast_from_rank_0(group):
    net = nn.BatchNorm1d(4)
    ddp = DistributedDataParallel(net, process_group=group, broadcast_buffers=True)
    for _ in range(2):
        ddp(values(dist.get_rank(), 12).view(3, 4)).sum().backward()
    ddp(values(dist.get_rank(), 12).view(3, 4))  # broadcasts rank 0's running mean first
    found = [torch.empty(4) for _ in range(dist.get_world_size())]
    with torch.no_grad():
        before = net.running_mean.clone()
        dist.broadcast(net.running_mean, src=0, group=group)
        dist.all_gather(found, net.running_mean, group=group)
    assert all(torch.equal(f, found[0]) for f in found)
    assert dist.get_rank() or torch.equal(before, net.running_mean)


if __name__ == "__main__":
    main()
