"""The parts of a JobSet, which the targets jobset, kueue and trainjob have in common."""

from rdmatrain.k8s.notes import Notes
from rdmatrain.k8s.parts import Object
from rdmatrain.k8s.spec import Spec
from rdmatrain.launcher.exit_policies import child_failure_policy, jobset_failure_policy

# Of the characters that Kubernetes appends to the name of a pod.
RANDOM = "-xxxxx"


def last_pod(spec: Spec, group: str) -> str:
    """Return the longest name of a pod, of the replicated job ``group``."""
    return f"{spec.name}-{group}-0-{spec.nodes - 1}{RANDOM}"


def job_spec(template: Object, notes: Notes, path: str) -> Object:
    """Return the spec of the one Job, but for the number of its pods.

    Args:
        template: of the pods.
        notes: where it is noted.
        path: of the Job's spec in the object that the notes are of.

    """
    policy = child_failure_policy()
    notes.add(
        "",
        f"{path}.backoffLimit",
        0,
        "A pod alone is never replaced, as the others would wait for it: all are, see "
        "failurePolicy.",
    )
    notes.add("", f"{path}.podReplacementPolicy", "Failed", "Its devices are free by then.")
    notes.add(
        "",
        f"{path}.podFailurePolicy",
        policy,
        "By the rule that failed the Job the JobSet knows what to do.",
    )
    return {
        "completionMode": "Indexed",
        "backoffLimit": 0,
        "podReplacementPolicy": "Failed",
        "podFailurePolicy": policy,
        "template": template,
    }


def set_spec(spec: Spec, group: str, notes: Notes, path: str) -> Object:
    """Return the fields of a JobSet's spec that say how it ends, restarts and is reached.

    Args:
        spec: of the job.
        group: name of the replicated job.
        notes: where it is noted.
        path: of the JobSet's spec in the object that the notes are of.

    """
    failure = jobset_failure_policy(spec.max_restarts)
    notes.add(
        "max_restarts",
        f"{path}.failurePolicy.maxRestarts",
        spec.max_restarts,
        "So often all pods are made again for a fault; preemption and drains do not count.",
    )
    why = "New pods wait until the old ones are gone, and have their devices."
    notes.add("", f"{path}.failurePolicy.restartStrategy", failure["restartStrategy"], why)
    why = "Codes below 128 end the job, as it would fail again."
    notes.add("max_restarts", f"{path}.failurePolicy.rules", failure["rules"], why)
    why = "The job has ended well when all pods have."
    notes.add("", f"{path}.successPolicy", "All", why)
    why = "The gang meets before any pod is ready."
    notes.add("", f"{path}.network.publishNotReadyAddresses", True, why)
    notes.add(
        "",
        "pod labels",
        "jobset.sigs.k8s.io/restart-attempt",
        "The launcher reads its restart epoch of it, in /etc/podinfo.",
    )
    return {
        "network": {"enableDNSHostnames": True, "publishNotReadyAddresses": True},
        "successPolicy": {"operator": "All", "targetReplicatedJobs": [group]},
        "failurePolicy": failure,
    }
