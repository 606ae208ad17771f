# SPDX-License-Identifier: Apache-2.0
"""A survey puts all together, and a snapshot of a pod, redacted or not, gives the same one."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pod_scenarios
import pytest
from fake_machine import Builder
from memory_source import MemorySource
from survey_answer import answer

from rdmatrain.discovery.model import Machine
from rdmatrain.discovery.orchestrator import Identity, whoami
from rdmatrain.discovery.pod import read_pod
from rdmatrain.discovery.snapshot import Recorder, dump, load
from rdmatrain.discovery.source import Source
from rdmatrain.discovery.survey import Survey, survey, survey_machine

ORCHESTRATORS = Path(__file__).parents[1] / "fixtures" / "orchestrators"
GOLDEN = sorted(ORCHESTRATORS.glob("*.json"), key=lambda path: path.stem)


def replayed(source: Source, redact: bool) -> Survey:
    recorder = Recorder(source)
    survey(recorder)
    return survey(load(dump(recorder, redact), "x"))


@pytest.mark.parametrize("name", pod_scenarios.NAMES)
def test_a_snapshot_of_a_pod_gives_the_same_survey(name: str, tmp_path: Path) -> None:
    source = pod_scenarios.write(pod_scenarios.load(name), tmp_path)
    live = survey(source)
    assert replayed(source, redact=False) == live
    assert answer(replayed(source, redact=True)) == answer(live)


def facts_of(golden: dict[str, Any]) -> MemorySource:
    """A pod that an orchestrator started, as files."""
    files: dict[str, Any] = dict(golden.get("files", {}))
    for path, name in (("/proc/self/environ", "env"), ("/proc/1/environ", "env_of_process_1")):
        variables = golden.get(name, {})
        files[path] = "".join(f"{key}={value}\0" for key, value in variables.items())
    for name in ("annotations", "labels"):
        notes = [f"{key}={json.dumps(text)}" for key, text in golden.get(name, {}).items()]
        files[f"/etc/podinfo/{name}"] = "\n".join(notes)
    return MemorySource(files)


def role(identity: Identity) -> dict[str, Any]:
    """Who it is, without names: the leader by the numbers of its name."""
    leader = [] if ":" in identity.leader else re.findall("[0-9]+", identity.leader)
    return {
        "orchestrator": (identity.orchestrator, identity.within),
        "node": (identity.nnodes, identity.node_rank, identity.nproc_per_node, identity.epoch),
        "leader": (bool(identity.leader), leader[-2:], identity.leader_port),
        "complaints": [each.id for each in identity.complaints],
    }


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_a_redacted_snapshot_says_the_same_of_who_it_is(path: Path) -> None:
    source = facts_of(json.loads(path.read_text()))
    recorder = Recorder(source)
    live = whoami(recorder, read_pod(recorder))
    again = load(dump(recorder, redact=True), "x")
    assert role(whoami(again, read_pod(again))) == role(live)


V2 = {3: ("10.1.0.7", "RoCE v2")}


def two_roots(folder: Path, **variables: str) -> Builder:
    """Two GPUs, each with a NIC below its switch; NICs are named the other way round."""
    machine = Builder(folder).numa(0, "0-3").numa(1, "4-7").environ("self", variables)
    for number, root in enumerate(("pci0000:10", "pci0000:20")):
        under = (root, f"0000:0{number}:01.0")
        machine.gpu(f"0000:1{number}:00.0", under, minor=number, uuid=f"GPU-{number}", numa=number)
        machine.nic(
            f"mlx5_{1 - number}", f"0000:1{number}:01.0", under,
            netdev=f"net{number}", gids=V2, numa=number,
        )  # fmt: skip
    return machine


def pairs_of(found: Survey) -> list[tuple[str, str]]:
    return [(each.gpu.uuid, each.nic.name) for each in found.pairs]


def test_it_puts_together_what_the_others_found(tmp_path: Path) -> None:
    machine = two_roots(tmp_path, NCCL_IB_HCA="mlx5_0", VC_TASK_INDEX="0")
    found = survey(machine.source(), "a box")
    assert found.machine.origin == "a box"
    assert found.identity is not None and found.identity.orchestrator == "volcano"
    assert pairs_of(found) == [("GPU-0", "mlx5_1"), ("GPU-1", "mlx5_0")]
    assert [each.nics[0].name for each in found.bindings] == ["mlx5_1", "mlx5_0"]
    assert [each.cpus for each in found.bindings] == [(0, 1, 2, 3), (4, 5, 6, 7)]
    assert found.environment is not None
    chosen = {each.name: each for each in found.environment.common}["NCCL_IB_HCA"]
    assert (chosen.value, chosen.given) == ("mlx5_0", True)
    assert found.pod is not None


def test_only_variables_that_ranks_inherit_are_the_user_s(tmp_path: Path) -> None:
    machine = two_roots(tmp_path, PATH="/bin").environ(1, {"NCCL_IB_HCA": "mlx5_0"})
    environment = survey(machine.source()).environment
    assert environment is not None
    assert [each for each in environment.common if each.given] == []


def test_there_are_as_many_ranks_as_the_orchestrator_says(tmp_path: Path) -> None:
    machine = two_roots(tmp_path, PET_NNODES="2", PET_NODE_RANK="0", PET_NPROC_PER_NODE="4")
    assert [each.local_rank for each in survey(machine.source()).bindings] == [0, 1, 2, 3]


def test_a_nic_that_does_not_work_is_not_paired_while_others_do(tmp_path: Path) -> None:
    machine = two_roots(tmp_path, PCIDEVICE_X="0000:10:01.0,0000:11:01.0")
    machine.file("/sys/class/infiniband/mlx5_1/ports/1/state", "1: DOWN\n")
    found = survey(machine.source())
    assert [nic.name for nic, _ in found.allocation.others] == ["mlx5_1"]
    assert pairs_of(found) == [("GPU-0", "mlx5_0"), ("GPU-1", "mlx5_0")]


def test_complaints_come_from_all_of_them(tmp_path: Path) -> None:
    granted = {"PCIDEVICE_X": "0000:10:01.0,0000:11:01.0"}
    machine = two_roots(tmp_path, NCCL_IB_GID_INDEX="9", PET_NNODES="many", **granted)
    machine.file("/sys/class/infiniband/mlx5_1/ports/1/state", "1: DOWN\n")
    machine.file("/etc/podinfo/annotations", "garbage\n")
    told = [each.id for each in survey(machine.source()).complaints]
    # Of the pod, the allocation, pairing, the user's variables and the orchestrator.
    order = ["unreadable", "nic-port-down", "nic-shared", "variable-gid", "not-a-number"]
    assert [each for each in told if each in order] == order


def test_a_file_of_a_machine_has_pairs_of_all_and_no_pod() -> None:
    found = survey_machine(Machine("a file"))
    assert (found.pod, found.environment, found.identity, found.pairs) == (None, None, None, ())
    assert replace(found.machine) == Machine("a file")


def test_each_complaint_is_there_once_and_in_the_same_order(tmp_path: Path) -> None:
    source = pod_scenarios.write(pod_scenarios.load(pod_scenarios.NAMES[0]), tmp_path)
    complaints = survey(source).complaints
    assert complaints == tuple(dict.fromkeys(complaints))
    assert complaints == survey(source).complaints
