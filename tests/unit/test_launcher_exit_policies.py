# SPDX-License-Identifier: Apache-2.0
"""Each system decides of an exit code as the launcher's table does; evaluated as it would."""

import re
from typing import Any

import pytest

from rdmatrain.launcher import exit_policies
from rdmatrain.launcher.exit_codes import FAULTS, MEANING, PERMANENT, RETRYABLE, may_be_retried

CODES = range(1, 256)
SEGMENTATION_FAULT = 139


def pod_rule(policy: dict[str, Any], code: int, *, disrupted: bool) -> tuple[str, int]:
    """The action of the first rule that matches a pod, as the Job's controller has it."""
    for at, rule in enumerate(policy["rules"]):
        codes = rule.get("onExitCodes")
        conditions = rule.get("onPodConditions")
        assert (codes is None) != (conditions is None), "one of both in each rule"
        if conditions and disrupted and conditions == [exits_condition()]:
            return rule["action"], at
        # A container that ended with 0 matches no operator.
        inside = codes and code in codes["values"]
        if codes and code and bool(inside) == (codes["operator"] == "In"):
            return rule["action"], at
    return "Count", -1


def exits_condition() -> dict[str, str]:
    return {"type": "DisruptionTarget", "status": "True"}


def of_job(code: int, *, disrupted: bool = False) -> str:
    return pod_rule(exit_policies.job_failure_policy(), code, disrupted=disrupted)[0]


def of_jobset(code: int, *, disrupted: bool = False, restarts: int = 3) -> str:
    """What a JobSet does of its Job's failure: reason and message are all that it has."""
    action, at = pod_rule(exit_policies.child_failure_policy(), code, disrupted=disrupted)
    what = "has condition DisruptionTarget" if at == 0 else f"failed with exit code {code}"
    reason, message = "BackoffLimitExceeded", "Job has reached the specified backoff limit"
    if action == "FailJob":
        reason = "PodFailurePolicy"
        message = f"Pod train/llm-0-abcde {what} matching FailJob rule at index {at}"
    for rule in exit_policies.jobset_failure_policy(restarts)["rules"]:
        patterns = rule.get("onJobFailureMessagePatterns", [".*"])
        if reason in rule["onJobFailureReasons"] and any(re.search(p, message) for p in patterns):
            return str(rule["action"])
    return "RestartJobSet"


def of_volcano(code: int, event: str = "PodFailed") -> str:
    for policy in exit_policies.volcano_policies():
        assert ("event" in policy) != ("exitCode" in policy), "one of both in each policy"
        if policy.get("event") == event or policy.get("exitCode") == code:
            return str(policy["action"])
    return ""


def of_pytorchjob(code: int) -> str:
    """By the policy ``ExitCode``, as the operator has it: from 128 on a pod is made again."""
    assert exit_policies.PYTORCHJOB_POLICY == "ExitCode"
    return "Restart" if code >= 128 else "Fail"


@pytest.mark.parametrize("code", [code for code in MEANING if code])
def test_every_code_of_the_launcher_is_judged_by_its_table(code: int) -> None:
    again = may_be_retried(code)
    assert of_job(code) == ("Count" if again else "FailJob")
    assert of_jobset(code) == ("RestartJobSet" if again else "FailJobSet")
    assert of_volcano(code) == ("RestartJob" if again else "AbortJob")
    assert of_pytorchjob(code) == ("Restart" if again else "Fail")
    assert (code in RETRYABLE) == again


def test_no_code_below_128_is_tried_again_and_systems_agree_on_all() -> None:
    for code in CODES:
        decisions = {
            of_job(code) == "Count",
            of_jobset(code) == "RestartJobSet",
            of_volcano(code) == "RestartJob",
        }
        assert len(decisions) == 1, code
        assert not (code < 128 and True in decisions), code


def test_a_crash_is_tried_again_and_ctrl_c_is_not() -> None:
    assert of_volcano(SEGMENTATION_FAULT) == "RestartJob"
    assert of_volcano(130) == "AbortJob"


@pytest.mark.parametrize("code", [0, 1, 64, 137, 143])
def test_a_disrupted_pod_is_nobodys_fault(code: int) -> None:
    assert of_job(code, disrupted=True) == "Ignore"
    assert of_jobset(code, disrupted=True) == "RestartJobSetAndIgnoreMaxRestarts"
    assert of_volcano(code, "PodEvicted") == "RestartJob"


def test_a_job_that_ends_well_is_complete() -> None:
    assert of_volcano(0, "TaskCompleted") == "CompleteJob"
    assert of_job(0) == "Count"
    assert {"exitCode": 0} not in [
        {"exitCode": p.get("exitCode")} for p in exit_policies.volcano_policies()
    ]


@pytest.mark.parametrize(
    "policy", [exit_policies.job_failure_policy(), exit_policies.child_failure_policy()]
)
def test_values_are_as_kubernetes_demands(policy: dict[str, Any]) -> None:
    values = policy["rules"][1]["onExitCodes"]["values"]
    assert values == sorted(set(values))
    assert 0 not in values
    assert len(values) <= 255
    # An initContainer's code counts as well: the preflight ends with the table's codes.
    assert "containerName" not in policy["rules"][1]["onExitCodes"]


def test_a_jobset_restarts_as_often_as_the_spec_says() -> None:
    policy = exit_policies.jobset_failure_policy(7)
    assert policy["maxRestarts"] == 7
    assert policy["restartStrategy"] == "BlockingRecreate"
    names = [rule["name"] for rule in policy["rules"]]
    assert all(re.fullmatch(r"[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?", name) for name in names)


def test_the_table_is_the_contract() -> None:
    assert PERMANENT == (2, 64, 69, 77, 78)
    assert FAULTS == (200, 201, 202, 203, 204)
    assert RETRYABLE == (134, 135, 137, 139, 143, 200, 201, 202, 203, 204)
    assert exit_policies.PYTORCHJOB_POLICY == "ExitCode"
