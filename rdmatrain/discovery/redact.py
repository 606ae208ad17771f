"""Taking secrets, names and addresses out of a snapshot, without changing what it replays to."""

import posixpath
import re
from collections.abc import Callable, Iterator
from typing import Any

from rdmatrain.discovery.aliases import Addresses, Names

# Variables that discovery, NCCL and launchers read; a redacted snapshot has no others. By a prefix
# only where no one else has variables with it.
_KNOWN = re.compile(
    r"(PCIDEVICE|SRIOVNETWORK|NVIDIA|CUDA|NCCL|RCCL|UCX|FI|RDMATRAIN|PET|OMP|OMPI_COMM_WORLD)_.*"
    r"|HOSTNAME|WORLD_SIZE|NODE_RANK|NNODES|SLURM_((JOB|STEP)_)?(ID|NODELIST|NUM_NODES)"
    r"|SLURM_(JOBID|STEPID|NNODES|NODEID|PROCID|LOCALID|NTASKS|NTASKS_PER_NODE|RESTART_COUNT)"
    r"|SLURM_(STEP_)?TASKS_PER_NODE|SLURMD_NODENAME|TORCHELASTIC_(RUN_ID|.*_RESTARTS|RESTART_.*)"
    r"|OMPI_MCA_orte_(num_nodes|set_default_slots)|(OMPI_MCA_orte|PRTE_MCA_prte)_default_hostfile"
    r"|PMI_(RANK|SIZE)|MPI_LOCAL(RANKID|NRANKS)|(I_MPI_)?HYDRA_HOST_FILE|I_MPI_PERHOST"
    r"|LWS_(GROUP_SIZE|WORKER_INDEX|LEADER_ADDRESS)"
    r"|((GROUP|LOCAL|ROLE)_)?RANK|(GROUP|LOCAL|ROLE)_WORLD_SIZE|MASTER_(ADDR|PORT)"
    r"|(AMD|HIP|ROCR)_VISIBLE_DEVICES|GPU_DEVICE_ORDINAL|JOB_COMPLETION_INDEX|K_MPI_JOB_ROLE"
    r"|(VC|VK)_TASK_INDEX|VC_.*_(HOSTS|NUM)|SLINKY_TOPOLOGY|KUBEFLOW_TRAINER_SERVER_URL"
    r"|(GLOO|TP)_SOCKET_IFNAME"
    r"|.*(?i:NETWORKS?_STATUS)"
)
# What names of secrets have in them. A partition key (PKEY) is none.
_SECRET_WORD = "TOKEN|SECRET|PASSW|PASSPHRASE|CREDENTIAL|COOKIE|JWT"
_SECRET = re.compile(
    rf"{_SECRET_WORD}|(?<!_P)(?<!^P)KEY|^AWS_|_DSN$|_PAT$",
    re.IGNORECASE,
)
_USERINFO = re.compile(r"[a-z][a-z0-9+.-]*://[^/\s@]+@", re.IGNORECASE)
# What looks like a secret in any text: tokens by how they begin, what signs an address, and
# secrets that JSON names, which may itself be in a string of JSON.
_SECRET_VALUE = re.compile(
    r"\beyJ[\w-]{8,}(?:\.[\w-]+)*|\b(?:hf|gh[oprsu]|github_pat|glpat|xox[a-z])[_-][\w-]{8,}"
    r"|\b(?:AKIA|ASIA)[A-Z0-9]{12,}"
    r"|(?P<sign>[?&](?i:sig|[\w-]{0,40}(?:signature|token|secret|key))=)[^&\s\"'\\\0]+"
    r"|(?P<scheme>\b[a-z][a-z0-9+.-]{0,20}://)[^/\s@\"\0]+@"
    rf"|(?P<name>\"[^\"\\]{{0,40}}(?i:{_SECRET_WORD}|(?:api|access|private).?key)[^\"\\]{{0,40}}"
    r"\\*\"\s*:\s*(?P<quote>\\*\"))[^\0]*?(?=(?<!\\)(?P=quote))"
)
# Where users, folders and command lines are named.
_PERSONAL = re.compile(r"USER|ACCOUNT|HOME|_W?DIR$|COMMAND|COMMENT|ARGV|EMAIL", re.IGNORECASE)
# Annotations and labels of what schedules a pod and gives it devices.
_KNOWN_NOTES = re.compile(
    r"k8s\.v1\.cni\.cncf\.io/(networks|networks?-status)|volcano\.sh/.*|training\.kubeflow\.org/.*"
    r"|(jobset|leaderworkerset)\.(x-k8s|sigs\.k8s)\.io/.*|batch\.kubernetes\.io/job-.*"
    r"|([a-z-]+\.)*slinky\.slurm\.net/.*"
)
_NOTES_FILE = re.compile(r".*/(annotations|labels)")
_NOTE = re.compile(r'([^\s="]+)="((?:[^"\\]|\\.)*)"')

