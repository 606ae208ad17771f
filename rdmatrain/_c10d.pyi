"""The c10d::Backend over rdmatrain._core; built for one torch minor."""

from datetime import timedelta

import torch.distributed
from typing_extensions import CapsuleType

TORCH_VERSION: str

class Backend(torch.distributed.distributed_c10d.Backend):
    def __init__(self, rank: int, size: int, comm: CapsuleType, timeout: timedelta) -> None: ...
    def transport(self, rank: int) -> str: ...
