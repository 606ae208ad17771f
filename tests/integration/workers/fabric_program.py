"""A program for Lightning Fabric, as for any backend: its name is the argument."""

import sys

import torch
from checklib import note
from lightning_fabric import Fabric
from lightning_fabric.strategies import DDPStrategy
from small_regression import MAX_NORM, difference, loader, new_model, new_optimizer
from torch import nn


def main() -> None:
    fabric = Fabric(
        accelerator="cpu", devices=2, strategy=DDPStrategy(process_group_backend=sys.argv[1])
    )
    fabric.launch()
    model = new_model()
    model, optimizer = fabric.setup(model, new_optimizer(model))
    losses = []
    for x, y in fabric.setup_dataloaders(loader()):
        loss = nn.functional.mse_loss(model(x), y)
        optimizer.zero_grad()
        fabric.backward(loss)
        fabric.clip_gradients(model, optimizer, max_norm=MAX_NORM)
        optimizer.step()
        losses.append(fabric.all_reduce(loss.detach(), reduce_op="mean").item())
    rank = fabric.global_rank
    note(
        steps=len(losses),
        difference=difference(losses, model.module, fabric.world_size),
        gathered=fabric.all_gather(torch.tensor([rank, 7])).tolist(),
        told=fabric.broadcast(f"by {rank}", src=1),
    )
    fabric.barrier()


if __name__ == "__main__":
    main()
