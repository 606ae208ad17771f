# SPDX-License-Identifier: Apache-2.0
"""What Trainer 2.3, training-operator 1.9 and mpi-operator 0.8 make, after their sources."""

import copy
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from k8s_jobs import jobset
from k8s_pods import Object, Pod, meta, pod_of

_TRAINING = "training.kubeflow.org/"


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


def trainjob(obj: Object, everything: list[Object], restarts: int) -> Iterator[Pod]:
    name, namespace = meta(obj)
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
    child = {"metadata": obj["metadata"], "spec": template["spec"]}
    for pod in jobset(child, everything, restarts):
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


def pytorchjob(obj: Object, _all: list[Object], _restarts: int) -> Iterator[Pod]:
    name, namespace = meta(obj)
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
            yield pod_of(
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


def mpijob(obj: Object, _all: list[Object], _restarts: int) -> Iterator[Pod]:
    """The launcher, where it counts as a worker, and the workers, whose index comes after it."""
    name, namespace = meta(obj)
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
        yield pod_of(
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
