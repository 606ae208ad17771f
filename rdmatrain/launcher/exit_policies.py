"""The launcher's exit codes in the words of each system: what is tried again, and what is not.

The launcher's table draws one line: below 128 the same job would fail again. A system that matches
single codes gets the codes that a job may end with by no fault of its program; any other ends the
job, as a worker's own 3 does, and as SIGINT (130) does, which somebody sent.
"""

from typing import Any

from rdmatrain.launcher.exit_codes import RETRYABLE

Object = dict[str, Any]

# A pod that the cluster itself ended: preempted, drained, its node out of memory.
DISRUPTED = "DisruptionTarget"
# The policy of PyTorchJob that draws the same line: from 128 on a pod is started again.
PYTORCHJOB_POLICY = "ExitCode"


def job_failure_policy() -> Object:
    """Return ``podFailurePolicy`` of a Job that stands alone: it replaces pods one by one.

    What is no fault of the job does not count; what would fail again ends it; the rest counts
    against its limit.
    """
    return _failure_policy("Ignore")


def child_failure_policy() -> Object:
    """Return ``podFailurePolicy`` of a Job in a JobSet, which starts all pods again, or none.

    A pod that was disrupted fails its Job, so that the JobSet decides: were it replaced, it would
    wait for peers that are about to end as well.
    """
    return _failure_policy("FailJob")


def _failure_policy(disrupted: str) -> Object:
    """Return a policy; the first rule that matches a pod counts, for any of its containers."""
    condition = {"type": DISRUPTED, "status": "True"}
    codes = {"operator": "NotIn", "values": list(RETRYABLE)}
    return {
        "rules": [
            {"action": disrupted, "onPodConditions": [condition]},
            {"action": "FailJob", "onExitCodes": codes},
        ]
    }


def jobset_failure_policy(max_restarts: int) -> Object:
    """Return ``failurePolicy`` of a JobSet whose Jobs have :func:`child_failure_policy`.

    A Job tells a JobSet only why it failed, as a reason and a message, and never a code: a rule of
    its podFailurePolicy matched, or its limit of 0 was exceeded, which is then worth a restart.
    """
    return {
        "maxRestarts": max_restarts,
        # All pods are gone before the first is made again: their devices are free, and no old
        # pod is taken for a peer.
        "restartStrategy": "BlockingRecreate",
        "rules": [
            {
                "name": "disrupted",
                "action": "RestartJobSetAndIgnoreMaxRestarts",
                "onJobFailureReasons": ["PodFailurePolicy"],
                "onJobFailureMessagePatterns": [f".*{DISRUPTED}.*"],
            },
            {
                "name": "permanent",
                "action": "FailJobSet",
                "onJobFailureReasons": ["PodFailurePolicy"],
            },
        ],
    }


def volcano_policies() -> list[Object]:
    """Return ``policies`` of a Volcano job, of which the first that matches counts.

    Volcano matches the code of the container whose name sorts first, as the kubelet lists them:
    where an initContainer fails, the job ends, whatever its code.
    """
    retried: list[Object] = [{"exitCode": code, "action": "RestartJob"} for code in RETRYABLE]
    return [
        {"event": "PodEvicted", "action": "RestartJob"},
        *retried,
        {"event": "PodFailed", "action": "AbortJob"},
        {"event": "TaskCompleted", "action": "CompleteJob"},
    ]
