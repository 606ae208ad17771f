# SPDX-License-Identifier: Apache-2.0
"""``rdmatrain k8s check``: what it prints, as JSON, patched, and its exit code."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from k8s_bad_manifests import FIXTURES, manifest

from rdmatrain.doctor.manifest import command as doctor_command
from rdmatrain.doctor.manifest.commands import (
    simple_words,
    with_exec,
    with_option,
    without_assignment,
    without_option,
)
from rdmatrain.doctor.model import Verdict
from rdmatrain.errors import SettingError
from rdmatrain.k8s.check import all_questions, check, patches, run_check

BAD = FIXTURES / "bad"
SCHEMA = Path(doctor_command.__file__).parents[1] / "schemas" / "doctor.schema.json"
GANG = str(BAD / "gang-above-replicas.yaml")


def run(*files: str, **options: Any) -> tuple[int, str]:
    said: list[str] = []
    code = run_check(files, said.append, **options)
    assert len(said) <= 1
    return code, "".join(said)


def test_says_what_is_wrong_where_and_what_to_patch() -> None:
    code, text = run(GANG)
    assert code == 200, "as the launcher's where the gang does not meet"
    first, fix, *_ = text.splitlines()
    assert first.startswith("FAIL gang-minimum: ")
    assert "8 pods are waited for, and there are 4" in " ".join(text.split())
    assert "fix: spec.minAvailable: 4" in text
    assert fix
    assert f"{len(all_questions())} checks of {GANG}" in text
    assert text.splitlines()[-1].endswith("patches that --patch makes")


def test_nothing_fails_and_the_exit_code_is_0() -> None:
    code, text = run(str(FIXTURES / "job.yaml"))
    assert code == 0
    assert "FAIL " not in text.replace("0 FAIL", "")


def test_json_is_by_the_schema_of_the_doctor_and_has_json_patches() -> None:
    code, text = run(GANG, json=True)
    document = json.loads(text)
    jsonschema.validate(document, json.loads(SCHEMA.read_text("utf-8")))
    assert (document["scope"], document["exit_code"], code) == ("manifest", 200, 200)
    found = {each["id"]: each for each in document["checks"]}
    assert found["gang-minimum"]["patch"] == [
        {
            "file": GANG,
            "object": "Job pretrain",
            "operations": [{"op": "replace", "path": "/spec/minAvailable", "value": 4}],
        }
    ]
    (budget,) = found["disruption-budget"]["patch"]
    assert budget["operations"] == []
    assert budget["add"]["kind"] == "PodDisruptionBudget"
    assert found["privileged"]["patch"] == []


def test_patch_writes_a_stream_that_passes(tmp_path: Path) -> None:
    code, text = run(GANG, patch=True)
    assert code == 0
    assert text.startswith("# rdmatrain k8s check --patch: ")
    job = next(iter(yaml.safe_load_all(text)))
    assert job["spec"]["minAvailable"] == 4
    target = tmp_path / "patched.yaml"
    assert run(GANG, patch=True, output=str(target)) == (0, "")
    assert target.read_text("utf-8").rstrip() == text.rstrip()
    assert run(str(target))[0] == 0


def test_what_cannot_be_patched_is_left_as_a_comment(tmp_path: Path) -> None:
    target = tmp_path / "job.yaml"
    good = (FIXTURES / "job.yaml").read_text("utf-8")
    target.write_text(good.replace("train:1.4", "train"), "utf-8")
    _, text = run(str(target), patch=True)
    assert "# left: WARN image-tag: " in text
    assert [each["kind"] for each in yaml.safe_load_all(text)][:2] == [
        "Service",
        "NetworkAttachmentDefinition",
    ]


def test_several_files_are_one_manifest(tmp_path: Path) -> None:
    job, queues = (tmp_path / name for name in ("job.yaml", "queues.yaml"))
    text = (BAD / "quota-without-vfs.yaml").read_text("utf-8")
    first, mark, rest = text.partition("---\n")
    job.write_text(first, "utf-8")
    queues.write_text(mark + rest, "utf-8")
    assert "queue-covers" not in run(str(job))[1]
    code, said = run(str(job), str(queues))
    assert code == 200
    assert "FAIL queue-covers" in said
    _, patched = run(str(job), str(queues), patch=True)
    queue = next(each for each in yaml.safe_load_all(patched) if each["kind"] == "ClusterQueue")
    (group,) = queue["spec"]["resourceGroups"]
    assert group["coveredResources"][-1] == "nvidia.com/rdma-vf"
    assert group["flavors"][0]["resources"][-1] == {"name": "nvidia.com/rdma-vf", "nominalQuota": 4}


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"json": True, "patch": True}, "--json and --patch"),
        ({"output": "x"}, "--output x"),
        ({"patch": True, "output": "/no/such/folder/x"}, "/no/such/folder/x cannot be written"),
    ],
)
def test_options_that_cannot_be_are_refused(options: dict[str, Any], word: str) -> None:
    with pytest.raises(SettingError, match=word) as error:
        run(GANG, **options)
    assert "\n" not in str(error.value)


def test_a_file_without_pods_is_refused(tmp_path: Path) -> None:
    target = tmp_path / "a.yaml"
    target.write_text("kind: Service\n", "utf-8")
    with pytest.raises(SettingError, match="there is no pod"):
        run(str(target))


def test_ids_are_asked_once_each() -> None:
    ids = [each.check.id for each in all_questions()]
    assert len(ids) == len(set(ids))
    assert all(each.check.why and each.check.title for each in all_questions())


def verdict(text: str, name: str) -> tuple[str, str]:
    found = next(each for each in check(manifest(text)) if each.check.id == name)
    return found.verdict.value, found.finding.evidence


VOLCANO = (BAD / "token-of-the-cluster.yaml").read_text("utf-8")
JOB = (BAD / "no-network-policy.yaml").read_text("utf-8")
POLICY = """\
---
kind: NetworkPolicy
metadata: {name: p, namespace: %s}
spec: {podSelector: {matchLabels: {app: pretrain}}, policyTypes: %s, %s}
"""
PEERS = "ingress: [{from: [{podSelector: {matchLabels: {app: pretrain}}}]}]"
METRICS = ("rdmatrain, run, ", 'rdmatrain, run, --metrics-port, "9400", ')


@pytest.mark.parametrize(
    ("name", "text", "wanted", "word"),
    [
        ("network-policy", VOLCANO + POLICY % ("research", "[Ingress]", PEERS), "PASS", "peers"),
        # Of another namespace, it is about other pods.
        ("network-policy", VOLCANO + POLICY % ("other", "[Ingress]", PEERS), "WARN", "every pod"),
        ("network-policy", VOLCANO + POLICY % ("research", "[Ingress]", "a: b"), "FAIL", "ingress"),
        (
            "network-policy",
            VOLCANO + POLICY % ("research", "[Ingress, Egress]", f"{PEERS}, egress: []"),
            "FAIL",
            "egress",
        ),
        ("network-policy", VOLCANO.replace(', "--disable-network-policy=true"', ""), "PASS", "svc"),
        ("metrics-reachable", VOLCANO, "SKIP", "no container"),
        ("metrics-reachable", VOLCANO.replace(*METRICS), "PASS", "port 9400"),
        (
            "metrics-reachable",
            VOLCANO.replace(*METRICS) + POLICY % ("research", "[Ingress]", PEERS),
            "WARN",
            "Prometheus wants port 9400",
        ),
        ("restart-unit", VOLCANO, "PASS", "all pods start again"),
        (
            "restart-unit",
            VOLCANO.replace("  - {event: PodFailed, action: AbortJob}\n", ""),
            "WARN",
            "wait for ever",
        ),
        ("restart-unit", JOB, "PASS", "without a reason"),
        ("selectors", JOB, "PASS", "selects pods"),
        ("disruption-budget", JOB, "WARN", "one by one"),
        ("secret-plain", JOB, "PASS", "is in a Secret"),
        ("pod-security", JOB, "SKIP", "a namespace refuses that enforces baseline"),
        ("pod-security", JOB.replace("[IPC_LOCK]", "[CHOWN]"), "PASS", "nothing of the node"),
    ],
)
def test_rules(name: str, text: str, wanted: str, word: str) -> None:
    found, evidence = verdict(text, name)
    assert (found, word in evidence) == (wanted, True), evidence


def test_a_patch_has_what_its_text_shows() -> None:
    for each in check(manifest(VOLCANO)):
        if each.verdict is not Verdict.PASS:
            assert all(str(fix) in each.finding.fix for fix in patches(each)[:1])


@pytest.mark.parametrize(
    ("script", "better"),
    [
        ("cd /a && rdmatrain run x", "cd /a && exec rdmatrain run x"),
        ("set -e\nA=1 B='x y' torchrun x\n", "set -e\nexec env A=1 B='x y' torchrun x\n"),
        ("echo a; rdmatrain run x 2>&1", "echo a; exec rdmatrain run x 2>&1"),
        ("rdmatrain run \\\n  x", "exec rdmatrain run \\\n  x"),
        ("rdmatrain run x; cleanup", ""),
        ("rdmatrain run x | tee log", ""),
        ("exec rdmatrain run x", ""),
        ("echo rdmatrain runs", ""),
    ],
)
def test_exec_is_put_before_the_launcher(script: str, better: str) -> None:
    assert with_exec(script) == better


@pytest.mark.parametrize(
    ("script", "left"),
    [
        ("mpirun -x NCCL_IB_HCA=mlx5_0 -np 2 a", "mpirun -np 2 a"),
        ("export NCCL_IB_HCA=mlx5_0\nrun", "run"),
        ("export NCCL_IB_HCA=a; run", "run"),
        ("NCCL_IB_HCA='a b' run", "run"),
        ("OTHER_NCCL_IB_HCA=a run", "OTHER_NCCL_IB_HCA=a run"),
    ],
)
def test_a_script_forgets_a_variable(script: str, left: str) -> None:
    assert without_assignment(script, "NCCL_IB_HCA") == left


def test_options_of_commands_are_changed() -> None:
    assert without_option(["run", "--transport", "tcp", "x"], "--transport tcp") == ["run", "x"]
    assert without_option(["run", "--transport=tcp"], "--transport tcp") == ["run"]
    assert without_option(["run --transport tcp x"], "--transport tcp") == ["run x"]
    assert without_option(["--transport", "verbs"], "--transport tcp") == ["--transport", "verbs"]
    assert with_option(["--master-port", "1", "x"], "--master-port", "2") == [
        "--master-port",
        "2",
        "x",
    ]
    assert with_option(["a --master_port=1 b"], "--master-port", "2") == ["a --master_port=2 b"]


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("rdmatrain run x", ["rdmatrain", "run", "x"]),
        ("exec rdmatrain run 'a b'", ["rdmatrain", "run", "a b"]),
        ("rdmatrain run $X", []),
        ("A=1 rdmatrain run", []),
        ("a; b", []),
        ("a 'b", []),
    ],
)
def test_simple_scripts_need_no_shell(script: str, words: list[str]) -> None:
    text = (
        f"kind: Pod\nspec: {{containers: [{{name: a, command: [sh, -c, {json.dumps(script)}]}}]}}"
    )
    assert simple_words(manifest(text).pods[0].containers[0]) == words
