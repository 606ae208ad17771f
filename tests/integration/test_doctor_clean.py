# SPDX-License-Identifier: Apache-2.0
"""Where nothing is wrong, the doctor says so: a hundred runs without a FAIL."""

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from doctor_faults.fault import Answer, environ_of, look
from doctor_faults.orchestrated import GOLDEN, files_of
from doctor_faults.sandbox import IN_GPU_POD, IN_JOB, LONE, asking, possible
from doctor_pods import bare, pod
from pod_scenarios import NAMES, load

from rdmatrain.doctor.model import Case, Needs

pytestmark = pytest.mark.timeout(300)

LEAST = 100
HARMLESS = {
    "as it is": {},
    "NCCL says more": {"NCCL_DEBUG": "INFO", "NCCL_DEBUG_SUBSYS": "INIT,NET"},
    "another library's variables": {"MY_NCCL_MODE": "x", "RDMAV_FORK_SAFE": "1", "HTTP_PROXY": "p"},
    "a job of two": {
        "PET_NNODES": "2",
        "PET_NODE_RANK": "1",
        "PET_MASTER_ADDR": "10.244.1.4",
        "PET_MASTER_PORT": "29500",
    },
}
LIVE = {
    "this machine": LONE,
    "this machine, as somebody": LONE.but(user=1000),
    "this machine, checkpoints": LONE.but(options=("--checkpoint-dir", "{here}")),
    "this machine, TCP on purpose": LONE.but(options=("--transport", "tcp")),
    "a job's second pod": IN_JOB,
    "a job's second pod, as somebody": IN_JOB.but(user=1000),
    "a job's first pod": IN_JOB.but(
        env={"PET_NODE_RANK": "0", "PET_MASTER_ADDR": "worker-1.train"}
    ),
    "limits on a GPU pod": IN_GPU_POD,
}


def _benign(name: str) -> bool:
    expected = load(name)["expect"]
    return not expected.get("complaints")


def saved() -> Iterator[tuple[str, list[Answer]]]:
    """Pods of the fixtures that discovery has no complaint of, and environments of jobs."""
    for name in filter(_benign, NAMES):
        for what, more in HARMLESS.items():
            case = pod(name, {"/proc/self/environ": environ_of(name, more)})
            if "PET_NNODES" not in more or _has_a_way_out(case):
                yield f"{name}, {what}", look(case)
        yield f"{name}, over TCP", look(pod(name, needs=Needs(transport="tcp")))
    for name, golden in GOLDEN.items():
        if _is_whole(golden["expect"]):
            yield name, look(bare(files_of(golden)))


def _has_a_way_out(case: Case) -> bool:
    """Some fixtures have no route but those to their NICs' networks, where no job meets."""
    return case.found.interface is not None and bool(case.found.interface.name)


def _is_whole(expected: Mapping[str, Any]) -> bool:
    told = (expected.get("node_rank"), expected.get("nnodes"), expected.get("leader"))
    return not expected.get("complaints") and None not in told


def _failures(answers: list[Answer]) -> list[str]:
    return [str(each) for each in answers if each.verdict == "FAIL"]


def test_saved_pods_without_a_fault() -> None:
    wrong = {}
    runs = 0
    for name, answers in saved():
        runs += 1
        wrong |= {name: _failures(answers)} if _failures(answers) else {}
    assert not wrong
    assert runs >= LEAST


def test_this_machine() -> None:
    if not possible():
        pytest.skip("only root may make namespaces and limits, with util-linux and iproute2")

    def ask(name: str) -> list[str]:
        return _failures(asking(LIVE[name])())

    with ThreadPoolExecutor(2) as pool:
        answers = dict(zip(LIVE, pool.map(ask, LIVE), strict=True))
    assert not {name: failures for name, failures in answers.items() if failures}
