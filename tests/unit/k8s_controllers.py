# SPDX-License-Identifier: Apache-2.0
"""What controllers make of rendered objects: the pods of a job, and what each is given.

Written after the controllers' sources (Volcano 1.15, Kubeflow Trainer 2.3 and training-operator
1.9, JobSet 0.12, LeaderWorkerSet 0.10, mpi-operator 0.8, Kubernetes 1.37), and independent of how
the objects were rendered: only what is in the objects counts. What pods are given is held against
the environments of tests/fixtures/orchestrators, from which discovery is tested.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping

from k8s_jobs import indexed, jobset
from k8s_kubeflow import mpijob, pytorchjob, trainjob
from k8s_pods import Object, Pod, meta, pod_of

_LWS = "leaderworkerset.sigs.k8s.io/"


def pods_of(objects: Iterable[Object], restarts: int = 0) -> list[Pod]:
    """The pods that the one workload among the objects becomes, in the order of their numbers."""
    found = [each for each in objects if _key(each) in _CONTROLLERS]
    assert len(found) == 1, [each["kind"] for each in found]
    controller = _CONTROLLERS[_key(found[0])]
    return list(controller(found[0], list(objects), restarts))


def published(objects: Iterable[Object], pods: list[Pod]) -> set[str]:
    """Headless Services that have the addresses of all pods before they are ready."""
    found = set()
    for each in objects:
        spec = each.get("spec", {})
        if each["kind"] == "Service" and spec.get("clusterIP") == "None":
            selector = spec["selector"].items()
            alike = all(selector <= pod.labels.items() for pod in pods)
            same = all(each["metadata"].get("namespace", "default") == p.namespace for p in pods)
            if alike and same and spec.get("publishNotReadyAddresses"):
                found.add(each["metadata"]["name"])
        found |= _made_by_controller(each)
    return found


def _made_by_controller(obj: Object) -> set[str]:
    key, spec, name = _key(obj), obj.get("spec", {}), obj["metadata"]["name"]
    if key == ("batch.volcano.sh", "Job"):
        flags = spec.get("plugins", {}).get("svc", [])
        return {name} if "--publish-not-ready-addresses=true" in flags else set()
    if key in {("jobset.x-k8s.io", "JobSet"), ("trainer.kubeflow.org", "TrainJob")}:
        network = spec.get("network", {})
        return {network.get("subdomain", name)} if _publishes(network) else set()
    if key in {("leaderworkerset.x-k8s.io", "LeaderWorkerSet"), ("kubeflow.org", "MPIJob")}:
        return {name}
    return set()


def _publishes(network: Object) -> bool:
    return bool(network.get("publishNotReadyAddresses", True)) and bool(
        network.get("enableDNSHostnames", True)
    )


def _key(obj: Object) -> tuple[str, str]:
    return obj["apiVersion"].rpartition("/")[0], obj["kind"]


def _volcano(obj: Object, _all: list[Object], restarts: int) -> Iterator[Pod]:
    name, namespace = meta(obj)
    plugins = obj["spec"].get("plugins", {})
    env, files = {}, {}
    for task in obj["spec"]["tasks"] if "svc" in plugins else []:
        hosts = [f"{name}-{task['name']}-{each}.{name}" for each in range(task["replicas"])]
        plain = task["name"].replace("-", "_")
        env |= {f"VC_{plain.upper()}_HOSTS": ",".join(hosts)}
        env |= {f"VC_{plain.upper()}_NUM": str(len(hosts))}
        files[f"/etc/volcano/{plain}.host"] = "".join(f"{host}\n" for host in hosts)
    for task in obj["spec"]["tasks"]:
        for number in range(task["replicas"]):
            index = {"VC_TASK_INDEX": str(number), "VK_TASK_INDEX": str(number)}
            yield pod_of(
                task["template"],
                f"{name}-{task['name']}-{number}",
                namespace,
                hostname=f"{name}-{task['name']}-{number}",
                subdomain=name,
                env={**env, **(index if "env" in plugins else {})},
                files=files,
                labels={
                    "volcano.sh/job-name": name,
                    "volcano.sh/job-namespace": namespace,
                    "volcano.sh/task-spec": task["name"],
                    "volcano.sh/task-index": str(number),
                    "volcano.sh/queue-name": obj["spec"].get("queue", "default"),
                },
                annotations={
                    "scheduling.k8s.io/group-name": f"{name}-5f0c",
                    "volcano.sh/job-name": name,
                    "volcano.sh/task-spec": task["name"],
                    "volcano.sh/task-index": str(number),
                    "volcano.sh/job-version": str(restarts),
                    "volcano.sh/job-retry-count": str(restarts),
                    "volcano.sh/queue-name": obj["spec"].get("queue", "default"),
                },
            )


def _lws(obj: Object, _all: list[Object], _restarts: int) -> Iterator[Pod]:
    name, namespace = meta(obj)
    inner = obj["spec"]["leaderWorkerTemplate"]
    for number in range(inner["size"]):
        template = inner["workerTemplate"]
        if number == 0:
            template = inner.get("leaderTemplate", template)
        own = f"{name}-0-{number}" if number else f"{name}-0"
        yield pod_of(
            template,
            own,
            namespace,
            hostname=own,
            subdomain=name,
            env={
                "LWS_LEADER_ADDRESS": f"{name}-0.{name}.{namespace}",
                "LWS_GROUP_SIZE": str(inner["size"]),
                "LWS_WORKER_INDEX": str(number),
            },
            labels={
                f"{_LWS}name": name,
                f"{_LWS}group-index": "0",
                f"{_LWS}worker-index": str(number),
            },
            annotations={f"{_LWS}size": str(inner["size"])},
        )


_CONTROLLERS: Mapping[tuple[str, str], Callable[[Object, list[Object], int], Iterator[Pod]]] = {
    ("batch.volcano.sh", "Job"): _volcano,
    ("batch", "Job"): indexed,
    ("jobset.x-k8s.io", "JobSet"): jobset,
    ("trainer.kubeflow.org", "TrainJob"): trainjob,
    ("kubeflow.org", "PyTorchJob"): pytorchjob,
    ("leaderworkerset.x-k8s.io", "LeaderWorkerSet"): _lws,
    ("kubeflow.org", "MPIJob"): mpijob,
}
