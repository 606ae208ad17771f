"""Files and images of the pods of a manifest, and how the manifest itself is written."""

import re
from collections.abc import Iterator

from rdmatrain.discovery.claims.values import shown
from rdmatrain.doctor.manifest.containers import Container
from rdmatrain.doctor.manifest.define import (
    advice,
    fail,
    fine,
    patch,
    question,
    static_question,
    unseen,
    warn,
)
from rdmatrain.doctor.manifest.nodes import BASE_60, Node
from rdmatrain.doctor.manifest.workloads import Manifest, Pod
from rdmatrain.doctor.model import Finding, Needs
from rdmatrain.launcher.exit_codes import BAD_CONFIG

_PCI = re.compile(r"[0-9a-fA-F]{4,8}:[0-9a-fA-F]{2}:[0-9a-fA-F]{2}\.[0-7]", re.ASCII)
# Volumes that end with the pod, or hold what others wrote.
_TRANSIENT = frozenset(["emptyDir", "configMap", "secret", "downwardAPI", "projected", "image"])
_CHECKPOINT = re.compile(r"--(?:checkpoint|ckpt|save)[-_]dir(?:ectory)?[=\s]+([^\s\"';]+)")
_CLAIM = (
    "{volumes: [{name: checkpoints, persistentVolumeClaim: {claimName: checkpoints}}], containers: "
    "[{name: %s, volumeMounts: [{name: checkpoints, mountPath: %s}]}]}"
)


@question(
    "checkpoint-dir",
    "checkpoints outlive the pod",
    nothing="no pod trains, and nobody says where checkpoints go",
    exit_code=BAD_CONFIG,
)
def checkpoint_dir(manifest: Manifest, needs: Needs) -> Iterator[Finding]:
    """Files in a container or an emptyDir are gone with the pod."""
    for pod in manifest.training:
        for box in pod.trainers:
            match = _CHECKPOINT.search("\n".join(box.command))
            path = needs.checkpoint_dir or (match[1] if match else "")
            if path.startswith("/"):
                yield _at(box, path)
            elif pod.asks and (box.launches or not box.node.get("command").there):
                yield _anywhere(pod, box)


def _at(box: Container, path: str) -> Finding:
    found = box.mounted_at(path)
    fix = advice(box.pod.spec, _CLAIM % (shown(box.node.get("name").text, 63), shown(path, 60)))
    told = f"checkpoints in {shown(path, 60)}"
    if found is None:
        return warn(box.node, f"{told}, which is on no volume: they end with the pod", fix)
    mount, volume = found
    if not volume.there:
        return fail(mount, f"{told}, of a volume that is not there", fix)
    if mount.get("readOnly").true:
        return fail(mount, f"{told}, which is read-only", patch(mount, "{readOnly: null}"))
    if _transient(volume):
        return warn(mount, f"{told}, of a volume that ends with the pod", fix)
    return fine(mount, f"{told}, of a volume that outlives the pod")


def _transient(volume: Node) -> bool:
    return any(key in _TRANSIENT for key, _ in volume.entries())


def _anywhere(pod: Pod, box: Container) -> Finding:
    for mount, volume in box.mounts:
        lasting = volume.there and not _transient(volume) and not volume.get("hostPath").there
        if lasting and not mount.get("readOnly").true:
            return unseen(mount, "a volume that outlives the pod; say --checkpoint-dir")
    if not pod.whole:
        return unseen(box.node, "its TrainJob may add volumes")
    name = shown(box.node.get("name").text, 63)
    text = "no volume outlives the pod: neither do checkpoints"
    return warn(box.node, text, advice(pod.spec, _CLAIM % (name, "/checkpoints")))


@question(
    "tmp",
    "there is a folder for temporary files",
    nothing="no container has a read-only root",
    exit_code=BAD_CONFIG,
)
def tmp(manifest: Manifest, _needs: Needs) -> Iterator[Finding]:
    """Launcher and torch write temporary files, which a read-only root has no place for."""
    for pod in manifest.training:
        for box in pod.trainers:
            if not box.security("readOnlyRootFilesystem").true:
                continue
            path = box.value("TMPDIR") or "/tmp"
            found = box.mounted_at(path)
            name, taken = shown(box.node.get("name").text, 63), found or "tmp" in pod.volumes
            change = (
                "{volumes: [{name: tmp, emptyDir: {}}], containers: "
                f"[{{name: {name}, volumeMounts: [{{name: tmp, mountPath: {shown(path, 60)}}}]}}]}}"
            )
            if found is None or found[0].get("readOnly").true:
                text = f"read-only root, and nothing to write to at {shown(path, 60)}"
                yield fail(box.node, text, (advice if taken else patch)(pod.spec, change))
            else:
                yield fine(found[0], f"{shown(path, 60)} is a volume")


@static_question(
    "image-tag",
    "all pods run one build, today and tomorrow",
    nothing="no container names an image",
    exit_code=BAD_CONFIG,
)
def image_tag(manifest: Manifest, _needs: Needs) -> Iterator[Finding]:
    """Tags that move give pods of one job different versions of NCCL and torch."""
    for pod in manifest.training:
        for box in pod.trainers:
            place = box.node.get("image")
            name = place.text
            if not name:
                continue
            _, _, tag = name.rpartition("/")[2].partition(":")
            if "@sha256:" in name:
                yield fine(place, "named by its digest")
            elif tag in {"", "latest", "main", "master", "nightly", "dev"}:
                text = f"{shown(name, 80)} is another image tomorrow"
                yield warn(place, text, advice(box.node, "{image: NAME:VERSION}"))
            else:
                yield from _same_image(pod, box, place)


def _same_image(pod: Pod, box: Container, place: Node) -> Iterator[Finding]:
    others = [
        each.node.get("image")
        for other in pod.manifest.training
        if other.document is pod.document
        for each in other.trainers
        if each.node.get("name").text == box.node.get("name").text
    ]
    first = next(each for each in others if each.there)
    if first.text != place.text:
        text = f"{shown(place.text, 80)}, and {shown(first.text, 80)} in {first.path}"
        yield warn(place, text, advice(box.node, f"{{image: {shown(first.text, 200)}}}"))
    else:
        yield fine(place, shown(place.text, 80))


@static_question(
    "pci-quoted",
    "PCI addresses are texts for every reader",
    nothing="no PCI address in the manifest",
    exit_code=BAD_CONFIG,
)
def pci_quoted(manifest: Manifest, _needs: Needs) -> Iterator[Finding]:
    """PyYAML and what is built on it read an unquoted 0000:16:00.0 as the number 960.0."""
    for document in manifest.documents:
        addresses = [each for each in document.walk() if _PCI.fullmatch(each.text)]
        wrong = [each for each in addresses if each.kind == BASE_60]
        for each in wrong:
            text = f"{each.text} is a number to the base of 60 for PyYAML"
            yield warn(each, text, patch(each, f'"{each.text}"'))
        if addresses and not wrong:
            yield fine(addresses[0], f"{len(addresses)} PCI addresses, all texts")
