# SPDX-License-Identifier: Apache-2.0
"""What controllers do when a pod ends: their rules, read off their sources, asked of policies."""

import re
from collections.abc import Iterable
from typing import Any

Object = dict[str, Any]


def volcano_action(policies: Iterable[Object], event: str, code: int = 0) -> str:
    """What Volcano does: the first policy that names the event, or the code of a failed pod."""
    for policy in policies:
        named = {policy.get("event"), *policy.get("events", [])}
        if event in named or "*" in named or (code and policy.get("exitCode") == code):
            return str(policy["action"])
    return "SyncJob"


def volcano_runs(max_retry: int) -> int:
    """How often Volcano runs a job that always asks to be restarted."""
    runs = retries = 0
    while True:
        runs += 1
        retries += 1  # on the way to the phase Restarting
        if retries >= (max_retry or 3):  # 0 is mutated to 3
            return runs


def job_failure(policy: Object, code: int, *, disrupted: bool = False) -> tuple[str, str]:
    """Reason and message with which a Job of backoffLimit 0 fails when a pod does."""
    for index, rule in enumerate(policy["rules"]):
        told = _matched(rule, code, disrupted)
        if told and rule["action"] == "FailJob":
            return "PodFailurePolicy", f"{told} matching FailJob rule at index {index}"
        if told and rule["action"] == "FailIndex":
            return "FailedIndexes", "Job has failed indexes"
        if told and rule["action"] == "Ignore":
            return "", ""
        if told:
            break
    return "BackoffLimitExceeded", "Job has reached the specified backoff limit"


def _matched(rule: Object, code: int, disrupted: bool) -> str:
    wanted = [
        each
        for each in rule.get("onPodConditions", [])
        if each["type"] == "DisruptionTarget" and each.get("status", "True") == "True"
    ]
    if wanted and disrupted:
        return "Pod train/llm-workers-0-3-abcde has condition DisruptionTarget"
    codes = rule.get("onExitCodes")
    if codes and codes.get("containerName", "trainer") != "trainer":
        return ""
    if codes and code and (code in codes["values"]) == (codes["operator"] == "In"):
        return f"Container trainer for pod train/llm-workers-0-3-abcde failed with exit code {code}"
    return ""


def job_set_action(policy: Object, reason: str, message: str, name: str = "workers") -> str:
    """What a JobSet does when its Job fails: the first rule that matches, else it restarts."""
    for rule in policy.get("rules", []):
        reasons = rule.get("onJobFailureReasons") or [reason]
        patterns = rule.get("onJobFailureMessagePatterns") or [""]
        targets = rule.get("targetReplicatedJobs") or [name]
        if (
            reason in reasons
            and name in targets
            and any(re.search(each, message) for each in patterns)
        ):
            return str(rule["action"])
    return "RestartJobSet"
