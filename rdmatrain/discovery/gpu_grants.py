"""Which GPUs this pod may use: of those that the driver shows, those that it was given."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from rdmatrain.discovery.complaints import complaint
from rdmatrain.discovery.model import Complaint, Evidence, Gpu, Machine
from rdmatrain.discovery.pod_model import Claim, GrantedGpu, Restriction, Trust


@dataclass(frozen=True)
class GpuGrants:
    """What :class:`rdmatrain.discovery.pod_model.Allocation` says about GPUs."""

    gpus: tuple[GrantedGpu, ...]
    complaints: tuple[Complaint, ...]


def grant_gpus(
    machine: Machine, claims: Sequence[Claim], restrictions: Sequence[Restriction]
) -> GpuGrants:
    """Decide on each GPU of a machine.

    Args:
        machine: what the driver shows.
        claims: what is said about GPUs, the most trusted first, each once.
        restrictions: what hides some of them, in the order in which they apply.

    """
    grants = list(filter(_grants, claims))
    meanings = _interpret(claims, grants, machine.gpus)
    granted = {gpu for claim in grants for gpu in meanings[claim]}
    # Where no claim fits, the driver is right: an image may have set the variable.
    gpus = [gpu for gpu in machine.gpus if gpu in granted or not granted]
    complaints = _missing(grants, meanings, machine) + _too_many(grants, gpus, machine)
    if restrictions:
        # The user's word goes before all claims, and CUDA numbers GPUs in that order.
        gpus, wrong = _restrict(machine.gpus, restrictions)
        complaints += wrong
    return GpuGrants(
        tuple(_grant(gpu, meanings, machine) for gpu in gpus),
        tuple(complaints),
    )


def _grants(claim: Claim) -> bool:
    # Privileged containers have the device nodes of all GPUs.
    return claim.granted and claim.weight > Trust.NAME


def _interpret(
    claims: Iterable[Claim], grants: Iterable[Claim], gpus: Sequence[Gpu]
) -> dict[Claim, tuple[Gpu, ...]]:
    indexes = sorted({claim.index for claim in grants if claim.index is not None})
    return {claim: _match(claim, indexes, gpus) for claim in claims}


def _match(claim: Claim, indexes: Sequence[int], gpus: Sequence[Gpu]) -> tuple[Gpu, ...]:
    """Return the GPUs that a claim means; for a slice, the GPU that it is part of.

    Args:
        claim: what is said.
        indexes: all that are granted, ascending.
        gpus: what the driver shows.

    """
    if claim.index in indexes and len(indexes) >= len(gpus):
        # The others are hidden, so the driver counts anew.
        place = indexes.index(claim.index)
        return tuple(gpus[place : place + 1])
    return tuple(gpu for gpu in gpus if _is_meant(claim, gpu))


def _is_meant(claim: Claim, gpu: Gpu) -> bool:
    if claim.uuid:
        return _has_uuid(gpu, claim.uuid)
    if claim.pci:
        return gpu.pci == claim.pci
    if claim.minor is not None:
        return gpu.minor == claim.minor
    return gpu.index == claim.index


def _has_uuid(gpu: Gpu, uuid: str) -> bool:
    """Compare with a UUID or its beginning, of the GPU or of one of its slices."""
    # Older drivers call a slice MIG-GPU-<uuid of the GPU>/1/0.
    parent = uuid.removeprefix("MIG-").partition("/")[0]
    return gpu.uuid == parent or any(own.startswith(uuid) for own in (gpu.uuid, *gpu.mig))


def _missing(
    grants: Sequence[Claim], meanings: Mapping[Claim, Sequence[Gpu]], machine: Machine
) -> list[Complaint]:
    """Complain of GPUs that were granted and that the driver does not show."""
    missing = [claim for claim in grants if not meanings[claim]]
    if not missing:
        return []
    names = ", ".join(dict.fromkeys(map(_name, missing)))
    text = f"grants {names}; the driver shows {_listed(machine.gpus)}"
    if not machine.gpus:
        text += ": a running container loses its GPUs when systemd reloads; start it anew"
    return [complaint("gpu-missing", missing[0].evidence.source, text)]


def _too_many(grants: Sequence[Claim], granted: Sequence[Gpu], machine: Machine) -> list[Complaint]:
    more = [gpu for gpu in machine.gpus if gpu not in granted]
    if not more:
        return []
    text = (
        f"grants {_listed(granted)}, but the driver also shows {_listed(more)}, which other pods "
        "may have: is this container privileged?"
    )
    return [complaint("gpu-more-than-granted", grants[0].evidence.source, text)]


def _restrict(
    gpus: Sequence[Gpu], restrictions: Iterable[Restriction]
) -> tuple[list[Gpu], list[Complaint]]:
    """Return what libraries leave of the GPUs that the driver shows."""
    left = list(gpus)
    complaints: list[Complaint] = []
    for each in restrictions:
        own = [gpu for gpu in left if gpu.vendor in {"", each.vendor}]
        others = [gpu for gpu in left if gpu not in own]
        if others and not own:
            # A variable of CUDA that HIP reads too, or that came along.
            continue
        chosen, wrong = _choose(own, each)
        left = [*others, *chosen]
        complaints += wrong
    return left, complaints


def _choose(gpus: Sequence[Gpu], restriction: Restriction) -> tuple[list[Gpu], list[Complaint]]:
    """Return the chosen GPUs, up to the first that is not there, as CUDA does."""
    chosen: dict[Gpu, None] = {}
    for device in restriction.devices:
        found = [gpu for place, gpu in enumerate(gpus) if _is_chosen(device, place, gpu)]
        if not found:
            text = f"names {device}, but there is {_listed(gpus)}: it and what follows are ignored"
            return [*chosen], [complaint("gpu-missing", restriction.evidence.source, text)]
        chosen[found[0]] = None
    return [*chosen], []


def _is_chosen(device: int | str, place: int, gpu: Gpu) -> bool:
    return place == device if isinstance(device, int) else _has_uuid(gpu, device)


def _name(claim: Claim) -> str:
    """Return how a claim names its GPU."""
    if claim.uuid or claim.pci:
        return claim.uuid or claim.pci
    return f"/dev/nvidia{claim.minor}" if claim.index is None else f"GPU {claim.index}"


def _listed(gpus: Sequence[Gpu]) -> str:
    return ", ".join(gpu.uuid or gpu.pci or gpu.name for gpu in gpus) or "no GPU"


def _grant(gpu: Gpu, meanings: Mapping[Claim, Sequence[Gpu]], machine: Machine) -> GrantedGpu:
    seen = Evidence(machine.origin, " ".join(filter(None, (gpu.name, gpu.uuid, gpu.pci))))
    said = [claim.evidence for claim, gpus in meanings.items() if gpu in gpus]
    return GrantedGpu(gpu, tuple(dict.fromkeys([seen, *said])))
