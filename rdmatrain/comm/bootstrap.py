"""Agree on a group through a store, then connect it.

What is written to the store, all as JSON under the group's own prefix:

==============  =======================================================================
``claim/RANK``  a counter: two processes that both believe to be RANK are told apart
``hello/RANK``  who the rank is: world size, host, version, settings; rank 0 adds the token
``wire/RANK``   the rank's address for each transport that it listens on
``fault``       why a rank gave up, so that the others need not wait for it
==============  =======================================================================
"""

import json
import logging
import secrets
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from time import monotonic
from typing import Protocol

from rdmatrain import __version__, _core
from rdmatrain.comm import host
from rdmatrain.config import Settings
from rdmatrain.errors import BootstrapError, CommError

logger = logging.getLogger(__name__)

POLL_SECONDS = 1.0
# A waiter polls this long before it sleeps: longer than most collectives of a training step last.
SPIN_NS = 50_000


class Store(Protocol):
    """What is needed of ``torch.distributed.Store``."""

    def set(self, key: str, value: str, /) -> None: ...  # noqa: D102
    def get(self, key: str, /) -> bytes: ...  # noqa: D102
    def add(self, key: str, amount: int, /) -> int: ...  # noqa: D102
    def check(self, keys: list[str], /) -> bool: ...  # noqa: D102
    def wait(self, keys: list[str], timeout: timedelta, /) -> None: ...  # noqa: D102


@dataclass(frozen=True)
class Hello:
    """What a rank says of itself before it listens anywhere."""

    rank: int
    world: int
    version: str
    host_id: str
    label: str
    transport: str
    token: str = ""


@dataclass(frozen=True)
class Place:
    """A rank's place in the group that is to be formed, and how long it may take (seconds)."""

    rank: int
    world: int
    timeout: float
    master_addr: str = ""


def connect(store: Store, place: Place, settings: Settings) -> _core.Comm:
    """Form the group: every rank calls it with its own place.

    Returns:
        A connected communicator.

    Raises:
        BootstrapError: ranks disagree, or one did not come within the timeout; names it.

    """
    deadline = monotonic() + place.timeout
    try:
        hellos = _exchange_hellos(store, place, settings, deadline)
        comm = _listen_and_connect(store, place, settings, hellos, deadline)
        _check_fault(store, place)
    except BootstrapError as error:
        store.set("fault", f"rank {place.rank}: {error}")
        raise
    except (CommError, ValueError, MemoryError) as error:
        store.set("fault", f"rank {place.rank}: {error}")
        raise BootstrapError(f"rank {place.rank} of {place.world}: {error}") from error
    return comm


def _exchange_hellos(
    store: Store, place: Place, settings: Settings, deadline: float
) -> list[Hello]:
    if store.add(f"claim/{place.rank}", 1) > 1:
        raise BootstrapError(
            f"two processes are rank {place.rank} of this group: this one is {host.label()}; "
            "check RANK, or --node-rank of each host"
        )
    mine = Hello(
        rank=place.rank,
        world=place.world,
        version=__version__,
        host_id=host.host_id(),
        label=host.label(),
        transport=settings.transport,
        token=secrets.token_hex(16) if place.rank == 0 else "",
    )
    store.set(f"hello/{place.rank}", json.dumps(asdict(mine)))
    hellos = []
    for rank in range(place.world):
        hello = Hello(**json.loads(_get(store, place, f"hello/{rank}", rank, deadline)))
        _compare(mine, hello)
        hellos.append(hello)
    return hellos


def _compare(mine: Hello, other: Hello) -> None:
    for field, what in (
        ("world", "world size"),
        ("version", "rdmatrain version"),
        ("transport", "RDMATRAIN_TRANSPORT"),
    ):
        ours, theirs = getattr(mine, field), getattr(other, field)
        if ours != theirs:
            raise BootstrapError(
                f"ranks disagree about the {what}: rank {mine.rank} ({mine.label}) has {ours}, "
                f"rank {other.rank} ({other.label}) has {theirs}"
            )


def choose_transport(setting: str, mine: Hello, other: Hello) -> str:
    """Choose how two ranks are joined: shm inside a host, else tcp; or what the setting requires.

    Raises:
        BootstrapError: the setting requires shm, and the two are on different hosts.

    """
    same_host = mine.host_id == other.host_id
    if setting == "shm" and not same_host:
        raise BootstrapError(
            f"RDMATRAIN_TRANSPORT=shm, but rank {mine.rank} ({mine.label}) and rank {other.rank} "
            f"({other.label}) share no host or network namespace: unset it, or set it to auto"
        )
    if setting == "auto":
        return "shm" if same_host else "tcp"
    return setting


def _listen_and_connect(
    store: Store, place: Place, settings: Settings, hellos: Sequence[Hello], deadline: float
) -> _core.Comm:
    mine = hellos[place.rank]
    chosen = [
        "self" if other is mine else choose_transport(settings.transport, mine, other)
        for other in hellos
    ]
    neighbours = sum(other.host_id == mine.host_id for other in hellos)
    comm = _core.Comm(
        place.rank,
        place.world,
        bytes.fromhex(hellos[0].token),
        spin_ns=SPIN_NS if neighbours <= host.num_cpus() else 0,
    )
    wires = _listen(comm, place, settings, chosen, one_host=neighbours == place.world)
    store.set(f"wire/{place.rank}", json.dumps(wires))
    peers = []
    for other, transport in zip(hellos, chosen, strict=True):
        wire = ""
        if transport != "self":
            wire = json.loads(_get(store, place, f"wire/{other.rank}", other.rank, deadline))[
                transport
            ]
        peers.append((transport, bytes.fromhex(wire), other.label))
    comm.connect(peers, max(deadline - monotonic(), 0.0))
    logger.info("rank %d of %d is joined to its peers over %s", place.rank, place.world, chosen)
    return comm


def _listen(
    comm: _core.Comm, place: Place, settings: Settings, chosen: Sequence[str], *, one_host: bool
) -> dict[str, str]:
    wires = {}
    if "shm" in chosen:
        wires["shm"] = comm.listen("shm").hex()
    if "tcp" in chosen:
        address = host.listen_address(settings.addr, place.master_addr, one_host=one_host)
        wires["tcp"] = comm.listen("tcp", address).hex()
    return wires


def _check_fault(store: Store, place: Place) -> None:
    if store.check(["fault"]):
        raise BootstrapError(
            f"rank {place.rank} of {place.world}: the group cannot form: "
            f"{store.get('fault').decode()}"
        )


def _get(store: Store, place: Place, key: str, rank: int, deadline: float) -> bytes:
    while not store.check([key]):
        _check_fault(store, place)
        left = deadline - monotonic()
        if left <= 0:
            raise BootstrapError(
                f"rank {place.rank} of {place.world} waited {place.timeout:.0f} s for rank {rank} "
                "to join the group: is that process running, and has it the same MASTER_ADDR, "
                "MASTER_PORT and WORLD_SIZE?"
            )
        _wait(store, key, min(left, POLL_SECONDS))
    return store.get(key)


def _wait(store: Store, key: str, seconds: float) -> None:
    """Wait for the key, or for the time to pass: the caller looks which."""
    try:
        store.wait([key], timedelta(seconds=seconds))
    except RuntimeError as error:  # torch's DistStoreError, which has no torch-free name
        logger.debug("no %s yet: %s", key, error)
