"""What runs in the containers of a manifest: what reaches it, and what it is told of itself."""

import json
import re
from collections.abc import Iterator

from rdmatrain.discovery.claims.values import shown
from rdmatrain.doctor.manifest.checks.variables import removed
from rdmatrain.doctor.manifest.commands import launcher, script, simple_words, with_exec
from rdmatrain.doctor.manifest.containers import Container, Variable
from rdmatrain.doctor.manifest.define import (
    Patch,
    advice,
    fail,
    fine,
    patch,
    static_question,
    unseen,
    warn,
)
from rdmatrain.doctor.manifest.workloads import TRAIN_JOB, Manifest, Pod
from rdmatrain.doctor.model import Finding, Needs
from rdmatrain.launcher.exit_codes import NO_JOB, PREEMPTED

_STATUS = re.compile(r"metadata\.annotations\['k8s\.v1\.cni\.cncf\.io/network(s)?-status'\]")
_NUMBERS = frozenset(["RANK", "NODE_RANK", "PET_NODE_RANK", "GROUP_RANK", "JOB_COMPLETION_INDEX"])
_OF_OPERATOR = frozenset(["MASTER_ADDR", "MASTER_PORT", "RANK", "WORLD_SIZE"])
_FIELD = ("valueFrom", "fieldRef", "fieldPath")
_PODINFO = "/etc/podinfo"


@static_question(
    "signals",
    "SIGTERM reaches the launcher",
    nothing="there is no container",
    known="pytorch#119856: jobs that are killed before they have saved",
    exit_code=PREEMPTED,
)
def signals(manifest: Manifest, _needs: Needs) -> Iterator[Finding]:
    """Shells that are process 1 pass no signal on: their children are killed without a warning."""
    for pod in manifest.training:
        for box in pod.trainers:
            yield _reached(box)


def _reached(box: Container) -> Finding:
    text = script(box)
    if not box.shell:
        known = box.node.get("command").there
        judged = fine if known else unseen
        return judged(box.node, "no shell in between" if known else "the image says what is run")
    if launcher(text) is None:
        if box.launches and re.search(r"\bexec\s", text):
            return fine(box.node, f"{box.shell} becomes the launcher")
        return unseen(box.node, "no launcher is to be seen in the script")
    if simple_words(box):
        judged = fine if box.shell == "bash" else unseen
        return judged(box.node, f"one command, which most shells become: {box.shell}")
    return _swallowed(box, text)


def _swallowed(box: Container, text: str) -> Finding:
    words = [*box.node.get("command").items(), *box.node.get("args").items()]
    place = next(each for each in words if each.text == text)
    said = f"{box.shell} is process 1, and passes no SIGTERM on to the launcher"
    better = with_exec(text)
    if better:
        return warn(place, said, patch(place, json.dumps(better), "exec before the launcher"))
    return warn(place, said, advice(place, "exec before the launcher, which is the last command"))


@static_question(
    "env-network-status",
    "networks are read where they come late",
    nothing="no container gets the status of its networks",
    known="multus-cni#1113: empty where a container starts for the first time",
    exit_code=NO_JOB,
)
def env_network_status(manifest: Manifest, _needs: Needs) -> Iterator[Finding]:
    """Multus writes the status after variables are made; a volume shows it once it is there."""
    for pod in manifest.training:
        for box in pod.everything:
            late = [
                each
                for each in box.node.get("env").items()
                if _STATUS.fullmatch(each.get(*_FIELD).text)
            ]
            for each in late:
                name = each.get("name").text
                text = f"{shown(name, 60)} is empty when the container starts for the first time"
                yield warn(each, text, _by_volume(pod, box, name))
            if not late and _podinfo(pod):
                yield fine(box.node, "the annotations are in a volume")


def _podinfo(pod: Pod) -> bool:
    """Tell whether a volume shows the pod its annotations."""
    return any(
        item.get("fieldRef", "fieldPath").text.startswith("metadata.annotations")
        for volume in pod.volumes.values()
        for item in volume.get("downwardAPI", "items").items()
    )


def _by_volume(pod: Pod, box: Container, name: str) -> Patch:
    """Return the change that takes a variable away, and shows the annotations as a file."""
    env = f"env: [{{name: {shown(name, 60)}, $patch: delete}}]"
    if _podinfo(pod):
        return patch(box.node, f"{{{env}}}")
    item = "{path: annotations, fieldRef: {fieldPath: metadata.annotations}}"
    volume = "annotations" if "podinfo" in pod.volumes else "podinfo"
    mount = f"volumeMounts: [{{name: {volume}, mountPath: {_PODINFO}}}]"
    kind = "initContainers" if box not in pod.containers else "containers"
    own = f"{kind}: [{{name: {shown(box.node.get('name').text, 63)}, {env}, {mount}}}]"
    volumes = f"volumes: [{{name: {volume}, downwardAPI: {{items: [{item}]}}}}]"
    return patch(pod.spec, f"{{{volumes}, {own}}}")


@static_question(
    "env-rank",
    "no pod is told another one's number",
    nothing="no workload has several pods",
    known="pytorch#73380: nobody hosts the store, or several do",
    exit_code=NO_JOB,
)
def env_rank(manifest: Manifest, _needs: Needs) -> Iterator[Finding]:
    """Pods of one template have the same variables: a number in them is that of all."""
    for pod in manifest.training:
        if pod.many:
            for box in pod.trainers:
                yield from _numbered(pod, box)


def _numbered(pod: Pod, box: Container) -> Iterator[Finding]:
    wrong = [each for each in box.variables if _is_of_all(pod, each)]
    for each in wrong:
        text = f"{each.name}={shown(each.value, 40)} in all {pod.count} pods"
        yield fail(each.node, text, removed(each, box))
    twice = [each for each in box.variables if _is_set(pod, each)]
    for each in twice:
        text = f"{each.name} is set by {_setter(pod)}, and by hand"
        yield warn(each.node, text, removed(each, box))
    if not (wrong or twice or box.hidden_variables):
        yield fine(box.node, "no number is set by hand")


def _is_of_all(pod: Pod, variable: Variable) -> bool:
    number = (variable.value or "").strip()
    return variable.name in _NUMBERS and number.isdecimal() and (pod.count or 0) > 1


def _is_set(pod: Pod, variable: Variable) -> bool:
    by_hand = variable.name in _OF_OPERATOR and not _is_of_all(pod, variable)
    return by_hand and bool(_setter(pod))


def _setter(pod: Pod) -> str:
    """Return who tells the pods where the first is; empty if it is the user."""
    if pod.kind in {"PyTorchJob", TRAIN_JOB}:
        return f"the {pod.kind}"
    plugins = dict(pod.job.get("plugins").entries())
    return "the plugin pytorch" if pod.volcano and "pytorch" in plugins else ""
