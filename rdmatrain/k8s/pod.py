"""The template of a job's pods: the same for all targets, but for what a target wants."""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field

from rdmatrain.doctor.manifest.workloads import HOST_REASON
from rdmatrain.k8s.cluster import Cluster
from rdmatrain.k8s.container import (
    CHECKPOINTS,
    PODINFO,
    PREFLIGHT,
    SCRATCH,
    SECRET,
    SHM,
    data_volume,
    has_secret,
    note_trainer,
    preflight,
    quantity,
    resources,
    trainer,
)
from rdmatrain.k8s.devices import pod_devices
from rdmatrain.k8s.notes import Notes
from rdmatrain.k8s.parts import Note, Object
from rdmatrain.k8s.scheduling import note_scheduling, scheduling
from rdmatrain.k8s.spec import ETHERNET, SHARED, SRIOV, Network, Spec

CONTAINER = "trainer"
MULTUS = "k8s.v1.cni.cncf.io/networks"
SAFE_TO_EVICT = "cluster-autoscaler.kubernetes.io/safe-to-evict"
# What the launcher takes after the workers' grace: to kill, to say farewell, to write why.
LAUNCHER_END_S = 30
# The Secret's files belong to root and the pod's fsGroup.
GROUP_MAY_READ = 0o440


@dataclass(frozen=True)
class Wants:
    """What a target wants of the template.

    Attributes:
        owner: how notes call the template: ``Job/llm spec.template``.
        container: name of the container that trains; some operators demand one.
        restart_policy: of the pod; empty: the operator sets it.
        labels, annotations: of the template's metadata, besides the spec's own.
        env: variables besides the spec's own, as entries of ``env``: the restart epoch, say.
        run_options: options of ``rdmatrain run`` that the target's pods need, such as ``--nnodes``
            where the system tells nobody.
        pod: fields of the pod's spec: ``schedulerName``, ``subdomain``, ``schedulingGroup``…

    """

    owner: str
    container: str = CONTAINER
    restart_policy: str = "Never"
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    env: tuple[Object, ...] = ()
    run_options: tuple[str, ...] = ()
    pod: Object = field(default_factory=dict)


@dataclass(frozen=True)
class Template:
    """A template, ``{"metadata": …, "spec": …}``, and the notes of the fields in it."""

    object: Object
    notes: tuple[Note, ...]


def pod_template(spec: Spec, cluster: Cluster, wants: Wants) -> Template:
    """Return the template of a pod of this job.

    Raises:
        SettingError: the command does not start ``rdmatrain run``.

    """
    del cluster  # Pods are the same in all versions that are rendered; a target adds what is not.
    fields, annotations, extended = pod_devices(spec)
    needs = resources(spec, extended, fields.get("container", {}).get("claims", []))
    made = trainer(spec, wants.container, wants.run_options, wants.env, needs)
    pod: Object = {
        **_identity(spec, wants),
        "volumes": _volumes(spec),
        "containers": [made],
        **{key: value for key, value in fields.items() if key != "container"},
        **wants.pod,
        **scheduling(spec, wants.pod.get("affinity", {})),
    }
    if spec.preflight:
        pod["initContainers"] = [preflight(spec, wants.env, deepcopy(needs))]
    metadata = {
        "labels": {**spec.labels, **wants.labels},
        "annotations": {
            SAFE_TO_EVICT: "false",
            **_reason(spec),
            **annotations,
            **wants.annotations,
        },
    }
    notes = Notes(wants.owner)
    _note_metadata(spec, metadata, notes)
    _note_pod(spec, pod, notes)
    note_trainer(spec, made, notes)
    return Template({"metadata": metadata, "spec": pod}, notes.all())


def termination_grace(spec: Spec) -> int:
    """Return the seconds that a pod has from SIGTERM to SIGKILL, longer than its launcher takes."""
    return spec.grace_s + LAUNCHER_END_S


def _reason(spec: Spec) -> dict[str, str]:
    network = spec.network
    return {HOST_REASON: network.host_network_reason} if network.host_network else {}


