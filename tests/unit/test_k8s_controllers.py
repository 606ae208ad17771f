# SPDX-License-Identifier: Apache-2.0
"""What simulated controllers give pods is what the recorded environments of real ones have.

So the renderer and the simulator cannot share a belief that the fixtures, by which discovery is
tested, do not have.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from k8s_controllers import pods_of
from k8s_injection import names_of
from k8s_pods import Object, Pod
from k8s_specs import TCP, rendered, small

FIXTURES = Path(__file__).parents[1] / "fixtures" / "orchestrators"
# What kubelet and the image give to every pod.
_OF_ALL = {"KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT", "PATH", "HOME", "HOSTNAME"}


@dataclass(frozen=True)
class Recorded:
    """The job of a fixture, and which of its pods that is.

    Attributes:
        spec: fields of the spec that makes the same job.
        workload: fields of the workload that the renderer would write otherwise.

    """

    target: str
    number: int
    spec: dict[str, Any]
    restarts: int = 0
    workload: tuple[tuple[str, Any], ...] = ()


RECORDED = {
    "volcano_svc": Recorded("volcano", 2, {"queue": "research"}, restarts=3),
    "trainer": Recorded("trainjob", 1, {"nodes": 2, "workers": 8}),
    "pytorchjob_master": Recorded("pytorchjob", 0, {"name": "bert", "nodes": 2, "workers": 8}),
    "pytorchjob_worker": Recorded(
        "pytorchjob", 3, {"name": "bert"}, workload=(("nprocPerNode", "gpu"),)
    ),
    "jobset": Recorded("jobset", 5, {"nodes": 16}, restarts=1),
    "lws": Recorded("lws", 3, {}),
    "mpijob_launcher_as_worker": Recorded("mpijob", 0, {"name": "nccl", "nodes": 3, "workers": 8}),
    "indexed_job": Recorded("indexed-job", 3, {}),
}
every_fixture = pytest.mark.parametrize("name", RECORDED)


def fixture(name: str) -> Object:
    found: Object = json.loads((FIXTURES / f"{name}.json").read_text("utf-8"))
    return found


def pod(name: str) -> Pod:
    """The same pod of the simulator."""
    job = RECORDED[name]
    objects = list(rendered(job.target, small(TCP, **job.spec)).objects)
    objects[-1]["spec"].update(job.workload)
    return pods_of(objects, job.restarts)[job.number]


def form(value: str) -> str:
    """A value with its numbers and hashes left out: ``llm-worker-2`` is ``llm-worker-#``."""
    return re.sub(r"\b[0-9a-f]*\d[0-9a-f]*\b", "#", value)


@every_fixture
def test_variables_are_those_that_were_recorded(name: str) -> None:
    recorded = {key: value for key, value in fixture(name)["env"].items() if key not in _OF_ALL}
    assert dict(pod(name).env) == recorded


@every_fixture
def test_labels_annotations_and_files_are_those_that_were_recorded(name: str) -> None:
    recorded, made = fixture(name), pod(name)
    for kind, given in (("labels", made.labels), ("annotations", made.annotations)):
        wanted = {key: form(value) for key, value in recorded.get(kind, {}).items()}
        assert {key: form(given.get(key, "missing")) for key in wanted} == wanted
    files = recorded.get("files", {})
    wanted = {path: text for path, text in files.items() if path not in names_of(made)}
    assert dict(made.files) == wanted


@every_fixture
def test_a_pod_is_called_as_was_recorded(name: str) -> None:
    files, made = fixture(name).get("files", {}), names_of(pod(name))
    if files:
        assert made["/etc/hostname"] == files["/etc/hostname"]
        ours, theirs = (each["/etc/hosts"].splitlines()[-1].split() for each in (made, files))
        assert ours[1:] == theirs[1:]


def test_a_form_has_all_but_numbers() -> None:
    assert form("llm-worker-2") == form("llm-worker-13") != form("llm-2")
    assert form("llm-5f0c") == "llm-#"
    assert form("train") == "train"
