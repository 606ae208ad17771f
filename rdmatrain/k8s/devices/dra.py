"""Devices that DRA allocates: a claim that pairs each GPU with NICs near it."""

from dataclasses import dataclass
from math import gcd

from rdmatrain.errors import SettingError
from rdmatrain.k8s.cluster import Cluster
from rdmatrain.k8s.devices import multus
from rdmatrain.k8s.notes import Notes
from rdmatrain.k8s.parts import Note, Object, Part
from rdmatrain.k8s.spec import Network, Spec

# What the pod calls its claim.
CLAIM = "devices"
# DeviceClass and driver of dra-driver-sriov are called the same.
SRIOV_DRIVER = "sriovnetwork.k8snetworkplumbingwg.io"
PCIE, NUMA, PREFER, ANY = "pcie", "numa", "prefer", "any"
ATTRIBUTES = {PCIE: "resource.kubernetes.io/pcieRoot", NUMA: "resource.kubernetes.io/numaNode"}
# Of resource.k8s.io/v1: requests, constraints and configurations of a claim, and devices given.
MOST = 32


@dataclass(frozen=True)
class Group:
    """GPUs and NICs that are to be near each other, by the names of their requests."""

    gpus: tuple[str, ...]
    nics: tuple[str, ...]


def has_claim(spec: Spec) -> bool:
    """Tell whether there is a device to claim."""
    return bool(spec.gpus or spec.network.vfs)


def template_name(spec: Spec) -> str:
    """Return the name of the job's ResourceClaimTemplate."""
    return f"{spec.name}-{CLAIM}"


def pod_fields(spec: Spec) -> Object:
    """Return the pod's claim, and the container's part in it."""
    if not has_claim(spec):
        return {}
    return {
        "resourceClaims": [{"name": CLAIM, "resourceClaimTemplateName": template_name(spec)}],
        "container": {"claims": [{"name": CLAIM}]},
    }


def claim_template(spec: Spec, cluster: Cluster) -> Part:
    """Return the ResourceClaimTemplate, of which each pod gets a claim of its own.

    Raises:
        SettingError: the cluster or the claim cannot have it so; which field, and what to do.

    """
    _refuse(spec)
    if not has_claim(spec):
        return Part()
    levels = _levels(spec, cluster)
    groups = grouped(spec)
    devices: Object = {"requests": _requests(spec, groups, levels)}
    constraints = [each for group in groups for each in _constraints(group, levels)]
    if constraints:
        devices["constraints"] = constraints
    configurations = _configurations(spec, levels)
    if configurations:
        devices["config"] = configurations
    made: Object = {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceClaimTemplate",
        "metadata": {
            "name": template_name(spec),
            "namespace": spec.namespace,
            "labels": dict(spec.labels),
        },
        "spec": {"metadata": {"labels": dict(spec.labels)}, "spec": {"devices": devices}},
    }
    return Part((made,), _notes(spec, groups, levels))


def grouped(spec: Spec) -> tuple[Group, ...]:
    """Return which GPUs and NICs belong together, all of them in order.

    Where nearness is demanded, there are as many groups as there are of the fewer. Where it is
    preferred, each GPU is a group, with the NICs that are its share: GPUs of one group would be
    held together even where their NICs are not.
    """
    gpus, vfs = spec.gpus, spec.network.vfs
    count = gpus if gpus and spec.network.aligned == PREFER else gcd(gpus, vfs)
    return tuple(
        Group(_share("gpu", gpus, at, count), _share("nic", vfs, at, count)) for at in range(count)
    )


