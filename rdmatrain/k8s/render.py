"""Puts the parts of a job together."""

from rdmatrain.k8s.cluster import Cluster
from rdmatrain.k8s.devices import cluster_devices, job_devices, networks
from rdmatrain.k8s.monitoring import cluster_monitoring, monitoring
from rdmatrain.k8s.parts import Note, Object, Part, together
from rdmatrain.k8s.spec import Spec
from rdmatrain.k8s.surroundings import surroundings
from rdmatrain.k8s.targets.target import Target, target
from rdmatrain.k8s.targets.volcano import DEFAULT_QUEUE

# What others name comes first, so that a pod that starts at once misses nothing. Kinds that are not
# here are the targets' own; a workload's kind stands at the end.
_ORDER = (
    "NicClusterPolicy", "SriovNetworkPoolConfig", "SriovNetworkNodePolicy", "IPPool",
    "SriovResourcePolicy", "SriovNetwork", "SriovIBNetwork", "MacvlanNetwork", "IPoIBNetwork",
    "NetworkAttachmentDefinition", "Topology", "ResourceFlavor", "ClusterQueue", "LocalQueue",
    "Queue", "ConfigMap", "Secret", "PersistentVolumeClaim", "ResourceClaimTemplate", "Service",
    "NetworkPolicy", "PodDisruptionBudget", "PodMonitor", "PrometheusRule", "TrainingRuntime",
    "PodGroup", "Workload",
)  # fmt: skip
_RANK = {kind: place for place, kind in enumerate(_ORDER)}


def render(spec: Spec, name: str, cluster: Cluster, *, with_cluster: bool = False) -> Part:
    """Return all objects of a job for the target ``name``, in the order to apply them in.

    Args:
        spec: of the job.
        name: of the target.
        cluster: that it is for.
        with_cluster: also what an administrator applies once: networks, policies, monitors' rules.

    Raises:
        SettingError: this target cannot honour the spec.

    """
    chosen = target(name)
    workload = chosen.render(spec, cluster)
    if chosen.alone:
        return workload
    once = [cluster_devices, chosen.cluster_render, cluster_monitoring]
    of_cluster = once if with_cluster else []
    parts = [
        *(make(spec, cluster) for make in of_cluster if make),
        surroundings(spec, cluster, service=not chosen.has_service),
        job_devices(spec, cluster),
        monitoring(spec, cluster),
        workload,
        _without_gang(spec, chosen),
        _named(spec, chosen, with_cluster),
    ]
    whole = together(parts)
    return Part(tuple(sorted(whole.objects, key=_rank)), whole.notes, whole.texts)


def _without_gang(spec: Spec, chosen: Target) -> Part:
    """Return a note where nobody starts the pods together."""
    if spec.nodes == 1 or chosen.has_gang(spec):
        return Part()
    why = (
        f"Nothing starts the {spec.nodes} pods together: two jobs that each get some of the nodes "
        "wait for the rest until join-timeout. rdmatrain k8s targets tells what is a gang."
    )
    return Part(notes=(Note("nodes", "gang: none", why, urgent=True),))


def _named(spec: Spec, chosen: Target, with_cluster: bool) -> Part:
    """Return notes of what an administrator makes, the job names, and is not rendered."""
    notes = []
    made = (with_cluster and chosen.cluster_render) or (
        spec.queue == DEFAULT_QUEUE and not chosen.by_kueue
    )
    if spec.queue and not made:
        why = f"The queue {spec.queue} is to be there, or the job waits for ever."
        notes.append(Note("queue", "queue: not rendered", why, urgent=True))
    if networks(spec) and not with_cluster:
        names = ", ".join(networks(spec))
        why = f"The NetworkAttachmentDefinitions are to be there, or no pod starts: {names}."
        notes.append(Note("network.networks", "networks: not rendered", why, urgent=True))
    return Part(notes=tuple(notes))


def _rank(thing: Object) -> int:
    return _RANK.get(str(thing["kind"]), len(_ORDER))
