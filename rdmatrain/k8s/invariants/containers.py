"""Rules of containers: what they run, what they may, what they get."""

import posixpath
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from rdmatrain.k8s.invariants.view import Box, View, amount

SHELLS = frozenset({"sh", "bash", "dash", "ash", "zsh", "busybox"})
# What containers may have that Pod Security baseline does not give.
ALLOWED = frozenset({"IPC_LOCK"})
SECRET_VARIABLES = frozenset({"RDMATRAIN_SECRET_FILE", "RDMATRAIN_SECRET"})
PORT_NAME = 15


def exec_form(view: View) -> Iterator[str]:
    """Commands are lists of texts, and start no shell."""
    for box in view.boxes:
        for key in ("command", "args"):
            words = box.raw.get(key)
            if words is None:
                continue
            if not isinstance(words, list) or not all(isinstance(each, str) for each in words):
                yield f"{box.where}.{key}: {words!r} is no list of texts"
            elif words and posixpath.basename(words[0]) in SHELLS:
                yield f"{box.where}.{key}: {words[0]} is a shell, which swallows SIGTERM"


def security(view: View) -> Iterator[str]:
    """Nothing is privileged, and no container may become more than it is."""
    for box in view.boxes:
        context = box.raw.get("securityContext") or {}
        if context.get("privileged"):
            yield f"{box.where}.securityContext: privileged"
        if context.get("allowPrivilegeEscalation") is not False:
            yield f"{box.where}.securityContext: allowPrivilegeEscalation is not false"
        yield from _capabilities(box, context.get("capabilities") or {})
        if not _not_root(box, context):
            yield f"{box.where}.securityContext: may run as root"


def _capabilities(box: Box, capabilities: dict[str, Any]) -> Iterator[str]:
    more = set(capabilities.get("add") or ()) - ALLOWED
    if more:
        yield f"{box.where}.securityContext: adds {', '.join(sorted(more))}"
    if "ALL" not in (capabilities.get("drop") or ()):
        yield f"{box.where}.securityContext: does not drop ALL capabilities"


def _not_root(box: Box, context: dict[str, Any]) -> bool:
    of_pod = box.pod.spec.get("securityContext") or {}
    return bool(context.get("runAsNonRoot", of_pod.get("runAsNonRoot")))


def guaranteed(view: View) -> Iterator[str]:
    """Demand that requests are limits and CPUs are whole, so that the kubelet pins them."""
    for box in view.boxes:
        if box.pod.of_runtime and not box.raw.get("resources"):
            continue  # The TrainJob says them.
        requests, limits = box.amounts("requests"), box.amounts("limits")
        for each in sorted({"cpu", "memory"} - set(limits)):
            yield f"{box.where}.resources.limits: no {each}"
        for each in sorted({*requests, *limits}):
            if requests.get(each) != limits.get(each):
                yield (
                    f"{box.where}.resources: requests {requests.get(each)} of {each}, and may use "
                    f"{limits.get(each)}"
                )
        for each, value in limits.items():
            yield from _whole(box, each, value)


def _whole(box: Box, resource: str, value: Any) -> Iterator[str]:
    """Only bytes come in parts."""
    number = amount(value)
    if number is None or number <= 0:
        yield f"{box.where}.resources.limits: {value!r} of {resource} is no amount"
    elif number.denominator != 1:
        yield f"{box.where}.resources.limits: {value} of {resource} is not whole"


def first_is_no_more(view: View) -> Iterator[str]:
    """InitContainers ask for no more than the containers after them, so that they cost nothing."""
    for pod in view.pods:
        later: Counter[str] = Counter()
        for box in pod.boxes:
            later.update({} if box.init else _numbers(box))
        if later:
            yield from _larger([box for box in pod.boxes if box.init], later)


def _larger(first: list[Box], later: Mapping[str, Any]) -> Iterator[str]:
    for box in first:
        for each, value in _numbers(box).items():
            if value > later.get(each, 0):
                yield f"{box.where}.resources: {value} of {each}, more than what follows it"


def _numbers(box: Box) -> dict[str, Any]:
    return {each: amount(value) or 0 for each, value in box.amounts("limits").items()}


