"""The topology as text: a tree, a matrix in the manner of ``nvidia-smi topo -m``, and reasons."""

from collections.abc import Iterable, Iterator, Sequence

from rdmatrain.discovery.distance import distance
from rdmatrain.discovery.environment import Choice, Environment
from rdmatrain.discovery.model import Distance, Evidence, Gpu, Nic
from rdmatrain.discovery.pci import format_cpus
from rdmatrain.discovery.pod_model import Allocation, Binding, GrantedNic, Pair
from rdmatrain.discovery.survey import Survey
from rdmatrain.topo.terminal import WIDTH, item, printable
from rdmatrain.topo.tree import Branch, Device, grow

LEGEND = {
    Distance.PIX: "below one PCIe switch",
    Distance.PXB: "over several PCIe switches",
    Distance.PHB: "over the host bridge of one root complex",
    Distance.NODE: "between root complexes of one NUMA node",
    Distance.SYS: "between NUMA nodes, or not known",
}


def topology_text(survey: Survey) -> str:
    """Write everything, complaints last."""
    parts = [_machine(survey), _matrix(survey), _pairs(survey.pairs)]
    if survey.pod is not None:
        parts += [_allocation(survey.allocation), _ranks(survey), _environment(survey)]
    parts.append(_complaints(survey))
    return "\n\n".join("\n".join(part) for part in parts if part)


def about(device: Device) -> str:
    """Say what is known of a device besides its name."""
    if isinstance(device, Gpu):
        slices = f"{len(device.mig)} MIG slices" if device.mig else ""
        return _joined([device.pci, device.model, slices])
    netdevs = " ".join(name for name in device.netdevs if name != device.name)
    pci = device.pci if device.pci != device.name else ""
    return _joined([pci, _function(device), *_ports(device), netdevs, device.unfit])


def _function(nic: Nic) -> str:
    return f"VF of {nic.pf}" if nic.pf else "VF" if nic.is_vf else ""


def _ports(nic: Nic) -> list[str]:
    if not nic.ports:
        return [_speed(nic.gbps)]
    return [
        _joined([f"port {port.number}", port.link_layer, _speed(port.gbps), port.state], " ")
        for port in nic.ports
    ]


def _speed(gbps: float) -> str:
    return f"{gbps:g} Gbit/s" if gbps else ""


def _joined(words: Iterable[str], between: str = ", ") -> str:
    return between.join(filter(None, words))


# -- the tree --


def _machine(survey: Survey) -> list[str]:
    machine = survey.machine
    kind = [machine.product, "virtual" if machine.virtual else ""]
    lines = list(item("", _joined([machine.origin, *kind])))
    if not machine.gpus and not machine.nics:
        lines.append("  no GPUs and no RDMA devices")
    for branch in grow(machine):
        lines += _tree(branch, "  ")
    return lines


def _tree(branch: Branch, indent: str) -> Iterator[str]:
    yield from item(indent, branch.label)
    for device in branch.devices:
        yield from item(indent + "  ", f"{device.name}  {about(device)}")
    for below in branch.branches:
        yield from _tree(below, indent + "  ")


# -- the matrix --


def _matrix(survey: Survey) -> list[str]:
    machine, nics = survey.machine, _candidates(survey)
    if not machine.gpus or not nics:
        return []
    cpus: dict[int | None, str] = {n.number: format_cpus(n.cpus) for n in machine.nodes}
    columns = [_column(nic.name, _cells(survey, nic)) for nic in nics]
    columns.append(_column("NUMA", ("" if g.numa is None else str(g.numa) for g in machine.gpus)))
    columns.append(_column("CPUs", (cpus.get(g.numa, "") for g in machine.gpus)))
    gpus = _column("", (gpu.name for gpu in machine.gpus))
    legend = [f"{level.name:4}  {meaning}" for level, meaning in LEGEND.items()]
    return [*_side_by_side(gpus, columns), "", *legend, "*     the GPU's own, see below"]


def _cells(survey: Survey, nic: Nic) -> Iterator[str]:
    own = {pair.gpu for pair in survey.pairs if nic in (pair.nic, *pair.more)}
    for gpu in survey.machine.gpus:
        yield distance(gpu, nic, survey.machine)[0].name + "*" * (gpu in own)


