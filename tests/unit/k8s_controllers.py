# SPDX-License-Identifier: Apache-2.0
"""What controllers make of rendered objects: the pods of a job, and what each is given.

Written after the controllers' sources (Volcano 1.15, Kubeflow Trainer 2.3 and training-operator
1.9, JobSet 0.12, LeaderWorkerSet 0.10, mpi-operator 0.8, Kubernetes 1.37), and independent of how
the objects were rendered: only what is in the objects counts.
"""

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

Object = dict[str, Any]
_CLUSTER = "svc.cluster.local"
_JOBSET = "jobset.sigs.k8s.io/"
_TRAINING = "training.kubeflow.org/"
_LWS = "leaderworkerset.sigs.k8s.io/"


@dataclass(frozen=True)
class Pod:
    """A pod as its controller makes it.

    Attributes:
        env: what the controller adds to each container that has a name of ``into``.
        into: empty: all containers, and initContainers.
        files: what the controller mounts.

    """

    name: str
    namespace: str
    template: Object
    hostname: str = ""
    subdomain: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)
    into: tuple[str, ...] = ()
    files: Mapping[str, str] = field(default_factory=dict)
    services: tuple[str, ...] = ()  # that are made for this pod alone, by the controller

    @property
    def spec(self) -> Object:
        found: Object = self.template["spec"]
        return found

    def container(self) -> Object:
        """The one that trains."""
        found: Object = self.spec["containers"][0]
        return found

    @property
    def host_name(self) -> str:
        return self.hostname or self.name

    def names(self, services: Iterable[str]) -> set[str]:
        """Under what it is found in DNS, given the headless Services that have its address."""
        alone = {f"{each}{tail}" for each in self.services for tail in self._tails()}
        if self.subdomain not in services:
            return alone
        own = f"{self.host_name}.{self.subdomain}"
        return alone | {f"{own}{tail}" for tail in self._tails()}

    def _tails(self) -> tuple[str, ...]:
        space = self.namespace
        return "", f".{space}", f".{space}.svc", f".{space}.{_CLUSTER}"


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


def _pod(template: Object, name: str, namespace: str, **fields: Any) -> Pod:
    """A pod of a template, whose labels and annotations the controller's are added to."""
    meta = template.get("metadata", {})
    spec = template["spec"]
    fields.setdefault("hostname", spec.get("hostname", ""))
    fields.setdefault("subdomain", spec.get("subdomain", ""))
    for kind in ("labels", "annotations"):
        fields[kind] = {**meta.get(kind, {}), **fields.get(kind, {})}
    return Pod(name=name, namespace=namespace, template=template, **fields)


def _meta(obj: Object) -> tuple[str, str]:
    return obj["metadata"]["name"], obj["metadata"].get("namespace", "default")


def _volcano(obj: Object, _all: list[Object], restarts: int) -> Iterator[Pod]:
    name, namespace = _meta(obj)
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
            yield _pod(
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
                },
            )


def _indexed(obj: Object, _all: list[Object], _restarts: int) -> Iterator[Pod]:
    name, namespace = _meta(obj)
    spec = obj["spec"]
    assert spec["completionMode"] == "Indexed"
    assert spec["parallelism"] == spec["completions"]
    labels = {
        "batch.kubernetes.io/job-name": name,
        "batch.kubernetes.io/controller-uid": f"uid-of-{name}",
    }
    for number in range(spec["completions"]):
        index = {"batch.kubernetes.io/job-completion-index": str(number)}
        yield _pod(
            spec["template"],
            f"{name}-{number}-x7k2p",
            namespace,
            hostname=f"{name}-{number}",
            env={"JOB_COMPLETION_INDEX": str(number)},
            labels={**labels, **index},
            annotations=index,
        )


def _jobset(obj: Object, everything: list[Object], restarts: int) -> Iterator[Pod]:
    name, namespace = _meta(obj)
    spec = obj["spec"]
    total = sum(each.get("replicas", 1) for each in spec["replicatedJobs"])
    subdomain = spec.get("network", {}).get("subdomain", name)
    before = 0
    for group in spec["replicatedJobs"]:
        for job in range(group.get("replicas", 1)):
            notes = {
                f"{_JOBSET}jobset-name": name,
                f"{_JOBSET}jobset-uid": f"uid-of-{name}",
                f"{_JOBSET}replicatedjob-name": group["name"],
                f"{_JOBSET}replicatedjob-replicas": str(group.get("replicas", 1)),
                f"{_JOBSET}global-replicas": str(total),
                f"{_JOBSET}job-index": str(job),
                f"{_JOBSET}job-global-index": str(before + job),
                f"{_JOBSET}restart-attempt": str(restarts),
                **_coordinator(name, subdomain, spec),
            }
            child = copy.deepcopy(group["template"])
            child["metadata"] = {"name": f"{name}-{group['name']}-{job}", "namespace": namespace}
            child["spec"] = {
                "completionMode": "Indexed",
                "parallelism": 1,
                "completions": child["spec"].get("parallelism", 1),
                **child["spec"],
            }
            for pod in _indexed(child, everything, 0):
                yield replace(
                    pod,
                    subdomain=subdomain,
                    labels={**pod.labels, **notes},
                    annotations={**pod.annotations, **notes},
                )
        before += group.get("replicas", 1)


