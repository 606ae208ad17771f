"""Memory that a manifest lets a pod lock, register and share."""

from collections.abc import Iterator

from rdmatrain.discovery.claims.values import shown
from rdmatrain.doctor.manifest.containers import Container
from rdmatrain.doctor.manifest.define import (
    Patch,
    advice,
    fail,
    fine,
    patch,
    question,
    static_question,
    unseen,
    wants_rdma,
    warn,
    with_lock,
)
from rdmatrain.doctor.manifest.nodes import Node
from rdmatrain.doctor.manifest.quantity import mib, quantity
from rdmatrain.doctor.manifest.workloads import Manifest, Pod
from rdmatrain.doctor.model import Finding, Needs
from rdmatrain.launcher.exit_codes import NOT_PERMITTED

SHM = "/dev/shm"
# As the check of a running pod has them.
SHM_MIB, LEAST_SHM_MIB, TINY_SHM_MIB = 64, 128, 8
_LIMIT = "8 MiB with systemd's default for containerd"
_RUNTIME = "on the nodes: LimitMEMLOCK=infinity for the container runtime, and restart it"
_SIZE = "sizeLimit: 8Gi"
_VOLUME = f"volumes: [{{name: shm, emptyDir: {{medium: Memory, {_SIZE}}}}}]"
_SHM_PATCH = (
    "{" + _VOLUME + ", containers: [{name: %s, volumeMounts: [{name: shm, mountPath: /dev/shm}]}]}"
)


@question(
    "memlock",
    "memory may be locked",
    nothing="no container should have RDMA",
    known="nccl-tests#206: ibv_reg_mr_iova2 failed, Cannot allocate memory",
    exit_code=77,
)
def memlock(manifest: Manifest, needs: Needs) -> Iterator[Finding]:
    """NICs read and write locked memory only; no field of a manifest raises RLIMIT_MEMLOCK."""
    for pod in manifest.training:
        for box in pod.trainers:
            if not wants_rdma(box, needs):
                continue
            locks = box.privileged or box.capabilities & {"IPC_LOCK", "ALL"}
            if not locks:
                text = f"no IPC_LOCK: the runtime's limit counts, {_LIMIT}"
                yield warn(box.node, text, patch(box.node, _lock(box)))
            elif box.root and not _in_user_namespace(pod):
                yield fine(box.node, "root with IPC_LOCK, for whom there is no limit")
            elif box.root is None:
                yield unseen(box.node, "IPC_LOCK, which counts if the image's user is root")
            else:
                yield unseen(box.node, f"IPC_LOCK is inert: the runtime's limit counts, {_LIMIT}")


def _lock(box: Container) -> str:
    return f"{{securityContext: {{capabilities: {with_lock(box)}}}}}"


def _in_user_namespace(pod: Pod) -> bool:
    return pod.spec.get("hostUsers").text.lower() == "false"


@question(
    "ipc-lock",
    "IPC_LOCK is in effect",
    nothing="no container adds IPC_LOCK",
    known="nvidia-container-toolkit#2037: IPC_LOCK does nothing for who is not root",
    exit_code=77,
)
def ipc_lock(manifest: Manifest, _needs: Needs) -> Iterator[Finding]:
    """Capabilities that are added become effective for root only, and not in a user namespace."""
    for pod in manifest.training:
        for box in pod.trainers:
            if "IPC_LOCK" not in box.capabilities:
                continue
            place = box.node.get("securityContext", "capabilities", "add")
            if box.root is False:
                user = box.security("runAsUser")
                who = f"runAsUser {user.text}" if user.there else "runAsNonRoot"
                yield warn(place, f"IPC_LOCK is inert for {who}", _RUNTIME)
            elif _in_user_namespace(pod):
                yield warn(place, "IPC_LOCK is inert with hostUsers: false", _RUNTIME)
            elif box.root:
                yield fine(place, "IPC_LOCK, for root")
            else:
                yield unseen(place, "IPC_LOCK, which counts if the image's user is root")


@question(
    "shm",
    "/dev/shm has room for the ranks of this pod",
    nothing="there is no container",
    known="nccl-tests#143: 64 MiB of /dev/shm, and a bus error",
    exit_code=77,
)
def shm(manifest: Manifest, needs: Needs) -> Iterator[Finding]:
    """Ranks of one pod exchange data in /dev/shm, which has 64 MiB in a container unless told."""
    for pod in manifest.training:
        for box in pod.trainers:
            found = box.mounted_at(SHM)
            if pod.spec.get("hostIPC").true:
                yield fine(pod.spec.get("hostIPC"), f"{SHM} of the host")
            elif found is not None:
                yield _judged(box, *found, needs.ranks or box.gpus or 1)
            elif not pod.whole:
                yield unseen(box.node, f"no {SHM} here; its TrainJob may add one")
            else:
                change = _SHM_PATCH % shown(box.node.get("name").text, 63)
                taken = "shm" in pod.volumes
                fix = advice(pod.spec, change) if taken else patch(pod.spec, change, guess=_SIZE)
                # NCCL's ranks of one pod cannot do without it; others' DataLoaders may.
                judged = fail if box.gpus > 1 else warn
                yield judged(box.node, f"no volume at {SHM}, which has 64 MiB without one", fix)


