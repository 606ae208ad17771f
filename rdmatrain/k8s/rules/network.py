"""Who reaches the pods: their peers and Prometheus, and no one else."""

import json
import re
from collections.abc import Iterator
from typing import Any

from rdmatrain.doctor.manifest.containers import Container
from rdmatrain.doctor.manifest.define import (
    Patch,
    addition,
    advice,
    fail,
    fine,
    patch,
    question,
    unseen,
    warn,
)
from rdmatrain.doctor.manifest.nodes import Node, as_json
from rdmatrain.doctor.manifest.workloads import Manifest, Pod
from rdmatrain.doctor.model import Finding, Needs
from rdmatrain.k8s.patch import root_of
from rdmatrain.k8s.rules.selecting import (
    labels_of,
    metadata,
    namespace,
    one_of_each,
    selecting,
    selects,
)
from rdmatrain.launcher.exit_codes import BAD_CONFIG, GANG_TIMEOUT

_METRICS_PORT = 9400
_OPEN = "--disable-network-policy=true"
_MONITORS = ("PodMonitor", "PodDisruptionBudget", "NetworkPolicy", "Service")
_NOBODY = "nobody but its peers connects to a pod of the job"
_GUESS = "Prometheus is in the namespace monitoring"
_PROMETHEUS = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}


@question(
    "selectors",
    "what is beside the job selects its pods",
    nothing="nothing beside the job selects pods",
    exit_code=BAD_CONFIG,
)
def selectors(manifest: Manifest, _needs: Needs) -> Iterator[Finding]:
    """Selectors that match nothing are no error, and do nothing."""
    for each in manifest.of_kind(*_MONITORS) if manifest.pods else ():
        name = "podSelector" if each.get("kind").text == "NetworkPolicy" else "selector"
        place = each.get("spec", name)
        if not place.there:
            continue
        if any(selects(place, pod) for pod in manifest.pods):
            yield fine(place, "selects pods of the manifest")
            continue
        labels = place if place.get("matchLabels").kind != place.kind else place.get("matchLabels")
        yield warn(place, "selects no pod of the manifest", _labelled(manifest, each, labels))


def _labelled(manifest: Manifest, owner: Node, labels: Node) -> str:
    """Return the change that gives pods the labels, where its name tells which pods."""
    asked = {key: node.text for key, node in labels.entries()}
    names = [each.name for each in manifest.training]
    if names != [owner.get("metadata", "name").text] or not all(asked.values()):
        return "give the pods that it means these labels"
    template = manifest.training[0].template
    return patch(template, f"{{metadata: {{labels: {json.dumps(asked)}}}}}")


@question(
    "network-policy",
    "peers reach each other, and nobody else reaches them",
    nothing="no workload has several pods",
    exit_code=GANG_TIMEOUT,
)
def network_policy(manifest: Manifest, _needs: Needs) -> Iterator[Finding]:
    """Ranks listen on ports that the kernel deals out, to whoever is let in."""
    for pod in one_of_each(each for each in manifest.training if each.many):
        policies = selecting(manifest, pod, "NetworkPolicy", "spec", "podSelector")
        if policies:
            yield from _guarded(pod, policies)
        elif _of_svc(pod):
            yield fine(_plugin(pod), "the plugin svc makes a NetworkPolicy for the job's pods")
        elif pod.host_network:
            yield unseen(pod.spec, "hostNetwork, which no NetworkPolicy is about")
        elif labels_of(pod):
            text = "no NetworkPolicy: every pod of the cluster reaches the job's ports"
            yield warn(pod.document, text, _policy(pod, first=True))


def _guarded(pod: Pod, policies: list[Node]) -> Iterator[Finding]:
    shut = _shut(pod, policies)
    yield from (_lets_peers(pod, each) for each in shut)
    yield from (_open(pod, each) for each in policies if _lets_all(each))
    if not shut:
        yield fine(policies[0], "peers reach each other")


def _lets_all(policy: Node) -> list[Node]:
    """Return the rules of a policy by which everybody reaches every port."""
    rules = policy.get("spec", "ingress").items()
    return [
        each for each in rules if not each.get("from").items() and not each.get("ports").items()
    ]


