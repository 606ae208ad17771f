"""A container of a manifest: what it asks for, which variables it has, and what it runs."""

import re
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from rdmatrain.doctor.manifest.nodes import ABSENT, Node

if TYPE_CHECKING:
    from rdmatrain.doctor.manifest.workloads import Pod

SHELLS = frozenset(["sh", "dash", "ash", "bash", "zsh", "ksh"])
GPU = re.compile(r"(nvidia\.com/(gpu|mig-)|amd\.com/gpu|gpu\.intel\.com/|habana\.ai/gaudi)")
SHARED = re.compile(r"rdma/|.*shared", re.IGNORECASE)
EFA = re.compile(r"vpc\.amazonaws\.com/efa")
NIC = re.compile(
    r".*(sriov|rdma|roce|infiniband|mlnx|mlx)|.*[/_.-](vfs?|hca|ib|r?nic)([_.-]|\d|$)",
    re.IGNORECASE,
)
_ASSIGNED = re.compile(
    r"\b((?:NCCL|RCCL|UCX|RDMATRAIN|PET|GLOO|FI|MASTER)_[A-Z0-9_]+)=(\"[^\"]*\"|'[^']*'|[^\s\"';]*)"
)
_LAUNCHERS = re.compile(r"\b(rdmatrain\s+run|torchrun|torch\.distributed\.run)\b")
_OURS = re.compile(r"\brdmatrain\s+run\b")


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
        return self.total(GPU)

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
            if not SHARED.match(name) and not EFA.match(name)
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

    @cached_property
    def runs_rdmatrain(self) -> bool:
        """Its command starts ``rdmatrain run``, whose exit codes say what may be tried again."""
        return bool(_OURS.search(" ".join(self.command)))

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
