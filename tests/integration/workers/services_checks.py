"""What programs use beside training itself: checkpoints, DTensor, compiled collectives, meshes,
objects and debug modes; against plain torch, or against the same over Gloo.
"""

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed._functional_collectives as funcol
import torch.distributed.checkpoint as dcp
from checklib import check, expect_equal, main, raised_by, values
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_state_dict,
    set_model_state_dict,
    set_state_dict,
)
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor

SHAPE = (12, 10)


def rank() -> int:
    return dist.get_rank()


def world() -> int:
    return dist.get_world_size()


def whole(shift: int = 0) -> torch.Tensor:
    return values(0, SHAPE[0] * SHAPE[1], shift=shift).view(SHAPE)


def mesh() -> DeviceMesh:
    """Use the default group: DTensor remembers groups by their ranks, also when they are gone."""
    return init_device_mesh("cpu", (world(),))


@contextlib.contextmanager
def shared_folder(group: dist.ProcessGroup) -> Iterator[Path]:
    name = [tempfile.mkdtemp() if rank() == 0 else None]
    dist.broadcast_object_list(name, src=0, group=group)
    yield Path(name[0])
    dist.barrier(group)
    if rank() == 0:
        shutil.rmtree(name[0])


# Checkpoints


def state(shift: int, dim: int) -> dict[str, object]:
    return {
        "sharded": distribute_tensor(whole(shift), mesh(), [Shard(dim)]),
        "plain": whole(shift + 1),
        "step": shift + 2,
    }


def expect_loaded(folder: Path, group: dist.ProcessGroup, shift: int) -> None:
    """Load it sharded otherwise, so that every rank reads what others wrote."""
    into = state(9, dim=1)
    dcp.load(into, checkpoint_id=folder, process_group=group)
    expect_equal(into["sharded"].full_tensor(), whole(shift))
    expect_equal(into["plain"], whole(shift + 1))
    assert into["step"] == shift + 2


@check
def a_checkpoint_is_saved_and_loaded_with_other_shards(group):
    with shared_folder(group) as folder:
        dcp.save(state(3, dim=0), checkpoint_id=folder, process_group=group)
        expect_loaded(folder, group, 3)


@check
def a_checkpoint_is_saved_asynchronously_while_its_tensors_change(group):
    """Saving uses its own group from its own thread, while this one trains on."""
    saving = dist.new_group()
    with shared_folder(group) as folder:
        saved = state(4, dim=0)
        future = dcp.async_save(saved, checkpoint_id=folder, process_group=saving)
        for i in range(50):
            x = values(rank(), 1000, shift=i)
            dist.all_reduce(x, group=group)
            expect_equal(x, sum(values(r, 1000, shift=i) for r in range(world())))
        future.result(timeout=30)
        expect_loaded(folder, group, 4)
    dist.destroy_process_group(saving)


def trained(steps: int) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(10, 7), nn.Tanh(), nn.Linear(7, 1))
    fully_shard(model, mesh=mesh())
    optimizer = torch.optim.AdamW(model.parameters(), 0.1)
    for _ in range(steps):
        model(whole()).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    return model, optimizer


@check
def a_training_goes_on_from_a_checkpoint_with_the_same_bits(group):
    with shared_folder(group) as folder:
        model, optimizer = trained(2)
        weights, moments = get_state_dict(model, optimizer)
        saved = {"model": weights, "optimizer": moments}
        dcp.save(saved, checkpoint_id=folder, process_group=group)
        other, other_optimizer = trained(1)
        weights, moments = get_state_dict(other, other_optimizer)
        loaded = {"model": weights, "optimizer": moments}
        dcp.load(loaded, checkpoint_id=folder, process_group=group)
        set_state_dict(
            other,
            other_optimizer,
            model_state_dict=loaded["model"],
            optim_state_dict=loaded["optimizer"],
        )
    for net, opt in ((model, optimizer), (other, other_optimizer)):
        net(whole()).sum().backward()
        opt.step()
    for found, expected in zip(other.parameters(), model.parameters(), strict=True):
        expect_equal(found.full_tensor(), expected.full_tensor())


