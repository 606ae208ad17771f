"""The arena under torch.distributed: memory that moves, forks, layouts, and the same training."""

from pathlib import Path

import pytest
from integration_jobs import Ended, checks_in, failure_of, run, run_checks, write_worker

WORKER = "arena_checks.py"


LONGER = pytest.param("2-over-shm", marks=pytest.mark.thorough)


@pytest.fixture(scope="module", params=[LONGER, "3-over-shm"])
def job(request: pytest.FixtureRequest) -> tuple[Ended, int]:
    return run_checks(WORKER, request.param)


@pytest.mark.parametrize("name", checks_in(WORKER))
def test_with_tensors_in_the_arena(job: tuple[Ended, int], name: str) -> None:
    ended, ranks = job
    assert not (text := failure_of(ended, name, ranks)), text


def test_the_job_ends_well(job: tuple[Ended, int]) -> None:
    ended, _ = job
    assert ended.code == 0, ended.out


# What follows trains for some steps and notes all bits of the parameters, as one number.
TRAINING = """
import hashlib
import rdmatrain
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
def bits(model):
    found = hashlib.sha256()
    for p in model.parameters():
        local = p.to_local() if hasattr(p, "to_local") else p
        found.update(local.detach().contiguous().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()
def train(wrap):
    torch.manual_seed(3)
    layers = [nn.Linear(257, 300), nn.Tanh(), nn.Linear(300, 513), nn.Tanh(), nn.Linear(513, 7)]
    model = wrap(nn.Sequential(*layers))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    torch.manual_seed(100 + RANK)
    losses = []
    for _ in range(6):
        optimizer.zero_grad()
        loss = model(torch.randn(16, 257)).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0], losses
    return bits(model)
def ddp(model):
    return nn.parallel.DistributedDataParallel(model, bucket_cap_mb=0.3)
def ddp_views(model):
    return nn.parallel.DistributedDataParallel(
        model, bucket_cap_mb=1, gradient_as_bucket_view=True)
def fsdp(model):
    mesh = init_device_mesh("cpu", (WORLD,))
    for layer in model:
        if isinstance(layer, nn.Linear):
            fully_shard(layer, mesh=mesh)
    return fully_shard(model, mesh=mesh)
dist.init_process_group("rdmatrain")
note(ddp=train(ddp), ddp_views=train(ddp_views), fsdp=train(fsdp))
note(peak=rdmatrain.arena_stats()["peak_in_use_bytes"])
dist.destroy_process_group()
"""


@pytest.mark.parametrize("ranks", [pytest.param(2, marks=pytest.mark.thorough), 3])
def test_training_with_the_arena_gives_the_bits_of_training_without(
    tmp_path: Path, ranks: int
) -> None:
    worker = write_worker(tmp_path, TRAINING)
    jobs = {
        arena: run(worker, ranks=ranks, env={"RDMATRAIN_ARENA": arena}) for arena in ("on", "off")
    }
    for ended in jobs.values():
        assert ended.code == 0, ended.out
    for rank in range(ranks):
        found = {arena: dict(ended.of(rank)) for arena, ended in jobs.items()}
        assert found["on"].pop("peak") > 1 << 20
        assert found["off"].pop("peak") == 0
        assert found["on"] == found["off"]
        assert found["on"]["ddp"] == jobs["on"].of(0)["ddp"]
    assert jobs["on"].of(0)["fsdp"] != jobs["on"].of(1)["fsdp"], "every rank has its own shards"
