"""Workloads and what they wait for: pods, queues with their topology, versions of APIs."""

import json
from collections.abc import Iterator
from typing import Any

from rdmatrain.discovery.claims.values import shown
from rdmatrain.doctor.manifest.checks.lifecycle import cluster_queue
from rdmatrain.doctor.manifest.define import advice, fail, fine, patch, question, warn
from rdmatrain.doctor.manifest.nodes import Node
from rdmatrain.doctor.manifest.workloads import Manifest, Pod
from rdmatrain.doctor.model import Finding, Needs
from rdmatrain.k8s.rules.references import QUEUE
from rdmatrain.launcher.exit_codes import BAD_CONFIG, GANG_TIMEOUT

_OLD, _NEW = "kueue.x-k8s.io/v1beta1", "kueue.x-k8s.io/v1beta2"
_TOPOLOGY = tuple(
    f"kueue.x-k8s.io/podset-{each}-topology" for each in ("required", "preferred", "slice-required")
)
_SERVED = f"the cluster's Kueue serves {_NEW}"
# Other names of v1beta1 for what both versions have.
_FUNGIBILITY = {"Borrow": "MayStopSearch", "Preempt": "MayStopSearch"}
_WORKLOADS = (
    "Pod", "Job", "CronJob", "JobSet", "StatefulSet", "Deployment", "DaemonSet", "ReplicaSet",
    "PyTorchJob", "MPIJob", "LeaderWorkerSet",
)  # fmt: skip


@question(
    "workload",
    "every workload has pods",
    nothing="there is no workload",
    exit_code=BAD_CONFIG,
)
def workload(manifest: Manifest, _needs: Needs) -> Iterator[Finding]:
    """Where spec.containers is misspelt there is nothing to check, and Kubernetes refuses it."""
    seen = {id(pod.document) for pod in manifest.pods}
    for each in manifest.of_kind(*_WORKLOADS):
        if id(each) in seen:
            yield fine(each.get("kind"), "has containers")
        else:
            text = f"no pod of this {each.get('kind').text} is to be seen, so none was checked"
            yield fail(each.get("kind"), text, advice(each.get("spec"), "{containers: [...]}"))


@question(
    "queue-topology",
    "the queue knows the topology that pods ask for",
    nothing="no pod asks Kueue for a topology, of a queue that is in the manifest",
    exit_code=GANG_TIMEOUT,
)
def queue_topology(manifest: Manifest, _needs: Needs) -> Iterator[Finding]:
    """Kueue admits no workload that asks for a topology which none of its flavors has."""
    for pod in manifest.pods:
        notes = pod.template.get("metadata", "annotations")
        asked = [notes.get(each) for each in _TOPOLOGY if notes.get(each).there]
        flavors = _flavors(manifest, pod) if asked else []
        for place in asked if flavors else ():
            yield _placed(manifest, place, flavors)


def _flavors(manifest: Manifest, pod: Pod) -> list[Node]:
    """Return the flavors of a pod's queue; none if one of them is not in the manifest."""
    labels = [each.get("metadata", "labels", QUEUE) for each in (pod.document, pod.template)]
    queue = cluster_queue(manifest, next((each.text for each in labels if each.text), ""))
    groups = queue.get("spec", "resourceGroups").items() if queue is not None else []
    names = {flavor.get("name").text for each in groups for flavor in each.get("flavors").items()}
    found = [
        each
        for each in manifest.of_kind("ResourceFlavor")
        if each.get("metadata", "name").text in names
    ]
    return found if len(found) == len(names) else []


def _placed(manifest: Manifest, place: Node, flavors: list[Node]) -> Finding:
    named = {each.get("spec", "topologyName").text for each in flavors} - {""}
    topologies = {each.get("metadata", "name").text: each for each in manifest.of_kind("Topology")}
    if not named:
        return _flat(place, flavors[0], list(topologies))
    levels = [level for name in named & set(topologies) for level in _levels(topologies[name])]
    if levels and place.text not in levels:
        text = f"{shown(place.text, 80)} is no level of the Topology: {', '.join(levels)}"
        return fail(place, text, advice(place, f"one of {', '.join(levels)}"))
    return fine(place, f"{shown(place.text, 80)}, which a flavor knows")


def _levels(topology: Node) -> list[str]:
    return [
        shown(each.get("nodeLabel").text, 80) for each in topology.get("spec", "levels").items()
    ]


def _flat(place: Node, flavor: Node, topologies: list[str]) -> Finding:
    """Say that a flavor has no topology, and which it may mean."""
    name = shown(flavor.get("metadata", "name").text, 60)
    text = f"{shown(place.text, 80)}, and ResourceFlavor {name} has no topologyName"
    if len(topologies) == 1:
        change = json.dumps({"topologyName": topologies[0]})
        return fail(place, text, patch(flavor.get("spec"), change))
    return fail(place, text, advice(flavor.get("spec"), "{topologyName: NAME}"))


@question(
    "api-version",
    "no version of an API is about to go",
    nothing="nothing of Kueue is in the manifest",
    exit_code=BAD_CONFIG,
)
def api_version(manifest: Manifest, _needs: Needs) -> Iterator[Finding]:
    """Versions that are deprecated are refused by one of the next releases."""
    for each in manifest.documents:
        place = each.get("apiVersion")
        if place.text == _OLD:
            text = f"{_OLD} is deprecated: v1beta2 has taken its place"
            yield warn(place, text, patch(each, json.dumps(_renewed(each)), _NEW, guess=_SERVED))
        elif place.text == _NEW:
            yield fine(place, _NEW)


def _renewed(old: Node) -> dict[str, Any]:
    """Return the change to v1beta2, with the fields that are called otherwise there."""
    spec, change = old.get("spec"), dict[str, Any]()
    if spec.get("cohort").there:
        change |= {"cohort": None, "cohortName": spec.get("cohort").text}
    if spec.get("admissionChecks").there:
        checks = [{"name": name} for name in spec.get("admissionChecks").texts()]
        change |= {"admissionChecks": None, "admissionChecksStrategy": {"admissionChecks": checks}}
    if spec.get("retryDelayMinutes").there:
        change["retryDelayMinutes"] = None
    words = {
        key: _FUNGIBILITY[node.text]
        for key, node in spec.get("flavorFungibility").entries()
        if node.text in _FUNGIBILITY
    }
    if words:
        change["flavorFungibility"] = words
    return {"apiVersion": _NEW, **({"spec": change} if change else {})}
