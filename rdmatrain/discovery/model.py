"""The facts of a machine, as plain data that every module of this package speaks."""

from dataclasses import dataclass
from enum import IntEnum


class Distance(IntEnum):
    """How far two PCI functions are apart, by the names of ``nvidia-smi topo -m``."""

    PIX = 0  # below one PCIe switch
    PXB = 1  # across several switches, not through a host bridge
    PHB = 2  # through the host bridge: the same root complex
    NODE = 3  # between host bridges of one NUMA node
    SYS = 4  # between NUMA nodes, or nothing known


@dataclass(frozen=True)
class Evidence:
    """Who says something, and what.

    Attributes:
        source: a variable, file or call: ``PCIDEVICE_X in /proc/1/environ``.
        text: what it says, in words or as it stands there.

    """

    source: str
    text: str

    def __str__(self) -> str:
        return f"{self.source}: {self.text}"


@dataclass(frozen=True)
class Complaint:
    """Something that is wrong, contradicts itself or cannot be read. Never raised: the rest works.

    Attributes:
        id: a key of :data:`rdmatrain.discovery.complaints.MEANING`.
        source: where: a variable, file or device.
        text: what was seen there, with its value, and what to do.

    """

    id: str
    source: str
    text: str

    def __str__(self) -> str:
        return f"{self.id}: {self.source}: {self.text}"


@dataclass(frozen=True)
class Gid:
    """An entry of a port's GID table.

    Attributes:
        index: its place in the table.
        address: an IPv4 address, or an IPv6 one, which a GID of InfiniBand looks like.
        kind: ``RoCE v1``, ``RoCE v2`` or ``InfiniBand``; empty when it cannot be read.
        netdev: the network interface that it belongs to; empty when it cannot be read.

    """

    index: int
    address: str
    kind: str
    netdev: str = ""

    def __str__(self) -> str:
        where = f" on {self.netdev}" if self.netdev else ""
        return f"gid {self.index} {self.kind or 'of unknown type'} {self.address}{where}"


@dataclass(frozen=True)
class Port:
    """A port of an RDMA device.

    Attributes:
        device: name of the device.
        number: 1 for the first port of the device.
        state: ``ACTIVE``, ``DOWN``...; empty when it cannot be read.
        link_layer: ``Ethernet`` or ``InfiniBand``; empty when it cannot be read.
        gids: entries that can be read and are not zero, by index.
        gbps: its speed in Gbit/s; 0 when it cannot be read.

    """

    device: str
    number: int
    state: str
    link_layer: str
    gids: tuple[Gid, ...] = ()
    gbps: float = 0.0

    def __str__(self) -> str:
        return f"{self.device}/{self.number}"


@dataclass(frozen=True)
class Gpu:
    """A GPU, or the GPU that a MIG slice is part of.

    Attributes:
        index: its place among all, 0 first: as the driver, or the file, counts.
        name: what its source calls it; ``GPU0`` where that has no name.
        pci: address; empty where it is not known.
        path: the bridges from the root to it and itself last, as sysfs nests them:
            ``("pci0000:07", "0000:07:01.0", "0000:0b:00.0")``; empty where it is not known.
        numa: node, or None.
        vendor: ``nvidia``, ``amd`` or empty.
        uuid: ``GPU-...``; empty where it is not known.
        minor: N of ``/dev/nvidiaN``, or None.
        model: name of the product; empty where it is not known.
        mig: UUIDs of the slices that are visible here.

    """

    index: int
    name: str
    pci: str = ""
    path: tuple[str, ...] = ()
    numa: int | None = None
    vendor: str = ""
    uuid: str = ""
    minor: int | None = None
    model: str = ""
    mig: tuple[str, ...] = ()


@dataclass(frozen=True)
class Nic:
    """An RDMA device: what NCCL calls a NIC and verbs an HCA.

    Attributes:
        name: ``mlx5_4``; what its source calls it.
        pci: address of its function, which several devices may share; empty if it is not known.
        path: as in :class:`Gpu`.
        numa: node, or None.
        netdevs: network interfaces of the same function in this network namespace.
        ports: its ports; none where the source has no RDMA devices but names the NIC.
        pf: PCI address of the physical function that it is a virtual function of; empty for a
            physical function, and where it is not known.
        is_vf: it is a virtual function; None where that is not known.
        uverbs: ``uverbs11``; empty where it is not known.
        gbps: speed of its fastest port in Gbit/s; 0 where it is not known.
        vendor: PCI vendor and device, ``15b3:101e``; empty where it is not known.
        board: board id and firmware, ``MT_0000000838 28.39.1002``; empty where it is not known.
        efa: it is an Elastic Fabric Adapter, or another NIC that is not of Ethernet or InfiniBand.
        unfit: why pairing should take others where there are others (``is a bond...``, ``is for
            management...``, ``is software...``); empty if there is no reason.
        auxiliary: its subfunction, by its name on the auxiliary bus: ``mlx5_core.sf.4``; empty for
            most.

    """

    name: str
    pci: str = ""
    path: tuple[str, ...] = ()
    numa: int | None = None
    netdevs: tuple[str, ...] = ()
    ports: tuple[Port, ...] = ()
    pf: str = ""
    is_vf: bool | None = None
    uverbs: str = ""
    gbps: float = 0.0
    vendor: str = ""
    board: str = ""
    efa: bool = False
    unfit: str = ""
    auxiliary: str = ""


@dataclass(frozen=True)
class Netdev:
    """A network interface of this network namespace.

    Attributes:
        name: ``net1``.
        pci: address of its function; empty for a virtual one.
        mac: hardware address; empty where it has none.
        mtu: in bytes; 0 where it cannot be read.
        state: ``up``, ``down``...; empty where it cannot be read.
        addresses: IP addresses, without prefix.

    """

    name: str
    pci: str = ""
    mac: str = ""
    mtu: int = 0
    state: str = ""
    addresses: tuple[str, ...] = ()


@dataclass(frozen=True)
class Node:
    """A NUMA node: its number and its CPUs."""

    number: int
    cpus: tuple[int, ...]


@dataclass(frozen=True)
class Machine:
    """What a source shows of a machine.

    Attributes:
        origin: what it was read from: ``this machine``, or a file and what it is.
        gpus: by index.
        nics: in natural order of their names, or in the order of the file.
        netdevs: interfaces of this network namespace.
        nodes: NUMA nodes, by number.
        cpus: what this process may run on; empty where that is not known.
        stated: distances that the source states, by index of the GPU and name of the NIC. They go
            before those that paths give.
        collapsed: a PCIe switch is one entry of a path, not an upstream and a downstream port, and
            the root is a NUMA node, ``cpu0``: as NCCL has it.
        product: what DMI says the machine is (``Standard_ND96asr_v4``...); empty if not known.
        virtual: it runs under a hypervisor, which may hide the PCI tree; None if not known.
        namespaces: of RDMA devices, as the kernel says: ``shared`` or ``exclusive``; empty if it
            does not say.
        complaints: what could not be read.

    """

    origin: str
    gpus: tuple[Gpu, ...] = ()
    nics: tuple[Nic, ...] = ()
    netdevs: tuple[Netdev, ...] = ()
    nodes: tuple[Node, ...] = ()
    cpus: tuple[int, ...] = ()
    stated: tuple[tuple[int, str, Distance], ...] = ()
    collapsed: bool = False
    product: str = ""
    virtual: bool | None = None
    namespaces: str = ""
    complaints: tuple[Complaint, ...] = ()
