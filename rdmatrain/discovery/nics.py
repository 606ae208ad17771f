"""RDMA devices as sysfs shows them: where each one is on the bus, and what it is part of."""

import posixpath
import re
from collections.abc import Sequence
from dataclasses import replace

from rdmatrain.discovery.complaints import complaint
from rdmatrain.discovery.fitness import judge
from rdmatrain.discovery.model import Complaint, Nic, Port
from rdmatrain.discovery.pci import bus_order, parse_pci
from rdmatrain.discovery.ports import DEVICES, read_ports
from rdmatrain.discovery.source import Source
from rdmatrain.discovery.sysfs import (
    Function,
    addresses,
    attribute,
    folder_of,
    function_at,
    function_of,
    number,
)

VERBS = "/sys/class/infiniband_verbs"

MELLANOX, AMAZON = "15b3", "1d0f"
# Virtual functions by vendor and device, as mlx4, mlx5, iavf, ionic and mana match them.
_MELLANOX_VFS = "1002 1004 1012 1014 1016 1018 101a 101c 101e a2d3"
VF_IDS = {f"{MELLANOX}:{device}" for device in _MELLANOX_VFS.split()}
VF_IDS |= {"8086:1889", "1dd8:1003", "1414:00ba"}
# As sysfs writes the type of a device of iWARP.
RNIC = "4: RNIC"

# Of ConnectX-8 (XDR): a second RDMA device on the function of a NIC.
_MANAGEMENT = re.compile("smi[0-9]+")
_AUXILIARY = re.compile(r"/[a-z0-9_]+\.[a-z0-9_]+\.[0-9]+$")


def read_nics(source: Source) -> tuple[list[Nic], list[Complaint]]:
    """Read all RDMA devices, in the order of their names, mlx5_2 before mlx5_10."""
    ports = read_ports(source)
    uverbs = {
        attribute(source, f"{VERBS}/{name}/ibdev"): name
        for name in source.names(VERBS)
        if name.startswith("uverbs")
    }
    nics, complaints = [], []
    for name in source.names(DEVICES):
        if not source.names(f"{DEVICES}/{name}"):
            text = "the device is listed, and nothing of it can be read: it was left out"
            complaints.append(complaint("vanished", f"{DEVICES}/{name}", text))
            continue
        own = tuple(port for port in ports if port.device == name)
        nics.append(_read_nic(source, name, own, uverbs.get(name, "")))
    nics = [replace(nic, unfit=nic.unfit or _unfit(nic, nics)) for nic in nics]
    return list(judge(nics)), complaints


def _read_nic(source: Source, name: str, ports: tuple[Port, ...], uverbs: str) -> Nic:
    folder = f"{DEVICES}/{name}"
    board = f"{attribute(source, f'{folder}/board_id')} {attribute(source, f'{folder}/fw_ver')}"
    nic = Nic(
        name=name,
        ports=ports,
        uverbs=uverbs,
        gbps=max((port.gbps for port in ports), default=0.0),
        board=board.strip(),
        unfit=_why_not_verbs(attribute(source, f"{folder}/node_type")),
    )
    parent = attribute(source, f"{folder}/parent")
    if parent:  # of soft-RoCE, which old kernels show below the function of another NIC
        return replace(nic, netdevs=(parent,))
    function = function_of(source, f"{folder}/device")
    return _placed(source, nic, function) if function else nic


def _placed(source: Source, nic: Nic, function: Function) -> Nic:
    """Return the device with what its PCI function says."""
    is_vf, pf = _virtual(source, function)
    layers = {port.link_layer for port in nic.ports} - {"", "Ethernet", "InfiniBand"}
    device = folder_of(source, f"{DEVICES}/{nic.name}/device")
    auxiliary = posixpath.basename(device) if _AUXILIARY.search(device) else ""
    return replace(
        nic,
        pci=function.pci,
        path=function.path,
        numa=function.numa,
        netdevs=tuple(source.names(f"{device if auxiliary else function.folder}/net")),
        pf=pf,
        is_vf=is_vf,
        vendor=function.ids,
        efa=function.driver == "efa" or function.ids.startswith(AMAZON) or bool(layers),
        auxiliary=auxiliary,
    )


def _virtual(source: Source, function: Function) -> tuple[bool | None, str]:
    """Return whether a function is virtual, if that is known, and its physical function."""
    link = source.link(f"{function.folder}/physfn")
    if link is not None:
        return True, parse_pci(posixpath.basename(link))
    if source.text(f"{function.folder}/sriov_totalvfs") is not None:
        return False, ""
    if function.ids in VF_IDS:
        return True, _physical(source, function)
    # All virtual functions of Mellanox have device IDs of their own.
    return (False if function.ids.startswith(MELLANOX) else None), ""


def _physical(source: Source, function: Function) -> str:
    """Return the physical function of a virtual one whose link to it is hidden; empty if unclear.

    PCI SR-IOV computes the address of a virtual function from that of the physical one, an offset
    and a stride. Without these, it is the only other function of this vendor on its bus.
    """
    others = [
        each
        for pci in addresses(source, function.ids[:4])
        # Of one that vanishes while it is read, nothing is known.
        if (each := function_at(source, pci)).ids not in VF_IDS | {""}
        and bus_order(pci)[0] == bus_order(function.pci)[0]
    ]
    for each in others:
        if _makes(source, each, function.pci):
            return each.pci
    near = [each.pci for each in others if bus_order(each.pci)[1] == bus_order(function.pci)[1]]
    return near[0] if len(near) == 1 else ""


def _makes(source: Source, physical: Function, pci: str) -> bool:
    """Say whether a physical function has a virtual one at an address of its domain."""
    num, offset, stride = (
        number(source, f"{physical.folder}/sriov_{name}") for name in ("numvfs", "offset", "stride")
    )
    if not num or not offset or not stride:
        return False
    away = _routing_id(pci) - _routing_id(physical.pci) - offset
    return away % stride == 0 and 0 <= away // stride < num


def _routing_id(pci: str) -> int:
    _, bus, slot, function = bus_order(pci)
    return bus << 8 | slot << 3 | function


def _unfit(nic: Nic, nics: Sequence[Nic]) -> str:
    """Return why programs should take another one, where there is another; empty if they can."""
    if not nic.pci and any(each.pci for each in nics):
        return "is software, or not on the PCI bus"
    if _is_management(nic, nics):
        return "is for management: programs cannot open it"
    return ""


def _why_not_verbs(node_type: str) -> str:
    # NCCL, UCX and rdmatrain make their queue pairs without the connection manager.
    return "is iWARP, which takes the RDMA connection manager" if node_type == RNIC else ""


def manages(nic: Nic) -> bool:
    """Say whether a device only manages the fabric, by its name, and carries no data."""
    return bool(_MANAGEMENT.fullmatch(nic.name))


def _is_management(nic: Nic, nics: Sequence[Nic]) -> bool:
    """Say whether it is one of several devices of its function, and has no node as others have."""
    beside = [each for each in nics if each.pci == nic.pci and each.uverbs]
    return manages(nic) or bool(nic.pci and not nic.uverbs and beside)
