# SPDX-License-Identifier: Apache-2.0
"""Which variables make a process one of several ranks, and where rank 0 is."""

import json
import os
import socket
import threading
from contextlib import closing

import pytest

from rdmatrain.bench import agents, joined
from rdmatrain.comm.host import host_id
from rdmatrain.errors import BootstrapError, SettingError

AT = {"MASTER_ADDR": "node0", "MASTER_PORT": "29555"}
ALONE = {"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1"}
SRUN = {
    "SLURM_PROCID": "3",
    "SLURM_STEP_NUM_TASKS": "5",
    "SLURM_STEP_NODELIST": "gpu[07-09]",
    "SLURM_STEP_TASKS_PER_NODE": "2(x2),1",
    "SLURM_NODEID": "1",
    "SLURM_JOB_ID": "123456",
    "SLURM_STEP_ID": "7",
}
MPICH = {"PMI_RANK": "2", "PMI_SIZE": "3", "MPI_LOCALNRANKS": "1"}
OPENMPI = {"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "4"}


@pytest.mark.parametrize(
    ("environ", "place"),
    [
        ({"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}, (3, 8, "a launcher")),
        (OPENMPI | {"OMPI_COMM_WORLD_LOCAL_SIZE": "2"}, (1, 4, "mpirun")),
        (MPICH, (2, 3, "mpirun")),
        ({"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "2"}, (0, 2, "srun")),
        # mpirun, in a shell that srun has started
        (MPICH | ALONE, (2, 3, "mpirun")),
    ],
)
def test_ranks_of_launchers_are_recognised(
    environ: dict[str, str], place: tuple[int, int, str]
) -> None:
    found = joined.place(environ | AT)
    assert found is not None
    assert (found.rank, found.ranks, found.launcher) == place
    assert (found.addr, found.port, found.hosted) == ("node0", 29555, False)


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"RANK": "0", "WORLD_SIZE": "4"},  # of a pod, which a controller numbers
        {"RANK": "", "WORLD_SIZE": "4", "LOCAL_RANK": "0"},
        {"SLURM_PROCID": "0", "SLURM_NTASKS": "4"},  # a batch script is no task of srun
        ALONE,  # srun --pty bash
        {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"},
    ],
)
def test_what_is_no_rank_starts_its_own(environ: dict[str, str]) -> None:
    assert joined.place(environ | AT) is None


def test_the_store_of_torchrun_is_used() -> None:
    environ = AT | {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}
    found = joined.place(environ | {"TORCHELASTIC_USE_AGENT_STORE": "True"})
    assert found is not None
    assert found.hosted


def test_ranks_of_one_host_need_no_address_and_others_do() -> None:
    found = joined.place(OPENMPI | {"OMPI_COMM_WORLD_LOCAL_SIZE": "4"})
    assert found is not None
    assert found.addr == "127.0.0.1"
    assert found.port == 20000 + os.getppid() % 10000
    with pytest.raises(SettingError, match="mpirun does not say where rank 0 is: set MASTER_ADDR"):
        joined.place(OPENMPI | {"OMPI_COMM_WORLD_LOCAL_SIZE": "2"})


def test_srun_says_where_rank_0_is_and_how_many_tasks_are_here() -> None:
    found = joined.place(SRUN)
    assert found is not None
    assert (found.rank, found.ranks, found.on_host) == (3, 5, 2)
    assert (found.addr, found.port) == ("gpu07", 20000 + 7143)
    last = joined.place(SRUN | {"SLURM_NODEID": "2", "SLURM_PROCID": "4"})
    assert last is not None
    assert (last.addr, last.port, last.on_host) == ("gpu07", 20000 + 7143, 1)
    next_job = joined.place(SRUN | {"SLURM_JOB_ID": "123457", "SLURM_STEP_ID": "6"})
    assert next_job is not None
    assert next_job.port != found.port
    one = joined.place(SRUN | {"SLURM_STEP_NODELIST": "gpu07", "SLURM_STEP_TASKS_PER_NODE": "5"})
    assert one is not None
    assert one.addr == "127.0.0.1"
    # srun --mpi=pmi2 sets these too
    assert joined.place(SRUN | {"PMI_RANK": "3", "PMI_SIZE": "5"}) == found
    with pytest.raises(SettingError, match="srun does not say where rank 0 is"):
        joined.place({key: SRUN[key] for key in ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS")})


@pytest.mark.parametrize(
    ("environ", "num"),
    [
        ({"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"}, 4),
        ({"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}, 8),
        (OPENMPI | {"OMPI_COMM_WORLD_LOCAL_SIZE": "2", "LOCAL_WORLD_SIZE": "1"}, 2),
        ({"PMI_RANK": "2", "PMI_SIZE": "6", "MPI_LOCALNRANKS": "3"}, 3),
    ],
)
def test_it_is_known_how_many_ranks_are_on_this_host(environ: dict[str, str], num: int) -> None:
    found = joined.place(environ | AT)
    assert found is not None
    assert found.on_host == num


def test_an_agent_heeds_only_who_knows_its_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agents, "HEAR_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()
        thread = threading.Thread(target=agents._Agent(listener, "token").run)
        thread.start()
        start = {"do": "start", "argv": ["-c", "1"], "env": {}}
        for said in (start, {**start, "token": "other"}, [start], "token"):
            with socket.create_connection(address, 5) as stranger:
                stranger.sendall(json.dumps(said).encode() + b"\n")
                assert stranger.recv(1) == b""
        with socket.create_connection(address, 5) as silent:
            assert silent.recv(1) == b""
        agent = agents.Agent("127.0.0.1", address[1], "", "here", "token")
        agents.call(0, agent, {"do": "hold"}).close()
        thread.join(10)
    assert not thread.is_alive()


def crew_of_two(monkeypatch: pytest.MonkeyPatch, other: str) -> joined.Crew:
    """Rank 0's crew, where /etc/hosts has the host's own name as Debian writes it."""
    agent = agents.Agent("192.0.2.8", 1, other, "other", "token")
    monkeypatch.setattr(joined, "open_store", lambda _: None)
    monkeypatch.setattr(joined, "call", lambda *_: socket.socket())
    monkeypatch.setattr(joined, "find", lambda *_: agent)
    two = {"PMI_RANK": "0", "PMI_SIZE": "2", "MPI_LOCALNRANKS": "1"}
    here = joined.place(two | AT | {"MASTER_ADDR": "127.1"})
    assert here is not None
    return joined.Crew(here)


@pytest.mark.parametrize(
    ("own", "other", "addr"), [("", host_id(), "127.0.0.1"), ("192.0.2.7", "another", "192.0.2.7")]
)
def test_all_ranks_are_told_where_they_reach_rank_0(
    monkeypatch: pytest.MonkeyPatch, own: str, other: str, addr: str
) -> None:
    monkeypatch.setenv("RDMATRAIN_ADDR", own)
    with closing(crew_of_two(monkeypatch, other)) as crew:
        (_, first), (_, second) = crew.commands([([], {}), ([], {})])
    assert first["MASTER_ADDR"] == addr
    assert json.loads(second[joined.CALL_VARIABLE])["order"]["env"]["MASTER_ADDR"] == addr


def test_no_other_host_is_told_a_loopback_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RDMATRAIN_ADDR", raising=False)
    with (
        closing(crew_of_two(monkeypatch, "another")) as crew,
        pytest.raises(BootstrapError, match=r"MASTER_ADDR=127.1 leaves from 127.*: set"),
    ):
        crew.commands([([], {}), ([], {})])
