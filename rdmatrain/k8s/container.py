"""The container that trains, and the one that asks the doctor before it."""

from collections.abc import Iterable, Mapping
from copy import deepcopy
from typing import Any

from rdmatrain.k8s.devices.multus import attached
from rdmatrain.k8s.notes import Notes
from rdmatrain.k8s.parts import Object
from rdmatrain.k8s.run_line import run_line
from rdmatrain.k8s.spec import DRA, GIB, MIB, TCP, Spec

PREFLIGHT = "preflight"
METRICS = "metrics"
SHM, PODINFO, SECRET, SCRATCH, CHECKPOINTS = "shm", "podinfo", "secret", "tmp", "checkpoints"
SECRET_FOLDER, SECRET_KEY = "/etc/rdmatrain", "secret"
VERBS = "verbs"
# Checks of the doctor that an initContainer would fail by being early: node 0's pod may not have
# been started, nor its name be in DNS. The launcher waits for that.
OF_PEERS = ("dns-leader", "rendezvous-port", "clock")
# Where rdmatrain looks for the pod's annotations and labels first.
PODINFO_FOLDER = "/etc/podinfo"


def quantity(size: int) -> str:
    """Return bytes as Kubernetes writes them: ``16Gi``."""
    for unit, suffix in ((GIB, "Gi"), (MIB, "Mi"), (1 << 10, "Ki")):
        if size % unit == 0:
            return f"{size // unit}{suffix}"
    return str(size)


def data_volume(place: int) -> str:
    """Return what the pod calls a claim of ``spec.volumes``, by its place there."""
    return f"data-{place}"


def has_secret(spec: Spec) -> bool:
    """Tell whether its pods mount a Secret: a job of one node has nobody to prove anything to."""
    return spec.nodes > 1 or spec.secret.create or bool(spec.secret.name)


def resources(spec: Spec, extended: Mapping[str, int], claims: list[Object]) -> Object:
    """Return the resources of a container: what it requests is what it may use.

    Args:
        spec: of the job.
        extended: resources of device plugins by name, GPUs and VFs.
        claims: of DRA, by their names in the pod.

    """
    amounts: dict[str, int | str] = {"cpu": spec.cpus, "memory": quantity(spec.memory_bytes)}
    amounts.update(extended)
    found: Object = {"requests": dict(amounts), "limits": dict(amounts)}
    if claims:
        found["claims"] = [dict(each) for each in claims]
    return found


def trainer(
    spec: Spec, name: str, run_options: Iterable[str], env: Iterable[Object], needs: Object
) -> Object:
    """Return the container that trains.

    Args:
        spec: of the job.
        name: of the container.
        run_options: more options of ``rdmatrain run``.
        env: more variables, as entries of ``env``.
        needs: its ``resources``.

    """
    made: Object = {
        "name": name,
        "image": spec.image,
        "command": run_line(spec.command).with_options([*run_options, *_options(spec)]),
        **_common(spec, env, needs),
    }
    if spec.monitoring.port:
        port = {"name": METRICS, "containerPort": spec.monitoring.port, "protocol": "TCP"}
        made["ports"] = [port]
    return made


def preflight(spec: Spec, env: Iterable[Object], needs: Object) -> Object:
    """Return the initContainer that asks the doctor, with all that the trainer will have."""
    return {
        "name": PREFLIGHT,
        "image": spec.image,
        "command": run_line(spec.command).doctor(_questions(spec)),
        **_common(spec, env, needs),
    }


def _options(spec: Spec) -> Iterable[str]:
    # Options, not PET_* variables: operators reserve some of those, and the command line wins.
    yield from ("--nproc-per-node", str(spec.nproc))
    yield from ("--max-restarts", str(spec.max_restarts))
    if spec.monitoring.port:
        yield from ("--metrics-port", str(spec.monitoring.port))


