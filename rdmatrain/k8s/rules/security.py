"""What Pod Security's ``baseline`` wants, with IPC_LOCK as the one addition, and secrets."""

import json
import re
from collections.abc import Iterator
from posixpath import normpath

from rdmatrain.discovery.claims.values import shown
from rdmatrain.doctor.manifest.checks.network import no_host_network, secret_as_file
from rdmatrain.doctor.manifest.containers import Container
from rdmatrain.doctor.manifest.define import (
    addition,
    advice,
    fail,
    fine,
    host_nodes,
    patch,
    question,
    unseen,
    warn,
)
from rdmatrain.doctor.manifest.nodes import Node
from rdmatrain.doctor.manifest.workloads import HOST_REASON, Manifest, Pod
from rdmatrain.doctor.model import Finding, Needs
from rdmatrain.k8s.rules.selecting import namespace
from rdmatrain.launcher.exit_codes import NOT_PERMITTED

# What baseline lets a container add, and IPC_LOCK, which root needs for RDMA.
_ALLOWED = frozenset(
    ["AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "MKNOD",
     "NET_BIND_SERVICE", "SETFCAP", "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT", "IPC_LOCK"]
)  # fmt: skip
_OF_NODES = "DaemonSet"
_NO_CONTAINER = "there is no container"
_SECRET = re.compile(r"(^|_)(SECRET|TOKEN|PASSWORD|PASSWD|API_KEY|ACCESS_KEY)$")
_IN_MEMORY = "{hostPath: null, emptyDir: {medium: Memory}}"
# Folders of the node from where it is ruled.
_RULES = ("/dev", "/proc", "/sys", "/etc", "/root", "/boot", "/run", "/var/run", "/var/lib/kubelet")


@question(
    "pod-security",
    "Pod Security lets the pods in",
    nothing=_NO_CONTAINER,
    exit_code=NOT_PERMITTED,
)
def pod_security(manifest: Manifest, _needs: Needs) -> Iterator[Finding]:
    """Namespaces that enforce baseline refuse what reaches into the node."""
    for pod in manifest.pods:
        if pod.kind == _OF_NODES:
            yield unseen(pod.spec, "what a node is served by may need it")
            continue
        found = [*_of_pod(pod), *(each for box in pod.everything for each in _of_container(box))]
        yield from found
        if not found:
            yield fine(pod.spec, "nothing of the node")


def _of_pod(pod: Pod) -> Iterator[Finding]:
    for name in ("hostPID", "hostIPC"):
        if pod.spec.get(name).true:
            text = f"{name}: the pod sees what belongs to others of the node"
            yield fail(pod.spec.get(name), text, advice(pod.spec, f"{{{name}: null}}"))
    asked = pod.trainers if pod in pod.manifest.training else ()
    nodes = {mount.get("name").text for box in asked if (mount := host_nodes(box))}
    for name, volume in pod.volumes.items():
        path = volume.get("hostPath", "path")
        if path.there and name not in nodes:  # of those device-granted tells
            yield _of_node(volume, path)


def _of_node(volume: Node, path: Node) -> Finding:
    """Judge a path of the node: its devices, all of it, and what rules it are nobody's."""
    text, real = f"{shown(path.text, 60)} of the node", normpath(path.text)
    if real == "/dev/shm":
        return warn(path, text, patch(volume, _IN_MEMORY))
    if real in {"/", "//"} or real.startswith(_RULES) or real.endswith(".sock"):
        return fail(path, text, "remove the volume and its mounts")
    return warn(path, text, advice(volume, "{hostPath: null, persistentVolumeClaim: ...}"))


def _of_container(box: Container) -> Iterator[Finding]:
    if "IPC_LOCK" in box.capabilities:
        text = "IPC_LOCK, which a namespace refuses that enforces baseline or restricted"
        yield unseen(box.node.get("securityContext", "capabilities", "add"), text)
    too_much = sorted(box.capabilities - _ALLOWED)
    if too_much:
        place = box.node.get("securityContext", "capabilities")
        kept = [name for name in place.get("add").texts() if _bare(name) in _ALLOWED]
        text = f"adds {', '.join(shown(each, 40) for each in too_much)}: RDMA needs IPC_LOCK alone"
        yield fail(place, text, advice(place, f"{{add: {json.dumps(kept or ['IPC_LOCK'])}}}"))
    for port in box.node.get("ports").items():
        if port.get("hostPort").number and not box.pod.host_network:
            text = f"hostPort {port.get('hostPort').text} is the node's"
            yield warn(port, text, advice(port, "{hostPort: null}"))
    profile = box.security("seccompProfile")
    if profile.get("type").text == "Unconfined":
        text = "Unconfined: every system call is allowed"
        yield warn(profile, text, advice(profile, "{type: RuntimeDefault}"))


