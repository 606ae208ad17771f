"""For training loops: checkpoints that are whole or not there, and a sampler that resumes."""

from rdmatrain.errors import CheckpointError
from rdmatrain.train.checkpoint import Checkpoint, Checkpoints
from rdmatrain.train.sampler import ElasticSampler

__all__ = ["Checkpoint", "CheckpointError", "Checkpoints", "ElasticSampler"]