def texts(view: View) -> Iterator[str]:
    """Variables are texts, as a number is refused, and each is there once."""
    for box in view.boxes:
        entries = box.raw.get("env") or []
        for each in entries:
            if not isinstance(each.get("value", ""), str):
                yield f"{box.where}.env[{each['name']}]: {each['value']!r} is no text"
        names = [each["name"] for each in entries]
        for each in sorted({one for one in names if names.count(one) > 1}):
            yield f"{box.where}.env[{each}]: is there twice"


def mounts(view: View) -> Iterator[str]:
    """Each mount has its volume, and a place of its own."""
    for box in view.boxes:
        found = box.raw.get("volumeMounts") or []
        for each in found:
            if each["name"] not in box.pod.volumes:
                yield f"{box.where}.volumeMounts: there is no volume {each['name']}"
        paths = [each["mountPath"] for each in found]
        for path in sorted({one for one in paths if paths.count(one) > 1}):
            yield f"{box.where}.volumeMounts: {path} is there twice"


def shared_memory(view: View) -> Iterator[str]:
    """/dev/shm is a volume in memory, with a limit below the container's."""
    for box in view.boxes:
        found = [each for each in box.raw.get("volumeMounts") or () if _is_shm(each)]
        if not found and box.trains:
            yield f"{box.where}: no volume at /dev/shm, which then has 64 MiB"
        for each in found:
            volume = (box.pod.volumes.get(each["name"]) or {}).get("emptyDir") or {}
            yield from _sized(box, volume)


def _is_shm(mount: dict[str, Any]) -> bool:
    return str(mount.get("mountPath")).rstrip("/") == "/dev/shm"


def _sized(box: Box, volume: dict[str, Any]) -> Iterator[str]:
    size, limit = amount(volume.get("sizeLimit", "")), amount(box.amounts("limits").get("memory"))
    if volume.get("medium") != "Memory":
        yield f"{box.where}: /dev/shm is not in memory"
    if size is None:
        yield f"{box.where}: /dev/shm has no sizeLimit"
    elif limit is not None and size >= limit:
        yield (
            f"{box.where}: /dev/shm of {volume['sizeLimit']} is not below the memory limit, "
            f"{box.amounts('limits')['memory']}"
        )


def has_secret(view: View) -> Iterator[str]:
    """Launchers that are told of peers have a secret, in a file of a Secret that is mounted."""
    for box in view.boxes:
        file = (box.env.get("RDMATRAIN_SECRET_FILE") or {}).get("value", "")
        if file and not any(_holds(box, each, file) for each in box.raw.get("volumeMounts") or ()):
            yield f"{box.where}.env[RDMATRAIN_SECRET_FILE]: {file} is in no Secret that is mounted"
        several = box.option("--nnodes") not in {"", "1"}
        if box.trains and several and not SECRET_VARIABLES & set(box.env):
            yield f"{box.where}: several nodes, and no secret"


def _holds(box: Box, mount: dict[str, Any], file: str) -> bool:
    inside = file.startswith(f"{mount['mountPath'].rstrip('/')}/")
    return inside and "secret" in (box.pod.volumes.get(mount["name"]) or {})


def names(view: View) -> Iterator[str]:
    """Containers of a pod have names of their own; those of ports are short."""
    for pod in view.pods:
        found = [str(box.raw.get("name")) for box in pod.boxes]
        for each in sorted({one for one in found if found.count(one) > 1}):
            yield f"{pod.where}: two containers are called {each}"
    for box in view.boxes:
        for port in box.raw.get("ports") or ():
            if len(str(port.get("name", ""))) > PORT_NAME:
                yield f"{box.where}.ports: the name {port['name']} is too long"


def claims(view: View) -> Iterator[str]:
    """Claims of a container are claims of its pod."""
    for box in view.boxes:
        known = {each["name"] for each in box.pod.spec.get("resourceClaims") or ()}
        for each in (box.raw.get("resources") or {}).get("claims") or ():
            if each["name"] not in known:
                yield f"{box.where}.resources.claims: the pod has no claim {each['name']}"


RULES = (
    exec_form,
    security,
    guaranteed,
    first_is_no_more,
    texts,
    mounts,
    shared_memory,
    has_secret,
    names,
    claims,
)
