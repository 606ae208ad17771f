"""Asking the checks about a case."""

from collections.abc import Iterable, Iterator
from time import perf_counter

from rdmatrain.doctor.model import (
    Case,
    Check,
    Finding,
    Result,
    UnansweredError,
    Verdict,
    skipped,
    warned,
)

NO_THREADS = "ulimit -u, and pids.max of the cgroup: no more threads are allowed"
HUNG = "dmesg | tail -20, on the node: a driver, a disk or a name server does not answer"


def examine(case: Case, checks: Iterable[Check]) -> Iterator[Result]:
    """Ask one check after the other; what follows from a FAIL before it is not asked.

    Neither is what follows from a check that was not asked for that reason: all of them name the
    check that failed. Of those that need a probe which hangs, the first one warns.

    Args:
        case: to look at.
        checks: in the order of causes.

    """
    causes: dict[str, str] = {}
    hung: dict[str, str] = {}
    for check in checks:
        start = perf_counter()
        cause = next((causes[each] for each in check.after if each in causes), "")
        if cause:
            causes[check.id] = cause
            finding = skipped(f"not asked: see {cause}")
        else:
            finding = _ask(check, case, hung)
        if finding.verdict is Verdict.FAIL:
            causes[check.id] = check.id
        yield Result(check, finding, perf_counter() - start)


def _ask(check: Check, case: Case, hung: dict[str, str]) -> Finding:
    """Ask one; a check that breaks does not break the doctor."""
    try:
        return check.judge(case)
    except UnansweredError as error:
        first = hung.setdefault(error.probe, check.id)
        if first != check.id:
            return skipped(f"not asked: see {first}")
        return warned(str(error), NO_THREADS if "new thread" in str(error) else HUNG)
    except Exception as error:
        what = f"{type(error).__name__}: {error}"
        return skipped(f"this check is broken, please report it with --dump: {what}")
