"""Which NICs this pod may use: those that it was given, or all if nobody says, that work here."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rdmatrain.discovery.complaints import complaint
from rdmatrain.discovery.model import Complaint, Evidence, Machine, Nic
from rdmatrain.discovery.nic_cases import Case, Refusal, listed, refuse
from rdmatrain.discovery.nic_claims import grants, interpret, network_of
from rdmatrain.discovery.nics import manages
from rdmatrain.discovery.pod_model import Claim, GrantedNic
from rdmatrain.discovery.ports import DEVICES, ROCE_V1
from rdmatrain.discovery.source import natural
from rdmatrain.discovery.verdicts import Judge

_ADVICE = {
    "nic-foreign": "libraries must be told which NICs to use, or the host be set to exclusive "
    "RDMA namespaces",
    "nic-not-opened": "see who may open its node in /dev/infiniband",
    "nic-port-down": "see to its cable, its switch, or the link state of the VF",
    "nic-unclaimed": "left alone, since another pod may have it",
    "nic-without-gid": "its interface needs an address in this network namespace",
    "nic-without-node": "ask for it as a resource of a device plugin",
    "pf-and-vf": "libraries must be told which one to use",
}
_ATTACH = "attach its network: annotation k8s.v1.cni.cncf.io/networks"


@dataclass(frozen=True)
class NicGrants:
    """What :class:`rdmatrain.discovery.pod_model.Allocation` says about NICs."""

    nics: tuple[GrantedNic, ...]
    others: tuple[tuple[Nic, str], ...]
    namespaces: str
    complaints: tuple[Complaint, ...]


def grant_nics(machine: Machine, claims: Sequence[Claim], judge: Judge) -> NicGrants:
    """Decide on each NIC of a machine.

    Args:
        machine: where to look.
        claims: what is said about NICs, the most trusted first, each once.
        judge: knows which NICs can be used.

    """
    nics = sorted(machine.nics, key=lambda nic: natural(nic.name))
    verdicts = {nic.name: judge.judge(nic) for nic in nics}
    meanings, complaints = interpret(claims, machine, verdicts)
    cases = [
        Case(nic, verdicts[nic.name], tuple(each for each in claims if nic in meanings[each]))
        for nic in nics
    ]
    refusals = refuse(cases, any(map(grants, claims)))
    refused = {refusal.case.nic.name for refusal in refusals}
    kept = [case for case in cases if case.nic.name not in refused]
    return NicGrants(
        nics=tuple(_grant(case, claims, machine) for case in kept),
        others=tuple((refusal.case.nic, refusal.text) for refusal in refusals),
        namespaces=_namespaces(machine, cases, refusals),
        complaints=(*complaints, *_of_refusals(refusals), *_of_roce_v1(kept)),
    )


def _of_refusals(refusals: Iterable[Refusal]) -> list[Complaint]:
    """Complain of each NIC that was granted, and of the others with one complaint a reason."""
    complaints = []
    together: dict[tuple[str, str], list[Refusal]] = {}
    for each in filter(lambda refusal: refusal.id, refusals):
        if each.case.claimed:
            source = each.case.claims[0].evidence.source
            text = f"grants {each.case.nic.name}, but {each.text}; {_advice(each)}"
            complaints.append(complaint(each.id, source, text))
        else:
            together.setdefault((each.id, _advice(each)), []).append(each)
    for (what, advice), those in together.items():
        names = listed([each.case.nic.name for each in those])
        why = those[0].text if len(those) == 1 else f"the first: {those[0].text}"
        complaints.append(complaint(what, DEVICES, f"{names}: {why}; {advice}"))
    return complaints


def _advice(refusal: Refusal) -> str:
    unattached = refusal.id == "nic-without-gid" and refusal.case.unattached
    return _ATTACH if unattached else _ADVICE[refusal.id]


def _of_roce_v1(kept: Iterable[Case]) -> list[Complaint]:
    return [
        complaint(
            "roce-v1-only",
            case.nic.name,
            f"{case.verdict.gid} is the best that it has: RoCE v1 does not cross routers, and what "
            "its firmware can do decides whether there are GIDs of RoCE v2",
        )
        for case in kept
        if case.verdict.gid is not None and case.verdict.gid.kind == ROCE_V1
    ]


def _grant(case: Case, claims: Sequence[Claim], machine: Machine) -> GrantedNic:
    nic, verdict = case.nic, case.verdict
    opened = [Evidence("libibverbs", f"opens {nic.name}; {verdict.text}")] if verdict.proven else []
    seen = Evidence(machine.origin, f"{nic.name} {nic.pci}".strip())
    return GrantedNic(
        nic=nic,
        port=verdict.port,
        gid=verdict.gid,
        network=network_of(nic, claims, machine),
        evidence=tuple(dict.fromkeys([*opened, seen, *(claim.evidence for claim in case.claims)])),
    )


def _namespaces(machine: Machine, cases: Sequence[Case], refusals: Iterable[Refusal]) -> str:
    """Say whether RDMA devices of others are visible, if the kernel or any device tells."""
    if machine.namespaces:
        return machine.namespaces
    if any(refusal.id and refusal.case.foreign for refusal in refusals):
        return "shared"
    if not any(case.claimed for case in cases):
        return ""
    return _by_others([case.nic for case in cases if not case.claimed and not manages(case.nic)])


def _by_others(others: Sequence[Nic]) -> str:
    # One whose interface is here is of this namespace, in either mode.
    unknown = bool(others) and all(nic.netdevs for nic in others)
    return "" if unknown else "shared" if others else "exclusive"
