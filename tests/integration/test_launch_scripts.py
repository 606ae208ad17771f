# SPDX-License-Identifier: Apache-2.0
"""The scripts of launch/ start the demo as torchrun, mpirun and srun do."""

import json
import os
import socket
import sys
from pathlib import Path

import pytest
from integration_jobs import Ended, finish, start

ROOT = Path(__file__).parents[2]
LAUNCH, MPI = ROOT / "launch", ROOT / "build" / "mpi"
DEMO = ("--steps", "3", "--layers", "1", "--width", "48", "--seq-len", "32", "--global-batch", "8")
MPIRUN = {
    "openmpi": ["-n", "2", "--map-by", ":OVERSUBSCRIBE"],
    "mpich": ["-n", "2"],
}
# Of Open MPI; MPICH does not read them.
AS_ROOT = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
FAKE_SRUN = Path(__file__).with_name("fake_srun.py")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def run(script: str, *words: str, env: dict[str, str] | None = None) -> Ended:
    return finish([start([str(LAUNCH / script), *words], env)])[0]


def trained_by_two(folder: Path) -> bool:
    result = json.loads((folder / "result.json").read_text("utf-8"))
    equal = len(set(result["param_sha256"])) == 1
    return (result["world_size"], result["backend"], equal) == (2, "rdmatrain", True)


def test_torchrun_trains_over_rdmatrains_gang(tmp_path: Path) -> None:
    options = [
        "--nproc-per-node",
        "2",
        "--rdzv-endpoint",
        f"127.0.0.1:{free_port()}",
        "--rdzv-id",
        "scripts",
    ]
    ended = run("torchrun.sh", *options, "--", *DEMO, "--out", str(tmp_path))
    assert ended.code == 0, ended.out
    assert trained_by_two(tmp_path)


@pytest.mark.parametrize("mpi", MPIRUN)
def test_each_task_of_mpirun_is_a_worker(mpi: str, tmp_path: Path) -> None:
    prefix = MPI / mpi
    if not (prefix / "bin" / "mpirun").exists():
        pytest.skip(f"no {mpi} in {MPI}: make mpi gets it from PyPI")
    env = AS_ROOT | {"PATH": f"{prefix / 'bin'}:{os.environ['PATH']}"}
    env["LD_LIBRARY_PATH"] = str(prefix / "lib")
    env["PET_MASTER_PORT"] = str(free_port())
    ended = run("mpirun.sh", *MPIRUN[mpi], "--", *DEMO, "--out", str(tmp_path), env=env)
    assert ended.code == 0, ended.out
    assert trained_by_two(tmp_path)


@pytest.fixture
def slurm(tmp_path: Path) -> dict[str, str]:
    """What a job finds in the environment where srun is the stand-in."""
    srun = tmp_path / "bin" / "srun"
    srun.parent.mkdir()
    srun.write_text(f'#!/bin/sh\nexec {sys.executable} {FAKE_SRUN} "$@"\n', "utf-8")
    srun.chmod(0o755)
    secret = tmp_path / "secret"
    secret.write_text("a secret of the tests, long enough", "utf-8")
    return {
        "PATH": f"{srun.parent}:{os.environ['PATH']}",
        "RDMATRAIN_SECRET_FILE": str(secret),
        "MASTER_PORT": str(free_port()),
        "SLURM_CPUS_PER_TASK": "2",
    }


def test_srun_starts_a_launcher_on_each_node(slurm: dict[str, str], tmp_path: Path) -> None:
    options = ["-N", "2", "--comment", "a b"]
    ended = run("srun.sh", *options, "--", *DEMO, "--out", str(tmp_path), env=slurm)
    assert ended.code == 0, ended.out
    assert trained_by_two(tmp_path)


def test_what_the_launchers_under_srun_end_with_is_the_exit_code(slurm: dict[str, str]) -> None:
    slurm["RDMATRAIN_SECRET_FILE"] += "-that-is-not-there"
    ended = run("srun.sh", "-N", "2", "--", *DEMO, env=slurm)
    assert ended.code == 2, ended.out
    assert ended.out.count("secret-that-is-not-there") == 2
