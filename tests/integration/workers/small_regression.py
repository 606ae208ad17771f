"""A model, its data, and the same training in one process of plain torch: what users' programs and
their oracle share.
"""

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

ROWS, BATCH, RATE, MAX_NORM = 48, 4, 0.05, 1.0


def new_model() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 1)).double()


def new_optimizer(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), RATE, momentum=0.9)


def dataset() -> TensorDataset:
    x = torch.arange(ROWS * 5, dtype=torch.float64).view(ROWS, 5).mul(0.37).sin()
    return TensorDataset(x, x.sum(1, keepdim=True).sin())


def loader(batch: int = BATCH) -> DataLoader:
    return DataLoader(dataset(), batch_size=batch)


def train_alone(world: int) -> tuple[list[float], nn.Module]:
    """Train on the batches of all ranks put together; return the losses and the model."""
    model = new_model()
    optimizer = new_optimizer(model)
    losses = []
    for x, y in loader(world * BATCH):
        loss = nn.functional.mse_loss(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), MAX_NORM)
        optimizer.step()
        losses.append(loss.item())
    return losses, model


def difference(losses: list[float], model: nn.Module, world: int) -> float:
    """Return the largest difference of a loss or a weight from those of one process."""
    alone_losses, alone = train_alone(world)
    pairs = [(torch.tensor(losses), torch.tensor(alone_losses))]
    pairs += zip(model.parameters(), alone.parameters(), strict=True)
    return max(float((a - b).detach().abs().max()) for a, b in pairs)
