# SPDX-License-Identifier: Apache-2.0
"""CPUs that are paid for, allowed and bound, and what of GPUs, NICs and CPUs is near each other."""

from dataclasses import replace

import pytest
from doctor_pods import Changes, asked, bare, healthy, pod
from doctor_variables import with_complaint
from memory_source import MemorySource, environ

from rdmatrain.discovery.model import Distance
from rdmatrain.discovery.quota import cpuset
from rdmatrain.doctor.model import Finding, Needs

CHECKS = [
    "cpu-quota", "cpus-per-rank", "cpuset", "numa-alignment", "gpu-nic-sharing", "pci-visible",
]  # fmt: skip
CGROUP = {
    "/proc/self/cgroup": "0::/\n",
    "/proc/self/mountinfo": "30 24 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n",
}
STATUS = "Name:\tpython\nPPid:\t1\nCpus_allowed_list:\t{}\nMems_allowed_list:\t{}\n"


def allowed(cpus: str, memory: str = "0-1") -> Changes:
    return {"/proc/self/status": STATUS.format(cpus, memory)}


def ask(name: str, files: Changes | None = None, ranks: int = 0) -> Finding:
    return asked(healthy({**CGROUP, **(files or {})}, needs=Needs(ranks=ranks)), name)


def quota(text: str) -> Changes:
    return {"/sys/fs/cgroup/cpu.max": text}


@pytest.mark.parametrize("name", CHECKS)
def test_nothing_is_wrong_with_the_healthy_pod(name: str) -> None:
    finding = ask(name, {"/sys/fs/cgroup/cpuset.cpus.effective": "0-15\n"})
    assert finding.verdict.value == "PASS", finding


@pytest.mark.parametrize("name", CHECKS)
def test_what_cannot_be_seen_on_a_laptop_is_skipped(name: str) -> None:
    assert asked(bare(), name).verdict.value == "SKIP"


@pytest.mark.parametrize(
    ("text", "ranks", "expected", "words", "cpus"),
    [
        ("800000 100000", 2, "PASS", "pays for 8 CPUs, for 2 ranks; 16 are allowed", ""),
        ("200000 100000", 2, "PASS", "pays for 2 CPUs", ""),
        ("100000 100000", 2, "WARN", "pays for 1 CPUs, for 2 ranks", '"2"'),
        ("50000 100000", 1, "WARN", "pays for 0.5 CPUs, for 1 ranks", '"1"'),
        ("750000 100000", 2, "WARN", "pays for 7.5 CPUs", '"8"'),
        ("max 100000", 2, "PASS", "there is no CPU quota, and 16 CPUs", ""),
    ],
)
def test_cpus_that_are_paid_for(
    text: str, ranks: int, expected: str, words: str, cpus: str
) -> None:
    finding = ask("cpu-quota", quota(text), ranks)
    assert finding.verdict.value == expected
    assert words in finding.evidence
    assert finding.fix == (f"resources: {{requests: {{cpu: {cpus}}}, limits: {{cpu: {cpus}}}}}"
                           if cpus else "")  # fmt: skip


def test_a_cgroup_that_cannot_be_seen() -> None:
    finding = asked(healthy(), "cpu-quota")
    assert (finding.verdict.value, "cannot be seen" in finding.evidence) == ("SKIP", True)


@pytest.mark.parametrize(
    ("cpus", "ranks", "expected", "words"),
    [
        ("0-15", 8, "PASS", "CPUs 0-15 for 8 ranks"),
        ("0-1", 2, "PASS", "CPUs 0-1 for 2 ranks"),
        ("0-1", 4, "WARN", "CPUs 0-1 for 4 ranks"),
    ],
)
def test_cpus_for_each_rank(cpus: str, ranks: int, expected: str, words: str) -> None:
    finding = ask("cpus-per-rank", allowed(cpus), ranks)
    assert (finding.verdict.value, finding.evidence) == (expected, words)
    assert ('cpu: "4"' in finding.fix) == (expected == "WARN")


def test_more_ranks_than_cpus_on_a_machine_without_gpus() -> None:
    finding = asked(bare(allowed("0-1"), needs=Needs(ranks=4)), "cpus-per-rank")
    assert (finding.verdict.value, finding.fix) == ("WARN", "rdmatrain run --nproc-per-node 2")


def test_ranks_that_share_the_few_cpus_of_their_node() -> None:
    """Both GPUs are at node 0, of which one CPU is allowed."""
    files = {"/sys/devices/pci0000:27/0000:27:01.0/0000:28:00.0/0000:29:02.0/0000:2d:00.0"
             "/numa_node": "0\n"}  # fmt: skip
    finding = ask("cpus-per-rank", {**files, **allowed("7-15")})
    assert finding.verdict.value == "WARN"
    assert finding.evidence == "local ranks 0, 1 share CPUs 7 of NUMA node 0"
    assert ask("cpus-per-rank", {**files, **allowed("6-15")}).verdict.value == "PASS"


