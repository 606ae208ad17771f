"""What of a manifest is tried again when it failed, and how many pods are started at all."""

import json
import re
from collections.abc import Iterator
from typing import Any

from rdmatrain.doctor.manifest.define import (
    Patch,
    fail,
    fine,
    patch,
    static_question,
    unseen,
    warn,
)
from rdmatrain.doctor.manifest.nodes import Node
from rdmatrain.doctor.manifest.workloads import Manifest, Pod
from rdmatrain.doctor.model import Finding, Needs
from rdmatrain.launcher.exit_codes import GANG_TIMEOUT, MEANING, NO_JOB, PERMANENT
from rdmatrain.launcher.exit_policies import (
    child_failure_policy,
    job_failure_policy,
    jobset_failure_policy,
)

_OF_THE_GANG = tuple(sorted(code for code in MEANING if code >= GANG_TIMEOUT))
# Of a Job that says nothing.
BACKOFF = 6
_RUNS = re.compile(r"\brdmatrain\s+run\b")


@static_question(
    "gang-parallel",
    "all pods of a Job run at the same time",
    nothing="no Job whose pods meet says how many there are",
    exit_code=GANG_TIMEOUT,
)
def gang_parallel(manifest: Manifest, _needs: Needs) -> Iterator[Finding]:
    """Pods that are to come once others ended never come: those wait for them."""
    for pod in manifest.training:
        job = pod.template.parent or pod.document
        number = job.get("completions").number
        if number is not None and _meets(pod):
            yield _at_once(job, number)


def _meets(pod: Pod) -> bool:
    """Tell whether the pods of a Job are to find each other."""
    trains = any(each.launches and not each.alone for each in pod.trainers)
    return trains and pod.kind in {"Job", "JobSet"} and not pod.volcano


def _at_once(job: Node, number: int) -> Finding:
    place = job.get("parallelism")
    parallel = place.number if place.there else 1
    if parallel is None or parallel < number:
        text = f"{number} pods, of which {parallel} run at the same time"
        return fail(job, text, patch(job, f"{{parallelism: {number}}}"))
    return fine(job, f"all {number} pods at the same time")


@static_question(
    "exit-codes",
    "what would fail again is not tried again",
    nothing="no container starts rdmatrain run",
    exit_code=NO_JOB,
)
def exit_codes(manifest: Manifest, _needs: Needs) -> Iterator[Finding]:
    """Codes of the launcher below 128 say that the same job fails again, those from 200 on not."""
    for pod in manifest.training:
        if not any(_RUNS.search(" ".join(each.command)) for each in pod.trainers):
            continue
        if pod.volcano:
            yield _of_volcano(pod)
        elif pod.kind in {"Job", "JobSet"}:
            yield _of_job(pod, pod.template.parent or pod.document)
        else:
            yield unseen(pod.template, f"the {pod.kind} decides")


def _of_job(pod: Pod, job: Node) -> Finding:
    rules = job.get("podFailurePolicy", "rules").items()
    again = {
        code: action
        for code in PERMANENT
        if (action := _action(rules, code)) not in {"FailJob", "FailIndex"}
    }
    ignored = [code for code, action in again.items() if action == "Ignore"]
    if ignored:
        text = f"exit code {ignored[0]} is ignored: a job that cannot run starts without end"
        return fail(job.get("podFailurePolicy"), text, _with_rules(pod, job))
    tries = _tries(job)
    if again and tries:
        text = f"exit code {min(again)} is tried again {tries} times, and fails each time"
        return warn(job, text, _with_rules(pod, job))
    if pod.kind == "JobSet":
        return _of_jobset(pod, job, bool(again))
    return _given_up(pod, job, rules) if tries else fine(job, "nothing is tried again")


def _given_up(pod: Pod, job: Node, rules: list[Node]) -> Finding:
    """Judge whether a Job ends for what another try may do away with."""
    lost = [code for code in _OF_THE_GANG if _action(rules, code) == "FailJob"]
    if not lost:
        return fine(job, "permanent errors end the job")
    text = f"exit code {lost[0]} ends the job, though another try may do"
    rule = {"action": "Count", "onExitCodes": {"operator": "In", "values": lost}}
    return warn(job.get("podFailurePolicy"), text, _with_rules(pod, job, rule))


def _tries(job: Node) -> int:
    """Return how often a pod of a Job is replaced."""
    for name in ("backoffLimitPerIndex", "backoffLimit"):
        place = job.get(name)
        if place.there:
            return place.number or 0
    return BACKOFF


