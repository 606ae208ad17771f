# SPDX-License-Identifier: Apache-2.0
"""Whether NICs read and write the memory of GPUs, and nothing slows that down."""

import errno
import os
from dataclasses import replace

import pytest
from doctor_pods import Changes, asked, bare, case_of, first, healthy
from doctor_variables import with_variables
from hypothesis import given, settings
from hypothesis import strategies as st
from memory_source import MemorySource

from rdmatrain.discovery.snapshot import Recorder, dump, load
from rdmatrain.doctor.config_space import ConfigSpace, config_space
from rdmatrain.doctor.model import Case, Finding

CHECKS = ["gpu-driver", "peer-memory", "acs", "iommu", "relaxed-ordering", "pcie-link"]
BUS = "/sys/bus/pci/devices"
GPU0, GPU1, NIC0, NIC1 = "0000:0f:00.0", "0000:2d:00.0", "0000:0c:00.2", "0000:2a:00.2"
# The ports of the two switches, below what GPU and NIC have in common.
PORTS = ("0000:09:02.0", "0000:09:01.0", "0000:29:02.0", "0000:29:01.0")
OPEN = (
    "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.86.15  Release Build\n"
    "GCC version:  gcc version 12.3.0 (Ubuntu 12.3.0)\n"
)
CLOSED = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat Aug 19\n"
OTHERS = {"/sys/module/nvidia/version": "570\n"}


def space(*, acs: int | None = None, control: int | None = None, size: int = 4096) -> str:
    """A configuration space, as a source gives its bytes."""
    data = bytearray(4096)
    data[0x06] = 0x10
    data[0x34] = 0x40
    data[0x40:0x42] = bytes([0x01, 0x60])  # power management, and then
    data[0x60:0x62] = bytes([0x10, 0x00])  # PCI Express
    data[0x68:0x6A] = (0x2810 if control is None else control).to_bytes(2, "little")
    data[0x100:0x104] = (0x0001 | 0x148 << 20).to_bytes(4, "little")  # errors, and then
    if acs is not None:
        data[0x148:0x14C] = (0x000D).to_bytes(4, "little")
        data[0x14E:0x150] = acs.to_bytes(2, "little")
    return os.fsdecode(bytes(data[:size]))


def ports(text: str, **of: str) -> dict[str, str]:
    """The spaces of all ports between GPUs and NICs, but for some."""
    return {f"{BUS}/{port}/config": of.get(f"p{port[5:7]}{port[8:10]}", text) for port in PORTS}


def ask(name: str, files: Changes | None = None) -> Finding:
    return asked(healthy(files), name)


def virtual(case: Case) -> Case:
    machine = replace(case.found.machine, virtual=True)
    return replace(case, found=replace(case.found, machine=machine))


@pytest.mark.parametrize("name", CHECKS)
def test_what_is_not_there_is_skipped(name: str) -> None:
    assert asked(bare(), name).verdict.value == "SKIP"


@pytest.mark.parametrize("name", CHECKS[1:])
def test_what_cannot_be_seen_is_skipped(name: str) -> None:
    """The healthy pod shows none of this."""
    assert ask(name).verdict.value == "SKIP"


def test_a_driver_that_answers() -> None:
    finding = ask("gpu-driver", {"/proc/driver/nvidia/version": OPEN})
    assert finding.verdict.value == "PASS"
    assert finding.evidence == "NVML shows 2 GPUs, driver 570.86.15"
    assert ask("gpu-driver").evidence == "NVML shows 2 GPUs"


def test_a_driver_that_does_not_answer() -> None:
    error = "NVML: Driver/library version mismatch"
    gone = {"nvml": {"error": error, "gpus": []}}
    finding = asked(healthy(probes=gone), "gpu-driver")
    assert finding.verdict.value == "FAIL"
    assert error in finding.evidence
    assert finding.fix == "kubectl delete pod $HOSTNAME, so that it is started anew"


def test_a_driver_that_does_not_answer_without_kubernetes() -> None:
    gone = {"nvml": {"error": "NVML: Unknown Error", "gpus": []}}
    host: Changes = {"/dev/nvidia0": ""}
    again = "rdmatrain run, started again, so that it is started anew"
    assert asked(bare(host, gone), "gpu-driver").fix == again
    inside = {**host, "/.dockerenv": ""}
    assert asked(bare(inside, gone), "gpu-driver").fix.startswith("docker restart $HOSTNAME,")


