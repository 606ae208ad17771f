# SPDX-License-Identifier: Apache-2.0
"""States of FSDP2 and tensor parallelism, saved by some ranks and loaded by others.

The oracle is torch: the full state, gathered by it and kept by ``torch.save``.
"""

import json

import pytest
from integration_jobs import Ended, run, write_worker

WORKER = r"""
import logging, shutil
from pathlib import Path
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Replicate, Shard, distribute_tensor
from rdmatrain.train import CheckpointError, ShardedCheckpoints, ShardedState, Training
root = Path(sys.argv[1])
faulthandler.dump_traceback_later(110, exit=True)  # DTensors take their time where CPUs are busy
dist.init_process_group("rdmatrain", timeout=timedelta(seconds=30))
groups = {size: dist.new_group(list(range(size))) for size in range(1, WORLD + 1)}

def build(size, seed):
    torch.manual_seed(seed)
    model = torch.nn.Sequential(torch.nn.Linear(7, 5), torch.nn.Tanh(), torch.nn.Linear(5, 3))
    fully_shard(model, mesh=DeviceMesh.from_group(groups[size], "cpu"))
    optimizer = torch.optim.AdamW(model.parameters(), 0.01)
    return model, optimizer

def step(model, optimizer):
    torch.manual_seed(99)
    model(torch.rand(6, 7)).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()

def gathered(model, optimizer):
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    model, optimizer = get_state_dict(model, optimizer, options=options)
    return {"model": model, "optimizer": optimizer}

def equal(one, other):
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[k], other[k]) for k in one)
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    return one == other

def save(name, size, steps=(1,), **options):
    if RANK < size:
        model, optimizer = build(size, 1)
        checkpoints = ShardedCheckpoints(root / name, groups[size], **options)
        owner = ShardedState(model, optimizer)
        for number in steps:
            step(model, optimizer)
            saved = {"owner": owner.state_dict(), "note": ["x", number]}
            checkpoints.save(number, saved)
            full = gathered(model, optimizer)
            if RANK == 0:
                torch.save(full, root / f"{name}-{number}.oracle")
            if options:  # the steps go on while it is written
                step(model, optimizer)
        checkpoints.wait()
    dist.barrier()

def load(name, size, **changes):
    # Which step was loaded, and whether it has the bits of the oracle.
    result = None
    if RANK < size:
        model, optimizer = build(size, 2)
        owner = ShardedState(model, optimizer)
        into = {"owner": owner.state_dict(), "note": None, **changes}
        try:
            found = ShardedCheckpoints(root / name, groups[size]).load(into)
        except CheckpointError as error:
            result = str(error)
        else:
            owner.load_state_dict(found.state["owner"])
            full = gathered(model, optimizer)
            oracle = torch.load(root / f"{name}-{found.step}.oracle") if RANK == 0 else full
            result = [found.step, found.state["note"], equal(full, oracle)]
    dist.barrier()
    return result

def steps_of(model, optimizer, numbers, curve, until=None):
    # Random data and dropout: resumed steps have the same bits only if all of the state is back.
    for number in numbers:
        if number == until:
            break
        loss = torch.nn.functional.dropout(model(torch.rand(6, 7))).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        dist.all_reduce(loss := loss.detach(), group=groups[size])
        curve.append([number, loss.item()])
    return gathered(model, optimizer), curve

def train(name, until=None, total=7, **options):
    model, optimizer = build(size, 3)
    torch.manual_seed(40 + RANK)
    if name == "undisturbed":
        return steps_of(model, optimizer, range(1, total + 1), [])
    curve = []
    checkpoints = ShardedCheckpoints(root / name, groups[size], **options)
    state = {"owner": ShardedState(model, optimizer), "curve": curve}
    with Training(checkpoints, state, every=2, signals=()) as run:
        return steps_of(model, optimizer, run.steps(total), curve, until)

def shard(name, generation, rank):
    return root / name / f"generation-{generation:010}" / f"rank-{rank:05}.pt"
"""


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Ended:
    """One job of four ranks for all tests here, as a start takes seconds."""
    folder = tmp_path_factory.mktemp("sharded")
    body = r"""
save("two", 2)
for size in (1, 2, 3):
    note(**{f"2 to {size}": load("two", size)})
save("four", 4)
note(**{"4 to 2": load("four", 2)})

if RANK == 0:
    text = (root / "four" / "generation-0000000001" / "manifest.json").read_text()
    note(layout=sorted(json.loads(text)["layout"]))

save("later", 2, background=True)
note(background=load("later", 3))

note(absent=load("two", 2, other=torch.zeros(1)))
note(bigger=load("two", 2, owner={"model": {"0.weight": torch.zeros(9, 9)}}))
note(type=load("two", 2, owner={"model": {"0.weight": torch.zeros(5, 7).double()}}))

def corrupt(path):
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 4
    path.write_bytes(raw)

def swap(one, other):
    raw = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(raw)

DAMAGE = {
    "flipped": lambda name: corrupt(shard(name, 2, 1)),
    "truncated": lambda name: os.truncate(shard(name, 2, 1), 900),
    "missing": lambda name: shard(name, 2, 1).unlink(),
    "swapped": lambda name: swap(shard(name, 2, 0), shard(name, 2, 1)),
    "of the generation before": lambda name: shutil.copy(shard(name, 1, 1), shard(name, 2, 1)),
    "whole generation mixed": lambda name: shutil.copy(
        shard(name, 1, 0).parent / "manifest.json", shard(name, 2, 0).parent / "manifest.json"),
}
save("damaged", 2, steps=(1, 2))
for kind, damage in DAMAGE.items():
    if RANK == 0:
        shutil.copytree(root / "damaged", root / kind)
        for number in (1, 2):
            shutil.copy(root / f"damaged-{number}.oracle", root / f"{kind}-{number}.oracle")
        damage(kind)
    dist.barrier()
    note(**{kind: [load(kind, 1), load(kind, 3)]})

size = 2
if RANK < size:
    undisturbed = train("undisturbed")
    for background in (False, True):
        name = f"cut {background}"
        for until in (4, 6):
            train(name, until, background=background)
        resumed = train(name, background=background)
        note(**{name: equal(resumed[0], undisturbed[0]) and resumed[1] == undisturbed[1]})
dist.barrier()
size = 3
if RANK < size:
    _, curve = train("cut True", total=9)
    note(curve=[number for number, _ in curve])
dist.barrier()

# Tensor parallelism, and what only some ranks take part in.
mesh = DeviceMesh.from_group(groups[4], "cpu")
full = torch.arange(30.0).reshape(5, 6)
columns = distribute_tensor(full, mesh, [Shard(1)])
ShardedCheckpoints(root / "columns", groups[4]).save(1, {"w": columns, "epoch": 3})
rows = distribute_tensor(torch.zeros(5, 6), mesh, [Shard(0)])
whole = distribute_tensor(torch.zeros(5, 6), mesh, [Replicate()])
state = {"w": rows, "epoch": 0}
ShardedCheckpoints(root / "columns", groups[4]).load(state)
note(rows=torch.equal(state["w"].full_tensor(), full), epoch=state["epoch"])
ShardedCheckpoints(root / "columns", groups[4]).load({"w": whole})
note(whole=torch.equal(whole.to_local(), full))
dist.destroy_process_group()
"""
    ended = run(write_worker(folder, WORKER + body), str(folder), ranks=4, timeout_s=115)
    assert ended.code == 0, ended.out
    return ended


