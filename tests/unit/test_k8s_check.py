# SPDX-License-Identifier: Apache-2.0
"""``rdmatrain k8s check``: what it prints, as JSON, patched, and its exit code."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from k8s_bad_manifests import FIXTURES, manifest
from k8s_specs import NETWORKS, TCP, rendered, small

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
from rdmatrain.k8s.check import all_questions, check, patched, patches, run_check
from rdmatrain.k8s.text import stream

BAD = FIXTURES / "bad"
SHARED = Path(__file__).resolve().parents[3] / "shared" / "fixtures"
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


@pytest.mark.parametrize("name", ["too-many-capabilities", "misspelt-spec", "fractional-cpus"])
def test_what_is_left_is_on_the_lines_of_what_was_written(name: str, tmp_path: Path) -> None:
    target = tmp_path / "patched.yaml"
    run(str(BAD / f"{name}.yaml"), patch=True, output=str(target))
    lines = target.read_text("utf-8").splitlines()
    left = [each.removeprefix("# left: ") for each in lines if each.startswith("# left: ")]
    said = run(str(target))[1].splitlines()
    assert left
    assert [each for each in left if each not in said] == []


def test_what_cannot_be_patched_is_left_as_a_comment(tmp_path: Path) -> None:
    target = tmp_path / "job.yaml"
    good = (FIXTURES / "job.yaml").read_text("utf-8")
    target.write_text(good.replace("train:1.4", "train"), "utf-8")
    _, text = run(str(target), patch=True)
    (place,) = re.findall(r"^# left: WARN image-tag: patched:(\d+): ", text, re.MULTILINE)
    assert text.splitlines()[int(place) - 1].strip() == "image: example/train"
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


@pytest.mark.parametrize("text", ["", "hello", "a: 1\n---\n[1, 2]"])
def test_a_file_without_objects_is_refused(text: str, tmp_path: Path) -> None:
    target = tmp_path / "a.yaml"
    target.write_text(text, "utf-8")
    with pytest.raises(SettingError, match="there is no object"):
        run(str(target))


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("oci/kueue-topology.yaml", ["WARN api-version"]),
        ("oci/sriov-network.yaml", []),
        ("oci/sriov-network-node-policy.yaml", ["WARN pci-quoted"]),
        ("manifests/sriov.yaml", []),
    ],
)
def test_objects_of_the_cluster_alone_are_looked_at(name: str, found: list[str]) -> None:
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"{path} is not there: public samples are not part of the repository")
    code, text = run(str(path))
    assert (code, re.findall("^(?:FAIL|WARN) [a-z-]+", text, re.MULTILINE)) == (0, found)


@pytest.mark.parametrize(
    ("policy", "found"),
    [
        ("isRdma: true, mtu: 4220", []),
        ("isRdma: false, mtu: 4220", ["rdma-namespace"]),
        ("isRdma: true, mtu: 1500", ["mtu"]),
        ("isRdma: true, mtu: 4220, excludeTopology: true", ["numa-alignment"]),
    ],
)
def test_policies_count_where_no_pod_asks(policy: str, found: list[str]) -> None:
    text = f"kind: SriovNetworkNodePolicy\nspec: {{resourceName: vf, {policy}}}\n"
    assert [
        each.check.id
        for each in check(manifest(text))
        if each.verdict in {Verdict.WARN, Verdict.FAIL}
    ] == found
    # Nor do they where pods ask for other devices.
    asked = "---\nkind: Pod\nspec: {containers: [{name: a, resources: {limits: {x/rdma-vf: 1}}}]}\n"
    ids = {each.check.id for each in check(manifest(text + asked)) if each.verdict is Verdict.WARN}
    assert not ids & {"mtu", "numa-alignment"}


def test_selectors_without_a_pod_select_those_of_another_file() -> None:
    assert verdict(POLICY % ("research", "[Ingress]", PEERS), "selectors")[0] == "SKIP"


OF_THE_NODE = """\
kind: Pod
metadata: {annotations: {%s}}
spec:
  hostNetwork: %s
  volumes: [{name: v, hostPath: {path: %s}}]
  initContainers: [{name: first, volumeMounts: [{name: v, mountPath: /a}]}]
  containers:
  - name: t
    securityContext: {privileged: %s}
    volumeMounts: [{name: v, mountPath: /x}, {name: w, mountPath: /y}]
"""


def of_the_node(reason: str = "", network: str = "false", path: str = "/data", root: str = "false"):
    return OF_THE_NODE % (reason, network, path, root)


@pytest.mark.parametrize(
    ("text", "name", "wanted"),
    [
        (of_the_node(root="true"), "privileged", "FAIL"),
        (of_the_node(), "privileged", "PASS"),
        (of_the_node(path="/dev/infiniband"), "uverbs-nodes", "FAIL"),
        (of_the_node(path="/dev/infiniband", root="true"), "device-granted", "FAIL"),
        (of_the_node(path="/dev/nvidia0"), "pod-security", "FAIL"),
        (of_the_node(path="/dev", root="true"), "device-granted", "FAIL"),
        (of_the_node(path="/"), "pod-security", "FAIL"),
        (of_the_node(path="/proc/../"), "pod-security", "FAIL"),
        (of_the_node(path="/run/containerd/containerd.sock"), "pod-security", "FAIL"),
        (of_the_node(path="/etc"), "pod-security", "FAIL"),
        (of_the_node(path="/var/run"), "pod-security", "FAIL"),
        (of_the_node(path="/var/lib/kubelet"), "pod-security", "FAIL"),
        (of_the_node().replace("  hostN", "  hostPID: true\n  hostN"), "pod-security", "FAIL"),
        (of_the_node(path="/data"), "pod-security", "WARN"),
        (of_the_node(path="/dev/shm"), "pod-security", "WARN"),
        (of_the_node(network="true"), "host-network-reason", "FAIL"),
        (of_the_node("rdmatrain/host-network-reason: no CNI", "true"), "host-network-reason",
         "PASS"),
        (of_the_node(), "host-network-reason", "SKIP"),
    ],
)  # fmt: skip
def test_what_is_never_rendered_fails(text: str, name: str, wanted: str) -> None:
    assert verdict(text, name)[0] == wanted
    # Nothing tells that the pod can do without, and what is no training job is not changed at all.
    before = list(yaml.safe_load_all(text))
    assert list(yaml.safe_load_all(patched(manifest(text)).text)) == before


def test_the_renderers_reason_is_one() -> None:
    network = replace(NETWORKS[TCP], host_network=True, host_network_reason="the CNI is slow")
    made = rendered("indexed-job", small(TCP, network=network)).objects
    found = {each.check.id: each for each in check(manifest(stream(made)))}
    assert found["host-network-reason"].verdict is Verdict.PASS
    assert "the CNI is slow" in found["host-network-reason"].finding.evidence


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
FROM_ALL = "ingress: [{from: [{namespaceSelector: {}}]%s}]"
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
        *(
            (
                "metrics-reachable",
                VOLCANO.replace(*METRICS) + POLICY % ("research", "[Ingress]", FROM_ALL % ports),
                wanted,
                "9400",
            )
            for ports, wanted in [
                ("", "PASS"),
                (", ports: [{port: 80}, {port: 9400}]", "PASS"),
                (", ports: [{port: 9000, endPort: 9500}]", "PASS"),
                (", ports: [{protocol: TCP}]", "PASS"),
                (", ports: [{port: 9401}]", "WARN"),
                (", ports: [{port: metrics}]", "WARN"),  # no container calls its port so
            ]
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
