"""CPUs that a manifest asks for."""

from collections.abc import Iterator
from fractions import Fraction

from rdmatrain.discovery.claims.values import shown
from rdmatrain.doctor.manifest.containers import Container
from rdmatrain.doctor.manifest.define import (
    Patch,
    advice,
    fail,
    fine,
    patch,
    question,
    unseen,
    warn,
)
from rdmatrain.doctor.manifest.nodes import Node
from rdmatrain.doctor.manifest.quantity import quantity
from rdmatrain.doctor.manifest.workloads import Manifest, Pod
from rdmatrain.doctor.model import Finding, Needs


@question(
    "cpu-quota",
    "each rank has CPUs of its own",
    nothing="no container has a limit of CPUs, or asks for devices",
    known="kubernetes#106270: NUMA alignment is not honoured",
)
def cpu_quota(manifest: Manifest, needs: Needs) -> Iterator[Finding]:
    """Only a Guaranteed pod with whole CPUs gets them alone and near to its devices."""
    for pod in manifest.training:
        for box in pod.trainers:
            limit = box.node.get("resources", "limits", "cpu")
            if limit.there:
                yield _of_limit(pod, box, limit, needs.ranks or box.gpus)
            elif pod.asks and pod.whole:
                text = "no limit of CPUs: no Guaranteed QoS, so no CPUs of its own"
                yield warn(box.node, text, _as_requested(box))


def _as_requested(box: Container) -> Patch:
    """Return the limits that a container requests; a guess might kill it for its memory."""
    limits, requests = (box.node.get("resources", name) for name in ("limits", "requests"))
    memory = next(
        (each for each in (limits.get("memory"), requests.get("memory")) if each.there), None
    )
    cpus = quantity(limits.get("cpu") if limits.get("cpu").there else requests.get("cpu"))
    if not cpus or memory is None:
        return advice(box.node, "{resources: {limits: {cpu: N, memory: SIZE}}}")
    amounts = f"{{cpu: {_whole(cpus)}, memory: {shown(memory.text, 40)}}}"
    return patch(box.node, f"{{resources: {{requests: {amounts}, limits: {amounts}}}}}")


def _whole(cpus: Fraction) -> int:
    return -(-cpus.numerator // cpus.denominator)


def _of_limit(pod: Pod, box: Container, limit: Node, ranks: int) -> Finding:
    cpus = quantity(limit)
    if cpus is None or cpus <= 0:
        fix = patch(limit, "8", guess="cpu: 8")
        return fail(limit, f"{shown(limit.text, 40)} is no number of CPUs", fix)
    if cpus < ranks:
        fix = patch(limit, str(2 * ranks), guess=f"cpu: {2 * ranks}")
        return warn(limit, f"{limit.text} CPUs for {ranks} ranks", fix)
    if cpus.denominator != 1:
        text = f"{limit.text} is no whole number: no CPUs of its own"
        return warn(limit, text, patch(limit, str(_whole(cpus))))
    request = box.node.get("resources", "requests", "cpu")
    if request.there and quantity(request) != cpus:
        text = f"{shown(request.text, 40)} requested, {limit.text} at most: not Guaranteed"
        return warn(request, text, patch(request, limit.text))
    if not pod.asks:
        return unseen(limit, f"{limit.text} CPUs; nothing that they should be near to")
    return _guaranteed(pod, limit)


def _guaranteed(pod: Pod, limit: Node) -> Finding:
    bare = [each for each in pod.everything if not _limited(each)]
    if bare:
        text = "a container without limits of CPUs and memory: the pod is not Guaranteed"
        return warn(bare[0].node, text, _as_trainer(bare[0], limit.parent or limit))
    return fine(limit, f"{limit.text} CPUs, all limits are there")


def _as_trainer(box: Container, limits: Node) -> Patch:
    """Return limits: those of the trainer cost nothing for a container that ends before it."""
    memory = limits.get("memory")
    if box in box.pod.containers or not memory.there:
        return _as_requested(box)
    amounts = f"{{cpu: {limits.get('cpu').text}, memory: {shown(memory.text, 40)}}}"
    return patch(box.node, f"{{resources: {{requests: {amounts}, limits: {amounts}}}}}")


def _limited(box: Container) -> bool:
    limits, requests = (box.node.get("resources", name) for name in ("limits", "requests"))
    return all(
        limits.get(name).there
        and (
            not requests.get(name).there
            or quantity(requests.get(name)) == quantity(limits.get(name))
        )
        for name in ("cpu", "memory")
    )
