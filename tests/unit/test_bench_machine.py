# SPDX-License-Identifier: Apache-2.0
"""Where a run was measured: machine, commit and NIC, of this machine and of others in files."""

import os
import platform
import shutil
import subprocess
import sys
import time
from datetime import datetime, timedelta, timezone
from importlib import metadata
from pathlib import Path

import pytest
from bench_results import NIC
from fake_rdma import V1, V2, FakeVerbs, write_port
from memory_source import MemorySource

import rdmatrain
from rdmatrain.bench import machine
from rdmatrain.bench.machine import commit_of, context_of, nic_in_use
from rdmatrain.bench.model import Context, Nic
from rdmatrain.config import Settings
from rdmatrain.discovery.quota import GROUPS, MOUNTS
from rdmatrain.discovery.source import Tree
from rdmatrain.errors import SettingError

MEMINFO = "MemTotal:       16384 kB\nMemFree:         1024 kB\n"
CGROUP = {GROUPS: "0::/\n", MOUNTS: "30 24 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"}


def context_on(files: dict[str, str]) -> Context:
    return context_of("command", False, {}, None, MemorySource(files))


def test_this_machine() -> None:
    versions = {"openmpi": "5.0.11", "torch": "of the ranks"}
    found = context_of("rdmatrain bench all_reduce", True, versions, NIC)
    started = datetime.fromisoformat(found.time)
    assert started.utcoffset() == timedelta(0)
    assert abs(datetime.now(timezone.utc) - started) < timedelta(seconds=60)
    assert (found.command, found.pinned, found.nic) == ("rdmatrain bench all_reduce", True, NIC)
    assert found.cpus == len(os.sched_getaffinity(0))
    assert 0 < found.memory_bytes <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") * 1.1
    assert found.machine
    assert (found.kernel, found.host) == (os.uname().release, os.uname().nodename)
    assert found.versions == versions | {
        "rdmatrain": rdmatrain.__version__,
        "python": platform.python_version(),
    }


def test_the_version_of_torch_is_that_of_its_package() -> None:
    assert context_on({}).versions["torch"] == metadata.version("torch")


def test_it_is_known_without_importing_torch() -> None:
    code = (
        "import sys; from rdmatrain.bench import machine, records, table\n"
        "machine.context_of('x', False, {}, machine.nic_in_use())\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize(
    ("limit", "expected"),
    [("max", 16 << 20), ("8388608", 8 << 20), ("99999999999", 16 << 20), (None, 16 << 20)],
)
def test_memory_is_what_the_pod_may_have_of_the_machine(limit: str | None, expected: int) -> None:
    files = {"/proc/meminfo": MEMINFO, **CGROUP}
    if limit:
        files["/sys/fs/cgroup/memory.max"] = limit
    assert context_on(files).memory_bytes == expected


def test_what_cannot_be_read_is_not_known() -> None:
    found = context_on({"/proc/meminfo": "MemTotal: much\n"})
    assert found.memory_bytes == 0
    assert found.machine == platform.machine()
    limited = context_on({**CGROUP, "/sys/fs/cgroup/memory.max": "4096"})
    assert limited.memory_bytes == 4096


def test_the_processor_is_named() -> None:
    text = "processor\t: 0\nmodel name\t: Some Processor @ 2.0GHz\nflags: x\nmodel name\t: Other\n"
    assert context_on({"/proc/cpuinfo": text}).machine == "Some Processor @ 2.0GHz"


def test_a_command_that_is_no_text_can_be_written() -> None:
    command = os.fsdecode(b"bench --json /mnt/\xff")
    assert context_of(command, False, {}, None).command.encode() == rb"bench --json /mnt/\udcff"


def firmware(root: Path, device: str, version: str) -> None:
    (root / "sys/class/infiniband" / device / "fw_ver").write_text(f"{version}\n")


