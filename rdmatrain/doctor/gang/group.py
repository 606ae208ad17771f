"""The job's group, formed as a job forms it, and an all_gather in which every byte is compared."""

import hashlib
from dataclasses import dataclass
from time import monotonic

from rdmatrain import _core
from rdmatrain.comm.bootstrap import Place, Store, Turn, connect, forming
from rdmatrain.config import Settings
from rdmatrain.errors import RdmatrainError

BLOCK = 64 << 10


@dataclass(frozen=True)
class Group:
    """How it went.

    Attributes:
        turn: what the bootstrap chose; None where not even that.
        error: why it did not form, or what went wrong in it.
        gathered: bytes of each rank that were compared.
        wrong_ranks: whose bytes were wrong.
        comm: stays open until all ranks are done: who is slower would lose a peer.

    """

    turn: Turn | None
    error: str = ""
    gathered: int = 0
    wrong_ranks: tuple[int, ...] = ()
    comm: _core.Comm | None = None

    def close(self) -> None:
        """End the group. Idempotent."""
        if self.comm is not None:
            self.comm.close()


def form(store: Store, place: Place, settings: Settings, secret: bytes) -> Group:
    """Form the group, and use it once.

    Args:
        store: the group's own part.
        place: of this rank.
        settings: the job's.
        secret: the job's.

    """
    kept: Turn | None = None
    comm: _core.Comm | None = None
    end = monotonic() + place.timeout
    try:
        with forming(store, place) as turn:
            kept = turn
            comm = connect(turn, settings, secret)
        gathered, wrong_ranks = exchange(comm, place, max(end - monotonic(), 1.0))
    except (RdmatrainError, MemoryError, ValueError) as error:
        return Group(kept, str(error), comm=comm)
    return Group(kept, "", gathered, wrong_ranks, comm)


def exchange(comm: _core.Comm, place: Place, timeout_s: float) -> tuple[int, tuple[int, ...]]:
    """Gather a block of each rank; returns its size, and whose are wrong.

    Args:
        comm: the group.
        place: of this rank.
        timeout_s: longest time for it.

    """
    mine, every = payload(place.rank, BLOCK), bytearray(BLOCK * place.world)
    comm.post("all_gather", in_=mine, out=every, timeout=timeout_s).wait(timeout_s)
    return BLOCK, wrong_blocks(every, place.world)


def payload(rank: int, nbytes: int) -> bytes:
    """Return a rank's bytes: each depends on the rank and on its place."""
    return hashlib.shake_128(f"rdmatrain doctor, rank {rank}".encode()).digest(nbytes)


def wrong_blocks(every: bytes | bytearray, world: int) -> tuple[int, ...]:
    """Return the ranks whose blocks are not what they sent."""
    size = len(every) // world
    return tuple(
        rank
        for rank in range(world)
        if every[rank * size : (rank + 1) * size] != payload(rank, size)
    )
