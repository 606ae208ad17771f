# SPDX-License-Identifier: Apache-2.0
"""What ``k8s check --patch`` writes is what the renderer would write."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from k8s_bad_manifests import FIXTURES, manifest
from k8s_schemas import errors
from k8s_specs import TCP, rendered, small

from rdmatrain.doctor.model import Verdict
from rdmatrain.k8s.check import check, patched, patches, run_check
from rdmatrain.k8s.text import stream
from rdmatrain.launcher import exit_policies

BAD = FIXTURES / "bad"


def after(text: str, kind: str) -> dict[str, Any]:
    """Return the object of a kind, patched."""
    objects = yaml.safe_load_all(patched(manifest(text)).text)
    return next(each for each in objects if each["kind"] == kind)


def trainer(job: dict[str, Any]) -> dict[str, Any]:
    return dict(job["spec"]["template"]["spec"]["containers"][0])


@pytest.mark.parametrize(
    ("words", "better"),
    [
        ('"--nnodes", "8"', ["--nnodes", "2"]),
        ('"--nnodes=8"', ["--nnodes=2"]),
    ],
)
def test_an_option_is_changed_and_not_a_variable_that_it_wins_over(
    words: str, better: list[str]
) -> None:
    text = (BAD / "more-nodes-than-pods.yaml").read_text("utf-8")
    box = trainer(after(text.replace('--nnodes, "8"', words), "Job"))
    assert box["command"] == ["rdmatrain", "run", *better, "finetune.py"]
    assert [each["name"] for each in box["env"]] == ["RDMATRAIN_SECRET"]


def test_a_job_is_tried_again_as_the_renderers_is() -> None:
    text = (BAD / "backoff-of-single-pods.yaml").read_text("utf-8")
    job = after(text, "Job")["spec"]
    ours = next(each for each in rendered("indexed-job", small()).objects if each["kind"] == "Job")
    for name in ("podFailurePolicy", "maxFailedIndexes", "podReplacementPolicy"):
        assert job[name] == ours["spec"][name], name
    assert (job["backoffLimitPerIndex"], "backoffLimit" in job) == (6, False)


def test_a_jobset_is_tried_again_as_the_renderers_is() -> None:
    text = (BAD / "jobset-without-restarts.yaml").read_text("utf-8")
    made = after(text, "JobSet")["spec"]
    assert made["failurePolicy"] == exit_policies.jobset_failure_policy(3)
    text = (BAD / "jobset-retries-everything.yaml").read_text("utf-8")
    (group,) = after(text, "JobSet")["spec"]["replicatedJobs"]
    assert group["template"]["spec"]["podFailurePolicy"] == exit_policies.child_failure_policy()


def test_rules_of_ones_own_stay_behind_those_that_are_added() -> None:
    own = "{action: Count, onExitCodes: {operator: In, values: [201]}}"
    text = (BAD / "backoff-of-single-pods.yaml").read_text("utf-8")
    text = text.replace(
        "  template:\n", f"  podFailurePolicy: {{rules: [{own}]}}\n  template:\n", 1
    )
    rules = after(text, "Job")["spec"]["podFailurePolicy"]["rules"]
    assert rules == [*exit_policies.job_failure_policy()["rules"], yaml.safe_load(own)]


@pytest.mark.parametrize("variable", ["", '{name: RDMATRAIN_SECRET, value: "%s"}' % ("x" * 44)])
def test_the_gangs_secret_is_a_file_as_the_renderers_is(variable: str) -> None:
    text = (BAD / "no-secret.yaml").read_text("utf-8")
    if variable:
        text = text.replace(
            "        securityContext:", f"        env: [{variable}]\n        securityContext:"
        )
    done = patched(manifest(text))
    objects = {each["kind"]: each for each in yaml.safe_load_all(done.text)}
    job = rendered("indexed-job", small()).objects
    ours = next(each for each in job if each["kind"] == "Job")
    box, wanted = trainer(objects["Job"]), trainer(ours)
    names = ("RDMATRAIN_SECRET", "RDMATRAIN_SECRET_FILE")
    assert [each for each in box["env"] if each["name"] in names] == [
        each for each in wanted["env"] if each["name"] in names
    ]
    (mount,) = (each for each in box["volumeMounts"] if each["name"] == "secret")
    assert mount in wanted["volumeMounts"]
    volumes = objects["Job"]["spec"]["template"]["spec"]["volumes"]
    (secret,) = (each["secret"] for each in volumes if each["name"] == "secret")
    assert secret == {"secretName": "finetune-secret"}
    if variable:
        assert objects["Secret"]["metadata"]["name"] == "finetune-secret"
        assert objects["Secret"]["stringData"] == {"secret": "x" * 44}


def test_a_jobset_that_starts_again_only_when_preempted_is_told_nothing_wrong() -> None:
    made = rendered("jobset", small(TCP, max_restarts=0)).objects
    found = {each.check.id: each for each in check(manifest(stream(made)))}
    assert found["failure-policy"].verdict is Verdict.PASS


BARE = """\
apiVersion: batch/v1
kind: Job
metadata: {name: j}
spec:
  completions: 2
  parallelism: 2
  completionMode: Indexed
  backoffLimit: 0
  template:
    spec:
      restartPolicy: Never
      subdomain: other
      resourceClaims: [{name: d, resourceClaimTemplateName: devices}]
      containers:
      - name: t
        image: x/y:1
        command: [rdmatrain, run, --nnodes, "2", train.py]
        resources: {claims: [{name: d}]}
