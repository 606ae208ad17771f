# SPDX-License-Identifier: Apache-2.0
"""The script for sbatch, run with a srun that only says what it was given, to the decision."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from k8s_injection import options
from k8s_specs import NETWORKS, NEW, small
from memory_source import MemorySource, environ

from rdmatrain.discovery.survey import survey
from rdmatrain.errors import SettingError
from rdmatrain.k8s.render import render
from rdmatrain.k8s.spec import TCP, Checkpoint, Spec
from rdmatrain.launcher.resolve import Resolved, resolve

pytestmark = pytest.mark.skipif(not shutil.which("bash"), reason="there is no bash")
SECRET = "0123456789abcdef0123456789abcdef"
SAY = """#!{python}
import json, os, sys
with open({path!r}, "w") as file:
    json.dump([sys.argv[1:], dict(os.environ)], file)
sys.exit(int(os.environ.get("CODE", "0")))
"""


def run(spec: Spec, folder: Path, **more: str) -> tuple[int, list[str], dict[str, str]]:
    """Run the script; return its code, and words and variables of srun."""
    (text,) = (text for _, text in render(spec, "slurm", NEW).texts)
    said = folder / "said.json"
    said.unlink(missing_ok=True)
    program = folder / "bin/srun"
    program.parent.mkdir(exist_ok=True)
    program.write_text(SAY.format(python=sys.executable, path=str(said)))
    program.chmod(0o755)
    script = folder / "job.sh"
    script.write_text(text)
    env = {
        "HOME": str(folder),
        "PATH": f"{program.parent}:{os.defpath}",
        "SLURM_JOB_ID": "4711",
        "SLURM_CPUS_PER_TASK": str(spec.cpus),
    }
    done = subprocess.run(
        ["bash", str(script)], env={**env, **more}, timeout=60, check=False, capture_output=True
    )
    words, variables = json.loads(said.read_text()) if said.exists() else ([], {})
    return done.returncode, words, variables


def with_secret(spec: Spec, folder: Path) -> None:
    path = folder / ".rdmatrain" / spec.secret_name
    path.parent.mkdir(mode=0o700)
    path.write_text(SECRET)
    path.chmod(0o600)


def decided(words: list[str], variables: Mapping[str, str], node: int, nodes: int) -> Resolved:
    """What the launcher of a node makes of it, in the environment of its task."""
    own = {**variables, **step(node, nodes), "SLURM_RESTART_COUNT": "2"}
    found = survey(
        MemorySource({"/proc/self/environ": environ(own), "/etc/hostname": f"node{node + 1:02d}\n"})
    )
    line = words[words.index("rdmatrain") :]
    return resolve(options({"command": line}), own, found)


def step(node: int, nodes: int) -> dict[str, str]:
    """Variables of the task on a node."""
    return {
        "SLURM_JOB_ID": "4711",
        "SLURM_STEP_ID": "0",
        "SLURM_PROCID": str(node),
        "SLURM_LOCALID": "0",
        "SLURM_NODEID": str(node),
        "SLURM_NTASKS": str(nodes),
        "SLURM_NNODES": str(nodes),
        "SLURM_JOB_NODELIST": f"node[01-{nodes:02d}]",
        "SLURM_STEP_NODELIST": f"node[01-{nodes:02d}]",
        "SLURM_TASKS_PER_NODE": f"1(x{nodes})",
        "SLURM_STEP_TASKS_PER_NODE": f"1(x{nodes})",
        "SLURMD_NODENAME": f"node{node + 1:02d}",
    }


def form(value: str) -> str:
    """Names and numbers left out, of the first in a list: ``8(x2),4`` is ``0(a0)``."""
    return re.sub(r"[a-z]+", "a", re.sub(r"\d+", "0", value.partition(",")[0]))


def recorded(name: str) -> dict[str, str]:
    path = Path(__file__).parents[1] / f"fixtures/orchestrators/{name}.json"
    found: dict[str, str] = json.loads(path.read_text("utf-8"))["env"]
    return found


def test_variables_of_a_task_are_those_that_were_recorded() -> None:
    theirs, ours = recorded("srun"), step(1, 3)
    assert {key: form(theirs.get(key, "missing")) for key in ours} == {
        key: form(value) for key, value in ours.items()
    }
    assert recorded("srun_requeued")["SLURM_RESTART_COUNT"] == "2"


def test_every_task_finds_its_place(tmp_path: Path) -> None:
    spec = small(TCP, env={"GREETING": "it's; $HOME"})
    with_secret(spec, tmp_path)
    code, words, variables = run(spec, tmp_path)
    assert code == 0
    assert "--ntasks-per-node=1" in words
    assert f"--cpus-per-task={spec.cpus}" in words
    assert variables["GREETING"] == "it's; $HOME"
    jobs = [decided(words, variables, node, spec.nodes).job for node in (0, spec.nodes - 1)]
    assert [job.gang.node_rank for job in jobs] == [0, spec.nodes - 1]
    assert {job.gang.leader for job in jobs} == {"node01"}
    assert len({job.gang.port for job in jobs}) == 1
    assert {job.gang.min_nodes for job in jobs} == {spec.nodes}
    assert {job.gang.epoch for job in jobs} == {2}
    assert {job.nproc for job in jobs} == {spec.nproc}
    assert all(job.secret for job in jobs)
    assert {job.limits.grace_s for job in jobs} == {float(spec.grace_s)}


def test_without_its_secret_nothing_is_started(tmp_path: Path) -> None:
    code, words, _ = run(small(TCP), tmp_path)
    assert code == 64
    assert words == []


def test_a_code_that_is_no_other_try_is_the_jobs(tmp_path: Path) -> None:
    spec = small(TCP)
    with_secret(spec, tmp_path)
    assert run(spec, tmp_path, CODE="78")[0] == 78
    assert NETWORKS[TCP] == spec.network


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        (small(TCP, volumes={"/data": "a", "/a,b": "c"}), "volumes is /a,b"),
        (small(TCP, checkpoint=Checkpoint("c", "/x,/y")), "checkpoint.path is /x,/y"),
    ],
)
def test_a_path_that_would_be_two_mounts_is_refused(spec: Spec, field: str) -> None:
    with pytest.raises(SettingError, match=rf"^{field}: Pyxis takes a comma") as said:
        render(spec, "slurm", NEW)
    assert "\n" not in str(said.value)
    assert render(small(TCP, checkpoint=Checkpoint("", "/x,/y")), "slurm", NEW).texts
