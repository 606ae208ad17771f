# SPDX-License-Identifier: Apache-2.0
"""What each worker is given: threads by what is paid for, CPUs near its devices, variables."""

import os
from dataclasses import replace

import pytest
from discovery_machines import hgx_h100, only_cpus
from memory_source import MemorySource

from rdmatrain.discovery.environment import Choice, Environment
from rdmatrain.discovery.interfaces import Interface
from rdmatrain.discovery.model import Machine, Node
from rdmatrain.discovery.pairing import pair
from rdmatrain.discovery.pod_model import Allocation, GrantedGpu, GrantedNic, Pod
from rdmatrain.discovery.survey import Survey, reseat
from rdmatrain.launcher.job import Job, Program
from rdmatrain.launcher.places import discovered, omp_threads, places

EMPTY = MemorySource({})
PAID_3 = MemorySource(
    {
        "/proc/self/cgroup": "0::/\n",
        "/proc/self/mountinfo": "30 24 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n",
        "/sys/fs/cgroup/cpu.max": "300000 100000\n",
    }
)


def job(nproc: int, **fields: object) -> Job:
    return Job(program=Program(script="t.py"), nproc=nproc, **fields)  # type: ignore[arg-type]


def cpus_of(
    job: Job, survey: Survey | None, place: int, source: MemorySource = EMPTY
) -> tuple[int, ...]:
    return places(job, survey, {}, source)[0][place].cpus


def surveyed(machine: Machine) -> Survey:
    """Grant all of a machine to a pod."""
    gpus = tuple(GrantedGpu(gpu, ()) for gpu in machine.gpus)
    nics = tuple(GrantedNic(nic, 1, None, "", ()) for nic in machine.nics)
    pairs, _ = pair(machine, machine.gpus, machine.nics)
    return Survey(machine, Pod(), Allocation(gpus, nics), pairs, interface=Interface("eth0", ""))


ONE_NODE = surveyed(Machine("a laptop", nodes=(Node(0, (0, 1)),), cpus=(0, 1)))
TWO_NODES = surveyed(
    Machine("a server", nodes=(Node(0, (0, 1, 2, 3)), Node(1, (4, 5, 6, 7))), cpus=tuple(range(8)))
)
BIG = surveyed(
    replace(
        hgx_h100(),
        nodes=(Node(0, tuple(range(32))), Node(1, tuple(range(32, 64)))),
        cpus=tuple(range(64)),
    )
)


@pytest.mark.parametrize(
    ("nproc", "num_cpus", "quota", "expected"),
    [
        (2, 8, None, 4),
        (3, 8, None, 2),
        (4, 2, None, 1),
        (1, 8, None, 0),  # OpenMP takes all by itself
        (1, 64, 8.0, 8),
        (1, 64, 1.5, 1),
        (1, 64, 0.5, 1),
        (2, 64, 7.9, 3),
        (8, 64, 4.0, 1),
        (2, 4, 16.0, 2),  # more is paid for than may be used
        (1, 4, 4.0, 0),
    ],
)
def test_workers_share_the_cpus_that_are_paid_for(
    nproc: int, num_cpus: int, quota: float | None, expected: int
) -> None:
    threads, lines = omp_threads(nproc, num_cpus, quota, {})
    assert threads == expected
    assert len(lines) == bool(threads)
    assert all(f"OMP_NUM_THREADS is unset: set to {threads} for " in line for line in lines)


def test_the_line_says_what_the_threads_are_a_share_of() -> None:
    assert omp_threads(2, 64, 7.5, {})[1] == [
        "OMP_NUM_THREADS is unset: set to 3 for each of 2 workers, of 7.5 CPUs that the cgroup "
        "pays for"
    ]
    assert omp_threads(2, 64, None, {})[1][0].endswith("for each of 2 workers, of 64 CPUs")


def test_the_users_own_threads_stay() -> None:
    assert omp_threads(2, 64, 2.0, {"OMP_NUM_THREADS": "7"}) == (0, [])
    assert omp_threads(2, 64, 2.0, {"OMP_NUM_THREADS": ""})[0] == 1