def _identity(spec: Spec, wants: Wants) -> Object:
    """Return who the pod runs as, and how it is started and stopped."""
    pod: Object = {
        "terminationGracePeriodSeconds": termination_grace(spec),
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": spec.user,
            "runAsGroup": spec.user,
            "fsGroup": spec.user,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    }
    if wants.restart_policy:
        pod["restartPolicy"] = wants.restart_policy
    if spec.priority:
        pod["priorityClassName"] = spec.priority
    if spec.pull_secrets:
        pod["imagePullSecrets"] = [{"name": each} for each in spec.pull_secrets]
    if spec.network.host_network:
        pod["hostNetwork"] = True
        pod["dnsPolicy"] = "ClusterFirstWithHostNet"
    return pod


def _volumes(spec: Spec) -> list[Object]:
    shm = {"medium": "Memory", "sizeLimit": quantity(spec.shm_bytes)}
    items = [
        {"path": each, "fieldRef": {"fieldPath": f"metadata.{each}"}}
        for each in ("annotations", "labels")
    ]
    volumes: list[Object] = [
        {"name": SHM, "emptyDir": shm},
        {"name": SCRATCH, "emptyDir": {}},
        {"name": PODINFO, "downwardAPI": {"items": items}},
    ]
    if has_secret(spec):
        secret = {"secretName": spec.secret_name, "defaultMode": GROUP_MAY_READ}
        volumes.append({"name": SECRET, "secret": secret})
    claims = {CHECKPOINTS: spec.checkpoint.claim} if spec.checkpoint.claim else {}
    claims |= {data_volume(place): claim for place, claim in enumerate(spec.volumes.values())}
    return volumes + [
        {"name": name, "persistentVolumeClaim": {"claimName": claim}}
        for name, claim in claims.items()
    ]


def _note_metadata(spec: Spec, metadata: Object, notes: Notes) -> None:
    labels, annotations = metadata["labels"], metadata["annotations"]
    why = "Service, NetworkPolicy and PodDisruptionBudget know the job's pods by them."
    notes.add("name", "metadata.labels", {key: labels[key] for key in spec.labels}, why)
    if len({*spec.network.networks}) > 1 and spec.network.devices != SHARED:
        why = (
            "Any function may end up in any of these networks, as all are of one resource: their "
            "subnets must reach each other."
        )
        notes.add("network.networks", "networks", list(spec.network.networks), why, urgent=True)
    notes.add(
        "network.networks",
        f"metadata.annotations[{MULTUS}]",
        annotations.get(MULTUS, "none"),
        "A network for each device that is requested, in this order: net1, net2, and so on."
        if MULTUS in annotations
        else "No network but the pods' own is attached by Multus.",
    )
    if MULTUS in annotations and spec.network.devices == SRIOV:
        _note_mtu(spec.network, notes)
    why = "The autoscaler does not empty a node under a pod whose loss stops all others."
    notes.add("", f"metadata.annotations[{SAFE_TO_EVICT}]", annotations[SAFE_TO_EVICT], why)


def _note_mtu(network: Network, notes: Notes) -> None:
    """Say that packets may be small, which costs bandwidth and nobody is told."""
    if network.link == ETHERNET and not network.mtu:
        why = (
            "Without network.mtu functions have Ethernet's 1500 bytes, and packets of RoCE 1024, "
            "unless whoever makes their networks sees to it: give 4220 or more, up to what the "
            "fabric has."
        )
        notes.add("network.mtu", "networks", list(network.networks), why, urgent=True)


