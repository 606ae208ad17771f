"""Placement: CPUs, and what of GPUs, NICs and CPUs is near each other."""

from collections.abc import Iterator

from rdmatrain.discovery.machine import line_of
from rdmatrain.discovery.model import Distance
from rdmatrain.discovery.pci import format_cpus, parse_cpus
from rdmatrain.discovery.quota import cpu_quota, cpuset
from rdmatrain.doctor.checks.rdma_case import resource_of
from rdmatrain.doctor.define import check
from rdmatrain.doctor.facts import complaints, said
from rdmatrain.doctor.job import ranks_of
from rdmatrain.doctor.model import Case, Finding, gravest, passed, skipped, warned
from rdmatrain.launcher.tasks import STARTERS

GROUP = "placement"
_STATUS = "/proc/self/status"
_NO_PAIR = "there is no GPU with a NIC here"
_ALIGNED = (
    "topologyManagerPolicy: restricted, topologyManagerScope: pod, in the kubelet's configuration"
)


@check("cpu-quota", GROUP, title="the cgroup pays for a whole CPU for each rank")
def cpu_quota_fits(case: Case) -> Finding:
    """Threads beyond the quota are stopped for the rest of each period, and all ranks wait.

    A quota that is no whole number gets no CPUs of its own from the kubelet, nor alignment.
    """
    quota, ranks = cpu_quota(case.source), ranks_of(case)
    allowed = case.found.machine.cpus
    if quota is None:
        # Without the cgroup's files nothing was seen.
        if not case.source.text("/proc/self/cgroup"):
            return skipped("the cgroup of this process cannot be seen")
        return passed(f"there is no CPU quota, and {len(allowed)} CPUs are allowed")
    evidence = f"cpu.max pays for {quota:g} CPUs, for {ranks} ranks; {len(allowed)} are allowed"
    least = max(ranks, int(quota) + (quota % 1 > 0))
    fix = _ask_for(least)
    if quota < ranks:
        return warned(evidence, fix)
    if quota % 1:
        text = f"{evidence}: a fraction gets no CPUs of its own (cpuManagerPolicy static)"
        return warned(text, fix)
    return passed(evidence)


@check("cpus-per-rank", GROUP, title="each rank has a CPU of its own")
def cpus_per_rank(case: Case) -> Finding:
    """Ranks that share a CPU take turns, and a collective waits for the one whose turn is last."""
    cpus, ranks = case.found.machine.cpus, ranks_of(case)
    if not cpus:
        return skipped(f"Cpus_allowed_list in {_STATUS} cannot be read")
    evidence = f"CPUs {format_cpus(cpus)} for {ranks} ranks"
    if len(cpus) < ranks:
        fewer = f"rdmatrain run --nproc-per-node {len(cpus)}"
        return warned(evidence, _ask_for(ranks) if case.found.allocation.gpus else fewer)
    return gravest([*_crowded(case), passed(evidence)], "")


@check(
    "cpuset",
    GROUP,
    title="nobody bound this process to fewer CPUs than its cgroup has",
)
def cpuset_is_whole(case: Case) -> Finding:
    """Ranks inherit what mpirun, taskset or numactl bound: all of them then run on a few CPUs."""
    allowed, whole = set(case.found.machine.cpus), set(cpuset(case.source))
    if not allowed or not whole:
        what = _STATUS if not allowed else "cpuset.cpus.effective of the cgroup"
        return skipped(f"{what} cannot be read")
    evidence = f"Cpus_allowed_list {_listed(allowed)} of cpuset.cpus.effective {_listed(whole)}"
    starter = case.found.identity.orchestrator if case.found.identity else ""
    if allowed < whole and starter in STARTERS and len(allowed) >= ranks_of(case):
        return passed(f"{evidence}, as {starter} gives its tasks their CPUs")
    bound = (
        [warned(evidence, f"taskset -pc {_listed(whole)} $$, before rdmatrain run")]
        if allowed < whole
        else []
    )
    return gravest([*bound, *_no_memory(case, allowed), passed(evidence)], "")


