"""CPUs that a manifest asks for."""

from collections.abc import Iterator

from rdmatrain.discovery.claims.values import shown
from rdmatrain.doctor.manifest.containers import Container
from rdmatrain.doctor.manifest.define import advice, fail, fine, question, unseen, warn
from rdmatrain.doctor.manifest.nodes import Node
from rdmatrain.doctor.manifest.quantity import quantity
from rdmatrain.doctor.manifest.workloads import Manifest, Pod
from rdmatrain.doctor.model import Finding, Needs

# How much a container may use nobody but its owner knows: a guess might kill or starve it.
_LIMITS = "{resources: {limits: {cpu: N, memory: SIZE}}}"


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
                yield warn(box.node, text, advice(box.node, _LIMITS))


def _of_limit(pod: Pod, box: Container, limit: Node, ranks: int) -> Finding:
    cpus = quantity(limit)
    if cpus is None or cpus <= 0:
        text = f"{shown(limit.text, 40)} is no number of CPUs"
        return fail(limit, text, advice(limit, "8"))
    if cpus < ranks:
        text = f"{limit.text} CPUs for {ranks} ranks"
        return warn(limit, text, advice(limit, str(2 * ranks)))
    if cpus.denominator != 1:
        text = f"{limit.text} is no whole number: no CPUs of its own"
        return warn(limit, text, advice(limit, str(-(-cpus.numerator // cpus.denominator))))
    request = box.node.get("resources", "requests", "cpu")
    if request.there and quantity(request) != cpus:
        text = f"{shown(request.text, 40)} requested, {limit.text} at most: not Guaranteed"
        return warn(request, text, advice(request, limit.text))
    if not pod.asks:
        return unseen(limit, f"{limit.text} CPUs; nothing that they should be near to")
    return _guaranteed(pod, limit)


def _guaranteed(pod: Pod, limit: Node) -> Finding:
    bare = [each for each in pod.everything if not _limited(each)]
    if bare:
        text = "no limits of CPUs and memory, or requests that differ: the pod is not Guaranteed"
        return warn(bare[0].node, text, advice(bare[0].node, _LIMITS))
    return fine(limit, f"{limit.text} CPUs, all limits are there")


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
