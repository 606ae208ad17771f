# SPDX-License-Identifier: Apache-2.0
"""What the doctor says of memory: of cases in a dictionary, and by calls of this machine."""

import errno
import os
import re
import resource
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from doctor_memory_cases import DOCKER, IPC_LOCK, ask, limits_file, pod_case, status_file

from rdmatrain.discovery.quota import GROUPS, MOUNTS
from rdmatrain.doctor.model import Finding, Needs, Verdict
from rdmatrain.doctor.probes import memory as probe
from rdmatrain.errors import CommError

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
NO_MEMORY = "ibv_reg_mr with mlx5_2: Cannot allocate memory"
INIT_USERS = "         0          0 4294967295\n"


def process_files(
    soft: object, hard: object, user: int = 1000, effective: int = 0, bounding: int = DOCKER
) -> dict[str, str]:
    return {
        "/proc/self/limits": limits_file(locked_memory=(soft, hard)),
        "/proc/self/status": status_file(user, effective, bounding),
        "/proc/self/uid_map": INIT_USERS,
    }


def locked(nbytes: int, wanted: int = 512 * MIB, **more: object) -> dict[str, Any]:
    error = "" if nbytes >= wanted else "mlock: Cannot allocate memory"
    facts = {"error": "", "wanted": wanted, "locked": nbytes, "lock_error": error, "device": "",
             "device_error": "", "registered": 0, "register_error": ""}  # fmt: skip
    return {"memlock": facts | more}


def registered(nbytes: int, why: str = "", **more: object) -> dict[str, Any]:
    lockable = int(str(more.pop("locked", nbytes)))
    facts = {"device": "mlx5_2", "registered": nbytes, "register_error": why}
    return locked(lockable, **facts, **more)


LOW = process_files(64 * KIB, 64 * KIB)


def test_memlock_that_is_too_low_says_what_works_and_what_is_needed():
    finding = ask("memlock", pod_case(LOW, registered(64 * KIB, NO_MEMORY)))
    assert finding.verdict is Verdict.FAIL
    assert finding.evidence == (
        f"each rank registers 512 MiB, 64 KiB work: {NO_MEMORY}; the limit is 64 KiB; "
        "CapEff has no CAP_IPC_LOCK"
    )
    assert "limits.d" in finding.fix


def test_memlock_that_suffices_is_proven_by_registering():
    files = process_files("unlimited", "unlimited")
    finding = ask("memlock", pod_case(files, registered(512 * MIB)))
    assert finding.verdict is Verdict.PASS
    assert finding.evidence == "512 MiB registered with mlx5_2; the limit is unlimited"


def test_memlock_is_judged_by_the_need_of_the_job():
    with_cap = process_files(8 * MIB, 8 * MIB, user=0, effective=DOCKER | IPC_LOCK)
    finding = ask("memlock", pod_case(with_cap, registered(512 * MIB)))
    assert finding.verdict is Verdict.PASS
    assert finding.evidence.endswith("the limit is 8 MiB; CapEff has CAP_IPC_LOCK")
    case = pod_case(LOW, registered(64 * KIB, NO_MEMORY), register_mib=0)
    assert ask("memlock", case).verdict is Verdict.PASS
    case = pod_case(LOW, registered(512 * MIB), register_mib=513)  # a snapshot that tried less
    finding = ask("memlock", case)
    assert finding.verdict is Verdict.SKIP
    assert "no more was tried; each rank needs 513 MiB" in finding.evidence


def test_memlock_counts_what_can_be_locked_where_no_device_opens():
    why = "opening RDMA device mlx5_2: No such file or directory"
    finding = ask("memlock", pod_case(LOW, locked(8 * MIB, device_error=why)))
    assert finding.verdict is Verdict.FAIL
    assert "8 MiB work: mlock: Cannot allocate memory" in finding.evidence
    finding = ask("memlock", pod_case(LOW, locked(512 * MIB, device_error=why)))
    assert finding.verdict is Verdict.PASS
    assert finding.evidence.startswith(f"512 MiB locked, none registered: {why}")