# Where hosts and jobs are named.
_NAMING_FILE = re.compile(r"/etc/(hostname|hosts|volcano/.*|mpi/hostfile.*)|.*/hostname")
_NAMING_VARIABLE = re.compile(
    r"HOSTNAME|.*(_ADDR|_ADDRESS|_HOSTS?|_ENDPOINT|NODELIST|NODENAME|CLUSTER_NAME|RDZV_ID|RUN_ID"
    r"|SERVER_URL)"
)
_NAMING_NOTE = re.compile(r".*(name|namespace|coordinator|workload|queue|subdomain|-group)")
_ROLE_NOTE = re.compile(r".*/(replicatedjob-name|operator-name|task-spec|replica-type)")
_NAMESPACE = re.compile(r'"namespace\\?"\s*:\s*\\?"([^"\\/]+)|\\?"name\\?"\s*:\s*\\?"([^"\\/]+)/')
# What nobody reads, by the file it stands in: comments, who built a driver or an image, and the
# groups of a pod's user.
_UNREAD = {
    re.compile(r"/etc/(hosts|volcano/.*|mpi/.*)"): re.compile(r"#.*"),
    re.compile(r"/etc/os-release"): re.compile(
        r"^(?!(?:ID|ID_LIKE|NAME|PRETTY_NAME|VERSION|VERSION_ID)=).*\n?", re.MULTILINE
    ),
    re.compile(r"/proc/driver/nvidia/version"): re.compile(r"\([^()\s]*@[^()\s]*\)"),
    re.compile(r"/proc/[^/]+/cgroup"): re.compile(r"(?<=:/).*"),
}
# Makers of devices; other companies in the name of a resource are users.
_COMPANY = re.compile(
    r"PCIDEVICE_(?!(?:NVIDIA|MELLANOX|INTEL|OPENSHIFT|K8S|AMD|BROADCOM)_)([A-Z0-9_-]+?)"
    r"(?=_(?:COM|ORG|IO|NET|DEV)_)",
    re.IGNORECASE,
)
# Networks, which interfaces may be called after: only where they are named.
_NETWORK = re.compile(r"(?P<key>\\*\"name\\*\"\s*:\s*\\*\"(?:[^\"\\/]+/)?)(?P<name>[^\"\\/]+)")
_SHORTHAND = re.compile(r"(?P<key>(?:^|,)\s*(?:[^/@\s,]+/)?)(?P<name>[^/@\s,\"\\]+)")
_UNREAD_OBJECT = re.compile(r"(\\*\"(?:dns|cni-args)\\*\"\s*:\s*)\{[^{}]*\}")
# Paths tell of users and teams. What follows these is read, and names nobody.
_PATH = re.compile(
    r"(?<![\w./-])/(?!dev/|var/run/nvidia-container-devices|etc/mpi/hostfile)[\w.@%+~][^\s:,;\"'\\]*"
)
# A list of hosts that is elsewhere than mpi-operator mounts it is moved there.
_HOSTFILE = re.compile(r"(?:_default_hostfile|HYDRA_HOST_FILE)=\s*(/[^\0]*[^\0\s])")
_HOSTFILE_HERE = "/etc/mpi/hostfile"
# Links elsewhere are on the way to such a list.
_SYSTEM = re.compile(r"/(sys|proc|dev|etc|run|var|pod-?info)(/|$)")
_OF_MACHINES = re.compile(rf"{_SYSTEM.pattern}|/(usr|lib|lib64)(/|$)|/tmp/?$")
# Probes whose answers name devices, and no hosts.
_OF_DEVICES = {"verbs", "nvml"}
_NAMESPACES = re.compile(r"(?:^|,)\s*([^/@\s,\"\\\[{]+)/")
_ENVIRON = re.compile(r"/proc/[^/]+/environ")
_TABLE = re.compile(r".*/net/(route|if_inet6|ipv6_route)")


def drop_variables(files: dict[str, str], only_known: bool) -> list[str]:
    """Take variables out of saved environments, in place.

    Args:
        files: texts by path; those of ``/proc/*/environ`` are changed.
        only_known: take out all that discovery does not know; else only what looks secret.

    Returns:
        What was taken out, in words.

    """
    removed = []
    for path in sorted(filter(_ENVIRON.fullmatch, files)):
        kept, others = [], 0
        for variable in files[path].split("\0"):
            name, _, value = variable.partition("=")
            if _SECRET.search(name) or _USERINFO.search(value):
                removed.append(f"{path}: {name}")
            elif only_known and variable and not _is_known(name):
                others += 1
            else:
                kept.append(variable)
        files[path] = "\0".join(kept)
        if others:
            removed.append(f"{path}: {others} variables that discovery does not read")
    return removed


