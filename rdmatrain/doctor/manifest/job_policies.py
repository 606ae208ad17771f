"""What a Job and a JobSet do about an exit code."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
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
# What becomes of a job that ended with an exit code.
_ENDS, _AGAIN, _FOR_EVER, _UNKNOWN = "ends", "again", "for ever", "unknown"
# Why a Job failed, as a JobSet is told it.
_BY_RULE, _BY_LIMIT = "PodFailurePolicy", "BackoffLimitExceeded"


@dataclass(frozen=True)
class Judged:
    """A Job that one container's exit codes end, or do not.

    Attributes:
        job: its spec.
        job_set: spec of the JobSet that it is of; None for one that stands alone.
        container: by name.

    """

    job: Node
    job_set: Node | None
    container: str

    @property
    def failure(self) -> Node:
        """What the JobSet does when one of its Jobs failed; not there for a Job alone."""
        return (self.job if self.job_set is None else self.job_set).get("failurePolicy")

    @property
    def restarts(self) -> int:
        """How often the JobSet starts all again."""
        return self.failure.get("maxRestarts").number or 0

    @property
    def tries(self) -> int:
        """How often the Job replaces a pod."""
        for name in ("backoffLimitPerIndex", "backoffLimit"):
            place = self.job.get(name)
            if place.there:
                return place.number or 0
        return BACKOFF

    def fates(self, codes: Iterable[int]) -> dict[str, list[int]]:
        """Return exit codes by what becomes of the job."""
        found: dict[str, list[int]] = {_ENDS: [], _AGAIN: [], _FOR_EVER: [], _UNKNOWN: []}
        for code in codes:
            found[self._fate(code)].append(code)
        return found

    def _fate(self, code: int) -> str:
        action = self.action(code)
        if action == "Ignore":
            return _FOR_EVER
        if action == "Count" and self.tries:
            return _AGAIN
        decided = self.decided(self.reason(action))
        if decided.endswith("IgnoreMaxRestarts"):
            return _FOR_EVER
        if decided == _UNKNOWN:
            return _UNKNOWN
        return _AGAIN if self.restarts and decided != "FailJobSet" else _ENDS

    def action(self, code: int) -> str:
        """Return what the Job does about an exit code: the first rule that matches counts."""
        for each in self.job.get("podFailurePolicy", "rules").items():
            codes = each.get("onExitCodes")
            listed = str(code) in codes.get("values").texts()
            other = codes.get("containerName").text not in {"", self.container}
            if codes.there and not other and listed == (codes.get("operator").text == "In"):
                return each.get("action").text
        return "Count"

    def reason(self, action: str) -> str:
        """Return why the Job failed that did so about a pod, and replaces none any more."""
        if action == "FailJob":
            return _BY_RULE
        if not self.job.get("backoffLimitPerIndex").there:
            return _BY_LIMIT
        limited = self.job.get("maxFailedIndexes").there
        return "MaxFailedIndexesExceeded" if limited else "FailedIndexes"

    @property
    def for_disrupted(self) -> list[Any]:
        """The Job's rules for pods that the cluster ended."""
        rules = self.job.get("podFailurePolicy", "rules").plain_items()
        return [each for each in rules if DISRUPTED in json.dumps(each)]

    def decided(self, reason: str, *, disrupted: bool = False) -> str:
        """Return what the JobSet does when the Job failed: the first rule counts; "" without.

        Rules that go by messages are for pods that were disrupted, or nobody knows for what.
        """
        for each in self.failure.get("rules").items():
            if not self._is_about(each, reason):
                continue
            messages = each.get("onJobFailureMessagePatterns").texts()
            if not messages or (disrupted and any(DISRUPTED in said for said in messages)):
                return each.get("action").text
            if any(DISRUPTED not in said for said in messages):
                return _UNKNOWN
        return ""

    def _is_about(self, rule: Node, reason: str) -> bool:
        reasons = rule.get("onJobFailureReasons").texts()
        targets = rule.get("targetReplicatedJobs").texts()
        return (not reasons or reason in reasons) and (not targets or self._name in targets)

    @property
    def _name(self) -> str:
        """Of the replicated Job."""
        node = self.job
        while node.parent is not None and not isinstance(node.key, int):
            node = node.parent
        return node.get("name").text


