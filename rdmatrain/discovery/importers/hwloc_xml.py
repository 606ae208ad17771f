"""XML of hwloc (``lstopo --of xml``), versions 1 to 3.

PCI bridges and devices hang below the CPUs that they are near to; operating system devices
(``OSDev``) hang below their PCI device and give it its names.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from rdmatrain.discovery import fitness
from rdmatrain.discovery.complaints import complaint
from rdmatrain.discovery.importers import devices
from rdmatrain.discovery.importers.xml_tree import Element
from rdmatrain.discovery.model import Complaint, Gpu, Machine, Netdev, Nic, Node, Port
from rdmatrain.discovery.pci import GPU_CLASSES, parse_mask, parse_pci

# `osdev_type` of hwloc 1 and 2, and the bit of hwloc 3; people also write the name.
_NETWORK = ("2", 1 << 4, "net")
_RDMA = ("3", 1 << 5, "openfabrics")
_PCI_TYPE = re.compile(r"([0-9a-f]{4})(?: \[([0-9a-f]{4}:[0-9a-f]{4})\])?", re.IGNORECASE)
# The first of these that gives a GPU a name counts. A card's number counts displays, too.
_GPU_NAMES = ("nvml", "rsmi", "cuda", "card")
_MELLANOX = "15b3:"
# As verbs numbers the states of a port.
_STATES = {"1": "DOWN", "2": "INIT", "3": "ARMED", "4": "ACTIVE"}


def read(topology: Element, name: str) -> Machine:
    """Return the machine that a ``<topology>`` describes.

    Args:
        topology: root of the file.
        name: what to call the file in complaints.

    """
    reader = _Reader(topology, name)
    reader.read(topology, (), None)
    machine = (*_objects(topology), topology)[0]
    return Machine(
        origin=f"{name}, hwloc XML",
        gpus=devices.numbered(reader.gpus),
        nics=fitness.judge(list(reader.nics.values())),
        netdevs=tuple(reader.netdevs),
        nodes=tuple(sorted(reader.nodes, key=lambda node: node.number)),
        product=_infos(machine).get("DMIProductName", ""),
        complaints=tuple(reader.complaints),
    )


class _Reader:
    """Walks through the tree and collects what is in it."""

    def __init__(self, topology: Element, name: str) -> None:
        self.gpus: list[tuple[int | None, Gpu]] = []
        self.nics: dict[str, Nic] = {}
        self.netdevs: list[Netdev] = []
        self.nodes: list[Node] = []
        self.complaints: list[Complaint] = []
        self._name = name
        self._bits = (devices.integer(topology.get("version").partition(".")[0]) or 0) >= 3
        self._nearest = _nearest_nodes(topology)
        self._knows_rdma = any(self._is(each, _RDMA) for each in _objects_below(topology))

    def read(self, element: Element, path: tuple[str, ...], numa: int | None) -> None:
        """Read what is inside of an element.

        Args:
            element: an object, or the root.
            path: the bridges down to it.
            numa: the only NUMA node that it is near to, if there is only one.

        """
        for child in _objects(element):
            kind = child.get("type")
            near = self._numa(child, numa)
            if kind == "PCIDev":
                self._pci(child, path, near)
            elif kind == "OSDev":
                self._nics(_Function("", (), near, None, "", [child]))
            else:
                if kind == "NUMANode":
                    self._node(child)
                self.read(child, (*path, *_bridge(child)), near)

    def _numa(self, element: Element, outer: int | None) -> int | None:
        """Return the only node of an object that has a set of nodes, or the one around it."""
        if "nodeset" not in element.attributes:
            inside = element.get("type") == "NUMANode"
            return devices.integer(element.get("os_index")) if inside else outer
        nodes = {self._nearest.get(node, node) for node in parse_mask(element.get("nodeset"))}
        return nodes.pop() if len(nodes) == 1 else None

    def _node(self, element: Element) -> None:
        number = devices.integer(element.get("os_index"))
        if number is not None:
            self.nodes.append(Node(number, parse_mask(element.get("cpuset"))))

    def _pci(self, element: Element, path: tuple[str, ...], numa: int | None) -> None:
        text = element.get("pci_busid")
        pci = parse_pci(text)
        if not pci:
            source = f"{self._name}, line {element.line}"
            text = f"pci_busid is {text!r}, no PCI address"
            self.complaints.append(complaint("unreadable", source, text))
            return
        match = _PCI_TYPE.match(element.get("pci_type"))
        kind, vendor = (int(match[1], 16), (match[2] or "").lower()) if match else (None, "")
        systems = [each for each in _objects_below(element) if each.get("type") == "OSDev"]
        function = _Function(pci, (*path, pci), numa, kind, vendor, systems)
        # Without a vendor of GPUs it is the screen of a management controller.
        by_class = kind in GPU_CLASSES and devices.gpu_vendor(vendor[:4])
        if by_class or function.gpu_name()[1] is not None:
            self._gpu(element, function)
        else:
            self._nics(function)

    def _gpu(self, element: Element, function: "_Function") -> None:
        name, number = function.gpu_name()
        infos: dict[str, str] = {}
        for each in (*function.systems, element):
            infos |= _infos(each)
        gpu = Gpu(
            0,
            name,
            pci=function.pci,
            path=function.path,
            numa=function.numa,
            vendor=devices.gpu_vendor(function.vendor[:4]),
            uuid=infos.get("NVIDIAUUID") or infos.get("AMDUUID", ""),
            model=infos.get("PCIDevice") or infos.get("GPUModel", ""),
        )
        self.gpus.append((number, gpu))

    def _nics(self, function: "_Function") -> None:
        """Read the NICs of a function: RDMA devices; or one that has none, if it is a NIC."""
        names = self._netdevs(function)
        rdma = [each for each in function.systems if self._is(each, _RDMA)]
        ports = {each.get("name") or function.pci: _ports(each, function) for each in rdma}
        unfit = ""
        if not ports and devices.is_network(function.kind):
            ports = {(*names, function.pci)[0]: ()}
            unfit = "" if self._may_do_rdma(function) else fitness.NO_RDMA
        for name, its_ports in ports.items():
            nic = Nic(
                name,
                pci=function.pci,
                path=function.path,
                numa=function.numa,
                netdevs=names,
                ports=its_ports,
                vendor=function.vendor,
                efa=devices.is_efa(function.vendor, name),
                unfit=unfit,
            )
            if self.nics.setdefault(name, nic) is not nic:
                text = f"is at {function.pci or 'no address'} and at {self.nics[name].pci}"
                source = f"{self._name}, {name}"
                self.complaints.append(complaint("file-contradiction", source, text))

    def _netdevs(self, function: "_Function") -> tuple[str, ...]:
        found = [each for each in function.systems if self._is(each, _NETWORK)]
        for each in found:
            mac = _infos(each).get("Address", "")
            self.netdevs.append(Netdev(each.get("name"), function.pci, mac))
        return tuple(each.get("name") for each in found)

    def _may_do_rdma(self, function: "_Function") -> bool:
        """Return whether a NIC does RDMA although the file has no RDMA device of it.

        A file of a container often has no such devices at all, and the driver of EFA may be absent.
        """
        usual = function.kind == devices.INFINIBAND or function.vendor.startswith(_MELLANOX)
        return devices.is_efa(function.vendor, "") or (usual and not self._knows_rdma)

    def _is(self, element: Element, kind: tuple[str, int, str]) -> bool:
        number, bit, name = kind
        text = element.get("osdev_type").lower()
        if self._bits and text.isascii() and text.isdigit():
            return bool((devices.integer(text) or 0) & bit)
        return text in {number, name}


@dataclass(frozen=True)
class _Function:
    """A PCI function and the operating system's devices in it."""

    pci: str
    path: tuple[str, ...]
    numa: int | None
    kind: int | None
    vendor: str
    systems: list[Element]

    def gpu_name(self) -> tuple[str, int | None]:
        """Return what libraries call the GPU, and their number of it."""
        names = [each.get("name") for each in self.systems]
        for prefix in _GPU_NAMES:
            for name in names:
                number = devices.integer(name.removeprefix(prefix))
                if name.startswith(prefix) and number is not None:
                    return name, None if prefix == "card" else number
        return "", None


