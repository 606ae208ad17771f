# SPDX-License-Identifier: Apache-2.0
"""What the doctor says of Python, the core, torch, rdma-core, the kernel and NCCL."""

import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from doctor_pods import HEALTHY, asked, bare, first, healthy, pod, verbs
from memory_source import environ
from pod_scenarios import seen

from rdmatrain.doctor.model import Case, Finding, Needs
from rdmatrain.doctor.probes import software

ALL = ("python", "core-library", "torch", "torch-abi", "rdma-core", "kernel", "nccl")
RELEASE = "/proc/sys/kernel/osrelease"
LIBRARY = "/usr/lib/x86_64-linux-gnu/libibverbs.so.1.14.44.0"
PROVIDERS = "/usr/lib/x86_64-linux-gnu/libibverbs"
SUFFIX = ".cpython-312-x86_64-linux-gnu.so"
NOT_LISTED: dict[str, Any] = {"error": "", "ports": []}


def answers() -> dict[str, Any]:
    """What the probes say where nothing is wrong."""
    return {
        "python": python(),
        "core": core(),
        "torch": torch(),
        "ibverbs": {"error": "", "path": LIBRARY, "dmabuf": True},
    }


def python(**changed: str) -> dict[str, Any]:
    return {
        "version": "3.12.4",
        "implementation": "CPython",
        "executable": "/usr/bin/python3",
        "machine": "x86_64",
        "requires": ">=3.10",
        **changed,
    }


def core(**changed: Any) -> dict[str, Any]:
    return {
        "error": "",
        "rdmatrain": "0.1.0",
        "torch_minor": "2.13",
        "suffix": SUFFIX,
        "built": [f"_core{SUFFIX}"],
        "store_server": True,
        **changed,
    }


def torch(**changed: Any) -> dict[str, Any]:
    return {
        "metadata": "2.13.0",
        "file": "2.13.0+cu130",
        "cuda": "13.0",
        "place": "/site-packages/torch",
        "requires": "torch>=2.13",
        "nccl": {"nvidia-nccl-cu13": "2.29.7"},
        **changed,
    }


def case(files: dict[str, Any] | None = None, needs: Needs | None = None, **probes: Any) -> Case:
    """The healthy pod, with what is installed in it."""
    given: dict[str, Any] = {
        RELEASE: "6.8.0-45-generic\n",
        f"{PROVIDERS}/libmlx5-rdmav34.so": "",
        f"{PROVIDERS}/librxe-rdmav34.so": "",
    }
    return healthy({**given, **(files or {})}, {**answers(), **probes}, needs)


def said(finding: Finding) -> tuple[str, str]:
    return finding.verdict.value, finding.evidence


@pytest.mark.parametrize("name", ALL)
def test_a_healthy_pod_passes(name: str) -> None:
    finding = asked(case(), name)
    assert finding.verdict.value == "PASS", finding
    assert finding.fix == ""


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("facts", [None, {}, {"version": 3, "place": None, "torch_minor": []}])
def test_what_nobody_saw_is_no_pass(name: str, facts: dict[str, Any] | None) -> None:
    nothing = dict.fromkeys(("python", "core", "torch", "ibverbs"), facts)
    finding = asked(case({RELEASE: "next"}, **nothing), name)
    assert finding.verdict.value != "PASS"
    assert "broken" not in finding.evidence


@pytest.mark.parametrize("name", ["rdma-core", "kernel"])
def test_a_laptop_needs_no_rdma(name: str) -> None:
    broken = {"ibverbs": {"error": "no such file", "path": ""}}
    finding = asked(bare(probes=broken), name)
    assert finding.verdict.value == "SKIP"


@pytest.mark.parametrize(
    "changed",
    [{"version": "3.9.18"}, {"implementation": "PyPy"}],
)
def test_another_python_fails(changed: dict[str, str]) -> None:
    wrong = case(python=python(**changed))
    finding = asked(wrong, "python")
    assert finding.verdict.value == "FAIL"
    assert next(iter(changed.values())) in finding.evidence
    assert finding.evidence.endswith("rdmatrain needs CPython >=3.10")
    assert finding.fix.startswith("FROM python:3.10")
    assert first(wrong) == "python"


def test_python_is_compared_by_its_numbers() -> None:
    assert asked(case(python=python(version="3.10.0")), "python").verdict.value == "PASS"


@pytest.mark.parametrize(
    ("changed", "evidence"),
    [
        ({"error": "ImportError: libc.so.6: version"}, "rdmatrain._core: ImportError: libc.so.6"),
        (
            {"error": "ModuleNotFoundError", "built": ["_core.cpython-311-x86_64-linux-gnu.so"]},
            f"_core.cpython-311-x86_64-linux-gnu.so: this Python loads _core{SUFFIX} alone",
        ),
        ({"error": "ModuleNotFoundError", "built": []}, "rdmatrain._core: ModuleNotFoundError"),
        ({"store_server": False}, "_store_server is not beside rdmatrain._core"),
    ],
)
def test_a_core_that_cannot_be_loaded_fails(changed: dict[str, Any], evidence: str) -> None:
    broken = case(core=core(**changed))
    finding = asked(broken, "core-library")
    assert finding.verdict.value == "FAIL"
    assert evidence in finding.evidence
    assert finding.fix.startswith("pip install --no-build-isolation")
    assert first(broken) == "core-library"


