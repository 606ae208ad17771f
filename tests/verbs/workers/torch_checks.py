"""torch over verbs. One process imports torch, which takes half a minute in a guest; all ranks are
its forks. What a rank came to in a job or a check is noted under ``NAME-RANK``; "ok" is well.
"""

import contextlib
import copy
import faulthandler
import importlib.util
import json
import os
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

BEGAN = time.monotonic()
TESTS = Path(__file__).parents[2]
sys.path.append(str(TESTS / "integration" / "workers"))

import arena_checks  # noqa: E402
import torch  # noqa: E402
import torch._dynamo  # noqa: E402 - DDP and optimizers load it: once, not in each fork
import torch.distributed as dist  # noqa: E402
from checklib import note, values  # noqa: E402
from matrix import MOVING, REDUCING, Cell, Collective, result_failure  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn.parallel import DistributedDataParallel  # noqa: E402

import rdmatrain  # noqa: E402
import rdmatrain._c10d  # noqa: E402 - once as well: what a rank takes to join is measured
import rdmatrain.comm.backend  # noqa: E402
from rdmatrain.comm import host  # noqa: E402
from rdmatrain.metrics import worker as metrics  # noqa: E402

RANKS = 3
JOB_S = 300
STORE = "TORCH_CHECKS_STORE"
WIDTH = 300  # of layers whose gradients are large enough for the arena
DEVICE = os.environ["VM_DEVICE"]
IPV4_GID = os.environ["IPV4_GID"]
VERBS = {"RDMATRAIN_TRANSPORT": "verbs"}
REQUIRED = {"RDMATRAIN_REQUIRE": "verbs", "RDMATRAIN_ADDR": "127.0.0.1"}
DEMO = [
    "--data", str(TESTS.parent / "ARCHITECTURE.md"), "--steps", "4", "--log-every", "1",
    "--layers", "1", "--width", "48", "--heads", "2", "--seq-len", "32", "--global-batch", "4",
]  # fmt: skip

Body = Callable[[int, int], object]
Check = Callable[[dist.ProcessGroup], None]
CHECKS: dict[str, Check] = {}


def check(function: Check) -> Check:
    CHECKS[function.__name__] = function
    return function


# -- ranks --


