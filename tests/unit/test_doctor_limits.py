# SPDX-License-Identifier: Apache-2.0
"""What the doctor says of descriptors, threads, and what devices and cgroups allow of RDMA."""

import os
import re
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from doctor_memory_cases import ask, limits_file, pod_case, status_file

from rdmatrain.discovery.quota import GROUPS, MOUNTS
from rdmatrain.doctor.checks import limits
from rdmatrain.doctor.model import Case, Finding, Needs, Verdict
from rdmatrain.doctor.probes import limits as probe
from rdmatrain.errors import CommError

ROOT = Path(__file__).resolve().parents[2]
CGROUP = "/sys/fs/cgroup"
TREE = {
    GROUPS: "0::/own\n",
    MOUNTS: f"30 24 0:26 / {CGROUP} rw - cgroup2 cgroup2 rw\n",
}


def nofile(soft: object, hard: object, files: dict[str, str] | None = None, **more: Any) -> Finding:
    return ask(
        "nofile", pod_case({LIMITS: limits_file(open_files=(soft, hard)), **(files or {})}, **more)
    )


LIMITS = "/proc/self/limits"


def test_nofile_that_is_too_low_for_the_peers_fails():
    finding = nofile(1024, 1024, ranks=8, nnodes=64, kubernetes=True)
    assert finding.verdict is Verdict.FAIL
    assert (
        finding.evidence == "ulimit -n is 1024, at most 1024; 512 ranks: about 2172 needed in each"
    )
    assert "LimitNOFILE" in finding.fix
    assert nofile(64, 64).verdict is Verdict.FAIL


def test_the_nodes_that_the_job_needs_go_before_those_that_are_known():
    finding = nofile(1024, 1024, nnodes=2, nodes=64, ranks=8)
    assert (finding.verdict, "; 512 ranks" in finding.evidence) == (Verdict.FAIL, True)
    assert nofile(1024, 1024, nnodes=64, nodes=2, ranks=8).verdict is Verdict.PASS
    few = device(max_qp=8 * 18 - 1)
    assert judged(few, ranks=8).verdict is Verdict.PASS
    assert judged(few, ranks=8, nodes=64).verdict is Verdict.FAIL


def test_nofile_fix_is_the_nearest_that_helps():
    assert nofile(64, 4096).fix == "ulimit -n 4096"
    assert nofile(64, "unlimited").fix == "ulimit -n unlimited"
    assert nofile(64, 64, {"/.dockerenv": ""}).fix == "docker run --ulimit nofile=65536:65536"
    assert "limits.d" in nofile(64, 64).fix


def test_nofile_that_suffices_passes():
    finding = nofile(1024, 4096, ranks=8)
    assert finding.verdict is Verdict.PASS
    assert finding.evidence == "ulimit -n is 1024, at most 4096"
    assert nofile("unlimited", "unlimited", ranks=8, nnodes=4096).verdict is Verdict.PASS
    assert ask("nofile", pod_case({})).verdict is Verdict.SKIP
    assert nofile("many", "2²").verdict is Verdict.SKIP


def pids(most: object, used: object, user: int = 0, nproc: object = "unlimited") -> dict[str, str]:
    return TREE | {
        f"{CGROUP}/own/pids.max": f"{most}\n",
        f"{CGROUP}/own/pids.current": f"{used}\n",
        LIMITS: limits_file(processes=(nproc, nproc)),
        "/proc/self/status": status_file(user, 0),
    }


def test_pids_of_a_cgroup_that_is_full_fails():
    finding = ask("pids", pod_case(pids(100, 40), ranks=4, kubernetes=True))
    assert finding.verdict is Verdict.FAIL
    assert finding.evidence == (
        f"{CGROUP}/own/pids.max is 100, of which 40 are in use; 4 ranks: 64 threads to start"
    )
    assert "podPidsLimit" in finding.fix


def test_pids_with_little_room_warns():
    finding = ask("pids", pod_case(pids(200, 8), ranks=4))
    assert finding.verdict is Verdict.WARN
    assert "pids.max is 200" in finding.evidence
    assert "4 ranks: about 256 threads" in finding.evidence


