"""The pods that a manifest describes: in a Job, a JobSet, a Volcano Job or whatever has them."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice

from rdmatrain.discovery.claims.values import shown
from rdmatrain.doctor.manifest.nodes import ABSENT, LIST, MAP, TEXT, Node, overlay
from rdmatrain.errors import SettingError

TRAIN_JOB = "TrainJob"
RUNTIMES = frozenset(["ClusterTrainingRuntime", "TrainingRuntime"])
# Pods of these have to meet; those of a Job, say, may each work alone.
GANGS = frozenset([TRAIN_JOB, "JobSet", "PyTorchJob", "MPIJob", "LeaderWorkerSet"])
NETWORKS = "k8s.v1.cni.cncf.io/networks"
RESOURCE_NAME = "k8s.v1.cni.cncf.io/resourceName"
# Questions about one pod look at all others of its workload.
MAX_PODS, MAX_CONTAINERS, MAX_COUNT = 300, 1000, 1_000_000
SHELLS = frozenset(["sh", "dash", "ash", "bash", "zsh", "ksh"])

_GPU = re.compile(r"(nvidia\.com/(gpu|mig-)|amd\.com/gpu|gpu\.intel\.com/|habana\.ai/gaudi)")
_SHARED = re.compile(r"rdma/|.*shared", re.IGNORECASE)
_EFA = re.compile(r"vpc\.amazonaws\.com/efa")
_NIC = re.compile(
    r".*(sriov|rdma|roce|infiniband|mlnx|mlx)|.*[/_.-](vfs?|hca|ib|r?nic)([_.-]|\d|$)",
    re.IGNORECASE,
)
_ASSIGNED = re.compile(
    r"\b((?:NCCL|RCCL|UCX|RDMATRAIN|PET|GLOO|FI|MASTER)_[A-Z0-9_]+)=(\"[^\"]*\"|'[^']*'|[^\s\"';]*)"
)
_LAUNCHERS = re.compile(r"\b(rdmatrain\s+run|torchrun|torch\.distributed\.run)\b")
# What stands between a workload and the replicas of one of its templates, from the inside out.
_CONTAINERS = ("spec", "containers")
_COUNTS = ("replicas", "parallelism")


@dataclass(frozen=True)
class Variable:
    """A variable of a container: who sets it, and to what; None where that is not in the file."""

    name: str
    value: str | None
    node: Node


@dataclass(frozen=True, eq=False)
class Container:
    """A container of a pod."""

    node: Node
    pod: "Pod"

    @cached_property
    def resources(self) -> dict[str, Node]:
        """What it asks for, by name."""
        asked = self.node.get("resources")
        return dict([*asked.get("requests").entries(), *asked.get("limits").entries()])

    def total(self, pattern: re.Pattern[str]) -> int:
        """Return how many it asks for of the resources that are called so."""
        found = (node.number for name, node in self.resources.items() if pattern.match(name))
        return sum(number for number in found if number and number > 0)

    @property
    def gpus(self) -> int:
        """How many GPUs it asks for."""
        return self.total(_GPU)

    @cached_property
    def nics(self) -> dict[str, int]:
        """How many RDMA devices it asks for, by name."""
        return {
            name: node.number or 0
            for name, node in self.resources.items()
            if (node.number or 0) > 0 and self.pod.manifest.is_nic(name)
        }

    @property
    def vfs(self) -> dict[str, int]:
        """Those of :attr:`nics` that are virtual functions, each for one container."""
        return {
            name: number
            for name, number in self.nics.items()
            if not _SHARED.match(name) and not _EFA.match(name)
        }

    @cached_property
    def command(self) -> list[str]:
        """What is run, as far as it is said: without ``command``, the image says more."""
        return [*self.node.get("command").texts(), *self.node.get("args").texts()]

    @cached_property
    def variables(self) -> tuple[Variable, ...]:
        """Variables that it gets, and those that its script or mpirun sets."""
        found = []
        for entry in self.node.get("env").items():
            value = entry.get("value")
            known = None if entry.get("valueFrom").there else value.text
            found.append(Variable(entry.get("name").text, known, entry))
        for key in ("command", "args"):
            for each in self.node.get(key).items():
                for name, value in _ASSIGNED.findall(each.text):
                    found.append(Variable(name, value.strip("\"'"), each))
        return tuple(found)

    def variable(self, name: str) -> Variable | None:
        """Return what it sets last."""
        return next((each for each in reversed(self.variables) if each.name == name), None)

    def value(self, name: str) -> str:
        """Return the value of a variable; empty where there is none, or it is not in the file."""
        found = self.variable(name)
        return (found.value or "") if found else ""

    def option(self, name: str) -> str:
        """Return the value of an option of its command line; empty if it is not there."""
        pattern = rf"(?:^|\s)--{name.replace('-', '[-_]')}[=\s]\s*([^\s\"';]+)"
        found = re.search(pattern, "\n".join(self.command))
        return found[1] if found else ""

    @cached_property
    def launches(self) -> bool:
        """Its command starts ``rdmatrain run`` or torchrun."""
        return bool(_LAUNCHERS.search(" ".join(self.command)))

    @property
    def alone(self) -> bool:
        """It is told to be a job of one node, whatever its siblings do."""
        return "1" in {self.option("nnodes"), self.value("PET_NNODES")} or any(
            "--standalone" in each for each in self.command
        )

    @property
    def hidden_variables(self) -> bool:
        """Some are not in the file: ``envFrom``."""
        return bool(self.node.get("envFrom").items())

    def security(self, key: str) -> Node:
        """Return a setting of its security context, or of the pod's."""
        own = self.node.get("securityContext", key)
        return own if own.there else self.pod.spec.get("securityContext", key)

    @property
    def privileged(self) -> bool:
        """It may do what the host may."""
        return self.node.get("securityContext", "privileged").true

    @property
    def root(self) -> bool | None:
        """It runs as root; None where the image decides."""
        user = self.security("runAsUser")
        if user.there:
            return user.number == 0
        return False if self.security("runAsNonRoot").true else None

    @property
    def capabilities(self) -> set[str]:
        """What it adds, without the prefix CAP_."""
        added = self.node.get("securityContext", "capabilities", "add").texts()
        return {each.upper().removeprefix("CAP_") for each in added}

    @cached_property
    def mounts(self) -> list[tuple[Node, Node]]:
        """Each mount with its volume."""
        volumes = self.pod.volumes
        none = Node(ABSENT, self.pod.spec, "volumes")
        return [
            (mount, volumes.get(mount.get("name").text, none))
            for mount in self.node.get("volumeMounts").items()
        ]

    def mounted_at(self, path: str) -> tuple[Node, Node] | None:
        """Return the mount, and its volume, that a path is on; None if it is the image's."""
        best: tuple[Node, Node] | None = None
        longest = -1
        for mount, volume in self.mounts:
            point = mount.get("mountPath").text.rstrip("/")
            if (path == point or path.startswith(f"{point}/")) and len(point) > longest:
                best, longest = (mount, volume), len(point)
        return best

    @property
    def shell(self) -> str:
        """The shell that runs its command, as ``sh``; empty if none does, or the image says."""
        words = self.node.get("command").texts()
        if words and words[0].rpartition("/")[2] == "busybox":
            words = words[1:]
        name = words[0].rpartition("/")[2] if words else ""
        return name if name in SHELLS else ""


