"""Which NIC each GPU uses, and why: the nearest that an even division leaves it.

Distances are measured; where they do not tell, the table of a cloud does; where that does not
either, NICs are dealt in order. Among all even divisions the best is taken.
"""

from collections.abc import Iterable, Sequence

from rdmatrain.discovery.assignment import assign, deal, one_after_another, out_of_order
from rdmatrain.discovery.clouds import Cloud, recognise
from rdmatrain.discovery.complaints import complaint, counted
from rdmatrain.discovery.distance import distance, explain, stated
from rdmatrain.discovery.model import Complaint, Distance, Gpu, Machine, Nic
from rdmatrain.discovery.pci import format_cpus
from rdmatrain.discovery.pod_model import Pair
from rdmatrain.discovery.reasons import Choice, Gap, is_far, listed
from rdmatrain.discovery.source import natural


def pair(
    machine: Machine, gpus: Sequence[Gpu], nics: Sequence[Nic]
) -> tuple[tuple[Pair, ...], tuple[Complaint, ...]]:
    """Give each GPU its NIC, and what is left to GPUs that are as near to it as to their own.

    There are no pairs without NICs. The order in which devices come does not matter.

    Args:
        machine: what the source shows, for distances.
        gpus: those to pair.
        nics: those to choose from.

    """
    gpus = sorted(dict.fromkeys(gpus), key=lambda gpu: (gpu.index, gpu.pci, gpu.name))
    nics = _in_order(dict.fromkeys(nics))
    if not gpus or not nics:
        text = f"there is no RDMA device for {counted(len(gpus), 'GPU')}: what is left is TCP"
        no_nic = [complaint("no-nic", machine.origin, text)] if gpus else []
        return (), (*no_nic, *_far_from_cpus(machine, gpus))
    fit = _fastest([nic for nic in nics if not nic.unfit] or nics)
    choice = _choose(machine, gpus, fit)
    left_out = [nic for nic in nics if nic not in fit]
    complaints = *choice.complaints(), *choice.hidden(), *_far_from_cpus(machine, gpus)
    return choice.pairs(left_out), complaints


def _far_from_cpus(machine: Machine, gpus: Sequence[Gpu]) -> list[Complaint]:
    """Complain of GPUs none of whose CPUs this process may use: Kubernetes need not align them."""
    forbidden = {
        node.number
        for node in machine.nodes
        if machine.cpus and node.cpus and not set(node.cpus) & set(machine.cpus)
    }
    far = [gpu.name for gpu in gpus if gpu.numa in forbidden]
    if not far:
        return []
    text = (
        f"allows CPUs {format_cpus(machine.cpus)}, and none at the NUMA node of {listed(far)}: let "
        "the kubelet align them (topologyManagerPolicy restricted), or ask for more CPUs"
    )
    return [complaint("cpus-far", "Cpus_allowed_list in /proc/self/status", text)]


def _choose(machine: Machine, gpus: Sequence[Gpu], nics: Sequence[Nic]) -> Choice:
    cloud = recognise(machine)
    gaps = [[_gap(gpu, nic, machine, cloud) for nic in nics] for gpu in gpus]
    levels = [[gap.level for gap in row] for row in gaps]
    nearness = one_after_another(
        levels,
        [[gap.apart for gap in row] for row in gaps],
        [[gap.bridges for gap in row] for row in gaps],
    )
    chosen = assign(levels, nearness, out_of_order(nearness))
    own = [row[column] for row, column in zip(levels, chosen, strict=True)]
    return Choice(machine, cloud, gpus, nics, gaps, chosen, deal(levels, chosen, _limits(own)))


def _limits(own: Sequence[Distance]) -> list[int]:
    """Return how far more NICs may be: none for a GPU that has only a far one, unlike others."""
    return [-1 if is_far(level, min(own)) else level for level in own]


def _in_order(nics: Iterable[Nic]) -> list[Nic]:
    """Sort by PCI address, which no renaming changes; by name where one has none."""
    by_name = sorted(nics, key=lambda nic: natural(nic.name))
    if not all(nic.pci for nic in by_name):
        return by_name
    return sorted(by_name, key=lambda nic: (len(nic.pci), nic.pci))


def _fastest(nics: list[Nic]) -> list[Nic]:
    """Leave out those of less than half the speed, unless most of the bandwidth is theirs."""
    top = max(nic.gbps for nic in nics)
    fast = [nic for nic in nics if not nic.gbps or nic.gbps * 2 >= top]
    return fast if 2 * sum(nic.gbps for nic in fast) >= sum(nic.gbps for nic in nics) else nics


def _gap(gpu: Gpu, nic: Nic, machine: Machine, cloud: Cloud | None) -> Gap:
    level, bridges = distance(gpu, nic, machine)
    words = explain(gpu, nic, machine)
    if not cloud or not cloud.together(gpu, nic):
        return Gap(level, True, bridges, words)
    by_table = f"together by the table of {cloud.name}"
    if level < Distance.NODE or stated(gpu, nic, machine) is not None:
        return Gap(level, False, bridges, f"{words}, {by_table}" if level > Distance.PXB else words)
    return Gap(cloud.near, False, bridges, f"{by_table}; {words}")
