"""What is installed: Python, rdmatrain's core, torch, rdma-core, the kernel, NCCL."""

import posixpath
import re
from collections.abc import Iterator, Mapping
from typing import Any

from rdmatrain.discovery.model import Nic
from rdmatrain.discovery.verdicts import NOT_LISTED
from rdmatrain.doctor.checks.reading import section, texts
from rdmatrain.doctor.define import check
from rdmatrain.doctor.meeting import variables_of
from rdmatrain.doctor.model import Case, Finding, failed, gravest, passed, skipped, warned
from rdmatrain.launcher.exit_codes import BAD_CONFIG, NO_DEVICES

GROUP = "software"
NOT_ASKED = "nobody looked"
RELEASE = "/proc/sys/kernel/osrelease"
# Of libibverbs' providers, by the kernel's driver where that has another name.
_PROVIDERS = {
    "mlx5_core": "mlx5",
    "mlx4_core": "mlx4",
    "bnxt_en": "bnxt_re",
    "ice": "irdma",
    "i40e": "irdma",
    "idpf": "irdma",
    "hns3": "hns",
    "hns_roce_hw_v2": "hns",
    "qede": "qedr",
    "iw_cxgb4": "cxgb4",
    "hfi1": "hfi1verbs",
    "ib_qib": "ipathverbs",
    "ib_mthca": "mthca",
    "mana_ib": "mana",
    "rdma_rxe": "rxe",
}
# A label of node-feature-discovery.
_NEWER_KERNEL = (
    'spec: {nodeSelector: {feature.node.kubernetes.io/kernel-version.major: "6"}}, or another '
    "node with Linux 5.15 or later"
)
# ibv_reg_dmabuf_mr came with these.
_DMABUF_KERNEL, _DMABUF_LIBRARY = (5, 12), "rdma-core 34"
# memfd_create, which shm needs.
_MEMFD_KERNEL = (3, 17)
_REINSTALL = "pip install --no-build-isolation --force-reinstall --no-deps rdmatrain"
_INSTALL_CORE = "apt-get install -y libibverbs1 ibverbs-providers, in the image"
_Version = tuple[int, ...]


@check(
    "python",
    GROUP,
    title="this Python is one that rdmatrain runs on",
    exit_code=BAD_CONFIG,
)
def python(case: Case) -> Finding:
    """Compiled modules load into the Python that they were built for, and no other."""
    facts = case.probe("python")
    version = version_of(facts, "version")
    if facts is None or not version:
        return skipped(NOT_ASKED)
    least = version_of(facts, "requires")
    shown = f"{facts.get('implementation')} {facts['version']} ({facts.get('executable')})"
    if facts.get("implementation") != "CPython" or version < least:
        fix = f"FROM python:{_dotted(least) or '3.12'}, or another image with that Python"
        return failed(f"{shown}: rdmatrain needs CPython {facts.get('requires')}", fix)
    return passed(shown)


@check(
    "core-library",
    GROUP,
    title="rdmatrain's compiled core can be loaded, and its store server run",
    after="python",
    exit_code=BAD_CONFIG,
)
def core_library(case: Case) -> Finding:
    """Devices, transports and collectives are in it: nothing works without."""
    facts = case.probe("core")
    if facts is None or "error" not in facts:
        return skipped(NOT_ASKED)
    built, suffix = texts(facts, "built"), str(facts.get("suffix", ""))
    if facts["error"] and built and f"_core{suffix}" not in built:
        return failed(f"{', '.join(built)}: this Python loads _core{suffix} alone", _REINSTALL)
    if facts["error"]:
        return failed(f"rdmatrain._core: {facts['error']}", _REINSTALL)
    if not facts.get("store_server"):
        return failed("_store_server is not beside rdmatrain._core, or not executable", _REINSTALL)
    return passed(f"rdmatrain {facts.get('rdmatrain')}, built for torch {facts.get('torch_minor')}")