def _note_pod(spec: Spec, pod: Object, notes: Notes) -> None:
    notes.add(
        "grace_s",
        "spec.terminationGracePeriodSeconds",
        pod["terminationGracePeriodSeconds"],
        f"The workers' time for a checkpoint, and {LAUNCHER_END_S} s in which the launcher ends "
        "what is left, says farewell to its peers and writes why.",
    )
    why = "Nobody is root; volumes belong to this group, so that it can read the Secret."
    notes.add("user", "spec.securityContext", pod["securityContext"], why)
    why = "Training asks nothing of the cluster's API."
    notes.add("", "spec.automountServiceAccountToken", False, why)
    why = "A namespace with many Services would fill the environment with their variables."
    notes.add("", "spec.enableServiceLinks", False, why)
    _note_named(spec, notes)
    note_scheduling(spec, notes)
    _note_host_network(spec, notes)
    _note_volumes(spec, notes)
    why = "The doctor has what the trainer will: the same devices, limits and mounts."
    if not spec.preflight:
        why = "Nobody asks the doctor before the job."
    notes.add("preflight", "spec.initContainers", [PREFLIGHT] if spec.preflight else [], why)


def _note_named(spec: Spec, notes: Notes) -> None:
    """Note what the pods name, and nobody renders."""
    pulled, path = ", ".join(spec.pull_secrets), "spec.imagePullSecrets"
    why = (
        f"What the image is pulled with is to be there, {pulled}: kubectl -n {spec.namespace} "
        "create secret docker-registry."
    )
    if not pulled:
        why = "The nodes may pull the image."
    notes.add("pull_secrets", path, pulled or "none", why, urgent=bool(pulled))
    named, path = spec.priority, "spec.priorityClassName"
    why = f"The PriorityClass {named} is to be there, or no pod is made."
    if not named:
        why = "The cluster's default."
    notes.add("priority", path, named or "none", why, urgent=bool(named))


def _note_host_network(spec: Spec, notes: Notes) -> None:
    network, path = spec.network, "spec.hostNetwork"
    if not network.host_network:
        why = "The pods have network namespaces of their own, and policies apply to them."
        notes.add("network.host_network", path, False, why)
        return
    reason = network.host_network_reason or "the spec asks for it"
    why = (
        "The pods see the host's network, no NetworkPolicy guards them, and their ports are the "
        f"node's. The spec's reason: {reason}"
    )
    notes.add("network.host_network", path, True, why, urgent=True)
    notes.add("network.host_network_reason", path, True, reason)


def _note_volumes(spec: Spec, notes: Notes) -> None:
    why = "Ranks of a node exchange data there; it counts as memory, and is 64 MiB if not said."
    notes.add("shm_bytes", "spec.volumes[shm].emptyDir.sizeLimit", quantity(spec.shm_bytes), why)
    why = "A volume is refreshed, so that what Multus and the scheduler add later is seen."
    notes.add("", "spec.volumes[podinfo].downwardAPI.items", ["annotations", "labels"], why)
    named = spec.secret_name if has_secret(spec) else "none"
    why = "A file, as variables show up in logs; its group may read it, and nobody else."
    if not has_secret(spec):
        why = "One node has nobody to prove anything to."
    notes.add("secret.name", "spec.volumes[secret].secret.secretName", named, why)
    _note_data(spec, notes)
    claim = spec.checkpoint.claim
    path = "spec.volumes[checkpoints].persistentVolumeClaim.claimName"
    why = "All pods write their shards there." if claim else "No volume: checkpoints go elsewhere."
    notes.add("checkpoint.claim", path, claim or "none", why)
    where = spec.checkpoint.path if claim else "none"
    why = "Where the script finds it."
    notes.add("checkpoint.path", "spec.containers[].volumeMounts[checkpoints]", where, why)


def _note_data(spec: Spec, notes: Notes) -> None:
    made = {spec.checkpoint.claim} if spec.checkpoint.size_bytes else set()
    missing = ", ".join(each for each in dict.fromkeys(spec.volumes.values()) if each not in made)
    why = "No volume besides: the image has all that the script reads."
    if spec.volumes:
        why = "The claim of the checkpoints, which is rendered."
    if missing:
        why = f"The volumes' claims are to be there for all nodes, or no pod starts: {missing}."
    path = "spec.containers[].volumeMounts[data-*]"
    notes.add("volumes", path, dict(spec.volumes), why, urgent=bool(missing))
