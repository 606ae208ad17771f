# SPDX-License-Identifier: Apache-2.0
"""Policies of strangers are judged as their controllers decide, and mended by the contract."""

import json
import re
from itertools import product
from typing import Any

import pytest
import yaml
from doctor_manifests import PYTORCH, TRAIN_JOB, VOLCANO, changed
from k8s_bad_manifests import manifest
from k8s_outcomes import Object, job_failure, job_set_action, volcano_action
from k8s_specs import rendered, small

from rdmatrain.doctor.model import Result
from rdmatrain.k8s.check import check, patched, patches
from rdmatrain.k8s.text import stream

# Of the launcher's table: what would fail again, and what another try may do away with.
PERMANENT = (2, 64, 69, 77, 78)
FAULTS = (200, 201, 202, 203, 204)
CODES = (*PERMANENT, *FAULTS)


def asked(text: str) -> Result:
    return next(each for each in check(manifest(text)) if each.check.id == "exit-codes")


def mended(text: str, kind: str) -> Object:
    objects = yaml.safe_load_all(patched(manifest(text)).text)
    return dict(next(each for each in objects if each["kind"] == kind)["spec"])


def volcano(policies: list[Object], **spec: Any) -> str:
    job = yaml.safe_load(VOLCANO)
    job["spec"] |= {"policies": policies, **spec}
    return stream([job])


def wrong_for_volcano(policies: list[Object]) -> list[int]:
    """Codes of which the contract says otherwise; none that no policy matches."""
    acts = {code: volcano_action(policies, "PodFailed", code) for code in CODES}
    return [
        code
        for code, action in acts.items()
        if action != "SyncJob" and (code in FAULTS) != action.startswith("Restart")
    ]


EVICTED = {"event": "PodEvicted", "action": "RestartJob"}
FAILED = [
    {"event": "PodFailed", "action": "AbortJob"},
    {"event": "PodFailed", "action": "RestartJob"},
    {"events": ["PodFailed", "Unknown"], "action": "TerminateJob"},
    {"event": "*", "action": "RestartJob"},
]
OF_CODES: list[list[Object]] = [
    [],
    [{"exitCode": 201, "action": "RestartJob"}],
    [{"exitCode": code, "action": "RestartJob"} for code in FAULTS],
    [{"exitCode": code, "action": "AbortJob"} for code in (*PERMANENT, 204)],
]


@pytest.mark.parametrize("failed", FAILED, ids=json.dumps)
@pytest.mark.parametrize("codes", OF_CODES, ids=len)
@pytest.mark.parametrize("behind", [False, True])
def test_policies_of_volcano(failed: Object, codes: list[Object], behind: bool) -> None:
    own = [failed, *codes] if behind else [*codes, failed]
    policies = own if failed.get("event") == "*" else [EVICTED, *own]
    wrong = wrong_for_volcano(policies)
    found = asked(volcano(policies))
    assert found.verdict.value == ("WARN" if wrong else "PASS"), found
    after = mended(volcano(policies), "Job")["policies"]
    # That 204 ends the job is what somebody wrote down.
    assert set(wrong_for_volcano(after)) <= {204} & {each.get("exitCode") for each in codes}
    given = [each["exitCode"] for each in after if "exitCode" in each]
    assert len(given) == len(set(given)), "Volcano refuses doubles"
    assert [each for each in after if "exitCode" not in each] == [
        each for each in policies if "exitCode" not in each
    ]


ABORT = [{"event": "PodFailed", "action": "AbortJob"}]


@pytest.mark.parametrize(
    ("policies", "spec", "verdict", "patch"),
    [
        (ABORT, {}, "WARN", False),  # nothing says that the job is to start again
        (ABORT, {"maxRetry": 3}, "WARN", True),
        (ABORT, {"maxRetry": 1}, "PASS", False),
        ([{"event": "PodFailed", "action": "RestartJob"}], {"maxRetry": 1}, "PASS", False),
        ([{"exitCode": 202, "action": "AbortJob"}], {"maxRetry": 3}, "WARN", False),
        ([], {}, "SKIP", False),
    ],
)
def test_restarts_of_volcano_that_nobody_asked_for(
    policies: list[Object], spec: Object, verdict: str, patch: bool
) -> None:
    found = asked(volcano(policies, **spec))
    assert (found.verdict.value, bool(patches(found))) == (verdict, patch), found


