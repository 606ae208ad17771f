"""An Indexed Job of Kubernetes alone: each pod has a number, and nobody starts them together."""

from rdmatrain.errors import SettingError
from rdmatrain.k8s.cluster import Cluster
from rdmatrain.k8s.notes import Notes
from rdmatrain.k8s.parts import Note, Object, Part
from rdmatrain.k8s.pod import Wants, pod_template
from rdmatrain.k8s.scheduling import near
from rdmatrain.k8s.spec import Spec
from rdmatrain.k8s.surroundings import metadata
from rdmatrain.k8s.targets.names import check_name
from rdmatrain.k8s.targets.placing import note_topology, refuse_tier
from rdmatrain.k8s.targets.target import Target
from rdmatrain.launcher.exit_policies import job_failure_policy


def render(spec: Spec, cluster: Cluster) -> Part:
    """Return the Job.

    Raises:
        SettingError: it has a queue or a tier, which a Job alone knows nothing of, or pods' names
            would be too long.

    """
    refuse_queue(spec, "indexed-job")
    refuse_tier(spec)
    made, notes = job(spec, cluster, {"affinity": near(spec)} if spec.topology.label else {})
    own = Notes(f"Job/{spec.name}")
    note_topology(spec, own, "spec.template.spec")
    why = "Kubernetes alone has no queues; without a gang, pods start as nodes become free."
    own.add("queue", "spec", "none", why)
    return Part((made,), (*notes, *own.all()))


def job(spec: Spec, cluster: Cluster, pod: Object) -> tuple[Object, tuple[Note, ...]]:
    """Return the Job, and notes.

    Args:
        spec: of the job.
        cluster: that it is for.
        pod: more fields of its pods' spec.

    Raises:
        SettingError: pods' names would be too long.

    """
    check_name(spec, "a Job", f"{spec.name}-{spec.nodes - 1}")
    name = f"Job/{spec.name}"
    options = ["--nnodes", str(spec.nodes)]
    if spec.network.host_network and spec.nodes > 1:
        # /etc/hosts is the node's, and tells no pod the domain that its siblings have.
        options += ["--master-addr", f"{spec.name}-0.{spec.name}"]
    wants = Wants(
        owner=f"{name} spec.template",
        run_options=tuple(options),
        pod={"subdomain": spec.name, **pod},
    )
    template = pod_template(spec, cluster, wants)
    made: Object = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": metadata(spec, spec.name),
        "spec": {
            "completionMode": "Indexed",
            "completions": spec.nodes,
            "parallelism": spec.nodes,
            "backoffLimitPerIndex": spec.max_restarts,
            "maxFailedIndexes": 0,
            "podReplacementPolicy": "Failed",
            "podFailurePolicy": job_failure_policy(),
            "template": template.object,
        },
    }
    notes = Notes(name)
    _note_job(spec, made["spec"], notes)
    return made, (*notes.all(), *template.notes)


def refuse_queue(spec: Spec, target: str) -> None:
    """Refuse a queue, for a target that has none.

    Raises:
        SettingError: with the remedy.

    """
    if spec.queue:
        raise SettingError(
            f"queue: {spec.queue!r} is nothing that {target} knows of: leave it out, or render "
            "--for volcano or kueue"
        )


def _note_job(spec: Spec, job_spec: Object, notes: Notes) -> None:
    why = "Pods are called after it: NAME-INDEX, and NAME-INDEX.NAME in DNS by the subdomain."
    notes.add("name", "metadata.name", spec.name, why)
    why = "Where all objects of the job are."
    notes.add("namespace", "metadata.namespace", spec.namespace, why)
    why = "All of them at a time; Kubernetes numbers them, and --nnodes tells them how many."
    notes.add("nodes", "spec.completions, spec.parallelism", spec.nodes, why)
    why = (
        "When the gang breaks every pod ends, and each counts for its own index; the first index "
        "that is used up ends the Job."
    )
    notes.add("max_restarts", "spec.backoffLimitPerIndex", spec.max_restarts, why)
    why = "A Job counts no restarts of all its pods: its uid and the gang's handshake tell old."
    notes.add("", "spec.template restart epoch", "none", why)
    rules = job_spec["podFailurePolicy"]["rules"]
    codes = rules[1]["onExitCodes"]["values"]
    why = "Only these exit codes are worth another try; a preemption counts for nothing."
    notes.add("", "spec.podFailurePolicy", codes, why)
    why = "The old pod is gone before the new one has its name, and its devices are free."
    notes.add("", "spec.podReplacementPolicy", "Failed", why)


TARGET = Target("indexed-job", render, has_gang=lambda _: False)
