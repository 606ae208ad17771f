# SPDX-License-Identifier: Apache-2.0
"""The worker's environment of a round."""

from dataclasses import replace

import pytest

from rdmatrain.config import OF_LAUNCHER, unknown_settings
from rdmatrain.errors import SettingError
from rdmatrain.launcher.job import Gang, Job, Limits, Program
from rdmatrain.launcher.messages import Node, Round
from rdmatrain.launcher.worker_env import overridden, worker_environment, worker_program

ALONE = Round(
    number=1,
    restart=0,
    nodes=(Node(node_rank=0, host="a", address="", nproc=2, first_rank=0),),
    mine=0,
)
# The first node has other numbers of workers than the second.
TWO = Round(
    number=3,
    restart=2,
    nodes=(
        Node(node_rank=0, host="a", address="10.0.0.1", nproc=2, first_rank=0),
        Node(node_rank=1, host="b", address="10.0.0.2", nproc=4, first_rank=2),
    ),
    mine=1,
)
JOB = Job(program=Program(script="t.py"), nproc=2, gang=Gang(run_id="id"))
JOB_OF_TWO = replace(
    JOB,
    nproc=4,
    role="trainer",
    gang=Gang(min_nodes=2, max_nodes=2, node_rank=1, leader="node-0", port=29500, run_id="id"),
    limits=Limits(max_restarts=3, signals=("SIGTERM", "SIGUSR1")),
)
DOOR = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "4242"}


def test_a_task_of_several_on_a_host_counts_local_ranks_with_the_others() -> None:
    job = replace(JOB_OF_TWO, nproc=2, first_local=4, local_world=6)
    found = worker_environment(job, TWO, 1, {}, DOOR)
    assert (found["LOCAL_RANK"], found["LOCAL_WORLD_SIZE"]) == ("5", "6")
    seen = {"CUDA_VISIBLE_DEVICES": "a,b,c,d,e,f"}
    found = worker_environment(replace(job, virtual_local_rank=True), TWO, 1, seen, DOOR)
    assert (found["LOCAL_RANK"], found["CUDA_VISIBLE_DEVICES"]) == ("0", "f")


def test_the_second_nodes_worker_sees_its_place_in_a_restarted_job() -> None:
    assert worker_environment(JOB_OF_TWO, TWO, 2, {}, DOOR) == {
        "RANK": "4",
        "LOCAL_RANK": "2",
        "WORLD_SIZE": "6",
        "LOCAL_WORLD_SIZE": "4",
        "GROUP_RANK": "1",
        "GROUP_WORLD_SIZE": "2",
        "ROLE_RANK": "4",
        "ROLE_WORLD_SIZE": "6",
        "ROLE_NAME": "trainer",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "4242",
        "TORCHELASTIC_RUN_ID": "id",
        "TORCHELASTIC_RESTART_COUNT": "2",
        "TORCHELASTIC_MAX_RESTARTS": "3",
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "TORCHELASTIC_SIGNALS_TO_HANDLE": "SIGTERM,SIGUSR1",
        "TORCH_NCCL_ASYNC_ERROR_HANDLING": "1",
        "PYTHONUNBUFFERED": "1",
        "RDMATRAIN_ARENA": "on",
        "RDMATRAIN_LEADER": "node-0:29500",
        "RDMATRAIN_ADDR": "10.0.0.2",
    }


@pytest.mark.parametrize(
    ("name", "given", "found"),
    [
        ("RDMATRAIN_ARENA", "off", "off"),
        ("RDMATRAIN_ARENA", "", "on"),
        ("TORCH_NCCL_ASYNC_ERROR_HANDLING", "3", "3"),
        ("TORCH_NCCL_ASYNC_ERROR_HANDLING", "", ""),
        ("RDMATRAIN_ADDR", "192.0.2.7", "192.0.2.7"),
        ("RDMATRAIN_ADDR", "", "10.0.0.2"),
        ("HOME", "/home/me", "/home/me"),
        ("RANK", "77", "2"),
        ("TORCHELASTIC_RESTART_COUNT", "9", "2"),
        ("RDMATRAIN_LEADER", "outer:1", "node-0:29500"),
    ],
)
def test_whose_value_wins(name: str, given: str, found: str) -> None:
    base = {name: given}
    assert worker_environment(JOB_OF_TWO, TWO, 0, base, {})[name] == found
    assert base == {name: given}


def test_what_an_outer_launcher_set_for_its_own_job_is_not_inherited() -> None:
    base = {
        "TORCHELASTIC_USE_AGENT_STORE": "False",
        "TORCHELASTIC_ERROR_FILE": "/outer/error.json",
        "RDMATRAIN_LEADER": "outer:1",
        "KEPT": "1",
    }
    found = worker_environment(JOB, ALONE, 0, base, {})
    assert found["TORCHELASTIC_USE_AGENT_STORE"] == "True"
    assert found["KEPT"] == "1"
    assert not {"TORCHELASTIC_ERROR_FILE", "RDMATRAIN_LEADER"} & set(found)
    # A job of one node leaves the address of the transports to them.
    assert "RDMATRAIN_ADDR" not in found


