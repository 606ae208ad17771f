"""A node's position in its gang: how many nodes there are, which one it is, where node 0 is.

The command line says it, or a variable of torchrun's; else the orchestrator that discovery found;
else it is a job of one node, unless something shows that there are others: then nothing starts.
``--nnodes 1`` and ``--standalone`` are a job of one node, wherever it runs. Where mpirun, srun or
torchrun started several processes on a host, each of them is a node.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from rdmatrain.discovery.orchestrator import Identity
from rdmatrain.launcher.exit_codes import NO_JOB
from rdmatrain.launcher.ledger import DEFAULT, Choices, Known
from rdmatrain.launcher.options import VARIABLE, Choice
from rdmatrain.launcher.refusal import RefusalError
from rdmatrain.launcher.tasks import POD_STARTERS, STARTERS, Task, are_nodes, task_of
from rdmatrain.launcher.values import HostPort, Nodes

# Where nobody gives a port: torchrun's, the same on all nodes.
DEFAULT_PORT = 29500
# What is of a pod, and not of each task in it.
_OF_POD = ("nnodes", "node_rank", "nproc_per_node", "master_addr", "master_port", "rdzv_endpoint")
_DEALT = ("c10d", "rdmatrain")


@dataclass(frozen=True)
class Position:
    """A node's position in the gang; see :class:`~rdmatrain.launcher.job.Gang` for the fields.

    Attributes:
        task: which task of mpirun, srun or torchrun this is, if each of them is a node.
        identity: who started this process; None where that does not matter.
        notes: lines to tell the user.

    """

    nodes: Known
    node_rank: Known
    leader: Known
    port: Known
    task: Task | None = None
    identity: Identity | None = None
    notes: list[str] = field(default_factory=list)


def of_this_process(choices: Choices, task: Task | None, identity: Identity | None) -> Choices:
    """Leave out the variables that an orchestrator set for its pod, in a task that it has many of.

    Args:
        choices: the options.
        task: which task this is; None if tasks are no nodes.
        identity: who started this process, within what.

    """
    if task is None or identity is None or not {*POD_STARTERS} & {*identity.within}:
        return choices
    stale = {name for name in _OF_POD if choices[name].level == VARIABLE}
    return {name: Choice() if name in stale else choice for name, choice in choices.items()}


def find_position(
    choices: Choices, identity: Identity | None, environ: Mapping[str, str]
) -> tuple[Position, Choices]:
    """Find this node's position, and return the options that count for it.

    Args:
        choices: the options.
        identity: who started this process; None if nobody asked.
        environ: its variables.

    Raises:
        RefusalError: the values contradict each other, or one is missing; names each with its
            source, and what to set.

    """
    task = task_of(identity, environ) if identity else None
    task = task if identity and are_nodes(task, identity) else None
    choices = of_this_process(choices, task, identity)
    nodes = _nodes(choices, identity, task)
    if nodes.value.most == 1:
        return _alone(choices, identity, nodes), choices
    finder = _Finder(choices, identity, task, nodes)
    return finder.position(), choices


def _nodes(choices: Choices, identity: Identity | None, task: Task | None) -> Known:
    said, standalone = choices["nnodes"], choices["standalone"]
    if standalone.value and standalone.level >= said.level:
        if said.level == standalone.level and said.value.most > 1:
            raise RefusalError(
                f"{standalone.source} is a job of one node, and {said.source} {said.value} is of "
                "several: leave out one",
                NO_JOB,
            )
        return Known(Nodes(1, 1), standalone.source)
    if said.value:
        return Known(said.value, said.source)
    if task:
        each = f"each of the {task.size} tasks of {task.by} is a node"
        return Known(Nodes(task.size, task.size), f"{task.source}: {each}")
    return _nodes_of_orchestrator(identity) if identity else Known(Nodes(1, 1), DEFAULT)


def _nodes_of_orchestrator(identity: Identity) -> Known:
    if identity.nnodes:
        return Known(Nodes(identity.nnodes, identity.nnodes), _words(identity, "nnodes"))
    if identity.others:
        raise RefusalError(
            f"there are other nodes ({identity.orchestrator}: {identity.others}), and nobody says "
            f"how many: {identity.decided_by['nnodes']}; --nnodes or --standalone decides",
            NO_JOB,
        )
    return Known(Nodes(1, 1), DEFAULT)


def _alone(choices: Choices, identity: Identity | None, nodes: Known) -> Position:
    level = max(choices["nnodes"].level, choices["standalone"].level)
    rank = choices["node_rank"]
    if rank.value and rank.level >= level:
        raise _out_of_range(Known(rank.value, rank.source), nodes)
    only = "there is one node"
    return Position(
        nodes=nodes,
        node_rank=Known(0, only),
        leader=Known("", only),
        port=_own_port(choices),
        # An orchestrator that knows of one node still counts restarts, and has a name for the job.
        identity=identity if identity and identity.nnodes and not level else None,
        notes=[] if level or identity is None else _why_alone(identity),
    )


def _own_port(choices: Choices) -> Known:
    """Return the port of a job of one node."""
    port, endpoint = choices["master_port"], choices["rdzv_endpoint"]
    if port.value:
        return Known(port.value, port.source)
    if endpoint.value and endpoint.value.port and not choices["standalone"].value:
        return Known(endpoint.value.port, endpoint.source)
    return Known(0, "a free one")


def _why_alone(identity: Identity) -> list[str]:
    """Say why this is a job of one node, where it looks as if there were others."""
    by = identity.orchestrator
    if identity.nnodes or by in {"plain", *STARTERS}:
        return []
    why = identity.decided_by["nnodes"]
    return [f"this is a job of one node: {by} does not say of how many ({why})"]


class _Finder:
    """Finds the position of a node among several."""

    def __init__(
        self, choices: Choices, identity: Identity | None, task: Task | None, nodes: Known
    ) -> None:
        self._choices = choices
        self._identity = identity
        self._task = task
        self._nodes = nodes
        self._notes: list[str] = []

    def position(self) -> Position:
        leader, port = self._leader()
        self._require_step()
        rank = self._node_rank()
        if rank.value is not None and rank.value >= self._nodes.value.most:
            raise _out_of_range(rank, self._nodes)
        return Position(self._nodes, rank, leader, port, self._task, self._identity, self._notes)

    def _require_step(self) -> None:
        """Refuse a script of Slurm's that counts the job's nodes, and runs on the first alone."""
        identity = self._identity
        if identity is None or self._choices["nnodes"].level:
            return
        for each in identity.complaints:
            if each.id == "not-in-a-step":
                raise RefusalError(
                    f"{each.source} is {each.text}, or give --nnodes 1 for a job of one node",
                    NO_JOB,
                )

    @property
    def _given_leader(self) -> Choice | None:
        """Return where the user says that node 0 is; the endpoint, if both are said alike."""
        said = [self._choices["rdzv_endpoint"], self._choices["master_addr"]]
        best = max(said, key=lambda choice: choice.level)
        return best if best.level else None

    def _leader(self) -> tuple[Known, Known]:
        given, identity = self._given_leader, self._identity
        if given is None:
            if identity is None or not identity.leader:
                raise self._missing("where node 0 is", "leader", "--master-addr HOST")
            return Known(identity.leader, _words(identity, "leader")), self._port(None, "")
        if isinstance(given.value, HostPort):
            return Known(given.value.host, given.source), self._port(given.value.port, given.source)
        return Known(given.value, given.source), self._port(None, "")

    def _port(self, port: int | None, source: str) -> Known:
        said, identity = self._choices["master_port"], self._identity
        if port:
            return Known(port, source)
        if said.value:
            return Known(said.value, said.source)
        if identity and identity.leader_port:
            if identity.orchestrator != "torchrun":
                return Known(identity.leader_port, _words(identity, "leader_port"))
            # torchrun's own store has that one.
            after = identity.leader_port % 65535 + 1
            return Known(after, f"the one after torchrun's ({_words(identity, 'leader_port')})")
        return Known(DEFAULT_PORT, DEFAULT)

    def _node_rank(self) -> Known:
        said, backend = self._choices["node_rank"], self._choices["rdzv_backend"]
        if backend.value == "c10d" and self._given_leader:
            if said.value:
                self._notes.append(
                    f"{said.source} {said.value} does not count: with {backend.source} c10d, as "
                    "with torchrun, numbers of nodes are dealt out"
                )
            return Known(None, f"dealt out: {backend.source} c10d")
        if said.level:
            return Known(said.value, said.source)
        return self._rank_of_orchestrator() or self._rank_that_nobody_gives()

    def _rank_of_orchestrator(self) -> Known | None:
        if self._task:
            return Known(self._task.rank, self._task.source)
        identity = self._identity
        if identity and identity.node_rank is not None:
            return Known(identity.node_rank, _words(identity, "node_rank"))
        return None

    def _rank_that_nobody_gives(self) -> Known:
        nodes, backend = self._nodes.value, self._choices["rdzv_backend"]
        if backend.value in _DEALT or nodes.least < nodes.most:
            return Known(None, "dealt out: nobody gives it")
        plain = self._identity is None or self._identity.orchestrator == "plain"
        if plain and self._choices["nnodes"].level:
            return Known(0, DEFAULT)  # as torchrun has it
        raise self._missing("which node this is", "node_rank", "--node-rank N")

    def _missing(self, what: str, name: str, option: str) -> RefusalError:
        why = self._identity.decided_by[name] if self._identity else "nobody says it"
        if option.split()[0] in why:  # which follows, once
            why = why.partition(":")[0]
        return RefusalError(
            f"it is known that there are {_counted(self._nodes)}, but not {what}: {why}; give "
            f"{option}, or --nnodes 1 for a job of one node",
            NO_JOB,
        )


def _out_of_range(rank: Known, nodes: Known) -> RefusalError:
    most = nodes.value.most
    return RefusalError(
        f"node rank {rank.value} ({rank.source}) does not fit {_counted(nodes)}: "
        + (
            "set --nnodes to the number of all nodes, or leave out the rank"
            if most == 1
            else f"give each node its own number from 0 to {most - 1}, or set --nnodes"
        ),
        NO_JOB,
    )


def _counted(nodes: Known) -> str:
    return f"{nodes.value} node{'' if nodes.value.most == 1 else 's'} ({nodes.source})"


def _words(identity: Identity, name: str) -> str:
    return f"{identity.orchestrator}: {identity.decided_by[name]}"
