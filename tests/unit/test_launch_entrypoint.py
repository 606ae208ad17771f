# SPDX-License-Identifier: Apache-2.0
"""launch/entrypoint, which the image starts as PID 1."""

import subprocess
import sys
from pathlib import Path

import pytest

ENTRYPOINT = Path(__file__).parents[2] / "launch" / "entrypoint"
# As the SR-IOV device plugin names what it gives; dash does not pass it on.
DASHED = "PCIDEVICE_NVIDIA_COM_RDMA-VF"


def entry(*words: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ENTRYPOINT), *words]
    return subprocess.run(command, capture_output=True, text=True, env=env, check=False, timeout=60)


@pytest.mark.parametrize(("words", "shown"), [((), "Usage: rdmatrain"), (("run", "-h"), "SCRIPT")])
def test_what_names_no_program_is_for_rdmatrain(words: tuple[str, ...], shown: str) -> None:
    assert shown in (ended := entry(*words)).stdout + ended.stderr


def test_a_mistake_has_the_exit_code_of_rdmatrain() -> None:
    ended = entry("run", "--nproc-per-nod", "2", "train.py")
    assert ended.returncode == 2
    assert "--nproc-per-node" in ended.stderr


def test_a_program_gets_its_arguments_and_every_variable() -> None:
    code = f"import os, sys; print(os.environ['{DASHED}'], sys.argv[1:])"
    ended = entry(sys.executable, "-c", code, "a b", "", env={DASHED: "0000:0c:00.2"})
    assert (ended.stdout, ended.returncode) == ("0000:0c:00.2 ['a b', '']\n", 0)


def test_a_program_takes_the_place_of_the_entrypoint() -> None:
    code = "import os; print(os.getpid())"
    with subprocess.Popen(
        [sys.executable, str(ENTRYPOINT), sys.executable, "-c", code], stdout=subprocess.PIPE
    ) as process:
        out, _ = process.communicate(timeout=60)
    assert int(out) == process.pid


def test_what_is_no_program_is_one_line(tmp_path: Path) -> None:
    ended = entry("trian.py")
    assert ended.returncode == 127
    assert ended.stderr.startswith("trian.py: No such file")
    assert ended.stderr.count("\n") == 1
    (file := tmp_path / "file").touch()
    assert entry(str(file)).returncode == 126
