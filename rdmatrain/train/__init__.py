"""For training loops: checkpoints that are whole or not there."""

from rdmatrain.errors import CheckpointError
from rdmatrain.train.checkpoint import Checkpoint, Checkpoints

__all__ = ["Checkpoint", "CheckpointError", "Checkpoints"]