def _questions(spec: Spec) -> Iterable[str]:
    """Yield the doctor's options: what the job needs of this pod, and nothing of its peers."""
    yield from ("--transport", TCP if spec.network.devices == TCP else VERBS)
    yield from ("--ranks", str(spec.nproc))
    if spec.checkpoint.claim:
        yield from ("--checkpoint-dir", spec.checkpoint.path)
    for each in OF_PEERS:
        yield from ("--skip", each)


def _common(spec: Spec, env: Iterable[Object], needs: Object) -> Object:
    """Return what both containers have."""
    capabilities: Object = {"drop": ["ALL"]}
    if spec.ipc_lock:
        capabilities["add"] = ["IPC_LOCK"]
    return {
        "env": environment(spec, env),
        "resources": needs,
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": capabilities,
            "readOnlyRootFilesystem": True,
        },
        "terminationMessagePath": "/dev/termination-log",
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": _mounts(spec),
    }


def environment(spec: Spec, more: Iterable[Object] = ()) -> list[Object]:
    """Return the entries of ``env``: rdmatrain's, the user's, and the target's, which win."""
    own: dict[str, str] = {
        # The root file system is read-only, and libraries keep caches at home.
        "HOME": "/tmp",
        "RDMATRAIN_GRACE": str(spec.grace_s),
        "RDMATRAIN_JOIN_TIMEOUT": str(spec.join_timeout_s),
    }
    if spec.network.devices != TCP:
        own["RDMATRAIN_REQUIRE"] = VERBS
    if has_secret(spec):
        own["RDMATRAIN_SECRET_FILE"] = f"{SECRET_FOLDER}/{SECRET_KEY}"
    entries: dict[str, Object] = {
        name: {"name": name, "value": value} for name, value in {**own, **spec.env}.items()
    }
    entries.update({each["name"]: deepcopy(each) for each in more})
    return list(entries.values())


def _mounts(spec: Spec) -> list[Object]:
    mounts: list[Object] = [
        {"name": SHM, "mountPath": "/dev/shm"},
        {"name": SCRATCH, "mountPath": "/tmp"},
        {"name": PODINFO, "mountPath": PODINFO_FOLDER, "readOnly": True},
    ]
    if has_secret(spec):
        mounts.append({"name": SECRET, "mountPath": SECRET_FOLDER, "readOnly": True})
    if spec.checkpoint.claim:
        mounts.append({"name": CHECKPOINTS, "mountPath": spec.checkpoint.path})
    return mounts + [
        {"name": data_volume(place), "mountPath": path} for place, path in enumerate(spec.volumes)
    ]


def note_trainer(spec: Spec, made: Object, notes: Notes) -> None:
    """Note what the fields of the spec became in the container that trains."""
    path = f"spec.containers[{made['name']}]"
    for note in (_note_program, _note_resources, _note_env, _note_security):
        note(spec, made, notes, path)


def _note_program(spec: Spec, made: Object, notes: Notes, path: str) -> None:
    notes.add("image", f"{path}.image", spec.image, "What the pods run.")
    notes.add(
        "command",
        f"{path}.command",
        made["command"],
        "Exec form: a shell would swallow SIGTERM, and drop variables with a dash, such as the "
        "device plugin's PCIDEVICE_*.",
    )
    notes.add(
        "workers",
        f"{path}.command --nproc-per-node",
        spec.nproc,
        "One process for each GPU where nothing else is said; on the command line, which wins over "
        "what an operator sets.",
    )
    notes.add(
        "max_restarts",
        f"{path}.command --max-restarts",
        spec.max_restarts,
        "The launcher starts workers again in place, which keeps the devices and takes seconds.",
    )
    if spec.monitoring.port:
        why = "The launcher serves the metrics of its node there."
        notes.add("monitoring.port", f"{path}.ports[{METRICS}]", spec.monitoring.port, why)
    else:
        notes.add("monitoring.port", f"{path}.ports", "none", "No metrics are served.")


