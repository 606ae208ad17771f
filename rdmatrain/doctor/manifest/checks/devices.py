"""GPUs and NICs that a manifest asks for, and what it attaches."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator

from rdmatrain.discovery.claims.values import shown
from rdmatrain.doctor.manifest.containers import Container
from rdmatrain.doctor.manifest.define import (
    Patch,
    advice,
    fail,
    fine,
    host_nodes,
    patch,
    question,
    static_question,
    unseen,
    wants_rdma,
    warn,
    with_lock,
)
from rdmatrain.doctor.manifest.networks import Networks
from rdmatrain.doctor.manifest.nodes import Node
from rdmatrain.doctor.manifest.workloads import NETWORKS, RUNTIMES, TRAIN_JOB, Manifest, Pod
from rdmatrain.doctor.model import Finding, Needs

_INFINIBAND = re.compile(r"(^|[^a-z])(ib|infiniband)([^a-z]|$)", re.IGNORECASE)
NO_DEVICES = "no container asks for an RDMA device"
# Of a manifest that names none; clusters call it as they like.
_VF = "nvidia.com/rdma-vf"


@question("gpu-granted", "the GPUs are asked for", nothing="no container asks for a GPU")
def gpu_granted(manifest: Manifest, _needs: Needs) -> Iterator[Finding]:
    """Only what is in the limits is granted; what an image shows besides belongs to others."""
    for pod in manifest.training:
        for box in pod.containers:
            if box.gpus and not _limits_gpus(box):
                asked = next(each for each in box.resources if _is_gpu(each))
                text = f"requests {asked} without a limit, which Kubernetes refuses"
                fix = f"{{resources: {{limits: {{{asked}: {box.gpus}}}}}}}"
                yield fail(box.node, text, patch(box.node, fix))
            elif box.gpus:
                yield fine(box.node, f"asks for {box.gpus} GPUs")
            elif box.value("NVIDIA_VISIBLE_DEVICES") == "all" and not pod.claims:
                text = "NVIDIA_VISIBLE_DEVICES=all shows GPUs that were granted to others"
                limits = "{nvidia.com/gpu: 8}"
                fix = advice(box.node, f"{{resources: {{limits: {limits}}}}}")
                yield warn(box.node, text, fix)


def _limits_gpus(box: Container) -> bool:
    limits = box.node.get("resources", "limits")
    return any(_is_gpu(name) for name, _ in limits.entries())


def _is_gpu(name: str) -> bool:
    return bool(re.match(r"(nvidia|amd|gpu\.intel)\.com/|habana\.ai/", name)) and "gpu" in name


@question(
    "vf-count",
    "as many networks are attached as virtual functions are asked for",
    nothing="no container asks for virtual functions, and no network is attached",
    known="sriov-network-device-plugin#310: VF pci addr is required",
    exit_code=69,
)
def vf_count(manifest: Manifest, _needs: Needs) -> Iterator[Finding]:
    """Without a network a VF has no interface and so no GID; a network without a VF fails."""
    for pod in manifest.training:
        requested: Counter[str] = Counter()
        for box in pod.containers:
            requested.update(box.vfs)
        networks = Networks.of(pod)
        if networks.unreadable:
            text = f"cannot be read: {shown(pod.annotation.text, 60)}"
            names = [each.rpartition("/")[2] for each in requested] or ["rdma-vf"]
            yield fail(pod.annotation, text, _attach(pod, names[0], sum(requested.values()) or 1))
        elif requested or networks.names:
            yield _compared(pod, requested, networks)


def _compared(pod: Pod, requested: Counter[str], networks: Networks) -> Finding:
    """Compare them by resource where all networks are known, else their sums."""
    place = pod.annotation if pod.annotation.there else pod.template
    needed, there = sum(requested.values()), len(networks.names)
    by_resource = networks.resources
    if by_resource is not None:
        for name in [*requested, *by_resource]:
            asked, attached = requested[name], by_resource[name]
            if asked != attached and (asked or attached):
                return _differ(pod, place, name, asked, attached)
        return fine(place, f"{needed} virtual functions, {there} networks of the same resources")
    if not needed and not pod.whole:
        return unseen(place, "the TrainJob that asks for the devices is not in the manifest")
    if not needed:
        return _networks_alone(pod, place, networks)
    return _summed(pod, place, requested, there)


def _summed(pod: Pod, place: Node, requested: Counter[str], there: int) -> Finding:
    needed, what = sum(requested.values()), ", ".join(requested)
    if there > needed:
        text = f"{there} networks for {needed} {what}: right only if {there - needed} need none"
        return warn(place, text, advice(*_resources(pod, what, there)))
    if there < needed:
        return _differ(pod, place, what, needed, there)
    return fine(place, f"{needed} {what}, {there} networks")


def _networks_alone(pod: Pod, place: Node, networks: Networks) -> Finding:
    text = (
        f"{len(networks.names)} networks ({networks.names[0]}), and no virtual function asked for"
    )
    fix = advice(*_resources(pod, _VF, len(networks.names)))
    if pod.kind == TRAIN_JOB and pod.document.get("spec", "trainer", "resourcesPerNode").there:
        text += ": resourcesPerNode replaces all resources of the runtime"
        return fail(place, text, fix)
    if _is_rdma_name(networks.names[0]):
        return warn(place, text + ": right only if an injector adds the request", fix)
    return unseen(place, "its networks may need no virtual function")


def _is_rdma_name(name: str) -> bool:
    return bool(re.search(r"sriov|rdma|roce|(^|[-_/])vf([-_0-9]|$)", name, re.IGNORECASE))


def _differ(pod: Pod, place: Node, name: str, asked: int, attached: int) -> Finding:
    text = f"{asked} {name} asked for, {attached} networks attached"
    if attached > asked:
        return fail(place, text, patch(*_resources(pod, name, attached)))
    fix = _attach(pod, Networks.of(pod).first or name.rpartition("/")[2], asked)
    if attached == 0 and _INFINIBAND.search(name):
        return warn(place, text + ": InfiniBand may do without", fix)
    if pod.kind in RUNTIMES:
        return unseen(place, text + "; its TrainJob may attach more")
    return fail(place, text, fix)


def _attach(pod: Pod, name: str, number: int) -> Patch:
    names = ",".join([name] * min(number, 64))
    if Networks.of(pod).first:  # of a TrainJob it may be its own, which wins over the runtime's
        return patch(pod.annotation, f'"{names}"')
    change = f'{{metadata: {{annotations: {{{NETWORKS}: "{names}"}}}}}}'
    return advice(pod.template, change)  # what a network is called, the cluster knows


def _resources(pod: Pod, name: str, number: int) -> tuple[Node, str]:
    """Return what is changed, and how, to ask for so many devices."""
    box = pod.trainers[0].node if pod.trainers else pod.spec
    limits = f"{{{name.split(',')[0]}: {number}}}"
    per_node = pod.document.get("spec", "trainer", "resourcesPerNode")
    if pod.kind == TRAIN_JOB and per_node.there:  # which replaces what the container has
        return per_node, f"{{limits: {limits}}}"
    same = f", requests: {limits}" if box.get("resources", "requests", name).there else ""
    return box, f"{{resources: {{limits: {limits}{same}}}}}"


@question(
    "uverbs-nodes",
    "the container is given device nodes",
    nothing="no container should have RDMA",
    exit_code=69,
)
def uverbs_nodes(manifest: Manifest, needs: Needs) -> Iterator[Finding]:
    """Without /dev/infiniband/uverbsN that may be opened, everything goes over TCP."""
    for pod in manifest.training:
        for box in pod.trainers:
            why = wants_rdma(box, needs)
            if not why:
                continue
            mount = host_nodes(box)
            # What devices are called, and how many there are, the cluster knows.
            fix = advice(box.node, f"{{resources: {{limits: {{{_VF}: {box.gpus or 1}}}}}}}")
            if box.nics:
                yield fine(box.node, f"{why}: the device plugin gives the nodes")
            elif box.privileged:
                yield fine(box.node, "privileged: it has all nodes of the host")
            elif pod.claims or not pod.whole:
                yield unseen(box.node, "a claim or a TrainJob may give the nodes")
            elif mount is not None:
                text = "of the host, which no device plugin allows it to open"
                yield fail(mount, text, fix)
            else:
                yield fail(box.node, f"{why}, and nothing gives it a device", fix)


@question(
    "device-granted",
    "devices come from a device plugin or a claim",
    nothing="no container should have RDMA",
    known="oci-hpc-oke: the manifests for VFs mount /dev/infiniband and are privileged",
    exit_code=69,
    after="uverbs-nodes",
)
def device_granted(manifest: Manifest, needs: Needs) -> Iterator[Finding]:
    """Device nodes of the host are no grant: two pods may use the same NIC."""
    for pod in manifest.training:
        for box in pod.trainers:
            mount = host_nodes(box)
            if not wants_rdma(box, needs):
                continue
            if mount is not None:
                text = "all RDMA devices of the host, not those that were granted"
                yield warn(mount, text, _without_volume(pod, box, mount))
            elif box.nics:
                granted = ", ".join(box.nics)
                yield fine(box.node, f"{granted} and nothing of the host")


def _without_volume(pod: Pod, box: Container, mount: Node) -> str:
    """Return the change that takes a volume and its mount away, where a plugin gives devices."""
    name, path = shown(mount.get("name").text, 63), shown(mount.get("mountPath").text, 100)
    mounts = f"volumeMounts: [{{mountPath: {path}, $patch: delete}}]"
    containers = f"containers: [{{name: {shown(box.node.get('name').text, 63)}, {mounts}}}]"
    change = f"{{volumes: [{{name: {name}, $patch: delete}}], {containers}}}"
    return patch(pod.spec, change) if granted(box) else advice(pod.spec, change)


def granted(box: Container) -> bool:
    """Tell whether a container has devices of its own: without the host's it still has RDMA."""
    return bool(box.nics) or bool(box.node.get("resources", "claims").items())


