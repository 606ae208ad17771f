"""What a Job and a JobSet do about an exit code."""

import json
from collections.abc import Iterable
from typing import Any

from rdmatrain.doctor.manifest.define import Patch, advice, fail, fine, patch, unseen, warn
from rdmatrain.doctor.manifest.nodes import Node
from rdmatrain.doctor.model import Finding
from rdmatrain.launcher.exit_codes import FAULTS, PERMANENT
from rdmatrain.launcher.exit_policies import (
    DISRUPTED,
    child_failure_policy,
    job_failure_policy,
    jobset_failure_policy,
)

# Of a Job that says nothing.
BACKOFF = 6
# What a workload does about an exit code.
_ENDS, _AGAIN, _FOR_EVER = "ends", "again", "for ever"
# Why a Job failed, as a JobSet is told it.
_BY_RULE, _BY_LIMIT = "PodFailurePolicy", "BackoffLimitExceeded"


def of_job(job: Node, job_set: Node | None) -> Finding:
    """Judge a Job, which may be one of a JobSet."""
    failure = _failure(job, job_set)
    permanent, faults = _fates(job, failure, PERMANENT), _fates(job, failure, FAULTS)
    if permanent[_FOR_EVER]:
        return _endless(job, job_set, permanent[_FOR_EVER][0])
    if not _tries(job) and not failure.get("maxRestarts").number:
        return fine(job, "nothing is tried again")
    if _by_message(failure):
        return unseen(failure, "it goes by messages of its Jobs, which only Kubernetes has")
    if permanent[_AGAIN]:
        return _tried_again(job, job_set, permanent[_AGAIN])
    if faults[_ENDS]:
        return _given_up(job, failure, faults[_ENDS])
    return fine(job, "permanent errors end the job")


def _failure(job: Node, job_set: Node | None) -> Node:
    """Return the policy of a JobSet; of a Job that stands alone, what is not there."""
    return (job if job_set is None else job_set).get("failurePolicy")


def _fates(job: Node, failure: Node, codes: Iterable[int]) -> dict[str, list[int]]:
    """Return exit codes by what becomes of a job that ended with them."""
    found: dict[str, list[int]] = {_ENDS: [], _AGAIN: [], _FOR_EVER: []}
    for code in codes:
        found[_fate(job, failure, code)].append(code)
    return found


def _fate(job: Node, failure: Node, code: int) -> str:
    action = _action(job, code)
    if action == "Ignore":
        return _FOR_EVER
    if action == "Count" and _tries(job):
        return _AGAIN
    decided = _decided(failure, _BY_LIMIT if action == "Count" else _BY_RULE)
    if decided.endswith("IgnoreMaxRestarts"):
        return _FOR_EVER
    return _AGAIN if failure.get("maxRestarts").number and decided != "FailJobSet" else _ENDS


def _action(job: Node, code: int) -> str:
    """Return what a Job does with an exit code: the first rule that matches counts."""
    for each in job.get("podFailurePolicy", "rules").items():
        codes = each.get("onExitCodes")
        listed = str(code) in codes.get("values").texts()
        if codes.there and listed == (codes.get("operator").text == "In"):
            return each.get("action").text
    return "Count"


def _tries(job: Node) -> int:
    """Return how often a pod of a Job is replaced."""
    for name in ("backoffLimitPerIndex", "backoffLimit"):
        place = job.get(name)
        if place.there:
            return place.number or 0
    return BACKOFF


def _decided(failure: Node, reason: str) -> str:
    """Return what a JobSet does when one of its Jobs failed: the first rule counts."""
    for each in failure.get("rules").items():
        reasons = each.get("onJobFailureReasons").texts()
        if (not reasons or reason in reasons) and not _messages(each):
            return each.get("action").text
    return ""


def _messages(rule: Node) -> list[str]:
    return rule.get("onJobFailureMessagePatterns").texts()


