# SPDX-License-Identifier: Apache-2.0
"""Each rule of rendered objects: kept by what is rendered, and broken by one change."""

import re
from collections.abc import Callable
from copy import deepcopy
from functools import cache
from typing import Any, NamedTuple

import pytest
from k8s_specs import DRA, SHARED, SRIOV, TCP, full, queued, rendered, small

from rdmatrain.k8s.invariants import RULES, broken
from rdmatrain.k8s.invariants.pods import attached
from rdmatrain.k8s.invariants.view import View
from rdmatrain.k8s.spec import DEVICES
from rdmatrain.k8s.targets.target import TARGETS

Object = dict[str, Any]
MULTUS = "k8s.v1.cni.cncf.io/networks"
KUBERNETES = [each for each in TARGETS if each != "slurm"]


@cache
def objects_of(target: str, devices: str) -> tuple[Object, ...]:
    return rendered(target, queued(target, full(devices))).objects


class Set:
    """A rendered set, to be changed."""

    def __init__(self, target: str = "podgroup", devices: str = SRIOV) -> None:
        self.objects = list(deepcopy(objects_of(target, devices)))

    def one(self, kind: str) -> Object:
        found = [each for each in self.objects if each["kind"] == kind]
        assert len(found) == 1, [each["kind"] for each in self.objects]
        return found[0]

    @property
    def template(self) -> Object:
        return self.one("Job")["spec"]["template"]

    @property
    def pod(self) -> Object:
        return self.template["spec"]

    @property
    def trainer(self) -> Object:
        return self.pod["containers"][0]

    @property
    def first(self) -> Object:
        return self.pod["initContainers"][0]

    def volume(self, name: str) -> Object:
        return next(each for each in self.pod["volumes"] if each["name"] == name)

    def variable(self, name: str) -> Object:
        return next(each for each in self.trainer["env"] if each["name"] == name)


@pytest.mark.parametrize("devices", DEVICES)
@pytest.mark.parametrize("target", KUBERNETES)
def test_what_is_rendered_keeps_all_rules(target: str, devices: str) -> None:
    assert broken(objects_of(target, devices)) == []


@pytest.mark.parametrize("target", ["indexed-job", "podgroup"])
def test_a_small_job_keeps_all_rules(target: str) -> None:
    alone = small(TCP, nodes=1, gpus=0, preflight=False, ipc_lock=False)
    assert broken(rendered(target, alone).objects) == []


class Case(NamedTuple):
    """A change of a rendered set, and what is said of it."""

    name: str
    change: Callable[[Set], Any]
    said: str
    target: str = "podgroup"
    devices: str = SRIOV


def put(place: Callable[[Set], Object], key: Any, value: Any) -> Callable[[Set], None]:
    """A change: a value at a key of what is found."""

    def change(made: Set) -> None:
        place(made)[key] = value

    return change


def without(place: Callable[[Set], Object], key: Any) -> Callable[[Set], None]:
    def change(made: Set) -> None:
        del place(made)[key]

    return change


def limits(made: Set) -> Object:
    return made.trainer["resources"]["limits"]


def both(key: str, value: Any) -> Callable[[Set], None]:
    """A change of what the trainer requests and may use."""

    def change(made: Set) -> None:
        for kind in ("requests", "limits"):
            made.trainer["resources"][kind][key] = value

    return change


def spec(kind: str) -> Callable[[Set], Object]:
    return lambda made: made.one(kind)["spec"]


def metadata(kind: str) -> Callable[[Set], Object]:
    return lambda made: made.one(kind)["metadata"]


def labels(made: Set) -> Object:
    return made.template["metadata"]["labels"]


def budget(made: Set) -> Object:
    return made.one("PodDisruptionBudget")["spec"]


def secret_file(made: Set) -> Object:
    return made.variable("RDMATRAIN_SECRET_FILE")


def security(made: Set) -> Object:
    return made.trainer["securityContext"]


def drop_peers(made: Set) -> None:
    made.one("NetworkPolicy")["spec"]["ingress"].pop(0)


def peers_on_one_port(made: Set) -> None:
    made.one("NetworkPolicy")["spec"]["ingress"][0]["ports"] = [{"port": 29500}]


def no_metrics(made: Set) -> None:
    made.one("NetworkPolicy")["spec"]["ingress"].pop(1)


def open_to_all(made: Set) -> None:
    made.one("NetworkPolicy")["spec"]["ingress"].append({})


def mount_host(made: Set) -> None:
    made.volume("tmp").update(hostPath={"path": "/dev/infiniband"})


def no_shm(made: Set) -> None:
    made.trainer["volumeMounts"] = [
        each for each in made.trainer["volumeMounts"] if each["mountPath"] != "/dev/shm"
    ]


def no_secret(made: Set) -> None:
    made.trainer["env"] = [
        each for each in made.trainer["env"] if each["name"] != "RDMATRAIN_SECRET_FILE"
    ]


def another_key(made: Set) -> None:
    made.one("Secret")["stringData"] = {"token": "x" * 44}


