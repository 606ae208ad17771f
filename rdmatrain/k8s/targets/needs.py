"""What a whole job takes of a queue's quota, and what a queue cannot count."""

from rdmatrain.errors import SettingError
from rdmatrain.k8s.cluster import Cluster
from rdmatrain.k8s.container import quantity
from rdmatrain.k8s.devices import dra
from rdmatrain.k8s.notes import Notes
from rdmatrain.k8s.pod import Wants, pod_template
from rdmatrain.k8s.spec import DRA, Spec


def needs(spec: Spec, cluster: Cluster, *, claimed: str = "") -> dict[str, int | str]:
    """Return the resources of all pods together, each that a pod requests.

    They are read off the template, so that none is forgotten: a job whose VFs are in no quota is
    never admitted.

    Args:
        spec: of the job.
        cluster: that it is for.
        claimed: what a queue writes before the name of a DeviceClass of DRA.

    """
    container = pod_template(spec, cluster, Wants(owner="")).object["spec"]["containers"][0]
    total: dict[str, int | str] = {
        name: each * spec.nodes
        for name, each in container["resources"]["requests"].items()
        if name != "memory"
    }
    total["memory"] = quantity(spec.memory_bytes * spec.nodes)
    if spec.network.devices == DRA:
        devices = claimed_devices(spec).items()
        total |= {f"{claimed}{name}": each * spec.nodes for name, each in devices}
    return total


def check_counted(spec: Spec, notes: Notes) -> None:
    """Refuse a claim of DRA that Kueue does not count, and note what it needs for the others.

    Raises:
        SettingError: the claim leaves a choice, which makes the job inadmissible.

    """
    network = spec.network
    if network.devices != DRA or not spec.queue:
        return
    if network.aligned == dra.PREFER and spec.gpus and network.vfs:
        raise SettingError(
            f"network.aligned is prefer in the queue {spec.queue}: Kueue admits no claim with a "
            "choice of devices, give pcie or numa, or leave out queue"
        )
    why = (
        "Kueue admits a claim only where its Configuration maps the DeviceClasses to resources: "
        "merge kueue.configuration into it, which is of --for kueue --with-cluster -o DIR."
    )
    classes = list(claimed_devices(spec))
    notes.add("queue", "resources.deviceClassMappings of Kueue", classes, why, urgent=True)


def check_placed(spec: Spec) -> None:
    """Refuse a claim of DRA in a job that Kueue places: its topology knows no devices of claims.

    Raises:
        SettingError: with the remedy.

    """
    if spec.network.devices == DRA and spec.topology.label:
        raise SettingError(
            f"topology.label is {spec.topology.label} with network.devices dra: Kueue places no "
            "job by its topology that has a claim, leave out the label, give network.devices: "
            "sriov, or render --for jobset, whose pods' affinity says it"
        )


def claimed_devices(spec: Spec) -> dict[str, int]:
    """Return how many devices of each DeviceClass a pod's claim has."""
    devices = {spec.network.gpu_class: spec.gpus, spec.network.device_class: spec.network.vfs}
    return {name: count for name, count in devices.items() if count}
