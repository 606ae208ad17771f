"""The doctor before and after ``rdmatrain run``, whose launcher knows nothing of it."""

from collections.abc import Callable, Mapping
from threading import Thread
from typing import Any

from rdmatrain.config import REQUIRABLE, doctor_allowed, inherited_environment
from rdmatrain.doctor.catalog import checks
from rdmatrain.doctor.examine import examine
from rdmatrain.doctor.model import Needs, Result, Verdict
from rdmatrain.doctor.report import Style, as_lines, cause_of, exit_code
from rdmatrain.doctor.status import failure
from rdmatrain.doctor.subject import needs_of, this_pod
from rdmatrain.launcher import exit_codes
from rdmatrain.launcher.job import Job
from rdmatrain.launcher.refusal import RefusalError
from rdmatrain.topo.terminal import printable

HEAD = "rdmatrain doctor:"
# A job that has failed is not held up for longer, whatever a broken device does to a probe.
PATIENCE_S = 5.0


def preflight(job: Job, tell: Callable[[str], None], style: Style) -> None:
    """Ask the doctor about this pod before a job, and tell what is wrong, if anything is.

    Args:
        job: that is to be started.
        tell: where to.
        style: how it is written.

    Raises:
        RefusalError: a check fails, so that nothing is to be started.

    """
    results = _results(_needs(job))
    _tell(results, tell, style)
    cause = cause_of(results)
    if cause and cause.verdict is Verdict.FAIL:
        raise RefusalError(
            f"nothing was started, as rdmatrain doctor says {failure(cause)}", exit_code(results)
        )


def aftermath(
    code: int, wanted: Job | Mapping[str, Any], tell: Callable[[str], None], style: Style
) -> None:
    """Ask the doctor about this pod after a job that a fault of the pod may have ended.

    Args:
        code: the launcher's exit code.
        wanted: the job; what the command line had, where it did not come to one.
        tell: where to say what is wrong, if anything is.
        style: how it is written.

    """
    if code not in exit_codes.OF_PODS or not doctor_allowed():
        return
    said: list[list[Result] | str] = []

    def ask() -> None:
        try:
            said.append(_results(_needs(wanted)))
        except Exception as error:
            said.append(f"{type(error).__name__}: {error}")

    # A thread that hangs in a broken device's driver does not keep the process.
    asking = Thread(target=ask, daemon=True)
    asking.start()
    asking.join(PATIENCE_S)
    answer = said[0] if said else f"no answer within {PATIENCE_S:g} s"
    if isinstance(answer, str):
        tell(printable(f"{HEAD} {answer}"))
    else:
        _tell(answer, tell, style)


def _needs(wanted: Job | Mapping[str, Any]) -> Needs:
    if isinstance(wanted, Job):
        return needs_of(wanted, inherited_environment())
    named = str(wanted.get("require") or wanted.get("transport") or "")
    return Needs(transport=named if named in REQUIRABLE else "")


def _results(needs: Needs) -> list[Result]:
    return list(examine(this_pod(needs), checks()))


def _tell(results: list[Result], tell: Callable[[str], None], style: Style) -> None:
    lines = as_lines(results, style)
    if lines:
        tell("\n".join([HEAD, *(f"  {line}" for line in lines.split("\n"))]))