@check(
    "torch",
    GROUP,
    title="torch is installed, in a version that rdmatrain can use",
    exit_code=BAD_CONFIG,
)
def torch(case: Case) -> Finding:
    """Training needs it, and so does the job's store: rdmatrain run stops without it."""
    facts = case.probe("torch")
    if facts is None or "place" not in facts:
        return skipped(NOT_ASKED)
    wants = str(facts.get("requires") or "torch")
    version, least = _torch_version(facts), version_of(facts, "requires")
    if not facts["place"]:
        python = str((case.probe("python") or {}).get("executable", "this Python"))
        return failed(f"torch is not installed for {python}", f"pip install '{wants}'")
    shown = f"torch {facts.get('file') or facts.get('metadata')} in {facts['place']}"
    if not version:
        return skipped(f"the version of torch in {facts['place']} cannot be read")
    if version < least:
        return failed(f"{shown}: rdmatrain needs {wants}", f"pip install '{wants}'")
    other = version_of(facts, "metadata")
    if other and other != version:
        what = f"{shown}, but pip says {facts['metadata']}: two installations are mixed"
        return warned(what, f"pip uninstall -y torch; pip install torch=={_dotted(version)}")
    return passed(shown)


@check(
    "torch-abi",
    GROUP,
    title="rdmatrain was built for the torch that is installed",
    known="pytorch#187727: a prebuilt wheel that breaks with another torch",
    after="core-library torch",
    exit_code=BAD_CONFIG,
)
def torch_abi(case: Case) -> Finding:
    """Between minor versions, torch's C++ changes: an extension of another one crashes at best."""
    built = str((case.probe("core") or {}).get("torch_minor", ""))
    facts = case.probe("torch")
    version = _torch_version(facts)
    if facts is None or not version or not built:
        return skipped("it is not known which torch there is, and which one rdmatrain is for")
    shown = f"rdmatrain was built for torch {built}"
    if _dotted(version[:2]) != built:
        return failed(f"{shown}, this is torch {_dotted(version)}", _REINSTALL)
    return passed(f"{shown}, which is here: {_dotted(version)}")


@check(
    "rdma-core",
    GROUP,
    title="libibverbs is there, with a provider for each NIC of this pod",
    known="k8s-test-infra#558: ibv_devinfo finds no HCA in a container without providers; "
    "nccl#1044: couldn't load driver",
    exit_code=NO_DEVICES,
)
def rdma_core(case: Case) -> Finding:
    """Images without libibverbs, or without the NIC's provider, see no device, and use TCP."""
    nics = _nics(case)
    asked = case.needs.transport == "verbs"
    if not case.wants_rdma or not (nics or asked):
        return skipped("the job uses no RDMA" if not case.wants_rdma else "this pod has no NIC")
    facts = case.probe("ibverbs")
    if facts is None or "error" not in facts:
        return skipped(NOT_ASKED)
    if facts["error"]:
        return failed(f"libibverbs.so.1: {facts['error']}", _INSTALL_CORE)
    missing = list(_missing_providers(case, nics, str(facts.get("path", ""))))
    return gravest(missing, "") if missing else _judge_library(case, facts)


@check(
    "kernel",
    GROUP,
    title="the kernel has what shared memory and GPUDirect need",
)
def kernel(case: Case) -> Finding:
    """GPU memory is registered with a NIC as a dmabuf, or by a module that many nodes lack."""
    release = (case.source.text(RELEASE) or "").strip()
    version = _numbers(release)[:2]
    if len(version) < 2:
        return skipped(f"{RELEASE} cannot be read")
    if version < _MEMFD_KERNEL:
        return failed(f"Linux {release} has no memfd_create", _NEWER_KERNEL)
    found = case.found.allocation
    if case.wants_rdma and found.gpus and found.nics and version < _DMABUF_KERNEL:
        what = f"Linux {release} cannot register a dmabuf: GPU memory needs nvidia_peermem then"
        return warned(what, _NEWER_KERNEL)
    return passed(f"Linux {release}")


@check(
    "nccl",
    GROUP,
    title="torch finds the NCCL that it was built with",
    known="pytorch#186591: NCCL for two majors of CUDA, undefined symbol ncclCommResume; "
    "nccl#1180: undefined symbol ncclCommRegister",
    after="torch",
)
def nccl(case: Case) -> Finding:
    """Another NCCL in its place lacks symbols, or is slower, and nothing says so."""
    facts = case.probe("torch")
    if facts is None or not facts.get("place"):
        return skipped(NOT_ASKED)
    if not facts.get("cuda"):
        return skipped("torch is built without CUDA")
    packages = {str(name): str(each) for name, each in section(facts, "nccl").items()}
    if not packages:
        return skipped(f"no package has the NCCL of torch for CUDA {facts['cuda']}")
    return _judge_nccl(case, packages, str(facts["cuda"]))


def version_of(facts: Mapping[str, Any] | None, name: str) -> _Version:
    """Return the numbers of the first version in a text: (2, 13, 0) of ``torch>=2.13.0+cpu``."""
    return _numbers(str((facts or {}).get(name) or ""))


