"""A JobSet in a queue of Kueue, which admits it as a whole and places it by its topology."""

from rdmatrain.errors import SettingError
from rdmatrain.k8s.cluster import Cluster
from rdmatrain.k8s.notes import Notes
from rdmatrain.k8s.parts import Object, Part
from rdmatrain.k8s.scheduling import of_gpus
from rdmatrain.k8s.spec import DRA, SRIOV, Spec
from rdmatrain.k8s.targets.jobset import POD, job_set_part
from rdmatrain.k8s.targets.needs import check_placed, claimed_devices, needs
from rdmatrain.k8s.targets.placing import refuse_tier, without_tiers
from rdmatrain.k8s.targets.target import Target
from rdmatrain.k8s.text import document

TOPOLOGY = "kueue.x-k8s.io/podset-{}-topology"
HOST = "kubernetes.io/hostname"
# By whose they are: what nodes with GPUs are labelled with, by GPU feature discovery, or by the
# rule for Node Feature Discovery of AMD's operator.
_WITH_GPUS = {
    "nvidia.com": "nvidia.com/gpu.present",
    "amd.com": "feature.node.kubernetes.io/amd-gpu",
}


def render(spec: Spec, cluster: Cluster) -> Part:
    """Return the JobSet.

    Raises:
        SettingError: it has no queue, or a tier and no label, or a label and a claim of devices, or
            its pods' names would be too long.

    """
    if not spec.queue:
        raise SettingError("queue: Kueue lets no job start without one: name a LocalQueue")
    refuse_tier(spec)
    check_placed(spec)
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
    field, labels, why = _nodes(spec)
    flavor: Object = {"nodeLabels": labels}
    notes.add(field, "spec.nodeLabels", labels, why)
    if spec.topology.label:
        flavor["topologyName"] = spec.queue
        why = "Above the hosts; add the levels between, from the widest to the narrowest."
        notes.add("topology.label", "spec.topologyName", spec.queue, why)
    if tolerated := of_gpus(spec):
        flavor["tolerations"] = tolerated
        why = "Nodes with GPUs keep others away."
        notes.add(spec.gpu_field, "spec.tolerations", tolerated, why)
    return flavor, notes


def _nodes(spec: Spec) -> tuple[str, dict[str, str], str]:
    """Return a label of the nodes, as Kueue demands one of a flavor with a topology.

    Returns:
        The field that it comes from, the label with its value, and why it is this one.

    """
    if spec.gpu_vendor in _WITH_GPUS:
        why = "What nodes with such GPUs are labelled with when feature discovery finds them."
        return spec.gpu_field, {_WITH_GPUS[spec.gpu_vendor]: "true"}, why
    if spec.network.devices == SRIOV:
        why = "What Node Feature Discovery labels nodes with whose NICs have functions."
        return "network.devices", {"feature.node.kubernetes.io/network-sriov.capable": "true"}, why
    why = "Any node: no label is known of those that have what the job needs."
    return "network.devices", {"kubernetes.io/os": "linux"}, why


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


TARGET = Target("kueue", render, has_service=True, cluster_render=render_cluster, by_kueue=True)
