# SPDX-License-Identifier: Apache-2.0
"""The validator of the other tests: known manifests pass, and each kind of fault is found."""

import copy
from collections.abc import Callable, Iterator
from typing import Any

import k8s_cel
import k8s_schemas
import pytest
import yaml
from k8s_names import errors as name_errors
from k8s_semantics import quantity

pytestmark = k8s_schemas.needs_crds
Object = dict[str, Any]


def known() -> Iterator[Object]:
    for path in sorted(k8s_schemas.MANIFESTS.glob("*.yaml")):
        yield from yaml.load_all(path.read_text(), k8s_schemas.Loader)


def of(kind: str, api: str = "") -> Object:
    found = [
        each for each in known() if each["kind"] == kind and each["apiVersion"].startswith(api)
    ]
    return copy.deepcopy(found[0])


def test_known_manifests_pass() -> None:
    objects = list(known())
    assert [error for each in objects for error in k8s_schemas.errors(each)] == []
    assert len(objects) == 28


def test_an_older_kubernetes_lacks_what_is_newer() -> None:
    assert k8s_schemas.errors(of("PodGroup", "scheduling.k8s.io"), "1.34") == [
        "PodGroup/llm: Kubernetes 1.34 has no kind PodGroup in scheduling.k8s.io/v1beta1"
    ]
    assert k8s_schemas.errors(of("Job", "batch/v1"), "1.34") == [
        "Job/llm: spec.template.spec.schedulingGroup: unknown field",
    ]
    assert k8s_schemas.errors(of("JobSet"), "1.34") == []


def job(change: Callable[[Object], Any]) -> Object:
    made = of("Job", "batch/v1")
    change(made["spec"])
    return made


def container(change: Callable[[Object], Any]) -> Object:
    return job(lambda spec: change(spec["template"]["spec"]["containers"][0]))


def vcjob(change: Callable[[Object], Any]) -> Object:
    made = of("Job", "batch.volcano")
    change(made["spec"])
    return made


def changed(kind: str, change: Callable[[Object], Any], api: str = "") -> Object:
    made = of(kind, api)
    change(made)
    return made


def put(**fields: Any) -> Callable[[Object], None]:
    return lambda target: target.update(fields)


def pod_of(spec: Object) -> Object:
    found: Object = spec["tasks"][0]["template"]["spec"]
    return found


STRUCTURE = {
    "unknown field": (job(put(completion=1)), "spec.completion: unknown field"),
    "unknown field of a pod": (
        vcjob(lambda spec: pod_of(spec).update(hostnetwork=True)),
        "spec.tasks[0].template.spec.hostnetwork: unknown field",
    ),
    "type": (job(put(completions="16")), "spec.completions: '16' is no integer"),
    "boolean for an integer": (job(put(completions=True)), "spec.completions: True is no integer"),
    "null": (job(put(suspend=None)), "spec.suspend: null, which the API server drops or refuses"),
    "bits": (job(put(completions=1 << 31)), f"spec.completions: {1 << 31} does not fit int32"),
    "required": (job(lambda spec: spec.pop("template")), "spec.template: required"),
    "enum": (
        job(put(completionMode="indexed")),
        "spec.completionMode: 'indexed' is none of Indexed, NonIndexed",
    ),
    "pattern": (
        changed("Topology", lambda it: it["spec"]["levels"][0].update(nodeLabel="-")),
        "does not match",
    ),
    "bound": (
        changed("SriovNetworkNodePolicy", lambda it: it["spec"].update(priority=100)),
        "spec.priority: 100 is out of bounds",
    ),
    "size": (
        changed("Topology", lambda it: it["spec"].update(levels=[])),
        "spec.levels: 0 is out of the bounds of its size",
    ),
    "quantity": (
        container(put(resources={"limits": {"memory": "16 GiB"}})),
        "spec.template.spec.containers[0].resources.limits.memory: '16 GiB' is no quantity",
    ),
    "a list that is a map": (
        container(put(env=[{"name": "A", "value": "1"}] * 2)),
        'spec.template.spec.containers[0].env: ["A"] is there twice',
    ),
    "a value that is no string": (
        container(put(env=[{"name": "A", "value": 1}])),
        "spec.template.spec.containers[0].env[0].value: 1 is no string",
    ),
    "integer or string": (
        changed("PodDisruptionBudget", lambda it: it["spec"].update(minAvailable=1.5)),
        "spec.minAvailable: 1.5 is neither an integer nor a string",
    ),
    "metadata of a custom kind": (
        changed("JobSet", lambda it: it["metadata"].update(label={})),
        "metadata.label: unknown field",
    ),
    "unknown kind": (
        {"apiVersion": "batch/v2", "kind": "Job", "metadata": {"name": "a"}},
        "Job/a: Kubernetes 1.37 has no kind Job in batch/v2",
    ),
    "version of a custom kind": (
        changed("LocalQueue", put(apiVersion="kueue.x-k8s.io/v1")),
        "has no kind LocalQueue in kueue.x-k8s.io/v1",
    ),
}

