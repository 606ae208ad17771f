"""Network interfaces of this network namespace, and their addresses. Nothing here makes a call."""

import ipaddress
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rdmatrain.discovery.model import Netdev, Nic
from rdmatrain.discovery.source import Source, natural
from rdmatrain.discovery.sysfs import attribute, function_of, number

NETDEVS = "/sys/class/net"
ROUTES, ADDRESSES, ADDRESSES6 = "/proc/net/route", "/proc/net/fib_trie", "/proc/net/if_inet6"

# A leaf of the trie: the address, then a line for each of its prefixes.
_LOCAL = re.compile(r"\|-- ([0-9.]{7,15})\n(?: +/[^\n]*\n)*? +/32 host LOCAL\b")
# Interface, destination, gateway, flags, two columns without a use here, metric and mask.
_ROUTE = re.compile(
    r"(\S+)\t([0-9A-F]{8})\t([0-9A-F]{8})\t([0-9A-F]{1,8})\t(?:[^\t]*\t){2}"
    r"([0-9]{1,10})\t([0-9A-F]{8})\t.*",
    re.ASCII,
)
_ADDRESS6 = re.compile(r"([0-9a-f]{32})(?: [0-9a-f]{2}){4} +(\S+)")


@dataclass(frozen=True)
class Route:
    """A route of IPv4.

    Attributes:
        network: where to.
        netdev: its interface.
        connected: there is no gateway.
        metric: the lowest goes first.
        flags: RTF_UP and others of linux/route.h.

    """

    network: ipaddress.IPv4Network
    netdev: str
    connected: bool
    metric: int
    flags: int


def read_netdevs(source: Source, nics: Iterable[Nic]) -> list[Netdev]:
    """Read all interfaces, in the order of their names.

    Args:
        source: where to read.
        nics: RDMA devices, whose GIDs tell which of their interfaces has an IPv4 address.

    """
    names = source.names(NETDEVS)
    owners = [*_owners(source, names, nics), *_owners6(source)]
    found = []
    for name in names:
        folder = f"{NETDEVS}/{name}"
        mtu = number(source, f"{folder}/mtu")
        if mtu is None:  # bonding_masters is a file among them
            continue
        function = function_of(source, f"{folder}/device")
        mac = attribute(source, f"{folder}/address")
        found.append(
            Netdev(
                name=name,
                pci=function.pci if function else "",
                mac=mac if mac.strip("0:") else "",
                mtu=mtu,
                state=attribute(source, f"{folder}/operstate"),
                addresses=tuple(address for address, owner in owners if owner == name),
            )
        )
    return found


def read_routes(source: Source) -> list[Route]:
    """Read the routes of IPv4; what is none is left out."""
    matches = (_ROUTE.fullmatch(line.strip()) for line in (source.text(ROUTES) or "").splitlines())
    return [route for match in matches if match and (route := _route(match))]


def _owners(source: Source, names: Sequence[str], nics: Iterable[Nic]) -> list[tuple[str, str]]:
    """Return IPv4 addresses, each with its interface; without those where that is unclear.

    Args:
        source: where to read.
        names: the interfaces of this network namespace.
        nics: as for :func:`read_netdevs`.

    """
    told = {
        gid.address: gid.netdev
        for nic in nics
        for port in nic.ports
        for gid in port.gids
        if gid.netdev in nic.netdevs
    }
    routes = [route for route in read_routes(source) if route.netdev in names]
    found = set(_LOCAL.findall(source.text(ADDRESSES) or ""))
    addresses = sorted(filter(_is_ipv4, found), key=natural)
    return [(address, told.get(address) or _owner(address, routes)) for address in addresses]


def _is_ipv4(text: str) -> bool:
    try:
        ipaddress.IPv4Address(text)
    except ValueError:
        return False
    return True


def _owners6(source: Source) -> list[tuple[str, str]]:
    """Return IPv6 addresses, each with its interface."""
    lines = (source.text(ADDRESSES6) or "").splitlines()
    matches = filter(None, (_ADDRESS6.fullmatch(line.strip()) for line in lines))
    return [(str(ipaddress.IPv6Address(bytes.fromhex(match[1]))), match[2]) for match in matches]


def _owner(text: str, routes: Sequence[Route]) -> str:
    """Return the interface that has an address: procfs lists addresses without it.

    It is the one with the smallest connected network around it. An address alone, as Calico and
    the CNI of AWS give, is of the interface of the default route. Empty where that is unclear, as
    with two interfaces in one network.
    """
    address = ipaddress.IPv4Address(text)
    if address.is_loopback:
        return "lo"
    around = [route for route in routes if route.connected and address in route.network]
    owners: defaultdict[int, set[str]] = defaultdict(set)
    for route in around or [route for route in routes if route.network.prefixlen == 0]:
        owners[route.network.prefixlen].add(route.netdev)
    names = owners[max(owners, default=0)]
    return names.pop() if len(names) == 1 else ""


def _route(match: re.Match[str]) -> Route | None:
    # A little-endian host prints addresses as its numbers.
    to, gateway, mask = (
        ipaddress.IPv4Address(int.from_bytes(bytes.fromhex(match[part]), "little"))
        for part in (2, 3, 6)
    )
    try:
        network = ipaddress.IPv4Network(f"{to}/{mask}", strict=False)
    except ValueError:
        return None
    connected = int(gateway) == 0
    return Route(network, match[1], connected, metric=int(match[5]), flags=int(match[4], 16))
