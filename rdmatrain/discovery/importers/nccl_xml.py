"""Topology files of NCCL and RCCL, versions 1 and 2: dumped by them, or written by clouds.

The grammar is that of NCCL's ``NCCL_TOPO_FILE``: ``<system>``, ``<cpu>`` for a NUMA node, nested
``<pci>``, and ``<gpu>``, ``<nic>`` and ``<net>`` in them. Clouds leave most attributes out.
"""

from dataclasses import dataclass, replace

from rdmatrain.discovery import fitness
from rdmatrain.discovery.complaints import complaint
from rdmatrain.discovery.importers import devices
from rdmatrain.discovery.importers.xml_tree import Element
from rdmatrain.discovery.model import Complaint, Gpu, Machine, Nic, Node, Port
from rdmatrain.discovery.pci import GPU_CLASSES, parse_cpus, parse_mask, parse_pci

# What a `<system>` consists of; there are other kinds of systems in XML.
PARTS = frozenset({"cpu", "pci", "gpu", "nic", "net"})
_PORTS = range(1, 256)
_BRIDGES, _HOST_BRIDGE = 0x06, 0x0600


@dataclass(frozen=True)
class _Place:
    """Where in the tree an element is: inside which bridges, node and PCI function.

    Attributes:
        kind: class of the PCI function; a ``<cpu>`` is the host bridge.

    """

    path: tuple[str, ...] = ()
    numa: int | None = None
    pci: str = ""
    kind: int | None = _HOST_BRIDGE
    vendor: str = ""


def read(system: Element, name: str) -> Machine:
    """Return the machine that a ``<system>`` describes.

    Args:
        system: root of the file.
        name: what to call the file in complaints.

    """
    reader = _Reader(name)
    reader.read(_first_host(system, reader), _Place())
    return Machine(
        origin=f"{name}, NCCL topology XML",
        gpus=devices.numbered(reader.gpus),
        nics=fitness.judge(list(reader.nics.values())),
        nodes=tuple(sorted(reader.nodes.values(), key=lambda node: node.number)),
        collapsed=True,
        complaints=tuple(reader.complaints),
    )


def _first_host(system: Element, reader: "_Reader") -> Element:
    """Leave out what belongs to other hosts: a dump of NVLink domains has several in one file."""
    hashes = (cpu.get("host_hash") for cpu in system.children)
    hosts = list(dict.fromkeys(each for each in hashes if each))
    if len(hosts) < 2:
        return system
    reader.complain("several-machines", system, f"{len(hosts)} hosts; {hosts[0]} is shown")
    own = [cpu for cpu in system.children if cpu.get("host_hash") in {"", hosts[0]}]
    return replace(system, children=own)