def _judged(box: Container, mount: Node, volume: Node, ranks: int) -> Finding:
    directory = volume.get("emptyDir")
    if not volume.there:
        text = f"{SHM} is of volume {mount.get('name').text}, which is not there"
        return fail(mount, text, patch(box.pod.spec, f"{{{_VOLUME}}}", guess=_SIZE))
    if mount.get("readOnly").true:
        return fail(mount, f"{SHM} is read-only", patch(mount, "{readOnly: null}"))
    if not directory.there:
        return unseen(mount, f"{SHM} is a volume that is no emptyDir")
    if directory.get("medium").text != "Memory":
        text = f"{SHM} is on the disk of the node"
        return warn(directory, text, patch(directory, "{medium: Memory}"))
    return _sized(box, mount, directory, ranks)


def _sized(box: Container, mount: Node, directory: Node, ranks: int) -> Finding:
    limit = directory.get("sizeLimit")
    size = quantity(limit)
    if limit.there and size is None:
        return fail(limit, f"{shown(limit.text, 40)} is no quantity", _resized(directory))
    need = max(SHM_MIB * ranks, LEAST_SHM_MIB)
    if size is not None and mib(size) < need:
        text = f"{SHM} has {mib(size)} MiB, and {ranks} ranks need about {need}"
        judged = fail if box.gpus > 1 or mib(size) < TINY_SHM_MIB else warn
        return judged(limit, text, _resized(directory))
    told = f"{SHM} is memory, " + (f"of {limit.text}" if limit.there else "without a limit")
    return fine(mount, told)


def _resized(directory: Node) -> Patch:
    return patch(directory, f"{{{_SIZE}}}", guess=_SIZE)


@question(
    "memory-cgroup",
    "the memory limit has room for shared and registered memory",
    nothing="no container has a memory limit",
    exit_code=77,
)
def memory_cgroup(manifest: Manifest, needs: Needs) -> Iterator[Finding]:
    """Files in /dev/shm and registered memory count against the container's limit."""
    for pod in manifest.training:
        for box in pod.trainers:
            limit = box.node.get("resources", "limits", "memory")
            size = quantity(limit)
            if size is None:
                if limit.there:
                    yield fail(
                        limit, f"{shown(limit.text, 40)} is no quantity", advice(limit, "SIZE")
                    )
                continue
            ranks = needs.ranks or box.gpus or 1
            needed = needs.register_mib * ranks if wants_rdma(box, needs) else 0
            shared_mib = _shared_mib(box)
            least = f"{(needed + shared_mib + 4096) // 1024 + 1}Gi"
            fix = patch(limit, least, guess=f"memory: {least}")
            if mib(size) < needed:
                text = f"{mib(size)} MiB, less than the {needed} that {ranks} ranks register"
                yield fail(limit, text, fix)
            elif mib(size) < needed + shared_mib:
                text = f"{mib(size)} MiB, less than {SHM} with {shared_mib} and {needed} registered"
                yield warn(limit, text, fix)
            else:
                yield fine(limit, f"{mib(size)} MiB, {SHM} with {shared_mib}, {needed} registered")


def _shared_mib(box: Container) -> int:
    """Return how large its /dev/shm may become, as far as it is said."""
    found = box.mounted_at(SHM)
    size = quantity(found[1].get("emptyDir", "sizeLimit")) if found else None
    return mib(size) if size is not None else 0


@static_question(
    "hugepages",
    "huge pages are asked for as Kubernetes wants it",
    nothing="no container asks for huge pages",
    exit_code=NOT_PERMITTED,
)
def hugepages(manifest: Manifest, _needs: Needs) -> Iterator[Finding]:
    """Kubernetes refuses pods whose requests and limits differ, or with huge pages alone."""
    for pod in manifest.pods:
        asked = [box for box in pod.everything if any(map(_huge, box.resources))]
        for box in asked:
            yield _huge_pages(box)
        for volume in pod.volumes.values():
            directory = volume.get("emptyDir")
            if directory.get("medium").text.startswith("HugePages") and not asked:
                text = "a volume of huge pages, and no container asks for any"
                fix = "{resources: {limits: {hugepages-2Mi: 1Gi}, requests: {hugepages-2Mi: 1Gi}}}"
                yield fail(directory, text, advice(pod.trainers[0].node, fix))


def _huge(name: str) -> bool:
    return name.startswith("hugepages-")


def _huge_pages(box: Container) -> Finding:
    resources = box.node.get("resources")
    for name in filter(_huge, box.resources):
        limit, request = resources.get("limits", name), resources.get("requests", name)
        if not limit.there or (request.there and quantity(request) != quantity(limit)):
            text = f"{name} has another request than limit"
            same = f"{{{name}: {shown((limit if limit.there else request).text, 40)}}}"
            fix = f"{{resources: {{limits: {same}, requests: {same}}}}}"
            return fail(resources, text, patch(box.node, fix))
    if not {"cpu", "memory"} & set(box.resources):
        fix = advice(box.node, "{resources: {limits: {cpu: N, memory: SIZE}}}")
        return fail(resources, "huge pages without CPUs and memory", fix)
    return fine(resources, "huge pages have a limit")
