"""A topology file for ``NCCL_TOPO_FILE``, for machines whose PCI tree hides what is near to what.

What is not in the file NCCL adds by itself, so it has only places: which bridge and which NUMA node
a GPU or a NIC is at. Links, processor and NICs are left out on purpose:

- ``link_speed`` and ``link_width`` come from sysfs, as do vendor and device; ``arch`` and its like
  from the processor. Only a bridge that was made up has all that NCCL cannot read of it.
- ``<gpu>`` comes from NVML, and a rank's number is not known yet.
- ``<net>`` would be found by name before its address is looked at; then NCCL would take speed,
  ``guid`` and ``gdr`` from here and detect nothing. Azure's own files leave it out as well.

Three things to know of the format: there is no XML declaration, NCCL's parser takes none; a NIC
stands under the address of function 0 of its card, by which NCCL looks for it
(:func:`merges_vfs`); every second bridge of a path is half of a switch and is passed over.

Sources: ``graph/xml.cc``, ``graph/topo.cc`` and ``transport/net_ib`` of NCCL and RCCL.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from rdmatrain.discovery.distance import bridges_above
from rdmatrain.discovery.model import Distance, Gpu, Machine, Nic, Node
from rdmatrain.discovery.pci import parse_pci
from rdmatrain.discovery.pod_model import Pair

# What NCCL or RCCL has room for: children of an element, and characters of a value.
MAX_CHILDREN, MAX_VALUE = 32, 253
# Deeper than any machine; the bridges nearest to the root are kept.
MAX_BRIDGES = 8

_BRIDGE, _ETHERNET, _INFINIBAND = "0x060400", "0x020000", "0x020700"
# Display controllers: older RCCL knows no other class of a GPU.
_GPU = {"amd": "0x038000"}
_NVIDIA = "0x030200"
_UNKNOWN_NUMA = -1
# As NCCL knows bridges.
_ADDRESS = re.compile(r"[0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-9a-f]")
# The domain of bridges that were made up. Hyper-V has devices in any domain, but on bus 0.
_INVENTED = "ffff:"
# No narrower than any device, so that it is none's bottleneck.
_WIDEST = {"link_speed": "32.0 GT/s PCIe", "link_width": "16"}


@dataclass
class _Element:
    name: str
    attributes: Mapping[str, str]
    children: "dict[str, _Element]" = field(default_factory=dict)


def topology_xml(
    machine: Machine,
    gpus: Sequence[Gpu],
    nics: Sequence[Nic],
    pairs: Sequence[Pair] = (),
    merge_vfs: bool = True,
) -> str:
    """Write the topology of some GPUs and NICs of a machine.

    What has no PCI address is left out, and so is what goes beyond NCCL's limits.

    Args:
        machine: has the NUMA nodes, and the other functions of the same cards.
        gpus: to be placed.
        nics: to be placed.
        pairs: devices of a pair that is near (PIX or PXB) but has no measured bridges are put below
            one of their own, as the vendors' files for virtual machines do.
        merge_vfs: what NCCL will do, see :func:`merges_vfs`.

    """
    card = {nic.pci: _card(nic, merge_vfs) for nic in nics}
    places = {_address(each): _bridges(machine, each) for each in gpus}
    places |= {card[each.pci]: _bridges(machine, each) for each in nics}
    places |= _invent(
        places, [_members(each, card) for each in pairs if each.distance <= Distance.PXB]
    )
    builder = _Builder(machine, places)
    for gpu in gpus:
        builder.place(_address(gpu), _GPU.get(gpu.vendor, _NVIDIA), gpu.numa)
    for nic in nics:
        builder.place(card[nic.pci], _nic_class(nic), nic.numa)
    version = "2" if any(gpu.vendor == "amd" for gpu in gpus) else "1"
    root = _Element("system", {"version": version}, builder.cpus)
    return "\n".join(_lines(root, 0)) + "\n"


def merges_vfs(nics: Sequence[Nic], user: Mapping[str, str]) -> bool:
    """Tell whether NCCL should take all NICs of a bus for one card, which is what it does.

    That is right for the virtual functions of a card. Where a hypervisor puts several cards on one
    bus it is wrong: NCCL would see all of them at one place. ``NCCL_IB_MERGE_VFS=0`` stops it.

    Args:
        nics: those that NCCL will use.
        user: the user's own variables; theirs counts.

    """
    given = user.get("NCCL_IB_MERGE_VFS", "").strip()
    if given:
        return given not in {"0", "0x0", "00"}
    # A card has a physical function for each of its ports.
    cards: dict[str, set[str]] = {}
    for nic in nics:
        address = _address(nic)
        if address and not nic.efa:
            cards.setdefault(address[:-4], set()).add((parse_pci(nic.pf) or address)[:-2])
    return all(len(each) == 1 for each in cards.values())


class _Builder:
    """Puts devices into the tree; what is there already stays where it is."""

    def __init__(self, machine: Machine, places: Mapping[str, tuple[str, ...]]) -> None:
        self.cpus: dict[str, _Element] = {}
        self._nodes = {node.number: node for node in machine.nodes}
        self._words = _words(machine.nodes)
        self._places = places
        self._bridges = {bridge for path in places.values() for bridge in path}
        self._placed: dict[str, _Element] = {}

    def place(self, address: str, kind: str, numa: int | None) -> None:
        """Place a device below its bridges."""
        if not address or address in self._placed or address in self._bridges:
            return
        parent = None
        for bridge in self._places[address]:
            parent = self._placed.get(bridge) or self._add(parent, numa, bridge, _BRIDGE)
        self._add(parent, numa, address, kind)

    def _add(self, parent: _Element | None, numa: int | None, address: str, kind: str) -> _Element:
        invented = kind == _BRIDGE and address.startswith(_INVENTED)
        link = _WIDEST if invented else {}
        element = _Element("pci", {"busid": address, "class": kind, **link})
        self._placed[address] = element
        (parent or self._cpu(numa)).children[address] = element
        return element

    def _cpu(self, numa: int | None) -> _Element:
        number = _UNKNOWN_NUMA if numa is None else numa
        node = self._nodes.get(number, Node(number, ()))
        attributes = {"numaid": str(number), **_affinity(node, self._words)}
        return self.cpus.setdefault(f"{number:05}", _Element("cpu", attributes))


def _address(device: Gpu | Nic) -> str:
    """Return its PCI address; empty for one that NCCL could not look up."""
    address = parse_pci(device.pci)
    return address if _ADDRESS.fullmatch(address) else ""


def _card(nic: Nic, merge_vfs: bool) -> str:
    """Return the address that NCCL looks for a NIC by; its plugin for EFA takes it as it is."""
    address = _address(nic)
    if not address or nic.efa:
        return address
    return f"{address[:-4]}00.0" if merge_vfs else f"{address[:-1]}0"


def _bridges(machine: Machine, device: Gpu | Nic) -> tuple[str, ...]:
    """Return the bridges above a device that NCCL looks at, the nearest to the root first.

    From a device it goes two up, and so on, until a root complex is in the way. So it sees a
    switch once, by its upper port, and no root port.
    """
    above = bridges_above(device, machine)[1:]
    if not all(map(_ADDRESS.fullmatch, above)):
        return ()
    seen = above if machine.collapsed else above[-2::-2][::-1]
    return seen[:MAX_BRIDGES]


def _members(pair: Pair, card: Mapping[str, str]) -> list[str]:
    """Return the addresses of a pair's devices, as the file has them."""
    nics = [card.get(nic.pci, "") for nic in (pair.nic, *pair.more)]
    return [_address(pair.gpu), *nics]


