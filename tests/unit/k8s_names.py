# SPDX-License-Identifier: Apache-2.0
"""Names that schemas say nothing of: those of objects, labels, and of the pods made of a job's."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

Object = dict[str, Any]

_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_LABEL_1123 = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_LABEL_1035 = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
_VALUE = re.compile(r"(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?")
_ANNOTATIONS = 256 << 10  # bytes of all of an object together
_SUFFIX = "-abcde"  # what generateName adds
_HASH = "-5d4f8c7b9f"  # what a StatefulSet adds for its pods' label controller-revision-hash
# Kinds whose own name is a label of DNS that begins with a letter.
_NAMED_1035 = {"Service", "PyTorchJob", "TrainJob", "LeaderWorkerSet"}


def _label(path: str, name: str, pattern: "re.Pattern[str]") -> Iterator[str]:
    if not pattern.fullmatch(name) or len(name) > 63:
        yield f"{path}: {name!r} ({len(name)}) is no DNS label"


def _key_errors(path: str, key: str) -> Iterator[str]:
    prefix, slash, name = key.rpartition("/")
    if slash and (not _SUBDOMAIN.fullmatch(prefix) or len(prefix) > 253):
        yield f"{path}: {key!r} has a prefix that is no DNS subdomain"
    if not name or not _VALUE.fullmatch(name) or len(name) > 63:
        yield f"{path}: {key!r} is no qualified name"


def metadata_errors(meta: Mapping[str, Any], path: str) -> Iterator[str]:
    """Yield what is wrong with labels and annotations, of an object or of a template."""
    for key, value in meta.get("labels", {}).items():
        yield from _key_errors(f"{path}.labels", key)
        yield from label_value_errors(f"{path}.labels.{key}", value)
    annotations = meta.get("annotations", {})
    for key in annotations:
        # Keys of annotations are compared in lower case.
        yield from _key_errors(f"{path}.annotations", key.lower())
    size = sum(len(key.encode()) + len(value.encode()) for key, value in annotations.items())
    if size > _ANNOTATIONS:
        yield f"{path}.annotations: {size} bytes are more than {_ANNOTATIONS}"


def label_value_errors(path: str, value: str) -> Iterator[str]:
    if not _VALUE.fullmatch(value) or len(value) > 63:
        yield f"{path}: {value!r} ({len(value)}) is no value of a label"


def errors(obj: Object) -> Iterator[str]:
    """Yield what is wrong with the names in an object, and with those that come of them."""
    meta, kind = obj["metadata"], obj["kind"]
    name = meta.get("name", "")
    if not _SUBDOMAIN.fullmatch(name) or len(name) > 253:
        yield f".metadata.name: {name!r} ({len(name)}) is no DNS subdomain"
    if kind in _NAMED_1035:
        yield from _label(".metadata.name", name, _LABEL_1035)
    if "namespace" in meta:
        yield from _label(".metadata.namespace", meta["namespace"], _LABEL_1123)
    yield from metadata_errors(meta, ".metadata")
    of_pods = _PODS.get((obj["apiVersion"].rpartition("/")[0], kind))
    if of_pods:
        yield from of_pods(name, obj.get("spec", {}))


def _job(name: str, spec: Object) -> Iterator[str]:
    yield from label_value_errors("label batch.kubernetes.io/job-name", name)
    if spec.get("completionMode") == "Indexed":
        yield from _label("the last pod", f"{name}-{spec.get('completions', 1) - 1}", _LABEL_1123)


def _volcano(name: str, spec: Object) -> Iterator[str]:
    yield from label_value_errors("label volcano.sh/job-name", name)
    if spec.get("plugins", {}).keys() & {"svc", "pytorch", "mpi"}:
        yield from _label("the Service of the svc plugin", name, _LABEL_1035)
    for task in spec["tasks"]:
        yield from _label("tasks[].name", task["name"], _LABEL_1123)
        last = f"{name}-{task['name']}-{task['replicas'] - 1}"
        yield from _label("the last pod", last, _LABEL_1123)


def jobset_pods(name: str, spec: Object) -> Iterator[str]:
    """Yield what a JobSet's webhook refuses in the names that come of it."""
    yield from _label("the JobSet's name", name, _LABEL_1035)
    for each in spec["replicatedJobs"]:
        job = f"{name}-{each['name']}-{each.get('replicas', 1) - 1}"
        yield from _label("the last job", job, _LABEL_1035)
        inner = each["template"]["spec"]
        last = f"{job}-{inner.get('completions', 1) - 1}{_SUFFIX}"
        yield from _label("the last pod", last, _LABEL_1035)
    chief = spec.get("coordinator")
    if chief:
        host = f"{name}-{chief['replicatedJob']}-{chief.get('jobIndex', 0)}"
        subdomain = spec.get("network", {}).get("subdomain", name)
        value = f"{host}-{chief.get('podIndex', 0)}.{subdomain}"
        yield from label_value_errors("label jobset.sigs.k8s.io/coordinator", value)


def _trainjob(name: str, spec: Object) -> Iterator[str]:
    nodes = spec.get("trainer", {}).get("numNodes", 1)
    yield from _label("the last pod", f"{name}-node-0-{nodes - 1}{_SUFFIX}", _LABEL_1035)


def _replicas(field: str) -> Any:
    def pods(name: str, spec: Object) -> Iterator[str]:
        for role, each in spec[field].items():
            last = f"{name}-{role.lower()}-{each.get('replicas', 1) - 1}"
            yield from _label("the last pod and its Service", last, _LABEL_1035)

    return pods


def _lws(name: str, spec: Object) -> Iterator[str]:
    last = spec.get("replicas", 1) - 1
    size = spec["leaderWorkerTemplate"].get("size", 1)
    group = f"{name}-{last}"
    yield from label_value_errors("label controller-revision-hash", group + _HASH)
    yield from _label("the last pod", f"{group}-{size - 1}", _LABEL_1035)


_PODS = {
    ("batch", "Job"): _job,
    ("batch.volcano.sh", "Job"): _volcano,
    ("jobset.x-k8s.io", "JobSet"): jobset_pods,
    ("trainer.kubeflow.org", "TrainJob"): _trainjob,
    ("kubeflow.org", "PyTorchJob"): _replicas("pytorchReplicaSpecs"),
    ("kubeflow.org", "MPIJob"): _replicas("mpiReplicaSpecs"),
    ("leaderworkerset.x-k8s.io", "LeaderWorkerSet"): _lws,
}
