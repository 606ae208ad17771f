"""DistributedDataParallel over rdmatrain equals training on one process with the whole batch."""

import pytest
from integration_jobs import Ended, checks_in, failure_of, run_checks

WORKER = "ddp_checks.py"


LONGER = pytest.param("3-over-tcp", marks=pytest.mark.thorough)


@pytest.fixture(scope="module", params=["2-over-shm", LONGER])
def job(request: pytest.FixtureRequest) -> tuple[Ended, int]:
    return run_checks(WORKER, request.param)


@pytest.mark.parametrize("name", checks_in(WORKER))
def test_ddp_trains_like_one_process_with(job: tuple[Ended, int], name: str) -> None:
    ended, ranks = job
    assert not (text := failure_of(ended, name, ranks)), text


def test_the_job_ends_well(job: tuple[Ended, int]) -> None:
    ended, _ = job
    assert ended.code == 0, ended.out
