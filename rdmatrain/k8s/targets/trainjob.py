"""A TrainJob of Kubeflow Trainer v2, and a TrainingRuntime of its own, which has all of it.

A runtime that others share would need patches for whatever a spec says; patches may not touch much
of a pod, and who reads the job would have to know both.
"""

from rdmatrain.k8s.cluster import Cluster
from rdmatrain.k8s.container import PREFLIGHT
from rdmatrain.k8s.notes import Notes
from rdmatrain.k8s.parts import Object, Part
from rdmatrain.k8s.pod import Wants, pod_template
from rdmatrain.k8s.spec import Spec
from rdmatrain.k8s.targets import jobset_parts
from rdmatrain.k8s.targets.names import check_name
from rdmatrain.k8s.targets.placing import drawn_together, network_topology, without_tiers
from rdmatrain.k8s.targets.target import Target
from rdmatrain.k8s.targets.volcano import render_cluster

# Names that the Trainer demands: of the replicated job and of the container that trains.
NODE = "node"
QUEUE = "scheduling.volcano.sh/queue-name"
POD = "spec.template.spec.replicatedJobs[0].template.spec.template"
_GROUP = "trainer.kubeflow.org"
_VERSION = f"{_GROUP}/v1alpha1"


def render(spec: Spec, cluster: Cluster) -> Part:
    """Return the TrainingRuntime and the TrainJob."""
    check_name(spec, "TrainJob", jobset_parts.last_pod(spec, NODE))
    notes = Notes(f"TrainingRuntime/{spec.name}")
    policy, pod = _gang(spec, notes)
    wants = Wants(f"TrainingRuntime/{spec.name} {POD}", container=NODE, pod=pod)
    template = pod_template(spec, cluster, wants)
    runtime = {
        "apiVersion": _VERSION,
        "kind": "TrainingRuntime",
        "metadata": _metadata(spec, {f"{_GROUP}/framework": "torch"}),
        "spec": {
            "mlPolicy": {"numNodes": spec.nodes, "torch": _torch(spec, notes)},
            "podGroupPolicy": policy,
            "template": _job_set(spec, template.object, notes),
        },
    }
    job, job_notes = _train_job(spec)
    return Part((runtime, job), job_notes.all() + notes.all() + template.notes)


def _metadata(spec: Spec, labels: dict[str, str]) -> Object:
    return {
        "name": spec.name,
        "namespace": spec.namespace,
        "labels": {**spec.labels, **labels},
    }


def _train_job(spec: Spec) -> tuple[Object, Notes]:
    notes = Notes(f"TrainJob/{spec.name}")
    reference = {"apiGroup": _GROUP, "kind": "TrainingRuntime", "name": spec.name}
    notes.add("name", "spec.runtimeRef", reference, "The runtime of this job alone.")
    notes.add(
        "nodes",
        "spec.trainer.numNodes",
        spec.nodes,
        "One pod for each node; the Trainer makes PET_NNODES and the gang's size of it.",
    )
    why = "The Trainer makes PET_NPROC_PER_NODE of it; the command line says the same."
    notes.add("workers", "spec.trainer.numProcPerNode", spec.nproc, why)
    job = {
        "apiVersion": _VERSION,
        "kind": "TrainJob",
        "metadata": _metadata(spec, {}),
        "spec": {
            "runtimeRef": reference,
            "trainer": {"numNodes": spec.nodes, "numProcPerNode": spec.nproc},
        },
    }
    return job, notes


def _torch(spec: Spec, notes: Notes) -> Object:
    if not spec.preflight:
        return {}
    target = {"jobName": NODE, "containerNames": [PREFLIGHT]}
    why = "The doctor knows its node's place as the trainer does, which has the PET_* anyway."
    notes.add("preflight", "spec.mlPolicy.torch.envInjection.targets[0]", target, why)
    return {"envInjection": {"targets": [target]}}


def _gang(spec: Spec, notes: Notes) -> tuple[Object, Object]:
    """Return podGroupPolicy, and fields of a pod: Volcano has queues and tiers."""
    by_volcano = bool(spec.queue or spec.topology.tier)
    path, scheduler = "spec.podGroupPolicy", f"{POD}.spec.schedulerName"
    if by_volcano:
        policy: Object = network_topology(spec, notes, f"{path}.volcano.networkTopology")
        pod: Object = {} if policy else drawn_together(spec, notes, POD)
        why = (
            "Volcano schedules the gang, as only it has queues and tiers; for a queue of Kueue "
            "render --for kueue."
        )
        notes.add("queue", f"{scheduler}", "volcano", why)
        return {"volcano": policy}, {"schedulerName": "volcano", **pod}
    without_tiers(notes, path)
    wait = {"scheduleTimeoutSeconds": spec.join_timeout_s}
    why = "After so long a gang that is not complete lets go of what it holds."
    notes.add(
        "join_timeout_s", f"{path}.coscheduling.scheduleTimeoutSeconds", spec.join_timeout_s, why
    )
    name = "scheduler-plugins-scheduler"
    why = (
        "The plugin coscheduling of this scheduler schedules gangs without queues, and pods wait "
        "for ever where it is not installed: give a queue for Volcano, or for one of Kueue render "
        "--for kueue."
    )
    notes.add("queue", scheduler, name, why, urgent=True)
    return {"coscheduling": wait}, {"schedulerName": name, **drawn_together(spec, notes, POD)}


def _job_set(spec: Spec, template: Object, notes: Notes) -> Object:
    path = "spec.template.spec"
    job = jobset_parts.job_spec(template, notes, f"{path}.replicatedJobs[0].template.spec")
    ancestor = {f"{_GROUP}/trainjob-ancestor-step": "trainer"}
    why = "By this label the Trainer finds the job whose pods it counts and numbers."
    notes.add("", f"{path}.replicatedJobs[0].template.metadata.labels", ancestor, why)
    made: Object = {
        "spec": {
            **jobset_parts.set_spec(spec, NODE, notes, path),
            "replicatedJobs": [
                {
                    "name": NODE,
                    "replicas": 1,
                    "template": {"metadata": {"labels": ancestor}, "spec": job},
                }
            ],
        }
    }
    if spec.queue:
        made["metadata"] = {"annotations": {QUEUE: spec.queue}}
        why = "The Trainer names the queue in the PodGroup that it makes."
        notes.add("queue", f"spec.template.metadata.annotations[{QUEUE}]", spec.queue, why)
    return made


TARGET = Target("trainjob", render, has_service=True, cluster_render=render_cluster)