def test_no_torch_fails() -> None:
    gone = case(torch=torch(place="", file="", metadata=""))
    assert said(asked(gone, "torch")) == ("FAIL", "torch is not installed for /usr/bin/python3")
    assert asked(gone, "torch").fix == "pip install 'torch>=2.13'"
    assert first(gone) == "torch"


def test_an_old_torch_fails() -> None:
    finding = asked(case(torch=torch(file="2.9.1", metadata="2.9.1")), "torch")
    assert said(finding) == (
        "FAIL",
        "torch 2.9.1 in /site-packages/torch: rdmatrain needs torch>=2.13",
    )


def test_two_torches_in_one_place_warn() -> None:
    finding = asked(case(torch=torch(metadata="2.14.0")), "torch")
    assert finding.verdict.value == "WARN"
    assert "torch 2.13.0+cu130" in finding.evidence
    assert "pip says 2.14.0" in finding.evidence


def test_a_torch_of_another_minor_fails() -> None:
    other = case(torch=torch(file="2.14.1", metadata="2.14.1"))
    finding = asked(other, "torch-abi")
    assert said(finding) == ("FAIL", "rdmatrain was built for torch 2.13, this is torch 2.14.1")
    assert first(other) == "torch-abi"


def test_a_torch_without_a_file_of_its_version_counts_by_pip() -> None:
    finding = asked(case(torch=torch(file="", metadata="2.13.1")), "torch-abi")
    assert said(finding)[0] == "PASS"
    assert "2.13.1" in finding.evidence


def test_an_image_without_libibverbs_fails() -> None:
    gone = {"error": "libibverbs.so.1: cannot open shared object file", "path": ""}
    finding = asked(case(ibverbs=gone), "rdma-core")
    assert finding.verdict.value == "FAIL"
    assert "libibverbs.so.1: cannot open" in finding.evidence
    assert "ibverbs-providers" in finding.fix
    laptop = bare(probes={"ibverbs": gone}, needs=Needs(transport="verbs"))
    assert asked(laptop, "rdma-core").verdict.value == "FAIL"
    over_tcp = case(needs=Needs(transport="tcp"), ibverbs=gone)
    assert said(asked(over_tcp, "rdma-core")) == ("SKIP", "the job uses no RDMA")


def test_an_image_without_the_providers_fails() -> None:
    files = {f"{PROVIDERS}/libmlx5-rdmav34.so": None}
    finding = asked(case(files, verbs=NOT_LISTED), "rdma-core")
    assert finding.verdict.value == "FAIL"
    assert "mlx5_2 needs libmlx5-rdmav*.so" in finding.evidence
    assert f"{PROVIDERS} has rxe" in finding.evidence


def test_a_nic_that_was_opened_has_its_provider_somewhere() -> None:
    files = {PROVIDERS: None}
    assert asked(case(files, verbs=verbs()), "rdma-core").verdict.value == "PASS"


def test_soft_roce_has_a_provider_of_its_own() -> None:
    files = {f"{PROVIDERS}/libmlx5-rdmav34.so": ""}
    given = {**answers(), "verbs": NOT_LISTED}
    finding = asked(pod("soft_roce", files, given), "rdma-core")
    assert finding.verdict.value == "FAIL"
    assert "rxe0 needs librxe-rdmav*.so" in finding.evidence
    files[f"{PROVIDERS}/librxe-rdmav34.so"] = ""
    assert asked(pod("soft_roce", files, given), "rdma-core").verdict.value == "PASS"


def test_a_nic_that_is_not_this_pods_needs_no_provider() -> None:
    one, _ = verbs()["ports"]
    listed = {"error": "", "ports": [one]}
    assert asked(case({PROVIDERS: None}, verbs=listed), "rdma-core").verdict.value == "PASS"


def test_an_old_libibverbs_has_no_dmabuf() -> None:
    old = {"error": "", "path": LIBRARY.replace("44", "28"), "dmabuf": False}
    finding = asked(case(ibverbs=old), "rdma-core")
    assert finding.verdict.value == "WARN"
    assert "rdma-core 28.0" in finding.evidence
    assert "ibv_reg_dmabuf_mr" in finding.evidence


def test_the_release_of_rdma_core_is_shown() -> None:
    assert asked(case(), "rdma-core").evidence == f"libibverbs of rdma-core 44.0 ({LIBRARY})"


