"""What a Volcano Job does about an exit code."""

import json
from collections.abc import Sequence

from rdmatrain.discovery.claims.values import shown
from rdmatrain.doctor.manifest.define import advice, fail, fine, patch, unseen, warn
from rdmatrain.doctor.manifest.nodes import Node
from rdmatrain.doctor.manifest.workloads import Pod
from rdmatrain.doctor.model import Finding
from rdmatrain.launcher.exit_codes import FAULTS, PERMANENT, RETRYABLE, may_be_retried

# Events of Volcano for a pod that failed, whatever its exit code. TaskFailed is none: it says that
# containers of pods that run were restarted in place, more often than the task's maxRetry.
FAILED = frozenset(["PodFailed", "*"])


def of_volcano(pod: Pod) -> Finding:
    """Judge what a Volcano Job does about exit codes."""
    spec, policies = pod.job, policies_of(pod)
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
    return _of_another(pod, policies) or _of_policies(spec, policies)


def _of_another(pod: Pod, policies: list[Node]) -> Finding | None:
    """Judge whose exit code it is that Volcano sees: of the container whose name sorts first."""
    first = min(pod.containers, key=lambda each: each.node.get("name").text)
    by_code = next((each for each in policies if each.get("exitCode").there), None)
    if by_code is None or first.runs_rdmatrain:
        return None
    name = shown(first.node.get("name").text, 60)
    text = f"Volcano goes by the exit code of {name}, whose name sorts first, and of no other"
    return warn(by_code, text, advice(first.node, "{name: NAME}, behind the name of who trains"))


def policies_of(pod: Pod) -> list[Node]:
    """Return the policies for a pod, of which the first that matches counts: its task's first."""
    task = pod.template.parent or pod.document
    return [*task.get("policies").items(), *pod.job.get("policies").items()]


def _of_policies(spec: Node, policies: list[Node]) -> Finding:
    # What no policy matches is another question: whether peers wait for ever.
    matching = ((code, _matching(policies, code)) for code in (*PERMANENT, *FAULTS))
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
