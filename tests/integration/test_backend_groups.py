"""Groups made from groups, their options, and the monitored barrier, over 2 and 3 ranks."""

import pytest
from integration_jobs import Ended, checks_in, failure_of, run_checks

WORKER = "made_groups.py"


LONGER = pytest.param("2-over-auto", marks=pytest.mark.thorough)


@pytest.fixture(scope="module", params=[LONGER, "3-over-auto"])
def job(request: pytest.FixtureRequest) -> tuple[Ended, int]:
    return run_checks(WORKER, request.param)


@pytest.mark.parametrize("name", checks_in(WORKER))
def test_of_groups(job: tuple[Ended, int], name: str) -> None:
    ended, ranks = job
    assert not (text := failure_of(ended, name, ranks)), text


def test_the_job_ends_well(job: tuple[Ended, int]) -> None:
    ended, _ = job
    assert ended.code == 0, ended.out