def test_the_nic_is_the_first_usable_port_with_what_it_says_of_itself(tmp_path: Path) -> None:
    write_port(tmp_path, "mlx5_0/1", {0: ("10.0.0.1", V2)}, state="1: DOWN")
    write_port(tmp_path, "mlx5_2/1", {2: ("10.0.0.7", V1), 3: ("10.0.0.7", V2)})
    write_port(tmp_path, "mlx5_10/1", {3: ("10.0.0.8", V2)})
    firmware(tmp_path, "mlx5_2", "28.39.1002")
    firmware(tmp_path, "mlx5_10", "1.1.1")
    names = {"mlx5_0/1": {"state": "DOWN"}, "mlx5_2/1": {"active_mtu": 1024}, "mlx5_10/1": {}}
    found = nic_in_use(Settings(), FakeVerbs(names), Tree(tmp_path))
    assert found == Nic("mlx5_2", 1, "Ethernet", 100.0, "28.39.1002", 1024, 3, "10.0.0.7")


def test_the_nic_is_that_of_the_settings(tmp_path: Path) -> None:
    for name, address in (("mlx5_0/1", "10.0.0.1"), ("mlx5_1/1", "10.0.0.2")):
        write_port(tmp_path, name, {0: (address, V2), 1: ("fd00::1", V2)})
    verbs = FakeVerbs({"mlx5_0/1": {}, "mlx5_1/1": {"speed_gbps": 2.5}})
    found = nic_in_use(Settings(devices="mlx5_1", gid_index="1"), verbs, Tree(tmp_path))
    assert found == Nic("mlx5_1", 1, "Ethernet", 2.5, "", 4096, 1, "fd00::1")


def test_the_settings_are_those_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RDMATRAIN_GID_INDEX", "first")
    with pytest.raises(SettingError, match="RDMATRAIN_GID_INDEX"):
        nic_in_use()


def test_there_may_be_no_nic(tmp_path: Path) -> None:
    assert nic_in_use(Settings(), FakeVerbs({}), Tree(tmp_path)) is None
    # The ranks will say that there is no such device.
    assert nic_in_use(Settings(devices="mlx5_9"), FakeVerbs({}), Tree(tmp_path)) is None
    write_port(tmp_path, "mlx5_0/1", {0: ("10.0.0.1", V2)})
    assert nic_in_use(Settings(), FakeVerbs({}, missing="no library"), Tree(tmp_path)) is None


GIT = pytest.mark.skipif(shutil.which("git") is None, reason="there is no git")


def git(folder: Path, *words: str) -> str:
    name = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    environ = {key: text for key, text in os.environ.items() if not key.startswith("GIT_")}
    done = subprocess.run(
        ["git", *name, *words],
        cwd=folder,
        env=environ,
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done.stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    package = tmp_path / "project" / "rdmatrain"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("x = 1\n")
    git(package.parent, "init", "-q")
    git(package.parent, "add", ".")
    git(package.parent, "commit", "-qm", "first")
    return package


@GIT
def test_the_commit_is_that_of_the_checkout(checkout: Path) -> None:
    head = git(checkout, "rev-parse", "HEAD")
    found = commit_of(checkout)
    assert len(found) >= 7
    assert head.startswith(found)
    (checkout / "__init__.py").write_text("x = 2\n")
    assert commit_of(checkout) == f"{found}-dirty"


@GIT
def test_variables_of_git_do_not_lead_to_another_repository(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = commit_of(checkout)
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
    assert commit_of(checkout) == found


@GIT
def test_what_is_installed_into_another_projects_checkout_has_no_commit(checkout: Path) -> None:
    installed = checkout.parent / ".venv" / "lib" / "rdmatrain"
    installed.mkdir(parents=True)
    assert commit_of(installed) == ""


def test_outside_a_checkout_or_without_git_there_is_no_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert commit_of(tmp_path) == ""
    assert commit_of(tmp_path / "nowhere") == ""
    monkeypatch.setenv("PATH", str(tmp_path))
    assert commit_of(Path(rdmatrain.__file__).parent) == ""


def test_a_git_that_hangs_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "git").write_text("#!/bin/sh\nexec sleep 60\n")
    (tmp_path / "git").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(machine, "GIT_SECONDS", 0.2)
    start = time.monotonic()
    assert commit_of(Path(rdmatrain.__file__).parent) == ""
    assert time.monotonic() - start < 30
