"""A program for Hugging Face accelerate, as for any backend: its name is the argument.

On CPU accelerate itself asks for Gloo by name, but takes the group that it finds.
"""

import sys

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object
from checklib import note
from small_regression import MAX_NORM, difference, loader, new_model, new_optimizer
from torch import nn


def main() -> None:
    dist.init_process_group(sys.argv[1])
    accelerator = Accelerator(cpu=True)
    model = new_model()
    model, optimizer, batches = accelerator.prepare(model, new_optimizer(model), loader())
    losses = []
    for x, y in batches:
        loss = nn.functional.mse_loss(model(x), y)
        optimizer.zero_grad()
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(model.parameters(), MAX_NORM)
        optimizer.step()
        losses.append(accelerator.reduce(loss.detach(), "mean").item())
    rank, world = accelerator.process_index, accelerator.num_processes
    rows = accelerator.pad_across_processes(torch.full((rank + 1,), rank + 1))
    note(
        kind=str(accelerator.distributed_type),
        steps=len(losses),
        difference=difference(losses, accelerator.unwrap_model(model), world),
        gathered=accelerator.gather(rows).tolist(),
        objects=gather_object([{"rank": rank}]),
        told=broadcast_object_list([f"by {rank}"]),
        metrics=[len(accelerator.gather_for_metrics(y)) for _, y in batches],
    )
    accelerator.wait_for_everyone()
    accelerator.end_training()


if __name__ == "__main__":
    main()
