# SPDX-License-Identifier: Apache-2.0
"""What API servers and webhooks refuse by code of theirs, which no schema says.

Only rules that a renderer of training jobs can break; the real validation knows many more.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from decimal import Decimal
from typing import Any

import k8s_names
from k8s_structure import QUANTITY

Object = dict[str, Any]

_CONTAINER = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_VARIABLE = re.compile(r"[^=\x00-\x1f\x7f-\U0010ffff]+")  # Kubernetes 1.34: printable ASCII but "="
_SUFFIXES = {"m": Decimal("0.001"), "k": Decimal(1000), "": Decimal(1)}
for _power, _letter in enumerate("KMGTPE", 1):
    _SUFFIXES[f"{_letter}i"] = Decimal(1024) ** _power
    _SUFFIXES[_letter] = Decimal(1000) ** _power
_CLASSIC = {"cpu", "memory", "ephemeral-storage"}


def quantity(value: Any) -> Decimal:
    """A quantity as a number."""
    match = QUANTITY.fullmatch(str(value))
    assert match, f"{value!r} is no quantity"
    number = re.match(r"[+-]?[\d.]+([eE][+-]?\d+)?", str(value))
    assert number
    return Decimal(number.group()) * _SUFFIXES[str(value)[number.end() :]]


def errors(obj: Object, templates: list[tuple[str, Object]]) -> Iterator[str]:
    """Yield what is wrong with an object whose structure is right."""
    of_kind = _KINDS.get((obj["apiVersion"], obj["kind"]))
    if of_kind:
        yield from of_kind(obj)
    if obj["kind"] == "Pod":
        yield from pod_errors(obj["spec"], ".spec")
    for path, template in templates:
        yield from k8s_names.metadata_errors(template.get("metadata", {}), f"{path}.metadata")
        yield from pod_errors(template["spec"], f"{path}.spec")


def _twice(path: str, names: Iterable[Any]) -> Iterator[str]:
    for name, times in Counter(names).items():
        if times > 1:
            yield f"{path}: {name!r} is there {times} times"


def pod_errors(spec: Object, path: str) -> Iterator[str]:
    containers = [*spec.get("initContainers", []), *spec["containers"]]
    if not spec["containers"]:
        yield f"{path}.containers: empty"
    yield from _twice(f"{path}.containers", (each["name"] for each in containers))
    volumes = [each["name"] for each in spec.get("volumes", [])]
    yield from _twice(f"{path}.volumes", volumes)
    for each in spec.get("volumes", []):
        if len(each) != 2:
            yield f"{path}.volumes: {each['name']} is not of one kind: {sorted(each)}"
        yield from _volume_errors(each, path)
    claims = {each["name"] for each in spec.get("resourceClaims", [])}
    for each in containers:
        yield from container_errors(each, volumes, claims, f"{path}.{each['name']}")
    for name in ("hostname", "subdomain"):
        if name in spec and not _CONTAINER.fullmatch(spec[name]):
            yield f"{path}.{name}: {spec[name]!r} is no DNS label"


def _volume_errors(volume: Object, path: str) -> Iterator[str]:
    if not _CONTAINER.fullmatch(volume["name"]):
        yield f"{path}.volumes: {volume['name']!r} is no DNS label"
    for item in volume.get("downwardAPI", {}).get("items", []):
        if ("fieldRef" in item) == ("resourceFieldRef" in item):
            yield f"{path}.volumes.{volume['name']}: fieldRef or resourceFieldRef, one of them"
        if item["path"].startswith("/") or ".." in item["path"].split("/"):
            yield f"{path}.volumes.{volume['name']}: {item['path']} leaves the volume"


def container_errors(
    container: Object, volumes: list[str], claims: set[str], path: str
) -> Iterator[str]:
    """Yield what is wrong with a container, given the volumes and claims of its pod."""
    if not _CONTAINER.fullmatch(container["name"]):
        yield f"{path}: the container's name is no DNS label"
    if not container.get("image", "").strip():
        yield f"{path}.image: empty"
    for each in container.get("volumeMounts", []):
        if each["name"] not in volumes:
            yield f"{path}.volumeMounts: no volume is called {each['name']!r}"
        if ":" in each["mountPath"] or not each["mountPath"].startswith("/"):
            yield f"{path}.volumeMounts: {each['mountPath']!r} is no absolute path without a colon"
    yield from _twice(
        f"{path}.mountPath", (m["mountPath"] for m in container.get("volumeMounts", []))
    )
    yield from _env_errors(container.get("env", []), path)
    ports = container.get("ports", [])
    yield from _twice(f"{path}.ports", (each["name"] for each in ports if "name" in each))
    for each in ports:
        if not 0 < each["containerPort"] < 65536:
            yield f"{path}.ports: {each['containerPort']} is no port"
        if "name" in each and not re.fullmatch(r"(?=.*[a-z])[a-z0-9-]{1,15}", each["name"]):
            yield f"{path}.ports: {each['name']!r} is no name of a port"
    yield from _resource_errors(container.get("resources", {}), claims, f"{path}.resources")


def _env_errors(env: list[Object], path: str) -> Iterator[str]:
    yield from _twice(f"{path}.env", (each["name"] for each in env))
    for each in env:
        if not _VARIABLE.fullmatch(each["name"]):
            yield f"{path}.env: {each['name']!r} is no name of a variable"
        if "value" in each and "valueFrom" in each:
            yield f"{path}.env.{each['name']}: value and valueFrom"
        if "valueFrom" in each and len(each["valueFrom"]) != 1:
            yield f"{path}.env.{each['name']}: not one source"


def _resource_errors(resources: Object, claims: set[str], path: str) -> Iterator[str]:
    limits, requests = resources.get("limits", {}), resources.get("requests", {})
    for name, value in {**limits, **requests}.items():
        if quantity(value) < 0:
            yield f"{path}.{name}: {value} is negative"
    for name, value in requests.items():
        if name in limits and quantity(value) > quantity(limits[name]):
            yield f"{path}.{name}: more is requested than the limit"
    for name in {**limits, **requests}.keys() - _CLASSIC:
        yield from _extended_errors(name, limits, requests, path)
    for each in resources.get("claims", []):
        if each["name"] not in claims:
            yield f"{path}.claims: the pod has no claim {each['name']!r}"


def _extended_errors(name: str, limits: Object, requests: Object, path: str) -> Iterator[str]:
    """Yield what is wrong with a resource of a device plugin, or huge pages."""
    prefix, _, rest = name.rpartition("/")
    if not prefix and not name.startswith("hugepages-"):
        yield f"{path}: {name!r} is neither a resource of Kubernetes nor an extended one"
    if len(f"requests.{rest}") > 63:
        yield f"{path}: {name!r} is longer than a quota can name"
    if name not in limits:
        yield f"{path}.{name}: a limit is required"
    elif quantity(limits[name]) % 1:
        yield f"{path}.{name}: {limits[name]} is not whole"
    elif name in requests and quantity(requests[name]) != quantity(limits[name]):
        yield f"{path}.{name}: request and limit differ"


def _job(obj: Object) -> Iterator[str]:
    yield from job_errors(obj["spec"], ".spec")


def job_errors(spec: Object, path: str) -> Iterator[str]:
    """Yield what batch/v1 refuses in the spec of a Job."""
    pod = spec["template"]["spec"]
    indexed = spec.get("completionMode") == "Indexed"
    if pod.get("restartPolicy") not in {"Never", "OnFailure"}:
        yield f"{path}.template.spec.restartPolicy: {pod.get('restartPolicy')!r} is not for Jobs"
    if indexed and "completions" not in spec:
        yield f"{path}.completions: required of an Indexed Job"
    if indexed and spec.get("parallelism", 1) > 100_000:
        yield f"{path}.parallelism: more than 100000"
    if not indexed and ("successPolicy" in spec or "backoffLimitPerIndex" in spec):
        yield f"{path}: successPolicy and backoffLimitPerIndex are of Indexed Jobs"
    rules = spec.get("podFailurePolicy", {}).get("rules", [])
    if rules and pod.get("restartPolicy") != "Never":
        yield f"{path}.podFailurePolicy: only with restartPolicy Never"
    if rules and spec.get("podReplacementPolicy", "Failed") != "Failed":
        yield f"{path}.podReplacementPolicy: only Failed beside a podFailurePolicy"
    if len(rules) > 20:
        yield f"{path}.podFailurePolicy: more than 20 rules"
    names = {each["name"] for each in [*pod.get("initContainers", []), *pod["containers"]]}
    for rule in rules:
        yield from _failure_rule_errors(rule, names, f"{path}.podFailurePolicy")


def _failure_rule_errors(rule: Object, containers: set[str], path: str) -> Iterator[str]:
    codes, conditions = rule.get("onExitCodes"), rule.get("onPodConditions")
    if bool(codes) == bool(conditions):
        yield f"{path}: onExitCodes or onPodConditions, one of them"
    if not codes:
        return
    values = codes["values"]
    if not 1 <= len(values) <= 255 or values != sorted(set(values)):
        yield f"{path}: {values} is not ascending, without doubles, of 1 to 255"
    if codes["operator"] == "In" and 0 in values:
        yield f"{path}: 0 is no failure"
    if codes.get("containerName", next(iter(containers))) not in containers:
        yield f"{path}: the pod has no container {codes['containerName']!r}"


def _jobset(obj: Object) -> Iterator[str]:
    yield from jobset_errors(obj["spec"], ".spec")


def jobset_errors(spec: Object, path: str) -> Iterator[str]:
    names = [each["name"] for each in spec.get("replicatedJobs", [])]
    yield from _twice(f"{path}.replicatedJobs", names)
    for each in spec.get("replicatedJobs", []):
        place = f"{path}.replicatedJobs.{each['name']}"
        inner = each["template"]["spec"]
        if "containers" in inner.get("template", {}).get("spec", {}):
            # JobSet sets what a Job demands and its user left out.
            pod = {"restartPolicy": "OnFailure", **inner["template"]["spec"]}
            filled = {"completionMode": "Indexed", "completions": 1, **inner}
            yield from job_errors({**filled, "template": {"spec": pod}}, place)
    targets = spec.get("successPolicy", {}).get("targetReplicatedJobs", [])
    rules = spec.get("failurePolicy", {}).get("rules", [])
    targets = [*targets, *(one for each in rules for one in each.get("targetReplicatedJobs", []))]
    chief = spec.get("coordinator")
    targets += [chief["replicatedJob"]] if chief else []
    for each in set(targets) - set(names):
        yield f"{path}: no replicatedJob is called {each!r}"
    yield from _twice(f"{path}.failurePolicy.rules", (each.get("name") for each in rules))


def _runtime(obj: Object) -> Iterator[str]:
    yield from jobset_errors(obj["spec"]["template"]["spec"], ".spec.template.spec")


def _volcano(obj: Object) -> Iterator[str]:
    spec = obj["spec"]
    names = [each["name"] for each in spec["tasks"]]
    yield from _twice(".spec.tasks", names)
    total = sum(each["replicas"] for each in spec["tasks"])
    if spec.get("minAvailable", total) > total:
        yield f".spec.minAvailable: more than the {total} pods there are"
    for task in spec["tasks"]:
        if task.get("minAvailable", 0) > task["replicas"]:
            yield f".spec.tasks.{task['name']}.minAvailable: more than replicas"
        yield from _policy_errors(task.get("policies", []), f".spec.tasks.{task['name']}")
        if task.get("topologyPolicy", "none") != "none":
            yield from _whole_cpus(task)
    yield from _policy_errors(spec.get("policies", []), ".spec")


def _policy_errors(policies: list[Object], path: str) -> Iterator[str]:
    events: list[str] = []
    for each in policies:
        own = [*each.get("events", []), *([each["event"]] if "event" in each else [])]
        events += own
        if bool(own) == ("exitCode" in each):
            yield f"{path}.policies: event or exitCode, one of them: {each}"
        if each.get("exitCode") == 0:
            yield f"{path}.policies: exitCode 0 is refused"
    yield from _twice(f"{path}.policies", events)
    yield from _twice(f"{path}.policies", (p["exitCode"] for p in policies if "exitCode" in p))
    if "*" in events and len(events) > 1:
        yield f"{path}.policies: * stands alone"


def _whole_cpus(task: Object) -> Iterator[str]:
    """Yield containers that keep a pod from the NUMA alignment which its task asks for."""
    pod = task["template"]["spec"]
    for each in [*pod["containers"], *pod.get("initContainers", [])]:
        limits = each.get("resources", {}).get("limits", {})
        requests = {**limits, **each.get("resources", {}).get("requests", {})}
        for name in ("cpu", "memory"):
            if name not in limits or quantity(limits[name]) != quantity(requests[name]):
                yield f".spec.tasks: {each['name']} is not Guaranteed, which topologyPolicy demands"
        if quantity(requests.get("cpu", "0.5")) % 1:
            yield f".spec.tasks: {each['name']} has no whole CPUs, which topologyPolicy demands"


def _network_policy(obj: Object) -> Iterator[str]:
    for each in obj["spec"].get("ingress", []):
        for peer in each.get("from", []):
            if "ipBlock" in peer and len(peer) > 1:
                yield ".spec.ingress: ipBlock beside a selector"


def _budget(obj: Object) -> Iterator[str]:
    if "minAvailable" in obj["spec"] and "maxUnavailable" in obj["spec"]:
        yield ".spec: minAvailable and maxUnavailable"


def _claim_template(obj: Object) -> Iterator[str]:
    devices = obj["spec"]["spec"].get("devices", {})
    requests = devices.get("requests", [])
    names = [each["name"] for each in requests]
    names += [
        f"{each['name']}/{sub['name']}"
        for each in requests
        for sub in each.get("firstAvailable", [])
    ]
    yield from _twice(".spec.spec.devices.requests", names)
    if len(requests) > 32 or len(devices.get("constraints", [])) > 32:
        yield ".spec.spec.devices: more than 32 requests or constraints"
    for each in requests:
        if ("exactly" in each) == ("firstAvailable" in each):
            yield f".spec.spec.devices.requests.{each['name']}: exactly or firstAvailable"
        if len(each.get("firstAvailable", [])) > 8:
            yield f".spec.spec.devices.requests.{each['name']}: more than 8 alternatives"
    for each in [*devices.get("constraints", []), *devices.get("config", [])]:
        for name in each.get("requests", []):
            if name not in names:
                yield f".spec.spec.devices: there is no request {name!r}"
    for each in names:
        if not all(_CONTAINER.fullmatch(part) for part in each.split("/")):
            yield f".spec.spec.devices.requests: {each!r} is no DNS label"


def _service(obj: Object) -> Iterator[str]:
    ports = obj["spec"].get("ports", [])
    if not ports and obj["spec"].get("clusterIP") != "None":
        yield ".spec.ports: required unless it is headless"
    if len(ports) > 1 and any("name" not in each for each in ports):
        yield ".spec.ports: several, and one has no name"
    yield from _twice(".spec.ports", (each.get("name") for each in ports))
    for key, value in obj["spec"].get("selector", {}).items():
        yield from k8s_names.label_value_errors(f".spec.selector.{key}", value)


_KINDS: Mapping[tuple[str, str], Callable[[Object], Iterator[str]]] = {
    ("batch/v1", "Job"): _job,
    ("jobset.x-k8s.io/v1alpha2", "JobSet"): _jobset,
    ("trainer.kubeflow.org/v1alpha1", "ClusterTrainingRuntime"): _runtime,
    ("trainer.kubeflow.org/v1alpha1", "TrainingRuntime"): _runtime,
    ("batch.volcano.sh/v1alpha1", "Job"): _volcano,
    ("networking.k8s.io/v1", "NetworkPolicy"): _network_policy,
    ("policy/v1", "PodDisruptionBudget"): _budget,
    ("resource.k8s.io/v1", "ResourceClaimTemplate"): _claim_template,
    ("v1", "Service"): _service,
}
