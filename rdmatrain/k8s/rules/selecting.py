"""Which pods an object selects, and by which labels a workload's pods can be selected."""

import json
from collections.abc import Iterable

from rdmatrain.doctor.manifest.checks.network import AUTOMATIC
from rdmatrain.doctor.manifest.nodes import Node
from rdmatrain.doctor.manifest.workloads import TRAIN_JOB, Manifest, Pod

# By what its controller labels the pods of a workload of that name.
_LABELS = {
    "Job": "batch.kubernetes.io/job-name",
    "JobSet": "jobset.sigs.k8s.io/jobset-name",
    TRAIN_JOB: "jobset.sigs.k8s.io/jobset-name",
    "PyTorchJob": "training.kubeflow.org/job-name",
    "MPIJob": "training.kubeflow.org/job-name",
    "LeaderWorkerSet": "leaderworkerset.sigs.k8s.io/name",
}
_VOLCANO = "volcano.sh/job-name"
# The last part of a label that says the name of a workload.
_NAMES = frozenset(["job-name", "jobset-name", "name"])


def labels_of(pod: Pod) -> dict[str, str]:
    """Return labels that the pods of its workload have, and no others; empty: there are none."""
    own = {key: node.text for key, node in pod.template.get("metadata", "labels").entries()}
    # Jobs of a CronJob have names of their own.
    key = _VOLCANO if pod.volcano and pod.kind == "Job" else _LABELS.get(pod.kind, "")
    return {key: pod.name} if key and pod.name else own


def as_labels(pod: Pod) -> str:
    """Return :func:`labels_of` as YAML."""
    return json.dumps(labels_of(pod))


def selects(selector: Node, pod: Pod) -> bool:
    """Tell whether a label selector, or a Service's plain labels, matches a template's pods."""
    wanted = selector.get("matchLabels")
    plain = not (wanted.there or selector.get("matchExpressions").there)
    pairs = (selector if plain else wanted).entries()
    expressions = selector.get("matchExpressions").items()
    return all(_has(pod, key, [node.text]) for key, node in pairs) and all(
        _meets(pod, each) for each in expressions
    )


def _meets(pod: Pod, expression: Node) -> bool:
    key, values = expression.get("key").text, expression.get("values").texts()
    operator = expression.get("operator").text
    if operator == "In":
        return _has(pod, key, values)
    if operator == "NotIn":
        return not _has(pod, key, values)
    there = pod.template.get("metadata", "labels", key).there or key.startswith(AUTOMATIC)
    return there == (operator == "Exists")


def _has(pod: Pod, key: str, values: list[str]) -> bool:
    label = pod.template.get("metadata", "labels", key)
    if label.there or not key.startswith(AUTOMATIC):
        return label.there and label.text in values
    # A controller sets it: to the name of the workload, or to what is not to be seen here.
    of_name = key.rpartition("/")[2] in _NAMES and key in {*_LABELS.values(), _VOLCANO, "job-name"}
    return not of_name or pod.name in values or not pod.name or key not in labels_of(pod)


def selecting(manifest: Manifest, pod: Pod, kind: str, *path: str) -> list[Node]:
    """Return objects of a kind that select a template's pods, in its namespace."""
    return [
        each
        for each in manifest.of_kind(kind)
        if namespace(each) == namespace(pod.document) and selects(each.get(*path), pod)
    ]


def namespace(document: Node) -> str:
    """Return the namespace of an object; empty where that is not said."""
    return document.get("metadata", "namespace").text


def metadata(pod: Pod) -> str:
    """Return the metadata of an object beside a workload, as YAML."""
    space = namespace(pod.document)
    named = {"name": pod.name or "train", **({"namespace": space} if space else {})}
    return json.dumps(named)


def one_of_each(pods: Iterable[Pod]) -> list[Pod]:
    """Return the first template of each workload."""
    first: dict[int, Pod] = {}
    for pod in pods:
        first.setdefault(id(pod.document), pod)
    return list(first.values())