def drop_secrets(files: dict[str, str]) -> list[str]:
    """Take what looks like a secret out of all texts but the kernel's, in place."""
    removed = []
    for path in sorted(files):
        if not path.startswith("/sys/"):
            files[path], count = _SECRET_VALUE.subn(_without_secret, files[path])
            removed += [f"{path}: {count} that look like secrets"] if count else []
    return removed


def drop_notes(files: dict[str, str]) -> list[str]:
    """Take annotations and labels that discovery does not know out of downward API files."""
    removed = []
    for path in filter(_NOTES_FILE.fullmatch, sorted(files)):
        lines = files[path].split("\n")
        notes = [_NOTE.fullmatch(line) for line in lines]
        kept = [
            line
            for line, note in zip(lines, notes, strict=True)
            if not note or _KNOWN_NOTES.fullmatch(note[1])
        ]
        files[path] = "\n".join(kept)
        if len(kept) < len(lines):
            count = len(lines) - len(kept)
            removed.append(f"{path}: {count} annotations or labels that discovery does not read")
    return removed


def drop_unread(files: dict[str, str]) -> None:
    """Take out what of other files nobody reads, in place."""
    for where, what in _UNREAD.items():
        for path in filter(where.fullmatch, files):
            files[path] = what.sub("", files[path])


def rename_resources(files: dict[str, str]) -> None:
    """Give companies and networks in the names of devices' resources other names, in place."""
    companies, networks = _Numbers("CORP"), _Numbers("network")
    for path in sorted(filter(_ENVIRON.fullmatch, files)):
        files[path] = "\0".join(
            _COMPANY.sub(lambda match: f"PCIDEVICE_{companies.hyphenated(match[1])}", each)
            if each.startswith("PCIDEVICE_")
            else networks.in_status(each, "=")
            for each in files[path].split("\0")
        )
    for path in sorted(filter(_is_of_pod, files)):
        if _NOTES_FILE.fullmatch(path):
            lines = files[path].split("\n")
            files[path] = "\n".join(networks.in_status(each, '="') for each in lines)
        elif path.endswith(("/networks", "/network-status", "/network_status")):
            files[path] = networks.in_status(f"networks={files[path]}", "=").partition("=")[2]


class _Numbers:
    """Placeholders that only count."""

    def __init__(self, word: str) -> None:
        self._word = word
        self._seen: dict[str, int] = {}

    def of(self, name: str) -> str:
        return f"{self._word}{self._seen.setdefault(name, len(self._seen))}"

    def hyphenated(self, name: str) -> str:
        """Keep that there was a hyphen: some shells drop variables that have one."""
        return self.of(name) + "-X" * ("-" in name)

    def in_status(self, text: str, mark: str) -> str:
        """Replace networks in a status, or in what was asked for."""
        key, found, value = text.partition(mark)
        if not re.fullmatch(r"(?i:.*networks?[-_]status)|(.*/)?networks", key):
            return text
        value = _UNREAD_OBJECT.sub(r"\1{}", value)
        plain = value.lstrip()[:1] not in {"[", "{"}
        names = _SHORTHAND if plain else _NETWORK
        return key + found + names.sub(lambda each: each["key"] + self.of(each["name"]), value)


def move_hostfiles(saved: dict[str, Any], real: Callable[[str], str]) -> None:
    """Put lists of hosts of MPI, which users keep in their folders, to where nobody is named.

    Args:
        saved: sections of a snapshot, which are changed.
        real: gives a path without links.

    """
    files: dict[str, str] = saved["files"]
    environs = list(filter(_ENVIRON.fullmatch, files))
    told = {path for each in environs for path in _HOSTFILE.findall(files[each])}
    new = {
        path: f"{_HOSTFILE_HERE}-{number}"
        for number, path in enumerate(sorted(told - {_HOSTFILE_HERE}))
    }
    for each in environs:
        files[each] = _HOSTFILE.sub(lambda m: m[0].replace(m[1], new.get(m[1], m[1])), files[each])
    for section in (files, saved["errors"]):
        _move(section, new, real)
    for path in [at for at in saved["links"] if at in new or not _SYSTEM.match(at)]:
        del saved["links"][path]