def other_labels(made: Set) -> None:
    made.template["metadata"]["labels"] = {"app": "llm"}


def twice(made: Set) -> None:
    made.objects.append(deepcopy(made.one("Service")))


def elsewhere(made: Set) -> None:
    made.one("Secret")["metadata"]["namespace"] = "default"


def drop(kind: str) -> Callable[[Set], None]:
    def change(made: Set) -> None:
        made.objects.remove(made.one(kind))

    return change


def long_name(made: Set) -> None:
    made.one("Job")["metadata"]["name"] = "x" * 62


def uncover(made: Set) -> None:
    group = made.one("ClusterQueue")["spec"]["resourceGroups"][0]
    group["coveredResources"].remove("nvidia.com/rdma-vf")


def not_hidden(made: Set) -> None:
    made.one("JobSet")["spec"]["network"]["publishNotReadyAddresses"] = False


def no_plugin(made: Set) -> None:
    made.one("Job")["spec"]["plugins"]["svc"] = []


def task_minimum(made: Set) -> None:
    made.one("Job")["spec"]["tasks"][0]["minAvailable"] = 1


CASES = [
    Case("shell", put(lambda s: s.trainer, "command", ["/bin/bash", "-c", "true"]), "is a shell"),
    Case("command as text", put(lambda s: s.trainer, "command", "rdmatrain run"), "no list"),
    Case("number in a command", put(lambda s: s.trainer["command"], 3, 4), "no list of texts"),
    Case("privileged", put(security, "privileged", True), "privileged"),
    Case("escalation", put(security, "allowPrivilegeEscalation", True), "allowPrivilegeEsc"),
    Case("root", put(lambda s: s.pod["securityContext"], "runAsNonRoot", False), "as root"),
    Case("capability", put(security, "capabilities", {"drop": ["ALL"], "add": ["SYS_ADMIN"]}),
         "adds SYS_ADMIN"),
    Case("capabilities kept", put(security, "capabilities", {"add": ["IPC_LOCK"]}), "not drop ALL"),
    Case("burstable", put(limits, "memory", "128Gi"), "requests 64Gi of memory, and may use 128Gi"),
    Case("half a CPU", both("cpu", "7500m"), "7500m of cpu is not whole"),
    Case("no amount", both("memory", "lots"), "'lots' of memory is no amount"),
    Case("no limit", without(limits, "cpu"), "no cpu"),
    Case("greedy preflight", put(lambda s: s.first["resources"]["limits"], "cpu", 32),
         "32 of cpu, more than"),
    Case("number as variable", put(lambda s: s.variable("HOME"), "value", 1), "1 is no text"),
    Case("variable twice", lambda s: s.trainer["env"].append({"name": "HOME", "value": "/"}),
         r"env\[HOME\]: is there twice"),
    Case("no volume", lambda s: s.pod["volumes"].pop(1), "there is no volume tmp"),
    Case("mounted twice", put(lambda s: s.trainer["volumeMounts"][1], "mountPath", "/dev/shm"),
         "/dev/shm is there twice"),
    Case("no shm", no_shm, "no volume at /dev/shm"),
    Case("shm on disk", without(lambda s: s.volume("shm")["emptyDir"], "medium"), "not in memory"),
    Case("shm without limit", without(lambda s: s.volume("shm")["emptyDir"], "sizeLimit"),
         "no sizeLimit"),
    Case("shm is all memory", put(lambda s: s.volume("shm")["emptyDir"], "sizeLimit", "64Gi"),
         "64Gi is not below the memory limit, 64Gi"),
    Case("no secret", no_secret, "several nodes, and no secret"),
    Case("secret elsewhere", put(secret_file, "value", "/x/secret"), "/x/secret is in no Secret"),
    Case("same name", put(lambda s: s.first, "name", "trainer"), "two containers"),
    Case("name of a port", put(lambda s: s.trainer["ports"][0], "name", "metrics-of-the-node"),
         "name metrics-of-the-node is too long"),
    Case("unknown claim", put(lambda s: s.trainer["resources"], "claims", [{"name": "gpu"}]),
         "the pod has no claim gpu", devices=DRA),
    Case("host's processes", put(lambda s: s.pod, "hostPID", True), "hostPID"),
    Case("host's memory", put(lambda s: s.pod, "hostIPC", True), "hostIPC"),
    Case("host's files", mount_host, "hostPath"),
    Case("host's network", put(lambda s: s.pod, "hostNetwork", True), "without the cluster's DNS"),
    Case("one network", put(lambda s: s.template["metadata"]["annotations"], MULTUS, "rail0"),
         "2 nvidia.com/rdma-vf, and 1 networks"),
    Case("one VF", both("nvidia.com/rdma-vf", 1), "1 nvidia.com/rdma-vf, and 2 networks"),
    Case("no shared device", without(limits, "rdma/hca_shared_a"), "no device, and 1 networks",
         devices=SHARED),
    Case("no time", put(lambda s: s.pod, "terminationGracePeriodSeconds", 120), "120 s to stop"),
    Case("number as label", put(labels, "rank", 0), "is 0, which"),
    Case("long label", put(labels, "a", "x" * 64), "64 characters"),
    Case("nameless Secret", put(lambda s: s.volume("secret"), "secret", {}), "names no Secret"),
    Case("other key", another_key, "has not the key"),
    Case("no template of a claim", drop("ResourceClaimTemplate"), "there is no template",
         devices=DRA),
    Case("claim nobody mounts", without(lambda s: s.volume("checkpoints"), "persistentVolumeClaim"),
         "PersistentVolumeClaim/ckpt: no pod mounts it"),
    Case("no subdomain", without(lambda s: s.pod, "subdomain"), "pods have no names"),
    Case("no Service", drop("Service"), "there is no Service llm"),
    Case("restarts in place", put(lambda s: s.pod, "restartPolicy", "OnFailure"), "hides the exit"),
    Case("twice", twice, "Service/llm: is there 2 times in train"),
    Case("two namespaces", elsewhere, "its objects are in default, train"),
    Case("long name", long_name, "has a name of 64 characters"),
    Case("capitals", put(metadata("Secret"), "name", "LLM"), "Secret/LLM: is no"),
    Case("digit", put(metadata("Service"), "name", "7b"), "Service/7b: is no name"),
    Case("small gang", put(spec("PodGroup"), "schedulingPolicy", {"gang": {"minCount": 1}}),
         "1 of 4 pods are enough"),
    Case("no gang", put(spec("PodGroup"), "schedulingPolicy", {"basic": {}}), "None of 4 pods"),
    Case("no PodGroup", drop("PodGroup"), "there is no PodGroup llm"),
    Case("Volcano's minimum", put(spec("Job"), "minAvailable", 0), "0 of 4 pods", "volcano"),
    Case("Volcano's task", task_minimum, r"tasks\[0\].minAvailable: 1 of 4", "volcano"),
    Case("budget in percent", put(budget, "minAvailable", "100%"), "no number"),
    Case("small budget", put(budget, "minAvailable", 3), "minAvailable 3, and"),
    Case("late names", put(spec("Service"), "publishNotReadyAddresses", False), "not ready"),
    Case("late names of a JobSet", not_hidden, "JobSet/llm: publishes no", "jobset"),
    Case("late names of Volcano", no_plugin, "its svc plugin publishes no", "volcano"),
    Case("other labels", other_labels, "Service/llm spec.selector: selects no pod"),
    Case("selects all", put(spec("NetworkPolicy"), "podSelector", {}), "selects all pods"),
    Case("no peers", drop_peers, "from each other"),
    Case("peers on one port", peers_on_one_port, "from each other"),
    Case("no metrics", no_metrics, "keeps Prometheus from the metrics"),
    Case("open", open_to_all, "lets everybody in"),
    Case("no quota of VFs", uncover, "does not cover nvidia.com/rdma-vf", "kueue"),
    Case("exit code 0", put(lambda s: s.one("Job")["spec"]["podFailurePolicy"]["rules"][1],
         "onExitCodes", {"operator": "In", "values": [0, 64]}), r"\[0, 64\] are not sorted"),
    Case("unsorted codes", put(lambda s: s.one("Job")["spec"]["podFailurePolicy"]["rules"][1],
         "onExitCodes", {"operator": "In", "values": [78, 64]}), r"\[78, 64\] are not sorted"),
    Case("number of a PCI address", lambda s: s.objects.append({
        "apiVersion": "sriovnetwork.openshift.io/v1", "kind": "SriovNetworkNodePolicy",
        "metadata": {"name": "vf"}, "spec": {"nicSelector": {"rootDevices": [960.0]}},
    }), r"rootDevices\[0\]: 960.0 is no text"),
]  # fmt: skip


