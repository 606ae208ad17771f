"""Ways to train the demo's GPT over several ranks, against one process on the whole batch.

Everything is float32, and all ways add the same numbers in different orders, so losses and weights
may differ by rounding only. SGD keeps it so: AdamW, which the demo trains with, turns the last bits
of a gradient near zero into steps of any size, and would not notice gradients of a wrong scale.
"""

import argparse
import copy
import importlib.util
from functools import cache
from pathlib import Path

import torch
import torch.distributed as dist
from checklib import check, main
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.pipelining import PipelineStage
from torch.distributed.pipelining.schedules import (
    Schedule1F1B,
    ScheduleGPipe,
    ScheduleInterleaved1F1B,
    ScheduleInterleavedZeroBubble,
)
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    PrepareModuleInput,
    RowwiseParallel,
    SequenceParallel,
    parallelize_module,
)

SCRIPT = Path(__file__).parents[3] / "launch" / "train_gpt.py"
STEPS, LAYERS, BATCH = 3, 4, 12
ARGS = argparse.Namespace(seq_len=16, layers=LAYERS, heads=4, width=32, seed=5, global_batch=BATCH)
ROUNDING = {"rtol": 1e-5, "atol": 2e-6}


def load_script():
    spec = importlib.util.spec_from_file_location("train_gpt", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


train_gpt = load_script()
TEXT = torch.frombuffer(bytearray(SCRIPT.read_bytes()), dtype=torch.uint8)


def new_model() -> nn.Module:
    torch.manual_seed(ARGS.seed)
    return train_gpt.GPT(ARGS)


def new_optimizer(parameters) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.3, momentum=0.9)


def batch(step: int, part: int = 0, parts: int = 1) -> torch.Tensor:
    return train_gpt.batch(TEXT, ARGS, step, part, parts)


@cache
def one_process() -> tuple[list[float], dict[str, torch.Tensor]]:
    """Losses of each step, and the weights after the last."""
    model = new_model()
    optimizer = new_optimizer(model.parameters())
    losses = []
    for step in range(STEPS):
        loss = train_gpt.loss_of(model, batch(step))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses, model.state_dict()


def train(model: nn.Module, part: int, parts: int, group: dist.ProcessGroup | None) -> list[float]:
    """Train on one part of each batch; return the mean losses over the group."""
    optimizer = new_optimizer(model.parameters())
    losses = []
    for step in range(STEPS):
        loss = train_gpt.loss_of(model, batch(step, part, parts))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        mean = loss.detach()
        mean = mean.full_tensor() if isinstance(mean, DTensor) else mean.clone()
        dist.all_reduce(mean, group=group)
        losses.append(mean.item() / dist.get_world_size(group))
    return losses


def expect_as_one_process(losses: list[float], weights: dict[str, torch.Tensor]) -> None:
    expected_losses, expected_weights = one_process()
    torch.testing.assert_close(torch.tensor(losses), torch.tensor(expected_losses), **ROUNDING)
    for name, found in weights.items():
        whole = found.full_tensor() if isinstance(found, DTensor) else found
        expected = expected_weights[name]
        torch.testing.assert_close(whole, expected, **ROUNDING, msg=lambda m, n=name: f"{n}: {m}")


def shard(model: nn.Module, mesh: DeviceMesh, **options: object) -> nn.Module:
    for layer in model.layers.layers:
        fully_shard(layer, mesh=mesh, **options)
    return fully_shard(model, mesh=mesh, **options)


def slice_tensors(model: nn.Module, mesh: DeviceMesh) -> nn.Module:
    """Slice the embedding, the feed-forward layers and the head; the last norm by the sequence."""
    cut = PrepareModuleInput(input_layouts=Replicate(), desired_input_layouts=Shard(1))
    model = parallelize_module(model, mesh, {"norm": cut})
    plan = {
        "byte": RowwiseParallel(input_layouts=Replicate()),
        "norm": SequenceParallel(),
        "head": ColwiseParallel(input_layouts=Shard(1), output_layouts=Replicate()),
    }
    for layer in range(LAYERS):
        plan[f"layers.layers.{layer}.linear1"] = ColwiseParallel()
        plan[f"layers.layers.{layer}.linear2"] = RowwiseParallel()
    return parallelize_module(model, mesh, plan)


@check
def fsdp2(_group):
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    model = shard(new_model(), mesh)
    losses = train(model, dist.get_rank(), dist.get_world_size(), None)
    expect_as_one_process(losses, model.state_dict())


@check
def fsdp2_with_memory_of_the_group_and_gradients_kept_whole_between_steps(_group):
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    model = shard(new_model(), mesh, reshard_after_forward=False)
    model.set_allocate_memory_from_process_group_for_comm(True)
    losses = train(model, dist.get_rank(), dist.get_world_size(), None)
    expect_as_one_process(losses, model.state_dict())


@check
def fsdp2_with_gradients_reduced_in_bfloat16(_group):
    """Rounds what it sends, so it is held against the same over Gloo."""
    weights = []
    for backend in (None, "gloo"):
        group = dist.new_group(backend=backend)
        policy = MixedPrecisionPolicy(reduce_dtype=torch.bfloat16)
        model = shard(new_model(), DeviceMesh.from_group(group, "cpu"), mp_policy=policy)
        train(model, dist.get_rank(), dist.get_world_size(), group)
        weights.append({name: w.full_tensor() for name, w in model.state_dict().items()})
        dist.destroy_process_group(group)
    for name, found in weights[0].items():
        torch.testing.assert_close(found, weights[1][name], rtol=1e-2, atol=1e-3)