def test_memlock_believes_locking_where_registering_takes_too_long():
    finding = ask("memlock", pod_case(LOW, registered(300 * MIB, locked=512 * MIB)))
    assert finding.verdict is Verdict.PASS
    assert finding.evidence.startswith("300 MiB registered with mlx5_2 in the time for it, 512 MiB")
    finding = ask("memlock", pod_case(LOW, registered(300 * MIB, locked=400 * MIB)))
    assert finding.verdict is Verdict.FAIL
    assert "512 MiB, 400 MiB work" in finding.evidence


def test_memlock_does_not_blame_the_limit_for_a_device_that_refuses():
    why = "ibv_reg_mr with mlx5_2: Operation not supported"
    finding = ask("memlock", pod_case(LOW, registered(0, why, locked=512 * MIB)))
    assert finding.verdict is Verdict.FAIL
    assert f"0 B work: {why}; it is not the limit" in finding.evidence
    assert finding.fix.startswith("dmesg")


@pytest.mark.parametrize(
    ("files", "more", "fix"),
    [
        (process_files(8 * MIB, "unlimited"), {}, "ulimit -l unlimited"),
        (process_files(8 * MIB, GIB), {"kubernetes": True}, "ulimit -l 1048576"),
        (LOW, {"kubernetes": True}, "LimitMEMLOCK=infinity"),
        (process_files(64 * KIB, 64 * KIB, user=0), {"kubernetes": True}, "add: [IPC_LOCK]"),
        (
            process_files(64 * KIB, 64 * KIB, user=0) | {"/proc/self/uid_map": "0 100000 65536"},
            {"kubernetes": True},
            "LimitMEMLOCK=infinity",
        ),
        (LOW | {"/.dockerenv": ""}, {}, "docker run --ulimit memlock=-1:-1"),
    ],
)
def test_memlock_fix_is_the_nearest_that_helps(files, more, fix):
    finding = ask("memlock", pod_case(files, registered(64 * KIB, NO_MEMORY), **more))
    assert finding.verdict is Verdict.FAIL
    assert fix in finding.fix


def test_memlock_is_nothing_to_a_laptop():
    case = pod_case(LOW, locked(64 * KIB), nics=())
    assert ask("memlock", case).verdict is Verdict.SKIP
    assert ask("ipc-lock", case).verdict is Verdict.SKIP
    case = pod_case(LOW, locked(64 * KIB), nics=(), transport="verbs")
    assert ask("memlock", case).verdict is Verdict.FAIL
    case = pod_case(LOW, registered(64 * KIB, NO_MEMORY), transport="tcp")
    assert ask("memlock", case).verdict is Verdict.SKIP


def test_memlock_that_nobody_measured_never_passes():
    assert ask("memlock", pod_case(process_files("unlimited", "unlimited"))).verdict is Verdict.SKIP
    assert ask("memlock", pod_case({})).verdict is Verdict.SKIP
    finding = ask("memlock", pod_case(process_files(8 * MIB, 16 * MIB)))
    assert finding.verdict is Verdict.FAIL
    assert "each rank registers 512 MiB, the limit is 8 MiB, at most 16 MiB" in finding.evidence
    with_cap = process_files(8 * MIB, 8 * MIB, user=0, effective=DOCKER | IPC_LOCK)
    assert ask("memlock", pod_case(with_cap)).verdict is Verdict.SKIP


def ipc_lock(**changes: Any) -> Finding:
    files = process_files(64 * KIB, 64 * KIB, **changes)
    return ask("ipc-lock", pod_case(files, kubernetes=True))


def test_ipc_lock_that_does_nothing_is_named():
    finding = ipc_lock(bounding=DOCKER | IPC_LOCK)
    assert finding.verdict is Verdict.WARN
    assert finding.evidence == (
        "CAP_IPC_LOCK is in CapBnd and not in CapEff: it does nothing for uid 1000"
    )
    assert "LimitMEMLOCK=infinity" in finding.fix


def test_ipc_lock_that_works_passes():
    caps = DOCKER | IPC_LOCK
    finding = ipc_lock(user=0, effective=caps, bounding=caps)
    assert finding.verdict is Verdict.PASS
    assert "CapEff has CAP_IPC_LOCK" in finding.evidence


