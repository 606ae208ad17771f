"""Whether this node leads the gang, by its addresses: no name is compared with another.

A node leads that was given node rank 0, or, where none is given, that has the address which the
leader's name resolves to: on whatever interface.
"""

import ipaddress
import socket
from collections.abc import Sequence
from dataclasses import dataclass

from rdmatrain.launcher.job import Gang
from rdmatrain.launcher.listener import BindError, bind

_DISCARD = 9  # a port; nothing is sent to it
_NO_ADDRESS = "no address of this host leads to the leader's name: give one as --local-addr"


@dataclass(frozen=True)
class Seat:
    """What a node is to do.

    Attributes:
        listener: of the leader; None for a member.
        address: that it listens on, which the others reach this node by.
        problem: why the leader cannot listen.
        elsewhere: where the leader can listen although its name leads to another host, as that of
            a load balancer does. Somebody else may lead already.

    """

    listener: socket.socket | None = None
    address: str = ""
    problem: str = ""
    elsewhere: Sequence[str] = ()


MEMBER = Seat()


def choose(gang: Gang, addresses: Sequence[str]) -> Seat:
    """Decide whether this node leads, and listen if it surely does.

    A leader whose name leads elsewhere can listen on ``local_addr``, or else on the address that
    the way there leaves by: that is the interface which a load balancer reaches it through.

    Args:
        gang: of this node.
        addresses: what the leader's name resolves to, at least one.

    """
    own = [address for address in addresses if is_own(address)]
    if gang.node_rank is None and own:
        seat = listen(own, gang.port)
        # If it cannot listen, another node of this host leads already.
        return MEMBER if seat.problem else seat
    if gang.node_rank != 0:
        return MEMBER
    if own:
        return listen(own, gang.port)
    ways_out = [gang.local_addr, *map(source_address, addresses)]
    elsewhere = [*dict.fromkeys(filter(is_own, ways_out))]
    return Seat(elsewhere=elsewhere) if elsewhere else Seat(problem=_NO_ADDRESS)


def listen(addresses: Sequence[str], port: int) -> Seat:
    """Listen on the first of some addresses, at least one, that can be listened on."""
    problem = ""
    for address in addresses:
        try:
            return Seat(bind(address, port), address)
        except BindError as error:
            problem = str(error)
    return Seat(problem=problem)


def is_own(address: str) -> bool:
    """Tell whether an address is one of this host's, on any interface.

    Whether it can be bound is no proof: ``net.ipv4.ip_nonlocal_bind`` lets all be bound.
    """
    source = source_address(address)
    if not source:
        return False
    return _plain(source) == _plain(address) or _plain(address).is_loopback


def source_address(address: str) -> str:
    """Return this host's address on the way to another; empty if there is no way."""
    try:
        family, kind, _, _, place = socket.getaddrinfo(
            address, _DISCARD, type=socket.SOCK_DGRAM, flags=socket.AI_NUMERICHOST
        )[0]
        with socket.socket(family, kind) as probe:
            probe.connect(place)  # of a datagram socket: only looks for the way
            return str(probe.getsockname()[0])
    except (OSError, ValueError):
        return ""


def _plain(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    return ipaddress.ip_address(address.partition("%")[0])
