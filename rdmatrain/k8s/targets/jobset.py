"""A JobSet: one Indexed Job, whose pods are made again all together."""

from collections.abc import Mapping

from rdmatrain.k8s.cluster import Cluster
from rdmatrain.k8s.notes import Notes
from rdmatrain.k8s.parts import Object, Part
from rdmatrain.k8s.pod import Wants, pod_template
from rdmatrain.k8s.spec import Spec
from rdmatrain.k8s.targets import jobset_parts
from rdmatrain.k8s.targets.names import LONGEST, check_name
from rdmatrain.k8s.targets.needs import check_counted
from rdmatrain.k8s.targets.placing import drawn_together, refuse_tier, without_tiers
from rdmatrain.k8s.targets.target import Target, by_queue

GROUP = "workers"
# Path of the pods' template in the JobSet.
POD = "spec.replicatedJobs[0].template.spec.template"
QUEUE = "kueue.x-k8s.io/queue-name"


def render(spec: Spec, cluster: Cluster) -> Part:
    """Return the JobSet.

    Raises:
        SettingError: its pods' names would be too long, or it has a tier and no label.

    """
    refuse_tier(spec)
    notes = Notes(f"JobSet/{spec.name}")
    without_tiers(notes, POD)
    return job_set_part(spec, cluster, notes, pod=drawn_together(spec, notes, POD))


def job_set_part(
    spec: Spec,
    cluster: Cluster,
    notes: Notes,
    *,
    pod: Object,
    annotations: Mapping[str, str] | None = None,
    suspend: bool = False,
) -> Part:
    """Return a JobSet of this job.

    Args:
        spec: of the job.
        cluster: that it is for.
        notes: of the JobSet, which go on.
        pod: fields of the pods' spec.
        annotations: of the pods.
        suspend: whether it waits for a queue to let it start.

    """
    check_name(spec, "JobSet", jobset_parts.last_pod(spec, GROUP))
    check_counted(spec, notes)
    notes.add(
        "nodes",
        "pods' variable PET_NNODES",
        spec.nodes,
        "A JobSet tells its pods how many jobs it has, and not how many pods.",
    )
    coordinator, options = _coordinator(spec, notes)
    wants = Wants(
        f"JobSet/{spec.name} {POD}",
        annotations=annotations or {},
        run_options=options,
        env=({"name": "PET_NNODES", "value": str(spec.nodes)},),
        pod=pod,
    )
    template = pod_template(spec, cluster, wants)
    made: Object = {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": _metadata(spec, notes),
        "spec": {
            **({"suspend": True} if suspend else {}),
            **jobset_parts.set_spec(spec, GROUP, notes, "spec"),
            **coordinator,
            "replicatedJobs": [_group(spec, template.object, notes)],
        },
    }
    return Part((made,), notes.all() + template.notes)


def _metadata(spec: Spec, notes: Notes) -> Object:
    labels = dict(spec.labels)
    why = "Without a queue pods are scheduled as they come: rdmatrain k8s targets has gangs."
    if spec.queue:
        labels[QUEUE] = spec.queue
        why = "Where Kueue runs it admits the JobSet when this LocalQueue has quota for all of it."
    notes.add("queue", f"metadata.labels[{QUEUE}]", spec.queue or "none", why)
    return {"name": spec.name, "namespace": spec.namespace, "labels": labels}


def _coordinator(spec: Spec, notes: Notes) -> tuple[Object, tuple[str, ...]]:
    """Return the field that tells every pod where the gang meets; or options that do."""
    address = f"{spec.name}-{GROUP}-0-0.{spec.name}"
    if len(address) > LONGEST:
        why = "Where the gang meets; a coordinator's name is a label, of 63 characters at most."
        notes.add("", f"{POD} --master-addr", address, why)
        return {}, ("--master-addr", address)
    coordinator = {"replicatedJob": GROUP, "jobIndex": 0, "podIndex": 0}
    why = "Every pod is told the name of the first, where the gang meets."
    notes.add("", "spec.coordinator", coordinator, why)
    return {"coordinator": coordinator}, ()


def _group(spec: Spec, template: Object, notes: Notes) -> Object:
    path = "spec.replicatedJobs[0].template.spec"
    why = "One pod for each node, numbered; all of one Job, so that the number is the node's rank."
    notes.add("nodes", f"{path}.completions", spec.nodes, why)
    notes.add("nodes", f"{path}.parallelism", spec.nodes, "All at once.")
    job = {
        "parallelism": spec.nodes,
        "completions": spec.nodes,
        **jobset_parts.job_spec(template, notes, path),
    }
    return {"name": GROUP, "replicas": 1, "template": {"spec": job}}


TARGET = Target("jobset", render, has_service=True, has_gang=by_queue, by_kueue=True)
