"""Lists of the hosts of a job, in the grammars of Slurm, of hostfiles and of Volcano.

Slurm: ``node[01-04,07],other3`` and ``8(x4),4``. Hostfiles: ``host slots=8`` of Open MPI and
``host:8`` of Hydra. Volcano: ``a,b`` in ``VC_<TASK>_HOSTS``, and a line for each host in
``/etc/volcano/<task>.host``.
"""

import itertools
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rdmatrain.discovery.claims.values import shown
from rdmatrain.discovery.model import Evidence
from rdmatrain.discovery.orchestrators.facts import Facts, host_label, parse_number
from rdmatrain.discovery.source import natural

# Of one list; a longer one is garbage, or an attempt to fill the memory.
MAX_HOSTS = 1 << 16

VOLCANO_FILES = "/etc/volcano"
# Where mpi-operator and Kubeflow Trainer mount it, on the launcher.
MPI_HOSTFILE = "/etc/mpi/hostfile"
_HOSTFILE_VARIABLES = (
    "OMPI_MCA_orte_default_hostfile",
    "PRTE_MCA_prte_default_hostfile",
    "HYDRA_HOST_FILE",
    "I_MPI_HYDRA_HOST_FILE",
)


@dataclass(frozen=True)
class Task:
    """A task of a Volcano job: its name, in capitals, and how many hosts it has."""

    name: str
    size: int


@dataclass(frozen=True)
class Roster:
    """The hosts of a job, in the order of their node ranks.

    Attributes:
        source: where the list stands.
        hosts: as it names them.
        size: how many there are, which may be more than are named.
        slots: processes that each may get, as far as the list says.
        tasks: what they are divided into, in order; Volcano only.

    """

    source: str
    hosts: tuple[str, ...]
    size: int
    slots: tuple[int | None, ...] = ()
    tasks: tuple[Task, ...] = ()

    def place(self, names: Sequence[str]) -> int | None:
        """Return the place of the host that has one of these names, the first name first.

        None if it is not in the list, and where the list does not tell hosts apart.
        """
        if self.size != len(self.hosts):
            return None
        labels = [host_label(host) for host in self.hosts]
        return next((labels.index(name) for name in names if name in labels), None)


def slurm_nodes(text: str) -> tuple[str, ...]:
    """Expand ``node[01-04,07],other3``; empty if any part of it cannot be read."""
    nodes: list[str] = []
    for item in re.findall(r"(?:[^,\[\]]|\[[^\[\]]*\]|[\[\]])+", text):
        # Plain text and the insides of brackets take turns.
        parts = re.split(r"\[([^\[\]]*)\]", item.strip())
        choices = [_numbers(part) if place % 2 else [part] for place, part in enumerate(parts)]
        total = len(nodes) + math.prod(map(len, choices))
        if not all(choices) or total > MAX_HOSTS or re.search(r"[\[\]\s]", "".join(parts[::2])):
            return ()
        nodes += map("".join, itertools.product(*choices))
    return tuple(nodes)


def _numbers(text: str) -> list[str]:
    """Expand ``01-04,07`` and keep the leading zeros; empty if it cannot be read."""
    numbers: list[str] = []
    for part in text.split(","):
        match = re.fullmatch(r"([0-9]{1,9})(?:-([0-9]{1,9}))?", part.strip())
        if not match:
            return []
        first, last = int(match[1]), int(match[2] or match[1])
        if not first <= last < first + MAX_HOSTS - len(numbers):
            return []
        numbers += [f"{number:0{len(match[1])}}" for number in range(first, last + 1)]
    return numbers


def slurm_tasks(text: str) -> tuple[int, ...]:
    """Expand ``8(x4),4`` to tasks of each node; empty if any part of it cannot be read."""
    tasks: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"([0-9]{1,9})(?:\(x([0-9]{1,5})\))?", part.strip())
        if not match or len(tasks) + int(match[2] or 1) > MAX_HOSTS:
            return ()
        tasks += [int(match[1])] * int(match[2] or 1)
    return tuple(tasks)


def slurm_roster(facts: Facts) -> Roster | None:
    """Return the nodes of this step, or of the job where there is no step."""
    for key in ("SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST", "SLURM_NODELIST"):
        evidence = facts.get(key)
        if not evidence:
            continue
        nodes = slurm_nodes(evidence.text)
        if nodes:
            return Roster(evidence.source, nodes, len(nodes))
        facts.complain("unreadable", evidence.source, f"no list of nodes: '{shown(evidence.text)}'")
    return None