@check
def a_state_dict_that_only_rank_0_has_is_given_to_the_shards(group):
    model, _ = trained(1)
    full = StateDictOptions(full_state_dict=True, cpu_offload=True)
    weights = get_model_state_dict(model, options=full)
    assert bool(weights) == (rank() == 0)
    other, _ = trained(2)
    given = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
    set_model_state_dict(other, weights, options=given)
    for found, expected in zip(other.parameters(), model.parameters(), strict=True):
        expect_equal(found.full_tensor(), expected.full_tensor())


# DTensor


@check
def a_dtensor_is_redistributed_from_every_placement_to_every_other(group):
    placements = [Replicate(), Shard(0), Shard(1)]
    for before in placements:
        for after in placements:
            x = distribute_tensor(whole(), mesh(), [before]).redistribute(mesh(), [after])
            expect_equal(x.full_tensor(), whole())
            if isinstance(after, Shard):
                expected = whole().chunk(world(), after.dim)[rank()]
                expect_equal(x.to_local(), expected)


@check
def a_partial_dtensor_is_reduced(group):
    parts = [whole(r) for r in range(world())]
    for op, expected in (("sum", sum(parts)), ("max", torch.stack(parts).amax(0))):
        for after in (Replicate(), Shard(0), Shard(1)):
            x = DTensor.from_local(parts[rank()], mesh(), [Partial(op)]).redistribute(
                mesh(), [after]
            )
            expect_equal(x.full_tensor(), expected)


@check
def dtensors_multiply_and_give_gradients_like_plain_ones(group):
    a, b = (whole(i).t().contiguous() if i else whole() for i in (0, 1))
    a, b = (x.double().requires_grad_() for x in (a, b))
    (a @ b).square().sum().backward()
    for of_a, of_b in ((Shard(0), Replicate()), (Replicate(), Shard(1)), (Shard(1), Shard(0))):
        da = distribute_tensor(a.detach(), mesh(), [of_a]).requires_grad_()
        db = distribute_tensor(b.detach(), mesh(), [of_b]).requires_grad_()
        (da @ db).square().sum().backward()
        for found, expected in ((da.grad, a.grad), (db.grad, b.grad)):
            torch.testing.assert_close(found.full_tensor(), expected)


# Functional collectives


def functional(x: torch.Tensor, group: dist.ProcessGroup) -> tuple[torch.Tensor, ...]:
    size = dist.get_world_size(group)
    total = funcol.all_reduce(x * 2, "sum", group) + 1
    mean = funcol.all_reduce(x, "avg", group)
    gathered = funcol.all_gather_single(total, 0, group)
    scattered = funcol.reduce_scatter_single(gathered, "sum", 1, group)
    both = funcol.all_reduce_coalesced([x, mean], "max", group)
    turned = funcol.all_to_all_single(gathered, None, None, group)
    sent = funcol.broadcast(x + size, 0, group)
    return total, mean, gathered, scattered, *both, turned, sent


def functional_by_hand(r: int) -> list[torch.Tensor]:
    xs = [values(i, 4 * 6 * world()).view(4, -1) for i in range(world())]
    total, mean = 2 * sum(xs) + 1, sum(xs) / world()
    gathered = torch.cat([total] * world())
    return [
        total,
        mean,
        gathered,
        gathered.chunk(world(), 1)[r] * world(),
        torch.stack(xs).amax(0),
        mean,
        torch.cat([gathered.chunk(world())[r]] * world()),
        xs[0] + world(),
    ]


@check
def functional_collectives(group):
    x = values(rank(), 4 * 6 * world()).view(4, -1)
    for found, expected in zip(functional(x, group), functional_by_hand(rank()), strict=True):
        torch.testing.assert_close(torch.as_tensor(found), expected)


