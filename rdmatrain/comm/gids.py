"""RDMA ports and their GID tables, as sysfs shows them. Nothing here opens a device.

In a pod sysfs may show devices that it cannot open, and entries that belong to other network
namespaces; such entries read as zero, or not at all. So whoever chooses one must test it.
"""

import ipaddress
import re
from dataclasses import dataclass
from pathlib import Path

SYSFS = Path("/sys/class/infiniband")
ROCE_V1, ROCE_V2, INFINIBAND = "RoCE v1", "RoCE v2", "InfiniBand"

_UNIQUE_LOCAL = ipaddress.ip_network("fc00::/7")


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

    """

    device: str
    number: int
    state: str
    link_layer: str
    gids: tuple[Gid, ...]

    def __str__(self) -> str:
        return f"{self.device}/{self.number}"


def read_ports(root: Path = SYSFS) -> list[Port]:
    """Read all ports of all devices, in the order of their names, mlx5_2 before mlx5_10.

    Args:
        root: the folder with a folder for each device; there is none where no driver is loaded.

    """
    return [
        _read_port(device, port) for device in _listed(root) for port in _listed(device / "ports")
    ]


def preference(gid: Gid) -> int:
    """Rank an entry by how far its packets get, 0 first: IPv4, global IPv6, local addresses."""
    address = ipaddress.ip_address(gid.address)
    if address.is_link_local:
        return 3
    if address.version == 4:
        return 0
    return 2 if address in _UNIQUE_LOCAL else 1


def _listed(folder: Path) -> list[Path]:
    """Return what is in a folder, which need not be there."""
    try:
        return sorted(folder.iterdir(), key=_natural)
    except OSError:
        return []


def _natural(path: Path) -> list[str | int]:
    # Text and numbers take turns, so that like is compared with like.
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", path.name)]


def _read(path: Path) -> str:
    """Return the text of an attribute; empty where there is none, or where reading it fails."""
    try:
        return path.read_text("ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _read_port(device: Path, port: Path) -> Port:
    link_layer = _read(port / "link_layer")
    gids = (_read_gid(port, int(path.name), link_layer) for path in _listed(port / "gids"))
    return Port(
        device=device.name,
        number=int(port.name),
        state=_read(port / "state").partition(":")[2].strip(),
        link_layer=link_layer,
        gids=tuple(gid for gid in gids if gid is not None),
    )


def _read_gid(port: Path, index: int, link_layer: str) -> Gid | None:
    digits = _read(port / "gids" / str(index)).replace(":", "")
    if not re.fullmatch("[0-9a-f]{32}", digits) or not digits.strip("0"):
        return None
    address = ipaddress.IPv6Address(bytes.fromhex(digits))
    kind = _read(port / "gid_attrs" / "types" / str(index)).removeprefix("IB/")
    return Gid(
        index=index,
        address=str(address.ipv4_mapped or address),
        kind=INFINIBAND if link_layer == "InfiniBand" else kind,
        netdev=_read(port / "gid_attrs" / "ndevs" / str(index)),
    )