@check(
    "numa-alignment",
    GROUP,
    title="each GPU, its NIC and CPUs of this pod are at one NUMA node",
    known="kubernetes#106270, sriov-network-operator#736: NUMA alignment that was not honoured",
)
def numa_alignment(case: Case) -> Finding:
    """Way and bandwidth between sockets are shared by all, and slower than those within one."""
    found = [warned(said(each), _ALIGNED) for each in complaints(case, "cpus-far", "pairing-far")]
    found = found or list(_across(case))
    if not case.found.pairs or not case.found.pod:
        return gravest(found, _NO_PAIR)
    nodes = {pair.gpu.numa for pair in case.found.pairs} | {p.nic.numa for p in case.found.pairs}
    if nodes == {None}:
        return gravest(found, "no NUMA node of a GPU or NIC can be seen")
    words = [f"{p.gpu.name} and {p.nic.name}: {p.distance.name}" for p in case.found.pairs]
    return gravest([*found, passed("; ".join(words))], "")


@check("gpu-nic-sharing", GROUP, title="no two GPUs share a NIC")
def gpu_nic_sharing(case: Case) -> Finding:
    """GPUs that share a NIC have half of its bandwidth each, and the slowest ring sets the pace."""
    gpus, nics = case.found.allocation.gpus, {pair.nic.name for pair in case.found.pairs}
    fix = f'resources: {{limits: {{{resource_of(case)}: "{len(gpus)}"}}}}, and as many networks'
    shared = [warned(said(each), fix) for each in complaints(case, "nic-shared")]
    if shared or not nics:
        return gravest(shared, _NO_PAIR)
    return passed(f"{len(gpus)} GPUs and {len(nics)} NICs")


@check(
    "pci-visible",
    GROUP,
    title="the PCI tree shows what is near each GPU",
    known="nccl#1464: a virtual machine that hides the PCI tree, and NCCL without GPUDirect",
)
def pci_visible(case: Case) -> Finding:
    """NCCL turns GPUDirect off and rings go astray where it cannot see what is near a GPU."""
    hidden = [
        warned(said(each), "rdmatrain topo --nccl-topo topo.xml; export NCCL_TOPO_FILE=topo.xml")
        for each in complaints(case, "pci-hidden")
    ]
    if hidden or not case.found.pairs:
        return gravest(hidden, _NO_PAIR)
    return passed(f"the bridges above {len(case.found.pairs)} GPUs and their NICs can be seen")


def _ask_for(cpus: int) -> str:
    return f'resources: {{requests: {{cpu: "{cpus}"}}, limits: {{cpu: "{cpus}"}}}}'


def _crowded(case: Case) -> Iterator[Finding]:
    """Find NUMA nodes that have fewer CPUs here than ranks."""
    seats: dict[int, list[int]] = {}
    cpus: dict[int, set[int]] = {}
    for binding in case.found.bindings:
        if binding.numa is not None and binding.cpus:
            seats.setdefault(binding.numa, []).append(binding.local_rank)
            cpus.setdefault(binding.numa, set()).update(binding.cpus)
    for numa, ranks in seats.items():
        if len(cpus[numa]) < len(ranks):
            text = f"local ranks {', '.join(map(str, ranks))} share CPUs {_listed(cpus[numa])}"
            yield warned(f"{text} of NUMA node {numa}", _ask_for(len(case.found.bindings)))


def _no_memory(case: Case, allowed: set[int]) -> Iterator[Finding]:
    """Find CPUs whose NUMA node's memory this process may not have."""
    text = line_of(case.source, _STATUS, "Mems_allowed_list")
    memory = parse_cpus(text)
    nodes = {node.number for node in case.found.machine.nodes if set(node.cpus) & allowed}
    if memory and nodes and not nodes <= set(memory):
        without = ", ".join(map(str, sorted(nodes - set(memory))))
        evidence = f"Mems_allowed_list {text.strip()}, and CPUs of NUMA node {without} are allowed"
        yield warned(evidence, f"memoryManagerPolicy: Static, {_ALIGNED}")


def _across(case: Case) -> Iterator[Finding]:
    """Find pairs at two NUMA nodes, where both are known."""
    for pair in case.found.pairs if case.found.pod else ():
        nodes = (pair.gpu.numa, pair.nic.numa)
        if pair.distance is Distance.SYS and None not in nodes and nodes[0] != nodes[1]:
            text = f"{pair.gpu.name} is at NUMA node {nodes[0]}, its NIC {pair.nic.name} at "
            fix = _ALIGNED
            yield warned(f"{text}{nodes[1]}", fix)


def _listed(cpus: set[int]) -> str:
    return format_cpus(tuple(sorted(cpus)))
