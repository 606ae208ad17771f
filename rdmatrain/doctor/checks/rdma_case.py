"""What several checks ask of a case about its NICs, and of discovery's complaints."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from rdmatrain.discovery.gid_index import port_of
from rdmatrain.discovery.model import Complaint, Nic, Port
from rdmatrain.discovery.nic_claims import device_of
from rdmatrain.discovery.pod_model import GrantedNic
from rdmatrain.discovery.ports import DEVICES
from rdmatrain.doctor import facts
from rdmatrain.doctor.facts import said
from rdmatrain.doctor.job import expects_rdma, nic_claims
from rdmatrain.doctor.model import Case, Finding, failed, skipped, warned

# What a device plugin for VFs calls them where nothing tells, as in NVIDIA's and OCI's manifests.
RESOURCE = "nvidia.com/rdma-vf"
PODINFO = (
    "volumes: [{name: podinfo, downwardAPI: {items: [{path: annotations, fieldRef: {fieldPath: "
    "metadata.annotations}}]}}], mounted at /etc/podinfo, which is refreshed"
)


def complaints(case: Case, *ids: str) -> list[Complaint]:
    """Return those of discovery that have one of the ids, but for those about the job's nodes."""
    identity = case.found.identity
    elsewhere = identity.complaints if identity else ()
    return [each for each in facts.complaints(case, *ids) if each not in elsewhere]


def granted_names(case: Case) -> list[str]:
    """Return how the granted NICs are called by who grants them, each once."""
    return list(dict.fromkeys(map(device_of, nic_claims(case))))


def resource_of(case: Case) -> str:
    """Return the resource that the NICs are of."""
    return next((each.resource for each in nic_claims(case) if "/" in each.resource), RESOURCE)


def graded(case: Case, evidence: str, fix: str) -> Finding:
    """Return a FAIL where this pod is to have RDMA, else a WARN."""
    return (failed if expects_rdma(case) else warned)(evidence, fix)


def unneeded(case: Case) -> Finding | None:
    """Return a SKIP where there is no reason to look at NICs."""
    if not case.wants_rdma:
        return skipped(f"the job is to use {case.needs.transport}")
    if not case.found.machine.nics and not expects_rdma(case):
        return skipped("there is no RDMA device here, and none was asked for")
    return None


def used(case: Case) -> list[GrantedNic]:
    """Return the NICs that ranks use; all that they may use where no rank has any."""
    nics = list(case.found.allocation.nics)
    bound = {nic.name for binding in case.found.bindings for nic in binding.nics}
    return [each for each in nics if each.nic.name in bound] or nics


def used_ports(case: Case) -> list[tuple[GrantedNic, Port]]:
    """Return the NICs that ranks use, each with its port; those of unknown ports are left out."""
    return [(each, port_of(each)) for each in used(case) if each.port]


@dataclass(frozen=True)
class Refused:
    """A NIC that discovery complains of and does not use.

    Attributes:
        nic: which one.
        why: in discovery's words.
        evidence: who says so, and what.

    """

    nic: Nic
    why: str
    evidence: str


def refused(case: Case, *ids: str) -> list[Refused]:
    """Return the NICs that complaints with one of the ids are of."""
    found = []
    for each in complaints(case, *ids):
        words = set(re.findall(r"[\w-]+", each.text))
        nics = [(nic, why) for nic, why in case.found.allocation.others if nic.name in words]
        # A complaint of several has the words of the first.
        told = [said(each)] if len(nics) == 1 else [f"{nic.name}: {why}" for nic, why in nics]
        found += [Refused(nic, why, text) for (nic, why), text in zip(nics, told, strict=True)]
    return found


def opened(case: Case) -> dict[str, list[Mapping[str, Any]]] | None:
    """Return what libibverbs says of the ports of each device; None if it was not asked."""
    probe = case.probe("verbs")
    ports = probe.get("ports") if probe and not probe.get("error") else None
    if not isinstance(ports, list):
        return None
    found: dict[str, list[Mapping[str, Any]]] = {}
    for each in ports:
        if isinstance(each, Mapping):
            found.setdefault(str(each.get("device")), []).append(each)
    return found


def facts_of(case: Case, port: Port) -> Mapping[str, Any]:
    """Return what libibverbs says of a port; nothing if it was not asked."""
    facts = (opened(case) or {}).get(port.device, [])
    return next((each for each in facts if each.get("port") == port.number), {})


def folder(port: Port) -> str:
    """Return where sysfs has a port."""
    return f"{DEVICES}/{port.device}/ports/{port.number}"


def listed(names: Iterable[str]) -> str:
    """Write names in a line: ``a, b``."""
    return ", ".join(dict.fromkeys(names))


def choice(case: Case, name: str) -> tuple[str, bool]:
    """Return what discovery would set a variable of all ranks to, and whether the user did."""
    common = case.found.environment.common if case.found.environment else ()
    found = next((each for each in common if each.name == name), None)
    return (found.mine, found.given) if found else ("", False)
