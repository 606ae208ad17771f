"""How pods of a manifest are started together, stopped, and started again."""

import json
from collections.abc import Iterator

from rdmatrain.discovery.claims.values import shown
from rdmatrain.doctor.manifest.containers import Container
from rdmatrain.doctor.manifest.define import (
    Patch,
    advice,
    fail,
    fine,
    patch,
    static_question,
    unseen,
    warn,
)
from rdmatrain.doctor.manifest.nodes import MAP, Node, as_json
from rdmatrain.doctor.manifest.workloads import TRAIN_JOB, Manifest, Pod
from rdmatrain.doctor.model import Finding, Needs
from rdmatrain.launcher.exit_codes import BAD_CONFIG, NO_JOB
from rdmatrain.launcher.exit_policies import PYTORCHJOB_POLICY
from rdmatrain.launcher.job import Limits
from rdmatrain.launcher.termination import LOG

# What Kubernetes gives a pod that says nothing.
DEFAULT_GRACE = 30
# For the end of a step and of the launcher, beside the checkpoint.
_MARGIN = 15
_KUEUE = "kueue.x-k8s.io/queue-name"
_GROUPS = (
    "scheduling.x-k8s.io/pod-group",
    "scheduling.k8s.io/group-name",
    "pod-group.scheduling.sigs.k8s.io",
)
_FOREVER = frozenset(["StatefulSet", "Deployment", "ReplicaSet", "DaemonSet", "LeaderWorkerSet"])


@static_question(
    "gang-minimum",
    "all pods are scheduled together or not at all",
    nothing="no workload has several pods",
    known="kubeflow/trainer#165: jobs with some of their pods wait for each other for ever",
    exit_code=200,
)
def gang_minimum(manifest: Manifest, _needs: Needs) -> Iterator[Finding]:
    """Parts of a gang hold their GPUs and wait, and so do parts of the others."""
    seen: set[int] = set()
    for pod in manifest.training:
        if pod.many and id(pod.document) not in seen:
            seen.add(id(pod.document))
            yield _gang(pod)
        if pod.volcano:
            yield from _task(pod)


def _gang(pod: Pod) -> Finding:
    for place in _minimums(pod):
        number = place.number
        if number is None or number < 1 or number < (pod.siblings or 0):
            text = f"{shown(place.text, 20)} of {pod.siblings} pods are enough to start"
            made = advice if _elastic(pod) else patch
            return warn(place, text, made(place, str(pod.siblings)))
        if number > (pod.siblings or 0):
            text = f"{number} pods are waited for, and there are {pod.siblings}"
            return fail(place, text, patch(place, str(pod.siblings)))
        return fine(place, f"all {number} pods, or none")
    return _without_gang(pod) or _without_minimum(pod)


def _elastic(pod: Pod) -> bool:
    """Tell whether a job may go on with fewer pods: ``--nnodes 2:4``."""
    return any(":" in box.option("nnodes") for box in pod.trainers)


def _without_gang(pod: Pod) -> Finding | None:
    """Judge a pod whose PodGroup is none that starts as a whole."""
    named = pod.spec.get("schedulingGroup", "podGroupName").text
    for each in pod.manifest.of_kind("PodGroup"):
        policy = each.get("spec", "schedulingPolicy")
        if named and each.get("metadata", "name").text == named and policy.there:
            change = f"{{schedulingPolicy: {{basic: null, gang: {{minCount: {pod.siblings}}}}}}}"
            text = "a PodGroup without a gang: its pods are scheduled one by one"
            return warn(policy, text, patch(each.get("spec"), change))
    return None


