"""What a spec may not say: what no cluster satisfies, and what would be ambiguous."""

import posixpath
import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

from rdmatrain.discovery.claims.values import shown
from rdmatrain.errors import SettingError
from rdmatrain.k8s import names
from rdmatrain.k8s.run_line import run_line
from rdmatrain.k8s.spec import (
    DEVICES,
    DRA,
    INFINIBAND,
    LINKS,
    MIB,
    SHARED,
    SRIOV,
    TCP,
    Network,
    Spec,
)
from rdmatrain.k8s.values import duration_text, size_text
from rdmatrain.launcher import options

ALIGNED = ("pcie", "numa", "prefer")
MIN_GRACE_S, MAX_GRACE_S = 30, 86400
MIN_MEMORY = 64 * MIB
MAX_NODES, MAX_DEVICES, MAX_CPUS = 100_000, 256, 4096
# Of resource.k8s.io/v1: requests of a claim, and devices that it is given.
MAX_CLAIMED = 32
LEADER_PORT = 29500
_SHELLS = frozenset(["sh", "bash", "dash", "ash", "zsh", "ksh", "busybox"])
# Options of rdmatrain run, and the field that says the same; the pod's template writes them.
_OPTIONS = {
    "nnodes": "nodes", "nproc-per-node": "workers", "grace": "grace",
    "join-timeout": "join-timeout", "max-restarts": "max-restarts", "preflight": "preflight",
    "secret-file": "secret", "metrics-port": "monitoring.port", "require": "network.devices",
}  # fmt: skip
# Options that only the orchestrator can say: the same command runs on each node.
_OF_NODE = frozenset(
    ["node-rank", "master-addr", "master-port", "local-addr", "standalone", "rdzv-endpoint"]
)
_BY_NAME = {name: each for each in options.OPTIONS for name in (each.name, each.short) if name}
# Variables that the launcher or the cluster sets: a second opinion confuses all who read them.
_OWN = re.compile(
    r"RANK|WORLD_SIZE|(LOCAL|GROUP|ROLE)_(RANK|WORLD_SIZE)|MASTER_(ADDR|PORT)|JOB_COMPLETION_INDEX"
    r"|(PET|TORCHELASTIC|PCIDEVICE|VC|VK|LWS|SLURM|OMPI|PMIX?|SRIOVNETWORK|KUBERNETES)_.*"
    r"|K_MPI_JOB_ROLE|(NVIDIA|CUDA)_VISIBLE_DEVICES"
    r"|RDMATRAIN_(GRACE|JOIN_TIMEOUT|SECRET.*|PREFLIGHT|METRICS_PORT|REQUIRE|INSECURE)"
)
# Folders of the system, in which a volume hides programs, libraries, or what the pod is told.
_SYSTEM = (
    "/bin", "/boot", "/dev", "/etc", "/lib", "/lib32", "/lib64", "/opt/rdmatrain", "/proc", "/run",
    "/sbin", "/sys", "/usr",
)  # fmt: skip
# And what is above such folders, or has a volume already.
_ABOVE = ("/opt", "/tmp", "/var")
_RESERVED_PORTS = {LEADER_PORT: "the leader's", 23456: "PyTorchJob's and Volcano's"}


class Problem(NamedTuple):
    """What is wrong with a field.

    Attributes:
        field: as the spec has it, with dots.
        text: what follows its name: the value, and what to do.

    """

    field: str
    text: str


def problems(spec: Spec) -> list[Problem]:
    """Return all that is wrong with a spec, in the order of its fields."""
    rules = (
        _names, _command, _numbers, _memory, _variables, _network, _places, _nodes, _volumes,
        _operation,
    )  # fmt: skip
    return [each for rule in rules for each in rule(spec)]


def _named(field: str, value: str, check: Callable[[str], str]) -> Iterator[Problem]:
    if remedy := check(value):
        yield Problem(field, f"is {shown(value, 80) or 'empty'}: {remedy}")


def _between(field: str, value: int, least: int, most: int) -> Iterator[Problem]:
    if not least <= value <= most:
        yield Problem(field, f"is {value}: give {least} to {most}")


