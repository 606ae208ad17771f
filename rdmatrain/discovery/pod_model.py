"""What is said of a pod's devices, what it really got, and what each of its ranks gets."""

from dataclasses import dataclass
from enum import IntEnum

from rdmatrain.discovery.model import Complaint, Distance, Evidence, Gid, Gpu, Nic


@dataclass(frozen=True)
class Variable:
    """A variable of an environment, and whose it was: ``/proc/1/environ``, or ``environment``."""

    name: str
    value: str
    source: str


class Trust(IntEnum):
    """Whom to believe where sources contradict each other: the larger number."""

    NAME = 0  # what a name suggests; a device node, which a privileged pod has for every device
    VARIABLE = 1  # the environment
    DEVICE_INFO = 2  # network-status with device-info, metadata of a DRA driver
    KERNEL = 3  # sysfs and procfs
    OPENED = 4  # it was opened, and has a GID that works here


@dataclass(frozen=True)
class Claim:
    """One source's word on one device. Any field may be empty: nothing is said about that.

    Attributes:
        evidence: who says it, and how.
        weight: how much the source knows: one of :class:`Trust`.
        kind: ``gpu`` or ``nic``.
        granted: the source says that this pod was given it; False if it only describes it.
        pci: address; empty for a subfunction, whose address would be its parent's.
        rdma: names of RDMA devices.
        netdev: interface inside the pod.
        network: name of the network, ``default/sriov-net1``; or claim and request, ``nics/nic0``,
            for DRA.
        resource: what was asked for: ``nvidia.com/rdma-vf``; the driver, for DRA.
        uverbs: ``uverbs11``.
        pf: PCI address of the physical function.
        root: PCIe root complex, ``pci0000:07``.
        numa: node, or None.
        uuid: of a GPU or a MIG slice, which older drivers call ``MIG-GPU-<uuid>/1/0``; possibly
            only its beginning.
        index: of a GPU, as the driver counts on the host, or None.
        minor: N of ``/dev/nvidiaN``, or None.
        addresses: IP addresses, without prefix.
        auxiliary: a subfunction, by its name on the auxiliary bus: ``mlx5_core.sf.4``.

    """

    evidence: Evidence
    weight: Trust
    kind: str
    granted: bool = True
    pci: str = ""
    rdma: tuple[str, ...] = ()
    netdev: str = ""
    network: str = ""
    resource: str = ""
    uverbs: str = ""
    pf: str = ""
    root: str = ""
    numa: int | None = None
    uuid: str = ""
    index: int | None = None
    minor: int | None = None
    addresses: tuple[str, ...] = ()
    auxiliary: str = ""


@dataclass(frozen=True)
class Request:
    """A network that Multus was asked for; it need not have been attached, or not yet.

    Attributes:
        evidence: where it is asked for.
        network: ``default/rdma-vf``; without a namespace, it is in that of the pod.
        netdev: the name asked for its interface; empty for ``net1``, ``net2``... in turn.

    """

    evidence: Evidence
    network: str
    netdev: str = ""


@dataclass(frozen=True)
class Restriction:
    """A variable by which a library hides GPUs from this process; it cannot add one.

    Several apply in the order of :attr:`Pod.restrictions`: numbers count what the one before left.

    Attributes:
        evidence: the variable and its value.
        vendor: whose GPUs it hides: ``nvidia`` or ``amd``.
        devices: what is left, in this order: a number, or a UUID or its beginning; empty if all
            GPUs are hidden.

    """

    evidence: Evidence
    vendor: str
    devices: tuple[int | str, ...]


@dataclass(frozen=True)
class Pod:
    """What the environment and the files of a pod say.

    Attributes:
        variables: of this process, its parent and process 1; for one name the first counts.
        annotations: from a downward API volume.
        labels: likewise.
        claims: what is said about devices, the most trusted first. ``NVIDIA_VISIBLE_DEVICES`` of
            ``all``, ``void`` or ``none`` claims nothing: images have it, whatever was allocated.
        requests: networks that were asked for, in that order.
        restrictions: what hides GPUs, in the order in which they apply.
        complaints: what is wrong with it.

    """

    variables: tuple[Variable, ...] = ()
    annotations: tuple[tuple[str, str], ...] = ()
    labels: tuple[tuple[str, str], ...] = ()
    claims: tuple[Claim, ...] = ()
    requests: tuple[Request, ...] = ()
    restrictions: tuple[Restriction, ...] = ()
    complaints: tuple[Complaint, ...] = ()


@dataclass(frozen=True)
class GrantedGpu:
    """A GPU that this pod may use, and who says so, the most trusted first."""

    gpu: Gpu
    evidence: tuple[Evidence, ...]


@dataclass(frozen=True)
class GrantedNic:
    """A NIC that this pod may use.

    Attributes:
        nic: which one.
        port: number of the port to use, or 0 if it has none that works.
        gid: the entry of the port's GID table to use; None for InfiniBand, EFA, and where no entry
            was proven and none looks right.
        network: name of the network it is attached to; empty where no source tells.
        evidence: who says so, the most trusted first.

    """

    nic: Nic
    port: int
    gid: Gid | None
    network: str
    evidence: tuple[Evidence, ...]


@dataclass(frozen=True)
class Allocation:
    """What this pod really got, reconciled from all sources.

    Attributes:
        gpus: in the order in which a process counts them, which CUDA_VISIBLE_DEVICES may turn.
        nics: those that it may use.
        others: NICs that are visible and not for this pod, each with the reason.
        namespaces: ``exclusive``, ``shared``, or empty: how RDMA devices are divided on this host.
        complaints: what sources contradict each other in, and what is missing.

    """

    gpus: tuple[GrantedGpu, ...] = ()
    nics: tuple[GrantedNic, ...] = ()
    others: tuple[tuple[Nic, str], ...] = ()
    namespaces: str = ""
    complaints: tuple[Complaint, ...] = ()


@dataclass(frozen=True)
class Pair:
    """A GPU and its NIC.

    Attributes:
        gpu: each GPU is in one pair.
        nic: the same one in several pairs where GPUs outnumber NICs.
        more: other NICs that are the GPU's own, where NICs outnumber GPUs.
        distance: between ``gpu`` and ``nic``.
        reason: why this one, in words.

    """

    gpu: Gpu
    nic: Nic
    more: tuple[Nic, ...]
    distance: Distance
    reason: str


@dataclass(frozen=True)
class Binding:
    """What one local rank gets.

    Attributes:
        local_rank: 0 for the first process of this host.
        gpu: or None, on a host without GPUs.
        nics: the first one is its own; empty on a host without NICs.
        ports: number of the port to use, for each of ``nics``; 0 where none works.
        gid_indexes: for each of ``nics``; None for InfiniBand and EFA, and where none is known.
        numa: node that it should run on, or None.
        cpus: CPUs that it should run on; empty leaves them as they are.
        reason: why, in words.

    """

    local_rank: int
    gpu: Gpu | None
    nics: tuple[Nic, ...]
    ports: tuple[int, ...]
    gid_indexes: tuple[int | None, ...]
    numa: int | None
    cpus: tuple[int, ...]
    reason: str
