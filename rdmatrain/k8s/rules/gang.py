"""What keeps a gang whole: how it is started again, and what may take one of its pods away."""

import json
from collections.abc import Iterator
from typing import Any

from rdmatrain.doctor.manifest.define import addition, fine, patch, question, unseen, warn
from rdmatrain.doctor.manifest.job_policies import BACKOFF, jobset_policy, pod_failure_policy
from rdmatrain.doctor.manifest.nodes import Node
from rdmatrain.doctor.manifest.volcano_policies import FAILED, events, policies_of
from rdmatrain.doctor.manifest.workloads import Manifest, Pod
from rdmatrain.doctor.model import Finding, Needs
from rdmatrain.k8s.rules.selecting import as_labels, labels_of, metadata, one_of_each, selecting
from rdmatrain.launcher.exit_codes import GANG_TIMEOUT, PEER_LOST
from rdmatrain.launcher.exit_policies import volcano_policies

_ALONE = "no workload has several pods"
_RESTARTS = 3
_PLAIN = "default-scheduler"
_FOR_DISRUPTED = "RestartJobSetAndIgnoreMaxRestarts"


@question(
    "restart-unit",
    "pods of a gang start again together",
    nothing=_ALONE,
    known="kubeflow/trainer#2000: one pod restarts alone while its peers wait",
    exit_code=PEER_LOST,
)
def restart_unit(manifest: Manifest, _needs: Needs) -> Iterator[Finding]:
    """Pods that start again one by one find peers that wait for the old ones."""
    for pod in manifest.training:
        if not pod.many:
            continue
        if pod.volcano:
            yield _of_volcano(pod)
        elif pod.kind == "JobSet":
            yield _of_child(pod, pod.template.parent or pod.document)
        elif pod.kind == "Job":
            yield _of_job(pod, pod.document.get("spec"))
        else:
            yield unseen(pod.template, f"the controller of the {pod.kind} decides")


def _of_job(pod: Pod, spec: Node) -> Finding:
    limit = spec.get("backoffLimit")
    if limit.number == 0 or spec.get("podFailurePolicy").there:
        return fine(spec, "no pod is replaced without a reason")
    tries = limit.number if limit.number is not None else BACKOFF
    text = f"pods are replaced one by one, {tries} times, while their peers wait for the old ones"
    # When the gang breaks all pods end with a code that is tried again, each for its own index.
    change = {
        "backoffLimit": None,
        "backoffLimitPerIndex": tries,
        "maxFailedIndexes": 0,
        "podReplacementPolicy": "Failed",
        **pod_failure_policy(spec),
    }
    said = f"{{backoffLimitPerIndex: {tries}, maxFailedIndexes: 0, podFailurePolicy: ...}}"
    return warn(limit if limit.there else spec, text, patch(spec, json.dumps(change), said))


def _of_child(pod: Pod, job: Node) -> Finding:
    limit = job.get("backoffLimit")
    if limit.number == 0:
        return fine(limit, "the JobSet starts all pods again, or none")
    text = "a Job of the JobSet replaces its pods one by one, while their peers wait"
    return warn(limit if limit.there else job, text, patch(job, "{backoffLimit: 0}"))


def _of_volcano(pod: Pod) -> Finding:
    spec, policies = pod.job, policies_of(pod)
    for each in policies:
        action = each.get("action")
        if action.text in {"RestartPod", "RestartTask"}:
            text = f"{action.text}: the pods of the others wait for the old ones"
            return warn(action, text, patch(each, "{action: RestartJob}"))
    if not any(FAILED & events(each) for each in policies):
        text = "no policy for PodFailed: when a pod fails, the others wait for ever"
        rules = _with_ours(spec.get("policies"))
        said = "{policies: [..., {event: PodFailed, action: AbortJob}]}"
        return warn(spec, text, patch(spec, f"{{policies: {json.dumps(rules)}}}", said))
    return fine(spec.get("policies"), "all pods start again, or none")


def _with_ours(policies: Node) -> list[Any]:
    """Return policies and the renderer's, but for what they speak of: Volcano refuses doubles."""
    own = policies.items()
    said = {event for each in own for event in events(each)} - {""}
    codes = {each.get("exitCode").number for each in own} - {None}
    new = (each for each in volcano_policies() if each.get("event") not in said)
    return [*policies.plain_items(), *(each for each in new if each.get("exitCode") not in codes)]


