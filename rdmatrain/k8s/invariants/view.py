"""What rules look at: objects, and the pods and containers in them, wherever they are."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any

from rdmatrain.doctor.manifest.nodes import TEXT, Node, Origin
from rdmatrain.doctor.manifest.quantity import quantity
from rdmatrain.k8s.parts import Object

# Their templates lack what the TrainJob that names them says.
RUNTIMES = ("TrainingRuntime", "ClusterTrainingRuntime")
# Labels with these prefixes are set by controllers.
_OF_CONTROLLERS = (
    "batch.kubernetes.io/",
    "jobset.sigs.k8s.io/",
    "leaderworkerset.sigs.k8s.io/",
    "training.kubeflow.org/",
    "volcano.sh/",
    "trainer.kubeflow.org/",
)


@dataclass(frozen=True)
class Box:
    """A container.

    Attributes:
        pod: it is in.
        where: it is, for a line.
        raw: as it is written.
        init: it runs before the others.

    """

    pod: "Pod"
    where: str
    raw: Object
    init: bool

    @property
    def words(self) -> list[Any]:
        """Its command and arguments."""
        return [*(self.raw.get("command") or ()), *(self.raw.get("args") or ())]

    @property
    def env(self) -> dict[str, Object]:
        """Its variables."""
        return {each["name"]: each for each in self.raw.get("env") or ()}

    def amounts(self, kind: str) -> dict[str, Any]:
        """Return its ``requests`` or ``limits``."""
        return dict((self.raw.get("resources") or {}).get(kind) or {})

    def option(self, name: str) -> str:
        """Return what an option of its command line says; empty if it is not there."""
        for at, word in enumerate(self.words):
            if word == name:
                return str(next(iter(self.words[at + 1 :]), ""))
            if isinstance(word, str) and word.startswith(f"{name}="):
                return word.partition("=")[2]
        return ""

    @property
    def trains(self) -> bool:
        """It starts ``rdmatrain run``."""
        return "run" in self.words and not self.init


@dataclass(frozen=True)
class Pod:
    """A pod, or a template of pods.

    Attributes:
        owner: object that it is in.
        where: it is, for a line.
        raw: as it is written: ``metadata`` and ``spec``.

    """

    owner: Object
    where: str
    raw: Object

    @property
    def spec(self) -> Object:
        """Its spec."""
        return dict(self.raw["spec"])

    @property
    def labels(self) -> Mapping[str, str]:
        """Its labels."""
        return (self.raw.get("metadata") or {}).get("labels") or {}

    @property
    def annotations(self) -> Mapping[str, str]:
        """Its annotations."""
        return (self.raw.get("metadata") or {}).get("annotations") or {}

    @property
    def of_runtime(self) -> bool:
        """A TrainJob completes it."""
        return kind(self.owner) in RUNTIMES

    @cached_property
    def boxes(self) -> list[Box]:
        """Its containers, those that run first first."""
        found = []
        for key in ("initContainers", "containers"):
            for at, raw in enumerate(self.spec.get(key) or ()):
                where = f"{self.where}.spec.{key}[{at}]"
                found.append(Box(self, where, raw, key == "initContainers"))
        return found

    @property
    def volumes(self) -> dict[str, Object]:
        """Its volumes, by name."""
        return {each["name"]: each for each in self.spec.get("volumes") or ()}

    def matches(self, selector: Mapping[str, Any] | None) -> bool:
        """Tell whether a selector's labels are this pod's, as far as it is said here."""
        wanted = (selector or {}).get("matchLabels") or {}
        return all(
            key.startswith(_OF_CONTROLLERS) or self.labels.get(key) == value
            for key, value in wanted.items()
        )


class View:
    """A set of objects.

    Attributes:
        objects: all of them.

    """

    def __init__(self, objects: list[Object]) -> None:
        self.objects = objects

    @cached_property
    def pods(self) -> list[Pod]:
        """All templates, and pods that stand alone."""
        return [pod for each in self.objects for pod in _pods(each, each, called(each))]

    @cached_property
    def boxes(self) -> list[Box]:
        """All containers."""
        return [box for pod in self.pods for box in pod.boxes]

    def of(self, *kinds: str) -> list[Object]:
        """Return the objects of these kinds."""
        return [each for each in self.objects if kind(each) in kinds]


def kind(made: Object) -> str:
    """Return an object's kind."""
    return str(made.get("kind", ""))


def name(made: Object) -> str:
    """Return an object's name."""
    return str((made.get("metadata") or {}).get("name", ""))


def namespace(made: Object) -> str:
    """Return an object's namespace; empty if it has none."""
    return str((made.get("metadata") or {}).get("namespace", ""))


def called(made: Object) -> str:
    """Return how a line calls an object."""
    return f"{kind(made)}/{name(made)}"


def group(made: Object) -> str:
    """Return the API group of an object; empty for the core."""
    version = str(made.get("apiVersion", ""))
    return version.rpartition("/")[0]


def amount(value: Any) -> Fraction | None:
    """Return the number that a quantity is; None if it is none."""
    return quantity(Node(TEXT, Origin(""), text=str(value)))


def walk(value: Any, path: str) -> Iterator[tuple[str, str, Any]]:
    """Yield path, key and value of everything below a value; items of a list have its key."""
    if isinstance(value, dict):
        for key, each in value.items():
            yield f"{path}.{key}", str(key), each
            yield from walk(each, f"{path}.{key}")
    elif isinstance(value, list):
        key = path.rpartition(".")[2].partition("[")[0]
        for at, each in enumerate(value):
            yield f"{path}[{at}]", key, each
            yield from walk(each, f"{path}[{at}]")


def _pods(value: Any, owner: Object, path: str) -> Iterator[Pod]:
    if isinstance(value, dict):
        spec = value.get("spec")
        if isinstance(spec, dict) and isinstance(spec.get("containers"), list):
            yield Pod(owner, path, value)
            return
        for key, each in value.items():
            yield from _pods(each, owner, f"{path} {key}" if value is owner else f"{path}.{key}")
    elif isinstance(value, list):
        for at, each in enumerate(value):
            yield from _pods(each, owner, f"{path}[{at}]")