def _one_of(field: str, value: str, known: tuple[str, ...]) -> Iterator[Problem]:
    if value not in known:
        yield Problem(field, f"is {shown(value, 80) or 'empty'}: give {', '.join(known)}")


def _names(spec: Spec) -> Iterator[Problem]:
    yield from _named("name", spec.name, names.service)
    yield from _named("image", spec.image, names.image)
    yield from _named("namespace", spec.namespace, names.label)
    yield from _named("gpu-resource", spec.gpu_resource, names.resource)
    if spec.queue:
        yield from _named("queue", spec.queue, names.label)
    if spec.priority:
        yield from _named("priority", spec.priority, names.subdomain)
    if spec.secret.name:
        yield from _named("secret.name", spec.secret.name, names.subdomain)


def _command(spec: Spec) -> Iterator[Problem]:
    first = spec.command[0] if spec.command else ""
    if posixpath.basename(first) in _SHELLS:
        yield Problem(
            "command",
            f"begins with {shown(first, 80)}, which loses variables with dashes and keeps SIGTERM "
            "from the launcher: give the exec form, [rdmatrain, run, SCRIPT]",
        )
        return
    try:
        line = run_line(spec.command)
    except SettingError:
        said = shown(" ".join(spec.command), 80) or "empty"
        yield Problem("command", f"is {said}: give [rdmatrain, run, SCRIPT]")
    else:
        yield from _run_options(line.rest)


def _run_options(words: tuple[str, ...]) -> Iterator[Problem]:
    """Read the options of rdmatrain run, up to the script."""
    left = list(words)
    while left and left[0].startswith("-"):
        written, name, has_value = _split(left.pop(0))
        option = _BY_NAME.get(name)
        if remedy := _of_option(written, name, option):
            yield Problem("command", f"has {shown(written, 80)}: {remedy}")
        if option and option.metavar and not has_value:
            left = left[1:]
    if not left:
        yield Problem("command", "has no script: give [rdmatrain, run, SCRIPT]")


def _split(word: str) -> tuple[str, str, bool]:
    """Return an option as it is written, its name, and whether the word has its value, too."""
    if word.startswith("--"):
        written, equals, _ = word.partition("=")
        return written, written[2:].replace("_", "-"), bool(equals)
    return word[:2], word[1:2], len(word) > 2


def _of_option(written: str, name: str, option: options.Option | None) -> str:
    """Return what is to be done about an option; empty for one that may be given."""
    if name in _OPTIONS:
        return f"the field {_OPTIONS[name]} says it, remove it"
    if name in _OF_NODE:
        return "every node has its own, remove it"
    return "" if option else options.unknown_option(written)


def _numbers(spec: Spec) -> Iterator[Problem]:
    yield from _between("nodes", spec.nodes, 1, MAX_NODES)
    yield from _between("gpus", spec.gpus, 0, MAX_DEVICES)
    yield from _between("workers", spec.workers, 0, MAX_DEVICES)
    yield from _between("cpus", spec.cpus, 1, MAX_CPUS)
    if spec.workers and spec.gpus and spec.workers % spec.gpus:
        yield Problem(
            "workers",
            f"is {spec.workers} for {spec.gpus} GPUs: give a multiple of {spec.gpus}, or leave it "
            "out for one worker each",
        )


def _memory(spec: Spec) -> Iterator[Problem]:
    if spec.shm_bytes < MIN_MEMORY:
        yield Problem("shm", f"is {size_text(spec.shm_bytes)}: give at least 64Mi")
    if spec.shm_bytes >= spec.memory_bytes:
        yield Problem(
            "shm",
            f"is {size_text(spec.shm_bytes)}, and memory, which has it within, "
            f"{size_text(spec.memory_bytes)}: lower shm, or raise memory",
        )


def _variables(spec: Spec) -> Iterator[Problem]:
    for name in spec.env:
        field = f"env.{shown(name, 80)}"
        if remedy := names.variable(name):
            yield Problem(field, f"is no name of a variable: {remedy}")
        elif _OWN.fullmatch(name):
            yield Problem(field, "is the launcher's or the cluster's to set: remove it")