def _note_resources(spec: Spec, made: Object, notes: Notes, path: str) -> None:
    limits = made["resources"]["limits"]
    why = "Whole CPUs, requests equal to limits: Guaranteed, so that the kubelet pins them."
    notes.add("cpus", f"{path}.resources.limits.cpu", limits["cpu"], why)
    notes.add(
        "memory_bytes",
        f"{path}.resources.limits.memory",
        limits["memory"],
        "All of the pod, with what lies in /dev/shm.",
    )
    gpus, nics = spec.gpu_resource, spec.network.resource
    why = "Workers get the GPUs of this container and no others." if spec.gpus else "CPUs train."
    notes.add("gpus", *_given(gpus, spec.gpus, made["resources"], path), why)
    _note_name("gpu_resource", gpus, limits, notes, f"{path}.resources.limits")
    given = _given(nics, spec.network.vfs, made["resources"], path)
    notes.add("network.vfs", *given, _why_so_many(spec))
    _note_name("network.resource", nics, limits, notes, f"{path}.resources.limits")


def _given(name: str, count: int, needs: Object, path: str) -> tuple[str, Any]:
    """Return where a container asks for devices, and what it says there."""
    if name not in needs["limits"] and count and "claims" in needs:
        return f"{path}.resources.claims", needs["claims"]
    return f"{path}.resources.limits[{name}]", needs["limits"].get(name, 0)


def _why_so_many(spec: Spec) -> str:
    network = spec.network
    if network.devices == TCP:
        return "TCP over the pods' own network needs no device."
    if network.devices == DRA:
        return "The claim has a request for each of them."
    if attached(network, network.vfs):
        return "As many as the networks of the pod's annotation, or Multus does not attach them."
    return "No network is attached to them: the pod uses them as the node has them."


def _note_name(field: str, name: str, limits: Object, notes: Notes, path: str) -> None:
    why = "By this name the device plugin hands them out."
    if name not in limits:
        why = "Nothing is asked of a device plugin: a claim of DRA has them, or there are none."
    notes.add(field, path, name if name in limits else "none", why)


def _note_env(spec: Spec, made: Object, notes: Notes, path: str) -> None:
    values = {each["name"]: each.get("value", "") for each in made["env"]}
    notes.add("env", f"{path}.env", sorted(spec.env), "The workers inherit them.")
    notes.add(
        "network.devices",
        f"{path}.env[RDMATRAIN_REQUIRE]",
        values.get("RDMATRAIN_REQUIRE", "unset"),
        "With tcp alone there is nothing to demand."
        if spec.network.devices == TCP
        else "A job that was promised RDMA fails rather than train over TCP unnoticed.",
    )
    why = "How long the gang may take to be complete, before the launcher ends with 200."
    notes.add("join_timeout_s", f"{path}.env[RDMATRAIN_JOIN_TIMEOUT]", spec.join_timeout_s, why)
    why = "So long the workers have for a checkpoint after SIGTERM."
    notes.add("grace_s", f"{path}.env[RDMATRAIN_GRACE]", spec.grace_s, why)
    why = "The root file system is read-only; caches and logs go to an emptyDir."
    notes.add("", f"{path}.env[HOME]", values["HOME"], why)


def _note_security(spec: Spec, made: Object, notes: Notes, path: str) -> None:
    context = made["securityContext"]
    notes.add(
        "ipc_lock",
        f"{path}.securityContext.capabilities",
        context["capabilities"],
        f"Inert for uid {spec.user}: raise LimitMEMLOCK of the container runtime, or give "
        "ipc-lock: false for Pod Security restricted, which refuses it, as baseline does."
        if spec.ipc_lock
        else "Nothing is added, as Pod Security baseline and restricted want it: LimitMEMLOCK of "
        "the container runtime has to be high enough.",
    )
    why = "Nothing in the image is written to; what needs a place has a volume."
    notes.add("", f"{path}.securityContext.readOnlyRootFilesystem", True, why)
    why = "The launcher writes why it ended there, and Kubernetes shows it in the pod's status."
    notes.add("", f"{path}.terminationMessagePath", made["terminationMessagePath"], why)