def fork_ranks(name: str, world: int, body: Body, env: Mapping[str, str]) -> None:
    """Run body(rank, world) in forks with that environment; what it returns is noted."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        own = {**env, STORE: f"file://{folder}/store"}
        pids = [fork_rank(name, rank, world, body, own) for rank in range(world)]
        codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
    note(**{f"{name}-codes": codes, f"{name}-seconds": round(time.monotonic() - began, 1)})


def fork_rank(name: str, rank: int, world: int, body: Body, env: Mapping[str, str]) -> int:
    pid = os.fork()
    if pid:
        return pid
    faulthandler.dump_traceback_later(JOB_S, exit=True)
    os.environ.update(env)
    code = 1
    try:
        note(**{f"{name}-{rank}": body(rank, world)})
        code = 0
    except BaseException:
        note(**{f"{name}-{rank}": traceback.format_exc()})
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def join(rank: int, world: int) -> None:
    dist.init_process_group(
        "rdmatrain",
        os.environ[STORE],
        rank=rank,
        world_size=world,
        timeout=timedelta(seconds=60),
    )


# -- checks that share a group --


def run_checks(rank: int, world: int) -> str:
    rdmatrain.install_allocator()
    join(rank, world)
    for name, function in CHECKS.items():
        began = time.monotonic()
        try:
            function(dist.group.WORLD)
            result = "ok"
        except BaseException:
            result = traceback.format_exc()
        seconds = round(time.monotonic() - began, 1)
        note(**{f"{name}-{rank}": result, f"{name}-seconds": seconds})
        if result != "ok":
            return f"{name} failed; what comes after it did not run"
    dist.destroy_process_group()
    return "ok"


class LargeCell(Cell):
    """A case of the matrix whose tensors are too large for one message."""

    @property
    def count(self) -> int:
        return 100_003


def both_sizes(collective: Collective) -> Check:
    op = "SUM" if collective in REDUCING else ""

    def function(group: dist.ProcessGroup) -> None:
        cases = (
            (LargeCell(group, torch.float32, op, True), False),
            (Cell(group, torch.bfloat16, op, False), True),
            (Cell(group, torch.int64, op, True), True),
        )
        for cell, asynchronous in cases:
            failure = result_failure(collective, cell, asynchronous)
            assert not failure, f"{cell}: {failure}"

    return function


CHECKS |= {each.__name__: both_sizes(each) for each in REDUCING + MOVING}


@check
def stats_name_the_device_and_the_gid(group: dist.ProcessGroup) -> None:
    peers = rdmatrain.get_stats(group)["peers"]
    assert len(peers) == dist.get_world_size() - 1
    for peer in peers:
        assert peer["transport"] == "verbs"
        assert peer["device"].startswith(DEVICE), peer
        # Index 0 is a link-local address, which is tried last.
        assert peer["gid_index"] == int(IPV4_GID) != 0, peer
        assert peer["sent_bytes"] > 0


def net() -> nn.Module:
    torch.manual_seed(5)
    return nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh(), nn.Linear(WIDTH, WIDTH))


def loss_of(model: nn.Module, rank: int, step: int) -> torch.Tensor:
    return model(values(rank, 2 * WIDTH, shift=step).view(2, WIDTH) / 11).square().mean()


def gradients(model: nn.Module) -> torch.Tensor:
    return torch.cat([parameter.grad.reshape(-1) for parameter in model.parameters()])


def mean_gradients(model: nn.Module, step: int) -> torch.Tensor:
    """What DDP must come to, to the bit: each rank's share, added in the order of the ranks."""
    total = torch.zeros(())
    for rank in range(dist.get_world_size()):
        model.zero_grad()
        loss_of(model, rank, step).backward()
        total = total + gradients(model) * (1.0 / dist.get_world_size())
    return total


@check
def gradients_of_ddp_are_not_staged(group: dist.ProcessGroup) -> None:
    """The first two steps do more than that: DDP agrees on the order of its buckets."""
    model = net()
    ddp = DistributedDataParallel(model, gradient_as_bucket_view=True)
    before: dict[str, Any] = {}
    for step in range(5):
        wanted = mean_gradients(copy.deepcopy(model), step)
        dist.barrier()
        if step == 2:
            before = rdmatrain.get_stats(group)["totals"]
        ddp.zero_grad()
        loss_of(ddp, dist.get_rank(), step).backward()
        assert torch.equal(gradients(model), wanted), f"step {step}"
    after = rdmatrain.get_stats(group)["totals"]
    moved = {key: after[key] - before[key] for key in after}
    peers = dist.get_world_size() - 1
    # Inputs to the owner of a shard and results to everyone, without the rank's own shard.
    optimum = 3 * 2 * wanted.nbytes * peers / dist.get_world_size()
    assert 0.9 * optimum <= moved["sent_bytes"] <= 1.1 * optimum, (moved, optimum)
    assert moved["staged_bytes"] == 0, moved


CHECKS |= {
    each.__name__: each
    for each in (
        arena_checks.workers_of_a_data_loader_while_collectives_run,
        arena_checks.what_a_forked_child_writes_is_seen_by_neither_parent_nor_peer,
    )
}


@check
def what_ran_before_these_forks_runs_after_them(group: dist.ProcessGroup) -> None:
    gradients_of_ddp_are_not_staged(group)