def test_places_have_the_threads_of_the_cgroup() -> None:
    found, lines = places(job(2), ONE_NODE, {"HOME": "/h"}, PAID_3)
    assert [each.base["OMP_NUM_THREADS"] for each in found] == ["1", "1"]
    assert found[0].base["HOME"] == "/h"
    assert len(lines) == 1
    found, lines = places(job(2), TWO_NODES, {"OMP_NUM_THREADS": "7"}, PAID_3)
    assert [each.base["OMP_NUM_THREADS"] for each in found] == ["7", "7"]
    assert lines == ()


def test_a_worker_has_no_more_threads_than_cpus_that_it_is_bound_to() -> None:
    found, _ = places(job(1, numa_binding="node"), TWO_NODES, {}, PAID_3)
    assert found[0].cpus == ()
    crowded = surveyed(replace(TWO_NODES.machine, cpus=(0, 1, 4, 5, 6, 7)))
    found, _ = places(job(2), crowded, {}, EMPTY)
    assert [each.cpus for each in found] == [(0, 1), (4, 5, 6, 7)]
    assert [each.base["OMP_NUM_THREADS"] for each in found] == ["2", "3"]


def test_cpus_are_those_near_the_devices() -> None:
    assert [cpus_of(job(8), BIG, rank) for rank in range(8)] == [
        tuple(range(8 * rank, 8 * rank + 8)) for rank in range(8)
    ]
    # The same for fewer workers: each has a part of its own GPU's node.
    assert cpus_of(job(2), BIG, 1) == tuple(range(16, 32))
    only_nics = surveyed(only_cpus())
    node_0 = {*range(8), *range(16, 24)}
    found = [set(cpus_of(job(4), only_nics, rank)) for rank in range(4)]
    assert found[0] | found[1] == node_0 and not found[0] & found[1]


def test_cpus_are_left_alone_where_all_are_equally_near_or_nobody_wants_it() -> None:
    assert [cpus_of(job(2), ONE_NODE, rank) for rank in range(2)] == [(), ()]
    assert [cpus_of(job(2), TWO_NODES, rank) for rank in range(2)] == [(0, 1, 2, 3), (4, 5, 6, 7)]
    assert cpus_of(job(2, bind_cpus=False), TWO_NODES, 0) == ()
    assert cpus_of(job(2), None, 1) == ()
    assert cpus_of(job(1), Survey(Machine("a file")), 0) == ()


def test_one_node_is_bound_to_only_when_asked() -> None:
    siblings = "/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"
    source = MemorySource({siblings.format(0): "0\n", siblings.format(1): "1\n"})
    asked = job(2, numa_binding="exclusive")
    assert [cpus_of(asked, ONE_NODE, rank, source) for rank in range(2)] == [(0,), (1,)]


def test_what_was_asked_for_and_cannot_be_done_is_told_once() -> None:
    asked = job(2, numa_binding="exclusive")
    found, lines = places(asked, ONE_NODE, {"OMP_NUM_THREADS": "1"}, EMPTY)
    assert [each.cpus for each in found] == [(), ()]
    assert lines == (
        "--numa-binding exclusive: the CPUs of 2 local ranks (0, 1) are left as they are: "
        "the cores of NUMA node 0 are not known",
    )
    _, lines = places(asked, None, {"OMP_NUM_THREADS": "1"}, EMPTY)
    assert "nothing is known of this machine" in lines[0]


