"""What each local rank gets: a GPU, its NICs with ports and GIDs, and the CPUs beside them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from rdmatrain.discovery.complaints import counted
from rdmatrain.discovery.model import Gpu, Machine, Nic, Node
from rdmatrain.discovery.pairing import pair
from rdmatrain.discovery.pod_model import Allocation, Binding, Pair


@dataclass(frozen=True)
class _Seat:
    """What a rank gets, without its CPUs."""

    gpu: Gpu | None
    nics: tuple[Nic, ...]
    numa: int | None
    reason: str


def bind(
    machine: Machine, allocation: Allocation, pairs: Sequence[Pair], local_ranks: int | None
) -> tuple[Binding, ...]:
    """Divide GPUs, NICs and CPUs among the processes of this host.

    Args:
        machine: its NUMA nodes and CPUs.
        allocation: GPUs in the order of the ranks, and NICs with their ports and GIDs.
        pairs: a NIC for each GPU; none on a host without GPUs or NICs.
        local_ranks: how many processes; None for one a GPU, or one a NIC where there are no GPUs.

    """
    if allocation.gpus:
        seats = _seats_at_gpus(allocation, pairs, local_ranks or len(allocation.gpus))
    else:
        seats = _seats_at_nodes(machine, allocation, local_ranks)
    ports = {each.nic.name: each.port for each in allocation.nics}
    gids = {each.nic.name: each.gid.index for each in allocation.nics if each.gid}
    bindings = []
    for rank, seat in enumerate(seats):
        cpus, why = _cpus(machine, rank, seats)
        names = [nic.name for nic in seat.nics]
        bindings.append(
            Binding(
                local_rank=rank,
                gpu=seat.gpu,
                nics=seat.nics,
                ports=tuple(ports.get(name, 0) for name in names),
                gid_indexes=tuple(gids.get(name) for name in names),
                numa=seat.numa,
                cpus=cpus,
                reason=f"{seat.reason}; {why}",
            )
        )
    return tuple(bindings)


def _seats_at_gpus(allocation: Allocation, pairs: Sequence[Pair], ranks: int) -> list[_Seat]:
    gpus = [each.gpu for each in allocation.gpus]
    of_gpu = {each.gpu: each for each in pairs}
    seats = []
    for rank in range(ranks):
        gpu = gpus[rank % len(gpus)]
        own = of_gpu.get(gpu)
        nics = (own.nic, *own.more) if own else ()
        numa = next((nic.numa for nic in nics), None) if gpu.numa is None else gpu.numa
        reason = own.reason if own else "there is no NIC for its GPU"
        if ranks > len(gpus):
            reason += f"; {gpu.name} is shared: {ranks} local ranks and {len(gpus)} GPUs"
        seats.append(_Seat(gpu, nics, numa, reason))
    return seats


def _seats_at_nodes(
    machine: Machine, allocation: Allocation, local_ranks: int | None
) -> list[_Seat]:
    """Spread ranks over NUMA nodes, and pair them with NICs as GPUs are."""
    nics = [each.nic for each in allocation.nics]
    at = _spread(machine, local_ranks or len(nics) or 1)
    as_gpus = [Gpu(rank, f"local rank {rank}", numa=numa) for rank, numa in enumerate(at)]
    pairs, _ = pair(replace(machine, gpus=(), stated=()), as_gpus, nics)
    if not pairs:
        return [_Seat(None, (), numa, "there is neither GPU nor NIC") for numa in at]
    return [_Seat(None, (each.nic, *each.more), each.gpu.numa, each.reason) for each in pairs]


def _spread(machine: Machine, ranks: int) -> list[int | None]:
    nodes = sorted(node.number for node in machine.nodes if _allowed(machine, node))
    # A rank that has several nodes would lose the CPUs of all but one.
    if not 0 < len(nodes) <= ranks:
        return [None] * ranks
    return [nodes[rank * len(nodes) // ranks] for rank in range(ranks)]


def _cpus(machine: Machine, rank: int, seats: Sequence[_Seat]) -> tuple[tuple[int, ...], str]:
    """Return a rank's part of its NUMA node's CPUs, and why; none leaves them as they are."""
    numa = seats[rank].numa
    if numa is None:
        return (), "CPUs are left as they are, as no one NUMA node is its own"
    cpus = [cpu for node in machine.nodes if node.number == numa for cpu in _allowed(machine, node)]
    if not cpus:
        return (), f"CPUs are left as they are, as none of NUMA node {numa} is allowed here"
    sharers = [other for other, seat in enumerate(seats) if seat.numa == numa]
    part, parts = sharers.index(rank), len(sharers)
    first, end = part * len(cpus) // parts, (part + 1) * len(cpus) // parts
    own = tuple(sorted(cpus[first : max(end, first + 1)]))
    what = f"{len(own)} of {len(cpus)} CPUs of NUMA node {numa}"
    return own, f"{what}, for {counted(parts, 'local rank')}"


def _allowed(machine: Machine, node: Node) -> list[int]:
    """Return the CPUs of a node that may be used, core by core.

    Linux numbers the first threads of all cores and then the second ones: of ``0-3,8-11`` the CPUs
    0 and 8 are one core, and two ranks should not share it.
    """
    place = 0
    places = {}
    for cpu in sorted(node.cpus):
        place = place + 1 if cpu - 1 in places else 0
        places[cpu] = place
    allowed = set(machine.cpus or node.cpus)
    return sorted(allowed & set(places), key=lambda cpu: (places[cpu], cpu))