def test_policies_of_a_task_come_before_the_jobs_and_are_mended_there() -> None:
    job = yaml.safe_load(volcano([EVICTED]))
    (task,) = job["spec"]["tasks"]
    task["policies"] = ABORT
    (task,) = mended(stream([job]), "Job")["tasks"]
    assert wrong_for_volcano(task["policies"]) == []


def test_policies_that_are_added_are_no_doubles() -> None:
    own: list[Object] = [EVICTED, {"exitCode": 201, "action": "RestartJob"}]
    after = mended(volcano(own), "Job")["policies"]
    assert after[:2] == own
    keys = [each.get("event", each.get("exitCode")) for each in after]
    assert len(keys) == len(set(keys))
    assert wrong_for_volcano(after) == []


@pytest.mark.parametrize(
    ("name", "policies", "verdict"),
    [
        ("logs", OF_CODES[1], "WARN"),
        ("zlogs", OF_CODES[1], "PASS"),
        ("logs", [EVICTED], "PASS"),  # nothing goes by codes
    ],
)
def test_volcano_sees_the_code_of_the_container_whose_name_sorts_first(
    name: str, policies: list[Object], verdict: str
) -> None:
    job = yaml.safe_load(volcano(policies))
    (task,) = job["spec"]["tasks"]
    task["template"]["spec"]["containers"].append({"name": name, "image": "logs:1"})
    found = asked(stream([job]))
    assert (found.verdict.value, patches(found)) == (verdict, [])
    assert verdict == "PASS" or "the exit code of logs, whose" in found.finding.evidence


@pytest.mark.parametrize("action", ["RestartJob", "AbortJob"])
def test_no_pod_that_failed_is_a_task_that_failed(action: str) -> None:
    """Volcano says that of containers that were restarted in place too often."""
    policies = [EVICTED, {"event": "TaskFailed", "action": action}]
    assert asked(volcano(policies)).verdict.value == "PASS"
    after = mended(volcano(policies), "Job")["policies"]
    assert volcano_action(after, "PodFailed", 3) == "AbortJob"
    assert volcano_action(after, "TaskFailed") == action
    assert wrong_for_volcano(after) == []


JOBSET = {
    "apiVersion": "jobset.x-k8s.io/v1alpha2",
    "kind": "JobSet",
    "metadata": {"name": "train"},
    "spec": {"replicatedJobs": [{"name": "workers", "template": {"spec": {}}}]},
}
POD = yaml.safe_load(VOLCANO)["spec"]["tasks"][0]["template"]
DISRUPTED = {
    "action": "FailJob",
    "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}],
}


def of_codes(action: str, operator: str, *values: int) -> Object:
    return {"action": action, "onExitCodes": {"operator": operator, "values": list(values)}}


OF_SIDECARS = {"onExitCodes": {"containerName": "logs", "operator": "NotIn", "values": [*FAULTS]}}
OF_JOBS: list[list[Object]] = [
    [],
    [DISRUPTED],
    [DISRUPTED, of_codes("FailJob", "NotIn", 134, *FAULTS)],
    [of_codes("FailJob", "NotIn", 1)],
    [of_codes("FailJob", "In", *PERMANENT)],
    [of_codes("Ignore", "In", 64), of_codes("FailJob", "NotIn", *FAULTS)],
    # What another container ended with.
    [{**OF_SIDECARS, "action": "FailJob"}],
    [{**OF_SIDECARS, "action": "Ignore"}, of_codes("FailJob", "NotIn", *FAULTS)],
]
BY_RULE = {"onJobFailureReasons": ["PodFailurePolicy"]}
BY_INDEXES: Object = {"onJobFailureReasons": ["FailedIndexes", "MaxFailedIndexesExceeded"]}
OF_SETS: list[list[Object]] = [
    [],
    [{"name": "permanent", "action": "FailJobSet", **BY_RULE}],
    [{"name": "all", "action": "FailJobSet"}],
    [{"name": "all", "action": "RestartJobSet"}],
    [{"name": "ever", "action": "RestartJobSetAndIgnoreMaxRestarts", **BY_RULE}],
    [{"name": "leader", "action": "FailJobSet", **BY_RULE, "targetReplicatedJobs": ["leader"]}],
    [{"name": "ours", "action": "FailJobSet", **BY_RULE, "targetReplicatedJobs": ["workers"]}],
]


