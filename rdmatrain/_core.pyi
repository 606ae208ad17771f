"""The C core: communicators over shm and tcp, without torch."""

from collections.abc import Sequence
from typing import final

from typing_extensions import Buffer, CapsuleType

TORCH_MINOR: str
DEFAULT_CHUNK_BYTES: int
STATUSES: dict[str, tuple[int, str, str]]
DTYPES: tuple[str, ...]
REDOPS: tuple[str, ...]
COLLS: tuple[str, ...]

def rdma_devices() -> list[str]: ...
@final
class Work:
    def wait(self, timeout: float | None = None) -> None: ...
    def done(self) -> bool: ...

@final
class Comm:
    def __new__(
        cls, rank: int, world: int, token: bytes, chunk_bytes: int = 0, spin_ns: int = 0
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
        timeout: float | None = None,
        background: bool = False,
    ) -> Work: ...
    def abort(self, reason: str, /) -> None: ...
    def detach(self) -> CapsuleType: ...
    def close(self) -> None: ...
