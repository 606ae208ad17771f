# SPDX-License-Identifier: Apache-2.0
"""The doctor names the true cause first: a corpus of faults, most of them real."""

from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import pytest
from doctor_faults import corpus
from doctor_faults.fault import Answer, Fault, NotMadeError, first_named
from doctor_faults.sandbox import possible

pytestmark = pytest.mark.timeout(300)

LEAST = 60
# Of 60, that is 57.
SHARE = 0.95


class Outcome(NamedTuple):
    fault: Fault
    named: Answer | None
    not_made: str = ""

    @property
    def right(self) -> bool:
        return self.named is not None and self.named.id == self.fault.cause

    def __str__(self) -> str:
        return f"{self.fault.name}: {self.fault.cause}, not {self.named}"


def test_the_first_that_is_named_is_the_cause() -> None:
    if not possible():
        pytest.skip("only root may make namespaces and limits, with util-linux and iproute2")

    def examine(fault: Fault) -> Outcome:
        try:
            usual = fault.usual() if fault.usual else []
            return Outcome(fault, first_named(fault.ask(), usual))
        except NotMadeError as error:
            return Outcome(fault, None, str(error))

    with ThreadPoolExecutor(2) as pool:
        outcomes = list(pool.map(examine, corpus()))
    made = [each for each in outcomes if not each.not_made]
    misses = [each for each in made if not each.right]
    table = "\n".join(map(str, misses))
    unmade = "\n".join(f"{each.fault.name}: {each.not_made}" for each in outcomes if each.not_made)
    print(f"{len(made) - len(misses)} of {len(made)} named first\n{table}\n{unmade}")  # noqa: T201
    assert len(made) >= LEAST
    assert len(misses) <= (1 - SHARE) * len(made), table


def test_every_fault_has_its_name() -> None:
    names = [each.name for each in corpus()]
    assert len(set(names)) == len(names)