def test_a_driver_that_is_slow_has_lost_nothing() -> None:
    late = {"nvml": {"error": "no answer within 1.3 s", "unanswered": True, "gpus": []}}
    case = healthy({"/dev/nvidia0": "", "/dev/nvidia1": ""}, late)
    assert first(case) == ""
    finding = asked(case, "gpu-driver")
    assert (finding.verdict.value, finding.evidence) == ("WARN", "nvml: no answer within 1.3 s")


def test_a_driver_that_nobody_could_ask() -> None:
    unasked = {"nvml": {"error": "pynvml is not installed", "gpus": []}}
    finding = asked(healthy({"/proc/driver/nvidia/version": CLOSED}, unasked), "gpu-driver")
    assert finding.verdict.value == "SKIP"
    assert finding.evidence == (
        "driver 535.104.05 is loaded, and nobody asked it: pynvml is not installed"
    )
    assert asked(healthy(probes=unasked), "gpu-driver").verdict.value == "SKIP"


@pytest.mark.parametrize(
    ("release", "version", "expected", "words"),
    [
        ("6.8.0-90-generic\n", OPEN, "PASS", "dma-buf: kernel 6.8.0-90-generic, and the open"),
        ("5.12.0\n", OPEN, "PASS", "dma-buf: kernel 5.12.0"),
        ("5.4.0\n", OPEN, "WARN", "no dma-buf: kernel 5.4.0"),
        ("6.8.0\n", CLOSED, "WARN", "driver 535.104.05 is not the open one"),
        ("6.8.0\n", "", "SKIP", "no /proc/driver/nvidia/version"),
        ("", CLOSED, "WARN", "driver 535.104.05 is not the open one"),
        ("", OPEN, "SKIP", "no /proc/sys/kernel/osrelease"),
    ],
)
def test_memory_by_dma_buf(release: str, version: str, expected: str, words: str) -> None:
    files = {"/proc/sys/kernel/osrelease": release, "/proc/driver/nvidia/version": version}
    finding = ask("peer-memory", {**OTHERS, **files})
    assert finding.verdict.value == expected, finding
    assert words in finding.evidence
    assert finding.fix == ("modprobe nvidia_peermem, on the host" if expected == "WARN" else "")


def test_memory_by_the_module() -> None:
    finding = ask("peer-memory", {"/sys/module/nvidia_peermem/refcnt": "0\n"})
    assert (finding.verdict.value, finding.evidence) == (
        "PASS",
        "/sys/module/nvidia_peermem is there",
    )


def test_dma_buf_that_a_variable_turns_off() -> None:
    files = {"/proc/sys/kernel/osrelease": "6.8.0\n", "/proc/driver/nvidia/version": OPEN}
    case = with_variables({"NCCL_DMABUF_ENABLE": "0"}, files={**OTHERS, **files})
    finding = asked(case, "peer-memory")
    assert (finding.verdict.value, finding.fix) == ("WARN", "unset NCCL_DMABUF_ENABLE")
    assert finding.evidence.endswith("no dma-buf: NCCL_DMABUF_ENABLE=0")


def test_nics_are_asked_whether_they_take_a_dma_buf() -> None:
    """Of those that are a GPU's own; without an answer the kernel and the driver are believed."""
    files = {"/proc/sys/kernel/osrelease": "6.8.0\n", "/proc/driver/nvidia/version": OPEN}
    own = healthy().found.pairs[1].nic.name

    def told(**no_dmabuf: str) -> Finding:
        devices = [{"device": name, "no_dmabuf": text} for name, text in no_dmabuf.items()]
        answer = {"device_limits": {"error": "", "devices": devices}}
        return asked(healthy({**OTHERS, **files}, answer), "peer-memory")

    assert told(**{own: ""}).verdict.value == "PASS"
    assert told(somebody_elses="its driver has no ibv_reg_dmabuf_mr").verdict.value == "PASS"
    finding = told(**{own: "its driver has no ibv_reg_dmabuf_mr"})
    assert (finding.verdict.value, finding.fix) == ("WARN", "modprobe nvidia_peermem, on the host")
    assert f"no dma-buf: {own}: its driver has no ibv_reg_dmabuf_mr" in finding.evidence


