"""The environment of each local rank: what discovery found, as the libraries want to be told it.

A user's own value always wins; what rdmatrain would have set, and why, is kept beside it. An empty
value counts as none. Three decisions:

- **NCCL is told of the NICs of all ranks, the same in each rank**: ``NCCL_IB_HCA`` is no choice for
  one rank. Every rank puts together what all ranks of its node see, finds the NIC nearest to each
  GPU by itself, and sends through another GPU's NIC where that is the shorter way (PXN). Lists
  that differ by rank break that. RCCL reads the same variables.
- **UCX, libfabric's verbs provider and rdmatrain are told of the rank's own NICs**: they do not
  know of the other ranks.
- **An index of a GID is given only where it is right for every NIC that it would be applied to.**
  Such a variable is one number, and the index differs between the NICs of one pod. NCCL >= 2.21
  chooses by itself; where its choice can be steered to the proven entries by family and network,
  those are given instead.

Left alone, for want of a reason: ``NCCL_NET_GDR_LEVEL`` and ``NCCL_CROSS_NIC``, which NCCL derives
from the topology; ``FI_EFA_IFACE``, which NCCL's plugin for EFA reads too, where it would have to
be the same in all ranks.

Sources: "Environment Variables" in NCCL's user guide; UCX's FAQ and ``ucx_info -cf``; libfabric's
manual pages fi_verbs(7) and fi_efa(7).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rdmatrain.discovery.device_lists import LISTS, nccl_allows, usable_nics, used_nics
from rdmatrain.discovery.gid_index import STEERING, differ, label, one_index, steer
from rdmatrain.discovery.interfaces import Interface
from rdmatrain.discovery.model import Machine, Nic
from rdmatrain.discovery.nccl_topo import merges_vfs
from rdmatrain.discovery.pod_model import Allocation, Binding, GrantedNic

# PCI vendor Amazon, and how rdma-core names its devices.
_AMAZON = "1d0f:"
_EFA_NAMES = ("rdmap", "efa")
_LIBFABRIC = ("FI_VERBS_DEVICE_NAME", "FI_VERBS_IFACE", "FI_VERBS_GID_IDX")


@dataclass(frozen=True)
class Choice:
    """One variable.

    Attributes:
        name: of the variable.
        value: what the ranks get; empty if it is not set.
        mine: what rdmatrain would set; empty if it would not.
        given: ``value`` is the user's own.
        reason: why ``mine``.

    """

    name: str
    value: str
    mine: str
    given: bool
    reason: str

    @property
    def by(self) -> str:
        """Who set it: ``user``, ``rdmatrain`` or nobody."""
        return "user" if self.given else "rdmatrain" if self.value else ""


@dataclass(frozen=True)
class Environment:
    """Variables of all ranks.

    Attributes:
        common: those that are the same in all.
        ranks: those of one rank, by its local rank.

    """

    common: tuple[Choice, ...]
    ranks: Mapping[int, tuple[Choice, ...]]

    def to_set(self, local_rank: int) -> dict[str, str]:
        """Return what a launcher adds for a rank; the user's own are there already."""
        choices = (*self.common, *self.ranks.get(local_rank, ()))
        return {each.name: each.value for each in choices if each.value and not each.given}


def variables(
    machine: Machine,
    allocation: Allocation,
    bindings: Sequence[Binding],
    user: Mapping[str, str],
    interface: Interface,
    topology_file: str = "",
) -> Environment:
    """Choose the environment of each local rank.

    Args:
        machine: where the pod is.
        allocation: what it was given.
        bindings: what each rank got.
        user: the user's own variables.
        interface: for NCCL's sockets.
        topology_file: where the output of ``nccl_topo.topology_xml`` is, if it is needed.

    """
    chooser = _Chooser(user)
    nics = _bound(usable_nics(allocation), bindings)
    given = user.get("NCCL_IB_HCA", "")
    for_nccl = used_nics(allocation, given, nccl_allows) if given else nics
    common = [
        _nccl_devices(chooser, allocation, nics),
        _nccl_off(chooser, allocation, nics),
        *_nccl_gids(chooser, for_nccl),
        chooser.choose("NCCL_SOCKET_IFNAME", _exactly(interface.name), interface.reason),
        _nccl_cards(chooser, for_nccl),
        _nccl_topology(chooser, allocation, topology_file),
        _efa_provider(chooser, allocation, nics),
    ]
    return Environment(
        common=tuple(common),
        ranks={each.local_rank: _of_rank(chooser, machine, allocation, each) for each in bindings},
    )