@pytest.mark.parametrize("name", ["2 to 1", "2 to 2", "2 to 3", "4 to 2", "background"])
def test_other_numbers_of_ranks_load_the_bits_that_were_saved(job: Ended, name: str) -> None:
    size = 3 if name == "background" else int(name[-1])
    for rank in range(size):
        assert job.of(rank)[name] == [1, ["x", 1], True], job.out


def test_the_layout_is_json_that_names_what_was_saved(job: Ended) -> None:
    layout = job.of(0)["layout"]
    assert "owner.model.0.weight" in layout
    assert "owner.optimizer.state.2.bias.exp_avg" in layout
    assert "note" in layout
    assert "pickle" not in json.dumps(layout)


DAMAGE = ["flipped", "truncated", "missing", "swapped", "of the generation before"]


@pytest.mark.parametrize("kind", [*DAMAGE, "whole generation mixed"])
def test_damage_sends_all_ranks_to_the_generation_before(job: Ended, kind: str) -> None:
    alone, three = job.of(0)[kind]
    assert alone == [1, ["x", 1], True]
    for rank in range(3):
        assert job.of(rank)[kind][1] == three == [1, ["x", 1], True]
    assert job.out.count(f"{kind}/generation-0000000002 is passed over") == 2


@pytest.mark.parametrize(
    ("name", "text"),
    [("absent", "other"), ("bigger", "0.weight"), ("type", "saved as float32, and is float64")],
)
def test_what_does_not_fit_is_named_on_all_ranks(job: Ended, name: str, text: str) -> None:
    assert job.of(0)[name] == job.of(1)[name]
    assert text in job.of(0)[name]
    assert "not for this job" in job.of(0)[name]


def test_columns_become_rows_and_replicas(job: Ended) -> None:
    for rank in range(4):
        assert (job.of(rank)["rows"], job.of(rank)["whole"]) == (True, True)
        assert job.of(rank)["epoch"] == 3


def test_training_with_fsdp_resumes_with_the_same_bits_and_on_more_ranks(job: Ended) -> None:
    for rank in (0, 1):
        assert job.of(rank)["cut False"], job.out
        assert job.of(rank)["cut True"], job.out
    for rank in range(3):
        assert job.of(rank)["curve"] == list(range(1, 10))
    assert "saved by 2 ranks, now 3: random numbers are others" in job.out
