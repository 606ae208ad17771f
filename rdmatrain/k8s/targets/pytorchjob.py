"""A PyTorchJob of Kubeflow's training operator: a Master, which is node 0, and Workers."""

from copy import deepcopy

from rdmatrain.k8s.cluster import Cluster
from rdmatrain.k8s.notes import Notes
from rdmatrain.k8s.parts import Object, Part
from rdmatrain.k8s.pod import Wants, pod_template
from rdmatrain.k8s.spec import Spec
from rdmatrain.k8s.targets.names import check_name
from rdmatrain.k8s.targets.placing import drawn_together, refuse_tier, without_tiers
from rdmatrain.k8s.targets.target import Target
from rdmatrain.k8s.targets.volcano import render_cluster
from rdmatrain.launcher.exit_policies import PYTORCHJOB_POLICY

# Name that the operator demands of the container that trains.
CONTAINER = "pytorch"
POD = "spec.pytorchReplicaSpecs[*].template"


def render(spec: Spec, cluster: Cluster) -> Part:
    """Return the PyTorchJob.

    Raises:
        SettingError: its pods' names would be too long, or it has a tier and no label.

    """
    refuse_tier(spec)
    last = f"{spec.name}-worker-{spec.nodes - 2}" if spec.nodes > 1 else f"{spec.name}-master-0"
    check_name(spec, "PyTorchJob", max(last, f"{spec.name}-master-0", key=len))
    notes = Notes(f"PyTorchJob/{spec.name}")
    without_tiers(notes, POD)
    wants = Wants(
        f"PyTorchJob/{spec.name} {POD}",
        container=CONTAINER,
        # The operator writes Never, as its own policy is ExitCode.
        restart_policy="",
        pod=drawn_together(spec, notes, POD),
    )
    template = pod_template(spec, cluster, wants)
    made = {
        "apiVersion": "kubeflow.org/v1",
        "kind": "PyTorchJob",
        "metadata": {"name": spec.name, "namespace": spec.namespace, "labels": spec.labels},
        "spec": {
            "nprocPerNode": _nproc(spec, notes),
            "runPolicy": _run_policy(spec, notes),
            "pytorchReplicaSpecs": _replicas(spec, template.object, notes),
        },
    }
    return Part((made,), notes.all() + template.notes)


def _nproc(spec: Spec, notes: Notes) -> str:
    text = str(spec.nproc)
    why = "The operator makes PET_NPROC_PER_NODE of it; the command line says the same."
    notes.add("workers", "spec.nprocPerNode", text, why)
    return text


def _run_policy(spec: Spec, notes: Notes) -> Object:
    path = "spec.runPolicy"
    why = "Pods that still run when the job has ended are deleted, others are kept for their logs."
    notes.add("", f"{path}.cleanPodPolicy", "Running", why)
    why = "So often pods are made again."
    notes.add("max_restarts", f"{path}.backoffLimit", spec.max_restarts, why)
    return {
        "cleanPodPolicy": "Running",
        "backoffLimit": spec.max_restarts,
        "schedulingPolicy": _scheduling(spec, notes, f"{path}.schedulingPolicy"),
    }


def _scheduling(spec: Spec, notes: Notes, path: str) -> Object:
    notes.add(
        "nodes",
        f"{path}.minAvailable",
        spec.nodes,
        "Pods start together or not at all only where the operator runs with "
        "--gang-scheduler-name.",
        urgent=spec.nodes > 1,
    )
    why = "After so long the scheduler's plugin coscheduling lets go of a gang that is incomplete."
    notes.add("join_timeout_s", f"{path}.scheduleTimeoutSeconds", spec.join_timeout_s, why)
    fields: Object = {
        "minAvailable": spec.nodes,
        "scheduleTimeoutSeconds": spec.join_timeout_s,
    }
    why = "Volcano's, where that is the gang scheduler." if spec.queue else "The default one."
    notes.add("queue", f"{path}.queue", spec.queue or "none", why)
    if spec.queue:
        fields["queue"] = spec.queue
    if spec.priority:
        fields["priorityClass"] = spec.priority
        why = "Whom the gang scheduler preempts for whom."
        notes.add("priority", f"{path}.priorityClass", spec.priority, why)
    return fields


def _replicas(spec: Spec, template: Object, notes: Notes) -> Object:
    counts = {"Master": 1, "Worker": spec.nodes - 1}
    notes.add(
        "nodes",
        "spec.pytorchReplicaSpecs",
        counts,
        "The operator tells node 0 and ranks only where there is a Master, which trains as well.",
    )
    notes.add(
        "max_restarts",
        "spec.pytorchReplicaSpecs[*].restartPolicy",
        PYTORCHJOB_POLICY,
        "Codes below 128 end the job; a pod that ends with another is made again, and so are its "
        "peers, whose launchers end with 201 where they cannot go on.",
    )
    notes.add(
        "cpus",
        "spec.pytorchReplicaSpecs.Worker",
        "Burstable",
        "Workers are Burstable, so that no CPUs are their own: the operator gives them an "
        "initContainer that requests less than it may use; its flag "
        "--pytorch-init-container-template-file takes a better one.",
        urgent=spec.nodes > 1,
    )
    notes.add(
        "",
        "Services, one for each pod",
        "without publishNotReadyAddresses",
        "The operator makes them, and DNS has a pod once it is ready: pods have no readinessProbe, "
        "so that is when node 0 has passed its preflight. Workers look for it for 200 s.",
    )
    why = "The operator counts no restarts: the launchers number their own rounds."
    notes.add("", "restart epoch", "none", why)
    return {
        kind: {
            "replicas": count,
            "restartPolicy": PYTORCHJOB_POLICY,
            "template": deepcopy(template),
        }
        for kind, count in counts.items()
        if count
    }


TARGET = Target("pytorchjob", render, has_service=True, cluster_render=render_cluster)