def _network(spec: Spec) -> Iterator[Problem]:
    network = spec.network
    yield from _one_of("network.devices", network.devices, DEVICES)
    yield from _one_of("network.link", network.link, LINKS)
    yield from _one_of("network.aligned", network.aligned, ALIGNED)
    yield from _named("network.resource", network.resource, names.resource)
    if network.resource == spec.gpu_resource:
        yield Problem("network.resource", f"is {shown(network.resource)}, that of GPUs: name NICs'")
    yield from _named("network.device-class", network.device_class, names.subdomain)
    yield from _named("network.gpu-class", network.gpu_class, names.subdomain)
    for place, name in enumerate(network.networks):
        yield from _named(f"network.networks[{place}]", name, names.in_namespace)
    for place, name in enumerate(network.pfs):
        yield from _named(f"network.pfs[{place}]", name, names.interface)
    yield from _named("network.subnet", network.subnet, names.subnet)
    if network.mtu:
        yield from _between("network.mtu", network.mtu, 576, 65520)
    yield from _vfs(network)
    yield from _host_network(network)
    yield from _pairs(spec)


def _vfs(network: Network) -> Iterator[Problem]:
    vfs, many = network.vfs, len(network.networks)
    if network.devices in (SRIOV, DRA) and not 1 <= vfs <= MAX_DEVICES:
        yield Problem(
            "network.vfs",
            f"is {vfs}: give how many VFs a node has, 1 to {MAX_DEVICES}, or network.devices: tcp",
        )
    elif network.devices == SHARED and vfs != 1:
        yield Problem("network.vfs", f"is {vfs}: a shared device is one, give 1")
    elif network.devices == TCP and vfs:
        yield Problem(
            "network.vfs",
            f"is {vfs}, and network.devices tcp has none: leave it out, or give sriov",
        )
    elif network.devices != TCP and many not in (1, vfs) and not _needs_no_network(network):
        yield Problem(
            "network.networks",
            f"has {many} names for {vfs} VFs: give one for all of them, or one for each",
        )


def _needs_no_network(network: Network) -> bool:
    """Tell whether no networks are named, and devices can do without: InfiniBand's have LIDs."""
    return not network.networks and network.link == INFINIBAND and network.devices != DRA


def _host_network(network: Network) -> Iterator[Problem]:
    reason = network.host_network_reason.strip()
    if network.host_network and not reason:
        yield Problem(
            "network.host-network",
            "is true without a reason: say in network.host-network-reason why pods must see the "
            "host's network, or leave it out",
        )
    if reason and not network.host_network:
        yield Problem(
            "network.host-network-reason", "is given, and host-network is not true: leave out one"
        )
    if network.host_network and network.devices in (SRIOV, DRA):
        yield Problem(
            "network.host-network",
            f"is true with devices {network.devices}: no VF moves into the host's network, leave "
            "it out, or give network.devices: shared",
        )


def _pairs(spec: Spec) -> Iterator[Problem]:
    """Refuse GPUs and VFs that DRA cannot pair evenly, or not in one claim."""
    gpus, vfs = spec.gpus, spec.network.vfs
    if spec.network.devices == DRA and gpus + vfs > MAX_CLAIMED:
        yield Problem(
            "network.vfs",
            f"is {vfs} with {gpus} GPUs: a claim of DRA has at most {MAX_CLAIMED} devices, give "
            "fewer, or network.devices: sriov",
        )
    if spec.network.devices != DRA or not gpus or not vfs or spec.network.aligned == "prefer":
        return
    if max(gpus, vfs) % min(gpus, vfs):
        yield Problem(
            "network.vfs",
            f"is {vfs} for {gpus} GPUs, which network.aligned {spec.network.aligned} cannot pair: "
            f"give {gpus}, or network.aligned: prefer",
        )