def test_ipc_lock_of_a_user_namespace_does_not_count():
    caps = DOCKER | IPC_LOCK
    files = process_files(64 * KIB, 64 * KIB, user=0, effective=caps, bounding=caps)
    files["/proc/self/uid_map"] = "         0     100000      65536\n"
    finding = ask("ipc-lock", pod_case(files))
    assert finding.verdict is Verdict.WARN
    assert "in a user namespace" in finding.evidence
    finding = ask("memlock", pod_case(files, registered(64 * KIB, NO_MEMORY)))
    assert "in a user namespace, where it does not count" in finding.evidence


def test_ipc_lock_is_not_missed_where_nobody_needs_it():
    assert ipc_lock().verdict is Verdict.SKIP  # it was not given: memlock judges
    files = process_files("unlimited", "unlimited", bounding=DOCKER | IPC_LOCK)
    finding = ask("ipc-lock", pod_case(files))
    assert (finding.verdict, finding.evidence) == (
        Verdict.PASS,
        "it is not needed: memlock is unlimited",
    )
    assert ask("ipc-lock", pod_case({})).verdict is Verdict.SKIP


CGROUP = "/sys/fs/cgroup"


def cgroup(most: object, used: object, cached: int = 0, **more: str) -> dict[str, str]:
    return {
        GROUPS: "0::/\n",
        MOUNTS: f"30 24 0:26 / {CGROUP} rw - cgroup2 cgroup2 rw\n",
        f"{CGROUP}/memory.max": f"{most}\n",
        f"{CGROUP}/memory.current": f"{used}\n",
        f"{CGROUP}/memory.stat": f"anon 12\ninactive_file {cached}\nactive_file 0\nfile 99\n",
        **more,
    }


def test_memory_cgroup_that_is_too_small_fails():
    finding = ask("memory-cgroup", pod_case(cgroup(2 * GIB, GIB), ranks=4, kubernetes=True))
    assert finding.verdict is Verdict.FAIL
    assert finding.evidence == (
        f"{CGROUP}/memory.max is 2 GiB, of which 1 GiB are left; 4 ranks: 2 GiB to register"
    )
    assert 'memory: "5Gi"' in finding.fix


def test_memory_cgroup_with_room_passes():
    files = cgroup(8 * GIB, 6 * GIB, cached=5 * GIB)  # files in memory are no use of it
    finding = ask("memory-cgroup", pod_case(files, ranks=4))
    assert finding.verdict is Verdict.PASS
    assert finding.evidence == f"{CGROUP}/memory.max is 8 GiB, of which 7 GiB are left"
    finding = ask("memory-cgroup", pod_case(cgroup("max", GIB)))
    assert (finding.verdict, finding.evidence) == (
        Verdict.PASS,
        f"no limit of memory in {CGROUP}/memory.max",
    )


def test_memory_cgroup_that_is_tight_warns():
    finding = ask("memory-cgroup", pod_case(cgroup(3 * GIB, 0), ranks=4))
    assert finding.verdict is Verdict.WARN
    assert "3 GiB are left; 4 ranks: about 4 GiB needed" in finding.evidence
    # Without RDMA nothing is registered, and nothing may fail.
    finding = ask("memory-cgroup", pod_case(cgroup(GIB, 0), nics=(), ranks=4))
    assert finding.verdict is Verdict.WARN


def test_memory_cgroup_of_version_1_and_of_a_parent_count():
    mount = f"35 31 0:32 / {CGROUP}/memory rw - cgroup cgroup rw,memory\n"
    files = {
        GROUPS: "4:memory:/pod/own\n",
        MOUNTS: mount,
        f"{CGROUP}/memory/pod/own/memory.limit_in_bytes": "9223372036854771712\n",
        f"{CGROUP}/memory/pod/memory.limit_in_bytes": f"{GIB}\n",
        f"{CGROUP}/memory/pod/memory.usage_in_bytes": f"{900 * MIB}\n",
        f"{CGROUP}/memory/pod/memory.stat": f"total_inactive_file {300 * MIB}\nactive_file 5\n",
    }
    finding = ask("memory-cgroup", pod_case(files))
    assert finding.verdict is Verdict.FAIL
    assert "pod/memory.limit_in_bytes is 1 GiB, of which 424 MiB are left" in finding.evidence


