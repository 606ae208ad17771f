"""How far a GPU is from a NIC: by the bridges above both, or by their NUMA nodes.

The levels are those of ``nvidia-smi topo -m``, which NVML and NCCL share: PIX at most one PCIe
switch, PXB several and no host bridge, PHB one host bridge, NODE two of one NUMA node, SYS beyond.
"""

from dataclasses import dataclass
from itertools import takewhile

from rdmatrain.discovery.model import Distance, Gpu, Machine, Nic

# Of a path: the root, and the device itself.
AT_ROOT = 2


def distance(gpu: Gpu, nic: Nic, machine: Machine) -> tuple[Distance, int]:
    """Return how far they are apart, and over how many bridges, for ties.

    What the source states goes before what paths give. A device of which nothing is known is far.
    """
    way = _way(gpu, nic, machine)
    known = stated(gpu, nic, machine)
    return (way.level if known is None else known), way.bridges


def explain(gpu: Gpu, nic: Nic, machine: Machine) -> str:
    """Say in words what :func:`distance` saw: ``both below the PCIe switch 0000:0b:00.0``."""
    if stated(gpu, nic, machine) is not None:
        return f"{machine.origin} says so"
    way = _way(gpu, nic, machine)
    if way.level is Distance.PIX and way.deepest < 0:
        return "two functions of one device"
    if way.level is Distance.PIX:
        kind = "switch" if machine.collapsed or way.deepest else "port"
        return f"both below the PCIe {kind} {way.fork}"
    if way.level is Distance.PXB:
        return f"both below the PCIe switch {way.fork}, over further switches"
    if way.level is Distance.PHB:
        return f"both at the root {way.fork}"
    return _nodes(gpu, nic)


def stated(gpu: Gpu, nic: Nic, machine: Machine) -> Distance | None:
    """Return what the source states of a pair: of contradicting words the worst; None if none."""
    words = (
        level for index, name, level in machine.stated if index == gpu.index and name == nic.name
    )
    return max(words, default=None)


def bridges_above(device: Gpu | Nic, machine: Machine) -> tuple[str, ...]:
    """Return the bridges above a device, the root first; empty where they are not known.

    A virtual function may have a bus of its own, or sit at the root as an integrated endpoint: what
    counts is where its physical function is. Where that is hidden, a NIC of the same bus tells.
    """
    if isinstance(device, Gpu) or len(device.path) > AT_ROOT:
        return device.path[:-1]
    deep = {other.pci: other.path for other in machine.nics if len(other.path) > AT_ROOT}
    path = deep.get(device.pf, device.path)
    if not path and device.pci:
        path = next((deep[pci] for pci in deep if _bus(pci) == _bus(device.pci)), ())
    return path[:-1]


@dataclass(frozen=True)
class _Way:
    """The way from a GPU to a NIC.

    Attributes:
        level: how far that is.
        fork: the deepest bridge or root above both; empty if there is none.
        deepest: the larger number of bridges between the fork and one of them; -1 for functions of
            one device, right at the root.
        bridges: how many are on the way, without the fork.

    """

    level: Distance
    fork: str
    deepest: int
    bridges: int


def _way(gpu: Gpu, nic: Nic, machine: Machine) -> _Way:
    left, right = bridges_above(gpu, machine), bridges_above(nic, machine)
    common = len(list(takewhile(lambda pair: pair[0] == pair[1], zip(left, right, strict=False))))
    fork = left[common - 1] if common else ""
    deepest = max(len(left), len(right)) - common
    bridges = len(left) + len(right) - 2 * common if left and right else 0
    if common >= AT_ROOT:
        # In sysfs a switch has a port above, which is the fork, and one above each device.
        one_switch = deepest <= (0 if machine.collapsed else 1)
        return _Way(Distance.PIX if one_switch else Distance.PXB, fork, deepest, bridges)
    if gpu.pci and _slot(gpu.pci) == _slot(nic.pci):
        return _Way(Distance.PIX, fork, -1, 0)
    if common:
        return _Way(Distance.PHB, fork, deepest, bridges)
    return _Way(_by_node(gpu, nic), fork, deepest, bridges)


def _by_node(gpu: Gpu, nic: Nic) -> Distance:
    return Distance.NODE if gpu.numa is not None and gpu.numa == nic.numa else Distance.SYS


def _nodes(gpu: Gpu, nic: Nic) -> str:
    unknown = [device.name for device in (gpu, nic) if device.numa is None]
    if unknown:
        return f"where {' and '.join(unknown)} {'is' if len(unknown) == 1 else 'are'} not known"
    if gpu.numa == nic.numa:
        return f"both at NUMA node {gpu.numa}"
    return f"at NUMA nodes {gpu.numa} and {nic.numa}"


def _bus(pci: str) -> str:
    return pci.rpartition(":")[0]


def _slot(pci: str) -> str:
    return pci.rpartition(".")[0]