@dataclass(frozen=True, eq=False)
class Pod:
    """A template of pods.

    Attributes:
        template: with ``metadata`` and ``spec``.
        document: that it is in.
        manifest: all documents.
        role: where it stands in the workload: a task, a replica type, a replicated job.
        count: pods that are made of it; None where that is not said.
        whole: the file has all of it. A runtime without its TrainJob is not whole.

    """

    template: Node
    document: Node
    manifest: "Manifest"
    role: str = ""
    count: int | None = 1
    whole: bool = True

    @property
    def kind(self) -> str:
        """Of the workload."""
        return shown(self.document.get("kind").text, 60)

    @property
    def api(self) -> str:
        """Group of the workload's API: ``batch``; empty for the core."""
        group, slash, _ = self.document.get("apiVersion").text.partition("/")
        return group if slash else ""

    @property
    def volcano(self) -> bool:
        """It is of a Volcano Job, which is called Job too."""
        return self.api == "batch.volcano.sh"

    @property
    def name(self) -> str:
        """Of the workload."""
        return self.document.get("metadata", "name").text

    @property
    def spec(self) -> Node:
        """The pod's own."""
        return self.template.get("spec")

    @property
    def annotation(self) -> Node:
        """Networks that are to be attached."""
        return self.template.get("metadata", "annotations", NETWORKS)

    @cached_property
    def containers(self) -> tuple[Container, ...]:
        """All but those that only prepare."""
        return tuple(Container(each, self) for each in self.spec.get("containers").items())

    @cached_property
    def volumes(self) -> dict[str, Node]:
        """By name."""
        return {each.get("name").text: each for each in self.spec.get("volumes").items()}

    @cached_property
    def everything(self) -> tuple[Container, ...]:
        """With those that prepare."""
        first = (Container(each, self) for each in self.spec.get("initContainers").items())
        return (*first, *self.containers)

    @cached_property
    def trainers(self) -> tuple[Container, ...]:
        """Those that train: that ask for devices, or the first one if none does."""
        found = tuple(each for each in self.containers if each.gpus or each.nics)
        return found or self.containers[:1]

    @property
    def asks(self) -> bool:
        """It asks for a device."""
        return any(each.gpus or each.nics for each in self.containers) or self.claims

    @property
    def claims(self) -> bool:
        """It gets devices by resource claims, whose devices are not to be seen here."""
        return bool(self.spec.get("resourceClaims").items())

    @property
    def host_network(self) -> bool:
        """It is in the network of its node."""
        return self.spec.get("hostNetwork").true

    @cached_property
    def siblings(self) -> int | None:
        """How many pods the workload has; None where that is not said."""
        counts = [each.count for each in self.manifest.pods if each.document is self.document]
        return sum(each for each in counts if each) if all(counts) else None

    @property
    def many(self) -> bool:
        """There are several pods that have to meet, as far as that can be told."""
        meet = self.kind in GANGS or self.volcano or any(each.launches for each in self.trainers)
        alone = any(each.alone for each in self.trainers)
        return meet and not alone and (self.siblings or 0) > 1


