"""One GID index for several NICs, where there is one, and how to do without where there is none."""

from collections.abc import Sequence

from rdmatrain.config import MAX_GID_INDEX
from rdmatrain.discovery.model import Port
from rdmatrain.discovery.nccl import (
    FAMILY,
    automatic_gid,
    common_network,
    gid_address,
    roce_version,
)
from rdmatrain.discovery.pod_model import GrantedNic

# What steers NCCL's own choice of a GID.
STEERING = ("NCCL_IB_ROCE_VERSION_NUM", "NCCL_IB_ADDR_FAMILY", "NCCL_IB_ADDR_RANGE")
# More than any index that can be used.
_NONE = MAX_GID_INDEX + 1


def label(each: GrantedNic) -> str:
    """Return the NIC and its port as all libraries write them: ``mlx5_18:1``."""
    return f"{each.nic.name}:{each.port}"


def port_of(each: GrantedNic) -> Port:
    """Return the port to use; one without facts if the source has none of it."""
    found = (port for port in each.nic.ports if port.number == each.port)
    return next(found, Port(each.nic.name, each.port, "", ""))


def differ(nics: Sequence[GrantedNic]) -> bool:
    """Tell whether the proven entries have different indexes."""
    return len({each.gid.index for each in nics if each.gid}) > 1


def one_index(nics: Sequence[GrantedNic]) -> tuple[str, str]:
    """Return the index that is right for all, or nothing; and why."""
    roce = [each for each in nics if port_of(each).link_layer != "InfiniBand"]
    if not roce:
        return "", "InfiniBand needs no index" if nics else "there is no NIC"
    table = ", ".join(f"{label(each)} has {each.gid or 'none that was proven'}" for each in roce)
    indexes = {each.gid.index if each.gid else _NONE for each in roce}
    index = indexes.pop()
    if indexes or index > MAX_GID_INDEX:
        return "", f"no one index is right for all: {table}"
    return str(index), f"right for all: {table}"


def steer(nics: Sequence[GrantedNic]) -> tuple[dict[str, str], str]:
    """Find a family and a network by which NCCL's own choice is the proven entry of each NIC.

    Args:
        nics: at least one has a proven entry.

    """
    chosen = [(port_of(each), each.gid) for each in nics if each.gid]
    addresses = [gid_address(gid) for _, gid in chosen]
    kinds = {(gid_address(gid).version, roce_version(gid)) for _, gid in chosen}
    nothing = dict.fromkeys(STEERING, "")
    if len(kinds) > 1:
        return nothing, "nor have they one family and version that NCCL could choose by"
    ((family, version),) = kinds
    for network in (None, common_network(addresses)):
        if all(automatic_gid(port, family, network, version) == gid.index for port, gid in chosen):
            values = (str(version), FAMILY[family], str(network) if network else "")
            steered = dict(zip(STEERING, values, strict=True))
            return steered, "NCCL >= 2.21 finds these entries by family, version and network"
    return nothing, f"nor would NCCL find them by {FAMILY[family]} and a network"
