# SPDX-License-Identifier: Apache-2.0
"""``--explain`` and ``--dry-run``: what is in force, what each rank gets; nothing runs."""

import re
import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from discovery_machines import hgx_h100
from memory_source import MemorySource

from rdmatrain.cli import cli
from rdmatrain.discovery.interfaces import Interface
from rdmatrain.discovery.model import Gid, Node
from rdmatrain.discovery.pairing import pair
from rdmatrain.discovery.pod_model import Allocation, GrantedGpu, GrantedNic, Pod
from rdmatrain.discovery.survey import Survey
from rdmatrain.launcher.explain import dry_run_text, explain_text
from rdmatrain.launcher.resolve import Resolved, resolve

EMPTY = MemorySource({})
SECRET = "never to be seen anywhere"


def pod() -> Survey:
    machine = replace(
        hgx_h100(),
        nodes=(Node(0, tuple(range(32))), Node(1, tuple(range(32, 64)))),
        cpus=tuple(range(64)),
    )
    gid = Gid(3, "10.0.0.1", "RoCE v2", "net1")
    allocation = Allocation(
        tuple(GrantedGpu(gpu, ()) for gpu in machine.gpus),
        tuple(GrantedNic(nic, 1, gid, "", ()) for nic in machine.nics),
    )
    pairs, _ = pair(machine, machine.gpus, machine.nics)
    return Survey(machine, Pod(), allocation, pairs, interface=Interface("eth0", ""))


def resolved(**options: object) -> Resolved:
    variables = {"RDMATRAIN_SECRET": SECRET, "PET_MAX_RESTARTS": "3"}
    return resolve({"script": __file__, **options}, variables, pod())


def test_each_rank_is_shown_with_its_devices_cpus_and_variables() -> None:
    found = pod()
    job = resolved(nproc_per_node="8", nnodes="2", node_rank="1", master_addr="fd00::1").job
    lines = dry_run_text(job, found, {"HOME": "/root"}, EMPTY).splitlines()
    assert lines[0].startswith("node 1 of 2 on ")
    assert lines[0].endswith(": 8 workers of 16, node 0 at fd00::1 port 29500")
    ranks = [line for line in lines if line.startswith("rank ")]
    assert len(ranks) == 8
    for local_rank, line in enumerate(ranks):
        gpu, pairing = found.allocation.gpus[local_rank].gpu, found.pairs[local_rank]
        assert line.startswith(f"rank {8 + local_rank} (local rank {local_rank}): {gpu.name} ")
        assert f"NIC {pairing.nic.name}/1 gid 3" in line
        cpus = re.search(r"; CPUs ([0-9,-]+)$", line)
        assert cpus and gpu.numa is not None
        assert gpu.numa * 32 <= int(cpus[1].split("-")[0]) < (gpu.numa + 1) * 32
    first = lines[1 : lines.index(ranks[1])]
    assert "    RANK=8" in first and "    WORLD_SIZE=16" in first
    assert not any("HOME" in line for line in lines)
    assert lines[-2].endswith("; nothing was started")
    assert lines[-1].startswith("! OMP_NUM_THREADS is unset: set to 8 for each of 8 workers")


def test_a_number_that_is_dealt_out_is_not_made_up() -> None:
    job = resolved(nnodes="1:4", master_addr="head").job
    first = dry_run_text(job, pod(), {}, EMPTY).splitlines()[0]
    assert first.startswith("a node of 4, shown as node 0: numbers are dealt out")


def test_without_a_survey_there_are_no_devices() -> None:
    job = resolve({"script": __file__, "nproc_per_node": "2"}, {}, None).job
    text = dry_run_text(job, None, {"OMP_NUM_THREADS": "1"}, EMPTY)
    assert text.count("no GPU; no NIC; CPUs as they are") == 2
    assert "!" not in text


def test_each_value_is_explained_with_its_source() -> None:
    found = resolved(nnodes="2", master_addr="head", monitor_interval="1")
    rows = {line.split()[0]: line for line in explain_text(found).splitlines()}
    assert rows["nnodes"].split() == ["nnodes", "2", "--nnodes"]
    assert rows["leader"].split() == ["leader", "head", "--master-addr"]
    assert rows["max_restarts"].split() == ["max_restarts", "3", "PET_MAX_RESTARTS"]
    assert rows["hang_timeout"].split() == ["hang_timeout", "8", "default"]
    assert rows["secret"].split() == ["secret", "given", "RDMATRAIN_SECRET"]
    assert rows["!"] == "! --monitor-interval is not used: a worker that ends is seen at once"


def test_secrets_and_the_scripts_arguments_are_never_shown() -> None:
    arguments = ("--token", "hunter2-hunter2")
    found = resolved(nnodes="2", master_addr="head", script_args=arguments)
    environ = {"RDMATRAIN_SECRET": SECRET, "API_KEY": "hunter2-hunter2"}
    text = explain_text(found) + dry_run_text(found.job, pod(), environ, EMPTY)
    assert SECRET not in text and "hunter2" not in text


@pytest.mark.parametrize("options", [["--explain"], ["--dry-run"], ["--explain", "--dry-run"]])
def test_nothing_is_started(tmp_path: Path, options: list[str]) -> None:
    script = tmp_path / "t.py"
    script.write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    done = CliRunner().invoke(cli, ["run", *options, "--nproc-per-node", "2", str(script)])
    assert done.exit_code == 0, done.output
    assert ("nnodes" in done.output) is ("--explain" in options)
    assert ("rank 1 " in done.output) is ("--dry-run" in options)
    assert not (tmp_path / "ran").exists()


def test_a_job_that_would_be_refused_is_refused() -> None:
    done = CliRunner().invoke(cli, ["run", "--explain", "--nnodes", "2", __file__])
    assert done.exit_code == 64
    assert "not where node 0 is" in done.output


def cpu_s(*arguments: str) -> float:
    """CPU time of Python with them, as the machine may be busy: the least of several."""
    took_s = []
    for _ in range(5):
        began = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, *arguments], check=True, capture_output=True, timeout=60)
        ended = resource.getrusage(resource.RUSAGE_CHILDREN)
        took_s.append(ended.ru_utime + ended.ru_stime - began.ru_utime - began.ru_stime)
    return min(took_s)


def test_help_answers_at_once() -> None:
    # Below 0.1 s where importing click, which no help can do without, takes 0.05 s.
    assert cpu_s("-m", "rdmatrain.cli", "run", "--help") < 2.5 * cpu_s("-c", "import click")


def test_help_loads_nothing_heavy() -> None:
    program = """
import sys
from rdmatrain.cli import cli
try:
    cli(["run", "--help"])
finally:
    heavy = {"asyncio", "matplotlib", "numpy", "rdmatrain.bench.model", "ssl", "torch"}
    sys.exit(f"loaded: {heavy & set(sys.modules)}" if heavy & set(sys.modules) else 0)
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