def hostfile_roster(facts: Facts) -> Roster | None:
    """Return the hosts of the file that mpirun is told to use."""
    paths = [facts.text(key) for key in _HOSTFILE_VARIABLES]
    for path in dict.fromkeys([*paths, MPI_HOSTFILE]):
        text = facts.source.text(path) if path.startswith("/") else None
        if text:
            slots: dict[str, int | None] = {}
            for host, count in _hostfile_lines(text):
                slots[host] = (slots.get(host) or 0) + count if count else slots.get(host)
            if slots:
                return Roster(path, tuple(slots), len(slots), tuple(slots.values()))
    return None


def _hostfile_lines(text: str) -> Iterator[tuple[str, int | None]]:
    for line in text.splitlines():
        match = re.match(r"\s*([^\s:#]+)(?::([0-9]{1,6}))?(.*)", line.partition("#")[0])
        if match:
            slots = match[2] or (re.findall(r"\bslots\s*=\s*([0-9]{1,6})", match[3]) or [""])[0]
            yield match[1], parse_number(slots)


def mpi_sizes(facts: Facts) -> tuple[int | None, int | None]:
    """Return how many ranks mpirun started, in all and on this host."""
    size = facts.number("OMPI_COMM_WORLD_SIZE", "PMI_SIZE")
    return size, facts.number("OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS")


def mpi_roster(facts: Facts) -> Roster | None:
    """Return the hosts that mpirun uses; None unless it uses the whole of a list.

    It may be told to use fewer hosts than its list has. Open MPI 4 tells how many it uses; else
    the list must have as many as ranks of this host's number make up.
    """
    used = facts.number("OMPI_MCA_orte_num_nodes")
    size, local = mpi_sizes(facts)
    for roster in (hostfile_roster(facts), slurm_roster(facts)):
        if roster and (roster.size == used if used else size == roster.size * (local or 0)):
            return roster
    return None


def volcano_roster(facts: Facts) -> Roster | None:
    """Return the hosts of all tasks: the master's first, then by name of the task.

    ``VC_TASK_INDEX`` counts within a task. The task that ``MASTER_ADDR`` names the first host of
    goes first, then the one that is called ``master``.
    """
    lists = {key[3:-6]: said for key, said in facts.matching("VC_*_HOSTS") if said.text}
    lists |= _volcano_files(facts, lists)
    master = host_label(facts.text("MASTER_ADDR"))
    tasks: list[Task] = []
    hosts: list[str] = []
    by_rank = {task: _split(said.text) for task, said in lists.items()}
    for task in sorted(
        by_rank,
        key=lambda each: (
            master not in map(host_label, by_rank[each][:1]),
            each != "MASTER",
            natural(each),
        ),
    ):
        tasks.append(Task(task, _volcano_size(facts, task, by_rank[task], lists[task])))
        hosts += by_rank[task]
    if not hosts:
        return None
    source = " and ".join(lists[task.name].source for task in tasks)
    return Roster(source, tuple(hosts), sum(task.size for task in tasks), tasks=tuple(tasks))


def _volcano_files(facts: Facts, frozen: dict[str, Evidence]) -> dict[str, Evidence]:
    """Return the lists of ``/etc/volcano``, which follow the scaling of a job; variables do not."""
    found: dict[str, Evidence] = {}
    for name in facts.source.names(VOLCANO_FILES):
        task = name.removesuffix(".host").upper()
        path = f"{VOLCANO_FILES}/{name}"
        hosts = _split(facts.source.text(path) or "") if name.endswith(".host") else []
        if not hosts:
            continue
        found[task] = Evidence(path, ",".join(hosts))
        said = frozen.get(task)
        if said and _split(said.text) != hosts:
            facts.complain(
                "stale-hosts",
                said.source,
                f"{len(_split(said.text))} hosts, frozen when the container started, and {path} "
                f"has {len(hosts)} that differ; the file is used",
            )
    return found


def _volcano_size(facts: Facts, task: str, hosts: list[str], said: Evidence) -> int:
    """Return how many hosts a task has: a template that sets ``hostname`` names one of them."""
    stated = facts.number(f"VC_{task}_NUM")
    if stated is None or stated <= len(hosts) or len(hosts) != 1:
        return len(hosts)
    facts.complain(
        "stale-hosts",
        said.source,
        f"one host of the {stated} that VC_{task}_NUM counts: does the task's template set "
        "hostname? Leave it out, and each pod gets its own name",
    )
    return min(stated, MAX_HOSTS)


def _split(text: str) -> list[str]:
    return [host for host in re.split(r"[,\s]+", text) if host][:MAX_HOSTS]