"""


def head(text: str) -> list[str]:
    """Return what is said before the patched objects, without what is left."""
    said: list[str] = []
    run_check([text], said.append, patch=True)
    lines = "".join(said).partition("---")[0].splitlines()
    return [each for each in lines[1:] if not each.startswith("# left: ")]


def test_the_head_says_what_is_to_be_there_and_what_was_guessed(tmp_path: Path) -> None:
    file = tmp_path / "job.yaml"
    file.write_text(BARE, "utf-8")
    assert head(str(file)) == [
        "# to be there: ResourceClaimTemplate devices",
        "# to be there: Secret j-secret, which a patch names",
        "# to be there: Service other",
        "# guessed: Job j: terminationGracePeriodSeconds: 120",
        "# guessed: Job j: sizeLimit: 8Gi",
        "# guessed: Job j: nobody but its peers connects to a pod of the job",
    ]


def test_what_a_manifest_says_is_no_guess() -> None:
    text = (BAD / "gang-above-replicas.yaml").read_text("utf-8")
    done = patched(manifest(text))
    assert done.changes
    nobody = "nobody but its peers connects to a pod of the job"
    assert [each.guess for each in done.changes if each.guess] == [nobody]
    assert done.invented == frozenset()


def test_json_says_what_is_a_guess(tmp_path: Path) -> None:
    file, said = tmp_path / "job.yaml", []
    file.write_text(BARE, "utf-8")
    run_check([str(file)], said.append, json=True)
    found = {each["id"]: each["patch"] for each in json.loads("".join(said))["checks"]}
    assert [each["guess"] for each in found["shm"]] == ["sizeLimit: 8Gi"]
    assert all("guess" not in each for each in found["gang-secret"])


@pytest.mark.parametrize(
    "resources",
    [
        "{claims: [{name: d}]}",
        "{requests: {cpu: 7500m, memory: 32Gi}, claims: [{name: d}]}",
        "{requests: {memory: 4Gi}, limits: {cpu: 8, memory: 32Gi}, claims: [{name: d}]}",
        "{requests: {cpu: 4}, limits: {cpu: 8, memory: 32Gi}, claims: [{name: d}]}",
        "{limits: {cpu: 1, memory: 32Gi, nvidia.com/gpu: 8}}",
    ],
)
def test_limits_are_nobodys_guess(resources: str) -> None:
    text = BARE.replace("{claims: [{name: d}]}", resources)
    assert trainer(after(text, "Job"))["resources"] == yaml.safe_load(resources)
    found = {each.check.id: each for each in check(manifest(text))}
    assert found["cpu-quota"].verdict is Verdict.WARN


@pytest.mark.parametrize("always", ["", ", restartPolicy: Always"])
def test_nor_are_those_of_what_runs_before_the_trainer(always: str) -> None:
    box = f"{{name: a, image: 'x/y:1', resources: {{requests: {{cpu: 1}}}}{always}}}"
    text = BARE.replace("      containers:", f"      initContainers: [{box}]\n      containers:")
    text = text.replace("{claims:", "{limits: {cpu: 8, memory: 32Gi}, claims:")
    (first,) = after(text, "Job")["spec"]["template"]["spec"]["initContainers"]
    assert first["resources"] == {"requests": {"cpu": 1}}


def test_a_job_without_names_gets_the_renderers_service() -> None:
    text = (BAD / "no-subdomain.yaml").read_text("utf-8")
    service = after(text, "Service")
    ours = next(
        each for each in rendered("indexed-job", small()).objects if each["kind"] == "Service"
    )
    selector = {"batch.kubernetes.io/job-name": "finetune"}
    assert service["spec"] == {**ours["spec"], "selector": selector}
    assert after(text, "Job")["spec"]["template"]["spec"]["subdomain"] == "finetune"


@pytest.mark.parametrize(
    ("gpus", "nics", "joined"),
    [
        (8, 8, [["gpu-0", "nic-0"], ["gpu-1", "nic-1"]]),
        (4, 8, [["gpu-0", "nic-0", "nic-1"], ["gpu-1", "nic-2", "nic-3"]]),
        (8, 4, [["gpu-0", "gpu-1", "nic-0"], ["gpu-2", "gpu-3", "nic-1"]]),
    ],
)
def test_a_claim_for_all_devices_becomes_one_of_pairs(
    gpus: int, nics: int, joined: list[list[str]]
) -> None:
    text = (BAD / "eight-gpus-of-one-root.yaml").read_text("utf-8")
    text = text.replace("gpu.nvidia.com, count: 8", f"gpu.nvidia.com, count: {gpus}")
    text = text.replace("dranet, count: 8", f"dranet, count: {nics}")
    devices = after(text, "ResourceClaimTemplate")["spec"]["spec"]["devices"]
    assert [each["name"] for each in devices["requests"]] == [
        *(f"gpu-{number}" for number in range(gpus)),
        *(f"nic-{number}" for number in range(nics)),
    ]
    assert all("count" not in each["exactly"] for each in devices["requests"])
    assert [each["requests"] for each in devices["constraints"]][:2] == joined
    assert {name for each in devices["constraints"] for name in each["requests"]} == {
        each["name"] for each in devices["requests"]
    }


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("dranet, count: 8", "dranet, count: 30"),  # more than a claim may have
        ("dranet, count: 8", "dranet, count: 3"),  # more than two GPUs of one root
        ("{name: devices}]", "{name: devices, request: gpu}]"),  # a container wants one of them
        ("      constraints:", "      config: []\n      constraints:"),
    ],
)
def test_a_claim_that_cannot_be_split_is_left(old: str, new: str) -> None:
    text = (BAD / "eight-gpus-of-one-root.yaml").read_text("utf-8")
    assert old in text
    found = {each.check.id: each for each in check(manifest(text.replace(old, new)))}
    assert found["numa-alignment"].verdict is Verdict.FAIL
    assert patches(found["numa-alignment"]) == []


def test_kueues_objects_become_those_of_its_schema() -> None:
    text = (BAD / "kueue-of-yesterday.yaml").read_text("utf-8")
    checks = "cohort: research\n  admissionChecks: [provisioning]\n"
    done = patched(manifest(text.replace("cohort: research\n", checks))).text
    objects = [each for each in yaml.safe_load_all(done) if "kueue" in each["apiVersion"]]
    assert [each["kind"] for each in objects] == [
        "Topology", "ResourceFlavor", "ClusterQueue", "LocalQueue",
    ]  # fmt: skip
    assert [problem for each in objects for problem in errors(each)] == []
    spec = objects[2]["spec"]
    assert spec["cohortName"] == "research"
    assert spec["flavorFungibility"] == {"whenCanBorrow": "MayStopSearch"}
    assert spec["admissionChecksStrategy"] == {"admissionChecks": [{"name": "provisioning"}]}


def test_a_flavor_gets_the_one_topology_that_there_is() -> None:
    text = (BAD / "flavor-without-topology.yaml").read_text("utf-8")
    assert after(text, "ResourceFlavor")["spec"]["topologyName"] == "racks"
    found = {
        each.check.id: each for each in check(manifest(text.replace("kind: Topology", "kind: T")))
    }
    assert patches(found["queue-topology"]) == []
    right = text.replace('"true"}}', '"true"}, topologyName: racks}')
    found = {each.check.id: each for each in check(manifest(right))}
    assert found["queue-topology"].verdict is Verdict.PASS
    other = right.replace("topology: example.com/rack", "topology: example.com/row")
    found = {each.check.id: each for each in check(manifest(other))}
    assert "example.com/row is no level of the Topology" in found["queue-topology"].finding.evidence


def test_a_command_that_is_a_text_becomes_its_words() -> None:
    box = trainer(after((BAD / "command-is-a-text.yaml").read_text("utf-8"), "Job"))
    assert box["command"] == ["rdmatrain", "run", "--nnodes", "2", "finetune.py"]


def test_a_group_becomes_a_gang() -> None:
    group = after((BAD / "group-without-a-gang.yaml").read_text("utf-8"), "PodGroup")
    assert group["spec"] == {"schedulingPolicy": {"gang": {"minCount": 2}}}


@pytest.mark.parametrize("peers", [True, False])
def test_a_policy_lets_in_peers_and_no_longer_everybody(peers: bool) -> None:
    text = (BAD / "open-to-everybody.yaml").read_text("utf-8")
    own = "  - from: [{podSelector: {matchLabels: {app: finetune}}}]\n"
    spec = after(text if peers else text.replace(own, ""), "NetworkPolicy")["spec"]
    label = {"app": "finetune"} if peers else {"batch.kubernetes.io/job-name": "finetune"}
    assert spec["ingress"] == [{"from": [{"podSelector": {"matchLabels": label}}]}]


def test_networks_of_a_trainjob_are_attached_where_it_says_which() -> None:
    text = (FIXTURES / "trainjob.yaml").read_text("utf-8")
    notes = "{annotations: {k8s.v1.cni.cncf.io/networks: rdma-vf}}"
    job = f"{{name: node, template: {{spec: {{template: {{metadata: {notes}}}}}}}}}"
    spec = f"{{template: {{spec: {{replicatedJobs: [{job}]}}}}}}"
    own = f"  runtimePatches:\n  - trainingRuntimeSpec: {spec}\n"
    assert text.endswith("\n")
    before = {each.check.id: each for each in check(manifest(text + own))}
    assert before["vf-count"].verdict is Verdict.FAIL
    done = {each.check.id: each for each in patched(manifest(text + own)).results}
    assert done["vf-count"].verdict is Verdict.PASS
