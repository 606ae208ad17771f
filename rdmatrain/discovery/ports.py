"""RDMA ports and their GID tables, as sysfs shows them. Nothing here opens a device.

In a pod sysfs may show devices that it cannot open, and entries that belong to other network
namespaces; such entries read as zero, or not at all. So whoever chooses one must test it.
"""

import ipaddress
import re

from rdmatrain.discovery.model import Gid, Port
from rdmatrain.discovery.source import Source
from rdmatrain.discovery.sysfs import attribute

DEVICES = "/sys/class/infiniband"
ROCE_V1, ROCE_V2, INFINIBAND = "RoCE v1", "RoCE v2", "InfiniBand"

_UNIQUE_LOCAL = ipaddress.ip_network("fc00::/7")
_PLACE = re.compile("[0-9]{1,5}")
_RATE = re.compile(r"([0-9]{1,6}(?:\.[0-9]{1,3})?) Gb/sec\b.*")


def read_ports(source: Source) -> list[Port]:
    """Read all ports of all devices, in the order of their names, mlx5_2 before mlx5_10."""
    return [
        _read_port(source, device, number)
        for device in source.names(DEVICES)
        for number in _places(source, f"{DEVICES}/{device}/ports")
    ]


def preference(gid: Gid) -> int:
    """Rank an entry by how far its packets get, 0 first: IPv4, global IPv6, local addresses.

    What is no address, as a snapshot may have it, is last.
    """
    try:
        address = ipaddress.ip_address(gid.address)
    except ValueError:
        return 4
    if address.is_link_local:
        return 3
    if address.version == 4:
        return 0
    return 2 if address in _UNIQUE_LOCAL else 1


def address_text(gid: bytes) -> str:
    """Return the address that a GID of 16 bytes is."""
    address = ipaddress.IPv6Address(gid)
    return str(address.ipv4_mapped or address)


def _places(source: Source, folder: str) -> list[int]:
    """Return the numbers that name what is in a folder; other names are not the kernel's."""
    return [int(name) for name in source.names(folder) if _PLACE.fullmatch(name)]


def _read_port(source: Source, device: str, number: int) -> Port:
    port = f"{DEVICES}/{device}/ports/{number}"
    link_layer = attribute(source, f"{port}/link_layer")
    gids = (_read_gid(source, port, index, link_layer) for index in _places(source, f"{port}/gids"))
    rate = _RATE.fullmatch(attribute(source, f"{port}/rate"))
    return Port(
        device=device,
        number=number,
        state=attribute(source, f"{port}/state").partition(":")[2].strip(),
        link_layer=link_layer,
        gids=tuple(gid for gid in gids if gid is not None),
        gbps=float(rate[1]) if rate else 0.0,
    )


def _read_gid(source: Source, port: str, index: int, link_layer: str) -> Gid | None:
    digits = attribute(source, f"{port}/gids/{index}").replace(":", "")
    if not re.fullmatch("[0-9a-f]{32}", digits) or not digits.strip("0"):
        return None
    kind = attribute(source, f"{port}/gid_attrs/types/{index}").removeprefix("IB/")
    return Gid(
        index=index,
        address=address_text(bytes.fromhex(digits)),
        kind=INFINIBAND if link_layer == "InfiniBand" else kind,
        netdev=attribute(source, f"{port}/gid_attrs/ndevs/{index}"),
    )