def job_set(of_job: list[Object], of_set: list[Object]) -> Object:
    made: Object = json.loads(json.dumps(JOBSET))
    spec = made["spec"]
    job = spec["replicatedJobs"][0]["template"]["spec"]
    job |= {"completions": 2, "parallelism": 2, "backoffLimit": 0, "template": POD}
    if of_job:
        job["podFailurePolicy"] = {"rules": of_job}
    spec["failurePolicy"] = {"maxRestarts": 3, "rules": of_set}
    return made


def actions(spec: Object, *codes: int, disrupted: bool = False) -> dict[int, str]:
    """What the controllers would do about exit codes."""
    (group,) = spec["replicatedJobs"]
    rules = group["template"]["spec"].get("podFailurePolicy", {"rules": []})
    acts = {}
    for code in codes:
        reason, message = job_failure(rules, code, disrupted=disrupted)
        failed = job_set_action(spec["failurePolicy"], reason, message)
        acts[code] = failed if reason else "RestartPod"
    return acts


def wrong_for_jobset(spec: Object) -> list[int]:
    """Codes of which the contract says otherwise."""
    return [
        code
        for code, action in actions(spec, *CODES).items()
        if (code in FAULTS) != ("Restart" in action)
    ]


@pytest.mark.parametrize(("of_job", "of_set"), list(product(OF_JOBS, OF_SETS)))
def test_rules_of_jobsets(of_job: list[Object], of_set: list[Object]) -> None:
    made = job_set(of_job, of_set)
    found = asked(stream([made]))
    wrong = wrong_for_jobset(made["spec"])
    assert (found.verdict.value == "PASS") == (not wrong), (found, wrong)
    after = mended(stream([made]), "JobSet")
    own = any("onJobFailureReasons" not in each for each in of_set) or "ever" in str(of_set)
    assert own or wrong_for_jobset(after) == []
    assert after["failurePolicy"]["rules"][: len(of_set)] == of_set, "what is there stays"
    for code, action in actions(made["spec"], *CODES).items():
        ever = actions(after, code)[code].endswith("IgnoreMaxRestarts")
        assert not ever or action.endswith("IgnoreMaxRestarts"), "no patch makes it endless"
    (preempted,) = actions(made["spec"], 143, disrupted=True).values()
    (then,) = actions(after, 143, disrupted=True).values()
    assert "Restart" not in preempted or "Restart" in then, "no patch ends what was preempted"


@pytest.mark.parametrize("own", [[], [{**DISRUPTED, "action": "Ignore"}]], ids=len)
def test_a_job_goes_on_replacing_preempted_pods_where_its_jobset_restarts_nothing(
    own: list[Object],
) -> None:
    made = job_set(own, [])
    del made["spec"]["failurePolicy"]
    made["spec"]["replicatedJobs"][0]["template"]["spec"]["backoffLimit"] = 3
    (change,) = patches(asked(stream([made])))
    policy = json.loads(change.change)["podFailurePolicy"]
    assert job_failure(policy, 64)[0] == "PodFailurePolicy"
    for code in (143, 1):
        assert bool(own) == (job_failure(policy, code, disrupted=True) == ("", ""))
    assert job_failure(policy, 143, disrupted=True)[0] != "PodFailurePolicy"


def test_an_mpijob_is_told_what_counts_its_restarts() -> None:
    found = asked(stream(rendered("mpijob", small()).objects))
    assert found.verdict.value == "SKIP"
    assert "backoffLimit is for what would fail again, too" in found.finding.evidence


@pytest.mark.parametrize(("reason", "verdict"), [(BY_RULE, "WARN"), (BY_INDEXES, "PASS")])
def test_a_job_of_indexes_fails_for_its_own_reason(reason: Object, verdict: str) -> None:
    rules = [of_codes("FailIndex", "In", *PERMANENT)]
    made = job_set(rules, [{"name": "n", "action": "FailJobSet", **reason}])
    (group,) = made["spec"]["replicatedJobs"]
    del group["template"]["spec"]["backoffLimit"]
    group["template"]["spec"]["backoffLimitPerIndex"] = 1
    assert (wrong_for_jobset(made["spec"]) == []) == (verdict == "PASS")
    found = asked(stream([made]))
    assert (found.verdict.value, patches(found)) == (verdict, [])
    assert verdict == "PASS" or "FailedIndexes" in found.finding.fix


