"""The pods that a manifest describes: in a Job, a JobSet, a Volcano Job or whatever has them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice

from rdmatrain.discovery.claims.values import shown
from rdmatrain.doctor.manifest.containers import EFA, GPU, NIC, SHARED, Container
from rdmatrain.doctor.manifest.nodes import LIST, MAP, TEXT, Node, overlay
from rdmatrain.errors import SettingError

TRAIN_JOB = "TrainJob"
RUNTIMES = frozenset(["ClusterTrainingRuntime", "TrainingRuntime"])
# Pods of these have to meet; those of a Job, say, may each work alone.
# Pods of these are none of a job, whatever they ask for: they serve a node, or whoever calls.
SERVERS = frozenset(["DaemonSet", "Deployment", "ReplicaSet"])
_TRAIN = frozenset([TRAIN_JOB, "PyTorchJob", "MPIJob", *RUNTIMES])
GANGS = frozenset([TRAIN_JOB, "JobSet", "PyTorchJob", "MPIJob", "LeaderWorkerSet"])
NETWORKS = "k8s.v1.cni.cncf.io/networks"
# Of a pod that has to be in the network of its node, and says why.
HOST_REASON = "rdmatrain/host-network-reason"
RESOURCE_NAME = "k8s.v1.cni.cncf.io/resourceName"
# Questions about one pod look at all others of its workload.
MAX_PODS, MAX_CONTAINERS, MAX_COUNT = 300, 1000, 1_000_000
# What stands between a workload and the replicas of one of its templates, from the inside out.
_CONTAINERS = ("spec", "containers")
_COUNTS = ("replicas", "parallelism")


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
    def job(self) -> Node:
        """Spec of its Volcano Job, of which a CronJob has a template."""
        spec = self.document.get("spec")
        inner = spec.get("jobTemplate", "spec")
        return inner if inner.there else spec

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

    @cached_property
    def trains(self) -> bool:
        """It is of a training job: by its kind, or a pod of that asks for devices or launches."""
        group = [each for each in self.manifest.pods if each.document is self.document]
        return self.kind in _TRAIN or (
            self.kind not in SERVERS
            and any(each.asks or any(box.launches for box in each.containers) for each in group)
        )

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
        pods = self._of_jobs
        asking = {id(each.document) for each in pods if each.asks}
        return [each for each in pods if each.asks or id(each.document) not in asking]

    @property
    def _of_jobs(self) -> list[Pod]:
        """Pods of training jobs; where nobody is to be seen to train, all that may."""
        pods = [each for each in self.pods if each.kind != "DaemonSet"]
        return [each for each in pods if each.trains] or pods

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
        if "/" not in name or GPU.match(name):
            return False
        known = name in self.resource_names or name.rpartition("/")[2] in self.resource_names
        return bool(known or SHARED.match(name) or EFA.match(name) or NIC.match(name))


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