def test_pids_with_room_passes():
    finding = ask("pids", pod_case(pids(4096, 8), ranks=8))
    assert finding.verdict is Verdict.PASS
    assert "pids.max is 4096" in finding.evidence
    finding = ask("pids", pod_case(pids("max", 8)))
    assert (finding.verdict, finding.evidence) == (
        Verdict.PASS,
        f"no limit in {CGROUP}/own/pids.max",
    )
    assert ask("pids", pod_case({})).verdict is Verdict.SKIP


def test_the_tightest_level_of_pids_counts():
    files = pids(4096, 8) | {f"{CGROUP}/pids.max": "50\n", f"{CGROUP}/pids.current": "48\n"}
    finding = ask("pids", pod_case(files))
    assert finding.verdict is Verdict.FAIL
    assert f"{CGROUP}/pids.max is 50, of which 48 are in use" in finding.evidence


def of_user(nproc: int, threads: int, hidden: str = "") -> Finding:
    facts = {"threads": {"threads": threads, "hidden": hidden}}
    return ask("pids", pod_case(pids("max", 1, user=1000, nproc=nproc), facts))


def test_processes_of_a_user_count_unless_it_is_root():
    finding = of_user(10, 3)
    assert finding.verdict is Verdict.FAIL
    assert "ulimit -u is 10, at most 10, of which 3 are in use" in finding.evidence
    assert "limits.d/nproc.conf" in finding.fix
    assert ask("pids", pod_case(pids("max", 1, user=0, nproc=10))).verdict is Verdict.PASS


def test_what_a_user_has_started_is_no_room():
    assert of_user(4096, 40).verdict is Verdict.PASS
    finding = of_user(4096, 4090)
    assert finding.verdict is Verdict.FAIL
    assert "ulimit -u is 4096, at most 4096, of which 4090 are in use; 1 rank" in finding.evidence


def test_threads_of_a_user_that_may_be_unseen_are_told():
    finding = of_user(4096, 40, "others are not seen")
    assert finding.verdict is Verdict.SKIP
    assert finding.evidence.endswith("of which at least 40 are in use: others are not seen")
    assert of_user(4096, 4090, "others are not seen").verdict is Verdict.FAIL
    unasked = ask("pids", pod_case(pids(100000, 1, user=1000, nproc=200000)))
    assert (unasked.verdict, "at least 0 are in use: not asked" in unasked.evidence) == (
        Verdict.SKIP,
        True,
    )


def test_the_threads_of_a_user_are_counted(tmp_path):
    own, other = os.getuid(), os.getuid() + 1
    # The real user counts, not the effective one.
    for pid, users, threads in ((1, (other, own), 7), (20, (own, other), 3), (300, (own, own), 4)):
        folder = tmp_path / str(pid)
        folder.mkdir()
        rows = f"Name:\tx\nUid:\t{users[0]}\t{users[1]}\t0\t0\nThreads:\t{threads}\n"
        (folder / "status").write_text(rows)
    (tmp_path / "400").mkdir()  # of one that has just ended
    (tmp_path / "self/ns").mkdir(parents=True)
    link = tmp_path / "self/ns/pid"
    link.symlink_to("pid:[4026531836]")
    assert probe.ask_threads(tmp_path) == {"threads": 7, "hidden": ""}
    link.unlink()
    link.symlink_to("pid:[4026532444]")
    assert "other containers" in probe.ask_threads(tmp_path)["hidden"]


def test_a_new_thread_is_counted():
    before, over = probe.ask_threads()["threads"], threading.Event()
    threads = [threading.Thread(target=over.wait) for _ in range(200)]
    for each in threads:
        each.start()
    during = probe.ask_threads()["threads"]
    over.set()
    for each in threads:
        each.join()
    assert during > before + 100  # others may have ended meanwhile


def device(**changes: object) -> dict[str, object]:
    ample = {"max_mr": 1 << 20, "max_qp": 1 << 17, "max_cq": 1 << 20, "max_pd": 1 << 20}
    ample |= {"max_mr_size": 2**64 - 1, "max_cqe": 1 << 22, "max_qp_wr": 1 << 15, "max_sge": 30}
    return {"device": "mlx5_2", "error": "", "max_pkeys": 128, **ample, **changes}


