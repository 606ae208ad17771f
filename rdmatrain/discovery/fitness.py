"""Which NICs pairing should leave out: only those with a clear sign, and never all.

Those that are slower than others are for pairing to judge, which sees what they add up to.
"""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

from rdmatrain.discovery.model import Nic

# What a reader writes into `Nic.unfit` of a NIC that cannot do RDMA.
NO_RDMA = "has no RDMA, which others here have"
# Bridges and tunnels of containers, which NCCL lists too.
_VIRTUAL = "is virtual, beside interfaces that are not"
# So many times as much is the fabric, and the rest is not.
MANY = 2
_BOND = re.compile(r"bond|lag", re.IGNORECASE)


def judge(nics: Sequence[Nic]) -> tuple[Nic, ...]:
    """Return the NICs, each with the reason why it is unfit, if it is."""
    if all(nic.unfit == NO_RDMA for nic in nics):
        nics = _without_rdma(nics)
    # One after the other, so that no rule compares with a NIC that is out already.
    for rule in (_down, _bond, _other_fabric):
        reason = rule([nic for nic in nics if not nic.unfit])
        nics = [nic if nic.unfit else replace(nic, unfit=reason(nic)) for nic in nics]
    return tuple(nics)


def _without_rdma(nics: Sequence[Nic]) -> list[Nic]:
    """Of a machine without RDMA, all interfaces are fit that are real."""
    real = any(nic.pci for nic in nics)
    return [replace(nic, unfit=_VIRTUAL if real and not nic.pci else "") for nic in nics]


def _down(fit: Sequence[Nic]) -> Callable[[Nic], str]:
    states = {port.state for nic in fit for port in nic.ports}

    def reason(nic: Nic) -> str:
        own = {port.state for port in nic.ports}
        down = bool(own) and not own & {"", "ACTIVE"}
        return f"its port is {nic.ports[0].state}" if down and "ACTIVE" in states else ""

    return reason


def _bond(fit: Sequence[Nic]) -> Callable[[Nic], str]:
    bonds = {nic.name for nic in fit if _BOND.search(nic.name)}
    single = [nic.gbps for nic in fit if nic.name not in bonds]
    # Where most are bonds, each of them is a rail.
    few = len(bonds) <= len(single)

    def reason(nic: Nic) -> str:
        out = few and nic.name in bonds and nic.gbps <= max(single)
        return "is a bond, beside NICs that are as fast" if out else ""

    return reason


def _other_fabric(fit: Sequence[Nic]) -> Callable[[Nic], str]:
    """InfiniBand and Ethernet do not reach each other: what has far less is no part of the fabric.

    Less bandwidth, or fewer NICs where not all say how fast they are.
    """
    known = all(nic.gbps for nic in fit if layer(nic))
    sums: Counter[str] = Counter()
    for nic in fit:
        sums[layer(nic)] += int(nic.gbps) if known else 1
    del sums[""]
    fabric = max(sums, key=lambda each: sums[each], default="")

    def reason(nic: Nic) -> str:
        own = layer(nic)
        few = own not in {"", fabric} and sums[fabric] >= MANY * sums[own]
        return f"is of {own}, and the fabric is {fabric}" if few else ""

    return reason


def layer(nic: Nic) -> str:
    """Return the link layer of its port that has a link, or else of its first one."""
    active = (port.link_layer for port in nic.ports if port.state == "ACTIVE")
    return next(active, nic.ports[0].link_layer if nic.ports else "")