RULES = {
    "HyperNode with two selectors": (
        changed(
            "HyperNode",
            lambda it: it["spec"]["members"][0]["selector"].update(exactMatch={"name": "n"}),
        ),
        "Only one of ExactMatch, RegexMatch, or LabelMatch can be specified",
    ),
    "level of Kueue twice": (
        changed(
            "Topology",
            lambda it: it["spec"]["levels"].insert(0, {"nodeLabel": "a.b/c"})
            or it["spec"]["levels"].insert(0, {"nodeLabel": "a.b/c"}),
        ),
        "must be unique",
    ),
    "resource without a quota": (
        changed(
            "ClusterQueue",
            lambda it: it["spec"]["resourceGroups"][0]["coveredResources"].append("example.com/vf"),
        ),
        "flavors must have the same number of resources as the coveredResources",
    ),
    "TrainJob": (
        changed("TrainJob", lambda it: it["metadata"].update(name="1llm")),
        "metadata.name must match RFC 1035",
    ),
    "env of the container node": (
        changed(
            "ClusterTrainingRuntime",
            lambda it: it["spec"]["mlPolicy"]["torch"]["envInjection"]["targets"][0].update(
                containerNames=["node"]
            ),
        ),
        "node",
    ),
}

NAMES = {
    "pods of a Job": (
        changed("Job", lambda it: it["metadata"].update(name="a" * 61), "batch/v1"),
        "the last pod: 'aaa",
    ),
    "pods of Volcano": (
        changed("Job", lambda it: it["metadata"].update(name="a" * 54), "batch.volcano"),
        "(64) is no DNS label",
    ),
    "pods of a JobSet": (
        changed("JobSet", lambda it: it["metadata"].update(name="a" * 45)),
        "(64) is no DNS label",
    ),
    "coordinator of a JobSet": (
        changed("JobSet", lambda it: it["metadata"].update(name="a" * 26)),
        "(65) is no value of a label",
    ),
    "label": (
        changed("JobSet", lambda it: it["metadata"]["labels"].update({"a/b/c": "-"})),
        "labels.a/b/c: '-' (1) is no value of a label",
    ),
    "service": (changed("Service", lambda it: it["metadata"].update(name="1a")), "'1a' (2)"),
    "name": (changed("LocalQueue", lambda it: it["metadata"].update(name="A")), "'A' (1)"),
}

