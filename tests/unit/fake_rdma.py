"""A tree of sysfs with RDMA devices, and a libibverbs that knows which GIDs work."""

import ipaddress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rdmatrain.errors import CommError

V1, V2 = "IB/RoCE v1", "RoCE v2"
Entry = tuple[str, str] | tuple[str, str, str]  # address, type, and netdev if any


def full(address: str) -> str:
    """As the kernel writes a GID."""
    parsed = ipaddress.ip_address(address)
    if parsed.version == 4:
        parsed = ipaddress.IPv6Address(f"::ffff:{address}")
    return parsed.exploded


def write_port(
    root: Path,
    name: str,
    gids: dict[int, Entry] | None = None,
    *,
    state: str = "4: ACTIVE",
    link_layer: str = "Ethernet",
    table: int = 4,
) -> None:
    """Write a port of the machine whose root is a folder, named as in mlx5_0/1.

    What the table does not have is zero, without type.
    """
    device, _, number = name.partition("/")
    port = root / "sys/class/infiniband" / device / "ports" / number
    for folder in ("gids", "gid_attrs/types", "gid_attrs/ndevs"):
        (port / folder).mkdir(parents=True)
    (port / "state").write_text(f"{state}\n")
    (port / "link_layer").write_text(f"{link_layer}\n")
    for index in range(max(table, *(gids or {0: ""}), 0) + 1):
        address, kind, *netdev = (gids or {}).get(index, ("::", ""))
        (port / "gids" / str(index)).write_text(f"{full(address)}\n")
        write_or_fail(port / "gid_attrs" / "types" / str(index), kind)
        write_or_fail(port / "gid_attrs" / "ndevs" / str(index), "".join(netdev))


def write_or_fail(path: Path, text: str) -> None:
    """Write an attribute; an empty one is there and cannot be read, as in sysfs."""
    if text:
        path.write_text(f"{text}\n")
    else:
        path.unlink(missing_ok=True)
        path.mkdir()


@dataclass
class FakeVerbs:
    """libibverbs of a machine with these ports.

    Attributes:
        ports: as in mlx5_0/1, with what differs from an active port of 100 Gbit/s; a device that
            cannot be opened has one, number 0.
        bad: why a GID does not work, by port and index.
        tested: what was asked for, in order.
        missing: the text of the error when the library is not there.

    """

    ports: dict[str, dict[str, Any]]
    bad: dict[tuple[str, int], str] = field(default_factory=dict)
    tested: list[tuple[str, int]] = field(default_factory=list)
    missing: str = ""

    def rdma_ports(self) -> list[dict[str, Any]]:
        if self.missing:
            raise CommError(self.missing, "NO_LIBRARY")
        default = {"state": "ACTIVE", "link_layer": "Ethernet", "active_mtu": 4096, "error": ""}
        return [
            default | {"device": name.partition("/")[0], "port": int(name.partition("/")[2])}
            | {"speed_gbps": 100.0} | changes
            for name, changes in self.ports.items()
        ]  # fmt: skip

    def rdma_test_gid(self, device: str, port: int, index: int, /) -> str:
        self.tested.append((f"{device}/{port}", index))
        reason = self.bad.get((f"{device}/{port}", index), "")
        return reason and f"GID {index} of {device} port {port} is not usable: {reason}"
