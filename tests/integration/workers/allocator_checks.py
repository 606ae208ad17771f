"""The arena as torch's allocator, under ``rdmatrain run``, which installs it."""

import multiprocessing
import subprocess
import sys

import torch
import torch.distributed as dist
from checklib import SpoiledRows, check, expect_equal, main, raised_by, values
from torch import nn
from torch.utils.data import DataLoader

import rdmatrain
from rdmatrain import _core

N = 40_000  # float32: 160 000 bytes, more than the 64 KiB from where on the arena is used
FORK = multiprocessing.get_context("fork")


def offset(tensor: torch.Tensor) -> int | None:
    storage = tensor.untyped_storage()
    return _core.arena_offset(storage.data_ptr(), storage.nbytes())


def num_blocks() -> int:
    return rdmatrain.arena_stats()["num_blocks"]


@check
def plain_tensors_of_64_kib_are_in_the_arena(group: dist.ProcessGroup) -> None:
    made = [torch.empty(N), torch.zeros(N), torch.randn(N), torch.arange(N), torch.ones(N) + 1]
    made += [made[0].clone(), torch.cat([made[0], made[1]]), nn.Linear(256, 256).weight]
    assert None not in [offset(t) for t in made]
    assert len({offset(t) for t in made}) == len(made)
    assert offset(torch.empty(16384)) is not None  # 64 KiB
    assert offset(torch.empty(16383)) is None


@check
def what_is_dropped_is_given_back(group: dist.ProcessGroup) -> None:
    before = num_blocks()
    tensor = torch.empty(N)
    view = tensor[5:]
    assert num_blocks() == before + 1
    del tensor
    assert num_blocks() == before + 1
    del view
    assert num_blocks() == before