def _objects(element: Element) -> list[Element]:
    return [child for child in element.children if child.tag == "object"]


def _objects_below(element: Element) -> Iterator[Element]:
    for child in _objects(element):
        yield child
        yield from _objects_below(child)


def _infos(element: Element) -> dict[str, str]:
    return {child.get("name"): child.get("value") for child in element.children}


def _nearest_nodes(topology: Element) -> dict[int, int]:
    """Map each NUMA node to the first one with the same CPUs.

    The memory of a GPU of Grace, and HBM beside DRAM, are nodes of their own.
    """
    first: dict[str, int] = {}
    nodes = sorted(
        (number, element.get("cpuset"))
        for element in _objects_below(topology)
        if element.get("type") == "NUMANode"
        and (number := devices.integer(element.get("os_index"))) is not None
    )
    return {number: first.setdefault(cpus, number) if cpus else number for number, cpus in nodes}


def _bridge(element: Element) -> tuple[str, ...]:
    """Return what a bridge adds to a path: a host bridge its root, ``pci0000:10``."""
    if element.get("type") != "Bridge":
        return ()
    if element.get("bridge_type").startswith("0-"):
        domain, _, buses = element.get("bridge_pci").partition(":")
        return (f"pci{domain}:{buses.strip('[]').partition('-')[0]}",)
    text = element.get("pci_busid")
    return (parse_pci(text) or text or f"line {element.line}",)


def _ports(element: Element, function: _Function) -> tuple[Port, ...]:
    infos = _infos(element)
    efa = devices.is_efa(function.vendor, element.get("name"))
    by_class = "" if efa else devices.LAYERS.get(function.kind or 0, "")
    ports = []
    for number in range(1, 10):
        state = infos.get(f"Port{number}State")
        if state is not None:
            # Ethernet has no LIDs.
            lid = devices.integer(infos.get(f"Port{number}LID", ""), 16)
            layer = "InfiniBand" if lid else by_class
            ports.append(Port(element.get("name"), number, _STATES.get(state, ""), layer))
    return tuple(ports)
