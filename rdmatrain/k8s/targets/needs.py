"""What a whole job takes of a queue's quota."""

from rdmatrain.k8s.cluster import Cluster
from rdmatrain.k8s.container import quantity
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
    devices = {spec.network.gpu_class: spec.gpus, spec.network.device_class: spec.network.vfs}
    if spec.network.devices == DRA:
        total |= {f"{claimed}{name}": each * spec.nodes for name, each in devices.items() if each}
    return total