def test_memory_of_gpus_of_amd() -> None:
    def amd(no_dmabuf: str = "", **files: str) -> Finding:
        own = healthy().found.pairs[0].nic.name
        answer = {"error": "", "devices": [{"device": own, "no_dmabuf": no_dmabuf}]}
        case = healthy(
            {path.replace("__", "/"): text for path, text in files.items()},
            {"device_limits": answer},
        )
        pairs = tuple(
            replace(pair, gpu=replace(pair.gpu, vendor="amd")) for pair in case.found.pairs
        )
        return asked(replace(case, found=replace(case.found, pairs=pairs)), "peer-memory")

    release = "__proc__sys__kernel__osrelease"
    peers = "__sys__kernel__mm__memory_peers__amdkfd__version"
    assert amd(**{peers: "1.0\n"}).verdict.value == "PASS"
    assert amd(**{release: "6.8.0\n"}).verdict.value == "PASS"
    assert amd(**{release: "5.4.0\n"}).verdict.value == "WARN"
    finding = amd("its driver has no ibv_reg_dmabuf_mr", **{release: "6.8.0\n"})
    assert finding.verdict.value == "WARN"
    assert "and mlx5" in finding.evidence
    assert amd().verdict.value == "SKIP"


def test_acs_that_redirects() -> None:
    finding = ask("acs", ports(space(acs=0), p0901=space(acs=0x5D)))
    assert finding.verdict.value == "WARN"
    assert finding.evidence == "0000:09:01.0: ACS redirects requests or completions"
    assert finding.fix.startswith("setpci -s 0000:09:01.0 ECAP_ACS+6.w=0000")


@pytest.mark.parametrize("acs", [0, 0x01, 0x51, None])
def test_acs_that_redirects_nothing(acs: int | None) -> None:
    finding = ask("acs", ports(space(acs=acs)))
    assert finding.verdict.value == "PASS"
    assert finding.evidence == "0000:09:02.0: no redirect, and 3 more"
    # What the root port does is not in the way of what stays below the switch.
    above = {f"{BUS}/0000:07:01.0/config": space(acs=0x5D)}
    assert ask("acs", {**ports(space(acs=acs)), **above}).verdict.value == "PASS"


@pytest.mark.parametrize("size", [64, 256])
def test_acs_that_only_root_may_see(size: int) -> None:
    finding = ask("acs", ports(space(acs=0x5D, size=size)))
    assert finding.verdict.value == "SKIP"
    assert "config of 0000:09:02.0 and 3 more: only root reads" in finding.evidence


def test_acs_where_data_goes_through_the_root_in_any_case() -> None:
    """Each GPU has the NIC of the other root."""
    case = healthy(ports(space(acs=0x5D)))
    (first, second) = case.found.pairs
    crossed = (replace(first, nic=second.nic), replace(second, nic=first.nic))
    finding = asked(replace(case, found=replace(case.found, pairs=crossed)), "acs")
    assert (finding.verdict.value, "below one switch" in finding.evidence) == ("SKIP", True)


def test_acs_of_a_virtual_machine_is_of_its_host() -> None:
    finding = asked(virtual(healthy(ports(space(acs=0x5D)))), "acs")
    assert (finding.verdict.value, "virtual machine" in finding.evidence) == ("SKIP", True)


def domains(kind: str) -> dict[str, str]:
    return {f"{BUS}/{pci}/iommu_group/type": f"{kind}\n" for pci in (GPU0, GPU1, NIC0, NIC1)}


def test_an_iommu_that_translates() -> None:
    units = {"/sys/class/iommu": ["dmar0", "dmar1"]}
    finding = ask("iommu", {**units, **domains("DMA-FQ")})
    assert finding.verdict.value == "WARN"
    assert f"iommu_group/type of {GPU0}: DMA-FQ" in finding.evidence
    assert finding.fix.startswith("iommu=pt")
    assert ask("iommu", {**units, **domains("identity")}).verdict.value == "PASS"


def test_an_iommu_whose_domains_cannot_be_seen() -> None:
    units = {"/sys/class/iommu": ["dmar0"]}
    assert ask("iommu", units).verdict.value == "SKIP"
    passthrough = ask("iommu", {**units, "/proc/cmdline": "quiet intel_iommu=on iommu=pt\n"})
    assert passthrough.verdict.value == "PASS"
    none = ask("iommu", {"/sys/class/iommu": []})
    assert (none.verdict.value, none.evidence) == ("PASS", "no IOMMU in /sys/class/iommu")