def _invent(
    places: Mapping[str, tuple[str, ...]], near: Iterable[Sequence[str]]
) -> dict[str, tuple[str, ...]]:
    """Return the bridges of devices that have none, from those that are near, by device."""
    found: dict[str, tuple[str, ...]] = {}
    names = _invented_names()
    for members in near:
        here = [each for each in members if each and each in places]
        bridges = [found.get(each, places[each]) for each in here]
        # GPUs that share a NIC share the bridge.
        common = next(filter(None, bridges), None) or (next(names),)
        found |= {each: common for each, own in zip(here, bridges, strict=True) if not own}
    return found


def _invented_names() -> Iterator[str]:
    """Return addresses as Azure's files have them, beginning with the last bus."""
    buses, slots = range(0xFF, 0, -1), range(1, 32)
    return (f"{_INVENTED}{bus:02x}:{slot:02x}.0" for bus in buses for slot in slots)


def _nic_class(nic: Nic) -> str:
    return _INFINIBAND if any(p.link_layer == "InfiniBand" for p in nic.ports) else _ETHERNET


def _words(nodes: Sequence[Node]) -> int:
    """Return how many words of 32 CPUs a mask of all nodes takes."""
    return max((cpu // 32 + 1 for node in nodes for cpu in node.cpus), default=0)


def _affinity(node: Node, words: int) -> dict[str, str]:
    """Return the mask of a node's CPUs, the highest first; none if it is too long for NCCL."""
    if not node.cpus or words * len("ffffffff,") > MAX_VALUE:
        return {}
    mask = sum(1 << cpu for cpu in set(node.cpus))
    digits = f"{mask:0{words * 8}x}"
    return {"affinity": ",".join(digits[at : at + 8] for at in range(0, len(digits), 8))}


def _lines(element: _Element, depth: int) -> Iterable[str]:
    indent = "  " * depth
    attributes = "".join(f' {key}="{value}"' for key, value in element.attributes.items())
    if not element.children:
        yield f"{indent}<{element.name}{attributes}/>"
        return
    yield f"{indent}<{element.name}{attributes}>"
    # In the order of addresses, as NCCL keeps them itself.
    for _, child in sorted(element.children.items())[:MAX_CHILDREN]:
        yield from _lines(child, depth + 1)
    yield f"{indent}</{element.name}>"