class _Chooser:
    def __init__(self, user: Mapping[str, str]) -> None:
        self.user = user

    def choose(self, name: str, mine: str, reason: str) -> Choice:
        given = self.user.get(name, "")
        return Choice(name, given or mine, mine, bool(given), reason)

    def given(self, *names: str) -> str:
        """Return the first of the variables that the user set."""
        return next((name for name in names if self.user.get(name)), "")


def _bound(nics: list[GrantedNic], bindings: Sequence[Binding]) -> list[GrantedNic]:
    """Return the NICs that ranks are bound to, or all: what pairing left out is too slow or far."""
    names = {nic.name for binding in bindings for nic in binding.nics}
    return [each for each in nics if each.nic.name in names] or nics


def _exactly(names: str) -> str:
    return f"={names}" if names else ""


def _nccl_devices(chooser: _Chooser, allocation: Allocation, nics: Sequence[GrantedNic]) -> Choice:
    if not nics:
        return chooser.choose("NCCL_IB_HCA", "", "no NIC of this pod can be used by verbs")
    left = [each.nic.name for each in usable_nics(allocation) if each not in nics]
    why = "the NICs of all ranks by their whole names: a prefix would take others too"
    why += f"; not {', '.join(left)}, of no rank" if left else ""
    return chooser.choose("NCCL_IB_HCA", "=" + ",".join(map(label, nics)), why)


def _nccl_off(chooser: _Chooser, allocation: Allocation, nics: Sequence[GrantedNic]) -> Choice:
    """Keep NCCL from NICs that it can see and not use, where there are no others."""
    seen = [nic.name for nic, _ in allocation.others if not nic.efa]
    seen += [each.nic.name for each in allocation.nics if not each.port and not each.nic.efa]
    # A user who names NICs knows better.
    if nics or not seen or chooser.given("NCCL_IB_HCA"):
        return chooser.choose("NCCL_IB_DISABLE", "", "there is nothing to keep NCCL from")
    why = f"{', '.join(seen)} can be seen, and cannot be used"
    return chooser.choose("NCCL_IB_DISABLE", "1", why)


def _nccl_gids(chooser: _Chooser, nics: Sequence[GrantedNic]) -> list[Choice]:
    index, reason = one_index(nics)
    steering, why_steered = dict.fromkeys(STEERING, ""), reason
    by_user = chooser.given(*STEERING)
    if by_user:
        # An index would make NCCL overlook it.
        index, reason = "", f"{by_user} is for NCCL to choose by"
    elif differ(nics) and not chooser.given("NCCL_IB_GID_INDEX"):
        steering, why_steered = steer(nics)
        reason = f"{reason}; {why_steered}"
    return [
        chooser.choose("NCCL_IB_GID_INDEX", index, reason),
        *(chooser.choose(name, value, why_steered) for name, value in steering.items()),
    ]


def _nccl_cards(chooser: _Chooser, nics: Sequence[GrantedNic]) -> Choice:
    if merges_vfs([each.nic for each in nics], {}):
        return chooser.choose("NCCL_IB_MERGE_VFS", "", "NICs of one bus are of one card")
    why = "several cards share a bus, and NCCL would take them for one"
    return chooser.choose("NCCL_IB_MERGE_VFS", "0", why)


