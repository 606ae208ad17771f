"""Our all_reduce on fabrics of up to 16,384 GPUs, one NIC each: the sweep, and what it gives.

Both fabrics are three levels of switches with 32 ports down and 32 up, as of InfiniBand's 64-port
switches. They differ in which NICs share a leaf: in ``fat-tree`` those of four whole hosts, in
``rail`` the n-th NIC of each of 32 hosts, as in NVIDIA's DGX SuperPOD reference architecture. As
many links go up from a leaf as down, so that what is merged (``plans.py``) takes as long as every
message would.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from pathlib import Path

from rdmatrain.bench.model import GB, OPS
from rdmatrain.bench.scale import engine, plans
from rdmatrain.bench.scale.engine import Job, Stage, Tree

PER_HOST = 8
RADIX = 32  # NICs of a leaf; and leaves of a pod
MAX_GPUS = 16384
UNIT = RADIX * PER_HOST  # GPUs of 32 hosts, whose NICs fill 8 leaves
FABRICS = ("fat-tree", "rail")
MERGE = 2  # flows of a rank in a stage; more give the same times, see test_bench_scale.py
LIMIT_S = 600.0
AT_ONCE = 2  # one is planned, in Python, while a process simulates another


@dataclass(frozen=True)
class Network:
    """What the simulation is fed with.

    Attributes:
        gbps: of a NIC, as measured: Gbit/s of payload in one direction.
        latency_s: of an exchange between hosts without the switches.
        message_s: of each message.
        hop_s: of each switch.

    """

    gbps: float
    latency_s: float
    message_s: float
    hop_s: float


@dataclass(frozen=True)
class Point:
    """One simulated all_reduce.

    Attributes:
        fabric: of ``FABRICS``.
        way: of ``plans.WAYS``.
        ranks: one for each GPU.
        hosts: that they are on.
        nbytes: of float32 on each rank.
        seconds: predicted.
        bound_s: that the NICs need at least, whatever the plan: 2 (H-1)/H of the bytes on H hosts,
            over all NICs of a host; 0 on one host.

    """

    fabric: str
    way: str
    ranks: int
    hosts: int
    nbytes: int
    seconds: float
    bound_s: float

    @property
    def busbw(self) -> float:
        """Bus bandwidth in GB/s."""
        return self.nbytes / self.seconds / GB * OPS["all_reduce"].factor(self.ranks)

    @property
    def percent(self) -> float:
        """What part of the fabric's bound is reached, in percent."""
        return 100 * self.bound_s / self.seconds


def node_of(fabric: str, rank: int) -> int:
    """Return the place in the tree of a rank's NIC."""
    if fabric == "fat-tree":
        return rank
    unit, inside = divmod(rank, UNIT)
    host, rail = divmod(inside, PER_HOST)
    return unit * UNIT + rail * RADIX + host


def tree_of(network: Network, gpus: int) -> Tree:
    """Return a tree that has room for so many GPUs; latencies are the ranks' own business."""
    pods = -(-gpus // RADIX**2)
    return Tree((RADIX, RADIX, max(pods, 2)), (1, RADIX, RADIX), network.gbps * 1e9 / 8, 0.0)


def switches(a: int, b: int) -> int:
    """Return how many switches are between two places of the tree."""
    if a // RADIX == b // RADIX:
        return 1
    return 3 if a // RADIX**2 == b // RADIX**2 else 5


def place(fabric: str, ranks: Sequence[Sequence[Stage]], hop_s: float) -> Job:
    """Put ranks on a fabric: a stage begins later by the longest way that it sends over."""
    nodes = [node_of(fabric, rank) for rank in range(len(ranks))]
    placed = [
        [
            replace(
                stage,
                before_s=stage.before_s
                + hop_s * max((switches(node, nodes[to]) for to in stage.to), default=0),
            )
            for stage in stages
        ]
        for node, stages in zip(nodes, ranks, strict=True)
    ]
    return Job(nodes, placed)


def bound_s(network: Network, group: plans.Group, nbytes: int) -> float:
    """Return the seconds that the NICs need at least."""
    host_bytes_per_s = network.gbps * 1e9 / 8 * group.per_host
    return 2 * (group.hosts - 1) / group.hosts * nbytes / host_bytes_per_s


@dataclass(frozen=True)
class Plan:
    """What to simulate."""

    fabrics: tuple[str, ...]
    gpus: tuple[int, ...]
    sizes: tuple[int, ...]


def simulate(
    plan: Plan,
    network: Network,
    costs: plans.Costs,
    told: Callable[[Point], object],
    begins: Callable[[str], object] = lambda _: None,
) -> None:
    """Simulate all ways that fit, for each number of GPUs.

    Args:
        plan: what.
        network: on which.
        costs: of the ranks.
        told: gets each point as it is known.
        begins: gets what is simulated next.

    Raises:
        EngineError: there is no engine, or it failed.

    """
    with engine.built() as program, ThreadPoolExecutor(AT_ONCE) as pool:
        cases = [
            (plans.Group(gpus, min(gpus, PER_HOST)), way, nbytes)
            for gpus in plan.gpus
            for nbytes in plan.sizes
            for way in plans.WAYS
        ]
        for group, rest in groupby(cases, key=lambda case: case[0]):
            begins(f"{group.ranks} GPUs")
            fitting = [case for case in rest if plans.fits(*case)]
            simulated = partial(_simulated, program, plan.fabrics, network, costs)
            for points in pool.map(simulated, fitting):
                for point in points:
                    told(point)


def _simulated(
    program: Path,
    fabrics: tuple[str, ...],
    network: Network,
    costs: plans.Costs,
    case: tuple[plans.Group, str, int],
) -> list[Point]:
    """Simulate one way, group and size on each fabric."""
    group, way, nbytes = case
    ranks = plans.stages(group, way, nbytes, costs, MERGE)
    jobs = [place(fabric, ranks, network.hop_s) for fabric in fabrics]
    seconds = engine.run(program, tree_of(network, group.ranks), jobs, LIMIT_S)
    bound = bound_s(network, group, nbytes)
    return [
        Point(fabric, way, group.ranks, group.hosts, nbytes, took, bound)
        for fabric, took in zip(fabrics, seconds, strict=True)
    ]