def test_writes_that_must_stay_in_order() -> None:
    """Bit 4 of DevCtl: of a NIC that is no virtual function, its own."""
    strict, relaxed = space(control=0x2800), space(control=0x2810)

    def physical(first: str, second: str) -> Finding:
        case = healthy({f"{BUS}/{NIC0}/config": first, f"{BUS}/{NIC1}/config": second})
        nics = tuple(
            replace(each, nic=replace(each.nic, is_vf=False)) for each in case.found.allocation.nics
        )
        allocation = replace(case.found.allocation, nics=nics)
        return asked(replace(case, found=replace(case.found, allocation=allocation)),
                     "relaxed-ordering")  # fmt: skip

    finding = physical(relaxed, strict)
    assert finding.verdict.value == "WARN"
    assert finding.evidence == f"mlx5_3: DevCtl of {NIC1} has RlxdOrd-"
    assert finding.fix.startswith(f"setpci -s {NIC1} CAP_EXP+8.w=0010:0010")
    assert physical(relaxed, relaxed).verdict.value == "PASS"
    assert physical(relaxed, space(size=64)).verdict.value == "SKIP"


def test_writes_of_a_virtual_function_follow_its_physical_one() -> None:
    case = healthy({f"{BUS}/{NIC0}/config": space(control=0x2800)})
    finding = asked(case, "relaxed-ordering")
    assert (finding.verdict.value, "physical function of mlx5_2" in finding.evidence) == (
        "SKIP",
        True,
    )


def test_relaxed_ordering_that_a_variable_turns_off() -> None:
    finding = asked(with_variables({"NCCL_IB_PCI_RELAXED_ORDERING": "0"}), "relaxed-ordering")
    assert (finding.verdict.value, finding.evidence) == ("WARN", "NCCL_IB_PCI_RELAXED_ORDERING=0")


def link(pci: str, speed: str, width: str, fastest: str = "32.0", widest: str = "16") -> Changes:
    facts = {"current_link_speed": f"{speed} GT/s PCIe", "current_link_width": width,
             "max_link_speed": f"{fastest} GT/s PCIe", "max_link_width": widest}  # fmt: skip
    return {f"{BUS}/{pci}/{name}": f"{text}\n" for name, text in facts.items()}


@pytest.mark.parametrize(
    ("pci", "speed", "width", "expected", "words"),
    [
        (GPU0, "32.0", "16", "PASS", f"GPU0 ({GPU0}): 32 GT/s x16, of 32 GT/s x16"),
        (GPU0, "32.0", "8", "WARN", f"GPU0 ({GPU0}): 32 GT/s x8, of 32 GT/s x16"),
        # It saves power while nobody uses it.
        (GPU0, "2.5", "16", "PASS", "2.5 GT/s x16"),
        (NIC0, "32.0", "16", "PASS", "mlx5_2"),
        (NIC0, "16.0", "16", "WARN", "252 Gbit/s, and its port has 400"),
        (NIC0, "32.0", "4", "WARN", f"mlx5_2 ({NIC0}): 32 GT/s x4"),
        (NIC0, "Unknown", "0", "SKIP", "no PCIe link"),
        (NIC0, "32.0", "255", "SKIP", "no PCIe link"),
        (NIC0, "32.0", "wide", "SKIP", "no PCIe link"),
    ],
)
def test_links(pci: str, speed: str, width: str, expected: str, words: str) -> None:
    finding = ask("pcie-link", link(pci, speed, width))
    assert finding.verdict.value == expected, finding
    assert words in finding.evidence
    assert bool(finding.fix) == (expected == "WARN")


@given(st.binary(max_size=600))
@settings(max_examples=100, deadline=None)
def test_any_configuration_space_is_read(data: bytes) -> None:
    found = ConfigSpace(data)
    assert found.relaxed_ordering() in {True, False, None}
    assert found.redirects() in {True, False, None}


def test_lists_of_capabilities_that_go_round_in_a_circle() -> None:
    data = bytearray(4096)
    data[0x06], data[0x34] = 0x10, 0x40
    data[0x40:0x42] = bytes([0x01, 0x40])
    data[0x100:0x104] = (0x0001 | 0x100 << 20).to_bytes(4, "little")
    found = ConfigSpace(bytes(data))
    assert (found.relaxed_ordering(), found.redirects()) == (None, False)


def test_a_configuration_space_that_cannot_be_read() -> None:
    assert config_space(MemorySource({f"{BUS}/{NIC0}/config": errno.EACCES}), NIC0) is None
    whole = config_space(MemorySource({f"{BUS}/{NIC0}/config": space(acs=0x0C)}), NIC0)
    assert whole
    assert (whole.is_cut, whole.redirects(), whole.relaxed_ordering()) == (False, True, True)


def test_a_saved_machine_has_the_bytes_too() -> None:
    case = healthy(ports(space(acs=0x5D)))
    recorder = Recorder(case.source)
    live = asked(case_of(recorder), "acs")
    saved = asked(case_of(load(dump(recorder, redact=False), "saved")), "acs")
    assert (saved.verdict.value, saved) == ("WARN", live)