def _candidates(survey: Survey) -> Sequence[Nic]:
    """Return the NICs that a GPU may get, or all if there is none."""
    nics = [each.nic for each in survey.allocation.nics] or survey.machine.nics
    return [nic for nic in nics if not nic.unfit] or nics


def _column(head: str, cells: Iterable[str]) -> list[str]:
    texts = [printable(text) for text in (head, *cells)]
    width = max(map(len, texts)) + 2
    return [text.ljust(width) for text in texts]


def _side_by_side(first: list[str], columns: Sequence[list[str]]) -> Iterator[str]:
    """Lay columns out in as many blocks as the width of a terminal asks for."""
    left = list(columns)
    while left:
        block = [first, left.pop(0)]
        while left and sum(len(column[0]) for column in (*block, left[0])) <= WIDTH:
            block.append(left.pop(0))
        yield from ("".join(row).rstrip() for row in zip(*block, strict=True))
        if left:
            yield ""


# -- what belongs together, and why --


def _pairs(pairs: Sequence[Pair]) -> list[str]:
    lines: list[str] = []
    for pair in pairs:
        names = ", ".join(nic.name for nic in (pair.nic, *pair.more))
        lines += item("  ", f"{pair.gpu.name} - {names}  {pair.reason}")
    return ["Pairs", *lines] if lines else []


def _allocation(allocation: Allocation) -> list[str]:
    lines = ["This pod has"]
    for gpu in allocation.gpus:
        lines += item("  ", f"{gpu.gpu.name}  {about(gpu.gpu)}")
        lines += _evidence(gpu.evidence)
    for nic in allocation.nics:
        lines += item("  ", _granted(nic))
        lines += _evidence(nic.evidence)
    if len(lines) == 1:
        lines.append("  no GPU and no RDMA device")
    if allocation.namespaces:
        lines.append(f"  RDMA network namespaces: {printable(allocation.namespaces)}")
    if allocation.others:
        lines += ["", "Not for this pod"]
    for other, reason in allocation.others:
        lines += item("  ", f"{other.name}: {reason}")
    return lines


def _granted(nic: GrantedNic) -> str:
    words = [f"port {nic.port}" if nic.port else "no port that works", str(nic.gid or "")]
    words.append(f"network {nic.network}" if nic.network else "")
    return f"{nic.nic.name}  {_joined([nic.nic.pci, *words])}"


def _evidence(evidence: Sequence[Evidence]) -> Iterator[str]:
    for each in evidence:
        yield from item("      ", str(each))


def _ranks(survey: Survey) -> list[str]:
    if not survey.bindings:
        return []
    lines = ["Local ranks"]
    environment = survey.environment or Environment((), {})
    for binding in survey.bindings:
        own = environment.ranks.get(binding.local_rank, ())
        lines += item("  ", f"{binding.local_rank}: {_bound(binding)}")
        lines += item("      ", " ".join(f"{each.name}={each.value}" for each in own if each.value))
    return lines


def _environment(survey: Survey) -> list[str]:
    environment = survey.environment or Environment((), {})
    reasons = [*environment.common]
    # Of what the ranks have each for itself, only what the user wants otherwise needs a word.
    for choices in environment.ranks.values():
        reasons += [each for each in choices if each.given and each not in reasons]
    lines = list(_variables(reasons))
    return ["Variables", *lines] if lines else []


def _bound(binding: Binding) -> str:
    words = [binding.gpu.name if binding.gpu else ""]
    for nic, port, gid in zip(binding.nics, binding.ports, binding.gid_indexes, strict=True):
        place = f"port {port}" if port else "without a port"
        words.append(f"{nic.name} {place}" + ("" if gid is None else f" gid {gid}"))
    words.append("" if binding.numa is None else f"NUMA {binding.numa}")
    words.append(f"CPUs {format_cpus(binding.cpus)}" if binding.cpus else "")
    return f"{_joined(words) or 'nothing of its own'}: {binding.reason}"


def _variables(choices: Iterable[Choice]) -> Iterator[str]:
    for each in choices:
        reason = each.reason
        if each.given and each.mine != each.value:
            reason = f"the user's; else {each.mine or 'unset'}: {reason}"
        if each.value:
            yield from item("  ", f"{each.name}={each.value}  {reason}")


# -- what is wrong --


def _complaints(survey: Survey) -> list[str]:
    lines: list[str] = []
    for each in survey.complaints:
        lines += item("  ", str(each))
    return ["Complaints", *lines] if lines else []
