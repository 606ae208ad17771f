"""GPUDirect: whether NICs read and write the memory of GPUs, and nothing slows that down."""

import re
from collections.abc import Sequence
from itertools import takewhile

from rdmatrain.discovery.claims.values import shown
from rdmatrain.discovery.device_lists import usable_nics
from rdmatrain.discovery.distance import AT_ROOT, bridges_above
from rdmatrain.discovery.model import Nic
from rdmatrain.discovery.pod_model import Pair
from rdmatrain.discovery.probes import NO_PYNVML
from rdmatrain.discovery.sysfs import FUNCTIONS, attribute, number
from rdmatrain.doctor.config_space import HEADER, config_space
from rdmatrain.doctor.define import check
from rdmatrain.doctor.facts import complaints, own_variables, restart, said
from rdmatrain.doctor.misspelt import is_number
from rdmatrain.doctor.model import (
    Case,
    Finding,
    Verdict,
    failed,
    gravest,
    passed,
    skipped,
    warned,
)

GROUP = "gpudirect"
_VERSION = "/proc/driver/nvidia/version"
_RELEASE = "/proc/sys/kernel/osrelease"
_IOMMUS = "/sys/class/iommu"
# The first kernel whose RDMA registers memory by dma-buf.
_DMABUF = (5, 12)
_DMABUF_OFF = "NCCL_DMABUF_ENABLE=0"
_PEERS = ("nvidia_peermem", "nv_peer_mem")
_OF_AMD = "/sys/kernel/mm/memory_peers/amdkfd/version"
# What translates each address that a device uses, and what does not.
_TRANSLATES, _PASSES = ("DMA", "DMA-FQ"), ("identity",)
_NO_GPU = "there is no GPU here"
_NO_PAIR = "there is no GPU with a NIC here"
_SPEED = re.compile(r"([0-9]{1,3}(?:\.[0-9])?) GT/s")


@check(
    "gpu-driver",
    GROUP,
    title="the GPU's driver answers",
    known="nvidia-container-toolkit#48: GPUs vanish after systemctl daemon-reload",
    exit_code=203,
)
def gpu_driver(case: Case) -> Finding:
    """CUDA needs a driver that answers and is as old as its library; torch tells it too late."""
    lost = [
        failed(said(each), f"{restart(case)}, so that it is started anew")
        for each in complaints(case, "nvml-failed")
    ]
    if lost:
        return gravest(lost, "")
    gpus = case.found.allocation.gpus
    if not gpus:
        return skipped(_NO_GPU)
    version = _driver(case)
    answer = case.probe("nvml")
    error = str(answer.get("error", "")) if answer else NO_PYNVML
    if not error:
        return passed(f"NVML shows {len(gpus)} GPUs{', driver ' * bool(version)}{version}")
    loaded = f"driver {version} is loaded" if version else f"{_VERSION} cannot be read"
    return skipped(f"{loaded}, and nobody asked it: {shown(error)}")


@check(
    "peer-memory",
    GROUP,
    title="the NIC can register a GPU's memory",
    known="nccl#897: GPUDirect on one node and not on the next, for want of nvidia-peermem",
)
def peer_memory(case: Case) -> Finding:
    """Without nvidia_peermem or dma-buf all that a GPU sends is copied by way of the host."""
    if not case.found.pairs or not case.found.pod:
        return skipped(_NO_PAIR)
    of_amd = any(pair.gpu.vendor == "amd" for pair in case.found.pairs)
    return (_peer_memory_of_amd if of_amd else _peer_memory_of_nvidia)(case)


