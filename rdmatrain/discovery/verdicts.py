"""Whether an RDMA device can be used here: through which port, with which GID, or why not.

What libibverbs could do counts before what the kernel shows. Where devices are shared between
network namespaces, the kernel shows those of the whole host; a pod can use the ones whose device
node it has and whose GID belongs to an interface of its own.
"""

import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rdmatrain.discovery.claims.device_nodes import NODES
from rdmatrain.discovery.model import Gid, Machine, Netdev, Nic, Port
from rdmatrain.discovery.pod_model import Claim, Trust
from rdmatrain.discovery.ports import INFINIBAND, ROCE_V1, preference

NOT_LISTED = "libibverbs does not list it"
# What the probe says of a GID when its time is over.
NOT_TESTED = "not tested"
# Reasons are for people: a GID table may have hundreds of entries.
MAX_REASONS = 3


@dataclass(frozen=True)
class Verdict:
    """What is known about the use of a NIC, or of one of its ports.

    Attributes:
        port: number of the port to use; 0 if none works, or none is known.
        gid: the entry to use; None where none is needed or none is known.
        proven: libibverbs opened it, and the GID works, if it needs one.
        problem: id of a complaint if it cannot be used; empty if nothing speaks against it.
        text: what was seen, in words.
        foreign: it looks like a device of another network namespace.

    """

    port: int
    gid: Gid | None
    proven: bool
    problem: str
    text: str
    foreign: bool = False


class Judge:
    """Judges the NICs of a machine by what libibverbs, sysfs and ``/dev/infiniband`` say."""

    def __init__(self, machine: Machine, claims: Sequence[Claim], verbs: Any) -> None:
        """Take all facts.

        Args:
            machine: its netdevs tell which GIDs are of this network namespace.
            claims: those of device nodes tell which devices can be opened.
            verbs: what the probe ``verbs`` found; None, or with an error, if it was not made.

        """
        self._netdevs = {netdev.name: netdev for netdev in machine.netdevs}
        self._nodes = {
            claim.uverbs
            for claim in claims
            if claim.granted and claim.uverbs and claim.weight == Trust.NAME
        }
        self._opened = _by_port(verbs)

    def judge(self, nic: Nic) -> Verdict:
        """Return the best that can be said of any of its ports, the lower number first."""
        if not nic.ports:
            return Verdict(0, None, False, "", "no port is known")
        verdicts = [self._judge_port(nic, port) for port in nic.ports]
        return min(verdicts, key=_rank)

    def _judge_port(self, nic: Nic, port: Port) -> Verdict:
        facts = self._facts(port)
        error = str((facts or {}).get("error") or "")
        if (error or not facts) and self._lacks_node(nic):
            text = f"{NODES}/{nic.uverbs} is not in this container, or not allowed"
            return _unusable("nic-without-node", text, foreign=True)
        if error:
            return _unusable("nic-not-opened", error, self._is_foreign(nic))
        state = str((facts or {}).get("state") or port.state)
        if state not in {"", "ACTIVE"}:
            return _unusable("nic-port-down", _without_link(port, state), self._is_foreign(nic))
        return self._judge_gids(nic, port, facts)

    def _lacks_node(self, nic: Nic) -> bool:
        return bool(self._nodes and nic.uverbs) and nic.uverbs not in self._nodes

    def _facts(self, port: Port) -> Mapping[str, Any] | None:
        """Return what libibverbs says, or None if it was not asked."""
        if self._opened is None:
            return None
        # Of a device that cannot be opened, it knows no port.
        facts = self._opened.get((port.device, port.number))
        return facts or self._opened.get((port.device, 0), {"error": NOT_LISTED})

    def _judge_gids(self, nic: Nic, port: Port, facts: Mapping[str, Any] | None) -> Verdict:
        """Judge a port that can be opened and has a link, as far as that is known."""
        if port.link_layer == INFINIBAND or nic.efa:
            text = f"port {port} is {port.state or 'there'}"
            return Verdict(port.number, None, bool(facts), "", text)
        tested = _tested(facts)
        why_not = {gid: self._why_not(nic, gid, tested) for gid in port.gids}
        fit = [gid for gid in port.gids if not why_not[gid]]
        if fit:
            gid = min(fit, key=lambda gid: _order(gid, tested))
            proven = str(gid.index) in tested
            text = f"port {port}, {gid}{' works' if proven else ''}"
            return Verdict(port.number, gid, proven, "", text)
        if not self._needs_gid(port):
            return Verdict(port.number, None, False, "", f"port {port}, of no known GID")
        reasons = [f"{gid}: {why_not[gid]}" for gid in port.gids]
        if len(reasons) > MAX_REASONS:
            reasons[MAX_REASONS:] = [f"and {len(reasons) - MAX_REASONS} more"]
        text = f"port {port} has no GID that works here: {'; '.join(reasons) or 'none at all'}"
        return _unusable("nic-without-gid", text, self._is_foreign(nic))

    def _needs_gid(self, port: Port) -> bool:
        # A file may list a port without its GIDs; a running system always has interfaces.
        return bool(port.gids or self._netdevs)

    def _why_not(self, nic: Nic, gid: Gid, tested: Mapping[str, Any]) -> str:
        """Return why an entry cannot be used; empty if nothing speaks against it."""
        if str(gid.index) in tested:
            return str(tested[str(gid.index)])
        if not gid.kind:
            return "its type cannot be read: of another network namespace"
        if not self._is_here(nic, gid):
            return "no interface here has it: of another network namespace"
        return ""

    def _is_here(self, nic: Nic, gid: Gid) -> bool:
        """Say whether an entry belongs to an interface of this network namespace."""
        if not self._netdevs or gid.netdev in nic.netdevs:
            return True
        if not gid.netdev:
            return bool(nic.netdevs)
        # Two namespaces may both have an eth0, so the address decides where it is known.
        netdev = self._netdevs.get(gid.netdev)
        return netdev is not None and _may_have(netdev, gid.address)

    def _is_foreign(self, nic: Nic) -> bool:
        """Say whether none of a NIC's interfaces is in this network namespace."""
        if not self._netdevs or nic.netdevs:
            return False
        gids = [gid for port in nic.ports for gid in port.gids]
        ethernet = any(port.link_layer == "Ethernet" for port in nic.ports)
        return ethernet and not any(self._is_here(nic, gid) for gid in gids)