def _without_minimum(pod: Pod) -> Finding:
    spec = pod.document.get("spec")
    if pod.volcano:
        return fine(pod.job, f"all {pod.siblings} pods: the sum of all tasks")
    labels = [pod.document.get("metadata", "labels"), pod.template.get("metadata", "labels")]
    labels.append(pod.template.get("metadata", "annotations"))
    if pod.kind == "LeaderWorkerSet":
        return unseen(spec, "a LeaderWorkerSet's gang is up to its scheduler")
    if any(each.get(_KUEUE).there for each in labels):
        return fine(labels[0], "admitted as a whole by Kueue")
    if _grouped(pod, labels) or not pod.whole:
        return unseen(pod.template, "of a PodGroup that is not in the manifest")
    if pod.kind == TRAIN_JOB and _runtime_gang(pod):
        return fine(pod.template, "the runtime's podGroupPolicy, for all nodes")
    text = f"{pod.siblings} pods, and nothing that starts them together"
    return warn(pod.document, text, _start_together(pod))


def _start_together(pod: Pod) -> Patch:
    """Return what makes a gang of a workload: a queue, if there is no nearer way."""
    spec = pod.document.get("spec")
    if pod.kind == TRAIN_JOB:
        runtime = _runtime(pod)
        if runtime is not None:
            wait = "scheduleTimeoutSeconds: 120"
            change = f"{{podGroupPolicy: {{coscheduling: {{{wait}}}}}}}"
            return patch(runtime.get("spec"), change, guess=wait)
    if pod.kind == "PyTorchJob":
        change = f"{{runPolicy: {{schedulingPolicy: {{minAvailable: {pod.siblings}}}}}}}"
        return patch(spec, change)
    return advice(pod.document, "{metadata: {labels: {kueue.x-k8s.io/queue-name: QUEUE}}}")


def _grouped(pod: Pod, labels: list[Node]) -> bool:
    named = any(each.get(name).there for each in labels for name in _GROUPS)
    return named or pod.spec.get("schedulingGroup").there or pod.spec.get("workloadRef").there


def _runtime(pod: Pod) -> Node | None:
    """Return the runtime of a TrainJob, if the manifest has it."""
    origin = pod.template.origin
    found = (each for each in pod.manifest.documents if each.origin is origin)
    return next((each for each in found if each is not pod.document), None)


def _runtime_gang(pod: Pod) -> bool:
    runtime = _runtime(pod)
    return runtime is not None and runtime.get("spec", "podGroupPolicy").there


def _minimums(pod: Pod) -> list[Node]:
    """Return where it is said how many pods are enough, as far as it is."""
    spec = pod.document.get("spec")
    places = [pod.job.get("minAvailable")] if pod.volcano else []
    places.append(spec.get("runPolicy", "schedulingPolicy", "minAvailable"))
    group = pod.spec.get("schedulingGroup", "podGroupName").text
    labels, notes = (pod.template.get("metadata", each) for each in ("labels", "annotations"))
    names = {group, *(each.get(name).text for name in _GROUPS for each in (labels, notes))} - {""}
    for each in pod.manifest.of_kind("PodGroup"):
        if each.get("metadata", "name").text in names:
            places.append(each.get("spec", "minMember"))
            places.append(each.get("spec", "schedulingPolicy", "gang", "minCount"))
    return [each for each in (*places, *_of_workloads(pod)) if each.there]


def _of_workloads(pod: Pod) -> Iterator[Node]:
    """Yield the minimum of the group of a Workload that a pod names, as in Kubernetes 1.35."""
    named = [pod.spec.get("workloadRef", each).text for each in ("name", "podGroup")]
    for each in pod.manifest.of_kind("Workload"):
        for group in each.get("spec", "podGroups").items():
            if [each.get("metadata", "name").text, group.get("name").text] == named:
                yield group.get("policy", "gang", "minCount")


def _task(pod: Pod) -> Iterator[Finding]:
    task = pod.template.parent
    place = task.get("minAvailable") if task is not None else pod.template.get("none")
    number = place.number
    if number is not None and pod.count is not None and number < pod.count:
        text = f"{number} of {pod.count} pods of this task are enough to start"
        yield warn(place, text, patch(place, str(pod.count)))