def rename(saved: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Give hosts, jobs and addresses other names.

    Args:
        saved: sections of a snapshot.

    Returns:
        The same with placeholders, and what was replaced, in words.

    """
    files: dict[str, str] = saved["files"]
    addresses = Addresses()
    names = Names([*_naming(files), *_named_in_probes(saved["probes"])], _roles(files))

    def change(text: str) -> str:
        return names.in_text(_PATH.sub(_elsewhere, addresses.in_text(text)))

    renamed = {path: _renamed(path, text, addresses, names) for path, text in sorted(files.items())}
    probes = {
        name: answer  # four numbers with dots are a version here
        if name == "versions"
        else _in_json(answer, addresses.in_text if name in _OF_DEVICES else change)
        for name, answer in saved["probes"].items()
    }
    done = {"addresses": len(addresses), "names": len(names)}
    return saved | {"files": renamed, "probes": probes}, [
        f"{count} {what} were replaced" for what, count in done.items() if count
    ]


def _named_in_probes(probes: dict[str, Any]) -> Iterator[str]:
    """Yield the hosts that a user named where the doctor asked for what a job needs."""
    needs = probes.get("needs")
    if isinstance(needs, dict):
        yield str(needs.get("leader", "")).rpartition(":")[0]


def _elsewhere(match: re.Match[str]) -> str:
    """Replace a folder of a user; those that all machines have stay."""
    return match[0] if _OF_MACHINES.match(match[0]) else "/path"


def _without_secret(match: re.Match[str]) -> str:
    return "".join(match[group] or "" for group in ("sign", "scheme", "name")) + "removed"


def _move(section: dict[str, str], new: dict[str, str], real: Callable[[str], str]) -> None:
    old = set()
    for path, to in new.items():
        try:
            place = real(path)
        except OSError:  # Links that go round in a circle.
            continue
        if place in section:
            section[to] = section[place]
            old.add(place)
    for place in old - {_HOSTFILE_HERE}:
        del section[place]


def _is_known(name: str) -> bool:
    return bool(_KNOWN.fullmatch(name)) and not _PERSONAL.search(name)


def _is_of_pod(path: str) -> bool:
    return not path.startswith(("/sys/", "/proc/"))


def _naming(files: dict[str, str]) -> Iterator[str]:
    """Yield texts in which hosts, jobs or namespaces are named."""
    for path, text in files.items():
        if _NAMING_FILE.fullmatch(path):
            yield re.sub("#.*", "", text)
        elif _ENVIRON.fullmatch(path):
            for variable in text.split("\0"):
                name, _, value = variable.partition("=")
                if _NAMING_VARIABLE.fullmatch(name):
                    yield value
        elif _is_of_pod(path):
            yield from _named_in_notes(text)


def _named_in_notes(text: str) -> Iterator[str]:
    for key, value in _NOTE.findall(text):
        if _NAMING_NOTE.fullmatch(key) and not _ROLE_NOTE.fullmatch(key):
            yield value
        elif key.endswith("/networks"):
            yield from _NAMESPACES.findall(value)
    yield from map("".join, _NAMESPACE.findall(text))


def _roles(files: dict[str, str]) -> Iterator[str]:
    """Yield words that say what a host does in its job: its tasks, in Volcano's and JobSet's."""
    for path, text in files.items():
        if path.startswith("/etc/volcano/"):
            yield posixpath.basename(path).removesuffix(".host")
        elif _is_of_pod(path):
            yield from (value for key, value in _NOTE.findall(text) if _ROLE_NOTE.fullmatch(key))


def _renamed(path: str, text: str, addresses: Addresses, names: Names) -> str:
    if _TABLE.fullmatch(path):
        return addresses.in_table(text)
    text = addresses.in_text(text, dotted=not path.startswith("/sys/"))
    if _ENVIRON.fullmatch(path):
        return "\0".join(_after("=", variable, names) for variable in text.split("\0"))
    if path.endswith("/hostname"):
        return names.in_text(text)
    if _is_of_pod(path):
        return "\n".join(_after('="', line, names) for line in text.split("\n"))
    return text


def _after(mark: str, text: str, names: Names) -> str:
    """Replace names in what follows a mark; in all of a text without it."""
    key, found, value = text.partition(mark)
    if not found:
        return names.in_text(text)
    value = _PATH.sub("/path", value)
    # The files of a snapshot keep their paths.
    return key + found + (value if value.startswith("/") else names.in_text(value))


def _in_json(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, list):
        return [_in_json(each, change) for each in value]
    if isinstance(value, dict):
        return {name: _in_json(each, change) for name, each in value.items()}
    return value
