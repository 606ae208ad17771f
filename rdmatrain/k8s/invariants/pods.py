"""Rules of pods: devices and their networks, time to stop, what they mount, who they are."""

import json
from collections.abc import Iterator
from typing import Any

from rdmatrain.k8s.invariants.view import Box, Pod, View, amount, called, group, kind, name

MULTUS = "k8s.v1.cni.cncf.io/networks"
# What the launcher takes after the workers' time, at least.
LAUNCHER_S = 10
GRACE_S = 25.0


def host(view: View) -> Iterator[str]:
    """No pod has anything of its host, but for the network where the spec asked for it."""
    for pod in view.pods:
        for key in ("hostPID", "hostIPC"):
            if pod.spec.get(key):
                yield f"{pod.where}.spec: {key}"
        for each, volume in pod.volumes.items():
            if "hostPath" in volume:
                yield f"{pod.where}.spec.volumes[{each}]: hostPath"
        if pod.spec.get("hostNetwork") and pod.spec.get("dnsPolicy") != "ClusterFirstWithHostNet":
            yield f"{pod.where}.spec: hostNetwork, without the cluster's DNS"


def networks(view: View) -> Iterator[str]:
    """Multus attaches as many networks as there are devices, if any: InfiniBand may have none."""
    for pod in view.pods:
        asked = attached(pod.annotations.get(MULTUS, ""))
        for box in pod.boxes:
            yield from _devices(box, asked)


def _devices(box: Box, asked: int) -> Iterator[str]:
    # GPUs are no devices of Multus, though there may be as many.
    plugins = {
        key: value
        for key, value in box.amounts("limits").items()
        if "/" in key and "gpu" not in key.lower()
    }
    found = ", ".join(f"{value} {key}" for key, value in plugins.items()) or "no device"
    if asked and asked not in [amount(each) for each in plugins.values()]:
        yield f"{box.where}: {found}, and {asked} networks in {MULTUS}"


def attached(text: str) -> int:
    """Return how many networks an annotation names: a list of JSON, or names with commas."""
    if text.lstrip().startswith("["):
        return len(json.loads(text))
    return len([each for each in text.split(",") if each.strip()])


def grace(view: View) -> Iterator[str]:
    """Pods have longer to stop than their launchers take."""
    for pod in view.pods:
        given = pod.spec.get("terminationGracePeriodSeconds", 30)
        for box in pod.boxes:
            said = (box.env.get("RDMATRAIN_GRACE") or {}).get("value") or box.option("--grace")
            asked = float(said or GRACE_S)
            if box.trains and given < asked + LAUNCHER_S:
                yield f"{pod.where}.spec: {given} s to stop, and the launcher takes {asked:g}"


def meta_texts(view: View) -> Iterator[str]:
    """Labels and annotations are texts, and labels are short."""
    for pod in view.pods:
        for key, value in {**pod.annotations, **pod.labels}.items():
            if not isinstance(value, str):
                yield f"{pod.where}.metadata: {key} is {value!r}, which is no text"
        for key, value in pod.labels.items():
            if len(str(value)) > 63:
                yield f"{pod.where}.metadata.labels: {key} has {len(str(value))} characters"


def secrets(view: View) -> Iterator[str]:
    """Secrets that pods mount have names, and those that are rendered the key that is read."""
    rendered = {name(each): each for each in view.of("Secret")}
    for pod in view.pods:
        for each, volume in pod.volumes.items():
            if "secret" not in volume:
                continue
            named = (volume["secret"] or {}).get("secretName", "")
            if not named:
                yield f"{pod.where}.spec.volumes[{each}]: names no Secret"
            elif named in rendered and not _keys(rendered[named]) >= _asked_keys(pod, each):
                yield f"{called(rendered[named])}: has not the key that {pod.where} reads"


def _keys(secret: dict[str, Any]) -> set[str]:
    return {*(secret.get("data") or ()), *(secret.get("stringData") or ())}


def _asked_keys(pod: Pod, volume: str) -> set[str]:
    files = [(each.env.get("RDMATRAIN_SECRET_FILE") or {}).get("value", "") for each in pod.boxes]
    places = [
        f"{mount['mountPath'].rstrip('/')}/"
        for box in pod.boxes
        for mount in box.raw.get("volumeMounts") or ()
        if mount["name"] == volume
    ]
    return {
        file.removeprefix(place) for file in files for place in places if file.startswith(place)
    }


def claims(view: View) -> Iterator[str]:
    """Claims that pods make by a template are rendered."""
    templates = {name(each) for each in view.of("ResourceClaimTemplate")}
    for pod in view.pods:
        for each in pod.spec.get("resourceClaims") or ():
            wanted = each.get("resourceClaimTemplateName")
            if wanted and wanted not in templates:
                yield f"{pod.where}.spec.resourceClaims: there is no template {wanted}"


def mounted(view: View) -> Iterator[str]:
    """Volume claims that are rendered are mounted."""
    volumes = [volume for pod in view.pods for volume in pod.volumes.values()]
    used = {(each.get("persistentVolumeClaim") or {}).get("claimName") for each in volumes}
    for each in view.of("PersistentVolumeClaim"):
        if name(each) not in used:
            yield f"{called(each)}: no pod mounts it"


def domain(view: View) -> Iterator[str]:
    """Pods of a Job find each other: their subdomain is a Service that is rendered."""
    services = {name(each) for each in view.of("Service")}
    for pod in view.pods:
        plain = kind(pod.owner) == "Job" and group(pod.owner) == "batch"
        wanted = pod.spec.get("subdomain")
        if plain and not wanted:
            yield f"{pod.where}.spec: no subdomain, so that pods have no names"
        elif plain and wanted not in services:
            yield f"{pod.where}.spec.subdomain: there is no Service {wanted}"


def restarts(view: View) -> Iterator[str]:
    """Kubernetes starts no container again on its own: the launcher restarts workers in place."""
    for pod in view.pods:
        policy = pod.spec.get("restartPolicy")
        if kind(pod.owner) in {"Job", "JobSet"} and policy != "Never":
            yield f"{pod.where}.spec: restartPolicy {policy}, which hides the exit code"


RULES = (host, networks, grace, meta_texts, secrets, claims, mounted, domain, restarts)