@check(
    "acs",
    GROUP,
    title="no bridge sends what goes between GPU and NIC up to the root",
    known="nccl#304, nccl#523: wrong completions and slow rings until ACS was off",
)
def acs(case: Case) -> Finding:
    """With ACS redirects, what goes between two below one switch goes by way of the CPU."""
    if not case.found.pairs or not case.found.pod:
        return skipped(_NO_PAIR)
    if case.found.machine.virtual:
        return skipped("a virtual machine needs ACS on its host, and does not see it")
    findings, unseen = [], []
    for bridge in _between(case):
        space = config_space(case.source, bridge)
        redirects = space.redirects() if space else None
        if redirects is None:
            unseen.append(bridge)
        elif redirects:
            fix = f"setpci -s {bridge} ECAP_ACS+6.w=0000, on the host, or ACS off in its BIOS"
            findings.append(warned(f"{bridge}: ACS redirects requests or completions", fix))
        else:
            findings.append(passed(f"{bridge}: no redirect"))
    nothing = "no GPU is below one switch with its NIC, as far as can be seen"
    return _as_far_as_seen(findings, unseen, nothing)


@check(
    "iommu",
    GROUP,
    title="no IOMMU translates what GPU and NIC exchange",
    known="nccl#1737: GPUDirect hangs with ACS on, or an IOMMU that is not in passthrough",
)
def iommu(case: Case) -> Finding:
    """GPUDirect through an IOMMU that translates goes by way of the root, or hangs."""
    if not case.found.pairs or not case.found.pod:
        return skipped(_NO_PAIR)
    if case.source.failure(_IOMMUS) == "ENOENT":
        return skipped(f"{_IOMMUS} is not there")
    units = case.source.names(_IOMMUS)
    if not units:
        return passed(f"no IOMMU in {_IOMMUS}")
    return _by_domains(case, len(units))


@check("relaxed-ordering", GROUP, title="the NICs may relax the order of what they write")
def relaxed_ordering(case: Case) -> Finding:
    """Strictly ordered writes to memory wait for each other: on many CPUs half of the bandwidth."""
    nics = _nics(case)
    if not nics:
        return skipped("there is no NIC with a PCI function")
    if is_number(own_variables(case).get("NCCL_IB_PCI_RELAXED_ORDERING", "")) == 0:
        text = "NCCL_IB_PCI_RELAXED_ORDERING=0"
        return warned(text, "unset NCCL_IB_PCI_RELAXED_ORDERING")
    findings, unseen = [], []
    for nic in nics:
        pci = _physical_function(nic)
        space = config_space(case.source, pci) if pci else None
        relaxed = space.relaxed_ordering() if space else None
        if relaxed is None:
            unseen.append(pci or f"the physical function of {nic.name}")
        elif relaxed:
            findings.append(passed(f"{nic.name}: DevCtl of {pci} has RlxdOrd+"))
        else:
            fix = f"setpci -s {pci} CAP_EXP+8.w=0010:0010, on the host"
            findings.append(warned(f"{nic.name}: DevCtl of {pci} has RlxdOrd-", fix))
    return _as_far_as_seen(findings, unseen, "")


@check("pcie-link", GROUP, title="GPUs and NICs have their full PCIe links")
def pcie_link(case: Case) -> Finding:
    """Cards that are not well seated, or in a narrow slot, have a part of their bandwidth."""
    found = case.found
    nics = [_Link(nic.name, nic.pf or nic.pci, nic.gbps) for nic in _nics(case)]
    gpus = [_Link(each.gpu.name, each.gpu.pci, 0) for each in found.allocation.gpus]
    findings = [judged for link in (*gpus, *nics) if (judged := link.judge(case)) is not None]
    nothing = "no PCIe link can be seen" if gpus or nics else "there is neither GPU nor NIC"
    return _together(findings, nothing)


