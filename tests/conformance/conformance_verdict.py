"""What a run of torch's suite must show."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

# Names that the backend answers to, in the order of the runs: a test runs under the first one that
# torch keeps it for.
NAMES = ("rdmatrain", "mpi", "gloo")

# Tests that torch closes to plugins by name: each fails as rdmatrain and passes under another one.
CLOSED = {
    "test_ddp_logging_data_cpu": "DDP logs every plugin as 'custom', whatever its name",
}

# The reasons that a skip may give, by what the test needs. Any other one is of a test that should
# have run.
ACCEPTED = {
    "a GPU": r"CUDA is not available|Need at least \d CUDA device",
    "other numbers of ranks": r"(small|odd|requires)\b.* world ?size",
    "NCCL": r"^Only N(ccl|CCL) |^NCCL .*Only$|one of \{'nccl'\}$",
    "torch to enable it": r"https://github\.com/pytorch/pytorch/(issues|pull)/\d+$",
}

# The least number of tests that must pass, by ranks and name: a suite that skips itself is noticed.
PASSED_AT_LEAST = {
    2: {"rdmatrain": 68, "mpi": 15, "gloo": 18},
    3: {"rdmatrain": 68, "mpi": 18, "gloo": 18},
    4: {"rdmatrain": 71, "mpi": 18, "gloo": 18},
    8: {"rdmatrain": 82, "mpi": 18, "gloo": 25},
}


@dataclass(frozen=True)
class Outcome:
    """How one test ended.

    Attributes:
        test: its name.
        verdict: ``passed``, ``failed`` or ``skipped``.
        text: why it was skipped, or how it failed, with what its ranks wrote.

    """

    test: str
    verdict: str
    text: str = ""


def left_for_next_name(outcomes: Sequence[Outcome]) -> set[str]:
    """Tests that a name has kept out, and those that failed because they are closed to it."""
    return {
        outcome.test
        for outcome in outcomes
        if (outcome.verdict == "skipped" and not needs(outcome))
        or (outcome.verdict == "failed" and outcome.test in CLOSED)
    }


def complaints(runs: Mapping[str, Sequence[Outcome]], floors: Mapping[str, int]) -> list[str]:
    """Everything that must not be, in the runs under each name; empty when all is well."""
    found = []
    for name, outcomes in runs.items():
        found += filter(None, (_complaint(name, outcome) for outcome in outcomes))
        passed = sum(outcome.verdict == "passed" for outcome in outcomes)
        if passed < floors.get(name, 0):
            found.append(f"as {name}: {passed} tests passed, at least {floors[name]} must")
    for outcome in list(runs.values())[-1]:
        if outcome.verdict == "skipped" and not needs(outcome):
            found.append(f"{outcome.test} never ran: {outcome.text}")
    return found


def _complaint(name: str, outcome: Outcome) -> str:
    closed = name == "rdmatrain" and outcome.test in CLOSED
    if closed and outcome.verdict != "failed":
        return f"{outcome.test} {outcome.verdict} as {name}: it is not closed, take it off the list"
    if outcome.verdict == "failed" and not closed:
        return f"{outcome.test} failed as {name}:\n{outcome.text}"
    return ""


def unproven(runs: Mapping[str, Sequence[Outcome]], tests: Sequence[str]) -> list[str]:
    """Tests of a list that have passed under no name."""
    passed = {each.test for run in runs.values() for each in run if each.verdict == "passed"}
    return [f"{test} has passed under no name" for test in tests if test not in passed]


def needs(outcome: Outcome) -> str:
    """Say what a skipped test needs; empty where it could have run."""
    for need, reason in ACCEPTED.items():
        if re.search(reason, outcome.text):
            return need
    return ""


def summary(outcomes: Sequence[Outcome]) -> str:
    """Count outcomes, in a line."""
    kinds = Counter(map(_kind, outcomes))
    return ", ".join(f"{kinds[kind]} {kind}" for kind in ["passed", *sorted({*kinds} - {"passed"})])


def _kind(outcome: Outcome) -> str:
    if outcome.verdict == "skipped":
        return f"need {needs(outcome) or 'another name'}"
    closed = outcome.verdict == "failed" and outcome.test in CLOSED
    return "closed to plugins" if closed else outcome.verdict