def _by_message(failure: Node) -> bool:
    """Tell whether a JobSet may know codes from messages; those of the disrupted have none."""
    rules = failure.get("rules").items()
    return any(DISRUPTED not in message for each in rules for message in _messages(each))


def _endless(job: Node, job_set: Node | None, code: int) -> Finding:
    """Say that an exit code is not even counted."""
    text = f"exit code {code} is ignored: a job that cannot run starts without end"
    if _action(job, code) == "Ignore":
        return fail(job.get("podFailurePolicy"), text, _with_policy(job, job_set))
    failure = _failure(job, job_set)
    return fail(failure, text, _ahead(failure, "FailJobSet", _BY_RULE))


def _tried_again(job: Node, job_set: Node | None, again: list[int]) -> Finding:
    """Say that the same job is tried again that cannot run."""
    failure, tries = _failure(job, job_set), _tries(job)
    restarts = failure.get("maxRestarts").number or 0
    counted = [code for code in again if _action(job, code) == "Count"]
    if counted:
        text = f"exit code {counted[0]} starts all pods again {restarts} times"
        if tries:
            text = f"exit code {counted[0]} is tried again {tries} times, and fails each time"
        return warn(job, text, _with_policy(job, job_set))
    text = f"what the Jobs' podFailurePolicy ends is started again {restarts} times"
    if _decided(failure, _BY_RULE):
        return warn(failure, text, _ahead(failure, "FailJobSet", _BY_RULE))
    change = json.dumps({"rules": jobset_policy(failure, restarts)["rules"]})
    return warn(failure, text, patch(failure, change, "{rules: [{action: FailJobSet}]}"))


def _given_up(job: Node, failure: Node, lost: list[int]) -> Finding:
    """Say that a job ends for what another try may do away with."""
    text = f"exit code {lost[0]} ends the job, though another try may do"
    if _decided(failure, _BY_LIMIT) == "FailJobSet":
        return warn(failure, text, _ahead(failure, "RestartJobSet", _BY_LIMIT))
    rule = {"action": "Count", "onExitCodes": {"operator": "In", "values": lost}}
    return warn(job.get("podFailurePolicy"), text, _with_rules(job, [rule]))


def _ahead(failure: Node, action: str, reason: str) -> Patch:
    """Return what people are to put before the rules that a JobSet has, which are their own."""
    rule = f"{{name: NAME, action: {action}, onJobFailureReasons: [{reason}]}}"
    return advice(failure, f"{{rules: [{rule}, ...]}}")


def _with_policy(job: Node, job_set: Node | None) -> Patch:
    """Return the change that puts the renderer's rules first."""
    policy = job_failure_policy() if job_set is None else child_failure_policy()
    return _with_rules(job, policy["rules"])


def _with_rules(job: Node, rules: list[Any]) -> Patch:
    said = f"{{podFailurePolicy: {{rules: [{json.dumps(rules[-1])}]}}}}"
    return patch(job, json.dumps(_ruled(job, rules)), said)


def pod_failure_policy(job: Node) -> dict[str, Any]:
    """Return what a Job is to have, so that it ends for what would fail again, and for no more."""
    return _ruled(job, job_failure_policy()["rules"])


def _ruled(job: Node, rules: list[Any]) -> dict[str, Any]:
    """Return a Job with rules before its own; such a policy wants restartPolicy Never."""
    own = job.get("podFailurePolicy", "rules").plain_items()
    return {
        "podFailurePolicy": {"rules": [*rules, *(each for each in own if each not in rules)]},
        "template": {"spec": {"restartPolicy": "Never"}},
    }


def jobset_policy(failure: Node, restarts: int) -> dict[str, Any]:
    """Return the renderer's ``failurePolicy`` of a JobSet, behind the rules that it has."""
    made, own = jobset_failure_policy(restarts), failure.get("rules").plain_items()
    return {**made, "rules": [*own, *(each for each in made["rules"] if each not in own)]}
