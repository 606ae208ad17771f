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
# So many times as many NICs are the fabric, and the few are not.
MANY = 2
_BOND = re.compile(r"bond|lag", re.IGNORECASE)


def judge(nics: Sequence[Nic]) -> tuple[Nic, ...]:
    """Return the NICs, each with the reason why it is unfit, if it is."""
    if all(nic.unfit == NO_RDMA for nic in nics):
        nics = [replace(nic, unfit="") for nic in nics]
    # One after the other, so that no rule compares with a NIC that is out already.
    for rule in (_down, _bond, _other_fabric):
        reason = rule([nic for nic in nics if not nic.unfit])
        nics = [nic if nic.unfit else replace(nic, unfit=reason(nic)) for nic in nics]
    return tuple(nics)


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
    """Few of Ethernet beside InfiniBand are for storage and management, and the other way round."""
    counts = Counter(_layer(nic) for nic in fit if _layer(nic))
    common = max(counts, key=lambda layer: counts[layer], default="")

    def reason(nic: Nic) -> str:
        own = _layer(nic)
        few = own and counts[common] >= MANY * counts[own]
        return f"is of {own}, while most are of {common}" if few else ""

    return reason


def _layer(nic: Nic) -> str:
    return nic.ports[0].link_layer if nic.ports else ""