def _open(pod: Pod, policy: Node) -> Finding:
    place, gone = policy.get("spec", "ingress"), _lets_all(policy)
    text = "a rule without from lets in every pod of the cluster"
    if not _alone(pod, policy):
        return warn(gone[0], text, advice(policy.get("spec"), "remove the rule"))
    kept = [as_json(each) for each in place.items() if each not in gone]
    own = {"from": [{"podSelector": {"matchLabels": labels_of(pod)}}]}
    if not any(_is_for_peers(pod, each, "from") for each in place.items() if each not in gone):
        kept = [own, *kept]
    change = f"{{ingress: {json.dumps(kept)}}}"
    return warn(gone[0], text, patch(policy.get("spec"), change, "remove the rule"))


def _alone(pod: Pod, policy: Node) -> bool:
    """Tell whether a policy is about the pods of one workload, as far as can be seen."""
    selector = policy.get("spec", "podSelector")
    others = (each for each in pod.manifest.pods if each.document is not pod.document)
    return bool(selector.get("matchLabels").children) and not any(
        selects(selector, each) for each in others
    )


def _shut(pod: Pod, policies: list[Node]) -> list[Node]:
    """Return the specs that do not let peers in, or out, if none of the policies does."""
    found: list[Node] = []
    for name, side, other in (("ingress", "Ingress", "from"), ("egress", "Egress", "to")):
        about = [each.get("spec") for each in policies if _is_about(each.get("spec"), side)]
        rules = [rule for spec in about for rule in spec.get(name).items()]
        if about and not any(_is_for_peers(pod, rule, other) for rule in rules):
            found.append(about[0].get(name) if about[0].get(name).there else about[0])
    return found


def _is_about(spec: Node, side: str) -> bool:
    types = spec.get("policyTypes").texts()
    return side in types if types else side == "Ingress" or spec.get("egress").there


def _is_for_peers(pod: Pod, rule: Node, other: str) -> bool:
    if rule.get("ports").items():
        return False
    peers = rule.get(other).items()
    if not peers:
        return True
    spaces = {"", namespace(pod.document)}
    return any(
        each.get("podSelector").kind != "absent"
        and selects(each.get("podSelector"), pod)
        and _space(each) in spaces
        for each in peers
    ) or any(
        "namespaceSelector" in each.children
        and not each.get("namespaceSelector").children
        and "podSelector" not in each.children
        for each in peers
    )


def _space(peer: Node) -> str:
    key = "kubernetes.io/metadata.name"
    return peer.get("namespaceSelector", "matchLabels", key).text


def _lets_peers(pod: Pod, place: Node) -> Finding:
    egress = place.key == "egress" or not _is_about(place, "Ingress")
    name, other = ("egress", "to") if egress else ("ingress", "from")
    owner = place.parent if place.key == name and place.parent is not None else place
    text = f"no rule of {name} lets peers through on all ports: the rendezvous hangs"
    if not _alone(pod, root_of(place)):
        return fail(place, text, _policy(pod, egress=egress))
    own = {other: [{"podSelector": {"matchLabels": labels_of(pod)}}]}
    rules = json.dumps([own, *owner.get(name).plain_items()])
    said = f"{{{name}: [{json.dumps(own)}, ...]}}"
    return fail(place, text, patch(owner, f"{{{name}: {rules}}}", said))


def _policy(pod: Pod, port: int = 0, *, egress: bool = False, first: bool = False) -> Patch:
    """Return a NetworkPolicy for a workload alone.

    What others let in is let in as before; the first one shuts out who was let in by none.
    """
    peers, side, other = [{"podSelector": {"matchLabels": labels_of(pod)}}], "Ingress", "from"
    if egress:
        side, other = "Egress", "to"
    rules: list[Any] = [{other: peers}]
    port = 0 if egress else port or next(filter(None, map(_metrics_port, pod.containers)), 0)
    if port:
        rules.append(_for_metrics(port))
    policy = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {**json.loads(metadata(pod)), "name": _free_name(pod, side)},
        "spec": {
            "podSelector": {"matchLabels": labels_of(pod)},
            "policyTypes": [side],
            side.lower(): rules,
        },
    }
    said = f"add a NetworkPolicy that lets peers {'out' if egress else 'in'}"
    guess = ", ".join([*[_NOBODY] * first, *[_GUESS] * bool(port)])
    return addition(pod.document, json.dumps(policy), said, guess)


def _free_name(pod: Pod, side: str) -> str:
    """Return a name that no policy has; that of the workload, if it can be."""
    names = {each.get("metadata", "name").text for each in pod.manifest.of_kind("NetworkPolicy")}
    name = pod.name or "train"
    return f"{name}-{side.lower()}" if name in names or side == "Egress" else name


