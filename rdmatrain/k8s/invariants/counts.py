"""How many pods a workload has, what they are called, and how many are enough to start."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from rdmatrain.k8s.invariants.view import View, called, group, kind, name
from rdmatrain.k8s.parts import Object

Minimum = tuple[str, Any, int]


def pods_of(made: Object) -> int | None:
    """Return how many pods a workload has; None if it is none, or another object says it."""
    counted = _COUNTED.get((kind(made), group(made)))
    return counted(made["spec"]) if counted else None


def host_names(made: Object) -> list[str]:
    """Return the longest host names of a workload's pods."""
    named = _NAMED.get((kind(made), group(made)))
    return list(named(name(made), made["spec"])) if named else []


def minimums(view: View) -> Iterator[Minimum]:
    """Yield where it is said how many pods are enough, how many, and how many there are."""
    for each in view.objects:
        pods = pods_of(each)
        if pods is not None:
            yield from _own_minimums(each, pods)
            yield from _of_group(view, each, pods)
            yield from _of_workload(view, each, pods)


def _own_minimums(made: Object, pods: int) -> Iterator[Minimum]:
    spec = made["spec"]
    if group(made) == "batch.volcano.sh":
        yield f"{called(made)} spec.minAvailable", spec.get("minAvailable", pods), pods
        for at, task in enumerate(spec["tasks"]):
            least = task.get("minAvailable", task["replicas"])
            yield f"{called(made)} spec.tasks[{at}].minAvailable", least, task["replicas"]
    scheduling = (spec.get("runPolicy") or {}).get("schedulingPolicy") or {}
    if "minAvailable" in scheduling:
        where = f"{called(made)} spec.runPolicy.schedulingPolicy.minAvailable"
        yield where, scheduling["minAvailable"], pods


def _of_group(view: View, made: Object, pods: int) -> Iterator[Minimum]:
    """Yield the minimum of the PodGroup that a workload's pods name."""
    named = {
        str((pod.spec.get("schedulingGroup") or {}).get("podGroupName", ""))
        for pod in view.pods
        if pod.owner is made
    } - {""}
    groups = {name(each): each for each in view.of("PodGroup")}
    for each in sorted(named):
        if each not in groups:
            yield f"{called(made)}: there is no PodGroup {each}, so", 0, pods
            continue
        policy = groups[each]["spec"].get("schedulingPolicy") or {}
        least = (policy.get("gang") or {}).get("minCount", groups[each]["spec"].get("minMember"))
        yield f"{called(groups[each])} spec", least, pods


def _of_workload(view: View, made: Object, pods: int) -> Iterator[Minimum]:
    """Yield the minimum of the group of a Workload that a workload's pods name (1.35)."""
    groups = {
        (name(each), group["name"]): group
        for each in view.of("Workload")
        for group in each["spec"]["podGroups"]
    }
    named = [pod.spec["workloadRef"] for pod in view.pods if pod.owner is made
             and "workloadRef" in pod.spec]  # fmt: skip
    for each in named:
        key = each["name"], each["podGroup"]
        policy = groups[key]["policy"] if key in groups else {}
        yield f"Workload {'/'.join(key)}", (policy.get("gang") or {}).get("minCount", 0), pods


def _of_replicas(spec: Object, key: str) -> int:
    return sum(each.get("replicas", 1) for each in (spec.get(key) or {}).values())


def _of_jobset(spec: Object) -> int:
    return sum(
        each.get("replicas", 1) * each["template"]["spec"].get("parallelism", 1)
        for each in spec["replicatedJobs"]
    )


def _of_lws(spec: Object) -> int:
    return int(spec.get("replicas", 1) * spec["leaderWorkerTemplate"].get("size", 1))


_KUBEFLOW, _VOLCANO, _JOBSET = "kubeflow.org", "batch.volcano.sh", "jobset.x-k8s.io"
_LWS, _TRAINER = "leaderworkerset.x-k8s.io", "trainer.kubeflow.org"
_COUNTED: dict[tuple[str, str], Callable[[Any], int]] = {
    ("Job", "batch"): lambda spec: spec.get("completions", 1),
    ("Job", _VOLCANO): lambda spec: sum(each["replicas"] for each in spec["tasks"]),
    ("JobSet", _JOBSET): _of_jobset,
    ("PyTorchJob", _KUBEFLOW): lambda spec: _of_replicas(spec, "pytorchReplicaSpecs"),
    ("MPIJob", _KUBEFLOW): lambda spec: _of_replicas(spec, "mpiReplicaSpecs"),
    ("LeaderWorkerSet", _LWS): _of_lws,
}


def _named_jobset(own: str, spec: Object) -> Iterator[str]:
    for each in spec["replicatedJobs"]:
        pods = each["template"]["spec"].get("parallelism", 1)
        yield f"{own}-{each['name']}-{each.get('replicas', 1) - 1}-{pods - 1}"


def _named_volcano(own: str, spec: Object) -> Iterator[str]:
    for each in spec["tasks"]:
        yield f"{own}-{each['name']}-{each['replicas'] - 1}"


def _named_replicas(own: str, replicas: Object) -> Iterator[str]:
    for role, each in replicas.items():
        yield f"{own}-{role.lower()}-{max(each.get('replicas', 1) - 1, 0)}"


_NAMED: dict[tuple[str, str], Callable[[str, Any], Iterable[str]]] = {
    ("Job", "batch"): lambda own, spec: [f"{own}-{spec.get('completions', 1) - 1}"],
    ("Job", _VOLCANO): _named_volcano,
    ("JobSet", _JOBSET): _named_jobset,
    ("PyTorchJob", _KUBEFLOW): lambda own, spec: _named_replicas(own, spec["pytorchReplicaSpecs"]),
    ("MPIJob", _KUBEFLOW): lambda own, spec: _named_replicas(own, spec["mpiReplicaSpecs"]),
    ("TrainJob", _TRAINER): lambda own, spec: [
        f"{own}-node-0-{(spec.get('trainer') or {}).get('numNodes', 1) - 1}"
    ],
    ("LeaderWorkerSet", _LWS): lambda own, spec: [
        f"{own}-{spec.get('replicas', 1) - 1}-{spec['leaderWorkerTemplate'].get('size', 1) - 1}"
    ],
}