def test_without_a_survey_the_mask_of_this_process_counts() -> None:
    found, lines = places(job(1), None, {}, EMPTY)
    assert (found[0].base, lines) == ({}, ())
    found, _ = places(job(2), None, {}, EMPTY)
    threads = max(1, len(os.sched_getaffinity(0)) // 2)
    assert found[1].base == {"OMP_NUM_THREADS": str(threads)}


def test_what_discovery_chose_is_added_and_the_users_own_stays() -> None:
    chosen = Environment(
        common=(Choice("NCCL_IB_HCA", "=mlx5_0,mlx5_1", "=mlx5_0,mlx5_1", False, ""),),
        ranks={
            0: (Choice("RDMATRAIN_DEVICES", "=mlx5_0", "=mlx5_0", False, ""),),
            1: (Choice("RDMATRAIN_DEVICES", "mine", "=mlx5_1", True, ""),),
        },
    )
    found = replace(ONE_NODE, environment=chosen)
    hcas = {"NCCL_IB_HCA": "=mlx5_0,mlx5_1"}
    assert discovered(found, 0, {}) == hcas | {"RDMATRAIN_DEVICES": "=mlx5_0"}
    assert discovered(found, 1, {"NCCL_IB_HCA": ""}) == hcas
    assert discovered(found, 0, {"NCCL_IB_HCA": "x"}) == {"RDMATRAIN_DEVICES": "=mlx5_0"}
    assert discovered(None, 0, {}) == {}


def test_each_worker_of_this_job_gets_the_variables_of_its_own_nic() -> None:
    # The survey was made for another number of workers.
    found, _ = places(job(8), reseat(BIG, 2), {"NCCL_IB_HCA": "mine"}, EMPTY)
    own = [each.base["RDMATRAIN_DEVICES"] for each in found]
    assert len(set(own)) == 8 and all(name.startswith("=mlx5_") for name in own)
    assert {each.base["NCCL_IB_HCA"] for each in found} == {"mine"}
    assert {each.base["NCCL_SOCKET_IFNAME"] for each in found} == {"=eth0"}


def started_by(own: str, parents: str) -> MemorySource:
    """Return the files of a process whose parent may use other CPUs."""
    return MemorySource(
        {
            "/proc/self/status": f"Name:\tpython\nPPid:\t7\nCpus_allowed_list:\t{own}\n",
            "/proc/7/status": f"Name:\tprted\nCpus_allowed_list:\t{parents}\n",
        }
    )


def test_launchers_of_mpirun_share_the_host_as_workers_of_one_launcher_do() -> None:
    free = started_by("0-63", "0-63")
    together, _ = places(job(8), BIG, {}, EMPTY)
    for task in range(8):
        alone = job(1, first_local=task, local_world=8)
        found, lines = places(alone, BIG, {}, free)
        assert found == (together[task],)
        assert lines == ("OMP_NUM_THREADS is unset: set to 8 for each of 8 workers, of 64 CPUs",)
    two = places(job(2, first_local=6, local_world=8), BIG, {}, free)[0]
    assert two == together[6:]


def test_a_launcher_that_mpirun_has_bound_stays_there() -> None:
    own = replace(BIG, machine=replace(BIG.machine, cpus=(4, 5, 6)))
    task = job(1, first_local=1, local_world=8)
    (found,), lines = places(task, own, {}, started_by("4-6", "0-63"))
    assert found.cpus == ()
    assert found.base["OMP_NUM_THREADS"] == "3"
    assert lines == ("OMP_NUM_THREADS is unset: set to 3 for each of 8 workers, of 24 CPUs",)
    # Nobody knows what else it could be than the share of all.
    (found,), _ = places(task, own, {}, EMPTY)
    assert found.base["OMP_NUM_THREADS"] == "1"
    # What the cgroup pays for is for all of them.
    paid = started_by("4-6", "0-63")
    paid.files |= {path: text for path, text in PAID_3.files.items() if "cgroup" in path}
    paid.files["/proc/self/mountinfo"] = PAID_3.files["/proc/self/mountinfo"]
    (found,), _ = places(task, own, {}, paid)
    assert found.base["OMP_NUM_THREADS"] == "1"


def test_why_a_task_of_mpirun_is_not_bound_names_its_rank_on_the_host() -> None:
    asked = job(1, numa_binding="exclusive", first_local=1, local_world=2)
    _, lines = places(asked, ONE_NODE, {"OMP_NUM_THREADS": "1"}, EMPTY)
    assert "the CPUs of 1 local rank (1) are left as they are" in lines[0]


def test_a_task_of_several_on_a_host_gets_the_devices_of_its_own_local_ranks() -> None:
    whole, _ = places(job(8), BIG, {}, EMPTY)
    one, _ = places(job(1, first_local=5, local_world=8), BIG, {}, EMPTY)
    assert one == whole[5:6]
    assert cpus_of(job(1, first_local=5, local_world=8), BIG, 0) == whole[5].cpus
    numa = {"numa_binding": "exclusive"}
    whole, _ = places(job(8, **numa), BIG, {}, EMPTY)
    two, _ = places(job(2, first_local=2, local_world=8, **numa), BIG, {}, EMPTY)
    assert two == whole[2:4]
