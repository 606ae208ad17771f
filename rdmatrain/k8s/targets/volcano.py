"""A Job of Volcano: one task, whose pods start together or not at all."""

from rdmatrain.k8s.cluster import Cluster
from rdmatrain.k8s.notes import Notes
from rdmatrain.k8s.parts import Object, Part
from rdmatrain.k8s.pod import Template, Wants, pod_template
from rdmatrain.k8s.spec import Spec
from rdmatrain.k8s.targets.names import check_name
from rdmatrain.k8s.targets.needs import needs
from rdmatrain.k8s.targets.placing import drawn_together, network_topology
from rdmatrain.k8s.targets.target import Target
from rdmatrain.launcher.exit_policies import volcano_policies

TASK = "worker"
# Volcano makes this one itself.
DEFAULT_QUEUE = "default"
_SVC = ["--publish-not-ready-addresses=true", "--disable-network-policy=true"]


def render(spec: Spec, cluster: Cluster) -> Part:
    """Return the Job."""
    check_name(spec, "Volcano", f"{spec.name}-{TASK}-{spec.nodes - 1}")
    notes = Notes(f"Job/{spec.name}")
    path = "spec.tasks[0].template"
    topology = network_topology(spec, notes, "spec.networkTopology")
    pod = {} if topology else drawn_together(spec, notes, path)
    wants = Wants(f"Job/{spec.name} {path}", pod=pod)
    template = pod_template(spec, cluster, wants)
    metadata: Object = {"name": spec.name, "namespace": spec.namespace, "labels": spec.labels}
    if spec.nodes > 1:
        metadata["annotations"] = _apart(notes)
    job = {
        "apiVersion": "batch.volcano.sh/v1alpha1",
        "kind": "Job",
        "metadata": metadata,
        "spec": {
            "schedulerName": "volcano",
            **_gang(spec, notes),
            **_queue(spec, notes),
            **topology,
            **_restarts(spec, notes),
            "plugins": _plugins(notes),
            "tasks": [_task(spec, template)],
        },
    }
    return Part((job,), notes.all() + template.notes)


def _task(spec: Spec, template: Template) -> Object:
    return {
        "name": TASK,
        "replicas": spec.nodes,
        "minAvailable": spec.nodes,
        "template": template.object,
    }


def _gang(spec: Spec, notes: Notes) -> Object:
    why = "Pods start together or not at all: fewer than all would hold devices and wait."
    notes.add("nodes", "spec.tasks[0].replicas", spec.nodes, "One pod for each node.")
    notes.add("nodes", "spec.minAvailable", spec.nodes, why)
    notes.add("nodes", "spec.tasks[0].minAvailable", spec.nodes, "The same for the one task.")
    return {"minAvailable": spec.nodes}


def _apart(notes: Notes) -> dict[str, str]:
    key = "volcano.sh/task-topology-anti-affinity"
    notes.add(
        "nodes",
        f"metadata.annotations {key}",
        TASK,
        "No two pods of the task come to one node, where the plugin task-topology is on.",
    )
    return {key: TASK}


def _queue(spec: Spec, notes: Notes) -> Object:
    why = "The job waits there until its quota has room for the whole gang."
    notes.add("queue", "spec.queue", spec.queue or DEFAULT_QUEUE, why)
    fields: Object = {"queue": spec.queue or DEFAULT_QUEUE}
    if spec.priority:
        fields["priorityClassName"] = spec.priority
        why = "Whom Volcano preempts for whom, as a gang."
        notes.add("priority", "spec.priorityClassName", spec.priority, why)
    return fields


def _restarts(spec: Spec, notes: Notes) -> Object:
    # Volcano fails a job as soon as it has counted maxRetry restarts, so that the last of them
    # never runs; and it takes 0 for 3. With 1 there are none.
    retries = spec.max_restarts + 1
    policies = volcano_policies()
    notes.add(
        "max_restarts",
        "spec.maxRetry",
        retries,
        "One more than there are to be: Volcano fails the job when it has counted so many; "
        "evictions count as well.",
    )
    notes.add(
        "max_restarts",
        "spec.policies",
        policies,
        "Evictions and codes of what may be retried restart all pods, anything else ends the job.",
    )
    notes.add(
        "",
        "pod annotations",
        "volcano.sh/job-version and job-retry-count",
        "The launcher reads its restart epoch of them, in /etc/podinfo.",
    )
    return {"maxRetry": retries, "policies": policies}


def _plugins(notes: Notes) -> Object:
    notes.add("", "spec.plugins.env", "[]", "It gives VC_TASK_INDEX, the number of the pod.")
    notes.add(
        "",
        "spec.plugins.svc",
        _SVC,
        "It lists the hosts and makes the Service, with addresses of pods that are not ready yet; "
        "its own NetworkPolicy would keep Prometheus out, so another is rendered.",
    )
    return {"env": [], "svc": list(_SVC)}


def render_cluster(spec: Spec, cluster: Cluster) -> Part:
    """Return the Queue that the spec names, just large enough for this job."""
    if spec.queue in ("", DEFAULT_QUEUE):
        return Part()
    notes = Notes(f"Queue/{spec.queue}")
    capability = needs(spec, cluster, claimed="deviceclass/")
    notes.add(
        "queue", "spec.capability", capability, "What this job needs: raise it for more than one."
    )
    queue = {
        "apiVersion": "scheduling.volcano.sh/v1beta1",
        "kind": "Queue",
        "metadata": {"name": spec.queue},
        "spec": {"weight": 1, "reclaimable": True, "capability": capability},
    }
    return Part((queue,), notes.all())


TARGET = Target("volcano", render, has_service=True, cluster_render=render_cluster)