def _places(spec: Spec) -> Iterator[Problem]:
    topology, checkpoint = spec.topology, spec.checkpoint
    if topology.label:
        yield from _named("topology.label", topology.label, names.qualified)
    yield from _between("topology.tier", topology.tier, 0, 1000)
    if checkpoint.claim:
        yield from _named("checkpoint.claim", checkpoint.claim, names.subdomain)
    elif checkpoint.size_bytes or checkpoint.storage_class:
        yield Problem("checkpoint.claim", "is empty: name the claim that has the size")
    if checkpoint.storage_class and not checkpoint.size_bytes:
        yield Problem(
            "checkpoint.storage-class", "is of a claim that is made: give checkpoint.size"
        )
    if checkpoint.storage_class:
        yield from _named("checkpoint.storage-class", checkpoint.storage_class, names.subdomain)
    yield from _path("checkpoint.path", checkpoint.path, spec)


def _volumes(spec: Spec) -> Iterator[Problem]:
    for path, claim in spec.volumes.items():
        field = f"volumes.{shown(path, 80)}"
        yield from _named(field, claim, names.subdomain)
        yield from _path(field, path, spec)
        if spec.checkpoint.claim and path == spec.checkpoint.path:
            yield Problem(field, "is that of checkpoints: give another path to one of them")


def _nodes(spec: Spec) -> Iterator[Problem]:
    for name, value in spec.node_selector.items():
        field = f"node-selector.{shown(name, 80)}"
        if remedy := names.qualified(name):
            yield Problem(field, f"is no name of a label: {remedy}")
        yield from _named(field, value, names.label_value)
    for place, taint in enumerate(spec.tolerations):
        yield from _named(f"tolerations[{place}]", taint, names.taint)
    for place, name in enumerate(spec.pull_secrets):
        yield from _named(f"pull-secrets[{place}]", name, names.subdomain)


def _path(field: str, path: str, spec: Spec) -> Iterator[Problem]:
    parts, program = path.split("/"), spec.command[0] if spec.command else ""
    if not path.startswith("/") or ".." in parts or ":" in path or "" in parts[1:]:
        yield Problem(
            field,
            f"is {shown(path, 80) or 'empty'}: give an absolute path without .., : and a last /",
        )
    elif path in _ABOVE or any(_is_within(path, each) for each in _SYSTEM):
        yield Problem(field, f"is {path}, which is the system's: give one such as /checkpoints")
    elif _is_within(program, path):
        yield Problem(
            field,
            f"is {path}, where a volume hides {shown(program, 80)}: give one such as /checkpoints",
        )


def _is_within(path: str, folder: str) -> bool:
    return f"{path}/".startswith(f"{folder}/")


def _operation(spec: Spec) -> Iterator[Problem]:
    if not MIN_GRACE_S <= spec.grace_s <= MAX_GRACE_S:
        yield Problem(
            "grace",
            f"is {duration_text(spec.grace_s)}: give 30s to 1d, a step and a checkpoint or more",
        )
    if not 1 <= spec.join_timeout_s <= MAX_GRACE_S:
        yield Problem("join-timeout", f"is {duration_text(spec.join_timeout_s)}: give 1s to 1d")
    yield from _between("max-restarts", spec.max_restarts, 0, 1000)
    if not 1 <= spec.user < 1 << 31:
        yield Problem("user", f"is {spec.user}: give a uid other than root's, such as 1000")
    yield from _monitoring(spec)


def _monitoring(spec: Spec) -> Iterator[Problem]:
    monitoring = spec.monitoring
    if monitoring.port:
        # A user that is not root binds no lower one.
        yield from _between("monitoring.port", monitoring.port, 1024, 65535)
    if owner := _RESERVED_PORTS.get(monitoring.port):
        yield Problem("monitoring.port", f"is {monitoring.port}, {owner}: give another")
    yield from _named("monitoring.namespace", monitoring.namespace, names.label)
    for name, value in monitoring.labels.items():
        field = f"monitoring.labels.{shown(name, 80)}"
        if remedy := names.qualified(name):
            yield Problem(field, f"is no name of a label: {remedy}")
        yield from _named(field, value, names.label_value)
