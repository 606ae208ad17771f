# SPDX-License-Identifier: Apache-2.0
"""The scripts of launch/ start the demo as torchrun, mpirun and srun do."""

import json
import os
import socket
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
SRUN = """#!/usr/bin/env bash
printf '%s\\n' "$@" >"$SHOWN"
exit 7
"""


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


def test_srun_starts_one_launcher_a_node_and_its_exit_code_is_kept(tmp_path: Path) -> None:
    (tmp_path / "srun").write_text(SRUN, "utf-8")
    (tmp_path / "srun").chmod(0o755)
    env = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SHOWN": str(tmp_path / "shown")}
    ended = run("srun.sh", "-N", "2", "--comment", "a b", "--", "--steps", "3", env=env)
    assert ended.code == 7, ended.out
    words = (tmp_path / "shown").read_text("utf-8").splitlines()
    demo = str(LAUNCH / "train_gpt.py")
    assert words[-5:] == ["rdmatrain", "run", demo, "--steps", "3"]
    assert words[words.index("--ntasks-per-node") + 1] == "1"
    assert words[words.index("-N") + 1] == "2"
    assert words[words.index("--comment") + 1] == "a b"
    assert "--" not in words
