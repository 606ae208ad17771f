"""A process group for the ranks of an MPI communicator: MPI carries what a launcher would set.

Rank 0 serves the store on one address; where that is goes through MPI as text. Each step is done by
all ranks, and what fails on one is raised on all: so nobody waits for a rank that has given up.
"""

import json
import secrets
import socket
from array import array
from collections.abc import Callable, Sequence
from contextlib import closing
from datetime import timedelta
from typing import Any

import torch.distributed as dist

from rdmatrain.comm.host import route_from
from rdmatrain.config import load_settings
from rdmatrain.errors import BootstrapError

CONNECT_TIMEOUT = timedelta(seconds=30)
_NONCE_KEY = "rdmatrain/nonce"
# Torch's arguments that say what MPI says.
_SAID_BY_MPI = ("init_method", "store", "rank", "world_size")


def init_from_mpi(comm: Any, backend: str, **kwargs: Any) -> None:
    """See :func:`rdmatrain.init_from_mpi`."""
    from mpi4py import MPI  # noqa: PLC0415 - only who has it calls this

    if not isinstance(comm, MPI.Intracomm) or comm == MPI.COMM_NULL:
        raise TypeError(f"init_from_mpi needs an intracommunicator of mpi4py, got {comm!r}")
    ranks = _Ranks(comm)
    ranks.each(lambda: _check(kwargs))
    names = ranks.each(MPI.Get_processor_name)
    address = ranks.first(lambda: _address([] if ranks.on_one_host() else names))
    stores: list[Any] = []  # this rank's
    place = ranks.first(lambda: _serve(stores, address))
    ranks.each(lambda: None if stores else stores.append(_connect(*place)))

    def form() -> None:
        dist.init_process_group(
            backend, store=stores[0], rank=ranks.rank, world_size=ranks.size, **kwargs
        )

    try:
        ranks.each(form)
    except BootstrapError:
        if dist.is_initialized():
            dist.destroy_process_group()
        raise


class _Ranks:
    """The ranks of a communicator, doing the same thing at the same time."""

    def __init__(self, comm: Any) -> None:
        self.rank: int = comm.Get_rank()
        self.size: int = comm.Get_size()
        self._comm = comm
        self._one_host = _is_one_host(comm)

    def on_one_host(self) -> bool:
        """Tell whether all ranks share memory."""
        return self._one_host

    def each(self, step: Callable[[], Any]) -> list[Any]:
        """Do a step on all ranks; returns what it returned, by rank.

        Raises:
            BootstrapError: it failed somewhere; says where and why, on all ranks.

        """
        cause = None
        try:
            mine = {"value": step()}
        except Exception as error:  # whatever it is, the others must not wait
            cause = error
            mine = {"error": f"{type(error).__name__}: {error}"}
        told = self._share(mine)
        failed = [rank for rank, each in enumerate(told) if "error" in each]
        if failed:
            more = f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
            raise BootstrapError(
                f"rank {failed[0]} of {self.size}{more}: {told[failed[0]]['error']}"
            ) from cause
        return [each["value"] for each in told]

    def first(self, step: Callable[[], Any]) -> Any:
        """Do a step on rank 0 alone; returns what it returned, on all ranks."""
        return self.each(lambda: step() if self.rank == 0 else None)[0]

    def _share(self, value: Any) -> list[Any]:
        """Return every rank's value. As JSON: mpi4py's own way for objects is pickle."""
        mine = json.dumps(value).encode()
        sizes = array("i", bytes(4 * self.size))
        self._comm.Allgather(array("i", [len(mine)]), sizes)
        told = bytearray(sum(sizes))
        self._comm.Allgatherv(mine, [told, list(sizes)])
        values, start = [], 0
        for size in sizes:
            values.append(json.loads(told[start : start + size]))
            start += size
        return values


def _is_one_host(comm: Any) -> bool:
    from mpi4py import MPI  # noqa: PLC0415

    near = comm.Split_type(MPI.COMM_TYPE_SHARED)
    try:
        return bool(near.Get_size() == comm.Get_size())
    finally:
        near.Free()


def _check(kwargs: dict[str, Any]) -> None:
    wrong = sorted(set(kwargs) & set(_SAID_BY_MPI))
    if wrong:
        raise TypeError(f"{', '.join(wrong)}: not for init_from_mpi, which takes it from MPI")
    if dist.is_initialized():
        raise RuntimeError("this process has a default process group: destroy it first")


def _address(names: Sequence[str]) -> str:
    """Choose where rank 0's store listens.

    Args:
        names: the ranks' hosts, rank 0's first; empty if all are on one.

    Raises:
        BootstrapError: no address is known that the others can reach.

    """
    if not names:
        return "127.0.0.1"
    wanted = load_settings().addr
    if wanted:
        return wanted
    for name in dict.fromkeys((*names[1:], names[0])):
        address = route_from(name)
        if address and not address.startswith("127.") and address != "::1":
            return address
    raise BootstrapError(
        f"the hosts' names ({', '.join(dict.fromkeys(names))}) lead to no address of this host "
        f"({names[0]}) that the others can reach: set RDMATRAIN_ADDR on rank 0 to one"
    )


def _serve(stores: list[Any], host: str) -> tuple[str, int, str]:
    """Make the store; returns host, port, and a nonce that is in it."""
    info = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0]
    nonce = secrets.token_hex(16)
    with closing(socket.socket(info[0], info[1])) as listener:
        listener.bind(info[4])
        listener.listen(4096)
        address, port = listener.getsockname()[:2]
        store = dist.TCPStore(
            address,
            port,
            is_master=True,
            wait_for_workers=False,
            timeout=CONNECT_TIMEOUT,
            master_listen_fd=listener.detach(),
        )
    store.set(_NONCE_KEY, nonce)
    stores.append(store)
    return address, port, nonce


def _connect(host: str, port: int, nonce: str) -> Any:
    """Connect to rank 0's store, and to no other.

    Raises:
        BootstrapError: it cannot be reached, or something else is there.

    """
    advice = "set RDMATRAIN_ADDR on rank 0 to an address that all hosts can reach it at"
    try:
        store = dist.TCPStore(host, port, is_master=False, timeout=CONNECT_TIMEOUT)
        found = store.get(_NONCE_KEY).decode()
    except dist.DistError as error:
        text = str(error).partition("\n")[0]
        raise BootstrapError(
            f"rank 0's store at {host}:{port} is out of reach: {text}: {advice}"
        ) from error
    if found != nonce:  # as with addresses of bridges, which each host has
        raise BootstrapError(f"at {host}:{port} is another store than rank 0's: {advice}")
    return store