def judged(*said: object, **more: Any) -> Finding:
    answer = {"error": "", "devices": list(said)}
    return ask("device-limits", pod_case({}, {"device_limits": answer}, **more))


def test_a_device_with_enough_of_everything_passes():
    finding = judged(device(), ranks=8, nnodes=16)
    assert finding.verdict is Verdict.PASS
    assert finding.evidence == "mlx5_2: max_qp 131072, max_cqe 4194304, max_mr 1048576"


# 8 ranks here; each registers 512 MiB, which are 8 extents of the arena. Of 16 ranks all connect,
# of 128 each connects to 14 at least.
@pytest.mark.parametrize(
    ("nnodes", "name", "need"),
    [
        (2, "max_qp", 8 * 8),
        (16, "max_qp", 8 * 14),
        (2, "max_cq", 8),
        (2, "max_pd", 8),
        (2, "max_cqe", 15 * 104 + 1),
        (16, "max_cqe", 14 * 104 + 1),
        (2, "max_mr", 8 * (8 + 8)),
        (16, "max_mr", 8 * (14 + 8)),
        (2, "max_mr_size", 64 << 20),
        (2, "max_qp_wr", 40),
        (2, "max_sge", 2),
    ],
)
def test_a_device_that_has_too_little_of_something_fails(nnodes, name, need):
    finding = judged(device(**{name: need - 1}), ranks=8, nnodes=nnodes)
    assert finding.verdict is Verdict.FAIL
    assert finding.evidence == (
        f"mlx5_2, used by 8 of {8 * nnodes} ranks: {name} is {need - 1}, needed are {need}"
    )
    assert finding.fix == "export RDMATRAIN_DEVICES=^mlx5_2"
    assert judged(device(**{name: need}), ranks=8, nnodes=nnodes).verdict is Verdict.PASS


def test_only_devices_of_this_pod_are_judged():
    foreign = device(device="mlx5_0", max_qp=1)
    assert judged(foreign, device(), ranks=2, nnodes=2).verdict is Verdict.PASS
    finding = judged(foreign, ranks=2, nnodes=2)
    assert finding.verdict is Verdict.SKIP
    finding = judged(device(error="opening RDMA device mlx5_2: Permission denied"))
    assert finding.verdict is Verdict.SKIP
    assert "Permission denied" in finding.evidence


def test_device_limits_is_nothing_to_a_laptop():
    answer = {"device_limits": {"error": "", "devices": []}}
    assert ask("device-limits", pod_case({}, answer, nics=())).verdict is Verdict.SKIP
    assert ask("device-limits", pod_case({})).verdict is Verdict.SKIP
    said = {"device_limits": {"error": "libibverbs.so.1: not found", "devices": []}}
    finding = ask("device-limits", pod_case({}, said, nics=(), transport="verbs"))
    assert (finding.verdict, finding.evidence) == (Verdict.SKIP, "libibverbs.so.1: not found")


def test_numbers_are_those_of_the_transport():
    text = ROOT.joinpath("csrc/transport/verbs.h").read_text("utf-8")
    numbers = {name: int(value) for name, value in re.findall(r"define (VERBS_\w+) (\d+)", text)}
    assert numbers["VERBS_SEND_DEPTH"] == limits.SEND_DEPTH
    assert numbers["VERBS_RECV_DEPTH"] == limits.RECV_DEPTH
    text = ROOT.joinpath("csrc/transport/verbs_qp.c").read_text("utf-8")
    assert f".max_send_sge = {limits.SGES}," in text
    text = ROOT.joinpath("csrc/transport/verbs_ctx.c").read_text("utf-8")
    assert "each = VERBS_SEND_DEPTH + VERBS_RECV_DEPTH;" in text
    assert "need = ctx->max_met * each + 1;" in text
    assert "ctx->max_met = cfg->world - 1;" in text
    text = ROOT.joinpath("rdmatrain/comm/bootstrap.py").read_text("utf-8")
    assert f"EAGER_RANKS = {limits.EAGER_RANKS}\n" in text
    text = ROOT.joinpath("csrc/arena/blocks.h").read_text("utf-8")
    (shift,) = re.findall(r"define RDT_BLOCKS_EXTENT \(1u << (\d+)\)", text)
    assert 4096 << int(shift) == limits.EXTENT_BYTES