class _Link:
    """The link above a device."""

    def __init__(self, name: str, pci: str, gbps: float) -> None:
        self._name, self._pci, self._gbps = name, pci, gbps

    def judge(self, case: Case) -> Finding | None:
        """Hold it against what the device could have; None where it cannot be seen."""
        folder = f"{FUNCTIONS}/{self._pci}"
        width = number(case.source, f"{folder}/current_link_width")
        widest = number(case.source, f"{folder}/max_link_width")
        speed = _gts(attribute(case.source, f"{folder}/current_link_speed"))
        fastest = _gts(attribute(case.source, f"{folder}/max_link_speed"))
        # Virtual functions say x0, or 255 for unknown.
        if not (self._pci and width and widest and 0 < width <= 32 and widest <= 32):
            return None
        where = f"{self._name} ({self._pci})"
        now = f"{where}: {speed:g} GT/s x{width}, of {fastest:g} GT/s x{widest}"
        fix = f"lspci -vvs {self._pci}, on the host: reseat the card, or take a wider slot"
        if width < widest:
            return warned(now, fix)
        room = _link_gbps(speed, width)
        # GPUs lower their speed while nobody uses them. A slow slot is one that the port exceeds.
        if self._gbps and room and room < self._gbps:
            return warned(f"{now}: {room:.0f} Gbit/s, and its port has {self._gbps:g}", fix)
        return passed(now)


def _together(findings: Sequence[Finding], nothing: str) -> Finding:
    """Put them together; of many that are well the first stands for all."""
    whole = gravest(findings, nothing)
    if whole.verdict is Verdict.PASS and len(findings) > 2:
        return passed(f"{findings[0].evidence}, and {len(findings) - 1} more")
    return whole


def _as_far_as_seen(findings: Sequence[Finding], unseen: Sequence[str], nothing: str) -> Finding:
    """Put them together, unless all that was seen is well and some could not be seen."""
    if unseen and not any(each.fix for each in findings):
        return skipped(_cut(unseen))
    return _together(findings, nothing)


def _physical_function(nic: Nic) -> str:
    """Return the one whose ordering counts: the bit of a virtual function is reserved."""
    return nic.pf if nic.is_vf or nic.pf else nic.pci


def _nics(case: Case) -> list[Nic]:
    return [each.nic for each in usable_nics(case.found.allocation) if each.nic.pci]


def _gts(text: str) -> float:
    match = _SPEED.match(text)
    return float(match[1]) if match else 0.0


def _link_gbps(speed: float, width: int) -> float:
    """Return what a link carries; those up to 5 GT/s send ten bits for eight."""
    return speed * width * (0.8 if speed <= 5 else 128 / 130)


def _functions(pairs: Sequence[Pair]) -> list[str]:
    places = [(pair.gpu.pci, *(nic.pci for nic in (pair.nic, *pair.more))) for pair in pairs]
    return list(dict.fromkeys(pci for several in places for pci in several if pci))


def _between(case: Case) -> list[str]:
    """Return the ports between each GPU and its NIC that are below the switch above both."""
    ports: dict[str, None] = {}
    for pair in case.found.pairs:
        ways = [bridges_above(device, case.found.machine) for device in (pair.gpu, pair.nic)]
        fork = len(list(takewhile(lambda both: both[0] == both[1], zip(*ways, strict=False))))
        # Without a switch above both, data goes through the root in any case.
        if fork >= AT_ROOT:
            ports.update(dict.fromkeys(port for way in ways for port in way[fork:]))
    return list(ports)


def _by_domains(case: Case, units: int) -> Finding:
    """Judge by how the kernel maps the memory that each device uses."""
    line = attribute(case.source, "/proc/cmdline").split()
    kinds = {pci: _domain(case, pci) for pci in _functions(case.found.pairs)}
    translated = [f"{pci}: {kind}" for pci, kind in kinds.items() if kind in _TRANSLATES]
    fix = "iommu=pt on the kernel's command line of the host"
    if translated:
        return warned(f"iommu_group/type of {', '.join(translated)}", fix)
    if kinds and all(kind in _PASSES for kind in kinds.values()):
        return passed(f"{len(kinds)} functions are in identity domains")
    if "iommu=pt" in line or "iommu.passthrough=1" in line:
        return passed("the kernel's command line has passthrough")
    return skipped(f"{units} IOMMUs, and of no device the domain can be seen")


