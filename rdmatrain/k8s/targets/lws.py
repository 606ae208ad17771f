"""A LeaderWorkerSet: one group of pods, which are restarted together, and for ever."""

from rdmatrain.k8s.cluster import Cluster
from rdmatrain.k8s.notes import Notes
from rdmatrain.k8s.parts import Object, Part
from rdmatrain.k8s.pod import Wants, pod_template
from rdmatrain.k8s.scheduling import near
from rdmatrain.k8s.spec import Spec
from rdmatrain.k8s.surroundings import metadata
from rdmatrain.k8s.targets.names import check_name
from rdmatrain.k8s.targets.needs import check_counted
from rdmatrain.k8s.targets.placing import note_topology, refuse_tier
from rdmatrain.k8s.targets.target import Target, by_queue

KUEUE_QUEUE = "kueue.x-k8s.io/queue-name"
# The leader's StatefulSet is called as the set is, that of a group's workers NAME-0; each puts its
# name, with a hash of ten letters, into a label.
_LONGEST_SUFFIX = "-0-0123456789"


def render(spec: Spec, cluster: Cluster) -> Part:
    """Return the LeaderWorkerSet.

    Raises:
        SettingError: its pods' names would be too long, or it has a tier and no label.

    """
    last = f"{spec.name}-0-{spec.nodes - 1}"
    check_name(spec, "LeaderWorkerSet", max(last, spec.name + _LONGEST_SUFFIX, key=len))
    refuse_tier(spec)
    owner = f"LeaderWorkerSet/{spec.name}"
    notes = Notes(owner)
    check_counted(spec, notes)
    template = pod_template(
        spec,
        cluster,
        # A StatefulSet takes no other policy.
        Wants(
            owner=f"{owner} spec.leaderWorkerTemplate.workerTemplate",
            restart_policy="Always",
            pod={"affinity": near(spec)} if spec.topology.label else {},
        ),
    )
    made: Object = {
        "apiVersion": "leaderworkerset.x-k8s.io/v1",
        "kind": "LeaderWorkerSet",
        "metadata": metadata(spec, spec.name),
        "spec": {
            "replicas": 1,
            "startupPolicy": "LeaderCreated",
            "networkConfig": {"subdomainPolicy": "Shared"},
            "leaderWorkerTemplate": {
                "size": spec.nodes,
                "restartPolicy": "RecreateGroupOnPodRestart",
                "workerTemplate": template.object,
            },
        },
    }
    if spec.queue:
        made["metadata"]["labels"][KUEUE_QUEUE] = spec.queue
    _note(spec, notes)
    note_topology(spec, notes, "spec.leaderWorkerTemplate.workerTemplate.spec")
    return Part((made,), (*notes.all(), *template.notes))


def _note(spec: Spec, notes: Notes) -> None:
    why = "Pods are called after it: the leader NAME-0, the others NAME-0-1 and so on."
    notes.add("name", "metadata.name", spec.name, why)
    notes.add("namespace", "metadata.namespace", spec.namespace, "Where all objects are.")
    why = "The leader counts as one; the system tells each pod its number, and who leads."
    notes.add("nodes", "spec.leaderWorkerTemplate.size", spec.nodes, why)
    why = "All pods at once: a worker waits for its leader in the gang, not before it starts."
    notes.add("", "spec.startupPolicy", "LeaderCreated", why)
    notes.add(
        "",
        "spec.leaderWorkerTemplate.restartPolicy",
        "RecreateGroupOnPodRestart",
        "A LeaderWorkerSet starts each ended job again, whatever its exit code, one that succeeded "
        "too: delete it when the job is done.",
        urgent=True,
    )
    why = (
        "Kueue admits all pods of the group, or none."
        if spec.queue
        else "Pods are scheduled as they come."
    )
    notes.add("queue", f"metadata.labels[{KUEUE_QUEUE}]", spec.queue or "none", why)


TARGET = Target("lws", render, has_service=True, has_gang=by_queue, by_kueue=True)
