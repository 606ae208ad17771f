"""An MPIJob: the operator's launcher is node 0, and every pod runs rdmatrain's launcher.

Nothing is started through mpirun and sshd, which would need a server with host keys in each pod,
and would lose the variables of the device plugin: pods start their own launcher, and meet at
node 0. The operator gives names, addresses and numbers, and ends the job when node 0 ends.
"""

from copy import deepcopy

from rdmatrain.k8s.cluster import Cluster
from rdmatrain.k8s.notes import Notes
from rdmatrain.k8s.parts import Object, Part
from rdmatrain.k8s.pod import Wants, pod_template
from rdmatrain.k8s.scheduling import near
from rdmatrain.k8s.spec import Spec
from rdmatrain.k8s.surroundings import metadata
from rdmatrain.k8s.targets.names import check_name
from rdmatrain.k8s.targets.placing import note_topology, refuse_tier
from rdmatrain.k8s.targets.target import Target
from rdmatrain.k8s.targets.volcano import render_cluster

_REPLICAS = "spec.mpiReplicaSpecs"


def render(spec: Spec, cluster: Cluster) -> Part:
    """Return the MPIJob.

    Raises:
        SettingError: its pods' names would be too long, or it has a tier and no label.

    """
    # The launcher's Job appends five letters and a dash to its pod's name.
    launcher, worker = f"{spec.name}-launcher-01234", f"{spec.name}-worker-{spec.nodes - 2}"
    check_name(spec, "MPIJob", max(launcher, worker, key=len))
    refuse_tier(spec)
    owner = f"MPIJob/{spec.name}"
    leader = f"{spec.name}-launcher.{spec.name}.{spec.namespace}.svc"
    template = pod_template(
        spec,
        cluster,
        Wants(
            owner=f"{owner} {_REPLICAS}.Worker.template",
            restart_policy="",
            run_options=("--nnodes", str(spec.nodes), "--master-addr", leader),
            pod={"affinity": near(spec)} if spec.topology.label else {},
        ),
    )
    made: Object = {
        "apiVersion": "kubeflow.org/v2beta1",
        "kind": "MPIJob",
        "metadata": metadata(spec, spec.name),
        "spec": {
            "runLauncherAsWorker": True,
            "launcherCreationPolicy": "AtStartup",
            "slotsPerWorker": spec.nproc,
            "mpiImplementation": "OpenMPI",
            "runPolicy": _run_policy(spec),
            "mpiReplicaSpecs": _replicas(spec, template.object),
        },
    }
    notes = Notes(owner)
    _note(spec, leader, notes)
    note_topology(spec, notes, f"{_REPLICAS}.Worker.template.spec")
    return Part((made,), (*notes.all(), *template.notes))


def _run_policy(spec: Spec) -> Object:
    scheduling: Object = {"minAvailable": spec.nodes}
    if spec.queue:
        scheduling["queue"] = spec.queue
    if spec.priority:
        scheduling["priorityClass"] = spec.priority
    return {
        "cleanPodPolicy": "Running",
        "backoffLimit": spec.max_restarts,
        "schedulingPolicy": scheduling,
    }


def _replicas(spec: Spec, template: Object) -> Object:
    def replica(count: int) -> Object:
        return {
            "replicas": count,
            "restartPolicy": "OnFailure",
            "template": deepcopy(template),
        }

    replicas = {"Launcher": replica(1)}
    if spec.nodes > 1:
        replicas["Worker"] = replica(spec.nodes - 1)
    return replicas


def _note(spec: Spec, leader: str, notes: Notes) -> None:
    why = "Pods are called after it: NAME-launcher, NAME-worker-0 and so on, in its Service."
    notes.add("name", "metadata.name", spec.name, why)
    notes.add("namespace", "metadata.namespace", spec.namespace, "Where all objects are.")
    why = "One pod is the launcher, which is node 0; --nnodes tells all how many there are."
    notes.add("nodes", f"{_REPLICAS}.Worker.replicas", spec.nodes - 1, why)
    why = (
        "All pods, the launcher too, start together or not at all only where the operator runs "
        "with --gang-scheduling."
    )
    path = "spec.runPolicy.schedulingPolicy.minAvailable"
    notes.add("nodes", path, spec.nodes, why, urgent=spec.nodes > 1)
    why = "Each pod starts its own launcher: no sshd, no host keys, no variables lost on the way."
    notes.add("", "spec.runLauncherAsWorker", True, why)
    why = "A gang that counts the launcher would wait for ever for one that waits for the others."
    notes.add("", "spec.launcherCreationPolicy", "AtStartup", why)
    why = "Only the operator's launcher has the list of hosts; all go to node 0 by its name."
    notes.add("", f"{_REPLICAS} --master-addr", leader, why)
    why = "What the list of hosts says of each; rdmatrain starts as many workers."
    notes.add("workers", "spec.slotsPerWorker", spec.nproc, why)
    why = "Of Volcano, or whichever gang scheduler the operator is told to use."
    queue = spec.queue or "none"
    notes.add("queue", "spec.runPolicy.schedulingPolicy.queue", queue, why)
    named, why = spec.priority or "none", "The whole gang is preempted by it."
    notes.add("priority", "spec.runPolicy.schedulingPolicy.priorityClass", named, why)
    why = (
        "Containers start again where they are, and keep their devices; after so many failures of "
        "node 0 the job fails."
    )
    notes.add("max_restarts", "spec.runPolicy.backoffLimit", spec.max_restarts, why)
    why = (
        f"An MPIJob knows no exit codes: what would fail again is tried {spec.max_restarts} times "
        "more, too. With backoffLimit: 0 there are only the launcher's own restarts, in place; "
        "volcano, jobset, kueue, trainjob and pytorchjob go by exit codes."
    )
    path = f"{_REPLICAS}.*.restartPolicy"
    notes.add("max_restarts", path, "OnFailure", why, urgent=bool(spec.max_restarts))


TARGET = Target("mpijob", render, has_service=True, cluster_render=render_cluster)
