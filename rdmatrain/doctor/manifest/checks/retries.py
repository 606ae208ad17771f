"""What of a manifest is tried again when it failed, and how many pods are started at all."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from rdmatrain.discovery.claims.values import shown
from rdmatrain.doctor.manifest.define import (
    Patch,
    advice,
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
from rdmatrain.launcher.exit_codes import (
    GANG_TIMEOUT,
    MEANING,
    NO_JOB,
    PERMANENT,
    RETRYABLE,
    may_be_retried,
)
from rdmatrain.launcher.exit_policies import (
    DISRUPTED,
    PYTORCHJOB_POLICY,
    child_failure_policy,
    job_failure_policy,
    jobset_failure_policy,
)

_OF_THE_GANG = tuple(sorted(code for code in MEANING if code >= GANG_TIMEOUT))
# Of a Job that says nothing.
BACKOFF = 6
# Events of Volcano for a pod that failed, whatever its exit code.
FAILED = frozenset(["PodFailed", "TaskFailed", "*"])
# What a workload does about an exit code.
_ENDS, _AGAIN, _FOR_EVER = "ends", "again", "for ever"
# Why a Job failed, as a JobSet is told it.
_BY_RULE, _BY_LIMIT = "PodFailurePolicy", "BackoffLimitExceeded"
_WITHOUT_CODES = {
    "MPIJob": "an MPIJob knows no exit codes: what would fail again is tried again, too",
    "LeaderWorkerSet": "a LeaderWorkerSet knows no exit codes: it tries all again, for ever",
}


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
    "what would fail again ends the job, and other faults do not",
    nothing="no container starts rdmatrain run",
    exit_code=NO_JOB,
)
def exit_codes(manifest: Manifest, _needs: Needs) -> Iterator[Finding]:
    """Codes of the launcher below 128 say that the same job fails again, those from 200 on not."""
    for pod in manifest.training:
        if any(each.runs_rdmatrain for each in pod.trainers):
            yield _of_workload(pod)


def _of_workload(pod: Pod) -> Finding:
    job_set = _job_set(pod)
    if pod.volcano:
        return _of_volcano(pod)
    if pod.kind in {"Job", "JobSet"}:
        return _of_job(pod.template.parent or pod.document, job_set)
    if job_set is not None:
        found = _of_job(pod.template.parent or pod.document, job_set)
        # A runtime may be that of other jobs, too: only people change it.
        return replace(found, fix=str(found.fix))
    if pod.kind == "PyTorchJob":
        return _of_replica_type(pod.template.parent or pod.document)
    return unseen(pod.template, _WITHOUT_CODES.get(pod.kind, f"the {pod.kind} decides"))


def _job_set(pod: Pod) -> Node | None:
    """Return the spec of the JobSet that a pod is of, its own or that of a runtime."""
    node = pod.template.parent
    while node is not None and not node.get("replicatedJobs").there:
        node = node.parent
    return node


def _of_job(job: Node, job_set: Node | None) -> Finding:
    """Judge a Job, which may be one of a JobSet."""
    failure = _failure(job, job_set)
    permanent, faults = _fates(job, failure, PERMANENT), _fates(job, failure, _OF_THE_GANG)
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


def _of_replica_type(owner: Node) -> Finding:
    """Judge pods of a PyTorchJob, whose policy ExitCode draws the launcher's own line."""
    place = owner.get("restartPolicy")
    if place.text == PYTORCHJOB_POLICY:
        return fine(place, "permanent errors end the job")
    if place.text == "Never":
        return fine(place, "nothing is tried again")
    if not place.there:
        return unseen(owner, "no restartPolicy: the PyTorchJob's own default counts")
    text = f"restartPolicy {shown(place.text, 20)} tries all again, whatever the exit code"
    return warn(place, text, patch(owner, f"{{restartPolicy: {PYTORCHJOB_POLICY}}}"))


def _of_volcano(pod: Pod) -> Finding:
    """Judge policies of Volcano: the first that matches counts, those of the task before others."""
    task, spec = pod.template.parent or pod.document, pod.document.get("spec")
    policies = [*task.get("policies").items(), *spec.get("policies").items()]
    for each in policies:
        if each.get("exitCode").number == 0:
            text = "exit code 0, which Volcano refuses: TaskCompleted says that all went well"
            fix = patch(each, "{exitCode: null, event: TaskCompleted}")
            return fail(each.get("exitCode"), text, fix)
    if not policies:
        return unseen(spec, "no policies: nothing is tried again")
    # It fails a job when it has counted so many restarts, before the last of them.
    if spec.get("maxRetry").number == 1:
        return fine(spec.get("maxRetry"), "nothing is tried again")
    return _of_policies(spec, policies)


def _of_policies(spec: Node, policies: list[Node]) -> Finding:
    # What no policy matches is another question: whether peers wait for ever.
    matching = ((code, _matching(policies, code)) for code in (*PERMANENT, *_OF_THE_GANG))
    for code, each in matching:
        if each is None or _restarts(each) == may_be_retried(code):
            continue
        if _restarts(each):
            return _restarted(each, code)
        # Somebody wants the job to start again, for one reason or another.
        meant = any(map(_restarts, policies)) or (spec.get("maxRetry").number or 0) > 1
        return _aborted(each, code, meant)
    return fine(spec.get("policies"), "permanent errors end the job")


def _matching(policies: list[Node], code: int) -> Node | None:
    """Return the policy for a pod that ended with an exit code."""
    for each in policies:
        if each.get("exitCode").number == code or events(each) & FAILED:
            return each
    return None


def events(policy: Node) -> set[str]:
    """Return the events that a policy of Volcano is for."""
    return {policy.get("event").text, *policy.get("events").texts()}


def _restarts(policy: Node) -> bool:
    return policy.get("action").text.startswith("Restart")


def _restarted(policy: Node, code: int) -> Finding:
    """Say that the same job is tried again that cannot run."""
    if policy.get("exitCode").there:
        text = f"exit code {code} is tried again, and fails each time"
        return warn(policy, text, patch(policy, "{action: AbortJob}"))
    text = f"{min(events(policy) & FAILED)} is tried again, whatever the exit code"
    owner, change, said = _before(policy, PERMANENT, "AbortJob")
    return warn(policy, text, patch(owner, change, said))


def _aborted(policy: Node, code: int, meant: bool) -> Finding:
    """Say that a job ends for what another try may do away with."""
    text = f"exit code {code} ends the job, though another try may do"
    if policy.get("exitCode").there:
        return warn(policy, text, advice(policy, "{action: RestartJob}"))
    owner, change, said = _before(policy, RETRYABLE, "RestartJob")
    return warn(policy, text, patch(owner, change, said) if meant else advice(owner, said))


def _before(policy: Node, codes: Sequence[int], action: str) -> tuple[Node, str, str]:
    """Return what puts policies for exit codes before one for all: where, the change, in short."""
    rules = policy.parent or policy
    own = rules.plain_items()
    given = {each.get("exitCode") for each in own if isinstance(each, dict)}
    added = [{"exitCode": code, "action": action} for code in codes if code not in given]
    # Codes that it has come first as well: behind a policy for all they are never asked.
    behind = sorted(own, key=lambda each: "exitCode" not in each)
    said = f"{{policies: [{{exitCode: {codes[0]}, action: {action}}}, ...]}}"
    return rules.parent or policy, json.dumps({"policies": [*added, *behind]}), said
