"""The c10d::Backend over rdmatrain._core; built for one torch minor."""

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import torch
import torch.distributed
from typing_extensions import CapsuleType

TORCH_VERSION: str

def set_factory(factory: Callable[..., Backend]) -> None: ...
def close_all() -> None: ...
def install_allocator() -> None: ...
def arena_empty(size: Sequence[int], dtype: torch.dtype) -> torch.Tensor: ...

class Options(torch._C._distributed_c10d.Backend.Options):
    transport: str
    require: str
    group_desc: str
    def __init__(
        self, timeout: timedelta | None = None, *, transport: str = "", require: str = ""
    ) -> None: ...
    def __deepcopy__(self, memo: object) -> Options: ...

class Backend(torch.distributed.distributed_c10d.Backend):
    def __init__(
        self,
        store: torch.distributed.Store,
        rank: int,
        size: int,
        comm: CapsuleType,
        options: Options,
        note: str = "",
    ) -> None: ...
    @property
    def options(self) -> Options: ...
    def get_error(self) -> torch._C._distributed_c10d.ErrorType: ...
    def transport(self, rank: int) -> str: ...
    def stats(self, rank: int) -> dict[str, Any]: ...
    @property
    def note(self) -> str: ...