def _action(rules: list[Node], code: int) -> str:
    """Return what a policy does with an exit code: the first rule that matches counts."""
    for each in rules:
        codes = each.get("onExitCodes")
        listed = str(code) in codes.get("values").texts()
        if codes.there and listed == (codes.get("operator").text == "In"):
            return each.get("action").text
    return "Count"


def _with_rules(pod: Pod, job: Node, rule: Any = None) -> Patch:
    """Return the change that puts a rule first, or those that the launcher's codes need."""
    rules = [rule] if rule else _rules(pod)
    said = f"{{podFailurePolicy: {{rules: [{json.dumps(rules[-1])}]}}}}"
    return patch(job, json.dumps(_ruled(job, rules)), said)


def pod_failure_policy(pod: Pod, job: Node) -> dict[str, Any]:
    """Return what a Job is to have, so that it ends for what would fail again, and for no more."""
    return _ruled(job, _rules(pod))


def _rules(pod: Pod) -> list[Any]:
    """Return the renderer's rules."""
    policy = child_failure_policy() if pod.kind == "JobSet" else job_failure_policy()
    return list(policy["rules"])


def _ruled(job: Node, rules: list[Any]) -> dict[str, Any]:
    """Return a Job with rules before its own; such a policy wants restartPolicy Never."""
    others = [
        each for each in job.get("podFailurePolicy", "rules").plain_items() if each not in rules
    ]
    return {
        "podFailurePolicy": {"rules": [*rules, *others]},
        "template": {"spec": {"restartPolicy": "Never"}},
    }


def _of_jobset(pod: Pod, job: Node, unruled: bool) -> Finding:
    """Judge a JobSet, which is told only that a rule of its Job's policy matched."""
    policy = pod.document.get("spec", "failurePolicy")
    restarts = policy.get("maxRestarts").number or 0
    if not restarts:
        return fine(pod.document.get("spec"), "nothing is tried again")
    if unruled:
        text = f"exit code {PERMANENT[0]} starts all pods again {restarts} times"
        return warn(job, text, _with_rules(pod, job))
    actions = {each.get("action").text for each in policy.get("rules").items()}
    if "FailJobSet" in actions:
        return fine(policy, "permanent errors end the JobSet")
    text = f"what the Jobs' podFailurePolicy ends is started again {restarts} times"
    change = json.dumps({"rules": jobset_policy(policy, restarts)["rules"]})
    return warn(policy, text, patch(policy, change, "{rules: [{action: FailJobSet}]}"))


def jobset_policy(policy: Node, restarts: int) -> dict[str, Any]:
    """Return the renderer's ``failurePolicy`` of a JobSet, behind the rules that it has."""
    made, own = jobset_failure_policy(restarts), policy.get("rules").plain_items()
    return {**made, "rules": [*own, *(each for each in made["rules"] if each not in own)]}


def _of_volcano(pod: Pod) -> Finding:
    task = pod.template.parent or pod.document
    spec = pod.document.get("spec")
    policies = [*task.get("policies").items(), *spec.get("policies").items()]
    for each in policies:
        code = each.get("exitCode")
        if code.number == 0:
            text = "exit code 0, which Volcano refuses: TaskCompleted says that all went well"
            return fail(code, text, patch(each, "{exitCode: null, event: TaskCompleted}"))
        if code.number in PERMANENT and each.get("action").text.startswith("Restart"):
            text = f"exit code {code.number} is tried again, and fails each time"
            return warn(each, text, patch(each, "{action: AbortJob}"))
    return _of_events(spec, policies)


def _of_events(spec: Node, policies: list[Node]) -> Finding:
    """Judge what Volcano does with any failure, where no code was matched before."""
    codes = {each.get("exitCode").number for each in policies}
    for each in policies:
        failed = {"PodFailed", "TaskFailed", "*"} & {
            each.get("event").text,
            *each.get("events").texts(),
        }
        if failed and each.get("action").text.startswith("Restart") and PERMANENT[1] not in codes:
            text = f"{failed.pop()} is tried again, whatever the exit code"
            aborts = [{"exitCode": code, "action": "AbortJob"} for code in PERMANENT]
            made = json.dumps([*aborts, *spec.get("policies").plain_items()])
            said = "{policies: [{exitCode: 64, action: AbortJob}, ...]}"
            return warn(each, text, patch(spec, f"{{policies: {made}}}", said))
    if not policies:
        return unseen(spec, "no policies: nothing is tried again")
    return fine(spec.get("policies"), "permanent errors end the job")
