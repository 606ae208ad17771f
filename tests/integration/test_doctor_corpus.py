# SPDX-License-Identifier: Apache-2.0
"""The doctor names the true cause first: a corpus of faults, most of them real."""

from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import pytest
from doctor_faults import corpus
from doctor_faults.fault import Answer, Fault, NotMadeError, first_named

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


@pytest.fixture(scope="module")
def outcomes() -> list[Outcome]:
    def examine(fault: Fault) -> Outcome:
        try:
            usual = fault.usual() if fault.usual else []
            return Outcome(fault, first_named(fault.ask(), usual))
        except NotMadeError as error:
            return Outcome(fault, None, str(error))

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(examine, corpus()))


def test_the_first_that_is_named_is_the_cause(outcomes: list[Outcome]) -> None:
    made = [each for each in outcomes if not each.not_made]
    misses = [each for each in made if not each.right]
    table = "\n".join(map(str, misses))
    print(f"{len(made) - len(misses)} of {len(made)} named first\n{table}")  # noqa: T201
    assert len(made) >= LEAST
    assert len(misses) <= (1 - SHARE) * len(made), table


@pytest.mark.parametrize("place", range(len(corpus())), ids=[each.name for each in corpus()])
def test_a_fault_that_is_made_is_seen(outcomes: list[Outcome], place: int) -> None:
    if outcomes[place].not_made:
        pytest.skip(outcomes[place].not_made)
    assert outcomes[place].named, outcomes[place]


def test_every_fault_has_its_name() -> None:
    names = [each.name for each in corpus()]
    assert len(set(names)) == len(names)
