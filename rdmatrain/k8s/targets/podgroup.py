"""An Indexed Job whose pods Kubernetes itself schedules as a gang (from 1.35 on, if told to)."""

from rdmatrain.errors import SettingError
from rdmatrain.k8s.cluster import Cluster, version_text
from rdmatrain.k8s.notes import Notes
from rdmatrain.k8s.parts import Object, Part
from rdmatrain.k8s.scheduling import near
from rdmatrain.k8s.spec import Spec
from rdmatrain.k8s.surroundings import metadata
from rdmatrain.k8s.targets.indexed_job import job, refuse_queue
from rdmatrain.k8s.targets.placing import note_topology, refuse_tier
from rdmatrain.k8s.targets.target import Target

# What the one group of a Workload is called.
WORKERS = "workers"
# A gang that loses one pod is of no use to anybody.
_DISRUPTED: dict[str, Object | str] = {"v1alpha2": "PodGroup", "v1beta1": {"all": {}}}


def render(spec: Spec, cluster: Cluster) -> Part:
    """Return the PodGroup or the Workload, and the Job whose pods are in it.

    Raises:
        SettingError: the cluster is too old, or a field says what a group cannot do.

    """
    _refuse(spec, cluster)
    make = _workload if cluster.gang_api == "v1alpha1" else _pod_group
    group, pod, notes = make(spec, cluster.gang_api)
    _note_gates(spec, cluster.gang_api, notes)
    made, job_notes = job(spec, cluster, pod)
    # The group goes first: a pod whose group is not there is not scheduled.
    return Part((group, made), (*notes.all(), *job_notes))


def _refuse(spec: Spec, cluster: Cluster) -> None:
    if not cluster.gang_api:
        raise SettingError(
            f"kubernetes: {version_text(cluster.kubernetes)} schedules no gangs, which came with "
            "1.35: render --for volcano or kueue, or indexed-job without a gang"
        )
    refuse_queue(spec, "podgroup")
    refuse_tier(spec)


def _object(spec: Spec, kind: str, api: str, fields: Object) -> Object:
    return {
        "apiVersion": f"scheduling.k8s.io/{api}",
        "kind": kind,
        "metadata": metadata(spec, spec.name),
        "spec": fields,
    }


def _workload(spec: Spec, api: str) -> tuple[Object, Object, Notes]:
    """Return a Workload, fields of its pods, and notes: it knows no topology and no priority."""
    notes = Notes(f"Workload/{spec.name}")
    _note_gang(spec, notes, "spec.podGroups[0].policy.gang.minCount")
    note_topology(spec, notes, "spec.template.spec of the Job")
    notes.add("queue", "spec", "none", "Kubernetes alone has no queues.")
    gang = {"name": WORKERS, "policy": {"gang": {"minCount": spec.nodes}}}
    pod: Object = {"workloadRef": {"name": spec.name, "podGroup": WORKERS}}
    if spec.topology.label:
        pod["affinity"] = near(spec)
    return _object(spec, "Workload", api, {"podGroups": [gang]}), pod, notes


def _pod_group(spec: Spec, api: str) -> tuple[Object, Object, Notes]:
    """Return a PodGroup, fields of its pods, and notes."""
    notes = Notes(f"PodGroup/{spec.name}")
    _note_gang(spec, notes, "spec.schedulingPolicy.gang.minCount")
    group: Object = {
        "schedulingPolicy": {"gang": {"minCount": spec.nodes}},
        "disruptionMode": _DISRUPTED[api],
    }
    why = "A preemption takes all pods, as those that it left could not go on."
    notes.add("", "spec.disruptionMode", group["disruptionMode"], why)
    if spec.priority:
        group["priorityClassName"] = spec.priority
        why = "The group is preempted as a whole, so it has the priority of its pods."
        notes.add("priority", "spec.priorityClassName", spec.priority, why)
    pod: Object = {"schedulingGroup": {"podGroupName": spec.name}}
    label, required = spec.topology.label, spec.topology.required
    path = "spec.schedulingConstraints.topology"
    if label and required:
        group["schedulingConstraints"] = {"topology": [{"key": label}]}
        why = "All pods on nodes with one value of it."
    elif label:
        pod["affinity"] = near(spec)
        why = "A PodGroup knows only what must be: pods have an affinity that they should have."
    else:
        why = "Pods may be anywhere."
    notes.add("topology.label", path, label if label and required else "none", why)
    notes.add("topology.required", path, required if label else "none", why)
    notes.add("topology.tier", path, "none", "Of Volcano's HyperNodes alone.")
    notes.add("queue", "spec", "none", "Kubernetes alone has no queues.")
    return _object(spec, "PodGroup", api, group), pod, notes


def _note_gang(spec: Spec, notes: Notes, path: str) -> None:
    why = "All of them or none: the scheduler binds no pod until it has found room for the last."
    notes.add("nodes", path, spec.nodes, why)


def _note_gates(spec: Spec, api: str, notes: Notes) -> None:
    gates = ["GenericWorkload"]
    if api != "v1beta1":
        gates.append("GangScheduling")
    if api == "v1alpha2":
        gates.append("WorkloadAwarePreemption")
    if api != "v1alpha1" and spec.topology.label and spec.topology.required:
        gates.append("TopologyAwareWorkloadScheduling")
    why = (
        f"Kubernetes has gangs only with --runtime-config=scheduling.k8s.io/{api}=true and the "
        f"feature {'gates' if len(gates) > 1 else 'gate'} {' and '.join(gates)}, all off by "
        "default: elsewhere the pods start one by one."
    )
    notes.add("nodes", "apiVersion", f"scheduling.k8s.io/{api}", why, urgent=True)


TARGET = Target("podgroup", render)