def _for_metrics(port: int) -> dict[str, Any]:
    return {"from": [_PROMETHEUS], "ports": [{"protocol": "TCP", "port": port}]}


@question(
    "metrics-reachable",
    "Prometheus reaches the metrics",
    nothing="no container serves metrics",
    exit_code=BAD_CONFIG,
)
def metrics_reachable(manifest: Manifest, _needs: Needs) -> Iterator[Finding]:
    """Volcano's plugin svc makes a NetworkPolicy that lets in nobody but the job's own pods."""
    for pod in manifest.training:
        port = next(filter(None, map(_metrics_port, pod.containers)), 0) or _scraped(manifest, pod)
        if not port:
            continue
        if _of_svc(pod):
            words = json.dumps([*_plugin(pod).texts(), _OPEN])
            text = "the NetworkPolicy of the plugin svc lets in nobody but the job's own pods"
            plugins = pod.job.get("plugins")
            fix = patch(plugins, f"{{svc: {words}}}", f'{{svc: [..., "{_OPEN}"]}}')
            yield warn(_plugin(pod), text, fix)
        else:
            yield _scrapes(manifest, pod, port)


def _scrapes(manifest: Manifest, pod: Pod, port: int) -> Finding:
    policies = selecting(manifest, pod, "NetworkPolicy", "spec", "podSelector")
    about = [each for each in policies if _is_about(each.get("spec"), "Ingress")]
    if not about or any(_lets_scrape(each, pod, port) for each in about):
        return fine(pod.template, f"metrics on port {port}")
    text = f"lets nobody but peers in, and Prometheus wants port {port}"
    own = [each for each in about if _alone(pod, each)]
    return warn((own or about)[0], text, _let_in(own[0], port) if own else _policy(pod, port))


def _let_in(policy: Node, port: int) -> Patch:
    """Return the change by which Prometheus gets through."""
    rules = [*policy.get("spec", "ingress").plain_items(), _for_metrics(port)]
    said = f"{{ingress: [..., {json.dumps(_for_metrics(port))}]}}"
    return patch(policy.get("spec"), f"{{ingress: {json.dumps(rules)}}}", said, _GUESS)


def _lets_scrape(policy: Node, pod: Pod, port: int) -> bool:
    """Tell whether somebody else than the namespace's pods is let in, to that port."""
    rules = policy.get("spec", "ingress").items()
    open_ = [each.get("from").items() for each in rules if _has_port(each, pod, port)]
    return not all(open_) or any(
        each.get("namespaceSelector").kind != "absent" or each.get("ipBlock").there
        for peers in open_
        for each in peers
    )


def _has_port(rule: Node, pod: Pod, port: int) -> bool:
    """Tell whether a rule of a policy is about a port; without ports it is about all."""
    names = {
        each.get("name").text
        for box in pod.containers
        for each in box.node.get("ports").items()
        if each.get("containerPort").number == port
    }
    ports = rule.get("ports").items()
    return not ports or any(_is_port(each, names, port) for each in ports)


def _is_port(place: Node, names: set[str], port: int) -> bool:
    first = place.get("port")
    if first.number is None:  # a name, or all ports of a protocol
        return not first.there or first.text in names
    return first.number <= port <= (place.get("endPort").number or first.number)


def _metrics_port(box: Container) -> int:
    """Return the port on which a container serves metrics; 0 if it serves none."""
    said = box.option("metrics-port") or box.value("RDMATRAIN_METRICS_PORT")
    if said.isascii() and said.isdecimal():
        return int(said)
    ports = box.node.get("ports").items()
    named = (each for each in ports if re.search(r"metrics|prom", each.get("name").text))
    return next((each.get("containerPort").number or 0 for each in named), 0)


def _scraped(manifest: Manifest, pod: Pod) -> int:
    """Return the port that somebody is told to scrape."""
    notes = pod.template.get("metadata", "annotations")
    if notes.get("prometheus.io/scrape").true:
        return notes.get("prometheus.io/port").number or _METRICS_PORT
    monitors = selecting(manifest, pod, "PodMonitor", "spec", "selector")
    return _METRICS_PORT if monitors else 0


def _plugin(pod: Pod) -> Node:
    return pod.job.get("plugins", "svc")


def _of_svc(pod: Pod) -> bool:
    """Tell whether Volcano makes a NetworkPolicy for the job."""
    plugins = dict(pod.job.get("plugins").entries())
    return pod.volcano and "svc" in plugins and _OPEN not in _plugin(pod).texts()
