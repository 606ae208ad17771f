"""NCCL's own rules for lists of names and for GIDs, so that its choices can be foretold.

Sources: "Environment Variables" in NCCL's user guide; ``misc/utils.cc`` and ``transport/net_ib``
of NCCL, which RCCL shares.
"""

import ipaddress
import re
from dataclasses import dataclass

from rdmatrain.discovery.model import Gid, Port

IPV4, IPV6 = 4, 6
FAMILY = {IPV4: "AF_INET", IPV6: "AF_INET6"}

_VERSION = {"RoCE v1": 1, "RoCE v2": 2}
_ZERO = ipaddress.IPv6Address(0)
_LINK_LOCAL = ipaddress.ip_network("fe80::/64")

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True)
class NameList:
    """A value of ``NCCL_IB_HCA`` or ``NCCL_SOCKET_IFNAME``.

    ``mlx5`` takes all names that begin so, and so ``mlx5_1`` takes ``mlx5_10`` too; ``=mlx5_1``
    takes that one only. ``^`` before either takes all others. The sign is for the whole list.
    ``mlx5_1:2`` is port 2 only.

    Attributes:
        exclude: the names are those not to use.
        exact: they are whole names.
        entries: name, and port or None for any.

    """

    exclude: bool
    exact: bool
    entries: tuple[tuple[str, int | None], ...]

    @classmethod
    def parse(cls, text: str) -> "NameList":
        """Read a value; there is none that NCCL refuses."""
        exclude = text.startswith("^")
        text = text.removeprefix("^") if exclude else text
        exact = text.startswith("=")
        text = text.removeprefix("=") if exact else text
        # Whatever splits the list passes over one more sign.
        text = text[1:] if text[:1] in {"^", "="} else text
        parts = (part.partition(":") for part in text.split(","))
        entries = ((name, _port(number) if colon else None) for name, colon, number in parts)
        return cls(exclude, exact, tuple(entry for entry in entries if entry[0]))

    def allows(self, name: str, port: int | None = None) -> bool:
        """Tell whether NCCL uses it; an empty list names everything."""
        named = any(self.names(entry, name, port) for entry in self.entries)
        return (named or not self.entries) != self.exclude

    def names(self, entry: tuple[str, int | None], name: str, port: int | None = None) -> bool:
        """Tell whether one entry of this list means it; a port of None is any."""
        wanted, wanted_port = entry
        if wanted_port is not None and port is not None and wanted_port != port:
            return False
        return name == wanted if self.exact else name.startswith(wanted)


def automatic_gid(port: Port, family: int, network: Network | None, version: int) -> int:
    """Return the entry of a RoCE port's table that NCCL >= 2.21 takes if no index is given.

    It starts with entry 0 and goes through the table once. An entry replaces the one so far if it
    is the first of the wanted family, or the first of the wanted version of RoCE. So the order of
    the table decides between two that are both right.

    Args:
        port: with its table.
        family: ``NCCL_IB_ADDR_FAMILY``: 4 or 6.
        network: ``NCCL_IB_ADDR_RANGE``, or None.
        version: ``NCCL_IB_ROCE_VERSION_NUM``: 1 or 2.

    """
    table = {gid.index: gid for gid in port.gids}
    best = 0
    # One more than is known: tables are longer, and end with entries that are zero.
    for index in range(1, max(table, default=0) + 2):
        old, new = table.get(best), table.get(index)
        address = _address(new)
        if address.version != family or (network is not None and address not in network):
            continue
        first = _address(old).version != family
        if first or (_fits(new, version) and not _fits(old, version)):
            best = index
    return best


def roce_version(gid: Gid) -> int:
    """Return 1 or 2, or 0 if the type of the entry cannot be read."""
    return _VERSION.get(gid.kind, 0)


def gid_address(gid: Gid) -> Address:
    """Return the address; ``::`` for one that cannot be read."""
    try:
        return ipaddress.ip_address(gid.address)
    except ValueError:
        return _ZERO


def common_network(addresses: list[Address]) -> Network | None:
    """Return the smallest network with all of them; None if only the whole family has."""
    first = addresses[0]
    differing = 0
    for address in addresses:
        differing |= int(first) ^ int(address)
    length = first.max_prefixlen - differing.bit_length()
    # Made anew from its bits: an IPv6 address may carry the name of an interface.
    bare = type(first)(int(first))
    return ipaddress.ip_network(f"{bare}/{length}", strict=False) if length else None


def _port(text: str) -> int | None:
    """Read a port as C's ``atoi`` does, by its leading digits, or 0; -1 is any."""
    match = re.match(r"\s*([+-]?\d{1,9})", text, re.ASCII)
    number = int(match[1]) if match else 0
    return None if number == -1 else number


def _address(gid: Gid | None) -> Address:
    return gid_address(gid) if gid else _ZERO


def _fits(gid: Gid | None, version: int) -> bool:
    """Tell whether it is an entry of this version of RoCE that a router forwards."""
    address = _address(gid)
    routed = address != _ZERO and address not in _LINK_LOCAL
    return gid is not None and routed and roce_version(gid) == version
