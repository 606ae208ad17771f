"""What is measured: operations, cases, and the record of one case. Plain data.

``nbytes`` is always the size of the larger tensor of one rank: what nccl-tests prints as size. The
bus bandwidth is nccl-tests' (its doc/PERFORMANCE.md): algbw times a factor that makes the number
comparable with what one link of the hardware carries, whatever the number of ranks.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

SCHEMA = "rdmatrain-bench/1"
GB = 1e9  # what algbw and busbw are given in: GB/s of 10^9 bytes, as in nccl-tests


@dataclass(frozen=True)
class Op:
    """An operation of the benchmark.

    Attributes:
        name: as in ``rdmatrain bench NAME``.
        factor: busbw / algbw for a number of ranks; algbw is nbytes / seconds.
        in_place: what exists of it: "both", only "in" place, or only "out" of place, in
            ``torch.distributed``; MPI may have more.
        reduces: takes a reduction, so that ``-o`` and the kind of dtype matter.
        rooted: has a root.
        splits: each rank has a part, so that nbytes is a multiple of ranks * itemsize.
        pairs: ranks 0 and 1, 2 and 3... do it with each other; needs an even number of ranks.
        sized: there is data; a barrier has none.
        together: calls are timed together, and each counts as the mean of its turn.

    """

    name: str
    factor: Callable[[int], float]
    in_place: Literal["both", "in", "out"] = "out"
    reduces: bool = False
    rooted: bool = False
    splits: bool = False
    pairs: bool = False
    sized: bool = True
    together: bool = False


def _one(ranks: int) -> float:
    return 1.0


def _others(ranks: int) -> float:
    return (ranks - 1) / ranks


def _twice_others(ranks: int) -> float:
    return 2 * (ranks - 1) / ranks


_OPS = (
    Op("all_reduce", _twice_others, in_place="in", reduces=True),
    Op("reduce_scatter", _others, in_place="both", reduces=True, splits=True),
    Op("all_gather", _others, in_place="both", splits=True),
    Op("broadcast", _one, in_place="in", rooted=True),
    Op("reduce", _one, in_place="in", reduces=True, rooted=True),
    Op("all_to_all", _others, splits=True),
    Op("gather", _others, rooted=True, splits=True),
    Op("scatter", _others, rooted=True, splits=True),
    # Each rank sends nbytes to the next one and receives as much from the one before.
    Op("sendrecv", _one),
    Op("barrier", _one, sized=False),
    # Rank 0 sends nbytes to rank 1, which sends as much back: seconds are half of there and back.
    Op("pingpong", _one, pairs=True),
    # Rank 0 writes nbytes into rank 1's memory, many at a time: seconds of all / number of them.
    Op("write", _one, pairs=True, together=True),
)
OPS: dict[str, Op] = {op.name: op for op in _OPS}


@dataclass(frozen=True, order=True)
class Case:
    """One thing to time.

    Attributes:
        op: of ``OPS``.
        dtype: torch's name: float32, bfloat16, int32...
        redop: SUM, AVG, PRODUCT, MIN, MAX; "" where nothing is reduced.
        nbytes: see the module; 0 for a barrier.
        in_place: the result overwrites the input.
        root: rank; -1 where there is none.

    """

    op: str
    dtype: str
    redop: str
    nbytes: int
    in_place: bool
    root: int = -1

    def __str__(self) -> str:
        """As in texts of errors: all_reduce of 4096 bytes of float32."""
        size = f" of {self.nbytes} bytes of {self.dtype}" if OPS[self.op].sized else ""
        return f"{self.op}{size}"


@dataclass(frozen=True, order=True)
class Entry:
    """One contestant of a sweep: a backend, and the transport that it was told to use.

    Attributes:
        backend: rdmatrain, gloo, nccl, openmpi, mpich, intelmpi, perftest.
        asked: the transport asked for: auto, shm, tcp, verbs; "" where there is no choice.

    """

    backend: str
    asked: str = ""

    def __str__(self) -> str:
        """As in tables: rdmatrain/tcp, gloo."""
        return self.backend if self.asked in ("", "auto") else f"{self.backend}/{self.asked}"


@dataclass(frozen=True)
class Round:
    """What one contestant did of one case in one round, seconds a call, on its slowest rank.

    Attributes:
        samples: of each call, in order: the largest of the ranks.

    """

    samples: tuple[float, ...]


@dataclass(frozen=True)
class Result:
    """A case of a contestant over all its rounds.

    Attributes:
        entry: who.
        case: what.
        ranks: how many.
        hosts: that they were on.
        transport: what really joined them: "shm", "tcp", "verbs", or several as "shm+tcp"; "" where
            that is not told.
        rounds: median seconds a call, of each round.
        seconds_p50: median of ``rounds``.
        seconds_p99: 99th percentile of all calls, each round counting alike; see ``Op.together``.
        seconds_min: fastest call.
        cv: coefficient of variation of ``rounds``: standard deviation / mean; 0 for one round.
        calls: that were timed.
        nwrong: wrong elements of a checked call, of all ranks together; None: not checked.
        spins: how fast the CPUs were in each round: see ``spin.py``; empty: not measured.
        device: where the tensors were: cpu, cuda.

    """

    entry: Entry
    case: Case
    ranks: int
    hosts: int
    transport: str
    rounds: tuple[float, ...]
    seconds_p50: float
    seconds_p99: float
    seconds_min: float
    cv: float
    calls: int
    nwrong: int | None
    spins: tuple[float, ...] = ()
    device: str = "cpu"

    @property
    def algbw(self) -> float:
        """Algorithm bandwidth in GB/s; 0 for a barrier."""
        return self.case.nbytes / self.seconds_p50 / GB if self.seconds_p50 else 0.0

    @property
    def busbw(self) -> float:
        """Bus bandwidth in GB/s; 0 for a barrier."""
        return self.algbw * OPS[self.case.op].factor(self.ranks)


@dataclass(frozen=True)
class Nic:
    """The RDMA port that a contestant used first."""

    device: str
    port: int
    link_layer: str
    rate_gbps: float
    firmware: str
    mtu: int
    gid_index: int
    gid: str


@dataclass(frozen=True)
class Context:
    """Where, when and of what a run was measured: the same for all its results.

    Attributes:
        time: ISO 8601 in UTC, of the start.
        command: the command line.
        commit: of rdmatrain's sources, with -dirty; "" outside a checkout.
        machine: processor's name.
        cpus: that the run may use.
        memory_bytes: of the machine, or the pod.
        kernel: release.
        host: name.
        versions: rdmatrain, python, torch, and the contestants' libraries by backend.
        nic: None where no RDMA port was used.
        pinned: ranks are bound to one CPU each.

    """

    time: str
    command: str
    commit: str
    machine: str
    cpus: int
    memory_bytes: int
    kernel: str
    host: str
    versions: dict[str, str]
    nic: Nic | None
    pinned: bool


@dataclass(frozen=True)
class Failure:
    """A contestant, or a case of it, that has no result, and why."""

    entry: Entry
    case: Case | None
    text: str


@dataclass
class Sweep:
    """All that a run found, whole or as far as it came."""

    context: Context
    results: list[Result] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    complete: bool = True


def record_of(result: Result, context: Context) -> dict[str, Any]:
    """Return a line of the JSON file: see schemas/bench.schema.json."""
    case = asdict(result.case)
    nbytes = case.pop("nbytes")
    return {
        "schema": SCHEMA,
        "op": case.pop("op"),
        "backend": result.entry.backend,
        "asked": result.entry.asked,
        "transport": result.transport,
        "device": result.device,
        "ranks": result.ranks,
        "hosts": result.hosts,
        "nbytes": nbytes,
        **case,
        "seconds_p50": result.seconds_p50,
        "seconds_p99": result.seconds_p99,
        "seconds_min": result.seconds_min,
        "cv": result.cv,
        "rounds": list(result.rounds),
        "spins": list(result.spins),
        "calls": result.calls,
        "algbw": result.algbw,
        "busbw": result.busbw,
        "nwrong": result.nwrong,
        **asdict(context),
    }
