"""The c10d::Backend over rdmatrain._core; built for one torch minor."""

from collections.abc import Sequence
from datetime import timedelta

import torch
import torch.distributed
from typing_extensions import CapsuleType

TORCH_VERSION: str

def install_allocator() -> None: ...
def arena_empty(size: Sequence[int], dtype: torch.dtype) -> torch.Tensor: ...

class Backend(torch.distributed.distributed_c10d.Backend):
    def __init__(self, rank: int, size: int, comm: CapsuleType, timeout: timedelta) -> None: ...
    def transport(self, rank: int) -> str: ...
