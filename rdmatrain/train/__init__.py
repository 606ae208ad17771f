"""For training loops: steps that resume with the same bits, checkpoints whole or not there."""

from typing import TYPE_CHECKING

from rdmatrain.errors import CheckpointError
from rdmatrain.train.checkpoint import Checkpoint, Checkpoints
from rdmatrain.train.goodput import Goodput
from rdmatrain.train.preemption import PREEMPTED, Preemption
from rdmatrain.train.sampler import ElasticSampler
from rdmatrain.train.training import Training

if TYPE_CHECKING:
    from rdmatrain.train.sharded import ShardedCheckpoints, ShardedState

__all__ = [
    "PREEMPTED",
    "Checkpoint",
    "CheckpointError",
    "Checkpoints",
    "ElasticSampler",
    "Goodput",
    "Preemption",
    "ShardedCheckpoints",
    "ShardedState",
    "Training",
]


def __getattr__(name: str) -> object:
    if name in {"ShardedCheckpoints", "ShardedState"}:
        # Only here: torch.distributed.checkpoint takes a second to import.
        from rdmatrain.train import sharded  # noqa: PLC0415

        return getattr(sharded, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