@check
def functional_collectives_in_a_compiled_graph_without_breaks(group):
    compiled = torch.compile(functional, backend="aot_eager", fullgraph=True)
    x = values(rank(), 4 * 6 * world()).view(4, -1)
    for found, expected in zip(compiled(x, group), functional_by_hand(rank()), strict=True):
        torch.testing.assert_close(torch.as_tensor(found), expected)


# Groups, meshes, objects


@check
def a_mesh_of_two_dimensions_has_a_group_for_each_row_and_column(_group):
    mesh = init_device_mesh("cpu", (1, world()), mesh_dim_names=("row", "column"))
    x = torch.tensor([float(rank() + 1)])
    dist.all_reduce(x, group=mesh["column"].get_group())
    expect_equal(x, torch.tensor([world() * (world() + 1) / 2]))
    dist.all_reduce(x, group=mesh["row"].get_group())
    expect_equal(x, torch.tensor([world() * (world() + 1) / 2]))
    flat = mesh._flatten("all")
    dist.broadcast(x.fill_(rank()), src=world() - 1, group=flat.get_group())
    expect_equal(x, torch.tensor([world() - 1.0]))


@check
def subgroups_by_enumeration_keep_to_themselves(_group):
    halves = [list(range(world() - 1)), [world() - 1]]
    mine, _ = dist.new_subgroups_by_enumeration(halves)
    members = next(half for half in halves if rank() in half)
    x = values(rank(), 100)
    dist.all_reduce(x, group=mine)
    expect_equal(x, sum(values(r, 100) for r in members))
    dist.destroy_process_group(mine)


@check
def objects_are_gathered_scattered_broadcast_and_sent(group):
    def thing(r: int) -> dict[str, object]:
        return {"rank": r, "tensor": values(r, 3).tolist(), "text": "x" * (r * 5000)}

    everything = [thing(r) for r in range(world())]
    last = world() - 1
    found = [None] * world()
    dist.all_gather_object(found, thing(rank()), group=group)
    assert found == everything
    found = [None] * world() if rank() == last else None
    dist.gather_object(thing(rank()), found, dst=last, group=group)
    assert found == (everything if rank() == last else None)
    mine = [None]
    dist.scatter_object_list(mine, everything if rank() == 0 else None, src=0, group=group)
    assert mine == [thing(rank())]
    given = everything if rank() == last else [None] * world()
    dist.broadcast_object_list(given, src=last, group=group)
    assert given == everything
    if rank() == 0:
        dist.send_object_list([thing(7)], dst=last, group=group)
    elif rank() == last:
        received = [None]
        assert dist.recv_object_list(received, src=0, group=group) == 0
        assert received == [thing(7)]


@contextlib.contextmanager
def debugging() -> Iterator[dist.ProcessGroup]:
    """Form a group as under TORCH_DISTRIBUTED_DEBUG=DETAIL, which wraps the backend."""
    before = dist.get_debug_level()
    dist.set_debug_level(dist.DebugLevel.DETAIL)
    try:
        group = dist.new_group()
        yield group
        dist.destroy_process_group(group)
    finally:
        dist.set_debug_level(before)


@check
def the_debug_level_detail_leaves_results_alone(_group):
    with debugging() as group:
        x = values(rank(), 1000)
        dist.all_reduce(x, group=group)
        expect_equal(x, sum(values(r, 1000) for r in range(world())))
        out = [torch.empty(5) for _ in range(world())]
        dist.all_gather(out, values(rank(), 5), group=group)
        for r, found in enumerate(out):
            expect_equal(found, values(r, 5))
        dist.barrier(group)


@check
def the_debug_level_detail_names_a_mismatch(_group):
    with debugging() as group:
        x = torch.ones(10 + rank())
        error = raised_by(dist.all_reduce, x, group=group)
        assert "mismatch" in str(error), error


if __name__ == "__main__":
    main()