SEMANTICS = {
    "volume": (
        container(put(volumeMounts=[{"name": "shm", "mountPath": "/dev/shm"}])),
        "no volume is called 'shm'",
    ),
    "limit": (
        container(put(resources={"requests": {"nvidia.com/gpu": 1}})),
        "nvidia.com/gpu: a limit is required",
    ),
    "request": (
        container(put(resources={"requests": {"cpu": "2"}, "limits": {"cpu": "1500m"}})),
        "cpu: more is requested than the limit",
    ),
    "claim": (container(put(resources={"claims": [{"name": "x"}]})), "the pod has no claim 'x'"),
    "exit codes": (
        job(
            lambda spec: spec["podFailurePolicy"]["rules"][1]["onExitCodes"].update(values=[78, 64])
        ),
        "[78, 64] is not ascending",
    ),
    "restart policy": (
        job(lambda spec: spec["template"]["spec"].update(restartPolicy="Always")),
        "restartPolicy: 'Always' is not for Jobs",
    ),
    "gang": (vcjob(put(minAvailable=17)), "minAvailable: more than the 16 pods there are"),
    "policy": (
        vcjob(lambda spec: spec["policies"][0].update(exitCode=1)),
        "event or exitCode, one of them",
    ),
    "NUMA": (
        vcjob(lambda spec: pod_of(spec)["containers"][0]["resources"]["limits"].update(cpu="500m")),
        "trainer has no whole CPUs",
    ),
    "target of a JobSet": (
        changed("JobSet", lambda it: it["spec"]["coordinator"].update(replicatedJob="w")),
        "no replicatedJob is called 'w'",
    ),
    "request of a claim": (
        changed(
            "ResourceClaimTemplate",
            lambda it: it["spec"]["spec"]["devices"]["constraints"][0].update(requests=["nic1"]),
        ),
        "there is no request 'nic1'",
    ),
}
FAULTS = {**STRUCTURE, **RULES, **NAMES, **SEMANTICS}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_found(name: str) -> None:
    obj, expected = FAULTS[name]
    found = k8s_schemas.errors(obj)
    assert len(found) >= 1
    assert any(expected in each for each in found), found


def test_every_rule_of_every_crd_is_understood() -> None:
    """All of them compile; what none of our kinds has yet would else be found too late."""
    rules = set()
    for path in k8s_schemas.CRDS.rglob("*.yaml"):
        if path.stat().st_size < 200_000 or "trainjobs" in path.name or "queues" in path.name:
            rules |= set(_rules(yaml.load(path.read_text(), k8s_schemas.Loader)))
    assert len(rules) >= 30
    for rule in rules - set(k8s_cel.NOT_EVALUATED):
        if "oldSelf" not in rule:
            k8s_cel.compiled(rule)


def _rules(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        found = value.get("x-kubernetes-validations", [])
        yield from (each["rule"] for each in found if isinstance(found, list))
        for each in value.values():
            yield from _rules(each)
    elif isinstance(value, list):
        for each in value:
            yield from _rules(each)


def test_rules_are_evaluated_and_counted() -> None:
    before = k8s_cel.TALLY.evaluated, k8s_cel.TALLY.transitions
    assert k8s_schemas.errors(of("ClusterQueue")) == []
    assert k8s_cel.TALLY.evaluated > before[0]
    assert k8s_schemas.errors(of("TrainJob")) == []
    assert k8s_cel.TALLY.transitions > before[1]


def test_a_rule_that_nobody_understands_is_a_fault_of_the_harness() -> None:
    with pytest.raises(k8s_cel.CannotEvaluate, match="nobody"):
        k8s_cel.broken([{"rule": "self.nobody("}], {})
    assert k8s_cel.broken([{"rule": "self.a > 1"}], {}) != []
    said = {"rule": "self.a > 1", "messageExpression": "'a is ' + string(self.a)"}
    assert k8s_cel.broken([said], {"a": 1}) == ["a is 1"]
    assert k8s_cel.broken([{"rule": "self == oldSelf"}], {"a": 1}) == []


def test_quantities() -> None:
    texts = ["1", "1500m", "2Gi", "1e3", "1.5k", 3, "1E"]
    assert [quantity(each) for each in texts] == [1, 1.5, 2 << 30, 1000, 1500, 3, 10**18]


def test_names_at_their_limits_pass() -> None:
    made = of("Job", "batch/v1")
    made["metadata"]["name"] = "a" * 60  # and "-15"
    assert list(name_errors(made)) == []
    jobset = of("JobSet")
    jobset["metadata"]["name"] = "a" * 25  # and "-workers-0-0." and itself: 63
    assert list(name_errors(jobset)) == []
