"""A JobSet in a queue of Kueue, which admits it as a whole and places it by its topology."""

from rdmatrain.errors import SettingError
from rdmatrain.k8s.cluster import Cluster
from rdmatrain.k8s.notes import Notes
from rdmatrain.k8s.parts import Object, Part
from rdmatrain.k8s.spec import DRA, SRIOV, Spec
from rdmatrain.k8s.targets.jobset import POD, job_set_part
from rdmatrain.k8s.targets.needs import claimed_devices, needs
from rdmatrain.k8s.targets.placing import refuse_tier, without_tiers
from rdmatrain.k8s.targets.target import Target
from rdmatrain.k8s.text import document

TOPOLOGY = "kueue.x-k8s.io/podset-{}-topology"
HOST = "kubernetes.io/hostname"


def render(spec: Spec, cluster: Cluster) -> Part:
    """Return the JobSet.

    Raises:
        SettingError: it has no queue, or a tier and no label, or its pods' names would be too long.

    """
    if not spec.queue:
        raise SettingError("queue: Kueue lets no job start without one: name a LocalQueue")
    refuse_tier(spec)
    notes = Notes(f"JobSet/{spec.name}")
    why = "Kueue lets it start, all of it at once: until then it holds nothing."
    notes.add("queue", "spec.suspend", True, why)
    annotations = _placing(spec, notes)
    return job_set_part(spec, cluster, notes, pod={}, annotations=annotations, suspend=True)


def _placing(spec: Spec, notes: Notes) -> dict[str, str]:
    label, required = spec.topology.label, spec.topology.required
    without_tiers(notes, POD)
    if not label:
        path = f"{POD}.metadata.annotations"
        notes.add("topology.label", path, "none", "The pods may be anywhere.")
        notes.add("topology.required", path, "none", "No label is given.")
        return {}
    key = TOPOLOGY.format("required" if required else "preferred")
    path = f"{POD}.metadata.annotations[{key}]"
    why = "Kueue counts the free devices below each value of the label, before it admits the job."
    notes.add("topology.label", path, label, why)
    why = "Required: the job waits for such a place; preferred: several will do."
    notes.add("topology.required", path, required, why)
    return {key: label}


def render_cluster(spec: Spec, cluster: Cluster) -> Part:
    """Return the LocalQueue that the spec names, and what it stands on, for one such job."""
    if not spec.queue:
        return Part()
    flavor, notes = _flavor(spec, Notes(f"ResourceFlavor/{spec.queue}"))
    queue, quota = _cluster_queue(spec, cluster, Notes(f"ClusterQueue/{spec.queue}"))
    local = _object("LocalQueue", spec.queue, {"clusterQueue": spec.queue})
    local["metadata"]["namespace"] = spec.namespace
    levels = _topology(spec)
    made = (*levels, _object("ResourceFlavor", spec.queue, flavor), queue, local)
    return Part(made, notes.all() + quota.all(), _configuration(spec))


def _configuration(spec: Spec) -> tuple[tuple[str, str], ...]:
    """Return what Kueue's Configuration, a text in a ConfigMap, is to say of a claim's devices."""
    if spec.network.devices != DRA:
        return ()
    mappings = [{"name": each, "deviceClassNames": [each]} for each in claimed_devices(spec)]
    return (("kueue.configuration", document({"resources": {"deviceClassMappings": mappings}})),)


def _object(kind: str, name: str, spec: Object) -> Object:
    return {
        "apiVersion": "kueue.x-k8s.io/v1beta2",
        "kind": kind,
        "metadata": {"name": name},
        "spec": spec,
    }


def _topology(spec: Spec) -> tuple[Object, ...]:
    if not spec.topology.label:
        return ()
    # Kueue reads a node's taints only where the host is the lowest level.
    levels = [{"nodeLabel": each} for each in dict.fromkeys([spec.topology.label, HOST])]
    return (_object("Topology", spec.queue, {"levels": levels}),)


def _flavor(spec: Spec, notes: Notes) -> tuple[Object, Notes]:
    labels = _nodes(spec)
    flavor: Object = {"nodeLabels": labels}
    why = "What feature discovery labels nodes with that have such devices."
    notes.add("gpu_resource" if spec.gpus else "network.devices", "spec.nodeLabels", labels, why)
    if spec.topology.label:
        flavor["topologyName"] = spec.queue
        why = "Above the hosts; add the levels between, from the widest to the narrowest."
        notes.add("topology.label", "spec.topologyName", spec.queue, why)
    if spec.gpus:
        taint = {"key": spec.gpu_resource, "operator": "Exists", "effect": "NoSchedule"}
        flavor["tolerations"] = [taint]
        notes.add("gpu_resource", "spec.tolerations", [taint], "Nodes with GPUs keep others away.")
    return flavor, notes


def _nodes(spec: Spec) -> dict[str, str]:
    """Return labels of the nodes: Kueue demands one of a flavor with a topology."""
    if spec.gpus and spec.gpu_resource == "nvidia.com/gpu":
        return {"nvidia.com/gpu.present": "true"}
    if spec.network.devices == SRIOV:
        return {"feature.node.kubernetes.io/network-sriov.capable": "true"}
    return {"kubernetes.io/os": "linux"}


def _cluster_queue(spec: Spec, cluster: Cluster, notes: Notes) -> tuple[Object, Notes]:
    quota = needs(spec, cluster)
    resources = [{"name": name, "nominalQuota": each} for name, each in quota.items()]
    why = "All that a pod requests: a job with a resource that no group covers is never admitted."
    notes.add("network.resource", "spec.resourceGroups[0].coveredResources", list(quota), why)
    why = "What this job needs: raise it for more than one."
    notes.add("queue", "spec.resourceGroups[0].flavors[0].resources", quota, why)
    group = {
        "coveredResources": list(quota),
        "flavors": [{"name": spec.queue, "resources": resources}],
    }
    fields = {
        "namespaceSelector": {},
        "preemption": {"withinClusterQueue": "LowerPriority", "reclaimWithinCohort": "Any"},
        "resourceGroups": [group],
    }
    return _object("ClusterQueue", spec.queue, fields), notes


TARGET = Target("kueue", render, has_service=True, cluster_render=render_cluster)
