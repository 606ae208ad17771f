"""How a module of :mod:`rdmatrain.doctor.checks` writes down a check."""

from collections.abc import Callable

from rdmatrain.doctor.model import Case, Check, Finding


def check(
    name: str, group: str, *, title: str, known: str = "", after: str = "", exit_code: int = 69
) -> Callable[[Callable[[Case], Finding]], Check]:
    """Make a check of a function, whose docstring says why it matters.

    Args:
        name: its id.
        group: its heading.
        title: what is checked.
        known: the issue behind it.
        after: ids whose FAIL would be its cause, with spaces between.
        exit_code: the launcher's.

    """

    def made(judge: Callable[[Case], Finding]) -> Check:
        why = " ".join((judge.__doc__ or "").split())
        causes = tuple(after.split())
        return Check(name, group, title, why, judge, known, causes, exit_code)

    return made