@question(
    "gpu-nic-sharing",
    "there is a NIC for each GPU",
    nothing="no container asks for both GPUs and virtual functions",
)
def gpu_nic_sharing(manifest: Manifest, _needs: Needs) -> Iterator[Finding]:
    """GPUs that share a NIC share its bandwidth."""
    for pod in manifest.training:
        for box in pod.trainers:
            vfs = sum(box.vfs.values())
            if not vfs or not box.gpus:
                continue
            if vfs >= box.gpus:
                yield fine(box.node, f"{vfs} virtual functions for {box.gpus} GPUs")
            else:
                text = f"{vfs} virtual functions for {box.gpus} GPUs"
                fix = advice(*_resources(pod, next(iter(box.vfs)), box.gpus))
                yield warn(box.node, text, fix)


@static_question(
    "privileged",
    "no container is privileged",
    nothing="there is no container",
    known="oci-hpc-oke: the manifests for VFs mount /dev/infiniband and are privileged",
    exit_code=77,
)
def privileged(manifest: Manifest, _needs: Needs) -> Iterable[Finding]:
    """Privileged pods may break their node, and RDMA needs no more than IPC_LOCK."""
    for pod in manifest.pods:
        for box in pod.everything:
            place = box.node.get("securityContext", "privileged")
            if pod.kind == "DaemonSet":
                yield unseen(box.node, "what a node is served by may need it")
            elif box.privileged:
                text = "RDMA needs no more than IPC_LOCK and the devices that were granted"
                change = f"{{privileged: null, capabilities: {with_lock(box)}}}"
                made = patch if granted(box) else advice
                yield warn(place, text, made(box.node.get("securityContext"), change))
            else:
                yield fine(box.node, "not privileged")