@check
def bytes_are_counted_by_device(group: dist.ProcessGroup) -> None:
    """What the launcher serves of a rank: a megabyte from rank 0 to rank 1, and nothing else."""
    rank, message = dist.get_rank(), torch.ones(250_000)
    with tempfile.TemporaryDirectory() as folder:
        metrics.start(Path(folder) / "rank")
        metrics.publish()
        before = dict(metrics.TALLY.values)
        if rank < 2:
            (dist.send if rank == 0 else dist.recv)(message, 1 - rank)
        metrics.publish()
    moved = {
        labels: value - before.get((name, labels), 0)
        for (name, labels), value in metrics.TALLY.values.items()
        if name == "rdmatrain_bytes_total" and value != before.get((name, labels), 0)
    }
    wanted = {0: {"sent": message.nbytes}, 1: {"received": message.nbytes}}.get(rank, {})
    assert {direction: value for (direction, *_), value in moved.items()} == wanted, moved
    for _, transport, device in moved:
        assert transport == "verbs" and device.startswith(DEVICE), moved


# -- jobs with settings of their own --


def join_and_tell(rank: int, world: int) -> dict[str, Any]:
    """What the group came to: what joins this rank to each, a sum, or the error."""
    began = time.monotonic()
    try:
        join(rank, world)
    except RuntimeError as error:
        return {"error": str(error), "seconds": time.monotonic() - began}
    data = values(rank, 20_000)
    dist.all_reduce(data)
    assert torch.equal(data, sum(values(each, 20_000) for each in range(world)))
    peers = rdmatrain.get_stats()["peers"]
    dist.destroy_process_group()
    return {"peers": peers}


def as_on_two_hosts(rank: int, world: int) -> dict[str, Any]:
    """Ranks 0 and 1 on one host, rank 2 on another, as they believe."""
    host.host_id = lambda: f"host {rank // 2}"
    return join_and_tell(rank, world)


def train_demo(rank: int, world: int) -> dict[str, Any]:
    """Train the demo's model, as `rdmatrain run` would start it."""
    # Drawing the loss curve would take longer than the training.
    sys.modules["matplotlib"] = None  # type: ignore[assignment]
    spec = importlib.util.spec_from_file_location(
        "train_gpt", TESTS.parent / "launch" / "train_gpt.py"
    )
    program = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(program)
    program.sample = lambda *_: ""  # half of its time, and nothing of it goes over verbs
    rdmatrain.install_allocator()
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1"}
    with tempfile.TemporaryDirectory() as out, contextlib.redirect_stdout(sys.stderr):
        program.main([*DEMO, "--out", out])
        if rank != 0:
            return {}
        result = json.loads(Path(out, "result.json").read_text())
        rows = Path(out, "loss.csv").read_text().splitlines()[1:]
    return {
        "transport": result["transport"],
        "sha256": result["param_sha256"],
        "heldout_loss": result["heldout_loss"],
        "losses": [row.split(",")[1] for row in rows],
    }


def main() -> None:
    torch.set_num_threads(1)  # and no threads of torch's own when it forks
    warnings.filterwarnings("ignore", category=FutureWarning)  # the old names of collectives
    note(torch_seconds=round(time.monotonic() - BEGAN, 1))
    for transport in ("shm", "verbs"):
        port = {"MASTER_PORT": {"shm": "29611", "verbs": "29612"}[transport]}
        own = {"RDMATRAIN_TRANSPORT": transport}
        fork_ranks(f"demo_{transport}", 2, train_demo, own | port)
    fork_ranks("checks", RANKS, run_checks, VERBS | REQUIRED)
    jobs: dict[str, tuple[Body, dict[str, str]]] = {
        "two_hosts": (as_on_two_hosts, REQUIRED),
        "no_device": (join_and_tell, VERBS | {"RDMATRAIN_DEVICES": "nonexistent"}),
        "no_device_between": (as_on_two_hosts, REQUIRED | {"RDMATRAIN_DEVICES": "nonexistent"}),
        "gid_ipv4": (join_and_tell, VERBS | {"RDMATRAIN_GID_INDEX": IPV4_GID}),
        "gid_link_local": (join_and_tell, VERBS | {"RDMATRAIN_GID_INDEX": "0"}),
        "gid_none": (join_and_tell, VERBS | {"RDMATRAIN_GID_INDEX": "200"}),
    }
    for name, (body, env) in jobs.items():
        fork_ranks(name, RANKS, body, env)


if __name__ == "__main__":
    main()