@question(
    "failure-policy",
    "a JobSet that is preempted starts again",
    nothing="there is no JobSet whose pods have to meet",
    exit_code=PEER_LOST,
)
def failure_policy(manifest: Manifest, _needs: Needs) -> Iterator[Finding]:
    """JobSets without failurePolicy end with the first pod that is lost, whatever the reason."""
    for pod in one_of_each(each for each in manifest.training if each.many):
        if pod.kind != "JobSet":
            continue
        spec = pod.document.get("spec")
        policy = spec.get("failurePolicy")
        if any(each.get("action").text == _FOR_DISRUPTED for each in policy.get("rules").items()):
            yield fine(policy, "a pod that is preempted starts all again, however often")
            continue
        if policy.get("maxRestarts").number:
            yield fine(policy, f"{policy.get('maxRestarts').text} restarts of all pods")
            continue
        text = "no restarts: one pod that is preempted ends the job"
        said = f"{{failurePolicy: {{maxRestarts: {_RESTARTS}, ...}}}}"
        change = json.dumps({"failurePolicy": jobset_policy(policy, _RESTARTS)})
        yield warn(spec, text, patch(spec, change, said, f"maxRestarts: {_RESTARTS}"))


@question(
    "scheduler",
    "the scheduler knows of the gang",
    nothing="there is no job of Volcano",
    exit_code=GANG_TIMEOUT,
)
def scheduler(manifest: Manifest, _needs: Needs) -> Iterator[Finding]:
    """Kubernetes' own scheduler takes pods one by one, whatever minAvailable says."""
    for pod in one_of_each(each for each in manifest.training if each.volcano):
        place = pod.job.get("schedulerName")
        if place.text == _PLAIN:
            text = f"{_PLAIN} takes pods one by one: nothing obeys minAvailable"
            yield warn(place, text, patch(place, "volcano"))
        else:
            yield fine(pod.job, place.text or "volcano, by default")


@question(
    "disruption-budget",
    "a drain waits for the gang",
    nothing=_ALONE,
    exit_code=PEER_LOST,
)
def disruption_budget(manifest: Manifest, _needs: Needs) -> Iterator[Finding]:
    """One pod that is evicted stops all; a drain asks nobody but a PodDisruptionBudget."""
    for pod in one_of_each(each for each in manifest.training if each.many):
        budgets = selecting(manifest, pod, "PodDisruptionBudget", "spec", "selector")
        if budgets:
            yield _enough(pod, budgets[0].get("spec"))
        elif not labels_of(pod):
            yield unseen(pod.template, "no label by which a PodDisruptionBudget could select it")
        else:
            spec = f"{{minAvailable: {pod.siblings}, selector: {{matchLabels: {as_labels(pod)}}}, "
            change = (
                f"{{apiVersion: policy/v1, kind: PodDisruptionBudget, metadata: {metadata(pod)}, "
                f"spec: {spec}unhealthyPodEvictionPolicy: AlwaysAllow}}}}"
            )
            said = f"add a PodDisruptionBudget with minAvailable: {pod.siblings}"
            text = "no PodDisruptionBudget: a drain takes pods away one by one"
            yield warn(pod.document, text, addition(pod.document, change, said))


def _enough(pod: Pod, spec: Node) -> Finding:
    number, most = spec.get("minAvailable"), spec.get("maxUnavailable")
    fix = patch(spec, f"{{minAvailable: {pod.siblings}, maxUnavailable: null}}")
    if most.there and most.text not in {"0", "0%"}:
        return warn(most, f"{most.text} pods may be taken away, and the others stop", fix)
    if number.there and number.number is None:
        text = f"{number.text}, which counts only for what has a scale: give a number"
        return warn(number, text, fix)
    if number.there and (number.number or 0) < (pod.siblings or 0):
        text = f"{number.text} of {pod.siblings} pods are to be left, and then none works"
        return warn(number, text, fix)
    return fine(spec, "all pods, or no drain")


@question(
    "probes",
    "no probe stops a pod of a gang",
    nothing=_ALONE,
    exit_code=PEER_LOST,
)
def probes(manifest: Manifest, _needs: Needs) -> Iterator[Finding]:
    """Long steps and checkpoints are not answered for minutes, and the kubelet kills one pod."""
    for pod in manifest.training:
        for box in pod.trainers if pod.many else ():
            probe = box.node.get("livenessProbe")
            if probe.there:
                text = "the kubelet kills this container alone, which stops all pods"
                yield warn(probe, text, patch(box.node, "{livenessProbe: null}"))
            else:
                yield fine(box.node, "no livenessProbe")
