"""Where the nodes of the job are to meet, by the launcher's own rules."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from rdmatrain.discovery.claims.variables import OWN
from rdmatrain.discovery.orchestrator import Identity
from rdmatrain.discovery.pod_model import Pod
from rdmatrain.doctor.model import Needs
from rdmatrain.errors import SettingError
from rdmatrain.launcher.ledger import DEFAULT, Choices
from rdmatrain.launcher.options import choose
from rdmatrain.launcher.position import Position, find_position
from rdmatrain.launcher.tasks import STARTERS, are_nodes, task_of


@dataclass(frozen=True)
class Meeting:
    """What this node knows of the place.

    Attributes:
        problem: why nothing is known of it; then nothing else counts.
        alone: the job has one node, which looks for nobody.
        one_host: all nodes are on this host, where loopback will do.
        leader: name or address of node 0.
        port: of its launcher; 0 for a free one.
        node_rank: this node's number; None if it is dealt out.
        source: who says where node 0 is.
        by_hand: no orchestrator says it, and nodes may be anywhere.

    """

    problem: str = ""
    alone: bool = False
    one_host: bool = False
    leader: str = ""
    port: int = 0
    node_rank: int | None = None
    source: str = ""
    by_hand: bool = True

    @property
    def why_not(self) -> str:
        """Say why there is nothing to meet at; empty if there is."""
        if self.problem:
            return f"it is not known where the nodes meet: {self.problem}"
        return "the job has one node, as far as is known" if self.alone else ""


def variables_of(pod: Pod | None) -> dict[str, str]:
    """Return the variables that the job inherits: those of this process."""
    return {each.name: each.value for each in pod.variables if each.source == OWN} if pod else {}


def meeting(pod: Pod | None, identity: Identity | None, needs: Needs) -> Meeting:
    """Find where the nodes meet.

    Args:
        pod: has the variables, which may be options of the launcher.
        identity: who started this process; None if nobody asked.
        needs: may say who leads, and of how many nodes.

    """
    environ = variables_of(pod)
    try:
        position = _position(environ, identity, needs)
    except SettingError as error:
        return Meeting(problem=str(error))
    task, rank = position.task, position.node_rank
    by_hand = identity is None or identity.orchestrator in {"plain", *STARTERS}
    return Meeting(
        alone=position.nodes.value.most == 1,
        one_host=task is not None and task.local_size == task.size,
        leader=position.leader.value,
        port=position.port.value,
        # That of a lone node, which is not what it is where only the leader is known.
        node_rank=None if needs.leader and rank.source == DEFAULT else rank.value,
        source="given" if needs.leader else position.leader.source,
        by_hand=by_hand and "KUBERNETES_SERVICE_HOST" not in environ,
    )


def options_of(needs: Needs, identity: Identity | None, environ: Mapping[str, str]) -> Choices:
    """Return the launcher's options: what is said of the job's needs, or else its variables.

    Args:
        needs: may say who leads, and of how many nodes.
        identity: who started this process; None if nobody asked.
        environ: its variables.

    """
    given = {"rdzv_endpoint": needs.leader} if needs.leader else {}
    said = _resolved(needs) if needs.nnodes else _needed(needs, identity, environ)
    return choose(given | said, environ)


def _needed(needs: Needs, identity: Identity | None, environ: Mapping[str, str]) -> dict[str, str]:
    """Return how many nodes there are to be, where the pod itself does not say so."""
    choices = choose({}, environ)
    said = choices["nnodes"].value
    known = said.most if said else identity and identity.nnodes
    # Where tasks of one host are nodes each, their own number is the launcher's.
    task = task_of(identity, environ) if identity else None
    if needs.nodes in {0, known} or (identity and are_nodes(task, identity)):
        return {}
    # Which of them this is may be said later.
    later = needs.nodes > 1 and not choices["rdzv_backend"].value
    return {"nnodes": str(needs.nodes)} | ({"rdzv_backend": "rdmatrain"} if later else {})


def _resolved(needs: Needs) -> dict[str, str]:
    """Return what a job's command line and variables came to, whatever else the pod says."""
    if needs.node_rank is None:
        # By which the launcher deals numbers out even where there are some.
        return {"nnodes": needs.nnodes, "rdzv_backend": "c10d"}
    return {"nnodes": needs.nnodes, "node_rank": str(needs.node_rank)}


def _position(environ: Mapping[str, str], identity: Identity | None, needs: Needs) -> Position:
    choices = options_of(needs, identity, environ)
    if needs.leader and not (choices["nnodes"].value or (identity and identity.nnodes)):
        # Where somebody leads, somebody follows.
        choices = options_of(replace(needs, nodes=2), identity, environ)
    return find_position(choices, identity, environ)[0]