def _numbers(text: str) -> _Version:
    match = re.search(r"\d{1,6}(?:\.\d{1,6})*", text, re.ASCII)
    return tuple(map(int, match[0].split("."))) if match else ()


def _dotted(version: _Version) -> str:
    return ".".join(map(str, version))


def _torch_version(facts: Mapping[str, Any] | None) -> _Version:
    """Return the version of the torch that is imported; pip's word counts where its own is not."""
    return version_of(facts, "file") or version_of(facts, "metadata")


def _core_release(path: str) -> str:
    """Return the release of rdma-core, which the name of its library has: 1.14.44.0 is of 44.0."""
    match = re.search(r"libibverbs\.so\.1\.\d+\.(\d+)\.(\d+)$", path)
    return f"rdma-core {match[1]}.{match[2]}" if match else "an unknown release"


def _judge_library(case: Case, facts: Mapping[str, Any]) -> Finding:
    path = str(facts.get("path", ""))
    library = f"libibverbs of {_core_release(path)} ({path})"
    if case.found.allocation.gpus and not facts.get("dmabuf"):
        what = f"{library} has no ibv_reg_dmabuf_mr: GPU memory needs nvidia_peermem then"
        return warned(what, f"FROM debian:12, or another image with {_DMABUF_LIBRARY} or later")
    return passed(library)


def _nics(case: Case) -> list[Nic]:
    """Return the NICs of this pod; if it has none, those that libibverbs does not know how to use.

    A NIC without its provider is not listed, and so is not taken for the pod's.
    """
    found = case.found.allocation
    return [each.nic for each in found.nics] or [
        nic for nic, why in found.others if NOT_LISTED in why
    ]


def _missing_providers(case: Case, nics: list[Nic], library: str) -> Iterator[Finding]:
    """Find the NICs that no provider is there for; what was opened has one, wherever it is."""
    folder = posixpath.join(posixpath.dirname(library), "libibverbs")
    there = {
        match[1]
        for name in case.source.names(folder)
        if (match := re.fullmatch(r"lib(.+)-rdmav\d+\.so", name))
    }
    works = _opened_devices(case)
    for nic in nics:
        provider = "" if nic.name in works else _provider(case, nic)
        if library and provider and provider not in there:
            yield failed(
                f"{nic.name} needs lib{provider}-rdmav*.so, and {folder} has "
                f"{', '.join(sorted(there)) or 'none'}",
                _INSTALL_CORE,
            )


def _opened_devices(case: Case) -> set[Any]:
    ports = (case.probe("verbs") or {}).get("ports")
    return {
        port.get("device")
        for port in (ports if isinstance(ports, list) else ())
        if isinstance(port, Mapping) and not port.get("error")
    }


def _provider(case: Case, nic: Nic) -> str:
    """Return the name of a NIC's provider; empty if it is not known."""
    link = case.source.link(f"/sys/class/infiniband/{nic.name}/device/driver") or ""
    driver = posixpath.basename(link)
    if not driver and not nic.pci:
        return "siw" if nic.name.startswith("siw") else "rxe"
    known = _PROVIDERS.get(driver, driver)
    return known if known in {*_PROVIDERS.values(), "efa", "erdma", "bnxt_re", "siw"} else ""


def _judge_nccl(case: Case, packages: Mapping[str, str], cuda: str) -> Finding:
    shown = ", ".join(f"{name} {version}" for name, version in packages.items())
    if len(packages) > 1:
        major = cuda.partition(".")[0]
        wrong = next((name for name in packages if not name.endswith(f"cu{major}")), "the old one")
        what = f"{shown}: both have the same files, and torch is for CUDA {cuda}"
        return warned(what, f"pip uninstall -y {wrong}; pip install --force-reinstall torch")
    before = next(_libraries_before(case), "")
    if before:
        what = f"{before} in LD_LIBRARY_PATH is found before that of {shown}"
        return warned(what, "unset LD_LIBRARY_PATH, or leave that folder out")
    return passed(f"{shown}, torch is for CUDA {cuda}")


def _libraries_before(case: Case) -> Iterator[str]:
    """Find NCCL where the loader looks first."""
    path = variables_of(case.found.pod).get("LD_LIBRARY_PATH", "")
    for folder in path.split(":"):
        is_torchs = "site-packages" in folder or "dist-packages" in folder
        if folder.startswith("/") and not is_torchs and "libnccl.so.2" in case.source.names(folder):
            yield posixpath.join(folder, "libnccl.so.2")
