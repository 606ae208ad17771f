"""Rules of objects among each other: gangs, selectors, policies, quota, names."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from rdmatrain.k8s.invariants import counts
from rdmatrain.k8s.invariants.view import (
    Pod,
    View,
    called,
    group,
    kind,
    name,
    namespace,
    walk,
)

LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
# Names of Services and of what makes them begin with a letter.
SERVICE_LABEL = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")
SUBDOMAIN = 253
INSTANCE = "app.kubernetes.io/instance"
CLUSTER_SCOPED = frozenset({"ClusterTrainingRuntime"})
KUEUE_QUEUE = "kueue.x-k8s.io/queue-name"
PUBLISHED = "--publish-not-ready-addresses=true"
_PCI_KEYS = frozenset({"rootDevices", "pciAddress", "pciAddresses", "pciAddr", "deviceID"})


def unique(view: View) -> Iterator[str]:
    """No two objects are the same one."""
    keys = Counter((group(each), kind(each), namespace(each), name(each)) for each in view.objects)
    for (_, what, where, which), number in keys.items():
        if number > 1:
            yield f"{what}/{which}: is there {number} times in {where or 'the cluster'}"


def together(view: View) -> Iterator[str]:
    """All objects of a job are in one namespace."""
    found: dict[str, set[str]] = {}
    for each in view.objects:
        job = ((each.get("metadata") or {}).get("labels") or {}).get(INSTANCE)
        if job and kind(each) not in CLUSTER_SCOPED:
            found.setdefault(job, set()).add(namespace(each))
    for job, places in found.items():
        if len(places) > 1:
            yield f"{job}: its objects are in {', '.join(sorted(places))}"


def names(view: View) -> Iterator[str]:
    """Names are what Kubernetes allows, with those of pods, which controllers make of them."""
    for each in view.objects:
        allowed = SERVICE_LABEL if kind(each) == "Service" else LABEL
        if len(name(each)) > SUBDOMAIN or not all(
            allowed.fullmatch(part) for part in name(each).split(".")
        ):
            yield f"{called(each)}: is no name"
        for host in counts.host_names(each):
            if not LABEL.fullmatch(host):
                yield f"{called(each)}: its pod {host} has a name of {len(host)} characters"


def gangs(view: View) -> Iterator[str]:
    """All pods start, or none: every minimum is the number of pods."""
    for where, least, pods in counts.minimums(view):
        if least != pods:
            yield f"{where}: {least} of {pods} pods are enough to start"


def budgets(view: View) -> Iterator[str]:
    """Budgets are numbers, and as large as the job."""
    for each in view.of("PodDisruptionBudget"):
        least = each["spec"].get("minAvailable")
        if not isinstance(least, int) or least < 1:
            yield f"{called(each)}: minAvailable {least!r} is no number of pods"
            continue
        owners = [pod.owner for pod in _selected(view, each["spec"]["selector"])]
        for size in {counts.pods_of(owner) for owner in owners} - {None, least}:
            yield f"{called(each)}: minAvailable {least}, and the gang has {size} pods"


def headless(view: View) -> Iterator[str]:
    """Names are in DNS before pods are ready, as the gang meets before."""
    for each in view.of("Service"):
        spec = each["spec"]
        if spec.get("clusterIP") == "None" and spec.get("publishNotReadyAddresses") is not True:
            yield f"{called(each)}: publishes no address that is not ready"
    for each in view.of("JobSet"):
        if (each["spec"].get("network") or {}).get("publishNotReadyAddresses") is False:
            yield f"{called(each)}: publishes no address that is not ready"
    for each in view.of("Job"):
        if group(each) == "batch.volcano.sh" and PUBLISHED not in _svc(each):
            yield f"{called(each)}: its svc plugin publishes no address that is not ready"


def _svc(job: dict[str, Any]) -> list[str]:
    return (job["spec"].get("plugins") or {}).get("svc") or []


def selectors(view: View) -> Iterator[str]:
    """Selectors of pods select some, and not all there are."""
    for each in view.objects:
        for where, selector in _pod_selectors(each):
            if not selector.get("matchLabels"):
                yield f"{where}: selects all pods of the namespace"
            elif view.pods and not _selected(view, selector):
                yield f"{where}: selects no pod that is rendered"


def _pod_selectors(made: dict[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    spec, where = made.get("spec") or {}, called(made)
    if kind(made) == "Service":
        yield f"{where} spec.selector", {"matchLabels": spec.get("selector")}
    if kind(made) in {"PodDisruptionBudget", "PodMonitor"}:
        yield f"{where} spec.selector", spec.get("selector") or {}
    if kind(made) == "NetworkPolicy":
        yield f"{where} spec.podSelector", spec.get("podSelector") or {}


def _selected(view: View, selector: Mapping[str, Any]) -> list[Pod]:
    return [pod for pod in view.pods if pod.matches(selector)]


def policies(view: View) -> Iterator[str]:
    """Policies let peers in on every port, and Prometheus on that of the metrics."""
    for each in view.of("NetworkPolicy"):
        rules = each["spec"].get("ingress") or []
        for pod in _selected(view, each["spec"].get("podSelector") or {}):
            for text in _kept_out(pod, rules):
                yield f"{called(each)}: {text}"
        if not all(rule.get("from") for rule in rules):
            yield f"{called(each)}: lets everybody in"


def _kept_out(pod: Pod, rules: list[dict[str, Any]]) -> Iterator[str]:
    if not any(_lets_peers_in(pod, rule) for rule in rules):
        yield f"keeps the pods of {pod.where} from each other"
    ports = {port for box in pod.boxes for port in _metrics(box.raw)}
    if not ports <= {port for rule in rules for port in _ports_of_others(rule)}:
        yield f"keeps Prometheus from the metrics of {pod.where}"


def _lets_peers_in(pod: Pod, rule: dict[str, Any]) -> bool:
    own = [each.get("podSelector") for each in rule.get("from") or () if len(each) == 1]
    return not rule.get("ports") and any(each and pod.matches(each) for each in own)


def _ports_of_others(rule: dict[str, Any]) -> set[Any]:
    others = [each for each in rule.get("from") or () if each.get("namespaceSelector")]
    return {each.get("port") for each in rule.get("ports") or ()} if others else set()


def _metrics(box: dict[str, Any]) -> list[int]:
    ports = box.get("ports") or ()
    return [each["containerPort"] for each in ports if each.get("name") == "metrics"]


def quota(view: View) -> Iterator[str]:
    """ClusterQueues of Kueue cover every resource that pods ask for, or they admit none."""
    for queue in view.of("ClusterQueue"):
        groups = queue["spec"].get("resourceGroups") or ()
        covered = {each for one in groups for each in one["coveredResources"]}
        asked = {each for box in view.boxes if _queued(box.pod) for each in box.amounts("requests")}
        for each in sorted(asked - covered):
            yield f"{called(queue)}: does not cover {each}, so that no workload is admitted"


def _queued(pod: Pod) -> bool:
    labels = (pod.owner.get("metadata") or {}).get("labels") or {}
    return KUEUE_QUEUE in labels or KUEUE_QUEUE in pod.labels or pod.of_runtime


def exit_codes(view: View) -> Iterator[str]:
    """Exit codes are sorted and without 0, as Kubernetes demands."""
    for each in view.objects:
        for where, key, value in walk(each, called(each)):
            if key == "onExitCodes" and isinstance(value, dict):
                values = value.get("values") or []
                if not values or 0 in values or values != sorted(set(values)):
                    yield f"{where}: {values} are not sorted exit codes"


def addresses(view: View) -> Iterator[str]:
    """PCI addresses are texts: a reader of YAML 1.1 takes 0000:16:00.0 for a number."""
    for each in view.objects:
        for where, key, value in walk(each, called(each)):
            if key in _PCI_KEYS and isinstance(value, int | float):
                yield f"{where}: {value!r} is no text"


RULES = (
    unique,
    together,
    names,
    gangs,
    budgets,
    headless,
    selectors,
    policies,
    quota,
    exit_codes,
    addresses,
)