def of_job(judged: Judged) -> Finding:
    """Judge a Job by what becomes of it."""
    permanent, faults = judged.fates(PERMANENT), judged.fates(FAULTS)
    if permanent[_FOR_EVER]:
        return _endless(judged, permanent[_FOR_EVER][0])
    if permanent[_UNKNOWN] or faults[_UNKNOWN]:
        text = "it goes by messages of its Jobs, which only Kubernetes has"
        return unseen(judged.failure, text)
    if not judged.tries and not judged.restarts:
        return fine(judged.job, "nothing is tried again")
    if permanent[_AGAIN]:
        return _tried_again(judged, permanent[_AGAIN][0])
    if faults[_ENDS]:
        return _given_up(judged, faults[_ENDS])
    return fine(judged.job, "permanent errors end the job")


def _endless(judged: Judged, code: int) -> Finding:
    """Say that an exit code is not even counted."""
    text = f"exit code {code} is ignored: a job that cannot run starts without end"
    action = judged.action(code)
    if action == "Ignore":
        return fail(judged.job.get("podFailurePolicy"), text, _with_policy(judged))
    return fail(judged.failure, text, _ahead(judged, "FailJobSet", judged.reason(action)))


def _tried_again(judged: Judged, code: int) -> Finding:
    """Say that the same job is tried again that cannot run."""
    action, failure = judged.action(code), judged.failure
    text = f"exit code {code} starts all pods again {judged.restarts} times"
    if action == "Count" and judged.tries:
        text = f"exit code {code} is tried again {judged.tries} times, and fails each time"
    reason = _BY_RULE if action == "Count" else judged.reason(action)
    if reason != _BY_RULE or judged.decided(reason).startswith("Restart"):
        return warn(failure, text, _ahead(judged, "FailJobSet", reason))
    # Rules by which a JobSet ends are not for pods that were disrupted: the Job tells them apart.
    if action == "Count" or not judged.for_disrupted:
        return warn(judged.job, text, _with_policy(judged))
    change = json.dumps({"rules": jobset_policy(failure, judged.restarts)["rules"]})
    return warn(failure, text, patch(failure, change, "{rules: [{action: FailJobSet}]}"))


def _given_up(judged: Judged, lost: list[int]) -> Finding:
    """Say that a job ends for what another try may do away with."""
    text = f"exit code {lost[0]} ends the job, though another try may do"
    reason = judged.reason("Count")
    if not judged.tries and judged.decided(reason) == "FailJobSet":
        return warn(judged.failure, text, _ahead(judged, "RestartJobSet", reason))
    rule = {"action": "Count", "onExitCodes": {"operator": "In", "values": lost}}
    return warn(judged.job.get("podFailurePolicy"), text, _with_rules(judged.job, [rule]))


def _ahead(judged: Judged, action: str, reason: str) -> Patch:
    """Return what people are to put before the rules that a JobSet has, which are their own."""
    rule = f"{{name: NAME, action: {action}, onJobFailureReasons: [{reason}]}}"
    return advice(judged.failure, f"{{rules: [{rule}, ...]}}")


def _with_policy(judged: Judged) -> Patch:
    """Return the change that puts the renderer's rules first."""
    if judged.job_set is None:
        return _with_rules(judged.job, job_failure_policy()["rules"])
    disrupted, codes = child_failure_policy()["rules"]
    # A pod that was disrupted is to start all again, which the JobSet may not do.
    decided = judged.decided(_BY_RULE, disrupted=True)
    again = decided.endswith("IgnoreMaxRestarts") or (judged.restarts and decided != "FailJobSet")
    first = judged.for_disrupted or ([disrupted] if again else [])
    return _with_rules(judged.job, [*first, codes])


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
    """Return the renderer's ``failurePolicy`` of a JobSet, behind what it has itself."""
    made, own = jobset_failure_policy(restarts), failure.get("rules")
    names = {each.get("name").text for each in own.items()}
    new = [each for each in made["rules"] if each not in own.plain_items()]
    for each in new:
        if each["name"] in names:  # a JobSet's names are there once
            each["name"] = f"rdmatrain_{each['name']}"
    if failure.get("restartStrategy").there:
        del made["restartStrategy"]
    return {**made, "rules": [*own.plain_items(), *new]}