class _Reader:
    """Walks through the tree and collects what is in it."""

    def __init__(self, name: str) -> None:
        self.gpus: list[tuple[int | None, Gpu]] = []
        self.nics: dict[str, Nic] = {}
        self.nodes: dict[int, Node] = {}
        self.complaints: list[Complaint] = []
        self._name = name
        self._found = 0
        self._paths: dict[str, tuple[str, ...]] = {}

    def complain(self, what: str, element: Element, text: str) -> None:
        source = f"{self._name}, line {element.line}"
        self.complaints.append(complaint(what, source, text))

    def read(self, element: Element, place: _Place) -> None:
        """Read what is inside of an element."""
        for position, child in enumerate(element.children):
            if child.tag == "cpu":
                self.read(child, self._cpu(child, position))
            elif child.tag == "pci":
                self._pci(child, place)
            elif child.tag == "gpu":
                self._gpu(child, place)
            elif child.tag == "nic":
                self._nic(child, place)
            elif child.tag == "net":
                self._net(child, place)

    def _cpu(self, cpu: Element, position: int) -> _Place:
        # -1 where the kernel knows of no NUMA nodes.
        number = devices.integer(cpu.get("numaid"))
        if number is not None:
            affinity = cpu.get("affinity")
            cpus = parse_mask(affinity) or parse_cpus(affinity)
            if affinity.strip("0,") and not cpus:
                self.complain("unreadable", cpu, f"affinity is {affinity!r}, no mask of CPUs")
            self.nodes.setdefault(number, Node(number, cpus))
        return _Place(path=(f"cpu{cpu.get('numaid') or position}",), numa=number)

    def _pci(self, element: Element, outer: _Place) -> None:
        text = element.get("busid")
        place = _Place(
            path=(*outer.path, parse_pci(text) or text or f"line {element.line}"),
            numa=outer.numa,
            pci=parse_pci(text),
            kind=devices.pci_class(element.get("class")),
            vendor=devices.device_id(element.get("vendor"), element.get("device")),
        )
        before = self._found
        self.read(element, place)
        inside = {child.tag for child in element.children}
        if self._found == before and "pci" not in inside:
            self._bare(element, place, is_nic="nic" in inside)

    def _bare(self, element: Element, place: _Place, is_nic: bool) -> None:
        """Take a PCI function with no word on what it is for what its class says."""
        if place.kind in GPU_CLASSES:
            self._gpu(element, place)
        elif is_nic or devices.is_network(place.kind):
            self._net(element, place)
        elif place.kind is None:
            what = element.get("class") or "missing"
            self.complain(
                "unreadable", element, f"class of {element.get('busid')} is {what}: GPU or NIC?"
            )

    def _gpu(self, element: Element, place: _Place) -> None:
        number = devices.integer(element.get("dev"))
        place = self._own(element, place, f"gpu{element.line if number is None else number}")
        if self._is_elsewhere(element, place):
            return
        vendor = devices.gpu_vendor(place.vendor[:4])
        if not vendor and element.get("sm"):
            vendor = "amd" if element.get("gcn") else "nvidia"
        gpu = Gpu(0, "", pci=place.pci, path=place.path, numa=place.numa, vendor=vendor)
        self.gpus.append((number, gpu))

    def _nic(self, element: Element, place: _Place) -> None:
        if not element.children and _is_bridge(place):
            self.complain("unreadable", element, "<nic> has no <net>, and is in no PCI function")
        self.read(element, place)

    def _net(self, element: Element, place: _Place) -> None:
        name = element.get("name") or place.pci or f"nic{element.line}"
        place = self._own(element, place, name)
        is_socket = _is_socket(element)
        if is_socket and not place.pci and name in self.nics:
            return  # NCCL lists an interface without a function once for each node
        if self._is_elsewhere(element, place) or self._is_elsewhere(element, place, name):
            return
        nic = Nic(
            name,
            pci=place.pci,
            path=place.path,
            numa=place.numa,
            gbps=(devices.integer(element.get("speed")) or 0) / 1000,
            vendor=place.vendor,
            efa=devices.is_efa(place.vendor, name),
            unfit=fitness.NO_RDMA if is_socket else "",
        )
        # Each port of a device has a <net>.
        known = self.nics.get(name, nic)
        ports = (*known.ports, *_port(element, nic, place, 1 + len(known.ports)))
        self.nics[name] = replace(nic, ports=ports, gbps=max(known.gbps, nic.gbps))

    def _own(self, element: Element, place: _Place, label: str) -> _Place:
        """Return the place of a device: the function that it is in, or it itself in a bridge."""
        self._found += 1
        if _is_bridge(place):
            return replace(place, path=(*place.path, label), pci="")
        if not place.pci:
            self.complain("unreadable", element, f"busid is {place.path[-1]!r}, no PCI address")
        return place

    def _is_elsewhere(self, element: Element, place: _Place, name: str = "") -> bool:
        """Return whether a device, by name or else by PCI address, was met at another place."""
        name = name or place.path[-1]
        first = self._paths.setdefault(name, place.path)
        if first == place.path:
            return False
        self.complain("file-contradiction", element, f"{name} is also at {' > '.join(first)}")
        return True


def _is_bridge(place: _Place) -> bool:
    return place.kind is not None and place.kind >> 8 == _BRIDGES


def _is_socket(net: Element) -> bool:
    """Return whether it is an interface without RDMA: NCCL gives it port 0, its number as GUID."""
    guid, number = devices.integer(net.get("guid"), 16), devices.integer(net.get("dev"))
    return net.get("port") == "0" and guid in {None, 0, number} and net.get("gdr") != "1"


def _port(net: Element, nic: Nic, place: _Place, number: int) -> tuple[Port, ...]:
    """Return the port of a ``<net>``, if it is of RDMA.

    Its number in the file is not that of verbs: NCCL adds how many devices of the same card, or of
    the same PCI function, came before.
    """
    layer = "" if nic.efa else devices.LAYERS.get(place.kind or 0, "")
    is_port = devices.integer(net.get("port")) in _PORTS
    return (Port(nic.name, number, "", layer, gbps=nic.gbps),) if is_port else ()
