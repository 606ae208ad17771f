"""How a check of a gang is written down."""

from collections.abc import Callable
from dataclasses import dataclass

from rdmatrain.doctor.gang.model import Gathering
from rdmatrain.doctor.model import Case, Check, Finding, skipped

GROUP = "gang"
ALONE = "the job has one pod: nothing to compare"


@dataclass(frozen=True)
class GangCheck:
    """A check, and what answers it of a gang."""

    check: Check
    judge: Callable[[Gathering], Finding]


def gang_check(
    name: str, *, title: str, known: str = "", after: str = "", exit_code: int, alone: bool = False
) -> Callable[[Callable[[Gathering], Finding]], GangCheck]:
    """Make a check of a function, whose docstring says why it matters.

    Args:
        name: its id.
        title: what is true when it passes.
        known: the issue behind it.
        after: ids whose FAIL would be its cause, with spaces between.
        exit_code: the launcher's.
        alone: it says something of a job of one pod too.

    """

    def made(judge: Callable[[Gathering], Finding]) -> GangCheck:
        def judged(seen: Gathering) -> Finding:
            return judge(seen) if alone or seen.world > 1 else skipped(ALONE)

        why = " ".join((judge.__doc__ or "").split())
        causes = tuple(after.split())
        return GangCheck(Check(name, GROUP, title, why, _alone, known, causes, exit_code), judged)

    return made


def _alone(_: Case) -> Finding:
    return skipped("a pod alone cannot say: rdmatrain doctor --gang, on all pods of the job")
