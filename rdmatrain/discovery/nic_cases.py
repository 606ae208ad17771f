"""Why a NIC that is visible is not used."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rdmatrain.discovery.model import Nic
from rdmatrain.discovery.nic_claims import grants, place_of
from rdmatrain.discovery.nics import manages
from rdmatrain.discovery.pod_model import Claim
from rdmatrain.discovery.ports import preference
from rdmatrain.discovery.verdicts import Verdict

# A host may show hundreds of VFs.
MAX_LISTED = 8


@dataclass(frozen=True)
class Case:
    """A NIC, what is known about it, and the claims that mean it, the most trusted first."""

    nic: Nic
    verdict: Verdict
    claims: tuple[Claim, ...]

    @property
    def claimed(self) -> bool:
        """A source grants it."""
        return any(map(grants, self.claims))

    @property
    def usable(self) -> bool:
        """Nothing speaks against it."""
        return not self.verdict.problem and not manages(self.nic)

    @property
    def foreign(self) -> bool:
        """It looks like a device of another network namespace, and nobody grants it."""
        return self.verdict.foreign and not self.claimed

    @property
    def unattached(self) -> bool:
        """Its node is here, and its interfaces are not."""
        node = any(each.granted and each.uverbs == self.nic.uverbs != "" for each in self.claims)
        return self.foreign and node and self.verdict.problem == "nic-without-gid"

    @property
    def pf(self) -> str:
        """Address of its physical function, which the kernel may hide from a container."""
        said = (claim.pf for claim in self.claims if claim.pci == self.nic.pci)
        return self.nic.pf or next(filter(None, said), "")


@dataclass(frozen=True)
class Refusal:
    """Why a NIC is not used: in words, and the id of a complaint, or empty if all is well."""

    case: Case
    id: str
    text: str


def refuse(cases: Sequence[Case], claims_exist: bool) -> list[Refusal]:
    """Return the NICs that are not used.

    Args:
        cases: all NICs of a machine.
        claims_exist: some source grants NICs, so that the others are not for this pod.

    """
    refusals = []
    for case in cases:
        if manages(case.nic):
            refusal: Refusal | None = Refusal(case, "", "only manages the fabric")
        elif claims_exist and not case.claimed:
            refusal = _unclaimed(case, cases)
        elif case.verdict.problem:
            refusal = _broken(case, cases)
        else:
            refusal = None if claims_exist else _double(case, cases)
        refusals += [refusal] if refusal else []
    return refusals


def listed(names: Sequence[str]) -> str:
    """Return names as a list that is not too long."""
    more = f" and {len(names) - MAX_LISTED} more" if len(names) > MAX_LISTED else ""
    return ", ".join(names[:MAX_LISTED]) + more


def _unclaimed(case: Case, cases: Sequence[Case]) -> Refusal:
    if case.verdict.problem:
        # What is broken in this namespace, and was not asked for, is no matter of this pod.
        return Refusal(case, "nic-foreign" if case.verdict.foreign else "", case.verdict.text)
    vfs = _vfs(case, (each for each in cases if each.claimed))
    if vfs:
        return _of_pf(case, vfs)
    return Refusal(case, "nic-unclaimed", "no source says that it was given to this pod")


def _broken(case: Case, cases: Sequence[Case]) -> Refusal:
    verdict, place = case.verdict, place_of(case.nic)
    if any(each.usable and place_of(each.nic) == place != "" for each in cases):
        return Refusal(case, "", f"{verdict.text}; another device of its function works")
    others_work = any(each.usable for each in cases)
    return Refusal(case, _complaint_of(case, others_work), verdict.text)


def _complaint_of(case: Case, others_work: bool) -> str:
    # A shared device plugin gives the nodes of all NICs: one that works tells which are meant.
    if case.foreign and (others_work or not case.unattached):
        return "nic-foreign"
    # Hosts have ports without a cable.
    spare = others_work and not case.claimed and case.verdict.problem == "nic-port-down"
    return "" if spare else case.verdict.problem


def _double(case: Case, cases: Sequence[Case]) -> Refusal | None:
    """Choose between a physical function and its VFs, which libraries take for one device.

    It is the VFs, unless the address of each reaches less far: those are not set up.
    """
    pf = next((each for each in cases if each.usable and each.nic.pci == case.pf != ""), None)
    if pf is not None and _prevails(pf, _vfs(pf, cases)):
        text = f"is a VF of {pf.nic.name}, whose address reaches further"
        return Refusal(case, "pf-and-vf", text)
    vfs = _vfs(case, cases)
    return _of_pf(case, vfs) if vfs and not _prevails(case, vfs) else None


def _of_pf(case: Case, vfs: Sequence[Case]) -> Refusal:
    names = listed([each.nic.name for each in vfs])
    return Refusal(case, "pf-and-vf", f"is the physical function of {names}")


def _vfs(pf: Case, cases: Iterable[Case]) -> list[Case]:
    return [each for each in cases if each.usable and each.pf == pf.nic.pci != ""]


def _prevails(pf: Case, vfs: Iterable[Case]) -> bool:
    return all(_reach(pf) < _reach(vf) for vf in vfs)


def _reach(case: Case) -> int:
    return preference(case.verdict.gid) if case.verdict.gid else 0
