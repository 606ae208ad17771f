# SPDX-License-Identifier: Apache-2.0
"""What a fault is, and what a doctor answers."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import doctor_pods

from rdmatrain.doctor.catalog import checks
from rdmatrain.doctor.examine import examine
from rdmatrain.doctor.model import Case, Needs

FOUND = ("FAIL", "WARN")


@dataclass(frozen=True)
class Answer:
    """What one check said."""

    id: str
    verdict: str
    evidence: str

    def __str__(self) -> str:
        return f"{self.verdict} {self.id}: {self.evidence}"


@dataclass(frozen=True)
class Fault:
    """Something that is wrong.

    Attributes:
        name: what was done.
        cause: the id of the check that should be named first.
        ask: asks the doctor; raises NotMadeError if the fault cannot be made.
        usual: what the doctor says without the fault; it is not the fault's to be named.

    """

    name: str
    cause: str
    ask: Callable[[], list[Answer]]
    usual: Callable[[], list[Answer]] | None = None


class NotMadeError(Exception):
    """This machine does not let a fault be made."""


def first_named(answers: list[Answer], usual: list[Answer]) -> Answer | None:
    """Return the first FAIL or, without any, the first WARN that is not always there."""
    known = {each.id for each in usual if each.verdict == "WARN"}
    for verdict in FOUND:
        for each in answers:
            if each.verdict == verdict and (verdict == "FAIL" or each.id not in known):
                return each
    return None


def saved(
    name: str,
    cause: str,
    files: doctor_pods.Changes | None = None,
    probes: Mapping[str, Any] | None = None,
    *,
    needs: Needs | None = None,
    pod: str = doctor_pods.HEALTHY,
    environment: Mapping[str, str] | None = None,
) -> Fault:
    """Return a fault of a pod of tests/fixtures/pods, which is healthy unless told otherwise.

    Args:
        name: what is wrong.
        cause: its id.
        files: what is different in it, by path.
        probes: answers that are different.
        needs: of the job.
        pod: its name.
        environment: more or other variables of the process.

    """

    def case() -> Case:
        changed = dict(files or {})
        if environment:
            changed["/proc/self/environ"] = environ_of(pod, environment)
        return doctor_pods.pod(pod, changed, probes, needs)

    return Fault(name, cause, lambda: look(case()))


def environ_of(pod: str, more: Mapping[str, str]) -> str:
    """Return the variables of a pod of tests/fixtures/pods, with more or other ones."""
    lines = str(doctor_pods.seen(pod).files["/proc/self/environ"]).split("\0")
    own = dict(line.partition("=")[::2] for line in lines if line)
    return doctor_pods.environ({**own, **more})


def look(case: Case) -> list[Answer]:
    """Ask all checks about a case."""
    return [
        Answer(each.check.id, each.finding.verdict.value, each.finding.evidence)
        for each in examine(case, checks())
    ]
