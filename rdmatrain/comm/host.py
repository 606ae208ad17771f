"""Where this process is: which other processes it can share memory with, and its address."""

import hashlib
import os
import socket
from collections.abc import Sequence
from pathlib import Path

from rdmatrain.config import rank_env
from rdmatrain.errors import BootstrapError


def host_id() -> str:
    """Identify what two ranks must share to use shm: the running kernel and the network namespace.

    The unix socket that memory is passed over lives in the network namespace, so two pods on one
    node have different ids, and so have two namespaces that play two hosts in a test.
    """
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    namespace = Path("/proc/self/ns/net").stat().st_ino
    return hashlib.sha256(f"{boot_id}/{namespace}".encode()).hexdigest()[:16]


def label() -> str:
    """Name this process in error texts of its peers."""
    return f"host {socket.gethostname()}, pid {os.getpid()}"


def cpu_mask() -> int:
    """CPUs that this process may run on: bit i stands for CPU i."""
    return sum(1 << cpu for cpu in os.sched_getaffinity(0))


def share_cpus(masks: Sequence[int]) -> bool:
    """Tell whether ranks cannot have a CPU each; masks are the CPUs that each may run on."""
    taken: dict[int, int] = {}  # CPU -> rank: a bipartite matching, by augmenting paths

    def place(rank: int, tried: set[int]) -> bool:
        for cpu in range(masks[rank].bit_length()):
            if not masks[rank] >> cpu & 1 or cpu in tried:
                continue
            tried.add(cpu)
            if cpu not in taken or place(taken[cpu], tried):
                taken[cpu] = rank
                return True
        return False

    return not all(place(rank, set()) for rank in range(len(masks)))


def local_place(rank: int, neighbours: Sequence[int]) -> tuple[int, int]:
    """Return a rank's number among those of its host, from 0, and how many these are.

    In the job where its launcher said so, else in the group: then it may differ between groups.

    Args:
        rank: in the group.
        neighbours: ranks of the group that are on its host.

    """
    job = rank_env()
    if job.local_rank is not None and job.local_rank < (job.local_world_size or 0):
        return job.local_rank, job.local_world_size or 0
    return neighbours.index(rank), len(neighbours)


def listen_address(wanted: str, master_addr: str, *, one_host: bool) -> str:
    """Choose the numeric address that this rank's tcp listener binds to.

    Args:
        wanted: ``RDMATRAIN_ADDR``: a name or an address of this host; it wins when not empty.
        master_addr: ``MASTER_ADDR``: otherwise the address that the way to it leaves from.
        one_host: all ranks are on this host, where loopback will do.

    Raises:
        BootstrapError: nothing usable; says what to set.

    """
    if wanted:
        return _resolve(wanted, "RDMATRAIN_ADDR")
    if one_host:
        return "127.0.0.1"
    if not master_addr:
        raise BootstrapError(
            "the ranks are on several hosts, and neither RDMATRAIN_ADDR nor MASTER_ADDR says which "
            "address peers can reach this rank at: set RDMATRAIN_ADDR to an address of this host"
        )
    address = _source_address(_resolve(master_addr, "MASTER_ADDR"), master_addr)
    if address.startswith("127.") or address == "::1":
        raise BootstrapError(
            f"the ranks are on several hosts, but the way to MASTER_ADDR={master_addr} leaves from "
            f"{address}, which other hosts cannot reach: set MASTER_ADDR to an address of rank 0's "
            "host, or RDMATRAIN_ADDR to an address of this host"
        )
    return address


def route_from(name: str) -> str:
    """Return the address that the way to a host leaves from; empty if the name leads nowhere."""
    try:
        return _source_address(_resolve(name, "host"), name)
    except BootstrapError:
        return ""


def _resolve(name: str, variable: str) -> str:
    try:
        return str(socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)[0][4][0])
    except OSError as error:
        raise BootstrapError(f"{variable}={name} cannot be resolved: {error}") from error


def _source_address(target: str, name: str) -> str:
    family = socket.AF_INET6 if ":" in target else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((target, 9))  # sends nothing: a datagram socket only asks for the route
        except OSError as error:
            raise BootstrapError(f"no route to MASTER_ADDR={name} ({target}): {error}") from error
        return str(probe.getsockname()[0])
