"""``--numa-binding``: torchrun's four ways to bind a worker to CPUs near its device.

A worker's device is its GPU; where there are none, its NIC, which torchrun does not know. Where
torchrun would fail, the CPUs are left as they are and the reason is told.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import NamedTuple

from rdmatrain.discovery.cores import sharers_of_cache, socket_of, threads_of_core
from rdmatrain.discovery.source import Source
from rdmatrain.discovery.survey import Survey, reseat

Cpus = tuple[int, ...]


class Bound(NamedTuple):
    """The CPUs of a worker; none leaves them as they are, and ``reason`` says why."""

    cpus: Cpus
    reason: str = ""


class _Host(NamedTuple):
    """What the four ways go by: all fields are about CPUs that this process may use."""

    source: Source
    cpus_of_node: dict[int, Cpus]
    node_of_device: Sequence[int | None]

    def devices_of(self, node: int) -> list[int]:
        return [place for place, own in enumerate(self.node_of_device) if own == node]


def numa_binding(mode: str, found: Survey, nproc: int, source: Source) -> tuple[Bound, ...]:
    """Choose the CPUs of each worker.

    Args:
        mode: ``node``, ``socket``, ``exclusive`` or ``core-complex``.
        found: devices, NUMA nodes, and the CPUs that may be used.
        nproc: workers of this node.
        source: this machine.

    """
    host = _host(found, nproc, source)
    return tuple(_bind(mode, host, local_rank) for local_rank in range(nproc))


def _host(found: Survey, nproc: int, source: Source) -> _Host:
    machine = found.machine
    cpus_of_node = {
        node.number: tuple(sorted(set(node.cpus) & set(machine.cpus))) for node in machine.nodes
    }
    usable = {number: cpus for number, cpus in cpus_of_node.items() if cpus}
    # A machine of one node does not say at a device which node that is.
    only = next(iter(usable)) if len(machine.nodes) == 1 and usable else None
    # As in torchrun, GPUs without a worker have their part of the CPUs too.
    seats = reseat(found, max(nproc, len(found.allocation.gpus))).bindings
    nodes = [only if seat.numa is None else seat.numa for seat in seats]
    return _Host(source, usable, nodes)


def _bind(mode: str, host: _Host, local_rank: int) -> Bound:
    devices = host.node_of_device
    node = devices[local_rank] if local_rank < len(devices) else None
    if node is None:
        return Bound((), "no device of it says which NUMA node is near")
    if node not in host.cpus_of_node:
        return Bound((), f"none of the CPUs of NUMA node {node} may be used here")
    return _MODES[mode](host, node, host.devices_of(node).index(local_rank))


def _node(host: _Host, node: int, place: int) -> Bound:
    return Bound(host.cpus_of_node[node])


def _socket(host: _Host, node: int, place: int) -> Bound:
    sockets = {n: socket_of(host.source, cpus[0]) for n, cpus in host.cpus_of_node.items()}
    if sockets[node] is None:
        return Bound((), f"the socket of NUMA node {node} is not known")
    own = [cpus for n, cpus in host.cpus_of_node.items() if sockets[n] == sockets[node]]
    return Bound(tuple(sorted(cpu for cpus in own for cpu in cpus)))


def _exclusive(host: _Host, node: int, place: int) -> Bound:
    cores = _grouped(host, node, threads_of_core)
    if not cores:
        return Bound((), f"the cores of NUMA node {node} are not known")
    parts = len(host.devices_of(node))
    each, more = divmod(len(cores), parts)
    if not each:
        return Bound((), f"NUMA node {node} has {len(cores)} cores for {parts} devices")
    first = place * each + min(place, more)
    own = sorted(cores.items())[first : first + each + (place < more)]
    return Bound(tuple(sorted(cpu for _, cpus in own for cpu in cpus)))


def _core_complex(host: _Host, node: int, place: int) -> Bound:
    complexes = _grouped(host, node, sharers_of_cache)
    if not complexes:
        return Bound((), f"the caches of NUMA node {node} are not known")
    # The largest first, then by number.
    ordered = sorted(complexes.items(), key=lambda item: (-len(item[1]), item[0]))
    return Bound(tuple(ordered[place % len(ordered)][1]))


def _grouped(
    host: _Host, node: int, together: Callable[[Source, int], Cpus]
) -> dict[int, list[int]]:
    """Return a node's CPUs by the first CPU that each is together with; empty if one is unknown."""
    groups = defaultdict(list)
    for cpu in host.cpus_of_node[node]:
        mates = together(host.source, cpu)
        if not mates:
            return {}
        groups[min(mates)].append(cpu)
    return groups


_MODES: dict[str, Callable[[_Host, int, int], Bound]] = {
    "node": _node,
    "socket": _socket,
    "exclusive": _exclusive,
    "core-complex": _core_complex,
}
MODES = tuple(_MODES)
