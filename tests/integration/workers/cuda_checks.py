"""CUDA tensors through the backend. The ranks share devices if there are too few."""

import copy
import os
from datetime import timedelta

import torch
import torch.distributed as dist
from checklib import check, expect_equal, main, values
from torch.nn.parallel import DistributedDataParallel

DEVICE = torch.device("cuda", int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
COUNT = (9 << 20) // 4  # three chunks of float32


def busy() -> None:
    """Keep the current stream busy for some tens of milliseconds."""
    torch.cuda._sleep(50_000_000)


@check
def all_reduce_gives_the_bits_that_it_gives_on_the_cpu(group: dist.ProcessGroup) -> None:
    rank = dist.get_rank(group)
    for dtype in (torch.float32, torch.bfloat16):
        host = torch.sin(torch.arange(COUNT) * (rank + 1)).to(dtype)
        tensor = host.to(DEVICE)
        dist.all_reduce(tensor, group=group)
        dist.all_reduce(host, group=group)
        expect_equal(tensor.cpu(), host)


@check
def kernels_before_and_after_are_in_order(group: dist.ProcessGroup) -> None:
    rank, world = dist.get_rank(group), dist.get_world_size(group)
    for stream in (torch.cuda.current_stream(), torch.cuda.Stream()):
        with torch.cuda.stream(stream):
            tensor = torch.full((COUNT,), -1.0, device=DEVICE)
            busy()
            tensor.fill_(rank + 1)
            work = dist.all_reduce(tensor, group=group, async_op=True)
            assert not work.is_completed()
            work.wait()
            tensor += 1
            found = tensor.cpu()
        expect_equal(found, torch.full((COUNT,), world * (world + 1) / 2 + 1))


@check
def shards_strides_and_futures(group: dist.ProcessGroup) -> None:
    rank, world = dist.get_rank(group), dist.get_world_size(group)
    everybodys = [values(each, COUNT) for each in range(world)]
    gathered = torch.empty(2 * world * COUNT, device=DEVICE)[::2]
    mine = values(rank, COUNT).to(DEVICE)
    dist.all_gather_into_tensor(gathered, mine, group=group)
    expect_equal(gathered.cpu(), torch.cat(everybodys))
    reduced = torch.empty(COUNT, device=DEVICE)
    work = dist.reduce_scatter_tensor(reduced, gathered, group=group, async_op=True)
    doubled = work.get_future().then(lambda future: future.value()[0] * 2)
    expect_equal(doubled.wait().cpu(), everybodys[rank] * 2 * world)


@check
def ddp_trains_as_it_does_over_gloo(group: dist.ProcessGroup) -> None:
    rank = dist.get_rank(group)
    between = dist.new_group(backend="gloo")
    torch.manual_seed(3)
    first = torch.nn.Sequential(torch.nn.Linear(8, 512), torch.nn.Tanh(), torch.nn.Linear(512, 1))
    nets = [first.to(DEVICE), copy.deepcopy(first)]
    for net, over in zip(nets, (group, between), strict=True):
        together = DistributedDataParallel(net, device_ids=[DEVICE.index], process_group=over)
        optimizer = torch.optim.SGD(together.parameters(), lr=0.1)
        for step in range(3):
            batch = (values(rank, 32, shift=step).view(4, 8) / 11).to(DEVICE)
            optimizer.zero_grad()
            together(batch).square().mean().backward()
            optimizer.step()
    for mine, wanted in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        torch.testing.assert_close(mine, wanted, rtol=1e-5, atol=1e-6)


@check
def nccl_may_serve_cuda_beside_rdmatrain_for_the_cpu(_group: dist.ProcessGroup) -> None:
    if torch.cuda.device_count() < dist.get_world_size():
        return  # NCCL refuses two ranks on one device; the test says so
    group = dist.new_group(backend="cpu:rdmatrain,cuda:nccl", timeout=timedelta(seconds=30))
    rank, world = dist.get_rank(), dist.get_world_size()
    for device in ("cpu", DEVICE):
        tensor = values(rank, 1000).to(device)
        dist.all_reduce(tensor, group=group)
        expect_equal(tensor.cpu(), sum(values(each, 1000) for each in range(world)))


torch.cuda.set_device(DEVICE)
main()