@pytest.mark.parametrize(
    ("release", "verdict", "evidence"),
    [
        ("5.12.0", "PASS", "Linux 5.12.0"),
        ("5.4.0-1083-oracle", "WARN", "Linux 5.4.0-1083-oracle cannot register a dmabuf"),
        ("3.10.0-1160.el7", "FAIL", "Linux 3.10.0-1160.el7 has no memfd_create"),
        ("garbage", "SKIP", f"{RELEASE} cannot be read"),
    ],
)
def test_the_kernel_must_be_new_enough(release: str, verdict: str, evidence: str) -> None:
    finding = asked(case({RELEASE: f"{release}\n"}), "kernel")
    assert finding.verdict.value == verdict
    assert evidence in finding.evidence


def test_without_gpus_no_dmabuf_is_needed() -> None:
    assert asked(bare({RELEASE: "5.4.0\n"}), "kernel").verdict.value == "PASS"


def test_nccl_of_two_cudas_warns() -> None:
    both = {"nvidia-nccl-cu12": "2.29.3", "nvidia-nccl-cu13": "2.29.7"}
    finding = asked(case(torch=torch(nccl=both)), "nccl")
    assert finding.verdict.value == "WARN"
    assert "nvidia-nccl-cu12 2.29.3, nvidia-nccl-cu13 2.29.7" in finding.evidence
    assert finding.fix.startswith("pip uninstall -y nvidia-nccl-cu12;")


def test_another_nccl_before_that_of_torch_warns() -> None:
    own = str(seen(HEALTHY).files["/proc/self/environ"])
    own += environ({"LD_LIBRARY_PATH": "/x/site-packages/nvidia/nccl/lib::/opt/nccl/lib"})
    files = {
        "/proc/self/environ": own,
        "/opt/nccl/lib/libnccl.so.2": "",
        "/x/site-packages/nvidia/nccl/lib/libnccl.so.2": "",
    }
    finding = asked(case(files), "nccl")
    assert finding.verdict.value == "WARN"
    assert finding.evidence.startswith("/opt/nccl/lib/libnccl.so.2 in LD_LIBRARY_PATH")


@pytest.mark.parametrize(
    ("changed", "evidence"),
    [
        ({"cuda": ""}, "torch is built without CUDA"),
        ({"nccl": {}}, "no package has the NCCL of torch for CUDA 13.0"),
    ],
)
def test_without_a_package_nothing_is_said_of_nccl(changed: dict[str, Any], evidence: str) -> None:
    assert said(asked(case(torch=torch(**changed)), "nccl")) == ("SKIP", evidence)


# The probes, on this machine.


def test_this_python_is_the_one_that_runs() -> None:
    facts = software.ask_python()
    assert facts["version"].startswith(f"{sys.version_info[0]}.{sys.version_info[1]}.")
    assert facts["executable"] == sys.executable
    assert facts["requires"] == ">=3.10"


def test_this_core_is_loaded() -> None:
    facts = software.ask_core()
    assert facts["error"] == ""
    assert facts["torch_minor"] == ".".join(metadata.version("torch").split(".")[:2])
    assert f"_core{facts['suffix']}" in facts["built"]
    assert facts["store_server"]


def test_a_core_that_breaks_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rdmatrain._core", None)
    assert "ModuleNotFoundError" in software.ask_core()["error"]


def test_this_torch_is_seen_without_its_import() -> None:
    loaded = "torch" in sys.modules
    facts = software.ask_torch()
    assert facts["metadata"] == facts["file"] == metadata.version("torch")
    assert (Path(facts["place"]) / "__init__.py").is_file()
    assert facts["requires"].startswith("torch>=")
    assert ("torch" in sys.modules) == loaded


def test_a_torch_is_read_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "version.py").write_text(
        "from typing import Optional\n__version__ = '2.14.0'\ncuda: Optional[str] = '13.0'\n"
    )
    monkeypatch.setattr(software, "_folders", lambda _: [tmp_path])
    monkeypatch.setattr(software, "_distribution", lambda _: None)
    facts = software.ask_torch()
    assert (facts["metadata"], facts["file"], facts["cuda"]) == ("", "2.14.0", "13.0")
    assert facts["nccl"] == {}


def test_a_package_that_is_not_there_is_told() -> None:
    assert software._distribution("no-such-package") is None
    assert software._folders("no_such_package") == []


def test_libibverbs_is_found_or_told(monkeypatch: pytest.MonkeyPatch) -> None:
    facts = software.ask_ibverbs()
    assert facts["error"] or facts["path"].startswith("/")
    monkeypatch.setattr(software, "IBVERBS", "libnothing.so.1")
    assert "libnothing.so.1" in software.ask_ibverbs()["error"]


def test_all_probes_have_a_name() -> None:
    assert sorted(software.probes(Needs())) == ["core", "ibverbs", "python", "torch"]