def _coordinator(name: str, subdomain: str, spec: Object) -> dict[str, str]:
    chief = spec.get("coordinator")
    if not chief:
        return {}
    host = f"{name}-{chief['replicatedJob']}-{chief.get('jobIndex', 0)}-{chief.get('podIndex', 0)}"
    return {f"{_JOBSET}coordinator": f"{host}.{subdomain}"}


def merged(old: Any, new: Any) -> Any:
    """A strategic merge: mappings by key, lists of named things by name, anything else replaced."""
    if isinstance(old, dict) and isinstance(new, dict):
        return {**old, **{key: merged(old.get(key), value) for key, value in new.items()}}
    if isinstance(old, list) and isinstance(new, list) and _named(old) and _named(new):
        known = {each["name"]: each for each in old}
        for each in new:
            known[each["name"]] = merged(known.get(each["name"]), each)
        return list(known.values())
    return new


def _named(members: list[Any]) -> bool:
    return all(isinstance(each, dict) and "name" in each for each in members)


def _trainjob(obj: Object, everything: list[Object], restarts: int) -> Iterator[Pod]:
    name, namespace = _meta(obj)
    spec, wanted = obj["spec"], obj["spec"]["runtimeRef"]
    kind = wanted.get("kind", "ClusterTrainingRuntime")
    runtime = next(
        each
        for each in everything
        if each["kind"] == kind and each["metadata"]["name"] == wanted["name"]
    )
    template = copy.deepcopy(runtime["spec"]["template"])
    for patch in spec.get("runtimePatches", []):
        template = merged(template, patch["trainingRuntimeSpec"].get("template", {}))
    policy, trainer = runtime["spec"].get("mlPolicy", {}), spec.get("trainer", {})
    nodes = trainer.get("numNodes", policy.get("numNodes", 1))
    into = ["node"]
    assert "torch" in policy
    for target in policy["torch"].get("envInjection", {}).get("targets", []):
        into += target["containerNames"]
    for group in template["spec"]["replicatedJobs"]:
        labels = group["template"].get("metadata", {}).get("labels", {})
        if labels.get("trainer.kubeflow.org/trainjob-ancestor-step") == "trainer":
            _set_trainer(group["template"]["spec"], trainer, nodes)
    jobset = {"metadata": obj["metadata"], "spec": template["spec"]}
    for pod in _jobset(jobset, everything, restarts):
        env = {
            "PET_NNODES": str(nodes),
            "PET_NPROC_PER_NODE": str(trainer.get("numProcPerNode", "auto")),
            "PET_NODE_RANK": pod.env["JOB_COMPLETION_INDEX"],
            "PET_MASTER_ADDR": f"{name}-node-0-0.{name}",
            "PET_MASTER_PORT": "29500",
        }
        taken = {each["name"] for each in pod.container().get("env", [])} & env.keys()
        assert not taken, f"the webhook refuses {taken}"
        yield replace(pod, env={**pod.env, **env}, into=tuple(into), namespace=namespace)


def _set_trainer(job: Object, trainer: Object, nodes: int) -> None:
    job |= {"parallelism": nodes, "completions": nodes}
    container = next(
        each for each in job["template"]["spec"]["containers"] if each["name"] == "node"
    )
    for name in ("image", "command", "args"):
        if name in trainer:
            container[name] = trainer[name]
    if "env" in trainer:
        container["env"] = merged(container.get("env", []), trainer["env"])
    if "resourcesPerNode" in trainer:
        container["resources"] = trainer["resourcesPerNode"]