@pytest.mark.parametrize("garbage", ["", "²", "-5", "1e9", "9" * 400, "inactive_file x\nactive 1"])
def test_memory_cgroup_survives_garbage(garbage):
    files = cgroup(garbage, garbage) | {f"{CGROUP}/memory.stat": garbage}
    assert ask("memory-cgroup", pod_case(files)).verdict in {Verdict.PASS, Verdict.SKIP}
    assert ask("memory-cgroup", pod_case({})).verdict is Verdict.SKIP


def shm(free: int, error: str = "", **more: Any) -> Finding:
    answer = {"error": error, "free": free, "total": max(free, 64 * MIB)}
    return ask("shm", pod_case({}, {"shm": answer}, **more))


def test_shm_that_is_too_small_for_nccl_fails():
    finding = shm(64 * MIB, gpus=8, ranks=8, kubernetes=True)
    assert finding.verdict is Verdict.FAIL
    assert finding.evidence == ("/dev/shm has 64 MiB free of 64 MiB; 8 ranks: about 512 MiB needed")
    assert 'sizeLimit: "8Gi"' in finding.fix
    assert shm(7 * MIB).verdict is Verdict.FAIL  # not even a DataLoader


def test_shm_that_is_the_default_warns_where_it_may_do():
    finding = shm(64 * MIB)
    assert finding.verdict is Verdict.WARN
    assert "; 1 rank: about 128 MiB needed" in finding.evidence


def test_shm_with_room_passes():
    finding = shm(512 * MIB, gpus=8, ranks=8)
    assert finding.verdict is Verdict.PASS
    assert finding.evidence == "/dev/shm has 512 MiB free of 512 MiB"


def test_shm_that_cannot_be_written_fails_whatever_its_size():
    finding = shm(GIB, "Read-only file system")
    assert finding.verdict is Verdict.FAIL
    assert "/dev/shm cannot be written: Read-only file system" in finding.evidence
    assert ask("shm", pod_case({})).verdict is Verdict.SKIP


def test_memfd():
    assert ask("memfd", pod_case({}, {"memfd": {"error": ""}})).verdict is Verdict.PASS
    assert ask("memfd", pod_case({})).verdict is Verdict.SKIP
    refused = {"memfd": {"error": "memfd_create: Operation not permitted"}}
    finding = ask("memfd", pod_case({}, refused, kubernetes=True))
    assert finding.verdict is Verdict.FAIL
    assert finding.evidence.startswith("memfd_create: Operation not permitted")
    assert "seccompProfile" in finding.fix
    finding = ask("memfd", pod_case({"/proc/sys/vm/memfd_noexec": "2\n"}, refused))
    assert finding.evidence.endswith("vm.memfd_noexec is 2")
    assert finding.fix == "sysctl -w vm.memfd_noexec=1"


@pytest.mark.parametrize("name", ["memlock", "shm", "memfd"])
@pytest.mark.parametrize("facts", [{}, {"locked": "x", "free": None, "error": 3}, [], "x", 7])
def test_garbage_of_a_probe_does_not_break_a_check(name, facts):
    ask(name, pod_case(LOW, {name: facts}))


# -- the probes --


def test_probes_answer_as_json_has_it():
    answers = {name: ask_it() for name, ask_it in probe.probes(Needs(register_mib=1)).items()}
    assert set(answers) == {"memlock", "shm", "memfd"}
    assert answers["memlock"]["wanted"] == MIB
    assert answers["memlock"]["locked"] == MIB
    assert answers["memfd"] == {"error": ""}
    assert 0 < answers["shm"]["free"] <= answers["shm"]["total"]
    assert answers["shm"]["error"] == ""


# In a process without capabilities, which is what most pods are.
LOCK = """
import resource
from rdmatrain.doctor.probes.memory import lock_most
page = resource.getpagesize()
for limit in (65536, 0):
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (limit, limit))
    print(*[lock_most(each)[0] for each in (page, 65536, 65536 + page, 1 << 29, 1 << 33)])
    print(lock_most(1 << 30)[1])
"""
DROP = "--reuid=65534 --regid=65534 --clear-groups --bounding-set=-all --inh-caps=-all"