@dataclass(eq=False)
class Manifest:
    """All documents of all files.

    Attributes:
        documents: in order.
        pods: that they describe.

    """

    documents: list[Node]
    pods: list[Pod] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.pods = list(islice(_all_pods(self), MAX_PODS + 1))
        boxes = sum(len(each.everything) for each in self.pods)
        if len(self.pods) > MAX_PODS or boxes > MAX_CONTAINERS:
            raise SettingError(
                f"there are more than {MAX_PODS} templates of pods, or {MAX_CONTAINERS} "
                "containers: give fewer files"
            )

    def of_kind(self, *kinds: str) -> list[Node]:
        """Return the documents of a kind."""
        return [each for kind in kinds for each in self._by_kind.get(kind, ())]

    @cached_property
    def _by_kind(self) -> dict[str, list[Node]]:
        found: dict[str, list[Node]] = {}
        for each in self.documents:
            found.setdefault(each.get("kind").text, []).append(each)
        return found

    @cached_property
    def training(self) -> list[Pod]:
        """Pods that train: where one pod of a workload asks for devices, the others help it."""
        asking = {id(each.document) for each in self.pods if each.asks}
        return [each for each in self.pods if each.asks or id(each.document) not in asking]

    @cached_property
    def resource_names(self) -> frozenset[str]:
        """What networks and policies of this manifest call their devices."""
        found = [
            each.get("metadata", "annotations", RESOURCE_NAME).text
            for each in self.of_kind("NetworkAttachmentDefinition")
        ]
        kinds = ("SriovNetwork", "SriovIBNetwork", "SriovNetworkNodePolicy")
        found += [each.get("spec", "resourceName").text for each in self.of_kind(*kinds)]
        return frozenset(filter(None, found))

    def is_nic(self, name: str) -> bool:
        """Tell whether a resource is an RDMA device."""
        if "/" not in name or _GPU.match(name):
            return False
        known = name in self.resource_names or name.rpartition("/")[2] in self.resource_names
        return bool(known or _SHARED.match(name) or _EFA.match(name) or _NIC.match(name))


def _all_pods(manifest: Manifest) -> Iterator[Pod]:
    jobs = manifest.of_kind(TRAIN_JOB)
    runtimes = {each.get("metadata", "name").text: each for each in manifest.of_kind(*RUNTIMES)}
    used = {each.get("spec", "runtimeRef", "name").text for each in jobs}
    for document in manifest.documents:
        kind = document.get("kind").text
        if kind == TRAIN_JOB:
            runtime = runtimes.get(document.get("spec", "runtimeRef", "name").text)
            yield from _train_job(manifest, document, runtime)
        elif kind in RUNTIMES:
            if document.get("metadata", "name").text not in used:
                yield from _templates(manifest, document, document, whole=False)
        else:
            yield from _templates(manifest, document, document, whole=True)