def _cut(unseen: Sequence[str]) -> str:
    more = f" and {len(unseen) - 1} more" if len(unseen) > 1 else ""
    return f"config of {unseen[0]}{more}: only root reads beyond its first {HEADER} bytes, if it is"


def _domain(case: Case, pci: str) -> str:
    return attribute(case.source, f"{FUNCTIONS}/{pci}/iommu_group/type")


def _driver_text(case: Case) -> str:
    return case.source.text(_VERSION) or ""


def _driver(case: Case) -> str:
    match = re.search(r"\b[0-9]{3}\.[0-9]{1,3}(?:\.[0-9]{1,3})?\b", _driver_text(case), re.ASCII)
    return match[0] if match else ""


def _release(case: Case) -> str:
    return attribute(case.source, _RELEASE)


def _has_dmabuf(release: str) -> bool:
    match = re.match(r"([0-9]{1,3})\.([0-9]{1,3})", release, re.ASCII)
    return bool(match) and (int(match[1]), int(match[2])) >= _DMABUF if match else False


def _peer_memory_of_nvidia(case: Case) -> Finding:
    module = next((name for name in _PEERS if _is_loaded(case, name)), "")
    if module:
        return passed(f"/sys/module/{module} is there")
    if not case.source.names("/sys/module"):
        return skipped("/sys/module cannot be read")
    release, driver = _release(case), _driver_text(case)
    against = _against_dmabuf(case, release, driver)
    if against:
        text = f"no /sys/module/{_PEERS[0]}, and no dma-buf: {', '.join(against)}"
        only_off = against == [_DMABUF_OFF]
        host = "modprobe nvidia_peermem, on the host"
        return warned(text, "unset NCCL_DMABUF_ENABLE" if only_off else host)
    if not release or not driver:
        unknown = _VERSION if release else _RELEASE
        return skipped(f"no nvidia_peermem, and of dma-buf nobody knows: no {unknown}")
    return passed(f"dma-buf: kernel {release}, and the open driver {_driver(case)}")


def _against_dmabuf(case: Case, release: str, driver: str) -> list[str]:
    """Return what keeps NVIDIA's driver from dma-buf, as far as it is known."""
    off = is_number(own_variables(case).get("NCCL_DMABUF_ENABLE", "")) == 0
    against = [_DMABUF_OFF] if off else []
    if release and not _has_dmabuf(release):
        against.append(f"kernel {release}")
    if driver and "open kernel module" not in driver.lower():
        against.append(f"driver {_driver(case) or '?'} is not the open one")
    return against + _nics_without_dmabuf(case)


def _nics_without_dmabuf(case: Case) -> list[str]:
    """Return what the NICs of GPUs say against it; who was not asked says nothing."""
    answer = case.probe("device_limits") or {}
    said_of = {each.get("device"): each.get("no_dmabuf") for each in answer.get("devices") or []}
    nics = [nic for pair in case.found.pairs for nic in (pair.nic, *pair.more)]
    names = dict.fromkeys(nic.name for nic in nics if said_of.get(nic.name))
    return [f"{name}: {shown(str(said_of[name]))}" for name in names]


def _is_loaded(case: Case, module: str) -> bool:
    folder = f"/sys/module/{module}"
    return bool(case.source.names(folder) or case.source.text(f"{folder}/version"))


def _peer_memory_of_amd(case: Case) -> Finding:
    release = _release(case)
    if case.source.text(_OF_AMD):
        return passed(f"{_OF_AMD} is there")
    if not release:
        return skipped(f"{_OF_AMD} and {_RELEASE} cannot be read")
    against = [] if _has_dmabuf(release) else [f"kernel {release}"]
    against += _nics_without_dmabuf(case)
    if not against:
        return passed(f"dma-buf: kernel {release}, and amdgpu")
    return warned(
        f"no {_OF_AMD}, and {', '.join(against)}", "apt-get install -y amdgpu-dkms, on the host"
    )
