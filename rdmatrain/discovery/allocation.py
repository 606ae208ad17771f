"""What this pod really got: one answer from all that sources claim and the machine shows.

What was opened and has a GID that works here counts before what the kernel shows, that before the
annotations and metadata of device drivers, those before the environment, and that before names.
"""

from collections.abc import Sequence
from typing import Any

from rdmatrain.discovery.complaints import complaint, counted
from rdmatrain.discovery.gpu_grants import grant_gpus
from rdmatrain.discovery.model import Complaint, Machine
from rdmatrain.discovery.nic_claims import device_of, grants
from rdmatrain.discovery.nic_grants import grant_nics
from rdmatrain.discovery.pod_model import Allocation, Claim, Pod, Trust
from rdmatrain.discovery.verdicts import Judge


def reconcile(machine: Machine, pod: Pod, verbs: Any) -> Allocation:
    """Reconcile what is here with what was granted. The order of claims does not matter.

    Args:
        machine: what the kernel and the driver show.
        pod: what its environment and its files say.
        verbs: answer of the probe ``verbs``; None where it was not made.

    """
    claims = sorted(set(pod.claims), key=lambda claim: (-claim.weight, repr(claim)))
    nic_claims = [claim for claim in claims if claim.kind == "nic"]
    nics = grant_nics(machine, nic_claims, Judge(machine, nic_claims, verbs))
    gpu_claims = [claim for claim in claims if claim.kind == "gpu"]
    gpus = grant_gpus(machine, gpu_claims, pod.restrictions)
    complaints = [
        *gpus.complaints,
        *nics.complaints,
        *_without_network(pod, nic_claims),
        *_attached_alone(nic_claims),
        *_not_probed(machine, verbs),
    ]
    return Allocation(
        gpus=gpus.gpus,
        nics=nics.nics,
        others=nics.others,
        namespaces=nics.namespaces,
        complaints=tuple(sorted(set(complaints), key=str)),
    )


def _without_network(pod: Pod, claims: Sequence[Claim]) -> list[Complaint]:
    """Complain if a device plugin gave more VFs than networks were asked for."""
    vfs = {
        claim.pci or claim.auxiliary
        for claim in claims
        if claim.granted and claim.evidence.source.startswith("PCIDEVICE_")
    }
    if not pod.requests or len(pod.requests) >= len(vfs):
        return []
    text = (
        f"asks for {counted(len(pod.requests), 'network')}, but {len(vfs)} VFs were allocated: "
        "those without one stay on the host; list a network for each VF"
    )
    return [complaint("vf-without-network", pod.requests[0].evidence.source, text)]


def _attached_alone(claims: Sequence[Claim]) -> list[Complaint]:
    """Complain if Multus attached a device that the plugin, which lists others, does not list."""
    listed: set[str] = set()
    attached: dict[str, Claim] = {}
    for claim in filter(grants, claims):
        # Plugins and DRA drivers say what was asked for, Multus does not.
        if claim.resource:
            listed.add(device_of(claim))
        elif claim.weight == Trust.DEVICE_INFO:
            attached.setdefault(device_of(claim), claim)
    alone = sorted(attached.keys() - listed)
    if not listed or not alone:
        return []
    text = f"attached {', '.join(alone)}, while {', '.join(sorted(listed))} was allocated"
    return [complaint("grants-differ", attached[alone[0]].evidence.source, text)]


def _not_probed(machine: Machine, verbs: Any) -> list[Complaint]:
    """Complain if NICs are here and none was opened; a file of a topology has no interfaces."""
    error = verbs.get("error") if isinstance(verbs, dict) else "was not asked"
    if not (error and machine.nics and machine.netdevs):
        return []
    text = f"{error}: it is not proven which NICs and GIDs work"
    return [complaint("verbs-unavailable", "libibverbs", text)]
