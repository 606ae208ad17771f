"""From what a gang measured, or from how it ended, to results."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from time import perf_counter
from typing import Any

from rdmatrain.doctor.catalog import by_id
from rdmatrain.doctor.gang.checks import CHECKS
from rdmatrain.doctor.gang.define import GangCheck
from rdmatrain.doctor.gang.model import Gathering, Meeting, NodeFinding, Pod
from rdmatrain.doctor.model import (
    Check,
    Finding,
    Result,
    Verdict,
    failed,
    gravest,
    passed,
    skipped,
)
from rdmatrain.launcher.blame import NEXT_STEP, headline
from rdmatrain.launcher.exit_codes import BAD_CONFIG
from rdmatrain.launcher.messages import Finish

FORMS = "gang-forms"
# Pods whose initContainers still run have no address in DNS otherwise.
NOT_READY = "; in an initContainer, their Service needs publishNotReadyAddresses: true"


def judge(seen: Gathering, unasked: Collection[str] = ()) -> list[Result]:
    """Return the results of a gang: of its pods' own checks first, as these are causes.

    Args:
        seen: what its pods said and measured.
        unasked: ids of the gang's checks that are not to be asked.

    """
    return [*node_results(seen.pods), *gang_results(seen, unasked)]


def gang_results(seen: Gathering, unasked: Collection[str] = ()) -> list[Result]:
    """Ask the checks of the gang, one after the other.

    That the gang is not complete is told to who did not ask as well: all else has little to show.
    """
    results: list[Result] = []
    lost: set[str] = set()
    for each in _asked({*unasked} - {FORMS}):
        start = perf_counter()
        cause = next((name for name in each.check.after if name in lost), "")
        finding = skipped(f"not asked: see {cause}") if cause else _ask(each, seen)
        if finding.verdict is Verdict.FAIL:
            lost.add(each.check.id)
        if each.check.id not in unasked or finding.verdict is Verdict.FAIL:
            results.append(Result(each.check, finding, perf_counter() - start))
    return results


def _ask(each: GangCheck, seen: Gathering) -> Finding:
    """Ask one; a check that breaks does not break the doctor."""
    try:
        return each.judge(seen)
    except Exception as error:
        return skipped(f"this check is broken, please report it: {type(error).__name__}: {error}")


def node_results(pods: Sequence[Pod]) -> list[Result]:
    """Put the checks of all pods together: the gravest finding of each, with its pods' names."""
    known = by_id()
    asked = dict.fromkeys(found.id for pod in pods for found in pod.findings)
    return [_together(known[name], pods) for name in asked if name in known]


def _together(check: Check, pods: Sequence[Pod]) -> Result:
    said = [(pod, found) for pod in pods for found in pod.findings if found.id == check.id]
    alike = {(found.verdict, found.evidence, found.fix) for _, found in said}
    if len(alike) == 1:
        finding = _finding(said[0][1])
        told = f"all {len(said)} pods: {finding.evidence}" if len(said) > 1 else finding.evidence
        return Result(check, replace(finding, evidence=told), 0.0)
    named = (replace(_finding(found), evidence=f"{pod}: {found.evidence}") for pod, found in said)
    return Result(check, gravest(named, "no pod was asked"), 0.0)


def _finding(found: NodeFinding) -> Finding:
    return Finding(Verdict(found.verdict), found.evidence, found.fix)


def of_finish(finish: Finish, unasked: Collection[str] = ()) -> list[Result]:
    """Return the results of a gang that has nothing to show, by how its launcher ended."""
    fault = finish.fault
    if fault is None:
        text = f"the launcher ended with exit code {finish.exit_code}"
        return of_error(text, "run it again", unasked)
    fix = NEXT_STEP.get(fault.kind, "see what the launcher says above")
    fix += NOT_READY if fault.kind == "timeout" else ""
    text = headline(replace(fault, kind=""))
    if finish.exit_code == BAD_CONFIG and "do not fit together" in fault.detail:
        came = passed("all pods came")
        return _rest({FORMS: came, "gang-versions": failed(text, fix)}, unasked)
    return of_error(text, fix, unasked)


def of_error(text: str, fix: str, unasked: Collection[str] = ()) -> list[Result]:
    """Return the results of a gang that cannot even come together."""
    return _rest({FORMS: failed(text, fix)}, unasked)


def _rest(known: dict[str, Finding], unasked: Collection[str]) -> list[Result]:
    cause = next(name for name, each in known.items() if each.verdict is Verdict.FAIL)
    other = skipped(f"not asked: see {cause}")
    asked = _asked({*unasked} - {cause})
    return [Result(each.check, known.get(each.check.id, other), 0.0) for each in asked]


def _asked(unasked: Collection[str]) -> list[GangCheck]:
    return [each for each in CHECKS if each.check.id not in unasked]


def document(seen: Gathering) -> dict[str, Any]:
    """Return what ``--json`` says of the measurements: row by sender, column by receiver."""
    return {
        "hosts": [_host(seen, rank) for rank in range(seen.world)],
        "ranks": seen.world,
        "seconds": round(seen.seconds, 3),
        "transport": _matrix(seen, lambda each: each.transport or None),
        "ping_us": _matrix(seen, lambda each: _rounded(each.ping_us)),
        "gbps": _matrix(seen, lambda each: _rounded(each.gbps)),
        "clock_offset_s": [_offset(seen, rank) for rank in range(seen.world)],
    }


def _host(seen: Gathering, rank: int) -> str:
    return next((pod.host for pod in seen.pods if pod.rank == rank), "")


def _offset(seen: Gathering, rank: int) -> float | None:
    found = (row.offset_s for row in seen.rows if row.rank == rank)
    return 0.0 if rank == 0 else _rounded(next(found, None))


def _matrix(seen: Gathering, value: Callable[[Meeting], Any]) -> list[list[Any]]:
    cells: list[list[Any]] = [[None] * seen.world for _ in range(seen.world)]
    for rank, each in seen.meetings():
        cells[rank][each.peer] = value(each)
    return cells


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")
