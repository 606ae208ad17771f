"""An Indexed Job whose pods Kubernetes itself schedules as a gang, by a PodGroup (1.37)."""

from rdmatrain.errors import SettingError
from rdmatrain.k8s.cluster import Cluster
from rdmatrain.k8s.notes import Notes
from rdmatrain.k8s.parts import Object, Part
from rdmatrain.k8s.scheduling import near
from rdmatrain.k8s.spec import Spec
from rdmatrain.k8s.surroundings import metadata
from rdmatrain.k8s.targets.indexed_job import job, refuse_queue
from rdmatrain.k8s.targets.placing import refuse_tier
from rdmatrain.k8s.targets.target import Target

_VERSION = "scheduling.k8s.io/v1beta1"


def render(spec: Spec, cluster: Cluster) -> Part:
    """Return the PodGroup, and the Job whose pods are in it.

    Raises:
        SettingError: the cluster is too old, or a field says what a PodGroup cannot do.

    """
    _refuse(spec, cluster)
    notes = Notes(f"PodGroup/{spec.name}")
    group = _group(spec, notes)
    pod: Object = {"schedulingGroup": {"podGroupName": spec.name}}
    if not spec.topology.required and spec.topology.label:
        pod["affinity"] = near(spec)
    made, job_notes = job(spec, cluster, pod)
    # The group goes first: a pod whose group is not there is not scheduled.
    return Part((group, made), (*notes.all(), *job_notes))


def _refuse(spec: Spec, cluster: Cluster) -> None:
    if not cluster.has_pod_groups:
        major, minor = cluster.kubernetes
        raise SettingError(
            f"kubernetes: {major}.{minor} has no PodGroup of scheduling.k8s.io/v1beta1, which came "
            "with 1.37: render --for volcano or kueue, or indexed-job without a gang"
        )
    refuse_queue(spec, "podgroup")
    refuse_tier(spec)


def _group(spec: Spec, notes: Notes) -> Object:
    why = "All of them or none: the scheduler binds no pod until it has found room for the last."
    notes.add("nodes", "spec.schedulingPolicy.gang.minCount", spec.nodes, why)
    _note_gates(spec, notes)
    group: Object = {
        "schedulingPolicy": {"gang": {"minCount": spec.nodes}},
        # A gang that loses one pod is of no use to anybody.
        "disruptionMode": {"all": {}},
    }
    why = "A preemption takes all pods, as those that it left could not go on."
    notes.add("", "spec.disruptionMode", group["disruptionMode"], why)
    if spec.priority:
        group["priorityClassName"] = spec.priority
        why = "The group is preempted as a whole, so it has the priority of its pods."
        notes.add("priority", "spec.priorityClassName", spec.priority, why)
    label, required = spec.topology.label, spec.topology.required
    path = "spec.schedulingConstraints.topology"
    if label and required:
        group["schedulingConstraints"] = {"topology": [{"key": label}]}
        why = "All pods on nodes with one value of it."
    elif label:
        why = "A PodGroup knows only what must be: pods have an affinity that they should have."
    else:
        why = "Pods may be anywhere."
    notes.add("topology.label", path, label if label and required else "none", why)
    notes.add("topology.required", path, required if label else "none", why)
    notes.add("topology.tier", path, "none", "Of Volcano's HyperNodes alone.")
    notes.add("queue", "spec", "none", "Kubernetes alone has no queues.")
    return {
        "apiVersion": _VERSION,
        "kind": "PodGroup",
        "metadata": metadata(spec, spec.name),
        "spec": group,
    }


def _note_gates(spec: Spec, notes: Notes) -> None:
    gates = ["GenericWorkload"]
    if spec.topology.label and spec.topology.required:
        gates.append("TopologyAwareWorkloadScheduling")
    why = (
        f"Kubernetes has PodGroups only with --runtime-config={_VERSION}=true and the feature "
        f"{'gates' if len(gates) > 1 else 'gate'} {' and '.join(gates)}, all off by default: "
        "elsewhere the pods start one by one."
    )
    notes.add("nodes", "apiVersion", _VERSION, why, urgent=True)


TARGET = Target("podgroup", render)