def _share(kind: str, number: int, at: int, count: int) -> tuple[str, ...]:
    """Return the names of those among ``number`` devices that fall to group ``at`` of ``count``."""
    first, end = -(-at * number // count), -(-(at + 1) * number // count)
    return tuple(f"{kind}-{each}" for each in range(first, end))


def _refuse(spec: Spec) -> None:
    gpus, vfs = spec.gpus, spec.network.vfs
    if spec.network.host_network:
        raise SettingError(
            "network.host-network is true with devices dra: its drivers move NICs into the pod's "
            "own network, leave it out"
        )
    if gpus + vfs > MOST:
        raise SettingError(
            f"network.vfs is {vfs} with {gpus} GPUs: a claim of DRA has at most {MOST} devices, "
            "give fewer, or network.devices: sriov"
        )
    if gpus and vfs and spec.network.aligned != PREFER and max(gpus, vfs) % min(gpus, vfs):
        raise SettingError(
            f"network.vfs is {vfs} for {gpus} GPUs, which network.aligned {spec.network.aligned} "
            f"cannot pair: give {gpus}, or network.aligned: prefer"
        )


def _levels(spec: Spec, cluster: Cluster) -> tuple[str, ...]:
    """Return how near GPUs and NICs are to be, the nearest first; several where one is preferred.

    Raises:
        SettingError: drivers of this cluster do not publish what it takes.

    """
    if not spec.gpus or not spec.network.vfs:
        return (ANY,)
    if spec.network.aligned == PREFER:
        return (PCIE, NUMA, ANY) if cluster.has_numa_node else (PCIE, ANY)
    if spec.network.aligned == NUMA and not cluster.has_numa_node:
        raise SettingError(
            "network.aligned is numa: GPUs and NICs publish their NUMA node alike since Kubernetes "
            "1.37, give pcie or prefer"
        )
    return (spec.network.aligned,)


def _requests(spec: Spec, groups: tuple[Group, ...], levels: tuple[str, ...]) -> list[Object]:
    gpu: Object = {"deviceClassName": spec.network.gpu_class}
    nic = _nic(spec.network)
    requests: list[Object] = []
    # A group's NICs follow its GPUs: the scheduler tries requests in order, and sees at once where
    # a GPU has no NIC near it, not after all GPUs are given.
    for group in groups:
        requests += [{"name": name, "exactly": dict(gpu)} for name in group.gpus]
        for name in group.nics:
            if len(levels) == 1:
                requests.append({"name": name, "exactly": _nic(spec.network)})
                continue
            choices = [{"name": level, **nic} for level in levels]
            requests.append({"name": name, "firstAvailable": choices})
    return requests


def _nic(network: Network) -> Object:
    found: Object = {"deviceClassName": network.device_class}
    if network.device_class == SRIOV_DRIVER:
        expression = f'device.attributes["{SRIOV_DRIVER}"].rdmaCapable'
        found["selectors"] = [{"cel": {"expression": expression}}]
    return found


def _constraints(group: Group, levels: tuple[str, ...]) -> list[Object]:
    """Return a constraint for each level that demands something of this group.

    Where there is a choice, a constraint names the choice too, ``nic-0/numa``, and holds for what
    was chosen so. It holds for the GPUs at any rate, which must have the attribute.
    """
    if not group.nics:
        return []
    return [
        {
            "requests": [*group.gpus, *(_choices(nic, levels)[place] for nic in group.nics)],
            "matchAttribute": ATTRIBUTES[level],
        }
        for place, level in enumerate(levels)
        if level in ATTRIBUTES
    ]


def _choices(nic: str, levels: tuple[str, ...]) -> list[str]:
    """Return how an allocation calls what it gives for a NIC's request, for each level."""
    return [f"{nic}/{level}" for level in levels] if len(levels) > 1 else [nic]


def _configurations(spec: Spec, levels: tuple[str, ...]) -> list[Object]:
    """Return what the driver is told of each NIC: its interface, and the network to attach it to.

    dra-driver-sriov looks for the name that is in the allocation, and knows no request by the name
    of its choices.

    Raises:
        SettingError: a network is missing, which this driver needs for InfiniBand too.

    """
    network = spec.network
    if network.device_class != SRIOV_DRIVER or not network.vfs:
        return []
    names = multus.attached(network, network.vfs)
    if not names:
        raise SettingError(
            f"network.networks is empty, and {SRIOV_DRIVER} gives no interface without: name the "
            "NetworkAttachmentDefinition of the NICs"
        )
    return [
        {
            "requests": _choices(f"nic-{number}", levels),
            "opaque": {"driver": SRIOV_DRIVER, "parameters": _vf_config(name, number, spec)},
        }
        for number, name in enumerate(names)
    ]


def _vf_config(name: str, number: int, spec: Spec) -> Object:
    parts = multus.split(name)
    return {
        "apiVersion": f"{SRIOV_DRIVER}/v1alpha1",
        "kind": "VfConfig",
        # As Multus would name them, so that a pod looks the same either way.
        "ifName": f"net{number + 1}",
        "netAttachDefName": parts["name"],
        "netAttachDefNamespace": parts.get("namespace", spec.namespace),
    }


def _notes(spec: Spec, groups: tuple[Group, ...], levels: tuple[str, ...]) -> tuple[Note, ...]:
    network = spec.network
    notes = Notes(f"ResourceClaimTemplate/{template_name(spec)} spec.spec.devices")
    why = "DRA gives them with their NICs, so no extended resource asks for them."
    notes.add("gpus", "requests[gpu-*]", spec.gpus, why)
    why = "One request for each, so that each can be near its GPU, and have its own interface."
    notes.add("network.vfs", "requests[nic-*]", network.vfs, why)
    why = "Whose devices they may be."
    notes.add("network.device_class", "requests[nic-*].deviceClassName", network.device_class, why)
    notes.add("network.gpu_class", "requests[gpu-*].deviceClassName", network.gpu_class, why)
    wanted = [ATTRIBUTES[level] for level in levels if level in ATTRIBUTES]
    notes.add("network.aligned", "constraints", wanted, _why(levels))
    if network.device_class == SRIOV_DRIVER and network.vfs:
        why = "The driver attaches each NIC to its network; Multus has no part in it."
        notes.add("network.networks", "config[].opaque.parameters", list(network.networks), why)
    return notes.all()


def _why(levels: tuple[str, ...]) -> str:
    if levels == (ANY,):
        return "There are no GPUs and NICs to bring together."
    if len(levels) > 1:
        return (
            "The first that can be had, for each NIC; GPUs that do not publish one of these are "
            "not chosen at all."
        )
    return "A constraint for each group: one over all would force every device to one place."