def _nccl_topology(chooser: _Chooser, allocation: Allocation, path: str) -> Choice:
    only_efa = allocation.nics and all(each.nic.efa for each in allocation.nics)
    if path and only_efa:
        return chooser.choose("NCCL_TOPO_FILE", "", "NCCL's plugin for EFA brings its own")
    reason = "distances that NCCL cannot see" if path else "NCCL sees the distances by itself"
    return chooser.choose("NCCL_TOPO_FILE", path, reason)


def _efa_provider(chooser: _Chooser, allocation: Allocation, nics: Sequence[GrantedNic]) -> Choice:
    names = [each.nic.name for each in allocation.nics if _is_amazon(each.nic)]
    if names and not nics:
        return chooser.choose("FI_PROVIDER", "efa", f"{', '.join(names)} are of EFA")
    return chooser.choose("FI_PROVIDER", "", "libfabric chooses by what there is")


def _is_amazon(nic: Nic) -> bool:
    if not nic.efa:
        return False
    return nic.vendor.startswith(_AMAZON) if nic.vendor else nic.name.startswith(_EFA_NAMES)


def _of_rank(
    chooser: _Chooser, machine: Machine, allocation: Allocation, binding: Binding
) -> tuple[Choice, ...]:
    """Choose what one rank gets."""
    usable = {(each.nic.name, each.port): each for each in usable_nics(allocation)}
    bound = [(nic.name, port) for nic, port in zip(binding.nics, binding.ports, strict=False)]
    own = [usable[each] for each in bound if each in usable]
    names = ",".join(map(label, own))
    why = f"the rank's own: {binding.reason}" if own else "the rank has no NIC that verbs can use"
    choices = []
    for devices, allows, index in LISTS[1:]:
        # Where the user chose the devices, the index has to be right for those.
        given = chooser.user.get(devices, "")
        used = used_nics(allocation, given, allows) if given else own
        # A rank's own, which comm does not deal out once more.
        mark = "=" if names and devices == "RDMATRAIN_DEVICES" else ""
        choices += [
            chooser.choose(devices, mark + names, why),
            chooser.choose(index, *one_index(used)),
        ]
    return (*choices, *_libfabric(chooser, machine, own))


def _libfabric(chooser: _Chooser, machine: Machine, own: Sequence[GrantedNic]) -> list[Choice]:
    """Choose for the verbs provider, which takes one device, by the beginning of its name."""
    if not own:
        none = "the rank has no NIC that verbs can use"
        return [chooser.choose(name, "", none) for name in _LIBFABRIC]
    nic = own[0].nic
    device, why = _unambiguous(nic.name, [each.name for each in machine.nics])
    netdev, why_netdev = _unambiguous(
        _netdev(machine, own[0]), [each.name for each in machine.netdevs]
    )
    index, why_index = one_index(own[:1])
    by_user = chooser.given("FI_VERBS_DEVICE_NAME", "FI_VERBS_IFACE")
    if by_user or not device:
        index, why_index = "", f"{by_user or nic.name} may mean another device than {nic.name}"
    values = (device, netdev, index)
    reasons = (why, why_netdev, why_index)
    return [
        chooser.choose(name, value, reason)
        for name, value, reason in zip(_LIBFABRIC, values, reasons, strict=True)
    ]


def _unambiguous(name: str, names: Sequence[str]) -> tuple[str, str]:
    """Return a name that is no beginning of another one, else none; and why."""
    if not name:
        return "", "the NIC has no interface with an IP address"
    alike = [each for each in names if each != name and each.lower().startswith(name.lower())]
    if alike:
        return "", f"{name} would mean {', '.join(alike)} too"
    return name, "of the rank's own NIC"


def _netdev(machine: Machine, each: GrantedNic) -> str:
    """Return the interface that carries the NIC's address; empty where that is not known."""
    with_address = {dev.name for dev in machine.netdevs if dev.addresses}
    names = ([each.gid.netdev] if each.gid else []) + list(each.nic.netdevs)
    return next((name for name in names if name in with_address), "")