def test_what_the_agent_adds_wins_over_everything() -> None:
    job = replace(JOB, settings={"transport": "tcp"})
    extra = {"RANK": "x", "RDMATRAIN_TRANSPORT": "y", "TORCHELASTIC_ERROR_FILE": "z"}
    found = worker_environment(job, ALONE, 0, {"RANK": "1"}, extra)
    assert extra.items() <= found.items()


def test_options_win_over_inherited_variables_and_only_a_change_is_told() -> None:
    job = replace(JOB, settings={"transport": "tcp", "gid_index": "3"})
    base = {"RDMATRAIN_TRANSPORT": "shm", "RDMATRAIN_GID_INDEX": "3", "RDMATRAIN_LOG": "info"}
    found = worker_environment(job, ALONE, 0, base, {})
    assert (found["RDMATRAIN_TRANSPORT"], found["RDMATRAIN_GID_INDEX"]) == ("tcp", "3")
    assert found["RDMATRAIN_LOG"] == "info"
    assert overridden(job, base) == ["--transport tcp replaces RDMATRAIN_TRANSPORT=shm"]
    assert overridden(job, {"RDMATRAIN_TRANSPORT": "", "RDMATRAIN_GID_INDEX": "4"}) == [
        "--gid-index 3 replaces RDMATRAIN_GID_INDEX=4"
    ]


@pytest.mark.parametrize(
    ("visible", "local_rank", "seen"),
    [(None, 1, "1"), ("4,6", 1, "6"), ("4, 6", 1, "6"), ("GPU-a,MIG-b", 0, "GPU-a"), ("", 0, "")],
)
def test_a_virtual_local_rank_sees_its_own_gpu_alone(
    visible: str | None, local_rank: int, seen: str
) -> None:
    job = replace(JOB, virtual_local_rank=True)
    base = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    found = worker_environment(job, ALONE, local_rank, base, {})
    assert (found["LOCAL_RANK"], found["CUDA_VISIBLE_DEVICES"]) == ("0", seen)
    assert found["RANK"] == str(local_rank)


def test_a_virtual_local_rank_without_a_gpu_is_refused_by_name() -> None:
    job = replace(JOB, virtual_local_rank=True)
    with pytest.raises(SettingError, match=r"CUDA_VISIBLE_DEVICES=5 has no GPU for local rank 1"):
        worker_environment(job, ALONE, 1, {"CUDA_VISIBLE_DEVICES": "5"}, {})


def test_otherwise_all_workers_see_the_same_gpus() -> None:
    base = {"CUDA_VISIBLE_DEVICES": "4,6"}
    assert worker_environment(JOB, ALONE, 1, base, {})["CUDA_VISIBLE_DEVICES"] == "4,6"
    assert "CUDA_VISIBLE_DEVICES" not in worker_environment(JOB, ALONE, 1, {}, {})


def test_an_ipv6_leader_is_written_with_brackets() -> None:
    job = replace(JOB_OF_TWO, gang=replace(JOB_OF_TWO.gang, leader="fd00::1"))
    assert worker_environment(job, TWO, 0, {}, {})["RDMATRAIN_LEADER"] == "[fd00::1]:29500"


def test_no_variable_that_a_worker_sees_is_warned_of_there() -> None:
    found = worker_environment(JOB_OF_TWO, TWO, 0, dict.fromkeys(OF_LAUNCHER, "x"), {})
    assert unknown_settings(found) == []


def test_the_local_rank_is_filled_in_where_arguments_ask_for_it() -> None:
    args = ("--gpu=${local_rank}", "$local_rank", "$5", "$$", "${other}", "a b", "")
    found = worker_program(Program(script="${local_rank}.py", args=args, module=True), 3)
    assert found.args == ("--gpu=3", "3", "$5", "$", "${other}", "a b", "")
    assert (found.script, found.module) == ("${local_rank}.py", True)


def test_a_launcher_that_mpirun_started_has_a_place_among_those_of_its_host() -> None:
    # The third of four on this host, each a node of the gang.
    task = replace(JOB_OF_TWO, nproc=1, first_local=2, local_world=4)
    found = worker_environment(task, TWO, 0, {}, {})
    assert (found["LOCAL_RANK"], found["LOCAL_WORLD_SIZE"]) == ("2", "4")
    virtual = worker_environment(
        replace(task, virtual_local_rank=True), TWO, 0, {"CUDA_VISIBLE_DEVICES": "4,5,6,7"}, {}
    )
    assert (virtual["LOCAL_RANK"], virtual["CUDA_VISIBLE_DEVICES"]) == ("0", "6")
