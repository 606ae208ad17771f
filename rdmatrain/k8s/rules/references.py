"""What objects name: it is in the manifest, or is to be there before they are applied."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from rdmatrain.discovery.claims.values import shown
from rdmatrain.doctor.manifest.containers import Container, Variable
from rdmatrain.doctor.manifest.define import advice, fail, fine, patch, question, warn
from rdmatrain.doctor.manifest.networks import Networks
from rdmatrain.doctor.manifest.nodes import Node
from rdmatrain.doctor.manifest.workloads import Manifest, Pod
from rdmatrain.doctor.model import Finding, Needs
from rdmatrain.k8s.patch import root_of
from rdmatrain.k8s.rules.selecting import namespace
from rdmatrain.launcher.exit_codes import BAD_CONFIG

NAME = "references"
QUEUE = "kueue.x-k8s.io/queue-name"
_EVERY = "*"
_BOXES = ("containers", "initContainers")
# Where in a pod's spec objects are named, by their kind.
_IN_PODS = {
    "PodGroup": ("schedulingGroup podGroupName",),
    "Workload": ("workloadRef name",),
    "ResourceClaimTemplate": ("resourceClaims * resourceClaimTemplateName",),
    "ResourceClaim": ("resourceClaims * resourceClaimName",),
    "PersistentVolumeClaim": ("volumes * persistentVolumeClaim claimName",),
    "Secret": (
        "volumes * secret secretName",
        "volumes * projected sources * secret name",
        "imagePullSecrets * name",
        *(f"{each} * env * valueFrom secretKeyRef name" for each in _BOXES),
        *(f"{each} * envFrom * secretRef name" for each in _BOXES),
    ),
    "ConfigMap": (
        "volumes * configMap name",
        "volumes * projected sources * configMap name",
        *(f"{each} * env * valueFrom configMapKeyRef name" for each in _BOXES),
        *(f"{each} * envFrom * configMapRef name" for each in _BOXES),
    ),
    "ServiceAccount": ("serviceAccountName",),
    "PriorityClass": ("priorityClassName",),
    "RuntimeClass": ("runtimeClassName",),
}
# The same in objects, by theirs.
_IN_OBJECTS = {
    "LocalQueue": (("ClusterQueue", "spec clusterQueue"),),
    "ClusterQueue": (("ResourceFlavor", "spec resourceGroups * flavors * name"),),
    "ResourceFlavor": (("Topology", "spec topologyName"),),
    "StatefulSet": (("Service", "spec serviceName"),),
    "TrainJob": (("ClusterTrainingRuntime", "spec runtimeRef name"),),
    "PyTorchJob": (("Queue", "spec runPolicy schedulingPolicy queue"),),
    "MPIJob": (("Queue", "spec runPolicy schedulingPolicy queue"),),
}
_GROUPS = (
    ("labels", "scheduling.x-k8s.io/pod-group"),
    ("labels", "pod-group.scheduling.sigs.k8s.io"),
    ("annotations", "scheduling.k8s.io/group-name"),
)
# Of what an object may be made by a controller, under its own name.
_MAKERS = {
    "NetworkAttachmentDefinition": (
        "NetworkAttachmentDefinition",
        "SriovNetwork",
        "SriovIBNetwork",
        "HostDeviceNetwork",
        "MacvlanNetwork",
        "IPoIBNetwork",
    ),
    "ClusterTrainingRuntime": ("ClusterTrainingRuntime", "TrainingRuntime"),
}
_OF_CLUSTERS = frozenset(
    ["ClusterQueue", "ResourceFlavor", "Topology", "PriorityClass", "RuntimeClass", "Queue",
     "ClusterTrainingRuntime", "NetworkAttachmentDefinition"]
)  # fmt: skip
# They are made for pods of the same file; a claim or a queue of another name may be the cluster's.
_IDLE_ALONE = frozenset(["PodGroup", "ResourceClaimTemplate"])
_OF_PODS = ("PodGroup", "ResourceClaimTemplate", "PersistentVolumeClaim")
_BUILT_IN = frozenset(
    ["default", "system-node-critical", "system-cluster-critical", "kube-root-ca.crt"]
)


@dataclass(frozen=True, eq=False)
class Reference:
    """An object's name, where another one says it.

    Attributes:
        place: where it is said.
        kind: of what is named.
        name: of it.

    """

    place: Node
    kind: str
    name: str

    def __str__(self) -> str:
        """Return it as people call it: ``Secret train``."""
        return f"{self.kind} {shown(self.name, 80)}"


@question(
    NAME,
    "what is named is there",
    nothing="nothing names another object",
    exit_code=BAD_CONFIG,
)
def references(manifest: Manifest, _needs: Needs) -> Iterator[Finding]:
    """Pods wait for ever for a Secret, a claim or a group of which nobody has the name."""
    named = list(_references(manifest))
    for each in named:
        if _objects(manifest, each):
            yield _found(manifest, each)
    yield from _absent(manifest, named)
    yield from _unnamed(manifest, named)
    for pod in manifest.pods:
        yield from _inside(pod)
        for box in pod.everything:
            yield from _keys(manifest, box)


def missing(manifest: Manifest) -> list[str]:
    """Return what is to be there that no file has: ``Secret train``, each once."""
    absent = (each for each in _references(manifest) if not _objects(manifest, each))
    return list(dict.fromkeys(map(str, absent)))


def _references(manifest: Manifest) -> Iterator[Reference]:
    for pod in manifest.pods:
        yield from _of_pod(pod)
    for document in manifest.documents:
        kind = document.get("kind").text
        for named, path in _IN_OBJECTS.get(kind, ()):
            yield from _at(document, path, named)
        if document.get("apiVersion").text.startswith("batch.volcano.sh/"):
            yield from _at(document, "spec queue", "Queue")
        yield from _at(document, f"metadata labels {QUEUE}", "LocalQueue")


def _of_pod(pod: Pod) -> Iterator[Reference]:
    for kind, paths in _IN_PODS.items():
        for path in paths:
            yield from _at(pod.spec, path, kind)
    for key, name in _GROUPS:
        yield from _at(pod.template, f"metadata {key} {name}", "PodGroup")
    if pod.template is not pod.document:
        yield from _at(pod.template, f"metadata labels {QUEUE}", "LocalQueue")
    if pod.kind in {"Job", "CronJob", "Pod"} and not pod.volcano:
        yield from _at(pod.spec, "subdomain", "Service")
    for each in dict.fromkeys(Networks.of(pod).names):
        name = each.rpartition("/")[2]
        yield Reference(pod.annotation, "NetworkAttachmentDefinition", name)


def _at(node: Node, path: str, kind: str) -> Iterator[Reference]:
    """Yield what is named at a path, but for what may be absent or comes with the system."""
    for place in _places([node], path.split()):
        optional = place.parent is not None and place.parent.get("optional").true
        if place.text and not optional and place.text not in _BUILT_IN:
            yield Reference(place, kind, place.text)


def _places(nodes: Iterable[Node], path: list[str]) -> list[Node]:
    for key in path:
        nodes = [
            below
            for each in nodes
            for below in (each.items() if key == _EVERY else [each.get(key)])
        ]
    return list(nodes)


def _objects(manifest: Manifest, named: Reference) -> list[Node]:
    found = manifest.of_kind(*_MAKERS.get(named.kind, (named.kind,)))
    return [each for each in found if each.get("metadata", "name").text == named.name]


def _found(manifest: Manifest, named: Reference) -> Finding:
    """Judge a name that some object has, by where that is."""
    here = namespace(root_of(named.place))
    objects = _objects(manifest, named)
    spaces = [space for each in objects if (space := namespace(each))]
    elsewhere = here and len(spaces) == len(objects) and here not in spaces
    if named.kind in _OF_CLUSTERS or not elsewhere:
        return fine(named.place, f"{named} is in the manifest")
    text = f"{named} is in namespace {shown(spaces[0], 63)}, and this in {shown(here, 63)}"
    return fail(named.place, text, "one for each namespace whose pods name it")


def _absent(manifest: Manifest, named: list[Reference]) -> Iterator[Finding]:
    """Judge names that no object has, by whether one waits for somebody to name it."""
    absent = [each for each in named if not _objects(manifest, each)]
    elsewhere = []
    for each in absent:
        idle = _idle(manifest, each.kind, named)
        if idle:
            names = {other.name for other in absent if other.kind == each.kind}
            yield _mistaken(each, idle, sure=len(idle) == len(names) == 1)
        else:
            elsewhere.append(each)
    if elsewhere:
        listed = ", ".join(dict.fromkeys(map(str, elsewhere)))
        text = f"to be there, and in none of these files: {listed}"
        yield warn(
            elsewhere[0].place, text, "give the files that have them too, or make them before"
        )


def _unnamed(manifest: Manifest, named: list[Reference]) -> Iterator[Finding]:
    """Find what was made for pods of the manifest, and does nothing for them."""
    for each in manifest.of_kind(*_OF_PODS) if manifest.pods else ():
        name, kind = each.get("metadata", "name").text, each.get("kind").text
        if name and (kind, name) not in {(other.kind, other.name) for other in named}:
            text = f"nobody names {kind} {shown(name, 63)}"
            yield warn(each, text, "leave it out, or name it where it is wanted")


def _idle(manifest: Manifest, kind: str, named: list[Reference]) -> list[str]:
    """Return objects that do nothing until somebody names them, and nobody does."""
    used = {each.name for each in named if each.kind == kind}
    objects = manifest.of_kind(kind) if kind in _IDLE_ALONE else []
    names = (each.get("metadata", "name").text for each in objects)
    return [each for each in names if each and each not in used]


def _mistaken(named: Reference, idle: list[str], *, sure: bool) -> Finding:
    text = f"there is no {named}, and nobody names {', '.join(shown(each, 63) for each in idle)}"
    meant = " or ".join(shown(each, 63) for each in idle)
    by_name = patch(named.place, json.dumps(idle[0]))
    return fail(named.place, text, by_name if sure else advice(named.place, meant))


def _inside(pod: Pod) -> Iterator[Finding]:
    """Judge what containers name of their own pod."""
    made = pod.document.get("spec", "volumeClaimTemplates").items()
    volumes = {*pod.volumes, *(each.get("metadata", "name").text for each in made)}
    claims = [each.get("name").text for each in pod.spec.get("resourceClaims").items()]
    for box in pod.everything if pod.whole else ():
        for mount, _ in box.mounts:
            if mount.get("name").text not in volumes:
                name = shown(mount.get("name").text, 63)
                text = f"the pod has no volume {name}"
                yield fail(mount, text, advice(pod.spec, f"{{volumes: [{{name: {name}, ...}}]}}"))
        for claim in box.node.get("resources", "claims").items():
            if claim.get("name").text not in claims:
                text = f"the pod has no claim {shown(claim.get('name').text, 63)}"
                yield fail(claim, text, _one_of(claim, claims))


def _one_of(claim: Node, claims: list[str]) -> str:
    if len(claims) == 1:
        return patch(claim, f"{{name: {json.dumps(claims[0])}}}")
    return advice(claim.parent or claim, "a name of the pod's resourceClaims")


def _keys(manifest: Manifest, box: Container) -> Iterator[Finding]:
    """Judge keys that a container reads of Secrets that are in the manifest."""
    for entry in box.node.get("env").items():
        reference = entry.get("valueFrom", "secretKeyRef")
        keys = _keys_of(manifest, reference.get("name").text)
        if keys and reference.get("key").text not in keys:
            yield _no_key(reference.get("key"), reference.get("name"), keys, "")
    variable = box.variable("RDMATRAIN_SECRET_FILE")
    if variable is not None:
        yield from _file(manifest, box, variable)


def _file(manifest: Manifest, box: Container, variable: Variable) -> Iterator[Finding]:
    """Judge the file of a Secret that is mounted whole."""
    file = variable.value or ""
    mount, volume = box.mounted_at(file) or (box.node, box.node)
    secret, folder = volume.get("secret"), mount.get("mountPath").text.rstrip("/")
    keys = _keys_of(manifest, secret.get("secretName").text)
    renamed = secret.get("items").there
    if keys and not renamed and file.removeprefix(f"{folder}/") not in keys:
        place = variable.node.get("value")
        yield _no_key(place, secret.get("secretName"), keys, f"{folder}/")


def _keys_of(manifest: Manifest, name: str) -> list[str]:
    for each in manifest.of_kind("Secret"):
        if name and each.get("metadata", "name").text == name:
            held = [*each.get("data").entries(), *each.get("stringData").entries()]
            return [key for key, _ in held]
    return []


def _no_key(place: Node, secret: Node, keys: list[str], folder: str) -> Finding:
    has = ", ".join(shown(each, 63) for each in keys)
    text = f"{shown(place.text, 80)}: Secret {shown(secret.text, 63)} has {has}"
    if len(keys) == 1:
        return fail(place, text, patch(place, json.dumps(folder + keys[0])))
    return fail(place, text, advice(place, f"one of {has}"))