@question(
    "host-network-reason",
    "who is in the network of a node has a reason",
    nothing="no pod is in the network of its node",
    exit_code=NOT_PERMITTED,
)
def host_network_reason(manifest: Manifest, _needs: Needs) -> Iterator[Finding]:
    """In its node's network no NetworkPolicy guards a pod: one that has to be there says why."""
    for pod in manifest.pods:
        reason = pod.template.get("metadata", "annotations", HOST_REASON)
        place = pod.spec.get("hostNetwork")
        if pod.host_network and pod.kind == _OF_NODES:
            yield unseen(place, "what a node is served by may need it")
        elif pod.host_network and reason.text:
            yield fine(place, f"hostNetwork: {shown(reason.text, 200)}")
        elif pod.host_network:
            text = f"hostNetwork, and no annotation {HOST_REASON} says why"
            yield fail(place, text, no_host_network(pod))


def _bare(name: str) -> str:
    return name.upper().removeprefix("CAP_")


@question(
    "privilege-escalation",
    "no container gets more rights than it starts with",
    nothing=_NO_CONTAINER,
    exit_code=NOT_PERMITTED,
)
def privilege_escalation(manifest: Manifest, _needs: Needs) -> Iterator[Finding]:
    """Pod Security's restricted wants allowPrivilegeEscalation: false, which RDMA can do with."""
    for pod in manifest.training:
        for box in pod.everything:
            place = box.node.get("securityContext", "allowPrivilegeEscalation")
            if place.there and not place.true:
                yield fine(place, "not allowed")
            elif not box.privileged:
                text = "allowPrivilegeEscalation is not false"
                yield warn(box.node, text, _no_escalation(box))


def _no_escalation(box: Container) -> str:
    change = "{securityContext: {allowPrivilegeEscalation: false}}"
    if "SYS_ADMIN" in box.capabilities:
        return advice(box.node, f"{change}, and no SYS_ADMIN, beside which Kubernetes refuses it")
    return patch(box.node, change)


@question(
    "service-account",
    "workers cannot speak for the pod to the cluster",
    nothing=_NO_CONTAINER,
    exit_code=NOT_PERMITTED,
)
def service_account(manifest: Manifest, _needs: Needs) -> Iterator[Finding]:
    """Training asks the API server for nothing, and its token is there for whoever gets in."""
    for pod in manifest.training:
        place = pod.spec.get("automountServiceAccountToken")
        if place.there and not place.true:
            yield fine(place, "no token")
        elif not pod.spec.get("serviceAccountName").there:
            text = "the token of the default account is mounted"
            yield warn(pod.spec, text, patch(pod.spec, "{automountServiceAccountToken: false}"))


@question(
    "secret-plain",
    "secrets are in Secrets",
    nothing="no container is told a secret",
    exit_code=NOT_PERMITTED,
)
def secret_plain(manifest: Manifest, _needs: Needs) -> Iterator[Finding]:
    """Whoever may see a pod sees its variables: Secrets have rights of their own."""
    for pod in manifest.pods:
        for box in pod.everything:
            for entry in box.node.get("env").items():
                if _SECRET.search(entry.get("name").text):
                    yield from _told(box, entry)


def _told(box: Container, entry: Node) -> Iterator[Finding]:
    name, value = entry.get("name").text, entry.get("value")
    if not value.text:
        yield fine(entry, f"{shown(name, 60)} is in a Secret")
        return
    pod, gang = box.pod, name == "RDMATRAIN_SECRET"
    key = "secret" if gang else name.lower().replace("_", "-")
    kept = f"{pod.name or 'train'}-{key}"
    reference = json.dumps({"secretKeyRef": {"name": kept, "key": key}})
    by_name = patch(entry, f"{{value: null, valueFrom: {reference}}}")
    text = f"{shown(name, 60)} is there for all to read"
    names = {each.get("metadata", "name").text for each in pod.manifest.of_kind("Secret")}
    if kept in names:  # and may hold another value
        yield warn(entry, text, advice(entry, "a reference to a Secret"))
        return
    yield warn(entry, text, secret_as_file(box) if gang else by_name)
    space = namespace(pod.document)
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": kept, **({"namespace": space} if space else {})},
        "stringData": {key: value.text},
    }
    yield warn(entry, text, addition(pod.document, json.dumps(secret), f"add Secret {kept}"))