@static_question(
    "queue-covers",
    "the queue has quota for all that is asked for",
    nothing="the queue of the workload is not in the manifest",
    exit_code=200,
)
def queue_covers(manifest: Manifest, _needs: Needs) -> Iterator[Finding]:
    """Kueue admits no workload that asks for a resource which its ClusterQueue does not cover."""
    for pod in manifest.pods:
        name = pod.document.get("metadata", "labels", _KUEUE).text
        queue = cluster_queue(manifest, name) if name else None
        if queue is not None:
            yield from _covers(queue, pod)


def _covers(queue: Node, pod: Pod) -> Iterator[Finding]:
    groups = queue.get("spec", "resourceGroups")
    covered = {name for each in groups.items() for name in each.get("coveredResources").texts()}
    asked = {name: node for box in pod.containers for name, node in box.resources.items()}
    missing = [each for each in asked if each not in covered]
    if missing:
        text = f"ClusterQueue {shown(queue.get('metadata', 'name').text, 60)} does not cover it"
        said = f"{{coveredResources: [{', '.join([*sorted(covered), missing[0]])}]}}"
        change = _with_quota(pod, groups.get(0), missing[0], asked[missing[0]])
        guess = f"a quota of {missing[0]} for this workload alone"
        yield fail(asked[missing[0]], text, patch(groups.get(0), change, said, guess))
    elif asked:
        yield fine(groups, f"covers {', '.join(asked)}")


def _with_quota(pod: Pod, group: Node, name: str, each_asks: Node) -> str:
    """Return a group of resources that covers one more, with a quota in each flavor."""
    quota = {"name": name, "nominalQuota": (each_asks.number or 1) * (pod.siblings or 1)}
    flavors = [
        {**as_json(each), "resources": [*each.get("resources").plain_items(), quota]}
        for each in group.get("flavors").items()
        if each.kind == MAP
    ]
    covered = [*group.get("coveredResources").plain_items(), name]
    made = {"coveredResources": covered, **({"flavors": flavors} if flavors else {})}
    return json.dumps(made)


def cluster_queue(manifest: Manifest, local: str) -> Node | None:
    """Return the ClusterQueue of a LocalQueue; None if one of them is not in the manifest."""
    for each in manifest.of_kind("LocalQueue"):
        if each.get("metadata", "name").text == local:
            name = each.get("spec", "clusterQueue").text
            queues = manifest.of_kind("ClusterQueue")
            return next((q for q in queues if q.get("metadata", "name").text == name), None)
    return None


@static_question(
    "restart-policy",
    "exit codes reach whoever restarts the job",
    nothing="there is no pod that ends",
    known="kubeflow/trainer#2000: one pod restarts alone while its peers wait",
    exit_code=NO_JOB,
)
def restart_policy(manifest: Manifest, _needs: Needs) -> Iterator[Finding]:
    """Containers restarted in place hide their exit code, and peers wait for the old one."""
    for pod in manifest.training:
        place = _restart_place(pod)
        if pod.kind in _FOREVER:
            text = f"pods of a {pod.kind} start again even after they ended well"
            yield warn(pod.document.get("kind"), text, "kind: Job")
        elif place is None:
            yield unseen(pod.template, f"the {pod.kind} decides")
        else:
            yield _restarts(pod, place)


def _restart_place(pod: Pod) -> Node | None:
    if pod.kind.endswith("Job") and pod.template.parent is not None and pod.role[:1].isupper():
        return pod.template.parent.get("restartPolicy")  # of a replica type of Kubeflow
    place = pod.spec.get("restartPolicy")
    return None if pod.kind == TRAIN_JOB and not place.there else place


def _restarts(pod: Pod, place: Node) -> Finding:
    owner = place.parent or pod.spec
    never = _replaced(pod, owner)
    plain_job = pod.kind in {"Job", "CronJob"} and not pod.volcano
    if plain_job and place.text not in {"Never", "OnFailure"}:
        said = shown(place.text, 20) or "nothing"
        return fail(owner, f"restartPolicy says {said}: a Job wants Never or OnFailure", never)
    if place.text in {"Never", "ExitCode"}:
        return fine(place, f"restartPolicy {place.text}")
    if not place.there and pod.role[:1].isupper():
        return unseen(owner, f"no restartPolicy: the {pod.kind}'s own default counts")
    return _in_place(pod, place, owner, never)