def group_case(most: str, current: str = "", **more: Any) -> Case:
    files = TREE | {f"{CGROUP}/own/rdma.max": most, f"{CGROUP}/own/rdma.current": current}
    return pod_case(files, **more)


def test_an_rdma_cgroup_that_allows_too_little_fails():
    most, current = "mlx5_2 hca_handle=2 hca_object=37\n", "mlx5_2 hca_handle=0 hca_object=10\n"
    finding = ask("rdma-cgroup", group_case(most, current, ranks=2, nnodes=2))
    assert finding.verdict is Verdict.FAIL
    # A rank: 2, a queue pair and a registration for each of 2 peers, and 8 extents of the arena.
    assert finding.evidence == (
        f"{CGROUP}/own/rdma.max gives mlx5_2 hca_object=37, of which 10 are in use; "
        "2 ranks: 28 needed"
    )


def test_an_rdma_cgroup_that_allows_no_second_open_fails():
    most, current = "mlx5_2 hca_handle=2 hca_object=max\n", "mlx5_2 hca_handle=1 hca_object=4\n"
    finding = ask("rdma-cgroup", group_case(most, current, ranks=2, nnodes=2))
    assert finding.verdict is Verdict.FAIL
    assert finding.evidence == (
        f"{CGROUP}/own/rdma.max gives mlx5_2 hca_handle=2, of which 1 are in use; 2 ranks: 2 needed"
    )
    assert f'echo "mlx5_2 hca_handle=max hca_object=max" | sudo tee {CGROUP}' in finding.fix


def test_an_rdma_cgroup_with_room_passes():
    finding = ask("rdma-cgroup", group_case("mlx5_2 hca_handle=9 hca_object=2000\n", ranks=2))
    assert finding.verdict is Verdict.PASS
    assert "mlx5_2 hca_object=2000, of which 0 are in use" in finding.evidence
    for unlimited in (
        "mlx5_2 hca_handle=max hca_object=max\n",
        "mlx5_0 hca_handle=1 hca_object=1\n",
    ):
        finding = ask("rdma-cgroup", group_case(unlimited, ranks=2))
        assert finding.verdict is Verdict.PASS
        assert finding.evidence == f"{CGROUP}/own/rdma.max limits none of mlx5_2"


def test_an_rdma_cgroup_that_is_not_shown_is_skipped():
    assert ask("rdma-cgroup", pod_case(TREE)).verdict is Verdict.SKIP
    assert ask("rdma-cgroup", pod_case(TREE, nics=())).verdict is Verdict.SKIP


@pytest.mark.parametrize("text", ["\n\n", "mlx5_2", "mlx5_2 hca_handle=²", "= = =", "a\n\nb c=-1"])
def test_garbage_breaks_nothing(text):
    ask("rdma-cgroup", group_case(text + "\n", text))
    ask("pids", pod_case(pids(text, text)))
    ask("nofile", pod_case({LIMITS: text}))
    judged(text, device(max_qp=text, max_cqe=None, max_mr=True))
    ask("device-limits", pod_case({}, {"device_limits": {"devices": text}}))


# -- the probe --


def ask_core(monkeypatch: pytest.MonkeyPatch, **functions: object) -> dict[str, Any]:
    monkeypatch.setattr(probe, "import_module", lambda name: SimpleNamespace(**functions))
    answer = probe.probes(Needs())["device_limits"]()
    return dict(answer)


def test_devices_are_asked(monkeypatch):
    answer = ask_core(monkeypatch, rdma_limits=lambda: [device()])
    assert answer == {"error": "", "devices": [device()]}


def test_what_cannot_be_asked_says_why(monkeypatch):
    def refuse() -> None:
        raise CommError("libibverbs.so.1 is not installed", "NO_LIBRARY")

    answer = ask_core(monkeypatch, rdma_limits=refuse)
    assert answer == {"error": "libibverbs.so.1 is not installed", "devices": []}
    assert "rdma_limits" in ask_core(monkeypatch)["error"]  # an older build
