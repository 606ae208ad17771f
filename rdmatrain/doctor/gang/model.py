"""What the pods of a gang say and measure: plain data, which goes through JSON between them."""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rdmatrain.launcher.restore import restore

# Files in the folder that a pod's doctor and its rank share.
PLAN, ANSWER = "plan.json", "answer.json"


@dataclass(frozen=True, kw_only=True)
class NodeFinding:
    """What a check of a pod found there, by the check's id."""

    id: str
    verdict: str
    evidence: str
    fix: str = ""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a pod's doctor tells its rank.

    Attributes:
        timeout_s: longest time for all that ranks do.
        gpus: models of the pod's GPUs.
        findings: of the node's checks.
        unasked: ids of the gang's checks that are not to be asked.

    """

    timeout_s: float
    gpus: tuple[str, ...] = ()
    findings: tuple[NodeFinding, ...] = ()
    unasked: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class RailFact:
    """An RDMA port that the job would use: its name, link layer, active MTU and rate."""

    port: str
    link_layer: str
    mtu: int
    gbps: float


@dataclass(frozen=True, kw_only=True)
class Pod:
    """What a rank says of its pod before anything is measured.

    Attributes:
        rank: in the gang; one for each pod.
        host: name of the pod.
        host_id: the same for pods that can share memory.
        address: that others reach it at; empty: not known.
        versions: by name.
        gpus: their models.
        rails: RDMA ports that the job would use.
        no_rails: why there are none.
        has_rdma: it has RDMA devices, usable or not.
        wants: ``verbs`` or ``tcp`` where a setting demands it; else empty.
        findings: of the node's checks.

    """

    rank: int
    host: str
    host_id: str = ""
    address: str = ""
    versions: Mapping[str, str] = dataclasses.field(default_factory=dict)
    gpus: tuple[str, ...] = ()
    rails: tuple[RailFact, ...] = ()
    no_rails: str = ""
    has_rdma: bool = False
    wants: str = ""
    findings: tuple[NodeFinding, ...] = ()

    def __str__(self) -> str:
        return f"{self.host} (rank {self.rank})"


@dataclass(frozen=True, kw_only=True)
class Peer:
    """What all ranks are told of a pod: little, as all pods' facts together are much."""

    rank: int
    host: str
    address: str = ""
    num_rails: int = 0


@dataclass(frozen=True, kw_only=True)
class Meeting:
    """What a rank saw of another one.

    Attributes:
        peer: its rank.
        transport: what joins the two, as the bootstrap chose; empty if it did not come so far.
        why: its reason.
        fell_back: it is tcp though one of them has RDMA devices.
        path_mtu: of the way there, in bytes; 0 if it was not asked for.
        ping_us: half of the way there and back, the median; None if it was not measured.
        gbps: how fast this rank writes into the other's memory.
        num_checked: how many bytes that came from there were compared.
        num_wrong: how many of them were wrong.
        error: what went wrong.

    """

    peer: int
    transport: str = ""
    why: str = ""
    fell_back: bool = False
    path_mtu: int = 0
    ping_us: float | None = None
    gbps: float | None = None
    num_checked: int = 0
    num_wrong: int = 0
    error: str = ""


@dataclass(frozen=True, kw_only=True)
class Row:
    """What a rank measured.

    Attributes:
        rank: whose.
        meetings: with the others, in any order.
        offset_s: how much later it is by rank 0's clock; None if it was not measured.
        rtt_s: how long the exchange took that says so.
        group_error: why the group did not form, or what went wrong in it.
        gathered: bytes of each rank that were compared in an all_gather; 0: none.
        wrong_ranks: those whose bytes were wrong.

    """

    rank: int
    meetings: tuple[Meeting, ...] = ()
    offset_s: float | None = None
    rtt_s: float = 0.0
    group_error: str = ""
    gathered: int = 0
    wrong_ranks: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Gathering:
    """All of it.

    Attributes:
        world: how many ranks there are to be.
        pods: of those that came, by rank.
        rows: of those that were done in time, by rank.
        timeout_s: how long was waited for them.
        seconds: how long it took.

    """

    world: int
    pods: tuple[Pod, ...]
    rows: tuple[Row, ...] = ()
    timeout_s: float = 0.0
    seconds: float = 0.0

    def name(self, rank: int) -> str:
        """Return what a rank is called in texts."""
        return next((str(pod) for pod in self.pods if pod.rank == rank), f"rank {rank}")

    def host_of(self, rank: int) -> str:
        """Return what tells which pods can share memory."""
        return next((pod.host_id for pod in self.pods if pod.rank == rank), "")

    def meetings(self) -> list[tuple[int, Meeting]]:
        """Return all meetings, with whose view it is."""
        return [(row.rank, each) for row in self.rows for each in row.meetings]


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a rank leaves for its doctor.

    Attributes:
        rank: who it is.
        exit_code: the gang's.
        verdict: the gang's.
        leader: name of rank 0's pod, which shows all.
        gathering: on rank 0.

    """

    rank: int
    exit_code: int
    verdict: str
    leader: str
    gathering: Gathering | None = None


def to_json(value: Any) -> str:
    """Return one of these as text."""
    return json.dumps(dataclasses.asdict(value))


def from_json(kind: Any, text: str) -> Any:
    """Return one of these from text.

    Raises:
        ValueError: the text is no such thing.

    """
    return restore(kind, json.loads(text), kind.__name__)
