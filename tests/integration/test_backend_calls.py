"""Each call that torch can make of a backend, over 2 and 3 ranks, over shm and over tcp."""

import pytest
from integration_jobs import Ended, checks_in, failure_of, run_checks

WORKER = "every_call.py"


LONGER = pytest.param("3-over-shm", marks=pytest.mark.thorough)


@pytest.fixture(scope="module", params=["2-over-shm", LONGER, "3-over-tcp"])
def job(request: pytest.FixtureRequest) -> tuple[Ended, int]:
    return run_checks(WORKER, request.param)


@pytest.mark.parametrize("name", checks_in(WORKER))
def test_of_each_call(job: tuple[Ended, int], name: str) -> None:
    ended, ranks = job
    assert not (text := failure_of(ended, name, ranks)), text


def test_the_job_ends_well(job: tuple[Ended, int]) -> None:
    ended, _ = job
    assert ended.code == 0, ended.out