def _without_link(port: Port, state: str) -> str:
    unmanaged = state == "INIT" and port.link_layer == INFINIBAND
    why = ": it waits for the subnet manager of its InfiniBand fabric" if unmanaged else ""
    return f"port {port} is {state}{why}"


def _by_port(verbs: Any) -> dict[tuple[str, int], Mapping[str, Any]] | None:
    """Index the answer of the probe; None if there is none."""
    if not isinstance(verbs, Mapping) or verbs.get("error"):
        return None
    ports = verbs.get("ports")
    return {
        (str(each.get("device")), each["port"]): each
        for each in (ports if isinstance(ports, list) else [])
        if isinstance(each, Mapping) and isinstance(each.get("port"), int)
    }


def _tested(facts: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """Return by index why GIDs do not work, of those that there was time to test."""
    gids = facts.get("gids") if facts else None
    return {
        index: why_not
        for index, why_not in (gids.items() if isinstance(gids, Mapping) else ())
        if not str(why_not).startswith(NOT_TESTED)
    }


def _may_have(netdev: Netdev, address: str) -> bool:
    """Say whether an interface has an address, or whether its addresses are not known."""
    wanted = _parse_address(address)
    known = filter(None, map(_parse_address, netdev.addresses))
    comparable = [each for each in known if wanted and each.version == wanted.version]
    return wanted in comparable or not comparable


def _parse_address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def _order(gid: Gid, tested: Mapping[str, Any]) -> tuple[bool, bool, int, int]:
    return (gid.kind == ROCE_V1, str(gid.index) not in tested, preference(gid), gid.index)


def _rank(verdict: Verdict) -> tuple[bool, bool, bool, int]:
    roce_v1 = verdict.gid is not None and verdict.gid.kind == ROCE_V1
    return (bool(verdict.problem), roce_v1, not verdict.proven, verdict.port)


def _unusable(problem: str, text: str, foreign: bool) -> Verdict:
    return Verdict(0, None, False, problem, text, foreign)
