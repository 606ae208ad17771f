"""The devices of a machine as a tree of NUMA nodes, root complexes and switches."""

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from rdmatrain.discovery.distance import bridges_above
from rdmatrain.discovery.model import Gpu, Machine, Nic
from rdmatrain.discovery.pci import format_cpus

Device = Gpu | Nic
_Item = TypeVar("_Item")
_Key = TypeVar("_Key", bound=Hashable)


@dataclass(frozen=True)
class Branch:
    """A NUMA node, root complex, switch or bridge, and what is below it.

    Attributes:
        label: what to call it.
        devices: those that have no further bridge in common with others.
        branches: bridges above several devices.

    """

    label: str
    devices: tuple[Device, ...] = ()
    branches: tuple["Branch", ...] = ()


def grow(machine: Machine) -> tuple[Branch, ...]:
    """Return the NUMA nodes, by number, and last the devices whose node is not known."""
    devices: list[Device] = [*machine.gpus, *machine.nics]
    placed = [_Placed(device, bridges_above(device, machine)) for device in devices]
    joint = "switch" if machine.collapsed else "bridge"
    cpus = {node.number: format_cpus(node.cpus) or "none" for node in machine.nodes}
    found = _grouped(placed, lambda each: each.device.numa)
    unknown = found.pop(None, [])
    trees = []
    for numa in sorted({*cpus, *(number for number in found if number is not None)}):
        label = f"NUMA {numa}" + (f"  CPUs {cpus[numa]}" if numa in cpus else "")
        trees.append(_numa_node(label, found.get(numa, []), joint))
    if unknown:
        trees.append(_numa_node("NUMA node unknown", unknown, joint))
    return tuple(trees)


@dataclass(frozen=True)
class _Placed:
    device: Device
    above: tuple[str, ...]


def _numa_node(label: str, placed: Sequence[_Placed], joint: str) -> Branch:
    roots = _grouped((each for each in placed if each.above), lambda each: each.above[0])
    return Branch(
        label,
        tuple(each.device for each in placed if not each.above),
        tuple(_bridge(roots[root], 1, joint) for root in sorted(roots, key=_in_order)),
    )


def _bridge(placed: Sequence[_Placed], depth: int, joint: str) -> Branch:
    """Gather devices that have the first ``depth`` bridges in common.

    A bridge with others below is a switch; ``joint`` is what one right above devices is. A bridge
    above one device joins nothing, and is left out.
    """
    depth = _last_common(placed, depth)
    below = _grouped((e for e in placed if len(e.above) > depth), lambda each: each.above[depth])
    kind = "root complex" if depth == 1 else "switch" if below else joint
    joining = {bridge: group for bridge, group in below.items() if len(group) > 1}
    return Branch(
        f"{kind} {placed[0].above[depth - 1]}",
        tuple(e.device for e in placed if not joining.keys() & set(e.above[depth : depth + 1])),
        tuple(_bridge(joining[name], depth + 1, joint) for name in sorted(joining, key=_in_order)),
    )


def _last_common(placed: Sequence[_Placed], depth: int) -> int:
    """Return how many bridges all have in common: one that only leads to another joins nothing."""
    # The root complex is shown nevertheless.
    shortest = min(len(each.above) for each in placed) if depth > 1 else depth
    while depth < shortest and len({each.above[depth] for each in placed}) == 1:
        depth += 1
    return depth


def _in_order(bridge: str) -> tuple[int, str]:
    """Sort key: ``0000:08:00.0`` before ``0000:3d:00.0``, and ``cpu2`` before ``cpu10``."""
    return len(bridge), bridge


def _grouped(items: Iterable[_Item], key: Callable[[_Item], _Key]) -> dict[_Key, list[_Item]]:
    groups: dict[_Key, list[_Item]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups
