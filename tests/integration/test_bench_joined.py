# SPDX-License-Identifier: Apache-2.0
"""``rdmatrain bench`` as the ranks of rdmatrain run and of mpirun, on one host and on two."""

import contextlib
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from integration_hosts import two_hosts
from integration_jobs import (
    PYTHON,
    RUN,
    Ended,
    finish,
    nothing_left_behind,
    processes_with,
    start,
)

MPI = Path(__file__).parents[2] / "build" / "mpi"
FAKE_SRUN = Path(__file__).with_name("fake_srun.py")
AS_ROOT = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
BENCH = ["-m", "rdmatrain.cli", "bench"]
QUICK = ["-b", "8", "-e", "32K", "-f", "4096", "--rounds", "1", "-n", "3", "--quiet"]
CONTESTANTS = ("rdmatrain", "gloo")


def records(path: Path) -> list[dict[str, Any]]:
    """Read what was measured, without what says why something was not."""
    lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    return [line for line in lines if line["nbytes"] is not None]


def check(ended: Ended, path: Path, ranks: int, contestants: tuple[str, ...]) -> None:
    assert ended.out.count("Collective test starting: all_reduce") == len(contestants), ended.out
    found = records(path)
    sizes = {(each["backend"], each["nbytes"]) for each in found}
    assert sizes == {(name, size) for name in contestants for size in (8, 32768)}
    assert {(each["ranks"], each["nwrong"]) for each in found} == {(ranks, 0)}


def test_ranks_of_rdmatrain_run_are_those_of_the_contestants(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    sweep = ["all_reduce", *QUICK, "--vs", "gloo,mpich,perftest", "--json", str(path)]
    with nothing_left_behind() as env:
        ended = finish([start([*RUN, "--nproc-per-node", "2", *BENCH, *sweep], env)])[0]
    check(ended, path, 2, CONTESTANTS)
    if (MPI / "mpich" / ".made").exists():
        assert "mpich: it starts its own ranks, but a launcher started these" in ended.out


@pytest.mark.parametrize("name", ["openmpi", pytest.param("mpich", marks=pytest.mark.thorough)])
def test_ranks_of_mpirun_are_those_of_the_contestants(name: str, tmp_path: Path) -> None:
    mpirun = MPI / name / "bin" / "mpirun"
    if not mpirun.exists():
        pytest.skip(f"no {name} in {MPI}: make mpi gets it from PyPI")
    path = tmp_path / "out.jsonl"
    sweep = ["all_reduce", *QUICK, "--json", str(path)]
    options = ["--map-by", ":OVERSUBSCRIBE"] if name == "openmpi" else []
    with nothing_left_behind() as env:
        command = [str(mpirun), *options, "-n", "2", *PYTHON, *BENCH, *sweep]
        ended = finish([start(command, env | AS_ROOT)])[0]
    assert ended.code == 0, ended.out
    check(ended, path, 2, ("rdmatrain",))


@pytest.mark.parametrize(("nodes", "each"), [(1, 2), (2, 1)])
def test_tasks_of_srun_are_those_of_the_contestants(nodes: int, each: int, tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    step = ["-N", str(nodes), "--ntasks-per-node", str(each), "--kill-on-bad-exit", "0"]
    sweep = ["all_reduce", *QUICK, "--vs", "gloo", "--json", str(path)]
    command = [*PYTHON, str(FAKE_SRUN), *step, "--wait", "0", *PYTHON, *BENCH, *sweep]
    with nothing_left_behind() as env:
        ended = finish([start(command, env)])[0]
    assert ended.code == 0, ended.out
    check(ended, path, 2, CONTESTANTS)


def test_ranks_may_be_on_two_hosts(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    sweep = ["all_reduce", *QUICK, "--json", str(path)]
    with two_hosts() as hosts, nothing_left_behind() as env:
        ended = hosts.run(*BENCH, *sweep, env=env)
    assert ended[0].code == 0, ended[0].out + ended[1].out
    assert ended[1].code == 0, ended[1].out
    check(ended[0], path, 2, ("rdmatrain",))
    assert "Collective test" not in ended[1].out
    assert {each["transport"] for each in records(path)} == {"tcp"}


def test_a_wire_may_be_between_two_hosts(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    sweep = ["write", *QUICK, "--json", str(path)]
    with two_hosts() as hosts, nothing_left_behind() as env:
        ended = hosts.run(*BENCH, *sweep, env=env)
    assert ended[0].code == 0, ended[0].out + ended[1].out
    found = records(path)
    assert [each["nbytes"] for each in found] == [8, 32768]
    assert {(each["nwrong"], each["transport"]) for each in found} == {(0, "tcp")}


def test_what_was_measured_is_kept_when_a_rank_dies(tmp_path: Path) -> None:
    """Two ranks by hand, as no launcher ends the other; rank 1's process of gloo is killed."""
    path = tmp_path / "out.jsonl"
    sweep = ["all_reduce", "-b", "8", "-e", "8", "--rounds", "1000000", "--time-budget", "8"]
    sweep += ["--vs", "gloo", "--json", str(path)]
    with nothing_left_behind() as env:
        common = env | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29547", "WORLD_SIZE": "2"}
        places = [common | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(2)]
        processes = [start([*PYTHON, *BENCH, *sweep], place) for place in places]
        marker = next(f"{name}={value}" for name, value in env.items() if value)
        time.sleep(1)
        victim = wait_for(marker, ["rdmatrain.bench.rank", "gloo"], "RANK=1")
        os.kill(victim, signal.SIGKILL)
        ended = finish(processes)
    assert "rank 1" in ended[0].out
    assert ended[0].code == 1
    assert ended[1].code == 0, ended[1].out
    assert "rdmatrain" in {each["backend"] for each in records(path)}


def wait_for(marker: str, words: list[str], variable: str) -> int:
    """Return the process of a job that has these words in its command, and this variable."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for pid in processes_with(marker):
            with contextlib.suppress(OSError):
                proc = Path(f"/proc/{pid}")
                command = (proc / "cmdline").read_text().split("\0")
                environ = (proc / "environ").read_text().split("\0")
                if set(words) <= set(command) and variable in environ:
                    return pid
        time.sleep(0.1)
    raise AssertionError(f"no process with {words} and {variable}")