def _pytorch(obj: Object, _all: list[Object], _restarts: int) -> Iterator[Pod]:
    name, namespace = _meta(obj)
    spec = obj["spec"]
    roles = spec["pytorchReplicaSpecs"]
    total = sum(each.get("replicas", 1) for each in roles.values())
    each_node = spec.get("nprocPerNode", "")
    processes = int(each_node) if each_node.isdigit() else 1
    rank = 0
    for role in ("Master", "Worker"):
        for number in range(roles.get(role, {"replicas": 0}).get("replicas", 1)):
            env = {"PYTHONUNBUFFERED": "1", "PET_NNODES": str(total)}
            if each_node:
                env["PET_NPROC_PER_NODE"] = each_node
            if "Master" in roles:
                head = {"ADDR": f"{name}-master-0", "PORT": "23456"}
                for key, value in head.items():
                    env |= {f"MASTER_{key}": value, f"PET_MASTER_{key}": value}
                env |= {"WORLD_SIZE": str(total * processes), "RANK": str(rank)}
                env |= {"PET_NODE_RANK": str(rank)}
            own = f"{name}-{role.lower()}-{number}"
            containers = [each["name"] for each in roles[role]["template"]["spec"]["containers"]]
            assert "pytorch" in containers, "the operator demands a container of this name"
            yield _pod(
                roles[role]["template"],
                own,
                namespace,
                env=env,
                services=() if _is_probed(roles[role]["template"]) else (own,),
                labels={
                    f"{_TRAINING}job-name": name,
                    f"{_TRAINING}operator-name": "pytorchjob-controller",
                    f"{_TRAINING}replica-type": role.lower(),
                    f"{_TRAINING}replica-index": str(number),
                },
            )
            rank += 1


def _is_probed(template: Object) -> bool:
    """Whether a pod is ready, and so in the Service for it, only when a probe says so."""
    return any("readinessProbe" in each for each in template["spec"]["containers"])


def _lws(obj: Object, _all: list[Object], _restarts: int) -> Iterator[Pod]:
    name, namespace = _meta(obj)
    inner = obj["spec"]["leaderWorkerTemplate"]
    for number in range(inner["size"]):
        template = inner["workerTemplate"]
        if number == 0:
            template = inner.get("leaderTemplate", template)
        own = f"{name}-0-{number}" if number else f"{name}-0"
        yield _pod(
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


def _mpijob(obj: Object, _all: list[Object], _restarts: int) -> Iterator[Pod]:
    """The launcher, where it counts as a worker, and the workers, whose index comes after it."""
    name, namespace = _meta(obj)
    roles = obj["spec"]["mpiReplicaSpecs"]
    workers = roles.get("Worker", {"replicas": 0})["replicas"]
    hosts = [f"{name}-launcher", *(f"{name}-worker-{number}" for number in range(workers))]
    assert obj["spec"]["runLauncherAsWorker"]
    slots = obj["spec"]["slotsPerWorker"]
    lines = (f"{host}.{name}.{namespace}.svc slots={slots}\n" for host in hosts)
    for number, host in enumerate(hosts):
        role = "worker" if number else "launcher"
        own: dict[str, Any] = {"env": {"K_MPI_JOB_ROLE": role}}
        if not number:
            own = {
                "env": {
                    **own["env"],
                    "OMPI_MCA_orte_default_hostfile": "/etc/mpi/hostfile",
                    "OMPI_MCA_orte_keep_fqdn_hostnames": "true",
                    "OMPI_MCA_plm_rsh_args": "-o ConnectionAttempts=10",
                    "OMPI_MCA_orte_set_default_slots": str(slots),
                },
                "files": {"/etc/mpi/hostfile": "".join(lines)},
            }
        yield _pod(
            roles["Worker" if number else "Launcher"]["template"],
            host if number else f"{host}-k2v8t",
            namespace,
            hostname=host,
            subdomain=name,
            labels={
                f"{_TRAINING}job-name": name,
                f"{_TRAINING}operator-name": "mpi-operator",
                f"{_TRAINING}job-role": role,
                f"{_TRAINING}replica-index": str(number),
            },
            **own,
        )


_CONTROLLERS: Mapping[tuple[str, str], Callable[[Object, list[Object], int], Iterator[Pod]]] = {
    ("batch.volcano.sh", "Job"): _volcano,
    ("batch", "Job"): _indexed,
    ("jobset.x-k8s.io", "JobSet"): _jobset,
    ("trainer.kubeflow.org", "TrainJob"): _trainjob,
    ("kubeflow.org", "PyTorchJob"): _pytorch,
    ("leaderworkerset.x-k8s.io", "LeaderWorkerSet"): _lws,
    ("kubeflow.org", "MPIJob"): _mpijob,
}
