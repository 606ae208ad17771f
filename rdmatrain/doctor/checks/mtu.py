"""The MTU of a port, which follows from that of its interface."""

from rdmatrain.discovery.gid_index import port_of
from rdmatrain.discovery.model import Gid, Netdev, Port
from rdmatrain.discovery.pod_model import GrantedNic
from rdmatrain.discovery.ports import INFINIBAND
from rdmatrain.doctor.checks.rdma_case import facts_of
from rdmatrain.doctor.job import is_kubernetes
from rdmatrain.doctor.model import Case, Finding, passed, skipped, warned

# RoCE's headers as the kernel counts them (iboe_get_mtu): GRH, UDP, BTH, XRC, atomic and ICRC.
ROCE_HEADERS = 96
MTUS = (4096, 2048, 1024, 512, 256)


def netdev_of(case: Case, each: GrantedNic, gid: Gid) -> Netdev | None:
    """Return the interface that a GID is of."""
    names = [gid.netdev] if gid.netdev else list(each.nic.netdevs)
    return next((netdev for netdev in case.found.machine.netdevs if netdev.name in names), None)


def active_mtu(case: Case, port: Port) -> int:
    """Return the MTU of a port; 0 where it is not known."""
    value = facts_of(case, port).get("active_mtu")
    return value if isinstance(value, int) and value > 0 else 0


def carries(size: int) -> int:
    """Return the MTU of an interface that carries so much of RoCE, as people set it."""
    return max(1500, -(-(size + ROCE_HEADERS) // 100) * 100)


def fits(netdev_mtu: int) -> int:
    """Return the MTU that RoCE makes of an interface's."""
    return next((size for size in MTUS if size + ROCE_HEADERS <= netdev_mtu), 0)


def judge_mtu(case: Case, each: GrantedNic, active: int) -> Finding:
    """Judge a port's MTU by its own, and by that of its interface."""
    port = port_of(each)
    netdev = netdev_of(case, each, each.gid) if each.gid else None
    if port.link_layer == INFINIBAND or each.nic.efa or netdev is None:
        seen = f"{port}: active_mtu {active}"
        return passed(seen) if active else skipped(f"{port}: its MTU cannot be seen")
    # A macvlan or a bond has its own MTU, which the port does not follow.
    own = netdev.name in each.nic.netdevs and netdev.mtu > 0
    text = f"{port}: active_mtu {active or 'unknown'}, {netdev.name} has mtu {netdev.mtu}"
    return _hold_mtu(case, netdev, active, fits(netdev.mtu) if own else active, text)


def _hold_mtu(case: Case, netdev: Netdev, active: int, fits: int, text: str) -> Finding:
    """Hold a port's MTU against the one that its interface carries."""
    if active > fits:
        return warned(f"{text}, which carries {fits}", _set_mtu(case, netdev, active))
    if 0 < fits < MTUS[0]:
        return warned(f"{text}: at most {fits} of RoCE", _set_mtu(case, netdev, MTUS[0]))
    if active and active < fits:
        again = f"ip link set dev {netdev.name} down; ip link set dev {netdev.name} up"
        return warned(f"{text}, which carries {fits}", again)
    return passed(text) if active else skipped(text)


def _set_mtu(case: Case, netdev: Netdev, active: int) -> str:
    """Return how an interface gets an MTU that carries so much of RoCE."""
    size = carries(active)
    if is_kubernetes(case):
        tuning = f'{{"type": "tuning", "mtu": {size}}}'
        return f"plugins: [..., {tuning}], in the NetworkAttachmentDefinition of {netdev.name}"
    return f"ip link set dev {netdev.name} mtu {size}"