def test_a_process_that_somebody_bound() -> None:
    whole = {"/sys/fs/cgroup/cpuset.cpus.effective": "0-15\n"}
    finding = ask("cpuset", {**whole, **allowed("0")})
    assert finding.verdict.value == "WARN"
    assert finding.evidence == "Cpus_allowed_list 0 of cpuset.cpus.effective 0-15"
    assert finding.fix.startswith("taskset -pc 0-15")
    assert ask("cpuset", {**whole, **allowed("0-15")}).verdict.value == "PASS"
    # Without the file of the cgroup nobody knows.
    assert ask("cpuset", allowed("0")).verdict.value == "SKIP"


def test_a_task_that_slurm_bound() -> None:
    """It has CPUs of its own: too few are those that several ranks would share."""
    task = {"SLURM_PROCID": "0", "SLURM_STEP_ID": "0", "SLURM_JOB_ID": "7", "SLURM_NODEID": "0"}
    own = {"/proc/self/environ": environ(task), "/sys/fs/cgroup/cpuset.cpus.effective": "0-15\n"}
    case = healthy({**CGROUP, **own, **allowed("0")}, needs=Needs(ranks=1))
    assert case.found.identity
    assert case.found.identity.orchestrator == "srun"
    finding = asked(case, "cpuset")
    assert (finding.verdict.value, "srun gives its tasks" in finding.evidence) == ("PASS", True)
    assert asked(replace(case, needs=Needs(ranks=2)), "cpuset").verdict.value == "WARN"


def test_memory_of_a_node_whose_cpus_are_allowed() -> None:
    whole = {"/sys/fs/cgroup/cpuset.cpus.effective": "0-15\n"}
    finding = ask("cpuset", {**whole, **allowed("0-15", "0")})
    assert finding.verdict.value == "WARN"
    assert "Mems_allowed_list 0, and CPUs of NUMA node 1 are allowed" in finding.evidence


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"/sys/fs/cgroup/cpuset.cpus.effective": "0-3,8\n"}, (0, 1, 2, 3, 8)),
        ({"/sys/fs/cgroup/cpuset.cpus.effective": "\n"}, ()),
        ({"/sys/fs/cgroup/cpuset.cpus.effective": "all\n"}, ()),
        ({}, ()),
    ],
)
def test_cpus_of_the_cgroup(files: dict[str, str], expected: tuple[int, ...]) -> None:
    assert cpuset(MemorySource({**CGROUP, **files})) == expected


def test_cpus_of_the_nearest_cgroup_in_both_versions() -> None:
    top, own = "/sys/fs/cgroup/cpuset.cpus.effective", "/sys/fs/cgroup/pod/cpuset.cpus.effective"
    files = {**CGROUP, "/proc/self/cgroup": "0::/pod\n", top: "0-15\n", own: "2-3\n"}
    assert cpuset(MemorySource(files)) == (2, 3)
    first = {
        "/proc/self/cgroup": "5:cpuset:/pod\n",
        "/proc/self/mountinfo": "33 30 0:29 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset\n",
        "/sys/fs/cgroup/cpuset/pod/cpuset.effective_cpus": "4\n",
    }
    assert cpuset(MemorySource(first)) == (4,)


def test_cpus_far_from_the_gpus() -> None:
    finding = ask("numa-alignment", allowed("0-7"))
    assert finding.verdict.value == "WARN"
    assert "allows CPUs 0-7, and none at the NUMA node of GPU1" in finding.evidence
    assert "topologyManagerPolicy: restricted" in finding.fix
    near = ask("numa-alignment", allowed("0-15"))
    assert near.evidence == "GPU0 and mlx5_2: PIX; GPU1 and mlx5_3: PIX"


def test_a_gpu_and_its_nic_at_two_nodes() -> None:
    case = healthy()
    first, second = case.found.pairs

    def apart(numa: int | None) -> Finding:
        pair = replace(first, nic=replace(first.nic, numa=numa), distance=Distance.SYS)
        return asked(
            replace(case, found=replace(case.found, pairs=(pair, second))), "numa-alignment"
        )

    finding = apart(1)
    assert finding.verdict.value == "WARN"
    assert finding.evidence == "GPU0 is at NUMA node 0, its NIC mlx5_2 at 1"
    # Of a place that is not known nothing can be said.
    assert apart(None).verdict.value == "PASS"


def test_a_nic_that_is_far_while_those_of_others_are_near() -> None:
    finding = asked(with_complaint("pairing-far", "this machine", "the NIC of GPU1 is SYS"),
                    "numa-alignment")  # fmt: skip
    assert finding.verdict.value == "WARN"
    assert finding.evidence == "this machine: the NIC of GPU1 is SYS"


def test_gpus_that_share_a_nic() -> None:
    one = {"/sys/class/infiniband/mlx5_3": None, "/sys/class/infiniband_verbs/uverbs1": None}
    finding = ask("gpu-nic-sharing", one)
    assert finding.verdict.value == "WARN"
    assert "2 GPUs share 1 NIC" in finding.evidence
    assert ask("gpu-nic-sharing").evidence == "2 GPUs and 2 NICs"


def test_a_pci_tree_that_is_hidden() -> None:
    finding = asked(pod("nccl_1464_ndv4_without_pcie"), "pci-visible")
    assert finding.verdict.value == "WARN"
    assert "in the PCI tree" in finding.evidence
    assert "--nccl-topo" in finding.fix
    assert ask("pci-visible").evidence.startswith("the bridges above 2 GPUs")
