"""What is wrong with a user's own variables on this machine. They win nevertheless."""

import re
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass

from rdmatrain.discovery.claims.values import shown
from rdmatrain.discovery.complaints import complaint
from rdmatrain.discovery.device_lists import LISTS, Allows, nccl_allows, usable_nics, used_nics
from rdmatrain.discovery.gid_index import label, port_of
from rdmatrain.discovery.model import Complaint, Gid, Machine
from rdmatrain.discovery.nccl import NameList, gid_address, roce_version
from rdmatrain.discovery.pod_model import Allocation, GrantedNic
from rdmatrain.discovery.source import natural


def check(
    machine: Machine, allocation: Allocation, user: Mapping[str, str]
) -> tuple[Complaint, ...]:
    """Find the user's own values that do not fit what this pod was given.

    Args:
        machine: where the pod is.
        allocation: what it was given.
        user: the user's own variables; an empty one counts as none.

    """
    given = {name: value for name, value in user.items() if value}
    return (
        *_nccl_devices(machine, allocation, given),
        *_nccl_off(allocation, given),
        *_nccl_sockets(machine, given),
        *_lists(machine, allocation, given),
        *_gid_indexes(allocation, given),
    )


def _nccl_devices(
    machine: Machine, allocation: Allocation, user: Mapping[str, str]
) -> Iterable[Complaint]:
    if "NCCL_IB_HCA" not in user:
        return
    given = _Given("NCCL_IB_HCA", user["NCCL_IB_HCA"])
    wanted = NameList.parse(given.value)
    visible = _visible(machine, allocation)
    for name, port in () if wanted.exclude else wanted.entries:
        taken = {
            each for each, number in _ports(visible) if wanted.names((name, port), each, number)
        }
        if not taken:
            yield _not_here(given, name if port is None else f"{name}:{port}", visible)
        elif name in taken and len(taken) > 1:
            text = f"{name} takes {_listed(taken - {name})} too: write ={name} for that one only"
            yield given.complaint("variable-prefix", text)
    yield from _foreign(given, allocation, visible, nccl_allows)


def _nccl_off(allocation: Allocation, user: Mapping[str, str]) -> Iterable[Complaint]:
    names = _listed(each.nic.name for each in usable_nics(allocation))
    off = {
        "NCCL_IB_DISABLE": bool(_number(user.get("NCCL_IB_DISABLE", ""))),
        "NCCL_NET": user.get("NCCL_NET", "").lower() == "socket",
    }
    for name in (name for name in off if off[name] and names):
        text = f"NCCL will use sockets, though {names} can be used"
        yield _Given(name, user[name]).complaint("variable-rdma-off", text)


def _nccl_sockets(machine: Machine, user: Mapping[str, str]) -> Iterable[Complaint]:
    given = _Given("NCCL_SOCKET_IFNAME", user.get("NCCL_SOCKET_IFNAME", ""))
    if not given.value or not machine.netdevs:
        return
    wanted = NameList.parse(given.value)
    names = [dev.name for dev in machine.netdevs]
    missing = _absent(wanted, names)
    if missing:
        text = f"there is no interface {_listed(missing)} here: there are {_listed(names)}"
        yield given.complaint("variable-interface", text)
    elif not _has_address(machine, taken := {name for name in names if wanted.allows(name)}):
        text = f"takes no interface with an IP address; it takes {_listed(taken) or 'none'}"
        yield given.complaint("variable-interface", text)


def _absent(wanted: NameList, names: Sequence[str]) -> list[str]:
    """Return the entries that mean nothing; those of an exclusion need not."""
    entries = () if wanted.exclude else wanted.entries
    return [each[0] for each in entries if not any(wanted.names(each, name) for name in names)]


def _has_address(machine: Machine, names: Container[str]) -> bool:
    """Tell whether one of these interfaces has an address; True where none is known of any."""
    with_address = [dev.name for dev in machine.netdevs if dev.addresses]
    return not with_address or any(name in names for name in with_address)


