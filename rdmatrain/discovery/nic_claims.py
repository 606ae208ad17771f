"""Which NICs of a machine each claim means, and where claims contradict the kernel.

A claim finds its devices by PCI address first: the RDMA CNI renames devices, and every host
numbers them in its own way.
"""

from collections.abc import Iterable, Mapping, Sequence

from rdmatrain.discovery.complaints import complaint
from rdmatrain.discovery.model import Complaint, Machine, Nic
from rdmatrain.discovery.nics import manages
from rdmatrain.discovery.pod_model import Claim, Trust
from rdmatrain.discovery.ports import DEVICES
from rdmatrain.discovery.source import natural
from rdmatrain.discovery.verdicts import Verdict

Meanings = dict[Claim, tuple[Nic, ...]]


def grants(claim: Claim) -> bool:
    """Say whether a claim grants a device, and not only an interface or a network.

    A device node does not: privileged containers have those of all devices.
    """
    return claim.granted and claim.weight > Trust.NAME and bool(device_of(claim))


def device_of(claim: Claim) -> str:
    """Return how a claim names its device; empty if it names none."""
    return _place(claim) or ",".join(claim.rdma) or claim.uverbs


def place_of(nic: Nic) -> str:
    """Return where a NIC is: its subfunction, or else its PCI address."""
    return nic.auxiliary or nic.pci


def interpret(
    claims: Sequence[Claim], machine: Machine, verdicts: Mapping[str, Verdict]
) -> tuple[Meanings, list[Complaint]]:
    """Find the NICs of each claim.

    Args:
        claims: each once; the first of those that name one missing device is complained of.
        machine: where to look.
        verdicts: by name of the NIC, whether it can be used.

    """
    meanings: Meanings = {}
    complaints: list[Complaint] = []
    missing: dict[str, Claim] = {}
    for claim in claims:
        nics = _match(claim, machine.nics)
        complaints += _wrong_name(claim, nics) + _wrong_netdev(claim, machine)
        nics, wrong = _instead_of_pf(claim, nics, machine, verdicts)
        complaints += wrong
        meanings[claim] = nics
        if grants(claim) and all(map(manages, nics)):
            missing.setdefault(device_of(claim), claim)
    complaints += [_missing(claim, machine) for claim in missing.values()]
    return meanings, complaints


def network_of(nic: Nic, claims: Sequence[Claim], machine: Machine) -> str:
    """Return the network that a NIC is attached to.

    Args:
        nic: which one.
        claims: all of them.
        machine: its interfaces decide; a claim's address only where its interface is not here.

    """
    here = {netdev.name for netdev in machine.netdevs}
    by_netdev = (claim.network for claim in claims if claim.netdev in _interfaces(nic))
    by_place = (
        claim.network
        for claim in claims
        if claim.netdev not in here and _place(claim) == place_of(nic) != ""
    )
    return next(filter(None, by_netdev), "") or next(filter(None, by_place), "")


def _place(claim: Claim) -> str:
    return claim.auxiliary or claim.pci


def _match(claim: Claim, nics: Sequence[Nic]) -> tuple[Nic, ...]:
    """Return the NICs that a claim means: all of its PCI function, if it has an address."""
    place = _place(claim)
    if place:
        found = tuple(nic for nic in nics if place_of(nic) == place)
        if found:
            return found
        # A name of the host says nothing about a device that is elsewhere.
        nics = [nic for nic in nics if not place_of(nic)]
    return _match_name(claim, nics)


def _match_name(claim: Claim, nics: Sequence[Nic]) -> tuple[Nic, ...]:
    by_name = tuple(nic for nic in nics if nic.name in claim.rdma)
    by_node = tuple(nic for nic in nics if nic.uverbs == claim.uverbs != "")
    return by_name or by_node or tuple(nic for nic in nics if claim.netdev in _interfaces(nic))


def _interfaces(nic: Nic) -> set[str]:
    """Return the interfaces of a NIC: of its function, and those above it that have a GID."""
    return {*nic.netdevs, *(gid.netdev for port in nic.ports for gid in port.gids)} - {""}


def _wrong_name(claim: Claim, nics: Sequence[Nic]) -> list[Complaint]:
    names = {nic.name for nic in nics}
    nodes = {nic.uverbs for nic in nics} - {""}
    wrong = set(claim.rdma) - names
    if nodes:
        wrong |= {claim.uverbs} - nodes - {""}
    if not names or not wrong:
        return []
    said, here = (", ".join(sorted(each, key=natural)) for each in (wrong, names | nodes))
    text = f"says {said} for {device_of(claim)}, which is {here} here: the kernel is believed"
    return [complaint("rdma-name-differs", claim.evidence.source, text)]


def _wrong_netdev(claim: Claim, machine: Machine) -> list[Complaint]:
    netdev = next((each for each in machine.netdevs if each.name == claim.netdev), None)
    if not claim.pci or netdev is None or netdev.pci in {"", claim.pci}:
        return []
    text = f"says that {netdev.name} is {claim.pci}; it is {netdev.pci}: the kernel is believed"
    return [complaint("netdev-differs", claim.evidence.source, text)]


def _instead_of_pf(
    claim: Claim, nics: tuple[Nic, ...], machine: Machine, verdicts: Mapping[str, Verdict]
) -> tuple[tuple[Nic, ...], list[Complaint]]:
    """Return the VFs of a physical function that is named, where only those can be used."""
    if not claim.pci or _usable(nics, verdicts):
        return nics, []
    vfs = _usable((nic for nic in machine.nics if nic.pf == claim.pci), verdicts)
    if not vfs:
        return nics, []
    names = ", ".join(nic.name for nic in vfs)
    text = f"names {claim.pci}, a physical function; {names}, of its VFs, is what works here"
    return vfs, [complaint("pf-named", claim.evidence.source, text)]


def _usable(nics: Iterable[Nic], verdicts: Mapping[str, Verdict]) -> tuple[Nic, ...]:
    return tuple(nic for nic in nics if not verdicts[nic.name].problem)


def _missing(claim: Claim, machine: Machine) -> Complaint:
    """Complain of a granted device that is not here."""
    source, device = claim.evidence.source, device_of(claim)
    for netdev in machine.netdevs:
        if netdev.pci == claim.pci != "":
            text = (
                f"grants {device}, whose interface {netdev.name} is here, but not its RDMA device: "
                "if RDMA namespaces are exclusive, its network needs the rdma plugin"
            )
            return complaint("nic-not-rdma", source, text)
    text = (
        f"grants {device}, and {DEVICES} has no such device: was its network attached, and is "
        "RDMA enabled for it?"
    )
    return complaint("nic-missing", source, text)
