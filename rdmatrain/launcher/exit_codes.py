"""The launcher's exit codes: below 128 the same job would fail again, from 128 on it may not.

PyTorchJob's policy ``ExitCode`` draws the line there, and those of Volcano, JobSet and Kubernetes
match single codes. 1 and whatever else a worker ends with passes through; a signal is 128 + N.
"""

import signal

USAGE = 2
NO_JOB = 64
NO_DEVICES = 69
NOT_PERMITTED = 77
BAD_CONFIG = 78
PREEMPTED = 143
GANG_TIMEOUT = 200
PEER_LOST = 201
FABRIC_FAULT = 202
DEVICE_FAULT = 203
HUNG = 204

MEANING = {
    0: "every worker ended with 0",
    1: "a worker failed; any other code of a worker passes through as well",
    USAGE: "an option or variable is misspelt, or its value is not allowed",
    NO_JOB: "options contradict each other, or the script is not there",
    NO_DEVICES: "the pod has not the devices that it was promised",
    NOT_PERMITTED: "a limit or a capability is missing: memlock, a device that cannot be opened",
    BAD_CONFIG: "the members of the gang do not fit together",
    137: "a worker was killed by SIGKILL, as by the kernel when memory ran out",
    PREEMPTED: "stopped by SIGTERM, after the workers had their time for a checkpoint",
    GANG_TIMEOUT: "the gang was not complete in time",
    PEER_LOST: "another node was lost",
    FABRIC_FAULT: "the fabric failed: a link is down, a completion failed, no GID works",
    DEVICE_FAULT: "a GPU or NIC of this node failed: another node may do",
    HUNG: "a worker hung",
}
# Of faults that may be of what a pod has, or has not; a worker's own code may be one of them.
OF_PODS = frozenset(
    {NO_DEVICES, NOT_PERMITTED, GANG_TIMEOUT, PEER_LOST, FABRIC_FAULT, DEVICE_FAULT, HUNG}
)


def may_be_retried(code: int) -> bool:
    """Tell whether starting the job again, as it is, may help."""
    return code >= 128


def of_signal(name: str) -> int:
    """Return the exit code of a job that a signal stopped: 143 for ``SIGTERM``."""
    return 128 + signal.Signals[name]


# What a fault of the fabric or of memory does to a worker that has no chance to say so: torch's
# watchdog aborts, a file in a full /dev/shm or a page that is lost gives SIGBUS.
_CRASHES = tuple(of_signal(name) for name in ("SIGABRT", "SIGBUS", "SIGSEGV"))
# The launcher's own; 1 is a worker's, and says nothing of another try.
PERMANENT = tuple(sorted(code for code in MEANING if code > 1 and not may_be_retried(code)))
# The launcher's own again: what happened, which another try may do away with.
FAULTS = tuple(sorted(code for code in MEANING if code >= GANG_TIMEOUT))
# For systems that match single codes: what a job may end with by no fault of its program.
RETRYABLE = tuple(sorted({*(code for code in MEANING if may_be_retried(code)), *_CRASHES}))