def _lists(
    machine: Machine, allocation: Allocation, user: Mapping[str, str]
) -> Iterable[Complaint]:
    """Look at the lists of UCX and rdmatrain, whose entries are whole names or patterns."""
    visible = _visible(machine, allocation)
    netdevs = {dev.name for dev in machine.netdevs}
    for variable, allows, _ in LISTS[1:]:
        given = _Given(variable, user.get(variable, ""))
        if not given.value:
            continue
        items = () if given.value.startswith("^") else given.value.split(",")
        for item in filter(None, items):
            if item not in netdevs and not any(allows(item, *port) for port in _ports(visible)):
                yield _not_here(given, item, visible)
        yield from _foreign(given, allocation, visible, allows)


def _gid_indexes(allocation: Allocation, user: Mapping[str, str]) -> Iterable[Complaint]:
    for devices, allows, variable in LISTS:
        index = _number(user.get(variable, ""))
        if index is None or index < 0:
            continue  # None, or what leaves the choice to the library.
        nics = used_nics(allocation, user.get(devices, ""), allows)
        wrong = [f"{label(each)} {why}" for each, why in _wrong(nics, index)]
        if wrong:
            yield _Given(variable, user[variable]).complaint("variable-gid", "; ".join(wrong))


def _wrong(nics: Sequence[GrantedNic], index: int) -> Iterable[tuple[GrantedNic, str]]:
    """Return the NICs of RoCE that the index is not right for, and why."""
    for each in nics:
        port = port_of(each)
        if port.link_layer != "Ethernet":
            continue
        gid = next((gid for gid in port.gids if gid.index == index), None)
        why = _why_not(gid, each.gid)
        if why:
            yield each, why + (f": use {each.gid.index}, {each.gid}" if each.gid else "")


def _why_not(gid: Gid | None, proven: Gid | None) -> str:
    if gid is None:
        return "has no such entry, or it is zero or of another network namespace"
    if gid == proven:
        return ""
    if roce_version(gid) != 2:
        return f"has {gid} there, which is not RoCE v2"
    return f"has {gid} there, which no router forwards" if gid_address(gid).is_link_local else ""


def _foreign(
    given: "_Given", allocation: Allocation, visible: Mapping[str, Sequence[int]], allows: Allows
) -> Iterable[Complaint]:
    """Complain about devices that a list takes and the pod was not given."""
    reasons = {nic.name: reason for nic, reason in allocation.others}
    granted = {each.nic.name for each in allocation.nics}
    taken = {name for name, port in _ports(visible) if allows(given.value, name, port)}
    foreign = sorted(taken & set(reasons), key=natural)
    if foreign:
        text = ", ".join(f"{shown(name)} ({reasons[name]})" for name in foreign)
        yield given.complaint("variable-device", f"takes what is not for this pod: {text}")
    if granted and not taken & granted:
        text = f"takes none of this pod's NICs: they are {_listed(granted)}"
        yield given.complaint("variable-device", text)


@dataclass(frozen=True)
class _Given:
    """A variable of the user."""

    name: str
    value: str

    def complaint(self, what: str, text: str) -> Complaint:
        return complaint(what, f"{self.name}={shown(self.value)}", text)


def _visible(machine: Machine, allocation: Allocation) -> dict[str, list[int]]:
    """Return all RDMA devices that are known of, with their ports; port 1 where none is known."""
    nics = [each.nic for each in allocation.nics] + [nic for nic, _ in allocation.others]
    return {nic.name: [port.number for port in nic.ports] or [1] for nic in (*machine.nics, *nics)}


def _not_here(given: _Given, name: str, visible: Iterable[str]) -> Complaint:
    # A space after a comma is part of the name, and hard to see.
    what = repr(shown(name)) if " " in name else shown(name)
    here = _listed(visible) or "none"
    return given.complaint("variable-device", f"there is no {what} here: the devices are {here}")


def _ports(visible: Mapping[str, Sequence[int]]) -> list[tuple[str, int]]:
    return [(name, port) for name, numbers in visible.items() for port in numbers]


def _listed(names: Iterable[str]) -> str:
    return ", ".join(shown(name) for name in sorted(names, key=natural))


def _number(text: str) -> int | None:
    return int(text) if re.fullmatch(r"\s*[+-]?\d{1,9}\s*", text, re.ASCII) else None
