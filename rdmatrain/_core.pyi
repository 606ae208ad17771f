"""The C core: communicators over shm and tcp, without torch."""

from collections.abc import Sequence
from typing import final

from typing_extensions import Buffer, CapsuleType

TORCH_MINOR: str
TUNING: dict[str, str]
STATUSES: dict[str, tuple[int, str, str]]
DTYPES: tuple[str, ...]
REDOPS: tuple[str, ...]
COLLS: tuple[str, ...]
ANY_PEER: int

def check_tuning(changes: dict[str, int], /) -> None: ...
def default_tuning(world: int, /) -> dict[str, int]: ...
def rdma_devices() -> list[str]: ...
def arena_open() -> None: ...
def arena_stats() -> dict[str, int]: ...
def arena_offset(addr: int, nbytes: int, /) -> int | None: ...
def arena_buffer(nbytes: int, /) -> memoryview: ...
@final
class Work:
    def wait(self, timeout: float | None = None) -> None: ...
    def done(self) -> bool: ...
    def peer(self) -> int: ...

@final
class Comm:
    def __new__(
        cls,
        rank: int,
        world: int,
        token: bytes,
        spin_ns: int = 0,
        tuning: dict[str, int] | None = None,
    ) -> Comm: ...
    def listen(self, transport: str, arg: str | None = None) -> bytes: ...
    def connect(self, peers: Sequence[tuple[str, bytes, str]], timeout: float | None) -> None: ...
    def transport(self, rank: int, /) -> str: ...
    def post(
        self,
        coll: str,
        dtype: str = "uint8",
        op: str = "SUM",
        *,
        in_: Buffer | None = None,
        out: Buffer | None = None,
        peer: int = 0,
        tag: int = 0,
        factor: float = 0.0,
        shape: Sequence[int] | None = None,
        in_counts: Sequence[int] | None = None,
        out_counts: Sequence[int] | None = None,
        timeout: float | None = None,
        background: bool = False,
    ) -> Work: ...
    def abort(self, reason: str, /) -> None: ...
    def detach(self) -> CapsuleType: ...
    def close(self) -> None: ...
