"""On which nodes pods may be: near each other, apart, by their labels, in spite of taints."""

from rdmatrain.k8s.notes import Notes
from rdmatrain.k8s.parts import Object
from rdmatrain.k8s.spec import Spec

HOSTNAME = "kubernetes.io/hostname"
PREFERRED = "preferredDuringSchedulingIgnoredDuringExecution"


def near(spec: Spec) -> Object:
    """Return the ``affinity`` by which the pods come to nodes with one value of a label.

    For schedulers without a word of their own for it. The first pod may go anywhere, as the
    scheduler lets a pod pass that matches its own affinity while none runs.
    """
    if not spec.topology.label:
        return {}
    term: Object = {
        "labelSelector": {"matchLabels": spec.labels},
        "topologyKey": spec.topology.label,
    }
    if spec.topology.required:
        return {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}
    weighted = {"weight": 100, "podAffinityTerm": term}
    return {"podAffinity": {PREFERRED: [weighted]}}


def scheduling(spec: Spec, wanted: Object) -> Object:
    """Return the fields of a pod that say on which nodes it may be.

    Args:
        spec: of the job.
        wanted: ``affinity`` that a target wants.

    """
    made = _affinity(spec, wanted)
    tolerations = [*of_gpus(spec), *map(toleration, spec.tolerations)]
    if tolerations:
        made["tolerations"] = tolerations
    if spec.node_selector:
        made["nodeSelector"] = dict(spec.node_selector)
    return made


def _affinity(spec: Spec, wanted: Object) -> Object:
    """Return ``affinity`` with what a target wants of it, and pods apart where there is room.

    Not where there must be: a cluster of one node, such as kind, runs all pods of a small job.
    """
    if spec.nodes == 1:
        return {"affinity": wanted} if wanted else {}
    term = {"labelSelector": {"matchLabels": dict(spec.labels)}, "topologyKey": HOSTNAME}
    apart = {PREFERRED: [{"weight": 100, "podAffinityTerm": term}]}
    return {"affinity": {**wanted, "podAntiAffinity": apart}}


def of_gpus(spec: Spec) -> list[Object]:
    """Return the toleration of the taint of nodes with GPUs.

    Kubernetes itself adds it only where an admission plugin is on, and never for a claim.
    """
    if not spec.gpus:
        return []
    return [{"key": spec.gpu_taint, "operator": "Exists", "effect": "NoSchedule"}]


def toleration(taint: str) -> Object:
    """Return the toleration of a taint, ``KEY=VALUE:EFFECT``; of what is left out, any will do."""
    rest, _, effect = taint.partition(":")
    key, equals, value = rest.partition("=")
    made: Object = {"key": key, "operator": "Equal", "value": value}
    if not equals:
        made = {"key": key, "operator": "Exists"}
    return {**made, "effect": effect} if effect else made


def note_scheduling(spec: Spec, notes: Notes) -> None:
    """Note what the fields of the spec became in a pod."""
    if spec.nodes > 1:
        why = "Each pod on a node of its own, as long as there are enough that have room."
        notes.add("nodes", "spec.affinity.podAntiAffinity.preferred", HOSTNAME, why)
    for each in of_gpus(spec):
        why = "Nodes with GPUs are often tainted with their resource, to keep others away."
        notes.add(spec.gpu_field, "spec.tolerations[0]", each, why)
    why = "Taints that keep no pod of this job away." if spec.tolerations else "None is named."
    notes.add("tolerations", "spec.tolerations", list(spec.tolerations), why)
    why = "Nodes with all of these labels." if spec.node_selector else "Any node that has room."
    notes.add("node_selector", "spec.nodeSelector", dict(spec.node_selector), why)