def _replaced(pod: Pod, owner: Node) -> Patch:
    """Return what has a pod replaced, if at all, instead of its container."""
    if pod.kind == "PyTorchJob":
        # Others than rdmatrain run end with 1 for all that goes wrong, which it never tries again.
        made = patch if any(each.runs_rdmatrain for each in pod.trainers) else advice
        return made(owner, f"{{restartPolicy: {PYTORCHJOB_POLICY}}}")
    # What an MPIJob tries again is counted by its operator alone, in pods that restart.
    made = advice if pod.kind == "MPIJob" else patch
    return made(owner, "{restartPolicy: Never}")


def _in_place(pod: Pod, place: Node, owner: Node, never: str) -> Finding:
    """Judge containers that restart where they are."""
    policy = (pod.template.parent or pod.spec).get("podFailurePolicy")
    if policy.there and place.text == "OnFailure":
        text = "OnFailure, which Kubernetes refuses beside podFailurePolicy"
        return fail(place, text, never)
    said = f"restartPolicy {shown(place.text, 20)}" if place.there else "no restartPolicy"
    return warn(owner, f"{said}: containers restart in place, without their peers", never)


@static_question(
    "grace",
    "there is time for a checkpoint when the pod is stopped",
    nothing="no container starts rdmatrain run or torchrun",
    known="pytorch#119856: torchrun kills after 30 s, whatever Kubernetes allows",
    exit_code=BAD_CONFIG,
)
def grace(manifest: Manifest, _needs: Needs) -> Iterator[Finding]:
    """After SIGTERM Kubernetes waits so long, and then kills whatever still writes."""
    for pod in manifest.training:
        boxes = [each for each in pod.trainers if each.launches]
        if boxes:
            yield _time_to_stop(pod, max(map(_asked_for, boxes)))


def _asked_for(box: Container) -> float:
    """Return how many seconds its launcher takes for a checkpoint."""
    return _seconds(box.value("RDMATRAIN_GRACE") or box.option("grace"))


def _time_to_stop(pod: Pod, asked: float) -> Finding:
    """Judge the time that a pod has to stop."""
    place = pod.spec.get("terminationGracePeriodSeconds")
    needed = int(asked) + _MARGIN
    number = place.number if place.there else DEFAULT_GRACE
    longer = f"terminationGracePeriodSeconds: {max(120, needed)}"
    fix = patch(pod.spec, f"{{{longer}}}", guess=longer)
    if number is None or number < 0:
        return fail(place, f"{shown(place.text, 20)} is no number of seconds", fix)
    if not place.there and not pod.whole:
        return unseen(pod.spec, "its TrainJob may set terminationGracePeriodSeconds")
    if number < needed:
        text = f"{number} s, and the launcher takes up to {asked:g} for a checkpoint"
        return warn(place if place.there else pod.spec, text, fix)
    return fine(place, f"{number} s")


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        return Limits.grace_s
    return value if 0 <= value < 1e6 else Limits.grace_s


@static_question(
    "termination-log",
    "why a job ended reaches Kubernetes",
    nothing="there is no container",
    exit_code=BAD_CONFIG,
)
def termination_log(manifest: Manifest, _needs: Needs) -> Iterator[Finding]:
    """Reasons are written where Kubernetes looks by default; elsewhere nobody reads them."""
    for pod in manifest.training:
        for box in pod.trainers:
            place = box.node.get("terminationMessagePath")
            if place.there and place.text != LOG:
                text = f"{shown(place.text, 60)}, and the launcher writes {LOG}"
                ours = any("rdmatrain" in word for word in box.command)
                made = patch if ours else advice
                yield warn(place, text, made(box.node, "{terminationMessagePath: null}"))
            else:
                yield fine(box.node, f"{LOG}")