@check
def tensor_parallel(_group):
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    model = slice_tensors(new_model(), mesh)
    losses = train(model, 0, 1, None)
    expect_as_one_process(losses, model.state_dict())


@check
def fsdp2_over_tensor_parallel_on_a_mesh_of_two_dimensions(_group):
    halves = dist.get_world_size() // 2
    mesh = init_device_mesh("cpu", (halves, 2), mesh_dim_names=("data", "tensor"))
    model = shard(slice_tensors(new_model(), mesh["tensor"]), mesh["data"])
    data = mesh["data"]
    losses = train(model, data.get_local_rank(), data.size(), data.get_group())
    expect_as_one_process(losses, model.state_dict())


@check
def fsdp2_sharded_inside_and_replicated_across_halves(_group):
    halves = dist.get_world_size() // 2
    mesh = init_device_mesh("cpu", (halves, 2), mesh_dim_names=("replicate", "shard"))
    model = shard(new_model(), mesh)
    losses = train(model, dist.get_rank(), dist.get_world_size(), None)
    expect_as_one_process(losses, model.state_dict())


class Stage(nn.Module):
    """Some layers of the GPT, with the embedding before the first and the head after the last."""

    def __init__(self, gpt: nn.Module, first: int, last: int) -> None:
        super().__init__()
        self.first, self.last = first == 0, last == LAYERS
        if self.first:
            self.byte, self.position = gpt.byte, gpt.position
        self.layers = nn.ModuleDict({str(i): gpt.layers.layers[i] for i in range(first, last)})
        if self.last:
            self.norm, self.head = gpt.norm, gpt.head

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        if self.first:
            h = self.byte(h) + self.position[: h.shape[1]]
        mask = nn.Transformer.generate_square_subsequent_mask(h.shape[1])
        for layer in self.layers.values():
            h = layer(h, src_mask=mask, is_causal=True)
        return self.head(self.norm(h)) if self.last else h

    def weights(self) -> dict[str, torch.Tensor]:
        """Return them by the names that they have in the GPT."""
        return {n.replace("layers.", "layers.layers."): w for n, w in self.state_dict().items()}


def cross_entropy(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return nn.functional.cross_entropy(logits.flatten(0, 1), target.flatten())


def train_in_a_pipeline(schedule_class: type, stages_a_rank: int) -> None:
    """Two ranks in a pipeline; with more ranks, several pipelines that average their gradients."""
    mesh = init_device_mesh("cpu", (dist.get_world_size() // 2, 2), mesh_dim_names=("data", "pipe"))
    pipe, data = mesh["pipe"].get_group(), mesh["data"].get_group()
    gpt, num_stages = new_model(), 2 * stages_a_rank
    depth = LAYERS // num_stages
    mine = range(dist.get_rank(pipe), num_stages, 2)
    modules = [Stage(gpt, i * depth, (i + 1) * depth) for i in mine]
    stages = [
        PipelineStage(module, i, num_stages, torch.device("cpu"), group=pipe)
        for module, i in zip(modules, mine, strict=True)
    ]
    # Schedules of one stage a rank take the stage, the others a list.
    schedule = schedule_class(
        stages[0] if stages_a_rank == 1 else stages, n_microbatches=2, loss_fn=cross_entropy
    )
    optimizer = new_optimizer(p for module in modules for p in module.parameters())
    losses = []
    for step in range(STEPS):
        rows = batch(step, dist.get_rank(data), dist.get_world_size(data))
        parts: list[torch.Tensor] = []
        optimizer.zero_grad()
        inputs = [rows[:, :-1]] if 0 in mine else []
        last = num_stages - 1 in mine
        schedule.step(*inputs, **({"target": rows[:, 1:], "losses": parts} if last else {}))
        for module in modules:
            for parameter in module.parameters():
                dist.all_reduce(parameter.grad, op=dist.ReduceOp.AVG, group=data)
        optimizer.step()
        mean = torch.stack(parts).mean().detach() if last else torch.zeros(())
        dist.broadcast(mean, group_src=1, group=pipe)
        dist.all_reduce(mean, op=dist.ReduceOp.AVG, group=data)
        losses.append(mean.item())
    for module in modules:
        expect_as_one_process(losses, module.weights())


@check
def a_pipeline_of_two_stages_all_forward_then_all_backward(_group):
    train_in_a_pipeline(ScheduleGPipe, 1)


@check
def a_pipeline_of_two_stages_one_forward_one_backward(_group):
    train_in_a_pipeline(Schedule1F1B, 1)


@check
def a_pipeline_of_four_stages_interleaved(_group):
    train_in_a_pipeline(ScheduleInterleaved1F1B, 2)


@check
def a_pipeline_of_four_stages_without_bubbles(_group):
    train_in_a_pipeline(ScheduleInterleavedZeroBubble, 2)


@check
def plain_data_parallel(group):
    model = nn.parallel.DistributedDataParallel(copy.deepcopy(new_model()), process_group=group)
    losses = train(model, dist.get_rank(), dist.get_world_size(), group)
    expect_as_one_process(losses, model.module.state_dict())


if __name__ == "__main__":
    main()
