"""What Kubernetes shows of a pod whose doctor says FAIL, as it does of a job that was refused."""

import os
from collections.abc import Sequence

from rdmatrain.doctor.model import Result, Verdict
from rdmatrain.doctor.report import cause_of, exit_code
from rdmatrain.launcher import termination
from rdmatrain.topo.terminal import printable


def failure(cause: Result) -> str:
    """Return a check that fails as a line: what was seen, and what to do."""
    finding = cause.finding
    return printable(f"FAIL {cause.check.id}: {finding.evidence}; do this: {finding.fix}")


def tell_kubernetes(results: Sequence[Result]) -> None:
    """Leave the cause in the pod's status, if a check fails and this is a pod of Kubernetes.

    Args:
        results: in the order in which they were asked.

    """
    cause = cause_of(results)
    if cause and cause.verdict is Verdict.FAIL:
        refuse(failure(cause), exit_code(results))


def refuse(detail: str, code: int) -> None:
    """Leave there why this container ends, if it is this process, or its shell's, that ends it.

    Of a pod that trains, into which somebody looks (``kubectl exec``), the job tells the end.

    Args:
        detail: why, and what to do.
        code: of this process.

    """
    if 1 in {os.getpid(), os.getppid()}:
        termination.refuse(detail, code)