def test_a_jobset_that_goes_by_messages_is_left_to_kubernetes() -> None:
    rule = {"name": "n", "action": "FailJobSet", "onJobFailureMessagePatterns": [".* code 7.$"]}
    made = job_set([of_codes("FailJob", "NotIn", *FAULTS)], [rule])
    assert asked(stream([made])).verdict.value == "SKIP"


@pytest.mark.parametrize("restarts", [0, 3])
def test_what_a_jobset_says_itself_stays_beside_rules_that_are_added(restarts: int) -> None:
    own = {"name": "permanent", "action": "FailJobSet", "targetReplicatedJobs": ["leader"]}
    made = job_set([DISRUPTED, of_codes("FailJob", "NotIn", *FAULTS)], [own])
    made["spec"]["failurePolicy"] |= {"maxRestarts": restarts, "restartStrategy": "Recreate"}
    after = mended(stream([made]), "JobSet")["failurePolicy"]
    assert (after["restartStrategy"], after["rules"][0]) == ("Recreate", own)
    names = [each["name"] for each in after["rules"]]
    assert len(names) == len(set(names)) == 3
    pattern = "[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?"  # of a JobSet
    assert [each for each in names if not re.fullmatch(pattern, each)] == []


def test_what_jobs_do_for_ever_is_found_where_a_rule_by_message_comes_first() -> None:
    rules: list[Object] = [
        {"name": "n", "action": "FailJobSet", "onJobFailureMessagePatterns": [".* code 64 .*"]},
        {"name": "m", "action": "RestartJobSetAndIgnoreMaxRestarts"},
    ]
    made = job_set([of_codes("FailJob", "NotIn", *FAULTS)], rules)
    assert asked(stream([made])).verdict.value == "SKIP"


def test_the_job_of_a_cronjob_is_judged_as_a_job() -> None:
    job = job_set([], [])["spec"]["replicatedJobs"][0]["template"]
    job["spec"]["backoffLimit"] = 4
    spec = {"schedule": "@daily", "jobTemplate": job}
    made = {"apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": "c"}, "spec": spec}
    found = asked(stream([made]))
    assert "exit code 2 is tried again 4 times" in found.finding.evidence


def test_a_runtime_is_judged_as_the_jobset_that_it_becomes() -> None:
    ended = "          spec:\n            backoffLimit: 0\n            template:"
    text = changed(TRAIN_JOB, ("          spec:\n            template:", ended))
    assert asked(text).verdict.value == "PASS"
    again = "      failurePolicy: {maxRestarts: 3}\n      replicatedJobs:"
    found = asked(changed(text, ("      replicatedJobs:", again)))
    assert "exit code 2 starts all pods again 3 times" in found.finding.evidence
    assert patches(found) == [], "other jobs may be of this runtime"


@pytest.mark.parametrize(
    ("policy", "verdict", "better"),
    [
        ("ExitCode", "PASS", "ExitCode"),
        ("Never", "PASS", "Never"),
        ("OnFailure", "WARN", "ExitCode"),
        ("Always", "WARN", "ExitCode"),
    ],
)
def test_policies_of_pytorchjobs(policy: str, verdict: str, better: str) -> None:
    run = ('image: "example/train:1.4"', "image: a:1, command: [rdmatrain, run, train.py]")
    text = changed(PYTORCH, run, ("restartPolicy: ExitCode", f"restartPolicy: {policy}"))
    assert asked(text).verdict.value == verdict
    types = mended(text, "PyTorchJob")["pytorchReplicaSpecs"]
    assert {each["restartPolicy"] for each in types.values()} == {better}


def test_what_another_launcher_ends_with_says_nothing_to_a_pytorchjob() -> None:
    run = ('image: "example/train:1.4"', "image: a:1, command: [torchrun, train.py]")
    text = changed(PYTORCH, run, ("restartPolicy: ExitCode", "restartPolicy: OnFailure"))
    types = mended(text, "PyTorchJob")["pytorchReplicaSpecs"]
    assert {each["restartPolicy"] for each in types.values()} == {"OnFailure"}