@cache
def said_of(case: Case) -> dict[str, list[str]]:
    """What each rule says of a changed set."""
    made = Set(case.target, case.devices)
    case.change(made)
    view = View(made.objects)
    return {rule.__qualname__ + rule.__module__: list(rule(view)) for rule in RULES}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_change_breaks_its_rule(case: Case) -> None:
    lines = [line for each in said_of(case).values() for line in each]
    assert any(re.search(case.said, line) for line in lines), lines
    assert all("\n" not in line for line in lines)


def test_every_rule_is_broken_by_a_case() -> None:
    silent = {rule.__qualname__ + rule.__module__ for rule in RULES}
    assert len(silent) == len(RULES)
    for case in CASES:
        silent -= {name for name, lines in said_of(case).items() if lines}
    assert silent == set()


@pytest.mark.parametrize(
    ("text", "number"),
    [("", 0), ("a", 1), ("a,b", 2), (" train/a@net1 , b ", 2), ('[{"name":"a"},{"name":"b"}]', 2)],
)
def test_networks_are_counted_in_both_forms(text: str, number: int) -> None:
    assert attached(text) == number


def test_a_pod_that_stands_alone_is_looked_at() -> None:
    template = Set().template
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, "spec": template["spec"]}
    pod["spec"]["containers"][0]["command"] = ["sh", "-c", "true"]
    assert any("Pod/a" in line and "shell" in line for line in broken([pod]))
