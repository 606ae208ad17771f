"""Which network interface carries the address that this pod's name resolves to."""

import json
from dataclasses import dataclass
from typing import Any

from rdmatrain.discovery.claims.network_status import STATUS_NAMES
from rdmatrain.discovery.model import Machine
from rdmatrain.discovery.network import read_routes
from rdmatrain.discovery.pod_model import Pod
from rdmatrain.discovery.source import Source

ROUTES6 = "/proc/net/ipv6_route"
_UP, _REJECT = 0x1, 0x200  # RTF_UP and RTF_REJECT of linux/route.h


@dataclass(frozen=True)
class Interface:
    """An interface for what is not RDMA: rendezvous, sockets.

    Attributes:
        name: empty if none was found.
        reason: why this one, or why none, in words.

    """

    name: str
    reason: str


def control_interface(source: Source, machine: Machine, pod: Pod) -> Interface:
    """Find the interface that other pods reach this one by.

    The cluster's default network has the pod's address, and the pod's DNS name leads there. An
    additional network may have taken the default route, so Multus' word goes before that.

    Args:
        source: has the routes.
        machine: has the interfaces of this network namespace.
        pod: has the annotations.

    """
    rejected: list[str] = []
    for name, reason in (*_by_status(machine, pod), *_by_route(source), *_by_exclusion(machine)):
        why_not = _why_not(machine, name)
        if not why_not:
            return Interface(name, "; ".join([reason, *rejected]))
        rejected.append(f"not {name}, which {why_not}")
    return Interface("", "; ".join(rejected) or "no default route and no single interface with IP")


def _by_status(machine: Machine, pod: Pod) -> list[tuple[str, str]]:
    """Return the interface of the default network, if an annotation of Multus tells."""
    annotations = dict(pod.annotations)
    text = next((annotations[name] for name in STATUS_NAMES if annotations.get(name)), "")
    try:
        entries = json.loads(text) if text else []
    except (ValueError, RecursionError):
        return []  # Whoever read the annotations has complained.
    for entry in entries if isinstance(entries, list) else []:
        if isinstance(entry, dict) and entry.get("default") is True:
            name = _status_interface(machine, entry)
            return [(name, "the pod's default network, by network-status")] if name else []
    return []


def _status_interface(machine: Machine, entry: dict[str, Any]) -> str:
    name, ips = entry.get("interface"), entry.get("ips")
    if isinstance(name, str) and name:
        return name
    wanted = {str(ip).partition("/")[0] for ip in ips} if isinstance(ips, list) else set()
    return next((dev.name for dev in machine.netdevs if wanted & set(dev.addresses)), "")


def _by_route(source: Source) -> list[tuple[str, str]]:
    """Return the interfaces of default routes, the best first, IPv4 before IPv6."""
    routes = [
        (4, route.metric, route.flags, route.netdev)
        for route in read_routes(source)
        if route.network.prefixlen == 0
    ]
    return [
        (name, f"it has the default route of IPv{version}")
        for version, _, flags, name in sorted([*routes, *_default_routes6(source)])
        if flags & (_UP | _REJECT) == _UP and name != "lo"
    ]


def _default_routes6(source: Source) -> list[tuple[int, int, int, str]]:
    rows = [line.split() for line in (source.text(ROUTES6) or "").splitlines()]
    return [
        (6, _hexadecimal(row[5]), _hexadecimal(row[8]), row[9])
        for row in rows
        if len(row) >= 10 and row[:2] == ["0" * 32, "00"]
    ]


def _by_exclusion(machine: Machine) -> list[tuple[str, str]]:
    """Return the only interface that it can be, those of RDMA devices last."""
    of_rdma = {name for nic in machine.nics for name in nic.netdevs}
    names = [dev.name for dev in machine.netdevs if dev.addresses and dev.name != "lo"]
    others = sorted(set(names) - of_rdma)
    if len(names) > 1 and len(others) == 1:
        return [(others[0], "the only one with an address that is of no RDMA device")]
    return [(names[0], "the only one with an address")] if len(names) == 1 else []


def _why_not(machine: Machine, name: str) -> str:
    """Return why it cannot be used; empty also where that is not known."""
    addresses = {dev.name: dev.addresses for dev in machine.netdevs}
    if not addresses:
        return ""
    if name not in addresses:
        return "is not here"
    # Nobody could read addresses if no interface has one.
    known = any(addresses.values())
    return "has no IP address" if known and not addresses[name] else ""


def _hexadecimal(text: str) -> int:
    try:
        return int(text, 16)
    except ValueError:
        return 0