@check
def views_are_found_at_their_own_place(group: dist.ProcessGroup) -> None:
    tensor = torch.arange(float(N))
    view = tensor[100:].view(2, -1)[1]
    base = offset(tensor)
    found = _core.arena_offset(view.data_ptr(), view.nbytes)
    assert base is not None and found == base + 4 * (100 + (N - 100) // 2)


@check
def resized_tensors_move_within_the_arena(group: dist.ProcessGroup) -> None:
    before = num_blocks()
    tensor = torch.arange(float(N))
    tensor.resize_(3 * N)
    expect_equal(tensor[:N], torch.arange(float(N)))
    assert offset(tensor) is not None
    tensor.untyped_storage().resize_(0)
    assert num_blocks() == before
    tensor.untyped_storage().resize_(3 * N * 4)
    tensor.copy_(torch.arange(3.0 * N))
    assert offset(tensor) is not None and tensor[-1] == 3 * N - 1
    dist.all_reduce(tensor, group=group)
    expect_equal(tensor, torch.arange(3.0 * N) * dist.get_world_size())


@check
def buckets_and_gradients_of_ddp_are_in_the_arena(group: dist.ProcessGroup) -> None:
    seen = []

    def hook(_: None, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
        seen.append(offset(bucket.buffer()))
        work = dist.all_reduce(bucket.buffer(), group=group, async_op=True)
        return work.get_future().then(lambda done: done.value()[0])

    model = nn.Sequential(nn.Linear(300, 300), nn.Linear(300, 300))
    net = nn.parallel.DistributedDataParallel(
        model, process_group=group, gradient_as_bucket_view=True, bucket_cap_mb=0.3
    )
    net.register_comm_hook(None, hook)
    for _ in range(3):
        net(torch.ones(4, 300)).sum().backward()
    assert len(seen) > 3 and None not in seen
    assert all(offset(p.grad) is not None for p in net.parameters())


@check
def tensors_from_elsewhere_work_beside_it(group: dist.ProcessGroup) -> None:
    world = dist.get_world_size()
    tensor = values(dist.get_rank(), N)
    array = tensor.numpy()
    array += 1  # the same memory
    expect_equal(tensor, values(dist.get_rank(), N) + 1)
    outside = torch.from_numpy(array.copy())
    assert offset(outside) is None
    for each in (tensor, outside):
        dist.all_reduce(each, group=group)
        expect_equal(each, sum(values(r, N) + 1 for r in range(world)))


def _double(tensor: torch.Tensor) -> None:
    tensor *= 2


@check
def share_memory_still_shares_with_a_child(group: dist.ProcessGroup) -> None:
    tensor = torch.arange(float(N)).share_memory_()
    assert offset(tensor) is None
    child = FORK.Process(target=_double, args=(tensor,))
    child.start()
    child.join(30)
    assert child.exitcode == 0
    expect_equal(tensor, torch.arange(float(N)) * 2)


def _own_tensors(sender: object, inherited: torch.Tensor) -> None:
    outside = torch.ones(N)  # torch's own allocator: the arena is the parent's
    states = [offset(outside), offset(inherited), rdmatrain.arena_stats()["reserved_bytes"]]
    inherited.fill_(-1)
    own = rdmatrain.empty(N)
    own.fill_(3)
    inside = offset(own) is not None
    rdmatrain.install_allocator()
    sender.send((states, inside, offset(torch.ones(N)) is not None, (own + outside).sum().item()))


@check
def a_forked_child_has_its_own_tensors(group: dist.ProcessGroup) -> None:
    tensor = torch.arange(float(N))
    receiver, sender = FORK.Pipe(duplex=False)
    child = FORK.Process(target=_own_tensors, args=(sender, tensor))
    child.start()
    assert receiver.poll(30)
    assert receiver.recv() == ([None, None, 0], True, True, 4.0 * N)
    child.join(30)
    assert child.exitcode == 0
    expect_equal(tensor, torch.arange(float(N)))
    dist.all_reduce(tensor, group=group)


@check
def workers_of_a_data_loader_read_and_cannot_write(group: dist.ProcessGroup) -> None:
    rows = torch.arange(float(64 * 1024)).view(64, 1024)
    assert offset(rows) is not None
    loader = DataLoader(SpoiledRows(rows), 8, num_workers=2, multiprocessing_context="fork")
    for _ in range(2):
        found = []
        for part in loader:
            found.append(part)
            torch.ones(N)  # taken and given back while workers live
        expect_equal(torch.cat(found), rows)
    expect_equal(rows, torch.arange(float(64 * 1024)).view(64, 1024))


@check
def a_program_can_be_started(group: dist.ProcessGroup) -> None:
    tensor = torch.ones(N)
    done = subprocess.run(
        [sys.executable, "-c", "print(6 * 7)"], capture_output=True, text=True, check=True
    )
    assert done.stdout == "42\n" and tensor.sum() == N


@check
def the_profiler_sees_memory_come_and_go(group: dist.ProcessGroup) -> None:
    with torch.profiler.profile(profile_memory=True) as profile:
        big = torch.empty(N)
        del big
    sizes = [e.nbytes() for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    assert sizes == [4 * N, -4 * N]


@check
def the_backend_allocates_in_the_arena(group: dist.ProcessGroup) -> None:
    cpu = torch.device("cpu")
    backend = group._get_backend(cpu)
    assert backend.supports_tensor_alloc(cpu)
    tensor = backend.allocate_tensor(10, dtype=torch.bfloat16, device=cpu)
    assert tensor.shape == (10,) and tensor.dtype == torch.bfloat16
    assert offset(tensor) is not None
    assert "cuda" in str(
        raised_by(backend.allocate_tensor, 10, dtype=torch.float, device=torch.device("cuda", 0))
    )


@check
def empty_is_in_the_arena_whatever_its_size(group: dist.ProcessGroup) -> None:
    small = rdmatrain.empty(3, 5, dtype=torch.int16, requires_grad=False)
    assert small.shape == (3, 5) and small.dtype == torch.int16 and offset(small) is not None
    assert rdmatrain.empty((2, 2)).shape == (2, 2)
    assert rdmatrain.empty(torch.Size([7]), requires_grad=True).requires_grad
    assert rdmatrain.empty(0).numel() == 0 and rdmatrain.empty().shape == ()
    small.resize_(9, 9)
    assert offset(small) is not None
    assert "negative" in str(raised_by(rdmatrain.empty, -1))
    refused = rdmatrain.arena_stats()["num_refused"]
    error = raised_by(rdmatrain.empty, 1 << 45)
    assert isinstance(error, torch.OutOfMemoryError) and "no room" in str(error)
    assert rdmatrain.arena_stats()["num_refused"] == refused + 1


main()
