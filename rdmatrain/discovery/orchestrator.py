"""Which orchestrator started this process, which node of how many it is on, and who says so.

``RANK`` and ``WORLD_SIZE`` decide nothing: they count processes under torchrun, pods under
Volcano's pytorch plugin, pods and processes under a PyTorchJob. Each orchestrator has markers of
its own, and often those of several are there. The first in this order is the answer, the others
are listed as what it is ``within``:

==============  ==============================  ==================================================
orchestrator    it goes before                  because
==============  ==============================  ==================================================
``torchrun``    all                             who started a process knows its place best, and it
                                                is started by the others, not the other way round
``mpirun``      Slurm, MPIJob, Volcano          its ranks may be on fewer hosts than it was given,
                                                and ``SLURM_NODEID`` is that of its own daemons
``slinky``      srun                            it is the same, in a pod of slurmd
``srun``        those below                     its tasks are processes, the others start pods
``pytorchjob``  Volcano                         Volcano only schedules it
``trainer``     JobSet, Indexed Job             a TrainJob is a JobSet, whose jobs are indexed
``jobset``      Indexed Job                     its pods have an index in one of several jobs
``mpijob``      Indexed Job                     its launcher is a Job
``lws``         Volcano                         Volcano only schedules it
``volcano``     Indexed Job                     an index can be a variable of its template
``indexed-job`` plain                           the last that has a marker
``plain``                                       none has: only what people set by hand
==============  ==============================  ==================================================

Those that start processes (torchrun, mpirun, srun) are looked for among this process's own
variables: its parent and process 1 may be of another one's.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from rdmatrain.discovery.claims.values import MAX_WORD, shown
from rdmatrain.discovery.model import Complaint, Evidence
from rdmatrain.discovery.orchestrators.adapters import ADAPTERS, BY_HAND, Adapter
from rdmatrain.discovery.orchestrators.facts import Facts, parse_number
from rdmatrain.discovery.orchestrators.hosts import Roster
from rdmatrain.discovery.orchestrators.rules import Rule
from rdmatrain.discovery.pod_model import Pod
from rdmatrain.discovery.source import Source

# Smallest and largest of each number.
_LIMITS = {
    "nnodes": (1, 1_000_000),
    "node_rank": (0, 1_000_000),
    "nproc_per_node": (1, 1024),
    "leader_port": (1, 65_535),
    "epoch": (0, 999_999_999),
}
_HOST = re.compile(r"[0-9A-Za-z_.:%\[\]-]{1,253}")
# Why a field is not known, and what to do, where the adapter has no better word.
_UNKNOWN = {
    "nnodes": "nothing here tells: set PET_NNODES",
    "node_rank": "nothing here tells: give it to rdmatrain run as --node-rank",
    "nproc_per_node": "nothing here tells: give it to rdmatrain run as --nproc-per-node",
    "leader": "nothing here tells: give it to rdmatrain run as --master-addr",
    "leader_port": "nothing here tells: give it to rdmatrain run as --master-port",
    "epoch": "nothing here counts restarts",
}
# What torchrun takes for a number of processes, and counts the devices of.
_DEVICES = {"auto", "gpu", "cpu", "xpu"}


@dataclass(frozen=True)
class Identity:
    """Who this process is in its job. What is not known is None, or empty.

    Attributes:
        orchestrator: a name of :data:`rdmatrain.discovery.orchestrators.adapters.ADAPTERS`.
        within: other orchestrators that have their markers here, the inner ones first.
        nnodes: how many nodes; the smallest number where the job may grow and shrink.
        node_rank: which of them, 0 to nnodes - 1.
        nproc_per_node: processes that there are, or should be, on this node.
        leader: host of node 0, under which the others find it.
        leader_port: its port.
        epoch: how often the job has been started again; never less than it was.
        decided_by: for each of these, who says it; or why nobody does.
        complaints: what contradicts itself or cannot be read.
        others: who says that there are other nodes, where nobody says how many; empty if nobody.

    """

    orchestrator: str
    within: tuple[str, ...]
    nnodes: int | None
    node_rank: int | None
    nproc_per_node: int | None
    leader: str
    leader_port: int | None
    epoch: int | None
    decided_by: Mapping[str, str]
    complaints: tuple[Complaint, ...]
    others: str = ""


def whoami(source: Source, pod: Pod) -> Identity:
    """Find out who started this process, and as what.

    Args:
        source: for host names, hostfiles and the lists of Volcano.
        pod: variables, annotations and labels.

    """
    own, everybody = Facts(source, pod, only_own=True), Facts(source, pod)
    recognised = [
        (adapter, facts, markers[0])
        for adapter in ADAPTERS
        for facts in [own if adapter.of_process else everybody]
        for markers in [list(_markers(adapter, facts))]
        if markers
    ]
    (adapter, facts, marker), *within = recognised
    reader = _Reader(adapter, facts, marker or "no marker of any orchestrator is here")
    numbers = {name: reader.number(name) for name in _LIMITS}
    leader = reader.leader()
    reader.check(numbers)
    return Identity(
        orchestrator=adapter.name,
        # The last one needs no marker, and is always there.
        within=tuple(each.name for each, _, _ in within[:-1]),
        leader=leader,
        others=shown(reader.others(numbers, leader), MAX_WORD),
        decided_by={name: shown(words, MAX_WORD) for name, words in reader.decided_by.items()},
        complaints=(*_blind(pod), *facts.complaints),
        **numbers,
    )


def _blind(pod: Pod) -> list[Complaint]:
    """Return why no environment could be read, without which nobody can be recognised."""
    return [each for each in pod.complaints if each.id == "unreadable" and not pod.variables]


def _markers(adapter: Adapter, facts: Facts) -> Iterator[str]:
    """Find the groups of its markers that are there; return where, in words."""
    for group in adapter.markers:
        found = [evidence for evidence in map(facts.find, group) if evidence]
        if len(found) == len(group):
            yield " and ".join(evidence.source for evidence in found)


class _Reader:
    """Reads the fields of an identity by the rules of one adapter."""

    def __init__(self, adapter: Adapter, facts: Facts, recognised_by: str) -> None:
        self._adapter = adapter
        self._facts = facts
        self._roster: Roster | None = adapter.roster(facts)
        self._most_nodes: int | None = None
        self.decided_by = {"orchestrator": recognised_by}

    def number(self, name: str) -> int | None:
        """Return the first number that a rule gives; complain of what is none."""
        for evidence in self._evidence(name):
            if name == "nproc_per_node" and evidence.text.lower() in _DEVICES:
                self.decided_by[name] = f"{evidence}: as many as there are devices"
                return None
            number = self._parse(name, evidence)
            if number is not None:
                self.decided_by[name] = str(evidence)
                if ":" in evidence.text:
                    self.decided_by[name] += f", at least {number}"
                    self._most_nodes = parse_number(evidence.text.partition(":")[2])
                return number
        self.decided_by[name] = self._why_not(name)
        return None

    def leader(self) -> str:
        """Return the first host that a rule gives; complain of what is none."""
        for evidence in self._evidence("leader"):
            if _HOST.fullmatch(evidence.text):
                self.decided_by["leader"] = str(evidence)
                return evidence.text
            self._complain("unreadable", evidence, "is no name or address of a host")
        self.decided_by["leader"] = self._why_not("leader")
        return ""

    def others(self, numbers: Mapping[str, int | None], leader: str) -> str:
        """Return who says that this is not the only node; empty if that many are known."""
        rank = numbers["node_rank"]
        if numbers["nnodes"] is not None:
            return ""
        if rank is not None:  # 0 is node 0, whatever it is called
            return self.decided_by["node_rank"] if rank else ""
        said = filter(None, map(self._facts.get, self._adapter.indices))
        index = next((str(each) for each in said if parse_number(each.text)), "")
        return index or (self.decided_by["leader"] if self._is_led_from_elsewhere(leader) else "")

    def _is_led_from_elsewhere(self, leader: str) -> bool:
        """Tell it of a pod: else MASTER_ADDR may be a leftover, or an address not known here."""
        is_pod = any(self._adapter.markers) and not self._adapter.of_process
        return is_pod and leader != "" and not self._facts.is_here(leader)

    def check(self, numbers: Mapping[str, int | None]) -> None:
        """Complain of what contradicts itself."""
        for name, rules in self._adapter.agree.items():
            self._check_agreement(name, numbers[name], rules)
        rank, most = numbers["node_rank"], self._most_nodes or numbers["nnodes"]
        if rank is not None and most is not None and rank >= most:
            self._facts.complain(
                "rank-out-of-range",
                self.decided_by["node_rank"],
                f"node_rank {rank} of {most} nodes ({self.decided_by['nnodes']}); the last is "
                f"{most - 1}",
            )
        for check in self._adapter.checks:
            check(self._facts, self._roster)

    def _check_agreement(self, name: str, value: int | None, rules: tuple[Rule, ...]) -> None:
        for evidence in filter(None, map(self._ask, rules)):
            other = self._parse(name, evidence)
            if None not in {value, other} and value != other:
                self._complain(
                    "identity-conflict",
                    evidence,
                    f"but {name} is {value} by {self.decided_by[name]}",
                )

    def _evidence(self, name: str) -> Iterator[Evidence]:
        by_hand = () if self._adapter.of_process else BY_HAND.get(name, ())
        return filter(None, map(self._ask, (*self._adapter.rules.get(name, ()), *by_hand)))

    def _ask(self, rule: Rule) -> Evidence | None:
        return self._facts.get(rule) if isinstance(rule, str) else rule(self._facts, self._roster)

    def _parse(self, name: str, evidence: Evidence) -> int | None:
        """Return the number that it says, of a range the smallest; complain if it is none."""
        low, _, high = evidence.text.partition(":")
        number, most = parse_number(low), parse_number(high)
        if evidence.text == low or name != "nnodes":
            number = most = parse_number(evidence.text)
        smallest, largest = _LIMITS[name]
        if number is None or most is None or not smallest <= number <= most <= largest:
            self._complain("not-a-number", evidence, f"is no {name}, {smallest} to {largest}")
            return None
        if number < most:
            self._complain("elastic-nodes", evidence, f"is a range; the least, {number}, counts")
        return number

    def _complain(self, what: str, evidence: Evidence, text: str) -> None:
        self._facts.complain(what, evidence.source, f"'{shown(evidence.text)}' {text}")

    def _why_not(self, name: str) -> str:
        return self._adapter.unknown.get(name, _UNKNOWN[name])