def _templates(manifest: Manifest, document: Node, below: Node, whole: bool) -> Iterator[Pod]:
    for node, above in _holders(below, ()):
        role = next((name for each in reversed(above) if (name := _role(each))), "")
        yield Pod(node, document, manifest, role, _count(document, above, node), whole)


def _holders(node: Node, above: tuple[Node, ...]) -> Iterator[tuple[Node, tuple[Node, ...]]]:
    """Find what has ``spec.containers``, with all that it is in."""
    if node.kind not in {MAP, LIST}:
        return
    containers = node.get("spec", "containers")
    if any(each.kind == MAP for each in containers.items()):
        yield node, above
        return
    for each in node.children.values():
        yield from _holders(each, (*above, node))


def _role(node: Node) -> str:
    """Return how a workload calls one of its templates."""
    if node.parent is None or not node.get("template").there:
        return ""
    key = node.key
    return node.get("name").text if isinstance(key, int) else key if key[:1].isupper() else ""


def _count(document: Node, above: Sequence[Node], template: Node) -> int | None:
    """Return how many pods a template makes: the product of all that multiplies it."""
    kind, count = document.get("kind").text, 1
    if kind == "LeaderWorkerSet":
        return _leader_worker_set(document, template)
    for node in (*above, template):
        for name in _COUNTS:
            given = node.get(name)
            number = given.number if given.there else 1
            if number is None or number < 0:
                return None
            count *= number
            if count > MAX_COUNT:
                return None
    if kind == "DaemonSet":
        return None
    return count


def _leader_worker_set(document: Node, template: Node) -> int | None:
    """Return the pods of one group, which is what meets."""
    inner = document.get("spec", "leaderWorkerTemplate")
    size = inner.get("size").number if inner.get("size").there else 1
    if template.key == "leaderTemplate":
        return 1
    if size is None or size < 1:
        return None
    return size - 1 if inner.get("leaderTemplate").there else size


def _train_job(manifest: Manifest, job: Node, runtime: Node | None) -> Iterator[Pod]:
    """Put a TrainJob and its runtime together; without one, make what the job itself says."""
    trainer = job.get("spec", "trainer")
    nodes = trainer.get("numNodes")
    if not nodes.there and runtime is not None:
        nodes = runtime.get("spec", "mlPolicy", "numNodes")
    found = _trainer_template(runtime) if runtime is not None else None
    template = found or Node(MAP, job.get("spec"), "trainer")
    for patch in job.get("spec", "runtimePatches").items():
        jobs = patch.get("trainingRuntimeSpec", "template", "spec", "replicatedJobs").items()
        for each in jobs:
            template = overlay(template, each.get("template", "spec", "template"))
    template = overlay(template, _of_trainer(template, trainer))
    resources = trainer.get("resourcesPerNode")
    if resources.there:
        # They replace those of the runtime as a whole: NVIDIA/aicr#2276.
        trained = {each.get("name").text: each for each in template.get(*_CONTAINERS).items()}
        trained[_trainer_name(template)].children["resources"] = resources
    count = nodes.number if nodes.there else 1
    yield Pod(template, job, manifest, "node", count, whole=found is not None)


def _trainer_template(runtime: Node) -> Node | None:
    label = "trainer.kubeflow.org/trainjob-ancestor-step"
    for each in runtime.get("spec", "template", "spec", "replicatedJobs").items():
        marked = each.get("template", "metadata", "labels", label).text == "trainer"
        if marked or each.get("name").text == "node":
            return each.get("template", "spec", "template")
    return None


def _trainer_name(template: Node) -> str:
    names = [each.get("name").text for each in template.get(*_CONTAINERS).items()]
    return "node" if "node" in names or not names else names[0]


def _of_trainer(template: Node, trainer: Node) -> Node:
    """Return what the trainer of a TrainJob changes, as a patch of its pods."""
    patch = Node(MAP, trainer)
    spec = Node(MAP, patch, "spec")
    containers = Node(LIST, spec, "containers")
    container = Node(MAP, trainer.parent or trainer, "trainer", line=trainer.line)
    container.children["name"] = Node(TEXT, container, "name", _trainer_name(template))
    for key in ("image", "command", "args", "env"):
        if trainer.get(key).there:
            container.children[key] = trainer.get(key)
    containers.children[0] = container
    spec.children["containers"] = containers
    patch.children["spec"] = spec
    return patch