@pytest.mark.skipif(
    resource.getrlimit(resource.RLIMIT_MEMLOCK)[1] in range(65536), reason="memlock"
)
def test_the_most_that_can_be_locked_is_found_to_the_page():
    command = ["setpriv", *DROP.split()] if os.geteuid() == 0 else []
    done = subprocess.run(
        [*command, sys.executable, "-c", LOCK],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    page = resource.getpagesize()
    assert done.stdout.splitlines() == [
        f"{page} 65536 65536 65536 65536",
        f"mlock: {os.strerror(errno.ENOMEM)}",
        "0 0 0 0 0",
        f"mlock: {os.strerror(errno.EPERM)}",
    ]


def status_kib(name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found
    return int(found[1])


def test_locking_leaves_nothing_locked():
    before = status_kib("VmLck")
    probe.lock_most(4 * MIB)
    assert status_kib("VmLck") == before


class FakeCore:
    """Registers with what it has of memory; one device that is not for this pod comes first."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.asked: list[str] = []

    def rdma_devices(self) -> list[str]:
        return ["mlx5_0", "mlx5_2", "mlx5_3"]

    def rdma_test_register(self, device: str, nbytes: int) -> tuple[int, str]:
        self.asked.append(device)
        if device == "mlx5_0":
            raise CommError("opening RDMA device mlx5_0: Permission denied", "IO_ERROR")
        most = min(nbytes, self.limit)
        return most, "" if most == nbytes else NO_MEMORY


def use(monkeypatch: pytest.MonkeyPatch, core: object) -> None:
    monkeypatch.setattr(probe, "import_module", lambda name: core)


def test_the_first_device_that_opens_is_registered_with(monkeypatch):
    core = FakeCore(8 * MIB)
    use(monkeypatch, core)
    facts = probe.ask_memlock(MIB)
    assert (facts["device"], facts["registered"], facts["register_error"]) == ("mlx5_2", MIB, "")
    assert facts["device_error"] == ""
    assert core.asked == ["mlx5_0", "mlx5_2"]
    monkeypatch.setattr(core, "rdma_devices", lambda: ["mlx5_0"])
    assert probe.ask_memlock(MIB)["device_error"].endswith("mlx5_0: Permission denied")
    monkeypatch.undo()
    use(monkeypatch, core)
    facts = probe.ask_memlock(16 * MIB)
    assert (facts["registered"], facts["register_error"]) == (8 * MIB, NO_MEMORY)


def test_the_devices_that_the_pod_was_granted_come_first(monkeypatch):
    core = FakeCore(8 * MIB)
    use(monkeypatch, core)
    monkeypatch.setattr(probe, "survey", lambda _: pod_case(nics=("mlx5_3",)).found)
    assert probe.ask_memlock(MIB)["device"] == "mlx5_3"
    assert core.asked == ["mlx5_3"]


def test_a_core_without_the_call_or_the_library_says_so(monkeypatch):
    use(monkeypatch, SimpleNamespace(rdma_devices=lambda: ["mlx5_0"]))
    facts = probe.ask_memlock(MIB)
    assert facts["device"] == ""
    assert "rdma_test_register" in facts["device_error"]
    use(monkeypatch, SimpleNamespace())
    assert "rdma_devices" in probe.ask_memlock(MIB)["device_error"]


def test_shm_that_is_not_there_is_said(monkeypatch, tmp_path):
    monkeypatch.setattr(probe, "SHM", str(tmp_path / "none"))
    assert probe.ask_shm() == {"error": os.strerror(errno.ENOENT), "free": 0, "total": 0}
    monkeypatch.setattr(probe, "SHM", str(tmp_path))
    assert probe.ask_shm()["error"] == ""
    assert list(tmp_path.iterdir()) == []


def test_memfd_that_is_refused_names_the_call(monkeypatch):
    def refuse(*args: object) -> int:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "memfd_create", refuse)
    assert probe.ask_memfd() == {"error": "memfd_create: Operation not permitted"}
